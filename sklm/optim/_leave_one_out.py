"""What the loss of every row would be if the fit had not seen it, without fitting again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._curvature import Workspace, linearise, output_rows, weighted_rows
from ._problem import Chunk, Problem
from ._solvers import Cholesky, scaled_eigh
from ._threads import on_suited_threads

#: what one minus a leverage is raised by: rows that alone determine a parameter have leverage one
LEAST_FREEDOM = 1e-6
#: share of a parameter in directions that the rows do not determine from which on it is not determined either
LOOSE = 1e-12
#: in the space of the rows, parameters free of penalty have so much of it, but no less than the second number
FREE, LEAST_PENALTY = 1e-4, 1e-14


@dataclass(frozen=True)
class LeftOut:
    """What the matrix of all rows says of fits without one of them.

    loss : (B,) tensor, the approximate leave-one-out loss, or (1,) that of the mean of the outputs; fitted : (B, K)
    tensor, or (1, K), the loss of the rows as they are, by output; outputs : (B, K, N) tensor, or (1, K, N), those of
    every row without it; freedom : (B, N) tensor, least part of an output of a row that is left to the others, zero
    where it alone determines a parameter; whitener : (B, P, P) tensor, W with ``W W^T`` the
    inverse of the penalised Gauss-Newton matrix of the mean loss, with directions that the rows do not determine as
    far as rounding can tell; loose : (B, P) bool tensor, parameters that have part in these; n_effective : (B, K)
    tensor, how many parameters the rows hold by each output (the sum of its leverages)
    """

    loss: Tensor
    fitted: Tensor
    outputs: Tensor
    freedom: Tensor
    whitener: Tensor
    loose: Tensor
    n_effective: Tensor


def leave_one_out(problem: Problem, theta: Tensor, cut: bool = False) -> Tensor:
    """Return the approximate leave-one-out loss (B,) at fitted parameters theta (B, P); see :func:`left_out`."""
    return left_out(problem, theta, cut).loss


@on_suited_threads
def left_out(
    problem: Problem, theta: Tensor, cut: bool = False, together: bool = False, orthogonal: bool = False
) -> LeftOut:
    """Return what fitted parameters theta (B, P) would say of every row if they had been fitted without it.

    Parameters
    ----------
    problem : Problem
        With exact curvature, and more rows than parameters or a penalty. The loss is that of the objective, without
        penalty. Where sample weights are whole numbers, one of so many equal rows is left out.
    theta : (B, P) tensor
        A minimum, or near one.
    cut : bool
        Cut what is predicted for a left-out row to the range of the targets (of the positive ones for a log link, where
        this is always done; not for classes). Without it, a row that alone determines a parameter counts as wrong
        without limit, which tells memorised fits from others.
    together : bool
        Take the losses of the mean of the outputs of all models, which have the same targets and weights.
    orthogonal : bool
        Decompose the Jacobian of all rows, which is kept for that, instead of its product with itself: where formulas
        are ill-conditioned, this has twice the digits.

    Notes
    -----
    Without row n, a Gauss-Newton step from the minimum changes its outputs by ``w C (I - w S S^T C)^-1 g``, with g the
    gradient of the loss, ``S S^T`` its curvature, ``C = J_n A^-1 J_n^T`` and A the penalised Gauss-Newton matrix of all
    rows; the loss is taken there (approximate leave-one-out: Rad & Maleki 2020, Journal of the Royal Statistical
    Society B 82, pp. 965-996, for penalised linear models). For squared error and a linear model this is exact, the
    residual divided by one minus the leverage (Allen 1974). Directions that the rows do not determine to rounding are
    left out of A. It costs about three linearisations.
    """
    network, loss, n_models = problem.network, problem.loss, 1 if together else len(theta)
    eye = torch.eye(network.n_outputs, dtype=theta.dtype, device=theta.device)
    limits, start = _range_of_targets(problem) if cut or loss.target_scaling == "mean" else None, 0
    values, vectors, root, floor = (_orthogonal if orthogonal else _eigenvalues)(problem, theta)
    used = values > floor
    inverse = values.clamp_min(floor).rsqrt()
    whitener = vectors / root[:, :, None] * inverse[:, None, :]
    loose = (vectors.square() * ~used[:, None, :]).sum(-1) > LOOSE
    determined = whitener * used[:, None, :]
    total, n_effective = theta.new_zeros(n_models), theta.new_zeros(len(theta), network.n_outputs)
    fitted, seen, least = theta.new_zeros(1, 1), [], []

    def value(outputs: Tensor, chunk: Chunk) -> Tensor:
        return loss.value(outputs.mean(0, keepdim=True) if together else outputs, chunk.y, chunk.weights)

    for chunk, forward, rows in output_rows(problem, theta):
        n = chunk.weights.shape[-1]
        white = torch.bmm(determined.mT, rows.flatten(2)).unflatten(2, rows.shape[2:])
        spread = torch.einsum("bpkn,bpln->bnkl", white, white)
        weights = chunk.weights if problem.unit_weights is None else problem.unit_weights[:, start : start + n]
        start += n
        factor = loss.factor(forward.outputs, chunk.y).expand(len(theta), -1, -1, n).permute(0, 3, 1, 2)
        leverage = factor @ factor.mT @ spread
        n_effective = n_effective + (chunk.weights[:, :, None] * leverage.diagonal(dim1=2, dim2=3)).sum(1)
        gradient = loss.gradient(forward.outputs, chunk.y).expand_as(forward.outputs).mT
        freedom = (1 + LEAST_FREEDOM) * eye - weights[:, :, None, None] * leverage
        least.append(freedom.diagonal(dim1=2, dim2=3).amin(-1) - LEAST_FREEDOM)
        left, _ = torch.linalg.solve_ex(freedom, gradient.unsqueeze(-1))
        change = weights[:, :, None] * (spread @ left).squeeze(-1)
        outputs = forward.outputs + change.mT
        if limits is not None:
            outputs = outputs.clamp(*limits)
        seen.append(outputs.mean(0, keepdim=True) if together else outputs)
        total = total + value(outputs, chunk).sum(-1)
        fitted = fitted + value(forward.outputs, chunk)
    return LeftOut(total, fitted, torch.cat(seen, 2), torch.cat(least, 1), whitener, loose, n_effective)


@on_suited_threads
def leave_one_out_in_rows(problem: Problem, theta: Tensor, cut: bool = False) -> Tensor:
    """:func:`leave_one_out` for squared error and no more rows (times outputs) than parameters, all with a penalty.

    Notes
    -----
    With a small penalty all leverages are close to one there. What they leave, ``I - w S^T C S``, is found in the space
    of the rows: it is a diagonal block of the inverse of ``I + J M^-1 J^T``, for rows J with their weights and
    curvature and the penalty M. Parameters free of penalty have ``FREE`` of it: saturated units would else move them
    further than a linear model holds. For a nonlinear model the result is a rough one, often several times too high.
    """
    network, loss, n_models = problem.network, problem.loss, len(theta)
    penalty = problem.alpha[:, None] * problem.penalty_mask.clamp_min(FREE)
    rows, passes = [], []
    for _, forward, part in weighted_rows(problem, theta):
        rows.append(part.mT.flatten(2))  # by sample, then by output
        passes.append(forward.outputs.expand(n_models, -1, -1).clone())
    jacobian, outputs = torch.cat(rows, 2), torch.cat(passes, 2)
    kernel = jacobian.mT @ (jacobian / penalty.clamp_min(LEAST_PENALTY).unsqueeze(2))
    kernel.diagonal(dim1=1, dim2=2).add_(1)
    lower, info = torch.linalg.cholesky_ex(kernel)
    eye = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    half = torch.linalg.solve_triangular(lower, eye.expand_as(kernel), upper=False)
    half = half.unflatten(2, (problem.n_samples, network.n_outputs))
    left = torch.einsum("bmnk,bmnl->bnkl", half, half)
    # of the weight of a row, its part of one row goes
    weights = problem.weights
    unit = weights if problem.unit_weights is None else problem.unit_weights
    share = (unit / weights.where(weights > 0, torch.ones_like(weights)))[:, :, None, None]
    single = torch.eye(network.n_outputs, dtype=theta.dtype, device=theta.device)
    residual = (outputs - problem.y).mT.unsqueeze(-1)
    without, _ = torch.linalg.solve_ex(single - share * (single - left), residual)
    change = share * (without - left @ without)
    change = change.where((info == 0)[:, None, None, None], torch.full_like(change, torch.nan))
    seen = outputs + change.squeeze(-1).mT
    limits = _range_of_targets(problem) if cut else None
    return loss.value(seen if limits is None else seen.clamp(*limits), problem.y, weights).sum(-1)


def _range_of_targets(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Smallest and largest output (.., K, 1) that a target stands for; None for classes."""
    y, scaling = problem.y, problem.loss.target_scaling
    if scaling is None:
        return None
    if scaling == "mean":
        # means of counts may be below one, down to one count in all rows
        least = y.where(y > 0, torch.inf).amin(-1, keepdim=True) / problem.n_samples
        return least.log(), y.amax(-1, keepdim=True).log()
    return y.amin(-1, keepdim=True), y.amax(-1, keepdim=True)


