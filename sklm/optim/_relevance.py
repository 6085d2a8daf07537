"""Relevance of inputs: columns that the folds' models hardly use are penalised more, if that helps on rows left out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._cross_validation import NOISELESS, STAGE_ITERATIONS, AlphaSearch, null_loss_of
from ._penalty_race import PenaltyRace, of_best_folds
from ._problem import Problem
from ._stopping import Stopping

#: rounds of weighing the inputs, and stages of training in each
ROUNDS, STAGES = 4, 2
#: what the penalty is multiplied by in a round: mostly less, as weights of inputs that are scaled down grow; what is so
#: many times worse than the best after a stage is given up
FACTORS, BEHIND = (3.0, 1.0, 0.3, 0.1), 1.1
#: a penalty that came to be below so many times the first one is compared with so many times itself, up to the first
#: one, from new starts in so many stages: models of rounds are on their way, and with hardly a penalty others memorise
DRIFTED, LARGER, LAST_STAGES, LAST_BEHIND = 0.05, (1000.0, 100.0, 10.0, 1.0), 5, 1.5
#: least factor of an input
LEAST = 0.02
#: weighing helps if the loss on the rows left out comes to be below so many times that of equal inputs, and the mean
#: gain of the folds is above so many of its standard errors; of a single fold, if it is below the last number
BETTER, ERRORS, BETTER_ALONE = 0.96, 0.5, 0.85
#: rounds go on while that loss is below so many times the least so far, before it helps and after
WORSE, WORSE_AFTER = 1.01, 1.15


@dataclass(frozen=True)
class Relevance:
    """Outcome of :func:`weigh_inputs` for M fits.

    Attributes
    ----------
    scales : (M, F) tensor or None
        Factor of each input, up to 1; all 1 where weighing them does not help, None where it was not tried.
    alpha, score : (M,) ndarray
        The penalty of the weights of scaled inputs, and the mean loss on the rows left out.
    little : (M,) ndarray of bool
        Weighing the inputs helps, and nearly nothing of the loss of zero outputs is left on the rows left out: there
        may be no noise at all.
    theta : (M, P) tensor
        The best model of the folds, for scaled inputs.
    losses_of_folds : (M, H) ndarray
        The losses on the rows left out by each fold; infinite for folds without weight.
    """

    scales: Tensor | None
    alpha: np.ndarray
    score: np.ndarray
    little: np.ndarray
    theta: Tensor
    losses_of_folds: np.ndarray

    @classmethod
    def unknown(cls, search: AlphaSearch) -> Relevance:
        """What is known before inputs are weighed."""
        none = np.zeros(len(search.best), dtype=bool)
        return cls(None, search.chosen, search.score, none, search.theta, search.losses_of_folds)


def weigh_inputs(
    problem: Problem,
    search: AlphaSearch,
    folds: Tensor,
    n_held_out: int,
    *,
    starts: Tensor | None = None,
    factors: tuple[float, ...] = FACTORS,
    least_alpha: float | np.ndarray = 0.0,
    models_at_once: int | None = None,
    stopping: Stopping | None = None,
    damping: float | Tensor = 1e-2,
    **options: Any,
) -> Relevance:
    """Find how much each input matters, and a penalty to go with that, for each of M fits with a penalty.

    Parameters
    ----------
    problem, folds, n_held_out, models_at_once, damping, options
        As for the ``search`` by :func:`cross_validate_alpha` before; of a network with hidden layers.
    search : AlphaSearch
    starts : (M, P) tensor, optional
        From where a penalty that came to be far below the first one is compared with larger ones; not without.
    factors : tuple of float
        What the penalty is multiplied by in a round, the best of which goes on.
    least_alpha : float or (M,) ndarray
        No penalty below this is tried.
    stopping : Stopping, optional
        For its limits: a round that is not finished then does not count.

    Returns
    -------
    Relevance

    Notes
    -----
    Inputs that are alike go first, with several multiples of the penalty: what they reach is to be surpassed. Then
    every input gets the factor ``s_j = |w_j| / max_k |w_k|``, at least ``LEAST``, with w_j its weights in the first
    layer before scaling. The penalty of the weights for scaled inputs is then ``alpha |w_j|^2 / s_j^2`` of those
    before. Repeated, this is coordinate descent on the penalty ``alpha' sum_j log |w_j|``: what automatic relevance
    determination comes to (MacKay 1994, ASHRAE Transactions 100, pp. 1053-1062; Wipf & Nagarajan 2007, NIPS 20) without
    the number of well-determined parameters, and a neural network's version of the adaptive ridge (Grandvalet 1998,
    ICANN, pp. 201-206). Each fold has factors of its own, from a model that has not seen the rows left out, so that
    their loss can tell whether it helps: it has to fall to less than ``BETTER`` (``BETTER_ALONE``), and by more than
    ``ERRORS`` standard errors over the folds. The factors of a fit are geometric means over its folds. A penalty that
    has come to be below ``DRIFTED`` times the first one is compared with larger ones from ``starts``; the factors stay
    if the best of these has less than ``WORSE_AFTER`` times the loss of equal inputs, which are further on their way.
    """
    began, stopping, place = time.monotonic(), stopping or Stopping(), problem.network.input_weights
    assert place is not None
    theta, n_inputs = search.theta_of_folds, problem.rows.chunk(0, 1).shape[-2]
    alike = theta.new_ones(*theta.shape[:2], n_inputs)
    found = _Models(theta, alike, search.chosen, search.score, search.losses_of_folds)
    every, least = np.arange(len(theta)), np.broadcast_to(least_alpha, len(theta))
    damping = torch.as_tensor(damping, dtype=theta.dtype, device=theta.device).expand(len(theta))

    def race_of(rows: np.ndarray, theta: Tensor, scales: Tensor, alphas: np.ndarray) -> PenaltyRace:
        index = torch.from_numpy(rows).to(theta.device)
        part, numbers = problem.models(index), folds if len(folds) == 1 else folds[index]
        given = (alphas, damping[index], models_at_once, options, scales)
        return PenaltyRace(part, theta, numbers, n_held_out, *given)

    def train(before: _Models, rows: np.ndarray, scales: Tensor) -> _Models | None:
        """Go on with the fits ``rows`` and other scales; None where there was no time."""
        alphas = np.maximum(before.alpha[:, None] * np.array(factors), least[rows][:, None])
        race = race_of(rows, rescaled(before.theta, before.scales, scales, place), scales, alphas)
        return _Models.of_race(race, scales) if _train(race, stopping.left(began)) else None

    def settle(rows: np.ndarray) -> _Models | None:
        """Fits ``rows`` from their starts with larger penalties than they have; None where there was no time."""
        assert starts is not None
        scales, alphas = best.of(rows).scales, best.alpha[rows][:, None] * np.array(LARGER)
        new = starts[torch.from_numpy(rows).to(theta.device)]
        race = race_of(rows, new, scales, np.minimum(alphas, found.alpha[rows][:, None]))
        in_time = _train(race, stopping.left(began), LAST_STAGES, LAST_BEHIND)
        return _Models.of_race(race, scales) if in_time else None

    going = (found.alpha > 0) & np.isfinite(found.score)
    rows, best = np.flatnonzero(going), found.of(every)
    control = train(found.of(rows), rows, alike[rows]) if len(rows) else None
    if control is None:
        going[:] = False
    else:
        best.put_better(rows, control)
    equal, now = best.of(every), best.of(every)
    for _ in range(ROUNDS):
        rows = np.flatnonzero(going)
        if not len(rows):
            break
        before = now.of(rows)
        after = train(before, rows, _by_weights(before.theta, before.scales, place))
        if after is None:
            break
        helping = best.score[rows] < BETTER * equal.score[rows]
        going[rows] = after.score < np.where(helping, WORSE_AFTER, WORSE) * best.score[rows]
        now.put(rows, after)
        best.put_better(rows, after)
    helps = _helps(equal, best)
    rows = np.flatnonzero(helps & (best.alpha < DRIFTED * found.alpha))
    if starts is not None and len(rows):
        settled = settle(rows)
        if settled is not None:
            best.put(rows, settled)
            helps[rows] = settled.score < WORSE_AFTER * equal.score[rows]  # which are further on their way
    best.put(np.flatnonzero(~helps), found.of(np.flatnonzero(~helps)))
    counts = torch.from_numpy(np.isfinite(best.losses)).to(theta).unsqueeze(-1)
    scales = ((best.scales.log() * counts).sum(1) / counts.sum(1).clamp_min(1)).exp()
    models = of_best_folds(rescaled(best.theta, best.scales, scales[:, None], place), best.losses)
    little = helps & (search.alphas[:, -1] == 0) & (best.score <= NOISELESS * null_loss_of(problem, folds))
    return Relevance(scales, best.alpha, best.score, little, models, best.losses)


@dataclass
class _Models:
    """Models theta (M, H, P) of folds, for inputs with scales (M, H, F); penalties, scores (M,), losses (M, H)."""

    theta: Tensor
    scales: Tensor
    alpha: np.ndarray
    score: np.ndarray
    losses: np.ndarray

    @classmethod
    def of_race(cls, race: PenaltyRace, scales: Tensor) -> _Models:
        """Those with the best penalty of each fit."""
        winner = race.scores.argmin(axis=1)
        theta, losses = race.models(winner)
        alpha = np.take_along_axis(race.alphas, winner[:, None], axis=1)[:, 0]
        return cls(theta, scales, alpha, race.scores.min(axis=1), losses)

    def of(self, rows: np.ndarray) -> _Models:
        """A copy of the fits ``rows`` (m,)."""
        index = torch.from_numpy(rows).to(self.theta.device)
        return _Models(self.theta[index], self.scales[index], self.alpha[rows], self.score[rows], self.losses[rows])

    def put(self, rows: np.ndarray, other: _Models) -> None:
        """Replace the fits ``rows`` (m,) by those of another."""
        index = torch.from_numpy(rows).to(self.theta.device)
        self.theta[index], self.scales[index] = other.theta, other.scales
        self.alpha[rows], self.score[rows], self.losses[rows] = other.alpha, other.score, other.losses

    def put_better(self, rows: np.ndarray, other: _Models) -> None:
        """Replace those of the fits ``rows`` (m,) that another's are better than."""
        better = np.flatnonzero(other.score < self.score[rows])
        self.put(rows[better], other.of(better))


