import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.architectures._mean import mean_of_mlps, penalties_of_members


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (3, 2, 4)])
@pytest.mark.parametrize("activation", ["tanh", "logistic", "relu"])
@pytest.mark.parametrize("n_members", [2, 4])
def test_the_wide_network_is_the_mean(sizes, activation, n_members):
    rng = np.random.default_rng(0)
    architecture = MLP(sizes, activation)
    network = architecture.build(3, 2)
    theta, X = rng.normal(size=(n_members, network.n_parameters)), torch.from_numpy(rng.normal(size=(3, 50)))
    wide, merged = mean_of_mlps(architecture, network, theta)
    assert (wide.hidden_layer_sizes, wide.activation) == (tuple(n_members * size for size in sizes), activation)
    outputs = wide.build(3, 2).forward(torch.from_numpy(merged[None]), X).outputs[0]
    members = [network.forward(torch.from_numpy(one[None]), X).outputs[0].numpy() for one in theta]
    np.testing.assert_allclose(outputs.numpy(), np.mean(members, axis=0), rtol=0, atol=1e-13)


def test_units_of_a_member_stay_together():
    architecture = MLP((2,))
    network = architecture.build(1, 1)
    _, merged = mean_of_mlps(architecture, network, np.array([[1.0, 2, 3, 4, 5, 6, 7], [11.0, 12, 13, 14, 15, 16, 17]]))
    np.testing.assert_array_equal(merged, [1, 2, 11, 12, 3, 4, 13, 14, 2.5, 3, 7.5, 8, 12])


@pytest.mark.parametrize("sizes", [(5,), (4, 3)])
def test_the_penalty_of_the_mean_is_the_mean_penalty(sizes):
    architecture = MLP(sizes)
    network = architecture.build(3, 2)
    theta = np.random.default_rng(0).normal(size=(4, network.n_parameters))
    wide, merged = mean_of_mlps(architecture, network, theta)
    built = wide.build(3, 2)
    found = penalties_of_members(built, 4) @ (built.coefficient_mask * merged**2)
    np.testing.assert_allclose(found, np.mean(theta**2 @ network.coefficient_mask), rtol=1e-12)
