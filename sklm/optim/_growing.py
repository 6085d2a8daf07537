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
    group if that is set. The starts of a single fit with a ``target_loss`` are then tried one after the other on the
    first subset, until one reaches it there; and whatever reaches it on a subset ends if it does so on all rows.

    Parameters
    ----------
    problem, theta, damping, stopping, validation, callback, groups, options
        As in :func:`levenberg_marquardt`. Iterations and time count over all stages.
    growth : Growth
    """
    began, solution = time.monotonic(), None
    done, latest = np.zeros(len(theta), dtype=int), 0
    order = np.random.default_rng(growth.seed).permutation(problem.n_samples)
    try:
        for number, size in enumerate(growth.sizes(problem)):
            stage = problem.take(np.sort(order[:size]))
            fresh = problem.take(np.sort(order[size : 2 * size])) if validation is None else validation
            until = int(np.ceil(stopping.max_iter * (1 - 0.5 ** (number + 1))))  # the rest is for more rows
            limits = replace(stopping.left(began), tol=0.02, n_iter_no_change=8, max_iter=until)
            fresh = replace(fresh, penalised=False)
            if number == 0 and growth.finalists == 1 and groups is None and stopping.target_loss >= 0:
                current = _one_by_one(stage, theta, fresh, damping, limits, callback, options)
                current, problem, validation = _keep(np.arange(len(current.score)), current, problem, validation)
                latest += int(current.n_iter.sum())
            else:
                current = levenberg_marquardt(
                    stage,
                    theta,
                    damping=damping,
                    stopping=limits,
                    validation=fresh,
                    callback=shifted(callback, latest),
                    done=done,
                    groups=groups,
                    **options,
                )
                latest += len(current.history["loss"])
            solution = current if solution is None else solution.followed_by(current)
            if growth.finalists is not None and growth.finalists < np.bincount(solution.group).max():
                keep = solution.leaders(growth.finalists)
                solution, problem, validation = _keep(keep, solution, problem, validation)
            theta, damping, done = solution.theta, solution.damping.clamp(max=1.0), solution.n_iter
            groups = solution.groups
            final = [status for status in current.status if status in FINAL]
            if final:
                solution = replace(solution, status=[final[0]] * len(solution.status))
                return _on_all_rows(solution, problem, validation)
            if all(status is Status.TARGET for status in solution.status):
                result = _on_all_rows(solution, problem, validation)
                if np.all(result.loss <= stopping.target_loss):
                    return result
        current = levenberg_marquardt(
            problem,
            theta,
            damping=damping,
            stopping=stopping.left(began),
            validation=validation,
            callback=shifted(callback, latest),
            done=done,
            groups=groups,
            **options,
        )
        return current if solution is None else solution.followed_by(current)
    except KeyboardInterrupt:  # between two stages; inside one, the loop handles it
        if solution is None:
            raise
        return _on_all_rows(solution.interrupted(), problem, validation)


def _one_by_one(
    problem: Problem,
    theta: Tensor,
    validation: Problem,
    damping: float | Tensor,
    stopping: Stopping,
    callback: Any,
    options: dict[str, Any],
) -> Solution:
    """Run the starts of one fit until one reaches ``target_loss``, and return those that ran."""
    began, latest, solutions = time.monotonic(), 0, []
    try:
        for row in range(len(theta)):
            one = torch.tensor([row], device=theta.device)
            solution = levenberg_marquardt(
                problem.models(one),
                theta[one],
                damping=damping[one] if isinstance(damping, Tensor) else damping,
                stopping=stopping.left(began),
                validation=validation.models(one),
                callback=shifted(callback, latest),
                **options,
            )
            latest += len(solution.history["loss"])
            solutions.append(solution)
            if solution.status[0] in (Status.TARGET, *FINAL):
                break
    except KeyboardInterrupt:  # between two starts
        if not solutions:
            raise
        return joined(solutions).interrupted()
    return joined(solutions)


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
