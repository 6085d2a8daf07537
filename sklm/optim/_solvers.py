"""Linear solvers: how the damped Gauss-Newton system is accumulated, factorised and solved.

Every solver answers the same question, ``(gram + penalty + damping * scaling) step = -gradient``, for all models at
once, and reports failures by a mask. Three calls, in this order:

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

from ._curvature import Accumulator

#: products of at least this size are accumulated as a lower triangle, of this many blocks a side (docs/performance.md)
TRIANGLE_SIZE, TRIANGLE_BLOCKS = 400, 4


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
    """See the module's docstring for when each method is called."""

    def accumulator(self, theta: Tensor) -> Accumulator: ...
    def prepare(self, system: Any, scaling: Tensor) -> Any: ...
    def factorise(self, system: Any, damping: Tensor, scaling: Tensor) -> Factor: ...
    def working_bytes(self, n_models: int, n_parameters: int, n_rows: int, itemsize: int) -> int: ...


@dataclass
class NormalSystem:
    """gram (B, P, P) with penalty, of which only the lower triangle counts, gradient (B, P), diagonal (B, P)."""

    gram: Tensor
    gradient: Tensor
    diagonal: Tensor

    def averaged(self, average: NormalSystem | None, rate: float) -> NormalSystem:
        """Mix with what was averaged before, with the gradient as it is."""
        if average is None or rate >= 1:
            return self
        gram, diagonal = average.gram.lerp(self.gram, rate), average.diagonal.lerp(self.diagonal, rate)
        return NormalSystem(gram, self.gradient, diagonal)


