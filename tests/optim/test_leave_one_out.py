"""Approximate leave-one-out loss against fits without each row."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from sklm.architectures import MLP
from sklm.losses import LogisticLoss, PoissonDeviance, SoftmaxCrossEntropy, SquaredError
from sklm.optim import Stopping, levenberg_marquardt, make_problem
from sklm.optim._leave_one_out import leave_one_out, leave_one_out_in_rows, left_out

from ..problems import tensor

TIGHT = Stopping(max_iter=100, tol=1e-9, n_iter_no_change=3)


def fitted(X, y, loss, hidden=(), **options):
    network = MLP(hidden).build(X.shape[1], y.shape[1])
    problem = make_problem(network, loss, tensor(X), tensor(y), **options)
    start = tensor(np.random.default_rng(3).normal(size=(1, network.n_parameters)))
    return problem, levenberg_marquardt(problem, start, stopping=TIGHT).theta


def refitted(X, y, loss, theta, **options):
    """The mean of the losses of rows, each of a fit from theta without it."""
    values = []
    for n in range(len(X)):
        rest = np.delete(np.arange(len(X)), n)
        network = MLP(options.get("hidden", ())).build(X.shape[1], y.shape[1])
        # alpha is per mean loss: the sum over the other rows weighs (N - 1) / N of the mean over all
        alpha = options.get("alpha", 0.0) * len(X) / len(rest)
        problem = make_problem(network, loss, tensor(X[rest]), tensor(y[rest]), alpha=alpha)
        there = levenberg_marquardt(problem, theta, stopping=TIGHT).theta
        single = make_problem(network, loss, tensor(X[n : n + 1]), tensor(y[n : n + 1]))
        values.append(float(single.evaluate(there).objective))
    return np.mean(values)


def ridge_without_each(X, y, alpha):
    """The mean of the losses of rows, each of a ridge regression without it."""
    values = []
    for n in range(len(X)):
        rest = np.delete(np.arange(len(X)), n)
        ridge = Ridge(alpha=alpha * y.size, solver="svd").fit(X[rest], y[rest])
        values.append(0.5 * np.mean((ridge.predict(X[[n]]) - y[n]) ** 2))
    return np.mean(values)


@pytest.mark.parametrize("max_rows", [None, 7])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_exact_for_linear_least_squares(n_outputs, alpha, max_rows):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), rng.normal(size=(20, n_outputs))
    problem, theta = fitted(X, y, SquaredError(), alpha=alpha, jacobian_max_rows=max_rows)
    expected = ridge_without_each(X, y, alpha)
    np.testing.assert_allclose(leave_one_out(problem, theta).item(), expected, rtol=1e-5)


def test_logistic_regression_is_near():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3))
    y = (X @ [1, -1, 0.5] + rng.logistic(size=60) > 0).astype(float)
    problem, theta = fitted(X, y[:, None], LogisticLoss(), alpha=1 / 60)
    expected = []
    for n in range(60):
        rest = np.delete(np.arange(60), n)
        model = LogisticRegression(tol=1e-8).fit(X[rest], y[rest])
        expected.append(-model.predict_log_proba(X[[n]])[0, int(y[n])])
    np.testing.assert_allclose(leave_one_out(problem, theta).item(), np.mean(expected), rtol=1e-2)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), PoissonDeviance()], ids=lambda loss: type(loss).__name__)
def test_other_losses_are_near(loss):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(50, 2))
    counts = rng.poisson(np.exp(0.5 * X[:, :1])).astype(float)
    y = np.eye(3)[rng.integers(0, 3, 50)] if isinstance(loss, SoftmaxCrossEntropy) else counts
    problem, theta = fitted(X, y, loss, alpha=0.01)
    np.testing.assert_allclose(leave_one_out(problem, theta).item(), refitted(X, y, loss, theta, alpha=0.01), rtol=1e-2)


def test_a_network_is_near():
    rng = np.random.default_rng(4)
    X = rng.uniform(-1, 1, (40, 1))
    y = np.sin(3 * X) + 0.1 * rng.normal(size=X.shape)
    problem, theta = fitted(X, y, SquaredError(), hidden=(3,), alpha=1e-3)
    training = problem.evaluate(theta).loss.item()
    expected = refitted(X, y, SquaredError(), theta, hidden=(3,), alpha=1e-3)
    assert expected > 1.1 * training
    np.testing.assert_allclose(leave_one_out(problem, theta).item(), expected, rtol=0.1)


def test_equal_rows_count_by_their_multiplicity():
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(15, 2)), rng.normal(size=(15, 1))
    times = rng.integers(1, 4, 15)
    problem, theta = fitted(X, y, SquaredError(), weights=tensor(times))
    weighted = leave_one_out(problem, theta)
    repeated, _ = fitted(np.repeat(X, times, axis=0), np.repeat(y, times, axis=0), SquaredError())
    torch.testing.assert_close(weighted, leave_one_out(repeated, theta), rtol=1e-9, atol=0)
    halves, _ = fitted(X, y, SquaredError(), weights=tensor(times / 2 + 0.1))
    assert weighted < leave_one_out(halves, theta)  # whatever else they are, weights are those of single rows


def test_models_are_independent_and_unused_parameters_do_not_matter():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 1))
    network = MLP(4).build(2, 1)
    theta = tensor(rng.normal(size=(3, network.n_parameters)))
    theta[2, -5:-1] = 0  # the output layer: nothing below it has an influence
    problem = make_problem(network, SquaredError(), tensor(X), tensor(y), n_models=3)
    together = leave_one_out(problem, theta)
    assert torch.isfinite(together).all()
    for k in range(3):
        alone = leave_one_out(problem.models(torch.tensor([k])), theta[[k]])
        torch.testing.assert_close(together[[k]], alone, rtol=1e-9, atol=0)


def test_a_row_that_determines_a_parameter_alone():
    """A column is zero but in one row: without it, that row's prediction is anything, or within the range of y."""
    rng = np.random.default_rng(8)
    X = np.c_[rng.normal(size=12), np.eye(12)[0]]
    y = X[:, :1] + 0.1 * rng.normal(size=(12, 1)) + 3 * X[:, 1:]
    problem, theta = fitted(X, y, SquaredError())
    theta = theta + 1e-3
    rest = np.arange(1, 12)
    line = np.polyfit(X[rest, 0], y[rest, 0], 1)
    bounded = leave_one_out(problem, theta, cut=True).item()
    assert leave_one_out(problem, theta).item() > 100
    assert np.var(y[rest, 0] - np.polyval(line, X[rest, 0])) / 2 < bounded < np.ptp(y) ** 2


