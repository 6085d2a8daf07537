"""Conjugate gradients on products with the Gauss-Newton matrix, against explicit matrices and Cholesky."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklm.architectures import ModuleArchitecture
from sklm.optim import SCALINGS, Geodesic, MiniBatches, Stopping, _cg, levenberg_marquardt
from sklm.optim._batch import select
from sklm.optim._cg import ConjugateGradients, conjugate_gradients, gauss_newton_product
from sklm.optim._curvature import Workspace, linearise

from ..problems import SURFACE, tensor
from .systems import ALPHA, CNNS, DAMPING, LOSSES, MLPS, Rows, close, explicit, make

NETS = MLPS | CNNS
TIGHT = ConjugateGradients(1e-13, 2000)


def linearised(problem, theta, solver=TIGHT, kept=None):
    return linearise(problem, theta, kept, solver.accumulator(theta), Workspace())[0]


def compare(problem, theta, scaling="identity", kept=None):
    system = linearised(problem, theta, kept=kept)
    scaling = SCALINGS[scaling](system.diagonal, 2 * system.diagonal)
    vector = tensor(np.random.default_rng(1).normal(size=theta.shape))
    factor = TIGHT.factorise(TIGHT.prepare(system, scaling), DAMPING, scaling)
    step, solved, gradient, diagonal, form = explicit(problem, theta, scaling, DAMPING, vector)
    assert factor.ok.all()
    close(factor.step, step, 1e-8)
    close(factor.solve(vector), solved, 1e-8)
    close(factor.quadratic(vector).unsqueeze(1), form)
    close(system.gradient, gradient)
    close(system.diagonal, diagonal)


@pytest.mark.parametrize("alpha", [0.0, ALPHA], ids=["free", "penalised"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("architecture", ["linear", "three", "padded", "pooled", "signal", "hidden"])
def test_steps_are_those_of_explicit_matrices(architecture, scaling, alpha):
    compare(*make(NETS[architecture], alpha=alpha), scaling)


@pytest.mark.parametrize("chunk", [5, None])
@pytest.mark.parametrize("architecture", ["two", "pooled"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, architecture, chunk):
    compare(*make(NETS[architecture], loss, jacobian_max_rows=chunk))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_module(scaling):
    module = torch.nn.Sequential(torch.nn.Linear(12, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    with torch.inference_mode(False), torch.no_grad():
        compare(*make(ModuleArchitecture(module), "huber", jacobian_max_rows=5), scaling)


@pytest.mark.parametrize("architecture", ["two", "pooled"])
def test_kept_forward_passes_give_the_same(architecture):
    problem, theta = make(NETS[architecture], jacobian_max_rows=4)
    kept = problem.evaluate(theta).forwards
    assert kept is not None
    compare(problem, theta, kept=kept)


@pytest.mark.parametrize("architecture", ["two", "pooled"])
def test_products_are_those_of_the_rows(architecture):
    problem, theta = make(NETS[architecture], "softmax", jacobian_max_rows=5)
    vector = tensor(np.random.default_rng(0).normal(size=theta.shape))
    (rows, _), _ = linearise(problem, theta, None, Rows(), Workspace())
    jacobian = rows[:, :-1]
    expected = (jacobian @ (jacobian.mT @ vector.unsqueeze(2))).squeeze(2)
    close(gauss_newton_product(problem, theta, None, vector), expected)


@pytest.mark.parametrize("tol", [0.5, 0.1, 1e-3])
def test_residuals_end_below_the_tolerance_but_not_far_below(tol):
    """In the norm of the inverse preconditioner; and the predicted reduction is the model's, however early it ends."""
    problem, theta = make(MLPS["two"])
    solver = ConjugateGradients(tol)
    system = linearised(problem, theta, solver)
    scaling = torch.ones_like(theta)
    step = solver.factorise(system, DAMPING, scaling).step
    (rows, _), _ = linearise(problem, theta, None, Rows(), Workspace())
    gram = rows[:, :-1] @ rows[:, :-1].mT
    penalty = problem.penalty()
    shift = penalty + DAMPING[:, None]
    residual = (gram @ step.unsqueeze(2)).squeeze(2) + shift * step + system.gradient
    norms = [(v.square() / (system.diagonal + shift)).sum(1).sqrt() for v in (residual, system.gradient)]
    assert (norms[0] <= tol * norms[1]).all()
    assert (norms[0] > 1e-2 * tol * norms[1]).any()
    model = -(system.gradient * step).sum(1) - 0.5 * (
        step * ((gram @ step.unsqueeze(2)).squeeze(2) + penalty * step)
    ).sum(1)
    predicted = -0.5 * ((system.gradient - DAMPING[:, None] * step) * step).sum(1)
    torch.testing.assert_close(predicted, model, rtol=1e-4, atol=0)
    assert (model > 0).all()


