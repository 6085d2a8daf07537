"""Line searches: the points they promise, by autograd, and the textbook's loop for one model."""

import numpy as np
import pytest
import torch

from sklm.losses import SquaredError
from sklm.optim import make_problem
from sklm.optim._descent_search import DESCENT_SEARCHES, Spot

from .. import reference
from ..problems import CURVE, SURFACE, Formula, tensor

CASES = [CURVE, SURFACE]


def objective(case, theta):
    X, y = case.data()
    return 0.5 * (reference.perceptron(case.network().sizes, case.activation, X)(theta) - y).square().mean()


def along(case, theta, direction, length):
    """Objective and its derivative by the length, by autograd."""
    t = torch.tensor(float(length), dtype=torch.float64, requires_grad=True)
    value = objective(case, theta + t * direction)
    value.backward()
    return float(value.detach()), float(t.grad)


def gradient(case, theta):
    theta = theta.clone().requires_grad_()
    objective(case, theta).backward()
    return theta.grad


def begin(case, lengths):
    """Starting spots and directions, the gradient downhill times ``lengths``."""
    theta = case.starts(len(lengths))
    slopes = torch.stack([gradient(case, one) for one in theta])
    direction = -slopes * tensor(lengths)[:, None]
    values = torch.stack([objective(case, one) for one in theta])
    spot = Spot(
        torch.zeros(len(theta), dtype=torch.float64), theta, slopes, values, values, (slopes * direction).sum(1)
    )
    return spot, direction


LENGTHS = [1e-3, 0.1, 1.0, 30.0, 1e4]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_armijo_is_the_textbooks_loop(case):
    start, direction = begin(case, LENGTHS)
    end = DESCENT_SEARCHES["armijo"](case.problem(5), start, direction)
    halved = 0
    for model in range(5):
        value, slope = along(case, start.theta[model], direction[model], 0)
        length = 1.0
        while along(case, start.theta[model], direction[model], length)[0] > value + 1e-4 * length * slope:
            length, halved = length / 2, halved + 1
        assert end.length[model] == length
        expected = start.theta[model] + length * direction[model]
        torch.testing.assert_close(end.theta[model], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(end.gradient[model], gradient(case, expected), rtol=1e-8, atol=1e-12)
        assert end.objective[model] == pytest.approx(along(case, start.theta[model], direction[model], length)[0])
    assert halved > 5
    assert (end.length == 1).any()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_strong_wolfe_conditions_hold(case):
    start, direction = begin(case, LENGTHS)
    end = DESCENT_SEARCHES["strong_wolfe"](case.problem(5), start, direction)
    for model in range(5):
        before, slope = along(case, start.theta[model], direction[model], 0)
        after, left = along(case, start.theta[model], direction[model], end.length[model])
        assert after <= before + 1e-4 * float(end.length[model]) * slope
        assert abs(left) <= 0.9 * abs(slope)
        assert end.slope[model] == pytest.approx(left, rel=1e-6, abs=1e-12)
        assert end.objective[model] == pytest.approx(after, rel=1e-10)
        torch.testing.assert_close(end.gradient[model], gradient(case, end.theta[model]), rtol=1e-8, atol=1e-12)
    assert (end.length > 2).any()  # the shortest had to expand
    assert (end.length < 0.1).any()  # the longest to come back


@pytest.mark.parametrize("name", DESCENT_SEARCHES)
def test_models_search_alone_as_together(name):
    start, direction = begin(SURFACE, LENGTHS)
    together = DESCENT_SEARCHES[name](SURFACE.problem(5), start, direction)
    for model in range(5):
        one = Spot(**{key: value[model : model + 1] for key, value in start.__dict__.items()})
        alone = DESCENT_SEARCHES[name](SURFACE.problem(1), one, direction[model : model + 1])
        torch.testing.assert_close(alone.theta[0], together.theta[model], rtol=1e-9, atol=1e-9)


def root_problem():
    """``sqrt(b) x`` fitted to zero from b = 9: finite for b > 0 only; derivative infinite at 0."""
    from sklm.architectures import ModuleArchitecture

    network = ModuleArchitecture(Formula(lambda x, b: torch.sqrt(b) * x, (9.0,))).build(1, 1)
    x = tensor(np.linspace(1, 2, 20))[:, None]
    problem = make_problem(network, SquaredError(), x, torch.zeros_like(x))
    theta, mean = tensor([[9.0]]), float(x.square().mean())
    value, slope = tensor([0.5 * 9 * mean]), tensor([[0.5 * mean]])
    return problem, theta, value, slope


@pytest.mark.parametrize("length", [9.0, 12.0, 1e3])
@pytest.mark.parametrize("name", DESCENT_SEARCHES)
def test_what_is_not_finite_is_too_far(name, length):
    problem, theta, value, slope = root_problem()
    direction = tensor([[-length]])
    start = Spot(tensor([0.0]), theta, slope, value, value, (slope * direction).sum(1))
    end = DESCENT_SEARCHES[name](problem, start, direction)
    assert end.length > 0
    assert (end.theta >= 0).all()
    assert end.objective < value
    assert torch.isfinite(end.objective).all()


@pytest.mark.parametrize("name", DESCENT_SEARCHES)
def test_without_any_descent_nothing_moves(name):
    start, direction = begin(SURFACE, [1.0, 1.0])
    uphill = -direction
    pretended = Spot(**{**start.__dict__, "slope": start.slope})  # says downhill, leads uphill
    end = DESCENT_SEARCHES[name](SURFACE.problem(2), pretended, uphill)
    assert (end.length == 0).all()
    assert torch.equal(end.theta, start.theta)
    assert torch.equal(end.objective, start.objective)
