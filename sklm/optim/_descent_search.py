"""How far to go along a direction of descent: line searches, batched over models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._batch import Choice
from ._curvature import gradient
from ._problem import Evaluation, Problem

#: sufficient decrease, and largest slope that is left, as shares of the first slope (Nocedal & Wright 2006, pp. 33-34)
DECREASE, FLATNESS = 1e-4, 0.9
#: evaluations of a search before it gives up: enough for a step a million times too long
TRIALS = 25


@dataclass
class Spot:
    """A point of every model on its line; all with leading axis b.

    Attributes
    ----------
    length : (b,)
        Step length, in multiples of the direction.
    theta, gradient : (b, P)
    objective, loss, slope : (b,)
        ``slope`` is the derivative of the objective by ``length``.
    """

    length: Tensor
    theta: Tensor
    gradient: Tensor
    objective: Tensor
    loss: Tensor
    slope: Tensor


LineSearch = Callable[[Problem, Spot, Tensor], Spot]


def backtracking(problem: Problem, start: Spot, direction: Tensor) -> Spot:
    """Halve the step until the objective falls by a share of what the slope promises: the Armijo condition.

    Parameters
    ----------
    problem : Problem
    start : Spot
        At length zero, with a negative slope.
    direction : (b, P) tensor

    Returns
    -------
    Spot
        Where the condition first holds; the start for models where it never does.

    Notes
    -----
    ``F(t) <= F(0) + 1e-4 t F'(0)`` for t = 1, 1/2, 1/4, ... (Nocedal & Wright 2006, algorithm 3.1).
    """
    length, found = torch.ones_like(start.objective), torch.zeros_like(start.objective, dtype=torch.bool)
    theta, value, kept = start.theta, Evaluation(start.objective, start.loss, None), None
    for _ in range(TRIALS):
        trial = start.theta + length[:, None] * direction
        point = problem.evaluate(trial)
        enough = point.objective <= start.objective + DECREASE * length * start.slope
        # rounding: a decrease below it is none
        choose = Choice(enough & (point.objective < start.objective) & ~found)
        kept = point.forwards if choose.all else None
        theta = choose(trial, theta)
        value = choose(Evaluation(point.objective, point.loss, None), value)
        found = found | choose.mask
        if bool(found.all()):  # on a GPU this waits, which is shorter than one more evaluation
            break
        length = torch.where(found, length, 0.5 * length)
    slopes = gradient(problem, theta, kept)
    length = torch.where(found, length, 0.0)
    return Spot(length, theta, slopes, value.objective, value.loss, (slopes * direction).sum(1))


def strong_wolfe(problem: Problem, start: Spot, direction: Tensor) -> Spot:
    """Search for a step that lowers the objective enough and leaves a flatter slope: the strong Wolfe conditions.

    Parameters
    ----------
    problem : Problem
    start : Spot
        At length zero, with a negative slope.
    direction : (b, P) tensor

    Returns
    -------
    Spot
        Where both conditions hold; for models where no such point was found the lowest one with sufficient decrease,
        which may be the start.

    Notes
    -----
    ``F(t) <= F(0) + 1e-4 t F'(0)`` and ``|F'(t)| <= 0.9 |F'(0)|`` (Nocedal & Wright 2006, eq. 3.7). Their algorithms
    3.5 (bracket) and 3.6 (zoom) are one rule here: ``low`` is the best point so far, and ``high`` the other end of the
    bracket, at infinity until one is found. Trials double while there is no bracket; inside, they minimise the cubic
    through both ends (eq. 3.59), a tenth of the bracket away from them at least.
    """
    low = start
    high = Spot(**{**start.__dict__, "length": torch.full_like(start.length, torch.inf)})
    length, done = torch.ones_like(start.objective), torch.zeros_like(start.objective, dtype=torch.bool)
    for _ in range(TRIALS):
        trial = _visit(problem, start, direction, length)
        lower = trial.objective <= start.objective + DECREASE * length * start.slope
        lower = lower & (trial.objective < low.objective) & ~done
        flat = lower & (trial.slope.abs() <= -FLATNESS * start.slope)
        behind = lower & ~flat & (trial.slope * (high.length - low.length) >= 0)  # the minimum is on the side of low
        high = Choice(behind)(low, Choice(~lower & ~done)(trial, high))
        low = Choice(lower)(trial, low)
        done = done | flat
        if bool(done.all()):  # on a GPU this waits, which is shorter than one more evaluation
            break
        length = torch.where(high.length < torch.inf, _interpolated(low, high), 2 * length)
    return low


DESCENT_SEARCHES: dict[str, LineSearch] = {"strong_wolfe": strong_wolfe, "armijo": backtracking}


def _visit(problem: Problem, start: Spot, direction: Tensor, length: Tensor) -> Spot:
    """The point at ``length`` (b,); its objective is infinite where it, or its slope, is not finite."""
    theta = start.theta + length[:, None] * direction
    point = problem.evaluate(theta)
    slopes = gradient(problem, theta, point.forwards)
    slope = (slopes * direction).sum(1)
    objective = torch.where(slope.isfinite() & point.objective.isfinite(), point.objective, torch.inf)
    return Spot(length, theta, slopes, objective, point.loss, slope)


def _interpolated(low: Spot, high: Spot) -> Tensor:
    """Length (b,) of the minimum of the cubic through both ends, or the middle where there is none."""
    a, b = low.length, high.length
    width = b - a
    first = low.slope + high.slope + 3 * (low.objective - high.objective) / width
    second = width.sign() * (first.square() - low.slope * high.slope).sqrt()
    share = 1 - (high.slope + second - first) / (high.slope - low.slope + 2 * second)
    return a + width * torch.where(share.isnan(), 0.5, share).clamp(0.1, 0.9)
