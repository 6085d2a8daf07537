"""Searches with batched fits against scikit-learn's own."""

import pickle
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.callback import ProgressBar
from sklearn.datasets import make_classification
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from sklm import LMClassifier, LMGridSearchCV, LMRandomizedSearchCV, LMRegressor
from sklm import _batching as batching
from sklm import _search as searching
from sklm.optim import levenberg_marquardt

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(1)
X = RNG.uniform(-1, 1, (92, 3))  # folds of different sizes
Y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * RNG.normal(size=92)
CLASSES = np.array(["low", "middle", "high"])[np.digitize(Y, [0.2, 0.8])]
WEIGHT = RNG.uniform(0.2, 2, 92)
SMALL = LMRegressor(2, alpha=1e-2, n_init=1, max_iter=10, random_state=0)
CLASSIFIER = LMClassifier(2, alpha=1e-2, max_iter=10, random_state=0)
GRID = {"alpha": [1e-3, 1e-1], "damping": [1e-2, 1.0]}
PIPELINE = Pipeline([("scale", StandardScaler()), ("products", PolynomialFeatures()), ("lm", SMALL)])

CASES = {
    "regression": (SMALL, GRID, Y, {}, {}),
    "outputs": (SMALL, GRID, np.column_stack([Y, Y**2]), {}, {}),
    "two classes": (CLASSIFIER, GRID, CLASSES == "low", {}, {}),
    "classes": (CLASSIFIER, {**GRID, "class_weight": [None, "balanced"]}, CLASSES, {"scoring": "neg_log_loss"}, {}),
    "weights": (SMALL, GRID, Y, {}, {"sample_weight": WEIGHT}),
    "groups": (SMALL, GRID, Y, {"cv": GroupKFold(3)}, {"groups": np.arange(92) % 7}),
    "random splits": (SMALL, GRID, Y, {"cv": ShuffleSplit(3, random_state=0)}, {}),
    "sizes": (SMALL, {"hidden_layer_sizes": [2, (2, 2), 3], "activation": ["tanh", "sin"]}, Y, {}, {}),
    "mini-batches": (SMALL, {"batch_size": [None, 20, 30], "damping": [1e-2, 1.0]}, Y, {}, {}),
    "validation": (SMALL, {"early_stopping": [True, False], "alpha": [1e-3, 1e-1]}, Y, {}, {}),
    "starts": (clone(SMALL).set_params(max_iter=6), {"n_init": [1, 3], "alpha": [1e-3, 1e-1]}, Y, {}, {}),
    "train scores": (SMALL, GRID, Y, {"return_train_score": True}, {}),
    "several grids": (SMALL, [{"alpha": [1e-3]}, {"damping": [0.1, 1.0]}], Y, {}, {}),
    "pipeline": (PIPELINE, {"products__degree": [1, 2], "lm__alpha": [1e-2, 1e-1]}, Y, {}, {}),
    "pipeline weights": (PIPELINE, {"lm__alpha": [1e-2, 1e-1]}, Y, {}, {"lm__sample_weight": WEIGHT}),
    "replaced step": (PIPELINE, {"scale": [StandardScaler(), "passthrough"], "lm": [SMALL, Ridge()]}, Y, {}, {}),
    "metrics": (SMALL, GRID, Y, {"scoring": ["r2", "neg_mean_absolute_error"], "refit": "r2"}, {}),
    "metrics of a function": (
        SMALL,
        GRID,
        Y,
        {"scoring": lambda e, X, y: {"bias": float(np.mean(e.predict(X) - y)), "r2": e.score(X, y)}, "refit": "r2"},
        {},
    ),
}


