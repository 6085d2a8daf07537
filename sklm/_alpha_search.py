"""The search for a penalty by cross-validation, and what a fit does with what was found."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._climb import climbed
from ._judging import by_all_rows
from ._penalty import Folds
from ._prepared import Prepared, is_hopeless
from .optim import (
    AlphaSearch,
    Problem,
    Relevance,
    SearchInterrupted,
    Stopping,
    cross_validate_alpha,
    stack_problems,
    weigh_inputs,
)
from .optim._cross_validation import null_loss_of
from .optim._isolation import isolated

#: a penalty below all that are tried at first must have this share of the loss on rows left out
LESS = 0.8
#: other activations are tried in this share of what is left of ``max_time``, if the first search took less, since
#: what follows takes longer
RIVALS_TIME = 0.25


@dataclass(frozen=True)
class Searched:
    """What the first search found for some fits, and what it was given: what goes on from there needs that, too."""

    fits: list[Prepared]
    problem: Problem
    theta: Tensor
    numbers: Tensor
    options: dict[str, Any]
    search: AlphaSearch

    @property
    def folds(self) -> Folds:
        folds = self.fits[0].folds
        assert folds is not None
        return folds

    def only(self, which: np.ndarray) -> Searched:
        """The fits ``which`` (m,)."""
        index = torch.from_numpy(which).to(self.theta.device)
        return Searched(
            [self.fits[number] for number in which],
            self.problem.models(index),
            self.theta[index],
            self.numbers[index],
            {**self.options, "damping": self.options["damping"][index]},
            self.search.only(which),
        )


def choose_alphas(
    fits: list[Prepared], models_at_once: int, jacobian_max_rows: int | str | None = "auto"
) -> list[Prepared]:
    """Return the fits with the penalty that cross-validation finds for each, where they have folds for that.

    Where it finds no noise, their further starts join; where it finds some, those whose mean may be kept. A fit with a
    ``rival`` may come back as that one.

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
    first = fits[0]
    if first.folds is None:
        return fits
    stopping: Stopping = first.options["stopping"]
    half = replace(stopping, max_time=stopping.max_time / 2)  # the rest is for the fit
    began = time.monotonic()
    if first.folds.climbs:
        return [climbed(fit, half.left(began)).averaging() for fit in fits]
    with isolated(first.problem.y.device):
        by_rows = first.has_rows_of_its_own and max(len(fit.theta) for fit in fits) <= models_at_once
        usual = searched(fits, half, models_at_once, not by_rows)
        taken = time.monotonic() - began
        search, result = usual.search, list(fits)
        try:
            for part, which in _by_activation(usual, taken, half.left(began), models_at_once, not by_rows):
                found = _completed(part, half.left(began), models_at_once, by_rows, jacobian_max_rows)
                for number, fit in zip(which, found, strict=True):
                    result[number] = _broadened(fit, half.left(began)).averaging()
            return result
        except SearchInterrupted:
            if first.rival is None and first.broader is None:
                raise
            # what it knows may be of some fits only, or of another network
            raise SearchInterrupted(search.chosen, search.theta) from None
        except KeyboardInterrupt:
            raise SearchInterrupted(search.chosen, search.theta) from None


def searched(fits: list[Prepared], stopping: Stopping, models_at_once: int, settle: bool) -> Searched:
    """The first search, for penalties of fits of equal keys with columns that are alike."""
    began = time.monotonic()
    every = [fit.folds for fit in fits if fit.folds is not None]
    problem, theta, numbers, options = for_search(fits, every)
    options["models_at_once"] = models_at_once
    alphas = np.stack([folds.alphas for folds in every])
    search = cross_validate_alpha(
        problem, theta, numbers, every[0].n_held_out, alphas=alphas, stopping=stopping, settle=settle, **options
    )
    found = Searched(fits, problem, theta, numbers, options, search)
    return _with_smaller(found, stopping.left(began)) if found.folds.smaller else found


def _by_activation(
    usual: Searched, taken: float, stopping: Stopping, models_at_once: int, settle: bool
) -> list[tuple[Searched, np.ndarray]]:
    """Divide fits (M,) into those that keep their activation and those whose rivals evidently predict better.

    The search for the usual ones has ``taken`` so many seconds. Rivals are tried with penalties near theirs at first.
    Returns what the search found for each of the two, and the numbers of its fits; rivals that were not searched to the
    end are not known, nor are those for which there is no memory.
    """
    try:
        return _with_rivals(usual, taken, stopping, models_at_once, settle)
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"Another activation could not be tried, the usual is kept: {error}", UserWarning, stacklevel=6)
        return [(usual, np.arange(len(usual.fits)))]


