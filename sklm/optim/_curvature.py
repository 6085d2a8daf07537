"""Linearisation: the split Jacobian, by chunks, into whatever a linear solver accumulates; and the gradient alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..architectures._base import Forward
from ..losses._base import Loss, eye_factor
from ._problem import Chunk, Problem
from ._selection import EVERYTHING, Active

#: rows of fewer numbers than this for one model are multiplied out: fewer calls, though more arithmetic, than by layers
SMALL_ROWS = 100_000


class Accumulator(Protocol):
    """Receives the augmented rows of every chunk; see ``_linear``.

    One with ``add_separable(rows, places)`` gets rows (B, P + 1, K, n) instead where the parameters ``places[k]`` (p,),
    above all others, have zeros in all columns but k.

    Those of solvers with ``layerwise = True`` have ``add_layers(layers, residual)`` as well. It receives the factors of
    the rows instead, where the network has them and all parameters move. One with ``take(problem, theta, kept,
    workspace, active)`` is given the problem itself and returns its system.
    """

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

    Returns the system and, where one chunk of rows took all samples, its columns ``sqrt(w) J^T S`` (B, P, R n), valid
    until the workspace is used again. Where only some parameters are active, all this is in terms of them, P in number.

    Notes
    -----
    Row n of model b is ``sqrt(w_n) [J_n^T S_n ; z_n]`` (P + 1 numbers for each of R columns), so that one
    symmetric product gives ``gram = sum w J^T S S^T J`` and ``gradient = sum w J^T S z`` together. Where S is drawn
    at random, z is zero and the gradient comes from one more pass back.
    """
    if hasattr(accumulator, "take"):
        return accumulator.take(problem, theta, kept, workspace, active), None
    network, loss, flat, gradient = problem.network, problem.loss, None, None
    small = problem.n_samples * problem.n_curvature * network.n_parameters < SMALL_ROWS
    layered = network.layer_floats and not small and active.index is None and hasattr(accumulator, "add_layers")
    layerwise: Any = accumulator if layered else None
    places = network.output_places if loss.separable and active.index is None else None
    separable: Any = accumulator if places is not None and hasattr(accumulator, "add_separable") else None
    pullback, part_of, moving = active.pullback(network), active.restrict, active.restrict(theta)
    for chunk, forward in problem.forward_passes(theta, kept):
        residual = None
        if loss.n_draws:
            force = loss.gradient(forward.outputs, chunk.y) * chunk.weights.unsqueeze(1)
            part = part_of(network.vjp(theta, chunk.X, forward, force))
            gradient = part if gradient is None else gradient.add_(part)
        else:
            residual = loss.residual(forward.outputs, chunk.y)
        cotangents = weighted_factor(loss, chunk, forward)
        if layerwise is not None:
            layers = network.layer_factors(theta, chunk.X, forward, cotangents)
            layerwise.add_layers(layers, None if residual is None else residual * chunk.root_weights.unsqueeze(1))
            continue
        rows, flat = rows_buffer(workspace, problem, moving, chunk.root_weights.shape[-1])
        if residual is None:
            rows[:, -1].zero_()
        else:
            torch.mul(residual, chunk.root_weights.unsqueeze(1), out=rows[:, -1])
        pullback(theta, chunk.X, forward, cotangents, rows[:, :-1])
        if separable is not None:
            separable.add_separable(rows, places)
        else:
            accumulator.add(flat)
    # the rows serve again where they are those of all samples, exact, and in the order of (R, n)
    whole = problem.max_rows >= problem.n_samples and not loss.n_draws and not network.samples_first
    penalty = problem.penalty()
    system = accumulator.finish(moving, None if penalty is None else part_of(penalty), gradient)
    return system, flat[:, :-1] if whole and flat is not None else None


def output_rows(problem: Problem, theta: Tensor) -> Iterator[tuple[Chunk, Forward, Tensor]]:
    """Yield chunks, their forward passes, and the derivatives of the outputs of their samples, (B, P, K, n)."""
    eye = eye_factor(problem.network.n_outputs, 1.0, theta.dtype, theta.device)
    return _rows(problem, theta, lambda chunk, forward: eye)


def weighted_rows(problem: Problem, theta: Tensor) -> Iterator[tuple[Chunk, Forward, Tensor]]:
    """Yield chunks, their forward passes, and the columns ``sqrt(w) J^T S`` of their samples, (B, P, R, n)."""
    return _rows(problem, theta, lambda chunk, forward: weighted_factor(problem.loss, chunk, forward))


def _rows(
    problem: Problem, theta: Tensor, factor: Callable[[Chunk, Forward], Tensor]
) -> Iterator[tuple[Chunk, Forward, Tensor]]:
    """Chunks, forward passes, and J^T times a factor (B or 1, K, R, n or 1) of each chunk, in new memory."""
    for chunk, forward in problem.forward_passes(theta, None):
        cotangents = factor(chunk, forward).expand(-1, -1, -1, chunk.X.shape[-1])
        rows = theta.new_empty(*theta.shape, *cotangents.shape[2:])
        problem.network.pullback(theta, chunk.X, forward, cotangents, rows)
        yield chunk, forward, rows


def gradient(problem: Problem, theta: Tensor, kept: list[Forward] | None = None) -> Tensor:
    """Gradient (B, P) of the objective at theta (B, P), penalty included, by one pass back and without Jacobian rows.

    ``kept`` are the forward passes at theta, if they are still at hand.

    Notes
    -----
    ``sum_n w_n J_n^T dl/df_n + alpha theta`` at the coefficients: back-propagation (Rumelhart, Hinton & Williams 1986).
    """
    network, total = problem.network, None
    for chunk, forward in problem.forward_passes(theta, kept):
        force = problem.loss.gradient(forward.outputs, chunk.y) * chunk.weights.unsqueeze(1)
        part = network.vjp(theta, chunk.X, forward, force)
        total = part if total is None else total + part
    assert total is not None
    penalty = problem.penalty()
    return total if penalty is None else torch.addcmul(total, penalty, theta)


def mean_diagonal(problem: Problem, theta: Tensor) -> Tensor:
    """Mean (B,) of the diagonal of the Gauss-Newton matrix at theta (B, P), without the penalty."""
    total = theta.new_zeros(len(theta))
    for _, _, rows in weighted_rows(problem, theta):
        total += rows.square().sum((1, 2, 3))
    return total / theta.shape[1]


def weighted_factor(loss: Loss, chunk: Chunk, forward: Forward) -> Tensor:
    """``sqrt(w) S`` of a chunk, (B or 1, K, R, n)."""
    if loss.n_draws:
        assert chunk.noise is not None
        factor = loss.draw(forward.outputs, chunk.y, chunk.noise)
    else:
        factor = loss.factor(forward.outputs, chunk.y)
    return factor * chunk.root_weights.unsqueeze(1).unsqueeze(1)


def rows_buffer(workspace: Workspace, problem: Problem, theta: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The rows of a chunk as (B, P + 1, R, n), in the network's layout, and the same memory as (B, P + 1, R n).

    ``theta`` (B, P) holds the parameters that they are about.
    """
    n_models, n_parameters = theta.shape
    if problem.network.samples_first:
        block = workspace.view((n_models, n, problem.n_curvature, n_parameters + 1), theta)
        return block.permute(0, 3, 2, 1), block.flatten(1, 2).mT
    rows = workspace.view((n_models, n_parameters + 1, problem.n_curvature, n), theta)
    return rows, rows.flatten(2)
