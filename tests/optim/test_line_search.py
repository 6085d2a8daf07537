"""Rates along a rejected step, by hand."""

import numpy as np
import pytest
import torch

from sklm.optim import LINE_SEARCHES, Armijo, LineSearch, RateSearch, Stopping, Trial, levenberg_marquardt

from ..problems import CURVE, SURFACE, tensor


def choose(rule, objectives, slope, objective=1.0):
    objectives = tensor(objectives)
    like = torch.ones(len(objectives), dtype=objectives.dtype)
    trial = Trial(objective * like, 9 * like, like, -like, like)
    number, take = rule.choose(trial, objectives, tensor(rule.rates()), slope * like)
    return number.tolist(), take.tolist()


def test_the_best_rate():
    rule = RateSearch(3)
    assert rule.rates() == [0.5, 0.25, 0.125]
    nan, inf = np.nan, np.inf
    rows = [[3, 0.5, 0.9], [0.4, 0.5, 0.6], [3, 2, 1], [nan, 0.9, 0.95], [inf, nan, 0.2], [nan, nan, nan]]
    number, take = choose(rule, rows, -1.0)
    assert take == [True, True, False, True, True, False]
    assert [n for n, t in zip(number, take, strict=True) if t] == [1, 0, 1, 2]


def test_the_first_rate_with_a_sufficient_decrease():
    rule = Armijo(3, 0.5, 0.2)
    # sufficient: 1 - 0.2 * rate * 2
    bounds = [1 - 0.2, 1 - 0.1, 1 - 0.05]
    rows = [
        [bounds[0] - 1e-9, 0, 0],
        [bounds[0] + 1e-9, bounds[1] - 1e-9, 0],
        [np.nan, np.inf, bounds[2] - 1e-9],
        [bounds[0] + 1e-9, bounds[1] + 1e-9, bounds[2] + 1e-9],
    ]
    number, take = choose(rule, rows, -2.0)
    assert take == [True, True, True, False]
    assert number[:3] == [0, 1, 2]
    assert choose(rule, [[0.0, 0.0, 0.0]], 0.5)[1] == [False]


@pytest.mark.parametrize("rule", [RateSearch(), Armijo()], ids=str)
def test_fewer_rejections_and_never_uphill(rule):
    problem, theta = SURFACE.problem(4), SURFACE.starts(4)
    stopping = Stopping(max_iter=20, tol=0.0)
    curves = []
    for search in (None, rule):
        solution = levenberg_marquardt(problem, theta, damping=1e-6, line_search=search, stopping=stopping)
        curves.append(np.vstack([problem.evaluate(theta).objective, solution.history["objective"]]))
    plain, searched = curves
    assert (np.diff(searched, axis=0) <= 0).all()
    assert (np.diff(searched, axis=0) == 0).sum() < 0.7 * (np.diff(plain, axis=0) == 0).sum()
    assert (searched[3] < plain[3]).any()


def test_all_rates_are_one_forward_pass_and_none_where_all_accept():
    problem, calls = CURVE.problem(3), []
    network = problem.network
    original = network.forward

    def forward(theta, *args, **kwargs):
        calls.append(len(theta))
        return original(theta, *args, **kwargs)

    network.forward = forward
    damping = tensor([1e-9, 1e-9, 1e3])
    solution = levenberg_marquardt(
        problem,
        CURVE.starts(3),
        damping=damping,
        line_search=RateSearch(5),
        stopping=Stopping(max_iter=1),
    )
    raised = int((solution.damping > damping).sum())
    assert 1 <= raised <= 2
    assert calls == [3, 3, 3, 5 * raised] or calls == [3, 3, 5 * raised]  # the start, the trial, the search
    calls.clear()
    levenberg_marquardt(problem, CURVE.starts(3), damping=1e3, line_search=RateSearch(5), stopping=Stopping(max_iter=1))
    assert set(calls) == {3}


@pytest.mark.parametrize(
    "rule", [RateSearch(0), RateSearch(3, 1.0), RateSearch(3, 0.0), Armijo(decrease=0.0), Armijo(decrease=1.0)], ids=str
)
def test_impossible_parameters(rule):
    with pytest.raises(ValueError, match="must be"):
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), line_search=rule)


def test_your_own_cannot_go_uphill():
    class Last(LineSearch):
        def rates(self):
            return [0.9, 0.8]

        def choose(self, trial, objectives, rates, slope):
            return torch.ones_like(slope, dtype=torch.int64), torch.ones_like(slope, dtype=torch.bool)

    solution = levenberg_marquardt(
        SURFACE.problem(4), SURFACE.starts(4), damping=1e-8, line_search=Last(), stopping=Stopping(max_iter=15)
    )
    assert (np.diff(solution.history["objective"], axis=0) <= 0).all()


def test_registry():
    assert {name: make() for name, make in LINE_SEARCHES.items()} == {"rate": RateSearch(), "armijo": Armijo()}
