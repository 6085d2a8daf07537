"""What every optimizer's loop does: start, judge, record, report, drop finished models, stop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._constant import constant
from ._batch import Choice, evolve, scatter, select
from ._batches import MiniBatches
from ._problem import Evaluation, Problem
from ._race import fallen_behind, places
from ._state import History, Progress, Solution, State
from ._status import Status
from ._stopping import SLIGHT_PROGRESS, Stopping, exact, first_reason

#: iterations between two looks of the host at the device; a look waits for all work queued on a GPU
POLL = 8
_RUNNING = int(Status.RUNNING)

Callback = Callable[[Progress], bool | None]


def check_starts(problem: Problem, theta: Tensor) -> None:
    """Raise ValueError unless theta (B, P) fits the problem."""
    if theta.ndim != 2 or theta.shape != (len(problem.alpha), problem.network.n_parameters):
        raise ValueError(
            f"theta must have shape ({len(problem.alpha)}, {problem.network.n_parameters}), models x parameters of the "
            f"problem; got {tuple(theta.shape)}."
        )


@dataclass
class Loop(ABC):
    """The options of a run that all optimizers share; what changes is in ``State`` and in ``work``.

    A subclass says how a run starts, what an iteration and an epoch are, and what other reasons to stop there are.
    ``work`` is its own: whatever belongs to the present point and need not outlive it.
    """

    problem: Problem
    stopping: Stopping
    batches: MiniBatches | None
    validation: Problem | None
    callback: Callback | None
    groups: Tensor | None

    #: whether what is judged and kept is ``State.mean_theta``, an average of the iterates
    averages = False

    def run(self, theta: Tensor, done: np.ndarray) -> Solution:
        """Order of calls: start, then by iteration step (or epoch), judge, report, drop finished models."""
        iteration, history = 0, History()
        self.ends = time.monotonic() + self.stopping.max_time
        self.validated: tuple[Any, Any] = None, None
        self.interrupted = False
        epochs = iter(self.batches) if self.batches is not None else None
        state, work = self._start(theta, done)
        latest = int(done.max())
        self.every = torch.arange(len(theta), device=theta.device)
        result = state
        try:
            state, work = self._drop(state, work)
            while state.model.shape[0]:
                state, work, curves = self._advance(epochs, state, work, iteration + latest + 1)
                history.append(state.model, **curves)
                iteration += 1
                if self.interrupted:
                    raise KeyboardInterrupt
                if self._is_late():
                    state = replace(state, status=_mark(state.status, Status.TIME))
                if self._looks(iteration, iteration + latest):
                    state = self._report(state, iteration)
                    if bool((state.status != _RUNNING).any()):
                        result = _store(result, state)
                        state, work = self._drop(state, work)
        except KeyboardInterrupt:
            state = replace(state, status=_ended(state.status, Status.INTERRUPTED))
            result = _store(result, state)
        solution = _solution(result, history, done)
        moved = (solution.theta != theta).any(1).cpu().numpy()
        return replace(solution, validated=self.validation is not None, moved=moved)

    def _advance(
        self, epochs: Iterator | None, state: State, work: Any, latest: int
    ) -> tuple[State, Any, dict[str, Tensor]]:
        """One iteration, or epoch, and what comes of it; for the model furthest on it is number ``latest``.

        Returns what the history keeps of it as well, (b,) each.
        """
        if epochs is None:
            state, work = self._iterate(self.problem, state, work)
        else:
            state, work = self._epoch(epochs, state, work)
        state, curves = self._judge(state, work, latest)
        return state, work, curves

    @abstractmethod
    def _start(self, theta: Tensor, done: np.ndarray) -> tuple[State, Any]:
        """Return the state at theta (B, P), from :meth:`_state`, and the first ``work``."""

    @abstractmethod
    def _iterate(self, problem: Problem, state: State, work: Any) -> tuple[State, Any]:
        """One step of every model on the rows of ``problem``, with the objective there."""

    def _epoch(self, epochs: Iterator, state: State, work: Any) -> tuple[State, Any]:
        """One pass over all mini-batches, or until time is over or the user ends it; then the objective on all rows."""
        try:
            for index, ends_epoch in epochs:
                state, work = self._on_batch(index, state, work)
                if ends_epoch or self._is_late():
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        return self._after_epoch(state, work)

    @abstractmethod
    def _on_batch(self, index: np.ndarray, state: State, work: Any) -> tuple[State, Any]:
        """One step of every model on the rows ``index``."""

    @abstractmethod
    def _after_epoch(self, state: State, work: Any) -> tuple[State, Any]:
        """The objective on all rows."""

    def _reasons(self, state: State, work: Any, progress: Choice) -> list[tuple[Tensor, Status]]:
        """Return the optimizer's own reasons to stop: masks (b,), the most telling first."""
        return []

    def _curves(self, state: State) -> dict[str, Tensor]:
        """Return what the optimizer adds to the history, (b,) each."""
        return {}

    def _waited(self, work: Any) -> Tensor | int:
        """Return what the iteration counts towards ``n_iter_no_change``, (b,) or one number."""
        return 1

    def _select(self, work: Any, keep: Tensor) -> Any:
        """Keep the models ``keep`` (b,) of ``work``."""
        return select(work, keep)

    def _state(
        self, theta: Tensor, point: Evaluation, done: np.ndarray, damping: Tensor, least_damping: Tensor, memory: dict
    ) -> State:
        """The first state, at theta (B, P) with what was evaluated there; ``memory`` is the optimizer's."""
        n_models = len(theta)
        score = point.objective if self.validation is None else self.validation.evaluate(theta, keep=False).objective
        finite = torch.isfinite(point.objective) & torch.isfinite(score)
        counter = torch.zeros(n_models, dtype=torch.int64, device=theta.device)
        n_iter = torch.tensor(done, dtype=torch.int64, device=theta.device)
        status = torch.where(n_iter < self.stopping.max_iter, _RUNNING, int(Status.MAX_ITER))
        # where no output has a scale, in the units of constant targets, every theta is an exact fit
        status = status.where((self.problem.report_weights != 0).any(-1), int(Status.EXACT))
        null = self.problem.null_loss()
        return State(
            model=torch.arange(n_models, device=theta.device),
            theta=theta,
            objective=point.objective,
            start=null.where(null > 0, point.objective),
            loss=point.loss,
            damping=damping,
            least_damping=least_damping,
            memory=memory,
            mean_theta=theta,
            best_theta=theta,
            best_score=score.where(finite, torch.full_like(score, torch.inf)),
            best_loss=point.loss,
            anchor=score,
            stall=counter,
            status=torch.where(finite, status, int(Status.NONFINITE)),
            n_iter=n_iter,
        )

    def _judge(self, state: State, work: Any, latest: int | None) -> tuple[State, dict[str, Tensor]]:
        """Best iterate, progress and stop reasons of every model, the furthest of which is at iteration ``latest``.

        None stands for any iteration at which there is no race. Returns the curves of the history as well, (b,) each.
        """
        options, curves = self.stopping, {}
        score, theta = state.objective, state.mean_theta if self.averages else state.theta
        if self.validation is not None:
            if theta is not self.validated[0]:  # after a rejected step it is the same
                self.validated = theta, self.validation.evaluate(theta, keep=False).objective
            score = curves["validation"] = self.validated[1]
        curves = {"objective": state.objective, "loss": state.loss, **self._curves(state), **curves}
        running = self._running(state)
        lower = score < state.best_score
        better = Choice(lower if running.all else lower & running.mask)
        needed, slight = constant(1 - options.tol, score), None
        if options.slight > 0:
            slight = state.objective <= options.slight * state.start
            needed = torch.where(slight, constant(SLIGHT_PROGRESS, score), needed)
        progress = Choice(score < state.anchor * needed)
        if progress.all:
            stall = torch.zeros_like(state.stall)
        else:
            stall = (state.stall + self._waited(work)).masked_fill_(progress.mask, 0)
        reasons = [(exact(state, self.problem.loss.exact_power), Status.EXACT)]
        if options.target_loss >= 0:
            # of what is kept, which need not be the last iterate
            reasons = [(better(state.loss, state.best_loss) <= options.target_loss, Status.TARGET), *reasons]
        if options.negligible > 0:
            reasons += [(state.objective <= options.negligible * state.start, Status.NEGLIGIBLE)]
        reasons += self._reasons(state, work, progress)
        if not progress.all:
            reason = Status.DECREASE if self.validation is None else Status.VALIDATION
            slow = stall >= options.n_iter_no_change
            reasons += [(slow, reason)] if slight is None else [(slow & slight, Status.NEGLIGIBLE), (slow, reason)]
        n_iter = state.n_iter + (1 if running.all else running.mask)
        if latest is None or latest >= options.max_iter:
            reasons += [(n_iter >= options.max_iter, Status.MAX_ITER)]
        status = first_reason(state.status, running.mask, reasons)
        for enough in self._enough(status, slight):
            reached = self._in_group(enough, state.model)
            status = torch.where(reached & (status == _RUNNING), int(Status.SUPERSEDED), status)
        best_score = better(score, state.best_score)
        for reached_at, number in options.race:
            if latest == reached_at:
                groups = torch.zeros_like(self.every) if self.groups is None else self.groups
                racing = (places(self.every, groups) >= options.spared)[state.model] & (status == _RUNNING)
                behind = fallen_behind(best_score, racing, groups[state.model], number)
                status = torch.where(behind, int(Status.SUPERSEDED), status)
        state = evolve(
            state,
            best_theta=better(theta, state.best_theta),
            best_score=best_score,
            best_loss=better(state.loss, state.best_loss),
            anchor=progress(score, state.anchor),
            stall=stall,
            status=status,
            n_iter=n_iter,
        )
        return state, curves

    def _enough(self, status: Tensor, slight: Tensor | None) -> list[Tensor]:
        """Masks (b,) of models that have ended so well that the other starts of their fits may stop.

        ``slight`` (b,) are those that have next to nothing left.
        """
        options, masks = self.stopping, []
        if options.together and options.target_loss >= 0:
            masks += [status == int(Status.TARGET)]
        if options.race and slight is not None:
            # not those that are given up themselves, which stay in the batch on a GPU
            masks += [slight & (status != _RUNNING) & (status != int(Status.SUPERSEDED))]
        return [mask for mask in masks if not self.on_cpu or bool(mask.any())]

    def _in_group(self, mask: Tensor, model: Tensor) -> Tensor:
        """Whether the mask (b,) holds for any model of the same group as each of the models (b,)."""
        if self.groups is None:
            return mask.any()
        group = self.groups[model]
        n_groups = self.groups.shape[0]  # at most
        return (mask.new_zeros(n_groups, dtype=torch.int64).index_add_(0, group, mask.long()) > 0)[group]

    def _is_late(self) -> bool:
        """Whether ``max_time`` is over; mini-batches look after every step."""
        return time.monotonic() >= self.ends

    @cached_property
    def on_cpu(self) -> bool:
        return self.problem.y.device.type == "cpu"

    def _running(self, state: State) -> Choice:
        """Which models still move; on the CPU all, since finished ones leave the batch at once."""
        if self.on_cpu:
            return Choice.of_all(state.status)
        return Choice(state.status == _RUNNING)

    def _looks(self, iteration: int, latest: int) -> bool:
        """Whether the host looks at the device now; it waits for all queued work when it does."""
        every = 1 if self.on_cpu or self.callback is not None or self.stopping.max_time < float("inf") else POLL
        return iteration % every == 0 or latest >= self.stopping.max_iter

    def _report(self, state: State, iteration: int) -> State:
        if self.callback is None:
            return state
        n_active = int((state.status == Status.RUNNING).sum())
        if self.callback(Progress(iteration, state, n_active)):
            return replace(state, status=_ended(state.status, Status.CALLBACK))
        return state

    def _carries_along(self, running: Tensor) -> bool:
        """Whether finished models stay in the batch although some of it are not ``running`` (b,)."""
        return False

    def _drop(self, state: State, work: Any) -> tuple[State, Any]:
        """Leave finished models out of the batch from here on."""
        running = state.status == _RUNNING
        if bool(running.all()) or self._carries_along(running):
            return state, work
        keep = running.nonzero().squeeze(1)
        self.problem = self.problem.models(keep)
        if self.validation is not None:
            self.validation = self.validation.models(keep)
        return select(state, keep), self._select(work, keep)


def _mark(status: Tensor, reason: Status) -> Tensor:
    """Give every running model this status."""
    return status.where(status != _RUNNING, int(reason))


def _ended(status: Tensor, reason: Status) -> Tensor:
    """The same where somebody asks for an end: after the last iteration, too, as others may follow."""
    running = status == _RUNNING
    return status.masked_fill(running if bool(running.any()) else torch.ones_like(running), int(reason))


def _store(result: State, state: State) -> State:
    """Write the models of ``state`` into their rows of the whole batch."""
    if result.model.shape[0] == state.model.shape[0]:
        return state
    return scatter(result, state.model, state)


def _solution(result: State, history: History, done: np.ndarray) -> Solution:
    # an interrupt may come between an iteration and its entry
    n_iter = np.minimum(result.n_iter.cpu().numpy(), done + len(history))
    return Solution(
        theta=result.best_theta,
        damping=result.damping,
        score=result.best_score.cpu().numpy(),
        loss=result.best_loss.cpu().numpy(),
        status=[Status(code) for code in result.status.cpu().tolist()],
        n_iter=n_iter,
        history=history.arrays(n_iter - done),
    )
