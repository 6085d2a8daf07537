"""Curves that leave far more or less than what neighbouring points say is noise are fitted again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklm import LMRegressor, _discrepancy, fit_many
from sklm._depth import Result
from sklm._discrepancy import down_to_noise
from sklm._noise import Noise
from sklm.optim import Status

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def wave(periods=15, seed=0):
    x = np.linspace(0, periods, 20 * periods)
    return x[:, None], np.sin(2 * np.pi * x) + 0.1 * np.random.default_rng(seed).normal(size=len(x))


def titration(seed=0):
    x = np.linspace(0, 50, 60)
    true = 7 + 3 * np.tanh(3 * (x - 25)) + 0.05 * x
    return x[:, None], true + 0.05 * np.random.default_rng(seed).normal(size=60), true


def doses(seed):
    """Without logarithms nearly all are in a hundredth of the range."""
    rng = np.random.default_rng(seed)
    x = np.sort(np.exp(rng.uniform(np.log(0.1), np.log(1000), 60)))
    return x[:, None], x**4 / (x**4 + 1e4) + 0.03 * rng.normal(size=60)


# -- what it brings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_wave_of_many_periods_is_not_taken_for_noise(seed):
    X, y = wave(seed=seed)
    model = LMRegressor(activation="tanh", random_state=0).fit(X, y)
    new = np.linspace(0, 15, 2000)
    assert np.std(model.predict(new[:, None]) - np.sin(2 * np.pi * new)) < 0.08  # 0.7 is that of the mean


def test_a_steep_rise_of_few_points_has_a_small_penalty():
    errors = []
    for seed in range(6):
        X, y, true = titration(seed)
        errors.append(np.sqrt(np.mean((LMRegressor(random_state=0).fit(X, y).predict(X) - true) ** 2)))
    assert np.mean(np.array(errors) < 0.2) > 0.6  # all were above 0.28 before; few points may not tell their noise


def test_noise_that_goes_on_from_point_to_point_is_not_followed_further():
    rng, x = np.random.default_rng(2), np.linspace(-1, 1, 500)
    noise = rng.normal(size=500)
    for n in range(1, 500):
        noise[n] = 0.8 * noise[n - 1] + 0.6 * noise[n]
    fit = LMRegressor(random_state=0)._ready(x[:, None], np.sin(3 * x) + 0.3 * noise)[1]
    assert not fit.noise.limits_mean
    assert not fit.noise.limits_median
    assert not fit.noise.is_certain


@pytest.mark.parametrize("seed", [3, 8])
def test_a_fit_that_memorises_gets_a_penalty(seed):
    X, y = doses(seed)
    model = LMRegressor(random_state=0).fit(X, y)
    new = np.exp(np.linspace(np.log(0.1), np.log(1000), 1000))
    error = np.sqrt(np.mean((model.predict(new[:, None]) - new**4 / (new**4 + 1e4)) ** 2))
    assert error < 0.06  # 0.43 and 0.21 before
    assert model.alpha_ > 1e-7


@pytest.mark.parametrize("seed", [3, 13, 20])
def test_a_decay_of_fewer_points_than_parameters_has_no_spikes(seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 1, 50))
    true = np.exp(-30 * x) + 0.1 * np.exp(-2 * x)
    model = LMRegressor(random_state=0).fit(x[:, None], true + 0.02 * true.std() * rng.normal(size=50))
    between = np.linspace(x[0], x[-1], 1000)
    error = model.predict(between[:, None]) - np.exp(-30 * between) - 0.1 * np.exp(-2 * between)
    assert np.abs(error).max() < 0.3  # 5 to 20 before
    assert model.alpha_ > 0


def steps(seed):
    rng = np.random.default_rng(seed)
    jumps, levels = np.sort(rng.uniform(0, 1, 6)), rng.normal(size=7)
    x = rng.uniform(0, 1, 500)
    return x[:, None], levels[np.searchsorted(jumps, x)]


@pytest.mark.parametrize("slope", [0.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_what_a_spike_is(slope, noise):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-1, 1, 60))
    y = slope * x + np.sin(3 * x) + noise * rng.normal(size=60)
    fit = LMRegressor(3, random_state=0)._ready(x[:, None], y)[1].of_starts(1)
    solution = LMRegressor(3, random_state=0)._solve(fit.limited(max_iter=1), None)[0]
    network, gap = fit.problem.network, np.argmax(np.diff(x))
    steepness, place = 20 / np.diff(x)[gap], (x[gap] + x[gap + 1]) / 2

    def has_spikes(height):
        """Of a straight line and two units that are a hump of so many deviations in the widest gap."""
        theta = torch.zeros_like(solution.theta)
        inputs, biases, outputs = network.layers[0].weight, network.layers[0].bias, network.layers[1].weight
        scale, mean = fit.core["x_inverse_scale_"][0], fit.core["x_mean_"][0]
        for unit, sign in enumerate((1.0, -1.0)):
            theta[:, inputs.start + unit] = steepness / scale
            theta[:, biases.start + unit] = sign - steepness * (place - mean)
            theta[:, outputs.start + unit] = sign * height / (2 * np.tanh(1.0))
        theta[:, inputs.start + 2], theta[:, outputs.start + 2] = 1e-3, 1e3 * slope
        return _discrepancy._has_spikes(Result(fit, replace(solution, theta=theta), 0))

    assert not has_spikes(0.0)
    assert not has_spikes(0.5)
    assert has_spikes(10.0)
    assert has_spikes(-10.0)


@pytest.mark.parametrize("seed", [4])
def test_steps_without_noise_have_no_spikes(seed, monkeypatch):
    X, y = steps(seed)
    errors = {}
    for name in ("after", "before"):
        if name == "before":
            monkeypatch.setattr(_discrepancy, "SPIKES", np.inf)
        model = LMRegressor(20, random_state=0, max_iter=300).fit(X, y)
        new = np.linspace(X.min(), X.max(), 5000)
        jumps = np.interp(new, np.sort(X[:, 0]), y[np.argsort(X[:, 0])])
        errors[name] = np.abs(model.predict(new[:, None]) - jumps).max() / y.std()
    assert errors["after"] < 4
    assert errors["before"] >= errors["after"]


def test_of_spikes_the_least_penalty_is_tried_first_where_none_is_at_the_noise():
    case = _discrepancy._Case(0, Noise(1.0, 1.0, True), None, False, has_spikes=True)
    case.passed = {1e-2: False, 1e-4: False, 1e-6: True, 1e-8: True}
    case.spikes = {1e-2: False, 1e-4: False, 1e-6: False, 1e-8: True}
    assert case.enough == [1e-6, 1e-4, 1e-2]
    case.has_spikes = False
    assert case.enough == [1e-6]


@pytest.mark.parametrize("n_rows", [2000, 7000])
def test_noise_is_known_of_many_points(n_rows):
    """A search takes a part of them, whose points are near each other; of very many there is none."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 20, n_rows)
    fit = LMRegressor(random_state=0)._ready(x[:, None], np.sin(2 * np.pi * x) + 0.1 * rng.normal(size=n_rows))[1]
    assert (fit.folds is None) is (n_rows == 7000)
    assert fit.noise.is_certain
    assert fit.noise.mean == pytest.approx(0.02 * float(fit.problem.null_loss()[0]), rel=0.2)
    assert fit.wider is not None


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True},
        {"alpha": 1e-3},
        {"target_loss": 1e-3},
        {"architecture": torch.nn.Linear(1, 1)},
        {"batch_size": 500},
        {"optimizer": "lbfgs"},
        {"loss": "huber"},
    ],
)
def test_what_you_have_chosen_is_left_alone(options):
    x = np.random.default_rng(0).uniform(0, 20, 2000)
    assert LMRegressor(random_state=0, **options)._ready(x[:, None], np.sin(2 * np.pi * x))[1].noise is None


