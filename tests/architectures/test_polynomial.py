import functools
import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sklm import LMClassifier, LMRegressor, Polynomial

from ..problems import tensor
from .derivatives import LAYER_CHECKS, Setting
from .rescaling import affine, raw

N_SAMPLES = 5


def polynomial(n_outputs, degree, rows):
    """The slow function, with products of columns made one by one."""
    n_inputs = rows.shape[1]
    terms = []
    for number in range(1, degree + 1):
        for powers in PolynomialFeatures((number, number), include_bias=False).fit(rows.numpy()).powers_:
            terms.append(torch.prod(rows ** torch.from_numpy(powers), 1))
    assert len(terms) == math.comb(n_inputs + degree, degree) - 1
    terms = torch.stack(terms, 1)

    def function(theta):
        weight = theta[: n_outputs * terms.shape[1]].reshape(n_outputs, -1)
        return terms @ weight.mT + theta[-n_outputs:]

    return function


@functools.cache
def setting(n_inputs, degree, n_outputs, n_models, shared):
    rng = np.random.default_rng(n_inputs + 10 * n_outputs)
    network = Polynomial(degree).build(n_inputs, n_outputs)
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    direction = tensor(rng.normal(size=theta.shape))
    X = tensor(rng.normal(size=(n_inputs, N_SAMPLES) if shared else (n_models, n_inputs, N_SAMPLES)))
    return Setting.of(network, functools.partial(polynomial, n_outputs, degree), theta, X, direction)


@pytest.mark.parametrize("check", LAYER_CHECKS)
@pytest.mark.parametrize(("n_inputs", "degree"), [(1, 1), (1, 5), (2, 3), (4, 2), (3, 4)])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize(("n_models", "shared"), [(1, True), (3, True), (3, False)])
def test_derivatives_equal_autograd(n_inputs, degree, n_outputs, n_models, shared, check):
    check(setting(n_inputs, degree, n_outputs, n_models, shared))


def test_some_rows_only():
    s = setting(3, 2, 2, 2, False)
    forward, numbers = s.forward(), np.array([0, 4, 11, 18, 19])
    ((cotangents, expected),) = s.cotangents((2, 3))
    out = torch.full((2, len(numbers), 3, N_SAMPLES), torch.nan, dtype=torch.float64)
    s.network.pullback_of(numbers, torch.device("cpu"))(s.theta, s.X, forward, cotangents, out)
    s.close(out, expected[:, numbers])


def test_constants_are_not_penalised():
    network = Polynomial().build(3, 2)
    assert network.n_parameters == 2 * 10
    assert network.coefficient_mask.tolist() == [True] * 18 + [False] * 2


@pytest.mark.parametrize("degree", [0, -1, 2.0, True, "2", None])
def test_impossible_degrees_are_refused(degree):
    with pytest.raises(ValueError, match="degree must be a positive integer"):
        LMRegressor(architecture=Polynomial(degree)).fit(np.eye(5), np.arange(5))


@pytest.mark.parametrize(
    "scales", [([10, 3], [0.5, 40]), ([2, 3], [1, 0]), ([2, 0], [1, 5])], ids=["other", "now constant", "was constant"]
)
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_rescale_keeps_the_raw_function(scales, degree):
    rng = np.random.default_rng(0)
    network = Polynomial(degree).build(2, 3)
    theta, X = rng.normal(size=network.n_parameters), rng.normal(100, 20, size=(6, 2))
    old_x, new_x = affine([90, 80], scales[0]), affine([110, 75], scales[1])
    if scales[1][1] == 0:
        X[:, 1] = 75
    old_y, new_y = affine([1, 2, 3], [1, 10, 100]), affine([-5, 0, 8], [3, 1, 0.2])
    before = theta.copy()
    rescaled = network.rescale(theta, old_x, new_x, old_y, new_y)
    expected = raw(network, theta, X, old_x, old_y)
    np.testing.assert_allclose(raw(network, rescaled, X, new_x, new_y), expected, rtol=1e-7)
    assert np.array_equal(theta, before)


def test_it_is_an_option_like_others():
    assert clone(Polynomial()) == Polynomial()
    assert repr(Polynomial(3)) == "Polynomial(degree=3)"
    assert clone(LMRegressor(architecture=Polynomial())).architecture == Polynomial()


