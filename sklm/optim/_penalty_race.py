"""Models of every penalty on every fold, trained in stages, and their losses on the rows that they have not seen."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._data import TensorRows
from ._memory import VECTORS
from ._minimize import levenberg_marquardt, resolve_solver
from ._problem import Problem
from ._status import Status
from ._stopping import Stopping

#: bytes of the matrices and vectors of all models that are trained together, on a CPU: with more, operations wait for
#: memory (docs/performance.md)
CACHED_BYTES = 8 * 2**20


class PenaltyRace:
    """Models of every fit, penalty and fold (M, A, H): their points, and losses on the rows that they have not seen.

    They start from theta, (M, P) or (M, H, P); ``scales`` (M, H, F) are factors of the inputs in every fold, if any.

    Attributes
    ----------
    share : (M, 1, H) ndarray
        Weight of the rows left out.
    losses : (M, A, H) ndarray
    scores : (M, A) ndarray
        Their mean by weight, infinite where it is not finite.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Tensor,
        folds: Tensor,
        n_held_out: int,
        alphas: np.ndarray,
        damping: float | Tensor,
        models_at_once: int | None,
        options: dict[str, Any],
        scales: Tensor | None = None,
    ):
        if not isinstance(problem.rows, TensorRows):
            raise TypeError("The search for a penalty takes rows in memory; problem.take(index) returns such.")
        self.scales = scales
        self.problem, self.alphas, self.models_at_once, self.options = problem, alphas, models_at_once, options
        self.shape = shape = (*alphas.shape, n_held_out)
        device, dtype = theta.device, theta.dtype
        self.left_out = folds[:, None, None, :] == torch.arange(n_held_out, device=device)[:, None]  # (.., 1, H, N)
        self.weights = problem.weights[:, None, None, :]
        held = (self.weights * self.left_out).sum(-1).expand(shape[0], 1, n_held_out)
        seen = (self.weights * ~self.left_out).sum(-1).expand(shape[0], 1, n_held_out)
        self.share = held.where(seen > 0, torch.zeros_like(held)).cpu().numpy()
        self.fit = torch.arange(shape[0], device=device)[:, None, None].expand(shape)
        self.alpha = torch.tensor(alphas, dtype=dtype, device=device)[:, :, None].expand(shape)
        starts = theta if theta.ndim == 3 else theta[:, None]
        self.points = starts[:, None].expand(*shape, theta.shape[-1]).clone()
        first = torch.as_tensor(damping, dtype=dtype, device=device).expand(shape[0])
        self.damping = first[:, None, None].expand(shape).clone()
        self.losses, self.scores = np.full(shape, np.inf), np.full(shape[:2], np.inf)
        self.began = time.monotonic()

    def train(self, which: np.ndarray, stopping: Stopping) -> tuple[np.ndarray, bool]:
        """Go on with candidates (M, A); return which have come to an end (M, A), and whether there was time for all.

        ``stopping.max_time`` counts from the beginning of the race.
        """
        models, ended = np.argwhere(which[..., None] & (self.share > 0)), np.ones(self.shape, dtype=bool)
        # whoever stops this early has the most likely penalties, which are in the middle
        models = models[np.argsort(np.abs(models[:, 1] - self.shape[1] // 2), kind="stable")]
        at_once = self._models_at_once(len(models), stopping.max_time)
        for first in range(0, len(models), at_once):
            where = tuple(models[first : first + at_once].T)
            index = tuple(torch.from_numpy(numbers).to(self.points.device) for numbers in where)
            solution = levenberg_marquardt(
                self._part(index, ~self.left_out, self.alpha[index]),
                self.points[index],
                damping=self.damping[index],
                stopping=replace(stopping.left(self.began), target_loss=-1.0, negligible=0.0, slight=0.0, race=()),
                **self.options,
            )
            self.points[index], self.damping[index] = solution.theta, solution.damping.clamp(max=1.0)
            ended[where] = [status not in (Status.MAX_ITER, Status.TIME) for status in solution.status]
            held = self._part(index, self.left_out, torch.zeros_like(self.alpha[index]))
            self.losses[where] = held.evaluate(solution.theta, keep=False).objective.cpu().numpy()
            if Status.INTERRUPTED in solution.status:
                raise KeyboardInterrupt
        losses = np.where(self.share > 0, self.losses, 0.0)
        total = self.share.sum(axis=2)
        with np.errstate(all="ignore"):
            scores = (losses * self.share).sum(axis=2) / total
        self.scores = np.where(np.isfinite(scores), scores, np.inf)
        return np.asarray(ended.all(axis=2)), time.monotonic() - self.began < stopping.max_time

    def leaders(self) -> tuple[np.ndarray, Tensor]:
        """The penalties (M,) with the least loss so far on a fold's rows, and the models (M, P) that have it.

        Where no loss is known yet, that is a penalty from the middle.
        """
        least = self._losses_that_count().min(axis=2)
        alpha = np.where(np.isfinite(least).any(axis=1), least.argmin(axis=1), self.shape[1] // 2)
        theta, losses = self.models(alpha)
        return np.take_along_axis(self.alphas, alpha[:, None], axis=1)[:, 0], of_best_folds(theta, losses)

    def models(self, alpha: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The models (M, H, P) with penalties number ``alpha`` (M,), and their losses (M, H), infinite for no rows."""
        rows = np.arange(len(alpha))
        return self.points[rows, alpha], self._losses_that_count()[rows, alpha]

    def _losses_that_count(self) -> np.ndarray:
        return np.where((self.share > 0) & np.isfinite(self.losses), self.losses, np.inf)

    def _models_at_once(self, n_models: int, max_time: float) -> int:
        """How many of so many models are trained together: as many as fit in memory, and on a CPU in its caches.

        Under a limit of time those that come first must not have more of it than others.
        """
        problem, most = self.problem, self.models_at_once or max(n_models, 1)
        if problem.y.device.type != "cpu" or max_time < float("inf"):
            return most
        n_rows = int((~self.left_out).sum(-1).max()) * problem.n_curvature
        solver = resolve_solver(self.options.get("solver", "auto"), problem, None, self.options.get("param_selection"))
        size = problem.y.element_size()
        need = solver.working_bytes(1, problem.network, n_rows, size) + VECTORS * problem.network.n_parameters * size
        n_parts = -(-n_models // max(1, min(most, CACHED_BYTES // need)))
        return -(-n_models // max(n_parts, 1)) or 1  # none of them much smaller than others

    def _part(self, index: tuple[Tensor, ...], rows: Tensor, alpha: Tensor) -> Problem:
        """The models ``index`` on their ``rows``, in or out of their folds, with weights (b, n) that sum to one."""
        rows, chosen = rows.expand(*self.shape, -1)[index], None
        weights = self.weights.expand(*self.shape, -1)[index] * rows
        if self._gives_rows(len(rows)):
            # as many for all: of folds that are larger than others, the last ones have no weight
            number = int(rows.sum(-1).max())
            chosen = rows.byte().argsort(dim=-1, descending=True, stable=True)[:, :number]
            weights = weights.gather(-1, chosen)
        part = self.problem.resampled(self.fit[index], chosen, weights / weights.sum(-1, keepdim=True), alpha)
        if self.scales is None:
            return part
        X = part.rows.chunk(0, part.n_samples) * self.scales[index[0], index[2]].unsqueeze(-1)
        return replace(part, rows=TensorRows(X))

    def _gives_rows(self, n_models: int) -> bool:
        """Whether so many models get rows of their own; else all share one copy of them, some with no weight.

        Several copies of large rows take memory, and a convolution gathers the patches of shared ones once.
        """
        inputs = self.problem.rows.chunk(0, self.problem.n_samples)
        copies = n_models * inputs.shape[-2] * inputs.shape[-1] * inputs.element_size()
        return n_models == 1 or (not self.problem.network.samples_first and copies <= CACHED_BYTES)


def of_best_folds(theta: Tensor, losses: np.ndarray) -> Tensor:
    """Of models theta (M, H, P) with losses (M, H), those (M, P) with the least loss."""
    return theta[np.arange(len(losses)), losses.argmin(axis=1)]
