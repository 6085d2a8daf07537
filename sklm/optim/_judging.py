"""After a trial step: best iterate, progress and reasons to stop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._batch import Choice, evolve
from ._problem import Problem
from ._selection import Active
from ._state import History, State, Work
from ._status import Status
from ._stopping import Stopping, exact, first_reason, stationary, stuck

_RUNNING = int(Status.RUNNING)


@dataclass
class Judge:
    """Looks at every model at the end of an iteration.

    Parameters
    ----------
    stopping : Stopping
    averages : bool
        Whether the iterates are averaged.
    batched : bool
        Whether an iteration is an epoch of mini-batches.
    varies : bool
        Whether different parameters move in different iterations, so that one of these says nothing about the others.
    """

    stopping: Stopping
    averages: bool
    batched: bool
    varies: bool

    def __call__(
        self,
        problem: Problem,
        validation: Problem | None,
        active: Active,
        state: State,
        work: Work,
        running: Choice,
        elapsed: float,
        latest: int,
        history: History,
    ) -> State:
        """Best iterate, progress and stop reasons of every model, the furthest of which is at iteration ``latest``.

        ``active`` says which parameters moved.
        """
        options, curves = self.stopping, {}
        score, theta = state.objective, state.mean_theta if self.averages else state.theta
        if validation is not None:
            score = validation.evaluate(theta, keep=False).objective
            curves["validation"] = score
        history.append(state.model, objective=state.objective, loss=state.loss, damping=state.damping, **curves)
        lower = score < state.best_score
        better = Choice(lower if running.all else lower & running.mask)
        progress = Choice(score < state.anchor * (1 - options.tol))
        # a rejected step has not been taken: too many of them end in the damping's maximum
        waited = 1 if self.batched else work.stale
        stall = torch.zeros_like(state.stall) if progress.all else (state.stall + waited).masked_fill_(progress.mask, 0)
        reasons = [(exact(state, problem.loss.exact_power), Status.EXACT)]
        if options.target_loss >= 0:
            reasons = [(state.loss <= options.target_loss, Status.TARGET), *reasons]
        if work.system is not None and not progress.all:  # where every model gains, none is stationary
            flat, broken = stationary(work.system, state, work.stale, options.gradient_tol)
            reasons += [broken] if self.varies else [flat, broken]
        if work.system is not None and work.tiny is not None:
            penalty = problem.penalty()
            penalty = None if penalty is None else active.restrict(penalty)
            reasons += stuck(work.system, state, work.tiny, options, problem.loss.exact_power, penalty)
        elif self.batched:
            reasons += [(~(state.damping < options.max_damping), Status.DAMPING)]
        if not progress.all:
            reason = Status.DECREASE if validation is None else Status.VALIDATION
            reasons += [(stall >= options.n_iter_no_change, reason)]
        n_iter = state.n_iter + (1 if running.all else running.mask)
        if latest >= options.max_iter:
            reasons += [(n_iter >= options.max_iter, Status.MAX_ITER)]
        status = first_reason(state.status, running.mask, reasons)
        if options.together and options.target_loss >= 0:
            reached = (status == int(Status.TARGET)).any()
            status = torch.where(reached & (status == _RUNNING), int(Status.SUPERSEDED), status)
        if elapsed >= options.max_time:
            status = mark(status, Status.TIME)
        return evolve(
            state,
            best_theta=better(theta, state.best_theta),
            best_score=better(score, state.best_score),
            best_loss=better(state.loss, state.best_loss),
            anchor=progress(score, state.anchor),
            stall=stall,
            status=status,
            n_iter=n_iter,
        )


def mark(status: Tensor, reason: Status) -> Tensor:
    """Give every running model this status."""
    return status.where(status != _RUNNING, int(reason))
