"""The estimators on a device that is not the CPU: the same models. It is simulated; CUDA where there is a GPU."""

import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sklm import CNN, LMClassifier, LMGridSearchCV, LMRegressor
from sklm.optim import _graph
from sklm.optim._isolation import isolated

from . import simulated

# fits are short on purpose; that graphs are not recorded would be a RuntimeWarning, and an error
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(params=["simulated", "cuda"])
def on_device(request, monkeypatch):
    """Return a function after which every fit is on the device."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        device = torch.device("cuda")
    else:
        device = simulated.DEVICE
        monkeypatch.setitem(_graph.GRAPHS, "sim", simulated.Graph)
        for name, module in list(sys.modules.items()):  # its tensors are no tensors of inference mode
            if name.startswith("sklm.") and getattr(module, "isolated", None) is isolated:
                monkeypatch.setattr(module, "isolated", lambda device, inference=False: isolated(device))
    owner = next(kind for kind in LMRegressor.__mro__ if "_make_device" in vars(kind))
    return lambda: monkeypatch.setattr(owner, "_make_device", lambda self, work: device)


def surface(n_samples, n_inputs, noise=0.1):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (n_samples, n_inputs))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] ** 2 + noise * rng.normal(size=n_samples)


def classes(n_classes):
    X, y = surface(150, 4)
    return X, np.digitize(y, np.linspace(-0.3, 0.5, n_classes - 1))


FIXED = {"alpha": 1e-3, "max_iter": 10, "random_state": 0}
REGRESSORS = {
    "default": {"random_state": 0, "max_iter": 20},
    "early stopping": {"random_state": 0, "early_stopping": True},
    "mini-batches": {**FIXED, "batch_size": 50},
    "alpha by folds": {**FIXED, "hidden_layer_sizes": 8, "alpha": "cv"},
    "dual": {**FIXED, "hidden_layer_sizes": (30, 30)},
    "cg": {**FIXED, "max_iter": 15, "solver": "cg"},
    "huber": {**FIXED, "hidden_layer_sizes": 8, "loss": "huber"},
    "adam": {**FIXED, "optimizer": "adam"},
    "lbfgs": {**FIXED, "optimizer": "lbfgs"},
    "momentum": {**FIXED, "acceleration": ["geodesic", "momentum"]},
    "in chunks": {**FIXED, "jacobian_max_rows": 50},
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name, on_device):
    X, y = surface(40 if name == "dual" else 120, 2)
    model = LMRegressor(**REGRESSORS[name])
    expected = model.fit(X, y).predict(X)
    on_device()
    # conjugate gradients look at the residual less often on a device, and end elsewhere within their tolerance
    assert_allclose(model.fit(X, y).predict(X), expected, rtol=1e-4, atol=0.03 if name == "cg" else 1e-5)


CLASSIFIERS = {
    "default": (2, {"random_state": 0, "max_iter": 8}),
    "three classes": (3, FIXED),
    "early stopping": (3, {**FIXED, "early_stopping": True}),
    "drawn curvature": (3, {**FIXED, "curvature": "sampled"}),
    "mini-batches": (3, {**FIXED, "batch_size": 50}),
    "images": (3, {**FIXED, "architecture": CNN((3,), kernel_size=2, input_shape=(1, 2, 2))}),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, on_device):
    n_classes, options = CLASSIFIERS[name]
    X, y = classes(n_classes)
    model = LMClassifier(**options)
    expected = model.fit(X, y).predict_proba(X)
    on_device()
    assert_allclose(model.fit(X, y).predict_proba(X), expected, atol=1e-5)


def test_single_precision(on_device):
    X, y = surface(120, 2)
    model = LMRegressor(8, dtype="float32", **FIXED)
    expected = model.fit(X, y).predict(X)
    on_device()
    assert_allclose(model.fit(X, y).predict(X), expected, atol=1e-3)


def test_many_fits_and_a_search(on_device):
    X, y = surface(90, 2)
    search = LMGridSearchCV(LMRegressor(6, max_iter=15, random_state=0), {"alpha": [1e-3, 1e-2]}, cv=3)
    expected = search.fit(X, y).cv_results_["mean_test_score"]
    on_device()
    assert_allclose(search.fit(X, y).cv_results_["mean_test_score"], expected, rtol=1e-5)
