"""A penalty by cross-validation: which rows are left out together, and what a fit does with what was found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .optim import Problem, Stopping, cross_validate_alpha, stack_problems
from .optim._isolation import isolated

if TYPE_CHECKING:
    from ._prepared import Prepared

#: ``alpha='auto'``: from so many curvature rows a parameter on, the data alone hold the parameters
ENOUGH_ROWS = 10.0
#: multiplications of one linearisation of all rows: with more than a third of the first, fewer folds are left out;
#: with 'auto' none above the second
FOLDS_WORK, SEARCH_WORK = 5e7, 5e9
N_FOLDS, MOST_HELD_OUT = 5, 3
#: where the rows left out are predicted with no more than this of the variance of y left, there may be no noise at all
NOISELESS = 1e-2


@dataclass(frozen=True)
class Folds:
    """Fold of every row (N,), and how many of them, counted from 0, are left out in turn."""

    of_row: np.ndarray
    n_held_out: int


def make_folds(X: np.ndarray, work: float, seed: int) -> Folds | None:
    """Divide rows X (N, F) into folds at random, equal ones into the same; None if all are equal.

    ``work`` is the number of multiplications of one linearisation: the larger, the fewer folds are left out.
    """
    distinct, which = np.unique(X, axis=0, return_inverse=True)
    if len(distinct) < 2:
        return None
    n_folds = min(N_FOLDS, len(distinct))
    fold = np.random.default_rng([seed, n_folds]).permutation(len(distinct)) % n_folds
    return Folds(fold[which.reshape(-1)], int(np.clip(round(FOLDS_WORK / work), 1, min(MOST_HELD_OUT, n_folds))))


def choose_alphas(fits: list[Prepared], models_at_once: int) -> list[Prepared]:
    """Return the fits with the penalty that cross-validation finds for each, where they have folds for that.

    Parameters
    ----------
    fits : list of Prepared
        Of equal keys.
    models_at_once : int
        How many models fit in memory.

    Raises
    ------
    KeyboardInterrupt
        If the user stops the search.
    """
    first = fits[0]
    if first.folds is None:
        return fits
    device = first.problem.y.device
    stopping: Stopping = first.options["stopping"]
    options = {name: value for name, value in first.options.items() if name not in ("damping", "stopping")}
    with isolated(device):
        one = torch.zeros(1, dtype=torch.int64, device=device)
        problem = stack_problems([fit.problem.models(one) for fit in fits])
        search = cross_validate_alpha(
            problem,
            torch.from_numpy(np.stack([fit.theta[0] for fit in fits])).to(device, problem.y.dtype),
            torch.from_numpy(np.stack([fit.folds.of_row for fit in fits if fit.folds is not None])).to(device),
            first.folds.n_held_out,
            damping=torch.tensor([fit.options["damping"] for fit in fits], dtype=problem.y.dtype, device=device),
            stopping=replace(stopping, max_time=stopping.max_time / 2),  # the rest is for the fit
            models_at_once=models_at_once,
            **options,
        )
        return [
            _penalised(
                fit,
                float(search.alphas[best]),
                float(scores[best]),
                dict(zip(search.alphas.tolist(), scores.tolist(), strict=True)),
            )
            for fit, best, scores in zip(fits, search.best, search.scores, strict=True)
        ]


def target_variance(problem: Problem) -> float:
    """Weighted variance of the targets, summed over outputs."""
    mean = (problem.y * problem.weights).sum(-1, keepdim=True)
    return float(((problem.y - mean).square() * problem.weights).sum())


def _penalised(fit: Prepared, alpha: float, score: float, scores: dict[float, float]) -> Prepared:
    """The fit with a penalty; where there may be no noise, also with all starts once more without one.

    Cross-validation stops long before a fit without noise is at its end, and cannot see how far it would get. Which of
    the starts is kept, their leave-one-out losses decide.
    """
    problem, theta = fit.problem, fit.theta
    alphas = torch.full_like(problem.alpha, alpha)
    growing = fit.growth is not None and bool(fit.growth.sizes(problem))
    unsure = alpha > 0 and fit.predicts_rows and not growing and problem.loss.is_squared
    if unsure and 2 * problem.network.n_outputs * score <= NOISELESS * target_variance(problem):
        n = len(theta)
        problem = problem.models(torch.arange(2 * n, device=alphas.device) % n)
        alphas, theta = torch.cat([alphas, torch.zeros_like(alphas)]), np.concatenate([theta, theta])
    problem = replace(problem, alpha=alphas, penalised=alpha > 0)
    return replace(fit, problem=problem, theta=theta, alpha=alpha, alpha_scores=scores, folds=None)
