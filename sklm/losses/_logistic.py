"""Cross entropy of two classes, for one or several independent labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._separable import SeparableLoss, floored, is_number


class LogisticLoss(SeparableLoss):
    """Cross entropy of two classes, averaged over outputs; outputs are the logits of class one.

    One output is a binary classification, several are independent labels.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        In [0, 1): this share of a target goes to both classes equally.

    Notes
    -----
    ``h = log(1 + exp(f)) - y' f`` with ``y' = (1 - e) y + e / 2`` for label smoothing e, targets y being probabilities
    of class one. The curvature is the second derivative ``c = p (1 - p)`` with ``p = 1 / (1 + exp(-f))``. With
    smoothing, the smallest value is the entropy of y' and not zero.

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import LogisticLoss
    >>> outputs, y = torch.tensor([[[0.0, 1e4]]]), torch.tensor([[0.0, 1.0]])
    >>> LogisticLoss().pointwise(outputs, y)
    tensor([[[0.6931, 0.0000]]])
    """

    target_scaling = None
    exact_power = 1

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def validate(self) -> None:
        check_label_smoothing(self.label_smoothing)

    def pointwise(self, outputs: Tensor, y: Tensor) -> Tensor:
        # relu(f) - y f + log(1 + exp(-|f|)): exact zeros in the first two parts for targets 0 and 1
        tail = outputs.abs().neg_().exp_().log1p_()
        return outputs.clamp(min=0).addcmul_(smoothed(y, self.label_smoothing, 2), outputs, value=-1).add_(tail)

    def derivative(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.sigmoid().sub_(smoothed(y, self.label_smoothing, 2))

    def curvature(self, outputs: Tensor, y: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return floored(torch.addcmul(p, p, p, value=-1))

    def inverse_link(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probability of class one (n, K) for logits (n, K), accurate in both tails."""
        with np.errstate(under="ignore"):
            tail = np.exp(-np.abs(outputs))
            return np.where(outputs >= 0, 1.0, tail) / (1 + tail)

    def check_targets(self, y: np.ndarray, first: bool = True) -> None:
        if np.any(y < 0) or np.any(y > 1):
            raise ValueError(
                f"LogisticLoss needs targets between 0 and 1; they range from {np.min(y):g} to {np.max(y):g}."
            )


def smoothed(y: Tensor, label_smoothing: float, n_classes: int) -> Tensor:
    """Return ``(1 - e) y + e / n_classes`` for label smoothing e; y itself for none."""
    return torch.mul(y, 1 - label_smoothing).add_(label_smoothing / n_classes) if label_smoothing else y


def check_label_smoothing(value: object) -> None:
    """Raise ValueError if ``value`` is not a number in [0, 1)."""
    if not is_number(value) or not 0 <= value < 1:  # type: ignore[operator]
        raise ValueError(f"label_smoothing must be at least 0 and below 1; got {value!r}.")
