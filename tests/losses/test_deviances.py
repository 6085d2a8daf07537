"""Deviances against scikit-learn's metrics and generalised linear models."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import GammaRegressor, PoissonRegressor
from sklearn.metrics import mean_gamma_deviance, mean_poisson_deviance

from sklm.losses import GammaDeviance, PoissonDeviance

from ..problems import tensor
from .linear import fit_linear

both = pytest.mark.parametrize(
    ("loss", "metric"), [(PoissonDeviance(), mean_poisson_deviance), (GammaDeviance(), mean_gamma_deviance)]
)


def data(loss, n_samples=200):
    """X (N, 3) and targets (N, 1) of the loss's own distribution."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 3))
    mean = np.exp(X @ [0.5, -0.3, 0.2] + 0.4)
    y = rng.poisson(mean) if isinstance(loss, PoissonDeviance) else mean * rng.gamma(2.0, 0.5, n_samples)
    return X, y[:, None].astype(float)


@both
def test_value_is_half_the_metric(loss, metric):
    y = data(loss)[1]
    outputs = np.random.default_rng(1).normal(size=y.shape)
    weights = np.random.default_rng(2).uniform(size=len(y))
    value = loss.value(tensor(outputs.T[None]), tensor(y.T), tensor(weights[None] / weights.sum()))
    assert float(value[0, 0]) == pytest.approx(metric(y, np.exp(outputs), sample_weight=weights) / 2, rel=1e-12)


@both
def test_near_an_exact_fit_all_digits_are_there(loss, metric):
    """To second order the deviance is ``mu d^2 / 2`` (Poisson) or ``d^2 / 2`` (gamma) for an error d of the output."""
    y, error = tensor([[0.3, 1.0, 7.0]]), 1e-5
    value = loss.pointwise(y.log()[None] + error, y)
    expected = (y if isinstance(loss, PoissonDeviance) else torch.ones_like(y)) * error**2 / 2
    torch.testing.assert_close(value[0], expected, rtol=1e-5, atol=0)
    # and the output of an exact fit is the logarithm, which is rounded
    assert (loss.pointwise(y.log()[None], y) <= 1e-30).all()


@both
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_linear_model_is_scikit_learns(loss, metric, alpha):
    X, y = data(loss)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X))
    regressor = PoissonRegressor if isinstance(loss, PoissonDeviance) else GammaRegressor
    expected = regressor(alpha=alpha, solver="newton-cholesky", tol=1e-12).fit(X, y.ravel(), weights)
    coefficients, intercept, _ = fit_linear(loss, X, y, weights=weights, alpha=alpha)
    np.testing.assert_allclose(coefficients[0], expected.coef_, rtol=1e-7)
    np.testing.assert_allclose(intercept[0], expected.intercept_, rtol=1e-7)


@both
@pytest.mark.parametrize("solver", ["cholesky", "qr", "dual"])
def test_a_start_far_off_comes_back(loss, metric, solver):
    """A mean of exp(-+30) times the targets' at the start."""
    X, y = data(loss)
    shifted = y * np.exp(30.0 if isinstance(loss, PoissonDeviance) else -30.0)
    found, intercept, _ = fit_linear(loss, X, shifted / 1.0, solver=solver)
    expected, base, _ = fit_linear(loss, X, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(intercept[0] - base[0]) == pytest.approx(30.0, rel=1e-6)


def test_inverse_link_is_the_exponential():
    for loss in (PoissonDeviance(), GammaDeviance()):
        np.testing.assert_allclose(loss.inverse_link(np.log([[2.0], [3.0]])), [[2.0], [3.0]])
        assert loss.inverse_link(np.array([[-1e4, 1e4]])).tolist() == [[0.0, np.inf]]


def test_targets_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"PoissonDeviance needs targets not below zero; the smallest is -1\."):
        PoissonDeviance().check_targets(np.array([[-1.0], [2.0]]))
    with pytest.raises(ValueError, match="above zero in every column"):
        PoissonDeviance().check_targets(np.array([[0.0, 1.0], [0.0, 0.0]]))
    PoissonDeviance().check_targets(np.array([[0.0], [2.0]]))
    with pytest.raises(ValueError, match=r"GammaDeviance needs targets above zero; the smallest is 0\."):
        GammaDeviance().check_targets(np.array([[0.0], [2.0]]))
    GammaDeviance().check_targets(np.array([[0.1], [2.0]]))


def test_tags():
    assert PoissonDeviance.non_negative
    assert not PoissonDeviance.positive_only
    assert GammaDeviance.positive_only
    assert PoissonDeviance.target_scaling == GammaDeviance.target_scaling == "mean"
