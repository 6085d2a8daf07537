"""LMClassifier: probabilities of any kind of label, against scikit-learn and torch."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_softmax, softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight

from sklm import CNN, MLP, LMClassifier
from sklm._training_set import TrainingSet

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def blobs(n=120, n_classes=3, seed=0):
    """Overlapping clouds in the plane, at scales that need standardising."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    centres = 1.5 * np.c_[np.cos(2.5 * np.arange(n_classes)), np.sin(2.5 * np.arange(n_classes))]
    return (centres[y] + rng.normal(size=(n, 2))) * [1.0, 100.0] + [5.0, -300.0], y


def labels(n=120):
    """X and an indicator matrix of three labels that exclude each other not."""
    X, _ = blobs(n)
    Z = (X - X.mean(0)) / X.std(0)
    noise = np.random.default_rng(1).logistic(size=(n, 3))
    return X, (Z @ [[1.0, -1.0, 0.3], [0.5, 1.0, -2.0]] + noise > [0.0, 0.5, -0.5]).astype(int)


TARGETS = {"binary": lambda: blobs(n_classes=2), "multiclass": blobs, "multilabel": labels}
every_kind = pytest.mark.parametrize("kind", TARGETS)


def small(**options):
    return LMClassifier(
        **{"hidden_layer_sizes": 4, "alpha": 1e-2, "random_state": 0, "max_iter": 30, "n_init": 1, **options}
    )


def linear(**options):
    """Without hidden layer, to the minimum."""
    return LMClassifier(**{"hidden_layer_sizes": (), "random_state": 0, "tol": 1e-12, "max_iter": 500, **options})


def penalised(model, X, y, alpha):
    """Objective of a fitted classifier of several classes, from its coefficients for standardised inputs."""
    network = model.architecture_.build(X.shape[1], len(model.classes_))
    coefficients = model.theta_[network.coefficient_mask]
    return log_loss(y, model.predict_proba(X), labels=model.classes_) + alpha / 2 * coefficients @ coefficients


# -- labels ------------------------------------------------------------------------------------------------------


LABELS = {
    "int": [0, 1, 2],
    "negative": [-5, -1, 7],
    "float": [-1.0, 2.0, 30.0],
    "str": ["a", "b", "sea"],
    "object": np.array(["a", "b", "sea"], dtype=object),
    "unsorted": ["z", "y", "x"],
    "uint8": np.array([3, 200, 255], dtype=np.uint8),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_type(name, n_classes):
    X, codes = blobs(n_classes=n_classes)
    values = np.asarray(LABELS[name])[:n_classes]
    model = small().fit(X, values[codes])
    assert_array_equal(model.classes_, np.sort(values))
    assert model.classes_.dtype == values.dtype
    predicted = model.predict(X)
    assert predicted.dtype == values.dtype
    assert predicted.shape == (120,)
    assert np.mean(predicted == values[codes]) > 0.7
    assert model.score(X, values[codes]) == np.mean(predicted == values[codes])
    if name not in ("unsorted",):  # the order of the labels is that of the codes, and nothing else matters
        assert_array_equal(model.predict_proba(X), small().fit(X, codes).predict_proba(X))


def test_bool_labels():
    X, codes = blobs(n_classes=2)
    model = small().fit(X, codes == 1)
    assert_array_equal(model.classes_, [False, True])
    assert model.predict(X).dtype == bool
    assert_array_equal(model.predict_proba(X), small().fit(X, codes).predict_proba(X))


def test_pandas_labels():
    X, codes = blobs()
    names = np.array(["low", "mid", "top"], dtype=object)[codes]
    expected = small().fit(X, names)
    index = np.random.default_rng(0).permutation(120)
    for y in (
        pd.Series(names, index=index),
        pd.Series(names).astype("category"),
        pd.Series(pd.Categorical(names, categories=["top", "mid", "low", "never"])),
        pd.Series(names, dtype="string"),
    ):
        model = small().fit(X, y)
        assert_array_equal(model.classes_.astype(object), ["low", "mid", "top"])
        assert_array_equal(model.predict(X), expected.predict(X))
        assert_array_equal(model.theta_, expected.theta_)
    assert_array_equal(small().fit(X, pd.Series(codes, dtype="Int64")).predict(X), small().fit(X, codes).predict(X))


def test_a_column_of_labels_is_flattened_with_a_warning():
    from sklearn.exceptions import DataConversionWarning

    X, y = blobs()
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = small(tol=0.5).fit(X, y[:, None])
    assert model.predict(X).shape == (120,)


def test_an_indicator_matrix_may_be_sparse_or_a_list():
    X, Y = labels()
    model = small().fit(X, Y)
    assert_array_equal(model.classes_, [0, 1, 2])
    assert model.predict(X).shape == (120, 3)
    assert set(np.unique(model.predict(X))) == {0, 1}
    assert model.score(X, Y) == np.mean(np.all(model.predict(X) == Y, axis=1))
    for other in (scipy.sparse.csr_matrix(Y), scipy.sparse.csc_array(Y), Y.astype(bool), Y.astype(float), Y.tolist()):
        assert_array_equal(small().fit(X, other).theta_, model.theta_)


def test_labels_of_which_some_never_or_always_occur():
    X, Y = labels()
    Y[:, 0], Y[:, 1] = 0, 1
    model = small().fit(X, Y)
    probability = model.predict_proba(X)
    assert probability[:, 0].max() < 0.05
    assert probability[:, 1].min() > 0.95
    assert np.isfinite(model.theta_).all()


# -- probabilities -----------------------------------------------------------------------------------------------


def by_formula(model, outputs):
    """Probabilities from the outputs of the network."""
    if outputs.shape[1] == 1:
        return np.c_[expit(-outputs), expit(outputs)]
    return softmax(outputs, axis=1) if np.ndim(model.predict([[0.0, 0.0]])) == 1 else expit(outputs)


@every_kind
@pytest.mark.parametrize("standardize", [True, False])
def test_probabilities_are_those_of_the_formula_and_of_the_module(kind, standardize):
    X, y = TARGETS[kind]()
    if not standardize:
        X = StandardScaler().fit_transform(X)
    model = small(hidden_layer_sizes=(4, 3), standardize=standardize, max_iter=10).fit(X, y)
    probability = model.predict_proba(X)
    assert probability.shape == (120, 2 if kind == "binary" else 3)
    assert probability.dtype == np.float64
    if kind != "multilabel":
        assert_allclose(probability.sum(axis=1), 1, rtol=1e-14)
        assert_array_equal(model.predict(X), model.classes_[probability.argmax(axis=1)])
    else:
        assert_array_equal(model.predict(X), probability > 0.5)
    a = X
    for coefficients, intercepts in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        a = np.tanh(a @ coefficients + intercepts)
    assert_allclose(by_formula(model, a @ model.coefs_[-1] + model.intercepts_[-1]), probability, rtol=1e-8)
    outputs = model.to_module()(torch.tensor(X)).detach().numpy()
    assert outputs.shape == (120, model.n_outputs_) == (120, 1 if kind == "binary" else 3)
    assert_allclose(by_formula(model, outputs), probability, rtol=1e-8)


@every_kind
def test_log_probabilities_keep_their_digits_in_the_tails(kind):
    X, y = TARGETS[kind]()
    model = small(max_iter=10).fit(X, y)
    assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-9, atol=1e-12)
    last = model.architecture_.build(2, model.n_outputs_).layers[-1]
    far = model.theta_.copy()
    for part in (last.weight, last.bias):
        far[part] *= 1e4
    model.theta_ = far
    logits = model.to_module()(torch.tensor(X)).detach().numpy()
    assert np.abs(logits).max() > 1e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_probability, probability = model.predict_log_proba(X), model.predict_proba(X)
    assert np.isfinite(log_probability).all()
    assert np.isfinite(probability).all()
    assert log_probability.min() < -1e4
    assert probability.min() == 0
    if kind == "multiclass":
        expected = log_softmax(logits, axis=1)
    else:
        expected = -np.logaddexp(0, -(np.c_[-logits, logits] if kind == "binary" else logits))
    assert_allclose(log_probability, expected, rtol=1e-7, atol=1e-12)
    there = probability > 1e-290
    assert_allclose(log_probability[there], np.log(probability[there]), rtol=1e-9, atol=1e-12)


