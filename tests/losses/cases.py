"""Every loss with its plain formula and random targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sklm.losses import (
    AbsoluteError,
    GammaDeviance,
    Huber,
    LogisticLoss,
    Loss,
    PoissonDeviance,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)

N_SAMPLES = 6


def absolute(smoothing):
    return lambda f, y: F.smooth_l1_loss(f, y, reduction="none", beta=smoothing)


def huber(delta):
    return lambda f, y: F.huber_loss(f, y, reduction="none", delta=delta)


def pinball(outputs, y, quantile, smoothing):
    error = y - outputs
    absolute = F.smooth_l1_loss(outputs, y, reduction="none", beta=smoothing)
    return absolute / 2 + (quantile - 0.5) * error + smoothing * (quantile - 0.5) ** 2


def poisson(outputs, y):
    return F.poisson_nll_loss(outputs, y, log_input=True, reduction="none") - y + torch.xlogy(y, y)


def cross_entropy(outputs, y, label_smoothing=0.0):
    return F.cross_entropy(outputs, y, reduction="none", label_smoothing=label_smoothing)


def normal(rng, n_outputs):
    return rng.normal(size=(n_outputs, N_SAMPLES))


def counts(rng, n_outputs):
    return rng.poisson(1.0, (n_outputs, N_SAMPLES))


def positive(rng, n_outputs):
    return rng.gamma(2.0, 0.5, (n_outputs, N_SAMPLES))


def labels(rng, n_outputs):
    return rng.integers(0, 2, (n_outputs, N_SAMPLES))


def one_hot(rng, n_outputs):
    return np.eye(n_outputs)[rng.integers(0, n_outputs, N_SAMPLES)].T


def probabilities(rng, n_outputs):
    return rng.dirichlet(np.ones(n_outputs), N_SAMPLES).T


@dataclass
class LossCase:
    """A loss, its formula a sample and output (B, K, n), or a sample (B, n), and random targets (K, n) for it.

    ``symmetric`` is the part of a robust loss whose weight ``h'(r) / r`` is the curvature; for others the curvature is
    the second derivative of the formula.
    """

    name: str
    loss: Loss
    formula: Any
    targets: Any
    symmetric: Any = None
    n_outputs: tuple[int, ...] = (1, 3)

    def total(self, y):
        """Sum of the loss over everything, as a function of the outputs."""

        def total(outputs):
            values = self.formula(outputs, y.expand(outputs.shape))
            return values.sum() / (outputs.shape[1] if values.ndim == 3 else 1)

        return total


LOSS_CASES = [
    LossCase("squared", SquaredError(), lambda f, y: (f - y) ** 2 / 2, normal),
    LossCase("huber", Huber(0.7), huber(0.7), normal, huber(0.7)),
    LossCase("huber, all inside", Huber(1e5), huber(1e5), normal),
    LossCase("absolute", AbsoluteError(), absolute(1e-4), normal, absolute(1e-4)),
    LossCase("absolute, smooth", AbsoluteError(0.5), absolute(0.5), normal, absolute(0.5)),
    LossCase(
        "median", Quantile(), lambda f, y: pinball(f, y, 0.5, 1e-4), normal, lambda f, y: absolute(1e-4)(f, y) / 2
    ),
    LossCase(
        "quantile, smooth",
        Quantile(0.8, 0.3),
        lambda f, y: pinball(f, y, 0.8, 0.3),
        normal,
        lambda f, y: absolute(0.3)(f, y) / 2,
    ),
    LossCase("poisson", PoissonDeviance(), poisson, counts),
    LossCase("gamma", GammaDeviance(), lambda f, y: y * (-f).exp() + f - y.log() - 1, positive),
    LossCase(
        "logistic",
        LogisticLoss(),
        lambda f, y: F.binary_cross_entropy_with_logits(f, y, reduction="none"),
        labels,
    ),
    LossCase(
        "logistic, smoothed",
        LogisticLoss(0.2),
        lambda f, y: F.binary_cross_entropy_with_logits(f, 0.8 * y + 0.1, reduction="none"),
        labels,
    ),
    LossCase("softmax", SoftmaxCrossEntropy(), cross_entropy, one_hot, n_outputs=(2, 4)),
    LossCase("softmax, soft targets", SoftmaxCrossEntropy(), cross_entropy, probabilities, n_outputs=(3,)),
    LossCase(
        "softmax, smoothed", SoftmaxCrossEntropy(0.1), lambda f, y: cross_entropy(f, y, 0.1), one_hot, n_outputs=(3,)
    ),
]
