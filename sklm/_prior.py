"""``alpha='auto'`` of LMClassifier: how wide the prior of the coefficients is, judged by the training rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ._penalty import linearisation
from ._prepared import Prepared
from .optim import (
    Problem,
    Progress,
    Solution,
    Status,
    Stopping,
    leave_one_out,
    levenberg_marquardt,
    log_evidence,
    stack_problems,
)
from .optim._growing import shifted
from .optim._state import joined
from .optim._status import FINAL

#: what the penalty of coefficients of deviation one is multiplied by, one after the other, and where none is better
NARROWER, WIDER = (3.0, 10.0), 0.3
#: what they are judged by is raised by these shares of the least: of about equal ones a narrow prior does less harm
HANDICAPS = {10.0: 0.0, 3.0: 0.01, 1.0: 0.02, 0.3: 0.07}
#: the same for a model that says the same of all rows, to so many log-odds, beside others
CONSTANT, CONSTANT_HANDICAP = 0.05, 0.1
#: a row that is left out is not believed to have more than so many times the loss of equal probabilities
MOST = 4.0
#: judging a penalty takes about so many linearisations with exact curvature, and factorisations, ...
LINEARISATIONS, FACTORISATIONS = 4, 10
#: ... and is not done where these are more multiplications than this
JUDGING_WORK = 1.5e11


def judging_work(n_samples: float, n_outputs: int, n_parameters: int) -> float:
    """Multiplications that judging one penalty takes, in the space of the rows or of the parameters."""
    rows = n_samples * n_outputs
    return LINEARISATIONS * linearisation(rows, n_parameters) + FACTORISATIONS * min(rows, n_parameters) ** 3


def judge_priors(
    fits: list[Prepared],
    solution: Solution,
    stopping: Stopping,
    jacobian_max_rows: int | str | None,
    callback: Callable[[Progress], bool | None] | None = None,
) -> tuple[list[Prepared], Solution]:
    """Go on from the best starts of fits with other penalties, and return the best of all.

    Parameters
    ----------
    fits : list of M Prepared
        Of equal keys, with the penalty ``prior``.
    solution : Solution
        Of all starts of these fits.
    stopping : Stopping
        With the time that is left. Iterations count over all penalties on the way to that of a model.
    jacobian_max_rows : int, 'auto' or None
    callback : callable, optional
        Of a single fit.

    Returns
    -------
    fits : list of M Prepared
        With their penalties, and ``alpha_scores``.
    solution : Solution
        Of one model a fit.

    Notes
    -----
    A penalty is judged by two logarithms of the probability of a target that was not seen, per row, half of each. One
    is the approximate leave-one-out loss. The other is the evidence (``sklm.optim.log_evidence``), the probability of
    all targets, each given those before it. The first is too high where rows are few, the second is blind to where the
    Gauss-Newton matrix describes the loss badly; their mean was better than either (docs/benchmarks.md). The factors,
    ``HANDICAPS`` and ``MOST`` were chosen on generated tables and parts of real ones.
    """
    began, first = time.monotonic(), solution.only(solution.leaders())
    tried = [[_Candidate(fit, first.only(np.array([row])))] for row, fit in enumerate(fits)]
    ended = None
    try:
        settled = [candidates for candidates in tried if candidates[0].solution.came_to_an_end()]
        for candidates in settled:
            candidates[0].judge()
        there = [candidates[0].solution for candidates in settled]
        for factor in NARROWER:
            there = _go_on(settled, there, factor, stopping.left(began), jacobian_max_rows, callback)
        wide = [candidates for candidates in settled if _best(candidates) is candidates[0]]
        there = [candidates[0].solution for candidates in wide]
        _go_on(wide, there, WIDER, stopping.left(began), jacobian_max_rows, callback)
    except KeyboardInterrupt:  # outside the iterations
        ended = Status.INTERRUPTED
    except _Ended as reason:
        ended = reason.status
    best = replace(joined([_best(candidates).solution for candidates in tried]), groups=first.groups)
    if ended is not None:
        best = replace(best, status=[ended] * len(tried))
    return [_with_scores(candidates) for candidates in tried], best


class _Ended(Exception):
    """A limit or a person has ended the whole fit."""

    def __init__(self, status: Status):
        super().__init__(status.message)
        self.status = status


@dataclass
class _Candidate:
    """A fit with a penalty, where that has led (one model, all iterations on the way), and what it is judged by."""

    fit: Prepared
    solution: Solution
    factor: float = 1.0
    score: float = float("inf")
    constant: bool = False

    @property
    def handicap(self) -> float:
        return HANDICAPS[self.factor] + (CONSTANT_HANDICAP if self.constant else 0.0)

    def judge(self) -> None:
        """Set the score; it stays infinite where it cannot be known."""
        prior, theta = self.fit.prior, self.solution.theta
        assert prior is not None
        problem = _single(self.fit).with_exact_curvature().in_double_precision()
        theta = theta.to(problem.y.dtype)
        outputs = torch.cat([forward.outputs for _, forward in problem.forward_passes(theta, None)], -1)
        self.constant = bool((outputs.amax(-1) - outputs.amin(-1) < CONSTANT).all())
        left_out = float(leave_one_out(problem, theta, most=MOST))
        score = (left_out - prior * float(log_evidence(problem, theta, 1 / prior))) / 2
        self.score = score if np.isfinite(score) else float("inf")


def _best(candidates: list[_Candidate]) -> _Candidate:
    least = max(min(candidate.score for candidate in candidates), 0.0)
    if not np.isfinite(least):
        return candidates[0]
    return min(candidates, key=lambda candidate: candidate.score + candidate.handicap * least)


def _with_scores(candidates: list[_Candidate]) -> Prepared:
    """The best fit, with the scores of all."""
    scores = {candidate.fit.alpha: candidate.score for candidate in candidates if np.isfinite(candidate.score)}
    return replace(_best(candidates).fit, alpha_scores=dict(sorted(scores.items(), reverse=True)) or None)


def _go_on(
    tried: list[list[_Candidate]],
    there: list[Solution],
    factor: float,
    stopping: Stopping,
    jacobian_max_rows: int | str | None,
    callback: Callable[[Progress], bool | None] | None,
) -> list[Solution]:
    """Fit with another penalty from ``there``, one model a fit, add what comes to an end to ``tried``; return all."""
    if not tried:
        return []
    fits = [_with_factor(candidates[0].fit, factor) for candidates in tried]
    before = joined(there)
    solution = levenberg_marquardt(
        stack_problems([_single(fit) for fit in fits], jacobian_max_rows),
        before.theta,
        damping=before.damping.clamp(max=1.0),
        stopping=replace(stopping, together=False, race=()),
        callback=shifted(callback, len(before.history["loss"])),
        done=before.n_iter,
        seed=fits[0].seed,
        **{name: value for name, value in fits[0].options.items() if name not in ("damping", "stopping")},
    )
    final = [status for status in solution.status if status in FINAL]
    if final:
        raise _Ended(final[0])
    reached = before.followed_by(solution)
    results = [reached.only(np.array([row])) for row in range(len(fits))]
    for candidates, fit, result in zip(tried, fits, results, strict=True):
        if result.came_to_an_end():
            candidate = _Candidate(fit, result, factor)
            candidate.judge()
            candidates.append(candidate)
    return results


def _with_factor(fit: Prepared, factor: float) -> Prepared:
    assert fit.prior is not None
    return replace(fit, **fit.penalised(factor * fit.prior))


def _single(fit: Prepared) -> Problem:
    """The problem of one model of a fit."""
    return fit.problem.models(torch.zeros(1, dtype=torch.int64, device=fit.problem.y.device))