@every_kind
def test_loss_is_the_log_loss(kind):
    X, y = TARGETS[kind]()
    weights = np.random.default_rng(3).uniform(0.5, 2, size=120)
    model = small(alpha=0.01).fit(X, y, weights)
    if kind == "multilabel":
        p = model.predict_proba(X)
        expected = -np.average(np.where(y == 1, np.log(p), np.log(1 - p)).mean(axis=1), weights=weights)
    else:
        expected = log_loss(y, model.predict_proba(X), sample_weight=weights)
    assert_allclose(model.loss_, expected, rtol=1e-9)
    assert_allclose(model.loss_curve_[-1], expected, rtol=1e-3)
    assert len(model.loss_curve_) == model.n_iter_


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "to_module"])
def test_unfitted(method):
    with pytest.raises(NotFittedError, match="LMClassifier instance is not fitted yet"):
        getattr(LMClassifier(), method)(*([] if method == "to_module" else [[[1.0]]]))


# -- against scikit-learn and torch ------------------------------------------------------------------------------


def logistic_regression(X, y, weights=None, penalty=1.0, **options):
    """Scikit-learn's on standardised inputs: (probabilities, coefficients for them)."""
    scaler = StandardScaler().fit(X, sample_weight=weights)
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10000, **options)
    model.fit(scaler.transform(X), y, sample_weight=weights)
    return model.predict_proba(scaler.transform(X)), model.coef_ / scaler.scale_


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("curvature", ["exact", "auto"])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_hidden_layer_is_logistic_regression(n_classes, curvature, weighted):
    X, y = blobs(n_classes=n_classes)
    weights = np.random.default_rng(2).uniform(0.2, 3, size=120) if weighted else None
    model = linear(curvature=curvature).fit(X, y, weights)
    probability, coefficients = logistic_regression(X, y, weights)
    assert_allclose(model.predict_proba(X), probability, atol=1e-5)
    # a column the same for all classes changes no probability; the penalty makes it zero in both
    assert_allclose(model.coefs_[0].T, coefficients, rtol=1e-5, atol=1e-6)
    assert model.converged_


def test_alpha_is_the_penalty_of_the_mean_loss():
    X, y = blobs()
    probability, _ = logistic_regression(X, y, penalty=0.05 * 120)
    assert_allclose(linear(alpha=0.05).fit(X, y).predict_proba(X), probability, atol=1e-5)