def test_the_tolerance_falls_with_the_gradient(monkeypatch):
    """Near the minimum the same solver works more exactly: a step takes more products."""
    problem, theta = SURFACE.problem(), SURFACE.starts(near=0.1)
    truth = levenberg_marquardt(problem, theta, stopping=Stopping(max_iter=100)).theta
    product, calls = _cg.gauss_newton_product, []
    monkeypatch.setattr(_cg, "gauss_newton_product", lambda *given: calls.append(0) or product(*given))
    counts = []
    for point in (theta, truth + 1e-5):
        solver = ConjugateGradients(0.5, 500)
        solver.factorise(linearised(problem, point, solver), tensor([1e-3]), torch.ones_like(point))
        counts.append(len(calls))
    assert counts[1] - counts[0] > 2 * counts[0]


def matrices(seed=0, n=12):
    rng = np.random.default_rng(seed)
    half = tensor(rng.normal(size=(3, n, n)))
    return half @ half.mT + 0.1 * torch.eye(n, dtype=torch.float64), tensor(rng.normal(size=(3, n)))


def solve(matrix, right, tol, max_iter=200):
    def product(vector):
        return (matrix @ vector.unsqueeze(2)).squeeze(2)

    return conjugate_gradients(product, right, matrix.diagonal(dim1=1, dim2=2), tol, max_iter)


def test_models_end_at_their_own_tolerance_whatever_their_company():
    matrix, right = matrices()
    tol = tensor([1e-1, 1e-12, 1e-3])
    together = solve(matrix, right, tol)
    for b in range(3):
        part = slice(b, b + 1)
        torch.testing.assert_close(together[part], solve(matrix[part], right[part], tol[part]), rtol=1e-12, atol=0)
    torch.testing.assert_close(together[1], torch.linalg.solve(matrix[1], right[1]), rtol=1e-8, atol=0)


def test_looking_seldom_changes_nothing(monkeypatch):
    """As on a GPU: models that are done are carried along."""
    matrix, right = matrices()
    tol = tensor([1e-1, 1e-12, 1e-3])
    expected = solve(matrix, right, tol)

    monkeypatch.setattr(_cg, "_looks_every", lambda device: 8)
    assert torch.equal(solve(matrix, right, tol), expected)


def test_zero_and_non_finite_right_sides():
    matrix, right = matrices()
    right[0], right[1, 2] = 0, torch.nan
    got = solve(matrix, right, tensor([1e-12] * 3))
    assert (got[0] == 0).all()
    assert not got[1].isfinite().any()
    torch.testing.assert_close(got[2], torch.linalg.solve(matrix[2], right[2]), rtol=1e-8, atol=0)


def test_the_number_of_products_is_limited():
    matrix, right = matrices()
    assert torch.equal(solve(matrix, right, tensor([0.0] * 3), 3), solve(matrix, right, tensor([0.0] * 3), 3))
    first = right * (right.square() / (d := matrix.diagonal(dim1=1, dim2=2))).sum(1, keepdim=True) / d
    direction = right / d
    curvature = (direction * (matrix @ direction.unsqueeze(2)).squeeze(2)).sum(1, keepdim=True)
    torch.testing.assert_close(solve(matrix, right, tensor([0.0] * 3), 1), first / curvature, rtol=1e-12, atol=0)


