"""Multilayer perceptrons with hand-written, model-batched derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._parameters import Parameters
from ._activations import ACTIVATIONS, check_activation
from ._base import Affine, Architecture, Forward, LayeredNetwork, LayerFactors, Network, rescale_outputs
from ._starts import PORTFOLIO, STARTS, Inputs


@dataclass(frozen=True)
class Layer:
    """Place of one dense layer in the flat parameter vector: weight (fan_out, fan_in) row by row, then bias."""

    fan_in: int
    fan_out: int
    weight: slice
    bias: slice


def dense_layers(sizes: list[int]) -> list[Layer]:
    """Lay out dense layers ``sizes[0] -> sizes[1] -> ...`` one after the other."""
    layers, start = [], 0
    for fan_in, fan_out in pairwise(sizes):
        middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        layers.append(Layer(fan_in, fan_out, slice(start, middle), slice(middle, end)))
        start = end
    return layers


@dataclass
class Saved:
    """What a forward pass keeps for the derivatives, one entry a hidden layer (a layer for ``weights``).

    weights (B, fan_out, fan_in); values of the activation, what its derivatives are computed from, and its first
    derivative, (B, H, n).
    """

    weights: list[Tensor]
    values: list[Tensor]
    kept: list[Tensor]
    first: list[Tensor]


@dataclass(frozen=True)
class Part:
    """Which rows of a layer's Jacobian are written, and where.

    Places of the weights and biases among the rows; unit and input of every weight and unit of every bias, None where
    all are wanted.
    """

    weight: slice
    bias: slice
    units: Tensor | None = None
    inputs: Tensor | None = None
    biases: Tensor | None = None


class MLP(Parameters, Architecture):
    """Multilayer perceptron: dense layers with one activation, linear output layer.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(20,)
        Number of units of each hidden layer; an empty sequence is a linear model.
    activation : {'tanh', 'logistic', 'relu', 'softplus', 'elu', 'silu', 'sin', 'identity'}, default='tanh'
        Function of the hidden units. Levenberg-Marquardt likes smooth ones.

    Examples
    --------
    >>> from sklm.architectures import MLP
    >>> MLP(hidden_layer_sizes=(10, 5)).build(n_inputs=3, n_outputs=2).n_parameters
    107
    """

    def __init__(self, hidden_layer_sizes: Any = (20,), activation: str = "tanh"):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    @property
    def restarts(self) -> bool:  # type: ignore[override]
        """A linear model has one minimum."""
        return np.size(self.hidden_layer_sizes) > 0

    def build(self, n_inputs: int, n_outputs: int) -> MLPNetwork:
        """Return the network for ``n_inputs`` columns and ``n_outputs`` targets.

        Raises
        ------
        ValueError
            If a layer has no unit or the activation is unknown.
        """
        hidden = np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist()
        if any(not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1 for size in hidden):
            raise ValueError(
                f"hidden_layer_sizes must be positive integers, one a hidden layer; got {self.hidden_layer_sizes!r}."
            )
        check_activation(self.activation)
        return MLPNetwork([n_inputs, *map(int, hidden), n_outputs], self.activation)

    def starts(self, network: Network, init: str, inputs: Inputs, generators: list) -> np.ndarray:
        """Return start vectors (len(generators), P) of the named kind, see ``STARTS``; 'auto' takes turns.

        No kind is best for all problems, so that the first start is of the first kind in ``PORTFOLIO``, the second of
        the second and so on (docs/benchmarks.md, "Starts").
        """
        if init != "auto" and init not in STARTS:
            raise ValueError(f"init must be 'auto' or one of {sorted(STARTS)} for an MLP; got {init!r}.")
        assert isinstance(network, MLPNetwork)
        kinds = [STARTS[name] for name in (PORTFOLIO if init == "auto" else (init,))]
        active_range = network.activation.active_range
        theta = [
            kind(network.layers, active_range, inputs, rng) for kind, rng in zip(cycle(kinds), generators, strict=False)
        ]
        return np.stack(theta)


class MLPNetwork(LayeredNetwork):
    """The function an :class:`MLP` defines, for fixed layer sizes (F, H1, ..., K).

    Notes
    -----
    Layer l computes ``z = W a + b`` and ``a = phi(z)`` (linear in the last layer). With cotangents ``d`` of the
    outputs, the rows of the Jacobian are ``d_l a_{l-1}^T`` for the weights and ``d_l`` for the biases, where
    ``d_{l-1} = (W_l^T d_l) * phi'(z_{l-1})`` (back-propagation for Levenberg-Marquardt: Hagan & Menhaj, 1994,
    eqs. 21-27). Each ``d_l`` is written straight into its bias rows of the buffer.
    """

    def __init__(self, sizes: list[int], activation: str):
        self.sizes = sizes
        self.activation = ACTIVATIONS[activation]
        self.layers = dense_layers(sizes)
        self.last = len(self.layers) - 1
        self._all = [Part(layer.weight, layer.bias) for layer in self.layers]
        self.lengths = [length for la in self.layers for length in (la.fan_in * la.fan_out, la.fan_out)]
        self.n_parameters = self.layers[-1].bias.stop
        self.n_outputs = sizes[-1]
        self.input_weights = self.layers[0].weight
        if self.n_outputs > 1:
            head = self.layers[-1]
            weights = np.arange(head.weight.start, head.weight.stop).reshape(head.fan_out, head.fan_in)
            self.output_places = np.c_[weights, np.arange(head.bias.start, head.bias.stop)]
        self.floats_per_row = 2 * sum(sizes[1:])
        self.layer_floats = sum(layer.fan_in + layer.fan_out for layer in self.layers)

    def rescale(self, theta: np.ndarray, old_x: Affine, new_x: Affine, old_y: Affine, new_y: Affine) -> np.ndarray:
        theta, first = np.array(theta), self.layers[0]
        weight = theta[first.weight].reshape(first.fan_out, first.fan_in)
        # a column that the old scaling left out had no effect, and starts from none
        theta[first.bias] += weight @ ((new_x.mean - old_x.mean) * old_x.inverse)
        ratio = np.where(new_x.inverse != 0, old_x.inverse * new_x.scale, 1.0)
        theta[first.weight] = (weight * ratio).ravel()
        rescale_outputs(theta, self.layers[-1], old_y, new_y)
        return theta

    def pieces(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of theta (B, P) by layer: weight (B, fan_out, fan_in) and bias (B, fan_out, 1)."""
        parts = torch.split_with_sizes(theta.unsqueeze(-1), self.lengths, 1)
        return [
            (parts[2 * index].view(-1, layer.fan_out, layer.fan_in), parts[2 * index + 1])
            for index, layer in enumerate(self.layers)
        ]

    def forward(self, theta: Tensor, X: Tensor, reuse: Forward | None = None, derivatives: bool = True) -> Forward:
        activation, old = self.activation, reuse.saved if reuse is not None else None
        a = X.expand(theta.shape[0], *X.shape[-2:])
        values: list[Tensor] = []
        saved = Saved([], values, [] if activation.keeps_input else values, [])
        for index, (weight, bias) in enumerate(self.pieces(theta)):
            saved.weights.append(weight)
            if index == self.last:
                break
            z = torch.baddbmm(bias, weight, a, out=None if old is None else old.kept[index])
            if activation.keeps_input:
                a = activation.value(z, torch.empty_like(z) if old is None else old.values[index])
            else:
                a = activation.value(z, z)
            values.append(a)
            if activation.keeps_input:
                saved.kept.append(z)
            if derivatives:
                saved.first.append(activation.first(z, None if old is None or not old.first else old.first[index]))
        return Forward(torch.baddbmm(bias, weight, a, out=None if reuse is None else reuse.outputs), saved)

    def _backward(self, theta: Tensor, X: Tensor, saved: Saved, d: Tensor) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Yield, from the last layer to the first, it, its inputs (B, fan_in, n) and cotangents (B, fan_out, R, n).

        d : (B or 1, K, R, n), cotangents of the network's outputs.
        """
        for index in range(self.last, -1, -1):
            a = saved.values[index - 1] if index else X.expand(theta.shape[0], *X.shape[-2:])
            yield self.layers[index], a, d
            if index:
                d = _back(saved.weights[index], d, saved.first[index - 1])

    def pullback(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
        self._write_rows(self._all, theta, X, forward, cotangents, out)

    def pullback_of(self, numbers: np.ndarray, device: torch.device) -> Callable[..., None]:
        """As the base class says; rows of other parameters are not computed, nor layers below the lowest one."""
        parts = [_part(layer, numbers, device) for layer in self.layers]
        return partial(self._write_rows, parts)

    def parameter_groups(self) -> list[np.ndarray]:
        return [np.arange(layer.weight.start, layer.bias.stop) for layer in self.layers]

    def _write_rows(
        self, parts: list[Part], theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor
    ) -> None:
        backward = self._backward(theta, X, forward.saved, cotangents)
        for part, (layer, a, d) in zip(reversed(parts), backward, strict=True):
            if part.units is None or part.inputs is None:
                rows = out[:, part.weight].view(-1, layer.fan_out, layer.fan_in, *out.shape[2:])
                torch.mul(d.unsqueeze(2), a[:, None, :, None], out=rows)
            else:
                left, right = d.index_select(1, part.units), a.index_select(1, part.inputs)
                torch.mul(left, right.unsqueeze(2), out=out[:, part.weight])
            out[:, part.bias] = d if part.biases is None else d.index_select(1, part.biases)
            if part.weight.start == 0:  # nothing is asked for below
                break

    def layer_factors(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor) -> Iterator[LayerFactors]:
        for layer, a, d in self._backward(theta, X, forward.saved, cotangents):
            d = d.expand(theta.shape[0], *d.shape[1:])
            yield LayerFactors(layer.weight, layer.bias, a.mT.unsqueeze(2), d.permute(0, 3, 2, 1).unsqueeze(3))

    def vjp(self, theta: Tensor, X: Tensor, forward: Forward, cotangent: Tensor) -> Tensor:
        saved: Saved = forward.saved
        d = cotangent.expand(theta.shape[0], *cotangent.shape[1:])
        parts: list[Tensor] = []
        for index in range(self.last, -1, -1):
            a = saved.values[index - 1] if index else X.expand(theta.shape[0], *X.shape[-2:])
            parts += [d.sum(-1), torch.bmm(d, a.mT).flatten(1)]
            if index:
                d = _back(saved.weights[index], d.unsqueeze(2), saved.first[index - 1]).squeeze(2)
        return torch.cat(parts[::-1], dim=1)

    def jvp(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """First derivative along a line: ``z' = V a + W a' + c`` and ``a' = phi' z'``, layer by layer."""
        saved: Saved = forward.saved
        a, a1 = X.expand(theta.shape[0], *X.shape[-2:]), None
        for index, (change, shift) in enumerate(self.pieces(direction)):
            z1 = torch.baddbmm(shift, change, a)
            if a1 is not None:
                z1 = z1.baddbmm_(saved.weights[index], a1)
            if index < self.last:
                a, a1 = saved.values[index], z1.mul_(saved.first[index])
        return z1

    def second_directional(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """Second derivative along a line, by carrying first and second derivatives forward through the layers.

        Notes
        -----
        With dots for d/dt of ``theta + t v``: ``z' = V a + W a' + c``, ``z'' = 2 V a' + W a''``,
        ``a' = phi' z'``, ``a'' = phi'' z'^2 + phi' z''``. Exact, and needs no new activation values.
        """
        saved: Saved = forward.saved
        a1: Tensor | None = None
        a2: Tensor | None = None
        for index, (change, shift) in enumerate(self.pieces(direction)):
            weight, last = saved.weights[index], index == self.last
            z2: Tensor | None = None
            if a1 is not None and a2 is not None:
                z2 = torch.baddbmm(torch.bmm(weight, a2), change, a1, alpha=2)
            if last:
                return torch.zeros_like(forward.outputs) if z2 is None else z2
            a = saved.values[index - 1] if index else X.expand(theta.shape[0], *X.shape[-2:])
            z1 = torch.baddbmm(shift, change, a)
            if a1 is not None:
                z1 = z1.baddbmm_(weight, a1)
            first = saved.first[index]
            a2 = self.activation.second(saved.kept[index], first).mul_(z1).mul_(z1)
            if z2 is not None:
                a2.addcmul_(first, z2)
            a1 = z1.mul_(first)
        raise AssertionError("a network has at least one layer")


def _part(layer: Layer, numbers: np.ndarray, device: torch.device) -> Part:
    """What rows of a layer the parameters ``numbers`` (p,), rising, ask for."""
    start, middle, stop = np.searchsorted(numbers, [layer.weight.start, layer.bias.start, layer.bias.stop]).tolist()
    weight, bias = slice(start, middle), slice(middle, stop)
    units = inputs = biases = None
    if middle - start < layer.fan_in * layer.fan_out:
        places = torch.from_numpy(numbers[weight] - layer.weight.start).to(device)
        units, inputs = places // layer.fan_in, places % layer.fan_in
    if stop - middle < layer.fan_out:
        biases = torch.from_numpy(numbers[bias] - layer.bias.start).to(device)
    return Part(weight, bias, units, inputs, biases)


def _back(weight: Tensor, d: Tensor, first: Tensor) -> Tensor:
    """Carry d (B, fan_out, R, n) to (B, fan_in, R, n), through a layer's weights and the activation before it."""
    if weight.shape[1] == 1:
        if d.shape[2] == 1:
            return (weight.mT * first).unsqueeze(2).mul_(d)
        below = weight.mT.unsqueeze(-1) * d
    else:
        flat = d.expand(weight.shape[0], *d.shape[1:]).flatten(2)
        below = torch.bmm(weight.mT, flat).unflatten(2, d.shape[2:])
    return below.mul_(first.unsqueeze(2))