def test_the_automatic_penalty_is_one_over_the_weights_sum():
    X, y = blobs()
    weights = np.random.default_rng(2).uniform(0.2, 3, size=120)
    explicit = linear(alpha=1 / weights.sum()).fit(X, y, weights)
    assert_allclose(linear().fit(X, y, weights).predict_proba(X), explicit.predict_proba(X), rtol=1e-9)


def test_labels_without_hidden_layer_are_logistic_regressions():
    X, Y = labels()
    probability = linear(alpha=0.02).fit(X, Y).predict_proba(X)
    for k in range(3):  # the mean over labels divides the loss, not the penalty
        expected, _ = logistic_regression(X, Y[:, k], penalty=3 * 0.02 * 120)
        assert_allclose(probability[:, k], expected[:, 1], atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_label_smoothing_is_torchs(n_classes):
    X, y = blobs(n_classes=n_classes)
    Z, target = torch.tensor(StandardScaler().fit_transform(X)), torch.tensor(y)
    weight = torch.zeros((2, n_classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        logits = Z @ weight + bias
        loss = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.2)
        # two classes: one log-odds, whose coefficient is the difference of the columns
        square = (weight[:, 1] - weight[:, 0]).square() if n_classes == 2 else weight.square()
        objective = loss + 0.5 * 0.01 * square.sum()
        objective.backward()
        return objective

    optimiser.step(closure)
    expected = softmax((Z @ weight + bias).detach().numpy(), axis=1)
    model = linear(alpha=0.01, label_smoothing=0.2).fit(X, y)
    assert_allclose(model.predict_proba(X), expected, atol=1e-5)
    smoothed = 0.8 * np.eye(n_classes)[y] + 0.2 / n_classes
    assert_allclose(model.loss_, -(smoothed * np.log(expected)).sum(axis=1).mean(), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_squared_error_is_least_squares_on_zeros_and_ones(alpha):
    X, y = blobs()
    model = linear(loss="squared_error", alpha=alpha).fit(X, y)
    Z = StandardScaler().fit_transform(X)
    # the mean over the three outputs is in the loss alone
    fitted = Ridge(3 * alpha * 120, tol=1e-12).fit(Z, np.eye(3)[y]).predict(Z)
    cut = np.clip(fitted, 0, 1)
    assert_allclose(model.predict_proba(X), cut / cut.sum(axis=1, keepdims=True), atol=1e-7)
    assert_array_equal(model.predict(X), cut.argmax(axis=1))
    assert_allclose(model.loss_, 0.5 * np.mean((fitted - np.eye(3)[y]) ** 2), rtol=1e-7)
    with np.errstate(divide="ignore"):
        assert_array_equal(model.predict_log_proba(X), np.log(model.predict_proba(X)))


@every_kind
def test_squared_error_gives_probabilities(kind):
    X, y = TARGETS[kind]()
    model = small(loss="squared_error", tol=0.1, max_iter=300).fit(X, y)
    probability = model.predict_proba(X)
    assert probability.min() >= 0
    assert probability.max() <= 1
    if kind != "multilabel":
        assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
        assert model.score(X, y) > 0.7


# -- weights -----------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    "options",
    [{"alpha": "auto"}, {}, {"hidden_layer_sizes": 60}, {"label_smoothing": 0.1}, {"loss": "squared_error"}],
    ids=str,
)
def test_weight_k_is_the_row_k_times_and_weight_0_no_row(kind, options):
    X, y = TARGETS[kind]()
    counts = np.random.default_rng(5).integers(0, 4, size=len(X))
    X[counts == 0] += 100
    weighted = small(max_iter=8, **options).fit(X, y, sample_weight=counts)
    repeated = small(max_iter=8, **options).fit(X.repeat(counts, axis=0), y.repeat(counts, axis=0))
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6, atol=1e-6)
    assert_allclose(weighted.loss_, repeated.loss_, rtol=1e-6)


@pytest.mark.parametrize("class_weight", [{0: 1.0, 1: 3.0, 2: 0.5}, {1: 3.0}, {0: 0.0}, "balanced"], ids=str)
def test_class_weights_are_sample_weights(class_weight):
    X, y = blobs()
    keep = np.flatnonzero((y != 2) | (np.arange(120) % 3 == 0))
    X, y = X[keep], y[keep]
    model = small(alpha="auto", class_weight=class_weight).fit(X, y)
    expected = small(alpha="auto").fit(X, y, compute_sample_weight(class_weight, y))
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-9)
    assert_array_equal(model.classes_, [0, 1, 2])
    weights = np.random.default_rng(2).uniform(0.5, 2, size=len(y))
    if class_weight != "balanced":
        both = small(alpha="auto", class_weight=class_weight).fit(X, y, weights)
        product = small(alpha="auto").fit(X, y, weights * compute_sample_weight(class_weight, y))
        assert_allclose(both.predict_proba(X), product.predict_proba(X), rtol=1e-9)


def test_balanced_classes_without_hidden_layer_are_scikit_learns():
    X, y = blobs(n_classes=2)
    keep = (y == 0) | (np.arange(120) % 4 == 0)
    X, y = X[keep], y[keep]
    expected = logistic_regression_balanced(X, y)
    assert_allclose(linear(class_weight="balanced").fit(X, y).predict_proba(X), expected, atol=1e-5)


