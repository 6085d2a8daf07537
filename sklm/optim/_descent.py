"""The loop with optimizers that need gradients only: L-BFGS, Adam, SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._batch import Choice, evolve
from ._batches import MiniBatches
from ._isolation import isolated
from ._lbfgs import LBFGS
from ._loop import Callback, Loop, check_starts
from ._memory import chunk_rows
from ._optimizers import SGD, Adam, Optimizer
from ._problem import Evaluation, Problem
from ._state import Solution, State
from ._status import Status
from ._stopping import Stopping
from ._threads import suited_threads

#: a fit is lost where its objective is so many times that of zero outputs and of its last progress
DIVERGED = 1e6
#: a new optimizer is a new class and a line here
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "lbfgs": LBFGS,
    "lbfgs_armijo": partial(LBFGS, line_search="armijo"),
    "adam": Adam,
    "sgd": SGD,
}


def gradient_descent(
    problem: Problem,
    theta: Tensor,
    *,
    optimizer: str | Optimizer = "lbfgs",
    stopping: Stopping | None = None,
    batches: MiniBatches | None = None,
    validation: Problem | None = None,
    callback: Callback | None = None,
    groups: np.ndarray | None = None,
) -> Solution:
    """Minimise ``problem`` from B starting points at once by gradients, to compare with :func:`levenberg_marquardt`.

    Parameters
    ----------
    problem : Problem
    theta : (B, P) tensor
        Starting points; device and dtype as the problem's. Not written to.
    optimizer : {'lbfgs', 'lbfgs_armijo', 'adam', 'sgd'} or Optimizer, default='lbfgs'
    stopping : Stopping, optional
        Dampings in it have no meaning here; ``gradient_tol`` has for L-BFGS.
    batches : MiniBatches, optional
        One step a batch; the best iterate is judged on all rows. Not for L-BFGS.
    validation : Problem, optional
        Rows to choose the best iterate by, and to stop by when it no longer improves.
    callback : function, optional
        Called with a :class:`Progress` after every iteration (epoch with mini-batches); true stops the fit.
    groups : (B,) ndarray of int, optional
        Number of the fit, from 0, that each model is a start of, where the batch holds several fits.

    Returns
    -------
    Solution
        With NaN as damping.

    Raises
    ------
    ValueError
        If theta does not fit the problem, a parameter of the optimizer is impossible, or there are mini-batches that it
        cannot use.

    Notes
    -----
    One iteration is one step, with mini-batches an epoch: a step of every batch and one evaluation of all rows. A
    keyboard interrupt ends the loop with the best models so far. The gradient of a batch counts every row by its weight
    times N over the size of the batch, so that it is right in the mean.

    Examples
    --------
    >>> import torch
    >>> from sklm import MLP
    >>> from sklm.losses import SquaredError
    >>> from sklm.optim import Stopping, gradient_descent, make_problem
    >>> X = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    >>> network = MLP(5).build(n_inputs=1, n_outputs=1)
    >>> problem = make_problem(network, SquaredError(), X, X.sin(), n_models=2)
    >>> starts = torch.randn(2, network.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> solution = gradient_descent(problem, starts, stopping=Stopping(target_loss=1e-6))
    >>> [status.name for status in solution.status]
    ['TARGET', 'TARGET']
    """
    check_starts(problem, theta)
    optimizer = make_optimizer(optimizer)
    if batches is not None and (optimizer.batch_size is None or batches.memory is not None):
        raise ValueError(
            f"{type(optimizer).__name__} needs all rows in every step; leave out the mini-batches."
            if optimizer.batch_size is None
            else "Mini-batches with a memory are for Levenberg-Marquardt; leave out the memory."
        )
    rows = problem.n_samples if batches is None else batches.n_samples // batches.n_batches
    work = 3.0 * theta.shape[0] * rows * problem.network.n_parameters
    # not in inference mode: the memory of an optimizer is kept from step to step, and costs nothing to keep outside
    with isolated(theta.device), suited_threads(work, theta.device):
        loop = _Descent(
            problem=_in_large_chunks(problem),
            stopping=stopping or Stopping(),
            batches=batches,
            validation=None if validation is None else _in_large_chunks(validation),
            callback=callback,
            groups=None if groups is None else torch.from_numpy(groups).to(theta.device),
            optimizer=optimizer,
        )
        return replace(loop.run(theta.detach().clone(), np.zeros(len(theta), int)), groups=groups)


def make_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """Return the object for a name, checked.

    Raises
    ------
    ValueError
        If the name is unknown or a parameter is impossible.
    """
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)} or an Optimizer; got {optimizer!r}.")
        optimizer = OPTIMIZERS[optimizer]()
    optimizer.validate()
    return optimizer


def _in_large_chunks(problem: Problem) -> Problem:
    """The same problem with as many rows at once as suits their activations: there are no Jacobian rows."""
    size = problem.y.element_size()
    n_inputs = problem.rows.chunk(0, 1).shape[-2]
    activations = size * (len(problem.alpha) * problem.network.floats_per_row + n_inputs)
    return replace(problem, max_rows=chunk_rows("auto", problem.n_samples, 1, activations, problem.y.device))


@dataclass
class _Work:
    """``point`` is the evaluation at the state's theta, on all rows and None with mini-batches."""

    point: Evaluation | None
    reasons: list[tuple[Tensor, Status]] = field(default_factory=list)


@dataclass
class _Descent(Loop):
    """The loop around an optimizer; its memory is ``State.memory``."""

    optimizer: Optimizer

    def _start(self, theta: Tensor, done: np.ndarray) -> tuple[State, _Work]:
        point = self.problem.evaluate(theta, keep=self.batches is None)
        none = torch.full_like(point.objective, torch.nan)
        state = self._state(theta, point, done, none, none, self.optimizer.start(self.problem, theta, point))
        return state, _Work(point if self.batches is None else None)

    def _iterate(self, problem: Problem, state: State, work: _Work) -> tuple[State, _Work]:
        move = self.optimizer.step(problem, state.theta, work.point, state.memory, self.stopping)
        point = problem.evaluate(move.theta) if move.point is None else move.point
        return self._at(state, move.theta, move.memory, point), _Work(point, move.reasons)

    def _epoch(self, epochs: Iterator, state: State, work: _Work) -> tuple[State, _Work]:
        return super()._epoch(epochs, state, _Work(None))  # reasons are those of the epoch

    def _on_batch(self, index: np.ndarray, state: State, work: _Work) -> tuple[State, _Work]:
        problem = self.problem.take(index, unbiased=True)
        move = self.optimizer.step(problem, state.theta, None, state.memory, self.stopping)
        return evolve(state, theta=move.theta, memory=move.memory), _Work(None, work.reasons + move.reasons)

    def _after_epoch(self, state: State, work: _Work) -> tuple[State, _Work]:
        point = self.problem.evaluate(state.theta, keep=False)
        return self._at(state, state.theta, state.memory, point), work

    def _at(self, state: State, theta: Tensor, memory: dict, point: Evaluation) -> State:
        # NaN in the history is an iteration that was not done
        loss = torch.where(point.loss.isnan(), torch.inf, point.loss)
        objective = torch.where(point.objective.isnan(), torch.inf, point.objective)
        return evolve(state, theta=theta, mean_theta=theta, memory=memory, objective=objective, loss=loss)

    def _reasons(self, state: State, work: _Work, progress: Choice) -> list[tuple[Tensor, Status]]:
        limit = DIVERGED * torch.maximum(state.anchor, state.start)
        return [(~(state.objective <= limit), Status.DIVERGED), *work.reasons]
