"""L-BFGS: the matrix of the textbook, optima that others find, and why it stops."""

import numpy as np
import pytest
import torch

from sklm.architectures import ModuleArchitecture
from sklm.losses import SquaredError
from sklm.optim import LBFGS, MiniBatches, Status, Stopping, gradient_descent, make_problem
from sklm.optim._descent_search import DESCENT_SEARCHES
from sklm.optim._lbfgs import new_pair, times_inverse

from .. import reference
from ..problems import CURVE, PLANE, SURFACE, Formula, tensor

#: ends at rounding
TIGHT = Stopping(max_iter=3000, tol=0.0, n_iter_no_change=3000)


def explicit_inverse(steps, changes, scale):
    """Inverse Hessian (P, P) by the BFGS formula, Nocedal & Wright (2006) eq. 6.17, the oldest pair first."""
    inverse = scale * np.eye(5)
    for s, y in zip(steps, changes, strict=True):
        if s @ y > 0:
            left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    return inverse


@pytest.mark.parametrize("n_pairs", [0, 1, 3, 7])
def test_product_is_that_of_the_bfgs_matrix(n_pairs):
    rng = np.random.default_rng(n_pairs)
    steps = rng.normal(size=(n_pairs, 4, 5))
    changes = steps + 0.8 * rng.normal(size=(n_pairs, 4, 5))  # some of negative curvature
    products = (steps * changes).sum(2)
    pairs, scale = [], tensor(rng.uniform(0.5, 2, size=4))
    for s, y in zip(steps, changes, strict=True):
        pair, _ = new_pair(tensor(s), tensor(y), scale)
        pairs.insert(0, pair)
    vector = rng.normal(size=(4, 5))
    got = times_inverse(pairs, scale, tensor(vector))
    for model in range(4):
        inverse = explicit_inverse(steps[:, model], changes[:, model], float(scale[model]))
        np.testing.assert_allclose(got[model], inverse @ vector[model], rtol=1e-10, atol=1e-10)
    if n_pairs == 7:
        assert (products < 0).any()


def test_scale_is_that_of_the_last_pair_with_positive_curvature():
    step, change = tensor([[1.0, 2.0], [1.0, 2.0]]), tensor([[3.0, 1.0], [-3.0, 1.0]])
    (_, _, rho), scale = new_pair(step, change, tensor([7.0, 7.0]))
    assert rho.tolist() == [1 / 5, 0.0]
    assert scale.tolist() == [5 / 10, 7.0]


@pytest.mark.parametrize("line_search", DESCENT_SEARCHES)
@pytest.mark.parametrize("memory", [3, 20])
@pytest.mark.parametrize("case", [PLANE, CURVE], ids=str)
def test_optimum_is_minpacks(case, memory, line_search):
    X, y = case.data()
    theta = case.starts(near=0.3)
    function = reference.perceptron(case.network().sizes, case.activation, X)
    parameters, objective = reference.scipy_optimum(function, theta[0], y)
    solution = gradient_descent(case.problem(), theta, optimizer=LBFGS(memory, line_search), stopping=TIGHT)
    np.testing.assert_allclose(solution.score, objective, rtol=1e-9)
    np.testing.assert_allclose(solution.theta[0], parameters, rtol=1e-4, atol=1e-4)
    assert solution.status[0] in (Status.STEP, Status.GRADIENT)
    assert solution.status[0].converged


def test_a_longer_memory_needs_fewer_iterations():
    n_iter = [
        gradient_descent(CURVE.problem(), CURVE.starts(near=0.1), optimizer=LBFGS(m), stopping=TIGHT).n_iter[0]
        for m in (2, 20)
    ]
    assert n_iter[1] < 0.7 * n_iter[0]


def test_a_quadratic_is_solved_in_as_many_steps_as_directions():
    # BFGS with a good line search ends near P steps; gradient descent does not
    problem = PLANE.problem(alpha=0.1)
    solution = gradient_descent(problem, PLANE.starts(), optimizer=LBFGS(memory=20), stopping=TIGHT)
    assert solution.n_iter[0] <= 3 * problem.network.n_parameters