def logistic_regression_balanced(X, y):
    weights = compute_sample_weight("balanced", y)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    model = LogisticRegression(tol=1e-10, max_iter=10000, class_weight="balanced").fit(scaler.transform(X), y)
    return model.predict_proba(scaler.transform(X))


def test_balanced_classes_count_weights_as_rows():
    # what fit promises: weight k counts as the row k times, weight 0 as no row
    X, y = blobs()
    counts = np.random.default_rng(5).integers(0, 4, size=120) * (1 + y)
    options = {"alpha": "auto", "class_weight": "balanced", "max_iter": 10, "growing": False}
    weighted = small(**options).fit(X, y, counts)
    repeated = small(**options).fit(X.repeat(counts, axis=0), y.repeat(counts))
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6, atol=1e-6)


# -- curvature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [load_iris, load_digits])
def test_drawn_and_fisher_curvature_reach_the_loss_of_the_exact_one(data):
    X, y = data(return_X_y=True)
    X, y = X[:: 1 + len(X) // 200], y[:: 1 + len(y) // 200]
    alpha = 0.02
    options = {"hidden_layer_sizes": 4, "alpha": alpha, "max_iter": 300, "tol": 1e-4}

    def reached(**more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return penalised(small(**options, **more).fit(X, y), X, y, alpha)

    exact = reached(curvature="exact")
    assert exact < 0.9 * np.log(len(np.unique(y)))
    for more in ({"curvature": "sampled"}, {"curvature": "sampled", "curvature_samples": 3}, {"curvature": "fisher"}):
        assert reached(**more) < 1.05 * exact


@pytest.mark.parametrize("options", [{}, {"curvature_samples": 2}, {"batch_size": 40}, {"n_init": 2}], ids=str)
def test_drawn_curvature_depends_on_the_seed_alone(options):
    X, y = blobs()
    options = {"curvature": "sampled", "max_iter": 8, **options}
    one, two = (small(**options).fit(X, y) for _ in range(2))
    assert_array_equal(one.theta_, two.theta_)
    assert_array_equal(one.loss_curve_, two.loss_curve_)
    assert not np.array_equal(small(random_state=1, **options).fit(X, y).theta_, one.theta_)


def test_the_kinds_of_curvature_differ():
    X, y = blobs()
    thetas = [
        small(max_iter=3, **options).fit(X, y).theta_
        for options in (
            {"curvature": "exact"},
            {"curvature": "fisher"},
            {"curvature": "sampled"},
            {"curvature": "sampled", "curvature_samples": 2},
        )
    ]
    assert len({theta.tobytes() for theta in thetas}) == 4
    assert_array_equal(small(max_iter=3, curvature="auto").fit(X, y).theta_, thetas[0])


@pytest.mark.parametrize(
    ("n_rows", "hidden", "options", "n_columns"),
    [
        (150, 20, {}, 10),  # 150 rows * 10 classes * 430^2 parameters: below three hundred million
        (425, 20, {}, 10),  # above, but less than a row for each parameter
        (850, 20, {}, 10),  # less than two rows for each parameter
        (850, 20, {"curvature_samples": 2}, 2),
        (870, 20, {}, 1),
        (860, 40, {}, 2),  # 850 parameters: above two thousand million
        (1650, 40, {}, 2),
        (1650, 40, {"curvature_samples": 1}, 10),
        (1750, 40, {}, 1),
        (1750, 40, {"curvature_samples": 3}, 3),
        (1800, 160, {}, 1),  # 3370 parameters: few rows, but above twenty thousand million
        (300, 40, {}, 10),  # 2.2e9, and fewer rows than parameters
        (400, 40, {}, 1),  # 2.9e9
        (3500, 40, {"batch_size": 300, "batch_memory": None}, 10),  # a batch is what is drawn from
        (3500, 40, {"batch_size": 300}, 1),  # or what is averaged
    ],
)
def test_automatic_curvature_draws_where_the_exact_one_is_expensive(n_rows, hidden, options, n_columns):
    model, network = LMClassifier(hidden, **options), MLP(hidden).build(10, 10)
    assert network.n_parameters == {20: 430, 40: 850, 160: 3370}[hidden]
    loss = model._make_loss(network, model._rows_at_once(network, n_rows), {"_kind": "multiclass"})
    assert loss.curvature == ("exact" if n_columns == 10 else "sampled")
    assert loss.curvature_columns(10) == n_columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "exact", "curvature_samples": 2}, "would be ignored with curvature='exact'"),
        ({"curvature": "fisher", "curvature_samples": 1}, "would be ignored with curvature='fisher'"),
        ({"curvature": "sampled", "curvature_samples": 4}, "more columns than the exact curvature of 3 classes has"),
        ({"curvature_samples": 1000}, "more columns than the exact curvature"),
    ],
)
def test_columns_that_make_no_sense_are_refused(options, message):
    X, y = blobs()
    with pytest.raises(ValueError, match=message):
        small(**options).fit(X, y)


@pytest.mark.parametrize("curvature", ["auto", "exact"])
def test_two_classes_and_labels_have_no_columns_to_draw(curvature):
    X, y = blobs(n_classes=2)
    for targets in (y, np.c_[y, 1 - y]):
        with pytest.raises(ValueError, match="curvature_samples=2 would be ignored"):
            small(curvature=curvature, curvature_samples=2).fit(X, targets)