def table(n_samples, n_inputs, n_outputs=1):
    rng = np.random.default_rng(n_samples + n_inputs)
    X = rng.normal(5, 2, size=(n_samples, n_inputs))
    expanded = PolynomialFeatures(2).fit_transform(X)
    Y = expanded @ rng.normal(size=(expanded.shape[1], n_outputs)) + rng.normal(size=(n_samples, n_outputs))
    return X, Y if n_outputs > 1 else Y[:, 0]


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_equals_ridge_regression_on_the_terms(alpha, n_outputs):
    X, y = table(80, 3, n_outputs)
    model = LMRegressor(architecture=Polynomial(), alpha=alpha).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    expanded = PolynomialFeatures(2, include_bias=False).fit_transform(scaled)
    targets = StandardScaler().fit_transform(np.reshape(y, (80, -1)))
    # of the mean over outputs
    ridge = Ridge(alpha=alpha * len(X) * n_outputs, tol=1e-12).fit(expanded, targets)
    ours = model.theta_[: ridge.coef_.size].reshape(n_outputs, -1)
    np.testing.assert_allclose(ours, np.reshape(ridge.coef_, ours.shape), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(model.theta_[ridge.coef_.size :], np.ravel(ridge.intercept_), rtol=1e-7, atol=1e-8)


def test_error_bars_are_those_of_least_squares():
    X, y = table(60, 2)
    model = LMRegressor(architecture=Polynomial(), alpha=0.0, standardize=False).fit(X, y)
    design = np.c_[PolynomialFeatures(2, include_bias=False).fit_transform(X), np.ones(60)]
    theta, (squares,), *_ = np.linalg.lstsq(design, y)
    covariance = squares / (60 - 6) * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(model.theta_, theta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.covariance_, covariance, rtol=1e-5, atol=1e-8)
    _, deviation = model.predict(X, return_std=True)
    expected = np.sqrt(squares / (60 - 6) + np.einsum("ij,jk,ik->i", design, covariance, design))
    np.testing.assert_allclose(deviation, expected, rtol=1e-6)


def test_a_classifier_separates_by_a_circle():
    X = np.random.default_rng(0).normal(size=(300, 2))
    model = LMClassifier(architecture=Polynomial()).fit(X, (X**2).sum(axis=1) > 1.4)
    assert model.score(X, (X**2).sum(axis=1) > 1.4) > 0.98


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_module_is_equal(n_outputs):
    X, y = table(50, 3, n_outputs)
    model = LMRegressor(architecture=Polynomial()).fit(X, y)
    outputs = model.to_module()(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(outputs, model.predict(X).reshape(50, -1), rtol=1e-10)


def test_partial_fit_of_parts():
    X, y = table(400, 2)
    model = LMRegressor(architecture=Polynomial(), alpha=0.0)
    for part in np.array_split(np.arange(400), 8):
        model.partial_fit(X[part], y[part])
    full = LMRegressor(architecture=Polynomial(), alpha=0.0).fit(X, y)
    assert np.mean((model.predict(X) - full.predict(X)) ** 2) < 0.3 * np.mean((full.predict(X) - y) ** 2)


@pytest.mark.parametrize("options", [{"solver": "dual"}, {"solver": "cg"}, {"solver": "qr"}, {"batch_size": 20}])
def test_solvers_agree(options):
    X, y = table(60, 4)
    model = LMRegressor(architecture=Polynomial(), alpha=0.01, random_state=0, **options).fit(X, y)
    full = LMRegressor(architecture=Polynomial(), alpha=0.01).fit(X, y)
    rtol = 0.05 if "batch_size" in options else 1e-5
    np.testing.assert_allclose(model.predict(X), full.predict(X), rtol=rtol, atol=rtol * np.std(y))


@pytest.mark.parametrize(("degree", "far"), [(5, 1e3), (3, 1e4), (2, 1e6)])
def test_a_row_far_from_the_others_leaves_their_digits(degree, far):
    own = np.random.default_rng(0)
    x = np.r_[own.normal(size=60), far]
    y = 3 * np.sin(x) + 0.1 * own.normal(size=61)
    model = LMRegressor(architecture=Polynomial(degree), alpha=0).fit(x[:, None], y)
    basis = np.linalg.qr(np.vander((x - x.mean()) / x.std(), degree + 1))[0]
    left = y - basis @ (basis.T @ y)
    np.testing.assert_allclose(model.predict(x[:, None]), y - left, atol=1e-4)
    assert model.noise_std_ == pytest.approx(np.sqrt(left @ left / (60 - degree)), rel=1e-4)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_coefficients_are_of_raw_products(n_outputs):
    rng = np.random.default_rng(2)
    X = rng.uniform(-1, 1, (60, 3)) * [1, 50, 1e-3] + [0, 300, 2]
    X[:, 0] = 4.0  # says nothing
    y = (X**3 @ rng.normal(size=(3, n_outputs)))[:, : n_outputs if n_outputs > 1 else None].squeeze()
    model = LMRegressor(architecture=Polynomial(3), alpha=1e-3).fit(X, y)
    terms = PolynomialFeatures(3, include_bias=False).fit_transform(X)
    by_hand = terms @ model.coefs_[0] + model.intercepts_[0]
    np.testing.assert_allclose(by_hand.squeeze(), model.predict(X), rtol=1e-7)
    assert model.coefs_[0].shape == (19, n_outputs)
    assert model.intercepts_[0].shape == (n_outputs,)
    assert not model.coefs_[0][0].any()


def test_coefficients_of_a_default_fit_are_the_formula():
    X = np.random.default_rng(0).uniform(0, 10, (40, 2))
    y = 3 + X @ [1.0, -2.0] + 0.5 * X[:, 0] * X[:, 1]
    model = LMRegressor().fit(X, y)
    np.testing.assert_allclose(model.coefs_[0][:, 0], [1, -2, 0, 0.5, 0], atol=1e-10)
    np.testing.assert_allclose(model.intercepts_[0], 3, rtol=1e-10)
