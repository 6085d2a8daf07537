"""``alpha='auto'`` and ``'cv'`` of the regressor, ``'cv'`` of the classifier."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from sklm import LMClassifier, LMGridSearchCV, LMRegressor, _judging, _prepared, _rows_left_out, fit_many
from sklm._base import AUTO_STARTS
from sklm._choosing import NOISELESS_STARTS, NOISELESS_WORK
from sklm._penalty import has_lags, make_folds, searched_rows
from sklm._prepared import Prepared
from sklm._verbose import SearchLine
from sklm.optim import Status, _penalty_race, levenberg_marquardt

START = np.zeros(3)
#: penalties of a classifier, times the number of rows
FACTORS = np.array([10, 3, 1, 0.3, 0.1])


def noisy(n_samples=60, n_features=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_samples, n_features))
    return X, np.sin(3 * X[:, 0]) + 0.3 * rng.normal(size=n_samples)


def classes(n_samples=80, n_classes=2, seed=0, n_features=30):
    return make_classification(
        n_samples,
        n_features,
        n_informative=6,
        n_redundant=0,
        n_classes=n_classes,
        n_clusters_per_class=1,
        flip_y=0.1,
        random_state=seed,
    )


def interrupt_at(monkeypatch, stage):
    """Ctrl-C when a stage of the search has made five iterations."""
    calls = []

    def interrupted(*given, callback=None, **options):
        calls.append(1)
        if len(calls) < stage:
            return levenberg_marquardt(*given, callback=callback, **options)

        def stop(progress):
            if progress.iteration == 5:
                raise KeyboardInterrupt

        return levenberg_marquardt(*given, callback=stop, **options)

    monkeypatch.setattr(_penalty_race, "levenberg_marquardt", interrupted)


def test_equal_rows_are_in_the_same_fold_and_folds_are_equal_in_size():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, (200, 2)).astype(float)
    folds = make_folds(X, START, 1000, 1, 0).of_row
    for row in np.unique(X, axis=0):
        assert len(np.unique(folds[(row == X).all(1)])) == 1
    distinct = rng.normal(size=(103, 2))
    assert sorted(np.bincount(make_folds(distinct, START, 1000, 1, 0).of_row)) == [20, 20, 21, 21, 21]
    assert make_folds(np.ones((9, 2)), START, 1000, 1, 0) is None
    assert set(make_folds(np.arange(4.0)[:, None], START, 1000, 1, 0).of_row) == {0, 1, 2, 3}


@pytest.mark.parametrize(("n_parameters", "number"), [(10, 3), (200, 2), (2000, 1)])
def test_the_more_work_the_fewer_folds_are_left_out(n_parameters, number):
    X, _ = noisy()
    assert make_folds(X, np.zeros(n_parameters), 1000, 10, 0).n_held_out == number


def test_not_all_of_many_rows_take_part():
    X = np.repeat(np.arange(100.0), 2)[:, None]
    folds = make_folds(X, START, 30, 1, 0)
    assert len(folds.rows) == len(folds.of_row) == 60
    assert len(np.unique(X[folds.rows])) == 30


def test_auto_is_a_fit_with_the_alpha_it_found():
    X, y = noisy()
    auto = LMRegressor(relevance=None, random_state=0).fit(X, y)
    activation = auto.architecture_.activation
    assert 1e-3 <= auto.alpha_ <= 0.1
    assert min(auto.alpha_scores_, key=auto.alpha_scores_.get) == auto.alpha_
    fixed = LMRegressor(activation=activation, alpha=auto.alpha_, random_state=0).fit(X, y)
    np.testing.assert_array_equal(fixed.theta_, auto.theta_)
    assert fixed.alpha_ == auto.alpha_
    assert fixed.alpha_scores_ is None
    X_new, y_new = noisy(1000, seed=1)
    without = LMRegressor(alpha=0.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        without.fit(X, y)
    assert auto.score(X_new, y_new) > without.score(X_new, y_new) + 0.1


def test_data_without_noise_are_fitted_without_a_penalty():
    x = np.linspace(-1, 1, 80)[:, None]
    model = LMRegressor(10, random_state=0, tol=1e-6, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, np.sin(4 * x[:, 0]))
    assert model.alpha_ == 0
    assert model.loss_ < 1e-10


def wave(noise=0.0, seed=100):
    X = np.random.default_rng(seed).uniform(-1, 1, (80, 1))
    return X, np.sin(5 * X[:, 0]) + noise * np.random.default_rng(1).normal(size=80)


def judged(monkeypatch, status=None):
    """Record the fits on all rows that judge a penalty, and give them another status."""
    calls, original = [], _judging.run_together

    def run(*given):
        calls.append(given)
        solution = original(*given)
        return solution if status is None else replace(solution, status=[status] * len(solution.status))

    monkeypatch.setattr(_judging, "run_together", run)
    return calls


def lag_table(n_samples, n_lags, seed):
    """Rows (n, L) with the last L values of a noisy series, the newest first, and the next one (n,)."""
    e = np.random.default_rng(seed).normal(size=n_samples + n_lags)
    s = np.zeros(len(e))
    for t in range(2, len(s)):
        s[t] = 1.2 * s[t - 1] - 0.5 * s[t - 2] + np.sin(2 * np.pi * t / 24) + 0.5 * e[t]
    return np.column_stack([s[n_lags - 1 - k : -1 - k] for k in range(n_lags)]), s[n_lags:]


@pytest.mark.parametrize("n_lags", [1, 2, 24])
def test_lags_are_seen(n_lags):
    X, y = lag_table(100, n_lags, 0)
    scale = np.random.default_rng(1).uniform(0.1, 10, n_lags)
    assert has_lags(X, y[:, None])
    assert has_lags(X * scale + 3, -2 * y[:, None])
    assert has_lags(np.column_stack([np.arange(100.0), X.astype(np.float32)]), y[:, None])
    if n_lags > 1:
        assert has_lags(X, np.random.default_rng(2).normal(size=(100, 1)))
    order = np.random.default_rng(3).permutation(100)
    assert not has_lags(X[order], y[order, None])


def test_other_rows_in_order_are_no_lags():
    x = np.linspace(-1, 1, 60)
    for columns in ([x], [x, x**2], [x, 3 * x + 1], [np.sin(3 * x), np.cos(3 * x)], [np.ones(60)]):
        for y in (2 * x, np.sin(4 * x), np.ones(60)):
            assert not has_lags(np.column_stack(columns), y[:, None])
    assert not has_lags(np.eye(4)[np.arange(60) % 4], x[:, None])  # quarters
    grid = np.stack(np.meshgrid(x[:8], x[:8]), axis=-1).reshape(-1, 2)
    assert not has_lags(grid, np.exp(grid[:, :1] * grid[:, 1:]))
    assert not has_lags(np.ones((1, 3)), np.ones((1, 1)))
    assert not has_lags(*lag_table(600, 500, 0)[:1], np.zeros((600, 1)))  # more columns than are looked at


def test_rows_of_lags_are_left_out_one_after_the_other():
    X, y = lag_table(100, 5, 0)
    folds = LMRegressor(3, random_state=0)._ready(X, y)[1].folds
    np.testing.assert_array_equal(folds.of_row, np.repeat(np.arange(5), 20))
    assert folds.repeats
    mixed = np.random.default_rng(0).permutation(100)
    folds = LMRegressor(3, random_state=0)._ready(X[mixed], y[mixed])[1].folds
    assert np.ptp(folds.of_row[:20]) > 0
    assert not folds.repeats
    far = make_folds(X, START, 1000, 1, 0, far=np.arange(100) == 7, in_order=True).of_row
    assert far[7] == -1
    assert (np.diff(far[far >= 0]) >= 0).all()


@pytest.mark.parametrize("seed", [100, 101])
def test_a_series_is_not_memorised(seed):
    X, y = lag_table(150 + 1000, 24, seed)
    model = LMRegressor(random_state=0).fit(X[:150], y[:150])
    error = np.sqrt(np.mean((model.predict(X[150:]) - y[150:]) ** 2))
    assert error < 0.65  # the noise is 0.5; with random folds 1.1 and 0.9


def test_few_rows_are_more_folds_and_all_are_left_out():
    X = np.repeat(np.linspace(0, 1, 12), 5)[:, None]
    folds = make_folds(X, np.zeros(61), len(X), 1, seed=0)
    assert (folds.n_held_out, folds.of_row.max()) == (10, 9)
    assert all(len(set(folds.of_row[X[:, 0] == level])) == 1 for level in set(X[:, 0]))
    assert make_folds(X[:30], np.zeros(61), 30, 1, seed=0).n_held_out == 6  # different rows
    assert make_folds(np.arange(51.0)[:, None], np.zeros(61), 51, 1, seed=0).n_held_out == 3
    classes = make_folds(X, np.zeros(61), len(X), 1, seed=0, strata=np.arange(60) % 2)
    assert (classes.n_held_out, classes.of_row.max()) == (3, 4)


@pytest.mark.parametrize("seed", range(3))
def test_repeated_measurements_at_few_points(seed):
    x = np.repeat(np.linspace(0, 4, 12), 5)[:, None]
    y = np.exp(-x[:, 0]) * np.cos(4 * x[:, 0]) + 0.05 * np.random.default_rng(seed).normal(size=60)
    model, new = LMRegressor(random_state=seed).fit(x, y), np.linspace(0, 4, 200)[:, None]
    assert model.score(new, np.exp(-new[:, 0]) * np.cos(4 * new[:, 0])) > 0.97
    assert 0.03 < model.noise_std_ < 0.07


def test_all_rows_tell_that_there_is_no_noise_where_folds_do_not(monkeypatch):
    X, y = wave(seed=99)  # its folds, cut off at the ends, speak for a penalty
    inside = np.linspace(X.min(), X.max(), 500)[:, None]
    errors, model = [], LMRegressor(20, random_state=0, max_iter=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for by_folds in (False, True):
            calls = judged(monkeypatch)
            model.fit(X, y)
            errors.append(np.max(np.abs(model.predict(inside) - np.sin(5 * inside[:, 0]))))
            assert (len(calls), model.alpha_ > 0) == ((0, True) if by_folds else (3, False))
            monkeypatch.setattr(Prepared, "has_rows_of_its_own", False)
    assert errors[0] < 1e-5
    assert errors[1] > 1e-4


def judgements(X, Y, monkeypatch, alpha=1e-4, noisy=False):
    """Iterations that every start has had when all rows have judged penalties, and what they chose."""
    fits = [LMRegressor(15, alpha=alpha, n_init=2, random_state=0)._ready(X, y)[1] for y in Y]
    n_iter, original = [], _judging.run_together

    def run(*given):
        solution = original(*given)
        n_iter.append(solution.n_iter)
        return solution

    with monkeypatch.context() as patch:
        patch.setattr(_judging, "run_together", run)
        stopping, own = fits[0].options["stopping"], np.full(len(Y), alpha)
        alphas = _judging.by_all_rows(fits, np.full(len(Y), noisy), own, None, stopping, 100, "auto")
    return n_iter, alphas


def test_plain_noise_is_judged_by_the_first_iterations(monkeypatch):
    X = np.linspace(-1, 1, 100)[:, None]
    y, noise = np.sin(4 * X[:, 0]), 0.1 * np.random.default_rng(0).normal(size=100)
    n_iter, alphas = judgements(X, [y + noise], monkeypatch)
    assert ([len(n) for n in n_iter], n_iter[0].max(), alphas[0]) == ([4], 100, 1e-4)


def test_what_is_promising_goes_on_and_plain_noise_beside_it_does_not(monkeypatch):
    X = np.linspace(-1, 1, 100)[:, None]
    y, noise = np.sin(4 * X[:, 0]), 0.1 * np.random.default_rng(0).normal(size=100)
    n_iter, alphas = judgements(X, [y, y + noise], monkeypatch)
    assert [len(n) for n in n_iter] == [8, 4, 2]  # 1e-4 and 1e-9 of both and of the first, and none at all
    assert (n_iter[0].max(), n_iter[2].max()) == (100, 300)
    np.testing.assert_array_equal(alphas, [0.0, 1e-4])
    alone, alpha = judgements(X, [y], monkeypatch)
    assert ([len(n) for n in alone], alpha[0]) == ([4, 4, 2], 0.0)


def test_where_there_is_noise_a_penalty_may_be_clearly_better_than_none(monkeypatch):
    X = np.random.default_rng(0).uniform(-1, 1, (100, 1))
    y, noise = np.sin(4 * X[:, 0]), 0.1 * np.random.default_rng(0).normal(size=100)
    n_iter, alphas = judgements(X, [y, y + noise], monkeypatch, alpha=0.0, noisy=True)
    assert len(n_iter[0]) == 2 * 2 * (1 + len(_judging.LARGER))
    assert len(n_iter[1]) < len(n_iter[0])  # not those that are well behind
    assert alphas[0] == 0
    assert alphas[1] in _judging.LARGER


@pytest.mark.parametrize(("seed", "least"), [(100, 0.85), (112, 0.75)])  # 0.82 without AVX-512
def test_sines_without_a_penalty_do_not_swing_between_noisy_rows(seed, least):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 10, (3150, 2))
    y = np.sin(2 * X[:, 0]) * np.cos(X[:, 1]) + 0.1 * rng.normal(size=3150)
    model = LMRegressor(random_state=0).fit(X[:150], y[:150])  # its folds speak for none
    assert model.alpha_ > 0
    assert model.score(X[150:], y[150:]) > least


def test_all_rows_keep_the_penalty_of_data_with_little_noise(monkeypatch):
    calls = judged(monkeypatch)
    for noise in (0.01, 0.03):
        assert LMRegressor(10, random_state=0, max_iter=300).fit(*wave(noise)).alpha_ > 0
    assert len(calls) == 2  # where 1e-9 brings nothing, no smaller one is tried


def test_ten_rows_a_parameter_judge_a_penalty_that_weighs_as_much_as_beside_all():
    X = np.random.default_rng(0).uniform(-1, 1, (400, 1))
    for Y, n_rows in ((np.sin(X), 100), (np.c_[np.sin(X), np.cos(X)], 70)):  # 10 and 14 parameters
        _, fit = LMRegressor(3, random_state=0)._ready(X, Y)
        stopping = replace(fit.options["stopping"], max_iter=7)
        part = _judging.for_judging(fit, 1e-3, stopping)
        assert part.options["stopping"] is stopping
        assert part.problem.n_samples == n_rows
        assert part.alpha * n_rows == pytest.approx(1e-3 * 400)
        assert part.problem.alpha.tolist() == [part.alpha] * len(part.theta)
        assert float(part.problem.weights.sum()) == pytest.approx(1.0)
        few = replace(fit, problem=fit.problem.take(np.arange(n_rows)))
        assert _judging.for_judging(few, 1e-3, stopping).alpha == 1e-3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_of_many_rows_some_judge_a_penalty(monkeypatch):
    calls, rng = judged(monkeypatch), np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1500, 2))
    y = np.sin(4 * X[:, 0]) * np.exp(X[:, 1]) + 0.03 * np.random.default_rng(1).normal(size=1500)
    assert LMRegressor(20, random_state=0, max_iter=100).fit(X, y).alpha_ > 0
    assert [fit.problem.n_samples for fits, _ in calls for fit in fits] == [810, 810]


def curve(n_samples, noise=0.0):
    x = np.linspace(-1, 1, n_samples)[:, None]
    return x, np.sin(4 * x[:, 0]) + noise * np.random.default_rng(2).normal(size=n_samples)


@pytest.mark.parametrize(("n_samples", "penalty"), [(50, 1e-10), (30, 1e-10), (80, 0.0)])
def test_a_smooth_curve_is_met_also_with_fewer_rows_than_parameters(n_samples, penalty):
    new = np.linspace(-1, 1, 999)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(random_state=0, max_iter=300).fit(*curve(n_samples))
    assert model.alpha_ <= penalty
    assert np.mean((model.predict(new) - np.sin(4 * new[:, 0])) ** 2) < 1e-9


def test_noise_keeps_its_penalty_with_fewer_rows_than_parameters(monkeypatch):
    calls = judged(monkeypatch)
    model = LMRegressor(20, random_state=0, max_iter=300).fit(*curve(50, 0.03))
    assert len(calls) == 2  # the first iterations, and all of them: of few rows the first say too little
    assert model.alpha_ >= 1e-6
    assert model.loo_score_ is None  # the estimate is too rough to be told


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-4])
def test_almost_equal_rows_are_no_reason_to_memorise_them(distance, seed):
    """Each of 30 rows has a twin with the same noise, which says what the row is when that is left out."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (30, 1))
    X = np.concatenate([x, x + distance * rng.normal(size=x.shape)])
    y = np.tile(np.sin(4 * x[:, 0]) + 0.03 * rng.normal(size=30), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(20, random_state=0, max_iter=200).fit(X, y)
    inside = np.linspace(x.min(), x.max(), 500)[:, None]
    assert np.sqrt(np.mean((model.predict(inside) - np.sin(4 * inside[:, 0])) ** 2)) < 0.06


def test_no_penalty_has_to_be_evidently_better_than_what_was_found():
    best = _judging.evidently_best
    assert best({1e-4: 1.0, 1e-9: 0.2, 0.0: 0.3}, 1e-4) == 1e-4
    assert best({1e-4: 1.0, 1e-9: 0.05, 0.0: 0.09}, 1e-4) == 0
    assert best({1e-4: 1.0, 1e-9: 0.05, 0.0: 0.11}, 1e-4) == 1e-9
    assert best({1e-4: 1.0, 1e-9: 1e-5, 0.0: 0.01}, 1e-4) == 1e-9
    assert best({1e-7: 1e-3, 1e-9: 1e-4, 1e-11: 1e-5}, 0.0) == 0
    assert best({1e-7: 1e-3, 1e-9: 1e-6, 1e-11: 1e-4}, 0.0) == 1e-9
    assert best({}, 0.0) == 0
    assert best({1e-9: 1e-6}, 1e-4) == 1e-4


def test_a_penalty_has_to_be_evidently_better_than_what_the_search_saw_of_none():
    losses = {1e-7: 1e-4, 1e-9: 2e-4, 1e-11: 2e-3}
    assert _judging.evidently_best(losses, 0.0) == 1e-7
    assert _judging.evidently_best(losses, 0.0, searched=2e-3) == 1e-7
    assert _judging.evidently_best(losses, 0.0, searched=5e-4) == 0.0
    assert _judging.evidently_best({1e-4: 1e-2, **losses}, 1e-4, searched=5e-4) == 1e-7  # its own loss is known


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"loss": "absolute_error"}, {"copies": True}])
def test_folds_decide_where_rows_cannot(options, monkeypatch):
    calls, (X, y) = judged(monkeypatch), curve(40)
    if options.pop("copies", False):
        X, y = np.concatenate([X, X[:5]]), np.concatenate([y, y[:5]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(random_state=0, max_iter=150, **options).fit(X, y)
    assert not [fits for fits, _ in calls if fits[0].problem.network.n_parameters > len(X)]  # polynomials have few
    assert model.score(X, y) > 0.99


def test_what_all_rows_say_takes_time(monkeypatch):
    X, y = wave(0.01)
    model = LMRegressor(10, random_state=0, max_iter=100)
    judged(monkeypatch, Status.INTERRUPTED)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model.fit(X, y)
    assert (model.status_, model.n_iter_, model.alpha_scores_) == ("interrupted", 0, None)
    assert model.alpha_ > 0
    assert model.score(X, y) > 0.99
    judged(monkeypatch, Status.INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):
        fit_many(model, X, np.stack([y, y]))
    judged(monkeypatch, Status.TIME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert model.fit(X, y).alpha_ > 0
        together = fit_many(model, X, np.stack([y, wave()[1]]))
    assert together[0].alpha_ == model.alpha_


def test_the_penalty_of_a_fit_does_not_depend_on_its_company():
    """Folds judge where rows count twice, and all rows where none does."""
    model = LMRegressor(6, random_state=0, max_iter=100)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        X = rng.uniform(-1, 1, (40, 1))
        y, weights = np.sin(4 * X[:, 0]) + seed * 1e-3 * rng.normal(size=40), [None, np.full(40, 2.0)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            alone = [clone(model).fit(X, y, weight).alpha_ for weight in weights]
            together, sizes = fit_many(model, X, y, weights, return_batch_sizes=True)
        assert [fit.alpha_ for fit in together] == alone
        assert sizes.tolist() == [1, 1]


def test_a_found_penalty_stays_where_rows_would_be_held_out():
    X, y = noisy(60)
    model = LMRegressor(10, random_state=0, warm_start=True, max_iter=30)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit(X, y).alpha_
        for module in ("_choosing", "_penalty"):
            patch.setattr(f"sklm.{module}.SEARCH_WORK", 1e3)
        assert found == model.fit(X, y).alpha_ > 0
        assert model.validation_scores_ is None
        assert clone(model).fit(X, y).validation_scores_ is not None


def test_a_start_that_was_stopped_for_another_is_not_the_best():
    X, y = wave()
    model = LMRegressor(20, alpha="cv", target_loss=1e-6, random_state=0, max_iter=500).fit(X, y)
    assert (model.status_, model.loss_ <= 1e-6) == ("target", True)


def counted(model, X, y):
    """The fitted model, and the number of starts that it is the best of."""
    sizes, original = [], Prepared.run

    def run(self, problem, validation, theta, *given, **options):
        sizes.append(len(theta))
        return original(self, problem, validation, theta, *given, **options)

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", ConvergenceWarning)
        patch.setattr(Prepared, "run", run)
        return model.fit(X, y), sizes[-1]


def test_more_starts_race_where_there_is_no_noise():
    X, y = noisy(n_features=1)
    smooth = np.sin(3 * X[:, 0])
    model = LMRegressor(8, random_state=2, max_iter=120)
    many, n_starts = counted(clone(model), X, smooth)
    assert (many.alpha_, n_starts) == (0, NOISELESS_STARTS)
    few, n_few = counted(clone(model).set_params(alpha=0.0), X, smooth)
    assert n_few == AUTO_STARTS
    assert many.loss_ < few.loss_ / 2
    assert many.status_ != "superseded"
    # the same starts without a race, which has not given up the best
    plain, _ = counted(clone(model).set_params(alpha=0.0, n_init=NOISELESS_STARTS), X, smooth)
    np.testing.assert_allclose(many.loss_, plain.loss_, rtol=0.2)  # of 1e-14
    assert counted(clone(model), X, y)[1] == AUTO_STARTS
    assert counted(clone(model).set_params(n_init=2), X, smooth)[1] == 2
    assert counted(clone(model).set_params(hidden_layer_sizes=()), X, X[:, 0])[1] == 1


def test_the_more_work_the_fewer_starts_race():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 4))
    model = LMRegressor(20, random_state=0, max_iter=30)
    n_parameters = 20 * 6 + 1
    _, n_starts = counted(model, X, np.sin(X.sum(axis=1)))
    assert n_starts == int(NOISELESS_WORK / np.sqrt(300 * n_parameters**2))
    assert AUTO_STARTS < n_starts < NOISELESS_STARTS


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_layer_sizes": 1, "rows": 500},  # a hundred rows a parameter
        {"early_stopping": True},
        {"target_loss": 1e-3},
        {"batch_size": 20, "batch_memory": None, "max_iter": 5},
        {"optimizer": "lbfgs", "max_iter": 5},
        {"architecture": torch.nn.Linear(2, 1).double()},
    ],
)
def test_auto_is_no_penalty_where_a_search_does_not_suit(options):
    X, y = noisy(options.pop("rows", 60))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(random_state=0, **options).fit(X, y)
    assert model.alpha_ == 0
    assert model.alpha_scores_ is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": True}, "early_stopping"),
        ({"batch_size": 20}, "mini-batches"),
        ({"optimizer": "lbfgs"}, "optimizer='lbfgs'"),
        ({"optimizer": "adam"}, "optimizer='adam'"),
    ],
)
@pytest.mark.parametrize(("estimator", "table"), [(LMRegressor, noisy), (LMClassifier, classes)])
def test_cv_says_what_hinders_it(estimator, table, options, message):
    with pytest.raises(ValueError, match=message):
        estimator(alpha="cv", **options).fit(*table())