@pytest.mark.parametrize(("n_classes", "expected"), [(3, "exact"), (4, "sampled")])
def test_two_columns_are_drawn_only_where_that_is_half_of_them(n_classes, expected):
    network = MLP(40).build(30, n_classes)
    model, n_rows = LMClassifier(40), int(1.5 * network.n_parameters)
    assert model._make_loss(network, n_rows, {"_kind": "multiclass"}).curvature == expected


def test_two_classes_have_no_curvature_to_choose():
    X, y = blobs(n_classes=2)
    exact = small(curvature="exact", tol=0.1).fit(X, y)
    assert_array_equal(exact.theta_, small(tol=0.1).fit(X, y).theta_)
    for curvature in ("sampled", "fisher"):
        for targets in (y, labels()[1]):
            with pytest.raises(ValueError, match=f"curvature='{curvature}' is for more than two classes"):
                small(curvature=curvature).fit(X, targets)


# -- early stopping ----------------------------------------------------------------------------------------------


def held_out(y, fraction, random_state, stratify):
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return train_test_split(
        np.arange(len(y)), test_size=int(np.ceil(fraction * len(y))), random_state=seed, stratify=stratify
    )


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_early_stopping_keeps_the_best_model_by_log_loss(kind):
    X, y = TARGETS[kind]()
    names = np.array(["b", "a", "c"])[y]
    options = {"hidden_layer_sizes": 12, "alpha": 0, "validation_fraction": 0.3, "random_state": 4, "max_iter": 200}
    model = small(early_stopping=True, **options).fit(X, names)
    codes = np.searchsorted(model.classes_, names)
    train, held = held_out(y, 0.3, 4, model.classes_[codes])
    expected = -log_loss(names[held], model.predict_proba(X[held]), labels=model.classes_)
    assert_allclose(model.best_validation_score_, expected, rtol=1e-9)
    assert_allclose(model.best_validation_score_, model.validation_scores_.max(), rtol=1e-12)
    assert model.validation_scores_[-1] < model.best_validation_score_  # it went on, and came back
    assert model.status_ == "validation"
    assert len(model.validation_scores_) == model.n_iter_
    assert_allclose(model.loss_, log_loss(names[train], model.predict_proba(X[train])), rtol=1e-9)
    assert -model.best_validation_score_ < np.log(len(model.classes_))


def test_early_stopping_holds_out_the_share_of_every_class():
    strata = np.random.default_rng(0).permutation(np.repeat(["many", "some", "few"], [700, 280, 20]))
    rows = TrainingSet(np.arange(1000.0)[:, None], np.zeros((1000, 1)), np.ones(1000), strata)
    for seed in range(10):
        train, held = rows.hold_out(0.1, seed)
        assert_array_equal(np.sort(np.r_[train.X, held.X], axis=0), rows.X)
        for part, counts in ((train, [18, 630, 252]), (held, [2, 70, 28])):
            assert_array_equal(np.unique(part.strata, return_counts=True)[1], counts)
            assert_array_equal(part.strata, strata[part.X[:, 0].astype(int)])


@pytest.mark.parametrize("fraction", [0.5, 0.6])
def test_early_stopping_trains_and_validates_on_a_class_of_two_rows(fraction):
    strata = np.r_[np.zeros(100), np.ones(2)]
    rows = TrainingSet(np.zeros((102, 1)), np.zeros((102, 1)), np.ones(102), strata)
    for seed in range(5):
        for part in rows.hold_out(fraction, seed):
            assert np.sum(part.strata == 1) == 1


def test_early_stopping_of_labels_and_of_squared_error():
    X, Y = labels()
    model = small(early_stopping=True, validation_fraction=0.3, random_state=4, max_iter=60).fit(X, Y)
    _, held = held_out(Y, 0.3, 4, None)
    p = model.predict_proba(X[held])
    expected = np.where(Y[held] == 1, np.log(p), np.log(1 - p)).mean()
    assert_allclose(model.best_validation_score_, expected, rtol=1e-9)
    X, y = blobs()
    model = small(early_stopping=True, loss="squared_error", random_state=4, max_iter=60).fit(X, y)
    _, held = held_out(y, 0.1, 4, y)
    outputs = model.to_module()(torch.tensor(X[held])).detach().numpy()
    assert_allclose(model.best_validation_score_, -0.5 * np.mean((outputs - np.eye(3)[y[held]]) ** 2), rtol=1e-9)


def test_early_stopping_with_a_class_of_one_row():
    X, y = blobs()
    y = np.array(["even", "odd", "once"])[np.where(np.arange(120) == 7, 2, y % 2)]
    model = small(early_stopping=True)
    with pytest.raises(
        ValueError, match=r"divides the rows of every class and needs two or more of each; class 'once' has one\."
    ):
        model.fit(X, y)
    assert not hasattr(model, "classes_")
    with pytest.raises(ValueError, match=r"leaves 2 of n_samples=120 rows .* at least 3 and 2 are needed"):
        small(early_stopping=True, validation_fraction=0.01).fit(*blobs())


# -- partial fit and warm start ----------------------------------------------------------------------------------


