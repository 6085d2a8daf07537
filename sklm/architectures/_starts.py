"""Start vectors for dense networks, one function a kind.

Each takes the layers of the network, the activation's active range, the :class:`Inputs` as the network sees them
and a numpy generator, and returns theta (P,) in float64. Drawing in numpy on the CPU makes start k the same on every
device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ._mlp import Layer


@dataclass(frozen=True)
class Inputs:
    """What a start may know about the inputs of the network.

    Attributes
    ----------
    low, high : (F,) ndarray
        Range of every column.
    n_samples : int
    rows : callable
        ``rows(quantile)`` returns inputs (n, F) of rows at the quantiles (n,) in [0, 1) of the cumulative sample
        weight, so that uniform quantiles draw rows by their weight.
    """

    low: np.ndarray
    high: np.ndarray
    n_samples: int
    rows: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, X: np.ndarray) -> Inputs:
        """Describe an array (N, F)."""
        return cls(X.min(axis=0), X.max(axis=0), len(X), lambda quantile: X[(quantile * len(X)).astype(int)])


def _assemble(layers: list[Layer], draw: Callable[[int, Layer], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    theta = np.zeros(layers[-1].bias.stop)
    for index, layer in enumerate(layers):
        weight, bias = draw(index, layer)
        theta[layer.weight] = weight.ravel()
        theta[layer.bias] = bias
    return theta


def nguyen_widrow(layers: list[Layer], active_range: float, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
    """Spread the units' active regions evenly over the input range.

    Notes
    -----
    Weights of a hidden layer point in random directions with length ``0.7 * active_range * H^(1/fan_in)`` for
    inputs in [-1, 1], biases are uniform within plus or minus that length (Nguyen & Widrow, IJCNN 1990, eqs. 5-7);
    the first layer is mapped to the range of the inputs. Where a hidden layer has one input, each of H equal parts of
    its range has the centre of one unit, at random within it. The output layer is uniform within 1/sqrt(fan_in).
    """
    middle, half = (inputs.high + inputs.low) / 2, (inputs.high - inputs.low) / 2
    half = np.where(half > 0, half, 1.0)

    def draw(index: int, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        shape = (layer.fan_out, layer.fan_in)
        if index == len(layers) - 1:
            bound = 1 / np.sqrt(layer.fan_in)
            return rng.uniform(-bound, bound, shape), rng.uniform(-bound, bound, layer.fan_out)
        length = 0.7 * active_range * layer.fan_out ** (1 / layer.fan_in)
        direction = rng.uniform(-1, 1, shape)
        weight = length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        bias = rng.uniform(-length, length, layer.fan_out)
        if layer.fan_in == 1:
            part = rng.permutation(layer.fan_out)
            bias = np.sign(weight[:, 0]) * (bias + length * (2 * part + 1 - layer.fan_out)) / layer.fan_out
        if index == 0:
            weight = weight / half
            bias = bias - weight @ middle
        return weight, bias

    return _assemble(layers, draw)


def glorot(layers: list[Layer], active_range: float, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
    """Uniform weights and biases within ``sqrt(6 / (fan_in + fan_out))`` (Glorot & Bengio 2010, eq. 16)."""

    def draw(index: int, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        bound = np.sqrt(6 / (layer.fan_in + layer.fan_out))
        return rng.uniform(-bound, bound, (layer.fan_out, layer.fan_in)), rng.uniform(-bound, bound, layer.fan_out)

    return _assemble(layers, draw)


def uniform(layers: list[Layer], active_range: float, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
    """Uniform weights and biases within ``1 / sqrt(fan_in)``, torch.nn.Linear's default."""

    def draw(index: int, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        bound = 1 / np.sqrt(layer.fan_in)
        return rng.uniform(-bound, bound, (layer.fan_out, layer.fan_in)), rng.uniform(-bound, bound, layer.fan_out)

    return _assemble(layers, draw)


def normal(layers: list[Layer], active_range: float, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
    """Normal weights with standard deviation ``1 / sqrt(fan_in)`` (LeCun et al. 1998), unit-normal biases."""

    def draw(index: int, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        weight = rng.normal(0, 1 / np.sqrt(layer.fan_in), (layer.fan_out, layer.fan_in))
        return weight, rng.normal(0, 1, layer.fan_out) if index < len(layers) - 1 else np.zeros(layer.fan_out)

    return _assemble(layers, draw)


def data(layers: list[Layer], active_range: float, inputs: Inputs, rng: np.random.Generator) -> np.ndarray:
    """First-layer units whose transition lies between two samples; later layers as Nguyen-Widrow.

    Notes
    -----
    A unit is the hyperplane half-way between two randomly drawn rows, orthogonal to their difference, and goes
    from ``-active_range`` to ``+active_range`` from one row to the other (pairs of samples as in Bolager et al.,
    NeurIPS 2023). Pairs closer than a tenth of the median distance of the drawn pairs are stretched to it, so that
    duplicates give no infinite slope.
    """
    theta = nguyen_widrow(layers, active_range, inputs, rng)
    first = layers[0]
    if len(layers) == 1 or inputs.n_samples < 2:
        return theta
    pairs = rng.uniform(size=(first.fan_out, 2))
    left, right = inputs.rows(pairs[:, 0]), inputs.rows(pairs[:, 1])
    difference = right - left
    distance = np.linalg.norm(difference, axis=1)
    positive = distance[distance > 0]
    if not len(positive):
        return theta
    safe = np.maximum(distance, 0.1 * np.median(positive))
    fallback = rng.normal(size=difference.shape)
    fallback /= np.linalg.norm(fallback, axis=1, keepdims=True)
    unit = np.where(distance[:, None] > 0, difference / np.where(distance, distance, 1)[:, None], fallback)
    weight = 2 * active_range * unit / safe[:, None]
    theta[first.weight] = weight.ravel()
    theta[first.bias] = -np.einsum("hf,hf->h", weight, (left + right) / 2)
    return theta


STARTS: dict[str, Callable] = {
    "nguyen_widrow": nguyen_widrow,
    "glorot": glorot,
    "uniform": uniform,
    "normal": normal,
    "data": data,
}

#: kinds that several starts of one fit take turns in
PORTFOLIO = ("nguyen_widrow", "normal", "data", "glorot")