def assert_same(search, reference, tol=1e-8):
    ours, theirs = search.cv_results_, reference.cv_results_
    assert set(ours) == {*theirs, "batched"}
    for name, values in theirs.items():
        if "time" in name or name.startswith("rank"):
            continue
        if name.startswith(("split", "mean", "std")):
            assert_allclose(ours[name], values, rtol=tol, atol=tol, err_msg=name)
        elif name.startswith("param_"):
            assert_array_equal(ours[name].mask, values.mask)
    assert list(map(str, ours["params"])) == list(map(str, theirs["params"]))
    assert search.best_params_.keys() == reference.best_params_.keys()
    assert search.best_index_ == reference.best_index_


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_ordinary_search(name):
    estimator, grid, y, options, params = CASES[name]
    options = {"cv": 2, **options}
    search = LMGridSearchCV(estimator, grid, **options).fit(X, y, **params)
    reference = GridSearchCV(estimator, grid, **options).fit(X, y, **params)
    assert_same(search, reference)
    if name == "replaced step":
        expected = [isinstance(parameters["lm"], LMRegressor) for parameters in search.cv_results_["params"]]
        assert_array_equal(search.cv_results_["batched"], expected)
    else:
        assert search.cv_results_["batched"].all()
    assert_allclose(search.best_score_, reference.best_score_, rtol=1e-8)
    if hasattr(search.best_estimator_, "predict_proba"):
        assert_allclose(search.predict_proba(X), reference.predict_proba(X), rtol=1e-8)
    else:
        assert_allclose(search.predict(X), reference.predict(X), rtol=1e-8)
    assert not hasattr(estimator, "theta_")
    assert (search.cv_results_["mean_fit_time"] > 0).all()


def test_random_candidates():
    draws = {"alpha": list(np.geomspace(1e-3, 1, 50)), "hidden_layer_sizes": [2, 3]}
    options = {"n_iter": 5, "cv": 3, "random_state": 3}
    search = LMRandomizedSearchCV(SMALL, draws, **options).fit(X, Y)
    assert_same(search, RandomizedSearchCV(SMALL, draws, **options).fit(X, Y))
    assert search.cv_results_["batched"].all()


def test_splits_are_drawn_once():
    """A splitter with a random state of its own gives others at every call."""

    class Counting(ShuffleSplit):
        calls = 0

        def split(self, X, y=None, groups=None):
            Counting.calls += 1
            return super().split(X, y, groups)

    search = LMGridSearchCV(SMALL, GRID, cv=Counting(2, random_state=np.random.RandomState(0))).fit(X, Y)
    reference = GridSearchCV(SMALL, GRID, cv=ShuffleSplit(2, random_state=np.random.RandomState(0))).fit(X, Y)
    assert Counting.calls == 1
    assert_same(search, reference)


@pytest.mark.parametrize(
    ("estimator", "grid", "message"),
    [
        (SMALL, {"alpha": [1e-2, -1.0]}, "The 'alpha' parameter of LMRegressor"),
        (SMALL, {"loss": ["squared_error", "poisson"]}, "needs targets not below zero"),
        (PIPELINE, {"products__degree": [1, -1]}, "The 'degree' parameter of PolynomialFeatures"),
        (
            clone(SMALL).set_params(batch_memory=40),
            {"batch_size": [20, None]},
            "batch_memory=40 would be ignored with batch_size=None, where every step sees all rows",
        ),
    ],
    ids=["parameter", "data", "transformer", "combination"],
)
def test_fits_that_fail(estimator, grid, message):
    for error_score in (np.nan, -5.0):
        results, failures = [], []
        for kind in (LMGridSearchCV, GridSearchCV):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results.append(kind(estimator, grid, cv=3, error_score=error_score).fit(X, Y))
            failures.append([str(w.message) for w in caught if w.category is FitFailedWarning])
        assert_same(*results)
        for text in failures:
            assert len(text) == 1
            assert message in text[0]
            assert "3 fits failed out of a total of 6" in text[0]
    with pytest.raises(ValueError):  # noqa: PT011 - the same one as in scikit-learn
        LMGridSearchCV(estimator, grid, cv=3, error_score="raise").fit(X, Y)
    with pytest.raises(ValueError, match="Invalid parameter 'dampng'"):
        LMGridSearchCV(SMALL, {"dampng": [1.0]}).fit(X, Y)


