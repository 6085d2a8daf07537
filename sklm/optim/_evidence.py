"""How probable the data are under a penalty, whatever the parameters: what penalties can be compared by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._curvature import Workspace, linearise
from ._problem import Problem
from ._row_space import has_few_rows, row_space
from ._solvers import Cholesky
from ._threads import on_suited_threads

#: parameters free of penalty are normal beforehand with a deviation of ten
INTERCEPT_PRECISION = 1e-2


@on_suited_threads
def log_evidence(problem: Problem, theta: Tensor, n_observations: float | Tensor) -> Tensor:
    """Return the logarithm of the evidence (B,) for the penalties of a problem, from fitted parameters theta (B, P).

    Parameters
    ----------
    problem : Problem
        With exact curvature and a penalty. ``n_observations`` times its loss is the negative log-likelihood of the
        targets.
    theta : (B, P) tensor
        A minimum, or near one.
    n_observations : float or (B,) tensor
        Number of observations, in which weights of rows are counted: N for N rows of log-loss.

    Returns
    -------
    evidence : (B,) tensor
        Natural logarithm; NaN where the Gauss-Newton matrix is singular.

    Notes
    -----
    The penalty is a normal prior of the coefficients with precision ``N alpha``. The likelihood times it is integrated
    over the parameters as a normal distribution around theta, with the Gauss-Newton matrix A of ``N F`` (Laplace's
    approximation): ``-N F + (c log(N alpha) - log det A + i log 0.01) / 2`` for c coefficients and i intercepts, which
    have a wide prior of their own (MacKay 1992, Neural Computation 4(3), pp. 448-472, eq. 3.4; for classes 4(5),
    pp. 720-736). For squared error of unit variance and a linear model it is exact, up to ``N log(2 pi) / 2``. It costs
    a linearisation and a factorisation, in the space of the rows where these are fewer than the parameters.
    """
    number = torch.as_tensor(n_observations, dtype=theta.dtype, device=theta.device).expand(len(theta))
    free, n_parameters = 1 - problem.penalty_mask, theta.shape[1]
    if has_few_rows(problem):
        precision = problem.alpha[:, None] * problem.penalty_mask + INTERCEPT_PRECISION / number[:, None] * free
        log_determinant = row_space(problem, theta, precision).log_determinant + n_parameters * number.log()
    else:
        system, _ = linearise(problem, theta, None, Cholesky().accumulator(theta), Workspace())
        matrix = system.gram * number[:, None, None]
        matrix.diagonal(dim1=1, dim2=2).add_(INTERCEPT_PRECISION * free)
        lower, info = torch.linalg.cholesky_ex(matrix)
        log_determinant = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
        log_determinant = log_determinant.where(info == 0, torch.full_like(log_determinant, torch.nan))
    log_prior = problem.penalty_mask.sum() * (number * problem.alpha).log() + free.sum() * math.log(INTERCEPT_PRECISION)
    fit = number * problem.evaluate(theta, keep=False).objective + 0.5 * INTERCEPT_PRECISION * (theta.square() @ free)
    return 0.5 * (log_prior - log_determinant) - fit
