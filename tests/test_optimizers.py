"""The parameter ``optimizer`` of the estimators: the same fit by other means."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from sklm import CNN, LMClassifier, LMRegressor
from sklm.losses import LOSSES
from sklm.optim import LBFGS, OPTIMIZERS, SGD, Adam, Bold, GainRatio

ignore_max_iter = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: with rates that suit short fits
FAST = {"lbfgs": "lbfgs", "lbfgs_armijo": "lbfgs_armijo", "adam": Adam(0.05), "sgd": SGD(0.1)}


def surface(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(kind=LMRegressor, **options):
    return kind(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 20, "n_init": 1, **options})


# -- the same minima --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "lbfgs_armijo"])
@pytest.mark.parametrize("two", [True, False], ids=["two classes", "three classes"])
def test_linear_classifier_is_logistic_regression(optimizer, two):
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    if two:
        X, y = X[50:], y[50:]
    ours = LMClassifier((), optimizer=optimizer, standardize=False, tol=0.0, alpha=1 / len(y), random_state=0)
    ours.fit(X, y)
    theirs = LogisticRegression(C=1, tol=1e-12, max_iter=5000).fit(X, y)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    if two:
        assert_allclose(ours.coefs_[0].T, theirs.coef_, atol=1e-6)
    assert ours.converged_


@pytest.mark.parametrize("optimizer", ["lbfgs", "lbfgs_armijo", SGD(0.3)])
def test_linear_regressor_is_ridge(optimizer):
    X, y = surface(200)
    alpha = 0.1
    ours = LMRegressor((), optimizer=optimizer, standardize=False, tol=0.0, n_iter_no_change=400, alpha=alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # SGD goes on
        ours.fit(X, y)
    theirs = Ridge(alpha=alpha * len(X), tol=1e-12).fit(X, y)
    assert_allclose(ours.coefs_[0][:, 0], theirs.coef_, atol=1e-6)
    assert_allclose(ours.intercepts_[0], theirs.intercept_, atol=1e-6)


@ignore_max_iter
def test_starts_are_those_of_levenberg_marquardt():
    X, y = surface()
    # steps of almost no length leave the start
    theirs = small(optimizer="lm", damping=1e12, max_iter=1).fit(X, y).theta_
    for optimizer in (SGD(1e-12), Adam(1e-12)):
        assert_allclose(small(optimizer=optimizer, max_iter=1).fit(X, y).theta_, theirs, atol=1e-9)


# -- what fits and with what ------------------------------------------------------------------------------------


@ignore_max_iter
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(name, loss):
    X, y = surface()
    y = np.exp(0.3 * y)  # positive
    options = {"optimizer": FAST[name], "loss": loss}
    model = small(max_iter=60, **options).fit(X, y)
    early = small(max_iter=1, **options).fit(X, y)
    assert model.loss_ < 0.9 * early.loss_
    assert model.loss_ == np.min(model.loss_curve_)
    assert len(model.loss_curve_) == model.n_iter_
    assert model.damping_curve_ is None
    assert model.damping_ is None


@ignore_max_iter
@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("kind", ["two classes", "three classes", "labels", "squared error"])
def test_every_kind_of_classes(name, kind):
    X, y = load_iris(return_X_y=True)
    options = {"loss": "squared_error"} if kind == "squared error" else {}
    y = {"two classes": y > 1, "labels": np.c_[y == 0, X[:, 0] > 6].astype(int)}.get(kind, y)
    model = small(LMClassifier, max_iter=200, optimizer=FAST[name], **options).fit(X, y)
    assert model.score(X, y) > 0.93


@ignore_max_iter
@pytest.mark.parametrize("name", FAST)
def test_images_modules_and_float32(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 16))
    target = images[:, 5] - images[:, 6]
    cnn = CNN(conv_channels=2, kernel_size=3, stride=1, input_shape=(1, 4, 4))
    module = torch.nn.Linear(16, 1, dtype=torch.float64)
    for options in ({"architecture": cnn}, {"architecture": module}, {"hidden_layer_sizes": 3, "dtype": "float32"}):
        model = LMRegressor(optimizer=FAST[name], max_iter=300, random_state=0, **options).fit(images, target)
        assert model.score(images, target) > 0.9


@ignore_max_iter
@pytest.mark.parametrize("name", FAST)
def test_weights(name):
    X, y = surface()
    repeats = np.arange(60) % 3
    options = {"optimizer": FAST[name], "max_iter": 10}
    weighted = small(**options).fit(X, y, repeats)
    repeated = small(**options).fit(np.repeat(X, repeats, axis=0), np.repeat(y, repeats))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-8)


@ignore_max_iter
@pytest.mark.parametrize("name", FAST)
def test_early_stopping_restarts_and_warm_starts(name):
    X, y = surface(300)
    noisy = y + np.random.default_rng(1).normal(size=300)
    options = {"optimizer": FAST[name], "hidden_layer_sizes": 20, "max_iter": 300, "alpha": 0.0}
    model = small(early_stopping=True, n_iter_no_change=5, **options).fit(X, noisy)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == np.max(model.validation_scores_)
    several, one = (small(**{**options, "max_iter": 30}, n_init=n).fit(X, y) for n in (4, 1))
    assert several.loss_ <= one.loss_
    again = small(warm_start=True, **{**options, "max_iter": 10}).fit(X, y)
    before = again.loss_
    assert again.fit(X, y).loss_ < before


@ignore_max_iter
def test_mini_batches():
    X, y = surface(500)
    for optimizer in (Adam(0.01), SGD(0.05)):
        standard, given, whole = (
            small(optimizer=optimizer, max_iter=3, batch_size=size).fit(X, y).theta_ for size in (None, 200, 500)
        )
        automatic = small(optimizer=optimizer, max_iter=3, batch_size="auto").fit(X, y).theta_
        assert_array_equal(standard, given)
        assert_array_equal(automatic, given)
        assert not np.allclose(whole, given)
        assert_array_equal(whole, small(optimizer=optimizer, max_iter=3, batch_size=10**6).fit(X, y).theta_)


@ignore_max_iter
def test_nothing_is_said_of_a_damping(capsys):
    X, y = surface()
    small(optimizer="adam", verbose=2, max_iter=3).fit(X, y)
    out = capsys.readouterr().out
    assert "Iteration 3, loss = " in out
    assert "running = 1" in out
    assert "damping" not in out
    small(optimizer="adam", verbose=1, max_iter=3).fit(X, y)
    err = capsys.readouterr().err
    assert "max_iter iterations were done." in err
    assert "damping" not in err


def test_divergence_warns_and_keeps_the_start():
    X, y = surface()
    with pytest.warns(ConvergenceWarning, match=r"stopped early: The steps were too long.*Lower the learning rate"):
        model = small(optimizer=SGD(1e12)).fit(X, y)
    assert model.status_ == "diverged"
    assert not model.converged_
    assert np.isfinite(model.predict(X)).all()


# -- parameters -------------------------------------------------------------------------------------------------

LM_ONLY = [
    ("damping", 0.1),
    ("damping_strategy", "multiplicative"),
    ("damping_strategy", GainRatio(2.0)),
    ("damping_scaling", "more"),
    ("acceleration", "geodesic"),
    ("acceleration", ["geodesic", "momentum"]),
    ("line_search", "armijo"),
    ("acceptance", Bold()),
    ("n_dampings", 2),
    ("param_selection", "random"),
    ("param_selection", np.array([True, False])),
    ("solver", "qr"),
    ("batch_memory", 100),
    ("jacobian_max_rows", 10),
    ("jacobian_max_rows", None),
    ("growing", True),
]


@pytest.mark.parametrize(("name", "value"), LM_ONLY)
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, Adam()], ids=str)
def test_what_is_for_levenberg_marquardt_only_is_refused(optimizer, name, value):
    model = small(optimizer=optimizer, **{name: value})
    with pytest.raises(ValueError, match=rf"^{name} would be ignored with optimizer=.*use optimizer='lm'"):
        model.fit(*surface())
    assert not hasattr(model, "theta_")


def test_curvatures_are_for_levenberg_marquardt_only():
    X, y = load_iris(return_X_y=True)
    for options in ({"curvature": "sampled"}, {"curvature_samples": 3}, {"curvature": "exact"}):
        with pytest.raises(ValueError, match=rf"^{next(iter(options))} would be ignored with optimizer='adam'"):
            small(LMClassifier, optimizer="adam", **options).fit(X, y)
    with pytest.raises(ValueError, match=r"^damping and solver would be ignored"):
        small(LMClassifier, optimizer="adam", damping=1.0, solver="eigh").fit(X, y)


@ignore_max_iter
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_switches_off_is_not_refused(optimizer):
    X, y = surface()
    plain = small(optimizer=optimizer, max_iter=3).fit(X, y)
    off = small(optimizer=optimizer, max_iter=3, growing=False, acceleration=None, batch_memory=None).fit(X, y)
    assert_array_equal(off.theta_, plain.theta_)


def test_impossible_values():
    X, y = surface()
    for value in ("adagrad", Adam, torch.optim.Adam, None, 3):
        with pytest.raises(ValueError, match="The 'optimizer' parameter of LMRegressor must be"):
            small(optimizer=value).fit(X, y)
    with pytest.raises(ValueError, match="learning_rate of Adam must be a finite number above zero; got -1"):
        small(optimizer=Adam(-1)).fit(X, y)
    with pytest.raises(ValueError, match=r"batch_size=20 cannot be used with optimizer='lbfgs', whose steps need all"):
        small(optimizer="lbfgs", batch_size=20).fit(X, y)


@ignore_max_iter
def test_grid_search_over_optimizers_and_their_parameters():
    X, y = surface()
    grid = [
        {"optimizer": ["lm", *OPTIMIZERS, Adam(0.1)]},
        {"optimizer": [Adam()], "optimizer__learning_rate": [1e-3, 1e-1]},
    ]
    search = GridSearchCV(small(), grid, cv=3).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 8
    assert len(set(scores)) == 6
    assert scores[6] == scores[3]  # the defaults
    assert scores[7] == scores[5]
    nested = GridSearchCV(small(optimizer=SGD()), {"optimizer__momentum": [0.0, 0.9]}, cv=2).fit(X, y)
    assert len(set(nested.cv_results_["mean_test_score"])) == 2
    assert search.best_params_["optimizer"] == "lm"


@ignore_max_iter
def test_objects_are_copied_and_the_fit_can_be_stored():
    X, y = surface()
    optimizer = LBFGS(memory=3)
    model = small(optimizer=optimizer).fit(X, y)
    copy = clone(model)
    assert copy.optimizer == optimizer
    assert copy.optimizer is not optimizer
    assert_array_equal(copy.fit(X, y).theta_, model.theta_)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert model.optimizer is optimizer
    assert optimizer == LBFGS(memory=3)


def test_partial_fit_is_for_levenberg_marquardt_only():
    for kind in (LMRegressor, LMClassifier):
        assert hasattr(kind(), "partial_fit")
        for optimizer in OPTIMIZERS:
            assert not hasattr(kind(optimizer=optimizer), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as raised:
        LMRegressor(optimizer="adam").partial_fit(*surface())
    assert "partial_fit is for optimizer='lm' only; optimizer='adam'" in str(raised.value.__cause__)
