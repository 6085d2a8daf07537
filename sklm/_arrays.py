"""The border between what users pass and numbers: refusing what is not numeric, and standardising."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: factors of columns that are no mistake
LIMITS_OF_RELEVANCE = (1e-6, 1e6)
#: numbers of a block of a column-statistics pass: 2 MiB
_BLOCK = 2**18


#: rows so many times the range of the middle half of a column away from its median are far outside, if they are no more
#: than this share of all; a column whose range is no more than so many deviations has none
FAR, FEW, SUSPECT = 20.0, 0.02, 5.0


def refuse_masked(value: Any, name: str) -> None:
    """Raise ValueError for masked entries of X, y or weights, whose values would count as data."""
    if np.ma.is_masked(value):
        raise ValueError(
            f"{name} has masked entries, whose values would be taken for data. Leave these rows out, for example with "
            f"~np.ma.getmaskarray({name}), or fill them in."
        )


#: what to do about columns that hold no numbers
_WORDS = "Encode or convert them first, for example with OrdinalEncoder, OneHotEncoder or astype(float)."
_DATES = "Convert them first, for example to days since the first one: (dates - dates.min()) / np.timedelta64(1, 'D')."


def refuse_text_and_dates(value: Any, name: str) -> None:
    """Raise TypeError for strings, dates and objects in X or y, which numpy would convert or misread silently.

    Masked entries are refused as well, see :func:`refuse_masked`.

    Parameters
    ----------
    value : array-like, DataFrame or Series
    name : str
        'X' or 'y', for the message.
    """
    refuse_masked(value, name)
    dtypes = getattr(value, "dtypes", None)
    if dtypes is not None and hasattr(value, "columns"):  # a data frame, column by column
        names = list(value.columns)
        twice = sorted({str(column) for column in names if names.count(column) > 1})
        if twice:
            raise ValueError(f"{name} has columns of the same name: {twice}. Rename them, or pass {name}.to_numpy().")
        for number, column in enumerate(names):
            refuse_text_and_dates(value.iloc[:, number], f"column {column!r} of {name}")
        return
    if type(value).__module__.startswith("scipy.sparse"):
        if name == "y":  # scikit-learn says it for the others
            raise TypeError(f"{name} is sparse; pass a dense array, for example {name}.toarray().")
        return
    array = np.asarray(value)
    if array.dtype.kind in "USMmV":
        what = {"M": "dates", "m": "time differences", "V": "structured records"}.get(array.dtype.kind, "strings")
        raise TypeError(f"{name} holds {what}; sklm needs numbers. {_DATES if array.dtype.kind in 'mM' else _WORDS}")
    if array.dtype.kind == "O":
        for item in array.ravel():
            if isinstance(item, str | bytes | datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64):
                hint = _WORDS if isinstance(item, str | bytes) else _DATES
                raise TypeError(f"{name} holds {type(item).__name__} values; sklm needs numbers. {hint}")
            if not isinstance(item, numbers.Number | np.generic | type(None)):
                raise TypeError(
                    f"{name} holds {type(item).__name__} objects; an argument must be numeric, neither string nor "
                    "object: convert it to a number."
                )


def check_relevance(given: Any, n_inputs: int, names: np.ndarray | None) -> np.ndarray:
    """Return factors of columns (F,) as a new float64 array.

    Parameters
    ----------
    given : array-like
        A Series whose index are the names of the columns is put into their order.
    n_inputs : int
    names : (F,) ndarray of str or None
        Names of the columns, if they have some.

    Raises
    ------
    ValueError
        If these are not so many positive numbers of comparable size, or have other names.
    """
    index = given.index if hasattr(given, "reindex") else ()
    if names is not None and any(isinstance(label, str) for label in index):
        if set(index) != set(names) or len(index) != len(names):
            raise ValueError("The index of relevance must have the names of the columns of X, each once.")
        given = given.reindex(names)
    try:
        factors = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"relevance must be 'auto', None or {n_inputs} numbers: {error}.") from error
    if factors.shape != (n_inputs,):
        raise ValueError(f"relevance must have one number for each of {n_inputs} columns; got shape {factors.shape}.")
    least, most = LIMITS_OF_RELEVANCE
    if not ((factors >= least) & (factors <= most)).all():
        raise ValueError(
            f"relevance must be positive, from {least:g} to {most:g}; leave columns out that shall not matter at all."
        )
    return factors


@dataclass(frozen=True)
class RowView:
    """Some rows of an array (N, F) without copying it: ``view[i:j]`` and ``view[index]`` read just those.

    array : (N, F) ndarray or RowView; rows : (n,) ndarray of int
    """

    array: Any
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.array.shape[1]

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self.array[self.rows[index]]


#: median distances from the median that are a standard deviation of normal numbers
NORMAL_DISTANCES = 1.4826
#: ... at least so much of the range of the middle four fifths
LEAST_OF_RANGE = 0.05


@dataclass(frozen=True)
class Scaling:
    """``standardised = (raw - mean) * inverse``, column by column, and back.

    Attributes
    ----------
    mean, scale, inverse : (F,) ndarray
        ``scale`` is the weighted standard deviation. A constant column has scale and inverse 0: it carries no
        information and is left out exactly.
    low, high : (F,) ndarray
        Range of the raw columns.
    """

    mean: np.ndarray
    scale: np.ndarray
    inverse: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def none(cls, n: int) -> Scaling:
        """The scaling that leaves n columns as they are."""
        zero, one = np.zeros(n), np.ones(n)
        return cls(zero, one, one, zero, zero)

    def apply(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Standardise (N, F), into ``out`` (float64) if given."""
        result = np.subtract(array, self.mean, out=out)
        return np.multiply(result, self.inverse, out=result)

    def completed(self, whole: Scaling) -> Scaling:
        """The same, where it leaves a column out as that of the ``whole`` array."""
        out = self.scale == 0
        parts = ("mean", "scale", "inverse", "low", "high")
        return Scaling(*(np.where(out, getattr(whole, name), getattr(self, name)) for name in parts))

    def by_middle(self, array: np.ndarray, weights: np.ndarray) -> Scaling:
        """The same by medians of (N, F) and of the distances from these, where half of a column is not the same.

        Of normal numbers, 1.4826 such distances are a standard deviation (Huber, Robust Statistics, 1981, section 5.1).
        """
        mean, scale = self.mean.copy(), self.scale.copy()
        for column, values in enumerate(array.T):
            middle = _median(values, weights)
            distance = NORMAL_DISTANCES * _median(np.abs(values - middle), weights)
            most = np.ptp(np.quantile(values, [0.1, 0.9], method="nearest"))  # half of a column may be nearly the same
            distance = max(distance, LEAST_OF_RANGE * most)
            if scale[column] > 0 and distance >= np.finfo(float).tiny:
                mean[column], scale[column] = middle, distance
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        return replace(self, mean=mean, scale=scale, inverse=inverse)

    def times(self, factors: np.ndarray | None) -> Scaling:
        """The scaling whose standardised columns are multiplied by positive factors (F,), or by none."""
        if factors is None:
            return self
        return replace(self, scale=self.scale / factors, inverse=self.inverse * factors)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """Median of values (N,) by weights (N,)."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])


def flatten_images(X: Any, architecture: Any) -> Any:
    """Return images (N, C, H, W) or (N, C, L) as rows (N, F), if that is what the architecture takes.

    The axis of a single channel may be left out.

    Raises
    ------
    ValueError
        If the images have another shape than the architecture's ``input_shape``.
    """
    shape = getattr(architecture, "input_shape", None)
    if shape is None:
        return X
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) <= 2:
        return X
    if tuple(X.shape[1:]) != tuple(shape) and (1, *X.shape[1:]) != tuple(shape):
        raise ValueError(
            f"X holds images of shape {tuple(X.shape[1:])}; the architecture's input_shape is {tuple(shape)}."
        )
    return np.asarray(X).reshape(len(X), -1)


def no_scaling(array: np.ndarray | RowView) -> Scaling:
    """Leave the columns of (N, F) as they are."""
    low, high = _range(array)
    return replace(Scaling.none(array.shape[1]), low=low, high=high)


def mean_scaling(array: np.ndarray, weights: np.ndarray) -> Scaling:
    """Division of positive columns (N, K) by their weighted mean, for log links."""
    share = weights / weights.max()
    scale = (share / share.sum()) @ array
    return Scaling(np.zeros(array.shape[1]), scale, 1 / scale, *_range(array))


def output_scaling(target_scaling: str | None, y: Scaling) -> Scaling:
    """From the network's outputs to the linear predictor of raw targets, given the scaling of the targets.

    For a log link (``target_scaling='mean'``) a factor of the targets is a shift of the outputs.
    """
    if target_scaling != "mean":
        return y
    one = np.ones_like(y.scale)
    return Scaling(np.log(y.scale), one, one, y.low, y.high)


def far_outside(X: np.ndarray, weights: np.ndarray, scaling: Scaling | None = None) -> np.ndarray:
    """Mask (N,) of the few rows of X (N, F) that are far from all others in a column, such as broken readings.

    That is more than ``FAR`` times the range of the middle half of a column from its median. Where these are more than
    the share ``FEW`` of all rows, the column has long tails, and none is; nor in a column whose middle half is a point.
    Rows count by their weights (N,). ``scaling`` is the ``standard_scaling`` of the same rows, if it is known.
    """
    far, share = np.zeros(len(X), dtype=bool), weights / weights.max()
    x = scaling or standard_scaling(X, weights)
    # where few are far, the deviation is theirs
    suspects = (x.scale > 0) & (x.high / 2 - x.low / 2 > SUSPECT / 2 * x.scale)
    for number in np.flatnonzero(suspects):
        column = X[:, number] / max(-x.low[number], x.high[number])
        order = np.argsort(column)
        total = np.cumsum(share[order])
        low, median, high = column[order[np.searchsorted(total, total[-1] * np.array([0.25, 0.5, 0.75]))]]
        if high > low:
            far |= np.abs(column - median) > FAR * (high - low)
    return far if share[far].sum() <= FEW * share.sum() else np.zeros_like(far)


def standard_scaling(
    array: np.ndarray | RowView, weights: np.ndarray, *, groups: np.ndarray | None = None, keep_constant: bool = False
) -> Scaling:
    """Weighted mean and standard deviation of the columns, without overflow, underflow or a copy of the array.

    Parameters
    ----------
    array : (N, F) ndarray, possibly a memory map
    weights : (N,) ndarray, positive
    groups : (F,) ndarray of int, optional
        Columns of the same group are scaled alike, by the mean and deviation of all their values.
    keep_constant : bool
        Give constant columns unit scale instead of leaving them out, for data that comes in pieces.

    Notes
    -----
    Two passes, the second on centred values divided by the largest of them, so that neither an offset of 1e8 nor
    values of 1e-200 lose digits. A column whose range is a few units of rounding is constant, and so is one whose
    deviation has no finite reciprocal.
    """
    low, high = _range(array)
    constant = high / 2 - low / 2 <= 4 * np.finfo(float).eps * np.maximum(np.abs(low), np.abs(high))
    share = weights / weights.max()
    share = share / share.sum()
    middle = low / 2 + high / 2
    mean = middle + _block_sum(array, share, middle)
    reach = np.maximum(high - mean, mean - low)
    reach[constant] = 1.0
    scale = reach * np.sqrt(_block_sum(array, share, mean, reach))
    mean[constant] = middle[constant]
    scale[constant | (scale < np.finfo(float).tiny)] = 0.0
    if groups is not None:
        mean, scale = _pooled(mean, scale, groups)
        for group in np.unique(groups):
            member = groups == group
            least, most = low[member].min(), high[member].max()
            if most / 2 - least / 2 <= 4 * np.finfo(float).eps * max(abs(least), abs(most)):
                mean[member], scale[member] = least / 2 + most / 2, 0.0
        constant = scale == 0
    scale[constant] = 1.0 if keep_constant else 0.0
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return Scaling(mean, scale, inverse, low, high)


def _pooled(mean: np.ndarray, scale: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (F,) of all values of the columns of a group."""
    pooled_mean, pooled_scale = np.empty_like(mean), np.empty_like(scale)
    for group in np.unique(groups):
        member = groups == group
        middle = mean[member].mean()
        deviations = np.concatenate([scale[member], mean[member] - middle])
        largest = np.abs(deviations).max()
        share = deviations / largest if largest > 0 else deviations
        pooled_mean[member] = middle
        pooled_scale[member] = largest * np.sqrt((share**2).sum() / member.sum())
    return pooled_mean, pooled_scale


