"""What is minimised: network, loss, rows, weights and penalty of a batch of models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..architectures._base import Forward, Network
from ..losses._base import Loss
from ._data import Rows, TensorRows, pick
from ._memory import FORWARD_BYTES, chunk_rows

#: of the rows that are drawn by what they matter, so many are drawn uniformly
UNIFORM_SHARE = 0.2


@dataclass
class Evaluation:
    """Objective at one ``theta``.

    Attributes
    ----------
    objective : (B,)
        Weighted mean loss plus penalty.
    loss : (B,)
        Weighted mean loss in the units of the targets, without penalty.
    forwards : list of Forward or None
        The forward pass of every chunk, if it was small enough to keep.
    """

    objective: Tensor
    loss: Tensor
    forwards: list[Forward] | None


@dataclass
class Chunk:
    """Some rows: inputs (.., F, n), targets (.., K, n), weights and their square roots (.., n), noise (m, K, n)."""

    X: Tensor
    y: Tensor
    weights: Tensor
    root_weights: Tensor
    noise: Tensor | None = None


@dataclass
class Problem:
    """``F(theta) = sum_n w_n l(f(x_n; theta), y_n) / sum_n w_n + alpha / 2 * |coefficients|^2``, model by model.

    Parameters
    ----------
    network, loss
        The function and its error.
    rows : Rows
        Inputs, shared by all models or one set a model.
    y : (K, N) or (B, K, N) tensor
        Targets, as the loss wants them.
    weights : (1, N) or (B, N) tensor
        Sample weights; every row sums to one.
    alpha : (B,) tensor
        Penalty of each model.
    penalty_mask : (P,) tensor
        1 where the penalty acts.
    report_weights : (K,) or (1,) tensor, or one such row a model
        From the loss of each output to the reported one, in the units of the targets.
    max_rows : int
        Samples linearised at once.
    layer_rows : int
        The same where no rows are formed, by the memory of activations and cotangents alone.
    penalised : bool
        Whether any alpha is positive; saves the work where none is.
    noise : (m, K, N) tensor, optional
        Uniform in [0, 1), for losses with random curvature; the same for all models.
    unit_weights : (1, N) or (B, N) tensor, optional
        The part of a row's weight that leaving one row out takes away, where that is not all of it.
    """

    network: Network
    loss: Loss
    rows: Rows
    y: Tensor
    weights: Tensor
    alpha: Tensor
    penalty_mask: Tensor
    report_weights: Tensor
    max_rows: int
    layer_rows: int
    penalised: bool
    noise: Tensor | None = None
    unit_weights: Tensor | None = None
    whole: Chunk | None = field(default=None, init=False)

    @property
    def n_samples(self) -> int:
        return self.rows.n_samples

    @property
    def n_curvature(self) -> int:
        """R, curvature columns a sample."""
        return self.loss.curvature_columns(self.network.n_outputs)

    def chunks(self) -> Iterator[Chunk]:
        """Yield consecutive rows, ``max_rows`` at a time."""
        n_samples = self.n_samples
        if self.max_rows >= n_samples:
            if self.whole is None:
                self.whole = Chunk(self.rows.chunk(0, n_samples), self.y, self.weights, self.weights.sqrt(), self.noise)
            yield self.whole
            return
        rows = -(-n_samples // -(-n_samples // self.max_rows))  # no short last chunk
        for start in range(0, n_samples, rows):
            stop = min(start + rows, n_samples)
            weights = self.weights[:, start:stop]
            noise = None if self.noise is None else self.noise[..., start:stop]
            yield Chunk(self.rows.chunk(start, stop), self.y[..., start:stop], weights, weights.sqrt(), noise)

    def with_noise(self, seed: list[int]) -> Problem:
        """Draw the noise anew, the same on every device and for every number of models and chunks."""
        noise = np.random.default_rng(seed).random((self.loss.n_draws, self.network.n_outputs, self.n_samples))
        return replace(self, noise=torch.from_numpy(noise).to(self.y.device, self.y.dtype))

    def take(self, index: np.ndarray, unbiased: bool = False) -> Problem:
        """Restrict to the rows ``index`` (n,), with weights normalised again.

        With ``unbiased`` they are instead multiplied by N / n, so that sums over random rows are right in the mean.
        """
        rows = torch.from_numpy(index).to(self.y.device)
        weights = self.weights.index_select(-1, rows)
        weights = weights * (self.n_samples / len(index)) if unbiased else normalised(weights)
        return self._part(self.rows.take(index), self.y.index_select(-1, rows), weights)

    def informative(self, theta: Tensor, seed: list[int]) -> Problem:
        """Restrict every model to half as many rows, drawn the more often the more they matter at theta (B, P).

        These are rows in memory, for a loss with drawn curvature: a row whose gradient is small has little curvature
        and little loss, too. A row may be drawn twice. Weights keep all sums right in the mean.

        Notes
        -----
        Importance sampling by the norm of the gradient with respect to the outputs (Katharopoulos & Fleuret 2018, Not
        all samples are created equal, section 3.2), mixed with a uniform density that bounds the weights. Draws are
        systematic: one random number for all rows and models.
        """
        assert isinstance(self.rows, TensorRows)
        scores = [
            self.loss.gradient(self.network.forward(theta, chunk.X, None, False).outputs, chunk.y).norm(dim=1)
            for chunk in self.chunks()
        ]
        weights, score = self.weights.expand(len(theta), -1), torch.cat(scores, -1)
        mean = (weights * score).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
        relative = score / mean.clamp_min(torch.finfo(mean.dtype).tiny)
        # in double precision: sums of many rows, and no two of them alike
        density = (weights * ((1 - UNIFORM_SHARE) * relative + UNIFORM_SHARE)).double()
        n, number = self.n_samples, -(-self.n_samples // 2)
        total = density.cumsum(-1)
        points = torch.arange(number, device=total.device, dtype=total.dtype) + np.random.default_rng(seed).random()
        # strictly below the sum: rows without weight are never drawn
        index = torch.searchsorted(total, total[:, -1:] * (points / number), right=True).clamp_max_(n - 1)
        share = (total[:, -1:] / (number * density)).gather(-1, index).to(weights.dtype)
        return self._part(self.rows.pick(index), pick(self.y, index, -1), weights.gather(-1, index) * share)

    def _part(self, rows: Rows, y: Tensor, weights: Tensor) -> Problem:
        """The problem on other rows, n in number."""
        n = weights.shape[-1]
        return replace(
            self,
            rows=rows,
            y=y,
            weights=weights,
            max_rows=min(self.max_rows, n),
            layer_rows=min(self.layer_rows, n),
            noise=None,
            unit_weights=None,
        )

    def layerwise(self) -> Problem:
        """The same problem in chunks that suit a solver without rows."""
        return self if self.network.layer_floats is None else replace(self, max_rows=self.layer_rows)

    def models(self, index: Tensor) -> Problem:
        """Restrict to the models ``index`` (b,)."""
        unit = self.unit_weights
        return replace(
            self,
            rows=self.rows.models(index),
            y=self.y if self.y.ndim == 2 else self.y[index],
            weights=self.weights if len(self.weights) == 1 else self.weights[index],
            unit_weights=unit if unit is None or len(unit) == 1 else unit[index],
            alpha=self.alpha[index],
            report_weights=self.report_weights if self.report_weights.ndim == 1 else self.report_weights[index],
        )

    def repeated(self, number: int) -> Problem:
        """The first model, ``number`` times."""
        return self.models(torch.zeros(number, dtype=torch.int64, device=self.y.device))

    def resampled(self, index: Tensor, rows: Tensor | None, weights: Tensor, alpha: Tensor) -> Problem:
        """The models ``index`` (b,), any number of times each, on ``rows`` (b, n) of their own, or all for None.

        Rows are in memory; ``weights`` (b, n) of these sum to one; alpha (b,) are the penalties.
        """
        models = self.models(index)
        if rows is None:
            part = replace(models, weights=weights, unit_weights=None)
        else:
            assert isinstance(models.rows, TensorRows)
            part = models._part(models.rows.pick(rows), pick(models.y, rows, -1), weights)
        max_rows, layer_rows = _chunk_sizes("auto", self.network, self.loss, len(index), part.n_samples, self.y)
        penalised = bool((alpha != 0).any())
        return replace(part, alpha=alpha, penalised=penalised, max_rows=max_rows, layer_rows=layer_rows)

    def penalty(self) -> Tensor | None:
        """Alpha times mask, (B, P); None where no model is penalised."""
        return self.alpha[:, None] * self.penalty_mask if self.penalised else None

    def evaluate(self, theta: Tensor, keep: bool = True, reuse: list[Forward] | None = None) -> Evaluation:
        """Objective and reported loss at theta (B, P); with ``keep``, small forward passes are kept.

        ``reuse`` holds kept forward passes of the same rows that may be written over.
        """
        size = theta.shape[0] * self.n_samples * self.network.floats_per_row * theta.element_size()
        forwards: list[Forward] | None = [] if keep and size <= FORWARD_BYTES else None
        value = None
        for number, chunk in enumerate(self.chunks()):
            forward = self.network.forward(theta, chunk.X, reuse[number] if reuse else None, forwards is not None)
            part = self.loss.value(forward.outputs, chunk.y, chunk.weights)
            value = part if value is None else value + part
            if forwards is not None:
                forwards.append(forward)
        assert value is not None
        objective = value.sum(-1)
        if self.penalised:
            objective = objective + 0.5 * self.alpha * (theta.square() @ self.penalty_mask)
        return Evaluation(objective, (value * self.report_weights).sum(-1), forwards)

    def null_loss(self) -> Tensor:
        """Loss (B,) of outputs that are all zero: the scale of the targets, and with it of rounding."""
        total = torch.zeros_like(self.alpha)
        for chunk in self.chunks():
            zero = total.new_zeros(len(total), self.network.n_outputs, chunk.weights.shape[-1])
            total = total + self.loss.value(zero, chunk.y, chunk.weights).sum(-1)
        return total

    def forward_passes(self, theta: Tensor, kept: list[Forward] | None) -> Iterator[tuple[Chunk, Forward]]:
        """Yield every chunk with its forward pass, computing what was not kept."""
        for number, chunk in enumerate(self.chunks()):
            yield chunk, (kept[number] if kept is not None else self.network.forward(theta, chunk.X))


def make_problem(
    network: Network,
    loss: Loss,
    X: Tensor | Rows,
    y: Tensor,
    *,
    n_models: int = 1,
    weights: Tensor | None = None,
    alpha: float | Tensor = 0.0,
    output_scale: Tensor | None = None,
    jacobian_max_rows: int | str | None = "auto",
) -> Problem:
    """Build a :class:`Problem` from tensors with samples first, as users have them.

    Parameters
    ----------
    network : Network
        From ``MLP(...).build(F, K)`` or ``ModuleArchitecture(module).build(F, K)``.
    loss : Loss
    X : (N, F) or (B, N, F) tensor, or Rows
    y : (N, K) or (B, N, K) tensor, same dtype and device as X
    n_models : int
        B.
    weights : (N,) or (B, N) tensor, optional
        Non-negative, not all zero in a row. Any scale: they are normalised. Whole numbers count equal rows, of which
        :func:`leave_one_out` leaves out one at a time.
    alpha : float or (B,) tensor
    output_scale : (K,) tensor, optional
        Factor from the network's outputs to the units of the targets; only for reporting.
    jacobian_max_rows : int, None or 'auto'
        Samples linearised at once; changes memory and speed, not the result.

    Raises
    ------
    ValueError
        If shapes do not fit or a row of weights has no positive sum.
    """
    rows: Rows
    if not isinstance(X, Tensor):
        rows = X
    elif network.samples_first:
        rows = TensorRows(X.contiguous().mT, True)
    else:
        rows = TensorRows(X.mT.contiguous())
    if y.ndim not in (2, 3) or y.shape[-2] != rows.n_samples:
        raise ValueError(f"y must have shape (N, K) or (B, N, K) with N = {rows.n_samples}; got {tuple(y.shape)}.")
    if y.shape[-1] != network.n_outputs:
        raise ValueError(f"y has {y.shape[-1]} columns but the network has {network.n_outputs} outputs.")
    device, dtype = y.device, y.dtype
    if weights is None:
        weights = torch.ones(rows.n_samples, dtype=torch.float64, device="cpu")
    weights = torch.atleast_2d(weights.to("cpu", torch.float64))
    if weights.shape[-1] != rows.n_samples or len(weights) not in (1, n_models):
        raise ValueError(f"weights must be ({rows.n_samples},) or ({n_models}, {rows.n_samples}).")
    share = weights / weights.amax(-1, keepdim=True)  # sums of these cannot overflow
    share = share / share.sum(-1, keepdim=True)
    if bool((weights < 0).any()) or not bool(torch.isfinite(share).all()):
        raise ValueError("weights must be non-negative with a positive sum for every model.")
    unit = torch.where(are_counts(weights)[..., None], share / weights.clamp_min(1), share)
    if output_scale is None:
        output_scale = torch.ones(network.n_outputs, dtype=torch.float64)
    output_scale = output_scale.to("cpu", torch.float64)
    # a small scale is none at all only where it is zero, for constant targets
    least = torch.finfo(dtype).tiny if bool((output_scale != 0).any()) else 0.0
    report_weights = loss.report_weights(output_scale).clamp_min(least).to(device, dtype)
    alphas = torch.as_tensor(alpha, dtype=dtype, device=device).expand(n_models).clone()
    network = network.to(device, dtype)
    max_rows, layer_rows = _chunk_sizes(jacobian_max_rows, network, loss, n_models, rows.n_samples, y)
    return Problem(
        network=network,
        loss=loss,
        rows=rows,
        y=y.mT.contiguous(),
        weights=share.to(device, dtype),
        unit_weights=None if torch.equal(unit, share) else unit.to(device, dtype),
        alpha=alphas,
        penalty_mask=torch.as_tensor(network.coefficient_mask, dtype=dtype, device=device),
        report_weights=report_weights,
        max_rows=max_rows,
        layer_rows=layer_rows,
        penalised=bool((alphas != 0).any()),
    )


def normalised(weights: Tensor) -> Tensor:
    """Weights (.., N) with sums of one; those that are all zero stay so."""
    total = weights.sum(-1, keepdim=True)
    return weights / total.where(total > 0, torch.ones_like(total))


def are_counts(weights: Any) -> Any:
    """Whether weights (.., N), a tensor or ndarray, are whole, each of so many equal rows. Huge floats always are."""
    return (weights == weights.round()).all(-1) & (weights.sum(-1) < 2**53)


def _chunk_sizes(
    requested: int | str | None, network: Network, loss: Loss, n_models: int, n_samples: int, like: Tensor
) -> tuple[int, int]:
    """``max_rows`` and ``layer_rows`` of a problem."""
    size, n_curvature = n_models * like.element_size(), loss.curvature_columns(network.n_outputs)
    row_bytes, activation_bytes = size * (network.n_parameters + 1) * n_curvature, size * network.floats_per_row
    cotangent_bytes = size * n_curvature * (network.layer_floats or 0)

    def chunk(row_bytes: int, activation_bytes: int) -> int:
        return chunk_rows(requested, n_samples, row_bytes, activation_bytes, like.device)

    return chunk(row_bytes, activation_bytes), chunk(size, activation_bytes + cotangent_bytes)


def stack_problems(problems: list[Problem], jacobian_max_rows: int | str | None = "auto") -> Problem:
    """Return the problem of the models of several problems, one after the other.

    Parameters
    ----------
    problems : list of Problem
        Of equal networks, equal losses and the same number of rows, in memory. What is the same in all of them is
        shared, not copied.
    jacobian_max_rows : int, None or 'auto'
        As in :func:`make_problem`.
    """
    first, counts, units = problems[0], [len(problem.alpha) for problem in problems], None
    if any(problem.unit_weights is not None for problem in problems):
        units = [problem.weights if problem.unit_weights is None else problem.unit_weights for problem in problems]
    inputs = [problem.rows.chunk(0, problem.n_samples) for problem in problems]
    if first.network.samples_first:
        rows = TensorRows(_stack([X.mT for X in inputs], counts, 2).mT, True)
    else:
        rows = TensorRows(_stack(inputs, counts, 2))
    max_rows, layer_rows = _chunk_sizes(
        jacobian_max_rows, first.network, first.loss, sum(counts), first.n_samples, first.y
    )
    return Problem(
        network=first.network,
        loss=first.loss,
        rows=rows,
        y=_stack([problem.y for problem in problems], counts, 2),
        weights=torch.atleast_2d(_stack([problem.weights for problem in problems], counts, 1)),
        unit_weights=None if units is None else torch.atleast_2d(_stack(units, counts, 1)),
        alpha=torch.cat([problem.alpha for problem in problems]),
        penalty_mask=first.penalty_mask,
        report_weights=_stack([problem.report_weights for problem in problems], counts, 1),
        max_rows=max_rows,
        layer_rows=layer_rows,
        penalised=any(problem.penalised for problem in problems),
    )


def _stack(tensors: list[Tensor], counts: list[int], n_axes: int) -> Tensor:
    """The first of the tensors if all are equal, otherwise each of them ``counts`` times along a model axis.

    ``n_axes`` is the number of axes without that of the models.
    """
    first = tensors[0]
    if all(tensor is first or torch.equal(tensor, first) for tensor in tensors[1:]) and (
        first.ndim == n_axes or len(first) == 1 or len(tensors) == 1
    ):
        return first
    shape = first.shape[-n_axes:]
    return torch.cat([tensor.expand(count, *shape) for tensor, count in zip(tensors, counts, strict=True)])
