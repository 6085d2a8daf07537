"""From a linearisation to a trial: solve, correct, evaluate; several dampings, or several rates, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._constant import constant
from ..architectures._base import Forward
from ._acceleration import Acceleration, Linearised
from ._batch import evolve, repeat, scatter, select, where
from ._damping import Trial
from ._line_search import LineSearch
from ._linear import LinearSolver
from ._problem import Evaluation, Problem
from ._selection import Active
from ._state import State, Work

#: from one of several dampings to the next: Marquardt's factor (1963)
DAMPING_FACTOR = 10.0


@dataclass
class Attempt:
    """A trial step of every model.

    Attributes
    ----------
    theta : (B, P)
        Where it leads.
    step : (B, p)
        The step, of the parameters that move.
    point : Evaluation
        At ``theta``.
    predicted : (B,)
        Reduction that the quadratic model predicts.
    damping : (B,)
        That made the step.
    ok : (B,) bool
        False where the factorisation failed.
    """

    theta: Tensor
    step: Tensor
    point: Evaluation
    predicted: Tensor
    damping: Tensor
    ok: Tensor


@dataclass
class Stepper:
    """Makes trial steps; the loop says where, and decides about them.

    Parameters
    ----------
    solver : LinearSolver
    accelerations : list of Acceleration
    n_dampings : int
        Dampings tried at once.
    line_search : LineSearch or None
    keep : bool
        Whether forward passes are worth keeping.
    """

    solver: LinearSolver
    accelerations: list[Acceleration]
    n_dampings: int
    line_search: LineSearch | None
    keep: bool
    _wide: tuple[Problem, int, Problem] | None = field(default=None, init=False)
    _rates: Tensor | None = field(default=None, init=False)

    def propose(
        self, problem: Problem, state: State, work: Work, active: Active, rate: float
    ) -> tuple[Attempt, list[Forward] | None]:
        """Return a trial step and forward passes that nobody will need afterwards, if there are any."""
        if self.n_dampings == 1:
            return self._attempt(problem, state, work, active, rate), None
        return self._best_of_several(problem, state, work, active, rate)

    def _attempt(self, problem: Problem, state: State, work: Work, active: Active, rate: float) -> Attempt:
        assert work.scale is not None
        used = state.damping if rate == 1 else state.damping * rate
        factor = self.solver.factorise(work.system, used, work.scale)
        step, gradient = factor.step, work.system.gradient
        shift = used.unsqueeze(1) * work.scale
        predicted = torch.addcmul(gradient, shift, step, value=-1).mul_(step).sum(1).mul_(constant(-0.5, step))
        if rate != 1:  # of a step that goes only part of the way
            slope = (gradient * step).sum(1)
            predicted, step = rate * rate * predicted - rate * (1 - rate) * slope, step * rate
        if self.accelerations:
            at = Linearised(
                problem,
                state.theta,
                work.forwards,
                work.rows,
                gradient,
                work.scale,
                factor.step,
                used,
                factor.solve,
                factor.quadratic,
                None if state.previous is None else active.restrict(state.previous),
                active,
            )
            for rule, memory in zip(self.accelerations, state.rules["acceleration"], strict=True):
                step = step + rule.correct(at, step, memory)
                if rule.first_order:
                    predicted = at.reduction(step)
        theta = active.move(state.theta, step)
        point = problem.evaluate(theta, keep=self.keep, reuse=work.spare)
        return Attempt(theta, step, point, predicted, state.damping, factor.ok)

    def _best_of_several(
        self, problem: Problem, state: State, work: Work, active: Active, rate: float
    ) -> tuple[Attempt, list[Forward] | None]:
        """Try ``n_dampings`` dampings of every model, a power of a factor apart, as so many more models.

        The step with the lowest objective counts. Where none lowers it, that is the shortest one, so that a rejection
        raises the damping from the largest that was tried. For an even number there is one more above the present
        damping than below: strategies lower it after every success, so that larger ones are the more likely to help.
        """
        n_models, k = len(state.theta), self.n_dampings
        powers = torch.arange(-((k - 1) // 2), k // 2 + 1, dtype=state.damping.dtype, device=state.damping.device)
        dampings = torch.maximum(state.damping[:, None] * DAMPING_FACTOR**powers, state.least_damping[:, None])
        wide_state = evolve(
            state,
            theta=repeat(state.theta, k),
            damping=dampings.flatten(),
            previous=repeat(state.previous, k),
            rules=repeat(state.rules, k),
        )
        wide_work = evolve(
            work,
            forwards=repeat(work.forwards, k),
            system=repeat(work.system, k),
            scale=repeat(work.scale, k),
            # copies of the rows would cost more than they save
            rows=repeat(work.rows, k) if n_models == 1 else None,
        )
        attempt = self._attempt(self._repeated(problem, n_models), wide_state, wide_work, active, rate)
        value = attempt.point.objective
        value = torch.where(attempt.ok & (value < torch.inf), value, torch.inf).view(n_models, k)
        lowest, number = value.min(1)
        number = torch.where(lowest < state.objective, number, k - 1)
        best = torch.arange(0, n_models * k, k, device=number.device) + number
        return select(attempt, best), attempt.point.forwards

    def _repeated(self, problem: Problem, n_models: int) -> Problem:
        """The problem with every model ``n_dampings`` times."""
        if self._wide is None or self._wide[0] is not problem or self._wide[1] != n_models:
            index = repeat(torch.arange(n_models, device=problem.y.device), self.n_dampings)
            self._wide = problem, n_models, problem.models(index)
        return self._wide[2]

    def search(
        self,
        problem: Problem,
        state: State,
        work: Work,
        active: Active,
        attempt: Attempt,
        trial: Trial,
        rejected: Tensor,
        look: bool,
    ) -> tuple[Attempt, Tensor]:
        """Look for a better rate along the ``rejected`` (B,) steps.

        Returns the attempt, changed where one was found, and where that is (B,). With ``look`` the others are left out;
        without, nobody has to wait for the device to say which these are.
        """
        assert self.line_search is not None
        if look:
            index = rejected.nonzero().squeeze(1)
            if not len(index):
                return attempt, rejected
        else:
            index = torch.arange(len(rejected), device=rejected.device)
        if self._rates is None:  # copied to the device once: copies wait for it
            self._rates = torch.tensor(self.line_search.rates(), dtype=state.theta.dtype, device=state.theta.device)
        rates = self._rates
        m, whole = len(rates), attempt.step[index]
        steps = (whole.unsqueeze(1) * rates[:, None]).flatten(0, 1)
        theta = active.move(repeat(state.theta[index], m), steps)
        point = problem.models(repeat(index, m)).evaluate(theta, keep=self.keep)
        slope = (work.system.gradient[index] * whole).sum(1)
        number, take = self.line_search.choose(select(trial, index), point.objective.view(-1, m), rates, slope)
        best = torch.arange(0, len(theta), m, device=theta.device) + number
        lower = point.objective[best] < state.objective[index]  # false for NaN
        take = take & lower & rejected[index]
        if point.forwards is None or attempt.point.forwards is None:
            point, attempt = evolve(point, forwards=None), evolve(attempt, point=evolve(attempt.point, forwards=None))
        new = evolve(select(attempt, index), theta=theta[best], step=steps[best], point=select(point, best))
        changed = scatter(attempt, index, where(take, new, select(attempt, index)))
        return changed, torch.zeros_like(rejected).index_copy(0, index, take)
