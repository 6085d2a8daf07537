"""A linear model fitted by the engine, to compare with solvers for linear models."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklm.architectures import MLP
from sklm.losses import Loss
from sklm.optim import Solution, Stopping, levenberg_marquardt, make_problem

from ..problems import tensor

#: ends at rounding
TIGHT = Stopping(max_iter=1000, tol=1e-14, gradient_tol=0.0)


def fit_linear(
    loss: Loss,
    X: np.ndarray,
    y: np.ndarray,
    *,
    weights: Any = None,
    alpha: float = 0.0,
    spread: float = 0.0,
    stopping: Stopping = TIGHT,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, Solution]:
    """Coefficients (K, F), intercepts (K,) and solution for X (N, F) and y (N, K).

    The start is ``spread`` times a standard normal draw.
    """
    network = MLP(()).build(X.shape[1], y.shape[1])
    weights = None if weights is None else tensor(weights)
    problem = make_problem(network, loss, tensor(X), tensor(y), weights=weights, alpha=alpha)
    start = spread * tensor(np.random.default_rng(0).normal(size=(1, network.n_parameters)))
    solution = levenberg_marquardt(problem, start, stopping=stopping, **options)
    theta = solution.theta[0].numpy()
    return theta[: -y.shape[1]].reshape(y.shape[1], -1), theta[-y.shape[1] :], solution
