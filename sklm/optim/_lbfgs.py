"""L-BFGS, batched over models."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from ._curvature import gradient
from ._descent_search import DESCENT_SEARCHES, Spot
from ._optimizers import Memory, Move, Optimizer
from ._problem import Evaluation, Problem
from ._status import Status
from ._stopping import Stopping

#: a step and the change of the gradient along it, (b, P) each, and 1 / (their product) (b,), zero for a pair unused
Pair = tuple[Tensor, Tensor, Tensor]


class LBFGS(Optimizer):
    """Limited-memory BFGS: a curvature made of the last few steps, and a line search. A step needs all rows.

    Parameters
    ----------
    memory : int, default=10
        Steps that are remembered.
    line_search : {'strong_wolfe', 'armijo'}, default='strong_wolfe'
        'strong_wolfe' looks for a point that is lower and flatter; 'armijo' halves the step until it is low enough.

    Notes
    -----
    Nocedal & Wright, Numerical Optimization, 2nd ed. 2006: algorithms 7.4 and 7.5, with the first matrix of eq. 7.20,
    and 3.1 (Armijo) or 3.5 and 3.6 (strong Wolfe). Every model has its own memory and step length; a line search goes
    on until the last model has its point. A pair whose product is not positive is left out. Where a search fails, the
    model forgets its memory and tries the gradient; where that fails too it stops.

    Examples
    --------
    >>> import numpy as np
    >>> from sklm import LMRegressor
    >>> from sklm.optim import LBFGS
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> model = LMRegressor(10, optimizer=LBFGS(memory=20), target_loss=1e-5, random_state=0)
    >>> model.fit(X, np.sin(3 * X[:, 0])).status_
    'target'
    """

    def __init__(self, memory: int = 10, line_search: str = "strong_wolfe"):
        self.memory = memory
        self.line_search = line_search

    def validate(self) -> None:
        if not isinstance(self.memory, Integral) or isinstance(self.memory, bool) or self.memory < 1:
            raise ValueError(f"memory of LBFGS must be a positive integer; got {self.memory!r}.")
        if not isinstance(self.line_search, str) or self.line_search not in DESCENT_SEARCHES:
            raise ValueError(
                f"line_search of LBFGS must be one of {sorted(DESCENT_SEARCHES)}; got {self.line_search!r}."
            )

    def start(self, problem: Problem, theta: Tensor, point: Evaluation) -> Memory:
        return {
            "gradient": gradient(problem, theta, point.forwards),
            "pairs": [],
            "scale": torch.ones_like(point.objective),
            "fresh": torch.ones_like(point.objective, dtype=torch.bool),
        }

    def step(
        self, problem: Problem, theta: Tensor, point: Evaluation | None, memory: Memory, stopping: Stopping
    ) -> Move:
        if point is None:
            raise ValueError("L-BFGS needs all rows in every step; leave out the mini-batches.")
        slopes, pairs = memory["gradient"], memory["pairs"]
        # without memory the first trial is one unit of length away at most
        scale = torch.where(memory["fresh"], slopes.norm(dim=1).clamp(min=1).reciprocal(), memory["scale"])
        direction = -times_inverse(pairs, scale, slopes)
        slope = (slopes * direction).sum(1)
        start = Spot(torch.zeros_like(slope), theta, slopes, point.objective, point.loss, slope)
        end = DESCENT_SEARCHES[self.line_search](problem, start, direction)
        moved = end.length > 0
        pair, scale = new_pair(end.theta - theta, end.gradient - slopes, scale)
        kept = [(s, y, torch.where(moved, rho, 0.0)) for s, y, rho in pairs[: self.memory - 1]]
        fresh = ~moved | (memory["fresh"] & (pair[2] == 0))
        after = {"gradient": end.gradient, "pairs": [pair, *kept], "scale": scale, "fresh": fresh}
        return Move(
            end.theta,
            after,
            Evaluation(end.objective, end.loss, None),
            _reasons(start, moved, memory["fresh"], stopping.gradient_tol),
        )


def times_inverse(pairs: list[Pair], scale: Tensor, vector: Tensor) -> Tensor:
    """Product (b, P) of the inverse Hessian, as ``pairs`` know it, the newest first, with ``vector`` (b, P).

    ``scale`` (b,) times the identity is what it would be without pairs (Nocedal & Wright 2006, algorithm 7.4).
    """
    shares = []
    for step, change, rho in pairs:
        shares.append(rho * (step * vector).sum(1))
        vector = torch.addcmul(vector, change, shares[-1][:, None], value=-1)
    vector = scale[:, None] * vector
    for (step, change, rho), share in zip(reversed(pairs), reversed(shares), strict=True):
        vector = torch.addcmul(vector, step, (share - rho * (change * vector).sum(1))[:, None])
    return vector


def new_pair(step: Tensor, change: Tensor, scale: Tensor) -> tuple[Pair, Tensor]:
    """Pair of a step and a change of the gradient (b, P), and the scale (b,) of Nocedal & Wright 2006, eq. 7.20.

    Without positive curvature along the step, the pair does not count and the scale stays.
    """
    product, square = (step * change).sum(1), change.square().sum(1)
    use = product > torch.finfo(step.dtype).eps * square
    return (step, change, torch.where(use, 1 / product, 0.0)), torch.where(use, product / square, scale)


def _reasons(start: Spot, moved: Tensor, fresh: Tensor, tol: float) -> list[tuple[Tensor, Status]]:
    """Why models cannot go on, from where they started, whether they moved, and whether they had no memory (b,).

    With the inverse Hessian H, ``-slope = g^T H g`` is twice the decrease that is left. ``tol`` is that of the cosine
    between residual and Jacobian columns, ``g_j^2 / (H_jj 2 F) <= tol^2``.
    """
    left, eps = -start.slope, torch.finfo(start.slope.dtype).eps
    level = left <= 1000 * eps * start.objective
    return [
        (left <= 2 * tol**2 * start.objective, Status.GRADIENT),
        (~start.gradient.sum(1).isfinite(), Status.DERIVATIVE),
        (~moved & level, Status.STEP),
        (~moved & fresh, Status.STALLED),
    ]