def _with_rivals(
    usual: Searched, taken: float, stopping: Stopping, models_at_once: int, settle: bool
) -> list[tuple[Searched, np.ndarray]]:
    every, rival = np.arange(len(usual.fits)), usual.fits[0].rival
    stopping = replace(stopping, max_time=RIVALS_TIME * stopping.max_time)
    if rival is None or stopping.max_time <= taken:
        return [(usual, every)]
    began, rules = time.monotonic(), rival.rules
    judge = usual.folds.judge if rules.one_error else np.asarray
    noise = usual.search.score / null_loss_of(usual.problem, usual.numbers)
    hopeful = np.flatnonzero((noise >= rules.negligible) & (noise <= rules.nothing))
    if not len(hopeful):
        return [(usual, every)]
    others = {number: _rival_of(usual.fits[number]) for number in hopeful}
    tried = [_with_near(other, usual.search.chosen[number], rules.penalties) for number, other in others.items()]
    scores = searched(tried, stopping, models_at_once, settle).search.scores
    noisy = (noise >= rules.noise) & (usual.search.chosen > 0)
    hope = np.where(noisy, rules.hope, rules.much_hope)[hopeful]
    at_edge = (scores.argmin(axis=1) == scores.shape[1] - 1) & (noise[hopeful] <= rules.little)
    hope = np.where(at_edge, np.maximum(hope, rules.at_edge), hope)
    hopeful = hopeful[judge(scores.min(axis=1)) < hope * judge(usual.search.score[hopeful])]
    if not len(hopeful) or time.monotonic() - began >= stopping.max_time:
        return [(usual, every)]
    rivals = searched([others[number] for number in hopeful], stopping.left(began), models_at_once, settle)
    if time.monotonic() - began >= stopping.max_time:
        return [(usual, every)]
    less = np.where(noisy, rules.less, rules.much_less)
    better = judge(rivals.search.score) < less[hopeful] * judge(usual.search.score[hopeful])
    same = np.setdiff1d(every, hopeful[better])
    parts = [(usual, same, same), (rivals, np.flatnonzero(better), hopeful[better])]
    return [(found.only(rows), numbers) for found, rows, numbers in parts if len(rows)]


def _rival_of(fit: Prepared) -> Prepared:
    """The same fit with another activation."""
    assert fit.rival is not None
    kept = {name: getattr(fit, name) for name in ("watcher", "n_averaged", "deeper", "deeper_sizes", "broader")}
    return replace(fit.rival.make(), **kept)


def _with_near(rival: Prepared, alpha: float, factors: tuple[float, ...]) -> Prepared:
    """The fit with ``factors`` times the penalty of the usual one to try; for none, times the least."""
    assert rival.folds is not None
    alphas = rival.folds.alphas
    near = (alpha or alphas[alphas > 0].min()) * np.array(factors)
    return replace(rival, folds=replace(rival.folds, alphas=near, smaller=()))


def _completed(
    part: Searched, stopping: Stopping, models_at_once: int, by_rows: bool, jacobian_max_rows: int | str | None
) -> list[Prepared]:
    """The fits of a first search with what is found after it: columns that matter, and what all rows say."""
    began, folds, options, search = time.monotonic(), part.folds, dict(part.options), part.search
    found = Relevance.unknown(search)
    if folds.weighs:
        options["factors"] = folds.factors
        least = [fit.folds.least_alpha for fit in part.fits if fit.folds is not None]
        options["least_alpha"] = np.minimum(least, search.chosen)
        limit = stopping.left(began)
        asked = (part.problem, search, part.numbers, folds.n_held_out)
        found = weigh_inputs(*asked, starts=part.theta, stopping=limit, **options)
    return _with_found(part.fits, search, found, stopping.left(began), models_at_once, by_rows, jacobian_max_rows)


def _broadened(fit: Prepared, stopping: Stopping) -> Prepared:
    """The fit with more units, if it may have those, and rows left out speak for them."""
    if fit.broader is None or fit.searched_losses is None:
        return fit
    try:
        broad = fit.broader(fit)
        broad = climbed(broad, stopping) if broad.folds is not None else broad
    except (MemoryError, torch.OutOfMemoryError) as error:
        warnings.warn(f"More units could not be tried, few are kept: {error}", UserWarning, stacklevel=6)
        return fit
    if broad.searched_losses is None:
        return fit
    return broad if broad.searched_losses.mean() < fit.searched_losses.mean() else fit