@pytest.mark.parametrize(
    ("estimator", "grid", "batched"),
    [
        (SMALL, [{"alpha": [1e-2]}, {"alpha": [1e-1], "max_time": [60.0]}], [True, False]),
        (Ridge(), {"alpha": [0.1, 1.0]}, [False, False]),
        (Pipeline([("lm", SMALL), ("last", "passthrough")]), {"lm__alpha": [1e-2]}, None),
    ],
    ids=["time", "ridge", "not the last step"],
)
def test_what_cannot_be_batched_goes_the_ordinary_way(estimator, grid, batched):
    if batched is None:
        with pytest.raises(TypeError, match="scor"):
            LMGridSearchCV(estimator, grid).fit(X, Y)
        return
    search = LMGridSearchCV(estimator, grid, cv=3).fit(X, Y)
    assert_same(search, GridSearchCV(estimator, grid, cv=3).fit(X, Y))
    assert search.cv_results_["batched"].tolist() == batched


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_fits_that_gain_nothing_from_company_are_done_singly(n_jobs, monkeypatch):
    monkeypatch.setattr(batching, "BATCH_WORK", 90.0)  # of 61 rows and 11 parameters, no less
    grid = [{"lm__alpha": [1e-2]}, {"lm__alpha": [1e-1], "lm__max_time": [60.0]}]
    search = LMGridSearchCV(PIPELINE, grid, cv=3, n_jobs=n_jobs).fit(X, Y, lm__sample_weight=WEIGHT)
    reference = GridSearchCV(PIPELINE, grid, cv=3).fit(X, Y, lm__sample_weight=WEIGHT)
    assert_same(search, reference)
    assert not search.cv_results_["batched"].any()
    assert (search.cv_results_["mean_fit_time"] > 0).all()
    assert_allclose(search.predict(X), reference.predict(X), rtol=1e-8)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
def test_fits_that_fail_in_a_process():
    estimator, grid = clone(SMALL).set_params(max_time=60.0), {"alpha": [1e-2, -1.0]}
    with pytest.warns(
        FitFailedWarning, match=r"3 fits failed out of a total of 6(.|\n)*The 'alpha' parameter of LMReg"
    ):
        search = LMGridSearchCV(estimator, grid, cv=3, n_jobs=2).fit(X, Y)
    assert_array_equal(np.isnan(search.cv_results_["mean_test_score"]), [False, True])
    with pytest.raises(ValueError, match="The 'alpha' parameter of LMRegressor"):
        LMGridSearchCV(estimator, grid, cv=3, n_jobs=2, error_score="raise").fit(X, Y)


@pytest.fixture
def divided(monkeypatch):
    """Few fits are enough for another process, and are sent there in parts of four."""
    monkeypatch.setattr(batching, "LEAST_OF_A_JOB", 2)
    monkeypatch.setattr(batching, "MOST_OF_A_PART", 4)


def refused(*args, **options):
    raise AssertionError("fits in this process")


@pytest.mark.parametrize(
    "name", ["outputs", "classes", "weights", "groups", "sizes", "mini-batches", "pipeline weights"]
)
def test_batches_in_processes(name, divided, monkeypatch):
    estimator, grid, y, options, params = CASES[name]
    reference = GridSearchCV(estimator, grid, **{"cv": 3, **options}).fit(X, y, **params)
    monkeypatch.setattr(searching, "fit_together", refused)
    search = LMGridSearchCV(estimator, grid, **{"cv": 3, **options}, n_jobs=2).fit(X, y, **params)
    assert_same(search, reference)
    assert search.cv_results_["batched"].all()
    assert (search.cv_results_["mean_fit_time"] > 0).all()
    assert_allclose(search.best_score_, reference.best_score_, rtol=1e-8)


