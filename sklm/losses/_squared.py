"""Squared error."""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from .._constant import constant
from .._parameters import Parameters
from ._base import Loss, eye_factor


class SquaredError(Parameters, Loss):
    """Half the squared error, averaged over outputs: ``l = |f - y|^2 / (2 K)``.

    The division by K keeps the damping and ``alpha`` meaning the same for any number of outputs.
    Here ``S = I / sqrt(K)`` and ``z = (f - y) / sqrt(K)``.
    """

    is_squared = True
    separable = True

    def curvature_columns(self, n_outputs: int) -> int:
        return n_outputs

    def value(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        error = outputs - y
        return (error.square_().mul_(weights.unsqueeze(1))).sum(-1).mul_(constant(0.5 / outputs.shape[1], outputs))

    def factor(self, outputs: Tensor, y: Tensor) -> Tensor:
        n_outputs = outputs.shape[1]
        return eye_factor(n_outputs, 1 / sqrt(n_outputs), outputs.dtype, outputs.device)

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).mul_(constant(1 / sqrt(outputs.shape[1]), outputs))

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).mul_(1 / outputs.shape[1])

    def project(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return direction * constant(1 / sqrt(outputs.shape[1]), outputs)

    def hessian_product(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return direction / outputs.shape[1]

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return output_scale.square()
