"""Softmax cross entropy: its three curvatures, and scikit-learn's multinomial logistic regression."""

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.linear_model import LogisticRegression

from sklm.losses import SoftmaxCrossEntropy
from sklm.optim import Geodesic, Stopping

from ..problems import tensor
from .linear import fit_linear

GRID = 20_000


def data(n_samples=200, n_classes=3):
    """X (N, 3) and one-hot y (N, K)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 3))
    scores = X @ rng.normal(size=(3, n_classes)) + rng.gumbel(size=(n_samples, n_classes))
    return X, np.eye(n_classes)[scores.argmax(1)]


def hessian(outputs):
    """``diag(p) - p p^T`` for outputs (K,)."""
    p = scipy.special.softmax(np.asarray(outputs))
    return tensor(np.diag(p) - np.outer(p, p))


def setting(n_models=2, n_outputs=4, n_samples=5):
    rng = np.random.default_rng(0)
    y = np.eye(n_outputs)[rng.integers(0, n_outputs, n_samples)].T
    return tensor(rng.normal(size=(n_models, n_outputs, n_samples))), tensor(y), rng


# -- drawn curvature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize(
    "outputs", [[0.3, -1.0, 2.0, 0.0], [1e4, 0.0, -1e4], [5.0, 5.0], [-1e4, 3.0, -1e4, 2.0]], ids=str
)
def test_drawn_curvature_is_right_in_the_mean(outputs, n_samples):
    """Over a grid of noise in place of random numbers, the mean is exact up to the grid's spacing."""
    loss = SoftmaxCrossEntropy(curvature="sampled", curvature_samples=n_samples)
    many = tensor(outputs)[None, :, None].expand(2, -1, GRID)
    noise = tensor([np.roll((np.arange(GRID) + 0.5) / GRID, 37 * row) for row in range(n_samples)])
    factor = loss.draw(many, torch.zeros_like(many[0]), noise)
    assert factor.shape == (2, len(outputs), n_samples, GRID)
    mean = torch.einsum("bkrn,bjrn->bkj", factor, factor) / GRID
    for model in range(2):
        torch.testing.assert_close(mean[model], hessian(outputs), rtol=0, atol=2 / GRID)


