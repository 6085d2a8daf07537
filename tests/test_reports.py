"""What users of the estimators have run into."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from sklm import LMClassifier, LMGridSearchCV, LMRegressor, fit_many
from sklm.optim import GainRatio

from .problems import Formula

ignore_max_iter = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 3))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=n)


class LogTargets(LMRegressor):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, np.log(y), sample_weight)

    def predict(self, X):
        return np.exp(super().predict(X))


@ignore_max_iter
def test_a_fit_of_the_users_own_class_is_used():
    X, y = table(80)
    y = np.exp(2 * y)
    model = LogTargets(hidden_layer_sizes=3, alpha=1e-3, n_init=1, random_state=0)
    (many,) = fit_many(model, X, [y])
    np.testing.assert_array_equal(many.predict(X), model.fit(X, y).predict(X))
    grid = {"alpha": [1e-3, 1e-1]}
    expected = GridSearchCV(model, grid, cv=3).fit(X, y).cv_results_["mean_test_score"]
    search = LMGridSearchCV(model, grid, cv=3).fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-8)


@ignore_max_iter
@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_the_default_device_of_torch_is_left_alone(estimator):
    """Also where several starts are compared by rows left out, and race."""
    X, y = table(60)
    y = y if estimator is LMRegressor else (y > 0).astype(int)
    model = estimator(random_state=0, max_iter=30)
    expected = model.fit(X, y).predict(X)
    with torch.device("meta"):
        found = model.fit(X, y).predict(X)
    np.testing.assert_array_equal(found, expected)


@ignore_max_iter
def test_the_default_device_of_torch_is_left_alone_without_noise():
    X, _ = table(60)
    y = np.sin(3 * X[:, 0])
    with torch.device("meta"):
        model = LMRegressor(5, random_state=0, max_iter=60).fit(X, y)
    np.testing.assert_array_equal(model.theta_, LMRegressor(5, random_state=0, max_iter=60).fit(X, y).theta_)


def test_a_fold_may_lack_a_class_that_has_a_weight():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)), np.r_[np.zeros(40), np.ones(38), 2, 2].astype(int)
    model = LMClassifier(3, class_weight={0: 1, 1: 1, 2: 5}, alpha=0.01, random_state=0)
    with pytest.warns(UserWarning, match=r"class_weight names \[2\], .* they are ignored"):
        scores = cross_val_score(model, X, y, cv=KFold(4))
    assert np.isfinite(scores).all()


def test_a_column_too_small_to_be_scaled_is_constant():
    X, y = table(60)
    options = {"alpha": 1e-3, "n_init": 1, "random_state": 0}
    model = LMRegressor(3, **options).fit(np.c_[X, X[:, 0] * 1e-309], y)
    assert model.x_inverse_scale_[3] == 0
    assert np.isfinite(model.predict(np.c_[X, X[:, 0] * 1e-309])).all()
    zero = LMRegressor(3, **options).fit(X, y * 1e-310)
    assert np.ptp(zero.predict(X)) == 0


@ignore_max_iter
def test_a_constant_output_stays_constant_to_the_last_digit():
    X, y = table(100)
    model = LMRegressor(5, alpha=0.0, random_state=0, max_iter=50).fit(X, np.c_[y, np.full(100, 1e9)])
    np.testing.assert_array_equal(model.predict(X)[:, 1], 1e9)
    assert np.all(model.coefs_[-1][:, 1] == 0)
    assert model.score(X, np.c_[y, np.full(100, 1e9)]) > 0.9


@ignore_max_iter
@pytest.mark.parametrize("n_init", [1, "auto"])
def test_a_warm_start_does_not_go_back_to_few_rows(n_init):
    X, y = table(2000)
    model = LMRegressor(8, warm_start=True, max_iter=4, alpha=0.0, n_init=n_init, random_state=0)
    losses = [model.fit(X, y).loss_ for _ in range(8)]
    whole = LMRegressor(8, max_iter=60, alpha=0.0, n_init=n_init, random_state=0).fit(X, y)
    assert np.all(np.diff(losses) <= 0)
    assert losses[-1] < 1.05 * whole.loss_


@ignore_max_iter
def test_a_limit_of_time_is_kept_with_many_starts(monkeypatch):
    """Starts wait for each other where an iteration of all takes a good part of the time."""
    X, y = table(400)
    monkeypatch.setattr("sklm._solving.WORK_PER_SECOND", 2.5e8)
    model = LMRegressor(8, n_init=50, alpha=0.0, max_time=1.0, growing=False, random_state=0)
    _, fit = model._ready(X, y)
    assert model._models_in_time(fit) == int(2.5e8 / 20 / (400 * 41**2))
    _, free = LMRegressor(8, n_init=50, alpha=0.0, random_state=0)._ready(X, y)
    assert model._models_in_time(free) > 1e9
    monkeypatch.setattr("sklm._solving.WORK_PER_SECOND", 1e4)
    assert LMRegressor(8, n_init=2000, alpha=0.0, max_time=0.3, random_state=0).fit(X, y).n_iter_ > 3


class Interrupting(GainRatio):
    """Ctrl-C at a step."""

    def __init__(self, step=40):
        super().__init__()
        self.step = step

    def update(self, trial, memory):
        self.step -= 1
        if self.step == 0:
            raise KeyboardInterrupt
        return super().update(trial, memory)


@pytest.mark.parametrize("step", [1, 40, 130])
def test_ctrl_c_in_an_epoch_keeps_what_it_has_done(step):
    X, y = table(2000)
    options = {"alpha": 0.0, "batch_size": 20, "random_state": 0, "n_init": 1}
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept") as caught:
        model = LMRegressor(8, damping_strategy=Interrupting(step), **options).fit(X, y)
    assert not any("search for alpha" in str(warning.message) for warning in caught)
    assert model.status_ == "interrupted"
    assert model.n_iter_ == (2 if step == 130 else 1)
    assert step == 1 or model.score(X, y) > 0.9


def test_ctrl_c_before_the_first_iteration_says_so():
    X, y = table(60)
    with pytest.warns(UserWarning, match="No iteration was done: it is what the fit began with"):
        model = LMRegressor(5, alpha=0.0, damping_strategy=Interrupting(1), n_init=1, random_state=0).fit(X, y)
    assert (model.status_, model.n_iter_) == ("interrupted", 0)


@pytest.mark.parametrize("decades", [2, 4])
def test_weights_over_decades_do_not_hide_large_targets(decades):
    """Relative errors of 3 %: weights are reciprocal variances, and the exact rows are the small ones."""
    x = np.linspace(0, 1, 60)
    mean = np.exp(decades * np.log(10) * x) * (1 + 0.2 * np.sin(6 * x))
    y = mean * (1 + 0.03 * np.random.default_rng(0).normal(size=60))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(random_state=0).fit(x[:, None], y, sample_weight=1 / (0.03 * mean) ** 2)
    assert np.abs(model.predict(x[:, None]) / mean - 1).max() < 0.12


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "quantile"])
def test_robust_losses_of_a_formula_do_not_depend_on_the_unit(loss):
    x = np.linspace(0, 5, 50)
    y = 2 + 3 * x + 0.1 * np.random.default_rng(0).normal(size=50)
    y[[40, 45, 48]] += 100

    def fitted(unit):
        module = Formula(lambda x, a, b: a + b * x, (0.0, 0.0))
        return LMRegressor(architecture=module, loss=loss).fit(x[:, None], unit * y).theta_ / unit

    large = fitted(1e6)
    np.testing.assert_allclose(fitted(1e-12), large, rtol=1e-4)
    assert np.abs(large - [2, 3]).max() < (1.0 if loss == "huber" else 0.2)


@pytest.mark.parametrize("glitch", [1e4, 1e9])
def test_one_glitch_beyond_measure_does_not_move_a_median(glitch):
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(0, 1, 50))
    y = np.sin(5 * x) + 0.05 * rng.normal(size=50)
    y[10] = glitch
    new = np.linspace(0.02, 0.98, 200)
    model = LMRegressor(loss="absolute_error", random_state=1).fit(x[:, None], y)
    assert np.abs(model.predict(new[:, None]) - np.sin(5 * new)).max() < 0.3


HIDDEN = {
    "item": lambda x, a, b: a * torch.cos(b.item() * x),
    "detach": lambda x, a, b: a * torch.cos(b.detach() * x),
    "bessel": lambda x, a, b: a * torch.special.bessel_j0(b * x),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_parameter_that_torch_cannot_differentiate_is_refused(kind):
    x = np.linspace(0.1, 4, 400)[:, None]
    with pytest.raises(ValueError, match="changes with its parameter 'b2', and torch gives a derivative of zero"):
        LMRegressor(architecture=Formula(HIDDEN[kind], (1.0, 1.2))).fit(x, np.cos(1.4 * x[:, 0]))


FLAT = {
    "square": (lambda x, a, b: a + b**2 * x, (1.0, 0.0)),
    "kink": (lambda x, a, b: a + torch.relu(b * x), (1.0, 0.0)),
    "product": (lambda x, a, b, c: a + b * c * x, (1.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.filterwarnings("ignore:The module's parameters:UserWarning")
def test_a_derivative_may_be_zero_where_the_fit_begins(kind):
    x = np.linspace(0.1, 4, 30)[:, None]
    model = LMRegressor(architecture=Formula(*FLAT[kind])).fit(x, 2 + 0 * x[:, 0])
    assert model.theta_[0] == pytest.approx(2)


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_a_formula_does_not_run_to_where_it_is_flat(size):
    x = np.linspace(0, 5, 50)
    y = size * (3 * np.exp(-1.3 * x) + 0.01 * np.random.default_rng(0).normal(size=50))
    module = Formula(lambda x, a, b: a * torch.exp(-b * x), (1.0, 1.0))
    model = LMRegressor(architecture=module).fit(x[:, None], y)
    np.testing.assert_allclose(model.theta_, [3 * size, 1.3], rtol=0.02)


def test_two_rows_beyond_the_parameters_are_enough_for_error_bars():
    known = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x = np.sort(rng.uniform(0, 5, 6))
        module = Formula(lambda x, a, b, c, d: a + b * x + c * x**2 + d * x**3, (0, 0, 0, 0))
        model = LMRegressor(architecture=module).fit(x[:, None], 2 + 3 * x + 0.1 * rng.normal(size=6))
        known.append(model.noise_std_)
    assert None not in known


def test_derivatives_of_several_outputs_may_cancel():
    x = np.random.default_rng(0).uniform(-1, 1, (60, 1))

    class Bounds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
            self.width = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, X):
            middle = self.slope * X[:, 0]
            return torch.stack([middle - self.width, middle + self.width], 1)

    model = LMRegressor(architecture=Bounds()).fit(x, np.c_[2 * x[:, 0] - 1, 2 * x[:, 0] + 1])
    np.testing.assert_allclose(model.theta_, [2, 1])


@pytest.mark.parametrize("start", [1e-12, 1e-30])
def test_a_start_next_to_zero_is_no_obstacle(start):
    x = np.linspace(-1, 1, 40)
    module = Formula(lambda x, a, b: a * x + b, (start, 0.0))
    model = LMRegressor(architecture=module).fit(x[:, None], 1e6 * (2 * x + 1))
    np.testing.assert_allclose(model.theta_, [2e6, 1e6])


def test_rows_of_next_to_no_weight_do_not_scale_the_others():
    X, y = table(300)
    rng = np.random.default_rng(1)
    X, y = np.r_[X, 1e5 * rng.normal(size=(5, 3))], np.r_[y, 1e6 * rng.normal(size=5)]
    model = LMRegressor(8, random_state=0).fit(X, y, sample_weight=np.r_[np.ones(300), np.full(5, 1e-14)])
    assert model.score(X[:300], y[:300]) > 0.95


@ignore_max_iter
@pytest.mark.parametrize("noise", [1e-6, 0.0])
def test_targets_that_are_nearly_all_the_same_are_scaled_by_the_others(noise):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (150, 1))
    y = np.maximum(0, x[:, 0] - 0.3) * 10 + noise * rng.normal(size=150)
    assert LMRegressor(10, loss="huber", random_state=0).fit(x, y).score(x, y) > 0.999


def test_a_growing_fit_with_little_time_tries_its_starts_together():
    X, y = table(5000)
    model = LMRegressor(8, alpha=0.0, max_time=0.5, random_state=0)
    _, fit = model._ready(X, y)
    assert len(fit.theta) == 4
    assert fit.stages
    assert model._models_in_time(fit) == int(0.5e10 / 20 / (fit.stages[0] * 41**2))
