"""Relevance of inputs: columns that the folds' models hardly use are penalised more, if that helps on rows left out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._cross_validation import BEHIND, NOISELESS, STAGE_ITERATIONS, AlphaSearch
from ._penalty_race import PenaltyRace, of_best_folds
from ._problem import Problem
from ._stopping import Stopping

#: rounds of weighing the inputs, and stages of training in each
ROUNDS, STAGES = 4, 2
#: what the penalty is multiplied by in a round: weights of inputs that are scaled down grow
FACTORS = (1.0, 0.3, 0.1)
#: least factor of an input
LEAST = 0.02
#: rounds go on while the loss on the rows left out is below so many times the least so far, and count if it comes to
#: be below so many times that of equal inputs
WORSE, BETTER = 1.01, 0.98


@dataclass(frozen=True)
class Relevance:
    """Outcome of :func:`weigh_inputs` for M fits.

    Attributes
    ----------
    scales : (M, F) tensor or None
        Factor of each input, the largest 1; all 1 where weighing them does not help, None where it was not tried.
    alpha, score : (M,) ndarray
        The penalty of the weights of scaled inputs, and the mean loss on the rows left out.
    little : (M,) ndarray of bool
        Weighing the inputs helps, and nearly nothing of the loss of zero outputs is left on the rows left out: there
        may be no noise at all.
    theta : (M, P) tensor
        The best model of the folds, for scaled inputs.
    """

    scales: Tensor | None
    alpha: np.ndarray
    score: np.ndarray
    little: np.ndarray
    theta: Tensor

    @classmethod
    def unknown(cls, search: AlphaSearch) -> Relevance:
        """What is known before inputs are weighed."""
        return cls(None, search.chosen, search.score, np.zeros(len(search.best), dtype=bool), search.theta)


def weigh_inputs(
    problem: Problem,
    search: AlphaSearch,
    folds: Tensor,
    n_held_out: int,
    *,
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
    stopping : Stopping, optional
        For its limits: a round that is not finished then does not count.

    Returns
    -------
    Relevance

    Notes
    -----
    Every input gets the factor ``s_j = |w_j| / max_k |w_k|``, at least ``LEAST``, with w_j its weights in the first
    layer before scaling. The penalty of the weights for scaled inputs is then ``alpha |w_j|^2 / s_j^2`` of those
    before. Repeated, this is coordinate descent on the penalty ``alpha' sum_j log |w_j|``: what automatic relevance
    determination comes to (MacKay 1994, ASHRAE Transactions 100, pp. 1053-1062; Wipf & Nagarajan 2007, NIPS 20) without
    the number of well-determined parameters, and a neural network's version of the adaptive ridge (Grandvalet 1998,
    ICANN, pp. 201-206). Each fold has factors of its own, from a model that has not seen the rows left out, so that
    their loss can tell whether it helps; the factors of a fit are the geometric means.
    """
    began, stopping = time.monotonic(), stopping or Stopping()
    place, M = problem.network.input_weights, len(search.best)
    assert place is not None
    chosen, theta = search.chosen, search.theta_of_folds
    n_inputs = problem.rows.chunk(0, 1).shape[-2]
    scales = theta.new_ones(*theta.shape[:2], n_inputs)
    best = _Best(theta.clone(), scales.clone(), chosen.copy(), search.score.copy(), search.losses_of_folds.copy())
    alpha, going = chosen.copy(), (chosen > 0) & np.isfinite(search.score)
    damping = torch.as_tensor(damping, dtype=theta.dtype, device=theta.device).expand(M)
    for _ in range(ROUNDS):
        numbers = np.flatnonzero(going)
        if not len(numbers):
            break
        index = torch.from_numpy(numbers).to(theta.device)
        new = _relevance(theta[index], scales[index], place)
        race = PenaltyRace(
            problem.models(index),
            rescaled(theta[index], scales[index], new, place),
            folds if len(folds) == 1 else folds[index],
            n_held_out,
            alpha[numbers][:, None] * np.array(FACTORS),
            damping[index],
            models_at_once,
            options,
            new,
        )
        if not _train(race, stopping.left(began)):
            break
        winners = race.scores.argmin(axis=1)
        reached, losses = race.models(winners)
        theta[index], scales[index] = reached, new
        alpha[numbers] = race.alphas[np.arange(len(numbers)), winners]
        score = race.scores.min(axis=1)
        going[numbers] = score < WORSE * best.score[numbers]
        best.take(numbers, score < best.score[numbers], reached, new, alpha[numbers], score, losses)
    helps = best.score < BETTER * search.score
    counts = torch.from_numpy(np.isfinite(search.losses_of_folds)).to(theta)[..., None]
    together = ((best.scales.log() * counts).sum(1) / counts.sum(1).clamp_min(1)).exp()
    together = together / together.amax(1, keepdim=True)
    together[torch.from_numpy(~helps).to(theta.device)] = 1.0
    models = rescaled(best.theta, best.scales, together[:, None], place)
    models = of_best_folds(models, best.losses)
    models = torch.where(torch.from_numpy(helps).to(theta.device)[:, None], models, search.theta)
    little = helps & (search.alphas[:, -1] == 0) & (best.score <= NOISELESS * problem.null_loss().cpu().numpy())
    alphas, scores = np.where(helps, best.alpha, chosen), np.where(helps, best.score, search.score)
    return Relevance(together, alphas, scores, little, models)


def _train(race: PenaltyRace, stopping: Stopping) -> bool:
    """Train the models of a round; return whether there was time for that."""
    racing = np.ones(race.shape[:2], dtype=bool)
    stage = replace(stopping, max_iter=min(STAGE_ITERATIONS, stopping.max_iter), tol=1e-2, n_iter_no_change=5)
    for _ in range(STAGES):
        ended, complete = race.train(racing, stage)
        if not complete:
            return False
        racing &= (race.scores <= BEHIND * race.scores.min(axis=1, keepdims=True)) & ~ended
        if not racing.any():
            break
    return True


@dataclass
class _Best:
    """The best of all rounds so far: models and scales of the folds, penalties, scores, losses of the folds."""

    theta: Tensor
    scales: Tensor
    alpha: np.ndarray
    score: np.ndarray
    losses: np.ndarray

    def take(
        self,
        numbers: np.ndarray,
        which: np.ndarray,
        theta: Tensor,
        scales: Tensor,
        alpha: np.ndarray,
        score: np.ndarray,
        losses: np.ndarray,
    ) -> None:
        """Replace the fits ``numbers`` (m,) where ``which`` (m,)."""
        into = numbers[which]
        self.theta[into], self.scales[into] = theta[which], scales[which]
        self.alpha[into], self.score[into], self.losses[into] = alpha[which], score[which], losses[which]


def _relevance(theta: Tensor, scales: Tensor, place: slice) -> Tensor:
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