def test_what_is_defined_in_a_script_is_sent_to_processes(divided, monkeypatch):
    class Local(FunctionTransformer):
        pass

    pipeline = Pipeline([("local", Local(lambda X: X[:, :2])), ("lm", SMALL)])
    grid = {"lm__alpha": [1e-3, 1e-2, 1e-1]}
    reference = GridSearchCV(pipeline, grid, cv=3).fit(X, Y)
    monkeypatch.setattr(searching, "fit_together", refused)
    search = LMGridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X, Y)
    assert_same(search, reference)
    assert search.cv_results_["batched"].all()


def test_few_fits_start_no_process(monkeypatch):
    monkeypatch.setattr(searching, "_fit_part", refused)
    assert LMGridSearchCV(SMALL, GRID, cv=3, n_jobs=2).fit(X, Y).cv_results_["batched"].all()


def test_progress_of_processes(divided, capfd):
    LMGridSearchCV(SMALL, GRID, cv=3, verbose=1, n_jobs=2).fit(X, Y)
    err = capfd.readouterr().err
    assert err.rstrip().split("\r")[-1].startswith("[####################] 12 of 12 fits, ")


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_processes_leave_to_scikit_learn_what_is_not_theirs(divided):
    grid = [{"alpha": [1e-2, -1.0]}, {"alpha": [1e-1], "max_time": [60.0]}, {"alpha": [1e-3], "batch_size": [20]}]
    search = LMGridSearchCV(SMALL, grid, cv=3, n_jobs=2).fit(X, Y)
    assert_same(search, GridSearchCV(SMALL, grid, cv=3).fit(X, Y))
    assert search.cv_results_["batched"].tolist() == [True, True, False, True]  # a failure is no reason to fit again


class Locked(FunctionTransformer):
    """It cannot be pickled once it is fitted."""

    def fit(self, X, y=None):
        self.lock_ = threading.Lock()
        return super().fit(X, y)


