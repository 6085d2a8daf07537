"""Where the rows live: in memory, samples last, or in a numpy array read chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Inputs of all samples."""

    n_samples: int

    def chunk(self, start: int, stop: int) -> Tensor:
        """Return inputs (F, n) or (B, F, n) of the rows ``start:stop``."""

    def take(self, index: np.ndarray) -> Rows:
        """Return the rows ``index`` (n,), resident."""

    def models(self, index: Tensor) -> Rows:
        """Keep the inputs of the models ``index`` where every model has its own."""


@dataclass
class TensorRows:
    """Inputs in memory: ``X`` (F, N), shared between models, or (B, F, N).

    ``samples_first`` says that X is a view of (N, F) and that selected rows shall be one, too.
    """

    X: Tensor
    samples_first: bool = False
    n_samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_samples = self.X.shape[-1]

    def chunk(self, start: int, stop: int) -> Tensor:
        return self.X if stop - start == self.n_samples else self.X[..., start:stop]

    def take(self, index: np.ndarray) -> TensorRows:
        rows = torch.from_numpy(index).to(self.X.device)
        if self.samples_first:
            return TensorRows(self.X.mT.index_select(-2, rows).mT, True)
        return TensorRows(self.X.index_select(-1, rows))

    def pick(self, index: Tensor) -> TensorRows:
        """Return the rows ``index`` (B, n), model by model."""
        if self.samples_first:
            return TensorRows(pick(self.X.mT, index, -2).mT, True)
        return TensorRows(pick(self.X, index, -1))

    def models(self, index: Tensor) -> TensorRows:
        return self if self.X.ndim == 2 else TensorRows(self.X[index], self.samples_first)


@dataclass
class StreamedRows:
    """Inputs in a numpy array (N, F), such as a read-only memory map: converted and scaled a chunk at a time.

    array : anything that gives rows (n, F) for ``array[i:j]`` and ``array[index]``
    mean, inverse_scale : (F,) ndarray; a row becomes ``(x - mean) * inverse_scale``.
    samples_first : chunks are views of (n, F).
    rows : (N',) ndarray of int, or None for all; the rows of ``array`` in use.
    """

    array: Any
    mean: np.ndarray
    inverse_scale: np.ndarray
    device: torch.device
    dtype: torch.dtype
    samples_first: bool = False
    rows: np.ndarray | None = None
    n_samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_samples = len(self.array) if self.rows is None else len(self.rows)

    def chunk(self, start: int, stop: int) -> Tensor:
        return self._convert(slice(start, stop) if self.rows is None else self.rows[start:stop])

    def take(self, index: np.ndarray) -> TensorRows:
        return TensorRows(self._convert(index if self.rows is None else self.rows[index]), self.samples_first)

    def models(self, index: Tensor) -> StreamedRows:
        return self

    def _convert(self, rows: slice | np.ndarray) -> Tensor:
        block = np.asarray(self.array[rows], dtype=np.float64)
        block = (block - self.mean) * self.inverse_scale
        if self.samples_first:
            return torch.from_numpy(block).to(self.device, self.dtype).mT
        return samples_last(block, self.device, self.dtype)


def pick(values: Tensor, index: Tensor, axis: int) -> Tensor:
    """Select ``index`` (B, n), model by model, along an axis (-1 or -2) of values with two axes or (B, ., .).

    The result has a first axis of models unless there is one model and the values are shared.
    """
    if len(index) == 1 and values.ndim == 2:
        return values.index_select(axis, index[0])
    values = values.expand(len(index), *values.shape[-2:])
    shape = list(values.shape)
    shape[axis] = index.shape[1]
    return values.gather(axis, index.unsqueeze(1 if axis == -1 else 2).expand(shape))


def samples_last(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy a numeric array (N, F) into a contiguous tensor (F, N)."""
    numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
    return torch.from_numpy(np.array(array.T, dtype=numpy_dtype, order="C", copy=True)).to(device)
