"""Curves: another penalty, and more units, where a fit leaves far more or less than neighbours say is noise."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ._depth import Result
from ._noise import Noise
from ._penalty import linearisation
from ._prepared import ATTEMPTS, Prepared
from .optim import Status, Stopping
from .optim._isolation import isolated

#: a fit is too stiff where it leaves more than the first number, and so many standard errors, times the mean of what
#: neighbours leave, or more than the third times its median, which few points where a curve jumps do not change
STIFF, ERRORS, STIFF_IN_THE_MIDDLE = 1.25, 2.0, 2.0
#: ... and memorises where it leaves less than this share of a noise that is certain
LOOSE = 0.5
#: ... or where it has no penalty and no more rows than parameters, and leaves more than this share of the loss of zero
#: outputs: of a function without noise it would leave less
UNBOUND = 1e-8
#: ... or where it has spikes between the points: at so many places between any two it is so far outside of what it is
#: at four points, and as much or a deviation of the targets on either side, that the mean of the squares is more than
#: this share of their variance
PLACES, SPIKES = 16, 1e-3
#: with another penalty it may leave so much of the mean, and of the median; in the end, from all starts, so many times
#: as much of both, else the next smaller penalty has its turn, ``ATTEMPTS`` in all
MEAN, MEDIAN, AT_LAST = 1.0, 1.2, 1.25
#: penalties that are tried first, and what the next larger ones are times the best of these; for so many iterations
PENALTIES, BETWEEN, ITERATIONS = (1e-2, 1e-4, 1e-6, 1e-8), (30.0, 10.0, 3.0), 300
#: where none of them is small enough, units are so many times as many; again if that has brought the loss below this
#: share of what it was; so many starts are tried each time
TIMES, PROGRESS, STARTS = (1, 3, 6), 0.5, (1, 2, 1)
#: ... where a linearisation takes no more multiplications than the first, and one start where it takes more than the
#: second
MOST_WORK, LONG_WORK = 5e8, 2e7


@dataclass
class _Case:
    """A fit to be mended, its noise, and what has been tried with as many units as it has by now."""

    number: int
    noise: Noise
    fit: Prepared
    may_widen: bool
    has_spikes: bool
    widened: int = 0
    least: float = np.inf  # loss, with the units before
    losses: dict[float, float] = field(default_factory=dict)
    passed: dict[float, bool] = field(default_factory=dict)
    spikes: dict[float, bool] = field(default_factory=dict)

    @property
    def enough(self) -> list[float]:
        """Penalties that are small enough, the largest first; against spikes then others without, the least first."""
        small = sorted(
            (alpha for alpha, passed in self.passed.items() if passed and not self.spikes[alpha]), reverse=True
        )
        if not self.has_spikes:
            return small
        return small + sorted(alpha for alpha, spikes in self.spikes.items() if not spikes and alpha not in small)


class _Ended(Exception):
    """A limit or a person has ended a fit."""

    def __init__(self, status: Status):
        super().__init__(status.message)
        self.status = status


def down_to_noise(
    results: list[Result],
    stopping: Stopping,
    try_out: Callable[[list[Prepared]], list[Result]],
    solve: Callable[[list[Prepared]], list[Result]],
) -> list[Result]:
    """Fit curves again that leave far more or less than their noise, and keep what is at its level.

    The penalty is the largest one with which a fit leaves no more than the noise (discrepancy principle: Morozov 1966,
    Soviet Mathematics 7, pp. 414-417).

    Parameters
    ----------
    results : list of Result
        Those of curves may be replaced.
    stopping : Stopping
        With the time that is left.
    try_out, solve : callable
        Run fits unseen, and as they are.

    Returns
    -------
    results : list of Result
        If a limit or a person ends this, all say so.
    """
    chosen, final, began = list(results), None, time.monotonic()

    def run(how: Callable[[list[Prepared]], list[Result]], fits: list[Prepared]) -> list[Result]:
        limits = stopping.left(began).max_time
        done = how([fit.limited(max_time=limits) for fit in fits]) if fits else []
        ended = [result.cut_short for result in done if result.cut_short is not None]
        if ended:
            raise _Ended(ended[0])
        return done

    try:
        every = [_case(number, result) for number, result in enumerate(results)]
        going = cases = [case for case in every if case is not None]
        while going:
            for penalties in (_first, _next_larger):
                asked = [(case, alpha) for case in going for alpha in penalties(case)]
                done = run(try_out, [_tried(case, alpha) for case, alpha in asked])
                for (case, alpha), result in zip(asked, done, strict=True):
                    losses = result.fit.losses(result.solution, result.row)
                    case.losses[alpha], case.passed[alpha] = float(losses.mean()), _is_noise(losses, case.noise)
                    case.spikes[alpha] = _has_spikes(result)
            going = [case for case in going if not case.enough and _widened(case)]
        open_cases = [case for case in cases if case.enough]
        for attempt in range(ATTEMPTS):
            open_cases = [case for case in open_cases if len(case.enough) > attempt]
            done = run(solve, [_with(case.fit, case.enough[attempt]) for case in open_cases])
            for case, result in zip(list(open_cases), done, strict=True):
                if _is_better(result, results[case.number], case):
                    chosen[case.number] = result
                    open_cases.remove(case)
    except _Ended as end:
        final = end.status
    except KeyboardInterrupt:
        final = Status.INTERRUPTED
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"A curve could not be fitted down to its noise: {error}", UserWarning, stacklevel=6)
    return chosen if final is None else [result.ended(final) for result in chosen]


def _case(number: int, result: Result) -> _Case | None:
    """A curve that leaves far more than its noise, so that neighbours say more about a point, or far less.

    It is fitted again from as few starts as it had before any joined.
    """
    fit, noise = result.fit, result.fit.noise
    if noise is None or noise.mean == 0 or result.cut_short is not None or _work(fit) > MOST_WORK:
        return None
    losses = fit.losses(result.solution, result.row)
    mean, limit = losses.mean(), STIFF + ERRORS * np.sqrt(3 / len(losses))
    stiff = noise.limits_mean and mean > limit * noise.mean
    in_the_middle = noise.limits_median and np.median(losses) > STIFF_IN_THE_MIDDLE * noise.median > 0
    loose = noise.is_certain and mean < LOOSE * noise.mean
    loose |= fit.alpha == 0 and not fit.predicts_rows and mean > UNBOUND * float(fit.problem.null_loss()[0])
    has_spikes = _has_spikes(result)
    if not (stiff or in_the_middle or loose or has_spikes):
        return None
    n_starts = min(len(fit.theta), max(fit.n_averaged, 1))
    anew = replace(fit.of_starts(n_starts), growth=None)
    # jumps of a few points ask for a smaller penalty, but more units only follow the noise beside them
    return _Case(number, noise, anew, bool(stiff) and fit.wider is not None, has_spikes)


def _work(fit: Prepared) -> float:
    """Multiplications of a linearisation."""
    problem = fit.problem
    return linearisation(problem.n_samples * problem.n_curvature, problem.network.n_parameters)


def _is_noise(losses: np.ndarray, noise: Noise) -> bool:
    """Whether losses (N,) are no more than neighbours leave."""
    in_the_middle = noise.median == 0 or np.median(losses) <= MEDIAN * noise.median
    return bool(losses.mean() <= MEAN * noise.mean and in_the_middle)


def _with(fit: Prepared, alpha: float) -> Prepared:
    return replace(fit, **fit.penalised(alpha))


def _tried(case: _Case, alpha: float) -> Prepared:
    """A fit with a penalty, from few starts and for few iterations."""
    number = 1 if _work(case.fit) > LONG_WORK else STARTS[case.widened]
    fit = case.fit.of_starts(min(number, len(case.fit.theta)))
    return _with(fit.limited(max_iter=min(ITERATIONS, fit.options["stopping"].max_iter)), alpha)


def _first(case: _Case) -> list[float]:
    """The penalties that are tried first."""
    return list(PENALTIES)


def _next_larger(case: _Case) -> list[float]:
    """Penalties between the largest of the first ones that is small enough, and the one above it."""
    return [factor * case.enough[0] for factor in BETWEEN] if case.enough else []


def _widened(case: _Case) -> bool:
    """Give a case more units; return whether that is open, and worth while."""
    least, wider = min(case.losses.values()), case.fit.wider
    if not case.may_widen or case.widened + 1 == len(TIMES) or not least < PROGRESS * case.least:
        return False
    assert wider is not None
    wide = wider(TIMES[case.widened + 1])
    if _work(wide) > MOST_WORK:
        return False
    case.widened, case.least, case.losses, case.passed, case.spikes = case.widened + 1, least, {}, {}, {}
    case.fit = replace(wide, noise=case.noise, wider=wider, alpha_scores=case.fit.alpha_scores)
    return True


def _is_better(new: Result, old: Result, case: _Case) -> bool:
    """Whether a fit has no spikes, is at the level of the noise, and not worse on rows left out, where that is known.

    Where the old one had spikes the first is enough: rows left out know nothing of them.
    """
    if _has_spikes(new):
        return False
    if case.has_spikes:
        return True
    if not _is_noise(new.fit.losses(new.solution, new.row) / AT_LAST, case.noise):
        return False
    losses = [result.fit.leave_one_out(result.solution, result.row) for result in (new, old)]
    return losses[0] is None or losses[1] is None or losses[0] < losses[1]


def _has_spikes(result: Result) -> bool:
    """Whether a curve swings between points of which no row knows."""
    problem, theta = result.fit.members(result.solution, np.array([result.row]))
    with isolated(problem.y.device):
        x = problem.rows.chunk(0, problem.n_samples)[0].sort().values
        shares = (torch.arange(PLACES, dtype=x.dtype, device=x.device) + 0.5) / PLACES
        places = torch.cat([x, torch.lerp(x[1:-2, None], x[2:-1, None], shares).flatten()])
        outputs = problem.network.forward(theta, places[None], derivatives=False).outputs[0]
        windows, inside = outputs[:, : len(x)].unfold(-1, 4, 1), outputs[:, len(x) :].unflatten(-1, (-1, PLACES))
        y = problem.y if problem.y.ndim == 2 else problem.y[0]
        low, high = windows.amin(-1, keepdim=True), windows.amax(-1, keepdim=True)
        margin = torch.maximum(high - low, y.std(1)[:, None, None])
        outside = torch.maximum(low - inside, inside - high).sub_(margin).clamp_min_(0)
        return bool((outside**2).mean((1, 2)).sum() > SPIKES * y.var(1).sum())
