"""Whole fits in awkward corners, against scipy, a closed form or a longer look."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from sklm import LMRegressor
from sklm.optim import Growth, Status, Stopping, fit_growing

from .problems import CURVE


class Formula(torch.nn.Module):
    """``function(self, x)`` of named scalar parameters."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, torch.nn.Parameter(torch.tensor(float(value), dtype=torch.float64)))

    def forward(self, x):
        return self.function(self, x[:, 0])


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e-8, 1.0, 1e8, 1e17, 1e30])
def test_units_of_a_formula_do_not_matter(scale):
    x = np.linspace(0, 5, 50)
    module = Formula(lambda s, x: s.a * torch.exp(-s.b * x), a=2 * scale, b=0.5)
    model = LMRegressor(architecture=module).fit(x[:, None], scale * np.exp(-x))
    np.testing.assert_allclose(model.theta_, [scale, 1.0], rtol=1e-8)


@pytest.mark.parametrize("start", [2.5, 3.0, 4.0, 5.0])
def test_far_starts_reach_the_optimum_of_minpack(start):
    rng = np.random.default_rng(0)
    x = np.linspace(0, 10, 100)
    y = 2 * np.exp(0.5 * x) + rng.normal(size=100)
    found = least_squares(lambda p: p[0] * np.exp(p[1] * x) - y, [2, 0.5], method="lm", xtol=1e-14, ftol=1e-14)
    model = LMRegressor(architecture=Formula(lambda s, x: s.a * torch.exp(s.b * x), a=1, b=start)).fit(x[:, None], y)
    np.testing.assert_allclose(model.loss_, found.cost / 100, rtol=1e-8)
    assert model.converged_


def test_a_derivative_that_is_not_finite_is_refused():
    x = np.linspace(0, 5, 50)
    module = Formula(lambda s, x: s.c + (s.a * x) ** 0.5 * torch.exp(-s.a * x), a=1, c=0)
    with pytest.raises(ValueError, match=r"derivatives of the network are NaN or infinite.*sqrt"):
        LMRegressor(architecture=module).fit(x[:, None], np.sqrt(2 * x))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # rounding decides how it ends
def test_exact_is_judged_by_the_targets_not_by_a_huge_start():
    rng = np.random.default_rng(0)
    x = np.linspace(0.1, 1, 100)
    y = np.exp(1.5 * x) * x + 0.3 * rng.normal(size=100)
    model = LMRegressor(architecture=Formula(lambda s, x: s.a * x * torch.exp(s.b * x), a=1, b=80)).fit(x[:, None], y)
    assert model.status_ != "exact"


def test_early_stopping_compares_starts_by_the_hold_out():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (30, 2))
    y = np.sin(3 * X[:, 0]) + 0.3 * rng.normal(size=30)
    options = {"early_stopping": True, "validation_fraction": 0.3, "random_state": 0, "max_iter": 60}
    several = LMRegressor(60, n_init=8, **options).fit(X, y)
    alone = LMRegressor(60, n_init=1, **options).fit(X, y)
    assert several.best_validation_score_ > alone.best_validation_score_


def test_a_column_that_is_constant_up_to_rounding_is_left_out():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (200, 1))
    column = np.where(rng.uniform(size=200) < 0.5, 0.1 + 0.2, 0.3)[:, None]
    model = LMRegressor(6, random_state=0, n_init=1, target_loss=1e-3).fit(np.hstack([X, column]), np.sin(3 * X[:, 0]))
    np.testing.assert_array_equal(model.predict(np.hstack([X, column])), model.predict(np.hstack([X, column + 1e-12])))
    assert not model.coefs_[0][1].any()


def test_an_interrupt_in_the_first_stage_is_not_forgotten():
    def interrupt(progress):
        if progress.n_active < 4 or progress.iteration >= 30:
            raise KeyboardInterrupt

    problem = CURVE.problem(4)
    growth = Growth(0, rows_per_parameter=2.0, factor=2.0, finalists=1)
    assert growth.sizes(problem)

    solution = fit_growing(problem, CURVE.starts(4), growth, damping=0.01, stopping=Stopping(), callback=interrupt)
    assert solution.status == [Status.INTERRUPTED]


@pytest.mark.parametrize("damping", [1e-12, 1e-2, 1e2])
@pytest.mark.parametrize("seed", range(4))
def test_partial_fit_takes_one_step_and_says_so(damping, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (100, 2))
    y = np.sin(4 * X[:, 0]) * X[:, 1]
    model = LMRegressor(8, random_state=seed, damping=damping).partial_fit(X, y)
    for _ in range(3):
        theta, loss = model.theta_, model.loss_
        model.partial_fit(X, y)
        assert (model.status_ == "one_step") == (not np.array_equal(model.theta_, theta))
        assert model.loss_ < loss if model.status_ == "one_step" else model.loss_ == loss


def test_partial_fit_keeps_its_damping_over_a_hopeless_batch():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (20, 1))
    model = LMRegressor(10, random_state=0)
    for _ in range(60):
        model.partial_fit(X, np.sin(3 * X[:, 0]))
    assert model.status_ in ("one_step", "no_step")
    assert model.damping_ < 1
