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


def sign_noise(n_outputs, n_samples):
    """Noise (m, K, 2^K) in which every column has all combinations of signs once, in another order."""
    numbers = np.arange(2**n_outputs)
    signs = (numbers >> np.arange(n_outputs)[:, None]) & 1
    return tensor(np.stack([np.roll(0.25 + 0.5 * signs, 3 * column, axis=1) for column in range(n_samples)]))


@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize(
    "outputs", [[0.3, -1.0, 2.0, 0.0], [1e4, 0.0, -1e4], [5.0, 5.0], [-1e4, 3.0, -1e4, 2.0]], ids=str
)
def test_drawn_curvature_is_right_in_the_mean(outputs, n_samples):
    """The mean over all combinations of signs is exact."""
    loss = SoftmaxCrossEntropy(curvature="sampled", curvature_samples=n_samples)
    noise = sign_noise(len(outputs), n_samples)
    many = tensor(outputs)[None, :, None].expand(2, -1, noise.shape[2])
    factor = loss.draw(many, torch.zeros_like(many[0]), noise)
    assert factor.shape == (2, len(outputs), n_samples, noise.shape[2])
    mean = torch.einsum("bkrn,bjrn->bkj", factor, factor) / noise.shape[2]
    for model in range(2):
        torch.testing.assert_close(mean[model], hessian(outputs), rtol=0, atol=1e-14)


def test_a_draw_is_a_signed_sum_of_the_exact_columns():
    outputs, y, rng = setting()
    noise = tensor(rng.uniform(size=(2, 4, 5)))
    factor = SoftmaxCrossEntropy(curvature="sampled", curvature_samples=2).draw(outputs, y, noise)
    columns = SoftmaxCrossEntropy().factor(outputs, y)
    signs = torch.from_numpy(np.where(noise < 0.5, -1.0, 1.0))
    torch.testing.assert_close(factor, torch.einsum("bkcn,mcn->bkmn", columns, signs) / np.sqrt(2))


def test_a_draw_of_a_nearly_certain_row_is_nearly_its_curvature():
    """Unlike ``p - e_c`` for a drawn class c, which is next to nothing but for one row in a thousand."""
    outputs = tensor([0.0, np.log(999)])
    noise = sign_noise(2, 1)
    factor = SoftmaxCrossEntropy(curvature="sampled").draw(
        outputs[None, :, None].expand(1, 2, 4), outputs[:, None], noise
    )
    every = torch.einsum("bkrn,bjrn->nkj", factor, factor)
    torch.testing.assert_close(every, hessian(outputs).expand(4, 2, 2), rtol=0.07, atol=0)


def test_drawing_does_not_look_at_values():
    outputs, noise = torch.empty((2, 4, 5), device="meta"), torch.empty((3, 4, 5), device="meta")
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
