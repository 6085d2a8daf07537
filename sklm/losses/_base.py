"""What the engine asks of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor


class Loss(ABC):
    """A loss ``l(f, y)`` of raw outputs and targets, with the factor of its (Gauss-Newton) output Hessian.

    Shapes: outputs and y are (B, K, n) or broadcast to it, samples last; R is the number of curvature columns.
    With ``S = factor`` and ``z = residual``: ``S S^T`` is the output Hessian (or its positive approximation)
    and ``S z`` is exactly the derivative of the loss with respect to the outputs. Everything is per sample;
    the engine multiplies by sample weights.
    """

    #: whether R^2 measures what this loss minimises
    is_squared = False

    @abstractmethod
    def curvature_columns(self, n_outputs: int) -> int:
        """R, the number of columns of ``S`` for K outputs."""

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

    def project(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        """``S^T direction`` for a direction (B, K, n): (B, R, n)."""
        return (self.factor(outputs, y) * direction.unsqueeze(2)).sum(1)

    def hessian_product(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        """``S S^T direction`` for a direction (B, K, n)."""
        factor = self.factor(outputs, y)
        columns = (factor * direction.unsqueeze(2)).sum(1, keepdim=True)
        return (factor * columns).sum(2)

    def report_weights(self, output_scale: Tensor) -> Tensor:
        """Return weights (K,) that turn ``value`` (B, K) of standardised targets into units of the targets.

        output_scale : (K,), what standardised outputs are multiplied by. Losses without units and with one value
        in all return a one.
        """
        return torch.ones_like(output_scale[:1])


@lru_cache(maxsize=64)
def eye_factor(n_outputs: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``scale`` times the identity as a factor (1, K, K, 1). Shared: not to be written to."""
    with torch.inference_mode(False):
        return (torch.eye(n_outputs, dtype=dtype, device=device) * scale)[None, :, :, None]
