"""Convolutional networks against torch.nn.functional and autograd."""

from __future__ import annotations

import functools
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor, nn

from sklm.architectures import ACTIVATIONS, CNN, Inputs, ModuleArchitecture, Network
from sklm.architectures._layers import POOLINGS
from sklm.losses import SquaredError
from sklm.optim import Stopping, levenberg_marquardt, make_problem
from sklm.optim._batch import select

from .. import reference
from ..problems import tensor
from .derivatives import LAYER_CHECKS, Setting, close, pullback
from .rescaling import affine, raw

N_SAMPLES, RTOL = 4, 1e-9


def options(**given: Any) -> dict:
    """All parameters of a CNN, one value a layer, from some of them."""
    channels = given["conv_channels"]
    full = {"kernel_size": 3, "stride": 1, "padding": 0, "pooling": None, "pool_size": 2} | given
    each = {
        name: full[name] if isinstance(full[name], tuple) else (full[name],) * len(channels)
        for name in ("kernel_size", "stride", "padding", "pooling", "pool_size")
    }
    rest = {"hidden_layer_sizes": full.get("hidden_layer_sizes", ()), "activation": full.get("activation", "tanh")}
    return {"conv_channels": channels, "input_shape": full["input_shape"]} | each | rest


CASES: dict[str, tuple[dict, int]] = {
    "one layer": (options(conv_channels=(3,), input_shape=(1, 5, 6)), 2),
    "stride 2": (options(conv_channels=(3, 2), kernel_size=(4, 2), stride=2, input_shape=(1, 11, 10)), 1),
    "stride 3, kernel smaller": (
        options(conv_channels=(2, 3), kernel_size=2, stride=(3, 2), input_shape=(1, 9, 11)),
        2,
    ),
    "stride 3, kernel larger": (
        options(conv_channels=(2, 3), kernel_size=(4, 3), stride=(3, 1), input_shape=(1, 14, 13)),
        1,
    ),
    "channels in": (options(conv_channels=(2, 3), kernel_size=2, input_shape=(3, 4, 5)), 3),
    "padding": (options(conv_channels=(2, 2, 1), stride=(2, 1, 3), padding=(1, 2, 1), input_shape=(2, 5, 4)), 2),
    "kernel 1": (options(conv_channels=(3, 2), kernel_size=1, stride=(1, 2), input_shape=(2, 3, 4)), 2),
    "whole image": (options(conv_channels=(3, 2), kernel_size=(4, 1), input_shape=(2, 4, 4)), 2),
    "many filters": (options(conv_channels=(9, 10), kernel_size=2, input_shape=(2, 4, 3)), 2),
    "max": (options(conv_channels=(3, 2), kernel_size=2, pooling="max", input_shape=(1, 8, 9)), 2),
    "average": (options(conv_channels=(3, 2), kernel_size=2, pooling="average", input_shape=(1, 8, 9)), 2),
    "mixed": (
        options(
            conv_channels=(2, 3, 2),
            kernel_size=(3, 2, 2),
            stride=(1, 1, 2),
            padding=(1, 0, 1),
            pooling=("max", None, "average"),
            pool_size=(3, 1, 2),
            input_shape=(2, 11, 10),
            hidden_layer_sizes=(3,),
        ),
        3,
    ),
    "hidden": (options(conv_channels=(2,), input_shape=(1, 4, 4), hidden_layer_sizes=(4, 3)), 2),
    "signal": (options(conv_channels=(3, 2), kernel_size=(4, 2), stride=2, padding=(0, 1), input_shape=(2, 11)), 2),
    "signal, pooled": (
        options(
            conv_channels=(3, 2), padding=1, pooling=("average", "max"), input_shape=(1, 13), activation="softplus"
        ),
        1,
    ),
    **{
        name: (
            options(conv_channels=(2, 2), kernel_size=2, pooling=("max", None), activation=name, input_shape=(1, 7, 6)),
            2,
        )
        for name in sorted(ACTIVATIONS)
    },
}


