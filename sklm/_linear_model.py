"""``hidden_layer_sizes='auto'`` of LMRegressor: no hidden layer, where rows left out do not speak for one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ._depth import Result
from ._prepared import Prepared, ratio_of_losses
from .optim import Status
from .optim._cross_validation import ALPHAS

#: penalties of a linear model: with the largest it is the mean
PENALTIES = (1e3, 10.0, 3.0, 1.0, 0.3, *ALPHAS)
#: a linear model that leaves no more than this share of the loss of zero outputs on rows left out is all there is
EXACT = 1e-20
#: it is kept where its leave-one-out loss is below that of a hidden layer, and below so many times that without this
#: share of the rows, which neither predicts and which may outweigh all others
OF_MOST_ROWS, FAR_OFF = 1.05, 0.05
#: where that is not known, where its losses on the rows that folds leave out are less than so many times those of the
#: hidden layer, in the mean and in the median of the folds: it has fewer chances to be better by luck
OF_FOLDS, OF_MOST_FOLDS = 1.1, 1.3
#: where rows are held out, where it is below so many times the loss on these, which are other rows
HELD_OUT = 0.95
#: ... and fewer units are not tried where no more than this share of the loss of zero outputs is left on them
NOISELESS = 1e-4
#: this share of the rows, those of the largest losses, does not count in that
GROSS = 0.01
#: for losses that are not squared, the least penalty of those that have up to so many times the least loss
ABOUT_EQUAL = 1.02


def linear_models(
    fits: list[Prepared],
    search: Callable[[list[Prepared]], list[Prepared]],
    solve: Callable[[list[Prepared]], list[Result]],
) -> list[Result | None]:
    """Fit the linear models of fits that have one; None for the others.

    The leave-one-out loss, which is exact for squared errors, chooses the penalty where it is known. ``search`` finds
    it otherwise, and what folds say, where a hidden layer is compared with by that.
    """
    numbers = [number for number, fit in enumerate(fits) if fit.linear is not None]
    models = [_model(fits[number]) for number in numbers]
    searching = [place for place, model in enumerate(models) if model.folds is not None]
    for place, found in zip(
        searching, search([models[place] for place in searching]) if searching else [], strict=True
    ):
        models[place] = found
    tried = [_with_penalties(fits[number], model) for number, model in zip(numbers, models, strict=True)]
    solved = iter(solve([model for some in tried for model in some]) if tried else [])
    results: list[Result | None] = [None] * len(fits)
    for number, some in zip(numbers, tried, strict=True):
        results[number] = _best([next(solved) for _ in some])
    return results


def _model(fit: Prepared) -> Prepared:
    """The linear model of a fit, with folds to compare it by where nothing else is known."""
    assert fit.linear is not None
    model, limit = fit.linear.make(), fit.options["stopping"].max_time
    model = model.limited(max_time=limit)
    return replace(model, folds=None) if fit.linear.by_rows and fit.predicts_rows else model


def _with_penalties(fit: Prepared, model: Prepared) -> list[Prepared]:
    """The model with each penalty to try, or with the one that was found."""
    assert fit.linear is not None
    stopped = model.interrupted or model.options["stopping"].max_time <= 0
    if stopped or not (fit.linear.by_rows and model.predicts_rows):
        return [model]
    return [replace(model, **model.penalised(alpha)) for alpha in PENALTIES]


def _best(results: list[Result]) -> Result:
    """The model with the least leave-one-out loss; if it is not known, or somebody stopped this, a usual penalty."""
    usual = results[PENALTIES.index(ALPHAS[0]) if len(results) > 1 else 0]
    stopped = any(Status.INTERRUPTED in result.solution.status for result in results)
    if len(results) == 1 or stopped:
        return usual
    try:
        losses = [_mean_left_out(result) for result in results]
    except KeyboardInterrupt:
        return usual.ended(Status.INTERRUPTED)
    if None in losses:
        return usual
    known = np.array(losses, dtype=float)
    scores = dict(zip(PENALTIES, known.tolist(), strict=True))
    known[np.isnan(known)] = np.inf
    best = int(np.argmin(known))
    if not results[0].fit.problem.loss.is_squared:  # it is not exact then, and flat
        best = int(np.flatnonzero(known <= ABOUT_EQUAL * known[best])[-1])
    return replace(results[best], fit=replace(results[best].fit, alpha_scores=scores))


def _mean_left_out(result: Result) -> float | None:
    losses = result.fit.losses_left_out(result.solution, result.row)
    return None if losses is None else float(result.fit.problem.weights[0].cpu().numpy() @ losses)


def is_exact(fit: Prepared, linear: Result) -> bool:
    """Whether the linear model of a fit leaves nothing on rows left out, so that no hidden layer can be better."""
    if linear.cut_short is not None:
        return False
    assert fit.linear is not None
    loss, losses = None, linear.fit.searched_losses
    if fit.linear.by_rows:
        loss = _mean_left_out(linear)
    elif losses is not None:
        loss = float(np.mean(losses))
    return loss is not None and loss <= EXACT * float(linear.fit.problem.null_loss()[0])


def simplest(fit: Prepared, linear: Result | None, one: Result) -> Result:
    """The linear model of a fit, if rows left out do not speak for the hidden layer that ``one`` has.

    If a limit ended that one, the linear model says so.
    """
    try:
        if linear is None or linear.cut_short is not None or not _is_enough(fit, linear, one):
            return one
    except KeyboardInterrupt:
        return one.ended(Status.INTERRUPTED)
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"A linear model could not be compared with: {error}", UserWarning, stacklevel=6)
        return one
    return linear if one.cut_short is None else linear.ended(one.cut_short)


def narrowed(
    few: Prepared,
    many: Result,
    search: Callable[[list[Prepared]], list[Prepared]],
    solve: Callable[[list[Prepared]], list[Result]],
) -> Result:
    """The fit with few units and a penalty, or what there is for rows that are held out, by the rows left out.

    If a person ended it, what there is says so.
    """
    if many.cut_short is not None:
        return many
    try:
        known = _of_most_rows(many)
        if known is None or known <= NOISELESS * float(many.fit.problem.null_loss()[0]):
            return many
        (result,) = solve(search([few]))
        if result.cut_short is not None:
            return many.ended(result.cut_short)
        loss = _of_most_rows(result)
    except KeyboardInterrupt:
        return many.ended(Status.INTERRUPTED)
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"Fewer units could not be tried: {error}", UserWarning, stacklevel=6)
        return many
    if loss is None:
        return many
    if few.problem.loss.is_squared:  # in the units of other rows
        loss *= float(np.mean((result.fit.core["y_scale_"] / many.fit.core["y_scale_"]) ** 2))
    return result if loss < known else many


def _of_most_rows(result: Result) -> float | None:
    """The mean loss of rows that are held out or left out, without the few of largest losses: they may be gross errors.

    They are among one or the other by chance. None where it is not known.
    """
    fit, held_out = result.fit, result.fit.validation
    if held_out is None:
        losses = fit.losses_left_out(result.solution, result.row)
    else:
        fit = replace(fit, problem=held_out)
        losses = fit.losses(result.solution, result.row)
    if losses is None:
        return None
    most = losses <= np.quantile(losses, 1 - GROSS)
    return float(np.average(losses[most], weights=fit.problem.weights[0].cpu().numpy()[most]))


def _is_enough(fit: Prepared, linear: Result, one: Result) -> bool:
    assert fit.linear is not None
    if fit.validation is not None:
        ours = _mean_left_out(linear)
        return ours is not None and ours < HELD_OUT * float(one.solution.score[one.row])
    if fit.linear.by_rows:
        left_out = [result.fit.losses_left_out(result.solution, result.row) for result in (linear, one)]
        if left_out[0] is not None and left_out[1] is not None:
            weights = fit.problem.weights[0].cpu().numpy()
            return _is_less(left_out[0], left_out[1], weights)
    folds = [result.fit.searched_losses for result in (linear, one)]
    if folds[0] is None or folds[1] is None or not ratio_of_losses(*folds) < OF_FOLDS:
        return False
    same = min(len(folds[0]), len(folds[1]))
    with np.errstate(all="ignore"):
        return bool(np.median(folds[0][:same] / folds[1][:same]) < OF_MOST_FOLDS)


def _is_less(ours: np.ndarray, theirs: np.ndarray, weights: np.ndarray) -> bool:
    """Whether leave-one-out losses (N,) are less in the mean, and not more without rows that nothing predicts."""
    least = np.minimum(ours, theirs)
    others = least <= np.quantile(least, 1 - FAR_OFF)
    mean, of_most = ((weights * part) @ (ours - limit * theirs) for part, limit in ((1.0, 1.0), (others, OF_MOST_ROWS)))
    return bool(mean < 0 and of_most < 0)