def test_models_can_be_selected():
    problem, theta = make(MLPS["two"])
    system, scaling = linearised(problem, theta), torch.ones_like(theta)
    whole = TIGHT.factorise(system, DAMPING, scaling).step
    index = torch.tensor([2, 0])
    part = TIGHT.factorise(select(system, index), DAMPING[index], scaling[index]).step
    torch.testing.assert_close(part, whole[index], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("architecture", ["two", "hidden"])
def test_exact_enough_it_follows_the_path_of_cholesky(architecture, scaling, acceleration):
    """With rejections and models that stop at different times."""
    problem, theta = make(NETS[architecture], "squared", alpha=ALPHA + 1e-3)
    options = {
        "scaling": SCALINGS[scaling],
        "damping": tensor([1e-4, 1e-2, 10]),
        "acceleration": acceleration,
        "stopping": Stopping(max_iter=8, tol=0.01, n_iter_no_change=2),
    }
    primal, products = (levenberg_marquardt(problem, theta, solver=solver, **options) for solver in ("cholesky", TIGHT))
    np.testing.assert_allclose(products.history["objective"], primal.history["objective"], rtol=1e-5)


def test_the_default_tolerance_comes_to_the_minimum():
    problem, theta = SURFACE.problem(2, alpha=1e-3), SURFACE.starts(2, near=0.3)
    stopping = Stopping(max_iter=200, tol=1e-10)
    best, got = (levenberg_marquardt(problem, theta, solver=name, stopping=stopping) for name in ("cholesky", "cg"))
    np.testing.assert_allclose(got.score, best.score, rtol=1e-6)


def test_mini_batches():
    problem, theta = SURFACE.problem(2, alpha=1e-3), SURFACE.starts(2, near=0.3)
    options = {"stopping": Stopping(max_iter=5), "damping": 0.1}
    path, tight = (
        levenberg_marquardt(problem, theta, solver=solver, batches=MiniBatches(60, 20, seed=0), **options)
        for solver in ("cholesky", TIGHT)
    )
    np.testing.assert_allclose(tight.history["objective"], path.history["objective"], rtol=1e-6)


def test_single_precision():
    problem, theta = make(MLPS["two"])
    for name in ("y", "weights", "alpha", "penalty_mask", "report_weights"):
        setattr(problem, name, getattr(problem, name).float())
    problem.rows.X = problem.rows.X.float()
    theta = theta.float()
    solution = levenberg_marquardt(problem, theta, solver="cg", stopping=Stopping(max_iter=5))
    assert solution.theta.dtype == torch.float32
    assert (solution.history["objective"][-1] < solution.history["objective"][0]).all()


@pytest.mark.parametrize(("tol", "max_iter"), [(0.0, 10), (1.0, 10), (0.1, 0)])
def test_impossible_options_are_refused(tol, max_iter):
    with pytest.raises(ValueError, match="tol must be between 0 and 1 and max_iter positive"):
        ConjugateGradients(tol, max_iter)


def test_memory_does_not_grow_with_rows():
    network = MLPS["two"].build(12, 1)
    assert ConjugateGradients().working_bytes(2, network, 10, 8) == ConjugateGradients().working_bytes(
        2, network, 10**6, 8
    )
    assert ConjugateGradients().working_bytes(2, network, 10, 8) >= 2 * 8 * 8 * network.n_parameters


def test_models_repeated_after_others_left():
    """Three copies of the last of three models are as many as there were, and not the same."""
    problem, theta = make(MLPS["two"])
    system, scaling = linearised(problem, theta), torch.ones_like(theta)
    vector = tensor(np.random.default_rng(1).normal(size=theta.shape))
    whole = TIGHT.factorise(system, DAMPING, scaling)
    index = torch.tensor([2, 2, 2])
    part = TIGHT.factorise(select(system, index), DAMPING[index], scaling)
    close(part.step, whole.step[index], 1e-8)
    close(part.quadratic(vector[index]).unsqueeze(1), whole.quadratic(vector)[index].unsqueeze(1))
