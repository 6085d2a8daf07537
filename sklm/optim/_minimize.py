"""The Levenberg-Marquardt loop, the only one, for a batch of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ._acceleration import Acceleration, make_accelerations
from ._acceptance import Acceptance
from ._batch import Choice, evolve, scatter, select, where
from ._batches import MiniBatches
from ._curvature import Workspace, linearise
from ._damping import DampingStrategy, GainRatio, Trial
from ._isolation import isolated
from ._judging import Judge, mark
from ._line_search import LineSearch
from ._problem import Problem
from ._rules import Rules, check_mask
from ._scaling import identity
from ._selection import EVERYTHING, Active, ParameterSelection
from ._solvers import SOLVERS, Cholesky, Eigh, LinearSolver, choose_solver
from ._state import History, Progress, Solution, State, Work
from ._status import Status
from ._step import Stepper
from ._stopping import Stopping
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
    acceleration: Acceleration | str | Sequence[Acceleration | str] | None = None,
    line_search: LineSearch | None = None,
    acceptance: Acceptance | None = None,
    n_dampings: int = 1,
    param_selection: ParameterSelection | None = None,
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
    acceleration : Acceleration or its name, or a sequence of them, optional
        Applied one after the other.
    line_search : LineSearch, optional
        How far to go along a rejected step.
    acceptance : Acceptance, optional
        Which steps are taken although they raise the objective.
    n_dampings : int, default=1
        Dampings tried at once, as so many models in one batch.
    param_selection : ParameterSelection, optional
        Which parameters move.
    solver : {'auto', 'cholesky', 'qr', 'eigh', 'dual'} or LinearSolver
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
        Of the noise for losses with randomly drawn curvature, and of randomly selected parameters.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        If theta does not fit the problem, or options exclude each other.
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
            rules=Rules(make_accelerations(acceleration), line_search, acceptance, n_dampings, param_selection),
            solver=resolve_solver(solver, problem, batches, param_selection),
            stopping=stopping or Stopping(),
            batches=batches,
            validation=validation,
            callback=callback,
            seed=seed,
        )
        solution = loop.run(theta.detach().clone(), damping, np.zeros(len(theta), int) if done is None else done)
    with isolated(theta.device):
        return replace(solution, theta=solution.theta.clone(), damping=solution.damping.clone())


def resolve_solver(
    solver: str | LinearSolver,
    problem: Problem,
    batches: MiniBatches | None = None,
    selection: ParameterSelection | None = None,
) -> LinearSolver:
    """Return the solver object for a name, choosing primal or dual by the size of the system for 'auto'."""
    if not isinstance(solver, str):
        return solver
    n_rows = problem.n_samples
    if batches is not None:
        n_rows = -(-batches.n_samples // batches.n_batches)
        if solver == "auto" and batches.memory is not None:  # averages are of P x P matrices
            return Cholesky()
    size = problem.network.n_parameters if selection is None else selection.check(problem.network)
    return SOLVERS[choose_solver(solver, size, n_rows * problem.n_curvature)]()


@dataclass
class _Loop:
    """The options of a run; what changes from iteration to iteration is in ``State`` and ``Work``."""

    problem: Problem
    strategy: DampingStrategy
    scaling: Scaling
    rules: Rules
    solver: LinearSolver
    stopping: Stopping
    batches: MiniBatches | None
    validation: Problem | None
    callback: Callback | None
    seed: int
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        self.steps = 0
        self.active: Active = EVERYTHING
        self.averages = self.batches is not None and self.batches.memory is not None
        if self.averages and not isinstance(self.solver, Cholesky | Eigh):
            raise ValueError(
                f"Averaging over mini-batches needs solver='cholesky' or 'eigh'; got {type(self.solver).__name__}."
            )
        self.rules.check(self.problem.network, self.batches)
        self.stepper = Stepper(
            self.solver, self.rules.accelerations, self.rules.n_dampings, self.rules.line_search, self.batches is None
        )
        self.judge = Judge(self.stopping, self.averages, self.batches is not None, self.rules.varies)

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
                state = self.judge(
                    self.problem,
                    self.validation,
                    self.active,
                    state,
                    work,
                    self._running(state),
                    time.monotonic() - began,
                    iteration + latest,
                    history,
                )
                if self._looks(iteration, iteration + latest):
                    state = self._report(state, iteration)
                    result = _store(result, state)
                    state, work = self._drop(state, work)
        except KeyboardInterrupt:
            state = replace(state, status=mark(state.status, Status.INTERRUPTED))
            result = _store(result, state)
        solution = _solution(result, history, done)
        moved = (solution.theta != theta).any(1).cpu().numpy()
        return replace(solution, validated=self.validation is not None, moved=moved)

    def _start(self, theta: Tensor, damping: float | Tensor, done: np.ndarray) -> tuple[State, Work]:
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
            previous=torch.zeros_like(theta) if self.rules.looks_back else None,
            rules=self.rules.start(theta, point.objective),
        )
        return state, Work(forwards=point.forwards, stale=torch.ones_like(finite))

    def _null_objective(self, n_models: int, theta: Tensor) -> Tensor:
        """Loss (B,) of outputs that are all zero: the scale of the targets, and with it of rounding."""
        total = theta.new_zeros(n_models)
        for chunk in self.problem.chunks():
            zero = theta.new_zeros(n_models, self.problem.network.n_outputs, chunk.weights.shape[-1])
            total = total + self.problem.loss.value(zero, chunk.y, chunk.weights).sum(-1)
        return total

    def _epoch(self, epochs: Iterator, state: State, work: Work) -> tuple[State, Work]:
        """One pass over all mini-batches, then the objective on all rows."""
        for index, ends_epoch in epochs:
            problem = self.problem.take(index, unbiased=self.averages)
            point = problem.evaluate(state.theta)
            state = replace(state, objective=point.objective)
            work = Work(point.forwards, torch.ones_like(work.stale), largest=work.largest, average=work.average)
            state, work = self._iterate(problem, state, work)
            share = self.batches.iterate_rate(self.steps) if self.batches is not None else 1.0
            state = replace(state, mean_theta=state.mean_theta.lerp(state.theta, share) if share < 1 else state.theta)
            if ends_epoch:
                break
        point = self.problem.evaluate(state.mean_theta, keep=False)
        return replace(state, objective=point.objective, loss=point.loss), replace(
            work, system=None, forwards=None, spare=None, tiny=None, rows=None
        )

    def _linearise(self, problem: Problem, state: State, work: Work) -> Work:
        """Linearise the models whose parameters changed.

        All of them where asking which would wait for a GPU, where picking them out costs more than it saves, or where
        the curvature is drawn anew.
        """
        if work.system is not None and self.on_cpu and not problem.loss.n_draws:
            index = work.stale.nonzero().squeeze(1)
            if index.shape[0] == 0:
                return work
            if 2 * index.shape[0] < work.stale.shape[0]:
                part = select(replace(work, spare=None, system=None, rows=None), index)
                part = self._linearise(problem.models(index), select(state, index), part)
                merged = [scatter(getattr(work, k), index, getattr(part, k)) for k in ("system", "scale", "largest")]
                return replace(work, system=merged[0], scale=merged[1], largest=merged[2], rows=None)
        accumulator = self.solver.accumulator(state.theta)
        active = self.active
        system, rows = linearise(problem, state.theta, work.forwards, accumulator, self.workspace, active)
        average = None
        if self.averages:
            system = average = system.averaged(work.average, self.rate)
        largest, scale = work.largest, work.scale
        if scale is None or self.scaling is not identity:
            top = system.diagonal
            if largest is not None:
                top = torch.maximum(active.restrict(largest), top)
            elif active.index is not None:
                largest = torch.zeros_like(state.theta)
            scale = self.scaling(system.diagonal, top)
            largest = top if largest is None else active.put(largest, top)
        if not isinstance(scale, Tensor) or scale.shape != system.diagonal.shape:
            raise TypeError(
                f"The damping scaling must return a tensor of shape {tuple(system.diagonal.shape)}; got {scale!r}."
            )
        return evolve(
            work, system=self.solver.prepare(system, scale), scale=scale, largest=largest, rows=rows, average=average
        )

    def _iterate(self, problem: Problem, state: State, work: Work) -> tuple[State, Work]:
        """One trial step of every model."""
        self.steps += 1
        before = work.average
        if problem.loss.n_draws:
            problem = problem.with_noise([self.seed, self.steps])
        if self.rules.changes_selection(self.active):
            self.active = self.rules.select(problem, self.steps - 1, self.seed)
            work = evolve(work, system=None, scale=None, rows=None)  # belongs to other parameters
        work = self._linearise(problem, state, work)
        attempt, unneeded = self.stepper.propose(problem, state, work, self.active, self.rate)
        point = attempt.point
        possible = Choice(attempt.ok & (point.objective < torch.inf))
        objective = point.objective if possible.all else torch.where(possible.mask, point.objective, torch.inf)
        gain = (state.objective - objective) / attempt.predicted.clamp_min(torch.finfo(objective.dtype).tiny)
        trial = Trial(state.objective, objective, attempt.predicted, gain, attempt.damping)
        accept, damping, memory = self.strategy.update(trial, state.memory)
        check_mask(accept, gain, "The damping strategy's update must return accept")
        running = self._running(state)
        for needed in (possible, running):
            accept = accept if needed.all else accept & needed.mask
        memories = state.rules
        if self.rules.acceptance is not None:
            bold, memories = self.rules.uphill(trial, accept, self.active.spread(attempt.step), state)
            bold = bold & possible.mask & running.mask & ~accept
            accept = accept | bold
            damping, memory = where(bold, (trial.damping, state.memory), (damping, memory))
        if self.rules.line_search is not None:
            rejected = ~accept & running.mask
            attempt, found = self.stepper.search(
                problem, state, work, self.active, attempt, trial, rejected, self.on_cpu
            )
            accept, point = accept | found, attempt.point
            possible = Choice(possible.mask | found)
        choose = Choice(accept)
        forwards = spare = None
        if point.forwards is not None and work.forwards is not None:
            forwards = choose(point.forwards, work.forwards)
            spare = work.forwards if choose.all else point.forwards
        if self.rules.n_dampings > 1:
            spare = unneeded
        tiny = self._tiny(state, attempt.step, possible, choose)
        if state.previous is not None:
            state = evolve(state, previous=choose(self.active.spread(attempt.step), state.previous))
        state = evolve(
            state,
            theta=choose(attempt.theta, state.theta),
            objective=choose(point.objective, state.objective),
            loss=choose(point.loss, state.loss),
            damping=running(torch.maximum(damping, state.least_damping), state.damping),
            memory=memory,
            rules=self.rules.update(memories, accept),
        )
        average = work.average
        if before is not None and not possible.all:  # a batch that gave no finite step is not remembered
            average = possible(average, before)
        return state, evolve(work, forwards=forwards, spare=spare, stale=accept, tiny=tiny, average=average)

    def _tiny(self, state: State, step: Tensor, possible: Choice, choose: Choice) -> Tensor | None:
        """Rejected steps (B,) below the resolution of the parameters; None where all were accepted."""
        if choose.all:
            return None
        if self.judge.varies:  # other parameters may have further to go
            return torch.zeros_like(choose.mask)
        eps = torch.finfo(step.dtype).eps
        short = step.abs() <= eps * self.active.restrict(state.theta).abs()
        return short.all(1) & possible.mask & ~choose.mask

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
            return replace(state, status=mark(state.status, Status.CALLBACK))
        return state

    def _drop(self, state: State, work: Work) -> tuple[State, Work]:
        """Leave finished models out of the batch from here on."""
        running = state.status == _RUNNING
        if bool(running.all()):
            return state, work
        keep = running.nonzero().squeeze(1)
        self.problem = self.problem.models(keep)
        if self.validation is not None:
            self.validation = self.validation.models(keep)
        return select(state, keep), select(replace(work, spare=None, rows=None), keep)


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
