"""The evidence against a closed form, an integral and its formula by autograd."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sklm.architectures import MLP
from sklm.losses import LogisticLoss, SoftmaxCrossEntropy, SquaredError
from sklm.optim import Stopping, levenberg_marquardt, log_evidence, make_problem
from sklm.optim._evidence import INTERCEPT_PRECISION

from ..problems import tensor

TIGHT = Stopping(max_iter=200, tol=1e-12, n_iter_no_change=3)


def fitted(X, y, loss, hidden=(), **options):
    network = MLP(hidden).build(X.shape[1], y.shape[1])
    problem = make_problem(network, loss, tensor(X), tensor(y), **options)
    start = tensor(np.random.default_rng(3).normal(size=(len(problem.alpha), network.n_parameters)))
    return problem, levenberg_marquardt(problem, start, stopping=TIGHT).theta


def centred(n_samples=30, n_columns=3, n_outputs=1):
    """Rows in pairs of opposite sign: the intercept of the best plane is zero."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n_samples, n_columns)), rng.normal(size=(n_samples, n_outputs))
    return np.r_[X, -X], np.r_[y, -y]


@pytest.mark.parametrize("max_rows", [None, 7])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_exact_for_a_linear_model_with_normal_noise(n_outputs, max_rows):
    X, y = centred(n_outputs=n_outputs)
    n = len(X) * n_outputs  # the loss is a mean over rows and outputs, of half a square
    for precision in (0.1, 3.0):
        problem, theta = fitted(X, y, SquaredError(), alpha=precision / n, jacobian_max_rows=max_rows)
        covariance = np.eye(len(X)) + X @ X.T / precision + 1 / INTERCEPT_PRECISION
        density = sum(multivariate_normal.logpdf(column, np.zeros(len(X)), covariance) for column in y.T)
        expected = density + 0.5 * n * np.log(2 * np.pi)
        np.testing.assert_allclose(log_evidence(problem, theta, n).item(), expected, rtol=1e-8)


def test_near_the_integral_for_a_logistic_model():
    """One coefficient; the intercept of symmetric data is zero, and its part is a factor of its own."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = (x + rng.logistic(size=60) > 0).astype(float)
    X, Y = np.r_[x, -x][:, None], np.r_[y, 1 - y][:, None]
    difference = []
    for precision in (0.5, 20.0):
        problem, theta = fitted(X, Y, LogisticLoss(), alpha=precision / len(X))
        w = np.linspace(-6, 10, 20001)  # the integrand is smooth and vanishes at both ends
        likelihood = -np.logaddexp(0, (1 - 2 * Y) * X * w).sum(axis=0)
        integrand = np.exp(likelihood + 50 - 0.5 * precision * w * w) * np.sqrt(precision / (2 * np.pi))
        p = 1 / (1 + np.exp(-X[:, 0] * theta[0, 0].item()))
        intercept = 0.5 * np.log(INTERCEPT_PRECISION / (INTERCEPT_PRECISION + (p * (1 - p)).sum()))
        expected = np.log(integrand.sum() * (w[1] - w[0])) - 50 + intercept
        difference.append(log_evidence(problem, theta, len(X)).item() - expected)
    np.testing.assert_allclose(difference, 0, atol=0.02)


def test_by_its_formula_for_a_network_of_classes():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(40, 2)), np.eye(3)[rng.integers(0, 3, 40)]
    alpha = 0.02
    problem, theta = fitted(X, y, SoftmaxCrossEntropy(), hidden=(4,), alpha=alpha)
    network, mask = problem.network, problem.penalty_mask

    def outputs(flat):
        first, second = network.layers
        hidden = torch.tanh(tensor(X) @ flat[first.weight].view(4, 2).mT + flat[first.bias])
        return (hidden @ flat[second.weight].view(3, 4).mT + flat[second.bias]).mT

    p = torch.softmax(outputs(theta[0]), 0)
    jacobian = torch.func.jacrev(outputs)(theta[0])  # (K, n, P)
    curvature = torch.diag_embed(p.T) - p.T[:, :, None] * p.T[:, None, :]
    matrix = torch.einsum("knp,nkl,lnq->pq", jacobian, curvature, jacobian)
    matrix = matrix + torch.diag(40 * alpha * mask + INTERCEPT_PRECISION * (1 - mask))
    fit = -torch.log((p * tensor(y).T).sum(0)).sum() + 0.5 * (40 * alpha * mask) @ theta[0].square()
    fit = fit + 0.5 * INTERCEPT_PRECISION * (1 - mask) @ theta[0].square()
    prior = mask.sum() * np.log(40 * alpha) + (1 - mask).sum() * np.log(INTERCEPT_PRECISION)
    expected = -fit + 0.5 * (prior - torch.linalg.slogdet(matrix)[1])
    torch.testing.assert_close(log_evidence(problem, theta, 40)[0], expected, rtol=1e-9, atol=0)


def test_of_a_batch_is_that_of_each():
    X, y = centred()
    alphas = [0.001, 0.1]
    problem, theta = fitted(X, y, SquaredError(), alpha=tensor(alphas), n_models=2)
    both = log_evidence(problem, theta, tensor([60.0, 30.0]))
    for number, n in enumerate((60.0, 30.0)):
        one = problem.models(torch.tensor([number]))
        torch.testing.assert_close(log_evidence(one, theta[[number]], n)[0], both[number], rtol=1e-12, atol=0)


def test_unknown_where_the_matrix_is_not_finite():
    X, y = centred()
    problem, theta = fitted(X, y, SquaredError(), alpha=0.1)
    assert torch.isnan(log_evidence(problem, torch.full_like(theta, torch.nan), 60)).all()
