"""The two things every architecture provides: a builder with hyperparameters, and a network with derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ._starts import Inputs


class Affine(Protocol):
    """A standardisation of columns, ``(raw - mean) * inverse`` with ``scale`` the way back; (F,) ndarrays."""

    @property
    def mean(self) -> np.ndarray: ...
    @property
    def scale(self) -> np.ndarray: ...
    @property
    def inverse(self) -> np.ndarray: ...


class OutputLayer(Protocol):
    """Place of a linear output layer in the flat parameter vector: weight (fan_out, fan_in) row by row, and bias."""

    @property
    def fan_out(self) -> int: ...
    @property
    def weight(self) -> slice: ...
    @property
    def bias(self) -> slice: ...


def rescale_outputs(theta: np.ndarray, layer: OutputLayer, old_y: Affine, new_y: Affine) -> None:
    """Change the output layer in theta (P,), in place, so that the raw outputs stay when their scaling changes."""
    gain = np.where(new_y.inverse != 0, old_y.scale * new_y.inverse, 1.0)
    weight = theta[layer.weight].reshape(layer.fan_out, -1)
    theta[layer.weight] = (weight * gain[:, None]).ravel()
    theta[layer.bias] = theta[layer.bias] * gain + (old_y.mean - new_y.mean) * new_y.inverse


@dataclass
class Forward:
    """What one forward pass leaves behind.

    Attributes
    ----------
    outputs : (B, K, n)
        Raw network outputs.
    saved : dataclass of lists of (B, ...) tensors
        Whatever the network needs for its derivatives at the same ``theta`` and rows. The engine only selects
        models from it.
    """

    outputs: Tensor
    saved: Any


@dataclass
class LayerFactors:
    """The Jacobian rows of one layer as products of its inputs and cotangents, for n samples.

    With inputs p and cotangents d, row (n, r) has ``sum_l d[n, r, l, o] p[n, l, q]`` for the weight (o, q) and
    ``sum_l d[n, r, l, o]`` for the bias o. A dense layer has one position l.

    Attributes
    ----------
    weight, bias : slice
        Places in the flat parameter vector, of sizes O q and O. The penalty acts on the weights and on no bias.
    inputs : (B, n, L, q)
        Patches of the layer's input, one a position.
    cotangents : (B, n, R, L, O)
        Derivatives of the R combinations of the outputs with respect to what the layer computes. Any strides.
    """

    weight: slice
    bias: slice
    inputs: Tensor
    cotangents: Tensor


class Network(ABC):
    """A function ``theta (B, P), X -> outputs (B, K, n)`` with hand-written derivatives.

    Samples are the last axis everywhere, so that every elementary operation runs over contiguous memory.

    Attributes
    ----------
    n_parameters, n_outputs : int
        P and K.
    coefficient_mask : (P,) bool ndarray
        True where the penalty ``alpha`` acts: coefficients, not intercepts.
    floats_per_row : int
        Numbers kept per model and sample by a forward pass; sizes the chunks.
    input_weights : slice or None
        Places of the weights that the inputs are multiplied by, (units, F) row by row; None where there are none.
    output_places : (K, p) int array or None
        Numbers of the parameters that move output k alone, rising and above those of all parameters that move several;
        None where there are none.
    layer_floats : int or None
        Inputs and cotangents of all layers, for one sample and curvature column; None for a network without
        :meth:`layer_factors`.
    """

    #: whether derivatives are taken by autograd, which inference mode forbids
    uses_autograd = False
    #: whether memory is laid out samples first (the shapes stay): inputs as a view of (n, F), ``out`` of ``pullback``
    #: as one of (B, n, R, P)
    samples_first = False
    #: whether rows may differ so much in size that normal equations lose digits
    loses_digits = False
    layer_floats: int | None = None
    output_places: np.ndarray | None = None
    input_weights: slice | None = None

    n_parameters: int
    n_outputs: int
    coefficient_mask: np.ndarray
    floats_per_row: int

    @abstractmethod
    def forward(self, theta: Tensor, X: Tensor, reuse: Forward | None = None, derivatives: bool = True) -> Forward:
        """Evaluate all models: theta (B, P), X (F, n) or (B, F, n).

        ``reuse`` is an earlier result for the same shapes that nobody needs any more: its memory may be written
        over, which saves the page faults of fresh allocations. Without ``derivatives`` the result serves for its
        outputs only.
        """

    @abstractmethod
    def pullback(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
        """Write ``J^T cotangents`` column by column into ``out``.

        Parameters
        ----------
        cotangents : (B or 1, K, R, n)
        out : (B, P, R, n)
            ``out[b, p, r, n] = sum_k cotangents[b, k, r, n] * d outputs[b, k, n] / d theta[b, p]``.
            Any strides; everything is overwritten.
        """

    def pullback_of(self, numbers: np.ndarray, device: torch.device) -> Callable[..., None]:
        """Return a function like :meth:`pullback` for the parameters ``numbers`` (p,) only, given in rising order.

        Its ``out`` is (B, p, R, n). The default computes all columns and keeps some.
        """
        index = torch.from_numpy(numbers).to(device)

        def pullback(theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
            n_models, (n_columns, n) = len(theta), out.shape[2:]
            if self.samples_first:
                full = out.new_empty(n_models, n, n_columns, self.n_parameters).permute(0, 3, 2, 1)
            else:
                full = out.new_empty(n_models, self.n_parameters, n_columns, n)
            self.pullback(theta, X, forward, cotangents, full)
            out.copy_(full.index_select(1, index))

        return pullback

    def parameter_groups(self) -> list[np.ndarray]:
        """Return the numbers of the parameters of every layer, from the first layer to the last."""
        return [np.arange(self.n_parameters)]

    @abstractmethod
    def vjp(self, theta: Tensor, X: Tensor, forward: Forward, cotangent: Tensor) -> Tensor:
        """Sum over samples of ``J^T cotangent``: cotangent (B, K, n) -> (B, P)."""

    @abstractmethod
    def jvp(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """First derivative of the outputs along ``direction`` (B, P): (B, K, n)."""

    @abstractmethod
    def second_directional(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """Second derivative of the outputs along ``direction`` (B, P): (B, K, n)."""

    def layer_factors(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor) -> Iterator[LayerFactors]:
        """Yield the rows that :meth:`pullback` would write, layer by layer and as their factors.

        cotangents : (B or 1, K, R, n). Asked only of networks that set ``layer_floats``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no layers whose derivatives are products.")

    def rescale(self, theta: np.ndarray, old_x: Affine, new_x: Affine, old_y: Affine, new_y: Affine) -> np.ndarray:
        """Return the parameters (P,) of the same raw function after a change of standardisation.

        The default is for networks whose standardisation never changes.
        """
        return np.array(theta)

    def to_module(self, theta: np.ndarray) -> torch.nn.Module:
        """Return an equal float64 module on the CPU for parameters (P,): (n, F) to (n, K), in the network's scales."""
        raise NotImplementedError(f"{type(self).__name__} has no equal torch.nn.Module.")

    def to(self, device: torch.device, dtype: torch.dtype) -> Network:
        """Move constants that the network holds, if any. Returns the network."""
        return self


