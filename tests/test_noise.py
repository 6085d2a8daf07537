"""Noise of a curve from its neighbours, and what a fit spares itself where that is known."""

import numpy as np
import pytest

from sklm import LMRegressor, _alpha_search
from sklm._noise import noise_of_curve
from sklm._prepared import Prepared


def curve(n_samples, noise, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n_samples)
    return x, np.sin(4 * x) + noise * rng.normal(size=n_samples)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_the_variance_of_noise_is_found(noise, seed):
    x, y = curve(3000, noise, seed)
    assert noise_of_curve(x, y[:, None]).mean == pytest.approx(noise**2, rel=0.1)
    assert noise_of_curve(x, np.column_stack([y, 2 * y])).mean == pytest.approx(5 * noise**2, rel=0.1)


def test_the_order_and_units_of_points_make_no_difference():
    x, y = curve(200, 0.1)
    expected, mixed = noise_of_curve(x, y[:, None]), np.random.default_rng(1).permutation(200)
    assert noise_of_curve(1e6 * x[mixed] - 7, 3 * y[mixed, None] + 5).mean == pytest.approx(9 * expected.mean, rel=1e-9)


def test_a_line_through_equal_points():
    x = np.repeat(np.arange(20.0), 5)
    y = 2 * x + np.random.default_rng(0).normal(size=100)
    assert 0.5 < noise_of_curve(x, y[:, None]).mean < 1.5


def test_what_varies_between_neighbours_is_not_noise():
    x, y = curve(200, 0.0)
    assert not noise_of_curve(x, y[:, None]).is_certain
    assert not noise_of_curve(x, np.sin(60 * x)[:, None] + 0.1 * (y[:, None] - np.sin(4 * x)[:, None])).is_certain


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_jump_is_not_noise(noise):
    x, y = curve(300, noise)
    found = noise_of_curve(x, (y - np.sin(4 * x) + (x > 0.1))[:, None])
    assert not found.is_certain
    assert found.mean > 4 * found.median
    assert 0.45 * noise**2 == pytest.approx(found.median, rel=0.3, abs=1e-20)


@pytest.mark.parametrize("seed", range(5))
def test_a_fast_wave_of_uneven_points_limits_the_noise(seed):
    """Farther neighbours say as much more as the squares of their distances do."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, 400)
    y = np.sin(2 * np.pi * 25 * x) + 0.1 * rng.normal(size=400)
    noise = noise_of_curve(x, y[:, None])
    assert noise.limits_mean
    assert 0.01 < noise.mean < 0.05


def test_few_points_are_no_certain_sign():
    x, y = curve(49, 0.1)
    assert noise_of_curve(x[:39], y[:39, None]) is None
    assert not noise_of_curve(x, y[:, None]).is_certain


def test_a_known_loss_of_noise_is_in_the_units_of_the_engine():
    x, y = curve(1000, 0.2)
    for Y, expected in ((y, 0.04 / y.var()), (np.column_stack([y, 10 * y]), 0.04 / y.var())):
        _, fit = LMRegressor(random_state=0)._ready(x[:, None], Y)
        assert fit.noise.is_certain
        assert fit.noise.mean == pytest.approx(expected * float(fit.problem.null_loss()[0]), rel=0.15)
    for X, options, weight in ((np.column_stack([x, y]), {}, None), (x[:, None], {"loss": "huber"}, None)):
        assert LMRegressor(random_state=0, **options)._ready(X, y, weight)[1].noise is None
    assert LMRegressor(random_state=0)._ready(x[:, None], y, 1.0 + (x > 0))[1].noise is None


@pytest.mark.parametrize("known", [True, False])
def test_curves_at_the_level_of_their_noise_are_not_fitted_in_other_ways(monkeypatch, known):
    asked = []

    def recorded(owner, name):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: asked.append(name) or original(*given))

    recorded(_alpha_search, "by_all_rows")
    recorded(LMRegressor, "_with_alpha_for_depth")
    if not known:
        monkeypatch.setattr(Prepared, "is_noise", lambda self, loss: False)
    x, y = curve(200, 0.05)
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert asked == ([] if known else ["by_all_rows", "_with_alpha_for_depth"])
    assert model.score(x[:, None], np.sin(4 * x)) > 0.998


def test_no_further_starts_join_at_the_level_of_noise(monkeypatch):
    x, y = curve(1000, 0.003)  # little enough for no penalty
    monkeypatch.setattr(Prepared, "joined", lambda self: pytest.fail("there is nothing to be gained"))
    model = LMRegressor(random_state=0).fit(x[:, None], y)
    assert model.alpha_ == 0
    assert model.noise_std_ == pytest.approx(0.003, rel=0.1)
    assert model.score(x[:, None], np.sin(4 * x)) > 0.99999
