"""What a finished fit says of rows that it was fitted without, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._penalty import Folds
from .optim import MiniBatches, Problem, Solution, Status, leave_one_out
from .optim._isolation import isolated
from .optim._leave_one_out import LEAST_FREEDOM, LeftOut, leave_one_out_in_rows, left_out

#: with no more rows than parameters the leave-one-out loss takes a matrix of the rows: up to so many multiplications
KERNEL_WORK = 2e9
#: numbers of a Jacobian that is decomposed as it is, at most
MOST_ORTHOGONAL = 2e7


class RowsLeftOut:
    """Mixin of a prepared fit; whether its leave-one-out loss is known, and what it is."""

    problem: Problem
    validation: Problem | None
    options: dict[str, Any]
    batches: MiniBatches | None
    alpha: float
    folds: Folds | None

    @property
    def n_units(self) -> float:
        """Number of rows, counted as often as their weights count them."""
        problem = self.problem
        unit = problem.weights if problem.unit_weights is None else problem.unit_weights
        return float((problem.weights[0] / unit[0].clamp_min(torch.finfo(unit.dtype).tiny)).sum())

    @property
    def has_rows_of_its_own(self) -> bool:
        """Whether the leave-one-out loss is known, and means rows of which no copy stays in the fit."""
        repeats = self.folds is not None and self.folds.repeats
        return self._knows_rows and not repeats and self.n_units <= self.problem.n_samples + 0.5

    @property
    def predicts_rows(self) -> bool:
        """Whether the leave-one-out loss of a fit means something without a penalty, and costs little against it."""
        primal = self.options.get("solver", "dual") not in ("dual", "cg")
        return self._is_exact and primal and self.n_units * self.problem.n_curvature > self.problem.network.n_parameters

    @property
    def _knows_rows(self) -> bool:
        """The same, with a penalty."""
        return self.predicts_rows or self._knows_few_rows

    @property
    def _knows_few_rows(self) -> bool:
        problem, n_parameters = self.problem, self.problem.network.n_parameters
        n_rows = problem.n_samples * problem.n_curvature
        suits = problem.loss.is_squared and n_rows <= n_parameters and n_rows**2 * n_parameters <= KERNEL_WORK
        dual = self.options.get("solver", "cg") != "cg" and problem.y.dtype == torch.float64
        return suits and dual and self._is_exact and not self.predicts_rows

    @property
    def _is_exact(self) -> bool:
        """Whether a fit is a minimum of all parameters for all rows, with their curvature."""
        problem, selection = self.problem, self.options.get("param_selection")
        every = selection is None or selection.varies
        exact = not problem.loss.n_draws and self.batches is None and self.validation is None and every
        return exact and problem.y.device.type != "mps"

    def knows_rows_left_out(self, solution: Solution, row: int, rough: bool = False) -> bool:
        """Whether :meth:`leave_one_out` of a row of the solution is known."""
        known = self.predicts_rows or (rough and self.alpha > 0 and self._knows_few_rows)
        return known and solution.status[row] is not Status.TARGET and Status.INTERRUPTED not in solution.status

    def leave_one_out(self, solution: Solution, row: int, rough: bool = False) -> float | None:
        """The leave-one-out loss of a row of the solution, without wild extrapolation; None where it means nothing.

        With ``rough`` also where it can be ten times too high, with a penalty and no more rows than parameters.
        """
        if not self.knows_rows_left_out(solution, row, rough):
            return None
        value = leave_one_out if self.predicts_rows else leave_one_out_in_rows
        with isolated(self.problem.y.device):
            return float(value(*self.members(solution, np.array([row])), cut=True))

    def losses(self, solution: Solution, row: int) -> np.ndarray:
        """The losses (N,) of a row of the solution by sample, without weights."""
        problem, theta = self.members(solution, np.array([row]))
        with isolated(problem.y.device):
            outputs = [forward.outputs.clone() for _, forward in problem.forward_passes(theta, None)]
        return self._by_sample(torch.cat(outputs, 2))

    def losses_left_out(self, solution: Solution, row: int) -> np.ndarray | None:
        """The same of samples left out one by one; None if not known.

        Nothing is known of what a sample alone determines: its output is then that of the mean.
        """
        if not self.knows_rows_left_out(solution, row):
            return None
        left = self.left_out(solution, np.array([row]))
        return self._by_sample(left.outputs * (left.freedom > 100 * LEAST_FREEDOM)[:, None, :])

    def _by_sample(self, outputs: Tensor) -> np.ndarray:
        """Losses (N,) of outputs (1, K, N)."""
        y = self.problem.y if self.problem.y.ndim == 2 else self.problem.y[0]
        with isolated(y.device):
            y, outputs = y.mT.unsqueeze(-1), outputs.permute(2, 1, 0)  # samples in place of models
            return self.problem.loss.value(outputs, y, torch.ones_like(y[:, 0])).sum(-1).cpu().numpy()

    def members(self, solution: Solution, rows: np.ndarray) -> tuple[Problem, Tensor]:
        """The problem of as many models as ``rows`` (m,) of the solution, and their parameters (m, P)."""
        index = torch.from_numpy(rows).to(solution.theta.device)
        return self.problem.repeated(len(rows)), solution.theta[index]

    def left_out(self, solution: Solution, rows: np.ndarray) -> LeftOut:
        """What rows (m,) of the solution say of samples that are left out, as the mean of their outputs."""
        with isolated(self.problem.y.device):
            problem, theta = self.members(solution, rows)
            size = self.problem.n_samples * self.problem.n_curvature * theta.shape[1]
            orthogonal = self.options.get("solver") == "qr" and size <= MOST_ORTHOGONAL
            return left_out(problem, theta, cut=True, together=len(rows) > 1, orthogonal=orthogonal)