def test_cv_needs_different_rows_and_all_of_them():
    with pytest.raises(ValueError, match="two different rows"):
        LMRegressor(alpha="cv").fit(np.ones((5, 1)), np.arange(5.0))
    with pytest.raises(ValueError, match="partial_fit"):
        LMRegressor(alpha="cv").partial_fit(*noisy())


def test_cv_searches_where_auto_does_not():
    X, y = noisy(1400)
    assert LMRegressor(3, random_state=0).fit(X, y).alpha_scores_ is None
    model = LMRegressor(3, alpha="cv", random_state=0).fit(X, y)
    assert model.alpha_ == min(model.alpha_scores_, key=model.alpha_scores_.get)


def test_a_weight_counts_as_so_many_equal_rows():
    X, y = noisy(40)
    weight = np.arange(40) % 3
    weighted = LMRegressor(4, random_state=0).fit(X, y, sample_weight=weight)
    repeated = LMRegressor(4, random_state=0).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert weighted.alpha_ == repeated.alpha_ > 0
    for alpha, score in weighted.alpha_scores_.items():
        assert score == pytest.approx(repeated.alpha_scores_[alpha], rel=1e-3)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-5)


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_copies_of_rows_are_no_reason_to_memorise_them(noise):
    """Thrice the rows are more than parameters, but not different ones."""
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, (30, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 1] + noise * rng.normal(size=30)
    model = LMRegressor(relevance=None, random_state=0)
    once, thrice = (clone(model).fit(X, y, weight) for weight in (None, np.full(30, 3.0)))
    assert thrice.alpha_ == once.alpha_ > 0


