"""What 'auto' means for mini-batches and for the end of long fits, by the size of the problem."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sklm import LMClassifier, LMRegressor


def surface(n):
    X = np.random.default_rng(0).uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def batches(model, n_samples, n_parameters, n_outputs=1):
    """Rows of a batch (None for all) and of the memory, and whether the Gauss-Newton matrix is averaged."""
    network = SimpleNamespace(n_parameters=n_parameters, n_outputs=n_outputs)
    rows = model._batch_rows(network, n_samples)
    made = model._batches(network, n_samples, 0)
    if made is None:
        return None
    return rows, made.memory, model._averages_matrix(network, n_samples, rows)


def negligible(model, X, y):
    """What the engine is told to take for zero."""
    _, prepared = model._ready(X, y, None)
    return prepared.options["stopping"].negligible


@pytest.mark.parametrize(
    ("n_samples", "options", "expected"),
    [
        (1000, {}, 0.0),
        (8000, {"hidden_layer_sizes": 60}, (8000 * 241**2 / 3e13) ** 2),
        (60_000, {"hidden_layer_sizes": 100}, (60_000 * 401**2 / 3e13) ** 2),
        (60_000, {"hidden_layer_sizes": 400}, 1e-5),  # (60 000 * 1601^2 / 3e13)^2 = 2.6e-5
        (8000, {"hidden_layer_sizes": 60, "tol": 1e-3}, 0.0),
        (8000, {"hidden_layer_sizes": 60, "target_loss": 0.0}, 0.0),
        (8000, {"hidden_layer_sizes": 60, "batch_size": 1000}, (8000 * 241**2 / 3e13) ** 2),
        (8000, {"hidden_layer_sizes": 60, "loss": "huber"}, 0.0),
        (8000, {"hidden_layer_sizes": 60, "standardize": False}, 0.0),  # zero is no scale of y then
        (8000, {"hidden_layer_sizes": 60, "optimizer": "lbfgs"}, 0.0),
        (8000, {"hidden_layer_sizes": 60, "early_stopping": True}, (7200 * 241**2 / 3e13) ** 2),
    ],
    ids=str,
)
def test_what_is_negligible_follows_the_length_of_an_iteration(n_samples, options, expected):
    model = LMRegressor(**{"batch_size": None, "early_stopping": False, **options}, random_state=0)
    assert negligible(model, *surface(n_samples)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("n_samples", "options", "expected"),
    [(3 * 81, {}, 1e-14), (3 * 81 - 1, {}, 0.0), (1000, {"tol": 1e-3}, 0.0), (1000, {"target_loss": 0.0}, 0.0)],
)
def test_what_is_slight_takes_rows(n_samples, options, expected):
    _, prepared = LMRegressor(20, alpha=0.0, **options)._ready(*surface(n_samples), None)
    assert prepared.options["stopping"].slight == expected


def test_a_fit_without_noise_ends_where_it_falls_slowly_and_next_to_nothing_is_left():
    x = np.linspace(-1, 1, 300)[:, None]
    y = 1 / (1 + 25 * x[:, 0] ** 2)
    quick, full = (LMRegressor(20, alpha=0.0, tol=tol, random_state=0).fit(x, y) for tol in ("auto", 1e-3))
    assert (quick.status_, quick.converged_) == ("negligible", True)
    assert quick.n_iter_ < full.n_iter_
    assert 2 * full.loss_ / y.var() < 2 * quick.loss_ / y.var() < 1e-14


def test_nothing_is_negligible_for_classes_and_straight_lines():
    X, y = surface(8000)
    assert negligible(LMClassifier(60), X, y > 1) == 0
    assert negligible(LMClassifier(60, loss="squared_error"), X, y > 1) == 0
    wide = np.random.default_rng(0).normal(size=(3000, 300))  # 2.7e8 multiplications
    assert negligible(LMRegressor(()), wide, wide[:, 0]) == 0


def test_a_long_fit_without_noise_ends_early():
    X, y = surface(8000)
    options = {"hidden_layer_sizes": 60, "early_stopping": False, "alpha": 0.0, "growing": False, "random_state": 0}
    model = LMRegressor(**options).fit(X, y)
    level = (8000 * 241**2 / 3e13) ** 2
    assert (model.status_, model.converged_) == ("negligible", True)
    assert 1 - level <= model.score(X, y) < 1
    assert 1 - 2 * model.loss_curve_[-2] / y.var() < 1 - level  # not before


def test_so_does_one_on_mini_batches(monkeypatch):
    monkeypatch.setattr("sklm._solving.NEGLIGIBLE_WORK", 1e10)
    X, y = surface(8000)
    model = LMRegressor(60, early_stopping=False, alpha=0.0, batch_size=1000, random_state=0).fit(X, y)
    assert model.status_ == "negligible"
    assert 1 - 1e-5 <= model.score(X, y) < 1
    assert 1 - 2 * model.loss_curve_[-2] / y.var() < 1 - 1e-5


@pytest.mark.parametrize(
    ("n_samples", "n_parameters", "n_outputs", "expected"),
    [
        (500, 61, 1, None),
        (20_000, 61, 1, None),
        (6000, 1149, 1, None),  # a third of a second for all rows
        (100_000, 493, 1, (493, 8 * 493, True)),
        (10**6, 241, 1, (241, 8 * 241, True)),
        (200_000, 1999, 1, (1999, 8 * 1999, True)),
        (200_000, 2121, 1, (1000, 3000, False)),
        (20_000, 2121, 1, (1000, 3000, False)),  # few rows a parameter
        (20_000, 1500, 1, (750, 2250, False)),
        (50_000, 4929, 1, (1000, 3000, False)),
        (10**6, 4929, 1, (1000, 3000, False)),  # a matrix of that size is slow
        (20_000, 2130, 10, (100, 300, False)),
        (1000, 200_000, 1, None),  # all rows are one batch
        (3000, 10**6, 1, None),
        (100_000, 100_000, 1, (1000, None, False)),  # all rows can be met
        (200_000, 100_000, 1, (1000, 3000, False)),
    ],
)
def test_mini_batches_of_a_regressor(n_samples, n_parameters, n_outputs, expected):
    assert batches(LMRegressor(), n_samples, n_parameters, n_outputs) == expected


@pytest.mark.parametrize(
    ("n_samples", "n_parameters", "n_outputs", "options", "expected"),
    [
        (1437, 1510, 10, {}, (360, None, False)),  # fewer rows than parameters
        (1437, 1510, 1, {}, None),
        (1437, 1330, 10, {}, None),
        (5148, 866, 6, {}, None),
        (3677, 2951, 1, {}, (920, None, False)),
        (4000, 1203, 3, {}, (601, 1803, False)),
        (4000, 900, 3, {}, None),
        (60_000, 1026, 10, {}, (513, 8 * 1026, True)),
        (200_000, 3101, 1, {}, (1550, 8 * 3101, True)),
        (20_000, 2366, 6, {}, (1000, 3000, False)),  # curvature is drawn: a column a sample
        (20_000, 2366, 6, {"curvature_samples": 2}, (500, 1500, False)),
        (20_000, 2366, 6, {"curvature": "exact"}, (166, 498, False)),
        (20_000, 2366, 6, {"loss": "squared_error"}, (166, 498, False)),
        (20_000, 2366, 1, {}, (1000, 3000, False)),
    ],
)
def test_mini_batches_of_a_classifier(n_samples, n_parameters, n_outputs, options, expected):
    assert batches(LMClassifier(**options), n_samples, n_parameters, n_outputs) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": None},
        {"growing": True},
        {"solver": "qr"},
        {"solver": "cg"},
        {"line_search": "armijo"},
        {"acceptance": "bold"},
        {"n_dampings": 3},
        {"acceleration": "momentum"},
        {"param_selection": "random"},
    ],
    ids=str,
)
def test_what_needs_all_rows_gets_them(options):
    for n_parameters in (2121, 500):
        assert batches(LMRegressor(**options), 20_000 if n_parameters > 500 else 10**6, n_parameters) is None


def test_the_memory_of_given_batches():
    for solver, size, expected in (
        ("auto", 500, (500, 1500, False)),
        ("dual", 500, (500, 1500, False)),
        ("cholesky", 500, (500, 8 * 2121, True)),
        ("auto", 3000, (3000, 8 * 2121, True)),  # no fewer rows than parameters
        ("dual", 3000, (3000, None, False)),
        ("cg", 500, (500, None, True)),
    ):
        assert batches(LMRegressor(batch_size=size, solver=solver), 20_000, 2121) == expected
    assert batches(LMRegressor(batch_size=50), 1000, 61) == (50, 8 * 61, True)
    assert batches(LMRegressor(batch_size=500, batch_memory=None), 20_000, 2121)[1] is None


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_auto_is_a_fit_with_the_mini_batches_it_means(monkeypatch, estimator):
    monkeypatch.setattr("sklm._mini_batches.DUAL_WORK", 1e4)
    for name in ("BATCHED_WORK", "EXACT_WORK", "FEW_ROWS_WORK", "FEWER_ROWS_WORK"):
        monkeypatch.setattr(f"sklm._class_rules.{name}", 1e4)
    monkeypatch.setattr("sklm._mini_batches.LEAST_BATCH", 1)
    X, y = surface(200)
    y = y if estimator is LMRegressor else np.digitize(y, np.quantile(y, [0.3, 0.6]))
    options = {"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0}
    parameters = 25 if estimator is LMRegressor else 39
    given = {"batch_size": parameters // 2, "batch_memory": 3 * (parameters // 2), "solver": "dual"}
    given |= {} if estimator is LMRegressor else {"curvature": "sampled"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        automatic = estimator(**options).fit(X, y)
        explicit = estimator(**options, **given).fit(X, y)
        whole = estimator(**options, batch_size=None).fit(X, y)
    np.testing.assert_array_equal(automatic.theta_, explicit.theta_)
    assert not np.allclose(automatic.theta_, whole.theta_)


def noisy_table(n, n_features=3):
    X = np.random.default_rng(0).uniform(-1, 1, size=(n, n_features))
    return X, X[:, 0] + np.sin(3 * X[:, 1]) + 0.3 * np.random.default_rng(1).normal(size=n)


@pytest.mark.parametrize(
    ("n_samples", "options", "expected"),
    [
        (3000, {}, 300),  # 4e10 multiplications, 0.8 rows a parameter
        (3000, {"early_stopping": "auto", "validation_fraction": 0.2}, 600),
        (20_001, {}, 2001),  # mini-batches
        (20_001, {"batch_size": 100}, 2001),
        (500, {}, None),  # a search is affordable
        (500, {"early_stopping": True}, 50),
        (3000, {"early_stopping": False}, None),
        (3000, {"alpha": 0.0}, None),  # somebody has decided
        (3000, {"alpha": 1e-3}, None),
        (3000, {"target_loss": 1e-3}, None),
        (3000, {"optimizer": "adam"}, None),
        (3000, {"hidden_layer_sizes": ()}, None),
        (20_001, {"hidden_layer_sizes": (32,)}, None),  # more than a hundred rows a parameter
        (3000, {"validation_fraction": 1e-4}, None),  # one row: no variance
    ],
)
def test_early_stopping_auto(n_samples, options, expected):
    X, y = noisy_table(n_samples)
    model = LMRegressor(**{"hidden_layer_sizes": (60, 60), "random_state": 0} | options)
    _, fit = model._ready(X, y)
    assert (None if fit.validation is None else fit.validation.n_samples) == expected
    assert fit.problem.n_samples == n_samples - (expected or 0)
    assert (fit.folds is not None) == (n_samples == 500 and not options)


def test_early_stopping_auto_is_off_without_a_need():
    X, y = noisy_table(3000)
    for target in (np.ones(3000), np.column_stack([np.ones(3000)] * 2)):
        assert LMRegressor((60, 60))._ready(X, target)[1].validation is None
    more, values = noisy_table(6000)
    assert LMRegressor((60, 60))._ready(more, values)[1].validation is not None
    repeated = np.full(6000, 99.0)  # each row counts 99 times: more than a hundred rows a parameter
    assert LMRegressor((60, 60))._ready(more, values, repeated)[1].validation is None
    reciprocal = np.full(3000, 400.0)  # of the square of 0.05: no count
    assert LMRegressor((60, 60))._ready(X, y, reciprocal)[1].validation is not None
    labels = (y > 0).astype(int)
    assert LMClassifier((60, 60))._ready(X, labels)[1].validation is None  # has a penalty
    with pytest.raises(ValueError, match="early_stopping"):
        LMClassifier(early_stopping="auto").fit(X, labels)


def test_early_stopping_auto_does_not_memorise_noise(monkeypatch):
    for module in ("_choosing", "_penalty"):
        monkeypatch.setattr(f"sklm.{module}.SEARCH_WORK", 1e5)
    X, y = noisy_table(1300)
    truth = X[:, 0] + np.sin(3 * X[:, 1])
    errors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for early_stopping in (False, "auto", True):
            model = LMRegressor(40, early_stopping=early_stopping, random_state=0, max_iter=200).fit(X[:300], y[:300])
            errors[early_stopping] = np.mean((model.predict(X[300:]) - truth[300:]) ** 2)
    assert model.status_ == "validation"
    assert model.alpha_ == 0
    assert errors["auto"] == errors[True]
    assert errors["auto"] < 0.3 * errors[False]
    model.set_params(early_stopping="auto").partial_fit(X, y)  # sees one batch, and holds nothing out


def test_equal_rows_are_held_out_together(monkeypatch):
    for module in ("_choosing", "_penalty"):
        monkeypatch.setattr(f"sklm.{module}.SEARCH_WORK", 1e5)
    X, y = noisy_table(300)
    model = LMRegressor(40, random_state=0, max_iter=60)
    _, fit = model._ready(np.repeat(X, 4, axis=0), np.repeat(y, 4))
    held, seen = (set(part.y.flatten().tolist()) for part in (fit.validation, fit.problem))
    assert (len(held), len(seen), held & seen) == (30, 270, set())
    _, fit = model._ready(np.repeat(X[:1], 300, axis=0), y)  # no two different rows
    assert fit.validation is None


def test_a_numpy_bool_asks_for_early_stopping():
    X, y = noisy_table(60)
    assert LMRegressor(3, early_stopping=np.True_, max_iter=5)._ready(X, y)[1].validation is not None
    assert LMRegressor(3, early_stopping=np.False_, max_iter=5)._ready(X, y)[1].validation is None
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        LMRegressor(3, early_stopping=np.True_).partial_fit(X, y)
    with pytest.raises(ValueError, match="alpha='cv' cannot be used with early_stopping=True"):
        LMRegressor(3, early_stopping=np.True_, alpha="cv").fit(X, y)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 90),
        ({"batch_size": 20}, 18),
        ({"batch_size": 500}, 90),
        ({"optimizer": "adam", "batch_size": 30}, 30),
        ({"optimizer": "lbfgs"}, 90),
        ({"early_stopping": True}, 81),
    ],
)
def test_the_rows_of_a_step_are_told(options, expected):
    X, y = surface(90)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LMRegressor(3, alpha=0, max_iter=3, random_state=0, **options).fit(X, y)
    assert model.batch_size_ == expected
    if "optimizer" not in options and model.early_stopping is not True:
        model.partial_fit(X[:7], y[:7])
        assert model.batch_size_ == 7


def test_noise_is_averaged_over_batches_that_are_solved_in_the_space_of_their_rows():
    X, y = surface(3000)
    noisy = y + 0.5 * np.random.default_rng(0).normal(size=len(y))
    options = {"hidden_layer_sizes": 20, "alpha": 0.0, "max_iter": 10, "random_state": 0, "batch_size": 40}
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for memory in (None, 120, 480):
            model = LMRegressor(**options, solver="dual", batch_memory=memory).fit(X, noisy)
            errors.append(np.mean((model.predict(X) - y) ** 2))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[0]
