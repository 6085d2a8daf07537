"""``alpha='auto'`` of LMClassifier where there is time to leave rows out in turn."""

import time

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_moons
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sklm import LMClassifier, LMGridSearchCV, fit_many
from sklm import _alpha_search as module
from sklm._class_rules import AUTO_FACTORS, LEAST_FACTOR, PRIOR_FACTORS, SMALLER_FACTORS, WEIGHED_FACTORS
from sklm._penalty import has_twins, with_one_error
from sklm.optim import SearchInterrupted, _penalty_race

from .interrupts import interrupted_from

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def overlapping(n_samples, n_classes=4, seed=0):
    return make_classification(
        n_samples, 10, n_informative=6, n_redundant=2, n_classes=n_classes, flip_y=0.1, class_sep=0.8, random_state=seed
    )


def spirals(n_samples, seed=0, noise=0.3):
    """Two classes with sharp borders, one and a half turns."""
    rng = np.random.default_rng(seed)
    angle, y = 3 * np.pi * np.sqrt(rng.uniform(size=n_samples)), np.arange(n_samples) % 2
    X = (angle * np.stack([np.cos(angle + np.pi * y), np.sin(angle + np.pi * y)])).T
    return X + noise * rng.normal(size=X.shape), y


def small(**options):
    return LMClassifier(**{"hidden_layer_sizes": 5, "relevance": None, "random_state": 0, **options})


def factors(model, total):
    return np.array(list(model.alpha_scores_)) * total


def test_scores_are_losses_on_rows_left_out():
    X, y = overlapping(120)
    model = small().fit(X, y)
    np.testing.assert_allclose(factors(model, 120), AUTO_FACTORS)
    scores = list(model.alpha_scores_.values())
    assert model.alpha_ == list(model.alpha_scores_)[int(np.argmin(scores))]
    held_out = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(120)
        train, test = order[:96], order[96:]
        fit = small(alpha=model.alpha_ * 120 / 96).fit(X[train], y[train])
        held_out.append(log_loss(y[test], fit.predict_proba(X[test]), labels=[0, 1, 2, 3]))
    assert min(scores) == pytest.approx(np.mean(held_out), rel=0.35)


@pytest.mark.parametrize("alpha", ["auto", "cv"])
def test_clean_borders_want_less_than_the_least_of_the_first_penalties(alpha):
    (X, y), (X_new, y_new) = spirals(200), spirals(2000, seed=1)
    model = LMClassifier(alpha=alpha, random_state=0).fit(X, y)
    least = {"auto": min(AUTO_FACTORS), "cv": min(PRIOR_FACTORS)}[alpha]
    np.testing.assert_allclose(factors(model, 200)[-5:], least * np.array(SMALLER_FACTORS))
    assert model.alpha_ * 200 < least
    fixed = LMClassifier(alpha=least / 200, random_state=0).fit(X, y)
    losses = [log_loss(y_new, one.predict_proba(X_new)) for one in (model, fixed)]
    assert losses[0] < 0.5 * losses[1]


@pytest.mark.parametrize("alpha", ["auto", "cv"])
def test_few_rows_may_all_be_right_by_chance(alpha):
    X, y = spirals(59)
    scores = LMClassifier(4, alpha=alpha, relevance=None, random_state=0).fit(X, y).alpha_scores_
    assert len(scores) == len({"auto": AUTO_FACTORS, "cv": PRIOR_FACTORS}[alpha])