def _helps(before: _Models, after: _Models) -> np.ndarray:
    """Whether fits (M,) are clearly better on the rows left out; losses of folds without rows are infinite."""
    with np.errstate(all="ignore"):
        gains = np.where(np.isfinite(before.losses), before.losses - after.losses, np.nan)
        number = np.isfinite(before.losses).sum(axis=1)
        mean = np.nansum(gains, axis=1) / number
        error = np.sqrt(np.nansum((gains - mean[:, None]) ** 2, axis=1) / ((number - 1) * number))
        limit = np.where(number == 1, BETTER_ALONE, BETTER) * before.score
        return np.asarray((after.score < limit) & ((number == 1) | (mean > ERRORS * error)))


def _train(race: PenaltyRace, stopping: Stopping, stages: int = STAGES, behind: float = BEHIND) -> bool:
    """Train the models of a round; return whether there was time for that."""
    racing = np.ones(race.shape[:2], dtype=bool)
    racing[:, 1:] = race.alphas[:, 1:] != race.alphas[:, :-1]  # limits make some equal
    stage = replace(stopping, max_iter=min(STAGE_ITERATIONS, stopping.max_iter), tol=1e-2, n_iter_no_change=5)
    for _ in range(stages):
        ended, complete = race.train(racing, stage)
        if not complete:
            return False
        racing &= (race.scores <= behind * race.scores.min(axis=1, keepdims=True)) & ~ended
        if not racing.any():
            break
    return True


def _by_weights(theta: Tensor, scales: Tensor, place: slice) -> Tensor:
    """Scales (.., F) by the weights of the first layer, from models theta (.., P) for inputs with these scales."""
    size = _weights(theta, scales, place).norm(dim=-2) * scales
    largest = size.amax(-1, keepdim=True)
    return torch.where(largest > 0, (size / largest).clamp_min(LEAST), scales)


def rescaled(theta: Tensor, old: Tensor, new: Tensor, place: slice) -> Tensor:
    """The same functions (.., P) for inputs with other scales (.., F)."""
    theta = theta.clone()
    theta[..., place] = (_weights(theta, old, place) * (old / new).unsqueeze(-2)).flatten(-2)
    return theta


def _weights(theta: Tensor, scales: Tensor, place: slice) -> Tensor:
    return theta[..., place].unflatten(-1, (-1, scales.shape[-1]))
