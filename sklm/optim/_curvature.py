"""Linearisation: the split Jacobian, chunk by chunk, into whatever a linear solver accumulates."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..architectures._base import Forward
from ._problem import Problem
from ._selection import EVERYTHING, Active


class Accumulator(Protocol):
    """Receives the augmented rows of every chunk; see ``_solvers``."""

    def add(self, rows: Tensor) -> None:
        """Rows (B, P + 1, R n): columns ``sqrt(w) J^T S`` with ``sqrt(w) z`` below. The buffer is reused."""

    def finish(self, theta: Tensor, penalty: Tensor | None, extra: Tensor | None = None) -> Any:
        """Return the system at theta (B, P), with the penalty (B, P) and the rest of the gradient (B, P), if any."""


class Workspace:
    """One flat buffer for Jacobian rows, grown when needed and seen under every shape."""

    def __init__(self) -> None:
        self._storage: Tensor | None = None

    def view(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of ``shape``, contiguous, valid until the next call."""
        size = 1
        for length in shape:
            size *= length
        if self._storage is None or self._storage.numel() < size:
            self._storage = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._storage[:size].view(shape)


def linearise(
    problem: Problem,
    theta: Tensor,
    kept: list[Forward] | None,
    accumulator: Accumulator,
    workspace: Workspace,
    active: Active = EVERYTHING,
) -> tuple[Any, Tensor | None]:
    """Feed all rows of the Gauss-Newton system at theta (B, P) to ``accumulator``.

    Returns the system and, where one chunk took all samples, its columns ``sqrt(w) J^T S`` (B, P, R n), valid until
    the workspace is used again. Where only some parameters are active, all this is in terms of them, P in number.

    Notes
    -----
    Row n of model b is ``sqrt(w_n) [J_n^T S_n ; z_n]`` (P + 1 numbers for each of R columns), so that one
    symmetric product gives ``gram = sum w J^T S S^T J`` and ``gradient = sum w J^T S z`` together. Where S is drawn
    at random, z is zero and the gradient comes from one more pass back.
    """
    network, loss, flat, gradient = problem.network, problem.loss, None, None
    pullback, part_of = active.pullback(network), active.restrict
    size = theta.shape[1] if active.index is None else len(active.index)
    for chunk, forward in problem.forward_passes(theta, kept):
        root = chunk.root_weights
        rows, flat = _buffer(workspace, problem, theta, size, root.shape[-1])
        if loss.n_draws:
            assert chunk.noise is not None
            factor = loss.draw(forward.outputs, chunk.y, chunk.noise)
            rows[:, -1].zero_()
            force = loss.gradient(forward.outputs, chunk.y) * chunk.weights.unsqueeze(1)
            part = part_of(network.vjp(theta, chunk.X, forward, force))
            gradient = part if gradient is None else gradient.add_(part)
        else:
            factor = loss.factor(forward.outputs, chunk.y)
            torch.mul(loss.residual(forward.outputs, chunk.y), root[:, None, :], out=rows[:, -1])
        pullback(theta, chunk.X, forward, factor * root[:, None, None, :], rows[:, :-1])
        accumulator.add(flat)
    assert flat is not None
    # the rows serve again where they are those of all samples, exact, and in the order of (R, n)
    whole = problem.max_rows >= problem.n_samples and not loss.n_draws and not network.samples_first
    penalty = problem.penalty()
    system = accumulator.finish(part_of(theta), None if penalty is None else part_of(penalty), gradient)
    return system, flat[:, :-1] if whole else None


def _buffer(workspace: Workspace, problem: Problem, theta: Tensor, n_parameters: int, n: int) -> tuple[Tensor, Tensor]:
    """The rows of a chunk as (B, P + 1, R, n), in the network's layout, and the same memory as (B, P + 1, R n)."""
    n_models = len(theta)
    if problem.network.samples_first:
        block = workspace.view((n_models, n, problem.n_curvature, n_parameters + 1), theta)
        return block.permute(0, 3, 2, 1), block.flatten(1, 2).mT
    rows = workspace.view((n_models, n_parameters + 1, problem.n_curvature, n), theta)
    return rows, rows.flatten(2)
