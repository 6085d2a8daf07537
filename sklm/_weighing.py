"""``relevance='auto'`` of LMClassifier: columns are weighed by how much they matter, once the penalty is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ._alpha_search import for_search
from ._prepared import Prepared
from .optim import Solution, Status, Stopping, cross_validate_alpha, weigh_inputs
from .optim._state import joined
from .optim._status import FINAL

#: what the penalty is multiplied by in a round: a judged one is rarely too small
FACTORS = (1.0, 0.3, 0.1)
#: no penalty below this share of that of coefficients of deviation one is tried: rows left out may all be right, with
#: any certainty
LEAST_PRIOR = 0.1


def weigh_columns(
    fits: list[Prepared],
    solution: Solution,
    stopping: Stopping,
    models_at_once: int,
    solve: Callable[[list[Prepared]], tuple[Solution, np.ndarray]],
) -> tuple[list[Prepared], Solution]:
    """Weigh the columns of fits, and fit those again that are better for it on rows left out.

    Parameters
    ----------
    fits : list of M Prepared
        Of equal keys, with their penalties; those without ``weighing`` folds stay as they are.
    solution : Solution
        Of one model a fit.
    stopping : Stopping
        With the time that is left.
    models_at_once : int
        How many models fit in memory.
    solve : callable
        From fits to their solution, and the number of the best start of each in it.

    Returns
    -------
    fits : list of M Prepared
    solution : Solution
        Of one model a fit: the new one where it came to an end, else the one that was given. If a limit or a person
        ends this, all say so.
    """
    numbers = [row for row, fit in enumerate(fits) if fit.weighing is not None and solution.came_to_an_end(row)]
    if not numbers:
        return fits, solution
    began, final = time.monotonic(), None
    results, every = list(fits), [solution.only(np.array([row])) for row in range(len(fits))]
    try:
        weighed = _weighed([fits[number] for number in numbers], stopping, models_at_once)
        left = replace(stopping.left(began), together=False)
        better = {
            number: replace(fit, options={**fit.options, "stopping": left})
            for number, fit in zip(numbers, weighed, strict=True)
            if fit is not None
        }
        if better:
            again, best = solve(list(better.values()))
            final = next((status for status in again.status if status in FINAL), None)
            for (number, fit), row in zip(better.items(), best, strict=True):
                if again.came_to_an_end(int(row)):
                    results[number], every[number] = fit, again.only(np.array([row]))
    except KeyboardInterrupt:
        final = Status.INTERRUPTED
    together = replace(joined(every), groups=solution.groups)
    return results, together if final is None else replace(together, status=[final] * len(fits))


def _weighed(fits: list[Prepared], stopping: Stopping, models_at_once: int) -> list[Prepared | None]:
    """The fits with weighed columns and a penalty to go with that, None for those that are not better for it."""
    began, every = time.monotonic(), [fit.weighing for fit in fits if fit.weighing is not None]
    problem, theta, numbers, options = for_search(fits, every)
    options["models_at_once"], held = models_at_once, every[0].n_held_out
    # what takes the place of more rows weighs less beside all of them
    share = len(every[0].rows) / fits[0].problem.n_samples
    alphas = np.array([[fit.alpha / share] for fit in fits])
    least = np.array([LEAST_PRIOR * (fit.prior or 0.0) / share for fit in fits])
    search = cross_validate_alpha(problem, theta, numbers, held, alphas=alphas, stopping=stopping, **options)
    left = stopping.left(began)
    found = weigh_inputs(problem, search, numbers, held, factors=FACTORS, least_alpha=least, stopping=left, **options)
    assert found.scales is not None
    result: list[Prepared | None] = []
    for fit, scales, alpha in zip(fits, found.scales, share * found.alpha, strict=True):
        weighed = fit.weighed(scales)
        result.append(None if weighed is fit else replace(weighed, **weighed.penalised(float(alpha))))
    return result
