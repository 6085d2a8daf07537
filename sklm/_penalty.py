"""A penalty by cross-validation: which rows are left out together, and how much work a search may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .optim import MiniBatches
from .optim._cross_validation import ALPHAS
from .optim._relevance import FACTORS

#: ``alpha='auto'``: from so many curvature rows a parameter on, the data alone hold the parameters
ENOUGH_ROWS = 100.0
#: curvature rows a parameter that a search takes at most, and at least where a linearisation of these takes more
#: multiplications than the last number
SEARCHED_ROWS, LEAST_SEARCHED_ROWS, LONG_SEARCH_WORK = 10.0, 2.5, 1e8
#: multiplications of one linearisation of all rows: with more than a third of the first, fewer folds are left out;
#: with 'auto' none above the second
FOLDS_WORK, SEARCH_WORK = 5e7, 2e9
#: ... and 'auto' units are so few that it takes no more than this
QUICK_SEARCH_WORK = 1e9
N_FOLDS, MOST_HELD_OUT = 5, 3
#: ... of up to so many different rows with numbers as targets, where a fold of a fifth takes away too much, so many
FEW_ROWS, FOLDS_OF_FEW_ROWS = 50, 10
#: with fewer columns nobody need find out which ones matter
LEAST_COLUMNS = 3
#: of classes so many folds are left out: the first number over the multiplications of one linearisation, at least the
#: second and at most all; with 'auto' there is no such search where these are more than the last number
CLASSES_WORK, LEAST_HELD_OUT, MOST_CLASSES_WORK = 5e8, 2, 4e8
#: of longer fits of classes one fold is left out, but not where a linearisation takes more multiplications than this
MOST_CLIMBING_WORK = 2e10
#: rows of classes that are fitted in mini-batches, of which a fifth is left out: at most so many for each parameter, or
#: the second number if that is more; with more rows than the last number for each parameter there is no search
BATCHED_ROWS, LEAST_BATCHED_ROWS, ENOUGH_BATCHED_ROWS = 1.0, 5000, 20.0
#: ... in mini-batches of so many rows at most: what is best there is so with larger ones, too, which take longer
SEARCHED_BATCH = 500
#: rows in one cell of this share of the range of every column are almost equal; they are many where there are fewer
#: cells than this share of the rows. Of a column whose range is more than so many times that of its middle half, which
#: few rows stretch, so many times that count
TWINS, OWN_CELLS, STRETCHED = 3e-4, 0.8, 5.0
#: a column holds the values that another one had a row before where what is left of its variance is below this; looked
#: at are so many rows, and columns with as many different values as this share of them, where there are no more columns
LAG_ERROR, LAG_ROWS, LAG_VALUES, LAG_COLUMNS = 1e-8, 1000, 0.25, 500


@dataclass(frozen=True)
class Folds:
    """What a search for a penalty needs.

    rows : (n,) ndarray of int, those that take part; of_row : (n,) ndarray of int, their folds, -1 for rows that are
    never left out, as they are far outside; n_held_out : how many
    folds, counted from 0, are left out in turn; start : (P,) ndarray, for all; alphas : (A,) ndarray, what is tried on
    these rows; repeats : bool, some rows are equal, or many almost; twins : bool, many different ones are almost equal;
    weighs : bool, inputs may be weighed by how much they matter; factors : tuple of float, what is tried then, times
    the penalty; least_alpha : float, and no less; climbs : bool, ``alphas`` has one penalty to begin with, see
    ``climbed``; batches : MiniBatches or None, then, of the rows that fold 0 leaves; smaller : tuple of float, times
    the last of ``alphas``, what is tried where that one is the best
    """

    rows: np.ndarray
    of_row: np.ndarray
    n_held_out: int
    start: np.ndarray
    alphas: np.ndarray
    repeats: bool
    twins: bool = False
    weighs: bool = False
    factors: tuple[float, ...] = FACTORS
    least_alpha: float = 0.0
    climbs: bool = False
    batches: MiniBatches | None = None
    smaller: tuple[float, ...] = ()

    def judge(self, loss: Any) -> np.ndarray:
        """What penalties, and activations, of classes are compared by."""
        return with_one_error(loss, int(((self.of_row >= 0) & (self.of_row < self.n_held_out)).sum()))


def make_folds(
    X: np.ndarray,
    start: np.ndarray,
    most: int,
    n_columns: int,
    seed: int,
    strata: np.ndarray | None = None,
    far: np.ndarray | None = None,
    in_order: bool = False,
) -> Folds | None:
    """Divide rows X (N, F) into folds at random, equal ones into the same; None if all are equal.

    Of more than ``most`` different rows, so many take part. ``n_columns`` is the number of curvature columns of a row:
    the longer a linearisation takes, the fewer folds are left out. With ``strata`` (N,) the folds have equal shares of
    each. Rows that are ``far`` (N,) outside are never left out: nobody can tell what is there, and one of them may
    outweigh all others. Folds of rows that are ``in_order`` are one after the other, and what a single row that is left
    out says is not asked: its neighbours know it.
    """
    if far is not None and far.any():
        others = np.flatnonzero(~far)
        some = None if strata is None else strata[others]
        folds = make_folds(X[others], start, most, n_columns, seed, some, None, in_order)
        return folds and _joined(folds, others, np.flatnonzero(far), seed)
    distinct, which = np.unique(X, axis=0, return_inverse=True)
    if len(distinct) < 2:
        return None
    few = strata is None and len(distinct) <= FEW_ROWS
    n_folds = min(FOLDS_OF_FEW_ROWS if few else N_FOLDS, len(distinct))
    place = np.random.default_rng([seed, n_folds]).permutation(len(distinct))[which.reshape(-1)]
    rows = np.flatnonzero(place < most)
    taken = place[rows]
    if strata is not None:  # the places in the order of their rows' strata
        first = rows[np.unique(taken, return_index=True)[1]]
        taken = np.argsort(np.argsort(strata[first], kind="stable"))[taken]
    work = linearisation(len(rows) * n_columns, len(start))
    n_held_out = int(np.clip(round(FOLDS_WORK / work), 1, n_folds if few else min(MOST_HELD_OUT, n_folds)))
    twins = has_twins(distinct)
    repeats = twins or in_order or len(distinct) < len(X)
    of_row = np.arange(len(rows)) * n_folds // len(rows) if in_order else taken % n_folds
    return Folds(rows, of_row, n_held_out, start, np.array(ALPHAS), repeats, twins)


def _joined(folds: Folds, others: np.ndarray, far: np.ndarray, seed: int) -> Folds:
    """Folds of the rows ``others`` with as large a share of the rows ``far``, which are in none."""
    number = int(np.ceil(len(far) * len(folds.rows) / len(others)))
    some = np.random.default_rng([seed, number]).permutation(far)[:number]
    rows, of_row = np.r_[others[folds.rows], some], np.r_[folds.of_row, np.full(number, -1)]
    order = np.argsort(rows)
    return replace(folds, rows=rows[order], of_row=of_row[order])


def for_classes(folds: Folds | None, n_columns: int) -> Folds | None:
    """Folds of classes, of which more are left out: one confident error may outweigh a fold."""
    if folds is None:
        return None
    work = linearisation(len(folds.rows) * n_columns, len(folds.start))
    number = max(round(CLASSES_WORK / work), LEAST_HELD_OUT)
    return replace(folds, n_held_out=min(number, int(folds.of_row.max()) + 1))


def can_climb(n_samples: int, rows: float, n_parameters: int, batches: MiniBatches | None) -> bool:
    """Whether one fold may be left out where all are too many; ``rows`` counts columns of curvature."""
    if batches is None:
        return linearisation(rows, n_parameters) <= MOST_CLIMBING_WORK
    return n_samples <= ENOUGH_BATCHED_ROWS * n_parameters


def for_climbing(
    X: np.ndarray,
    start: np.ndarray,
    batches: MiniBatches | None,
    least: int,
    seed: int,
    strata: np.ndarray | None = None,
    far: np.ndarray | None = None,
) -> Folds | None:
    """Divide rows X (N, F) as :func:`make_folds` does, to leave one fold out; the rest may be fitted in mini-batches.

    Of more rows than are worth while in mini-batches, so many take part. The mini-batches of the rest are at least
    ``least``, and mostly smaller than ``batches`` of all rows.
    """
    n_samples, n_parameters, rows = len(X), len(start), np.arange(len(X))
    most = int(max(BATCHED_ROWS * n_parameters, LEAST_BATCHED_ROWS))
    if batches is not None and most < n_samples:
        rows = np.sort(np.random.default_rng(seed).choice(n_samples, most, replace=False))
    strata, far = (None if given is None else given[rows] for given in (strata, far))
    folds = make_folds(X[rows], start, len(rows), 1, seed, strata, far)
    if folds is None:
        return None
    if batches is not None:
        n_seen = int((folds.of_row != 0).sum())
        size = min(batches.largest, -(-n_seen // least))
        if batches.largest < n_parameters:  # else there may be no memory, as there are rows enough in each
            size = min(size, SEARCHED_BATCH)
        memory = None if batches.memory is None else max(min(batches.memory * size // batches.largest, n_seen), 1)
        batches = MiniBatches(n_seen, size, seed, memory)
    return replace(folds, rows=rows[folds.rows], n_held_out=1, climbs=True, batches=batches)


def has_twins(X: np.ndarray) -> bool:
    """Whether many of the different rows X are so near to others that they say what these are."""
    low, spread = X.min(axis=0), np.ptp(X, axis=0)
    middle = STRETCHED * np.subtract(*np.quantile(X, [0.75, 0.25], axis=0))
    spread = np.where(middle > 0, np.minimum(spread, middle), spread)
    cells = np.floor((X - low) / (TWINS * np.where(spread > 0, spread, 1.0)))
    return len(np.unique(cells, axis=0)) < OWN_CELLS * len(X)


def has_lags(X: np.ndarray, y: np.ndarray) -> bool:
    """Whether columns of X (N, F) and y (N, K) are one series at several times, as rows that follow each other show.

    What one of them is, another one was a row before, up to its unit, and the two are not the same.
    """
    if X.shape[1] + y.shape[1] > LAG_COLUMNS:
        return False
    values = np.column_stack([y[:LAG_ROWS], X[:LAG_ROWS]]).astype(float)
    values = values[:, [len(np.unique(column)) > LAG_VALUES * len(values) for column in values.T]]
    if len(values) < 3 or values.shape[1] < 2:
        return False

    def left(now: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Shares of the variance of columns (F,) that are left by a line through those of ``other`` (F,)."""
        now, other = now - now.mean(axis=0), other - other.mean(axis=0)
        now, other = (part / np.maximum(np.linalg.norm(part, axis=0), np.finfo(float).tiny) for part in (now, other))
        return 1 - np.square(now.T @ other)

    shifted, same = left(values[1:], values[:-1]) < LAG_ERROR, left(values, values) < LAG_ERROR
    return bool((shifted & ~same).any())


