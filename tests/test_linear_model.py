"""``hidden_layer_sizes='auto'``: no hidden layer where rows left out do not speak for one."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, PoissonRegressor, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold

from sklm import (
    MLP,
    LMClassifier,
    LMGridSearchCV,
    LMRegressor,
    Polynomial,
    _base,
    _batching,
    _choosing,
    _linear_model,
    _other_fits,
    _penalty,
    _prepared,
    _solving,
    fit_many,
)
from sklm._base import BaseLM
from sklm._depth import Result
from sklm._prepared import CannotBatchError
from sklm.optim import SearchInterrupted, Status

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)
X = rng.normal(size=(120, 3))
LINE = 3.0 + X @ [1.0, -2.0, 0.5]
NOISY = LINE + 0.3 * np.random.default_rng(1).normal(size=120)
WAVE = np.sin(2 * X[:, 0]) + X[:, 1]


def is_linear(model):
    return model.architecture_ == MLP((), model.architecture_.activation) if is_layered(model) else False


def is_layered(model):
    return isinstance(model.architecture_, MLP)


# -- data that are linear -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_inputs", [1, 4, 20])
@pytest.mark.parametrize("n_samples", [25, 60, 400])
@pytest.mark.parametrize("tails", [False, True])
def test_a_linear_function_is_found_to_rounding_and_at_once(n_samples, n_inputs, tails, monkeypatch):
    own = np.random.default_rng(n_samples + n_inputs)
    rows = own.normal(size=(n_samples + 500, n_inputs))
    rows = np.exp(1.5 * rows) if tails else rows
    y = 1e3 + rows @ own.normal(size=n_inputs)
    monkeypatch.setattr(LMRegressor, "_with_alpha", None)  # a hidden layer is not tried
    model = LMRegressor(random_state=0).fit(rows[:n_samples], y[:n_samples])
    assert is_linear(model)
    new = rows[n_samples:]
    np.testing.assert_allclose(model.predict(new), y[n_samples:], rtol=1e-9)
    assert model.converged_
    assert model.loo_score_ == pytest.approx(1.0, abs=1e-20)


@pytest.mark.parametrize("noise", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_ask_for_a_hidden_layer(noise, seed):
    own = np.random.default_rng(seed)
    rows, new = own.normal(size=(150, 2)), own.normal(size=(1000, 2))
    y = rows @ [1.0, 2.0] + noise * own.normal(size=150)
    model, plain = LMRegressor(random_state=seed).fit(rows, y), LinearRegression().fit(rows, y)
    errors = [np.mean((one.predict(new) - new @ [1.0, 2.0]) ** 2) for one in (model, plain)]
    assert is_linear(model)
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_but_noise_is_the_mean_or_nearly(seed):
    own = np.random.default_rng(seed)
    rows, y = own.normal(size=(100, 6)), own.normal(size=100)
    model = LMRegressor(random_state=0).fit(rows, y)
    assert model.loo_score_ > -0.03
    assert np.std(model.predict(own.normal(size=(1000, 6)))) < 0.35


def test_a_weak_signal_has_the_penalty_of_ridge_regression():
    own = np.random.default_rng(300)
    rows, new, slopes = own.normal(size=(300, 30)), own.normal(size=(2000, 30)), own.normal(size=30)
    y = rows @ slopes / np.linalg.norm(slopes) * 0.45 + 0.9 * own.normal(size=300)
    model, ridge = LMRegressor(random_state=0).fit(rows, y), RidgeCV(np.logspace(-1, 4, 21)).fit(rows, y)
    true = new @ slopes / np.linalg.norm(slopes) * 0.45
    errors = [np.mean((one.predict(new) - true) ** 2) for one in (model, ridge)]
    assert is_linear(model)
    assert errors[0] < 1.1 * errors[1]


def test_few_rows_of_long_tails_are_not_bent_beyond_the_last_one():
    """A hidden layer is flat there: an error of a third of the variance."""
    own = np.random.default_rng(31)
    x = np.exp(1.5 * own.normal(size=(1030, 1)))
    y = 2 * x[:, 0] + 1
    model = LMRegressor(random_state=0).fit(x[:30], y[:30] + 0.05 * y[:30].std() * own.normal(size=30))
    assert np.mean((model.predict(x[30:]) - y[30:]) ** 2) < 1e-3 * y[30:].var()


def test_several_outputs():
    Y = np.c_[LINE, X @ [0.0, 1.0, 1.0]]
    model = LMRegressor(random_state=0).fit(X, Y)
    assert is_linear(model)
    np.testing.assert_allclose(model.predict(X), Y, atol=1e-12)
    assert not is_linear(LMRegressor(random_state=0, max_iter=100).fit(X, np.c_[LINE, WAVE]))


def test_a_log_link_is_a_generalised_linear_model():
    own = np.random.default_rng(2)
    rows = own.normal(size=(300, 2))
    counts = own.poisson(np.exp(1 + rows @ [0.5, -0.3])).astype(float)
    model = LMRegressor(loss="poisson", random_state=0).fit(rows, counts)
    plain = PoissonRegressor(alpha=0, tol=1e-8).fit(rows, counts)
    assert is_linear(model)
    np.testing.assert_allclose(model.predict(rows), plain.predict(rows), rtol=0.05)


def test_error_bars_are_those_of_least_squares():
    model = LMRegressor(random_state=0).fit(X, NOISY)
    assert is_linear(model)
    plain = LMRegressor((), alpha=0).fit(X, NOISY)
    for ours, theirs in zip(model.predict(3 * X, return_std=True), plain.predict(3 * X, return_std=True), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("alpha", ["auto", "cv"])
@pytest.mark.parametrize("n_samples", [30, 120])
@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_there_is_one_minimum_and_no_mean_of_several(alpha, n_samples, loss):
    y = np.exp(LINE / 4) if loss == "poisson" else NOISY
    model = LMRegressor(alpha=alpha, loss=loss, random_state=0).fit(X[:n_samples], y[:n_samples])
    assert is_linear(model)
    assert model.n_averaged_ == 1


# -- polynomials ------------------------------------------------------------------------------------------------


def degree(model):
    """1 for a line, None for a hidden layer."""
    return (
        model.architecture_.degree if isinstance(model.architecture_, Polynomial) else 1 if is_linear(model) else None
    )


@pytest.mark.parametrize("n_samples", [12, 50, 300])
@pytest.mark.parametrize(
    ("expected", "curve"),
    [(2, lambda x: 1e3 + x**2), (3, lambda x: x**3 - x), (4, lambda x: x**4 + x), (5, lambda x: x**5)],
)
def test_a_polynomial_of_one_column_is_found_to_rounding_and_at_once(expected, curve, n_samples, monkeypatch):
    x = np.random.default_rng(n_samples).uniform(-1, 2, n_samples)
    monkeypatch.setattr(LMRegressor, "_with_alpha", None)  # a hidden layer is not tried
    model = LMRegressor(random_state=0).fit(x[:, None], curve(x))
    assert degree(model) == expected
    new = np.linspace(-2, 3, 100)
    np.testing.assert_allclose(model.predict(new[:, None]), curve(new), rtol=1e-8, atol=1e-8 * np.ptp(curve(new)))
    assert model.converged_


@pytest.mark.parametrize("n_samples", [60, 100, 300])
@pytest.mark.parametrize(("expected", "roots"), [(3, [-0.8, 0.1, 0.7]), (5, [-0.95, -0.6, 0.0, 0.6, 0.95])])
def test_noise_does_not_hide_a_polynomial_behind_a_hidden_layer(expected, roots, n_samples):
    own, new = np.random.default_rng(n_samples), np.linspace(-1, 1, 1000)
    size = np.std(np.polyval(np.poly(roots), new))
    x = own.uniform(-1, 1, n_samples)
    y = np.polyval(np.poly(roots), x) / size + 0.1 * own.normal(size=n_samples)
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert degree(model) == expected
    left = model.predict(new[:, None]) - np.polyval(np.poly(roots), new) / size
    assert np.mean(left**2) < 4 * 0.1**2 * (expected + 1) / n_samples


def test_polynomials_of_gaps_and_few_places_have_to_be_evident():
    own = np.random.default_rng(0)
    whole = own.uniform(0, 1, 100)
    gap = np.where(whole < 0.5, 0.35 * whole / 0.5, 0.65 + 0.35 * (whole - 0.5) / 0.5)
    shares = []
    for x in (whole, gap, whole[:15], whole.round(1)):
        fit = LMRegressor(random_state=0)._ready(x[:, None], np.sin(7 * x) + 0.05 * own.normal(size=len(x)))[1]
        models = [make() for make in fit.linear.makes]
        shares.append([_linear_model._share(fit, model) for model in models if not _linear_model._has_waves(model)])
    assert shares[0] == [1.0] * 5
    assert shares[1] == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert shares[2] == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert shares[3] == [1.0, 1.0, 0.5, 0.5, 0.5]
    rough = replace(fit, alpha=1e-9)  # a hidden layer that may go on for ever
    fit = LMRegressor()._ready(whole[:, None], whole)[1]
    assert _linear_model._share(fit, fit.linear.makes[-1](), rough) == 0.5


def surface(n_samples, n_inputs, noise, seed=0):
    """A response surface: rows, targets, new rows and their noise-free targets, of variance 1."""
    own = np.random.default_rng(seed)
    rows, form, slopes = own.uniform(-1, 1, (n_samples + 2000, n_inputs)), own.normal(size=(n_inputs, n_inputs)), None
    slopes = own.normal(size=n_inputs)
    true = rows @ slopes + np.einsum("ij,jk,ik->i", rows, form, rows)
    true /= true.std()
    return rows[:n_samples], true[:n_samples] + noise * own.normal(size=n_samples), rows[n_samples:], true[n_samples:]


@pytest.mark.parametrize(("n_samples", "n_inputs"), [(40, 2), (100, 6), (200, 8)])
def test_a_noisy_response_surface(n_samples, n_inputs):
    rows, y, new, true = surface(n_samples, n_inputs, 0.1)
    model = LMRegressor(random_state=0).fit(rows, y)
    assert degree(model) == 2
    n_terms = (n_inputs + 1) * (n_inputs + 2) / 2
    assert np.mean((model.predict(new) - true) ** 2) < 3 * 0.1**2 * n_terms / n_samples
    predicted, deviation = model.predict(new, return_std=True)
    targets = true + 0.1 * np.random.default_rng(1).normal(size=len(new))
    assert 0.9 < np.mean(np.abs(targets - predicted) < 1.96 * deviation) < 0.99


def test_few_rows_of_a_design_are_judged_by_folds():
    """Three levels of three factors, 27 rows for 101 parameters of 20 units."""
    grid = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3)).reshape(3, -1).T
    y = 1 + grid @ [1.0, 0.5, 0.0] - grid[:, 0] ** 2 + grid[:, 0] * grid[:, 1]
    y = y + 0.1 * np.random.default_rng(0).normal(size=27)
    model = LMRegressor(random_state=0)
    fit = model._ready(grid, y)[1]
    assert not fit.predicts_rows
    assert fit.linear.of_levels
    assert not model._ready(rng.normal(size=(27, 3)), y)[1].linear.of_levels
    assert not model._ready(grid[:, :1], y)[1].linear.of_levels  # a curve
    assert degree(model.fit(grid, y)) == 2


def box_behnken(n_factors, n_centres):
    runs = [
        {first: a, second: b} for first in range(n_factors) for second in range(first) for a in (-1, 1) for b in (-1, 1)
    ]
    corners = np.array([[run.get(factor, 0) for factor in range(n_factors)] for run in runs])
    return np.r_[corners, np.zeros((n_centres, n_factors))].astype(float)


@pytest.mark.parametrize("noise", [0.0, 0.002])
@pytest.mark.parametrize("n_centres", [1, 3])
@pytest.mark.parametrize("n_factors", [3, 4])
def test_a_design_that_a_polynomial_fits_well_is_not_compared_with_a_hidden_layer(
    n_factors, n_centres, noise, monkeypatch
):
    monkeypatch.setattr(LMRegressor, "_with_alpha", None)
    runs, own = box_behnken(n_factors, n_centres), np.random.default_rng(5)
    slopes, form = own.normal(size=n_factors), own.normal(size=(n_factors, n_factors))
    y = runs @ slopes + np.einsum("ij,jk,ik->i", runs, form, runs)
    y_noisy = y + noise * y.std() * own.normal(size=len(runs))
    model = LMRegressor(random_state=0).fit(runs, y_noisy)
    assert degree(model) == 2
    new = own.uniform(-1, 1, (1000, n_factors))
    true = new @ slopes + np.einsum("ij,jk,ik->i", new, form, new)
    assert np.std(model.predict(new) - true) <= 1e-5 + 3 * noise * y.std()
    (together,) = fit_many(LMRegressor(random_state=0), runs, [y_noisy])
    np.testing.assert_allclose(together.predict(new), model.predict(new), rtol=1e-6, atol=1e-9)


def test_a_design_that_a_line_leaves_something_of_is_compared():
    runs = box_behnken(3, 3)
    curved = np.exp(runs @ [1.0, 0.5, -0.8])
    assert degree(LMRegressor(random_state=0).fit(runs, curved)) is None
    line = runs @ [1.0, 0.5, -0.8] + 0.05 * np.random.default_rng(0).normal(size=len(runs))
    for y, expected in ((line, True), (curved, False), (np.tile(curved, 20), False)):
        X = np.tile(runs, (len(y) // len(runs), 1))
        model = LMRegressor(random_state=0)
        fit = model._ready(X, y)[1]
        result = model._linear_result(fit)[0]
        assert _linear_model._fits_design(fit, result) is expected


def test_several_outputs_of_polynomials():
    rows, y, new, true = surface(150, 3, 0.05)
    Y = np.c_[y, rows[:, 0] * rows[:, 1]]
    model = LMRegressor(random_state=0).fit(rows, Y)
    assert degree(model) == 2
    np.testing.assert_allclose(model.predict(new)[:, 0], true, atol=0.1)


def test_higher_degrees_are_for_few_terms():
    sizes = {(200, 1): [1, 2, 3, 4, 5], (200, 2): [1, 2, 3], (200, 20): [1, 2], (200, 60): [1], (30, 3): [1, 2]}
    for (n_samples, n_inputs), degrees in sizes.items():
        wide = rng.normal(size=(n_samples, n_inputs))
        fit = LMRegressor(random_state=0)._ready(wide, wide[:, 0])[1]
        made = [make().core["architecture_"] for make in fit.linear.makes]
        assert [getattr(one, "degree", 1) for one in made] == degrees


def test_a_line_is_not_replaced_by_a_polynomial_by_chance():
    degrees = []
    for seed in range(20):
        own = np.random.default_rng(seed)
        rows = own.normal(size=(60, 2))
        fit = LMRegressor(random_state=0)._ready(rows, rows @ [1.0, 2.0] + own.normal(size=60))
        degrees.append(getattr(fit[0]._linear_result(fit[1])[0].fit.core["architecture_"], "degree", 1))
    assert degrees.count(1) >= 17


@pytest.mark.parametrize("status", [Status.TIME, Status.INTERRUPTED])
def test_a_polynomial_that_is_cut_short_leaves_the_line(monkeypatch, status):
    rows, y, _, _ = surface(100, 2, 0.1)
    original = _prepared.levenberg_marquardt

    def cut(problem, theta, **options):
        solution = original(problem, theta, **options)
        if problem.network.n_parameters == 3:
            return solution
        return replace(solution, status=[status] * len(solution.status))

    monkeypatch.setattr(_prepared, "levenberg_marquardt", cut)
    shadow, fit = LMRegressor(random_state=0, growing=False)._ready(rows, y)
    linear, is_final = shadow._linear_result(fit)
    assert linear.fit.core["architecture_"] == MLP(())
    assert is_final is (status is Status.INTERRUPTED)
    assert linear.cut_short is (status if is_final else None)


def test_many_polynomials_are_those_one_by_one():
    rows, y, _, _ = surface(80, 2, 0.1)
    targets = [y, rows[:, 0] ** 2, rows @ [1.0, 2.0], np.sin(5 * rows[:, 0]) + 0.1 * y]
    together = fit_many(LMRegressor(random_state=0, max_iter=50), rows, targets)
    assert [degree(model) for model in together] == [2, 2, 1, None]
    for model, one in zip(together, targets, strict=True):
        alone = LMRegressor(random_state=0, max_iter=50).fit(rows, one)
        np.testing.assert_allclose(model.predict(rows), alone.predict(rows), rtol=1e-5, atol=1e-5)


def test_a_further_fit_goes_on_with_a_polynomial():
    rows, y, _, _ = surface(80, 2, 0.1)
    model = LMRegressor(random_state=0).fit(rows, y)
    model.partial_fit(rows, y + 1)
    assert degree(model) == 2
    model.set_params(warm_start=True).fit(rows, y)
    assert degree(model) == 2
    with pytest.raises(ValueError, match="warm_start needs the same architecture"):
        model.set_params(hidden_layer_sizes=3).fit(rows, y)


def test_a_warm_start_does_not_take_coefficients_for_weights():
    x = np.linspace(-1, 1, 30)[:, None]
    model = LMRegressor(architecture=Polynomial(3), warm_start=True).fit(x, x[:, 0])
    model.set_params(architecture=None, hidden_layer_sizes=1)  # as many parameters
    with pytest.raises(ValueError, match="warm_start cannot go on with other units"):
        model.fit(x, x[:, 0])


# -- data that are not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("curve", [lambda x: np.sin(3 * x), np.exp, lambda x: x + 0.5 * np.abs(x)])
def test_a_bent_curve_keeps_its_hidden_layer(curve, noise):
    own = np.random.default_rng(0)
    x = own.uniform(-1.5, 1.5, (200, 1))
    y = curve(x[:, 0]) + noise * own.normal(size=200) * (0.5 if noise == 0.5 else 1.0)
    assert not is_linear(LMRegressor(random_state=0, max_iter=200).fit(x, y))


@pytest.mark.parametrize("glitch", [1e2, 1e6])
@pytest.mark.parametrize("n_samples", [50, 300])
def test_one_row_that_outweighs_all_others_does_not_speak_for_a_line(glitch, n_samples):
    own = np.random.default_rng(3)
    x = own.uniform(0, 1, (n_samples, 1))
    y = np.sin(5 * x[:, 0]) + 0.05 * own.normal(size=n_samples)
    y[7] = glitch
    model = LMRegressor(loss="absolute_error", random_state=0).fit(x, y)
    assert not is_linear(model)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0] * 100, [1.1] * 100, True),
        ([1.0] * 100, [0.99] * 100, False),
        ([1.0] * 99 + [1e6], [0.5] * 99 + [1.1e6], False),  # one row speaks for it
        ([1.0] * 99 + [1e6], [1.0] * 99 + [1.1e6], True),
        ([1.0] * 99 + [1.0], [0.5] * 99 + [1e6], False),
        ([1e-2] * 90 + [1.0] * 10, [1e-8] * 90 + [2.0] * 10, False),  # most rows are predicted far better
    ],
)
def test_rows_left_out_decide_without_the_few_that_outweigh_them(ours, theirs, expected):
    assert _linear_model._is_less(np.array(ours), np.array(theirs), np.full(100, 0.01)) is expected


def test_a_line_may_be_worse_by_half_a_standard_error():
    difference = np.random.default_rng(0).normal(size=100)
    difference = (difference - difference.mean()) / difference.std()
    for above, expected in ((0.04, True), (0.06, False)):
        ours, theirs = 10 + above + difference / 2, 10 - difference / 2
        assert _linear_model._is_less(ours, theirs, np.full(100, 0.01), errors=0.5) is expected
        assert not _linear_model._is_less(ours, theirs, np.full(100, 0.01))
    theirs[3] = np.nan
    assert not _linear_model._is_less(ours, theirs, np.full(100, 0.01), errors=0.5)


@pytest.mark.parametrize(
    ("ours", "theirs", "for_line", "for_others"),
    [
        ([1.0, 1.0, 1.0], [1.0, 1.1, 0.9], True, True),
        ([1.3, 1.0, 1.2], [1.0, 1.2, 0.9], True, False),  # 1.13 times, with an error of 0.17
        ([1.2, 1.2, 1.2], [1.0, 1.0, 1.0], False, False),  # all alike
        ([2.0, 1.0, 1.5], [1.0, 1.5, 0.9], False, False),  # 1.32 times
        ([1.2], [1.0], False, False),
        ([1.0], [1.0, 9.0], True, True),
    ],
)
def test_folds_decide_with_the_errors_of_their_means(ours, theirs, for_line, for_others):
    x = np.random.default_rng(0).normal(size=(30, 2))
    fit = LMRegressor(random_state=0)._ready(x, x[:, 0])[1]
    fit = replace(fit, linear=replace(fit.linear, by_rows=False))

    def judged(made):
        simple = Result(replace(made, searched_losses=np.array(ours)), None, 0)
        return _linear_model._is_enough(fit, simple, Result(replace(fit, searched_losses=np.array(theirs)), None, 0))

    assert judged(fit.linear.makes[0]()) is for_line
    assert judged(fit.linear.makes[1]()) is for_others


def test_rows_without_weight_do_not_count():
    ours, theirs = np.full(100, 1.0), np.full(100, 0.5)
    theirs[:50] = 2.0
    assert _linear_model._is_less(ours, theirs, np.r_[np.ones(50), np.zeros(50)])
    assert not _linear_model._is_less(ours, theirs, np.r_[np.zeros(50), np.ones(50)])


# -- when it is not asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_layer_sizes": 5},
        {"hidden_layer_sizes": (4, 4)},
        {"alpha": 1e-3},
        {"alpha": 0},
        {"relevance": [1.0, 0.5, 0.5]},
        {"target_loss": 1e-6},
        {"warm_start": True},
        {"early_stopping": True},
        {"standardize": False},
        {"optimizer": "lbfgs"},
        {"batch_size": 40},
    ],
    ids=str,
)
def test_what_you_have_chosen_stays(options):
    assert not is_linear(LMRegressor(random_state=0, max_iter=20, **options).fit(X, LINE))


def test_constant_targets_have_nothing_to_find():
    assert not is_linear(LMRegressor(random_state=0).fit(X, np.ones(120)))


def test_classes_keep_their_hidden_layer():
    assert not is_linear(LMClassifier(random_state=0, max_iter=20).fit(X, LINE > 3))


def test_equal_rows_are_judged_by_folds():
    rows, y = np.r_[X, X], np.r_[NOISY, NOISY + 0.1 * rng.normal(size=120)]
    model = LMRegressor(random_state=0)
    assert not model._ready(rows, y)[1].linear.by_rows
    assert model._ready(X, NOISY)[1].linear.by_rows
    assert is_linear(model.fit(rows, y))
    assert not is_linear(model.fit(rows, np.r_[WAVE, WAVE]))


# -- beside the rest of a fit -------------------------------------------------------------------------------------


def test_many_fits_are_those_one_by_one():
    targets = [LINE, NOISY, WAVE, 2 * LINE, WAVE + NOISY]
    together = fit_many(LMRegressor(random_state=0, max_iter=50), X, targets)
    for model, y in zip(together, targets, strict=True):
        one = LMRegressor(random_state=0, max_iter=50).fit(X, y)
        assert is_linear(model) == is_linear(one)
        np.testing.assert_allclose(model.predict(X), one.predict(X), rtol=1e-5, atol=1e-5)
    assert [is_linear(model) for model in together] == [True, True, False, True, False]


def test_a_grid_search_scores_as_scikit_learns():
    grid, cv = {"max_iter": [20, 30]}, KFold(3)
    ours = LMGridSearchCV(LMRegressor(random_state=0), grid, cv=cv).fit(X, NOISY)
    theirs = GridSearchCV(LMRegressor(random_state=0), grid, cv=cv).fit(X, NOISY)
    for name in ("split0_test_score", "split1_test_score", "split2_test_score"):
        np.testing.assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=1e-8)
    assert is_linear(ours.best_estimator_)


def test_it_says_what_it_does(capsys):
    LMRegressor(random_state=0, verbose=1).fit(X, NOISY)
    shown = capsys.readouterr().err
    assert "Trying simple models ..." in shown
    assert "MLP(hidden_layer_sizes=(), activation='tanh') is kept." in shown


def test_an_interrupt_of_its_search_keeps_what_it_has(monkeypatch):
    original = _solving.choose_alphas

    def interrupted(fits, *given):
        if fits[0].problem.network.n_parameters > 4:
            return original(fits, *given)
        raise SearchInterrupted(np.array([0.1]), fits[0].problem.y.new_zeros(1, 4))

    for module in (_batching, _solving):
        monkeypatch.setattr(module, "choose_alphas", interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model = LMRegressor(random_state=0).fit(X[:40], NOISY[:40])
    assert is_linear(model)
    assert model.status_ == "interrupted"
    np.testing.assert_allclose(model.predict(X), NOISY[:40].mean())
    with pytest.raises(KeyboardInterrupt):
        fit_many(LMRegressor(random_state=0), X[:40], [NOISY[:40], LINE[:40]])


def test_an_interrupt_of_the_linear_model_itself(monkeypatch):
    original = _prepared.levenberg_marquardt

    def interrupted(problem, theta, **options):
        return original(problem, theta, **options).interrupted()

    monkeypatch.setattr(_prepared, "levenberg_marquardt", interrupted)
    monkeypatch.setattr(LMRegressor, "_with_alpha", None)  # what comes next
    with pytest.warns(UserWarning, match="interrupted by the user"):
        assert is_linear(LMRegressor(random_state=0, growing=False).fit(X, NOISY))
    with pytest.raises(KeyboardInterrupt):
        fit_many(LMRegressor(random_state=0, growing=False), X, [NOISY, WAVE])


@pytest.mark.parametrize("status", [Status.TIME, Status.CALLBACK])
def test_a_line_in_place_of_a_fit_that_a_limit_ended_says_so(status):
    shadow, fit = LMRegressor(random_state=0)._ready(X, NOISY)
    linear, _ = shadow._linear_result(fit)
    one = Result(*_solved(shadow, fit))
    assert _linear_model.simplest(fit, linear, one) is linear
    ended = replace(one, solution=replace(one.solution, status=[status] * len(one.solution.status)))
    kept = _linear_model.simplest(fit, linear, ended)
    assert kept.fit is linear.fit
    assert set(kept.solution.status) == {status}
    # nor is a line that was cut short itself worth anything
    cut = replace(linear, solution=replace(linear.solution, status=[status] * len(linear.solution.status)))
    assert _linear_model.simplest(fit, cut, one) is one


def _solved(shadow, fit):
    fit = shadow._with_alpha(fit, fit.folds)
    return fit, *shadow._solve(fit, None)


def test_levels_that_occur_once_say_nothing_about_the_penalty():
    """Each of them determines a parameter, so that without a penalty its row seems to be predicted exactly."""
    own = np.random.default_rng(0)
    x = own.normal(size=60)
    rows = np.c_[x, np.eye(60)[:, :20]]
    y = x + 0.5 * own.normal(size=60)
    shadow, fit = LMRegressor(random_state=0)._ready(rows, y)
    linear, _ = shadow._linear_result(fit)
    scores = linear.fit.alpha_scores
    assert min(scores[0.0], scores[1e-6]) > 0.95 * scores[0.01]  # 0.7 where such rows count as predicted
    for alpha, score in ((0.1, scores[0.1]), (1e-3, scores[1e-3])):  # as fits without each row have it
        left = [
            LMRegressor((), alpha=alpha, tol=1e-9).fit(np.delete(rows, n, 0), np.delete(y, n)).predict(rows[[n]])[0]
            for n in range(60)
        ]
        assert score == pytest.approx(0.5 * np.mean((np.array(left) - y) ** 2) / y.var(), rel=0.1)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("_is_enough", KeyboardInterrupt),
        ("_is_enough", MemoryError),
        ("_mean_left_out", KeyboardInterrupt),
        ("_mean_left_out", MemoryError),
        ("is_all_there_is", KeyboardInterrupt),
    ],
)
def test_a_fault_in_the_comparison_leaves_a_model(monkeypatch, where, error):
    def fail(*_):
        raise error("here")

    monkeypatch.setattr(_other_fits if where == "is_all_there_is" else _linear_model, where, fail)
    message = "interrupted by the user" if error is KeyboardInterrupt else "linear model could not be .*here"
    with pytest.warns(UserWarning, match=message):
        model = LMRegressor(random_state=0).fit(X, NOISY)
    assert model.score(X, NOISY) > 0.9
    assert (model.status_ == "interrupted") is (error is KeyboardInterrupt)


def test_wide_tables_have_no_time_for_it():
    wide = rng.normal(size=(40, 1200))
    assert LMRegressor(random_state=0)._ready(wide, wide[:, 0])[1].linear is None
    assert LMRegressor(random_state=0)._ready(wide[:, :100], wide[:, 0])[1].linear is not None


def test_held_out_rows_compare():
    own = np.random.default_rng(0)
    rows, weights = own.normal(size=(700, 470)), own.normal(size=470)
    y = rows @ weights + own.normal(size=700)
    model = LMRegressor(random_state=0)
    fit = model._ready(rows, y)[1]
    assert (fit.validation is not None) == (fit.folds is None)
    assert is_linear(model.fit(rows, y))


def test_a_further_fit_goes_on_with_the_line():
    model = LMRegressor(random_state=0).fit(X, LINE)
    model.partial_fit(X, LINE + 1)
    assert is_linear(model)


# -- few units where rows are held out ---------------------------------------------------------------------------


def many_columns(noise, n_rows=2500, seed=0):
    own = np.random.default_rng(seed)
    rows = own.uniform(-1, 1, (n_rows + 2000, 20))
    true = np.sin(3 * rows[:, 0]) + 2 * rows[:, 1] * rows[:, 2] + rows[:, 3]
    return rows[:n_rows], true[:n_rows] + noise * own.normal(size=n_rows), rows[n_rows:], true[n_rows:]


@pytest.fixture
def held_out(monkeypatch):
    """Tables of this size have rows held out, as larger ones do."""
    monkeypatch.setattr(_base, "SEARCHING_ROWS", 2.0)
    monkeypatch.setattr(BaseLM, "_searching_rows", 2.0)
    monkeypatch.setattr(_choosing, "SEARCH_WORK", 5e8)
    monkeypatch.setattr(_penalty, "SEARCH_WORK", 5e8)
    monkeypatch.setattr(_penalty, "QUICK_SEARCH_WORK", 3e8)


@pytest.mark.usefixtures("held_out")
def test_few_units_with_a_penalty_replace_many_with_rows_held_out():
    rows, y, new, true = many_columns(0.6)
    model = LMRegressor(random_state=0)
    fit = model._ready(rows, y)[1]
    assert fit.validation is not None
    narrower = fit.narrower()
    few = narrower.core["architecture_"].hidden_layer_sizes
    assert few[0] < fit.core["architecture_"].hidden_layer_sizes[0]
    assert narrower.validation is None
    model.fit(rows, y)
    assert model.architecture_.hidden_layer_sizes == few
    assert model.alpha_scores_ is not None
    assert model.validation_scores_ is None
    many = LMRegressor(40, early_stopping=True, random_state=0).fit(rows, y)
    errors = [np.mean((one.predict(new) - true) ** 2) for one in (model, many)]
    assert errors[0] < 0.5 * errors[1]
    with pytest.raises(CannotBatchError, match="one after the other"):
        fit.key(None)


@pytest.mark.usefixtures("held_out")
def test_a_gross_error_does_not_decide_on_units():
    rows, y, new, true = many_columns(0.6)
    y[7] += 30.0
    model = LMRegressor(random_state=0).fit(rows, y)
    assert model.validation_scores_ is None
    assert np.mean((model.predict(new) - true) ** 2) < 0.4 * true.var()


@pytest.mark.usefixtures("held_out")
def test_few_units_are_not_tried_for_equal_rows():
    rows, y, _, _ = many_columns(0.6)
    rows[1::2] = rows[::2]
    fit = LMRegressor(random_state=0)._ready(rows, y)[1]
    assert fit.validation is not None
    assert fit.narrower() is None


@pytest.mark.usefixtures("held_out")
def test_many_units_stay_where_nothing_is_left(monkeypatch):
    rows, y, _, _ = many_columns(0.0)
    monkeypatch.setattr(_other_fits.OtherFits, "_with_alpha_for_depth", None)  # would fail
    model = LMRegressor(random_state=0, max_iter=100).fit(rows, y)
    assert model.architecture_.hidden_layer_sizes[0] > 20
    assert model.validation_scores_ is not None


@pytest.mark.usefixtures("held_out")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_fault_among_few_units_leaves_many(monkeypatch, error):
    def fail(*_):
        raise error("here")

    monkeypatch.setattr(_other_fits.OtherFits, "_with_alpha_for_depth", fail)
    rows, y, _, _ = many_columns(0.6, 1500)
    message = "interrupted by the user" if error is KeyboardInterrupt else "Fewer units could not be tried: here"
    with pytest.warns(UserWarning, match=message):
        model = LMRegressor(random_state=0).fit(rows, y)
    assert model.validation_scores_ is not None
    assert (model.status_ == "interrupted") is (error is KeyboardInterrupt)


@pytest.mark.usefixtures("held_out")
@pytest.mark.parametrize(
    "options", [{"max_time": 100.0}, {"relevance": None}, {"early_stopping": True}, {"alpha": 0.0}]
)
def test_when_few_units_are_not_tried(options):
    rows, y, _, _ = many_columns(0.6)
    assert LMRegressor(random_state=0, **options)._ready(rows, y)[1].narrower is None