def _eigenvalues(problem: Problem, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues (B, P) and eigenvectors (B, P, P) of the penalised Gauss-Newton matrix, scaled to a diagonal of ones.

    With the scale (B, P) of each parameter, and what rounding leaves of eigenvalues (B, 1).
    """
    system, _ = linearise(problem, theta, None, Cholesky().accumulator(theta), Workspace())
    root = system.gram.diagonal(dim1=1, dim2=2).sqrt()
    root = root.where(root > 0, torch.ones_like(root))
    values, vectors, finite = scaled_eigh(system.gram, root)
    values = values.where(finite[:, None], torch.full_like(values, torch.nan))
    return values, vectors, root, values.shape[1] * torch.finfo(values.dtype).eps * values[:, -1:]


def _orthogonal(problem: Problem, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same from the singular values of all rows."""
    parts = []
    for _, _, rows in weighted_rows(problem, theta):
        parts.append(rows.flatten(2).mT)
    penalty = problem.penalty()
    if penalty is not None:
        parts.append(torch.diag_embed(penalty.sqrt()))
    jacobian = torch.cat(parts, 1)
    root = jacobian.square().sum(1).sqrt()
    root = root.where(root > 0, torch.ones_like(root))
    if not bool(jacobian.isfinite().all()):
        nan = torch.full_like(root, torch.nan)
        return nan, torch.diag_embed(nan), root, nan[:, :1]
    # fewer rows than parameters leave directions open, too
    short = max(jacobian.shape[2] - jacobian.shape[1], 0)
    padded = torch.nn.functional.pad(jacobian / root[:, None, :], (0, 0, 0, short))
    _, singular, vectors = torch.linalg.svd(torch.linalg.qr(padded, mode="r").R)  # quicker for many rows
    relative = max(jacobian.shape[1:]) * torch.finfo(singular.dtype).eps
    return singular.square(), vectors.mT, root, (relative * singular[:, :1]).square()
