"""``hidden_layer_sizes='auto'`` of LMRegressor: a line or a polynomial, where rows left out do not speak for more."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ._depth import Result
from ._prepared import NO_PENALTY, Prepared, ratio_of_losses
from .optim import Status
from .optim._cross_validation import ALPHAS

#: penalties of a linear model: with the largest it is the mean
PENALTIES = (1e3, 10.0, 3.0, 1.0, 0.3, *ALPHAS)
#: ... and of polynomials from the third degree on, which are for next to no noise, and so many rows a parameter
FEW_PENALTIES, ROWS_OF_HIGH = (1e-2, 1e-4, 0.0), 2
#: a linear model that leaves no more than this share of the loss of zero outputs on rows left out is all there is
EXACT = 1e-20
#: a polynomial or waves are taken where they have less than this share of the loss of lines and lower degrees
EVIDENT = 0.95
#: polynomials from the third degree on, which swing in gaps and beyond the rows, where they have less than the first
#: share of the loss of all others; but not those of curves with so many places a parameter, no gap of so much of their
#: range, and a hidden layer that has a penalty: without noise it has no end to come to
HIGHER, PLACES_OF_HIGH, GAP = 0.5, 4, 0.2
#: ... and waves of which there are more, where they have less than this share
FEW_OF_MANY = 0.5
#: it is kept where its leave-one-out loss is below that of a hidden layer, and below so many times that without this
#: share of the rows, which neither predicts and which may outweigh all others
OF_MOST_ROWS, FAR_OFF = 1.05, 0.05
#: ... a line, which has the fewest parameters, also where it is above by so many standard errors of the difference
ERRORS_OF_LINE = 0.5
#: ... and half of its rows have less than so many times what half of those of the hidden layer have
OF_HALF = 1.5
#: near rows say what each other should be, but not to a hidden layer of a curve of so many places a parameter
MANY_PLACES = 10
#: where that is not known, where its losses on the rows that folds leave out are less than so many times those of the
#: hidden layer, in the mean and in the median of the folds: it has fewer chances to be better by luck
OF_FOLDS, OF_MOST_FOLDS = 1.1, 1.3
#: ... a line also where it is above by no more than the standard error of the mean difference, and so many times that
NEAR = 1.3
#: ... and once more where there are a few levels of each column, between which a hidden layer may do anything
OF_LEVELS = 1.5
#: of such a design with few runs it is all there is where it leaves less than this share of the variance, of a line and
#: of second degree, for each of at least so many runs more than parameters: a hidden layer has runs enough to be found
#: better by folds, but not to be better
LEAVES_LITTLE, RUNS_TO_TELL = (1e-2, 1e-4), 3
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
    """Fit the models linear in their parameters of fits that have some, and return the best; None for the others.

    The leave-one-out loss, which is exact for squared errors, chooses the penalty where it is known. ``search`` finds
    it otherwise, and what folds say, where a hidden layer is compared with by that.
    """
    results: list[Result | None] = [None] * len(fits)
    began = time.monotonic()
    for place in range(max((len(fit.linear.makes) for fit in fits if fit.linear is not None), default=0)):
        try:
            numbers = [number for number, fit in enumerate(fits) if _goes_on(fit, results[number], place)]
        except KeyboardInterrupt:
            return [None if result is None else result.ended(Status.INTERRUPTED) for result in results]
        models = [_model(fits[number], place, began) for number in numbers]
        searching = [number for number, model in enumerate(models) if model.folds is not None]
        found = search([models[number] for number in searching]) if searching else []
        for number, model in zip(searching, found, strict=True):
            models[number] = model
        tried = [_with_penalties(fits[number], model) for number, model in zip(numbers, models, strict=True)]
        solved = iter(solve([model for some in tried for model in some]) if tried else [])
        for number, some in zip(numbers, tried, strict=True):
            results[number] = _better(fits[number], results[number], _best([next(solved) for _ in some]))
    return results


def _goes_on(fit: Prepared, result: Result | None, place: int) -> bool:
    """Whether the next model of a fit may be better than what there is."""
    if fit.linear is None or place >= len(fit.linear.makes):
        return False
    return result is None or (result.cut_short is None and not is_exact(fit, result))


def _better(fit: Prepared, low: Result | None, high: Result) -> Result:
    """The model of a higher degree, if rows left out speak for it, or that of a lower one."""
    if low is None:
        return high
    if high.cut_short is not None:
        return low.ended(Status.INTERRUPTED) if high.cut_short is Status.INTERRUPTED else low
    try:
        losses = [_left_out(fit, result) for result in (low, high)]
    except KeyboardInterrupt:
        return low.ended(Status.INTERRUPTED)
    if losses[0] is None or losses[1] is None:
        return low
    return high if losses[1] < min(_share(fit, high.fit), EVIDENT) * losses[0] else low


def _is_high(model: Prepared) -> bool:
    """Whether a model is a polynomial of the third degree or a higher one."""
    return getattr(model.core["architecture_"], "degree", 1) > 2


def _has_waves(model: Prepared) -> bool:
    return getattr(model.core["architecture_"], "activation", None) == "sin"


def _is_line(model: Prepared) -> bool:
    return not (_has_waves(model) or hasattr(model.core["architecture_"], "degree"))


def _share(fit: Prepared, model: Prepared, one: Prepared | None = None) -> float:
    """What share of the loss of another model, or of a hidden layer ``one``, it must be below."""
    assert fit.linear is not None
    if _has_waves(model):
        return FEW_OF_MANY if fit.linear.has_more_waves else 1.0
    if not _is_high(model) or (_is_covered(model) and (one is None or one.alpha > NO_PENALTY)):
        return 1.0
    return HIGHER


def _is_covered(model: Prepared) -> bool:
    """Whether a polynomial is of one column, with places enough and no gap between them."""
    x, network = _places(model), model.problem.network
    if x is None or len(x) * network.n_outputs < PLACES_OF_HIGH * network.n_parameters:
        return False
    return bool(x.diff().max() <= GAP * (x[-1] - x[0]))


def _has_many_places(fit: Prepared) -> bool:
    """Whether a curve has so many that one left out says what it should, however near the next one is."""
    x = _places(fit)
    return x is not None and len(x) >= MANY_PLACES * fit.problem.network.n_parameters


def _places(fit: Prepared) -> torch.Tensor | None:
    """The different points on x of a curve, rising; None for tables."""
    X = fit.problem.rows.chunk(0, fit.problem.n_samples)
    return X[0].unique() if len(X) == 1 else None


def _model(fit: Prepared, place: int, began: float) -> Prepared:
    """A linear model of a fit, with folds to compare it by where nothing else is known."""
    assert fit.linear is not None
    model = fit.linear.makes[place]()
    model = model.limited(max_time=fit.options["stopping"].left(began).max_time)
    return replace(model, folds=None) if fit.linear.by_rows and fit.predicts_rows else model


def _with_penalties(fit: Prepared, model: Prepared) -> list[Prepared]:
    """The model with each penalty to try, or with the one that was found."""
    assert fit.linear is not None
    stopped = model.interrupted or model.options["stopping"].max_time <= 0
    if stopped or not (fit.linear.by_rows and model.predicts_rows):
        return [model]
    penalties: tuple[float, ...] = FEW_PENALTIES if _is_high(model) else PENALTIES
    if _has_waves(model):
        penalties = (0.0,)
    return [replace(model, **model.penalised(alpha)) for alpha in penalties]


def _best(results: list[Result]) -> Result:
    """The model with the least leave-one-out loss; if it is not known, or somebody stopped this, a usual penalty."""
    usual = results[PENALTIES.index(ALPHAS[0]) if len(results) == len(PENALTIES) else 0]
    stopped = any(Status.INTERRUPTED in result.solution.status for result in results)
    if (len(results) == 1 and not _has_waves(usual.fit)) or stopped:
        return usual
    try:
        losses = [_mean_left_out(result) for result in results]
    except KeyboardInterrupt:
        return usual.ended(Status.INTERRUPTED)
    if None in losses:
        return usual
    known = np.array(losses, dtype=float)
    scores = dict(zip([result.fit.alpha for result in results], known.tolist(), strict=True))
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
    loss = _left_out(fit, linear)
    return loss is not None and loss <= EXACT * float(linear.fit.problem.null_loss()[0])


def is_all_there_is(fit: Prepared, linear: Result) -> bool:
    """Whether a linear model need not be compared with a hidden layer: it is exact, or fits a design well enough."""
    return is_exact(fit, linear) or (linear.cut_short is None and _fits_design(fit, linear))


def _fits_design(fit: Prepared, linear: Result) -> bool:
    """Whether it leaves next to nothing of a design with fewer runs than a hidden layer has parameters."""
    assert fit.linear is not None
    model, problem = linear.fit, linear.fit.problem
    n_targets, n_parameters = problem.n_samples * problem.network.n_outputs, problem.network.n_parameters
    few = fit.linear.of_levels and problem.loss.is_squared and fit.problem.network.n_parameters >= n_targets
    if not few or _is_high(model) or fit.validation is not None or n_targets - n_parameters < RUNS_TO_TELL:
        return False
    loss = float(problem.weights[0].cpu().numpy() @ model.losses(linear.solution, linear.row))
    limit = LEAVES_LITTLE[0 if _is_line(model) else 1] * float(problem.null_loss()[0])
    return loss * n_targets / (n_targets - n_parameters) < limit


def _left_out(fit: Prepared, linear: Result) -> float | None:
    """The mean loss of a linear model on rows left out one by one, or by folds; None where it is not known."""
    assert fit.linear is not None
    losses = linear.fit.searched_losses
    if fit.linear.by_rows:
        return _mean_left_out(linear)
    return None if losses is None else float(np.mean(losses))


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


def waves_if_better(fit: Prepared, linear: Result | None, one: Result) -> Result:
    """The same before a curve is fitted further, where the linear model has waves: these are evidently better then."""
    return simplest(fit, linear, one) if linear is not None and _has_waves(linear.fit) else one


def narrowed(
    narrower: Callable[[], Prepared | None],
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
        few = narrower()
        if few is None:
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
    share = _share(fit, linear.fit, one.fit)
    if fit.validation is not None:
        ours = _mean_left_out(linear)
        return ours is not None and ours < share * HELD_OUT * float(one.solution.score[one.row])
    if fit.linear.by_rows or _has_many_places(fit):
        left_out = [result.fit.losses_left_out(result.solution, result.row) for result in (linear, one)]
        if left_out[0] is not None and left_out[1] is not None:
            weights = fit.problem.weights[0].cpu().numpy()
            errors = ERRORS_OF_LINE if _is_line(linear.fit) else 0.0
            return _is_less(left_out[0] / share, left_out[1], weights, errors)
    share *= OF_LEVELS if fit.linear.of_levels else 1.0
    of_line, of_one = linear.fit.searched_losses, one.fit.searched_losses
    if of_line is None or of_one is None:
        return False
    ratio, same = ratio_of_losses(of_line, of_one), min(len(of_line), len(of_one))
    of_line, of_one = of_line[:same], of_one[:same]
    if _is_line(linear.fit) and ratio < NEAR and _is_within_error(of_line - of_one):
        return True
    with np.errstate(all="ignore"):
        return ratio < share * OF_FOLDS and bool(np.median(of_line / of_one) < share * OF_MOST_FOLDS)


def _is_within_error(differences: np.ndarray) -> bool:
    """Whether the mean of differences (H,) of folds is below its standard error."""
    return len(differences) > 1 and bool(np.mean(differences) < np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _is_less(ours: np.ndarray, theirs: np.ndarray, weights: np.ndarray, errors: float = 0.0) -> bool:
    """Whether leave-one-out losses (N,) are less in the mean, and not more without rows that nothing predicts.

    That may be so many standard ``errors`` more.
    """
    count = weights > 0
    if np.median(ours[count]) > OF_HALF * np.median(theirs[count]):
        return False
    least = np.minimum(ours, theirs)
    others = least <= np.quantile(least, 1 - FAR_OFF)
    mean, of_most = ((weights * part) @ (ours - limit * theirs) for part, limit in ((1.0, 1.0), (others, OF_MOST_ROWS)))
    difference = ours - theirs
    deviation = np.sqrt(np.sum((weights * (difference - np.average(difference, weights=weights))) ** 2))
    return bool(mean < errors * deviation and of_most < 0)