@pytest.mark.parametrize("line_search", DESCENT_SEARCHES)
def test_objective_falls_in_every_iteration(line_search):
    solution = gradient_descent(
        SURFACE.problem(3, alpha=1e-4),
        SURFACE.starts(3),
        optimizer=LBFGS(line_search=line_search),
        stopping=Stopping(max_iter=60, tol=0.0, n_iter_no_change=60),
    )
    assert (np.diff(solution.history["objective"], axis=0) < 0).all()
    np.testing.assert_array_equal(solution.score, solution.history["objective"][-1])
    np.testing.assert_allclose(SURFACE.problem(3, alpha=1e-4).evaluate(solution.theta).objective, solution.score)


# -- reasons to stop --------------------------------------------------------------------------------------------


def test_no_gradient_at_the_start():
    problem, theta = PLANE.problem(), PLANE.starts()
    optimum = gradient_descent(problem, theta, stopping=TIGHT).theta
    again = gradient_descent(problem, optimum)
    assert again.status[0] in (Status.GRADIENT, Status.STEP)
    assert again.n_iter[0] == 1
    dead = make_problem(
        ModuleArchitecture(Formula(lambda x, b: 0 * b * x, (1.0,))).build(1, 1),
        SquaredError(),
        tensor([[1.0], [2.0]]),
        tensor([[1.0], [1.0]]),
    )
    solution = gradient_descent(dead, tensor([[1.0]]))
    assert solution.status == [Status.GRADIENT]
    assert torch.equal(solution.theta, tensor([[1.0]]))


def formula(function, start, x=(1.0, 2.0), y=(0.0, 0.0)):
    network = ModuleArchitecture(Formula(function, (start,))).build(1, 1)
    return make_problem(network, SquaredError(), tensor(x)[:, None], tensor(y)[:, None]), tensor([[start]])


@pytest.mark.parametrize("line_search", DESCENT_SEARCHES)
def test_stalled_where_no_step_helps(line_search):
    # finite only at the start
    problem, theta = formula(lambda x, b: b * x + torch.where(b == 1.0, 0.0, torch.inf), 1.0)
    solution = gradient_descent(problem, theta, optimizer=LBFGS(line_search=line_search))
    assert solution.status == [Status.STALLED]
    assert not solution.moved[0]
    assert not solution.status[0].converged


@pytest.mark.parametrize("line_search", DESCENT_SEARCHES)
def test_derivative_that_is_not_finite(line_search):
    problem, theta = formula(lambda x, b: torch.sqrt(b) * x + 1, 0.0)
    solution = gradient_descent(problem, theta, optimizer=LBFGS(line_search=line_search))
    assert solution.status == [Status.DERIVATIVE]
    assert torch.equal(solution.theta, theta)


@pytest.mark.parametrize("line_search", DESCENT_SEARCHES)
def test_the_way_leads_along_the_edge_of_what_is_finite(line_search):
    problem, theta = formula(lambda x, b: torch.sqrt(b) * x - 1e-2 * x, 9.0)
    solution = gradient_descent(problem, theta, optimizer=LBFGS(line_search=line_search), stopping=TIGHT)
    np.testing.assert_allclose(solution.theta, [[1e-4]], rtol=1e-3)


def test_mini_batches_and_impossible_parameters_are_refused():
    with pytest.raises(ValueError, match="LBFGS needs all rows in every step; leave out the mini-batches"):
        gradient_descent(CURVE.problem(), CURVE.starts(), batches=MiniBatches(40, 10, seed=0))
    for optimizer, match in (
        (LBFGS(memory=0), "memory of LBFGS must be a positive integer; got 0"),
        (LBFGS(memory=2.5), "memory of LBFGS"),
        (LBFGS(line_search="exact"), r"line_search of LBFGS must be one of \['armijo', 'strong_wolfe'\]; got 'exact'"),
        (LBFGS(line_search=None), "line_search of LBFGS"),
    ):
        with pytest.raises(ValueError, match=match):
            gradient_descent(CURVE.problem(), CURVE.starts(), optimizer=optimizer)
