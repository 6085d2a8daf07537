"""Optimizers that need gradients only: what they are, and the two that work on mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._parameters import Parameters
from ..losses._separable import check_positive, is_number
from ._batch import Choice
from ._curvature import gradient
from ._problem import Evaluation, Problem
from ._status import Status
from ._stopping import Stopping

Memory = dict[str, Any]


@dataclass
class Move:
    """What a step of an optimizer did.

    Attributes
    ----------
    theta : (b, P)
    memory : dict
        The optimizer's, with tensors of leading axis b.
    point : Evaluation or None
        That of theta on the rows of the step, if the optimizer knows it.
    reasons : list of ((b,) bool, Status)
        Models that cannot go on.
    """

    theta: Tensor
    memory: Memory
    point: Evaluation | None = None
    reasons: list[tuple[Tensor, Status]] = field(default_factory=list)


class Optimizer(Parameters, ABC):
    """A rule that moves theta (b, P), all models at once, by gradients of the objective.

    It has no state of its own; what it wants to remember travels through the loop as a dict, the memory, whose tensors
    have the models first. The loop stops models whose objective is no longer finite and keeps the best iterate.
    """

    #: samples of a step unless the user says otherwise (at most); None where a step needs all of them
    batch_size: int | None = None

    def validate(self) -> None:
        """Raise ValueError if a parameter has an impossible value."""

    @abstractmethod
    def start(self, problem: Problem, theta: Tensor, point: Evaluation) -> Memory:
        """Return the first memory, for theta (b, P) and what was evaluated there; called once."""

    @abstractmethod
    def step(
        self, problem: Problem, theta: Tensor, point: Evaluation | None, memory: Memory, stopping: Stopping
    ) -> Move:
        """Move theta (b, P) by one step on the rows of ``problem``.

        ``point`` is the evaluation of theta on these rows, None on a mini-batch.
        """


class GradientStep(Optimizer):
    """Base of optimizers whose step follows from the gradient (b, P) and the memory by a formula."""

    batch_size = 200

    def start(self, problem: Problem, theta: Tensor, point: Evaluation) -> Memory:
        return self.begin(theta)

    def step(
        self, problem: Problem, theta: Tensor, point: Evaluation | None, memory: Memory, stopping: Stopping
    ) -> Move:
        slope = gradient(problem, theta, None if point is None else point.forwards)
        finite = Choice(slope.sum(1).isfinite())
        step, memory = self.rule(slope, memory)
        return Move(finite(theta + step, theta), memory, reasons=[(~finite.mask, Status.DERIVATIVE)])

    @abstractmethod
    def begin(self, theta: Tensor) -> Memory:
        """Return the first memory for theta (b, P)."""

    @abstractmethod
    def rule(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return the step (b, P) and the next memory."""


class Adam(GradientStep):
    """Adam: steps of about one size, each coordinate by its own running moments.

    Parameters
    ----------
    learning_rate : float, default=1e-3
    betas : tuple of two float, default=(0.9, 0.999)
        Decay of the first and second moment a step, in [0, 1).
    epsilon : float, default=1e-8
        Added to the root of the second moment.

    Notes
    -----
    Kingma & Ba, arXiv:1412.6980, algorithm 1: with ``m = b1 m + (1 - b1) g`` and ``v = b2 v + (1 - b2) g^2``, the t-th
    step is ``-rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklm import LMRegressor
    >>> from sklm.optim import Adam
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> model = LMRegressor(10, optimizer=Adam(learning_rate=0.01), target_loss=1e-3, random_state=0)
    >>> model.fit(X, np.sin(3 * X[:, 0])).status_
    'target'
    """

    def __init__(self, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8):
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon

    def validate(self) -> None:
        check_positive(self, "learning_rate")
        check_positive(self, "epsilon")
        pair = isinstance(self.betas, tuple | list) and len(self.betas) == 2
        if not pair or not all(is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas of Adam must be two numbers in [0, 1); got {self.betas!r}.")

    def begin(self, theta: Tensor) -> Memory:
        zero = torch.zeros_like(theta)
        return {"mean": zero, "square": zero, "count": theta.new_zeros(len(theta), 1)}

    def rule(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        first, second = self.betas
        count = memory["count"] + 1
        mean = memory["mean"].lerp(gradient, 1 - first)
        square = torch.addcmul(memory["square"] * second, gradient, gradient, value=1 - second)
        size = (square / (1 - second**count)).sqrt_().add_(self.epsilon)
        step = (mean / (1 - first**count)).div_(size).mul_(-self.learning_rate)
        return step, {"mean": mean, "square": square, "count": count}


class SGD(GradientStep):
    """Gradient descent with momentum; stochastic on mini-batches.

    Parameters
    ----------
    learning_rate : float, default=1e-2
    momentum : float, default=0.9
        In [0, 1).
    nesterov : bool, default=True
        Look ahead along the momentum.

    Notes
    -----
    ``v = momentum v + g`` and the step ``-rate v``, or with ``nesterov`` ``-rate (g + momentum v)`` (Sutskever et al.,
    ICML 2013, in the form that needs the gradient at theta only: Bengio et al., arXiv:1212.0901, eq. 7).

    Examples
    --------
    >>> from sklm.optim import SGD
    >>> SGD(learning_rate=0.1).set_params(nesterov=False)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
    """

    def __init__(self, learning_rate: float = 1e-2, momentum: float = 0.9, nesterov: bool = True):
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov

    def validate(self) -> None:
        check_positive(self, "learning_rate")
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"momentum of SGD must be a number in [0, 1); got {self.momentum!r}.")
        if not isinstance(self.nesterov, bool):
            raise ValueError(f"nesterov of SGD must be True or False; got {self.nesterov!r}.")

    def begin(self, theta: Tensor) -> Memory:
        return {"velocity": torch.zeros_like(theta)}

    def rule(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        velocity = memory["velocity"] * self.momentum + gradient
        ahead = gradient + self.momentum * velocity if self.nesterov else velocity
        return ahead * -self.learning_rate, {"velocity": velocity}
