"""The engine computes the same whatever the caller has switched on, and leaves it switched on."""

import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from sklm.optim import SCALINGS, STRATEGIES, Geodesic, Growth, MiniBatches, Stopping, fit_growing, levenberg_marquardt
from sklm.optim._isolation import isolated

from ..problems import CURVE, NIST


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


MODES = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float32 by default": lambda: default_dtype(torch.float32),
    "float64 by default": lambda: default_dtype(torch.float64),
}


def perceptron(**options):
    solution = levenberg_marquardt(
        CURVE.problem(2, alpha=1e-3),
        CURVE.starts(2),
        acceleration=Geodesic(),
        stopping=Stopping(max_iter=15),
        **options,
    )
    return solution


def module():
    problem = NIST["Rat42"].problem()
    return levenberg_marquardt(
        problem,
        problem.network.start[None],
        acceleration=Geodesic(),
        scaling=SCALINGS["more"],
        solver="qr",
        stopping=Stopping(max_iter=8),
    )


def growing():
    growth = Growth(seed=0, rows_per_parameter=0.8, factor=2.0)
    return fit_growing(CURVE.problem(2), CURVE.starts(2), growth, damping=0.01, stopping=Stopping(max_iter=30))


FITS = {
    "perceptron": perceptron,
    **{name: lambda rule=rule: perceptron(strategy=rule()) for name, rule in STRATEGIES.items()},
    "mini-batches": lambda: perceptron(batches=MiniBatches(40, 10, seed=0)),
    "validation": lambda: perceptron(validation=CURVE.problem(2).take(np.arange(0, 40, 3))),
    "growing": growing,
    "module": module,
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mode", MODES)
def test_results_are_equal_in_every_mode(mode, fit):
    expected = FITS[fit]()
    with MODES[mode]():
        got = FITS[fit]()
    assert torch.equal(got.theta, expected.theta)
    assert torch.equal(got.damping, expected.damping)
    for name, curve in expected.history.items():
        np.testing.assert_array_equal(got.history[name], curve)


@pytest.mark.parametrize("mode", [*MODES, "plain"])
def test_results_can_be_worked_on_with_autograd(mode):
    with MODES.get(mode, nullcontext)():
        solution = perceptron()
    assert not solution.theta.requires_grad
    assert not solution.theta.is_inference()
    theta = solution.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(theta.square().sum(), theta)
    assert torch.equal(gradient, 2 * solution.theta)


def test_parameters_that_require_a_gradient_are_a_start_like_any_other():
    theta = CURVE.starts(2).requires_grad_()
    solution = levenberg_marquardt(CURVE.problem(2), theta, stopping=Stopping(max_iter=3))
    assert torch.equal(
        solution.theta,
        levenberg_marquardt(CURVE.problem(2), theta.detach(), stopping=Stopping(max_iter=3)).theta,
    )
    assert theta.grad is None


@pytest.mark.parametrize("fit", FITS)
def test_no_random_generator_is_touched(fit):
    before = torch.random.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    FITS[fit]()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("fit", ["perceptron", "module"])
def test_several_threads_compute_the_same(fit):
    expected, results = FITS[fit]().theta, []
    threads = [threading.Thread(target=lambda: results.append(FITS[fit]().theta)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(theta, expected) for theta in results)


def test_isolated_leaves_and_restores_modes():
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        with isolated(torch.device("cpu")):
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), isolated(torch.device("cpu"), inference=True):
        raise ZeroDivisionError
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_of_single_precision_are_not_shortened(precision):
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    exact, before = a @ a, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with isolated(torch.device("cpu")):
            assert torch.equal(a @ a, exact)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_comes_back_when_the_last_thread_is_done():
    torch.set_float32_matmul_precision("medium")
    try:
        first, second = isolated(torch.device("cpu")), isolated(torch.device("cpu"))
        a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
        short = a @ a
        results = []

        def other():
            with second:
                entered.set()
                left.wait()
                results.append(a @ a)

        entered, left = threading.Event(), threading.Event()
        thread = threading.Thread(target=other)
        with first:
            exact = a @ a
            thread.start()
            entered.wait()
        left.set()
        thread.join()
        assert torch.equal(results[0], exact)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.equal(a @ a, short)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="needs torch 2.9")
def test_an_inherited_precision_stays_inherited():
    code = """
import torch
from sklm.optim._isolation import isolated
places = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
torch.backends.fp32_precision = "tf32"
with isolated(torch.device("cpu")):
    assert [place.fp32_precision for place in places] == ["ieee"] * 2
assert [place.fp32_precision for place in places] == ["tf32"] * 2
torch.backends.fp32_precision = "ieee"
assert [place.fp32_precision for place in places] == ["ieee"] * 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)
