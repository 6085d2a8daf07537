"""scikit-learn's contract: its own checks, and the tools that people put an estimator into."""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingRegressor, StackingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from sklm import CNN, MLP, LMClassifier, LMRegressor
from sklm.losses import Huber
from sklm.optim import SGD, Adam, Multiplicative

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix.*")
@parametrize_with_checks(
    [
        LMRegressor(5, max_iter=10),
        LMRegressor(3, max_iter=8, n_init=1),
        LMRegressor(architecture=MLP((5, 5)), max_iter=30, alpha=1e-3, n_init=2),
        LMRegressor(loss=Huber(0.5), max_iter=20, alpha=1e-3, n_init=1),
        LMRegressor(optimizer="lbfgs", max_iter=50, n_init=1),
        LMRegressor(optimizer=Adam(0.05), max_iter=100, alpha=1e-3, n_init=1),
        LMRegressor(
            acceleration=("momentum", "geodesic"),
            line_search="armijo",
            acceptance="bold",
            n_dampings=2,
            param_selection="random",
            damping_strategy="trust_region",
            damping_scaling="running_maximum",
            alpha=1e-3,
            max_iter=30,
            n_init=1,
        ),
        LMClassifier(3, max_iter=8),
        LMClassifier(architecture=MLP((3, 2)), max_iter=8, relevance=None, n_init=1),
        LMClassifier((), label_smoothing=0.1, curvature="exact", alpha=1e-2),
        LMClassifier(4, loss="squared_error", max_iter=30, alpha=1e-3, n_init=1),
        LMClassifier(3, optimizer="lbfgs_armijo", max_iter=30, n_init=1),
        LMClassifier(4, optimizer=SGD(0.2), max_iter=100, n_init=1),
    ]
)
def test_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Can't check dok sparse matrix.*")
@parametrize_with_checks([LMRegressor(loss=loss, max_iter=20, alpha=1e-3, n_init=1) for loss in ("poisson", "gamma")])
def test_checks_of_deviances(estimator, check):
    if check.func.__name__ == "check_regressor_multioutput":
        pytest.skip("its targets are negative, whatever the tags say")
    check(estimator)


@pytest.mark.parametrize(
    "estimator",
    [LMRegressor(), LMRegressor(init="data", n_init=3, alpha=1e-3), LMRegressor(max_iter=8), LMClassifier()],
)
def test_weights_are_repeated_rows_whatever_the_order(estimator):
    # defaults, and fits that are far from the end, where another start would show
    check_sample_weight_equivalence_on_dense_data(type(estimator).__name__, estimator)


