"""Corrections of the Levenberg-Marquardt step that need no new linearisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .._constant import constant
from ..architectures._base import Forward
from ._problem import Problem


class Acceleration(Protocol):
    """Called after the step is solved for and before it is tried."""

    def correct(
        self,
        problem: Problem,
        theta: Tensor,
        kept: list[Forward] | None,
        step: Tensor,
        solve: Callable[[Tensor], Tensor],
        scaling: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        """Return what to add to ``step`` (B, P).

        ``rows`` are the columns ``sqrt(w) J^T S`` (B, P, R n) of all samples at theta, if they are still at hand.
        """


class Geodesic:
    """Second-order correction along the path of the step: ``step + a / 2``.

    Notes
    -----
    ``(gram + damping D) a = -J^T H f_vv`` with ``f_vv`` the second derivative of the outputs along the step
    ``v`` (Transtrum & Sethna, arXiv:1201.5885, eqs. 7-9). It is used for the models where
    ``2 |a| <= largest_ratio |v|`` in the norm of D (their eq. 15); elsewhere the plain step is tried.
    ``f_vv`` is exact.
    """

    def __init__(self, largest_ratio: float = 0.75):
        self.largest_ratio = largest_ratio

    def correct(
        self,
        problem: Problem,
        theta: Tensor,
        kept: list[Forward] | None,
        step: Tensor,
        solve: Callable[[Tensor], Tensor],
        scaling: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        network, loss, total = problem.network, problem.loss, None
        for chunk, forward in problem.forward_passes(theta, kept):
            bend = network.second_directional(theta, chunk.X, forward, step)
            if rows is not None:
                force = loss.project(forward.outputs, chunk.y, bend) * chunk.root_weights.unsqueeze(1)
                part = torch.bmm(rows, force.flatten(1).unsqueeze(2)).squeeze(2)
            else:
                force = loss.hessian_product(forward.outputs, chunk.y, bend) * chunk.weights.unsqueeze(1)
                part = network.vjp(theta, chunk.X, forward, force)
            total = part if total is None else total + part
        assert total is not None
        half = solve(total).mul_(constant(-0.5, total))
        # 2 |a| <= largest_ratio |v|, with 2 |a| = 4 |half|; NaN compares as False
        size = (scaling * half).mul_(half).sum(1)
        limit = (scaling * step).mul_(step).sum(1).mul_(constant((self.largest_ratio / 4) ** 2, step))
        return torch.where((size <= limit).unsqueeze(1), half, constant(0.0, half))


ACCELERATIONS: dict[str, Callable[[], Acceleration]] = {"geodesic": Geodesic}
