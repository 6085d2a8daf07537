"""Every solver answers the same question; numpy's least squares of the stacked system is the judge."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import SquaredError
from sklm.optim import SCALINGS, SOLVERS, Stopping, levenberg_marquardt, make_problem
from sklm.optim._solvers import choose_solver

from .. import reference
from ..problems import CURVE, SURFACE, tensor

N_MODELS = 3
#: those that take rows; conjugate gradients take the problem, and are in test_cg.py
ROW_SOLVERS = [name for name in SOLVERS if name != "cg"]
every_solver = pytest.mark.parametrize("name", ROW_SOLVERS)


def rows_of(n_rows, n_parameters, n_models=N_MODELS, seed=0):
    """Well-conditioned rows (B, P + 1, N R) with residuals, and the parameters (B, P)."""
    rng = np.random.default_rng(seed)
    return tensor(rng.normal(size=(n_models, n_parameters + 1, n_rows))), tensor(
        rng.normal(size=(n_models, n_parameters))
    )


def prepare(solver, rows, theta, penalty, scaling, chunks):
    """Feed the rows in pieces, through a buffer that is overwritten between them."""
    accumulator = solver.accumulator(theta)
    for piece in rows.chunk(chunks, dim=2):
        buffer = piece.clone()
        accumulator.add(buffer)
        buffer.fill_(torch.nan)
    return solver.prepare(accumulator.finish(theta, penalty), scaling)


def factorise(name, rows, theta, *, penalty=None, damping=0.1, scaling=None, chunks=1):
    solver = SOLVERS[name]()
    scaling = torch.ones_like(theta) if scaling is None else scaling
    damping = torch.as_tensor(damping, dtype=theta.dtype).expand(len(theta))
    return solver.factorise(prepare(solver, rows, theta, penalty, scaling, chunks), damping, scaling)


@every_solver
@pytest.mark.parametrize("shape", [(30, 6), (6, 6), (4, 9), (1, 5), (8, 1)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("alpha", [None, 0.0, 0.7])
@pytest.mark.parametrize("scaled", [False, True], ids=["identity", "scaled"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_step_solves_the_stacked_least_squares_problem(name, shape, alpha, scaled, chunks):
    rows, theta = rows_of(*shape)
    rng = np.random.default_rng(1)
    mask = torch.ones_like(theta[0])
    mask[-1] = 0  # an intercept
    penalty = (alpha or 0.0) * tensor([1.0, 0.5, 2.0])[:, None] * mask
    scaling = tensor(rng.uniform(0.2, 5, theta.shape)) if scaled else torch.ones_like(theta)
    damping = tensor([0.01, 0.1, 1.0])
    factor = factorise(
        name, rows, theta, penalty=None if alpha is None else penalty, damping=damping, scaling=scaling, chunks=chunks
    )
    vector = tensor(rng.normal(size=theta.shape))
    solved = factor.solve(vector.clone())
    assert factor.ok.all()
    for b in range(N_MODELS):
        jacobian, residual = rows[b, :-1].T.numpy(), rows[b, -1].numpy()
        damped = damping[b].item() * scaling[b].numpy()
        expected = reference.damped_step(jacobian, residual, theta[b].numpy(), penalty[b].numpy(), damped)
        np.testing.assert_allclose(factor.step[b], expected, rtol=1e-8, atol=1e-10)
        matrix = jacobian.T @ jacobian + np.diag(penalty[b].numpy() + damped)
        np.testing.assert_allclose(solved[b], np.linalg.solve(matrix, vector[b].numpy()), rtol=1e-8, atol=1e-10)
        form = vector[b].numpy() @ matrix @ vector[b].numpy()
        np.testing.assert_allclose(factor.quadratic(vector)[b], form, rtol=1e-10)


@every_solver
@pytest.mark.parametrize("shape", [(30, 6), (4, 9)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("chunks", [1, 3])
def test_system_has_gradient_and_diagonal_without_penalty(name, shape, chunks):
    rows, theta = rows_of(*shape)
    penalty = torch.full_like(theta, 0.3)
    system = prepare(SOLVERS[name](), rows, theta, penalty, torch.ones_like(theta), chunks)
    jacobian, residual = rows[:, :-1], rows[:, -1:]
    gradient = (jacobian @ residual.mT).squeeze(-1) + penalty * theta
    torch.testing.assert_close(system.gradient, gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(system.diagonal, jacobian.square().sum(2), rtol=1e-10, atol=1e-12)


@every_solver
def test_another_damping_of_the_same_system(name):
    """A rejected step is solved again without a new linearisation."""
    rows, theta = rows_of(30, 6)
    solver, scaling = SOLVERS[name](), torch.ones_like(theta)
    system = prepare(solver, rows, theta, torch.full_like(theta, 0.1), scaling, 1)
    for damping in (tensor([1.0, 1.0, 1.0]), tensor([1e-3, 10.0, 1.0])):
        step = solver.factorise(system, damping, scaling).step
        fresh = factorise(name, rows, theta, penalty=torch.full_like(theta, 0.1), damping=damping).step
        torch.testing.assert_close(step, fresh, rtol=1e-12, atol=0)


@every_solver
def test_float32(name):
    rows, theta = rows_of(30, 6)
    step = factorise(name, rows.float(), theta.float()).step
    assert step.dtype == torch.float32
    torch.testing.assert_close(step.double(), factorise(name, rows, theta).step, rtol=1e-3, atol=1e-4)


def test_qr_keeps_the_digits_that_the_normal_equations_lose():
    """Monomials up to the seventh power on [0, 1]: condition number 1e6 for J, 1e12 for its square."""
    x = np.linspace(0, 1, 60)
    jacobian = np.vander(x, 8)
    solution = np.array([1.0, -2, 3, -4, 5, -6, 7, -8])
    rows = tensor(np.vstack([jacobian.T, -jacobian @ solution]))[None]
    theta = torch.zeros((1, 8), dtype=torch.float64)
    error = {
        name: np.abs(factorise(name, rows, theta, damping=1e-30, chunks=4).step[0].numpy() - solution).max()
        for name in ("cholesky", "qr")
    }
    assert error["qr"] < 1e-8
    assert error["qr"] < 1e-2 * error["cholesky"]


@every_solver
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(30, 6), (4, 9)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_non_finite_rows_fail_one_model_and_no_other(name, value, shape):
    rows, theta = rows_of(*shape)
    broken = rows.clone()
    broken[1, 0, 2] = value
    factor = factorise(name, broken, theta)
    healthy = torch.tensor([True, False, True])
    assert torch.equal(factor.ok, healthy) or not factor.step[1].isfinite().all()
    assert factor.ok[healthy].all()
    expected = factorise(name, rows, theta)
    torch.testing.assert_close(factor.step[healthy], expected.step[healthy], rtol=1e-12, atol=0)
    vector = torch.ones_like(theta)
    torch.testing.assert_close(factor.solve(vector)[healthy], expected.solve(vector)[healthy], rtol=1e-12, atol=0)


@every_solver
def test_a_singular_system_without_damping_is_a_failure_or_a_finite_step(name):
    rows, theta = rows_of(30, 6)
    rows[1, 2] = 0  # a column of zeros
    factor = factorise(name, rows, theta, damping=tensor([0.1, 0.0, 0.1]))
    assert factor.ok[[0, 2]].all()
    assert not factor.ok[1] or factor.step[1].isfinite().all()


def test_an_indefinite_matrix_fails_one_model_and_no_other():
    rows, theta = rows_of(30, 6)
    solver, scaling = SOLVERS["cholesky"](), torch.ones_like(theta)
    system = prepare(solver, rows, theta, torch.zeros_like(theta), scaling, 1)
    gram = system.gram.clone()
    gram[1] = -torch.eye(6, dtype=torch.float64)
    factor = solver.factorise(replace(system, gram=gram), torch.full((3,), 0.1, dtype=torch.float64), scaling)
    assert factor.ok.tolist() == [True, False, True]
    expected = factorise("cholesky", rows, theta).step
    torch.testing.assert_close(factor.step[[0, 2]], expected[[0, 2]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("alpha", [0.0, 1e-2])
@pytest.mark.parametrize("name", [name for name in ROW_SOLVERS if name != "cholesky"])
def test_fits_follow_the_same_path(name, alpha, scaling):
    case = SURFACE
    curves = [
        levenberg_marquardt(
            case.problem(2, alpha=alpha),
            case.starts(2, near=0.3),
            solver=solver,
            scaling=SCALINGS[scaling],
            damping=0.1,
            stopping=Stopping(max_iter=12),
        ).history["objective"]
        for solver in ("cholesky", name)
    ]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)


def test_auto_is_the_dual_for_fewer_rows_than_parameters():
    assert choose_solver("auto", n_parameters=10, n_rows=9) == "dual"
    assert choose_solver("auto", n_parameters=10, n_rows=10) == "cholesky"
    assert choose_solver("qr", n_parameters=10, n_rows=9) == "qr"


@every_solver
def test_a_solver_object_is_as_good_as_its_name(name):
    curves = [
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), solver=solver, stopping=Stopping(max_iter=5)).history[
            "loss"
        ]
        for solver in (name, SOLVERS[name]())
    ]
    np.testing.assert_array_equal(*curves)


@every_solver
def test_memory_estimate_grows_with_the_system(name):
    solver = SOLVERS[name]()
    network = {size: MLP(()).build(size - 1, 1) for size in (100, 1000)}
    bytes_of = {size: solver.working_bytes(2, network[size], size, 8) for size in (100, 1000)}
    assert bytes_of[100] >= 2 * 100 * 100 * 8
    assert 80 < bytes_of[1000] / bytes_of[100] <= 100


@pytest.mark.parametrize("name", SOLVERS)
def test_memory_estimate_of_some_parameters(name):
    """Whatever is held of the parameters that move, and no more than of all."""
    solver, network = SOLVERS[name](), MLP((20,)).build(5, 1)
    whole, all_, some = (solver.working_bytes(2, network, 50, 8, n) for n in (None, network.n_parameters, 10))
    assert some <= whole <= all_
    assert (some < whole / 4) == (name in ("cholesky", "eigh", "qr"))


@pytest.mark.parametrize("scaling", ["marquardt", "more", "running_maximum"])
def test_eigh_where_the_penalty_outweighs_the_data(scaling):
    """Entries of D may be 1e-28 there, beside a penalty of 1e-4."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 3))
    y = np.sin(X[:, :1]) + 0.1 * rng.normal(size=(30, 1))
    network = MLP(30).build(3, 1)
    start = tensor(rng.normal(size=(1, network.n_parameters)))
    objective = {}
    for solver in ("cholesky", "eigh"):
        problem = make_problem(network, SquaredError(), tensor(X), tensor(y), alpha=1e-4)
        solution = levenberg_marquardt(
            problem, start, solver=solver, scaling=SCALINGS[scaling], stopping=Stopping(max_iter=4)
        )
        objective[solver] = solution.score[0]
    np.testing.assert_allclose(objective["eigh"], objective["cholesky"], rtol=1e-3)