def test_how_long_it_may_take():
    work = _discrepancy._work
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 3000)
    fit = LMRegressor(random_state=0)._ready(x[:, None], rng.normal(size=3000))[1]
    assert work(fit) == 3000 * 61**2
    assert work(fit.wider(3)) == 3000 * 181**2


def test_units_that_were_given_stay_as_many():
    X, y = wave(11)
    model = LMRegressor(20, random_state=0).fit(X, y)
    assert model.architecture_.hidden_layer_sizes == 20
    assert model.score(X, y) > 0.9


def test_more_units_where_no_penalty_is_small_enough():
    X, y = wave(20)
    model = LMRegressor(activation="tanh", random_state=0).fit(X, y)  # without sines that start from the wave
    assert model.architecture_.hidden_layer_sizes[0] >= 60
    assert np.std(model.predict(X) - np.sin(2 * np.pi * X[:, 0])) < 0.08


def test_many_curves_are_fitted_as_one_by_one():
    X, y = wave()
    tanh = LMRegressor(activation="tanh", random_state=0)
    targets = [y, np.cos(3 * X[:, 0]), np.random.default_rng(0).normal(size=len(y)), y[::-1]]
    together = fit_many(tanh, X, targets)
    for model, target in zip(together, targets, strict=True):
        one = clone(tanh).fit(X, target)
        assert model.alpha_ == one.alpha_
        np.testing.assert_allclose(model.predict(X), one.predict(X), atol=1e-5)
    assert together[0].score(X, targets[0]) > 0.95


