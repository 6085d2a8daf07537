"""Cross entropy of several classes, with a choice of curvatures."""

from __future__ import annotations

from math import sqrt
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .._parameters import Parameters
from ._base import Loss
from ._logistic import check_label_smoothing, smoothed
from ._separable import floored


class SoftmaxCurvature(Protocol):
    """Factor of the output Hessian; p are the probabilities (B, K, n), gap is ``p - y'`` (B, K, n)."""

    def columns(self, n_outputs: int, n_samples: int) -> int:
        """R for K outputs and m curvature samples."""

    def draws(self, n_samples: int) -> int:
        """Columns that are drawn at random, for m curvature samples."""

    def factor(self, p: Tensor, gap: Tensor) -> Tensor:
        """S, (B, K, R, n)."""

    def residual(self, p: Tensor, gap: Tensor) -> Tensor:
        """z, (B, R, n)."""

    def project(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        """``S^T direction`` for a direction (B, K, n): (B, R, n)."""

    def product(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        """``S S^T direction`` (in the mean, where S is drawn) for a direction (B, K, n)."""


class ExactCurvature:
    """``S = diag(sqrt p) - p sqrt(p)^T``, one column a class, and ``z = (p - y') / sqrt(p)``.

    ``S S^T = diag(p) - p p^T`` as ``sqrt(p)`` has length one, and ``S z = p - y'`` as both p and y' sum to one: this
    holds for any positive numbers in place of the square roots, which may therefore be floored.
    """

    def columns(self, n_outputs: int, n_samples: int) -> int:
        return n_outputs

    def draws(self, n_samples: int) -> int:
        return 0

    def factor(self, p: Tensor, gap: Tensor) -> Tensor:
        root = self._root(p)
        factor = torch.mul(p.unsqueeze(2), root.neg().unsqueeze(1))
        factor.diagonal(dim1=1, dim2=2).add_(root.mT)
        return factor

    def residual(self, p: Tensor, gap: Tensor) -> Tensor:
        return gap.div_(self._root(p))

    def project(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        return (direction - (p * direction).sum(1, keepdim=True)).mul_(self._root(p))

    def product(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        part = p * direction
        return part.addcmul_(p, part.sum(1, keepdim=True), value=-1)

    def _root(self, p: Tensor) -> Tensor:
        return floored(p).sqrt_()


class SampledCurvature(ExactCurvature):
    """m columns ``S v / sqrt(m)`` of the exact S for vectors v of random signs: right in the mean, m in place of K.

    Methods without noise are those of the exact curvature.
    """

    def columns(self, n_outputs: int, n_samples: int) -> int:
        return n_samples

    def draws(self, n_samples: int) -> int:
        return n_samples


class FisherCurvature:
    """The empirical Fisher matrix: ``S = p - y'``, one column, and ``z = 1``."""

    def columns(self, n_outputs: int, n_samples: int) -> int:
        return 1

    def draws(self, n_samples: int) -> int:
        return 0

    def factor(self, p: Tensor, gap: Tensor) -> Tensor:
        return gap.unsqueeze(2)

    def residual(self, p: Tensor, gap: Tensor) -> Tensor:
        return torch.ones_like(p[:, :1])

    def project(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        return (gap * direction).sum(1, keepdim=True)

    def product(self, p: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        return gap * self.project(p, gap, direction)


#: a new curvature is a new class and a line here
SOFTMAX_CURVATURES: dict[str, SoftmaxCurvature] = {
    "exact": ExactCurvature(),
    "sampled": SampledCurvature(),
    "fisher": FisherCurvature(),
}


class SoftmaxCrossEntropy(Parameters, Loss):
    """Cross entropy of K exclusive classes; outputs are logits, targets rows of probabilities (one-hot).

    Parameters
    ----------
    label_smoothing : float, default=0.0
        In [0, 1): this share of every target is spread evenly over all classes.
    curvature : {'exact', 'sampled', 'fisher'}, default='exact'
        Where the second derivative comes from. 'exact' has K columns a sample, so that an iteration costs K times one
        with a single column. 'sampled' takes a few random mixtures of them, right in the mean. 'fisher' has one, the
        gradient's own, which is right in the mean only where the probabilities are.
    curvature_samples : int, default=1
        Number of columns that 'sampled' draws a sample.

    Notes
    -----
    ``l = log sum_k exp(f_k) - sum_k y'_k f_k`` with ``y' = (1 - e) y + e / K`` for label smoothing e; with smoothing
    the smallest value is the entropy of y'. With ``p = softmax(f)`` the gradient is ``p - y'`` and the Hessian
    ``diag(p) - p p^T = S S^T`` with ``S = diag(sqrt p) - p sqrt(p)^T``, the Fisher matrix of the model's own
    distribution. 'sampled' draws vectors v of independent signs: the mean of ``S v (S v)^T`` is ``S S^T`` (Chapelle &
    Erhan, "Improved preconditioner for Hessian free optimization", 2011). Where one class is nearly certain that varies
    little, whereas ``p - e_c`` for a drawn class c is next to nothing in most rows. 'fisher' is the empirical Fisher
    matrix (Martens, "New insights and perspectives on the natural gradient method", JMLR 21, 2020).

    Examples
    --------
    >>> import torch
    >>> from sklm.losses import SoftmaxCrossEntropy
    >>> outputs, y = torch.tensor([[[2.0], [0.0], [0.0]]]), torch.tensor([[1.0], [0.0], [0.0]])
    >>> SoftmaxCrossEntropy().gradient(outputs, y).squeeze()
    tensor([-0.2130,  0.1065,  0.1065])
    """

    target_scaling = None
    exact_power = 1

    def __init__(self, label_smoothing: float = 0.0, curvature: str = "exact", curvature_samples: int = 1):
        self.label_smoothing = label_smoothing
        self.curvature = curvature
        self.curvature_samples = curvature_samples

    def validate(self) -> None:
        check_label_smoothing(self.label_smoothing)
        if not isinstance(self.curvature, str) or self.curvature not in SOFTMAX_CURVATURES:
            raise ValueError(f"curvature must be one of {sorted(SOFTMAX_CURVATURES)}; got {self.curvature!r}.")
        number = self.curvature_samples
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
            raise ValueError(f"curvature_samples must be a positive integer; got {number!r}.")

    @property
    def n_draws(self) -> int:  # type: ignore[override]
        """Columns drawn at random for every sample and linearisation; 0 unless the curvature is 'sampled'."""
        return self._kind.draws(self.curvature_samples)

    @property
    def _kind(self) -> SoftmaxCurvature:
        return SOFTMAX_CURVATURES[self.curvature]

    def curvature_columns(self, n_outputs: int) -> int:
        return self._kind.columns(n_outputs, self.curvature_samples)

    def value(self, outputs: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        part = outputs.log_softmax(1).mul_(smoothed(y, self.label_smoothing, outputs.shape[1])).sum(1)
        return part.mul_(weights).sum(-1, keepdim=True).neg_()

    def factor(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self._kind.factor(*self._p_and_gap(outputs, y))

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self._kind.residual(*self._p_and_gap(outputs, y))

    def draw(self, outputs: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        p = outputs.softmax(1).unsqueeze(2)
        signs = torch.where(noise < 0.5, -1.0, 1.0).to(p.dtype).transpose(0, 1)  # (K, m, n)
        columns = p.sqrt() * signs
        return columns.addcmul_(p, columns.sum(1, keepdim=True), value=-1).mul_(1 / sqrt(len(noise)))

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.softmax(1).sub_(smoothed(y, self.label_smoothing, outputs.shape[1]))

    def project(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return self._kind.project(*self._p_and_gap(outputs, y), direction)

    def hessian_product(self, outputs: Tensor, y: Tensor, direction: Tensor) -> Tensor:
        return self._kind.product(*self._p_and_gap(outputs, y), direction)

    def inverse_link(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities (n, K), rows of sum one, for logits (n, K)."""
        with np.errstate(under="ignore"):
            p = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return p / p.sum(axis=1, keepdims=True)

    def check_targets(self, y: np.ndarray, first: bool = True) -> None:
        if np.any(y < 0) or not np.allclose(y.sum(axis=1), 1):
            raise ValueError("SoftmaxCrossEntropy needs rows of probabilities: not negative, with sum one.")

    def _p_and_gap(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``p`` and ``p - y'``, new tensors (B, K, n)."""
        p = outputs.softmax(1)
        return p, p - smoothed(y, self.label_smoothing, outputs.shape[1])