def _range(array: np.ndarray | RowView) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of every column, float64."""
    lows, highs = [], []
    for rows in cached_blocks(array):
        block = array[rows]
        lows.append(block.min(axis=0))
        highs.append(block.max(axis=0))
    return np.min(lows, axis=0).astype(np.float64), np.max(highs, axis=0).astype(np.float64)


def _block_sum(
    array: np.ndarray | RowView, share: np.ndarray, centre: np.ndarray, reach: np.ndarray | None = None
) -> np.ndarray:
    """Weighted sum (F,) over rows of ``array - centre``, or of ``((array - centre) / reach) ** 2``."""
    total = np.zeros(array.shape[1])
    for rows, block in float_blocks(array):
        np.subtract(block, centre, out=block)
        if reach is not None:
            np.divide(block, reach, out=block)
            np.square(block, out=block)
        total += share[rows] @ block
    return total


def float_blocks(array: np.ndarray | RowView) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive rows as float64 copies that may be written to, all in one block of memory that is used again.

    New memory for every block would take longer than the arithmetic (pages are cleared when they are first written).
    """
    memory: np.ndarray | None = None
    for rows in cached_blocks(array):
        block = array[rows]
        if memory is None:
            memory = np.empty(block.shape)
        memory[: len(block)] = block
        yield rows, memory[: len(block)]


def sorted_rows(array: np.ndarray | RowView) -> np.ndarray:
    """Order (N,) of the rows by their values in the first column, of equal ones in the second, and so on.

    As ``numpy.lexsort(array.T[::-1])``, without looking at more columns than tell the rows apart.
    """
    place = np.zeros(len(array), dtype=np.int64)
    order = np.arange(len(array))
    for column in range(array.shape[1]):
        values = np.concatenate([array[rows][:, column] for rows in cached_blocks(array)])
        order = np.lexsort((values, place))
        values, before = values[order], place[order]
        differs = (values[1:] != values[:-1]) | (before[1:] != before[:-1])
        place[order[1:]] = np.cumsum(differs)
        place[order[0]] = 0
        if differs.all():
            break
    return order


def cached_blocks(array: np.ndarray | RowView) -> Iterator[slice]:
    """Consecutive rows, as many at once as stay in the processor's cache."""
    rows = max(_BLOCK // max(array.shape[1], 1), 1)
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)
