import functools

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklm.architectures import ACTIVATIONS, MLP

from .. import reference
from ..problems import tensor
from .derivatives import LAYER_CHECKS, Setting
from .rescaling import affine, raw

N_SAMPLES, N_INPUTS = 5, 2
HIDDEN = [(), (4,), (3, 1), (3, 4, 2)]


@functools.cache
def setting(activation: str, hidden: tuple[int, ...], n_outputs: int, n_models: int, shared: bool) -> Setting:
    rng = np.random.default_rng(len(hidden) + 10 * n_outputs)
    network = MLP(hidden, activation).build(N_INPUTS, n_outputs)
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    direction = tensor(rng.normal(size=theta.shape))
    X = tensor(rng.normal(size=(N_INPUTS, N_SAMPLES) if shared else (n_models, N_INPUTS, N_SAMPLES)))
    return Setting.of(network, functools.partial(reference.perceptron, network.sizes, activation), theta, X, direction)


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


@pytest.mark.parametrize("check", LAYER_CHECKS)
@every_setting
def test_derivatives_equal_autograd(case, check):
    check(setting(*case))


def test_pullback_writes_into_any_strides():
    """The engine hands out a part of a larger buffer."""
    s = setting("tanh", (3, 4, 2), 3, 3, True)
    forward = s.network.forward(s.theta, s.X)
    cotangents = torch.eye(3, dtype=torch.float64)[None, :, :, None].expand(1, 3, 3, N_SAMPLES)
    buffer = torch.full((3, s.network.n_parameters + 2, 3, N_SAMPLES), torch.nan, dtype=torch.float64)
    s.network.pullback(s.theta, s.X, forward, cotangents, buffer[:, :-2])
    s.close(buffer[:, :-2], s.jacobian.permute(0, 3, 1, 2))
    assert buffer[:, -2:].isnan().all()


def test_inputs_and_parameters_are_not_written_to():
    s = setting("elu", (3, 4, 2), 3, 3, False)
    theta, X, cotangent = s.theta.clone(), s.X.clone(), torch.ones_like(s.outputs)
    forward = s.network.forward(theta, X)
    outputs = forward.outputs.clone()
    plain = torch.empty((3, s.network.n_parameters, 1, N_SAMPLES), dtype=torch.float64)
    s.network.pullback(theta, X, forward, cotangent.unsqueeze(2), plain)
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