class OddError(Exception):
    """It cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


class Odd(FunctionTransformer):
    def fit(self, X, y=None):
        if self.kw_args == {"odd": True}:
            raise OddError(1, 2)
        return super().fit(X, y)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.parametrize("step", [Locked(), Odd(), FunctionTransformer(lambda X: X)], ids=["lock", "error", "lambda"])
@pytest.mark.parametrize("max_time", [60.0, None], ids=["alone", "together"])
def test_what_cannot_be_sent_to_a_process_is_fitted_as_scikit_learn_does(step, max_time, divided):
    pipeline = Pipeline([("step", step), ("lm", clone(SMALL).set_params(max_time=max_time))])
    grid = {"lm__alpha": [1e-2, 1e-1]}
    if isinstance(step, Odd):
        grid["step__kw_args"] = [None, {"odd": True}]
    search = LMGridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X, Y)
    reference = LMGridSearchCV(pipeline, grid, cv=3).fit(X, Y)
    assert_allclose(search.cv_results_["mean_test_score"], reference.cv_results_["mean_test_score"], rtol=1e-8)
    assert np.isnan(search.cv_results_["mean_test_score"]).sum() == (2 if isinstance(step, Odd) else 0)


def test_n_jobs_and_data_frames():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    search = LMGridSearchCV(PIPELINE, {"lm__alpha": [1e-2, 1e-1], "lm__max_time": [None, 60.0]}, cv=3, n_jobs=2)
    search.fit(frame, Y)
    reference = GridSearchCV(PIPELINE, search.param_grid, cv=3).fit(frame, Y)
    assert_allclose(search.cv_results_["mean_test_score"], reference.cv_results_["mean_test_score"], rtol=1e-8)
    assert search.cv_results_["batched"].tolist() == [True, False, True, False]
    assert_array_equal(search.feature_names_in_, ["a", "b", "c"])


def test_callbacks_see_every_fit(capfd):
    search = LMGridSearchCV(SMALL, GRID, cv=3).set_callbacks(ProgressBar())
    search.fit(X, Y)
    assert not search.cv_results_["batched"].any()
    assert_same(search, GridSearchCV(SMALL, GRID, cv=3).fit(X, Y))


def test_metadata_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = clone(SMALL).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = Pipeline([("scale", StandardScaler().set_fit_request(sample_weight=False)), ("lm", estimator)])
        for model, grid in ((estimator, GRID), (pipeline, {"lm__alpha": [1e-3, 1e-1]})):
            search = LMGridSearchCV(model, grid, cv=3).fit(X, Y, sample_weight=WEIGHT)
            assert_same(search, GridSearchCV(model, grid, cv=3).fit(X, Y, sample_weight=WEIGHT))
            assert search.cv_results_["batched"].all()


def test_it_is_an_estimator_like_any_other():
    search = LMGridSearchCV(SMALL, GRID, cv=3)
    assert is_regressor(search)
    assert is_classifier(LMGridSearchCV(CLASSIFIER, GRID))
    assert clone(search).get_params()["estimator__max_iter"] == 10
    scores = cross_val_score(search, X, Y, cv=2, n_jobs=2)
    assert_allclose(scores, cross_val_score(GridSearchCV(SMALL, GRID, cv=3), X, Y, cv=2), rtol=1e-8)
    search.fit(X, Y)
    assert "_evaluation" not in vars(search)
    copy = pickle.loads(pickle.dumps(search))
    assert_array_equal(copy.predict(X), search.predict(X))
    assert "LMGridSearchCV" in repr(search)


def test_the_plain_estimators_work_in_the_tools_of_scikit_learn():
    search = HalvingGridSearchCV(SMALL, GRID, cv=2, random_state=0).fit(X, Y)
    assert search.best_score_ > 0.5
    assert_allclose(cross_val_score(SMALL, X, Y, cv=3, n_jobs=2), cross_val_score(SMALL, X, Y, cv=3), rtol=1e-10)


def test_verbose_shows_one_line_over_all_fits(capfd):
    LMGridSearchCV(SMALL, GRID, cv=3, verbose=1).fit(X, Y)
    out, err = capfd.readouterr()
    assert out == "Fitting 3 folds for each of 4 candidates, totalling 12 fits\n"
    assert err.count("\n") == 1
    assert err.rstrip().split("\r")[-1].startswith("[####################] 12 of 12 fits, ")
    LMGridSearchCV(SMALL, GRID, cv=3).fit(X, Y)
    assert capfd.readouterr() == ("", "")


def test_the_rows_of_the_data_stay_as_they_are():
    before = X.copy(), Y.copy()
    LMGridSearchCV(SMALL, GRID, cv=3).fit(X, Y)
    assert_array_equal(X, before[0])
    assert_array_equal(Y, before[1])


@pytest.mark.parametrize("options", [{}, {"alpha": 0.1}], ids=["one by one", "together"])
def test_an_interrupt_ends_the_whole_search(monkeypatch, options):
    X, y = make_classification(60, 5, random_state=0)
    calls = []

    def interrupted(problem, theta, **given):
        calls.append(1)

        def stop(progress):
            raise KeyboardInterrupt

        return levenberg_marquardt(problem, theta, **{**given, "callback": stop})

    monkeypatch.setattr("sklm._prepared.levenberg_marquardt", interrupted)
    model = LMClassifier(3, random_state=0, growing=False, verbose=0 if options else 1, **options)
    with pytest.raises(KeyboardInterrupt):
        LMGridSearchCV(model, {"damping": [1e-2, 1.0]}, cv=2).fit(X, y)
    assert len(calls) == 1
    with pytest.warns(UserWarning, match="interrupted by the user"):  # a fit alone keeps its model
        model.fit(X, y)
