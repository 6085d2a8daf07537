"""Batches that come one after the other: what ``partial_fit`` remembers of those before."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss, r2_score

from sklm import LMClassifier, LMRegressor
from sklm.optim import GainRatio, MiniBatches
from sklm.optim._batches import Stream

from .problems import Formula


def truth(X):
    return np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2]


def rows(number, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (number, 3))
    return X, truth(X) + 0.1 * rng.normal(size=number)


NEW = np.random.default_rng(9).uniform(-1, 1, (1000, 3))


def small(**options):
    return LMRegressor(8, **{"alpha": 1e-4, "random_state": 0, **options})


def fed(model, X, y, size, **more):
    """The model after each batch of so many rows."""
    for first in range(0, len(X), size):
        yield model.partial_fit(X[first : first + size], y[first : first + size], **more)


@pytest.mark.parametrize(("estimator", "known"), [(LMRegressor, {}), (LMClassifier, {"classes": [0, 1]})])
def test_units_of_many_columns_are_not_fewer_for_a_search_that_a_stream_has_not(estimator, known):
    X = np.random.default_rng(0).uniform(-1, 1, (600, 60))
    y = (X[:, 0] > 0).astype(int)
    model = estimator(random_state=0)
    assert model.partial_fit(X, y, **known).architecture_.hidden_layer_sizes == (20,)
    assert model._own_architecture(2000, (2000, 60, 1)).hidden_layer_sizes[0] <= 10


@pytest.mark.parametrize("size", [1, 5, 20, 150])
def test_batches_of_any_size_do_not_undo_a_fit(size):
    """A step that fits one row alone would: a fitted model stays where it is, to the noise of so many rows."""
    X, y = rows(1000)
    model = small().fit(X[:600], y[:600])
    before = r2_score(truth(NEW), model.predict(NEW))
    after = [r2_score(truth(NEW), step.predict(NEW)) for step in fed(model, X[600:], y[600:], size)]
    assert before > 0.998
    assert min(after) > 0.997
    assert model.n_iter_ > 400 / size


@pytest.mark.parametrize("size", [1, 5, 20, 150])
def test_batches_of_any_size_are_learned(size):
    X, y = rows(1000)
    model = small().partial_fit(X[:50], y[:50])
    for _ in fed(model, X[50:], y[50:], size):
        pass
    assert r2_score(truth(NEW), model.predict(NEW)) > (0.96 if size == 150 else 0.985)


def test_a_linear_model_is_estimated_by_what_it_remembers():
    """Rows of a sixth of the stream, 67 of them here, are what the last steps weigh."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.3 + 0.2 * rng.normal(size=400)
    options = {"alpha": 0.0, "batch_memory": 400, "random_state": 0}
    model = LMRegressor((), **options)
    for _ in fed(model, X, y, 2):
        pass
    all_at_once = np.linalg.lstsq(np.c_[X, np.ones(400)], y, rcond=None)[0]
    found = np.r_[model.coefs_[0][:, 0], model.intercepts_[0]]
    deviation = 0.2 / np.sqrt(400 / 6)
    assert np.abs(found - all_at_once).max() < 2 * deviation
    assert np.abs(found - [1.0, -2.0, 0.5, 0.3]).max() < 3 * deviation


def test_what_has_changed_is_forgotten():
    X, y = rows(2000)
    model = small().fit(X[:600], y[:600])
    for _ in fed(model, X[600:], 1 - y[600:], 20):
        pass
    assert r2_score(1 - truth(NEW), model.predict(NEW)) > 0.9


@pytest.mark.parametrize("size", [1, 10])
def test_classes_that_come_row_by_row(size):
    X, y = rows(1200)
    y = (y > 0.2).astype(int) + (y > -0.4)
    model = LMClassifier(6, random_state=0)
    for _ in fed(model, X, y, 60, classes=[0, 1, 2]):
        break
    for _ in fed(model, X[60:], y[60:], size):
        pass
    right = (truth(NEW) > 0.2).astype(int) + (truth(NEW) > -0.4)
    assert log_loss(right, model.predict_proba(NEW)) < 0.45
    assert model.alpha_ == pytest.approx(1 / 1200)  # the prior of all rows so far


def test_the_penalty_that_a_fit_has_found_weighs_less_with_every_row():
    X, y = rows(300)
    model = LMClassifier(6, random_state=0).fit(X[:200], y[:200] > 0)
    found = model.alpha_
    model.partial_fit(X[200:], y[200:] > 0)
    assert model.alpha_ == pytest.approx(found * 200 / 300)


def test_rates_of_large_batches_are_those_of_mini_batches():
    equal = MiniBatches(3000, 100, 0, memory=800)
    for step in range(1, 80):
        stream = Stream(100, 100.0, 800, 100.0 * (step - 1), 60, 0.01, None)
        assert stream.rate(step) == pytest.approx(equal.rate(step))
        assert stream.iterate_rate(step) == 1


def test_few_rows_never_make_a_full_step():
    assert Stream(1, 1.0, 488, 0.0, 61, 0.01, None).share == pytest.approx(1 / 61)
    assert Stream(1, 1.0, 488, 1e6, 61, 0.01, None).share == pytest.approx(1 / 488)
    assert Stream(488, 488.0, 488, 1e6, 61, 0.01, None).share == 1


def test_a_model_goes_on_where_it_was_saved():
    X, y = rows(100)
    model = small().partial_fit(X[:40], y[:40]).partial_fit(X[40:60], y[40:60])
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.partial_fit(X[60:], y[60:]).theta_, model.partial_fit(X[60:], y[60:]).theta_)


