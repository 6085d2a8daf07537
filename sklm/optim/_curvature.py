"""Linearisation: the split Jacobian, chunk by chunk, into whatever a linear solver accumulates."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..architectures._base import Forward
from ._problem import Problem


class Accumulator(Protocol):
    """Receives the augmented rows of every chunk; see ``_solvers``."""

    def add(self, rows: Tensor) -> None:
        """Rows (B, P + 1, R n): columns ``sqrt(w) J^T S`` with ``sqrt(w) z`` below. The buffer is reused."""

    def finish(self, theta: Tensor, penalty: Tensor | None) -> Any:
        """Return the system, with the penalty (B, P), if any, at theta (B, P) added."""


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
    problem: Problem, theta: Tensor, kept: list[Forward] | None, accumulator: Accumulator, workspace: Workspace
) -> tuple[Any, Tensor | None]:
    """Feed all rows of the Gauss-Newton system at theta (B, P) to ``accumulator``.

    Returns the system and, where one chunk took all samples, its columns ``sqrt(w) J^T S`` (B, P, R n), valid until
    the workspace is used again.

    Notes
    -----
    Row n of model b is ``sqrt(w_n) [J_n^T S_n ; z_n]`` (P + 1 numbers for each of R columns), so that one
    symmetric product gives ``gram = sum w J^T S S^T J`` and ``gradient = sum w J^T S z`` together.
    """
    n_models, n_parameters = theta.shape
    flat = None
    for chunk, forward in problem.forward_passes(theta, kept):
        root = chunk.root_weights
        rows = workspace.view((n_models, n_parameters + 1, problem.n_curvature, root.shape[-1]), theta)
        factor = problem.loss.factor(forward.outputs, chunk.y) * root[:, None, None, :]
        problem.network.pullback(theta, chunk.X, forward, factor, rows[:, :-1])
        torch.mul(problem.loss.residual(forward.outputs, chunk.y), root[:, None, :], out=rows[:, -1])
        flat = rows.flatten(2)
        accumulator.add(flat)
    whole = flat is not None and problem.max_rows >= problem.n_samples
    return accumulator.finish(theta, problem.penalty()), flat[:, :-1] if flat is not None and whole else None
