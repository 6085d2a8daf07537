"""Linear solvers on the normal equations or on rows, and the registry of all; their protocol is in ``_linear``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..architectures._base import Network
from ._cg import ConjugateGradients
from ._curvature import Accumulator
from ._dual import Dual
from ._linear import TRIANGLE_SIZE, Factor, LinearSolver, add_lower, solve_factored

#: outputs from which products of the output layer are formed one by one (docs/performance.md)
SEPARATE_OUTPUTS = 4


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

    def apart(self) -> tuple[NormalSystem, Tensor]:
        """The system without the penalty, and the penalty (B, P)."""
        penalty = self.gram.diagonal(dim1=1, dim2=2) - self.diagonal
        return self.penalised(-penalty), penalty

    def penalised(self, penalty: Tensor) -> NormalSystem:
        """The same with a penalty (B, P) more."""
        gram = self.gram.clone()
        gram.diagonal(dim1=1, dim2=2).add_(penalty)
        return NormalSystem(gram, self.gradient, self.diagonal)

    def of_unknown_rows(self, by_parameter: bool) -> NormalSystem:
        """What stands for rows before, of which nothing is known: they hold all parameters as these do in the mean.

        With ``by_parameter``, where parameters have units, each as these hold it.
        """
        level = self.diagonal if by_parameter else self.diagonal.mean(1, keepdim=True).expand_as(self.diagonal)
        return NormalSystem(torch.diag_embed(level), self.gradient, level)


class _NormalAccumulator:
    """Sums ``rows rows^T``; of large products only the lower triangle, and what is above it means nothing."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.own: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        self.total = add_lower(self.total, rows, rows.mT)

    def add_separable(self, rows: Tensor, places: np.ndarray) -> None:
        """Add rows (B, P + 1, K, n) that are zero at the parameters ``places[k]`` in all columns but k.

        Notes
        -----
        For squared error and hidden values h, the block of the output layer is ``I_K (x) sum w h h^T``. Products of
        rows of different outputs are zero there, and those with the rows below take one column a row instead of K.
        """
        size, low = rows.shape[1], int(places[0, 0])
        if size < TRIANGLE_SIZE or len(places) < SEPARATE_OUTPUTS:
            self.add(rows.flatten(2))
            return
        if self.total is None:
            self.total = rows.new_zeros(len(rows), size, size)
        if self.own is None:
            self.own = _own_rows(places.tobytes(), len(places), size, rows.device)
        below = rows[:, :low].flatten(2)
        add_lower(self.total[:, :low, :low], below, below.mT)
        for column, own in enumerate(self.own):
            one = rows[:, :, column]
            left = one.index_select(1, own)
            self.total[:, :, :low].index_add_(1, own, torch.bmm(left, one[:, :low].mT))
            self.total[:, own[:, None], own] += torch.bmm(left, left.mT)

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


@cache  # recorded graphs hold addresses
def _own_rows(places: bytes, n_outputs: int, size: int, device: torch.device) -> Tensor:
    """Index of each output's own parameters ``places``, with the residual, which is in all columns, as last row.

    Kept: to copy it to a device anew would wait for that.
    """
    own = np.frombuffer(places, dtype=np.int64).reshape(n_outputs, -1)
    with torch.inference_mode(False):
        return torch.from_numpy(np.hstack([own, np.full((n_outputs, 1), size - 1)])).to(device)


class Cholesky:
    """Primal P x P Cholesky factorisation: the fastest for more rows than parameters."""

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _NormalAccumulator()

    def prepare(self, system: NormalSystem, scaling: Tensor) -> NormalSystem:
        return system

    def factorise(self, system: NormalSystem, damping: Tensor, scaling: Tensor) -> Factor:
        damped = system.gram.clone()
        damped.diagonal(dim1=1, dim2=2).addcmul_(damping.unsqueeze(1), scaling)
        lower, info = torch.linalg.cholesky_ex(damped)

        def solve(vector: Tensor) -> Tensor:
            return solve_factored(lower, vector)

        def quadratic(vector: Tensor) -> Tensor:
            return torch.bmm(lower.mT, vector.unsqueeze(-1)).square().sum((1, 2))

        return Factor(solve(system.gradient).neg_(), info == 0, solve, quadratic)

    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        return 3 * n_models * ((n_active or network.n_parameters) + 1) ** 2 * itemsize


@dataclass
class SpectralSystem:
    """Scaled eigenproblem: values (B, P), vectors (B, P, P) of ``D^-1/2 (gram + penalty) D^-1/2``, root of D."""

    gram: Tensor
    gradient: Tensor
    diagonal: Tensor
    values: Tensor
    vectors: Tensor
    root: Tensor


def scaled_eigh(gram: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigendecomposition of ``gram / (root root^T)``, of which only the lower triangle counts.

    gram is (B, P, P), root (B, P) positive. Returns values (B, P) in ascending order, vectors (B, P, P) and a mask (B,)
    that is False for models with a number that is not finite, whose values and vectors mean nothing.
    """
    scaled = gram / root[:, :, None] / root[:, None, :]
    finite = torch.isfinite(scaled).flatten(1).all(1)
    safe = scaled.where(finite[:, None, None], torch.zeros_like(scaled))  # LAPACK does not return on NaN
    values, vectors = torch.linalg.eigh(safe)  # of the lower triangle
    return values, vectors, finite


class Eigh:
    """Primal solution by a symmetric eigendecomposition: one for all dampings of a linearisation.

    Negative eigenvalues are rounding errors of a positive semidefinite matrix and are set to zero, so that the
    damping alone decides about directions the data do not determine.
    """

    def accumulator(self, theta: Tensor) -> Accumulator:
        return _NormalAccumulator()

    def prepare(self, system: NormalSystem, scaling: Tensor) -> SpectralSystem:
        # an entry of D that is nothing beside the penalty of its parameter would blow up the rounding errors of all
        diagonal = system.gram.diagonal(dim1=1, dim2=2)
        root = torch.maximum(scaling, torch.finfo(scaling.dtype).eps ** 0.5 * diagonal).sqrt()
        values, vectors, finite = scaled_eigh(system.gram, root)
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

    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        return 5 * n_models * ((n_active or network.n_parameters) + 1) ** 2 * itemsize


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
            return solve_factored(upper.mT, vector)

        def quadratic(vector: Tensor) -> Tensor:
            return torch.bmm(upper, vector.unsqueeze(-1)).square().sum((1, 2))

        step = torch.linalg.solve_triangular(upper, full[:, :n, n:], upper=True).squeeze(-1).neg_()
        return Factor(step, torch.isfinite(step).all(1), solve, quadratic)

    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        return 8 * n_models * ((n_active or network.n_parameters) + 1) ** 2 * itemsize


SOLVERS: dict[str, type] = {"cholesky": Cholesky, "eigh": Eigh, "qr": QR, "dual": Dual, "cg": ConjugateGradients}


def choose_solver(name: str, n_parameters: int, n_rows: int) -> str:
    """Resolve 'auto': the dual where the system has fewer rows (N R) than parameters, else Cholesky."""
    if name != "auto":
        return name
    return "dual" if n_rows < n_parameters else "cholesky"


__all__ = ["QR", "SOLVERS", "Cholesky", "ConjugateGradients", "Dual", "Eigh", "Factor", "LinearSolver", "choose_solver"]
