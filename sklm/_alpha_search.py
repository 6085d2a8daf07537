"""The search for a penalty by cross-validation, and what a fit does with what was found."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from ._prepared import Prepared, run_together
from .optim import SearchInterrupted, Status, Stopping, cross_validate_alpha, stack_problems
from .optim._isolation import isolated

#: where there may be no noise, there is no penalty if the leave-one-out loss of all rows is so many times less without,
#: after so many iterations
EVIDENTLY, JUDGING_ITERATIONS = 10.0, 300


def choose_alphas(
    fits: list[Prepared], models_at_once: int, jacobian_max_rows: int | str | None = "auto"
) -> list[Prepared]:
    """Return the fits with the penalty that cross-validation finds for each, where they have folds for that.

    Where it finds no noise, their further starts join.

    Parameters
    ----------
    fits : list of Prepared
        Of equal keys.
    models_at_once : int
        How many models fit in memory.
    jacobian_max_rows : int, 'auto' or None
        Of the fits of all rows that judge a penalty.

    Raises
    ------
    SearchInterrupted
        If the user stops the search.
    """
    first, every = fits[0], [fit.folds for fit in fits if fit.folds is not None]
    if first.folds is None:
        return fits
    device = first.problem.y.device
    stopping: Stopping = first.options["stopping"]
    half = replace(stopping, max_time=stopping.max_time / 2)  # the rest is for the fit
    began = time.monotonic()
    options = {name: value for name, value in first.options.items() if name not in ("damping", "stopping")}
    with isolated(device):
        by_rows = first.has_rows_of_its_own and max(len(fit.theta) for fit in fits) <= models_at_once
        one = torch.zeros(1, dtype=torch.int64, device=device)
        parts = [fit.problem.models(one) for fit in fits]
        if len(every[0].rows) < first.problem.n_samples:
            parts = [part.take(folds.rows) for part, folds in zip(parts, every, strict=True)]
        problem = stack_problems(parts)
        search = cross_validate_alpha(
            problem,
            torch.from_numpy(np.stack([folds.start for folds in every])).to(device, problem.y.dtype),
            torch.from_numpy(np.stack([folds.of_row for folds in every])).to(device),
            first.folds.n_held_out,
            damping=torch.tensor([fit.options["damping"] for fit in fits], dtype=problem.y.dtype, device=device),
            alphas=np.stack([folds.alphas for folds in every]),
            stopping=half,
            models_at_once=models_at_once,
            settle=not by_rows,
            **options,
        )
        # what takes the place of more rows weighs less beside all of them
        share = problem.n_samples / first.problem.n_samples
        result = []
        for fit, best, alphas, scores in zip(fits, search.best, share * search.alphas, search.scores, strict=True):
            fit = replace(fit, alpha_scores=dict(zip(alphas.tolist(), scores.tolist(), strict=True)), folds=None)
            result.append(replace(fit, **fit.penalised(float(alphas[best]))))
        noiseless, doubtful = search.noiseless.copy(), np.flatnonzero(search.doubtful)
        if len(doubtful):
            together = models_at_once // max(len(fit.theta) for fit in fits)
            for part in np.array_split(doubtful, -(-len(doubtful) // together)):
                some = [result[number] for number in part]
                noiseless[part] = _are_better_without(some, search.chosen[part], half.left(began), jacobian_max_rows)
        for number in np.flatnonzero(noiseless):
            result[number] = replace(result[number], **result[number].penalised(0.0))
            result[number] = replace(result[number], **result[number].joined())
        return result


def _are_better_without(
    fits: list[Prepared], chosen: np.ndarray, stopping: Stopping, jacobian_max_rows: int | str | None
) -> np.ndarray:
    """Whether fits (M,) are evidently better without their ``chosen`` penalty, by the leave-one-out loss of all rows.

    A single row that is left out has its neighbours in the fit; and of several starts, one is in a good minimum.
    """
    began, most = time.monotonic(), min(stopping.max_iter, JUDGING_ITERATIONS)
    values: list[list[float | None]] = []
    kept = torch.empty(0)
    for tried in (fits, [replace(fit, **fit.penalised(0.0)) for fit in fits]):
        left = replace(stopping.left(began), max_iter=most, target_loss=-1.0, together=False)
        tried = [replace(fit, options={**fit.options, "stopping": left}) for fit in tried]
        solution = run_together(tried, jacobian_max_rows)
        leaders = solution.leaders()
        kept = kept if values else solution.theta[torch.from_numpy(leaders).to(solution.theta.device)]
        if Status.INTERRUPTED in solution.status:
            raise SearchInterrupted(chosen, kept)
        if Status.TIME in solution.status:
            return np.zeros(len(fits), dtype=bool)
        values.append([fit.leave_one_out(solution, int(row)) for fit, row in zip(tried, leaders, strict=True)])
    with_penalty, without = np.array(values, dtype=float)  # None is NaN
    return EVIDENTLY * without < with_penalty
