"""A penalty by cross-validation: which rows are left out together, and what a fit does with what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .optim import Stopping, cross_validate_alpha, stack_problems
from .optim._cross_validation import ALPHAS
from .optim._isolation import isolated

if TYPE_CHECKING:
    from ._prepared import Prepared

#: ``alpha='auto'``: from so many curvature rows a parameter on, the data alone hold the parameters
ENOUGH_ROWS = 100.0
#: curvature rows a parameter that a search takes at most
SEARCHED_ROWS = 10.0
#: multiplications of one linearisation of all rows: with more than a third of the first, fewer folds are left out;
#: with 'auto' none above the second
FOLDS_WORK, SEARCH_WORK = 5e7, 5e9
N_FOLDS, MOST_HELD_OUT = 5, 3


@dataclass(frozen=True)
class Folds:
    """What a search for a penalty needs.

    rows : (n,) ndarray of int, those that take part; of_row : (n,) ndarray of int, their folds; n_held_out : how many
    folds, counted from 0, are left out in turn; start : (P,) ndarray, for all; alphas : (A,) ndarray, what is tried on
    these rows
    """

    rows: np.ndarray
    of_row: np.ndarray
    n_held_out: int
    start: np.ndarray
    alphas: np.ndarray


def make_folds(
    X: np.ndarray, start: np.ndarray, most: int, n_columns: int, seed: int, strata: np.ndarray | None = None
) -> Folds | None:
    """Divide rows X (N, F) into folds at random, equal ones into the same; None if all are equal.

    Of more than ``most`` different rows, so many take part. ``n_columns`` is the number of curvature columns of a row:
    the longer a linearisation takes, the fewer folds are left out. With ``strata`` (N,) the folds have equal shares of
    each.
    """
    distinct, which = np.unique(X, axis=0, return_inverse=True)
    if len(distinct) < 2:
        return None
    n_folds = min(N_FOLDS, len(distinct))
    place = np.random.default_rng([seed, n_folds]).permutation(len(distinct))[which.reshape(-1)]
    rows = np.flatnonzero(place < most)
    taken = place[rows]
    if strata is not None:  # the places in the order of their rows' strata
        first = rows[np.unique(taken, return_index=True)[1]]
        taken = np.argsort(np.argsort(strata[first], kind="stable"))[taken]
    work = linearisation(len(rows) * n_columns, len(start))
    n_held_out = int(np.clip(round(FOLDS_WORK / work), 1, min(MOST_HELD_OUT, n_folds)))
    return Folds(rows, taken % n_folds, n_held_out, start, np.array(ALPHAS))


def linearisation(n_rows: float, n_parameters: int) -> float:
    """Multiplications of one linearisation, with Cholesky's or the dual matrix."""
    return n_rows * n_parameters * min(n_rows, n_parameters)


def choose_alphas(fits: list[Prepared], models_at_once: int) -> list[Prepared]:
    """Return the fits with the penalty that cross-validation finds for each, where they have folds for that.

    Where it finds no noise, their further starts join.

    Parameters
    ----------
    fits : list of Prepared
        Of equal keys.
    models_at_once : int
        How many models fit in memory.

    Raises
    ------
    SearchInterrupted
        If the user stops the search.
    """
    first, every = fits[0], [fit.folds for fit in fits if fit.folds is not None]
    if first.folds is None:
        return fits
    device = first.problem.y.device
    stopping: Stopping = first.options["stopping"]
    options = {name: value for name, value in first.options.items() if name not in ("damping", "stopping")}
    with isolated(device):
        one = torch.zeros(1, dtype=torch.int64, device=device)
        parts = [fit.problem.models(one) for fit in fits]
        if len(every[0].rows) < first.problem.n_samples:
            parts = [part.take(folds.rows) for part, folds in zip(parts, every, strict=True)]
        problem = stack_problems(parts)
        search = cross_validate_alpha(
            problem,
            torch.from_numpy(np.stack([folds.start for folds in every])).to(device, problem.y.dtype),
            torch.from_numpy(np.stack([folds.of_row for folds in every])).to(device),
            first.folds.n_held_out,
            damping=torch.tensor([fit.options["damping"] for fit in fits], dtype=problem.y.dtype, device=device),
            alphas=np.stack([folds.alphas for folds in every]),
            stopping=replace(stopping, max_time=stopping.max_time / 2),  # the rest is for the fit
            models_at_once=models_at_once,
            **options,
        )
        # what takes the place of more rows weighs less beside all of them
        share = problem.n_samples / first.problem.n_samples
        result = []
        for fit, best, alphas, scores, noiseless in zip(
            fits, search.best, share * search.alphas, search.scores, search.noiseless, strict=True
        ):
            fit = replace(fit, alpha_scores=dict(zip(alphas.tolist(), scores.tolist(), strict=True)), folds=None)
            fit = replace(fit, **fit.penalised(float(alphas[best])))
            result.append(replace(fit, **fit.joined()) if noiseless else fit)
        return result
