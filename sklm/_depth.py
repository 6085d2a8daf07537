"""``hidden_layer_sizes='auto'`` of LMRegressor: two hidden layers instead of one, where rows left out say so."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ._choosing import AUTO_WORK
from ._penalty import ENOUGH_ROWS, linearisation
from ._prepared import NO_PENALTY, Prepared, is_hopeless, ratio_of_losses, run_together
from .architectures import MLP
from .optim import Solution, Status, Stopping
from .optim._status import FINAL

#: two layers are tried where no more than the first share of the loss of zero outputs is left on the rows left out, as
#: with more noise it is a matter of chance which is ahead; and more than the second, and than so many times what ends a
#: long fit, as nobody needs more digits
LITTLE, EXACT, NEGLIGIBLE = 0.1, 1e-10, 10.0
#: their units are as many as give so many curvature rows a parameter; so many in a layer are the fewest, with so many
#: rows a parameter; and not less than this share of the parameters of one layer
ROWS_PER_PARAMETER, LEAST_UNITS, LEAST_ROWS, LEAST_SHARE = 2.0, 4, 1.2, 0.25
#: they may take as many multiplications as may have several starts, or as one layer does up to these
MOST_WORK = 5e8
#: two ratios to one layer, of the losses on rows left out by the search and one by one, must have a product below this;
#: without a penalty, where the latter may be far too low; and where that of one layer may be far too high. Where
#: neither has a penalty, that of the search counts as 1 at most: it ends long before such fits do
BETTER, BETTER_WITHOUT_PENALTY, BETTER_THAN_ROUGH = 0.36, 0.03, 0.003


@dataclass
class Result:
    """A fit that is done: what was asked for, a solution, and the row of its best start."""

    fit: Prepared
    solution: Solution
    row: int

    @property
    def cut_short(self) -> Status | None:
        """Which limit, or person, ended it; None if it went on for as long as it would, or to ``max_iter``."""
        if Status.INTERRUPTED in self.solution.status:
            return Status.INTERRUPTED
        status = self.solution.status[self.row]
        return status if status in FINAL else None

    def ended(self, status: Status) -> Result:
        """The same, ended for this reason."""
        return replace(self, solution=self.solution.ended(status))


def together(fits: list[Prepared], jacobian_max_rows: int | str | None) -> list[Result]:
    """Run fits of equal keys as one batch."""
    solution = run_together(fits, jacobian_max_rows)
    return [Result(fit, solution, int(row)) for fit, row in zip(fits, solution.leaders(), strict=True)]


def deeper_sizes(n_rows: float, n_inputs: int, n_outputs: int, n_parameters: int) -> tuple[int, int] | None:
    """Two equal hidden layers to compare one with, for curvature rows and the parameters of one; None for none."""

    def number(units: int) -> int:
        return MLP((units, units)).build(n_inputs, n_outputs).n_parameters

    most = max(AUTO_WORK, min(linearisation(n_rows, n_parameters), MOST_WORK))

    def suits(units: int) -> bool:
        rows = LEAST_ROWS if units == LEAST_UNITS else ROWS_PER_PARAMETER
        return n_rows >= rows * number(units) and linearisation(n_rows, number(units)) <= most

    units = LEAST_UNITS
    while suits(units + 1):
        units += 1
    least = max(LEAST_SHARE * n_parameters, n_rows / ENOUGH_ROWS)  # else there is no search for a penalty
    return (units, units) if suits(units) and number(units) > least else None


def deepened(
    results: list[Result],
    stopping: Stopping,
    search: Callable[[list[Prepared]], list[Prepared]],
    solve: Callable[[list[Prepared]], list[Result]],
) -> list[Result]:
    """Fit two hidden layers, too, where that may be better, and keep what is, by the rows left out.

    Parameters
    ----------
    results : list of Result
        Those whose fits have something ``deeper`` may be replaced.
    stopping : Stopping
        With the time that is left.
    search : callable
        Finds the penalties of fits.
    solve : callable
        Runs fits with their penalties.

    Returns
    -------
    results : list of Result
        If a limit or a person ends this, all say so.
    """
    began, chosen, final = time.monotonic(), list(results), None
    try:
        left = {number: _left_out(result) for number, result in enumerate(results) if _may_be_deeper(result)}
        numbers = [number for number, loss in left.items() if _is_little(results[number], loss)]
        others, seconds = [], stopping.left(began).max_time
        for number in numbers:
            one = results[number].fit
            assert one.deeper is not None
            other = one.deeper(one)
            rival = one.searched_losses if one.alpha > NO_PENALTY else None
            others.append(replace(other.limited(max_time=seconds), rival_losses=rival))
        searched = zip(numbers, search(others) if others else [], strict=True)
        hopeful = {number: fit for number, fit in searched if not _is_hopeless(fit, results[number].fit)}
        for number, other_result in zip(hopeful, solve(list(hopeful.values())) if hopeful else [], strict=True):
            status = other_result.solution.status[other_result.row]
            if status in FINAL:
                final = status
            elif _is_better(other_result, results[number], left[number]):
                chosen[number] = other_result
    except KeyboardInterrupt:
        final = Status.INTERRUPTED
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"Two hidden layers could not be tried, one is kept: {error}", UserWarning, stacklevel=6)
    return chosen if final is None else [result.ended(final) for result in chosen]


def _may_be_deeper(result: Result) -> bool:
    return result.fit.deeper is not None and result.solution.status[result.row] not in FINAL


def _left_out(result: Result) -> float | None:
    """The leave-one-out loss, of few rows a rough one; of few rows without a penalty what the search saw on its folds.

    None where nothing is known of it.
    """
    fit = result.fit
    loss = fit.leave_one_out(result.solution, result.row, rough=True)
    if loss is not None or fit.searched_losses is None or fit.alpha or fit.predicts_rows:
        return loss
    known = fit.searched_losses[np.isfinite(fit.searched_losses)]
    return float(np.mean(known)) if len(known) else None


def _is_little(result: Result, loss: float | None) -> bool:
    """Whether little, but not nothing, is left on rows left out, by the search for the penalty or by ``loss``."""
    losses = result.fit.searched_losses
    if loss is None or losses is None or result.fit.is_noise(loss):
        return False
    null, stopping = float(result.fit.problem.null_loss()[0]), result.fit.options["stopping"]
    exact = result.fit.predicts_rows and loss <= max(EXACT, NEGLIGIBLE * stopping.negligible) * null
    return min(float(np.mean(losses[np.isfinite(losses)])), loss) <= LITTLE * null and not exact


def _is_hopeless(new: Prepared, old: Prepared) -> bool:
    """Whether a fit is not worth while after the search for its penalty; one without time says so itself."""
    in_time = new.options["stopping"].max_time > 0
    return in_time and is_hopeless(new.alpha, new.searched_losses, old.searched_losses)


def _is_better(new: Result, old: Result, old_loss: float | None) -> bool:
    """Whether the rows left out evidently speak for the new fit."""
    loss = _left_out(new) if new.fit.predicts_rows else None
    if loss is None or old_loss is None:
        return False
    share = BETTER_WITHOUT_PENALTY if new.fit.alpha <= NO_PENALTY else BETTER
    if not old.fit.predicts_rows:
        share = BETTER_THAN_ROUGH
    ratio = ratio_of_losses(new.fit.searched_losses, old.fit.searched_losses)
    if old.fit.predicts_rows and max(new.fit.alpha, old.fit.alpha) <= NO_PENALTY and np.isfinite(ratio):
        ratio = min(ratio, 1.0)
    return loss * ratio < share * old_loss
