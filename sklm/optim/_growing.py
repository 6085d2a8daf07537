"""Coarse to fine: find the basin on a few rows, then finish on all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._minimize import levenberg_marquardt
from ._problem import Problem
from ._state import Progress, Solution, joined
from ._status import FINAL, Status
from ._stopping import Stopping


@dataclass(frozen=True)
class Growth:
    """Sizes of the row subsets that a fit starts on.

    Attributes
    ----------
    seed : int
        Of the order in which rows are taken.
    rows_per_parameter : float
        Curvature rows of the first subset for every parameter.
    factor : float
        Each subset is this much larger than the one before; the last is at most ``1 / factor`` of all rows.
    finalists : int or None
        How many models of a group, the best on fresh rows, go on after the first subset; None for all.
    """

    seed: int
    rows_per_parameter: float = 4.0
    factor: float = 8.0
    finalists: int | None = None

    def __post_init__(self) -> None:
        if self.factor <= 1 or self.rows_per_parameter <= 0:
            raise ValueError("factor must be above 1 and rows_per_parameter above 0.")

    def sizes(self, problem: Problem) -> list[int]:
        """Return the subset sizes for a problem; empty where it has too few rows for this to pay."""
        size = int(np.ceil(self.rows_per_parameter * problem.network.n_parameters / problem.n_curvature))
        sizes = []
        while size * self.factor <= problem.n_samples:
            sizes.append(size)
            size = int(np.ceil(size * self.factor))
        return sizes


def fit_growing(
    problem: Problem,
    theta: Tensor,
    growth: Growth,
    *,
    damping: float | Tensor,
    stopping: Stopping,
    validation: Problem | None = None,
    callback: Any = None,
    groups: np.ndarray | None = None,
    **options: Any,
) -> Solution:
    """Run :func:`levenberg_marquardt` on growing subsets of rows, and at last on all.

    A stage ends for a model when as many fresh rows (or the validation rows) no longer improve, by 2 % in eight
    iterations, after half of ``max_iter`` (then half of what is left, and so on), or for any other reason to stop; the
    next one starts from its best parameters there, with its damping. Every model's path is its own, whatever else is in
    the batch. The result, its score and its status are those of all rows, for ``growth.finalists`` models of every
    group if that is set.

    What reaches ``target_loss`` on a subset is done if all rows confirm it; a stage aims lower, by as much as the loss
    of new rows is above that of fitted ones in the mean. The starts of a single fit with one finalist are then tried
    one after the other on the first subset: one that reaches the target there goes on alone, and the next one is tried
    if it does not come to it on all rows. If none does, the best goes on.

    Parameters
    ----------
    problem, theta, damping, stopping, validation, callback, groups, options
        As in :func:`levenberg_marquardt`. Iterations of a model and time count over all stages.
    growth : Growth
    """
    fit = _Growing(problem, growth, stopping, validation, callback, options)
    alone = groups is None and growth.finalists == 1 and len(theta) > 1
    if alone and stopping.target_loss >= 0 and growth.sizes(problem):
        return fit.one_by_one(theta, damping)
    return fit.together(problem, validation, theta, damping, groups)


class _Growing:
    """What all models of a run share, the time it began, and iterations that the callback has seen."""

    def __init__(
        self,
        problem: Problem,
        growth: Growth,
        stopping: Stopping,
        validation: Problem | None,
        callback: Any,
        options: dict[str, Any],
    ):
        self.problem, self.growth, self.stopping, self.validation = problem, growth, stopping, validation
        self.callback, self.options = callback, options
        self.began, self.latest = time.monotonic(), 0
        self.order = np.random.default_rng(growth.seed).permutation(problem.n_samples)

    def together(
        self,
        problem: Problem,
        validation: Problem | None,
        theta: Tensor,
        damping: float | Tensor,
        groups: np.ndarray | None = None,
        solution: Solution | None = None,
    ) -> Solution:
        """All stages of some models, after a ``solution`` of the first one if that is done."""
        sizes = self.growth.sizes(problem)
        try:
            for number, size in enumerate(sizes):
                current = solution
                if number > 0 or current is None:
                    done = np.zeros(len(theta), dtype=int) if solution is None else solution.n_iter
                    current = self.stage(number, size, problem, validation, theta, damping, done, groups)
                    solution = current if solution is None else solution.followed_by(current)
                assert solution is not None
                finalists = self.growth.finalists
                if finalists is not None and finalists < np.bincount(solution.group).max():
                    keep = solution.leaders(finalists)
                    solution, problem, validation = _keep(keep, solution, problem, validation)
                theta, damping, groups = solution.theta, solution.damping.clamp(max=1.0), solution.groups
                final = [status for status in current.status if status in FINAL]
                if final:
                    solution = solution.ended(final[0])
                    return _on_all_rows(solution, problem, validation)
                if np.all(solution.loss <= self.stopping.target_loss):
                    result = _on_all_rows(solution, problem, validation)
                    if np.all(result.loss <= self.stopping.target_loss):
                        return result.ended(Status.TARGET)
            done = np.zeros(len(theta), dtype=int) if solution is None else solution.n_iter
            current = self.run(problem, theta, damping, self.stopping, validation, done, groups)
            return current if solution is None else solution.followed_by(current)
        except KeyboardInterrupt:  # between two stages; inside one, the loop handles it
            if solution is None:
                raise
            return _on_all_rows(solution.interrupted(), problem, validation)

    def one_by_one(self, theta: Tensor, damping: float | Tensor) -> Solution:
        """The starts of one fit, until one reaches ``target_loss`` on all rows."""
        size, ended = self.growth.sizes(self.problem)[0], None
        tried: list[tuple[int, Solution]] = []
        results: list[Solution] = []
        try:
            for row in range(len(theta)):
                problem, validation, start, first = self.only(row, theta, damping)
                none = np.zeros(1, dtype=int)
                solution = self.stage(0, size, problem, validation, start, first, none, None)
                if solution.loss[0] <= self.stopping.target_loss:
                    solution = self.together(problem, validation, start, first, None, solution)
                    results.append(solution)
                    if solution.status[0] is Status.TARGET:
                        return solution
                else:
                    tried.append((row, solution))
                if solution.status[0] in FINAL:
                    ended = solution.status[0]
                    break
        except KeyboardInterrupt:  # between two starts
            if not results and not tried:
                raise
            ended = Status.INTERRUPTED
        if results:
            best = results[joined(results).best]
            return best if ended is None else replace(best, status=[ended])
        row, best = tried[joined([solution for _, solution in tried]).best]
        problem, validation, start, first = self.only(row, theta, damping)
        if ended is None:
            return self.together(problem, validation, start, first, None, best)
        return _on_all_rows(replace(best, status=[ended]), problem, validation)

    def only(
        self, row: int, theta: Tensor, damping: float | Tensor
    ) -> tuple[Problem, Problem | None, Tensor, float | Tensor]:
        """The problem, validation rows, start and damping of one model."""
        one = torch.tensor([row], device=theta.device)
        validation = None if self.validation is None else self.validation.models(one)
        return (
            self.problem.models(one),
            validation,
            theta[one],
            damping[one] if isinstance(damping, Tensor) else damping,
        )

    def stage(
        self,
        number: int,
        size: int,
        problem: Problem,
        validation: Problem | None,
        theta: Tensor,
        damping: float | Tensor,
        done: np.ndarray,
        groups: np.ndarray | None,
    ) -> Solution:
        """Go on on so many rows, until as many fresh ones no longer improve."""
        rows = problem.take(np.sort(self.order[:size]))
        fresh = problem.take(np.sort(self.order[size : 2 * size])) if validation is None else validation
        until = int(np.ceil(self.stopping.max_iter * (1 - 0.5 ** (number + 1))))  # the rest is for more rows
        target = self.stopping.target_loss
        if target > 0:
            target *= optimism(size * problem.n_curvature, problem.network.n_parameters)
        limits = replace(self.stopping, tol=0.02, n_iter_no_change=8, max_iter=until, target_loss=target)
        return self.run(rows, theta, damping, limits, replace(fresh, penalised=False), done, groups)

    def run(
        self,
        problem: Problem,
        theta: Tensor,
        damping: float | Tensor,
        stopping: Stopping,
        validation: Problem | None,
        done: np.ndarray,
        groups: np.ndarray | None,
    ) -> Solution:
        solution = levenberg_marquardt(
            problem,
            theta,
            damping=damping,
            stopping=stopping.left(self.began),
            validation=validation,
            callback=shifted(self.callback, self.latest),
            done=done,
            groups=groups,
            **self.options,
        )
        self.latest += len(solution.history["loss"])
        return solution


def optimism(n_rows: int, n_parameters: int) -> float:
    """Share of the loss of new rows that is left of it on fitted ones, in the mean.

    The inverse of the factor of the final prediction error (Akaike 1969, Fitting autoregressive models for prediction),
    ``(n + p) / (n - p)``; zero without more rows than parameters.
    """
    return max(n_rows - n_parameters, 0) / (n_rows + n_parameters)


def shifted(callback: Any, latest: int) -> Any:
    """Return the callback of a run that goes on after ``latest`` iterations of others: it counts them."""
    if callback is None or latest == 0:
        return callback
    return lambda progress: callback(Progress(progress.iteration + latest, progress.state, progress.n_active))


def _keep(
    index: np.ndarray, solution: Solution, problem: Problem, validation: Problem | None
) -> tuple[Solution, Problem, Problem | None]:
    """Restrict everything to the models ``index`` (b,)."""
    rows = torch.from_numpy(index).to(solution.theta.device)
    return solution.only(index), problem.models(rows), None if validation is None else validation.models(rows)


def _on_all_rows(solution: Solution, problem: Problem, validation: Problem | None) -> Solution:
    """Score a stage's result as the caller expects it."""
    point = problem.evaluate(solution.theta, keep=False)
    judged = point if validation is None else validation.evaluate(solution.theta, keep=False)
    return replace(
        solution, validated=validation is not None, score=judged.objective.cpu().numpy(), loss=point.loss.cpu().numpy()
    )
