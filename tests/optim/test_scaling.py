import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import SquaredError
from sklm.optim import SCALINGS, SOLVERS, MiniBatches, Status, Stopping, levenberg_marquardt, make_problem

from ..problems import CURVE, NIST, tensor

DIAGONAL, LARGEST = tensor([[4.0, 1.0, 9.0]]), tensor([[5.0, 2.0, 9.0]])


def test_what_each_scaling_is():
    expected = {"identity": tensor([[1.0, 1, 1]]), "marquardt": DIAGONAL, "more": LARGEST, "running_maximum": LARGEST}
    assert set(SCALINGS) == set(expected)
    for name, scaling in SCALINGS.items():
        assert torch.equal(scaling(DIAGONAL, LARGEST), expected[name])


@pytest.mark.parametrize("name", SCALINGS)
def test_zero_columns_get_a_positive_entry(name):
    diagonal = tensor([[4.0, 0.0, 1e-40], [0.0, 0.0, 0.0], [1e-300, 1e-305, 0.0]])
    scale = SCALINGS[name](diagonal, diagonal)
    assert (scale > 0).all()
    assert scale.isfinite().all()
    if name == "running_maximum":
        assert scale.tolist() == [[4.0, 0.01, 0.01], [0.01] * 3, [0.01] * 3]
    elif name != "identity":
        assert scale[0, 0] == scale[0, 1] == 4


@pytest.mark.parametrize("name", SCALINGS)
def test_arguments_are_not_written_to(name):
    diagonal = tensor([[4.0, 0.0, 9.0]])
    copy = diagonal.clone()
    assert SCALINGS[name](diagonal, diagonal).data_ptr() != diagonal.data_ptr()
    assert torch.equal(diagonal, copy)


class Scales(SOLVERS["cholesky"]):
    """Write down the diagonals and the scalings that the loop uses."""

    def __init__(self):
        self.diagonals, self.scalings = [], []

    def prepare(self, system, scaling):
        self.diagonals.append(system.diagonal.clone())
        self.scalings.append(scaling.clone())
        return super().prepare(system, scaling)


@pytest.mark.parametrize("name", SCALINGS)
def test_more_is_the_running_maximum_of_the_diagonal(name):
    solver = Scales()
    levenberg_marquardt(
        CURVE.problem(), CURVE.starts(near=0.3), solver=solver, scaling=SCALINGS[name], stopping=Stopping(max_iter=25)
    )
    diagonals = torch.cat(solver.diagonals)
    expected = {
        "identity": torch.ones_like(diagonals),
        "marquardt": diagonals,
        "more": diagonals.cummax(0).values,
        "running_maximum": diagonals.cummax(0).values.clamp_min(0.01),
    }[name]
    used = expected > 1e-20  # zero columns have a test of their own
    assert torch.equal(torch.cat(solver.scalings)[used], expected[used])
    assert (diagonals[1:] < diagonals[:-1]).any()  # or the test could not tell them apart


def test_more_remembers_over_mini_batches_too():
    solver = Scales()
    levenberg_marquardt(
        CURVE.problem(),
        CURVE.starts(),
        solver=solver,
        scaling=SCALINGS["more"],
        stopping=Stopping(max_iter=3),
        batches=MiniBatches(40, 10, seed=0),
    )
    assert len(solver.scalings) == 12
    assert torch.equal(torch.cat(solver.scalings), torch.cat(solver.diagonals).cummax(0).values)


@pytest.mark.parametrize("name", ["marquardt", "more"])
def test_steps_do_not_depend_on_the_units_of_the_parameters(name):
    """Misra's problem in other units: b1 in thousands and b2 in thousandths."""
    case = NIST["Misra1a"]
    scale = np.array([1e3, 1e-3])
    rescaled = type(case)(
        "rescaled",
        lambda x, b1, b2: case.function(x, 1e3 * b1, 1e-3 * b2),
        case.x,
        case.y,
        starts=tuple(tuple(np.array(start) / scale) for start in case.starts),
        parameters=tuple(np.array(case.parameters) / scale),
        residual_sum=case.residual_sum,
    )
    curves = []
    for problem in (case.problem(), rescaled.problem()):
        solution = levenberg_marquardt(
            problem,
            problem.network.start[None],
            scaling=SCALINGS[name],
            solver="qr",
            stopping=Stopping(max_iter=8),
        )
        assert solution.status == [Status.MAX_ITER]
        curves.append(solution.history["objective"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SCALINGS)
def test_a_fit_with_a_column_of_zeros(name, solver):
    """An input that is always zero: its weights stay where they are and the rest is fitted."""
    X, y = CURVE.data()
    network = MLP((3,)).build(2, 1)
    theta = tensor(np.random.default_rng(3).normal(size=(1, network.n_parameters)))
    problem = make_problem(network, SquaredError(), torch.cat([X, torch.zeros_like(X)], dim=1), y)
    solution = levenberg_marquardt(
        problem, theta, scaling=SCALINGS[name], solver=solver, stopping=Stopping(max_iter=30)
    )
    unused = [1, 3, 5]
    torch.testing.assert_close(solution.theta[0, unused], theta[0, unused], rtol=1e-9, atol=0)
    assert solution.score[0] < 0.1 * float(problem.evaluate(theta).objective)