def with_one_error(loss: Any, n_rows: int) -> np.ndarray:
    """Mean log-loss of ``n_rows`` rows and of one more that is as surely wrong as these are right.

    Where all rows are right, any certainty lowers their loss, which says nothing about the next one: this is least for
    a loss of ``1 / n_rows``. Infinite losses stay so.
    """
    known = np.isfinite(loss)
    value = np.where(known, loss, 1.0)
    return np.where(known, value - np.log(np.maximum(value, np.finfo(float).tiny)) / n_rows, np.inf)


def linearisation(n_rows: float, n_parameters: int) -> float:
    """Multiplications of one linearisation, with Cholesky's or the dual matrix."""
    return n_rows * n_parameters * min(n_rows, n_parameters)


def can_search(rows: float, n_parameters: int) -> bool:
    """Whether the search for a penalty is affordable with so many curvature rows."""
    return search_work(rows, n_parameters) <= SEARCH_WORK


def can_search_quickly(rows: float, n_parameters: int) -> bool:
    """The same for 'auto' units."""
    return search_work(rows, n_parameters) <= QUICK_SEARCH_WORK


def can_search_classes(rows: float, n_parameters: int) -> bool:
    """The same of classes, whose units may be 'auto' or not."""
    return search_work(rows, n_parameters) <= MOST_CLASSES_WORK


def search_work(rows: float, n_parameters: int) -> float:
    """Multiplications of one linearisation of the rows that take part in a search."""
    return linearisation(min(rows, searched_rows(n_parameters)), n_parameters)


def searched_rows(n_parameters: int) -> float:
    """Curvature rows that a search takes at most."""
    least, most = LEAST_SEARCHED_ROWS * n_parameters, SEARCHED_ROWS * n_parameters
    return min(max(LONG_SEARCH_WORK / n_parameters**2, least), most)
