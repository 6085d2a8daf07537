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
#: a first one goes on after so many iterations only where it has less by then; but with fewer curvature rows a
#: parameter than this, one on its way to no noise may have a hundred times as much
FIRST_ITERATIONS, TELLING_ROWS = 100, 2.0
#: where the search has found none although there is noise, it is compared with these, of which those go on after the
#: first iterations that have at most so many times the least loss; one is taken that has less than this share of the
#: loss of none, which may still be on its way
LARGER, CONTENDING, CLEARLY = (1e-3, 1e-4, 1e-5, 1e-6), 3.0, 0.75


@dataclass
class _Candidate:
    """Fit ``number`` with a penalty, and its starts, or where they are by now; ``ended`` if none of them goes on."""

    number: int
    alpha: float
    fit: Prepared
    ended: bool = False


def by_all_rows(
    fits: list[Prepared],
    noisy: np.ndarray,
    chosen: np.ndarray,
    scales: Tensor | None,
    stopping: Stopping,
    fits_at_once: int,
    jacobian_max_rows: int | str | None,
) -> np.ndarray:
    """Return the penalties (M,) of fits: their own, or others that are evidently better by the rows left out.

    A single row that is left out has its neighbours in the fit; and of several starts, one is in a good minimum. Those
    that are ``noisy`` (M,) have none, and get one where that is clearly better. What was ``chosen`` (M,), and
    scales (M, F), are only reported, if the user stops this. Where the loss without a penalty cannot be known, the
    smallest one stands for it. Without time for all of this, the fits keep their own.

    Raises
    ------
    SearchInterrupted
        If the user stops this.
    """
    judge = _Judge(fits, stopping, fits_at_once, jacobian_max_rows)
    try:
        in_time = judge.compare(np.flatnonzero(~noisy)) and judge.compare_with_larger(np.flatnonzero(noisy))
    except KeyboardInterrupt:
        raise SearchInterrupted(chosen, judge.leaders, scales) from None
    if not in_time:
        return judge.own
    return np.array([judge.choose_larger(n) if noisy[n] else judge.choose(n) for n in range(len(fits))])


class _Judge:
    """Trains fits with several penalties on all rows, and knows their leave-one-out losses.

    Attributes
    ----------
    own : (M,) ndarray
        The penalties of the fits.
    losses : list of dict
        Of every fit, by penalty, as far as they are known.
    leaders : (M, P) tensor
        A good model of every fit.
    """

    def __init__(
        self, fits: list[Prepared], stopping: Stopping, fits_at_once: int, jacobian_max_rows: int | str | None
    ):
        self.fits, self.fits_at_once, self.jacobian_max_rows = fits, fits_at_once, jacobian_max_rows
        self.stopping = replace(stopping, target_loss=-1.0, negligible=0.0, slight=0.0, together=False)
        self.began = time.monotonic()
        self.own = np.array([fit.alpha for fit in fits])
        self.losses: list[dict[float, float]] = [{} for _ in fits]
        problem = fits[0].problem
        known = [fit.theta[0] if fit.searched is None else fit.searched for fit in fits]
        self.leaders = torch.from_numpy(np.stack(known)).to(problem.y.device, problem.y.dtype)
        self.most = min(stopping.max_iter, ITERATIONS)
        self.tells_early = problem.n_samples * problem.n_curvature >= TELLING_ROWS * problem.network.n_parameters

    def compare(self, numbers: np.ndarray) -> bool:
        """Find the losses of smaller penalties that may be evidently better; return whether there was time for all."""
        first, *others = SMALLER if self.fits[0].predicts_rows else SMALLER_OF_FEW_ROWS
        with_two = [n for n in numbers if self.own[n] > first]
        # nothing can be known of a fit that has none
        tried = [self.candidate(n, self.own[n] or first) for n in numbers]
        tried += [self.candidate(n, first) for n in with_two]
        if not self.train(tried, min(self.most, FIRST_ITERATIONS)):
            return False
        behind = [n for n in with_two if not self.loss(n, first) < self.loss(n, self.own[n])]
        ruled_out = behind if self.tells_early else []
        if not self.go_on([one for one in tried if one.number not in ruled_out]):
            return False
        left, last = [n for n in numbers if n not in ruled_out], first
        for alpha in others:
            left = [n for n in left if not self.loss(n, last) > FALLING * self.loss(n, self.own[n])]
            if not self.train([self.candidate(n, alpha) for n in left], self.most):
                return False
            last = alpha
        return True

    def choose(self, number: int) -> float:
        """The penalty of a fit after :meth:`compare`."""
        searched = self.fits[number].searched_losses
        return evidently_best(
            self.losses[number], self.own[number], np.inf if searched is None else float(np.mean(searched))
        )

    def compare_with_larger(self, numbers: np.ndarray) -> bool:
        """Find the losses of none and of larger penalties; return whether there was time for all."""
        tried = [self.candidate(n, alpha) for alpha in (0.0, *LARGER) for n in numbers]
        if not self.train(tried, min(self.most, FIRST_ITERATIONS)):
            return False
        limits = {n: CONTENDING * min(self.losses[n].values(), default=np.inf) for n in numbers}

        def contends(one: _Candidate) -> bool:
            near = self.loss(one.number, one.alpha) <= limits[one.number]
            return near or (one.alpha == 0 and not self.tells_early)

        return self.go_on([one for one in tried if contends(one)])

    def choose_larger(self, number: int) -> float:
        """The penalty of a fit after :meth:`compare_with_larger`."""
        losses = self.losses[number]
        best = min(LARGER, key=lambda alpha: losses.get(alpha, np.inf))
        return best if losses.get(best, np.inf) < CLEARLY * losses.get(0.0, np.inf) else 0.0

    def candidate(self, number: int, alpha: float) -> _Candidate:
        """A fit with another penalty."""
        return _Candidate(number, float(alpha), for_judging(self.fits[number], float(alpha), self.stopping))

    def train(self, candidates: list[_Candidate], n_iter: int) -> bool:
        """Train candidates for so many iterations; return whether there was time for it.

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
            for one, row in zip(part, rows, strict=True):
                if one.alpha == self.own[one.number]:
                    self.leaders[one.number] = solution.theta[int(row)]
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

    def go_on(self, candidates: list[_Candidate]) -> bool:
        """Train candidates that have not come to an end as long as others; return whether there was time for it."""
        left = self.most - FIRST_ITERATIONS
        return left <= 0 or self.train([one for one in candidates if not one.ended], left)

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
