"""Corrections of the Levenberg-Marquardt step that need no new linearisation.

An acceleration is a small object without state of its own. For all models at once:

``start(theta)``
    called once, with the starting point (B, P); returns a dict of tensors with leading axis B, its memory.
``correct(at, step, memory)``
    called after the step is solved for and before it is tried; returns what to add to ``step`` (B, p).
``update(memory, accept)``
    called after the trial with who accepted it (B,); returns the next memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._constant import constant
from .._parameters import Parameters
from ..architectures._base import Forward
from ._damping import Memory
from ._problem import Problem
from ._selection import EVERYTHING, Active


@dataclass
class Linearised:
    """The damped linear problem around a point, ``(gram + penalty + damping D) step = -gradient``.

    P counts all parameters, p those that move in this iteration (all of them without ``param_selection``).

    Attributes
    ----------
    problem : Problem
    theta : (B, P)
    forwards : list of Forward or None
        Forward passes at theta, if they were kept.
    rows : (B, p, R n) or None
        Columns ``sqrt(w) J^T S`` of all samples at theta, if they are still at hand.
    gradient, scaling, step : (B, p)
        Gradient of the objective, D, and the plain step.
    damping : (B,)
    solve, quadratic : callable
        The inverse of the damped matrix A times (B, p), and ``v^T A v`` (B,) for a v (B, p).
    previous : (B, p) or None
        The last accepted step, zero where there is none; None unless an acceleration has ``uses_previous``.
    active : Active
        Which parameters move: ``spread`` fills (B, p) up to (B, P), ``restrict`` is the way back.
    """

    problem: Problem
    theta: Tensor
    forwards: list[Forward] | None
    rows: Tensor | None
    gradient: Tensor
    scaling: Tensor
    step: Tensor
    damping: Tensor
    solve: Callable[[Tensor], Tensor]
    quadratic: Callable[[Tensor], Tensor]
    previous: Tensor | None = None
    active: Active = EVERYTHING

    def reduction(self, step: Tensor) -> Tensor:
        """Reduction (B,) of the objective that the quadratic model without damping predicts for a step (B, p)."""
        damped = self.damping * (self.scaling * step).mul_(step).sum(1)
        return (damped - self.quadratic(step)).mul_(0.5) - (self.gradient * step).sum(1)


class Acceleration(Parameters, ABC):
    """See the module's docstring for when each method is called; ``correct`` is the only one that must be written."""

    #: whether ``at.previous`` is wanted
    uses_previous = False
    #: whether the corrected step is to be judged by the reduction that the quadratic model predicts for it, instead of
    #: that of the plain step (right where the correction is made from that model)
    first_order = False

    def start(self, theta: Tensor) -> Memory:
        """Return the memory, nothing by default."""
        return {}

    @abstractmethod
    def correct(self, at: Linearised, step: Tensor, memory: Memory) -> Tensor:
        """Return what to add to ``step`` (B, p), the plain step with the corrections before this one."""

    def update(self, memory: Memory, accept: Tensor) -> Memory:
        """Return the next memory; the same by default."""
        return memory


class Geodesic(Acceleration):
    """Second-order correction along the path of the step: ``step + a / 2``.

    Parameters
    ----------
    largest_ratio : float, default=0.75
        Of acceleration to step.

    Notes
    -----
    ``(gram + damping D) a = -J^T H f_vv`` with ``f_vv`` the second derivative of the outputs along the step
    ``v`` (Transtrum & Sethna, arXiv:1201.5885, eqs. 7-9). It is used for the models where
    ``2 |a| <= largest_ratio |v|`` in the norm of D (their eq. 15); elsewhere the plain step is tried.
    ``f_vv`` is exact.
    """

    def __init__(self, largest_ratio: float = 0.75):
        self.largest_ratio = largest_ratio

    def correct(self, at: Linearised, step: Tensor, memory: Memory) -> Tensor:
        network, loss, total, direction = at.problem.network, at.problem.loss, None, at.active.spread(step)
        for chunk, forward in at.problem.forward_passes(at.theta, at.forwards):
            bend = network.second_directional(at.theta, chunk.X, forward, direction)
            if at.rows is not None:
                force = loss.project(forward.outputs, chunk.y, bend) * chunk.root_weights.unsqueeze(1)
                part = torch.bmm(at.rows, force.flatten(1).unsqueeze(2)).squeeze(2)
            else:
                force = loss.hessian_product(forward.outputs, chunk.y, bend) * chunk.weights.unsqueeze(1)
                part = at.active.restrict(network.vjp(at.theta, chunk.X, forward, force))
            total = part if total is None else total + part
        assert total is not None
        half = at.solve(total).mul_(constant(-0.5, total))
        # 2 |a| <= largest_ratio |v|, with 2 |a| = 4 |half|; NaN compares as False
        size = (at.scaling * half).mul_(half).sum(1)
        limit = (at.scaling * step).mul_(step).sum(1).mul_(constant((self.largest_ratio / 4) ** 2, step))
        return torch.where((size <= limit).unsqueeze(1), half, constant(0.0, half))


