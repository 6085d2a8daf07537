import functools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor

from sklm.architectures import ACTIVATIONS, MLP, MLPNetwork, Network

from .. import reference
from ..problems import tensor

N_SAMPLES, N_INPUTS = 5, 2
HIDDEN = [(), (4,), (3, 1), (3, 4, 2)]


@dataclass
class Setting:
    """A network, its inputs, and autograd's derivatives of it, model by model."""

    network: MLPNetwork
    theta: Tensor
    X: Tensor
    direction: Tensor
    outputs: Tensor
    jacobian: Tensor
    bend: Tensor


@functools.cache
def setting(activation: str, hidden: tuple[int, ...], n_outputs: int, n_models: int, shared: bool) -> Setting:
    rng = np.random.default_rng(len(hidden) + 10 * n_outputs)
    network = MLP(hidden, activation).build(N_INPUTS, n_outputs)
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    direction = tensor(rng.normal(size=theta.shape))
    X = tensor(rng.normal(size=(N_INPUTS, N_SAMPLES) if shared else (n_models, N_INPUTS, N_SAMPLES)))
    parts = []
    for model in range(n_models):
        rows = X.mT if shared else X[model].mT
        function = reference.perceptron(network.sizes, activation, rows)
        parts.append(
            (
                function(theta[model]).mT,
                reference.jacobian(function, theta[model]).transpose(0, 1),
                reference.bend(function, theta[model], direction[model]).mT,
            )
        )
    outputs, jacobian, bend = (torch.stack(part) for part in zip(*parts, strict=True))
    return Setting(network, theta, X, direction, outputs, jacobian, bend)


def close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def pullback(network: Network, theta: Tensor, X: Tensor, forward: object, cotangents: Tensor) -> Tensor:
    out = torch.full((len(theta), network.n_parameters, *cotangents.shape[2:]), torch.nan, dtype=theta.dtype)
    network.pullback(theta, X, forward, cotangents, out)
    return out


every_setting = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            (activation, hidden, K, B, shared), id=f"{activation}-{hidden}-K{K}-B{B}-{'X' if shared else 'BX'}"
        )
        for activation in sorted(ACTIVATIONS)
        for hidden in HIDDEN
        for K in (1, 3)
        for B in (1, 3)
        for shared in (True, False)
    ],
)


@every_setting
def test_forward(case):
    s = setting(*case)
    close(s.network.forward(s.theta, s.X).outputs, s.outputs)
    close(s.network.forward(s.theta, s.X, derivatives=False).outputs, s.outputs)


@every_setting
def test_pullback(case):
    """Cotangents of one column (a loss gradient), of R = K, and one set for all models."""
    s = setting(*case)
    forward = s.network.forward(s.theta, s.X)
    n_models, n_outputs = s.outputs.shape[:2]
    rng = np.random.default_rng(0)
    for shape in ((n_models, n_outputs, 1), (n_models, n_outputs, n_outputs), (1, n_outputs, n_outputs)):
        cotangents = tensor(rng.normal(size=(*shape, N_SAMPLES)))
        expected = torch.einsum("bknp,bkrn->bprn", s.jacobian, cotangents.expand(n_models, -1, -1, -1))
        close(pullback(s.network, s.theta, s.X, forward, cotangents), expected)


@every_setting
def test_vjp(case):
    s = setting(*case)
    cotangent = tensor(np.random.default_rng(0).normal(size=s.outputs.shape))
    expected = torch.einsum("bknp,bkn->bp", s.jacobian, cotangent)
    close(s.network.vjp(s.theta, s.X, s.network.forward(s.theta, s.X), cotangent), expected)


@every_setting
def test_jvp(case):
    s = setting(*case)
    expected = torch.einsum("bknp,bp->bkn", s.jacobian, s.direction)
    close(s.network.jvp(s.theta, s.X, s.network.forward(s.theta, s.X), s.direction), expected)


@every_setting
def test_layer_factors_multiply_out_to_the_rows(case):
    s = setting(*case)
    forward = s.network.forward(s.theta, s.X)
    n_models, n_outputs = s.outputs.shape[:2]
    rng = np.random.default_rng(0)
    for first, n_columns in ((n_models, 1), (n_models, 2), (1, n_outputs)):
        cotangents = tensor(rng.normal(size=(first, n_outputs, n_columns, N_SAMPLES)))
        layers = list(s.network.layer_factors(s.theta, s.X, forward, cotangents))
        expected = torch.einsum("bknp,bkrn->bprn", s.jacobian, cotangents.expand(n_models, -1, -1, -1))
        close(reference.multiplied_out(layers, s.network.n_parameters), expected)
        floats = sum(layer.inputs[0, 0].numel() + layer.cotangents[0, 0, 0].numel() for layer in layers)
        assert floats == s.network.layer_floats
        assert all(s.network.coefficient_mask[layer.weight].all() for layer in layers)
        assert not any(s.network.coefficient_mask[layer.bias].any() for layer in layers)


@every_setting
def test_second_directional(case):
    s = setting(*case)
    close(s.network.second_directional(s.theta, s.X, s.network.forward(s.theta, s.X), s.direction), s.bend)


@every_setting
def test_reuse_of_an_old_forward_pass_changes_nothing(case):
    s = setting(*case)
    old = s.network.forward(3 * s.theta + 1, s.X)
    new = s.network.forward(s.theta, s.X, reuse=old)
    torch.testing.assert_close(new.outputs, s.network.forward(s.theta, s.X).outputs, rtol=0, atol=0)
    cotangent = torch.ones_like(s.outputs)
    close(s.network.vjp(s.theta, s.X, new, cotangent), s.jacobian.sum((1, 2)))
    close(s.network.second_directional(s.theta, s.X, new, s.direction), s.bend)


