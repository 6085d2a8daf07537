"""When a model is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ._state import State
from ._status import Status

#: what an objective has to be multiplied by, where it is slight, to count as progress
SLIGHT_PROGRESS = 0.5
#: largest cosine between residual and Jacobian columns at which a fit that cannot go on counts as converged
NEARLY_FLAT = 1e-3


@dataclass(frozen=True)
class Stopping:
    """Limits and tolerances of the loop.

    Attributes
    ----------
    max_iter : int
        Iterations: trial steps, or epochs with mini-batches.
    max_time : float
        Seconds.
    tol : float
        Relative decrease of the objective (or validation loss) that counts as progress ...
    n_iter_no_change : int
        ... and the number of accepted steps (or epochs) within which there must be some.
    target_loss : float
        Loss, in the units of the targets and without penalty, at which to stop; negative for none.
    negligible : float
        Share of the loss of zero outputs below which an objective is as good as zero; 0 for none.
    slight : float
        Share of the loss of zero outputs below which only halving the objective counts as progress; 0 for none.
    together : bool
        The models (of a group) are starts of one fit: when one reaches ``target_loss``, the others stop too.
    race : sequence of (int, int)
        After so many iterations (of the model furthest on), only the best so many models (of a group) of those that
        still run go on; see ``fallen_behind``. With ``slight``, it is over when one has next to nothing left.
    spared : int
        The first so many models (of a group) take no part in the race, and are not given up before it is over.
    gradient_tol : float
        Largest ``|g_j| / sqrt(gram_jj 2 F)``, the cosine between residual and Jacobian column for squared error
        (More 1978, eq. 2.9); free of units.
    max_damping, min_damping : float
        Range of the damping.
    """

    max_iter: int = 1000
    max_time: float = float("inf")
    tol: float = 1e-4
    n_iter_no_change: int = 20
    target_loss: float = -1.0
    negligible: float = 0.0
    slight: float = 0.0
    together: bool = False
    race: tuple[tuple[int, int], ...] = ()
    spared: int = 0
    gradient_tol: float = 1e-10
    max_damping: float = 1e16
    min_damping: float = 1e-14

    def left(self, began: float) -> Stopping:
        """The same with what is left of ``max_time`` since ``began``, in seconds of ``time.monotonic()``."""
        return replace(self, max_time=max(self.max_time - (time.monotonic() - began), 0.0))


def exact(state: State, power: int) -> Tensor:
    """Return the mask (B,) of models whose objective is zero to rounding; see ``Loss.exact_power``."""
    return state.objective <= (4 * torch.finfo(state.objective.dtype).eps) ** power * state.start


def stationary(system: Any, state: State, stale: Tensor, tol: float) -> list[tuple[Tensor, Status]]:
    """Return masks (B,) of models whose gradient was zero, or not finite, when last linearised.

    A model that has moved since (``stale``) is judged at the next linearisation.
    """
    size = system.gradient.abs()
    flat = (size <= _cosine_bound(system, state, tol)).all(1) & ~stale
    return [(flat, Status.GRADIENT), (~(size.sum(1) < torch.inf), Status.DERIVATIVE)]


def stuck(
    system: Any, state: State, tiny: Tensor, options: Stopping, power: int, penalty: Tensor | None
) -> list[tuple[Tensor, Status]]:
    """Return masks (B,) of models that no step improves: at a minimum as far as rounding shows, or not.

    ``tiny`` marks rejected steps below the resolution of the parameters; penalty (B, P) or None is that of the problem.
    """
    capped = ~(state.damping < options.max_damping)
    level = (system.gradient.abs() <= _cosine_bound(system, state, NEARLY_FLAT)).all(1)
    eps = torch.finfo(state.objective.dtype).eps
    # no coordinate promises a decrease, gradient^2 / (2 curvature), that rounding of the objective would show
    curvature = system.diagonal if penalty is None else system.diagonal + penalty
    level = level | (system.gradient.square() <= 16 * eps * state.objective[:, None] * curvature).all(1)
    # a residual of rounding errors has no direction
    level = level | (state.objective <= (1000 * eps) ** power * state.start)
    return [(tiny & level, Status.STEP), (capped & level, Status.DAMPING), (tiny | capped, Status.STALLED)]


def _cosine_bound(system: Any, state: State, tol: float) -> Tensor:
    """Largest gradient (B, P) whose cosine with the residual is at most ``tol``."""
    return (tol * (2 * state.objective).sqrt())[:, None] * system.diagonal.sqrt()


def first_reason(status: Tensor, running: Tensor, reasons: list[tuple[Tensor, Status]]) -> Tensor:
    """Give every running model (B,) the first status whose mask holds; others keep theirs."""
    done = reasons[0][0]
    for mask, _ in reasons[1:]:
        done = done | mask
    if done.device.type == "cpu" and not bool(done.any()):
        return status
    for mask, reason in reversed(reasons):
        status = torch.where(mask & running, int(reason), status)
    return status
