"""Saved models: every usual way, nothing of torch inside, and no trace of the training data."""

import copy
import io
import pickle
import pickletools
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import CNN, MLP, LMClassifier, LMRegressor
from sklm.losses import PoissonDeviance, Quantile
from sklm.optim import DelayedGratification

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def surface(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(**options):
    return LMRegressor(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 8, "n_init": 1, **options})


def by_skops(model, tmp_path):
    skops.io.dump(model, tmp_path / "model.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    return skops.io.load(tmp_path / "model.skops", trusted=untrusted)


def by_joblib(model, tmp_path, **options):
    joblib.dump(model, tmp_path / "model.joblib")
    return joblib.load(tmp_path / "model.joblib", **options)


WAYS = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "pickle 2": lambda model, path: pickle.loads(pickle.dumps(model, protocol=2)),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "joblib": by_joblib,
    "joblib mapped": lambda model, path: by_joblib(model, path, mmap_mode="r"),
    "skops": by_skops,
}

MODELS = {
    "plain": small,
    "objects": lambda: LMRegressor(
        architecture=MLP((4, 3), "sin"), damping_strategy=DelayedGratification(), random_state=0, max_iter=8
    ),
    "early stopping": lambda: small(early_stopping=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_copy_is_the_same_model(way, kind, n_outputs, tmp_path):
    X, y = surface()
    model = MODELS[kind]().fit(X, y if n_outputs == 1 else np.c_[y, y**2])
    other = WAYS[way](model, tmp_path)
    assert_array_equal(other.predict(X), model.predict(X))
    for a, b in zip(other.coefs_ + other.intercepts_, model.coefs_ + model.intercepts_, strict=True):
        assert_array_equal(a, b)
    assert repr(other) == repr(model)
    assert (other.status_, other.n_iter_, other.converged_) == (model.status_, model.n_iter_, model.converged_)
    assert_array_equal(other.loss_curve_, model.loss_curve_)
    np.testing.assert_allclose(
        other.to_module()(torch.tensor(X)).detach().numpy().reshape(len(X), -1),
        model.predict(X).reshape(len(X), -1),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_can_be_trained_on(way, tmp_path):
    X, y = surface()
    model = small(warm_start=True).fit(X, y)
    other = WAYS[way](model, tmp_path)
    assert_array_equal(other.fit(X, y).theta_, copy.deepcopy(model).fit(X, y).theta_)
    stepped = WAYS[way](model, tmp_path).set_params(early_stopping=False).partial_fit(X, y)
    assert_array_equal(stepped.theta_, copy.deepcopy(model).set_params(early_stopping=False).partial_fit(X, y).theta_)


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "joblib", "joblib mapped"])
def test_a_module_travels(way, tmp_path):
    X, y = surface()
    model = LMRegressor(architecture=torch.nn.Linear(2, 1)).fit(X, y)
    other = WAYS[way](model, tmp_path)
    assert_array_equal(other.predict(X), model.predict(X))
    assert_array_equal(other.to_module().weight.detach(), model.to_module().weight.detach())


def test_unfitted_estimators_travel(tmp_path):
    X, y = surface()
    for way in WAYS.values():
        assert_array_equal(way(small(), tmp_path).fit(X, y).theta_, small().fit(X, y).theta_)


def test_skops_finds_nothing_but_this_packages_types(tmp_path):
    X, y = surface()
    for model in (small(), MODELS["objects"](), make_pipeline(StandardScaler(), small())):
        untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(model.fit(X, y)))
        assert untrusted
        assert [name for name in untrusted if not name.startswith("sklm.")] == []


