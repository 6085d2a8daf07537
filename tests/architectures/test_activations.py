import math

import pytest
import torch

from sklm.architectures import ACTIVATIONS
from sklm.architectures._activations import MANY_PIECES, PIECE

from .. import reference
from ..problems import tensor

NAMES = sorted(ACTIVATIONS)

#: value, first and second derivative in the limits -1000, 0 and 1000
EXTREMES = {
    "tanh": [(-1, 0, 0), (0, 1, 0), (1, 0, 0)],
    "logistic": [(0, 0, 0), (0.5, 0.25, 0), (1, 0, 0)],
    "relu": [(0, 0, 0), (0, 0, 0), (1000, 1, 0)],
    "softplus": [(0, 0, 0), (math.log(2), 0.5, 0.25), (1000, 1, 0)],
    "elu": [(-1, 0, 0), (0, 1, 1), (1000, 1, 0)],
    "silu": [(0, 0, 0), (0, 0.5, 0.5), (1000, 1, 0)],
    "sin": [
        (-math.sin(1000), math.cos(1000), math.sin(1000)),
        (0, 1, 0),
        (math.sin(1000), math.cos(1000), -math.sin(1000)),
    ],
    "identity": [(-1000, 1, 0), (0, 1, 0), (1000, 1, 0)],
}


def evaluate(name: str, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, first and second derivative as the networks ask for them."""
    activation = ACTIVATIONS[name]
    z = z.clone()
    value = activation.value(z, torch.full_like(z, torch.nan) if activation.keeps_input else z)
    saved = z if activation.keeps_input else value
    first = activation.first(saved)
    return value, first, activation.second(saved, first)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_equal_autograd(name):
    z = tensor([-9.7, -3.1, -1.2, -0.3, -1e-3, 2e-3, 0.4, 1.3, 3.2, 8.9]).requires_grad_()
    value = reference.ACTIVATIONS[name](z)
    (first,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), z)
    for got, expected in zip(evaluate(name, z.detach()), (value, first, second), strict=True):
        torch.testing.assert_close(got, expected.detach(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_inputs(name, dtype):
    z = tensor([-1000, 0, 1000]).to(dtype)
    expected = tensor(EXTREMES[name]).T.to(dtype)
    for got, limit in zip(evaluate(name, z), expected, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, limit, rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 4e-16), (torch.float32, 3e-7)])
@pytest.mark.parametrize(("pieces", "fast"), [(0, True), (MANY_PIECES, True), (0, False)])
def test_tanh_is_that_of_torch_for_any_size_threads_and_processor(dtype, rtol, pieces, fast, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: MANY_PIECES)
    monkeypatch.setattr("sklm.architectures._activations.NUMPY_IS_FAST", fast)
    z = torch.randn(3 + PIECE * pieces, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    z[:3] = torch.tensor([1e-8, -torch.inf, torch.nan])
    expected = torch.tanh(z.double()).to(dtype)
    torch.testing.assert_close(ACTIVATIONS["tanh"].value(z, z), expected, rtol=rtol, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["softplus", "silu", "logistic"])
def test_small_tails_keep_their_digits(name):
    """Far to the left these are exp(z), z exp(z) and exp(z), not zero."""
    z = tensor([-45.0, -60.0])
    expected = z.exp() * (z if name == "silu" else 1)
    torch.testing.assert_close(evaluate(name, z)[0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_module_is_the_same_function(name):
    z = torch.linspace(-60, 60, 241, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name].module()(z), evaluate(name, z)[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_first_writes_into_out(name):
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    activation = ACTIVATIONS[name]
    saved = z if activation.keeps_input else activation.value(z.clone(), torch.empty_like(z))
    torch.testing.assert_close(activation.first(saved, torch.full_like(z, torch.nan)), activation.first(saved))


def test_every_activation_is_listed_under_its_name():
    assert set(EXTREMES) == set(ACTIVATIONS) == set(reference.ACTIVATIONS)
    assert all(activation.name == name for name, activation in ACTIVATIONS.items())