def convolutional(o: dict, n_outputs: int, X: Tensor) -> reference.Function:
    """``theta (P,) -> outputs (n, K)`` in torch's own layout, from the documented order of the parameters."""
    n_axes = len(o["input_shape"]) - 1
    convolve = F.conv1d if n_axes == 1 else F.conv2d
    pools = {"max": (F.max_pool1d, F.max_pool2d), "average": (F.avg_pool1d, F.avg_pool2d)}
    phi = reference.ACTIVATIONS[o["activation"]]

    def outputs(theta: Tensor) -> Tensor:
        a, rest = X.reshape(len(X), *o["input_shape"]), theta
        names = ("conv_channels", "kernel_size", "stride", "padding", "pooling", "pool_size")
        for channels, kernel, stride, padding, pooling, pool_size in zip(*(o[k] for k in names), strict=True):
            shape = (channels, *[kernel] * n_axes, a.shape[1])
            weight, rest = rest[: np.prod(shape)].reshape(shape).movedim(-1, 1), rest[np.prod(shape) :]
            bias, rest = rest[:channels], rest[channels:]
            a = phi(convolve(a, weight, bias, stride=stride, padding=padding))
            if pooling is not None:
                a = pools[pooling][n_axes - 1](a, pool_size)
        a = a.movedim(1, -1).flatten(1)
        sizes = [a.shape[1], *o["hidden_layer_sizes"], n_outputs]
        assert len(rest) == sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
        for number, units in enumerate(sizes[1:], 1):
            weight, rest = rest[: units * a.shape[1]].reshape(units, -1), rest[units * a.shape[1] :]
            a, rest = a @ weight.T + rest[:units], rest[units:]
            a = a if number == len(sizes) - 1 else phi(a)
        return a

    return outputs


@functools.cache
def setting(name: str, n_models: int, shared: bool) -> Setting:
    o, n_outputs = CASES[name]
    rng = np.random.default_rng(len(name))
    n_inputs = int(np.prod(o["input_shape"]))
    network = CNN(**o).build(n_inputs, n_outputs)
    theta = tensor(0.7 * rng.normal(size=(n_models, network.n_parameters)))
    direction = tensor(rng.normal(size=theta.shape))
    X = tensor(rng.normal(size=(N_SAMPLES, n_inputs) if shared else (n_models, N_SAMPLES, n_inputs)))
    X[..., 0, :] = 0.5  # ties of max pooling
    return Setting.of(network, functools.partial(convolutional, o, n_outputs), theta, X.mT, direction, RTOL)


every_setting = pytest.mark.parametrize(
    "case",
    [
        pytest.param((name, B, shared), id=f"{name}-B{B}-{'X' if shared else 'BX'}")
        for name in CASES
        for B in (1, 3)
        for shared in (True, False)
    ],
)


@pytest.mark.parametrize("check", LAYER_CHECKS)
@every_setting
def test_derivatives_equal_autograd(case, check):
    check(setting(*case))


