"""The kernel ``J M^-1 J^T`` of the rows of a network, part by part and without J.

The rows of a network are the sum of *parts*, one a layer, each with its own parameters. Two kinds: :class:`LayerPart`
holds the factors of the rows of a layer, its inputs and cotangents; :class:`RowsPart` holds rows as they are. Rows are
numbered by sample and then by curvature column, N R in all; kernels are lower triangles, what is above the diagonal
means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..architectures._base import LayerFactors
from ._linear import add_lower

#: bytes of what is put together from factors at a time, on a CPU and elsewhere (docs/performance.md)
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 16 * 2**20, 256 * 2**20
#: kernels of at least this size are made from factors in so many parts, of which each is a lower trapezium
SPLIT_SIZE, SPLIT_SPANS = 400, 4


@dataclass
class RowsPart:
    """Rows (B, N R, p) of the parameters ``place``.

    ``penalised`` says whether the penalty acts on all of them or on none; None where that differs.
    """

    place: slice
    rows: Tensor
    penalised: bool | None = None

    def back(self, u: Tensor, out: Tensor) -> None:
        """Write ``J^T u`` into its places of ``out`` (B, P) for u (B, N R)."""
        out[:, self.place] = torch.bmm(self.rows.mT, u.unsqueeze(2)).squeeze(2)

    def across(self, vector: Tensor) -> Tensor:
        """``J vector`` (B, N R) for a vector (B, P)."""
        return torch.bmm(self.rows, vector[:, self.place].unsqueeze(2)).squeeze(2)

    def add_diagonal(self, out: Tensor) -> None:
        """Write the diagonal of ``J^T J`` into its places of ``out`` (B, P)."""
        torch.sum(self.rows.square(), 1, out=out[:, self.place])

    def add_plain(self, coefficients: Tensor, intercepts: Tensor) -> None:
        """Add ``J J^T`` to the kernel of penalised or of free parameters, which may be one and the same."""
        assert self.penalised is not None or coefficients is intercepts
        add_lower(coefficients if self.penalised else intercepts, self.rows, self.rows.mT)

    def add_weighted(self, inverse: Tensor, kernel: Tensor) -> None:
        """Add ``J diag(inverse) J^T`` to the kernel (B, N R, N R) for ``inverse`` (B, P)."""
        add_lower(kernel, self.rows * inverse[:, None, self.place], self.rows.mT)


@dataclass
class LayerPart:
    """Inputs p (B, N, L, q) and cotangents d (B, N, R, L, O) of a layer; see :class:`LayerFactors`."""

    weight: slice
    bias: slice
    inputs: Tensor
    cotangents: Tensor

    @property
    def penalised(self) -> bool:
        return True

    def back(self, u: Tensor, out: Tensor) -> None:
        """Write ``J^T u`` into its places of ``out`` (B, P) for u (B, N R): one product of matrices."""
        d = self.cotangents
        combined = (d * u.view(*d.shape[:3], 1, 1)).sum(2).flatten(1, 2)
        out[:, self.weight] = torch.bmm(combined.mT, self.inputs.flatten(1, 2)).flatten(1)
        out[:, self.bias] = combined.sum(1)

    def across(self, vector: Tensor) -> Tensor:
        """``J vector`` (B, N R) for a vector (B, P)."""
        p, d = self.inputs, self.cotangents
        weight = vector[:, self.weight].unflatten(1, (d.shape[-1], p.shape[-1]))
        change = torch.baddbmm(vector[:, self.bias].unsqueeze(1), p.flatten(1, 2), weight.mT)
        return (d * change.view(*p.shape[:3], -1).unsqueeze(2)).sum((3, 4)).flatten(1)

    def add_diagonal(self, out: Tensor) -> None:
        """Write the diagonal of ``J^T J`` into its places of ``out`` (B, P): for one position ``(d^2)^T p^2``."""
        p, d = self.inputs, self.cotangents
        torch.sum(d.sum(3).square_(), (1, 2), out=out[:, self.bias])
        if p.shape[2] == 1:
            squares = d.square().sum(2).squeeze(2)
            out[:, self.weight] = torch.bmm(squares.mT, p.squeeze(2).square()).flatten(1)
            return
        for place, rows in self._blocks():
            torch.sum(rows.square_(), 1, out=out[:, place])

    def add_plain(self, coefficients: Tensor, intercepts: Tensor) -> None:
        """Add ``J J^T`` to the kernels (B, N R, N R) of weights and biases, which may be one and the same.

        Notes
        -----
        With one position, the kernel of the weights is ``(p p^T) * (d d^T)`` and that of the biases ``d d^T``; with
        several, these are summed over pairs of positions (Dangel, Kunstner & Hennig, arXiv:1912.10985, for the
        factors; Novak, Sohl-Dickstein & Schoenholz, arXiv:2206.08720, for the kernel). Where there are
        so many pairs that this is longer than multiplying the rows, a few filters at a time, the rows are multiplied.
        """
        if not self._pairs_are_quicker():
            for _, rows in self._blocks():
                add_lower(coefficients, rows, rows.mT)
            biases = self.cotangents.sum(3).flatten(1, 2)
            add_lower(intercepts, biases, biases.mT)
            return
        (n_models, n, n_columns, n_positions, _), together = self.cotangents.shape, coefficients is intercepts
        p, d = self.inputs, self.cotangents
        shape = (n_models, n, n_columns, n, n_columns)
        for start, stop in self._spans():
            part, seen = slice(start, stop), slice(stop)
            gram = torch.bmm(d[:, part].flatten(1, 3), d[:, seen].flatten(1, 3).mT)
            gram = gram.view(n_models, stop - start, n_columns, n_positions, stop, n_columns, n_positions)
            inner = torch.bmm(p[:, part].flatten(1, 2), p[:, seen].flatten(1, 2).mT)
            inner = inner.view(n_models, stop - start, 1, n_positions, stop, 1, n_positions)
            if together:
                inner += 1
            else:
                intercepts.view(shape)[:, part, :, seen] += _summed(gram)
            coefficients.view(shape)[:, part, :, seen] += _summed(gram.mul_(inner))

    def add_weighted(self, inverse: Tensor, kernel: Tensor) -> None:
        """Add ``J diag(inverse) J^T`` to the kernel (B, N R, N R) for ``inverse`` (B, P), a few filters at a time."""
        for place, rows in self._blocks():
            add_lower(kernel, rows * inverse[:, None, place], rows.mT)
        biases = self.cotangents.sum(3).flatten(1, 2)
        add_lower(kernel, biases * inverse[:, None, self.bias], biases.mT)

    def as_rows(self) -> list[RowsPart]:
        """Its rows multiplied out: weights and biases."""
        weights = _multiplied(self.inputs, self.cotangents)
        return [RowsPart(self.weight, weights, True), RowsPart(self.bias, self.cotangents.sum(3).flatten(1, 2), False)]

    def rows_are_smaller(self) -> bool:
        """Whether the rows of the weights take less memory than the factors, as with few filters on many patches."""
        _, _, n_columns, n_positions, n_filters = self.cotangents.shape
        fan_in = self.inputs.shape[-1]
        return n_columns * n_filters * fan_in < n_positions * (fan_in + n_columns * n_filters)

    def _pairs_are_quicker(self) -> bool:
        """Whether the kernel takes fewer multiplications by pairs of positions than by rows."""
        _, _, n_columns, n_positions, n_filters = self.cotangents.shape
        fan_in = self.inputs.shape[-1]
        pairs = n_positions**2 * (n_filters + fan_in / n_columns**2 + 4)  # 4: what is not a matrix product
        return n_positions == 1 or pairs < n_filters * fan_in

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Samples whose grams are formed at once."""
        n_models, n, n_columns, n_positions, _ = self.cotangents.shape
        each = n_models * n * (n_columns * n_positions) ** 2 * self.cotangents.element_size()
        step = min(max(_block_bytes(self.cotangents) // each, 1), n)
        if n * n_columns >= SPLIT_SIZE:
            step = min(step, -(-n // SPLIT_SPANS))
        for start in range(0, n, step):
            yield start, min(start + step, n)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows (B, N R, p) of the weights of a few filters and their place in the parameter vector."""
        n_models, n, n_columns, _, n_filters = self.cotangents.shape
        fan_in = self.inputs.shape[-1]
        each = n_models * n * n_columns * fan_in * self.inputs.element_size()
        step = max(_block_bytes(self.inputs) // each, 1)
        for start in range(0, n_filters, step):
            d = self.cotangents[..., start : start + step]
            first = self.weight.start + start * fan_in
            yield slice(first, first + d.shape[-1] * fan_in), _multiplied(self.inputs, d)


Part = RowsPart | LayerPart


def gather(chunks: list[list[LayerFactors]]) -> list[Part]:
    """Join the layers of consecutive samples, one list a chunk, into parts; ``chunks`` is emptied on the way."""
    parts: list[Part] = []
    while chunks[0]:
        layers = [chunk.pop() for chunk in chunks]
        p, d = (
            pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
            for pieces in ([la.inputs for la in layers], [la.cotangents for la in layers])
        )
        # several columns are rows of a matrix below
        parts.append(LayerPart(layers[0].weight, layers[0].bias, p, d if d.shape[2] == 1 else d.contiguous()))
    return parts


def _multiplied(inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Rows (B, N R, O q) of the weights of a layer, or of some of its filters."""
    n_models, n, n_columns, n_positions, n_filters = cotangents.shape
    if n_positions == 1:
        rows = cotangents.squeeze(3).unsqueeze(-1) * inputs.unsqueeze(2)
    else:
        left = cotangents.mT.flatten(2, 3).flatten(0, 1)
        rows = torch.bmm(left, inputs.flatten(0, 1))
    return rows.view(n_models, n * n_columns, n_filters * inputs.shape[-1])


def _summed(gram: Tensor) -> Tensor:
    """Sum (B, s, R, L, t, R, L) over both positions."""
    return gram.sum((3, 6)) if gram.shape[3] > 1 else gram.squeeze((3, 6))


def _block_bytes(like: Tensor) -> int:
    return CPU_BLOCK_BYTES if like.device.type == "cpu" else GPU_BLOCK_BYTES
