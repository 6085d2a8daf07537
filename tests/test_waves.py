"""Curves that are sums of waves: frequencies by least squares, and fits that start from these."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from sklearn.model_selection import GridSearchCV, KFold

from sklm import MLP, LMGridSearchCV, LMRegressor, fit_many
from sklm._waves import Waves, _corrected, as_parameters, as_start, find_waves, losses_left_out
from sklm.optim import Status

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def times(n_points, seed=0, even=False):
    return np.linspace(0, 1, n_points) if even else np.sort(np.random.default_rng(seed).uniform(0, 1, n_points))


def signal(x, cycles=(7.3,), heights=(1.0,), phases=(0.5,), slope=0.0):
    parts = zip(cycles, heights, phases, strict=True)
    return slope * x + 3 + sum(height * np.sin(2 * np.pi * number * x + phase) for number, height, phase in parts)


def found_in(x, y, weights=None):
    Y = y[:, None] if y.ndim == 1 else y
    return find_waves(x, Y, np.ones(len(x)) if weights is None else weights)


def has_waves(model):
    return getattr(model.architecture_, "activation", None) == "sin"


# -- when they are asked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ["auto", 0])
@pytest.mark.parametrize(("n_units", "n_outputs"), [(1, 1), (2, 1), (20, 1), (2, 2), (7, 3)])
def test_sines_start_from_the_waves(n_units, n_outputs, alpha):
    x = times(200)
    Y = np.column_stack([signal(x, (12.3,), phases=(phase,)) for phase in range(n_outputs)])
    Y = Y + 0.1 * np.random.default_rng(0).normal(size=Y.shape)
    model = LMRegressor(n_units, activation="sin", alpha=alpha, random_state=0).fit(x[:, None], Y.squeeze())
    true = np.column_stack([signal(x, (12.3,), phases=(phase,)) for phase in range(n_outputs)])
    assert np.mean((model.predict(x[:, None]).reshape(200, -1) - true) ** 2) < 0.1**2 * 3 * n_units * 2 / 200 + 1e-4


def test_a_start_has_the_highest_waves_that_its_units_are_enough_for():
    x, own = times(300), np.random.default_rng(0)
    Y = np.column_stack([signal(x, (30.0, 9.2, 4.1), (0.3, 1.0, 0.6), (0, 1, 2), slope=2.0), signal(x, (9.2,))])
    waves, weights = found_in(x, Y), own.uniform(0.5, 1, 300)
    np.testing.assert_allclose(waves.frequencies / (2 * np.pi), [9.2, 4.1, 30.0], rtol=1e-8)
    assert [waves.within(number, 2).n_units(2) for number in (1, 2, 3, 4, 7, 10)] == [0, 2, 3, 4, 7, 7]
    for n_units, left in ((2, 3.0), (3, 2.0), (7, 2e-3), (10, 2e-3)):  # the slope is a sine
        theta = own.normal(size=2 * n_units + 2 * (n_units + 1))
        as_start(theta, waves, n_units, x, Y, weights)
        network = MLP((n_units,), "sin").build(1, 2)
        outputs = network.forward(torch.tensor(theta)[None], torch.tensor(x)[None], derivatives=False).outputs[0]
        assert 0 < np.abs(outputs.numpy().T - Y).max() < left
        if n_units == 10:  # the others are silent, and may become what they like
            assert not theta[20:40].reshape(2, 10)[:, 7:].any()
            assert theta[7:10].all()


@pytest.mark.parametrize(
    "options", [{"init": "normal"}, {"activation": "tanh"}, {"hidden_layer_sizes": (2, 2)}, {"loss": "huber"}]
)
def test_other_starts_stay(options):
    x = times(100)
    model = LMRegressor(**{"hidden_layer_sizes": 2, "activation": "sin", "random_state": 0, **options})
    fit = model._ready(x[:, None], signal(x, (12.3,)))[1]
    frequency = np.abs(fit.theta[0, 0]) * fit.core["x_inverse_scale_"][0] / (2 * np.pi)
    assert not 12 < frequency < 12.6


# -- frequencies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 4.0])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("n_points", [40, 200, 5000])
def test_without_noise_frequencies_are_found_to_rounding(n_points, even, slope):
    x, cycles = times(n_points, even=even), (2.7, 11.4)
    waves = found_in(x, signal(x, cycles, (1.0, 0.3), (0.5, 2.0), slope))
    np.testing.assert_allclose(np.sort(waves.frequencies), 2 * np.pi * np.array(cycles), rtol=1e-9)
    assert waves.slopes is (slope != 0)


@pytest.mark.parametrize("n_points", [60, 300])
def test_with_noise_frequencies_are_those_of_least_squares(n_points):
    x = times(n_points)
    y = signal(x) + 0.3 * np.random.default_rng(1).normal(size=n_points)
    (frequency,) = found_in(x, y).frequencies

    def errors(p):
        return p[0] + p[1] * x + p[2] * np.sin(p[3] * x + p[4]) - y

    known = least_squares(errors, [3, 0, 1, 2 * np.pi * 7.3, 0.5], xtol=1e-12, ftol=1e-14, gtol=1e-12)
    assert frequency == pytest.approx(known.x[3], rel=1e-5)


def test_corrections_go_downhill_only():
    x = times(50)
    y = signal(x)[:, None]
    far = np.array([2 * np.pi * 20.0])  # from another valley
    near = _corrected(x, y, np.ones((50, 1)), np.array([2 * np.pi * 7.0]))
    np.testing.assert_allclose(near, 2 * np.pi * 7.3, rtol=1e-9)
    assert np.isfinite(_corrected(x, y, np.ones((50, 1)), far)).all()


@pytest.mark.parametrize("even", [False, True])
def test_noise_has_no_waves(even):
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hits += found_in(times(80, seed, even), rng.normal(size=80)) is not None
    assert hits <= 3


@pytest.mark.parametrize("curve", [lambda x: x, np.exp, lambda x: 1 / (1 + 25 * (x - 0.5) ** 2), lambda x: 0 * x])
def test_less_than_two_cycles_are_no_waves(curve):
    x = times(100)
    waves = found_in(x, curve(x) + 0.05 * np.random.default_rng(0).normal(size=100))
    assert waves is None or waves.frequencies.max() >= 4 * np.pi


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize(
    "curve", [lambda x: np.exp(-3 * x), lambda x: x / (0.3 + x), lambda x: np.tanh(4 * (x - 0.4)), lambda x: x**3]
)
def test_what_does_not_oscillate_is_no_wave(curve, noise):
    x = times(300)
    y = curve(x) + noise * np.random.default_rng(0).normal(size=300)
    assert found_in(x, y) is None
    waves = found_in(x, y + 0.2 * np.sin(2 * np.pi * 9.0 * x))  # on top of that
    assert np.min(np.abs(waves.frequencies / (2 * np.pi) - 9.0)) < 0.1


@pytest.mark.parametrize("jitter", [0.0, 1e-5])
@pytest.mark.parametrize("cycles", [2.3, 6.0])
def test_frequencies_that_repeated_places_cannot_tell_are_not_looked_for(cycles, jitter):
    """At 20 places, ten points each, a wave of 2.3 cycles is also one of 16.7, of 21.3, ..."""
    rng = np.random.default_rng(0)
    x = np.repeat(np.linspace(0, 1, 20, endpoint=False), 10) + jitter * rng.normal(size=200)
    y = signal(x, (cycles,)) + 0.3 * rng.normal(size=200)
    waves = found_in(x, y)
    np.testing.assert_allclose(waves.frequencies, 2 * np.pi * cycles, rtol=0.05)
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    new = np.linspace(0, 0.95, 500)
    assert np.mean((model.predict(new[:, None]) - signal(new, (cycles,))) ** 2) < 0.02


def test_too_few_points_have_none():
    x = times(14)
    assert found_in(x, signal(x, (2.5,))) is None
    assert found_in(np.ones(50), np.arange(50.0)) is None
    assert found_in(times(50), np.ones(50)) is None


def test_points_without_weight_do_not_count():
    x = times(100)
    y, weights = signal(x), np.ones(100)
    y[::7], weights[::7] = 50.0, 1e-12
    np.testing.assert_allclose(found_in(x, y, weights).frequencies, 2 * np.pi * 7.3, rtol=1e-6)


@pytest.mark.parametrize("decades", [0.5, 1.0, 3.0])
def test_points_of_little_weight_are_no_evidence(decades):
    for seed in range(10):
        own = np.random.default_rng(seed)
        x, weights, noise = times(200, seed), 10 ** own.uniform(-decades, decades, 200), own.normal(size=200)
        assert found_in(x, noise, weights) is None
        assert found_in(x, noise / np.sqrt(weights), weights) is None
        waves = found_in(x, signal(x) + 0.2 * noise / np.sqrt(weights / np.median(weights)), weights)
        np.testing.assert_allclose(waves.frequencies, [2 * np.pi * 7.3], rtol=0.01)


def test_a_point_that_is_repeated_is_one_that_weighs():
    x, own = times(60), np.random.default_rng(1)
    y, counts = signal(x) + 0.3 * own.normal(size=60), own.integers(1, 6, 60)
    weighed = LMRegressor(random_state=0).fit(x[:, None], y, sample_weight=counts)
    repeated = LMRegressor(random_state=0).fit(np.repeat(x, counts)[:, None], np.repeat(y, counts))
    assert weighed.architecture_ == repeated.architecture_ == MLP((1,), "sin")
    np.testing.assert_allclose(weighed.predict(x[:, None]), repeated.predict(x[:, None]), atol=1e-8)
    noise = np.repeat(own.normal(size=40), 5)
    assert found_in(np.repeat(times(40), 5), noise) is None


@pytest.mark.parametrize("far", [[3.0], [10.0, 11.0], 1000 + np.linspace(0, 1, 150)])
def test_gaps_do_not_count(far):
    x = np.r_[np.linspace(0, 1, 150), far]
    waves = found_in(x, signal(x) + 0.1 * np.random.default_rng(0).normal(size=len(x)))
    np.testing.assert_allclose(waves.frequencies, [2 * np.pi * 7.3], rtol=0.01)


@pytest.mark.parametrize(("n_nights", "night", "n_points", "period"), [(4, 5.0, 25, 0.7), (10, 8.0, 20, 1.5)])
@pytest.mark.parametrize("even", [False, True])
def test_waves_of_many_seasons_may_be_as_fast_as_points_are_dense(n_nights, night, n_points, period, even):
    own = np.random.default_rng(0)
    x = np.concatenate([24 * number + night * times(n_points, number, even) for number in range(n_nights)])
    (frequency,) = found_in(x, np.sin(2 * np.pi * x / period + 1) + 0.2 * own.normal(size=len(x))).frequencies
    if even:  # a whole number of waves more or less between nights is as good
        frequency += 2 * np.pi / 24 * round((2 * np.pi / period - frequency) / (2 * np.pi / 24))
    assert frequency == pytest.approx(2 * np.pi / period, rel=2e-3)
    assert found_in(x, own.normal(size=len(x))) is None


def test_a_slope_far_from_zero():
    x = times(100) + 1e4
    y = signal(x - 1e4, slope=3.0)
    waves = found_in(x, y)
    theta = as_parameters(waves, x, y[:, None], np.ones(100))
    network = MLP((waves.n_units(1),), "sin").build(1, 1)
    outputs = network.forward(torch.tensor(theta)[None], torch.tensor(x)[None], derivatives=False).outputs[0, 0]
    np.testing.assert_allclose(outputs.numpy(), y, atol=2e-3)  # the slope is a sine


def test_outputs_share_frequencies():
    x = times(80)
    Y = np.c_[signal(x), signal(x, phases=(2.0,), heights=(0.2,)), np.zeros(80)]
    waves = found_in(x, Y)
    np.testing.assert_allclose(waves.frequencies, [2 * np.pi * 7.3], rtol=1e-9)
    assert waves.n_units(3) == 2


def test_noise_that_outputs_share_is_no_wave():
    hits = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(size=(80, 1))
        hits += found_in(times(80, seed), noise @ [[1.0, 2.0, -1.0, 0.5]]) is not None
    assert hits <= 2


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_parameters_are_the_waves(n_outputs, slopes):
    x, rng = times(60), np.random.default_rng(0)
    waves, weights = Waves(2 * np.pi * np.array([3.3, 8.1]), slopes), rng.uniform(0.5, 2, 60)
    Y = rng.normal(size=(60, n_outputs))
    network = MLP((waves.n_units(n_outputs),), "sin").build(1, n_outputs)
    theta = as_parameters(waves, x, Y, weights)
    outputs = network.forward(torch.from_numpy(theta)[None], torch.from_numpy(x)[None]).outputs[0].mT.numpy()
    phases = x[:, None] * waves.frequencies
    columns = np.c_[np.ones(60), np.sin(phases), np.cos(phases)]
    columns = np.c_[columns, x] if slopes else columns
    root = np.sqrt(weights)[:, None]
    expected = columns @ np.linalg.lstsq(root * columns, root * Y, rcond=None)[0]
    np.testing.assert_allclose(outputs, expected, atol=2e-3 if slopes else 1e-12)


def test_losses_of_folds_are_of_points_that_nobody_saw():
    x = times(60)
    y = signal(x)[:, None]
    of_row = np.arange(60) % 5
    np.testing.assert_allclose(losses_left_out(x, y, np.ones(60), of_row, 5), 0, atol=1e-20)
    y[of_row == 2] += 1.0
    losses = losses_left_out(x, y, np.ones(60), of_row, 5)
    assert losses[2] == pytest.approx(0.5, rel=0.3)
    assert losses_left_out(x, np.random.default_rng(0).normal(size=(60, 1)), np.ones(60), of_row, 5) is None


# -- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_points", [30, 62, 400])
@pytest.mark.parametrize("cycles", [(3.2,), (11.0, 4.3)])
def test_without_noise_waves_are_the_fit_at_once(n_points, cycles, monkeypatch):
    monkeypatch.setattr(LMRegressor, "_with_alpha", None)  # a hidden layer is not tried
    if n_points == 30:
        cycles = cycles[-1:]
    x, own = times(n_points), (np.ones(len(cycles)), np.arange(len(cycles)))
    model = LMRegressor(random_state=0).fit(x[:, None], signal(x, cycles, *own))
    new = np.linspace(-1, 2, 300)  # beyond the points, too
    assert has_waves(model)
    np.testing.assert_allclose(model.predict(new[:, None]), signal(new, cycles, *own), atol=1e-9)
    assert model.converged_


def assert_is_the_formula(x, number, noise):
    new = np.linspace(0.02, 0.98, 1000)
    y = signal(x, (number,)) + noise * np.random.default_rng(2).normal(size=len(x))
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert has_waves(model)
    assert np.mean((model.predict(new[:, None]) - signal(new, (number,))) ** 2) < 4 * noise**2 * 5 / len(x)


@pytest.mark.parametrize(("n_points", "number"), [(20, 3.0), (40, 6.0), (300, 30.0), (2500, 80.0), (20_000, 500.0)])
def test_with_noise_the_error_is_that_of_few_parameters(n_points, number):
    assert_is_the_formula(times(n_points, 1), number, 0.2)


@pytest.mark.parametrize("n_points", [300, 1000])
@pytest.mark.parametrize("number", [3.3, 7.6])
def test_they_are_kept_where_a_hidden_layer_is_near_the_noise_by_itself(n_points, number):
    assert_is_the_formula(times(n_points, 3), number, 0.3)


def heartbeat(x, periods=5.0):
    return np.exp(-0.5 * (((x * periods) % 1 - 0.5) / 0.03) ** 2)


def test_a_pulse_a_period_is_many_waves():
    x, new = times(300, 4), np.linspace(0.02, 0.98, 1000)
    y = heartbeat(x) + 0.005 * np.random.default_rng(0).normal(size=300)
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert has_waves(model)
    assert np.mean((model.predict(new[:, None]) - heartbeat(new)) ** 2) < 0.005**2


@pytest.mark.parametrize(("n_points", "are_all"), [(60, False), (300, True)])
def test_it_is_known_whether_there_are_more(n_points, are_all):
    x = times(n_points, 4)
    waves = found_in(x, np.exp(2 * np.sin(2 * np.pi * 3 * x)))
    assert waves.are_all is are_all
    assert 3 * (2 + 3 * len(waves.frequencies)) <= n_points
    assert waves.times(2.0).are_all is are_all


def test_more_waves_than_there_may_be_have_to_be_far_better():
    x = times(3000)
    y = sum(1 / (1 + ((x - centre) / 0.01) ** 2) for centre in (0.1, 0.25, 0.4, 0.62, 0.7, 0.9))
    y = y + 0.02 * np.random.default_rng(0).normal(size=3000)
    model = LMRegressor(random_state=0)
    fit = model._ready(x[:, None], y)[1]
    assert fit.linear.has_more_waves
    assert not fit.linear.by_rows  # near points
    assert not has_waves(model.fit(x[:, None], y))


def test_error_bars_are_those_of_the_formula():
    x = times(100)
    y = signal(x) + 0.2 * np.random.default_rng(3).normal(size=100)
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert has_waves(model)
    assert model.noise_std_ == pytest.approx(0.2, rel=0.25)
    new = np.linspace(0, 1, 500)
    predicted, deviation = model.predict(new[:, None], return_std=True)
    targets = signal(new) + 0.2 * np.random.default_rng(4).normal(size=500)
    assert 0.91 < np.mean(np.abs(targets - predicted) < 1.96 * deviation) < 0.98


def test_a_season_on_a_slope_with_several_outputs():
    x = times(150)
    Y = np.c_[signal(x, slope=5.0), signal(x, phases=(2.0,))] + 0.1 * np.random.default_rng(0).normal(size=(150, 2))
    model = LMRegressor(random_state=0).fit(x[:, None], Y)
    assert has_waves(model)
    true = np.c_[signal(x, slope=5.0), signal(x, phases=(2.0,))]
    assert np.sqrt(np.mean((model.predict(x[:, None]) - true) ** 2)) < 0.05


@pytest.mark.parametrize(
    "curve",
    [
        lambda x: np.exp(-50 * (x - 0.4) ** 2),
        lambda x: np.floor(4 * x) ** 2,
        lambda x: np.sqrt(x * (1 - x)) * np.sin(2.1 * np.pi / (x + 0.05)),
        lambda x: np.sin(3 * x),
    ],
)
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_other_curves_keep_their_hidden_layer(curve, noise):
    x = times(200)
    y = curve(x) / np.std(curve(x)) + noise * np.random.default_rng(0).normal(size=200)
    assert not has_waves(LMRegressor(random_state=0, max_iter=200).fit(x[:, None], y))


@pytest.mark.parametrize(
    "options", [{"activation": "tanh"}, {"hidden_layer_sizes": 5}, {"alpha": 1e-3}, {"loss": "huber"}]
)
def test_what_you_have_chosen_stays(options):
    x = times(60)
    assert not has_waves(LMRegressor(random_state=0, max_iter=50, **options).fit(x[:, None], signal(x)))


def test_with_rows_held_out_waves_are_not_looked_for():
    x, rng = np.random.default_rng(0).uniform(0, 1, (2000, 1)), np.random.default_rng(1)
    Y = np.sin(x * rng.uniform(10, 40, 50)) + 0.05 * rng.normal(size=(2000, 50))
    fit = LMRegressor(random_state=0)._ready(x, Y)[1]
    assert fit.validation is not None
    made = [make().core["architecture_"] for make in fit.linear.makes]
    assert made == [MLP(())]  # nor polynomials of so many outputs


def test_many_fits_are_those_one_by_one():
    x, rng = times(80), np.random.default_rng(0)
    targets = [signal(x), signal(x, (12.0,)) + 0.2 * rng.normal(size=80), np.exp(x) + 0.1 * rng.normal(size=80)]
    together = fit_many(LMRegressor(random_state=0), x[:, None], targets)
    assert [has_waves(model) for model in together] == [True, True, False]
    for model, y in zip(together, targets, strict=True):
        alone = LMRegressor(random_state=0).fit(x[:, None], y)
        np.testing.assert_allclose(model.predict(x[:, None]), alone.predict(x[:, None]), rtol=1e-5, atol=1e-5)


def test_a_grid_search_scores_as_scikit_learns():
    x = times(90)
    y = signal(x) + 0.2 * np.random.default_rng(0).normal(size=90)
    grid, cv = {"max_iter": [50, 100]}, KFold(3, shuffle=True, random_state=0)
    ours = LMGridSearchCV(LMRegressor(random_state=0), grid, cv=cv).fit(x[:, None], y)
    theirs = GridSearchCV(LMRegressor(random_state=0), grid, cv=cv).fit(x[:, None], y)
    assert has_waves(ours.best_estimator_)
    for name in ("split0_test_score", "split1_test_score", "split2_test_score"):
        np.testing.assert_allclose(ours.cv_results_[name], theirs.cv_results_[name], rtol=1e-8)


def test_it_is_said(capsys):
    x = times(80)
    LMRegressor(random_state=0, verbose=1).fit(x[:, None], signal(x) + 0.2 * np.random.default_rng(0).normal(size=80))
    assert "MLP(hidden_layer_sizes=(1,), activation='sin') is kept." in capsys.readouterr().err


def test_a_further_fit_goes_on_with_the_waves():
    x = times(80)
    model = LMRegressor(random_state=0, warm_start=False).fit(x[:, None], signal(x))
    model.set_params(warm_start=True).fit(x[:, None], signal(x) + 0.5)
    assert has_waves(model)
    assert model.score(x[:, None], signal(x) + 0.5) > 1 - 1e-6
    assert model.status_ != Status.MAX_ITER.value