@pytest.mark.parametrize("size", [(2, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize(("name", "oracle"), [("max", F.max_pool2d), ("average", F.avg_pool2d)])
def test_pooling_and_its_way_back(name, oracle, size):
    """On images of few different numbers, so that most maxima are ties."""
    rng = np.random.default_rng(0)
    images = tensor(rng.integers(0, 3, (2, 3, 7, 8, 2)))
    pooling = POOLINGS[name]((7, 8, 2), size)
    selected = pooling.select(images)
    got = pooling.pool(images, selected)
    plain = images.flatten(0, 1).movedim(-1, 1).requires_grad_()
    expected = oracle(plain, size)
    torch.testing.assert_close(got.flatten(0, 1).movedim(-1, 1), expected.detach(), rtol=1e-14, atol=0)
    assert got.shape[2:] == pooling.output_shape
    d = tensor(rng.normal(size=(2, 3, 2, *pooling.output_shape)))
    back = pooling.back(d, selected)
    for r in range(2):
        (below,) = torch.autograd.grad(expected, plain, d[:, :, r].flatten(0, 1).movedim(-1, 1), retain_graph=True)
        close(back[:, :, r].flatten(0, 1).movedim(-1, 1), below, RTOL)


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("case", [("mixed", 1, True), ("mixed", 3, True), ("max", 3, False)], ids=str)
def test_pullback_in_blocks_of_samples(case, rows, monkeypatch):
    monkeypatch.setattr("sklm.architectures._cnn_network.BLOCK_ROWS", rows)
    s = setting(*case)
    [(cotangents, expected)] = s.cotangents((len(s.theta), 2))
    s.close(pullback(s.network, s.theta, s.X, s.network.forward(s.theta, s.X), cotangents), expected)


@pytest.mark.parametrize("shared", [True, False], ids=["X", "BX"])
@pytest.mark.parametrize("name", ["mixed", "max", "silu", "signal"])
def test_models_can_be_selected_from_a_forward_pass(name, shared):
    s = setting(name, 3, shared)
    index = torch.tensor([2, 0])
    forward = select(s.network.forward(s.theta, s.X), index)
    theta, X = s.theta[index], s.X if shared else s.X[index]
    cotangents = tensor(np.random.default_rng(0).normal(size=(2, s.network.n_outputs, 2, N_SAMPLES)))
    expected = torch.einsum("bknp,bkrn->bprn", s.jacobian[index], cotangents)
    s.close(pullback(s.network, theta, X, forward, cotangents), expected)
    s.close(s.network.second_directional(theta, X, forward, s.direction[index]), s.bend[index])
    again = s.network.forward(theta, X, reuse=forward)
    s.close(pullback(s.network, theta, X, again, cotangents), expected)


@pytest.mark.parametrize("name", ["one layer", "mixed", "max", "silu", "whole image", "signal"])
def test_what_a_forward_pass_keeps_is_counted_and_has_the_model_axis(name):
    s = setting(name, 3, False)
    saved = s.network.forward(s.theta, s.X).saved
    parts = [part for field in fields(saved) for part in getattr(saved, field.name) if part is not None]
    assert all(len(part) == 3 for part in parts)
    kept = sum(part.nbytes for part in parts[len(s.network.layers) :]) / (3 * N_SAMPLES * 8)
    assert kept <= s.network.floats_per_row <= 1.5 * kept
    fewer = s.network.forward(s.theta, s.X, derivatives=False).saved
    assert not any(getattr(fewer, field.name) for field in fields(fewer))


@pytest.mark.parametrize("name", CASES)
def test_to_module_is_the_same_function(name):
    s = setting(name, 1, True)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        module = s.network.to_module(s.theta[0].numpy())
    assert torch.equal(torch.random.get_rng_state(), before)
    s.close(module(s.X.mT).detach().mT, s.outputs[0])
    assert all(p.requires_grad and p.dtype == torch.float64 for p in module.parameters())
    convolutions = sum(isinstance(part, nn.Conv1d | nn.Conv2d) for part in module)
    assert convolutions == len(CASES[name][0]["conv_channels"])


def test_nothing_is_written_to_the_arguments():
    s = setting("mixed", 3, True)
    theta, X, cotangent = s.theta.clone(), s.X.clone(), torch.ones_like(s.outputs)
    forward = s.network.forward(theta, X)
    outputs = forward.outputs.clone()
    for _ in range(2):
        s.close(pullback(s.network, theta, X, forward, cotangent.unsqueeze(2))[:, :, 0], s.jacobian.sum(1).mT)
        s.close(s.network.vjp(theta, X, forward, cotangent), s.jacobian.sum((1, 2)))
        s.close(s.network.second_directional(theta, X, forward, s.direction), s.bend)
    assert torch.equal(theta, s.theta)
    assert torch.equal(X, s.X)
    assert torch.equal(cotangent, torch.ones_like(cotangent))
    assert torch.equal(forward.outputs, outputs)


def test_single_precision():
    s = setting("mixed", 1, True)
    theta, X = s.theta.float(), s.X.float()
    forward = s.network.forward(theta, X)
    torch.testing.assert_close(forward.outputs, s.outputs.float(), rtol=1e-4, atol=1e-4)
    gradient = s.network.vjp(theta, X, forward, torch.ones_like(forward.outputs))
    torch.testing.assert_close(gradient, s.jacobian.sum((1, 2)).float(), rtol=1e-4, atol=1e-4)


@every_setting
def test_single_precision_without_derivatives(case):
    s = setting(*case)
    outputs = s.network.forward(s.theta.float(), s.X.float(), derivatives=False).outputs
    assert outputs.shape == s.outputs.shape
    torch.testing.assert_close(outputs, s.outputs.float(), rtol=1e-4, atol=1e-4)


def test_parameters_are_counted_and_only_weights_penalised():
    network = CNN((2, 1), kernel_size=2, stride=1, input_shape=(1, 3, 4), hidden_layer_sizes=3).build(12, 1)
    expected = [True] * 8 + [False] * 2 + [True] * 8 + [False] + [True] * 6 + [False] * 3 + [True] * 3 + [False]
    assert network.n_parameters == len(expected)
    assert network.coefficient_mask.tolist() == expected
    five = CNN((8, 4, 4, 4, 4), kernel_size=(4, 4, 2, 2, 2), stride=(2, 2, 1, 1, 1))
    assert five.build(784, 10).n_parameters == 1026


def test_input_groups_are_the_channels():
    assert CNN(input_shape=(3, 2, 2)).input_groups(12).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert CNN(input_shape=(2, 3)).input_groups(6).tolist() == [0] * 3 + [1] * 3
    with pytest.raises(ValueError, match="rows of 6 numbers, but X has 7"):
        CNN(input_shape=(2, 3)).input_groups(7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_shape": (1, 28, 27)}, "rows of 756 numbers, but X has 784 columns"),
        ({"input_shape": (784,)}, r"\(channels, height, width\) or \(channels, length\)"),
        ({"input_shape": (1, 28.0, 28)}, "input_shape must be integers of at least 1"),
        ({"input_shape": (-1, -28, 28)}, "input_shape must be integers of at least 1"),
        ({"conv_channels": ()}, "at least one layer"),
        ({"conv_channels": (8, 0)}, "conv_channels must be integers of at least 1"),
        ({"conv_channels": (8, True)}, "conv_channels must be integers"),
        ({"kernel_size": 2.5}, "kernel_size must be integers"),
        ({"kernel_size": (4, 4, 2)}, "kernel_size has 3 values, but conv_channels makes 2 layers"),
        ({"kernel_size": ((4, 4), (4, 4))}, "kernel_size must be integers"),
        ({"stride": 0}, "stride must be integers of at least 1"),
        ({"stride": ()}, "stride has 0 values"),
        ({"padding": -1}, "padding must be integers of at least 0"),
        ({"padding": True}, "padding must be integers"),
        ({"pool_size": (2, "2")}, "pool_size must be integers"),
        ({"pooling": "mean"}, r"pooling must be None or one of \['average', 'max'\].*'mean'"),
        ({"pooling": ("max", 2)}, "pooling must be None or one of"),
        ({"pooling": ("max", None, "max")}, "pooling has 3 values"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be integers of at least 1"),
        ({"activation": "Elu"}, r"activation must be one of .*softplus.*'Elu'"),
        ({"conv_channels": (8, 4, 4, 4)}, r"layer 4: kernel_size=4 does not fit its 1 x 1 input; use fewer layers"),
        ({"kernel_size": 29}, "layer 1: kernel_size=29 does not fit its 28 x 28 input"),
        ({"pooling": "max", "pool_size": (2, 6)}, "layer 2: pool_size=6 does not fit its 2 x 2 output"),
        (
            {"input_shape": (2, 392), "kernel_size": 393},
            "layer 1: kernel_size=393 does not fit its input of length 392",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(given, message):
    if given.get("conv_channels") == (8, 4, 4, 4):
        given = given | {"kernel_size": (4, 4, 4, 4), "stride": (2, 2, 2, 1)}
        given["input_shape"] = (1, 28, 28)
    with pytest.raises(ValueError, match=message):
        CNN(**given).build(784, 10)


def test_parameters_of_the_architecture():
    cnn = CNN((3,), pooling="max")
    assert cnn.get_params() == {
        "conv_channels": (3,),
        "kernel_size": 4,
        "stride": 2,
        "padding": 0,
        "pooling": "max",
        "pool_size": 2,
        "hidden_layer_sizes": (),
        "activation": "elu",
        "input_shape": (1, 28, 28),
    }
    assert clone(cnn) == cnn
    assert eval(repr(cnn), {"CNN": CNN}) == cnn
    assert cnn.set_params(kernel_size=3) is cnn
    assert cnn.kernel_size == 3
    with pytest.raises(ValueError, match="Invalid parameter 'channels'"):
        cnn.set_params(channels=3)


@pytest.mark.parametrize("sequence", [(4, 2), [4, 2], np.array([4, 2])])
def test_sequences_of_any_kind(sequence):
    network = CNN(sequence, kernel_size=sequence, pooling=["max", None], input_shape=np.array([1, 28, 28])).build(
        784, 1
    )
    assert [layer.n_filters for layer in network.layers] == [4, 2, 1]


@pytest.mark.parametrize("init", ["auto", "uniform", "glorot", "normal"])
def test_starts(init):
    architecture = CNN((6, 4), input_shape=(2, 20, 20), hidden_layer_sizes=(5,))
    network = architecture.build(800, 3)
    inputs = Inputs.of(np.zeros((3, 800)))

    def draw(n_init):
        return architecture.starts(network, init, inputs, [np.random.default_rng([7, k]) for k in range(n_init)])

    many = draw(20)
    assert many.shape == (20, network.n_parameters)
    assert many.dtype == np.float64
    np.testing.assert_array_equal(many[:2], draw(2))
    for layer, fan_in, fan_out in zip(network.layers, (32, 96, 36, 5), (6, 4, 5, 3), strict=True):
        spread = {"glorot": np.sqrt(2 / (fan_in + fan_out)), "normal": 1 / np.sqrt(fan_in)}
        expected = spread.get(init, 1 / np.sqrt(3 * fan_in))
        assert many[:, layer.weight].std() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("init", ["nguyen_widrow", "data", "he", None])
def test_other_starts_are_refused_with_the_possible_ones(init):
    architecture = CNN((2,), input_shape=(1, 4, 4))
    with pytest.raises(ValueError, match=r"init must be 'auto' or one of \['glorot', 'normal', 'uniform'\]"):
        architecture.starts(architecture.build(16, 1), init, Inputs.of(np.zeros((2, 16))), [np.random.default_rng(0)])


def by_channel(mean: list, scale: list, n_pixels: int) -> SimpleNamespace:
    return affine(np.repeat(mean, n_pixels), np.repeat(scale, n_pixels))


@pytest.mark.parametrize("padding", [0, 1])
def test_rescale_keeps_the_raw_function(padding):
    """With padding, whose zeros are standardised, where the means stay."""
    rng = np.random.default_rng(0)
    network = CNN((3,), kernel_size=3, padding=padding, input_shape=(2, 5, 4)).build(40, 2)
    theta, X = rng.normal(size=network.n_parameters), rng.normal(100, 20, size=(6, 40))
    old_x = by_channel([90, 80], [10, 3], 20)
    new_x = by_channel([90, 80] if padding else [110, -50], [0.5, 40], 20)
    old_y, new_y = affine([1, 2], [1, 10]), affine([-5, 0], [3, 0.2])
    rescaled = network.rescale(theta, old_x, new_x, old_y, new_y)
    expected = raw(network, theta, X, old_x, old_y)
    np.testing.assert_allclose(raw(network, rescaled, X, new_x, new_y), expected, rtol=1e-9)


def test_rescale_with_padding_is_exact_away_from_the_border():
    rng = np.random.default_rng(0)
    padded = CNN((1,), kernel_size=3, stride=1, padding=1, input_shape=(1, 6, 6)).build(36, 1)
    theta, X = rng.normal(size=padded.n_parameters), rng.normal(5, 2, size=(4, 36))
    inner = np.zeros((6, 6), dtype=bool)
    inner[1:-1, 1:-1] = True
    theta[padded.layers[-1].weight] *= inner.ravel()
    old, new, y = by_channel([5], [2], 36), by_channel([7], [3], 36), affine([0], [1])
    rescaled = padded.rescale(theta, old, new, y, y)
    np.testing.assert_allclose(raw(padded, rescaled, X, new, y), raw(padded, theta, X, old, y), rtol=1e-9)


def test_rescale_with_a_constant_channel():
    rng = np.random.default_rng(0)
    network = CNN((3,), kernel_size=2, input_shape=(2, 4, 4)).build(32, 1)
    theta, X = rng.normal(size=network.n_parameters), rng.normal(size=(6, 32))
    X[:, 16:] = 3.5
    old, new, y = by_channel([0, 1], [2, 3], 16), by_channel([1, 3.5], [1, 0], 16), affine([0], [1])
    rescaled = network.rescale(theta, old, new, y, y)
    np.testing.assert_allclose(raw(network, rescaled, X, new, y), raw(network, theta, X, old, y), rtol=1e-9)


def test_rescale_refuses_different_scalings_within_a_channel():
    network = CNN((3,), kernel_size=2, input_shape=(1, 4, 4)).build(16, 1)
    x, y = affine(np.arange(16), np.ones(16)), affine([0], [1])
    with pytest.raises(ValueError, match="one scaling"):
        network.rescale(np.ones(network.n_parameters), by_channel([0], [1], 16), x, y, y)


def test_fit_equals_that_of_the_same_torch_module():
    """The whole engine on both: every objective of the run, and the parameters."""
    rng = np.random.default_rng(3)
    architecture = CNN((3, 2), kernel_size=2, stride=(2, 1), pooling=(None, "average"), input_shape=(1, 8, 8))
    network = architecture.build(64, 2)
    rows = rng.normal(size=(40, 64))
    X, y = tensor(rows), tensor(np.stack([np.sin(rows[:, :32].sum(1) / 6), rows[:, 10] * rows[:, 11]], axis=1))
    theta = 0.5 * rng.normal(size=network.n_parameters)
    module = ModuleArchitecture(network.to_module(theta)).build(64, 2)

    def fit(net: Network, start: Tensor) -> tuple[np.ndarray, list[float]]:
        objectives: list[float] = []
        solution = levenberg_marquardt(
            make_problem(net, SquaredError(), X, y, alpha=1e-3, jacobian_max_rows=17),
            start[None],
            damping=1e-2,
            solver="cholesky",
            stopping=Stopping(max_iter=12),
            callback=lambda progress: objectives.append(float(progress.state.objective[0])),
        )
        return solution.theta[0].numpy(), objectives

    got, objectives = fit(network, tensor(theta))
    expected, same_objectives = fit(module, module.start)
    assert len(objectives) == 12
    assert objectives[-1] < 0.5 * objectives[0]
    np.testing.assert_allclose(objectives, same_objectives, rtol=1e-8)
    modules = network.to_module(got), module.to_module(expected)
    for ours, theirs in zip(*(part.parameters() for part in modules), strict=True):
        close(ours.detach(), theirs.detach(), RTOL)