def test_it_is_said(capsys):
    LMRegressor(random_state=0, verbose=1).fit(*titration(1)[:2])
    assert "by the noise between neighbours" in capsys.readouterr().err


# -- the rule -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stiff():
    """A prepared wave with a penalty that is far too large, and its result."""
    X, y = wave(5)
    shadow, fit = LMRegressor(random_state=0)._ready(X, y)
    fit = replace(fit, folds=None, **fit.penalised(0.1))
    return shadow, Result(fit, *shadow._solve(fit, None))


def solver(shadow, seen, status=None):
    def solve(fits):
        seen.extend((fit.alpha, len(fit.theta), fit.problem.network.n_parameters) for fit in fits)
        done = [Result(fit, *shadow._solve(fit, None)) for fit in fits]
        if status is None:
            return done
        return [replace(r, solution=replace(r.solution, status=[status] * len(r.solution.status))) for r in done]

    return solve


def test_the_largest_penalty_that_leaves_no_more_than_the_noise(stiff):
    shadow, old = stiff
    tried, solved = [], []
    (new,) = down_to_noise([old], old.fit.options["stopping"], solver(shadow, tried), solver(shadow, solved))
    assert [alpha for alpha, *_ in tried] == pytest.approx([1e-2, 1e-4, 1e-6, 1e-8, 3e-3, 1e-3, 3e-4])
    assert {starts for _, starts, _ in tried} == {1}
    assert [(alpha, starts) for alpha, starts, _ in solved] == [(new.fit.alpha, 4)]
    noise = old.fit.noise.mean
    assert old.fit.losses(old.solution, old.row).mean() > 10 * noise
    assert 0.5 * noise < new.fit.losses(new.solution, new.row).mean() <= 1.25 * noise
    assert new.fit.alpha in (1e-4, pytest.approx(3e-4))


def test_a_fit_at_the_level_of_noise_is_left_alone(stiff):
    shadow, old = stiff
    fit = replace(old.fit, **old.fit.penalised(1e-4))
    result = Result(fit, *shadow._solve(fit, None))
    assert down_to_noise([result], fit.options["stopping"], None, None) == [result]


@pytest.mark.parametrize(
    ("noise", "off"),
    [
        (None, False),
        (Noise(0.0, 0.0, False), False),
        (Noise(2.0, 1.0, True), True),  # the loss is far less
        (Noise(2.0, 1.0, False), False),
    ],
)
def test_when_a_fit_is_off(stiff, noise, off):
    _, old = stiff
    mean = old.fit.losses(old.solution, old.row).mean()
    scaled = noise and noise.times(mean * 2)
    case = _discrepancy._case(0, replace(old, fit=replace(old.fit, noise=scaled)))
    assert (case is not None) is off


@pytest.mark.parametrize("where", ["tried", "solved"])
@pytest.mark.parametrize("status", [Status.TIME, Status.INTERRUPTED])
def test_what_ends_it_is_said_of_what_is_kept(stiff, status, where):
    shadow, old = stiff
    try_out = solver(shadow, [], status if where == "tried" else None)
    solve = solver(shadow, [], status if where == "solved" else None)
    (kept,) = down_to_noise([old], old.fit.options["stopping"], try_out, solve)
    assert kept.fit is old.fit
    assert set(kept.solution.status) == {status}


def test_a_further_attempt_where_several_starts_end_elsewhere(stiff):
    """The penalty was found with one start."""
    shadow, old = stiff
    solved, solve = [], solver(stiff[0], [])

    def worse_at_first(fits):
        solved.extend(fit.alpha for fit in fits)
        if len(solved) == 1:
            return [replace(old, fit=fits[0])]
        return solve(fits)

    (new,) = down_to_noise([old], old.fit.options["stopping"], solver(shadow, []), worse_at_first)
    assert len(solved) == 2
    assert solved[1] < solved[0]
    assert new.fit.alpha == solved[1]


def test_without_memory_a_warning(stiff):
    _, old = stiff

    def no_room(fits):
        raise MemoryError("no room")

    with pytest.warns(UserWarning, match="could not be fitted down to its noise: no room"):
        assert down_to_noise([old], old.fit.options["stopping"], no_room, no_room) == [old]


def test_callbacks_see_the_fit_that_is_kept(monkeypatch):
    X, y, _ = titration(1)
    shown = []
    refined = LMRegressor._refined

    def noted(self, asked, plain, result, stopping, listener, fits):
        kept = refined(self, asked, plain, result, stopping, listener, fits)
        shown.append(fits[-1] is kept.fit)
        return kept

    monkeypatch.setattr(LMRegressor, "_refined", noted)
    LMRegressor(random_state=0).fit(X, y)
    assert shown == [True]
