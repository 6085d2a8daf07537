"""Hyperparameters of convolutional networks, and the checks of them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .._parameters import Parameters
from ._activations import check_activation
from ._base import Architecture, Network
from ._cnn_network import CNNNetwork
from ._layers import POOLINGS, Convolution, Pooling, Shape
from ._starts import STARTS, Inputs

#: kinds of start vectors that depend on the layers alone
_INITS = ("glorot", "normal", "uniform")


class CNN(Parameters, Architecture):
    """Convolutional network: convolutions, each with activation and pooling, then dense layers, linear output layer.

    Parameters
    ----------
    conv_channels : int or sequence of int, default=(8, 4)
        Number of filters of each convolution layer.
    kernel_size, stride, padding : int or sequence of int, default=4, 2 and 0
        Of the square kernels, in pixels; one number, or one a convolution layer. ``padding`` zeros on every side.
    pooling : {None, 'max', 'average'} or a sequence of these, default=None
        What follows the activation of a convolution layer.
    pool_size : int or sequence of int, default=2
        Side of the square windows, which do not overlap; pixels that fill no window are dropped.
    hidden_layer_sizes : int or sequence of int, default=()
        Number of units of dense layers between the convolutions and the output layer.
    activation : {'tanh', 'logistic', 'relu', 'softplus', 'elu', 'silu', 'sin', 'identity'}, default='elu'
        Function of the hidden units.
    input_shape : (C, H, W) or (C, L), default=(1, 28, 28)
        Channels and pixels of an image, or channels and length of a signal, for one-dimensional convolutions. A row
        of X is such an array, flattened.

    Examples
    --------
    >>> from sklm.architectures import CNN
    >>> CNN(conv_channels=(6, 3), kernel_size=3, input_shape=(1, 8, 8)).build(n_inputs=64, n_outputs=10).n_parameters
    265
    """

    restarts = False
    tol = 1e-2

    def __init__(
        self,
        conv_channels: Any = (8, 4),
        kernel_size: Any = 4,
        stride: Any = 2,
        padding: Any = 0,
        pooling: Any = None,
        pool_size: Any = 2,
        hidden_layer_sizes: Any = (),
        activation: str = "elu",
        input_shape: Any = (1, 28, 28),
    ):
        self.conv_channels = conv_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.pool_size = pool_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.input_shape = input_shape

    def build(self, n_inputs: int, n_outputs: int) -> CNNNetwork:
        """Return the network for ``n_inputs`` columns and ``n_outputs`` targets.

        Raises
        ------
        ValueError
            If the shape does not fit the columns, a kernel or window its input, or a parameter is none of its values.
        """
        shape = self._shape(n_inputs)
        check_activation(self.activation)
        hidden = _integers("hidden_layer_sizes", self.hidden_layer_sizes, 1)
        options = self._options()
        is_signal, start = len(shape) == 2, 0
        image = (1, shape[1], shape[0]) if is_signal else (shape[1], shape[2], shape[0])

        def pair(size: int, neutral: int) -> tuple[int, int]:
            return (neutral if is_signal else size), size

        layers: list[Convolution] = []
        poolings: list[Pooling | None] = []
        for number, (channels, kernel, stride, padding, pooling, size) in enumerate(zip(*options, strict=True), 1):
            layer = Convolution(image, channels, pair(kernel, 1), pair(stride, 1), pair(padding, 0), start)
            _check_fit(number, "kernel_size", kernel, layer.grid, image, "input", is_signal)
            layers.append(layer)
            image, start = layer.output_shape, layer.bias.stop
            poolings.append(None)
            if pooling is not None:
                poolings[-1] = window = POOLINGS[pooling](image, pair(size, 1))
                _check_fit(number, "pool_size", size, window.output_shape, image, "output", is_signal)
                image = window.output_shape
        for units in [*hidden, n_outputs]:
            layers.append(Convolution(image, units, image[:2], start=start))
            image, start = (1, 1, units), layers[-1].bias.stop
        return CNNNetwork(shape, layers, poolings, self.activation)

    def _shape(self, n_inputs: int) -> tuple[int, ...]:
        shape = tuple(_integers("input_shape", self.input_shape, 1))
        if len(shape) not in (2, 3):
            raise ValueError(
                f"input_shape must be (channels, height, width) or (channels, length); got {self.input_shape!r}."
            )
        if prod(shape) != n_inputs:
            raise ValueError(
                f"input_shape={self.input_shape!r} describes rows of {prod(shape)} numbers, but X has {n_inputs} "
                "columns. Give the channels, height and width that the columns were flattened from."
            )
        return shape

    def _options(self) -> list[list]:
        """Channels, kernel, stride, padding, pooling and window of every convolution layer, as six checked lists."""
        channels = _integers("conv_channels", self.conv_channels, 1)
        if not channels:
            raise ValueError("conv_channels must name at least one layer; a network without convolutions is an MLP.")
        poolings = list(self.pooling) if isinstance(self.pooling, list | tuple | np.ndarray) else [self.pooling]
        if any(
            pooling is not None and (not isinstance(pooling, str) or pooling not in POOLINGS) for pooling in poolings
        ):
            raise ValueError(
                f"pooling must be None or one of {sorted(POOLINGS)}, or a sequence of these; got {self.pooling!r}."
            )
        return [
            channels,
            _each_layer("kernel_size", _integers("kernel_size", self.kernel_size, 1), len(channels)),
            _each_layer("stride", _integers("stride", self.stride, 1), len(channels)),
            _each_layer("padding", _integers("padding", self.padding, 0), len(channels)),
            _each_layer("pooling", poolings, len(channels)),
            _each_layer("pool_size", _integers("pool_size", self.pool_size, 1), len(channels)),
        ]

    def input_groups(self, n_inputs: int) -> np.ndarray:
        """Channel (F,) of every input column: columns of one channel are to be standardised together."""
        shape = self._shape(n_inputs)
        return np.repeat(np.arange(shape[0]), prod(shape[1:]))

    def starts(self, network: Network, init: str, inputs: Inputs, generators: list) -> np.ndarray:
        """Return start vectors (len(generators), P) of the named kind, see ``STARTS``; 'auto' is 'uniform'.

        Patches count as the inputs of a filter, filters as the outputs of a layer.
        """
        name = "uniform" if init == "auto" else init
        if name not in _INITS:
            raise ValueError(f"init must be 'auto' or one of {list(_INITS)} for a CNN; got {init!r}.")
        assert isinstance(network, CNNNetwork)
        active_range = network.activation.active_range
        return np.stack([STARTS[name](network.layers, active_range, inputs, rng) for rng in generators])


def _integers(name: str, value: Any, least: int) -> list[int]:
    """The numbers of an integer or a sequence of integers, none below ``least``."""
    values = np.atleast_1d(np.asarray(value, dtype=object)).tolist()
    if any(not isinstance(size, int | np.integer) or isinstance(size, bool) or size < least for size in values):
        raise ValueError(f"{name} must be integers of at least {least}, a number or a sequence; got {value!r}.")
    return [int(size) for size in values]


def _each_layer(name: str, values: list, n_layers: int) -> list:
    """One value a convolution layer."""
    if len(values) == 1:
        return values * n_layers
    if len(values) != n_layers:
        raise ValueError(
            f"{name} has {len(values)} values, but conv_channels makes {n_layers} layers; give one value a layer, or "
            "one for all."
        )
    return values


def _check_fit(
    number: int, name: str, size: int, result: tuple[int, ...], image: Shape, what: str, is_signal: bool
) -> None:
    """Raise ValueError where nothing would be left of an image (H, W, C)."""
    if min(result[:2]) < 1:
        extent = f"{what} of length {image[1]}" if is_signal else f"{image[0]} x {image[1]} {what}"
        raise ValueError(
            f"layer {number}: {name}={size} does not fit its {extent}; use fewer layers, a smaller kernel_size, stride "
            "or pool_size, or more padding."
        )
