"""The penalty by cross-validation: every alpha on every fold, as models of one batch that race each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._penalty_race import PenaltyRace, of_best_folds
from ._problem import Problem, normalised
from ._stopping import Stopping

#: penalties that are tried, from much to none: of standardised targets, these span smoothing to interpolation
ALPHAS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 0.0)
#: a race has at most so many stages of so many iterations
STAGES, STAGE_ITERATIONS = 5, 20
#: what is this much worse than the best on the rows left out is given up; what loses less than this share of its loss
#: in a stage does not improve any more
BEHIND, IMPROVING = 1.5, 0.9
#: where no more than this of the loss of zero outputs is left on the rows left out, there may be no noise at all; a fit
#: without penalty must then be so many times better to be chosen
NOISELESS, CLEARLY = 1e-2, 2.0
#: ... and where no more than this is left, the least penalty that was tried may be too much, if it is the best
MUCH = 0.1
#: where none was chosen and more than this is left, it goes on beside the least penalty for so many iterations, to see
#: which one is better in the end; those that lose less than this in so many of them are there
SOME, LAST_ITERATIONS, LAST_TOL, LAST_PATIENCE = 1e-4, 300, 1e-3, 10
#: with noise, none at all is chosen only where its loss is at most so many times that of the best penalty: models of
#: the race are on the way, and without a penalty go on to memorise
LESS = 0.8


class SearchInterrupted(KeyboardInterrupt):
    """The user stopped the search for a penalty.

    Attributes
    ----------
    alpha : (M,) ndarray
        The best penalties so far.
    theta : (M, P) tensor
        Models with these penalties, each on the rows that one fold leaves.
    scales : (M, F) tensor or None
        Factors of the inputs of these models, if they are weighed.
    """

    def __init__(self, alpha: np.ndarray, theta: Tensor, scales: Tensor | None = None):
        super().__init__("the search for alpha was interrupted")
        self.alpha, self.theta, self.scales = alpha, theta, scales


@dataclass(frozen=True)
class AlphaSearch:
    """Outcome of :func:`cross_validate_alpha` for M fits.

    Attributes
    ----------
    alphas : (M, A) ndarray
        What was tried, in decreasing order.
    scores : (M, A) ndarray
        Mean loss on the rows left out, when the race was over for this penalty; infinite where it was never finite.
    best : (M,) ndarray of int
        Number of the chosen alpha.
    noiseless : (M,) ndarray of bool
        Nearly nothing of the loss of zero outputs is left on the rows left out, and no penalty was chosen.
    doubtful : (M,) ndarray of bool
        The same, a penalty was chosen, and the folds were not asked whether none is better (``settle=False``); or the
        least penalty was chosen, and not much is left.
    theta_of_folds : (M, H, P) tensor
        Models with these penalties, each on the rows that one fold leaves.
    losses_of_folds : (M, H) ndarray
        Their losses on the rows left out; infinite for folds without weight.
    """

    alphas: np.ndarray
    scores: np.ndarray
    best: np.ndarray
    noiseless: np.ndarray
    doubtful: np.ndarray
    theta_of_folds: Tensor
    losses_of_folds: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """The alphas (M,)."""
        return np.take_along_axis(self.alphas, self.best[:, None], axis=1)[:, 0]

    @property
    def score(self) -> np.ndarray:
        """The scores (M,) of these."""
        return np.take_along_axis(self.scores, self.best[:, None], axis=1)[:, 0]

    def only(self, which: np.ndarray) -> AlphaSearch:
        """The fits ``which`` (m,)."""
        index = torch.from_numpy(which).to(self.theta_of_folds.device)
        return AlphaSearch(
            self.alphas[which],
            self.scores[which],
            self.best[which],
            self.noiseless[which],
            self.doubtful[which],
            self.theta_of_folds[index],
            self.losses_of_folds[which],
        )

    @property
    def theta(self) -> Tensor:
        """The best model (M, P) of the folds: what is left if the user stops what follows."""
        return of_best_folds(self.theta_of_folds, self.losses_of_folds)


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
    settle: bool = True,
    judge: Callable[[np.ndarray], np.ndarray] | None = None,
    **options: Any,
) -> AlphaSearch:
    """Choose the penalty of each of M fits by the loss on rows left out.

    Parameters
    ----------
    problem : Problem
        Of M models, with rows in memory; their own penalties do not count.
    theta : (M, P) tensor
        One starting point a fit, for all its penalties and folds.
    folds : (1, N) or (M, N) tensor of int
        Number of the fold of every row.
    n_held_out : int
        Folds 0 to ``n_held_out - 1`` are left out in turn; those without weight do not count.
    alphas : sequence of float, or array-like (M, A), decreasing
        The same for all fits, or those of each. Without a last one of 0 the data are taken to be noisy.
    models_at_once : int, optional
        How many models fit in memory.
    stopping : Stopping, optional
        For its limits: the search ends with what is known then. Its ``tol`` counts for fits without noise only.
    settle : bool, default=True
        Train folds to their ends where there may be no noise; see below.
    judge : function, optional
        Of the scores (M, A), to choose the least by instead of these.
    damping, options
        As in :func:`levenberg_marquardt`.

    Returns
    -------
    AlphaSearch

    Raises
    ------
    SearchInterrupted
        If the user stops the search: a KeyboardInterrupt, with the best models so far.
    TypeError
        If rows are read in pieces.

    Notes
    -----
    All candidates go through stages of a few iterations (racing: Maron & Moore 1997, Artificial Intelligence Review 11,
    pp. 193-225). After each, the loss of every row left out is averaged over the folds, by weight, and candidates
    well above the best one are given up. Least loss wins. There are four exceptions where the last alpha is 0. Where
    smaller penalties are close behind when the race ends, and still improving, the smallest of them wins: it has not
    come to its end. No penalty at all must otherwise be better than the best one by a fifth. Where the loss is nearly
    nothing beside that of zero outputs, the winner and a fit without penalty are trained to their ends, and the latter
    is chosen where its loss is, in the geometric mean of the folds, less than
    half of the winner's. Where no penalty has won and a little is left, but not nothing, it goes on beside the least
    one, and what then has the least loss wins.
    """
    tried = np.asarray(alphas, dtype=float)
    tried = np.broadcast_to(tried, (len(theta), tried.shape[-1]))
    race = PenaltyRace(problem, theta, folds, n_held_out, tried, damping, models_at_once, options)
    try:
        return _decide(race, stopping or Stopping(), null_loss_of(problem, folds), settle, judge)
    except KeyboardInterrupt:
        raise SearchInterrupted(*race.leaders()) from None


def null_loss_of(problem: Problem, folds: Tensor) -> np.ndarray:
    """The loss (M,) of zero outputs on the rows that are in a fold: what losses on rows left out are compared with."""
    inside = folds >= 0
    if bool(inside.all()):
        return problem.null_loss().cpu().numpy()
    part = replace(problem, weights=normalised(problem.weights * inside), unit_weights=None)
    return part.null_loss().cpu().numpy()


def _decide(
    race: PenaltyRace,
    stopping: Stopping,
    null_loss: np.ndarray,
    settle: bool,
    judge: Callable[[np.ndarray], np.ndarray] | None,
) -> AlphaSearch:
    """Run the race; null_loss (M,) is the loss of zero outputs."""
    racing, before = np.ones(race.shape[:2], dtype=bool), race.scores
    least = race.scores  # of every candidate so far
    until = min(STAGES * STAGE_ITERATIONS, stopping.max_iter)
    left = stopping.max_iter - until
    for done in range(0, until, STAGE_ITERATIONS):
        stage = replace(stopping, max_iter=min(STAGE_ITERATIONS, until - done), tol=1e-2, n_iter_no_change=5)
        least = np.minimum(least, race.scores)
        before = race.scores
        ended, complete = _trained(race, racing, stage)
        if not complete:
            racing[:], left = False, 0
            break
        contending = race.scores <= BEHIND * race.scores.min(axis=1, keepdims=True)
        decided = contending.sum(axis=1, keepdims=True) <= 1
        racing &= contending & ~decided & ~ended
        if not racing.any():
            break
    last = race.shape[1] - 1
    to_none = race.alphas[:, last] == 0  # else there is noise for certain
    improving = racing & to_none[:, None] & np.isfinite(before) & (race.scores < IMPROVING * least)
    smallest = last - improving[:, ::-1].argmax(axis=1)
    judged = judge or np.asarray
    best = judged(race.scores).argmin(axis=1)
    best = np.where(improving.any(axis=1), np.maximum(best, smallest), best)
    hopeless = ~np.isfinite(race.scores).any(axis=1)
    little = race.scores.min(axis=1) <= NOISELESS * null_loss
    if last > 0:
        positive = race.scores[:, :last].min(axis=1)
        tied = to_none & ~little & (best == last) & ~improving[:, last] & ~(race.scores[:, last] < LESS * positive)
        best = np.where(tied, race.scores[:, :last].argmin(axis=1), best)
    best[hopeless] = last
    unsure = to_none & little & (best < last) & ~hopeless
    settled = unsure & settle
    if settled.any() and left > 0:
        finalists = np.zeros_like(racing)
        finalists[unsure, best[unsure]] = finalists[unsure, last] = True
        _, complete = _trained(race, finalists, replace(stopping, max_iter=left))
        losses = np.where(race.share > 0, np.log(np.maximum(race.losses, np.finfo(float).tiny)), 0.0)
        gain = losses[np.arange(len(best)), best] - losses[:, last]
        ratio = gain.sum(axis=1) / np.maximum((race.share[:, 0] > 0).sum(axis=1), 1)
        if complete:
            best = np.where(unsure & (ratio > np.log(CLEARLY)), last, best)
    left_some = to_none & little & (best == last) & (race.scores[:, last] > SOME * null_loss) & ~hopeless & ~settled
    if last > 0 and left > 0 and left_some.any() and _go_on(race, left_some, stopping, left):
        best = np.where(left_some, judged(race.scores).argmin(axis=1), best)
        unsure |= left_some & (best < last)
    exact = little & ~(left_some & (race.scores[:, last] > NOISELESS * null_loss))
    # the least penalty of all may well be too much; where much is left, that is noise
    edge = to_none & (best == last - 1) & ~little & (race.scores.min(axis=1) <= MUCH * null_loss) & ~hopeless
    doubtful = (unsure | edge) & (not settle)
    noiseless = to_none & exact & (best == last)
    return AlphaSearch(race.alphas, race.scores, best, noiseless, doubtful, *race.models(best))


def _go_on(race: PenaltyRace, which: np.ndarray, stopping: Stopping, left: int) -> bool:
    """Train none and the least penalty of fits ``which`` (M,) on; return whether there was time for all."""
    finalists = np.zeros(race.shape[:2], dtype=bool)
    finalists[which, -2:] = True
    most = min(left, LAST_ITERATIONS)
    limits = replace(stopping, max_iter=most, tol=LAST_TOL, n_iter_no_change=LAST_PATIENCE)
    return _trained(race, finalists, limits)[1]


def _trained(race: PenaltyRace, which: np.ndarray, stopping: Stopping) -> tuple[np.ndarray, bool]:
    """As ``race.train``; without time for all, what was known before stays, as some have had more than others."""
    before, (ended, complete) = race.scores, race.train(which, stopping)
    if not complete and np.isfinite(before).any():
        race.scores = before
    return ended, complete
