"""The Levenberg-Marquardt loop, the only one, for a batch of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..architectures._base import Forward
from ._acceleration import Acceleration
from ._batch import Choice, evolve, scatter, select
from ._batches import MiniBatches
from ._curvature import Workspace, linearise
from ._damping import DampingStrategy, GainRatio, Trial
from ._isolation import isolated
from ._problem import Problem
from ._scaling import identity
from ._solvers import SOLVERS, Cholesky, Eigh, LinearSolver, choose_solver
from ._state import History, Progress, Solution, State
from ._status import Status
from ._stopping import Stopping, exact, first_reason, stationary, stuck
from ._threads import suited_threads

#: iterations between two looks of the host at the device; a look waits for all work queued on a GPU
POLL = 8
_RUNNING = int(Status.RUNNING)

Scaling = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[Progress], bool | None]


def levenberg_marquardt(
    problem: Problem,
    theta: Tensor,
    *,
    damping: float | Tensor = 1e-2,
    strategy: DampingStrategy | None = None,
    scaling: Scaling = identity,
    acceleration: Acceleration | None = None,
    solver: str | LinearSolver = "auto",
    stopping: Stopping | None = None,
    batches: MiniBatches | None = None,
    validation: Problem | None = None,
    callback: Callback | None = None,
    done: np.ndarray | None = None,
    seed: int = 0,
) -> Solution:
    """Minimise ``problem`` from B starting points at once.

    Parameters
    ----------
    problem : Problem
    theta : (B, P) tensor
        Starting points; device and dtype as the problem's. Not written to.
    damping : float or (B,) tensor
        First damping.
    strategy : DampingStrategy, default GainRatio()
    scaling : function, default identity
        See ``sklm.optim.SCALINGS``.
    acceleration : Acceleration, optional
    solver : {'auto', 'cholesky', 'qr', 'eigh', 'dual', 'cg'} or LinearSolver
    stopping : Stopping, optional
    batches : MiniBatches, optional
        Work on one batch an iteration; acceptance is judged on the batch, the best iterate on all rows.
    validation : Problem, optional
        Rows to choose the best iterate by, and to stop by when it no longer improves.
    callback : function, optional
        Called with a :class:`Progress` after every iteration (epoch with mini-batches); true stops the fit.
    done : (B,) ndarray of int, optional
        Iterations that the models have behind them, counted towards ``max_iter`` and in the result's ``n_iter``.
    seed : int
        Of the noise for losses with randomly drawn curvature.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If theta does not fit the problem.
    TypeError
        If a strategy or scaling of your own returns something else than its protocol says.

    Notes
    -----
    One iteration is one trial step: linearise the models whose last step was accepted, solve, try, accept or not.
    With mini-batches an iteration is an epoch. A keyboard interrupt ends the loop with the best models so far.
    """
    if theta.ndim != 2 or theta.shape != (len(problem.alpha), problem.network.n_parameters):
        raise ValueError(
            f"theta must have shape ({len(problem.alpha)}, {problem.network.n_parameters}), models x parameters of the "
            f"problem; got {tuple(theta.shape)}."
        )
    solver = resolve_solver(solver, problem, batches)
    if getattr(solver, "layerwise", False):
        problem = problem.layerwise()
    rows = problem.n_samples if batches is None else batches.n_samples // batches.n_batches
    work = float(theta.shape[0] * rows * problem.n_curvature * problem.network.n_parameters**2)
    with (
        isolated(theta.device, inference=not problem.network.uses_autograd),
        suited_threads(work, theta.device),
    ):
        loop = _Loop(
            problem=problem,
            strategy=strategy or GainRatio(),
            scaling=scaling,
            acceleration=acceleration,
            solver=solver,
            stopping=stopping or Stopping(),
            batches=batches,
            validation=validation,
            callback=callback,
            seed=seed,
        )
        solution = loop.run(theta.detach().clone(), damping, np.zeros(len(theta), int) if done is None else done)
    with isolated(theta.device):
        return replace(solution, theta=solution.theta.clone(), damping=solution.damping.clone())


def resolve_solver(solver: str | LinearSolver, problem: Problem, batches: MiniBatches | None = None) -> LinearSolver:
    """Return the solver object for a name, choosing primal or dual by the size of the system for 'auto'."""
    if not isinstance(solver, str):
        return solver
    n_rows = problem.n_samples
    if batches is not None:
        n_rows = -(-batches.n_samples // batches.n_batches)
        if solver == "auto" and batches.memory is not None:  # averages are of P x P matrices
            return Cholesky()
    return SOLVERS[choose_solver(solver, problem.network.n_parameters, n_rows * problem.n_curvature)]()


@dataclass
class _Work:
    """What belongs to the current linearisation.

    ``forwards`` are those of the state's theta, ``spare`` may be written over, ``stale`` marks models whose theta
    has moved since the linearisation, ``tiny`` those whose last step was below rounding. ``rows`` are the Jacobian rows
    of the linearisation while they last. ``average`` is the system averaged over mini-batches.
    """

    forwards: list[Forward] | None
    stale: Tensor
    spare: list[Forward] | None = None
    system: Any = None
    scale: Tensor | None = None
    largest: Tensor | None = None
    tiny: Tensor | None = None
    rows: Tensor | None = None
    average: Any = None


@dataclass
class _Loop:
    """The options of a run; what changes from iteration to iteration is in ``State`` and ``_Work``."""

    problem: Problem
    strategy: DampingStrategy
    scaling: Scaling
    acceleration: Acceleration | None
    solver: LinearSolver
    stopping: Stopping
    batches: MiniBatches | None
    validation: Problem | None
    callback: Callback | None
    seed: int
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        self.steps = 0
        self.averages = self.batches is not None and self.batches.memory is not None
        if self.averages and not isinstance(self.solver, Cholesky | Eigh):
            raise ValueError(
                f"Averaging over mini-batches needs solver='cholesky' or 'eigh'; got {type(self.solver).__name__}."
            )

    def run(self, theta: Tensor, damping: float | Tensor, done: np.ndarray) -> Solution:
        """Order of calls: start, then by iteration linearise, propose, judge, record, drop finished models."""
        began, iteration, history = time.monotonic(), 0, History()
        epochs = iter(self.batches) if self.batches is not None else None
        state, work = self._start(theta, damping, done)
        latest = int(done.max())
        result = state
        try:
            state, work = self._drop(state, work)
            while state.model.shape[0]:
                if epochs is None:
                    state, work = self._iterate(self.problem, state, work)
                else:
                    state, work = self._epoch(epochs, state, work)
                iteration += 1
                state = self._judge(state, work, time.monotonic() - began, iteration + latest, history)
                if self._looks(iteration, iteration + latest):
                    state = self._report(state, iteration)
                    result = _store(result, state)
                    state, work = self._drop(state, work)
        except KeyboardInterrupt:
            state = replace(state, status=_mark(state.status, Status.INTERRUPTED))
            result = _store(result, state)
        solution = _solution(result, history, done)
        moved = (solution.theta != theta).any(1).cpu().numpy()
        return replace(solution, validated=self.validation is not None, moved=moved)

    def _start(self, theta: Tensor, damping: float | Tensor, done: np.ndarray) -> tuple[State, _Work]:
        n_models = len(theta)
        point = self.problem.evaluate(theta, keep=self.batches is None)
        score = point.objective if self.validation is None else self.validation.evaluate(theta, keep=False).objective
        finite = torch.isfinite(point.objective) & torch.isfinite(score)
        counter = torch.zeros(n_models, dtype=torch.int64, device=theta.device)
        n_iter = torch.tensor(done, dtype=torch.int64, device=theta.device)
        status = torch.where(n_iter < self.stopping.max_iter, _RUNNING, int(Status.MAX_ITER))
        damping = torch.as_tensor(damping, dtype=theta.dtype, device=theta.device).expand(n_models).clone()
        null = self._null_objective(n_models, theta)
        state = State(
            model=torch.arange(n_models, device=theta.device),
            theta=theta,
            objective=point.objective,
            start=null.where(null > 0, point.objective),
            loss=point.loss,
            damping=damping,
            # where batches are averaged, the damping is a prior that only difficulties raise
            least_damping=damping if self.averages else torch.full_like(damping, self.stopping.min_damping),
            memory=self.strategy.start(damping),
            mean_theta=theta,
            best_theta=theta,
            best_score=score.where(finite, torch.full_like(score, torch.inf)),
            best_loss=point.loss,
            anchor=score,
            stall=counter,
            status=torch.where(finite, status, int(Status.NONFINITE)),
            n_iter=n_iter,
        )
        return state, _Work(forwards=point.forwards, stale=torch.ones_like(finite))

    def _null_objective(self, n_models: int, theta: Tensor) -> Tensor:
        """Loss (B,) of outputs that are all zero: the scale of the targets, and with it of rounding."""
        total = theta.new_zeros(n_models)
        for chunk in self.problem.chunks():
            zero = theta.new_zeros(n_models, self.problem.network.n_outputs, chunk.weights.shape[-1])
            total = total + self.problem.loss.value(zero, chunk.y, chunk.weights).sum(-1)
        return total

    def _epoch(self, epochs: Iterator, state: State, work: _Work) -> tuple[State, _Work]:
        """One pass over all mini-batches, then the objective on all rows."""
        for index, ends_epoch in epochs:
            problem = self.problem.take(index, unbiased=self.averages)
            point = problem.evaluate(state.theta)
            state = replace(state, objective=point.objective)
            work = _Work(point.forwards, torch.ones_like(work.stale), largest=work.largest, average=work.average)
            state, work = self._iterate(problem, state, work)
            share = self.batches.iterate_rate(self.steps) if self.batches is not None else 1.0
            state = replace(state, mean_theta=state.mean_theta.lerp(state.theta, share) if share < 1 else state.theta)
            if ends_epoch:
                break
        point = self.problem.evaluate(state.mean_theta, keep=False)
        return replace(state, objective=point.objective, loss=point.loss), replace(
            work, system=None, forwards=None, spare=None, tiny=None, rows=None
        )

    def _linearise(self, problem: Problem, state: State, work: _Work) -> _Work:
        """Linearise the models whose parameters changed.

        All of them where asking which would wait for a GPU, where picking them out costs more than it saves, or where
        the curvature is drawn anew.
        """
        if work.system is not None and self.on_cpu and not problem.loss.n_draws:
            index = work.stale.nonzero().squeeze(1)
            if index.shape[0] == 0:
                return work
            if 2 * index.shape[0] < work.stale.shape[0] and not getattr(self.solver, "whole_batch", False):
                part = select(replace(work, spare=None, system=None, rows=None), index)
                part = self._linearise(problem.models(index), select(state, index), part)
                merged = [scatter(getattr(work, k), index, getattr(part, k)) for k in ("system", "scale", "largest")]
                return replace(work, system=merged[0], scale=merged[1], largest=merged[2], rows=None)
        accumulator = self.solver.accumulator(state.theta)
        system, rows = linearise(problem, state.theta, work.forwards, accumulator, self.workspace)
        average = None
        if self.averages:
            system = average = system.averaged(work.average, self.rate)
        largest, scale = work.largest, work.scale
        # one number for all, as ``identity`` gives it, is spread out where models were picked from it
        if scale is None or self.scaling is not identity or scale.stride() != (0, 0):
            largest = system.diagonal if largest is None else torch.maximum(largest, system.diagonal)
            scale = self.scaling(system.diagonal, largest)
        if not isinstance(scale, Tensor) or scale.shape != state.theta.shape:
            raise TypeError(
                f"The damping scaling must return a tensor of shape {tuple(state.theta.shape)}; got {scale!r}."
            )
        return evolve(
            work, system=self.solver.prepare(system, scale), scale=scale, largest=largest, rows=rows, average=average
        )

    def _iterate(self, problem: Problem, state: State, work: _Work) -> tuple[State, _Work]:
        """One trial step of every model."""
        self.steps += 1
        before = work.average
        if problem.loss.n_draws:
            problem = problem.with_noise([self.seed, self.steps])
        work = self._linearise(problem, state, work)
        assert work.scale is not None
        rate = self.rate
        used = state.damping if rate == 1 else state.damping * rate
        factor = self.solver.factorise(work.system, used, work.scale)
        step = factor.step
        shift = used[:, None] * work.scale
        predicted = torch.addcmul(work.system.gradient, shift, step, value=-1).mul_(step).sum(1).mul_(-0.5)
        if rate != 1:  # of a step that goes only part of the way
            slope = (work.system.gradient * step).sum(1)
            predicted, step = rate * rate * predicted - rate * (1 - rate) * slope, step * rate
        if self.acceleration is not None:
            step = step + self.acceleration.correct(
                problem, state.theta, work.forwards, step, factor.solve, work.scale, work.rows
            )
        theta = state.theta + step
        point = problem.evaluate(theta, keep=self.batches is None, reuse=work.spare)
        possible = Choice(factor.ok & (point.objective < torch.inf))
        objective = point.objective if possible.all else torch.where(possible.mask, point.objective, torch.inf)
        gain = (state.objective - objective) / predicted.clamp_min(torch.finfo(theta.dtype).tiny)
        trial = Trial(state.objective, objective, predicted, gain, state.damping)
        accept, damping, memory = self.strategy.update(trial, state.memory)
        if not isinstance(accept, Tensor) or accept.dtype != torch.bool or accept.shape != predicted.shape:
            raise TypeError(
                f"The damping strategy's update must return accept as a bool tensor of shape {tuple(predicted.shape)}; "
                f"got {accept!r}."
            )
        running = self._running(state)
        for needed in (possible, running):
            accept = accept if needed.all else accept & needed.mask
        choose = Choice(accept)
        eps = torch.finfo(theta.dtype).eps
        tiny = None
        if not choose.all:
            tiny = (step.abs() <= eps * state.theta.abs()).all(1) & possible.mask & ~accept
        forwards = spare = None
        if point.forwards is not None and work.forwards is not None:
            forwards = choose(point.forwards, work.forwards)
            spare = work.forwards if choose.all else point.forwards
        state = evolve(
            state,
            theta=choose(theta, state.theta),
            objective=choose(point.objective, state.objective),
            loss=choose(point.loss, state.loss),
            damping=running(torch.maximum(damping, state.least_damping), state.damping),
            memory=memory,
        )
        average = work.average
        if before is not None and not possible.all:  # a batch that gave no finite step is not remembered
            average = possible(average, before)
        return state, evolve(work, forwards=forwards, spare=spare, stale=accept, tiny=tiny, average=average)

    def _judge(self, state: State, work: _Work, elapsed: float, latest: int, history: History) -> State:
        """Best iterate, progress and stop reasons of every model, the furthest of which is at iteration ``latest``."""
        options, curves = self.stopping, {}
        score, theta = state.objective, state.mean_theta if self.averages else state.theta
        if self.validation is not None:
            score = self.validation.evaluate(theta, keep=False).objective
            curves["validation"] = score
        history.append(state.model, objective=state.objective, loss=state.loss, damping=state.damping, **curves)
        running = self._running(state)
        lower = score < state.best_score
        better = Choice(lower if running.all else lower & running.mask)
        progress = Choice(score < state.anchor * (1 - options.tol))
        # a rejected step has not been taken: too many of them end in the damping's maximum
        waited = 1 if self.batches is not None else work.stale
        stall = torch.zeros_like(state.stall) if progress.all else (state.stall + waited).masked_fill_(progress.mask, 0)
        reasons = [(exact(state, self.problem.loss.exact_power), Status.EXACT)]
        if options.target_loss >= 0:
            reasons = [(state.loss <= options.target_loss, Status.TARGET), *reasons]
        if work.system is not None and not progress.all:  # where every model gains, none is stationary
            reasons += stationary(work.system, state, work.stale, options.gradient_tol)
        if work.system is not None and work.tiny is not None:
            power = self.problem.loss.exact_power
            reasons += stuck(work.system, state, work.tiny, options, power, self.problem.penalty())
        elif self.batches is not None:
            reasons += [(~(state.damping < options.max_damping), Status.DAMPING)]
        if not progress.all:
            reason = Status.DECREASE if self.validation is None else Status.VALIDATION
            reasons += [(stall >= options.n_iter_no_change, reason)]
        n_iter = state.n_iter + (1 if running.all else running.mask)
        if latest >= options.max_iter:
            reasons += [(n_iter >= options.max_iter, Status.MAX_ITER)]
        status = first_reason(state.status, running.mask, reasons)
        if options.together and options.target_loss >= 0:
            reached = (status == int(Status.TARGET)).any()
            status = torch.where(reached & (status == _RUNNING), int(Status.SUPERSEDED), status)
        if elapsed >= options.max_time:
            status = _mark(status, Status.TIME)
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

    @cached_property
    def on_cpu(self) -> bool:
        return self.problem.y.device.type == "cpu"

    @property
    def rate(self) -> float:
        """Weight of the present step against earlier ones: below 1 only where mini-batches are averaged."""
        return 1.0 if self.batches is None else self.batches.rate(self.steps)

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
            return replace(state, status=_mark(state.status, Status.CALLBACK))
        return state

    def _drop(self, state: State, work: _Work) -> tuple[State, _Work]:
        """Leave finished models out of the batch from here on."""
        running = state.status == _RUNNING
        if bool(running.all()):
            return state, work
        keep = running.nonzero().squeeze(1)
        self.problem = self.problem.models(keep)
        if self.validation is not None:
            self.validation = self.validation.models(keep)
        return select(state, keep), select(replace(work, spare=None, rows=None), keep)


def _mark(status: Tensor, reason: Status) -> Tensor:
    """Give every running model this status."""
    return status.where(status != _RUNNING, int(reason))


def _store(result: State, state: State) -> State:
    """Write the models of ``state`` into their rows of the whole batch."""
    if result.model.shape[0] == state.model.shape[0]:
        return state
    return scatter(result, state.model, state)


def _solution(result: State, history: History, done: np.ndarray) -> Solution:
    n_iter = result.n_iter.cpu().numpy()
    return Solution(
        theta=result.best_theta,
        damping=result.damping,
        score=result.best_score.cpu().numpy(),
        loss=result.best_loss.cpu().numpy(),
        status=[Status(code) for code in result.status.tolist()],
        n_iter=n_iter,
        history=history.arrays(n_iter - done),
    )
