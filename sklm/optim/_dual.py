"""The step in the space of the rows, for more parameters than rows, without the Jacobian."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..architectures._base import LayerFactors, Network
from ._kernel import LayerPart, Part, RowsPart, gather
from ._linear import Factor, solve_factored


@dataclass
class DualSystem:
    """Rows as parts, residuals (B, N R), penalty (B, P) and the gradient's part beside the rows, ``pull``, or None.

    ``kernels`` is what :meth:`Dual.prepare` found independent of the damping: nothing, one or two (B, N R, N R).
    """

    parts: list[Part]
    residual: Tensor
    penalty: Tensor | None
    pull: Tensor | None
    gradient: Tensor
    diagonal: Tensor
    kernels: list[Tensor]

    def back(self, u: Tensor) -> Tensor:
        """``J^T u`` (B, P) for u (B, N R)."""
        out = torch.empty_like(self.diagonal)
        for part in self.parts:
            part.back(u, out)
        return out

    def across(self, vector: Tensor) -> Tensor:
        """``J vector`` (B, N R) for a vector (B, P)."""
        total = self.parts[0].across(vector)
        for part in self.parts[1:]:
            total += part.across(vector)
        return total

    def weighted_kernel(self, inverse: Tensor) -> Tensor:
        """``J diag(inverse) J^T`` for ``inverse`` (B, P)."""
        kernel = self._zeros()
        for part in self.parts:
            part.add_weighted(inverse, kernel)
        return kernel

    def plain_kernels(self) -> list[Tensor]:
        """``J J^T``, once for the penalised and once for the free parameters; together where none is penalised."""
        free = self._zeros()
        kernels = [free] if self.penalty is None else [self._zeros(), free]
        for part in self.parts:
            part.add_plain(kernels[0], free)
        return kernels

    def _zeros(self) -> Tensor:
        n_models, size = self.residual.shape
        return self.residual.new_zeros(n_models, size, size)


class _DualAccumulator:
    """Keeps what makes up the rows: factors layer by layer, or rows of networks that have no factors."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.layers: list[list[LayerFactors]] = []
        self.residuals: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        self.rows.append(rows[:, :-1].clone())
        self.residuals.append(rows[:, -1].clone())

    def add_layers(self, layers: Iterable[LayerFactors], residual: Tensor | None) -> None:
        """Factors of the columns ``sqrt(w) J^T S`` of some samples and their ``sqrt(w) z`` (B, R, n), None for 0."""
        self.layers.append(list(layers))
        d = self.layers[-1][0].cotangents
        flat = d.new_zeros(d.shape[0], d.shape[1] * d.shape[2]) if residual is None else residual.mT.flatten(1)
        self.residuals.append(flat)

    def finish(self, theta: Tensor, penalty: Tensor | None, extra: Tensor | None = None) -> DualSystem:
        parts: list[Part] = []
        if self.rows:
            parts.append(RowsPart(slice(theta.shape[1]), _joined(self.rows, 2).mT))
        else:
            for part in gather(self.layers):
                assert isinstance(part, LayerPart)
                parts += part.as_rows() if part.rows_are_smaller() else [part]
        pulls = [pull for pull in (None if penalty is None else penalty * theta, extra) if pull is not None]
        pull = sum(pulls[1:], pulls[0]) if pulls else None
        diagonal = torch.empty_like(theta)
        for part in parts:
            part.add_diagonal(diagonal)
        system = DualSystem(parts, _joined(self.residuals, 1), penalty, pull, diagonal, diagonal, [])
        gradient = system.back(system.residual)
        return replace(system, gradient=gradient if pull is None else gradient + pull)


class Dual:
    """Solution in the space of the rows, (N R) x (N R): for more parameters than rows.

    Notes
    -----
    With ``m = penalty + damping * scaling`` the step minimises ``|J p + z|^2 + |theta + p|^2_penalty +
    |p|^2_damping``, and equals ``-(J^T u + penalty theta) / m`` where
    ``(J m^-1 J^T + I) u = z - J m^-1 penalty theta`` (Sherman-Morrison-Woodbury). Same step, same meaning of the
    damping, as the primal solvers. A gradient beside the rows (of randomly drawn curvature) is added to
    ``penalty theta``.

    J is never stored where the network gives the factors of its rows layer by layer (``Network.layer_factors``): its
    kernel, and its products with vectors, come from these. With the identity scaling the kernel is
    ``A / (alpha + damping) + C / damping``, with A of the coefficients and C of the intercepts, and another damping
    takes no new products; so it does with other scalings where nothing is penalised. With other scalings and a
    penalty, and for stored rows with a penalty, the kernel is made anew for every damping. Where only some parameters
    move, their rows are stored.
    """

    layerwise = True

    def accumulator(self, theta: Tensor) -> _DualAccumulator:
        return _DualAccumulator()

    def prepare(self, system: DualSystem, scaling: Tensor) -> DualSystem:
        uniform = scaling.stride() == (0, 0)  # as the identity scaling gives it: one number, seen without looking
        if uniform and (system.penalty is None or all(part.penalised is not None for part in system.parts)):
            kernels = system.plain_kernels()
        elif system.penalty is None:
            kernels = [system.weighted_kernel(1 / scaling)]
        else:
            kernels = []
        return replace(system, kernels=kernels)

    def factorise(self, system: DualSystem, damping: Tensor, scaling: Tensor) -> Factor:
        penalty, shift = system.penalty, damping[:, None] * scaling
        if penalty is not None:
            shift = penalty + shift
        if len(system.kernels) == 1:
            kernel = system.kernels[0] / damping[:, None, None]
        elif system.kernels:
            assert penalty is not None
            kernel = system.kernels[1] / damping[:, None, None]
            kernel.addcdiv_(system.kernels[0], (penalty.amax(1) + damping)[:, None, None])
        else:
            kernel = system.weighted_kernel(1 / shift)
        kernel.diagonal(dim1=1, dim2=2).add_(1)
        lower, info = torch.linalg.cholesky_ex(kernel)
        del kernel

        def dual(vector: Tensor) -> Tensor:
            return system.back(solve_factored(lower, vector))

        def solve(vector: Tensor) -> Tensor:
            weighted = vector / shift
            return weighted - dual(system.across(weighted)) / shift

        def quadratic(vector: Tensor) -> Tensor:
            return system.across(vector).square_().sum(1) + (shift * vector.square()).sum(1)

        if system.pull is None:
            half = dual(system.residual)
        else:
            half = dual(system.residual - system.across(system.pull / shift)) + system.pull
        return Factor(half.div_(shift).neg_(), info == 0, solve, quadratic)

    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        # rows or factors, twice while chunks are joined; two kernels, their sum and its factor
        floats = n_active or network.layer_floats or network.n_parameters
        return n_models * (2 * floats * n_rows + 4 * n_rows**2) * itemsize


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
