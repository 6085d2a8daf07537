"""A penalty for classes that are long to fit: from one to the next while rows left out are predicted better."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import numpy as np
import torch

from ._prepared import Prepared
from .optim import SearchInterrupted, Status, Stopping, levenberg_marquardt
from .optim._isolation import isolated

#: what the first penalty is multiplied by: as far as each is better than all before, and where none is, downwards
UPWARDS, DOWNWARDS = (3.0, 10.0, 30.0), (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def climbed(fit: Prepared, stopping: Stopping) -> Prepared:
    """Return a fit in mini-batches with the penalty that is best for the rows of fold 0, which are left out.

    Parameters
    ----------
    fit : Prepared
        With ``folds`` that have ``batches``.
    stopping : Stopping
        Of a penalty; its time is for all of them.

    Returns
    -------
    Prepared

    Raises
    ------
    SearchInterrupted
        If the user stops the search.

    Notes
    -----
    Every penalty has the same start. To go on from the model of another one is shorter, but that is trained for longer
    than a fit, and keeps what it has memorised (docs/performance.md).
    """
    folds, problem, began = fit.folds, fit.problem, time.monotonic()
    assert folds is not None
    device, first = problem.y.device, float(folds.alphas[0])
    losses: dict[float, float] = {}
    models: dict[float, torch.Tensor] = {}

    def best() -> float:
        return min(losses, key=lambda alpha: float(folds.judge(losses[alpha])))

    with isolated(device):
        one = problem.repeated(1)
        seen, held = one.take(folds.rows[folds.of_row != 0]), one.take(folds.rows[folds.of_row == 0])
        start = torch.from_numpy(folds.start[None]).to(device, problem.y.dtype)

        def attempt(alpha: float) -> bool:
            """Fit with a penalty; whether it came to its end, and is the best so far."""
            solution = levenberg_marquardt(
                replace(seen, alpha=torch.full_like(seen.alpha, alpha), penalised=True),
                start,
                batches=copy.deepcopy(folds.batches),
                seed=fit.seed,
                callback=fit.watcher,
                **{**fit.options, "stopping": stopping.left(began)},
            )
            if losses and Status.TIME in solution.status:  # what memorises looks better before its end
                return False
            loss = float(held.evaluate(solution.theta, keep=False).loss[0])
            losses[alpha], models[alpha] = loss if np.isfinite(loss) else np.inf, solution.theta
            if Status.INTERRUPTED in solution.status:
                raise KeyboardInterrupt
            return best() == alpha

        try:
            attempt(first)
            for factors in (UPWARDS, DOWNWARDS):
                for factor in factors:
                    if time.monotonic() - began >= stopping.max_time or not attempt(factor * first):
                        break
                if best() != first:
                    break
        except KeyboardInterrupt:
            if not losses:
                raise
            raise SearchInterrupted(np.array([best()]), models[best()]) from None
    share = len(folds.rows) / problem.n_samples  # what takes the place of more rows weighs less beside all of them
    scores = {share * alpha: loss for alpha, loss in sorted(losses.items(), reverse=True)}
    searched = models[best()][0].cpu().double().numpy()
    left_out = np.array([losses[best()]])
    found = replace(fit, searched=searched, searched_losses=left_out, alpha_scores=scores, folds=None)
    return replace(found, **found.penalised(share * best()))