@every_kind
def test_partial_fit_learns_from_batches(kind):
    X, y = TARGETS[kind]()
    model = small(alpha=1e-3)
    for epoch in range(12):
        for number, rows in enumerate(np.split(np.random.default_rng(epoch).permutation(120), 3)):
            classes = np.unique(y) if epoch == number == 0 and kind != "multilabel" else None
            model.partial_fit(X[rows], y[rows], classes=classes)
    p, target = model.predict_proba(X), y if kind == "multilabel" else np.eye(2 if kind == "binary" else 3)[y]
    loss = -(target * np.log(p) + (kind == "multilabel") * (1 - target) * np.log(1 - p)).sum(axis=1).mean()
    share = target.mean(axis=0)
    null = -(share * np.log(share) + (kind == "multilabel") * (1 - share) * np.log(1 - share)).sum()
    assert model.n_iter_ == len(model.loss_curve_) == 36
    assert loss < 0.9 * null
    full = LMClassifier(4, random_state=0, alpha=1e-3, max_iter=60, tol=1e-2).fit(X, y)
    assert loss / (3 if kind == "multilabel" else 1) < full.loss_ + 0.15


def test_partial_fit_on_all_rows_never_rises():
    X, y = blobs()
    model = small(alpha=1e-3)
    objectives = [
        penalised(model.partial_fit(X, y, classes=[0, 1, 2]), X, y, 1e-3) for _ in range(15)
    ]  # the same classes may be passed again
    assert np.all(np.diff(objectives) <= 1e-12)
    assert objectives[-1] < 0.6 * objectives[0]


def test_partial_fit_knows_classes_that_come_late():
    X, y = blobs()
    names = np.array(["x", "y", "z"])[y]
    model = small().partial_fit(X[y == 1], names[y == 1], classes=["z", "y", "x"])
    assert_array_equal(model.classes_, ["x", "y", "z"])
    assert model.predict_proba(X).shape == (120, 3)
    for _ in range(15):
        model.partial_fit(X, names)
    assert model.score(X, names) > 0.7


def test_partial_fit_weights_count():
    X, y = blobs()
    counts = np.random.default_rng(5).integers(0, 3, size=120)
    weighted = small(alpha="auto").partial_fit(X, y, [0, 1, 2], counts)
    repeated = small(alpha="auto").partial_fit(X.repeat(counts, axis=0), y.repeat(counts), [0, 1, 2])
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)
    by_class = small(alpha="auto", class_weight={0: 2.0, 1: 1.0, 2: 0.5}).partial_fit(X, y, [0, 1, 2])
    by_row = small(alpha="auto").partial_fit(X, y, [0, 1, 2], np.array([2.0, 1.0, 0.5])[y])
    assert_array_equal(by_class.theta_, by_row.theta_)


def test_partial_fit_with_a_class_weight_for_a_class_that_is_not_in_the_batch():
    X, y = blobs()
    model = small(alpha="auto", class_weight={0: 2.0}).partial_fit(X, y, [0, 1, 2])
    rest = y != 0
    model.partial_fit(X[rest], y[rest])
    other = small(alpha="auto", class_weight={0: 2.0}).partial_fit(X, y, [0, 1, 2])
    assert_array_equal(other.set_params(class_weight=None).partial_fit(X[rest], y[rest]).theta_, model.theta_)