def test_a_pickle_holds_no_torch():
    X, y = surface()
    data = pickle.dumps(small().fit(X, y))
    strings = {str(argument) for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
    assert not [text for text in strings if "torch" in text]


def test_a_pickle_does_not_grow_with_the_data():
    sizes = []
    for n in (60, 2000):
        X, y = surface(n)
        options = {"alpha": 0.0, "max_iter": 4, "tol": 0, "n_iter_no_change": 100, "growing": False}
        sizes.append(
            [len(pickle.dumps(small(**options, **more).fit(X, y, np.ones(n)))) for more in ({}, {"batch_size": 50})]
        )
    np.testing.assert_allclose(sizes[0], sizes[1], atol=64)
    assert max(sizes[1]) < 10_000


def test_a_model_is_read_by_a_fresh_process(tmp_path):
    X, y = surface()
    model = small().fit(X, y)
    joblib.dump((model, X), tmp_path / "model.joblib")
    script = (
        f"import joblib; model, X = joblib.load({str(tmp_path / 'model.joblib')!r}); "
        "print(model.predict(X).tobytes().hex())"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True).stdout
    # the same machine, the same library: the same bits, give or take the order of a sum
    np.testing.assert_allclose(np.frombuffer(bytes.fromhex(out.strip())), model.predict(X), rtol=1e-12)


def test_clone_and_copy_share_nothing_that_changes():
    X, y = surface()
    model = small().fit(X, y)
    predicted = model.predict(X)
    other = copy.copy(model)
    other.fit(X, -y)
    assert_array_equal(model.predict(X), predicted)
    assert not hasattr(clone(model), "theta_")


def test_a_stored_attribute_cannot_be_reached_through_coefs():
    X, y = surface()
    model = small().fit(X, y)
    predicted = model.predict(X)
    for array in model.coefs_ + model.intercepts_:
        array *= 0
    for parameter in model.to_module().parameters():
        parameter.detach().zero_()
    assert_array_equal(model.predict(X), predicted)


def test_the_callers_architecture_object_is_not_the_models():
    X, y = surface()
    architecture = MLP((4,))
    model = LMRegressor(architecture=architecture, random_state=0, max_iter=5).fit(X, y)
    predicted = model.predict(X)
    architecture.set_params(hidden_layer_sizes=(9,), activation="relu")
    assert_array_equal(model.predict(X), predicted)


def test_attributes_are_numpy_and_plain_python():
    X, y = surface()
    model = small(early_stopping=True, validation_fraction=0.2).fit(X, y)
    buffer = io.BytesIO()
    np.savez(buffer, theta=model.theta_, curve=model.loss_curve_, scores=model.validation_scores_)
    kinds = {name: type(value) for name, value in vars(model).items() if name.endswith("_")}
    for name in ("loo_score_", "alpha_scores_", "relevance_", "noise_std_"):  # early_stopping
        assert kinds.pop(name) is type(None)
    assert {kind for name, kind in kinds.items() if name != "architecture_"} <= {np.ndarray, float, int, str, bool}
    assert isinstance(model.architecture_, MLP)


# -- classifiers, images and other losses ------------------------------------------------------------------------


def classes():
    """X (90, 9), three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    return rng.normal(size=(90, 9)) + y[:, None] * np.linspace(-1, 1, 9), y


def classifier(**options):
    return LMClassifier(
        **{"hidden_layer_sizes": 3, "alpha": 1e-2, "random_state": 0, "max_iter": 6, "n_init": 1, **options}
    )


def images(kind, **options):
    architecture = CNN(conv_channels=(2,), kernel_size=2, stride=1, pooling="max", input_shape=(1, 3, 3))
    return kind(architecture=architecture, alpha=1e-2, random_state=0, max_iter=6, **options)


CLASSIFIERS = {
    "two classes": (classifier, lambda y: y == 1),
    "searched": (lambda: classifier(alpha="auto", relevance=[1.0] * 5 + [0.1] * 4), lambda y: y == 1),
    "names": (classifier, lambda y: np.array(["c", "a", "b"])[y]),
    "objects": (classifier, lambda y: np.array(["c", "a", "b"], dtype=object)[y]),
    "labels": (classifier, lambda y: np.c_[y == 1, y > 0].astype(int)),
    "options": (
        lambda: classifier(
            curvature="sampled", curvature_samples=2, label_smoothing=0.1, class_weight={0: 2.0}, early_stopping=True
        ),
        lambda y: y,
    ),
    "squared": (lambda: classifier(loss="squared_error"), lambda y: y),
    "images": (lambda: images(LMClassifier), lambda y: y),
}
REGRESSORS = {
    "images": lambda: images(LMRegressor),
    "counts": lambda: small(loss="poisson"),
    "counts of images": lambda: images(LMRegressor, loss=PoissonDeviance()),
    "loss with a parameter": lambda: small(loss=Quantile(0.8), alpha=1e-2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_copy_of_a_classifier_is_the_same_model(way, kind, tmp_path):
    X, y = classes()
    make, target = CLASSIFIERS[kind]
    model = make().fit(X, target(y))
    other = WAYS[way](model, tmp_path)
    assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    assert_array_equal(other.predict_log_proba(X), model.predict_log_proba(X))
    assert_array_equal(other.predict(X), model.predict(X))
    assert_array_equal(other.classes_, model.classes_)
    assert other.predict(X).dtype == model.predict(X).dtype
    assert other.classes_.dtype == model.classes_.dtype
    assert repr(other) == repr(model)
    outputs = model.to_module()(torch.tensor(X))
    assert_array_equal(other.to_module()(torch.tensor(X)).detach(), outputs.detach())
    assert_array_equal(other.fit(X, target(y)).theta_, model.theta_)
    if kind != "options":
        first = WAYS[way](model, tmp_path).partial_fit(X, target(y))
        assert_array_equal(first.theta_, copy.deepcopy(model).partial_fit(X, target(y)).theta_)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_copy_of_a_regressor_is_the_same_model(way, kind, tmp_path):
    X, y = classes()
    model = REGRESSORS[kind]().fit(X, y + 0.5)
    other = WAYS[way](model, tmp_path)
    assert_array_equal(other.predict(X), model.predict(X))
    assert repr(other) == repr(model)
    assert_array_equal(other.to_module()(torch.tensor(X)).detach(), model.to_module()(torch.tensor(X)).detach())
    stepped = WAYS[way](model, tmp_path).partial_fit(X, y + 0.5)
    assert_array_equal(stepped.theta_, copy.deepcopy(model).partial_fit(X, y + 0.5).theta_)


def test_skops_and_pickle_find_nothing_but_this_packages_types():
    X, y = classes()
    fitted = [make().fit(X, target(y)) for make, target in CLASSIFIERS.values()]
    fitted += [make().fit(X, y + 0.5) for make in REGRESSORS.values()]
    for model in fitted:
        untrusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
        assert untrusted
        assert [name for name in untrusted if not name.startswith("sklm.")] == []
        strings = {str(argument) for _, argument, _ in pickletools.genops(pickle.dumps(model))}
        assert not [text for text in strings if "torch" in text]


def test_a_pickled_classifier_does_not_grow_with_the_data():
    sizes = []
    for n in (90, 900):
        X, y = classes()
        X, y = np.tile(X, (n // 90, 1)), np.tile(y, n // 90)
        options = {"max_iter": 4, "tol": 0, "n_iter_no_change": 100, "growing": False, "early_stopping": True}
        sizes.append(len(pickle.dumps(classifier(**options).fit(X, y, np.ones(n)))))
    np.testing.assert_allclose(*sizes, atol=64)


def test_attributes_of_a_classifier_are_numpy_and_plain_python():
    X, y = classes()
    model = classifier(early_stopping=True).fit(X, y)
    kinds = {name: type(value) for name, value in vars(model).items() if name.endswith("_")}
    for name in ("loo_score_", "alpha_scores_", "relevance_"):  # early_stopping
        assert kinds.pop(name) is type(None)
    assert {kind for name, kind in kinds.items() if name != "architecture_"} <= {np.ndarray, float, int, str, bool}
