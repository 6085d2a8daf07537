"""The caller's surroundings: equal results in all of them, and none is changed."""

import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import cross_val_score

from sklm import LMRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def surface(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(**options):
    return LMRegressor(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 8, "n_init": 1, **options})


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.ones(2, dtype=torch.float64, device="cpu"))

    def forward(self, X):
        return torch.sin(X @ self.a)


def module():
    return LMRegressor(architecture=Line(), random_state=0, max_iter=8)


MODELS = {
    "plain": small,
    "starts": lambda: small(n_init=3, alpha=1e-3),
    "automatic": lambda: small(n_init="auto"),
    "batches": lambda: small(batch_size=20),
    "early stopping": lambda: small(early_stopping=True),
    "qr": lambda: small(solver="qr", alpha=1e-3),
    "eigh": lambda: small(solver="eigh", alpha=1e-3),
    "dual": lambda: small(solver="dual", alpha=1e-3),
    "float32": lambda: small(dtype="float32"),
    "module": module,
}


def everything(make):
    """Use every public method once; return all numbers."""
    X, y = surface()
    model = make().fit(X, y)
    numbers = [model.theta_, model.loss_curve_, model.predict(X)]
    with torch.inference_mode(False):
        numbers += [p.detach().cpu().numpy().ravel() for p in model.to_module().parameters()]
    model.set_params(early_stopping=False).partial_fit(X, y)
    return np.concatenate([*numbers, model.theta_])


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def anomalies():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            yield


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float16 default": lambda: default_dtype(torch.float16),
    "float32 default": lambda: default_dtype(torch.float32),
    "float64 default": lambda: default_dtype(torch.float64),
    "meta default": lambda: torch.device("meta"),
    "errstate": lambda: np.errstate(all="raise"),
    "deterministic": deterministic,
    "matmul precision": matmul_precision,
    "anomalies": anomalies,
}


PAIRS = [
    (s, k) for s in SURROUNDINGS for k in MODELS if k in ("plain", "module", "dual") or s in ("autocast", "errstate")
]


@pytest.mark.parametrize(("surroundings", "kind"), PAIRS)
def test_results_do_not_depend_on_the_surroundings(surroundings, kind):
    expected = everything(MODELS[kind])
    with SURROUNDINGS[surroundings]():
        result = everything(MODELS[kind])
    assert_array_equal(result, expected)


def test_a_module_made_in_inference_mode():
    X, y = surface()
    with torch.inference_mode():
        module = torch.nn.Linear(2, 1)
        model = LMRegressor(architecture=module).fit(X, y)
    assert_allclose(model.predict(X), LMRegressor(()).fit(X, y).predict(X), atol=1e-6)


def test_the_seed_of_torch_and_numpy_does_not_matter():
    expected = everything(small)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    assert_array_equal(everything(small), expected)


def test_two_threads_of_torch_or_one():
    before = torch.get_num_threads()
    expected = everything(small)
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert_allclose(everything(small), expected, rtol=1e-6, atol=1e-8)
    finally:
        torch.set_num_threads(before)


# -- side effects ------------------------------------------------------------------------------------------------


def global_state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "python": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
        "errors": np.geterr(),
        "printing": np.get_printoptions(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
    }


@pytest.mark.parametrize(("surroundings", "kind"), [(None, k) for k in MODELS] + [p for p in PAIRS if p[1] != "dual"])
def test_nothing_global_is_changed(surroundings, kind):
    with SURROUNDINGS[surroundings]() if surroundings else nullcontext():
        before = global_state() if surroundings != "meta default" else None
        everything(MODELS[kind])
        if before is not None:
            before.pop("environment").pop("PYTEST_CURRENT_TEST", None)
            after = global_state()
            after.pop("environment").pop("PYTEST_CURRENT_TEST", None)
            assert after == before