def surface(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(**options):
    return LMRegressor(
        **{"hidden_layer_sizes": 4, "alpha": 1e-3, "random_state": 0, "max_iter": 8, "n_init": 1, **options}
    )


# -- pipelines and searches --------------------------------------------------------------------------------------


def test_pipeline():
    X, y = surface()
    pipeline = make_pipeline(StandardScaler(), small(max_iter=60)).fit(X, y)
    assert pipeline.score(X, y) > 0.95
    alone = small(max_iter=60).fit(StandardScaler().fit_transform(X), y)
    assert_array_equal(pipeline.predict(X), alone.predict(StandardScaler().fit_transform(X)))


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search_over_damping_and_batch_size_in_a_pipeline(n_jobs):
    X, y = surface()
    search = GridSearchCV(
        Pipeline([("scale", StandardScaler()), ("net", small())]),
        {"net__damping": [1e-3, 1e-1, 1e9], "net__batch_size": [None, 16]},
        cv=3,
        n_jobs=n_jobs,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 6  # every combination was another fit
    assert search.best_params_["net__damping"] < 1e9
    assert search.score(X, y) > 0.5
    best = clone(search.best_estimator_).fit(X, y)
    assert_array_equal(best.predict(X), search.predict(X))


def test_grid_search_over_nested_parameters():
    X, y = surface()
    estimator = LMRegressor(
        architecture=MLP((2,)), damping_strategy=Multiplicative(), random_state=0, max_iter=8, n_init=1
    )
    grid = {
        "architecture__hidden_layer_sizes": [(2,), (6, 3)],
        "architecture__activation": ["tanh", "sin"],
        "damping_strategy__decrease": [2.0, 20.0],
    }
    search = GridSearchCV(estimator, grid, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 8
    assert len(set(scores)) == 8
    assert search.best_estimator_.architecture_.get_params() == {
        name.partition("__")[2]: value for name, value in search.best_params_.items() if name.startswith("arch")
    }
    assert estimator.architecture.hidden_layer_sizes == (2,)  # the search changed clones
    assert estimator.damping_strategy.decrease == 10.0


def test_grid_search_over_whole_objects():
    X, y = surface()
    grid = [{"architecture": [None, MLP((3, 3))]}, {"damping_strategy": ["gain_ratio", Multiplicative(2, 3)]}]
    search = GridSearchCV(LMRegressor(random_state=0, max_iter=8, n_init=1), grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_parameters_of_objects():
    model = LMRegressor(architecture=MLP((3,)), damping_strategy=Multiplicative(decrease=4.0))
    deep = model.get_params()
    assert deep["architecture__hidden_layer_sizes"] == (3,)
    assert deep["damping_strategy__decrease"] == 4.0
    assert "architecture__activation" not in model.get_params(deep=False)
    model.set_params(architecture__hidden_layer_sizes=(9,), damping_strategy__increase=7.0)
    assert model.architecture.hidden_layer_sizes == (9,)
    assert model.damping_strategy == Multiplicative(4.0, 7.0)
    with pytest.raises(ValueError, match="Invalid parameter 'slope'"):
        model.set_params(damping_strategy__slope=1)
    with pytest.raises(ValueError, match="Invalid parameter 'hidden'"):
        model.set_params(hidden=3)
    assert repr(model.damping_strategy) == "Multiplicative(decrease=4.0, increase=7.0)"


def test_clone():
    X, y = surface()
    model = LMRegressor(architecture=MLP((3,)), damping_strategy=Multiplicative(4.0), random_state=0, max_iter=5)
    model.fit(X, y)
    copy = clone(model)
    assert not hasattr(copy, "theta_")
    assert copy.architecture == model.architecture
    assert copy.architecture is not model.architecture
    assert_array_equal(copy.fit(X, y).theta_, model.theta_)
    module = LMRegressor(architecture=torch.nn.Linear(2, 1))
    assert_array_equal(clone(module).fit(X, y).theta_, module.fit(X, y).theta_)


def test_in_other_tools():
    X, y = surface()
    assert is_regressor(small())
    assert np.isfinite(cross_validate(small(), X, y, cv=3)["test_score"]).all()
    assert cross_val_predict(small(), X, y, cv=3).shape == (60,)
    assert BaggingRegressor(small(), n_estimators=3, random_state=0).fit(X, y).score(X, y) > 0.5
    positive = TransformedTargetRegressor(small(max_iter=60), func=np.log, inverse_func=np.exp).fit(X, np.exp(y))
    assert positive.score(X, np.exp(y)) > 0.9
    model = small(max_iter=60).fit(np.c_[X, np.random.default_rng(1).normal(size=60) * 0.001], y)
    importance = permutation_importance(model, np.c_[X, np.zeros(60)], y, random_state=0).importances_mean
    assert importance[:2].min() > 0.1 > abs(importance[2])


# -- data frames -------------------------------------------------------------------------------------------------


def test_data_frames_with_text_through_a_column_transformer():
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(kind=np.where(X[:, 0] > 0, "left", "right"))
    with pytest.raises(TypeError, match=r"column 'kind' of X holds (strings|str values)"):
        small().fit(frame, y)
    pipeline = make_pipeline(
        ColumnTransformer([("text", OneHotEncoder(), ["kind"])], remainder=StandardScaler()).set_output(
            transform="default"
        ),
        small(max_iter=60),
    )
    assert pipeline.fit(frame, y).score(frame, y) > 0.9


def test_feature_names_pass_a_pipeline_with_pandas_output():
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"])
    pipeline = make_pipeline(StandardScaler(), small()).set_output(transform="pandas").fit(frame, y)
    assert_array_equal(pipeline[-1].feature_names_in_, ["a", "b"])
    assert not hasattr(small().fit(X, y), "feature_names_in_")
    mixed = pd.DataFrame(X)
    assert not hasattr(small().fit(mixed, y), "feature_names_in_")


def test_target_as_series_and_frame():
    X, y = surface()
    index = np.random.default_rng(0).permutation(60)
    assert_array_equal(small().fit(X, pd.Series(y, index=index)).theta_, small().fit(X, y).theta_)
    frame = pd.DataFrame({"u": y, "v": y**2})
    assert_array_equal(small().fit(X, frame).predict(X), small().fit(X, frame.to_numpy()).predict(X))


# -- how it looks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"architecture": MLP((3,))}, {"architecture": torch.nn.Linear(2, 1)}], ids=str)
def test_html(options):
    X, y = surface()
    model = LMRegressor(max_iter=3, **options)
    for estimator in (model, clone(model).fit(X, y), make_pipeline(StandardScaler(), clone(model))):
        html = estimator._repr_html_()
        assert "LMRegressor" in html
        assert "max_iter" in html
        assert "damping" in html


def test_repr():
    assert repr(LMRegressor()) == "LMRegressor()"
    text = repr(LMRegressor(8, alpha=0.1, architecture=None, damping_strategy=Multiplicative(2.0)))
    assert text.replace("\n", "").replace("            ", " ") == (
        "LMRegressor(alpha=0.1, damping_strategy=Multiplicative(decrease=2.0, increase=10.0), hidden_layer_sizes=8)"
    )


def test_tags():
    tags = LMRegressor().__sklearn_tags__()
    assert tags.estimator_type == "regressor"
    assert tags.target_tags.multi_output
    assert tags.target_tags.required
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan


# -- metadata routing --------------------------------------------------------------------------------------------


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_sample_weight_is_routed_through_a_pipeline(routing):
    X, y = surface()
    weights = np.arange(60) % 3 + 0.5
    pipeline = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False), small().set_fit_request(sample_weight=True)
    ).fit(X, y, sample_weight=weights)
    Z = StandardScaler().fit_transform(X)
    assert_array_equal(pipeline[-1].theta_, small().fit(Z, y, weights).theta_)
    assert not np.array_equal(pipeline[-1].theta_, small().fit(Z, y).theta_)


def test_sample_weight_is_routed_through_a_search(routing):
    X, y = surface()
    weights = np.arange(60) % 3 + 0.5
    estimator = small().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    grid = {"damping": [1e-2, 1.0]}
    weighted = GridSearchCV(estimator, grid, cv=3).fit(X, y, sample_weight=weights)
    assert_array_equal(weighted.best_estimator_.theta_, small(**weighted.best_params_).fit(X, y, weights).theta_)
    train, test = next(
        iter(weighted.cv if hasattr(weighted.cv, "__iter__") else []), (np.arange(20, 60), np.arange(20))
    )
    by_hand = small(damping=1e-2).fit(X[train], y[train], weights[train]).score(X[test], y[test], weights[test])
    assert_allclose(weighted.cv_results_["split0_test_score"][0], by_hand, rtol=1e-9)


def test_sample_weight_that_nobody_asked_for(routing):
    X, y = surface()
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(small()).fit(X, y, sample_weight=np.ones(60))


def test_partial_fit_has_a_request(routing):
    request = small().set_partial_fit_request(sample_weight=True).get_metadata_routing()
    assert request.partial_fit.requests["sample_weight"] is True


# -- classification ----------------------------------------------------------------------------------------------


def blobs(n=150, n_classes=3):
    """Overlapping clouds; labels are strings."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    centres = 1.2 * np.c_[np.cos(2.5 * np.arange(n_classes)), np.sin(2.5 * np.arange(n_classes))]
    return centres[y] + rng.normal(size=(n, 2)), np.array(["x", "y", "z"])[y]


def classifier(**options):
    return LMClassifier(
        **{"hidden_layer_sizes": 3, "alpha": 1e-2, "random_state": 0, "max_iter": 10, "n_init": 1, **options}
    )


def test_cross_validated_probabilities():
    X, y = blobs()
    folds = StratifiedKFold(3)
    probability = cross_val_predict(classifier(), X, y, cv=folds, method="predict_proba")
    by_hand = np.empty((150, 3))
    for train, test in folds.split(X, y):
        by_hand[test] = classifier().fit(X[train], y[train]).predict_proba(X[test])
    assert_array_equal(probability, by_hand)
    logs = cross_val_predict(classifier(), X, y, cv=folds, method="predict_log_proba")
    assert_allclose(logs, np.log(by_hand), rtol=1e-9, atol=1e-12)
    scores = cross_validate(classifier(), X, y, cv=folds, scoring=["accuracy", "neg_log_loss", "roc_auc_ovr"])
    expected = [-log_loss(y[test], by_hand[test]) for _, test in folds.split(X, y)]
    assert_allclose(scores["test_neg_log_loss"], expected, rtol=1e-9)
    assert scores["test_roc_auc_ovr"].min() > 0.7


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_calibration(method, n_classes):
    X, y = blobs(n_classes=n_classes)
    model = CalibratedClassifierCV(classifier(), method=method, cv=3).fit(X, y)
    probability = model.predict_proba(X)
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-9)
    assert model.score(X, y) > 0.6
    assert log_loss(y, probability) < np.log(n_classes)


def test_voting_stacking_and_multiclass_tools():
    X, y = blobs()
    assert is_classifier(classifier())
    members = [("net", classifier()), ("linear", LogisticRegression())]
    voting = VotingClassifier(members, voting="soft").fit(X, y)
    parts = [classifier().fit(X, y).predict_proba(X), LogisticRegression().fit(X, y).predict_proba(X)]
    assert_allclose(voting.predict_proba(X), np.mean(parts, axis=0), rtol=1e-9)
    assert StackingClassifier(members, cv=3).fit(X, y).score(X, y) > 0.6
    assert OneVsRestClassifier(classifier()).fit(X, y).score(X, y) > 0.6
    Y = np.c_[y == "x", y != "z"].astype(int)
    assert ClassifierChain(classifier()).fit(X, Y).score(X, Y) > 0.5
    assert classifier().fit(X, Y).score(X, Y) > 0.5


def test_grid_search_over_damping_and_penalty_of_a_classifier_in_a_pipeline():
    X, y = blobs()
    pipeline = Pipeline([("scale", StandardScaler()), ("net", classifier())])
    grid = {"net__damping": [1e-2, 1e9], "net__alpha": ["auto", 1e-3, 100.0]}
    search = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) == 6
    assert search.best_params_["net__damping"] == 1e-2
    assert search.best_params_["net__alpha"] != 100.0
    assert -search.best_score_ < 0.9
    assert_array_equal(clone(search.best_estimator_).fit(X, y).predict_proba(X), search.predict_proba(X))
    assert_array_equal(search.classes_, ["x", "y", "z"])


def test_grid_search_over_the_kernel_size_of_a_small_network_for_images():
    X, y = load_digits(return_X_y=True)
    X, y = X[:90], y[:90] % 3
    architecture = CNN(conv_channels=(2,), stride=2, input_shape=(1, 8, 8))
    net = LMClassifier(architecture=architecture, random_state=0, max_iter=5)
    pipeline = Pipeline([("scale", StandardScaler(with_std=False)), ("net", net)])
    search = GridSearchCV(pipeline, {"net__architecture__kernel_size": [1, 3, 6]}, cv=2, scoring="neg_log_loss")
    search.fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 3
    best = search.best_params_["net__architecture__kernel_size"]
    assert search.best_estimator_[-1].architecture_.kernel_size == best
    assert architecture.kernel_size == 4  # the search changed clones
    images = GridSearchCV(net, {"architecture__kernel_size": [1, 3]}, cv=2).fit(X.reshape(-1, 1, 8, 8), y)
    flat = GridSearchCV(net, {"architecture__kernel_size": [1, 3]}, cv=2).fit(X, y)
    assert_array_equal(images.cv_results_["mean_test_score"], flat.cv_results_["mean_test_score"])


def test_tags_of_a_classifier():
    tags = LMClassifier().__sklearn_tags__()
    assert tags.estimator_type == "classifier"
    assert tags.classifier_tags.multi_class
    assert tags.classifier_tags.multi_label
    assert tags.target_tags.required
    assert not tags.target_tags.multi_output
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan


def test_repr_and_html_of_a_classifier():
    assert repr(LMClassifier()) == "LMClassifier()"
    assert repr(LMClassifier(8, curvature="fisher")) == "LMClassifier(curvature='fisher', hidden_layer_sizes=8)"
    X, y = blobs()
    for model in (classifier(), classifier().fit(X, y)):
        assert "curvature_samples" in model._repr_html_()


def test_sample_weight_of_a_classifier_is_routed(routing):
    X, y = blobs()
    weights = np.arange(150) % 4 + 0.5
    net = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), net).fit(
        X, y, sample_weight=weights
    )
    Z = StandardScaler().fit_transform(X)
    assert_array_equal(pipeline[-1].theta_, classifier().fit(Z, y, weights).theta_)
    assert not np.array_equal(pipeline[-1].theta_, classifier().fit(Z, y).theta_)
    search = GridSearchCV(net, {"damping": [1e-2, 1.0]}, cv=3).fit(X, y, sample_weight=weights)
    train, test = next(iter(StratifiedKFold(3).split(X, y)))
    by_hand = classifier().fit(X[train], y[train], weights[train]).score(X[test], y[test], weights[test])
    assert_allclose(search.cv_results_["split0_test_score"][0], by_hand, rtol=1e-9)
    calibrated = CalibratedClassifierCV(net, cv=3, ensemble=False).fit(X, y, sample_weight=weights)
    inner = calibrated.calibrated_classifiers_[0].estimator
    assert_array_equal(inner.theta_, classifier().fit(X, y, weights).theta_)


def test_classes_and_weights_of_partial_fit_are_routed(routing):
    net = classifier().set_partial_fit_request(classes=True, sample_weight=True)
    requests = net.get_metadata_routing().partial_fit.requests
    assert requests == {"classes": True, "sample_weight": True}


def test_a_callback_of_a_classifier_sees_a_fitted_one():
    X, y = blobs()
    recorder = Recorder(stop_at=4)
    model = classifier().set_callbacks(recorder).fit(X, y)
    assert (model.status_, model.n_iter_) == ("callback", 4)
    assert recorder.tasks == ["iteration"] * 4 + ["fit"]
    assert recorder.scores[-1] == model.score(X, y)
    monitor = ScoringMonitor(scoring="neg_log_loss")
    model = classifier().set_callbacks(monitor).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    assert_allclose(rows[-1]["neg_log_loss"], -model.loss_, rtol=1e-9)


# -- callbacks ---------------------------------------------------------------------------------------------------


class Recorder:
    """Counts its calls, remembers contexts, keeps a score an iteration, and asks to stop after ``stop_at``."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.begun, self.scores, self.tasks, self.setups, self.teardowns = 0, [], [], 0, 0

    def setup(self, estimator, context):
        self.setups += 1

    def on_fit_task_begin(self, estimator, context):
        self.begun += 1

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.tasks.append(context.task_name)
        self.metadata = metadata
        self.scores.append(fitted_estimator.score(X, y))
        return self.stop_at is not None and len(self.scores) >= self.stop_at

    def teardown(self, estimator, context):
        self.teardowns += 1


@pytest.mark.parametrize("options", [{}, {"n_init": 3}, {"batch_size": 20}, {"early_stopping": True}], ids=str)
def test_a_callback_sees_every_iteration_with_a_fitted_estimator(options):
    X, y = surface()
    recorder = Recorder()
    model = small(**options).set_callbacks(recorder).fit(X, y, np.ones(60))
    assert recorder.tasks == ["iteration"] * 8 + ["fit"]
    assert recorder.begun == len(recorder.tasks)
    assert (recorder.setups, recorder.teardowns) == (1, 1)
    assert list(recorder.metadata) == ["sample_weight"]
    assert recorder.scores[-1] == model.score(X, y)
    if not options.get("early_stopping"):
        assert np.all(np.diff(recorder.scores) >= -1e-12)  # it is handed the best model so far
    assert not [name for name in vars(model) if "callback" in name and name != "_skl_callbacks"]
    assert_array_equal(model.theta_, small(**options).fit(X, y, np.ones(60)).theta_)


def test_a_callback_sees_all_iterations_of_a_growing_fit():
    X, y = surface(2500)
    recorder = Recorder()
    model = small(hidden_layer_sizes=2, growing=True, max_iter=200).set_callbacks(recorder).fit(X, y)
    assert recorder.tasks == ["iteration"] * model.n_iter_ + ["fit"]


@pytest.mark.parametrize("options", [{}, {"n_init": 3}, {"batch_size": 20}, {"early_stopping": True}], ids=str)
def test_a_callback_that_returns_true_ends_the_fit(options):
    X, y = surface()
    recorder = Recorder(stop_at=3)
    model = small(**options).set_callbacks(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(X, y)
    assert (model.status_, model.converged_, model.n_iter_) == ("callback", True, 3)
    assert "callback" in model.message_
    assert len(model.loss_curve_) == 3
    assert recorder.tasks == ["iteration"] * 3 + ["fit"]
    assert model.score(X, y) == recorder.scores[-1]


def test_scoring_monitor():
    X, y = surface()
    monitor = ScoringMonitor(scoring="r2")
    model = small().set_callbacks(monitor).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    assert len(rows) == model.n_iter_
    best = 1 - 2 * np.minimum.accumulate(model.loss_curve_) / y.var()
    assert_allclose([row["r2"] for row in rows], best, rtol=1e-9)


def test_scoring_monitor_in_a_pipeline_and_a_search():
    X, y = surface()
    monitor = ScoringMonitor(scoring="neg_mean_squared_error")
    make_pipeline(StandardScaler(), small().set_callbacks(monitor)).fit(X, y)
    assert sum(row["task_name"] == "iteration" for row in monitor.get_logs().data) == 8
    monitor = ScoringMonitor(scoring="neg_mean_squared_error")
    GridSearchCV(
        make_pipeline(StandardScaler(), small().set_callbacks(monitor)), {"lmregressor__damping": [0.01, 1.0]}, cv=2
    ).fit(X, y)
    logs = monitor.get_logs(select="all")
    n_rows = sum(row["task_name"] == "iteration" for log in logs for row in log.data)
    assert n_rows == 8 * (2 * 2 + 1)


def test_scoring_monitor_under_loky():
    X, y = surface()
    monitor = ScoringMonitor(scoring="r2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        GridSearchCV(small().set_callbacks(monitor), {"damping": [0.01, 1.0]}, cv=2, n_jobs=2).fit(X, y)
    rows = [row for log in monitor.get_logs(select="all") for row in log.data if row["task_name"] == "iteration"]
    assert len(rows) == 8 * (2 * 2 + 1)


def test_progress_bar(capfd):
    X, y = surface()
    model = small().set_callbacks(ProgressBar()).fit(X, y)
    assert "LMRegressor" in capfd.readouterr().out
    assert_array_equal(model.theta_, small().fit(X, y).theta_)
    small(tol=0.5, max_iter=300).set_callbacks(ProgressBar()).fit(X, y)  # ends before its maximum
    make_pipeline(StandardScaler(), small()).set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    search = GridSearchCV(make_pipeline(StandardScaler(), small()), {"lmregressor__damping": [0.01, 1.0]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    out = capfd.readouterr().out
    assert "GridSearchCV" in out
    assert "LMRegressor" in out


def test_early_stop_by_a_callback_in_a_pipeline_and_a_search():
    X, y = surface()
    pipeline = make_pipeline(StandardScaler(), small().set_callbacks(Recorder(stop_at=2))).fit(X, y)
    assert (pipeline[-1].n_iter_, pipeline[-1].status_) == (2, "callback")

    class StopAtThree:
        def setup(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            return context.task_name == "iteration" and context.task_id == 2

        def teardown(self, estimator, context): ...

    search = GridSearchCV(small().set_callbacks(StopAtThree()), {"damping": [0.01, 1.0]}, cv=2).fit(X, y)
    assert (search.best_estimator_.n_iter_, search.best_estimator_.status_) == (3, "callback")


def test_two_callbacks_and_their_removal():
    X, y = surface()
    one, two = Recorder(), Recorder(stop_at=2)
    model = small().set_callbacks(one, two).fit(X, y)
    assert model.n_iter_ == 2
    assert one.scores == two.scores
    model.set_callbacks().fit(X, y)
    assert model.n_iter_ == 8
    assert len(one.scores) == 3


def test_a_failing_callback_is_torn_down():
    class Fails(Recorder):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("no more paper")

    X, y = surface()
    recorder, failing = Recorder(), Fails()
    model = small().set_callbacks(recorder, failing)
    with pytest.raises(RuntimeError, match="no more paper"):
        model.fit(X, y)
    assert recorder.teardowns == failing.teardowns == 1
    assert not hasattr(model, "_callback_fit_ctx")
    assert not hasattr(model, "theta_")


def test_no_callback_is_asked_when_none_is_set(monkeypatch):
    import sklm._callbacks

    seen = []
    original = sklm._callbacks.FitCallbacks.per_iteration
    monkeypatch.setattr(
        sklm._callbacks.FitCallbacks,
        "per_iteration",
        property(lambda self: seen.append(original.fget(self)) or seen[-1]),
    )
    X, y = surface()
    small().fit(X, y)
    small().set_callbacks(Recorder()).fit(X, y)
    assert seen[0] is None
    assert seen[1] is not None
