"""Convolutional networks as functions of their parameters, with hand-written, model-batched derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from ._activations import ACTIVATIONS
from ._base import Affine, Forward, LayeredNetwork, LayerFactors, rescale_outputs
from ._layers import Convolution, Pooling

#: up to here a product with the filters as rows is quicker, although its result must be transposed (measured with MKL)
FEW_FILTERS = 8
#: Jacobian rows worked on at once on a CPU, so that what is carried back stays in the cache
BLOCK_ROWS = 512


@dataclass
class Saved:
    """What a forward pass keeps for the derivatives, one entry a layer.

    weights (B, O, q) and patches of the input (B, n, L, q); for all layers but the last what the activation's
    derivatives are computed from and its first derivative, (B, n, H, W, O), and what its pooling selected.
    """

    weights: list[Tensor]
    patches: list[Tensor]
    kept: list[Tensor]
    first: list[Tensor]
    selected: list[Tensor | None]

    def samples(self, part: slice) -> Saved:
        """The same of some samples."""
        return Saved(
            self.weights,
            [patches[:, part] for patches in self.patches],
            [kept[:, part] for kept in self.kept],
            [first[:, part] for first in self.first],
            [None if selected is None else selected[:, part] for selected in self.selected],
        )


@dataclass(frozen=True)
class Part:
    """Which rows of a layer's Jacobian are written, and where.

    Places of the weights and biases among the rows, and the wanted ones of the layer's weights and biases (None: all).
    """

    weight: slice
    bias: slice
    inside: Tensor | None = None


class CNNNetwork(LayeredNetwork):
    """The function a :class:`CNN` defines, for fixed shapes.

    Parameters
    ----------
    input_shape : (C, H, W) or (C, L)
    layers : list of Convolution
        One after the other; the kernel of a dense layer is the whole image.
    poolings : list of Pooling or None
        What follows the activation of each convolution layer; the layers after these are dense.
    activation : str

    Notes
    -----
    The parameters are, layer by layer, the weights (filters, kernel height, kernel width, channels) and the biases; a
    dense layer has its inputs in the order (height, width, channels).

    A layer computes ``z = p W^T + b`` for every patch p of its input, then ``a = pool(phi(z))``. With cotangents d
    (L, O) of ``z``, the rows of the Jacobian are ``d^T p`` for the weights and the sum of d over the L patches for
    the biases; :meth:`Convolution.back` carries d to the layer below (LeCun et al. 1998, Gradient-based learning
    applied to document recognition, section II; Dangel, Kunstner & Hennig 2020, BackPACK, section 2, for the
    derivatives sample by sample).
    """

    samples_first = True

    def __init__(
        self,
        input_shape: tuple[int, ...],
        layers: list[Convolution],
        poolings: list[Pooling | None],
        activation: str,
    ):
        self.input_shape, self.layers = input_shape, layers
        self.n_convolutions = len(poolings)
        self.poolings = [*poolings, *[None] * (len(layers) - len(poolings))]
        self.activation = ACTIVATIONS[activation]
        self.last = len(layers) - 1
        self._parts = [Part(layer.weight, layer.bias) for layer in layers]
        self.lengths = [length for la in layers for length in (la.n_filters * la.fan_in, la.n_filters)]
        self.n_parameters = layers[-1].bias.stop
        self.n_outputs = layers[-1].n_filters
        self.floats_per_row = sum(2 * prod(la.output_shape) + la.n_positions * la.fan_in for la in layers)
        # of max pooling, 64-bit integers
        self.floats_per_row += sum(2 * prod(pooling.output_shape) for pooling in poolings if pooling is not None)
        self.layer_floats = sum(la.n_positions * (la.fan_in + la.n_filters) for la in layers)
        self._pixels = layers[0].pixels()

    def to(self, device: torch.device, dtype: torch.dtype) -> CNNNetwork:
        self._pixels = self._pixels.to(device)
        return self

    def rescale(self, theta: np.ndarray, old_x: Affine, new_x: Affine, old_y: Affine, new_y: Affine) -> np.ndarray:
        """Return the parameters (P,) of the same raw function after a change of standardisation.

        Where the first layer has padding and a mean changes, this holds for the patches without padding: its zeros
        are those of the standardised image, so they stand for another raw value afterwards.

        Raises
        ------
        ValueError
            If the columns of a channel have different scalings.
        """
        theta, first = np.array(theta), self.layers[0]
        shift = self._by_channel((new_x.mean - old_x.mean) * old_x.inverse)
        ratio = self._by_channel(np.where(new_x.inverse != 0, old_x.inverse * new_x.scale, 1.0))
        kernel = theta[first.weight].reshape(first.n_filters, -1, len(shift))
        theta[first.bias] += (kernel @ shift).sum(1)
        theta[first.weight] = (kernel * ratio).ravel()
        rescale_outputs(theta, self.layers[-1], old_y, new_y)
        return theta

    def _by_channel(self, columns: np.ndarray) -> np.ndarray:
        """The values (C,) of the channels from equal ones of all their columns (F,)."""
        values = columns.reshape(self.input_shape[0], -1)
        if not (values == values[:, :1]).all():
            raise ValueError("The columns of a channel must have one scaling: convolutions treat all pixels alike.")
        return values[:, 0]

    def to_module(self, theta: np.ndarray) -> torch.nn.Sequential:
        """Return the function of rows (n, F) for theta (P,) as a ``torch.nn`` module, in float64 on the CPU."""
        n_axes = len(self.input_shape) - 1
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.tensor(np.array(theta), dtype=torch.float64, device="cpu")
            parts: list[torch.nn.Module] = [torch.nn.Unflatten(1, self.input_shape)]
            for index, layer in enumerate(self.layers):
                if index == self.n_convolutions:
                    parts.append(torch.nn.Flatten())
                module = layer.module(n_axes if index < self.n_convolutions else 0)
                weight = flat[layer.weight].view(layer.n_filters, *layer.kernel, layer.shape[2])
                target = module.get_parameter("weight")
                target.copy_(weight.permute(0, 3, 1, 2).reshape(target.shape))
                module.get_parameter("bias").copy_(flat[layer.bias])
                parts += [module, self.activation.module()]
                pooling = self.poolings[index]
                if pooling is not None:
                    parts.append(pooling.module(n_axes))
        return torch.nn.Sequential(*parts[:-1])

    def pieces(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of theta (B, P) by layer: weight (B, O, q) and bias (B, 1, O)."""
        parts = theta.split(self.lengths, 1)
        return [
            (parts[2 * index].view(-1, layer.n_filters, layer.fan_in), parts[2 * index + 1].unsqueeze(1))
            for index, layer in enumerate(self.layers)
        ]

    def _patches(self, X: Tensor, n_models: int, old: Tensor | None) -> Tensor:
        """Patches (B, n, L, q) of the inputs X (F, n) or (B, F, n), one copy for all models if they share X."""
        rows, layer = X.mT, self.layers[0]
        if layer.padding != (0, 0):
            rows = torch.nn.functional.pad(rows, (0, 1))
        if old is not None:
            old = (old[0] if X.ndim == 2 else old).flatten(-2)
        patches = torch.gather(rows, -1, self._pixels.expand(*rows.shape[:-1], -1), out=old)
        return patches.view(-1, rows.shape[-2], layer.n_positions, layer.fan_in).expand(n_models, -1, -1, -1)

    def forward(self, theta: Tensor, X: Tensor, reuse: Forward | None = None, derivatives: bool = True) -> Forward:
        if not derivatives and theta.dtype == torch.float32 and theta.device.type == "cpu":
            return Forward(self._values(theta, X).mT, Saved([], [], [], [], []))
        activation, old = self.activation, reuse.saved if reuse is not None and reuse.saved.first else None
        saved = Saved([], [], [], [], [])
        a = X
        for index, (layer, (weight, bias)) in enumerate(zip(self.layers, self.pieces(theta), strict=True)):
            spare = None if old is None else old.patches[index]
            patches = layer.patches(a, spare) if index else self._patches(X, len(theta), spare)
            if derivatives:
                saved.weights.append(weight)
                saved.patches.append(patches)
            if index == self.last:
                break
            z = _linear(weight, patches, bias, None if old is None else old.kept[index])
            z = z.view(*z.shape[:2], *layer.output_shape)
            a = activation.value(z, torch.empty_like(z) if activation.keeps_input else z)
            pooling = self.poolings[index]
            selected = None if pooling is None else pooling.select(a)
            if derivatives:
                saved.kept.append(z if activation.keeps_input else a)
                saved.first.append(activation.first(z, None if old is None else old.first[index]))
                saved.selected.append(selected)
            if pooling is not None:
                a = pooling.pool(a, selected)
        return Forward(_linear(weight, patches, bias).squeeze(2).mT, saved)

    def _values(self, theta: Tensor, X: Tensor) -> Tensor:
        """Outputs (B, n, K) by torch's convolutions, models as groups of channels.

        Where no derivatives are wanted that takes half the time in single precision; in double, twice as long.
        """
        n_models, n, first = theta.shape[0], X.shape[-1], self.layers[0]
        shape = (first.shape[2], *first.shape[:2])
        shared = X.ndim == 2
        a = X.mT.reshape(n, *shape) if shared else X.mT.transpose(0, 1).reshape(n, n_models * shape[0], *shape[1:])
        for index, (layer, (weight, bias)) in enumerate(zip(self.layers, self.pieces(theta), strict=True)):
            if index < self.n_convolutions:
                kernel = weight.reshape(-1, *layer.kernel, layer.shape[2]).permute(0, 3, 1, 2)
                groups = 1 if shared and index == 0 else n_models
                z = torch.nn.functional.conv2d(a, kernel, bias.flatten(), layer.stride, layer.padding, 1, groups)
            else:
                if index == self.n_convolutions:
                    a = a.view(n, n_models, -1, *a.shape[2:]).permute(1, 0, 3, 4, 2)
                z = torch.baddbmm(bias, a.reshape(n_models, n, layer.fan_in), weight.mT)
            if index == self.last:
                break
            a = self.activation.value(z, torch.empty_like(z) if self.activation.keeps_input else z)
            pooling = self.poolings[index]
            if pooling is not None:
                a = pooling.values(a)
        return z

    def _cotangents(self, saved: Saved, d: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield, from the last layer to the first, its index and the cotangents (B, n, R, L, O) of its output.

        d : (B, n, R, K), cotangents of the network's outputs.
        """
        d = d.unsqueeze(3)
        for index in range(self.last, -1, -1):
            yield index, d
            if index:
                layer, pooling = self.layers[index], self.poolings[index - 1]
                grids = d.reshape(d.shape[0], -1, *layer.output_shape)
                d = layer.back(saved.weights[index], grids).unflatten(1, d.shape[1:3])
                if pooling is not None:
                    d = pooling.back(d, saved.selected[index - 1])
                d = (d * saved.first[index - 1].unsqueeze(2)).flatten(3, 4)

    def pullback(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
        self._write_all(self._parts, theta, X, forward, cotangents, out)

    def pullback_of(self, numbers: np.ndarray, device: torch.device) -> Callable[..., None]:
        """As the base class says; layers that no row is wanted of are left out, and all below the lowest one."""
        return partial(self._write_all, [_part(layer, numbers, device) for layer in self.layers])

    def _write_all(
        self, parts: list[Part], theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor
    ) -> None:
        saved: Saved = forward.saved
        last = cotangents.permute(0, 3, 2, 1).expand(len(theta), -1, -1, -1).contiguous()
        rows, (n_models, n, n_columns, _) = out.permute(0, 3, 2, 1), last.shape
        step = n if out.device.type != "cpu" else max(BLOCK_ROWS // (n_models * n_columns), 1)
        for start in range(0, n, step):
            part = slice(start, start + step)
            self._write_rows(parts, saved if step >= n else saved.samples(part), last[:, part], rows[:, part])

    def _write_rows(self, parts: list[Part], saved: Saved, last: Tensor, rows: Tensor) -> None:
        """Write the Jacobian rows (B, n, R, p) for the cotangents ``last`` (B, n, R, K) of the outputs."""
        for index, d in self._cotangents(saved, last):
            layer, part = self.layers[index], parts[index]
            if part.inside is None:
                torch.sum(d, 3, out=rows[..., part.bias])
                weights = rows[..., part.weight].unflatten(-1, (layer.n_filters, layer.fan_in))
                _products(d, saved.patches[index], weights)
            elif len(part.inside):
                n_weights = layer.n_filters * layer.fan_in
                whole = rows.new_empty(*rows.shape[:-1], n_weights + layer.n_filters)
                torch.sum(d, 3, out=whole[..., n_weights:])
                weights = whole[..., :n_weights].unflatten(-1, (layer.n_filters, layer.fan_in))
                _products(d, saved.patches[index], weights)
                rows[..., part.weight.start : part.bias.stop] = whole.index_select(-1, part.inside)
            if part.weight.start == 0:  # nothing is asked for below
                break

    def parameter_groups(self) -> list[np.ndarray]:
        return [np.arange(layer.weight.start, layer.bias.stop) for layer in self.layers]

    def vjp(self, theta: Tensor, X: Tensor, forward: Forward, cotangent: Tensor) -> Tensor:
        saved: Saved = forward.saved
        last = cotangent.mT.unsqueeze(2).expand(len(theta), -1, -1, -1).contiguous()
        parts: list[Tensor] = []
        for index, d in self._cotangents(saved, last):
            flat = d.flatten(1, 3)
            weight = torch.bmm(flat.mT, saved.patches[index].flatten(1, 2))
            parts += [flat.sum(1), weight.flatten(1)]
        return torch.cat(parts[::-1], dim=1)

    def layer_factors(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor) -> Iterator[LayerFactors]:
        saved: Saved = forward.saved
        last = cotangents.permute(0, 3, 2, 1).expand(len(theta), -1, -1, -1).contiguous()
        for index, d in self._cotangents(saved, last):
            yield LayerFactors(self.layers[index].weight, self.layers[index].bias, saved.patches[index], d)

    def jvp(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """First derivative along a line: ``z' = p V^T + p' W^T + c`` and ``a' = pool(phi' z')``, layer by layer."""
        saved: Saved = forward.saved
        a1: Tensor | None = None
        for index, (layer, (change, shift)) in enumerate(zip(self.layers, self.pieces(direction), strict=True)):
            z1 = _linear(change, saved.patches[index], shift)
            if a1 is not None:
                z1 += _linear(saved.weights[index], layer.patches(a1))
            if index == self.last:
                break
            first, pooling = saved.first[index], self.poolings[index]
            a1 = z1.view(first.shape).mul_(first)
            if pooling is not None:
                a1 = pooling.pool(a1, saved.selected[index])
        return z1.squeeze(2).mT

    def second_directional(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """Second derivative along a line, by carrying first and second derivatives forward through the layers.

        Notes
        -----
        With dots for d/dt of ``theta + t v``: ``z' = p V^T + p' W^T + c``, ``z'' = 2 p' V^T + p'' W^T``,
        ``a' = phi' z'``, ``a'' = phi'' z'^2 + phi' z''``. Patches and pooling are linear, the latter with the
        pixels it has selected.
        """
        saved: Saved = forward.saved
        a1: Tensor | None = None
        a2: Tensor | None = None
        z2: Tensor | None = None
        for index, (layer, (change, shift)) in enumerate(zip(self.layers, self.pieces(direction), strict=True)):
            z1 = _linear(change, saved.patches[index], shift)
            if a1 is not None and a2 is not None:
                p1, weight = layer.patches(a1), saved.weights[index]
                z1 += _linear(weight, p1)
                z2 = _linear(weight, layer.patches(a2)).add_(_linear(change, p1), alpha=2)
            if index == self.last:
                break
            first, selected, pooling = saved.first[index], saved.selected[index], self.poolings[index]
            z1 = z1.view(first.shape)
            a2 = self.activation.second(saved.kept[index], first).mul_(z1).mul_(z1)
            if z2 is not None:
                a2.addcmul_(first, z2.view(first.shape))
            a1 = z1.mul_(first)
            if pooling is not None:
                a1, a2 = pooling.pool(a1, selected), pooling.pool(a2, selected)
        assert z2 is not None  # there is a convolution layer and an output layer
        return z2.squeeze(2).mT


def _part(layer: Convolution, numbers: np.ndarray, device: torch.device) -> Part:
    """What rows of a layer the parameters ``numbers`` (p,), rising, ask for."""
    ends = [layer.weight.start, layer.bias.start, layer.bias.stop]
    start, middle, stop = np.searchsorted(numbers, ends).tolist()
    inside = None
    if stop - start < layer.bias.stop - layer.weight.start:
        inside = torch.from_numpy(numbers[start:stop] - layer.weight.start).to(device)
    return Part(slice(start, middle), slice(middle, stop), inside)


def _linear(weight: Tensor, patches: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """``patches W^T + b`` for weight (B, O, q), patches (B, n, L, q) and bias (B, 1, O): (B, n, L, O)."""
    flat = patches.flatten(1, 2)
    z = patches.new_empty(*flat.shape[:2], weight.shape[1]) if out is None else out.view(*flat.shape[:2], -1)
    if weight.shape[1] <= FEW_FILTERS:
        product = torch.bmm(weight, flat.mT).mT
        z = z.copy_(product) if bias is None else torch.add(product, bias, out=z)
    elif bias is None:
        torch.bmm(flat, weight.mT, out=z)
    else:
        torch.baddbmm(bias, flat, weight.mT, out=z)
    return z.view(*patches.shape[:3], -1)


def _products(d: Tensor, patches: Tensor, out: Tensor) -> None:
    """Write ``d^T p`` of every sample: d (B, n, R, L, O), patches (B, n, L, q), out (B, n, R, O, q).

    Samples multiply small matrices, all in one call; its result must be contiguous, so that the rows are copied.
    """
    n_models, _, n_columns, n_positions, n_filters = d.shape
    if n_positions == 1:
        torch.mul(d.mT, patches.unsqueeze(2), out=out)
    elif patches.stride(0) == 0:  # shared by all models, which count as further columns
        left = d.permute(1, 0, 2, 4, 3).flatten(1, 3)
        out.copy_(torch.bmm(left, patches[0]).unflatten(1, (n_models, n_columns, n_filters)).transpose(0, 1))
    else:
        left = d.mT.flatten(2, 3).flatten(0, 1)
        out.copy_(torch.bmm(left, patches.flatten(0, 1)).view(out.shape))
