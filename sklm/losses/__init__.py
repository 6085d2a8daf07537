"""Losses with their curvature: what a network's outputs are compared by."""

from ._base import Loss
from ._deviances import GammaDeviance, PoissonDeviance
from ._logistic import LogisticLoss
from ._robust import AbsoluteError, Huber, Quantile
from ._softmax import SoftmaxCrossEntropy
from ._squared import SquaredError

#: losses for regression, name -> class; a new loss is a new file and a line here
LOSSES: dict[str, type] = {
    "squared_error": SquaredError,
    "huber": Huber,
    "absolute_error": AbsoluteError,
    "quantile": Quantile,
    "poisson": PoissonDeviance,
    "gamma": GammaDeviance,
}

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "GammaDeviance",
    "Huber",
    "LogisticLoss",
    "Loss",
    "PoissonDeviance",
    "Quantile",
    "SoftmaxCrossEntropy",
    "SquaredError",
]
