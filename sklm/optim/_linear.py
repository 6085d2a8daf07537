"""What the loop asks of a linear solver, and what solvers share.

Every solver answers the same question, ``(gram + penalty + damping * scaling) step = -gradient``, for all models at
once, and reports failures by a mask. Where only some parameters move, P counts these. Three calls, in this order:

``accumulator(theta)``
    at every linearisation; takes the rows chunk by chunk and ends in a *system*, a dataclass of tensors that has at
    least ``gradient`` (B, P) and ``diagonal`` (B, P), the diagonal of the Gauss-Newton matrix without penalty.
``prepare(system, scaling)``
    once a linearisation, when the scaling is known: the place for work that every damping shares.
``factorise(system, damping, scaling)``
    at every trial; returns a :class:`Factor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..architectures._base import Network
from ._curvature import Accumulator

#: products of at least this size are accumulated as a lower triangle, of at most this many blocks a side, which have at
#: least so many rows (docs/performance.md)
TRIANGLE_SIZE, TRIANGLE_BLOCKS, TRIANGLE_LEAST = 150, 8, 64


@dataclass
class Factor:
    """A factorised damped system.

    Attributes
    ----------
    step : (B, P)
        Solution of the damped system.
    ok : (B,) bool
        False where the factorisation failed; the step of such a model is meaningless.
    solve : callable
        (B, P) -> (B, P), the inverse of the damped matrix A times a vector.
    quadratic : callable
        (B, P) -> (B,), the quadratic form ``v^T A v``.
    """

    step: Tensor
    ok: Tensor
    solve: Callable[[Tensor], Tensor]
    quadratic: Callable[[Tensor], Tensor]


class LinearSolver(Protocol):
    """See the module's docstring for when each method is called.

    A solver that needs no rows where the network gives their factors may say so by ``layerwise = True``, and one whose
    system is only of all models by ``whole_batch = True``.
    """

    def accumulator(self, theta: Tensor) -> Accumulator: ...
    def prepare(self, system: Any, scaling: Tensor) -> Any: ...
    def factorise(self, system: Any, damping: Tensor, scaling: Tensor) -> Factor: ...
    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        """Memory at the peak of an iteration, for n_rows = N R rows in numbers of ``itemsize`` bytes.

        ``n_active`` is the number of parameters that move at once, None for all.
        """


def add_lower(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left right``, (B, m, k) times (B, k, m) and symmetric, to the lower triangle of ``total``.

    ``total`` is (B, m, m), or None for zero. What is above the diagonal means nothing. Returns the sum, in its memory.
    """
    size = left.shape[1]
    if size < TRIANGLE_SIZE:
        return torch.bmm(left, right) if total is None else total.baddbmm_(left, right)
    if total is None:
        total = left.new_zeros(left.shape[0], size, size)
    block = max(-(-size // TRIANGLE_BLOCKS), TRIANGLE_LEAST)
    for start in range(0, size, block):
        stop = min(start + block, size)
        total[:, start:stop, :stop].baddbmm_(left[:, start:stop], right[:, :, :stop])
    return total


def solve_factored(lower: Tensor, vector: Tensor) -> Tensor:
    """Solve ``L L^T x = v`` for factors L (B, m, m) and vectors v (B, m).

    By two triangular systems, which take half the time of ``torch.cholesky_solve`` on a CPU (docs/performance.md).
    """
    half = torch.linalg.solve_triangular(lower, vector.unsqueeze(-1), upper=False)
    return torch.linalg.solve_triangular(lower.mT, half, upper=True).squeeze(-1)