class _NormalAccumulator:
    """Sums ``rows rows^T``; of large products only the lower triangle, in blocks, and what is above them stays zero."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        size = rows.shape[1]
        if size >= TRIANGLE_SIZE:
            self._add_triangle(rows, -(-size // TRIANGLE_BLOCKS))
        elif self.total is None:
            self.total = torch.bmm(rows, rows.mT)
        else:
            self.total.baddbmm_(rows, rows.mT)

    def _add_triangle(self, rows: Tensor, block: int) -> None:
        if self.total is None:
            self.total = rows.new_zeros(rows.shape[0], rows.shape[1], rows.shape[1])
        for start in range(0, rows.shape[1], block):
            stop = min(start + block, rows.shape[1])
            self.total[:, start:stop, :stop].baddbmm_(rows[:, start:stop], rows[:, :stop].mT)

    def finish(self, theta: Tensor, penalty: Tensor | None, extra: Tensor | None = None) -> NormalSystem:
        assert self.total is not None
        gram, gradient = self.total[:, :-1, :-1], self.total[:, -1, :-1]
        diagonal = gram.diagonal(dim1=1, dim2=2).clone()
        if penalty is not None:
            gram.diagonal(dim1=1, dim2=2).add_(penalty)
            gradient = gradient + penalty * theta
        if extra is not None:
            gradient = gradient + extra
        return NormalSystem(gram, gradient, diagonal)


class Cholesky:
    """Primal P x P Cholesky factorisation: the fastest for more rows than parameters."""

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _NormalAccumulator()

    def prepare(self, system: NormalSystem, scaling: Tensor) -> NormalSystem:
        return system

    def factorise(self, system: NormalSystem, damping: Tensor, scaling: Tensor) -> Factor:
        damped = system.gram.clone()
        damped.diagonal(dim1=1, dim2=2).add_(damping[:, None] * scaling)
        lower, info = torch.linalg.cholesky_ex(damped)

        def solve(vector: Tensor) -> Tensor:
            return torch.cholesky_solve(vector.unsqueeze(-1), lower).squeeze(-1)

        def quadratic(vector: Tensor) -> Tensor:
            return torch.bmm(lower.mT, vector.unsqueeze(-1)).square().sum((1, 2))

        return Factor(solve(system.gradient).neg_(), info == 0, solve, quadratic)

    def working_bytes(self, n_models: int, n_parameters: int, n_rows: int, itemsize: int) -> int:
        return 3 * n_models * (n_parameters + 1) ** 2 * itemsize


@dataclass
class SpectralSystem:
    """Scaled eigenproblem: values (B, P), vectors (B, P, P) of ``D^-1/2 (gram + penalty) D^-1/2``, root of D."""

    gram: Tensor
    gradient: Tensor
    diagonal: Tensor
    values: Tensor
    vectors: Tensor
    root: Tensor


class Eigh:
    """Primal solution by a symmetric eigendecomposition: one for all dampings of a linearisation.

    Negative eigenvalues are rounding errors of a positive semidefinite matrix and are set to zero, so that the
    damping alone decides about directions the data do not determine.
    """

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _NormalAccumulator()

    def prepare(self, system: NormalSystem, scaling: Tensor) -> SpectralSystem:
        root = scaling.sqrt()
        scaled = system.gram / root[:, :, None] / root[:, None, :]
        finite = torch.isfinite(scaled).flatten(1).all(1)
        safe = scaled.where(finite[:, None, None], torch.zeros_like(scaled))  # LAPACK does not return on NaN
        values, vectors = torch.linalg.eigh(safe)
        values = values.clamp_min(0).where(finite[:, None], torch.full_like(values, torch.nan))
        return SpectralSystem(system.gram, system.gradient, system.diagonal, values, vectors, root)

    def factorise(self, system: SpectralSystem, damping: Tensor, scaling: Tensor) -> Factor:
        damped = system.values + damping[:, None]

        def solve(vector: Tensor) -> Tensor:
            inner = torch.bmm(system.vectors.mT, (vector / system.root).unsqueeze(-1)).squeeze(-1)
            return torch.bmm(system.vectors, (inner / damped).unsqueeze(-1)).squeeze(-1) / system.root

        def quadratic(vector: Tensor) -> Tensor:
            inner = torch.bmm(system.vectors.mT, (vector * system.root).unsqueeze(-1)).squeeze(-1)
            return (inner.square() * damped).sum(1)

        step = solve(system.gradient).neg_()
        return Factor(step, torch.isfinite(step).all(1), solve, quadratic)

    def working_bytes(self, n_models: int, n_parameters: int, n_rows: int, itemsize: int) -> int:
        return 5 * n_models * (n_parameters + 1) ** 2 * itemsize


@dataclass
class TriangularSystem:
    """Triangle R (B, P, P) with ``R^T R = gram + penalty`` and target c (B, P) with ``R^T c = gradient``."""

    triangle: Tensor
    target: Tensor
    gradient: Tensor
    diagonal: Tensor


class _TriangularAccumulator:
    """QR of the rows seen so far, updated chunk by chunk; memory does not grow with the rows."""

    def __init__(self) -> None:
        self.triangle: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        tall = rows.mT
        if self.triangle is not None:
            tall = torch.cat([self.triangle, tall], dim=1)
        self.triangle = torch.linalg.qr(tall, mode="r").R

    def finish(self, theta: Tensor, penalty: Tensor | None, extra: Tensor | None = None) -> TriangularSystem:
        if extra is not None:
            raise ValueError("solver='qr' cannot be used with randomly drawn curvature; use 'cholesky' or 'eigh'.")
        assert self.triangle is not None
        data = self.triangle[:, :, :-1]
        diagonal = data.square().sum(1)
        n = theta.shape[1]
        full = self.triangle
        if penalty is not None:
            root = penalty.sqrt()
            below = torch.cat([torch.diag_embed(root), (root * theta).unsqueeze(-1)], dim=2)
            full = torch.linalg.qr(torch.cat([full, below], dim=1), mode="r").R
        if full.shape[1] < n + 1:  # fewer rows than parameters
            full = torch.cat([full, full.new_zeros(full.shape[0], n + 1 - full.shape[1], n + 1)], dim=1)
        triangle, target = full[:, :n, :n], full[:, :n, n]
        return TriangularSystem(triangle, target, torch.bmm(triangle.mT, target.unsqueeze(-1)).squeeze(-1), diagonal)


class QR:
    """Orthogonal factorisation of the stacked system, never forming the Gauss-Newton matrix.

    The error grows with the condition number of J instead of its square, for about ten times the arithmetic.
    Rows are folded into a triangle chunk by chunk (Golub & Van Loan, 4th ed., section 5.3).
    """

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _TriangularAccumulator()

    def prepare(self, system: TriangularSystem, scaling: Tensor) -> TriangularSystem:
        return system

    def factorise(self, system: TriangularSystem, damping: Tensor, scaling: Tensor) -> Factor:
        root = (damping[:, None] * scaling).sqrt()
        top = torch.cat([system.triangle, system.target.unsqueeze(-1)], dim=2)
        bottom = torch.cat([torch.diag_embed(root), torch.zeros_like(root).unsqueeze(-1)], dim=2)
        full = torch.linalg.qr(torch.cat([top, bottom], dim=1), mode="r").R
        n = root.shape[1]
        upper = full[:, :n, :n]

        def solve(vector: Tensor) -> Tensor:
            half = torch.linalg.solve_triangular(upper.mT, vector.unsqueeze(-1), upper=False)
            return torch.linalg.solve_triangular(upper, half, upper=True).squeeze(-1)

        def quadratic(vector: Tensor) -> Tensor:
            return torch.bmm(upper, vector.unsqueeze(-1)).square().sum((1, 2))

        step = torch.linalg.solve_triangular(upper, full[:, :n, n:], upper=True).squeeze(-1).neg_()
        return Factor(step, torch.isfinite(step).all(1), solve, quadratic)

    def working_bytes(self, n_models: int, n_parameters: int, n_rows: int, itemsize: int) -> int:
        return 8 * n_models * (n_parameters + 1) ** 2 * itemsize


@dataclass
class DualSystem:
    """All rows (B, P, N R), residuals (B, N R), penalty and the gradient's part beside the rows, ``pull`` (B, P)."""

    rows: Tensor
    residual: Tensor
    penalty: Tensor
    pull: Tensor
    gradient: Tensor
    diagonal: Tensor


