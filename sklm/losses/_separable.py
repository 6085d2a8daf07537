"""Losses that are a sum over outputs, each with a curvature of its own."""

from __future__ import annotations

from abc import abstractmethod
from math import isfinite, sqrt
from numbers import Real

import torch
from torch import Tensor

from .._parameters import Parameters
from ._base import Loss


class SeparableLoss(Parameters, Loss):
    """Mean over outputs of a loss of one output: ``l(f, y) = sum_k h(f_k, y_k) / K``.

    A loss of this kind says what ``h``, its derivative and its curvature ``c`` are, each for all outputs at once:
    outputs (B, K, n) and y (K, n) or (B, K, n) to a new tensor (B, K, n).

    Notes
    -----
    ``S = diag(sqrt(c / K))`` and ``z = h' / sqrt(c K)``, so that ``S z = h' / K`` whatever the positive ``c`` is. The
    division by K keeps the damping and ``alpha`` meaning the same for any number of outputs.
    """

    separable = True

    @abstractmethod
    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``h``, not negative, as a new tensor (B, K, n)."""

    @abstractmethod
    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``dh / df`` as a new tensor (B, K, n)."""

    @abstractmethod
    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``c``, the second derivative of ``h`` or what stands for it, as a new tensor (B, K, n); positive."""

    def curvature_columns(self, n_outputs: int) -> int:
        return n_outputs

    def value(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return self.pointwise(outputs, y).mul_(weights.unsqueeze(1)).sum(-1).mul_(1 / outputs.shape[1])

    def factor(self, outputs: Tensor, y: Tensor) -> Tensor:
        root = self._root(outputs, y)
        return root.unsqueeze(2) if outputs.shape[1] == 1 else torch.diag_embed(root.mT, dim1=1, dim2=2)

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        root = self.curvature(outputs, y).sqrt_().mul_(sqrt(outputs.shape[1]))
        return self.derivative(outputs, y).div_(root)

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.derivative(outputs, y).mul_(1 / outputs.shape[1])

    def project(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return self._root(outputs, y).mul_(direction)

    def hessian_product(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return self.curvature(outputs, y).mul_(direction).mul_(1 / outputs.shape[1])

    def _root(self, outputs: Tensor, y: Tensor) -> Tensor:
        """``sqrt(c / K)``, (B, K, n)."""
        return self.curvature(outputs, y).sqrt_().mul_(1 / sqrt(outputs.shape[1]))


def floored(curvature: Tensor) -> Tensor:
    """Return a curvature of at least the rounding unit: the residual it divides stays below ``1 / sqrt(eps)``.

    Solvers that work with the rows themselves ('qr', 'dual') round relative to the largest residual.
    """
    return curvature.clamp(min=torch.finfo(curvature.dtype).eps)


def check_positive(owner: object, name: str) -> None:
    """Raise ValueError if the hyperparameter ``name`` is not a finite number above zero."""
    value = getattr(owner, name)
    if not is_number(value) or not value > 0:
        raise ValueError(f"{name} of {type(owner).__name__} must be a finite number above zero; got {value!r}.")


def is_number(value: object) -> bool:
    """Whether ``value`` is a real, finite number (and no bool)."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