def test_a_draw_is_probabilities_less_one_class():
    outputs, y, rng = setting()
    noise = tensor(rng.uniform(size=(2, 5)))
    factor = SoftmaxCrossEntropy(curvature="sampled", curvature_samples=2).draw(outputs, y, noise) * np.sqrt(2)
    chosen = outputs.softmax(1).unsqueeze(2) - factor
    torch.testing.assert_close(chosen.sum(1), torch.ones((2, 2, 5), dtype=torch.float64))
    assert (((chosen - 1).abs() < 1e-12) | (chosen.abs() < 1e-12)).all()
    cumulated = outputs.softmax(1).cumsum(1).unsqueeze(2)
    torch.testing.assert_close(chosen.argmax(1), (cumulated < noise).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_noise_still_draws_a_class(dtype):
    """Rounding may leave the sum of the probabilities below the noise."""
    outputs = torch.randn((50, 1000, 1), dtype=dtype, generator=torch.Generator().manual_seed(0))
    noise = torch.full((1, 1), float(np.nextafter(np.array(1, dtype=str(dtype)[6:]), 0)), dtype=dtype)
    factor = SoftmaxCrossEntropy(curvature="sampled").draw(outputs, outputs, noise)
    chosen = (outputs.softmax(1).unsqueeze(2) - factor).sum(1)
    torch.testing.assert_close(chosen, torch.ones_like(chosen))


def test_noise_of_zero_draws_no_class_without_probability():
    outputs, noise = tensor([[[-1e4], [0.0], [0.0]]]), torch.zeros((1, 1), dtype=torch.float64)
    factor = SoftmaxCrossEntropy(curvature="sampled").draw(outputs, outputs, noise)
    torch.testing.assert_close(factor.squeeze(), tensor([0.0, -0.5, 0.5]))


def test_drawing_does_not_look_at_values():
    outputs, noise = torch.empty((2, 4, 5), device="meta"), torch.empty((3, 5), device="meta")
    loss = SoftmaxCrossEntropy(curvature="sampled", curvature_samples=3)
    assert loss.draw(outputs, outputs, noise).shape == (2, 4, 3, 5)


def test_drawn_curvature_has_the_exact_gradient_and_product():
    outputs, y, rng = setting()
    direction = tensor(rng.normal(size=outputs.shape))
    exact, drawn = SoftmaxCrossEntropy(0.1), SoftmaxCrossEntropy(0.1, "sampled", 2)
    assert torch.equal(exact.gradient(outputs, y), drawn.gradient(outputs, y))
    assert torch.equal(exact.hessian_product(outputs, y, direction), drawn.hessian_product(outputs, y, direction))


@pytest.mark.parametrize(
    ("loss", "columns", "draws"),
    [
        (SoftmaxCrossEntropy(), 5, 0),
        (SoftmaxCrossEntropy(curvature="sampled", curvature_samples=3), 3, 3),
        (SoftmaxCrossEntropy(curvature="fisher", curvature_samples=3), 1, 0),
    ],
    ids=str,
)
def test_number_of_columns(loss, columns, draws):
    assert loss.curvature_columns(5) == columns
    assert loss.n_draws == draws


# -- empirical Fisher -------------------------------------------------------------------------------------------------


def test_fisher_is_the_gradients_square_and_all_methods_agree():
    outputs, y, rng = setting()
    loss, direction = SoftmaxCrossEntropy(0.1, "fisher"), tensor(rng.normal(size=outputs.shape))
    gradient = SoftmaxCrossEntropy(0.1).gradient(outputs, y)
    factor, residual = loss.factor(outputs, y), loss.residual(outputs, y)
    assert residual.shape == (2, 1, 5)
    torch.testing.assert_close(factor, gradient.unsqueeze(2))
    torch.testing.assert_close((factor * residual.unsqueeze(1)).sum(2), gradient)
    inner = (gradient * direction).sum(1, keepdim=True)
    torch.testing.assert_close(loss.project(outputs, y, direction), inner)
    torch.testing.assert_close(loss.hessian_product(outputs, y, direction), gradient * inner)


# -- fits -------------------------------------------------------------------------------------------------------------


def assert_optimal(coefficients, intercepts, X, y, alpha):
    expected = LogisticRegression(C=1 / (alpha * len(X)), tol=1e-10, max_iter=10_000).fit(X, y.argmax(1))
    np.testing.assert_allclose(coefficients, expected.coef_, atol=1e-5)
    # a shift of all intercepts changes nothing
    np.testing.assert_allclose(intercepts - intercepts.mean(), expected.intercept_, atol=1e-5)


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
@pytest.mark.parametrize("solver", ["cholesky", "qr", "eigh", "dual"])
def test_linear_model_is_scikit_learns(solver, acceleration):
    X, y = data()
    coefficients, intercepts, solution = fit_linear(
        SoftmaxCrossEntropy(), X, y, alpha=0.01, solver=solver, acceleration=acceleration
    )
    assert_optimal(coefficients, intercepts, X, y, 0.01)
    assert solution.n_iter[0] < 60


@pytest.mark.parametrize("solver", ["cholesky", "qr", "eigh", "dual"])
def test_a_start_that_is_certain_and_wrong_comes_back(solver):
    """Probabilities of the right class fall to exp(-8000); solvers on rows must not drown in their residuals."""
    X, y = data()
    coefficients, intercepts, _ = fit_linear(SoftmaxCrossEntropy(), X, y, alpha=0.01, solver=solver, spread=1e3)
    assert_optimal(coefficients, intercepts, X, y, 0.01)


@pytest.mark.parametrize(
    "loss",
    [SoftmaxCrossEntropy(curvature="sampled"), SoftmaxCrossEntropy(curvature="sampled", curvature_samples=4)],
    ids=str,
)
def test_drawn_curvature_comes_to_the_same_optimum(loss):
    X, y = data()
    stopping = Stopping(max_iter=500, tol=1e-12, gradient_tol=0.0)
    coefficients, intercepts, _ = fit_linear(loss, X, y, alpha=0.01, stopping=stopping)
    assert_optimal(coefficients, intercepts, X, y, 0.01)


def test_empirical_fisher_comes_to_the_same_optimum():
    X, y = data()
    stopping = Stopping(max_iter=5000, tol=1e-12, gradient_tol=0.0)
    coefficients, intercepts, _ = fit_linear(
        SoftmaxCrossEntropy(curvature="fisher"), X, y, alpha=0.01, stopping=stopping
    )
    assert_optimal(coefficients, intercepts, X, y, 0.01)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_inverse_link_is_softmax_over_outputs():
    outputs = np.array([[1e4, 0.0, -1e4], [1.0, 2.0, 3.0], [-1e4, -1e4, -1e4]])
    np.testing.assert_allclose(
        SoftmaxCrossEntropy().inverse_link(outputs), scipy.special.softmax(outputs, axis=1), rtol=1e-14
    )


def test_targets_are_rows_of_probabilities():
    SoftmaxCrossEntropy().check_targets(np.array([[0.0, 1.0], [0.3, 0.7]]))
    for bad in ([[1.0, 1.0]], [[-0.5, 1.5]]):
        with pytest.raises(ValueError, match="rows of probabilities"):
            SoftmaxCrossEntropy().check_targets(np.array(bad))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"curvature": "hessian"}, r"curvature must be one of \['exact', 'fisher', 'sampled'\]; got 'hessian'"),
        ({"curvature": None}, "curvature must be one of"),
        ({"curvature_samples": 0}, "curvature_samples must be a positive integer; got 0"),
        ({"curvature_samples": 1.5}, "curvature_samples"),
        ({"curvature_samples": True}, "curvature_samples"),
    ],
    ids=str,
)
def test_impossible_parameters_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        SoftmaxCrossEntropy(**options).validate()