def test_weights_count_equal_rows():
    X, y = rows(60)
    counts = np.random.default_rng(5).integers(1, 4, size=60)
    weighted, repeated = small(), small()
    for part in (slice(0, 20), slice(20, 60)):
        weighted.partial_fit(X[part], y[part], counts[part])
        repeated.partial_fit(X[part].repeat(counts[part], axis=0), y[part].repeat(counts[part]))
    assert_allclose(weighted.predict(NEW), repeated.predict(NEW), rtol=1e-6)


def test_without_memory_a_batch_is_fitted_alone():
    X, y = rows(201)
    left = {}
    for memory in (None, "auto"):
        model = small(batch_memory=memory).fit(X[:200], y[:200])
        before = float(y[200] + 0.2 - model.predict(X[200:])[0])
        model.partial_fit(X[200:], y[200:] + 0.2)
        left[memory] = float(y[200] + 0.2 - model.predict(X[200:])[0]) / before
        assert model._stream["gram"] is None if memory is None else model._stream["gram"].shape == (41, 41)
    assert abs(left[None] - 1) > 0.3  # of the row and of the penalty, it is the minimum
    assert 0.7 < left["auto"] < 1


def test_a_fit_forgets_the_stream():
    X, y = rows(200)
    model = small().partial_fit(X[:40], y[:40])
    assert model.fit(X, y)._stream["gram"] is None
    assert model.fit(X, y)._stream["weight"] == 200


@pytest.mark.parametrize(("size", "unit"), [(1, 1.0), (5, 1.0), (5, 1e-9)])
def test_a_formula_is_learned_row_by_row_in_any_unit(size, unit):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, (400, 1))
    y = 3 * np.exp(-1.3 * x[:, 0]) + 0.5 + 0.02 * rng.normal(size=400)
    module = Formula(lambda x, a, b, c: a * torch.exp(-b * x) + c, (unit, 1.0, 0.0))
    model = LMRegressor(architecture=module)
    for _ in fed(model, x, unit * y, size):
        pass
    np.testing.assert_allclose(model.theta_ / [unit, 1, unit], [3, 1.3, 0.5], rtol=0.05)


@pytest.mark.parametrize("options", [{"solver": "qr"}, {"line_search": "rate"}, {"acceleration": "momentum"}])
def test_rules_that_averages_have_no_use_for(options):
    X, y = rows(60)
    model = small(**options).partial_fit(X, y).partial_fit(X, y)
    assert model._stream["gram"] is None
    with pytest.raises(ValueError, match="mini-batches"):
        small(batch_memory=300, **options).partial_fit(X, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_parameters_keep_no_matrix(dtype, monkeypatch):
    monkeypatch.setattr("sklm._streaming.MOST_KEPT", 40)
    X, y = rows(400)
    model = small(dtype=dtype).fit(X[:300], y[:300])
    for _ in fed(model, X[300:], y[300:], 5):
        assert model._stream["gram"] is None
    assert r2_score(truth(NEW), model.predict(NEW)) > 0.99


def test_equal_rows_in_a_batch_are_not_fitted_at_once_without_a_matrix():
    X, y = rows(600)
    model = small(solver="dual").fit(X[:400], y[:400])
    for k in range(400, 500):
        model.partial_fit(X[[k, k]], y[[k, k]])
    assert r2_score(truth(NEW), model.predict(NEW)) > 0.985


def test_a_penalty_of_one_batch_is_not_remembered():
    X, y = rows(300)
    model = small().fit(X[:200], y[:200]).set_params(alpha=1e6).partial_fit(X[:5], y[:5]).set_params(alpha=1e-4)
    assert model._stream["gram"].diagonal().max() < 1e3
    assert_allclose(model._stream["gram"].diagonal(), model._stream["diagonal"], rtol=1e-9)


def test_a_changed_loss_is_taken_up():
    X, y = rows(100)
    model = small().fit(X, y).set_params(loss="absolute_error").partial_fit(X[:20], y[:20])
    assert type(model._fitted_loss).__name__ == "AbsoluteError"


def test_weights_that_are_no_counts_weigh_rows_that_come_alone():
    X, y = rows(160)
    moved = []
    for weight in (0.5, 1.5):
        model = small().fit(X[:100], y[:100], np.full(100, 1.01))
        before = model.theta_
        model.partial_fit(X[100:101], y[100:101] + 1, [weight])
        moved.append(np.abs(model.theta_ - before).max())
    assert 1.8 < moved[1] / moved[0] < 3.5


def test_a_model_of_constant_targets_cannot_go_on():
    X, y = rows(60)
    model = small().fit(X, np.ones(60))
    with pytest.raises(ValueError, match="fitted to constant targets"):
        model.partial_fit(X, y)


def test_ctrl_c_ends_a_stream(monkeypatch):
    X, y = rows(100)
    model = small().partial_fit(X[:50], y[:50])
    before = model.theta_

    class Interrupting(GainRatio):
        def update(self, trial, memory):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.set_params(damping_strategy=Interrupting()).partial_fit(X[50:], y[50:])
    assert model.theta_ is before


def test_drawn_curvature_takes_all_rows_of_a_batch():
    X, y = rows(200)
    y = np.digitize(y, [-0.5, 0.2, 0.6])
    seen = []
    model = LMClassifier(6, curvature="sampled", random_state=0).partial_fit(X[:80], y[:80], classes=[0, 1, 2, 3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklm.optim._problem.Problem.informative", lambda *given: seen.append(1))
        model.partial_fit(X[80:100], y[80:100])
    assert seen == []
    assert np.isfinite(model.theta_).all()
