"""What the engine and the estimators ask of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from torch import Tensor


class Loss(ABC):
    """A loss ``l(f, y)`` of raw outputs and targets, with the factor of its (Gauss-Newton) output Hessian.

    Shapes: outputs and y are (B, K, n) or broadcast to it, samples last; R is the number of curvature columns.
    With ``S = factor`` and ``z = residual``: ``S S^T`` is the output Hessian (or its positive approximation)
    and ``S z`` is exactly the derivative of the loss with respect to the outputs. Everything is per sample;
    the engine multiplies by sample weights. The smallest value of a loss is zero or, where the targets allow no exact
    fit, above.
    """

    #: whether R^2 measures what this loss minimises
    is_squared = False
    #: how targets are brought to a common scale before they reach the loss: 'standard' (mean 0 and standard deviation
    #: 1), 'mean' (divided by their mean: for log links) or None
    target_scaling: str | None = "standard"
    #: whether outliers count less than in squares: then targets are scaled by medians, which they do not move
    is_robust = False
    #: power of the rounding error at which the loss of an exact fit ends, relative to that of zero outputs: 2 for
    #: losses that are quadratic at their minimum
    exact_power = 2
    #: whether targets must be positive, or must not be negative (scikit-learn's tags of the same name)
    positive_only = False
    non_negative = False
    #: curvature columns drawn at random for every sample and linearisation; 0 for the exact ``factor``
    n_draws = 0
    #: whether R = K and ``factor`` is diagonal, as for a sum over outputs
    separable = False

    @abstractmethod
    def curvature_columns(self, n_outputs: int) -> int:
        """R, the number of columns of ``S`` for K outputs (``n_draws`` where they are drawn)."""

    @abstractmethod
    def value(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum over samples of the loss, output by output.

        weights : (B or 1, n). Returns (B, K), or (B, 1) for a loss that does not split by output.
        """

    @abstractmethod
    def factor(self, outputs: Tensor, y: Tensor) -> Tensor:
        """S, broadcastable to (B, K, R, n)."""

    @abstractmethod
    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """z, (B, R, n)."""

    def draw(self, outputs: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Random factor (B, K, n_draws, n) whose ``S S^T`` is the output Hessian in the mean.

        noise : (n_draws, K, n), independent and uniform in [0, 1). Called instead of ``factor`` where ``n_draws > 0``;
        the gradient is then taken from :meth:`gradient`. Averaged mini-batches draw rows with large gradients more
        often, as rows with small ones are taken to have little curvature.
        """
        raise NotImplementedError(f"{type(self).__name__} has no random curvature.")

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Derivative of the loss with respect to the outputs, (B, K, n)."""
        return (self.factor(outputs, y) * self.residual(outputs, y).unsqueeze(1)).sum(2)

    def project(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        """``S^T direction`` for a direction (B, K, n): (B, R, n)."""
        return (self.factor(outputs, y) * direction.unsqueeze(2)).sum(1)

    def hessian_product(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        """``S S^T direction`` for a direction (B, K, n)."""
        factor = self.factor(outputs, y)
        columns = (factor * direction.unsqueeze(2)).sum(1, keepdim=True)
        return (factor * columns).sum(2)

    def in_units(self, unit: float) -> Loss:
        """The same loss of targets in other units: parameters with the units of the targets times ``unit``."""
        return self

    def report_weights(self, output_scale: Tensor) -> Tensor:
        """Return weights (K,) that turn ``value`` (B, K) of scaled targets into units of the targets.

        output_scale : (K,), what scaled targets are multiplied by. Losses without units and with one value in all
        return a one.
        """
        return torch.ones_like(output_scale[:1])

    def inverse_link(self, outputs: np.ndarray) -> np.ndarray:
        """Return the prediction (n, K) for raw outputs (n, K), both in scaled targets: the outputs themselves."""
        return outputs

    def link_module(self) -> torch.nn.Module | None:
        """Return the module equal to ``inverse_link``; None for the identity."""
        return None

    def validate(self) -> None:  # noqa: B027 - most losses have nothing to check
        """Raise ValueError if a parameter of the loss has an impossible value."""

    def check_targets(self, y: np.ndarray, first: bool = True) -> None:
        """Raise ValueError if targets (N, K), in the user's units, are outside the loss's range.

        ``first`` is false for a later batch of ``partial_fit``, which need not tell the scale.
        """
        if self.positive_only and np.any(y <= 0):
            raise ValueError(f"{type(self).__name__} needs targets above zero; the smallest is {np.min(y):g}.")
        if self.non_negative and np.any(y < 0):
            raise ValueError(f"{type(self).__name__} needs targets not below zero; the smallest is {np.min(y):g}.")


@cache  # recorded graphs hold addresses
def eye_factor(n_outputs: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``scale`` times the identity as a factor (1, K, K, 1). Shared: not to be written to."""
    with torch.inference_mode(False):
        return (torch.eye(n_outputs, dtype=dtype, device=device) * scale)[None, :, :, None]
