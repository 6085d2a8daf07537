"""Which penalty rows that are left out one at a time speak for, where there may be little noise or none."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ._prepared import Prepared, run_together
from .optim import SearchInterrupted, Solution, Status, Stopping

#: the leave-one-out loss of all rows decides among what a search has found and smaller penalties, the first ones with
#: more rows than parameters, else the second ones: one of these, where it is so many times less, after so many
#: iterations; smaller ones are only tried where the last had at most this share of the loss of what was found
SMALLER, SMALLER_OF_FEW_ROWS, EVIDENTLY, ITERATIONS, FALLING = (1e-9, 0.0), (1e-7, 1e-9, 1e-11), 10.0, 300, 0.5
#: ... of all rows, or of so many curvature rows a parameter
JUDGED_ROWS = 10.0
#: a first one goes on after so many iterations only where it has less than this share by then
FIRST_ITERATIONS, PROMISING = 100, 0.8


@dataclass
class _Candidate:
    """Fit ``number`` with a penalty, and its starts, or where they are by now; ``ended`` if none of them goes on."""

    number: int
    alpha: float
    fit: Prepared
    ended: bool = False


def by_all_rows(
    fits: list[Prepared],
    chosen: np.ndarray,
    scales: Tensor | None,
    stopping: Stopping,
    fits_at_once: int,
    jacobian_max_rows: int | str | None,
) -> np.ndarray:
    """Return the penalties (M,) of fits: their own, or others that are evidently better by the rows left out.

    A single row that is left out has its neighbours in the fit; and of several starts, one is in a good minimum. What
    was ``chosen`` (M,), and scales (M, F), are only reported, if the user stops this. Where the loss without a penalty
    cannot be known, the smallest one stands for it. Without time for all of this, the fits keep their own.

    Raises
    ------
    SearchInterrupted
        If the user stops this.
    """
    judge = _Judge(fits, stopping, fits_at_once, jacobian_max_rows)
    try:
        in_time = judge.compare()
    except KeyboardInterrupt:
        if judge.leaders is None:
            raise
        raise SearchInterrupted(chosen, judge.leaders, scales) from None
    if not in_time:
        return judge.own
    each = zip(judge.losses, judge.own, (fit.searched_losses for fit in fits), strict=True)
    return np.array([evidently_best(losses, own, _mean(searched)) for losses, own, searched in each])


class _Judge:
    """Trains fits with several penalties on all rows, and knows their leave-one-out losses.

    Attributes
    ----------
    own : (M,) ndarray
        The penalties of the fits.
    losses : list of dict
        Of every fit, by penalty, as far as they are known.
    leaders : (M, P) tensor or None
        The best start of every fit with its own penalty, or with the first one for none, after the first iterations.
    """

    def __init__(
        self, fits: list[Prepared], stopping: Stopping, fits_at_once: int, jacobian_max_rows: int | str | None
    ):
        self.fits, self.fits_at_once, self.jacobian_max_rows = fits, fits_at_once, jacobian_max_rows
        self.stopping = replace(stopping, target_loss=-1.0, negligible=0.0, slight=0.0, together=False)
        self.began = time.monotonic()
        self.leaders: Tensor | None = None
        self.own = np.array([fit.alpha for fit in fits])
        self.losses: list[dict[float, float]] = [{} for _ in fits]

    def compare(self) -> bool:
        """Find the losses of the penalties that may be evidently better; return whether there was time for all."""
        first, *others = SMALLER if self.fits[0].predicts_rows else SMALLER_OF_FEW_ROWS
        every, most = np.arange(len(self.fits)), min(self.stopping.max_iter, ITERATIONS)
        # nothing can be known of a fit that has none
        tried = self.candidates(every, np.where(self.own == 0, first, self.own))
        tried += self.candidates(every[self.own > first], np.full(len(every), first))
        if not self.train(tried, min(most, FIRST_ITERATIONS)):
            return False
        ruled_out = [
            n for n in every[self.own > first] if not self.loss(n, first) < PROMISING * self.loss(n, self.own[n])
        ]
        going_on = [one for one in tried if one.number not in ruled_out and not one.ended]
        if most > FIRST_ITERATIONS and not self.train(going_on, most - FIRST_ITERATIONS):
            return False
        left, last = np.setdiff1d(every, ruled_out), first
        for alpha in others:
            left = np.array([n for n in left if not self.loss(n, last) > FALLING * self.loss(n, self.own[n])], int)
            if not self.train(self.candidates(left, np.full(len(every), alpha)), most):
                return False
            last = alpha
        return True

    def candidates(self, numbers: np.ndarray, alphas: np.ndarray) -> list[_Candidate]:
        """The fits ``numbers`` with their penalties of all fits (M,)."""
        return [
            _Candidate(n, float(alphas[n]), for_judging(self.fits[n], float(alphas[n]), self.stopping)) for n in numbers
        ]

    def train(self, candidates: list[_Candidate], n_iter: int) -> bool:
        """Go on with candidates for so many iterations; return whether there was time for it.

        Raises
        ------
        KeyboardInterrupt
            If the user stops this.
        """
        for first in range(0, len(candidates), self.fits_at_once):
            part = candidates[first : first + self.fits_at_once]
            limits = replace(self.stopping.left(self.began), max_iter=n_iter)
            solution = run_together([one.fit.with_options(stopping=limits) for one in part], self.jacobian_max_rows)
            rows = solution.leaders()
            if self.leaders is None:  # the first ones are of all fits
                self.leaders = solution.theta[torch.from_numpy(rows[: len(self.fits)]).to(solution.theta.device)]
            if Status.INTERRUPTED in solution.status:
                raise KeyboardInterrupt
            if Status.TIME in solution.status:
                return False
            for number, (one, row) in enumerate(zip(part, rows, strict=True)):
                loss = one.fit.leave_one_out(solution, int(row), rough=True)
                if loss is not None and not np.isnan(loss):
                    self.losses[one.number][one.alpha] = loss
                one.fit, one.ended = _going_on(one.fit, solution.only(np.flatnonzero(solution.group == number)))
        return True

    def loss(self, number: int, alpha: float) -> float:
        """The loss of a fit, infinite where it is not known."""
        return self.losses[number].get(float(alpha), np.inf)


def _going_on(fit: Prepared, solution: Solution) -> tuple[Prepared, bool]:
    """The fit with its starts where they are by now, and whether all of them have come to an end."""
    damping = solution.damping.clamp(max=1.0).cpu().numpy()
    theta = solution.theta.cpu().double().numpy()
    return replace(fit.with_options(damping=damping), theta=theta, growth=None), Status.MAX_ITER not in solution.status


def for_judging(fit: Prepared, alpha: float, stopping: Stopping) -> Prepared:
    """The fit with a penalty on as many rows as can tell whether there is noise; it weighs as much as beside all."""
    fit = fit.with_options(stopping=stopping)
    n_samples, n_parameters = fit.problem.n_samples, fit.problem.network.n_parameters
    number = int(np.ceil(JUDGED_ROWS * n_parameters / fit.problem.n_curvature))
    if number < n_samples:
        rows = np.random.default_rng([fit.seed, number]).choice(n_samples, number, replace=False)
        fit, alpha = replace(fit, problem=fit.problem.take(np.sort(rows))), alpha * n_samples / number
    return replace(fit, **fit.penalised(alpha))


def evidently_best(losses: dict[float, float], own: float, searched: float = np.inf) -> float:
    """The penalty with the least of the losses, none where that is not evidently worse, or ``own`` where it is near.

    Where the loss of none is not known, that of the smallest penalty stands for it, or what the search saw of none,
    ``searched``, if that is less.
    """
    stands_for_own = own if own in losses or own > 0 else SMALLER_OF_FEW_ROWS[-1]
    if stands_for_own not in losses:
        return own
    known = losses[stands_for_own] if own == stands_for_own else min(losses[stands_for_own], searched)
    best, limit = min(losses, key=losses.__getitem__), known / EVIDENTLY
    if not losses[best] < limit:
        return own
    return 0.0 if losses.get(0.0, np.inf) < min(limit, EVIDENTLY * losses[best]) else best


def _mean(losses: np.ndarray | None) -> float:
    """The mean of losses (H,) on folds, infinite where one is not known."""
    return np.inf if losses is None else float(np.mean(losses))
