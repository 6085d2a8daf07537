"""Levenberg-Marquardt: the iteration of the loop in ``_loop`` that linearises and solves, for a batch of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .._constant import constant
from . import _graph
from ._acceleration import Acceleration, make_accelerations
from ._acceptance import Acceptance
from ._batch import Choice, evolve, scatter, select, where
from ._batches import MiniBatches, Stream
from ._curvature import Workspace, linearise
from ._damping import DampingStrategy, GainRatio, Trial
from ._data import TensorRows
from ._dual import Dual
from ._isolation import isolated
from ._line_search import LineSearch
from ._loop import Callback, Loop, check_starts
from ._problem import Problem
from ._rules import Rules, check_mask
from ._scaling import identity
from ._selection import EVERYTHING, Active, ParameterSelection
from ._solvers import SOLVERS, Cholesky, Eigh, LinearSolver, choose_solver
from ._state import Solution, State, Work
from ._status import Status
from ._step import Stepper
from ._stopping import Stopping, stationary, stuck
from ._threads import suited_threads

Scaling = Callable[[Tensor, Tensor], Tensor]

#: no step of a module's parameters is longer than so many times these, both in the scale of the damping: MINPACK's
#: ``factor`` (Moré 1978, section 5), without which formulas run to where they are flat
LONGEST_STEP = 100.0
#: ... unless they have so much damping
SHORT_ENOUGH = 1e8


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
    groups: np.ndarray | None = None,
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
    groups : (B,) ndarray of int, optional
        Number of the fit, from 0, that each model is a start of, where the batch holds several fits.
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
    check_starts(problem, theta)
    solver = resolve_solver(solver, problem, batches, param_selection)
    if getattr(solver, "layerwise", False) and (param_selection is None or not isinstance(solver, Dual)):
        problem = problem.layerwise()
    rows = problem.n_samples if batches is None else batches.n_samples // batches.n_batches
    work = float(rows * problem.n_curvature * problem.network.n_parameters**2)
    with (
        isolated(theta.device, inference=not problem.network.uses_autograd),
        suited_threads(work, theta.device),
    ):
        loop = _Loop(
            problem=problem,
            damping=damping,
            strategy=strategy or GainRatio(),
            scaling=scaling,
            rules=Rules(make_accelerations(acceleration), line_search, acceptance, n_dampings, param_selection),
            solver=solver,
            stopping=stopping or Stopping(),
            batches=batches,
            validation=validation,
            callback=callback,
            seed=seed,
            groups=None if groups is None else torch.from_numpy(groups).to(theta.device),
        )
        solution = loop.run(theta.detach().clone(), np.zeros(len(theta), int) if done is None else done)
    with isolated(theta.device):
        return replace(solution, theta=solution.theta.clone(), damping=solution.damping.clone(), groups=groups)


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
        n_rows = batches.largest
        if solver == "auto" and batches.memory is not None:  # averages are of P x P matrices
            return Cholesky()
    size = problem.network.n_parameters if selection is None else selection.check(problem.network)
    return SOLVERS[choose_solver(solver, size, n_rows * problem.n_curvature)]()


@dataclass
class _Loop(Loop):
    """The options of a run; what changes from iteration to iteration is in ``State`` and in ``Work``."""

    damping: float | Tensor
    strategy: DampingStrategy
    scaling: Scaling
    rules: Rules
    solver: LinearSolver
    seed: int
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        self.steps = 0
        self.active: Active = EVERYTHING
        self.averages = self.batches is not None and self.batches.memory is not None
        self.remembers = self.averages and isinstance(self.solver, Cholesky | Eigh)
        if self.averages and not isinstance(self.solver, Cholesky | Eigh | Dual):
            raise ValueError(
                "Averaging over mini-batches needs solver='cholesky', 'eigh' or 'dual'; got "
                f"{type(self.solver).__name__}."
            )
        self.rules.check(self.problem.network, self.batches)
        self.recordable = self._can_be_recorded()
        self.recorded: _graph.Recorded | None = None
        self.alike = self.n_alike = 0
        self.stepper = Stepper(
            self.solver, self.rules.accelerations, self.rules.n_dampings, self.rules.line_search, self.batches is None
        )

    def _start(self, theta: Tensor, done: np.ndarray) -> tuple[State, Work]:
        point = self.problem.evaluate(theta, keep=self.batches is None)
        damping = torch.as_tensor(self.damping, dtype=theta.dtype, device=theta.device).expand(len(theta)).clone()
        # where batches are averaged, the damping is a prior that only difficulties raise; it fades
        least = damping if self.averages else torch.full_like(damping, self.stopping.min_damping)
        average = None
        if self.batches is not None:
            average = self.batches.average
            if isinstance(self.batches, Stream):
                least = torch.full_like(damping, self.batches.least_damping)
        state = self._state(theta, point, done, damping, least, self.strategy.start(damping))
        previous = torch.zeros_like(theta) if self.rules.looks_back else None
        state = replace(state, previous=previous, rules=self.rules.start(theta, point.objective))
        stale = torch.ones_like(state.status, dtype=torch.bool)
        return state, Work(forwards=point.forwards, stale=stale, average=average)

    def _advance(
        self, epochs: Iterator | None, state: State, work: Work, latest: int
    ) -> tuple[State, Work, dict[str, Tensor]]:
        """On a GPU, replay an iteration that was recorded, or record one where the batch has kept its size a while."""
        races = any(reached_at == latest for reached_at, _ in self.stopping.race)
        if not self.recordable or races:
            return super()._advance(epochs, state, work, latest)
        n_models = state.model.shape[0]
        if self.recorded is not None and len(self.recorded.carry[0].model) == n_models:
            if state is not self.recorded.carry[0]:  # a race went on from the last replay
                self.recorded.set(_carry(state, work))
            self.recorded.graph.replay()
        else:
            self.recorded = None
            self.alike = self.alike + 1 if n_models == self.n_alike else 1
            self.n_alike = n_models
            if self.alike <= _graph.RECORD_AFTER or latest + _graph.RECORD_FOR > self.stopping.max_iter:
                return super()._advance(epochs, state, work, latest)
            self.recorded = _graph.recorded(self._recordable_iteration, _carry(state, work), state.theta.device)
            if self.recorded is None:
                self.recordable = False
                return super()._advance(epochs, state, work, latest)
        (state, work), curves = self.recorded.values()
        return state, work, curves

    def _recordable_iteration(self, carry: tuple[State, Work]) -> tuple[tuple[State, Work], dict[str, Tensor]]:
        state, work = self._iterate(self.problem, *carry)
        state, curves = self._judge(state, work, None)
        return _carry(state, work), curves

    def _can_be_recorded(self) -> bool:
        """Whether an iteration is the same work on the device each time, without a look at values.

        Rules and losses of the user's own are not trusted with that.
        """
        rules, problem = self.rules, self.problem
        parts = [self.strategy, self.scaling, problem.loss, problem.network, *rules.accelerations]
        return (
            problem.y.device.type in _graph.GRAPHS
            and self.batches is None
            and self.callback is None
            and type(self.solver) in (Cholesky, Dual)
            and not problem.network.uses_autograd
            and not problem.loss.n_draws
            and all(isinstance(part.rows, TensorRows) for part in (problem, self.validation) if part is not None)
            and (rules.line_search, rules.acceptance, rules.selection, rules.n_dampings) == (None, None, None, 1)
            and all(_is_own(part) for part in parts)
        )

    def _carries_along(self, running: Tensor) -> bool:
        """A smaller batch must be recorded anew: that pays when half of the models are done."""
        return self.recorded is not None and 2 * int(running.sum()) > len(running)

    def _on_batch(self, index: np.ndarray, state: State, work: Work) -> tuple[State, Work]:
        problem = self.problem.take(index, unbiased=self.averages)
        if self.averages and problem.loss.n_draws and not isinstance(self.batches, Stream):  # rows come only once
            problem = problem.informative(state.theta, [self.seed, self.steps, 1])
        point = problem.evaluate(state.theta)
        state = replace(state, objective=point.objective)
        stream = self.batches if isinstance(self.batches, Stream) else None
        average = work.average if stream is None else stream.average  # what is tried again counts once
        work = Work(point.forwards, torch.ones_like(work.stale), largest=work.largest, average=average)
        state, work = self._iterate(problem, state, work)
        if stream is not None and bool(work.stale.all()):
            stream.latest = work.average
        share = self.batches.iterate_rate(self.steps) if self.batches is not None else 1.0
        state = replace(state, mean_theta=state.mean_theta.lerp(state.theta, share) if share < 1 else state.theta)
        return state, work

    def _after_epoch(self, state: State, work: Work) -> tuple[State, Work]:
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
            if 2 * index.shape[0] < work.stale.shape[0] and not getattr(self.solver, "whole_batch", False):
                part = select(replace(work, spare=None, system=None, rows=None), index)
                part = self._linearise(problem.models(index), select(state, index), part)
                merged = [scatter(getattr(work, k), index, getattr(part, k)) for k in ("system", "scale", "largest")]
                return replace(work, system=merged[0], scale=merged[1], largest=merged[2], rows=None)
        accumulator = self.solver.accumulator(state.theta)
        active = self.active
        system, rows = linearise(problem, state.theta, work.forwards, accumulator, self.workspace, active)
        average = None
        if self.remembers and isinstance(self.batches, Stream):  # later batches may have another penalty
            data, penalty = system.apart()
            before = work.average or data.of_unknown_rows(problem.network.uses_autograd)
            average = data.averaged(before, self.rate)
            system = average.penalised(penalty)
        elif self.remembers:
            system = average = system.averaged(work.average, self.rate)
        largest, scale = work.largest, work.scale
        # one number for all, as ``identity`` gives it, is spread out where models were picked from it
        if scale is None or self.scaling is not identity or scale.stride() != (0, 0):
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
        rate = self.rate
        attempt, unneeded = self.stepper.propose(problem, state, work, self.active, rate)
        point = attempt.point
        possible = Choice(attempt.ok & (point.objective < torch.inf))
        if problem.network.uses_autograd:
            possible = Choice(possible.mask & self._is_short(state, work, attempt.step))
        objective = point.objective if possible.all else torch.where(possible.mask, point.objective, torch.inf)
        tiniest = constant(torch.finfo(objective.dtype).tiny, objective)
        gain = (state.objective - objective) / torch.maximum(attempt.predicted, tiniest)
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
        # a prior that is seen once weighs less the more memories of rows have gone by
        fades = self.remembers and rate < 1
        least = state.least_damping * min(1.0, 1 / (rate * self.steps)) if fades else state.least_damping
        state = evolve(
            state,
            theta=choose(attempt.theta, state.theta),
            objective=choose(point.objective, state.objective),
            loss=choose(point.loss, state.loss),
            damping=running(torch.maximum(damping, least), state.damping),
            memory=memory,
            rules=self.rules.update(memories, accept),
        )
        average = work.average
        if before is not None and not possible.all:  # a batch that gave no finite step is not remembered
            average = possible(average, before)
        return state, evolve(work, forwards=forwards, spare=spare, stale=accept, tiny=tiny, average=average)

    def _is_short(self, state: State, work: Work, step: Tensor) -> Tensor:
        """Whether steps (B, p) are not far longer than what they start from, where that is not all zero."""
        assert work.scale is not None
        reach = (work.scale * self.active.restrict(state.theta).square()).sum(1)
        long = (work.scale * step.square()).sum(1) > LONGEST_STEP**2 * reach
        return ~long | (reach == 0) | (state.damping > SHORT_ENOUGH)

    def _tiny(self, state: State, step: Tensor, possible: Choice, choose: Choice) -> Tensor | None:
        """Rejected steps (B,) below the resolution of the parameters; None where all were accepted."""
        if choose.all:
            return None
        if self.rules.varies:  # other parameters may have further to go
            return torch.zeros_like(choose.mask)
        eps = torch.finfo(step.dtype).eps
        short = step.abs() <= eps * self.active.restrict(state.theta).abs()
        return short.all(1) & possible.mask & ~choose.mask

    def _reasons(self, state: State, work: Work, progress: Choice) -> list[tuple[Tensor, Status]]:
        options, reasons = self.stopping, []
        if work.system is not None and not progress.all:  # where every model gains, none is stationary
            flat, broken = stationary(work.system, state, work.stale, options.gradient_tol)
            reasons += [broken] if self.rules.varies else [flat, broken]
        if work.system is not None and work.tiny is not None:
            power, penalty = self.problem.loss.exact_power, self.problem.penalty()
            penalty = None if penalty is None else self.active.restrict(penalty)
            reasons += stuck(work.system, state, work.tiny, options, power, penalty)
        elif self.batches is not None:
            reasons += [(~(state.damping < options.max_damping), Status.DAMPING)]
        return reasons

    def _curves(self, state: State) -> dict[str, Tensor]:
        return {"damping": state.damping}

    def _waited(self, work: Work) -> Tensor | int:
        # a rejected step has not been taken: too many of them end in the damping's maximum
        return 1 if self.batches is not None else work.stale

    def _select(self, work: Work, keep: Tensor) -> Work:
        return select(replace(work, spare=None, rows=None), keep)

    @property
    def rate(self) -> float:
        """Weight of the present step against earlier ones: below 1 only where mini-batches are averaged."""
        return 1.0 if self.batches is None else self.batches.rate(self.steps)


def _carry(state: State, work: Work) -> tuple[State, Work]:
    """What an iteration on a GPU, which linearises every model, takes from the one before."""
    return state, Work(work.forwards, work.stale, largest=work.largest)


def _is_own(part: object) -> bool:
    """Whether a function or an object is of this package."""
    return str(getattr(part, "__module__", "")).startswith("sklm.")
