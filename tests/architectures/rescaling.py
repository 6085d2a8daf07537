"""Standardisations, and networks as functions of raw numbers."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from sklm.architectures import Network

from ..problems import tensor


def affine(mean: Any, scale: Any) -> SimpleNamespace:
    """``(x - mean) / scale``, and zero where the scale is."""
    mean, scale = np.array(mean, dtype=float), np.array(scale, dtype=float)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return SimpleNamespace(mean=mean, scale=scale, inverse=inverse)


def raw(network: Network, theta: np.ndarray, X: np.ndarray, x: SimpleNamespace, y: SimpleNamespace) -> np.ndarray:
    """The function of raw inputs in raw units."""
    inputs = tensor((X - x.mean) * x.inverse).mT
    return network.forward(tensor(theta)[None], inputs).outputs[0].mT.numpy() * y.scale + y.mean