class Momentum(Acceleration):
    """Adaptive momentum: the plain step and the last accepted one, mixed by a constrained optimum.

    Parameters
    ----------
    cosine : float, default=0.95
        Cosine, in the metric of the damped matrix, between the step and the plain step; above 0 and below 1. The rest
        is along the last step. Published values are 0.85 to 0.95.

    Raises
    ------
    ValueError
        If ``cosine`` is not between 0 and 1.

    Notes
    -----
    Of the steps ``p`` with ``p^T A p = dP^2`` and ``gradient^T p = dQ`` (A is the damped matrix), the one closest to
    the last accepted step d in the metric of A is ``p = -z1 / (2 z2) A^-1 gradient + d / (2 z2)`` with

    ``z2 = 1/2 ((I_GG dP^2 - dQ^2) / (I_FF I_GG - I_GF^2))^(-1/2)`` and ``z1 = (I_GF - 2 z2 dQ) / I_GG``,

    where ``I_GG = gradient^T A^-1 gradient``, ``I_GF = gradient^T d``, ``I_FF = d^T A d`` and
    ``dQ = -cosine dP sqrt(I_GG)`` (Ampazis & Perantonis 2000, Levenberg-Marquardt algorithm with adaptive momentum for
    the efficient training of feedforward networks; Pooladzandi & Zhou, arXiv:2212.08769, eqs. 8-13).

    A constant dP would fix the length of every step, and no fit could converge. Here ``dP = share sqrt(I_GG)``, the
    length of the plain step times a share that starts at 1, halves with every rejection and doubles, up to 1, with
    every acceptance. The plain step is tried where there is no last step, and where the last step is so nearly
    parallel to the plain one that the formula is rounding.
    """

    uses_previous = True
    first_order = True

    def __init__(self, cosine: float = 0.95):
        self.cosine = cosine

    def start(self, theta: Tensor) -> Memory:
        if not 0 < self.cosine < 1:
            raise ValueError(f"cosine must be above 0 and below 1; got {self.cosine!r}.")
        return {"share": theta.new_ones(len(theta))}

    def correct(self, at: Linearised, step: Tensor, memory: Memory) -> Tensor:
        assert at.previous is not None
        i_gg = -(at.gradient * at.step).sum(1)
        i_gf = (at.gradient * at.previous).sum(1)
        i_ff = at.quadratic(at.previous)
        gap = i_ff * i_gg - i_gf.square()  # not negative, by Cauchy and Schwarz
        length = memory["share"] * i_gg.clamp_min(0).sqrt()
        slope = -self.cosine * length * i_gg.clamp_min(0).sqrt()
        twice_z2 = (gap.clamp_min(0) / (i_gg * length.square() - slope.square())).sqrt()
        z1 = (i_gf - twice_z2 * slope) / i_gg
        mixed = ((z1 / twice_z2)[:, None] * at.step).add_(at.previous / twice_z2[:, None])
        usable = gap > torch.finfo(gap.dtype).eps ** 0.5 * i_ff * i_gg  # false for NaN
        usable = usable & torch.isfinite(mixed).all(1)
        return torch.where(usable[:, None], mixed - at.step, 0.0)

    def update(self, memory: Memory, accept: Tensor) -> Memory:
        share = memory["share"]
        return {"share": torch.where(accept, (2 * share).clamp_max(1.0), 0.5 * share)}


ACCELERATIONS: dict[str, Callable[[], Acceleration]] = {"geodesic": Geodesic, "momentum": Momentum}


def make_accelerations(given: Any) -> list[Acceleration]:
    """Return the accelerations that a name, an object, a sequence of both or None stands for, in order.

    Raises
    ------
    ValueError
        If something else is given.
    """
    if given is None:
        return []
    parts = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    result = []
    for part in parts:
        made = ACCELERATIONS[part]() if isinstance(part, str) and part in ACCELERATIONS else part
        if not isinstance(made, Acceleration):
            raise ValueError(
                f"acceleration must be one of {sorted(ACCELERATIONS)}, an object of a class derived from "
                f"sklm.optim.Acceleration, a sequence of these, or None; got {part!r}."
            )
        result.append(made)
    return result