def test_rows_that_are_right_do_not_ask_for_any_certainty():
    """Of a smaller penalty, the loss that one more row may have counts: 60 rows far apart tell no loss from 1 / 60."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 2)) + 6 * y[:, None]
    model = LMClassifier(random_state=0).fit(X, y)
    scores = list(model.alpha_scores_.values())
    assert len(scores) == len(AUTO_FACTORS) + len(SMALLER_FACTORS)
    assert np.argmin(scores) == len(scores) - 1
    assert model.alpha_ > min(model.alpha_scores_)
    assert model.predict_proba(X).max() < 0.9999


@pytest.mark.parametrize(("loss", "n_rows"), [(0.02, 50), (0.5, 2)])
def test_with_one_error_is_least_for_one_error_in_all_rows(loss, n_rows):
    nearby = loss * np.array([0.9, 1.0, 1.1])
    assert with_one_error(nearby, n_rows).argmin() == 1
    np.testing.assert_array_equal(with_one_error(np.array([np.inf, np.nan]), n_rows), [np.inf, np.inf])


def test_the_smaller_penalties_of_many_fits_are_those_of_each():
    (X, y), (_, other) = spirals(120), overlapping(120, n_classes=2)
    together = fit_many(LMClassifier(10, random_state=0), X, [y, other, y])
    for target, model in zip((y, other, y), together, strict=True):
        alone = LMClassifier(10, random_state=0).fit(X, target)
        assert model.alpha_ == pytest.approx(alone.alpha_)
        assert list(model.alpha_scores_) == pytest.approx(list(alone.alpha_scores_))
    assert len(together[1].alpha_scores_) < len(together[0].alpha_scores_)


def test_an_interrupt_among_the_smaller_penalties_leaves_the_best_of_the_first(monkeypatch):
    X, y = spirals(200)
    search = "sklm._alpha_search.cross_validate_alpha"
    original, calls = module.cross_validate_alpha, []

    def interrupted(*given, **options):
        calls.append(len(options["alphas"]))
        if len(calls) == 2:
            raise SearchInterrupted(np.array([1.0]), given[1])
        return original(*given, **options)

    monkeypatch.setattr(search, interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = LMClassifier(random_state=0).fit(X, y)
    assert len(calls) == 2
    assert model.alpha_ * 200 == pytest.approx(min(AUTO_FACTORS))
    assert model.score(X, y) > 0.8


def test_without_time_for_smaller_penalties_the_first_ones_count(monkeypatch):
    X, y = spirals(200)
    original, calls = module.cross_validate_alpha, []

    def slow(*given, **options):
        calls.append(options["stopping"].max_time)
        result = original(*given, **options)
        if len(calls) == 2:
            time.sleep(calls[1])
        return result

    monkeypatch.setattr("sklm._alpha_search.cross_validate_alpha", slow)
    with pytest.warns(ConvergenceWarning, match="ended the search"):
        model = LMClassifier(random_state=0, max_time=4.0).fit(X, y)
    assert len(calls) == 2
    assert model.alpha_ * 200 == pytest.approx(min(AUTO_FACTORS))
    assert len(model.alpha_scores_) == len(AUTO_FACTORS)


def test_penalties_go_down_with_weighed_columns_but_not_for_ever():
    X, y = make_moons(150, noise=0.2, random_state=0)
    X = np.c_[X, np.random.default_rng(0).normal(size=(150, 3))]
    model = LMClassifier(random_state=0).fit(X, y)
    assert model.relevance_[2:].max() < 0.5 * model.relevance_[:2].max()
    assert LEAST_FACTOR * (1 - 1e-12) <= model.alpha_ * 150 <= max(AUTO_FACTORS)
    _, prepared = LMClassifier(random_state=0)._ready(X, y)
    assert prepared.folds.factors == WEIGHED_FACTORS
    assert prepared.folds.least_alpha == pytest.approx(LEAST_FACTOR / 150)
    assert not prepared.folds.climbs


@pytest.mark.parametrize(
    ("options", "n_rows"),
    [
        ({"alpha": 0.02}, 100),
        ({"early_stopping": True}, 90),
        ({"target_loss": 0.4}, 100),
        ({"loss": "squared_error"}, 100),
        ({"optimizer": "lbfgs"}, 100),
        ({"hidden_layer_sizes": ()}, 100),
        ({"param_selection": "random"}, 100),
    ],
    ids=lambda options: next(iter(options)) if isinstance(options, dict) else "",
)
def test_where_no_rows_are_left_out(options, n_rows):
    X, y = overlapping(100)
    model = small(max_iter=5, **options)
    _, prepared = model._ready(X, y)
    assert prepared.folds is None
    fitted = model.fit(X, y)
    assert (fitted.alpha_, fitted.alpha_scores_) == (options.get("alpha", 1 / n_rows), None)


def test_of_long_fits_one_fold_is_left_out_and_none_of_longer_ones(monkeypatch):
    X, y = overlapping(100)
    assert small()._ready(X, y)[1].folds.n_held_out == 5
    monkeypatch.setattr("sklm._penalty.MOST_CLASSES_WORK", 1e5)
    folds = small()._ready(X, y)[1].folds
    assert (folds.n_held_out, folds.climbs, folds.batches, len(folds.rows)) == (1, True, None, 100)
    monkeypatch.setattr("sklm._penalty.MOST_CLIMBING_WORK", 1e5)
    assert small()._ready(X, y)[1].folds is None


def test_a_weight_counts_as_so_many_rows():
    X, y = overlapping(60, 3)
    weight = np.where(np.arange(60) < 10, 2, 1)
    weighted, repeated = small().fit(X, y, weight), small().fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    assert weighted.alpha_scores_ is not None
    np.testing.assert_allclose(weighted.alpha_, repeated.alpha_)
    np.testing.assert_allclose(list(weighted.alpha_scores_.values()), list(repeated.alpha_scores_.values()), rtol=1e-4)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


def test_rows_that_are_nearly_equal_say_nothing_of_new_ones():
    X, y = overlapping(60)
    model = small().fit(np.r_[X, X + 1e-9], np.r_[y, y])
    assert (model.alpha_, model.alpha_scores_) == (1 / 120, None)


def test_rows_of_columns_over_decades_are_not_nearly_equal():
    X, y = overlapping(120)
    assert not has_twins(np.exp(4 * X))
    assert small().fit(np.exp(4 * X), y).alpha_scores_ is not None
    assert has_twins(np.exp(4 * np.r_[X, X + 1e-9]))
    zero = np.where(np.arange(120) % 5, 0.0, 1.0)[:, None]  # a middle half without spread
    assert not has_twins(np.hstack([zero, X]))
    assert has_twins(np.hstack([np.r_[zero, zero], np.r_[X, X + 1e-9]]))


def test_a_class_of_one_row_is_fitted():
    X, y = overlapping(60, 3)
    y[:] = np.where(y == 2, 0, y)
    y[7] = 2
    model = small().fit(X, y)
    assert model.alpha_scores_ is not None
    assert np.isfinite(model.predict_proba(X)).all()


def test_an_interrupt_keeps_the_best_model_of_the_search(monkeypatch):
    X, y = overlapping(150)
    interrupted_from(monkeypatch, _penalty_race, 2)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = LMClassifier(5, random_state=0).fit(X, y)
    assert model.status_ == "interrupted"
    assert log_loss(y, model.predict_proba(X)) < 0.9 * np.log(4)


def test_time_ends_the_search_with_a_warning():
    X, y = overlapping(300)
    with pytest.warns(ConvergenceWarning, match="ended the search for alpha before it was done"):
        model = LMClassifier(max_time=0.3, random_state=0).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_warm_start_keeps_what_was_found():
    X, y = overlapping(80)
    model = small(warm_start=True).fit(X, y)
    found, scores = model.alpha_, model.alpha_scores_
    model.fit(X, y)
    assert (model.alpha_, model.alpha_scores_) == (found, scores)


def test_a_warm_start_takes_what_was_found_as_a_multiple_of_the_prior():
    X, y = overlapping(120)
    model = small(warm_start=True).fit(X, y)
    multiple, scores = model.alpha_ * 120, list(model.alpha_scores_.values())
    model.fit(X[:80], y[:80])
    assert model.alpha_ * 80 == pytest.approx(multiple)
    assert list(model.alpha_scores_.values()) == scores
    assert model.alpha_ in model.alpha_scores_


def test_an_interrupt_before_any_row_was_predicted_takes_a_penalty_from_the_middle(monkeypatch):
    X, y = overlapping(120)

    def raises(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(_penalty_race.PenaltyRace, "_part", raises)
    with pytest.warns(UserWarning, match="It comes from the search for alpha, before the fit itself"):
        model = small().fit(X, y)
    assert (model.status_, model.n_iter_) == ("interrupted", 0)
    assert model.alpha_ == pytest.approx(1 / 120)


def test_together_they_find_what_they_find_alone():
    X, y = overlapping(80, 3)
    grid, one = {"damping": [1e-2, 1.0], "hidden_layer_sizes": [2, 3]}, small(hidden_layer_sizes=3)
    with np.errstate(all="ignore"):
        together = LMGridSearchCV(one, grid, cv=2, scoring="neg_log_loss").fit(X, y)
        apart = GridSearchCV(one, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    np.testing.assert_allclose(together.cv_results_["mean_test_score"], apart.cv_results_["mean_test_score"], rtol=1e-8)
    assert together.best_estimator_.alpha_scores_ is not None
    targets = [y, np.roll(y, 7)]
    for model, target in zip(fit_many(one, X, targets), targets, strict=True):
        alone = clone(one).fit(X, target)
        np.testing.assert_allclose(list(model.alpha_scores_.values()), list(alone.alpha_scores_.values()), rtol=1e-6)
        np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), atol=1e-6)


def test_labels_of_several_columns_are_searched_for_too():
    X, y = overlapping(80, 2)
    model = small().fit(X, np.c_[y, 1 - y])
    np.testing.assert_allclose(factors(model, 160), AUTO_FACTORS)


def test_what_comes_first_on_iris():
    X, y = load_iris(return_X_y=True)
    model = LMClassifier(random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.93
    assert model.alpha_scores_ is not None


@pytest.mark.parametrize("weights", [None, np.arange(150) % 3 + 1.0])
def test_shares_are_scaled_to_rows(weights):
    X, y = overlapping(150, n_classes=2)
    rows = np.ones(150) if weights is None else weights / weights.mean()
    by_rows, by_shares = small().fit(X, y, rows), small().fit(X, y, rows / 150)
    assert by_shares.alpha_ == pytest.approx(by_rows.alpha_, rel=1e-12)
    np.testing.assert_allclose(by_shares.predict_proba(X), by_rows.predict_proba(X), atol=1e-6)


def test_boosting_gives_shares():
    X, y = make_moons(300, noise=0.2, random_state=0)
    boosted = AdaBoostClassifier(LMClassifier(3, random_state=0), n_estimators=3, random_state=0).fit(X[:200], y[:200])
    assert abs(boosted.estimators_[0].coefs_[-1]).max() > 0.5  # later ones see a few rows that none tells apart
    assert boosted.score(X[200:], y[200:]) > 0.9