def test_a_log_link_does_not_run_away():
    """Cut to the range of the positive targets, the worst a row can cost is a prediction at the other end of it."""
    rng = np.random.default_rng(9)
    X = np.c_[rng.normal(size=12), np.eye(12)[0]]
    y = rng.poisson(np.exp(X[:, :1]) + 3 * X[:, 1:]).astype(float) + np.eye(12)[:, :1] * 5
    problem, theta = fitted(X, y, PoissonDeviance(), alpha=1e-8)
    value = leave_one_out(problem, theta)
    worst = PoissonDeviance().pointwise(tensor(np.log([[y[y > 0].min(), y.max()]])), tensor([[y.max(), y.min()]]))
    assert 0 < value < worst.max()


@pytest.mark.parametrize("max_rows", [None, 4])
@pytest.mark.parametrize("alpha", [1.0, 1e-6, 1e-9])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_exact_for_linear_least_squares_with_more_columns_than_rows(n_outputs, alpha, max_rows):
    rng = np.random.default_rng(10)
    X, y = rng.normal(size=(8, 30)), rng.normal(size=(8, n_outputs))
    problem, theta = fitted(X, y, SquaredError(), alpha=alpha, jacobian_max_rows=max_rows)
    expected = ridge_without_each(X, y, alpha)
    # the intercepts have a ten-thousandth of the penalty
    np.testing.assert_allclose(leave_one_out_in_rows(problem, theta).item(), expected, rtol=1e-3)


@pytest.mark.parametrize("hidden", [(6,), (4, 3)])
def test_rows_and_parameters_say_the_same(hidden):
    rng = np.random.default_rng(11)
    X, y = rng.uniform(-1, 1, (20, 4)), rng.normal(size=(20, 2))
    times = rng.integers(1, 4, 20)
    problem, theta = fitted(X, y, SquaredError(), hidden=hidden, alpha=0.01, weights=tensor(times))
    assert problem.n_samples * 2 <= theta.shape[1]
    for cut in (False, True):
        by_rows, by_parameters = leave_one_out_in_rows(problem, theta, cut), leave_one_out(problem, theta, cut)
        torch.testing.assert_close(by_rows, by_parameters, rtol=1e-3, atol=0)


def test_models_with_few_rows_are_independent():
    rng = np.random.default_rng(13)
    X, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))
    network = MLP(4).build(2, 1)
    theta = tensor(rng.normal(size=(3, network.n_parameters)))
    weights = tensor(np.vstack([np.ones(6), [1, 1, 1, 0, 1, 1], [1, 2, 1, 1, 1, 1]]))
    alpha = tensor([1e-2, 1e-5, 1e-9])
    problem = make_problem(network, SquaredError(), tensor(X), tensor(y), n_models=3, weights=weights, alpha=alpha)
    together = leave_one_out_in_rows(problem, theta)
    assert torch.isfinite(together).all()
    for k in range(3):
        alone = leave_one_out_in_rows(problem.models(torch.tensor([k])), theta[[k]])
        torch.testing.assert_close(together[[k]], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("max_rows", [None, 7])
def test_the_mean_of_models_is_exact_for_linear_least_squares(max_rows):
    rng = np.random.default_rng(0)
    X, y, alphas = rng.normal(size=(20, 4)), rng.normal(size=(20, 2)), [0.01, 0.3, 1.0]
    network = MLP(()).build(4, 2)
    options = {"n_models": 3, "alpha": torch.tensor(alphas, dtype=torch.float64), "jacobian_max_rows": max_rows}
    problem = make_problem(network, SquaredError(), tensor(X), tensor(y), **options)
    theta = levenberg_marquardt(problem, tensor(rng.normal(size=(3, network.n_parameters))), stopping=TIGHT).theta
    losses = []
    for n in range(20):
        rest = np.delete(np.arange(20), n)
        each = [Ridge(alpha=alpha * 40, solver="svd").fit(X[rest], y[rest]).predict(X[[n]]) for alpha in alphas]
        losses.append(0.5 * np.mean((np.mean(each, axis=0) - y[n]) ** 2))
    value = left_out(problem, theta, together=True).loss
    assert value.shape == (1,)
    np.testing.assert_allclose(value.item(), np.mean(losses), rtol=1e-5)
