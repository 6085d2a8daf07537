"""``alpha='auto'`` of LMClassifier where fits are long or in mini-batches: a penalty by one fold that is left out."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sklm import CNN, LMClassifier, LMGridSearchCV, fit_many
from sklm import _climb as module
from sklm._climb import DOWNWARDS, UPWARDS
from sklm._penalty import ENOUGH_BATCHED_ROWS, SEARCHED_BATCH
from sklm._verbose import SearchLine
from sklm.optim import Status

from .interrupts import interrupted_from

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(n_samples, noise, seed=0):
    return make_classification(
        n_samples, 12, n_informative=6, n_redundant=2, n_classes=3, flip_y=noise, class_sep=1.5, random_state=seed
    )


def rings(n_samples):
    """Three classes with sharp borders, around the origin of the plane."""
    X = np.random.default_rng(0).uniform(-1, 1, (n_samples, 2))
    return X, np.digitize(np.hypot(*X.T), [0.5, 0.8])


def batched(**options):
    return LMClassifier(**{"hidden_layer_sizes": 8, "batch_size": 40, "random_state": 0, **options})


def multiples(model, n_rows):
    return [round(alpha * n_rows, 6) for alpha in model.alpha_scores_]


def test_scores_are_losses_of_fits_of_the_other_rows(monkeypatch):
    X, y = table(250, 0.1)
    options = {"standardize": False, "n_iter_no_change": 15}
    model = batched(**options)
    folds = model._ready(X, y)[1].folds
    seen, held = folds.of_row > 0, folds.of_row == 0
    assert held.sum() == 50
    model.fit(X, y)
    monkeypatch.setattr(LMClassifier, "_starts", lambda *given: folds.start[None])
    for alpha, score in model.alpha_scores_.items():
        apart = batched(alpha=alpha, batch_size=36, batch_memory=200, **options).fit(X[seen], y[seen])
        assert score == pytest.approx(log_loss(y[held], apart.predict_proba(X[held])), rel=0.03)
    assert model.alpha_ == min(model.alpha_scores_, key=model.alpha_scores_.__getitem__)


@pytest.mark.parametrize("size", [40, None])
def test_wrong_labels_want_more_and_clean_ones_less(monkeypatch, size):
    monkeypatch.setattr("sklm._penalty.MOST_CLASSES_WORK", 0)
    X, y = table(2400, 0.3, seed=1)
    noisy = batched(hidden_layer_sizes=12, batch_size=size).fit(X[:400], y[:400])
    assert multiples(noisy, 400)[0] > 3
    assert noisy.alpha_ * 400 > 2
    plain = batched(hidden_layer_sizes=12, batch_size=size, alpha=1 / 400).fit(X[:400], y[:400])
    losses = [log_loss(y[400:], model.predict_proba(X[400:])) for model in (noisy, plain)]
    assert losses[0] < 0.9 * losses[1]
    X, y = rings(400)
    clean = batched(batch_size=size).fit(X, y)
    assert multiples(clean, 400)[-1] < 1
    assert clean.alpha_ * 400 < 2


def test_with_all_rows_scores_are_losses_of_fits_of_the_other_rows(monkeypatch):
    X, y = table(250, 0.1)
    monkeypatch.setattr("sklm._penalty.MOST_CLASSES_WORK", 0)
    options = {"standardize": False, "batch_size": None}
    model = batched(**options)
    folds = model._ready(X, y)[1].folds
    seen, held = folds.of_row > 0, folds.of_row == 0
    model.fit(X, y)
    assert model.relevance_ is None
    monkeypatch.setattr(LMClassifier, "_starts", lambda *given: folds.start[None])
    for alpha, score in model.alpha_scores_.items():
        apart = batched(alpha=alpha, growing=False, **options).fit(X[seen], y[seen])
        assert score == pytest.approx(log_loss(y[held], apart.predict_proba(X[held])), rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "tried", "chosen"),
    [
        ([1.0, 1.1, 1.1], [1, 3, 0.3], 1),
        ([1.0, 0.9, 0.95], [1, 3, 10], 3),
        ([1.0, 0.9, 0.8, 0.7], [1, 3, 10, 30], 30),
        ([1.0, 1.1, 0.9, 0.8, 0.85], [1, 3, 0.3, 0.1, 0.03], 0.1),
        ([1.0, 1.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 3, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001], 0.001),
        # 40 rows that are right do not tell a loss of 0.02 from less
        ([0.05, 0.06, 0.025, 0.02], [1, 3, 0.3, 0.1], 0.3),
        ([1.0, np.nan, 0.9, 0.95], [1, 3, 0.3, 0.1], 0.3),
    ],
    ids=str,
)
def test_the_way_up_or_down(monkeypatch, losses, tried, chosen):
    X, y = table(200, 0.1)
    model, given = batched(max_iter=2, batch_size=30), iter(losses)
    _, prepared = model._ready(X, y)
    problem = type(prepared.problem)
    original = problem.evaluate

    def evaluate(self, theta, keep=True, reuse=None):
        point = original(self, theta, keep, reuse)
        if self.n_samples == 40:  # the rows left out
            point.loss[:] = next(given)
        return point

    monkeypatch.setattr(problem, "evaluate", evaluate)
    found = module.climbed(prepared, prepared.options["stopping"])
    assert next(given, None) is None
    np.testing.assert_allclose(sorted(found.alpha_scores, reverse=True), sorted(np.array(tried) / 200, reverse=True))
    assert found.alpha == pytest.approx(chosen / 200)
    assert found.folds is None


def test_no_search_where_rows_are_many_or_nearly_equal():
    X, y = table(1600, 0.1)
    parameters = 12 * 3 + 3 * 4 + 3
    for n_rows, searches in ((300, True), (1600, False)):
        assert (n_rows <= ENOUGH_BATCHED_ROWS * parameters) is searches
        _, prepared = batched(hidden_layer_sizes=3)._ready(X[:n_rows], y[:n_rows])
        assert (prepared.folds is not None) is searches
    doubled = batched().fit(np.r_[X[:200], X[:200] + 1e-9], np.r_[y[:200], y[:200]])
    assert (doubled.alpha_, doubled.alpha_scores_) == (1 / 400, None)
    with pytest.raises(ValueError, match="alpha='cv' cannot be used with mini-batches"):
        batched(alpha="cv").fit(X, y)


def test_the_search_takes_smaller_batches_and_keeps_shares_of_classes():
    X, y = make_classification(5200, 30, n_informative=10, n_classes=5, random_state=0)
    _, prepared = LMClassifier(relevance=None, random_state=0)._ready(X, y)
    folds = prepared.folds
    assert len(folds.rows) == len(np.unique(folds.rows)) == 5000
    assert folds.batches.largest <= SEARCHED_BATCH < prepared.batches.largest
    shares = [np.bincount(y[folds.rows[folds.of_row == fold]]) for fold in range(5)]
    assert np.ptp(shares, axis=0).max() <= 2


@pytest.mark.parametrize(
    ("n_rows", "shape", "units"),
    [
        (1500, (16, 10), 20),  # all rows in every step
        (5600, (16, 10), 70),
        (5600, (16, 26), 70),
        (20_000, (2, 5), 20),
        (20_000, (20, 5), 15),  # columns are weighed with these, for more units
        (20_000, (60, 5), 8),
        (20_000, (60, 8), 100),
        (20_000, (1, 5), 20),
        (5000, (20, 5), 20),  # so several folds can be left out, and columns weighed
        (1437, (64, 10), 30),
    ],
)
def test_units_of_several_classes(n_rows, shape, units):
    assert LMClassifier()._own_architecture(n_rows, (n_rows, *shape)).hidden_layer_sizes == (units,)


def test_weights_and_other_optimizers_are_no_reason_for_more_units_of_classes():
    assert LMClassifier()._own_architecture(10_000, (200, 12, 3)).hidden_layer_sizes == (20,)
    assert LMClassifier(optimizer="adam")._own_architecture(20_000, (20_000, 12, 3)).hidden_layer_sizes == (20,)


def test_mini_batches_of_a_wide_table_of_two_classes():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3600, 57)), rng.integers(0, 2, 3600)
    _, prepared = LMClassifier(50, random_state=0)._ready(X, y)
    assert prepared.batches.largest == 900
    assert prepared.folds.climbs


@pytest.mark.parametrize(("size", "memory"), [(150, 1), (150, 10**6), (1, "auto"), (199, "auto"), (300, "auto")])
def test_any_batches_and_memory(size, memory):
    X, y = table(200, 0.1)
    model = batched(batch_size=size, batch_memory=memory, max_iter=3).fit(X, y)
    assert model.alpha_ in model.alpha_scores_


def test_batches_with_rows_enough_stay_so():
    X, y = table(600, 0.1)
    _, prepared = batched(hidden_layer_sizes=1, batch_size=90)._ready(X[:180], y[:180])
    assert prepared.batches.memory is None
    assert prepared.folds.batches.largest == 36
    assert batched(hidden_layer_sizes=1, batch_size=90)._ready(X, y)[1].folds is None


def test_a_penalty_that_time_ended_is_not_compared(monkeypatch):
    X, y = table(300, 0.3)
    runs, original = [], module.levenberg_marquardt

    def run(*given, **options):
        solution = original(*given, **options)
        runs.append(solution)
        return replace(solution, status=[Status.TIME]) if len(runs) > 1 else solution

    monkeypatch.setattr(module, "levenberg_marquardt", run)
    model = batched().fit(X, y)
    assert len(runs) == 3
    assert multiples(model, 300) == [1]


def test_a_weight_counts_as_so_many_rows_and_labels_may_be_several():
    X, y = table(200, 0.1)
    model = batched(max_iter=10).fit(X, y, np.full(200, 2))
    assert 1 in multiples(model, 400)
    several = batched(max_iter=10).fit(X, np.c_[y == 0, y == 1].astype(int))
    assert 1 in multiples(several, 400)


def test_an_interrupt_keeps_the_best_model_of_the_search(monkeypatch):
    X, y = table(300, 0.3)
    interrupted_from(monkeypatch, module, 2)
    with pytest.warns(UserWarning, match="It comes from the search for alpha, before the fit itself"):
        model = batched().fit(X, y)
    assert (model.status_, model.n_iter_) == ("interrupted", 0)
    assert log_loss(y, model.predict_proba(X)) < 0.9 * np.log(3)


def test_an_interrupt_before_the_first_model_is_passed_on(monkeypatch):
    def raises(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "levenberg_marquardt", raises)
    with pytest.raises(KeyboardInterrupt):
        batched().fit(*table(300, 0.3))


def test_time_ends_the_search_with_a_warning():
    X, y = table(3000, 0.1)
    with pytest.warns(ConvergenceWarning, match="ended the search for alpha before it was done"):
        model = batched(hidden_layer_sizes=60, max_time=0.3).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    assert len(model.alpha_scores_) < len(UPWARDS) + len(DOWNWARDS) + 1


def test_a_warm_start_keeps_what_was_found():
    X, y = table(200, 0.3)
    model = batched(warm_start=True).fit(X, y)
    multiple = model.alpha_ * 200
    model.fit(X[:150], y[:150])
    assert model.alpha_ * 150 == pytest.approx(multiple)


def test_together_they_find_what_they_find_alone():
    X, y = table(120, 0.2)
    grid, model = {"damping": [1e-2, 1.0], "batch_size": [30, 60]}, batched(hidden_layer_sizes=5, max_iter=8)
    with np.errstate(all="ignore"):
        together = LMGridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, y)
        apart = GridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    np.testing.assert_allclose(together.cv_results_["mean_test_score"], apart.cv_results_["mean_test_score"], rtol=1e-8)
    assert together.cv_results_["batched"].all()
    for one, target in zip(fit_many(model, X, [y, np.roll(y, 7)]), [y, np.roll(y, 7)], strict=True):
        alone = clone(model).fit(X, target)
        assert one.alpha_scores_ == pytest.approx(alone.alpha_scores_)
        np.testing.assert_allclose(one.predict_proba(X), alone.predict_proba(X), atol=1e-6)


def test_it_is_shown_that_a_search_moves(capsys, monkeypatch):
    X, y = table(250, 0.1)
    monkeypatch.setattr("sklm._solving.SearchLine", lambda: SearchLine(every=0.0))
    model = batched(max_iter=5, verbose=1).fit(X, y)
    shown = capsys.readouterr().err
    assert f"\r{5 * len(model.alpha_scores_)} iterations of the search, " in shown


def pulses(n_samples, seed=0):
    """Four shapes at random places, of which noise hides most."""
    rng = np.random.default_rng(seed)
    place, width, kind = rng.uniform(8, 24, n_samples), rng.uniform(1.5, 4, n_samples), rng.integers(0, 4, n_samples)
    t = (np.arange(32) - place[:, None]) / width[:, None]
    shapes = [np.exp(-(t**2)), (abs(t) < 1) * 1.0, np.maximum(1 - abs(t), 0), np.where(t > 0, np.exp(-t), 0)]
    return np.choose(kind[:, None], shapes) + 0.15 * rng.normal(size=t.shape), kind


def test_networks_of_convolutions_climb_by_one_fold():
    X, y = pulses(900)
    network = CNN((4, 4), kernel_size=5, stride=2, padding=2, input_shape=(1, 32))
    model = LMClassifier(architecture=network, random_state=0, dtype="float32", max_iter=60)
    folds = model._ready(X[:200], y[:200])[1].folds
    assert folds.climbs
    assert folds.n_held_out == 1
    plain = clone(model).set_params(alpha=1 / 200).fit(X[:200], y[:200])
    model.fit(X[:200], y[:200])
    assert multiples(model, 200)[0] > 1
    assert model.alpha_ > 1 / 200
    losses = [log_loss(y[200:], fitted.predict_proba(X[200:])) for fitted in (plain, model)]
    assert losses[1] < 0.8 * losses[0]
