"""``relevance``: columns are weighed by how much they matter, together with the search for a penalty."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_wine, make_classification, make_friedman1
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sklm import CNN, LMClassifier, LMGridSearchCV, LMRegressor, _alpha_search, _judging, fit_many
from sklm.optim import Status, _penalty_race

from .interrupts import interrupted_from

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(n_samples=100, seed=0, noise=1.0):
    """Five of ten columns matter; the last rows are new ones, without noise."""
    X, y = make_friedman1(n_samples, noise=noise, random_state=seed)
    X_new, y_new = make_friedman1(2000, noise=0.0, random_state=seed + 1000)
    return X, y, X_new, y_new


def classes(n_samples=150, n_classes=2, seed=0):
    X, y = make_classification(
        n_samples + 2000, 20, n_informative=4, n_redundant=0, n_classes=n_classes, flip_y=0.02, random_state=seed
    )
    return X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:]


def error(model, X, y):
    return np.sqrt(np.mean((model.predict(X) - y) ** 2))


@pytest.fixture(scope="module")
def fitted():
    """A model of either kind whose columns are weighed; not to be changed."""
    models = [
        LMRegressor(10, activation="tanh", random_state=0).fit(*table()[:2]),
        LMClassifier(10, activation="tanh", random_state=0).fit(*classes()[:2]),
    ]
    assert all(model.relevance_ is not None for model in models)
    return {type(model): model for model in models}


# -- what it finds ------------------------------------------------------------------------------------------------


def test_columns_that_do_not_matter_are_found_and_new_rows_predicted_better():
    X, y, X_new, y_new = table()
    weighed, alike = LMRegressor(random_state=0).fit(X, y), LMRegressor(relevance=None, random_state=0).fit(X, y)
    assert alike.relevance_ is None
    assert weighed.relevance_.shape == (10,)
    assert 0.7 < weighed.relevance_.max() <= 1
    assert weighed.relevance_[5:].max() < weighed.relevance_[:3].min() / 5
    assert error(weighed, X_new, y_new) < 0.8 * error(alike, X_new, y_new)


def test_without_noise_too():
    X, y, X_new, y_new = table(150, noise=0.0)
    weighed, alike = (
        LMRegressor(10, relevance=given, max_iter=200, random_state=0).fit(X, y) for given in ("auto", None)
    )
    assert error(weighed, X_new, y_new) < 0.3 * error(alike, X_new, y_new)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_get_better(n_classes):
    losses = []
    for seed in range(2 if n_classes == 2 else 1):
        X, y, X_new, y_new = classes(n_classes=n_classes, seed=seed)
        models = [LMClassifier(5, relevance=given, random_state=0).fit(X, y) for given in ("auto", None)]
        assert models[0].relevance_ is not None
        losses.append([log_loss(y_new, model.predict_proba(X_new)) for model in models])
    weighed, alike = np.mean(losses, axis=0)
    assert weighed < 0.9 * alike


def test_pure_noise_is_not_taken_for_a_column_that_matters():
    """With targets that no column explains, what is found must predict no worse for being weighed."""
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(60, 15)), rng.normal(size=60)
        X_new = rng.normal(size=(500, 15))
        models = [LMRegressor(3, relevance=given, random_state=0).fit(X, y) for given in ("auto", None)]
        errors.append([np.mean(model.predict(X_new) ** 2) for model in models])
    weighed, alike = np.mean(errors, axis=0)
    assert weighed < alike + 0.1  # of a variance of one


def test_columns_that_matter_the_same_are_left_alone():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    model = LMRegressor(10, random_state=0).fit(X, np.tanh(X.sum(1)) + 0.1 * rng.normal(size=200))
    assert model.relevance_ is None


@pytest.mark.parametrize("n_columns", [1, 2])
def test_one_or_two_columns_are_not_weighed(n_columns):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (80, n_columns))
    y = np.sin(3 * X[:, 0]) + 0.2 * rng.normal(size=80)
    model = LMRegressor(10, random_state=0).fit(X, y)
    assert model.alpha_ > 0
    assert model.relevance_ is None
    assert not LMClassifier(random_state=0)._ready(X, y > 0)[1].folds.weighs


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.01},
        {"standardize": False},
        {"hidden_layer_sizes": (), "alpha": "cv"},
        {"early_stopping": True},
        {"target_loss": 0.1},
        {"optimizer": "lbfgs"},
    ],
)
def test_where_no_penalty_is_searched_for_nothing_is_weighed(options):
    X, y, _, _ = table()
    assert LMRegressor(random_state=0, max_iter=20, **options).fit(X, y).relevance_ is None


def test_several_outputs_share_their_columns():
    X, y, X_new, y_new = table(120)
    both = np.c_[y, -3 * y + 2]
    model = LMRegressor(10, random_state=0).fit(X, both)
    assert model.relevance_[5:].max() < 0.2
    assert np.corrcoef(model.predict(X_new)[:, 1], y_new)[0, 1] < -0.95


def test_weights_count_as_rows():
    X, y, _, _ = table(80)
    weight = np.where(np.arange(80) < 20, 2, 1)
    weighted = LMRegressor(5, random_state=0).fit(X, y, weight)
    repeated = LMRegressor(5, random_state=0).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    assert weighted.relevance_ is not None
    assert repeated.relevance_ is not None
    assert np.corrcoef(np.log(weighted.relevance_), np.log(repeated.relevance_))[0, 1] > 0.8


def test_a_constant_column_stays_out():
    X, y, X_new, _ = table()
    wide, wide_new = (np.insert(values, 3, 7.0, axis=1) for values in (X, X_new))
    model = LMRegressor(5, random_state=0).fit(wide, y)
    assert model.relevance_ is not None
    assert model.coefs_[0][3] == pytest.approx(0, abs=0)
    changed = np.array(wide_new)
    changed[:, 3] = -100
    np.testing.assert_array_equal(model.predict(changed), model.predict(wide_new))


# -- what is given ------------------------------------------------------------------------------------------------


def test_what_was_found_can_be_given(fitted):
    X, y, X_new, _ = table()
    found = fitted[LMRegressor]
    given = LMRegressor(10, alpha=found.alpha_, relevance=found.relevance_, random_state=0).fit(X, y)
    np.testing.assert_array_equal(given.relevance_, found.relevance_)
    np.testing.assert_allclose(given.predict(X_new), found.predict(X_new), atol=2e-2)  # of a deviation of 5


def test_a_given_factor_divides_the_penalty_of_its_column():
    """At the minimum the gradient of the loss is that of the penalty, by autograd in standardised units."""
    X, y, _, _ = table()
    factors, alpha = np.linspace(0.1, 2, 10), 0.01
    model = LMRegressor(4, alpha=alpha, relevance=factors, n_init=1, tol=0, max_iter=500, random_state=0).fit(X, y)
    Z = torch.tensor((X - X.mean(0)) / X.std(0))
    t = torch.tensor((y - y.mean()) / y.std())
    first = torch.tensor(model.coefs_[0] * X.std(0)[:, None], requires_grad=True)
    hidden = torch.tanh(Z @ first + torch.tensor(model.intercepts_[0] + X.mean(0) @ model.coefs_[0]))
    last = torch.tensor(model.coefs_[1][:, 0] / y.std(), requires_grad=True)
    outputs = hidden @ last + (model.intercepts_[1][0] - y.mean()) / y.std()
    penalty = alpha / 2 * ((first / torch.tensor(factors)[:, None]).square().sum() + last.square().sum())
    (0.5 * (outputs - t).square().mean() + penalty).backward()
    assert first.grad.abs().max() < 1e-7
    assert last.grad.abs().max() < 1e-7


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 1.0], r"one number for each of 10 columns; got shape \(2,\)"),
        (np.ones((10, 1)), r"one number for each of 10 columns; got shape \(10, 1\)"),
        ([0.0] + 9 * [1.0], "positive, from 1e-06 to 1e"),
        ([np.nan] + 9 * [1.0], "positive, from 1e-06 to 1e"),
        (10 * [1e-200], "positive, from 1e-06 to 1e"),
        (10 * ["a"], "relevance must be 'auto', None or 10 numbers"),
        ("all", "relevance"),
        (2.0, "relevance"),
    ],
)
def test_what_cannot_be_used_is_refused(estimator, given, message):
    X, y, _, _ = table()
    with pytest.raises(ValueError, match=message):
        estimator(relevance=given).fit(X, y > y.mean() if estimator is LMClassifier else y)


def test_modules_and_images_are_not_weighed():
    X, y = np.random.default_rng(0).normal(size=(20, 16)), np.arange(20.0)
    for architecture in (CNN(4, kernel_size=2, stride=1, input_shape=(1, 4, 4)), torch.nn.Linear(16, 1)):
        with pytest.raises(ValueError, match="relevance is for MLPs only"):
            LMRegressor(architecture=architecture, relevance=np.ones(16)).fit(X, y)


def test_without_standardisation_factors_are_of_raw_columns():
    X, y, _, _ = table()
    Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    factors = np.linspace(0.5, 1, 10)
    inside = LMRegressor(4, alpha=0.1, relevance=factors, n_init=1, init="glorot", random_state=0).fit(X, y)
    outside = LMRegressor(
        4, alpha=0.1, relevance=factors, n_init=1, init="glorot", random_state=0, standardize=False
    ).fit(Z, t)
    np.testing.assert_allclose((inside.predict(X) - y.mean()) / y.std(), outside.predict(Z), atol=1e-6)


# -- with everything else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_predictions_coefficients_and_modules_agree(fitted, estimator):
    X_new = (table() if estimator is LMRegressor else classes())[2]
    model = fitted[estimator]
    hidden = np.tanh(X_new @ model.coefs_[0] + model.intercepts_[0])
    outputs = (hidden @ model.coefs_[1] + model.intercepts_[1])[:, 0]
    if estimator is LMRegressor:
        predictor = model.predict(X_new)
    else:
        predictor = np.subtract(*model.predict_log_proba(X_new).T[::-1])
    np.testing.assert_allclose(outputs, predictor, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.to_module()(torch.tensor(X_new)).detach()[:, 0], predictor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_fits_together_are_fits_alone(estimator):
    tables = [table(80, seed=seed) if estimator is LMRegressor else classes(80, seed=seed) for seed in range(2)]
    rng = np.random.default_rng(0)
    y = rng.normal(size=80) if estimator is LMRegressor else rng.integers(0, 2, 80)
    Xs = [X[:, :10] for X, *_ in tables] + [rng.normal(size=(80, 10))]
    ys = [y for _, y, *_ in tables] + [y]
    one = estimator(4, random_state=0)
    models, sizes = fit_many(one, Xs, ys, return_batch_sizes=True)
    assert (sizes == 3).all()
    assert any(model.relevance_ is not None for model in models)
    for model, X, y in zip(models, Xs, ys, strict=True):
        alone = clone(one).fit(X, y)
        assert (model.relevance_ is None) == (alone.relevance_ is None)
        if alone.relevance_ is not None:
            np.testing.assert_allclose(model.relevance_, alone.relevance_, rtol=1e-3)
        np.testing.assert_allclose(model.alpha_, alone.alpha_, rtol=1e-12)
        if estimator is LMRegressor:
            np.testing.assert_allclose(model.predict(X), alone.predict(X), atol=1e-3)
        else:
            np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), atol=1e-3)


def test_a_search_over_it_scores_as_one_by_one():
    X, y, _, _ = table(80)
    grid = {"relevance": ["auto", np.linspace(1, 0.1, 10)]}
    model = LMRegressor(3, alpha="cv", n_init=1, random_state=0)
    together, singly = LMGridSearchCV(model, grid, cv=2).fit(X, y), GridSearchCV(model, grid, cv=2).fit(X, y)
    np.testing.assert_allclose(
        together.cv_results_["mean_test_score"], singly.cv_results_["mean_test_score"], atol=1e-3
    )
    assert together.best_index_ == singly.best_index_


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_a_warm_start_keeps_the_factors(fitted, estimator):
    X, y, _, _ = table() if estimator is LMRegressor else classes()
    model = copy.deepcopy(fitted[estimator]).set_params(warm_start=True)
    before, alpha, loss = model.relevance_, model.alpha_, model.loss_
    model.fit(X, y)
    np.testing.assert_array_equal(model.relevance_, before)
    if estimator is LMRegressor:
        assert model.alpha_ == alpha
        assert model.loss_ <= loss * (1 + 1e-2)


def test_a_warm_start_keeps_the_factors_when_the_penalty_is_searched_for_anew(fitted):
    X, y, _, _ = table()
    model = copy.deepcopy(fitted[LMRegressor]).set_params(warm_start=True)
    before = model.relevance_
    model.set_params(alpha=0.01).fit(X, y)
    model.set_params(alpha="auto").fit(X, y)
    assert model.alpha_scores_ is not None
    np.testing.assert_array_equal(model.relevance_, before)


def test_partial_fit_goes_on_with_the_factors(fitted):
    X, y, _, _ = table()
    model = copy.deepcopy(fitted[LMRegressor])
    before, loss = copy.deepcopy(model.relevance_), np.mean((model.predict(X) - y) ** 2)
    model.partial_fit(X, y)
    np.testing.assert_array_equal(model.relevance_, before)
    assert np.mean((model.predict(X) - y) ** 2) < 1.1 * loss
    first = LMRegressor(5, relevance=np.linspace(0.5, 1, 10), random_state=0).partial_fit(X, y)
    np.testing.assert_array_equal(first.relevance_, np.linspace(0.5, 1, 10))
    assert LMRegressor(5, random_state=0).partial_fit(X, y).relevance_ is None


def test_it_is_deterministic_and_draws_no_further_random_numbers(fitted):
    X, y, _, _ = table()
    one, two = fitted[LMRegressor], LMRegressor(10, activation="tanh", random_state=0).fit(X, y)
    np.testing.assert_array_equal(one.theta_, two.theta_)
    np.testing.assert_array_equal(one.relevance_, two.relevance_)


# -- limits and faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [1, 2])
def test_an_interrupt_while_columns_are_weighed_keeps_a_model_of_the_search(monkeypatch, later):
    X, y, _, _ = table()
    seen, original = [], _alpha_search.weigh_inputs

    def weigh(*given, **options):
        seen.append(interrupted_from(monkeypatch, _penalty_race, later))
        return original(*given, **options)

    monkeypatch.setattr(_alpha_search, "weigh_inputs", weigh)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = LMRegressor(10, random_state=0).fit(X, y)
    assert len(seen[0]) == later
    assert (model.status_, model.relevance_) == ("interrupted", None)
    assert model.score(X, y) > 0.5


def test_an_interrupt_of_what_follows_keeps_a_model_for_weighed_columns(monkeypatch):
    """Rows without noise: fits of all rows judge the penalty, and are stopped."""
    X, y, _, _ = table(150, noise=0.0)
    original = _judging.run_together

    def stopped(*given, **options):
        solution = original(*given, **options)
        solution.status = [Status.INTERRUPTED] * len(solution.status)
        return solution

    monkeypatch.setattr(_judging, "run_together", stopped)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = LMRegressor(10, activation="tanh", random_state=0).fit(X, y)
    assert model.status_ == "interrupted"
    assert model.relevance_ is not None
    assert model.score(X, y) > 0.9


def test_nearly_separable_classes_keep_a_penalty():
    """All rows left out may be right with any certainty, which speaks for no penalty at all."""
    X, y = load_wine(return_X_y=True)
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(X))[:50]
        assert LMClassifier(5, random_state=0).fit(X[rows], y[rows]).alpha_ >= 0.1 / 50 * (1 - 1e-12)


def test_names_of_a_series_are_those_of_the_columns():
    pd = pytest.importorskip("pandas")
    X, y, _, _ = table()
    names = [f"c{number}" for number in range(10)]
    frame, factors = pd.DataFrame(X, columns=names), pd.Series(np.linspace(0.1, 1, 10), names)
    model = LMRegressor(4, alpha=0.01, relevance=factors[::-1], n_init=1, max_iter=20, random_state=0)
    np.testing.assert_array_equal(model.fit(frame, y).relevance_, factors)
    with pytest.raises(ValueError, match="index of relevance"):
        model.set_params(relevance=factors.rename({"c0": "d"})).fit(frame, y)


def test_fitted_factors_are_not_the_given_array():
    X, y, _, _ = table()
    given = np.linspace(0.1, 1, 10)
    model = LMRegressor(4, alpha=0.01, relevance=given, n_init=1, max_iter=20, random_state=0).fit(X, y)
    model.relevance_[:] = 9
    np.testing.assert_array_equal(given, np.linspace(0.1, 1, 10))


def test_a_warm_start_with_other_columns_is_refused():
    X, y, _, _ = table()
    model = LMRegressor(5, warm_start=True, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="warm_start needs the same architecture and columns"):
        model.fit(X[:, :6], y)


def test_folds_of_a_warm_start_do_not_start_from_the_fitted_model():
    X, y, _, _ = classes()
    model = LMClassifier(5, alpha=0.01, warm_start=True, random_state=0).fit(X, y)
    _, prepared = model.set_params(alpha="auto")._ready(X, y)
    fresh = prepared.folds.start
    shadow = model._shadow()
    data, meaning = shadow._validate(X, y, None, reset=True)
    np.testing.assert_array_equal(shadow._prepare(data, meaning, model).folds.start, fresh)


def test_more_columns_mean_fewer_units_where_a_search_is_too_long_otherwise():
    for estimator, units in ((LMRegressor(), 20), (LMRegressor(alpha=0.1), 40), (LMRegressor(alpha="cv"), 40)):
        architecture = estimator._own_architecture(1550, (1550, 30, 1))
        assert architecture.hidden_layer_sizes == (units,)
    assert LMClassifier()._own_architecture(2000, (2000, 20, 1)).hidden_layer_sizes == (20,)
    assert LMClassifier(relevance=None)._own_architecture(2000, (2000, 20, 1)).hidden_layer_sizes == (20,)
    assert LMRegressor()._own_architecture(5000, (5000, 8, 1)).hidden_layer_sizes == (50,)
    assert LMRegressor()._own_architecture(5000, (5000, 20, 1)).hidden_layer_sizes == (50,)
    # 4.5 rows a parameter of 50 units
    assert LMClassifier()._own_architecture(5000, (5000, 20, 1)).hidden_layer_sizes == (20,)
    assert LMClassifier()._own_architecture(5000, (5000, 10, 1)).hidden_layer_sizes == (40,)
    assert LMClassifier()._own_architecture(30_000, (30_000, 20, 1)).hidden_layer_sizes == (50,)
    assert LMClassifier(batch_size=100)._own_architecture(5000, (5000, 20, 1)).hidden_layer_sizes == (50,)


def test_max_time_is_kept():
    X, y, _, _ = table(400)
    model = LMRegressor(max_time=0.3, tol=0, n_iter_no_change=10**6, max_iter=10**6, random_state=0).fit(X, y)
    assert model.status_ == "time"
    assert np.isfinite(model.predict(X)).all()


def test_a_callback_sees_a_classifier_of_weighed_columns():
    X, y, _, _ = classes()
    monitor = ScoringMonitor(scoring="neg_log_loss")
    model = LMClassifier(5, random_state=0).set_callbacks(monitor).fit(X, y)
    assert model.relevance_ is not None
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    np.testing.assert_allclose(rows[-1]["neg_log_loss"], -model.loss_, rtol=1e-9)


def test_verbose_says_so(capsys):
    X, y, _, _ = classes()
    LMClassifier(4, random_state=0, verbose=1).fit(X, y)
    said = capsys.readouterr().err
    assert f"Searching for alpha on {len(X)} of {len(X)} rows ..." in said
    assert "columns are weighed" in said
    X, y, _, _ = table()
    LMRegressor(4, random_state=0, verbose=1).fit(X, y)
    assert "columns are weighed" in capsys.readouterr().err


def test_the_engine_is_the_same_for_penalties_alone(fitted):
    """Nothing but the columns' factors differs from a fit with the penalty that was found."""
    X, y, X_new, _ = classes()
    model = fitted[LMClassifier]
    given = LMClassifier(10, alpha=model.alpha_, relevance=model.relevance_, random_state=0).fit(X, y)
    np.testing.assert_allclose(given.predict_proba(X_new), model.predict_proba(X_new), atol=1e-3)
