"""Deviances of counts and of positive numbers, with the logarithm as link: the network's output is a log mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._separable import SeparableLoss, floored


class ExponentialModule(torch.nn.Module):
    """``exp(x)`` as a module, for ``to_module`` of losses with a log link."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


class _LogLink(SeparableLoss):
    """What the deviances with mean ``mu = exp(f)`` share."""

    target_scaling = "mean"

    def inverse_link(self, outputs: np.ndarray) -> np.ndarray:
        """Return the mean (n, K) for its logarithm (n, K)."""
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(outputs)

    def link_module(self) -> torch.nn.Module:
        return ExponentialModule()


class PoissonDeviance(_LogLink):
    """Half the Poisson deviance with log link, averaged over outputs: for counts and rates.

    Targets must not be negative and are divided by their mean before the fit.

    Notes
    -----
    ``h = mu - y + y log(y / mu)`` with ``mu = exp(f)`` (McCullagh & Nelder, Generalized Linear Models, 1989, section
    2.3, halved), zero for an exact fit. The curvature is the second derivative ``c = mu``.

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import PoissonDeviance
    >>> outputs, y = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[0.0, 1.0]])
    >>> PoissonDeviance().pointwise(outputs, y)
    tensor([[[1., 0.]]])
    """

    non_negative = True

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        # y (expm1(d) - d) with d = log(mu / y) has no cancellation; zeros are worked with as ones: expm1(f) + 1
        zero = (y == 0).to(y.dtype)
        positive = y + zero
        log_ratio = outputs - positive.log()
        value = log_ratio.expm1().mul_(positive).addcmul_(y, log_ratio, value=-1).add_(zero)
        return capped(value)

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return capped(outputs.exp()).sub_(y)

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        return floored(capped(outputs.exp()))

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return output_scale

    def check_targets(self, y: np.ndarray, first: bool = True) -> None:
        super().check_targets(y)
        if first and not np.all(np.any(y > 0, axis=0)):
            raise ValueError("PoissonDeviance needs a target above zero in every column; one has only zeros.")


class GammaDeviance(_LogLink):
    """Half the gamma deviance with log link, averaged over outputs: for positive targets with relative errors.

    Targets must be positive and are divided by their mean before the fit.

    Notes
    -----
    ``h = y / mu - log(y / mu) - 1`` with ``mu = exp(f)`` (McCullagh & Nelder, Generalized Linear Models, 1989, section
    2.3, halved), zero for an exact fit and without units. The curvature is the second derivative ``c = y / mu``.

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import GammaDeviance
    >>> outputs, y = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[1.0, 2.0]])
    >>> GammaDeviance().pointwise(outputs, y)
    tensor([[[0.0000, 0.3069]]])
    """

    positive_only = True

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        log_ratio = y.log() - outputs
        return capped(log_ratio.expm1().sub_(log_ratio))

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return capped((y.log() - outputs).expm1_()).neg_()

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        return floored(capped((y.log() - outputs).exp_()))

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return torch.ones_like(output_scale)


def capped(values: Tensor) -> Tensor:
    """Replace infinity by the largest number, in place, so that a weight of zero takes the sample out."""
    return values.clamp_(max=torch.finfo(values.dtype).max)
