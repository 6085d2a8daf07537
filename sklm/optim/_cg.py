"""The step by preconditioned conjugate gradients: neither a matrix nor the Jacobian is ever stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..architectures._base import Forward, Network
from ..losses._base import Loss
from ._curvature import Workspace, rows_buffer, weighted_factor
from ._kernel import LayerPart
from ._linear import Factor
from ._problem import Chunk, Problem
from ._selection import Active

#: iterations between two looks of the host at a device other than the CPU
POLL = 8


class Source:
    """The problem that a system was made from, with all its models; kept as it is when models are selected."""

    def __init__(self, problem: Problem, index: Tensor, active: Active):
        self.problem = problem
        self.index = index
        self.active = active


@dataclass
class ProductSystem:
    """What products with the Gauss-Newton matrix need, for the models ``index`` (B,) of the source's problem.

    theta (B, P), forwards of all chunks or None; of the p parameters that move, penalty (B, p) or None, gradient (B, p)
    and diagonal (B, p); and the norm of the residual ``energy`` (B,), infinite where there is none (randomly drawn
    curvature).
    """

    source: Source
    index: Tensor
    theta: Tensor
    forwards: list[Forward] | None
    penalty: Tensor | None
    gradient: Tensor
    diagonal: Tensor
    energy: Tensor

    def problem(self) -> Problem:
        """The problem of the models that are left."""
        problem = self.source.problem
        return problem if self.index is self.source.index else problem.models(self.index)


class _ProductAccumulator:
    """Takes the whole problem instead of its rows."""

    def take(
        self, problem: Problem, theta: Tensor, kept: list[Forward] | None, workspace: Workspace, active: Active
    ) -> ProductSystem:
        """One pass over the samples, for the gradient and the diagonal."""
        network, loss = problem.network, problem.loss
        gradient, diagonal = torch.zeros_like(theta), torch.zeros_like(theta)
        energy = theta.new_full((len(theta),), torch.inf if loss.n_draws else 0.0)
        for chunk, forward in problem.forward_passes(theta, kept):
            force = loss.gradient(forward.outputs, chunk.y) * chunk.weights.unsqueeze(1)
            gradient += network.vjp(theta, chunk.X, forward, force)
            diagonal += _diagonal(problem, theta, chunk, forward, workspace)
            if not loss.n_draws:
                energy += (loss.residual(forward.outputs, chunk.y).square() * chunk.weights.unsqueeze(1)).sum((1, 2))
        penalty = problem.penalty()
        if penalty is not None:
            gradient += penalty * theta
            penalty = active.restrict(penalty)
        gradient, diagonal = active.restrict(gradient), active.restrict(diagonal)
        index = torch.arange(len(theta), device=theta.device)
        source = Source(problem, index, active)
        return ProductSystem(source, index, theta, kept, penalty, gradient, diagonal, energy.sqrt())


class ConjugateGradients:
    """Preconditioned conjugate gradients on ``J^T S S^T J + penalty + damping * scaling``, by products only.

    Parameters
    ----------
    tol : float, default=0.1
        Largest relative size at which the residual of the linear system is left; smaller near a minimum.
    max_iter : int, default=100
        Largest number of products with the matrix for one step. A step cut short is still one of descent.

    Notes
    -----
    A product is one derivative of the outputs along a line (``Network.jvp``), the output Hessian of the loss, and one
    pass back (``Network.vjp``): Schraudolph, "Fast curvature matrix-vector products for second-order gradient
    descent", Neural Computation 14, 2002. The preconditioner is the diagonal of the matrix. Residuals r are measured
    in the norm of its inverse, and an iteration ends at ``|r| <= min(tol, sqrt(|g| / |z|)) |g|``, where z are the
    residuals of the data: the scale-free form of the rule that makes inexact Newton methods converge superlinearly
    (Eisenstat & Walker, SIAM J. Sci. Comput. 17, 1996; Nocedal & Wright 2006, eq. 7.3). As the iteration starts from
    zero, its residual is orthogonal to the step, so that the reduction the loop predicts is that of the
    quadratic model wherever the iteration ends.
    """

    #: no rows are formed where the network has their factors
    layerwise = True
    #: the system knows its problem and cannot be put together from those of some models
    whole_batch = True

    def __init__(self, tol: float = 0.1, max_iter: int = 100):
        if not 0 < tol < 1 or max_iter < 1:
            raise ValueError(f"tol must be between 0 and 1 and max_iter positive; got {tol} and {max_iter}.")
        self.tol = tol
        self.max_iter = max_iter

    def __repr__(self) -> str:
        return f"ConjugateGradients(tol={self.tol}, max_iter={self.max_iter})"

    def accumulator(self, theta: Tensor) -> _ProductAccumulator:
        return _ProductAccumulator()

    def prepare(self, system: ProductSystem, scaling: Tensor) -> ProductSystem:
        return system

    def factorise(self, system: ProductSystem, damping: Tensor, scaling: Tensor) -> Factor:
        shift = damping[:, None] * scaling
        if system.penalty is not None:
            shift = system.penalty + shift
        problem, active, preconditioner = system.problem(), system.source.active, system.diagonal + shift
        size = (system.gradient.square() / preconditioner).sum(1).sqrt()
        forcing = (size / system.energy).sqrt_().clamp_(max=self.tol)
        forcing = forcing.where(system.energy < torch.inf, self.tol)

        def product(vector: Tensor) -> Tensor:
            full = gauss_newton_product(problem, system.theta, system.forwards, active.spread(vector))
            return active.restrict(full).addcmul_(shift, vector)

        def solve(vector: Tensor) -> Tensor:
            return conjugate_gradients(product, vector, preconditioner, forcing, self.max_iter)

        def quadratic(vector: Tensor) -> Tensor:
            return (vector * product(vector)).sum(1)

        step = solve(system.gradient).neg_()
        return Factor(step, torch.isfinite(step).all(1), solve, quadratic)

    def working_bytes(
        self, n_models: int, network: Network, n_rows: int, itemsize: int, n_active: int | None = None
    ) -> int:
        # the loop and the iteration hold about so many vectors, some of them of all parameters, whichever move;
        # activations are limited by the chunks
        return 16 * n_models * network.n_parameters * itemsize


def _diagonal(problem: Problem, theta: Tensor, chunk: Chunk, forward: Forward, workspace: Workspace) -> Tensor:
    """Diagonal (B, P) of ``sum w J^T S S^T J`` over a chunk: layer by layer, or from rows where there are no layers."""
    network, cotangents = problem.network, weighted_factor(problem.loss, chunk, forward)
    if network.layer_floats is None:
        rows, flat = rows_buffer(workspace, problem, theta, chunk.root_weights.shape[-1])
        network.pullback(theta, chunk.X, forward, cotangents, rows[:, :-1])
        return flat[:, :-1].square().sum(2)
    total = torch.empty_like(theta)
    for layer in network.layer_factors(theta, chunk.X, forward, cotangents):
        LayerPart(layer.weight, layer.bias, layer.inputs, layer.cotangents).add_diagonal(total)
    return total


def gauss_newton_product(problem: Problem, theta: Tensor, kept: list[Forward] | None, vector: Tensor) -> Tensor:
    """``sum w J^T S S^T J vector`` at theta (B, P), without penalty, for a vector (B, P)."""
    total = torch.zeros_like(vector)
    for chunk, forward in problem.forward_passes(theta, kept):
        change = problem.network.jvp(theta, chunk.X, forward, vector)
        force = _curved(problem.loss, chunk, forward, change) * chunk.weights.unsqueeze(1)
        total += problem.network.vjp(theta, chunk.X, forward, force)
    return total


def _curved(loss: Loss, chunk: Chunk, forward: Forward, change: Tensor) -> Tensor:
    """``S S^T change`` (B, K, n), with the S that was drawn where it is random."""
    if not loss.n_draws:
        return loss.hessian_product(forward.outputs, chunk.y, change)
    assert chunk.noise is not None
    factor = loss.draw(forward.outputs, chunk.y, chunk.noise)
    return (factor * (factor * change.unsqueeze(2)).sum(1, keepdim=True)).sum(2)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, preconditioner: Tensor, tol: Tensor, max_iter: int
) -> Tensor:
    """Solve ``A x = right`` (B, P) model by model, for symmetric positive definite A.

    Parameters
    ----------
    product : callable
        (B, P) -> (B, P), A times a vector.
    right, preconditioner : (B, P)
        The latter positive: the diagonal that the residual is divided by.
    tol : (B,)
        Relative residual, in the norm of the inverse preconditioner, at which a model is done.
    max_iter : int

    Returns
    -------
    x : (B, P)
        The last iterate; NaN where a product was not finite.

    Notes
    -----
    Hestenes & Stiefel 1952, in the form of Nocedal & Wright 2006, algorithm 5.3. Models that are done stay as they
    are while others go on; the host asks whether any is left at every iteration on a CPU, every eighth elsewhere.
    """
    x, r = torch.zeros_like(right), right.clone()
    direction = r / preconditioner
    size = (r * direction).sum(1)
    goal = size * tol.square()
    active = ~(size <= 0)  # also NaN, which makes a NaN of x
    every = _looks_every(right.device)
    for number in range(max_iter):
        if number % every == 0 and not bool(active.any()):
            break
        image = product(direction)
        curvature = (direction * image).sum(1)
        length = torch.where(active, size / curvature, 0.0)[:, None]
        x = torch.where(active[:, None], x + length * direction, x)
        r = torch.where(active[:, None], r - length * image, r)
        z = r / preconditioner
        new = (r * z).sum(1)
        active = active & (new > goal)
        direction = z + torch.where(active, new / size, 0.0)[:, None] * direction
        size = torch.where(active, new, size)
    return x


def _looks_every(device: torch.device) -> int:
    """Iterations between two looks of the host at the device."""
    return 1 if device.type == "cpu" else POLL