def test_pullback_writes_into_any_strides():
    """The engine hands out a part of a larger buffer."""
    s = setting("tanh", (3, 4, 2), 3, 3, True)
    forward = s.network.forward(s.theta, s.X)
    cotangents = torch.eye(3, dtype=torch.float64)[None, :, :, None].expand(1, 3, 3, N_SAMPLES)
    buffer = torch.full((3, s.network.n_parameters + 2, 3, N_SAMPLES), torch.nan, dtype=torch.float64)
    s.network.pullback(s.theta, s.X, forward, cotangents, buffer[:, :-2])
    close(buffer[:, :-2], s.jacobian.permute(0, 3, 1, 2))
    assert buffer[:, -2:].isnan().all()


def test_inputs_and_parameters_are_not_written_to():
    s = setting("elu", (3, 4, 2), 3, 3, False)
    theta, X, cotangent = s.theta.clone(), s.X.clone(), torch.ones_like(s.outputs)
    forward = s.network.forward(theta, X)
    outputs = forward.outputs.clone()
    pullback(s.network, theta, X, forward, cotangent.unsqueeze(2))
    s.network.vjp(theta, X, forward, cotangent)
    s.network.second_directional(theta, X, forward, s.direction)
    assert torch.equal(theta, s.theta)
    assert torch.equal(X, s.X)
    assert torch.equal(cotangent, torch.ones_like(cotangent))
    assert torch.equal(forward.outputs, outputs)


def test_parameters_are_counted_and_only_weights_penalised():
    network = MLP((4, 3)).build(2, 1)
    expected = [True] * 8 + [False] * 4 + [True] * 12 + [False] * 3 + [True] * 3 + [False]
    assert network.n_parameters == len(expected)
    assert network.coefficient_mask.tolist() == expected


@pytest.mark.parametrize("hidden", [(3,), [3], np.array([3]), 3, np.int64(3)])
def test_hidden_layer_sizes_may_be_any_sequence_or_a_number(hidden):
    assert MLP(hidden).build(2, 1).n_parameters == 13


@pytest.mark.parametrize("hidden", [(0,), (3, -1), (2.5,), ("4",), (True,)])
def test_impossible_layer_sizes_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden_layer_sizes must be positive integers"):
        MLP(hidden).build(2, 1)


@pytest.mark.parametrize("activation", ["Tanh", "", None, torch.tanh])
def test_unknown_activations_are_refused_with_the_known_ones(activation):
    with pytest.raises(ValueError, match=r"activation must be one of .*softplus"):
        MLP((3,), activation).build(2, 1)


def test_parameters_of_the_architecture():
    mlp = MLP((5, 2), activation="sin")
    assert mlp.get_params() == {"hidden_layer_sizes": (5, 2), "activation": "sin"}
    copy = clone(mlp)
    assert copy is not mlp
    assert copy == mlp
    assert mlp.set_params(activation="elu") is mlp
    assert mlp != copy
    assert repr(mlp) == "MLP(hidden_layer_sizes=(5, 2), activation='elu')"
    assert eval(repr(mlp), {"MLP": MLP}) == mlp
    with pytest.raises(ValueError, match="Invalid parameter 'hidden'"):
        mlp.set_params(hidden=3)


def affine(mean: list[float], scale: list[float]) -> SimpleNamespace:
    mean, scale = np.array(mean, dtype=float), np.array(scale, dtype=float)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return SimpleNamespace(mean=mean, scale=scale, inverse=inverse)


def raw(network: Network, theta: np.ndarray, X: np.ndarray, x: SimpleNamespace, y: SimpleNamespace) -> np.ndarray:
    """The function of raw inputs in raw units."""
    inputs = tensor(((X - x.mean) * x.inverse).T)
    return network.forward(tensor(theta)[None], inputs).outputs[0].mT.numpy() * y.scale + y.mean


@pytest.mark.parametrize("hidden", HIDDEN)
def test_rescale_keeps_the_raw_function(hidden):
    rng = np.random.default_rng(0)
    network = MLP(hidden).build(2, 3)
    theta, X = rng.normal(size=network.n_parameters), rng.normal(100, 20, size=(6, 2))
    old_x, new_x = affine([90, 80], [10, 3]), affine([110, -50], [0.5, 40])
    old_y, new_y = affine([1, 2, 3], [1, 10, 100]), affine([-5, 0, 8], [3, 1, 0.2])
    rescaled = network.rescale(theta, old_x, new_x, old_y, new_y)
    expected = raw(network, theta, X, old_x, old_y)
    np.testing.assert_allclose(raw(network, rescaled, X, new_x, new_y), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [(([0, 1], [2, 3]), ([1, 3.5], [1, 0])), (([0, 3.5], [2, 0]), ([1, -1], [1, 5]))],
    ids=["becomes constant", "was constant"],
)
def test_rescale_with_a_constant_column(old, new):
    """A column of zero scale is left out, and the function is kept wherever it was defined by the data."""
    rng = np.random.default_rng(0)
    network = MLP((4,)).build(2, 1)
    theta, X = rng.normal(size=network.n_parameters), rng.normal(size=(6, 2))
    old, new, y = affine(*old), affine(*new), affine([0], [1])
    if new.scale[1] == 0:
        X[:, 1] = 3.5
    rescaled = network.rescale(theta, old, new, y, y)
    np.testing.assert_allclose(raw(network, rescaled, X, new, y), raw(network, theta, X, old, y), rtol=1e-12)


def test_rescale_does_not_write_to_its_arguments():
    network = MLP((4,)).build(1, 1)
    theta = np.ones(network.n_parameters)
    network.rescale(theta, affine([0], [1]), affine([5], [2]), affine([0], [1]), affine([7], [3]))
    assert (theta == 1).all()