@pytest.mark.parametrize("scale", [1e-200, 1e20])
def test_weights_of_any_size_mean_the_same(scale):
    X, y = noisy(40)
    weight = np.random.default_rng(1).uniform(1, 2, 40)
    one, other = (LMRegressor(4, random_state=0).fit(X, y, factor * weight) for factor in (1, scale))
    assert one.alpha_ == other.alpha_
    assert one.alpha_scores_ == pytest.approx(other.alpha_scores_)


@pytest.mark.parametrize("options", [{"loss": "huber"}, {"solver": "qr"}, {"alpha": "cv", "growing": True}])
def test_other_losses_and_solvers_see_that_there_is_no_noise(options):
    x = np.linspace(-1, 1, 60)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(6, random_state=0, n_init=1, max_iter=400, **options).fit(x, np.sin(4 * x[:, 0]))
    assert model.alpha_ == 0
    assert model.score(x, np.sin(4 * x[:, 0])) > 1 - 1e-6


def test_constant_targets_need_no_search():
    X, _ = noisy()
    model = LMRegressor(random_state=0).fit(X, np.full(60, 3.0))
    assert (model.alpha_, model.alpha_scores_) == (0, None)


def test_few_iterations_take_the_least_loss():
    X, y = noisy(40)
    for seed in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LMRegressor(6, relevance=None, random_state=seed, max_iter=10).fit(X, y)
        assert min(model.alpha_scores_, key=model.alpha_scores_.get) == model.alpha_


