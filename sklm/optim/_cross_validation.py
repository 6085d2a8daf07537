"""The penalty by cross-validation: every alpha on every fold, as models of one batch that race each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._minimize import levenberg_marquardt
from ._problem import Problem
from ._state import Solution
from ._status import Status
from ._stopping import Stopping

#: penalties that are tried, from much to none: of standardised targets, these span smoothing to interpolation
ALPHAS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 0.0)
#: a race has at most so many stages of so many iterations
STAGES, STAGE_ITERATIONS = 5, 20
#: what is this much worse than the best on the rows left out is given up; what loses less than this share of its loss
#: in a stage does not improve any more
BEHIND, IMPROVING = 1.5, 0.9


@dataclass(frozen=True)
class AlphaSearch:
    """Outcome of :func:`cross_validate_alpha` for M fits.

    Attributes
    ----------
    alphas : (A,) ndarray
        What was tried, in decreasing order.
    scores : (M, A) ndarray
        Mean loss on the rows left out, when the race was over for this penalty.
    best : (M,) ndarray of int
        Number of the chosen alpha.
    """

    alphas: np.ndarray
    scores: np.ndarray
    best: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """The alphas (M,)."""
        return self.alphas[self.best]


def cross_validate_alpha(
    problem: Problem,
    theta: Tensor,
    folds: Tensor,
    n_held_out: int,
    *,
    alphas: Any = ALPHAS,
    models_at_once: int | None = None,
    stopping: Stopping | None = None,
    damping: float | Tensor = 1e-2,
    **options: Any,
) -> AlphaSearch:
    """Choose the penalty of each of M fits by the loss on rows left out.

    Parameters
    ----------
    problem : Problem
        Of M models; their own penalties do not count.
    theta : (M, P) tensor
        One starting point a fit, for all its penalties and folds.
    folds : (1, N) or (M, N) tensor of int
        Number of the fold of every row. None may be empty.
    n_held_out : int
        Folds 0 to ``n_held_out - 1`` are left out in turn.
    alphas : sequence of float, decreasing
    models_at_once : int, optional
        How many models fit in memory.
    stopping : Stopping, optional
        For its limits: the search ends with what is known then. Its ``tol`` does not count.
    damping, options
        As in :func:`levenberg_marquardt`.

    Returns
    -------
    AlphaSearch

    Raises
    ------
    KeyboardInterrupt
        If the user stops the search.

    Notes
    -----
    All candidates go through stages of a few iterations (racing: Maron & Moore 1997, Artificial Intelligence Review 11,
    pp. 193-225). After each, the loss of every row left out is averaged over the folds, by weight, and candidates
    well above the best one are given up. Least loss wins; but where smaller penalties are close behind when the race
    ends, and still improving, the smallest of them does: it has not come to its end.
    """
    began, stopping = time.monotonic(), stopping or Stopping()
    values = np.asarray(alphas, dtype=float)
    n_fits, n_alphas = len(theta), len(values)
    device, dtype = theta.device, theta.dtype
    shape = (n_fits, n_alphas, n_held_out)
    left_out = folds[:, None, None, :] == torch.arange(n_held_out, device=device)[:, None]  # (M or 1, 1, H, N)
    weights = problem.weights[:, None, None, :]
    share = (weights * left_out).sum(-1).expand(n_fits, 1, n_held_out).cpu().numpy()
    fit = torch.arange(n_fits, device=device)[:, None, None].expand(shape)
    alpha = torch.as_tensor(values, dtype=dtype, device=device)[None, :, None].expand(shape)
    points = theta[:, None, None, :].expand(*shape, theta.shape[1]).clone()
    dampings = torch.as_tensor(damping, dtype=dtype, device=device).expand(n_fits)[:, None, None].expand(shape).clone()
    losses, scores = np.full(shape, np.inf), np.full((n_fits, n_alphas), np.inf)
    before, racing = scores.copy(), np.ones((n_fits, n_alphas), dtype=bool)
    stage = replace(stopping, tol=1e-2, n_iter_no_change=5, target_loss=-1.0)
    until = min(STAGES * STAGE_ITERATIONS, stopping.max_iter)

    def rows_of(index: tuple, of: Tensor) -> Tensor:
        """Weights (b, N) of the rows of the models ``index`` in or out of their folds, summing to one."""
        part = (weights * of).expand(*shape, -1)[index]
        return part / part.sum(-1, keepdim=True)

    for done in range(0, until, STAGE_ITERATIONS):
        models = np.argwhere(np.broadcast_to(racing[..., None], shape))
        limit = len(models) if models_at_once is None else models_at_once
        finished = np.ones(shape, dtype=bool)
        for first in range(0, len(models), limit):
            numbers = models[first : first + limit]
            index = tuple(torch.from_numpy(numbers).to(device).unbind(1))
            part = problem.reweighted(fit[index], rows_of(index, ~left_out), alpha[index])
            seconds = max(stopping.max_time - (time.monotonic() - began), 0.0)
            left = replace(stage, max_time=seconds, max_iter=min(STAGE_ITERATIONS, until - done))
            solution = levenberg_marquardt(part, points[index], damping=dampings[index], stopping=left, **options)
            if Status.INTERRUPTED in solution.status:
                raise KeyboardInterrupt
            points[index], dampings[index] = solution.theta, solution.damping.clamp(max=1.0)
            where = tuple(numbers.T)
            finished[where] = _ended(solution)
            held = problem.reweighted(fit[index], rows_of(index, left_out), torch.zeros_like(alpha[index]))
            losses[where] = held.evaluate(solution.theta, keep=False).objective.cpu().numpy()
        before = np.where(racing, scores, before)
        scores = (losses * share).sum(2) / share.sum(2)
        scores = np.where(np.isfinite(scores), scores, np.inf)
        contending = scores <= BEHIND * scores.min(axis=1, keepdims=True)
        decided = contending.sum(axis=1, keepdims=True) <= 1
        racing &= contending & ~decided & ~finished.all(axis=2)
        if not racing.any() or time.monotonic() - began >= stopping.max_time:
            break
    best = scores.argmin(axis=1)
    improving = racing & (scores < IMPROVING * before)
    last = n_alphas - 1 - improving[:, ::-1].argmax(axis=1)
    best = np.where(improving.any(axis=1), np.maximum(best, last), best)
    return AlphaSearch(values, scores, best)


def _ended(solution: Solution) -> np.ndarray:
    """Models (b,) that would not go on, had they more iterations."""
    return np.array([status not in (Status.MAX_ITER, Status.TIME) for status in solution.status])