def test_partial_fit_refuses():
    X, y = blobs()
    _, Y = labels()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        small().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y holds the labels \[2\], which are not among the classes"):
        small().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="cannot balance classes that it has not seen yet"):
        small(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        small(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="one class only"):
        small().partial_fit(X, 0 * y, classes=[0])
    model = small().partial_fit(X, y, classes=[0, 1, 2])
    theta = model.theta_
    with pytest.raises(ValueError, match=r"classes=array\(\[0, 1\]\) differs from the classes of the first call"):
        model.partial_fit(X, y % 2, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y holds the labels \[3\], which are not among the classes"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="y is an indicator matrix of 3 labels; the model was started with"):
        model.partial_fit(X, Y)
    assert model.theta_ is theta
    started = small().partial_fit(X, Y)
    assert_array_equal(started.classes_, [0, 1, 2])
    with pytest.raises(ValueError, match="y is an indicator matrix of 2 labels; the model was started with"):
        started.partial_fit(X, Y[:, :2])
    with pytest.raises(ValueError, match="y is one-dimensional; the model was started with an indicator matrix"):
        started.partial_fit(X, y)


@every_kind
def test_warm_start_goes_on(kind):
    X, y = TARGETS[kind]()
    model = small(alpha="auto", warm_start=True, max_iter=6).fit(X, y)
    probability = model.predict_proba(3 * X + 1)
    model.set_params(damping=1e15, max_iter=1).fit(3 * X + 1, y)  # a step of no length, standardised anew
    assert_allclose(model.x_mean_, 3 * X.mean(axis=0) + 1)
    assert_allclose(model.predict_proba(3 * X + 1), probability, rtol=1e-6)


def test_warm_start_needs_the_same_classes():
    X, y = blobs()
    model = small(warm_start=True, max_iter=3).fit(X, y)
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(X, y % 2)
    assert_array_equal(model.classes_, [0, 1, 2])
    with pytest.raises(ValueError, match="class"):  # as many outputs, with another meaning
        model.fit(X, np.array(["c", "b", "a"])[y])
    with pytest.raises(ValueError, match=r"class|label"):
        model.fit(X, labels()[1])


# -- what is refused ---------------------------------------------------------------------------------------------


def with_item(y, item, dtype):
    y = y.astype(dtype)
    y[3] = item
    return y


X_GOOD, Y_GOOD = blobs()
REFUSED = {
    "one class": (0 * Y_GOOD, {}, r"y holds one class only, 0; a classifier needs two classes or more"),
    "one name": (np.full(120, "all"), {}, r"y holds one class only, 'all';"),
    "NaN": (with_item(Y_GOOD, np.nan, float), {}, "contains NaN"),
    "infinity": (with_item(Y_GOOD, np.inf, float), {}, "contains infinity"),
    "NaN object": (with_item(Y_GOOD, np.nan, object), {}, "contains NaN"),
    "NaN name": (with_item(np.array(["a", "b", "c"], dtype=object)[Y_GOOD], np.nan, object), {}, "contains NaN"),
    "continuous": (X_GOOD[:, 0], {}, "Unknown label type: continuous.*use LMRegressor for continuous targets"),
    "continuous, several": (X_GOOD, {}, "Unknown label type: continuous-multioutput"),
    "several classes a row": (np.c_[Y_GOOD, Y_GOOD], {}, "Unknown label type: multiclass-multioutput"),
    "short": (Y_GOOD[:-1], {}, "inconsistent numbers of samples"),
    "none": (None, {}, "requires y to be passed"),
    "unknown weight": (Y_GOOD, {"class_weight": {9: 2.0}}, "class_weight"),
    "weights of labels": (np.eye(3, dtype=int)[Y_GOOD], {"class_weight": {0: 2.0}}, "class_weight is for one label"),
    "no weight": (Y_GOOD, {"class_weight": {0: 0, 1: 0, 2: 0}}, "zero for every row: there is nothing to fit"),
    "smoothing ignored": (
        Y_GOOD,
        {"loss": "squared_error", "label_smoothing": 0.1},
        "label_smoothing would be ignored with loss='squared_error'; use 'log_loss'",
    ),
    "curvature ignored": (
        Y_GOOD,
        {"loss": "squared_error", "curvature": "exact"},
        "curvature would be ignored with loss='squared_error'; use 'log_loss'",
    ),
    "samples ignored": (
        Y_GOOD,
        {"loss": "squared_error", "curvature_samples": 3},
        "curvature_samples would be ignored with loss='squared_error'; use 'log_loss'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    y, options, match = REFUSED[name]
    model = small(**options)
    with pytest.raises(ValueError, match=match):
        model.fit(X_GOOD, y)
    assert not [key for key in vars(model) if key.endswith("_")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "hinge"),
        ("loss", "huber"),
        ("alpha", "none"),
        ("alpha", -0.1),
        ("class_weight", "even"),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("curvature", "diagonal"),
        ("curvature_samples", 0),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_unknown_option_values(method, name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of LMClassifier must be"):
        getattr(small(**{name: value}), method)(*blobs())


def test_strings_in_x():
    X, y = blobs()
    with pytest.raises(TypeError, match="X holds strings; sklm needs numbers"):
        small().fit(X.astype(str), y)
    model = small(tol=0.5).fit(X, y)
    for method in (model.predict, model.predict_proba, model.predict_log_proba):
        with pytest.raises(TypeError, match="X holds strings; sklm needs numbers"):
            method(X.astype(str))


def test_labels_that_cannot_be_ordered():
    X, y = blobs()
    for other in (None, 5):
        mixed = np.array(["a", "b", "c"], dtype=object)[y]
        mixed[3] = other
        with pytest.raises((TypeError, ValueError)):
            small().fit(X, mixed)


# -- separable data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("alpha", ["auto", 0.0])
@pytest.mark.parametrize("hidden", [(), 4])
def test_separable_classes_end_with_a_finite_model(n_classes, alpha, hidden):
    rng = np.random.default_rng(0)
    y = np.arange(60) % n_classes
    X = np.c_[np.cos(2.0 * y), np.sin(2.0 * y)] * 10 + rng.normal(size=(60, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LMClassifier(hidden, alpha=alpha, random_state=0, max_iter=2000).fit(X, y)
    assert caught == []  # it ends by itself: a loss that is zero to rounding is no reason to warn
    assert model.converged_
    assert model.status_ in ("gradient", "step", "decrease", "exact", "damping")
    assert model.message_
    assert np.isfinite(model.theta_).all()
    assert model.score(X, y) == 1
    assert np.isfinite(model.predict_log_proba(X * 1e3)).all()
    if alpha == 0:
        assert model.loss_ < 1e-8


def test_digits_are_memorised_without_nan():
    """Where torch-levenberg-marquardt ends with NaN: probabilities of exactly one."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    model = LMClassifier(8, alpha=0.0, target_loss=1e-8, n_init=1, random_state=0, max_iter=200).fit(X, y)
    assert model.status_ == "target"
    assert np.isfinite(model.theta_).all()
    assert np.isfinite(model.loss_curve_).all()
    assert log_loss(y, model.predict_proba(X)) < 1e-8
    assert model.score(X, y) == 1


def test_digits_are_memorised_until_rounding_ends_it():
    X, y = load_digits(return_X_y=True)
    X, y = X[:100], y[:100]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LMClassifier(4, alpha=0.0, n_init=1, random_state=0, max_iter=1000).fit(X, y)
    assert model.loss_ < 1e-8
    assert np.isfinite(model.theta_).all()
    assert model.converged_
    assert caught == []


# -- images ------------------------------------------------------------------------------------------------------


def images(n=120, flat=True):
    X, y = load_digits(return_X_y=True)
    return X[:n] if flat else X[:n].reshape(n, 1, 8, 8), y[:n] % 3


def convolutional(**options):
    architecture = CNN(conv_channels=(3,), kernel_size=3, stride=2, input_shape=(1, 8, 8))
    return LMClassifier(**{"architecture": architecture, "random_state": 0, "max_iter": 12, "tol": 1e-2, **options})


def test_images_may_come_flat_or_not():
    X, y = images()
    model = convolutional().fit(X, y)
    other = convolutional().fit(images(flat=False)[0], y)
    assert_array_equal(other.theta_, model.theta_)
    assert other.n_features_in_ == 64
    for a, b in ((model, other), (other, model)):
        assert_array_equal(a.predict_proba(X), b.predict_proba(X.reshape(-1, 1, 8, 8)))
    assert model.score(X, y) > 0.9
    stepped = convolutional().partial_fit(X.reshape(-1, 1, 8, 8), y, classes=[0, 1, 2])
    assert_array_equal(stepped.theta_, convolutional().partial_fit(X, y, classes=[0, 1, 2]).theta_)


def test_signals_may_come_flat_or_not():
    X, y = images()
    options = {"architecture": CNN(conv_channels=(3,), kernel_size=4, stride=2, input_shape=(2, 32))}
    model, other = convolutional(**options).fit(X, y), convolutional(**options).fit(X.reshape(-1, 2, 32), y)
    assert_array_equal(other.theta_, model.theta_)
    assert_array_equal(other.predict_proba(X), model.predict_proba(X.reshape(-1, 2, 32)))
    module = model.to_module()
    assert_allclose(
        softmax(module(torch.tensor(X)).detach().numpy(), axis=1), model.predict_proba(X), rtol=1e-8, atol=1e-12
    )


def test_images_of_another_shape_are_refused():
    X, y = images()
    message = r"X holds images of shape \(8, 8, 1\); the architecture's input_shape is \(1, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        convolutional().fit(X.reshape(-1, 8, 8, 1), y)
    model = convolutional(max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match=message):
        model.predict_proba(X.reshape(-1, 8, 8, 1))
    with pytest.raises(ValueError, match=r"input_shape=\(1, 8, 8\) describes rows of 64 numbers, but X has 63 columns"):
        convolutional().fit(X[:, :63], y)
    with pytest.raises(ValueError, match="X has 63 features, but LMClassifier is expecting 64"):
        model.predict(X[:, :63])
    with pytest.raises(ValueError, match="Found array with dim 4"):  # images are for networks that take some
        small().fit(X.reshape(-1, 1, 8, 8), y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_module_of_images_takes_raw_rows(n_classes):
    X, y = images()
    model = convolutional(max_iter=4).fit(X, y % n_classes)
    outputs = model.to_module()(torch.tensor(X)).detach().numpy()
    p = softmax(outputs, axis=1) if n_classes == 3 else np.c_[expit(-outputs), expit(outputs)]
    assert_allclose(p, model.predict_proba(X), rtol=1e-8, atol=1e-12)
    with pytest.raises(AttributeError, match=r"use to_module\(\)"):
        _ = model.coefs_


def test_images_are_standardised_by_channel():
    X, y = images()
    colour = np.stack([X.reshape(-1, 8, 8), 100 * X.reshape(-1, 8, 8) + 7], axis=1)
    options = {"architecture": CNN(conv_channels=(3,), kernel_size=3, stride=2, input_shape=(2, 8, 8)), "max_iter": 3}
    weights = np.random.default_rng(0).uniform(0.5, 2, size=120)
    model = convolutional(**options).fit(colour, y, weights)
    share = (weights / weights.sum())[:, None, None, None]
    mean = (colour * share).sum(axis=(0, 2, 3)) / 64
    deviation = np.sqrt(((colour - mean[:, None, None]) ** 2 * share).sum(axis=(0, 2, 3)) / 64)
    assert_allclose(model.x_mean_, mean.repeat(64), rtol=1e-12)
    assert_allclose(model.x_inverse_scale_, 1 / deviation.repeat(64), rtol=1e-12)
    scaled = convolutional(**options).fit(colour * [[[1e3]], [[1e-4]]], y, weights)
    assert_allclose(scaled.loss_, model.loss_, rtol=1e-6)


def test_parameters_of_the_architecture_can_be_set():
    X, y = images()
    model = convolutional(max_iter=2).set_params(architecture__kernel_size=4, architecture__conv_channels=(2, 2))
    model.set_params(architecture__stride=(1, 2), architecture__activation="tanh").fit(X, y)
    assert model.architecture_.kernel_size == 4
    assert len(model.theta_) == (16 + 1) * 2 + (16 * 2 + 1) * 2 + 3 * (2 + 1)
    with pytest.raises(ValueError, match="layer 1: kernel_size=9 does not fit its 8 x 8 input"):
        model.set_params(architecture__kernel_size=9).fit(X, y)
    assert model.architecture_.kernel_size == 4