def test_fits_together_find_the_alphas_of_fits_alone():
    X, _ = noisy()
    targets = [noisy(seed=seed)[1] for seed in range(2)] + [np.sin(2 * X[:, 0])]
    models, sizes = fit_many(LMRegressor(4, random_state=0), X, targets, return_batch_sizes=True)
    assert (sizes == 3).all()
    for model, y in zip(models, targets, strict=True):
        alone = LMRegressor(4, random_state=0).fit(X, y)
        assert model.alpha_ == alone.alpha_
        np.testing.assert_allclose(model.predict(X), alone.predict(X), atol=1e-5)


def test_a_search_over_auto_and_numbers():
    X, y = noisy()
    grid = {"alpha": ["auto", 1e-2, 10.0]}
    search = LMGridSearchCV(LMRegressor(6, n_init=1, random_state=0), grid, cv=3).fit(X, y)
    assert search.best_params_["alpha"] != 10.0


def test_many_noisy_rows_are_not_worse_than_few():
    """Below a hundred rows a parameter, the search takes some of them, and the penalty that it finds is divided."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (2000, 4))
    smooth = X[:, 0] + 0.5 * np.sin(3 * X[:, 1])
    model = LMRegressor(30, random_state=0, n_init=1).fit(X, smooth + 2 * rng.normal(size=2000))
    assert 1e-3 < model.alpha_ < 0.1
    assert model.alpha_ in model.alpha_scores_
    assert np.mean((model.predict(X) - smooth) ** 2) < 0.2 * np.var(smooth)


def test_a_search_is_announced(capsys):
    X, y = noisy()
    model = LMRegressor(4, random_state=0, verbose=1).fit(X, y)
    shown = capsys.readouterr().err
    assert "Searching for alpha on 60 of 60 rows" in shown
    assert f"alpha = {model.alpha_:.3g} after" in shown


def test_a_search_shows_that_it_moves(capsys, monkeypatch):
    X, y = noisy()
    monkeypatch.setattr("sklm._solving.SearchLine", lambda: SearchLine(every=0.0))
    model = LMRegressor(4, random_state=0, verbose=1).fit(X, y)
    line = next(line for line in capsys.readouterr().err.split("\n") if "of the search" in line)
    numbers = [int(text.split()[0]) for text in line.split("\r")[1:]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 40
    np.testing.assert_array_equal(model.theta_, LMRegressor(4, random_state=0).fit(X, y).theta_)


def test_a_warm_start_keeps_what_was_found():
    X, y = noisy()
    model = LMRegressor(6, random_state=0, warm_start=True).fit(X, y)
    found = model.alpha_
    scores = model.alpha_scores_
    model.fit(X[:30], y[:30])
    assert model.alpha_ == found
    assert model.alpha_scores_ is scores
    model.partial_fit(X[:30], y[:30])
    assert model.alpha_ == found


def test_a_warm_start_searches_where_nothing_was_found_before():
    X, y = noisy()
    model = LMRegressor(6, alpha=0.5, random_state=0, warm_start=True).fit(X, y)
    model.set_params(alpha="auto").fit(X, y)
    fresh = LMRegressor(6, activation="tanh", random_state=0).fit(X, y)
    assert model.alpha_ == fresh.alpha_
    assert model.alpha_scores_ == pytest.approx(fresh.alpha_scores_)
    with pytest.raises(ValueError, match="early_stopping"):
        model.set_params(alpha="cv", early_stopping=True).fit(X, y)


def test_partial_fit_has_no_penalty_unless_given():
    X, y = noisy()
    assert LMRegressor(3, random_state=0).partial_fit(X, y).alpha_ == 0
    assert LMRegressor(3, alpha=0.1, random_state=0).partial_fit(X, y).alpha_ == 0.1


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("n_samples", [60, 2000])
def test_an_interrupted_search_leaves_its_best_model(monkeypatch, when, n_samples):
    interrupt_at(monkeypatch, when)
    X, y = noisy(n_samples)
    model = LMRegressor(5, n_init=3, random_state=0)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model.fit(X, y)
    assert (model.status_, model.converged_, model.n_iter_) == ("interrupted", False, 0)
    assert model.alpha_scores_ is None
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - y) ** 2), rtol=1e-9)
    assert model.score(X, y) > 0.3


@pytest.mark.parametrize("when", range(1, 4))
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("sklm._judging", "run_together"),
        ("sklm._prepared", "levenberg_marquardt"),
        ("sklm._prepared", "fit_growing"),
    ],
)
def test_an_interrupt_after_the_search_leaves_its_best_model(monkeypatch, module, name, when):
    # before the first iteration: where all rows judge the penalty, between two of these fits, or where the fit begins
    module, calls = sys.modules[module], []
    original = getattr(module, name)

    def interrupted(*given, **options):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return original(*given, **options)

    monkeypatch.setattr(module, name, interrupted)
    X = np.linspace(-1, 1, 50).reshape(-1, 1)
    y = np.sin(4 * X[:, 0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LMRegressor(20, n_init=2, growing=name == "fit_growing", random_state=0).fit(X, y)
    assert calls
    if len(calls) >= when:
        assert (model.status_, model.converged_, model.n_iter_) == ("interrupted", False, 0)
        assert sum("the best model so far is kept" in str(warning.message) for warning in caught) == 1
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean((model.predict(X) - y) ** 2), rtol=1e-9)
    assert model.score(X, y) > 0.3


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupt_in_the_leave_one_out_loss_keeps_the_fit(monkeypatch, when):
    X, y = noisy()
    expected, calls = LMRegressor(5, alpha=0.01, n_init=2, random_state=0).fit(X, y), []

    def interrupting(original):
        def run(*given, **options):
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return original(*given, **options)

        return run

    for module in (_prepared, _rows_left_out):
        monkeypatch.setattr(module, "leave_one_out", interrupting(module.leave_one_out))
    monkeypatch.setattr(_rows_left_out, "left_out", interrupting(_rows_left_out.left_out))
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = LMRegressor(5, alpha=0.01, n_init=2, random_state=0).fit(X, y)
    assert (model.status_, model.converged_, model.loo_score_) == ("interrupted", False, None)
    assert model.loss_ == pytest.approx(expected.loss_, rel=0.1)


def test_an_interrupt_between_starts_that_run_in_turn_keeps_the_first_ones(monkeypatch):
    X, y = noisy()
    monkeypatch.setattr(LMRegressor, "_check_memory", lambda *_: 1)
    expected, calls = LMRegressor(5, alpha=0.01, n_init=1, random_state=0).fit(X, y), []

    def interrupted(*given, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return levenberg_marquardt(*given, **options)

    monkeypatch.setattr(_prepared, "levenberg_marquardt", interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user; the best model so far is kept"):
        model = LMRegressor(5, alpha=0.01, n_init=3, growing=False, random_state=0).fit(X, y)
    assert (model.status_, model.loss_) == ("interrupted", expected.loss_)


def test_an_interrupt_ends_a_search_over_models(monkeypatch):
    X, y = noisy()
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        LMGridSearchCV(LMRegressor(3, alpha="cv"), {"damping": [1e-2, 1.0]}, cv=3).fit(X, y)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        fit_many(LMRegressor(3), X, np.c_[y, -y].T)


def test_the_search_takes_at_most_half_of_the_time():
    X, y = noisy(300, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor((20, 10), random_state=0, max_time=0.5).fit(X, y)
    assert len(model.loss_curve_) >= 1
    assert np.isfinite(model.predict(X)).all()


# -- LMClassifier ------------------------------------------------------------------------------------------------


def left_out_by_logistic_regression(X, y, C, weights):
    """Log-loss of rows left out, and the folds of the search with ``random_state=0``."""
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    folds = make_folds(X, START, len(X), 1, seed, y).of_row
    total = 0.0
    for k in range(5):
        train, out = folds != k, folds == k
        # the penalty is that of the mean loss: it weighs as much beside fewer rows
        model = LogisticRegression(C=C * weights.sum() / weights[train].sum(), tol=1e-10, max_iter=5000)
        model.fit(X[train], y[train], weights[train])
        total += weights[out].sum() * log_loss(y[out], model.predict_proba(X[out]), sample_weight=weights[out])
    return total / weights.sum()


@pytest.mark.parametrize(("n_classes", "weighted"), [(2, True), (3, False)])
def test_scores_of_a_linear_classifier_are_those_of_logistic_regression(n_classes, weighted):
    X, y = classes(60, n_classes, n_features=6)
    weights = np.random.default_rng(1).uniform(1, 2, 60) if weighted else np.ones(60)
    model = LMClassifier((), alpha="cv", random_state=0).fit(X, y, weights)
    scaled = StandardScaler().fit(X, sample_weight=weights).transform(X)
    factors = np.array(list(model.alpha_scores_)) * weights.sum()
    np.testing.assert_allclose(factors, FACTORS)
    want = [left_out_by_logistic_regression(scaled, y, 1 / factor, weights) for factor in factors]
    np.testing.assert_allclose(list(model.alpha_scores_.values()), want, rtol=1e-3)
    assert model.alpha_ == list(model.alpha_scores_)[np.argmin(want)]


@pytest.mark.parametrize(
    ("n_parameters", "expected"), [(61, 610), (215, 2150), (300, 1e8 / 300**2), (342, 855), (601, 1502.5)]
)
def test_fewer_rows_take_part_in_long_searches(n_parameters, expected):
    assert searched_rows(n_parameters) == pytest.approx(expected)


def test_the_penalty_of_a_long_search_is_multiplied_by_the_share_of_its_rows(monkeypatch):
    monkeypatch.setattr("sklm._penalty.LONG_SEARCH_WORK", 100 * 21**2)
    X, y = noisy(200)
    model = LMRegressor(5, n_init=1, random_state=0).fit(X, y)
    assert max(model.alpha_scores_) == pytest.approx(0.1 * 100 / 200)


@pytest.mark.parametrize("most", [200, 60])
def test_folds_have_equal_shares_of_every_class(most):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), rng.permutation(np.repeat(["a", "b", "c"], [20, 30, 150]))
    folds = make_folds(X, START, most, 1, 0, y)
    assert len(folds.rows) == most
    for label in "abc":
        counts = np.bincount(folds.of_row[y[folds.rows] == label], minlength=5)
        assert np.ptp(counts) <= 1
    assert sorted(np.bincount(folds.of_row)) == [most // 5] * 5
    np.testing.assert_array_equal(folds.rows, make_folds(X, START, most, 1, 0).rows)


def test_a_classifier_searches_if_asked():
    X, y = classes(seed=1)
    default = LMClassifier(5, random_state=0).fit(X, y)
    assert default.alpha_ > 1 / 80
    searched = LMClassifier(5, alpha="cv", n_init=1, random_state=0).fit(X, y)
    assert searched.alpha_ == min(searched.alpha_scores_, key=searched.alpha_scores_.get)
    fixed = LMClassifier(5, alpha=searched.alpha_, random_state=0).fit(X, y)
    np.testing.assert_array_equal(fixed.theta_, searched.theta_)


def test_the_penalty_found_predicts_better_than_one_over_the_rows():
    """Thirty columns for eighty rows: that is too weak."""
    loss = {}
    for alpha in (1 / 80, "cv"):
        loss[alpha] = []
        for seed in range(3):
            X, y = classes(2080, seed=seed)
            model = LMClassifier(5, alpha=alpha, random_state=0).fit(X[:80], y[:80])
            loss[alpha].append(log_loss(y[80:], model.predict_proba(X[80:])))
    assert np.mean(loss["cv"]) < 0.85 * np.mean(loss[1 / 80])


def test_labels_and_rows_by_weight_are_searched_for_too():
    X, y = classes(60, n_features=6)
    both = np.c_[y, 1 - y]
    weight = np.arange(60) % 3
    options = {"hidden_layer_sizes": 4, "alpha": "cv", "random_state": 0}
    for targets in (y, both):
        weighted = LMClassifier(**options).fit(X, targets, weight)
        repeated = LMClassifier(**options).fit(np.repeat(X, weight, axis=0), np.repeat(targets, weight, axis=0))
        assert weighted.alpha_ == pytest.approx(repeated.alpha_)
        for one, other in zip(weighted.alpha_scores_.items(), repeated.alpha_scores_.items(), strict=True):
            assert one == pytest.approx(other, rel=1e-3)
    # the loss of two labels is their mean
    assert max(weighted.alpha_scores_) == pytest.approx(FACTORS[0] / (2 * weight.sum()))


def test_of_many_rows_some_are_enough():
    X, y = classes(2000, n_features=6)
    model = LMClassifier(2, alpha="cv", random_state=0).fit(X, y)  # 17 parameters
    np.testing.assert_allclose(list(model.alpha_scores_), FACTORS / 2000)


def test_a_classifier_cannot_search_on_one_batch():
    X, y = classes()
    with pytest.raises(ValueError, match="partial_fit does not support alpha='cv'"):
        LMClassifier(alpha="cv").partial_fit(X, y, classes=[0, 1])


def test_classifiers_together_find_the_alphas_of_classifiers_alone():
    X, y = classes(60, n_features=6)
    weights = [None, np.full(60, 2.0), np.where(y == 1, 3.0, 1.0)]  # penalties of their own
    together, sizes = fit_many(LMClassifier(4, alpha="cv", random_state=0), X, y, weights, return_batch_sizes=True)
    assert sizes.tolist() == [3, 3, 3]
    for model, weight in zip(together, weights, strict=True):
        alone = LMClassifier(4, alpha="cv", random_state=0).fit(X, y, weight)
        assert model.alpha_ == pytest.approx(alone.alpha_)
        assert model.alpha_scores_ == pytest.approx(alone.alpha_scores_, rel=1e-5)


def test_regressors_and_classifiers_of_one_loss_are_searched_apart():
    X = np.array([[0.0], [1.0], [2.0]])
    y = np.array([0.0, 1.0, 1.0])
    given = [
        LMRegressor(2, alpha="cv", random_state=0),
        LMClassifier(2, alpha="cv", loss="squared_error", random_state=0),
    ]
    one, other = fit_many(given, X, y)
    assert len(one.alpha_scores_) == 10
    assert len(other.alpha_scores_) == len(FACTORS)


def test_a_stopped_search_leaves_a_classifier(monkeypatch):
    interrupt_at(monkeypatch, 1)
    X, y = classes()
    model = LMClassifier(5, alpha="cv", random_state=0)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model.fit(X, y)
    assert (model.status_, model.alpha_scores_) == ("interrupted", None)
    assert min(abs(model.alpha_ * 80 - factor) for factor in FACTORS) < 1e-9
    assert np.isfinite(model.predict_proba(X)).all()
