"""The Gauss-Newton matrix and the gradient, against a Jacobian assembled by autograd."""

import numpy as np
import pytest
import torch

from sklm.losses import Huber, LogisticLoss, SoftmaxCrossEntropy, SquaredError
from sklm.losses._softmax import SOFTMAX_CURVATURES
from sklm.optim import SOLVERS, _solvers, make_problem
from sklm.optim._curvature import Workspace, gradient, linearise

from .. import reference
from ..problems import CASES, PLANE, SURFACE, tensor


def system(problem, theta, kept=None):
    """Lower triangle of the Gauss-Newton matrix with penalty, gradient, and diagonal without penalty."""
    accumulator = SOLVERS["cholesky"]().accumulator(theta)
    result, _ = linearise(problem, theta, kept, accumulator, Workspace())
    return result.gram.tril(), result.gradient, result.diagonal


def explicit(case, theta, weights, alpha):
    X, y = case.data()
    network = case.network()
    rows, residual = reference.stacked_rows(reference.perceptron(network.sizes, case.activation, X), theta, y, weights)
    penalty = float(alpha) * network.coefficient_mask
    gram = rows.T @ rows
    return np.tril(gram + np.diag(penalty)), rows.T @ residual + penalty * theta.numpy(), np.diag(gram)


@pytest.mark.parametrize("max_rows", [7, None])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_equals_the_explicit_jacobian(case, max_rows):
    rng = np.random.default_rng(0)
    weights, alpha = tensor(rng.uniform(size=(3, case.n_samples))), tensor([0.0, 0.1, 2.0])
    problem = case.problem(3, weights=weights, alpha=alpha, jacobian_max_rows=max_rows)
    theta = case.starts(3)
    got = system(problem, theta)
    for model in range(3):
        for part, expected in zip(got, explicit(case, theta[model], weights[model], alpha[model]), strict=True):
            np.testing.assert_allclose(part[model], expected, rtol=1e-10, atol=1e-12)


def test_gradient_is_that_of_the_objective():
    problem = SURFACE.problem(2, alpha=0.3)
    theta = SURFACE.starts(2).requires_grad_()
    X, y = SURFACE.data()
    outputs = [reference.perceptron(problem.network.sizes, "tanh", X)(t) for t in theta]
    loss = sum((out - y).square().mean() / 2 for out in outputs)
    (loss + 0.15 * (theta.square() @ problem.penalty_mask).sum()).backward()
    torch.testing.assert_close(system(problem, theta.detach())[1], theta.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("max_rows", [1, 7, 100, "auto"])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_chunks_change_nothing(case, max_rows):
    theta = case.starts(2)
    whole = system(case.problem(2, alpha=0.1, jacobian_max_rows=None), theta)
    parts = system(case.problem(2, alpha=0.1, jacobian_max_rows=max_rows), theta)
    for part, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("max_rows", [7, None])
def test_kept_forward_passes_give_the_same(max_rows):
    problem, theta = SURFACE.problem(2, jacobian_max_rows=max_rows), SURFACE.starts(2)
    kept = problem.evaluate(theta).forwards
    assert kept is not None
    for part, expected in zip(system(problem, theta, kept), system(problem, theta), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("max_rows", [7, None])
@pytest.mark.parametrize("case", [PLANE, SURFACE], ids=str)
def test_output_layer_one_by_one_equals_the_explicit_jacobian(case, max_rows, monkeypatch):
    monkeypatch.setattr(_solvers, "TRIANGLE_SIZE", 2)
    monkeypatch.setattr(_solvers, "SEPARATE_OUTPUTS", 2)
    test_equals_the_explicit_jacobian(case, max_rows)


@pytest.mark.parametrize("loss", [Huber(), LogisticLoss(), SoftmaxCrossEntropy()], ids=lambda loss: type(loss).__name__)
def test_output_layer_one_by_one_is_the_same_for_every_loss(loss, monkeypatch):
    X, _ = SURFACE.data()
    y = torch.eye(3, dtype=torch.float64)[torch.arange(len(X)) % 3]
    problem = make_problem(SURFACE.network(), loss, X, y, n_models=2, jacobian_max_rows=25)
    theta = SURFACE.starts(2)
    together = system(problem, theta)
    monkeypatch.setattr(_solvers, "TRIANGLE_SIZE", 2)
    monkeypatch.setattr(_solvers, "SEPARATE_OUTPUTS", 2)
    for part, expected in zip(system(problem, theta), together, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-15)


def test_rows_of_one_model_each():
    rng = np.random.default_rng(0)
    X, y, theta = tensor(rng.normal(size=(2, 8, 2))), tensor(rng.normal(size=(2, 8, 3))), SURFACE.starts(2)
    network = SURFACE.network()
    together = system(make_problem(network, SquaredError(), X, y, n_models=2), theta)
    for model in range(2):
        alone = system(make_problem(network, SquaredError(), X[model], y[model]), theta[model : model + 1])
        for part, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(part[model], expected[0], rtol=1e-12, atol=1e-14)


def test_a_buffer_serves_smaller_and_larger_shapes():
    workspace, like = Workspace(), torch.zeros(1, dtype=torch.float64)
    first = workspace.view((2, 3), like)
    assert first.shape == (2, 3)
    assert workspace.view((4,), like).data_ptr() == first.data_ptr()
    assert workspace.view((5, 2, 2), like).shape == (5, 2, 2)


# -- the gradient alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [7, None])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_gradient_alone_is_autograds(case, max_rows):
    X, y = case.data()
    weights, alpha = tensor(np.random.default_rng(0).uniform(size=(3, case.n_samples))), tensor([0.0, 0.1, 2.0])
    problem = case.problem(3, weights=weights, alpha=alpha, jacobian_max_rows=max_rows)
    theta = case.starts(3).requires_grad_()
    function = reference.perceptron(case.network().sizes, case.activation, X)
    mask = tensor(case.network().coefficient_mask)
    for one, w, a in zip(theta, weights, alpha, strict=True):
        rows = (function(one) - y).square().sum(1)
        (rows @ w / (2 * case.n_outputs * w.sum()) + 0.5 * a * (one.square() @ mask)).backward()
    plain = theta.detach()
    torch.testing.assert_close(gradient(problem, plain), theta.grad, rtol=1e-10, atol=1e-14)
    kept = problem.evaluate(plain).forwards
    assert torch.equal(gradient(problem, plain, kept), gradient(problem, plain))


@pytest.mark.parametrize("curvature", SOFTMAX_CURVATURES)
def test_gradient_alone_of_the_log_loss_does_not_depend_on_the_curvature(curvature):
    X, _ = SURFACE.data()
    y = torch.eye(3, dtype=torch.float64)[torch.arange(len(X)) % 3]
    network, theta = SURFACE.network(), SURFACE.starts(1).requires_grad_()
    outputs = reference.perceptron(network.sizes, "tanh", X)(theta[0])
    torch.nn.functional.cross_entropy(outputs, y).backward()
    problem = make_problem(network, SoftmaxCrossEntropy(curvature=curvature), X, y)
    torch.testing.assert_close(gradient(problem, theta.detach()), theta.grad, rtol=1e-10, atol=1e-14)