class Fails(torch.nn.Module):
    """Raises in the middle of a fit."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, X):
        self.calls += 1
        if self.calls > 8:  # later than the probes before the fit
            raise RuntimeError("out of paper")
        return self.a * X[:, 0]


@pytest.mark.parametrize("surroundings", [None, "inference_mode", "autocast", "float16 default", "errstate"])
def test_nothing_global_is_changed_by_a_failed_fit(surroundings):
    X, y = surface()
    module = Fails()
    with pytest.raises(RuntimeError, match="out of paper"):  # torch.func imports sympy, which adds a warning filter
        LMRegressor(architecture=Fails()).fit(X, y)
    with SURROUNDINGS[surroundings]() if surroundings else nullcontext():
        before = global_state()
        with pytest.raises(RuntimeError, match="out of paper"):
            LMRegressor(architecture=module, random_state=0).fit(X, y)
        with pytest.raises(ValueError, match="NaN"):
            small().fit(X * np.nan, y)
        after = global_state()
        for state in (before, after):
            state.pop("environment")
        assert after == before


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_callers_arrays_are_neither_written_to_nor_kept(kind, dtype, order):
    X, y = surface()
    X = np.asarray(X, dtype=dtype, order=order)
    y = y.astype(dtype)
    weights = np.arange(60) % 3 + 0.5
    copies = X.copy(order="K"), y.copy(), weights.copy()
    model = MODELS[kind]().fit(X, y, weights)
    predicted = model.predict(X)
    model.set_params(early_stopping=False).partial_fit(X, y, weights)
    for array, old in zip((X, y, weights), copies, strict=True):
        assert_array_equal(array, old)
        assert array.flags.writeable
        assert array.flags.c_contiguous == old.flags.c_contiguous
        assert array.dtype == old.dtype
    fresh = MODELS[kind]().fit(X, y, weights)
    X[:] = y[:] = weights[:] = 0
    assert_array_equal(fresh.predict(copies[0]), predicted)


def test_parameters_are_not_written_to():
    model = small(early_stopping=False)  # as ``everything`` sets it
    before = model.get_params()
    everything(lambda: model)
    assert model.get_params() == before


def test_a_module_stays_in_its_mode_and_dtype():
    X, y = surface()
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.9), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = LMRegressor(architecture=net, max_iter=20).fit(X, y)
    assert net.training
    assert all(m.training for m in net)
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert_array_equal(model.predict(X), model.predict(X))  # no dropout in it


# -- several at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [4, 6])
@pytest.mark.parametrize("kind", ["plain", "starts", "batches", "module", "dual"])
def test_threads_at_once(n_threads, kind):
    expected = everything(MODELS[kind])
    with ThreadPoolExecutor(n_threads) as pool:
        results = list(pool.map(lambda _: everything(MODELS[kind]), range(2 * n_threads)))
    for result in results:
        assert_array_equal(result, expected)


def test_one_model_predicts_in_several_threads():
    X, y = surface(3000)
    model = small().fit(X, y)
    expected = model.predict(X)
    with ThreadPoolExecutor(6) as pool:
        for result in pool.map(lambda _: model.predict(X), range(24)):
            assert_array_equal(result, expected)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend):
    X, y = surface()
    expected = [small(random_state=seed).fit(X, y).theta_ for seed in range(4)]
    with joblib.parallel_config(backend=backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = joblib.Parallel(n_jobs=2)(joblib.delayed(small(random_state=seed).fit)(X, y) for seed in range(4))
        scores = cross_val_score(small(), X, y, n_jobs=2, cv=3)
        alone = cross_val_score(small(), X, y, cv=3)
    for model, theta in zip(models, expected, strict=True):
        assert_allclose(model.theta_, theta, rtol=1e-7, atol=1e-9)
    assert_allclose(scores, alone, rtol=1e-7)


SCRIPT = """
    import faulthandler, multiprocessing, os, sys, warnings
    import numpy as np
    import torch
    from sklm import LMRegressor

    warnings.simplefilter("ignore")

    def fit(n=3000):
        rng = np.random.default_rng(0)
        X = rng.uniform(-2, 2, size=(n, 2))
        y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2
        options = dict(random_state=0, max_iter=3, n_init=1, growing=False, alpha=1e-3)
        model = LMRegressor(20, **options).fit(X, y)
        return np.r_[model.theta_, model.predict(X)[:5], model.partial_fit(X, y).theta_]
"""


def run(body, timeout=120):
    script = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_after_fork(threads):
    result = run(f"""
        torch.set_num_threads({threads})
        before = fit()
        if os.fork() == 0:
            faulthandler.dump_traceback_later(10, exit=True)  # a hang becomes a traceback and exit status 1
            same = np.allclose(fit(), before, rtol=1e-7, atol=1e-9) and torch.get_num_threads() == {threads}
            os._exit(0 if same else 3)
        _, status = os.wait()
        again = np.array_equal(fit(), before)
        print(os.waitstatus_to_exitcode(status), again)
    """)
    assert result.stdout == "0 True\n", result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_predict_after_fork():
    result = run("""
        torch.set_num_threads(2)
        X = np.random.default_rng(0).uniform(-2, 2, size=(50000, 2))
        model = LMRegressor(20, random_state=0, max_iter=2, n_init=1, alpha=1e-3).fit(X[:3000], X[:3000, 0] ** 2)
        before = model.predict(X)
        if os.fork() == 0:
            faulthandler.dump_traceback_later(10, exit=True)
            same = np.allclose(model.predict(X), before) and bool(model.to_module()) and len(model.coefs_) == 2
            os._exit(0 if same else 3)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert result.stdout == "0\n", result.stderr


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_forked_workers_at_once():
    result = run("""
        torch.set_num_threads(2)
        before = fit()

        def work():
            sys.exit(0 if np.allclose(fit(), before, rtol=1e-7, atol=1e-9) else 3)

        workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(10)
        print([worker.exitcode for worker in workers])
        for worker in workers:
            worker.kill()  # None above: it hangs
    """)
    assert result.stdout == "[0, 0]\n", result.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_fresh_processes(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT)
        + textwrap.dedent(f"""
        if __name__ == "__main__":
            before = fit()
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                answers = pool.map_async(fit, [3000] * 2).get(timeout=100)
            print(all(np.allclose(answer, before, rtol=1e-7, atol=1e-9) for answer in answers))
    """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=150, check=False, env=environment
    )
    assert result.stdout == "True\n", result.stderr