class LayeredNetwork(Network):
    """A network whose parameters are those of ``layers``, each with the slice of its ``weight``."""

    layers: Sequence[Any]

    @cached_property
    def coefficient_mask(self) -> np.ndarray:  # type: ignore[override]
        """1 at weights; made when it is asked for, as networks may be too large to have one."""
        mask = np.zeros(self.n_parameters, dtype=bool)
        for layer in self.layers:
            mask[layer.weight] = True
        return mask


class Architecture(ABC):
    """Hyperparameters from which a :class:`Network` is built once the data's shape is known."""

    #: whether X and y should be standardised by default (no for modules with physical parameters)
    standardize: bool = True
    #: damping scaling and solver that suit this family when the user says 'auto'
    damping_scaling: str = "identity"
    solver: str = "auto"
    #: whether ``n_init='auto'`` means several starts, and what ``tol='auto'`` means
    restarts: bool = True
    tol: float = 1e-3

    @abstractmethod
    def build(self, n_inputs: int, n_outputs: int) -> Network:
        """Return the network for F inputs and K outputs."""

    def input_groups(self, n_inputs: int) -> np.ndarray | None:
        """Return which inputs (F,) are standardised alike, by an integer each; None for each on its own."""
        return None

    @abstractmethod
    def starts(self, network: Network, init: str, inputs: Inputs, generators: list) -> np.ndarray:
        """Return start vectors (len(generators), P), row k drawn from ``generators[k]`` alone."""
