"""Losses that grow linearly, so that outliers pull no harder than other rows: Huber, absolute error, quantiles.

All three are built on Huber's function, and all are minimised by iteratively reweighted least squares: the curvature
is the weight ``h'(r) / r``, the smallest for which the quadratic model lies above the loss everywhere (Huber, Robust
Statistics, 1981, section 7.8; Hunter & Lange, 2000). Their own second derivative, zero for large errors, would
leave the steps to the damping. Convergence is linear: tens of iterations to a relative 1e-4 of the smallest value,
hundreds to the smoothing's own error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._separable import SeparableLoss, check_positive, is_number


class Huber(SeparableLoss):
    """Huber's loss: squared for small errors, absolute for large ones, averaged over outputs.

    Parameters
    ----------
    delta : float, default=1.0
        Size of the errors from which on they count linearly. In units of the targets as the network sees them: where
        these are standardised, 1.4826 times the median distance of y from its median.

    Notes
    -----
    With ``r = f - y``: ``h = r^2 / 2`` for ``|r| <= delta``, else ``delta (|r| - delta / 2)``, and the weight
    ``c = min(1, delta / |r|)`` (Huber, Annals of Mathematical Statistics 35, 1964, pp. 73-101, with k = delta).

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import Huber
    >>> outputs, y = torch.tensor([[[0.5, 3.0]]]), torch.zeros((1, 2))
    >>> Huber(delta=1.0).value(outputs, y, weights=torch.ones((1, 2)))
    tensor([[2.6250]])
    """

    is_robust = True

    def __init__(self, delta: float = 1.0):
        self.delta = delta

    def in_units(self, unit: float) -> Huber:
        return Huber(self.delta * unit)

    def validate(self) -> None:
        check_positive(self, "delta")

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        return huber(outputs - y, self.delta)

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).clamp_(-self.delta, self.delta)

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        return huber_weight(outputs - y, self.delta, self.delta)

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return output_scale.square()


class AbsoluteError(SeparableLoss):
    """Absolute error, averaged over outputs: the network estimates the conditional median.

    Parameters
    ----------
    smoothing : float, default=1e-4
        Errors below this are rounded off quadratically. In units of the targets as the network sees them: where
        these are standardised, 1.4826 times the median distance of y from its median.

    Notes
    -----
    With ``r = f - y`` and ``s`` for the smoothing: ``h = r^2 / (2 s)`` for ``|r| <= s``, else ``|r| - s / 2``. It is
    continuously differentiable, zero for an exact fit and at most ``s / 2`` below the absolute error. The weight is
    ``c = 1 / max(|r|, s)`` (Schlossmacher, JASA 68, 1973, p. 857, who has ``s = 0``).

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import AbsoluteError
    >>> outputs, y = torch.tensor([[[0.5, 3.0]]]), torch.zeros((1, 2))
    >>> AbsoluteError().value(outputs, y, weights=torch.ones((1, 2)))
    tensor([[3.4999]])
    """

    is_robust = True
    exact_power = 1

    def __init__(self, smoothing: float = 1e-4):
        self.smoothing = smoothing

    def in_units(self, unit: float) -> AbsoluteError:
        return AbsoluteError(self.smoothing * unit)

    def validate(self) -> None:
        check_positive(self, "smoothing")

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        return huber(outputs - y, self.smoothing).mul_(1 / self.smoothing)

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).mul_(1 / self.smoothing).clamp_(-1, 1)

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        return huber_weight(outputs - y, self.smoothing, 1.0)

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return output_scale


class Quantile(SeparableLoss):
    """Pinball loss, averaged over outputs: the network estimates a conditional quantile.

    Parameters
    ----------
    quantile : float, default=0.5
        Between 0 and 1: the share of the rows that should lie below the prediction.
    smoothing : float, default=1e-4
        Errors below this are rounded off quadratically. In units of the targets as the network sees them: where
        these are standardised, 1.4826 times the median distance of y from its median.

    Notes
    -----
    The pinball loss ``max(q u, (q - 1) u)`` of ``u = y - f`` is ``|u| / 2 + (q - 1/2) u``. With ``a`` the smoothed
    absolute value of :class:`AbsoluteError`, ``h = a(u) / 2 + (q - 1/2) u + s (q - 1/2)^2``, whose smallest value is
    zero; for ``|u| >= s`` it is the pinball loss less ``s q (1 - q)``. The weight is that of the first part,
    ``c = 1 / (2 max(|u|, s))`` (Hunter & Lange, "Quantile regression via an MM algorithm", Journal of Computational
    and Graphical Statistics 9, 2000, pp. 60-77, with Huber's smoothing in place of theirs).

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import Quantile
    >>> outputs, y = torch.tensor([[[-1.0, 1.0]]]), torch.zeros((1, 2))
    >>> Quantile(0.9).pointwise(outputs, y)
    tensor([[[0.9000, 0.1000]]])
    """

    is_robust = True
    exact_power = 1

    def __init__(self, quantile: float = 0.5, smoothing: float = 1e-4):
        self.quantile = quantile
        self.smoothing = smoothing

    def in_units(self, unit: float) -> Quantile:
        return Quantile(self.quantile, self.smoothing * unit)

    def validate(self) -> None:
        check_positive(self, "smoothing")
        if not is_number(self.quantile) or not 0 < self.quantile < 1:
            raise ValueError(f"quantile of Quantile must lie between 0 and 1; got {self.quantile!r}.")

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        error, tilt = outputs - y, self.quantile - 0.5
        value = huber(error, self.smoothing).mul_(0.5 / self.smoothing)
        return value.sub_(error, alpha=tilt).add_(self.smoothing * tilt**2)

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).mul_(0.5 / self.smoothing).clamp_(-0.5, 0.5).sub_(self.quantile - 0.5)

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        return huber_weight(outputs - y, self.smoothing, 0.5)

    def report_weights(self, output_scale: Tensor) -> Tensor:
        return output_scale


def huber(error: Tensor, delta: float) -> Tensor:
    """Return ``e^2 / 2`` where ``|e| <= delta``, else ``delta (|e| - delta / 2)``."""
    clipped = error.clamp(-delta, delta)
    return torch.sub(error, clipped, alpha=0.5).mul_(clipped)


def huber_weight(error: Tensor, delta: float, top: float) -> Tensor:
    """Return ``top / max(|error|, delta)``; error is written over."""
    return error.abs_().clamp_(min=delta).reciprocal_().mul_(top)
