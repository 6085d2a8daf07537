"""The penalised Gauss-Newton matrix of fitted models in the space of the rows, for fewer of these than parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._curvature import output_rows, weighted_factor
from ._problem import Problem


@dataclass
class RowSpace:
    """What is known of ``A = diag(precision) + sum_n w_n J_n^T H_n J_n``.

    Attributes
    ----------
    spread : (B, N, K, K) tensor
        ``J_n A^-1 J_n^T`` for every sample.
    log_determinant : (B,) tensor
        Of A; NaN where it is not finite.
    """

    spread: Tensor
    log_determinant: Tensor


def has_few_rows(problem: Problem) -> bool:
    """Whether there are fewer rows, times outputs, than parameters."""
    return problem.n_samples * problem.network.n_outputs < problem.network.n_parameters


def row_space(problem: Problem, theta: Tensor, precision: Tensor) -> RowSpace:
    """Solve for A at theta (B, P) by a matrix of N R x N R, for a positive ``precision`` (B, P).

    Notes
    -----
    With ``V = [sqrt(w_n) S_n^T J_n]`` (N R x P) and D the precision, the inverse is
    ``A^-1 = D^-1 - D^-1 V^T (I + V D^-1 V^T)^-1 V D^-1``,
    and ``det A = det D det(I + V D^-1 V^T)`` (Woodbury's identity, Sylvester's theorem). The rows J are stored.
    """
    plain, scaled = [], []
    for chunk, forward, derivatives in output_rows(problem, theta):
        rows = derivatives.permute(0, 3, 2, 1)  # (B, n, K, P)
        factor = weighted_factor(problem.loss, chunk, forward)
        factor = factor.expand(len(theta), -1, -1, rows.shape[1]).permute(0, 3, 2, 1)  # (B, n, R, K)
        plain.append(rows)
        scaled.append(factor @ rows)
    jacobian, curved = torch.cat(plain, 1), torch.cat(scaled, 1).flatten(1, 2)
    weighted = jacobian / precision[:, None, None, :]
    kernel = curved @ (curved / precision[:, None, :]).mT
    kernel.diagonal(dim1=1, dim2=2).add_(1)
    lower, info = torch.linalg.cholesky_ex(kernel)
    half = torch.linalg.solve_triangular(lower, curved @ weighted.flatten(1, 2).mT, upper=False)
    half = half.unflatten(2, jacobian.shape[1:3])
    spread = weighted @ jacobian.mT - torch.einsum("bmnk,bmnl->bnkl", half, half)
    log_determinant = precision.log().sum(1) + 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
    unknown = torch.full_like(log_determinant, torch.nan)
    return RowSpace(spread, log_determinant.where(info == 0, unknown))
