"""Step rules as hyperparameters of the estimators: names, objects, searches, and what is refused."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklm import CNN, MLP, LMClassifier, LMRegressor
from sklm.losses import Huber
from sklm.optim import Armijo, Bold, Geodesic, Layers, Mask, Momentum, RandomSubset, RateSearch, TrustRegion
from sklm.optim._cg import ConjugateGradients

ignore_max_iter = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def surface(n=80):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.05 * rng.normal(size=n)


def small(estimator=LMRegressor, **options):
    return estimator(**{"hidden_layer_sizes": 5, "random_state": 0, "max_iter": 25, "n_init": 1, **options})


PAIRS = [
    ({"acceleration": "momentum"}, {"acceleration": Momentum()}),
    ({"acceleration": ("momentum", "geodesic")}, {"acceleration": [Momentum(), Geodesic()]}),
    ({"acceleration": "auto"}, {"acceleration": Geodesic()}),
    ({"line_search": "rate"}, {"line_search": RateSearch()}),
    ({"line_search": "armijo"}, {"line_search": Armijo()}),
    ({"acceptance": "bold"}, {"acceptance": Bold()}),
    ({"damping_strategy": "trust_region"}, {"damping_strategy": TrustRegion()}),
    ({"param_selection": "random"}, {"param_selection": RandomSubset()}),
    ({"param_selection": "layers"}, {"param_selection": Layers()}),
    ({"param_selection": [True] * 10 + [False] * 11}, {"param_selection": Mask(np.arange(21) < 10)}),
]


@ignore_max_iter
@pytest.mark.parametrize(("named", "made"), PAIRS, ids=str)
def test_a_name_is_the_object(named, made):
    X, y = surface()
    first, second = (small(damping=1e-5, **options).fit(X, y) for options in (named, made))
    np.testing.assert_array_equal(first.theta_, second.theta_)
    plain = small(damping=1e-5).fit(X, y)
    if named != {"acceleration": "auto"}:
        assert not np.array_equal(first.theta_, plain.theta_)


@ignore_max_iter
@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_search_over_rules_and_over_their_parameters(estimator):
    X, y = surface()
    if estimator is LMClassifier:
        y = (y > 1).astype(int)
    grid = [
        {"acceleration": [None, "momentum", ("momentum", "geodesic"), Momentum(0.8)]},
        {"line_search": [None, "rate", Armijo()], "n_dampings": [1, 3]},
        {"acceptance": [None, "bold", Bold(1)]},
        {"param_selection": ["random", Layers("random"), np.arange(21) % 2 == 0]},
    ]
    search = GridSearchCV(small(estimator, max_iter=5), grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    model = small(
        estimator, max_iter=5, acceleration=Momentum(), line_search=RateSearch(), acceptance=Bold(),
        param_selection=RandomSubset(),
    )  # fmt: skip
    nested = {"acceleration__cosine": [0.9], "line_search__n_rates": [2], "acceptance__power": [1]}
    search = GridSearchCV(model, {**nested, "param_selection__size": [0.3, 7]}, cv=2, error_score="raise").fit(X, y)
    best = search.best_estimator_
    assert (best.acceleration, best.line_search, best.acceptance) == (Momentum(0.9), RateSearch(2), Bold(1))
    assert model.acceleration == Momentum()


def test_clone_and_repr():
    model = small(acceleration=("momentum", Geodesic(0.5)), line_search=Armijo(3), param_selection=np.arange(21) > 3)
    copy = clone(model)
    assert copy.acceleration == ("momentum", Geodesic(0.5))
    assert copy.acceleration[1] is not model.acceleration[1]
    assert "Armijo(n_rates=3" in repr(copy)


@ignore_max_iter
def test_fine_tuning_of_the_last_layer():
    """From a fitted model, only the output layer follows the new targets; the other layers keep every bit."""
    X, y = surface()
    model = small(warm_start=True, standardize=False, alpha=0.0).fit(X, y)
    before = model.theta_.copy()
    mask = np.arange(21) >= 15
    model.set_params(param_selection=mask, max_iter=50).fit(X, 2 * y - 1)
    np.testing.assert_array_equal(model.theta_[~mask], before[~mask])
    hidden = np.tanh(X @ model.coefs_[0] + model.intercepts_[0])
    design = np.c_[hidden, np.ones(80)]
    expected = np.linalg.lstsq(design, 2 * y - 1)[0]
    np.testing.assert_allclose(np.r_[model.coefs_[1][:, 0], model.intercepts_[1]], expected, rtol=1e-6)


@ignore_max_iter
def test_frozen_parts_of_modules_and_cnns():
    X, y = surface()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    carried = np.concatenate([p.detach().double().numpy().ravel() for p in module.parameters()])
    mask = np.arange(17) >= 12
    model = LMRegressor(architecture=module, param_selection=mask, random_state=0, max_iter=20).fit(X, y)
    np.testing.assert_array_equal(model.theta_[:12], carried[:12])
    assert (model.theta_[12:] != carried[12:]).all()
    images, digit = np.random.default_rng(0).normal(size=(60, 16)), np.arange(60) % 3
    cnn = CNN(conv_channels=2, kernel_size=3, stride=1, input_shape=(1, 4, 4))
    for selection in ("layers", "random", np.arange(47) >= 20):
        model = LMClassifier(architecture=cnn, param_selection=selection, random_state=0, max_iter=10)
        assert model.fit(images, digit).loss_ < np.log(3)


@ignore_max_iter
@pytest.mark.parametrize("selection", ["random", "layers"])
def test_what_is_drawn_follows_the_seed_and_not_the_number_of_starts(selection):
    X, y = surface()
    one, again, other = (small(param_selection=selection, random_state=seed).fit(X, y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.theta_, again.theta_)
    assert not np.array_equal(one.theta_, other.theta_)
    # in the space of the rows, where starts are compared by their training loss
    options = {"param_selection": selection, "solver": "dual", "random_state": 1}
    losses = [small(n_init=n, **options).fit(X, y).loss_ for n in (1, 3)]
    assert losses[1] <= losses[0] * (1 + 1e-9)


@ignore_max_iter
def test_partial_fit_takes_the_rules():
    X, y = surface()
    mask = np.arange(21) >= 15
    model = small(param_selection=mask, line_search="rate", acceleration="momentum").partial_fit(X, y)
    before, loss = model.theta_.copy(), model.loss_
    for _ in range(3):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(model.theta_[~mask], before[~mask])
    assert model.loss_ < loss


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceleration": "fast"}, "'acceleration' parameter"),
        ({"acceleration": ("geodesic", "fast")}, "acceleration must be one of.*'fast'"),
        ({"acceleration": Momentum}, "acceleration"),
        ({"line_search": "wolfe"}, "'line_search' parameter"),
        ({"line_search": Armijo}, "'line_search' parameter"),
        ({"line_search": Armijo(0)}, "n_rates must be positive"),
        ({"acceptance": "always"}, "'acceptance' parameter"),
        ({"acceptance": Bold(5)}, "power must be 1 or 2"),
        ({"damping_strategy": TrustRegion}, "must be an object, not a class"),
        ({"n_dampings": 0}, "'n_dampings' parameter"),
        ({"n_dampings": 1.5}, "'n_dampings' parameter"),
        ({"param_selection": "some"}, "'param_selection' parameter"),
        ({"param_selection": np.ones(20, dtype=bool)}, r"shape \(21,\).*\(20,\)"),
        ({"param_selection": np.zeros(21, dtype=bool)}, "nothing to fit"),
        ({"param_selection": np.ones(21)}, "dtype bool"),
        ({"param_selection": "layers", "hidden_layer_sizes": ()}, "one layer only"),
        ({"batch_size": None, "batch_memory": 60}, "batch_memory=60 would be ignored with batch_size=None"),
        ({"line_search": "rate", "batch_size": 20, "batch_memory": 60}, "line_search cannot be used where mini-batch"),
        ({"acceptance": "bold", "batch_size": 20, "batch_memory": None}, "reference='current'"),
    ],
    ids=str,
)
def test_what_is_refused_leaves_the_estimator_as_it_was(options, message, estimator):
    X, y = surface()
    model = small(estimator, **options)
    with pytest.raises(ValueError, match=message):
        model.fit(X, (y > 1).astype(int))
    assert not [name for name in vars(model) if name.endswith("_")]


@ignore_max_iter
def test_a_memory_is_accepted_wherever_there_may_be_batches():
    """Whether 'auto' and a number of rows make batches depends on the data, None never does."""
    X, y = surface()
    plain = small().fit(X, y)
    for batch_size in ("auto", len(X)):
        np.testing.assert_array_equal(small(batch_size=batch_size, batch_memory=60).fit(X, y).theta_, plain.theta_)
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match="Set batch_size to a number of rows or 'auto'"):
            getattr(small(batch_size=None, batch_memory=60), method)(X, y)


@ignore_max_iter
def test_several_dampings_count_in_the_memory_check(monkeypatch):
    """The systems of all dampings are held at once; those of a few parameters are small."""
    X, y = surface()
    options = {"solver": "cholesky", "alpha": 1e-3}
    small(**options).fit(X, y)
    monkeypatch.setattr("sklm._solving.available_bytes", lambda device: int(2 * 3 * 22**2 * 8 / 0.8))
    small(n_dampings=2, **options).fit(X, y)
    with pytest.raises(MemoryError, match="21 parameters"):
        small(n_dampings=3, **options).fit(X, y)
    small(n_dampings=3, param_selection=RandomSubset(10), **options).fit(X, y)


@ignore_max_iter
def test_selected_parameters_where_no_system_fits(monkeypatch):
    """Then 'auto' takes products, for them as for all parameters, and frozen ones keep every bit."""
    X, y = surface()
    mask = np.arange(21) >= 15
    model = small(activation="tanh", warm_start=True, standardize=False, acceleration=None).fit(X, y)
    before = model.theta_.copy()
    monkeypatch.setattr("sklm._solving.available_bytes", lambda device: int(16 * 21 * 8 / 0.8))
    made = []
    start = ConjugateGradients.accumulator
    monkeypatch.setattr(ConjugateGradients, "accumulator", lambda *given: made.append(0) or start(*given))
    with pytest.raises(MemoryError, match="solver='cg'"):
        clone(model).set_params(solver="eigh", param_selection=RandomSubset(20)).fit(X, 2 * y - 1)
    assert not made
    model.set_params(param_selection=mask, max_iter=50, solver="cg").fit(X, 2 * y - 1)
    np.testing.assert_array_equal(model.theta_[~mask], before[~mask])
    hidden = np.tanh(X @ model.coefs_[0] + model.intercepts_[0])
    residual = 2 * y - 1 - np.c_[hidden, np.ones(80)] @ np.linalg.lstsq(np.c_[hidden, np.ones(80)], 2 * y - 1)[0]
    np.testing.assert_allclose(model.loss_, 0.5 * np.mean(residual**2), rtol=1e-4)
    made.clear()
    assert np.isfinite(small(alpha=1e-3, param_selection=RandomSubset(20)).fit(X, y).loss_)
    assert made


@ignore_max_iter
def test_rows_are_predicted_from_minima_of_all_parameters_only():
    X, y = surface()
    assert small(param_selection="layers").fit(X, y).loo_score_ is not None
    frozen = small(param_selection=np.arange(21) >= 15, n_init=3).fit(X, y)
    assert frozen.loo_score_ is None


@pytest.mark.parametrize(
    ("n_samples", "n_columns", "units"), [(781, 2, 20), (782, 2, 30), (1532, 3, 40), (2532, 2, 50), (9000, 1, 20)]
)
@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
@ignore_max_iter
def test_more_rows_have_more_units(estimator, n_samples, n_columns, units):
    X = np.random.default_rng(0).uniform(-1, 1, (n_samples, n_columns))
    model = estimator(random_state=0, max_time=0.1, alpha=0.1, n_init=1, tol=0.5)
    model.fit(X, (X[:, 0] > 0).astype(int))
    assert model.architecture_.hidden_layer_sizes == (units,)
    assert model.coefs_[0].shape == (n_columns, units)


@pytest.mark.parametrize(
    ("estimator", "n_samples", "n_columns", "n_classes", "units"),
    [
        (LMRegressor, 500, 30, 2, 20),
        (LMRegressor, 1000, 100, 2, 8),
        (LMRegressor, 2000, 60, 2, 10),
        (LMRegressor, 5000, 60, 2, 10),
        (LMRegressor, 5000, 20, 2, 50),  # four rows a parameter
        (LMRegressor, 1000, 2000, 2, 30),  # not even with fewer
        (LMClassifier, 600, 60, 2, 15),
        (LMClassifier, 9000, 100, 2, 5),
        (LMClassifier, 20_000, 100, 2, 5),  # for more units, once columns are weighed
        (LMClassifier, 20_000, 100, 7, 100),
        (LMRegressor, 2000, 300, 2, 3),
        (LMClassifier, 600, 60, 4, 8),
        (LMClassifier, 600, 60, 5, 20),
    ],
)
def test_many_columns_have_so_few_units_that_a_search_is_affordable(estimator, n_samples, n_columns, n_classes, units):
    X = np.random.default_rng(0).uniform(-1, 1, (n_samples, n_columns))
    y = np.floor((X[:, 0] + 1) / 2 * n_classes)
    _, fit = estimator(random_state=0)._ready(X, y)
    assert fit.core["architecture_"].hidden_layer_sizes == (units,)
    searched = fit.folds is not None and not fit.folds.climbs
    assert searched == (units < 50 and n_columns < 2000 and n_classes < 5)


@ignore_max_iter
def test_units_that_follow_from_the_rows_stay_in_a_warm_start():
    X = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    y = X[:, 0] * X[:, 1]
    model = LMRegressor(random_state=0, max_iter=2, alpha=0.1, n_init=1, tol=0.5, warm_start=True).fit(X, y)
    assert model.fit(X[:100], y[:100]).architecture_.hidden_layer_sizes == (30,)
    model.set_params(warm_start=False)
    assert model.fit(X[:100], y[:100]).architecture_.hidden_layer_sizes == (20,)
    stepped = LMRegressor(random_state=0).partial_fit(X, y).partial_fit(X[:100], y[:100])
    assert stepped.architecture_.hidden_layer_sizes == (30,)
    stepped.set_params(hidden_layer_sizes=10)
    with pytest.raises(ValueError, match=r"(?s)was MLP\(hidden_layer_sizes=\(30,\).*is MLP\(hidden_layer_sizes=10"):
        stepped.partial_fit(X, y)


@pytest.mark.parametrize(("n_classes", "units"), [(2, 40), (3, 20)])
@ignore_max_iter
def test_only_classifiers_of_two_classes_have_more_units(n_classes, units):
    X = np.random.default_rng(0).uniform(-1, 1, (2400, 2))
    y = np.floor((X[:, 0] + 1) / 2 * n_classes)
    model = LMClassifier(random_state=0, max_time=0.1, tol=0.5).fit(X, y)
    assert model.architecture_.hidden_layer_sizes == (units,)


def test_units_count_rows_by_their_weights():
    X = np.random.default_rng(0).uniform(-1, 1, (391, 2))
    options = {"random_state": 0, "max_iter": 2, "alpha": 0.1, "n_init": 1, "tol": 0.5}
    model = LMRegressor(**options)
    with pytest.warns(ConvergenceWarning):
        assert model.fit(X, X[:, 0], 2 * np.ones(391)).architecture_.hidden_layer_sizes == (30,)
    steps = LMRegressor(np.array([5, 3]), random_state=0)
    for _ in range(2):
        steps.partial_fit(X, X[:, 0])
    assert steps.architecture_.hidden_layer_sizes == (5, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": MLP}, r"'architecture' .* must be an object, not a class; pass MLP\(\.\.\.\)"),
        ({"architecture": torch.nn.Linear}, "pass Linear"),
        ({"architecture": lambda x, a: a * x}, "'architecture' .*, not a function.*Your own formula"),
        ({"loss": Huber}, "'loss' .* pass Huber"),
        ({"loss": lambda f, y: f - y}, "'loss' .*, not a function"),
    ],
)
def test_classes_and_functions_in_place_of_objects(options, message):
    with pytest.raises(TypeError, match=message):
        LMRegressor(**options).fit(np.zeros((4, 1)), np.arange(4.0))


@pytest.mark.parametrize("estimator", [LMRegressor, LMClassifier])
def test_parameters_of_an_architecture_need_one(estimator):
    with pytest.raises(ValueError, match=f"architecture__kernel_size cannot .* {estimator.__name__}.architecture=CNN"):
        estimator().set_params(architecture__kernel_size=2)
    model = estimator().set_params(architecture=MLP(3), architecture__hidden_layer_sizes=(4,))
    assert model.architecture.hidden_layer_sizes == (4,)