class _DualAccumulator:
    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.parts.append(rows.clone())

    def finish(self, theta: Tensor, penalty: Tensor | None, extra: Tensor | None = None) -> DualSystem:
        rows = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=2)
        jacobian, residual = rows[:, :-1], rows[:, -1]
        penalty = torch.zeros_like(theta) if penalty is None else penalty
        pull = penalty * theta if extra is None else penalty * theta + extra
        gradient = torch.bmm(jacobian, residual.unsqueeze(-1)).squeeze(-1) + pull
        return DualSystem(jacobian, residual, penalty, pull, gradient, jacobian.square().sum(2))


class Dual:
    """Solution in the space of the rows, (N R) x (N R): for more parameters than rows.

    Notes
    -----
    With ``m = penalty + damping * scaling`` the step minimises ``|J p + z|^2 + |theta + p|^2_penalty +
    |p|^2_damping``, and equals ``-(J^T u + penalty theta) / m`` where
    ``(J m^-1 J^T + I) u = z - J m^-1 penalty theta`` (Sherman-Morrison-Woodbury). Same step, same meaning of the
    damping, as the primal solvers. A gradient beside the rows (of randomly drawn curvature) is added to
    ``penalty theta``.
    """

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _DualAccumulator()

    def prepare(self, system: DualSystem, scaling: Tensor) -> DualSystem:
        return system

    def factorise(self, system: DualSystem, damping: Tensor, scaling: Tensor) -> Factor:
        shift = system.penalty + damping[:, None] * scaling
        weighted = system.rows / shift[:, :, None]
        kernel = torch.bmm(weighted.mT, system.rows)
        kernel.diagonal(dim1=1, dim2=2).add_(1)
        lower, info = torch.linalg.cholesky_ex(kernel)

        def dual(vector: Tensor) -> Tensor:
            u = torch.cholesky_solve(vector.unsqueeze(-1), lower)
            return torch.bmm(weighted, u).squeeze(-1)

        def across(vector: Tensor) -> Tensor:
            return torch.bmm(weighted.mT, vector.unsqueeze(-1)).squeeze(-1)

        def solve(vector: Tensor) -> Tensor:
            return vector / shift - dual(across(vector))

        def quadratic(vector: Tensor) -> Tensor:
            along = torch.bmm(system.rows.mT, vector.unsqueeze(-1)).squeeze(-1)
            return along.square().sum(1) + (shift * vector.square()).sum(1)

        step = -(dual(system.residual - across(system.pull)) + system.pull / shift)
        return Factor(step, info == 0, solve, quadratic)

    def working_bytes(self, n_models: int, n_parameters: int, n_rows: int, itemsize: int) -> int:
        return n_models * (3 * n_parameters * n_rows + 2 * n_rows**2) * itemsize


SOLVERS: dict[str, type] = {"cholesky": Cholesky, "eigh": Eigh, "qr": QR, "dual": Dual}


def choose_solver(name: str, n_parameters: int, n_rows: int) -> str:
    """Resolve 'auto': the dual where the system has fewer rows (N R) than parameters, else Cholesky."""
    if name != "auto":
        return name
    return "dual" if n_rows < n_parameters else "cholesky"


__all__ = ["QR", "SOLVERS", "Cholesky", "Dual", "Eigh", "Factor", "LinearSolver", "choose_solver"]
