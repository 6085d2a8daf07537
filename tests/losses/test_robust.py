"""Robust losses: exact fits, majorisation, and linear regressions that scipy solves."""

import numpy as np
import pytest
import scipy.optimize
import torch

from sklm.losses import AbsoluteError, Huber, Quantile
from sklm.optim import Geodesic

from ..problems import tensor
from .linear import fit_linear

ONE = torch.ones((1, 1), dtype=torch.float64)


def heavy_tails(n_samples=80, n_features=3, seed=0):
    """X (N, F) and y (N, 1) with outliers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    return X, X @ rng.normal(size=(n_features, 1)) + 0.3 * rng.standard_t(2, size=(n_samples, 1))


def linear_quantile(X, y, weights, quantile):
    """Smallest mean pinball loss of a linear model, and its parameters, by linear programming."""
    A = np.column_stack([X, np.ones(len(X))])
    n_samples, n_parameters = A.shape
    weights = weights / weights.sum()
    cost = np.concatenate([np.zeros(2 * n_parameters), quantile * weights, (1 - quantile) * weights])
    system = np.hstack([A, -A, np.eye(n_samples), -np.eye(n_samples)])
    result = scipy.optimize.linprog(cost, A_eq=system, b_eq=y.ravel(), bounds=(0, None), method="highs")
    return result.fun, result.x[:n_parameters] - result.x[n_parameters : 2 * n_parameters]


@pytest.mark.parametrize("loss", [Huber(), AbsoluteError(), Quantile()])
def test_an_exact_fit_costs_nothing(loss):
    exact = tensor([[[0.3]]])
    assert loss.value(exact, exact, ONE) == 0
    assert loss.gradient(exact, exact) == 0


def test_an_asymmetric_quantile_has_its_minimum_of_zero_within_the_smoothing():
    loss, errors = Quantile(0.9, smoothing=0.01), tensor(np.linspace(-0.02, 0.02, 4001))[None, None]
    values = loss.pointwise(errors, torch.zeros_like(errors))
    assert values.min() == pytest.approx(0, abs=1e-16)
    assert float(errors[0, 0, values.argmin()]) == pytest.approx(0.8 * 0.01)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.75])
def test_far_from_zero_it_is_the_pinball_loss(quantile):
    outputs = np.array([[[-3.0, -0.5, 0.5, 3.0]]])
    value = Quantile(quantile, smoothing=0.01).pointwise(tensor(outputs), torch.zeros((1, 4)))
    expected = np.maximum(-quantile * outputs, (1 - quantile) * outputs) - 0.01 * quantile * (1 - quantile)
    np.testing.assert_allclose(value, expected, rtol=1e-14)


@pytest.mark.parametrize("loss", [Huber(0.5), AbsoluteError(0.1), Quantile(0.8, 0.1)], ids=str)
def test_the_quadratic_model_lies_above_the_loss(loss):
    """What makes every full step a descent (Hunter & Lange 2000)."""
    here, there = (tensor(np.linspace(-3, 3, 61)) for _ in range(2))
    here, step = here[None, None, :], there[:, None, None] - here[None, None, :]
    here = here.expand(61, 1, 61)
    zero = torch.zeros((1, 61), dtype=torch.float64)
    model = loss.pointwise(here, zero) + loss.derivative(here, zero) * step
    model = model + loss.curvature(here, zero) * step**2 / 2
    assert (model - loss.pointwise(here + step, zero) > -1e-12).all()


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber_reaches_the_optimum_of_scipy(delta):
    X, y = heavy_tails()
    A = np.column_stack([X, np.ones(len(X))])

    def objective(theta):
        r = A @ theta - y.ravel()
        slope = np.clip(r, -delta, delta)
        value = np.where(np.abs(r) <= delta, r**2 / 2, delta * (np.abs(r) - delta / 2))
        return value.mean(), A.T @ slope / len(A)

    expected = scipy.optimize.minimize(objective, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-9})
    coefficients, intercept, _ = fit_linear(Huber(delta), X, y)
    np.testing.assert_allclose([*coefficients.ravel(), *intercept], expected.x, atol=1e-6)


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
@pytest.mark.parametrize(
    ("loss", "quantile"), [(AbsoluteError(), 0.5), (Quantile(), 0.5), (Quantile(0.25, 1e-6), 0.25)], ids=str
)
def test_linear_quantile_regression_reaches_the_optimum_of_linear_programming(loss, quantile, acceleration):
    X, y = heavy_tails(seed=3)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X))
    best, theta = linear_quantile(X, y, weights, quantile)
    coefficients, intercept, _ = fit_linear(loss, X, y, weights=weights, acceleration=acceleration)
    found = np.array([*coefficients.ravel(), *intercept])
    error = y.ravel() - X @ found[:3] - found[3]
    reached = np.average(np.maximum(quantile * error, (quantile - 1) * error), weights=weights)
    assert best <= reached * (1 + 1e-12)
    assert reached == pytest.approx(best, rel=0.05 * loss.smoothing)
    np.testing.assert_allclose(found, theta, atol=5 * loss.smoothing)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.8])
def test_the_share_below_is_the_quantile(quantile):
    rng = np.random.default_rng(0)
    X, y = np.zeros((999, 1)), rng.exponential(size=(999, 1))
    _, intercept, _ = fit_linear(Quantile(quantile), X, y)
    assert np.mean(y <= intercept) == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Huber(0.0), "delta of Huber must be a finite number above zero; got 0.0"),
        (Huber(-1), "delta"),
        (Huber(float("inf")), "delta"),
        (Huber("1"), "delta"),
        (AbsoluteError(0), "smoothing of AbsoluteError"),
        (Quantile(smoothing=float("nan")), "smoothing of Quantile"),
        (Quantile(0.0), "quantile of Quantile must lie between 0 and 1; got 0.0"),
        (Quantile(1), "quantile"),
        (Quantile(None), "quantile"),
        (Quantile(True), "quantile"),
    ],
    ids=str,
)
def test_impossible_parameters_are_named(loss, words):
    with pytest.raises(ValueError, match=words):
        loss.validate()