def _with_smaller(part: Searched, stopping: Stopping) -> Searched:
    """The search with smaller penalties for fits whose least one was the best, where one of them is evidently better.

    Fits that were not asked have NaN as scores of these. Without time for all, nothing is known of them: models on the
    way memorise less than at their ends.
    """
    search, folds = part.search, part.folds
    last = search.alphas.shape[1] - 1
    which = np.flatnonzero(search.best == last)
    if not len(which) or stopping.max_time <= 0:
        return part
    further = search.alphas[:, last:] * np.array([1.0, *folds.smaller])
    asked, began = part.only(which), time.monotonic()
    try:
        second = cross_validate_alpha(
            asked.problem,
            asked.theta,
            asked.numbers,
            folds.n_held_out,
            alphas=further[which],
            stopping=stopping,
            settle=False,
            judge=folds.judge,
            **asked.options,
        )
    except SearchInterrupted:  # knows of some fits only
        raise SearchInterrupted(search.chosen, search.theta) from None
    if time.monotonic() - began >= stopping.max_time:
        return part
    scores = np.full((len(search.best), len(folds.smaller)), np.nan)
    scores[which] = second.scores[:, 1:]
    better = folds.judge(second.score) <= LESS * folds.judge(second.scores[:, 0])
    best, models, losses = search.best.copy(), search.theta_of_folds.clone(), search.losses_of_folds.copy()
    best[which[better]] += second.best[better]
    models[torch.from_numpy(which[better]).to(models.device)] = second.theta_of_folds[better]
    losses[which[better]] = second.losses_of_folds[better]
    search = replace(
        search,
        alphas=np.hstack([search.alphas, further[:, 1:]]),
        scores=np.hstack([search.scores, scores]),
        best=best,
        theta_of_folds=models,
        losses_of_folds=losses,
    )
    return replace(part, search=search)


def for_search(fits: list[Prepared], every: list[Folds]) -> tuple[Problem, Tensor, Tensor, dict[str, Any]]:
    """Return the problem of one model a fit on the rows of its folds, starts, numbers of folds, and options."""
    problem = fits[0].problem
    device, dtype = problem.y.device, problem.y.dtype
    parts = [fit.problem.repeated(1) for fit in fits]
    if len(every[0].rows) < problem.n_samples:
        parts = [part.take(folds.rows) for part, folds in zip(parts, every, strict=True)]
    theta = torch.from_numpy(np.stack([folds.start for folds in every])).to(device, dtype)
    numbers = torch.from_numpy(np.stack([folds.of_row for folds in every])).to(device)
    options = {name: value for name, value in fits[0].options.items() if name != "stopping"}
    options["damping"] = torch.tensor([fit.options["damping"] for fit in fits], dtype=dtype, device=device)
    options["callback"] = fits[0].watcher
    return stack_problems(parts), theta, numbers, options


def _with_found(
    fits: list[Prepared],
    search: AlphaSearch,
    found: Relevance,
    stopping: Stopping,
    models_at_once: int,
    by_rows: bool,
    jacobian_max_rows: int | str | None,
) -> list[Prepared]:
    """Return the fits with what the search has found, or what fits of all rows say (``by_rows``)."""
    folds = fits[0].folds
    assert folds is not None
    # what takes the place of more rows weighs less beside all of them
    share = len(folds.rows) / fits[0].problem.n_samples
    result = []
    for row, (fit, alphas) in enumerate(zip(fits, share * search.alphas, strict=True)):
        tried = zip(alphas.tolist(), search.scores[row].tolist(), strict=True)
        scores = {alpha: score for alpha, score in tried if not np.isnan(score)}
        fit = replace(fit, alpha_scores=scores, folds=None)
        if found.scales is not None:
            fit = fit.weighed(found.scales[row])
        theta = found.theta[row].cpu().double().numpy()
        known = {"searched": theta, "searched_losses": found.losses_of_folds[row]}
        result.append(replace(fit, **fit.penalised(share * float(found.alpha[row])), **known))
    doubtful, noisy = search.doubtful, np.zeros(len(fits), dtype=bool)
    losses = found.losses_of_folds.mean(axis=1)
    plain = np.array([fit.is_noise(float(loss)) for fit, loss in zip(fits, losses, strict=True)])
    if by_rows:
        # without a penalty nothing is known of rows left out by no more rows than parameters
        doubtful = doubtful | found.little | (search.noiseless & (not fits[0].predicts_rows))
        each = zip(fits, found.alpha, found.losses_of_folds, strict=True)
        doubtful &= [not is_hopeless(alpha, losses, fit.rival_losses) for fit, alpha, losses in each]
        noisy = (found.alpha == 0) & ~search.noiseless & ~plain & fits[0].predicts_rows
        doubtful = (doubtful & ~plain) | noisy
    numbers, most = np.flatnonzero(doubtful), max(len(fit.theta) for fit in fits)
    alphas, at_once = np.array([fit.alpha for fit in result]), models_at_once // most
    for part in np.array_split(numbers, -(-len(numbers) // at_once)) if len(numbers) else []:
        some, scales = [result[number] for number in part], None if found.scales is None else found.scales[part]
        alphas[part] = by_all_rows(some, noisy[part], found.alpha[part], scales, stopping, at_once, jacobian_max_rows)
    for number in np.flatnonzero(alphas != [fit.alpha for fit in result]):
        result[number] = replace(result[number], **result[number].penalised(float(alphas[number])))
    for number in np.flatnonzero((search.noiseless | doubtful) & ~noisy & ~plain & (alphas == 0)):
        result[number] = replace(result[number], **result[number].joined())
    return result
