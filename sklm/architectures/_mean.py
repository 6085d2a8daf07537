"""The mean of several perceptrons as one."""

from __future__ import annotations

import numpy as np

from ._mlp import MLP, MLPNetwork


def mean_of_mlps(architecture: MLP, network: MLPNetwork, theta: np.ndarray) -> tuple[MLP, np.ndarray]:
    """Return the MLP, and its parameters, whose outputs are the mean of those of M equal ones.

    Parameters
    ----------
    architecture : MLP
    network : MLPNetwork
        What it builds for the inputs and outputs.
    theta : (M, P) ndarray
        Parameters of the M.

    Returns
    -------
    architecture : MLP
        Every hidden layer has M times as many units: those of the first of the M, then those of the second, and so on.
    theta : (Q,) ndarray
        No unit sees those of another of the M; the output weights are a M-th of theirs.
    """
    n_members = len(theta)
    wide = MLP(tuple(n_members * size for size in network.sizes[1:-1]), architecture.activation)
    built = wide.build(network.sizes[0], network.n_outputs)
    result = np.zeros(built.n_parameters)
    for index, (old, new) in enumerate(zip(network.layers, built.layers, strict=True)):
        weights, biases = theta[:, old.weight].reshape(n_members, old.fan_out, old.fan_in), theta[:, old.bias]
        if index == network.last:
            result[new.weight] = np.concatenate(weights, axis=1).ravel() / n_members
            result[new.bias] = biases.mean(axis=0)
            break
        result[new.bias] = biases.ravel()
        if index == 0:
            result[new.weight] = weights.ravel()
            continue
        blocks = np.zeros((n_members, old.fan_out, n_members, old.fan_in))
        blocks[np.arange(n_members), :, np.arange(n_members)] = weights
        result[new.weight] = blocks.ravel()
    return wide, result


def penalties_of_members(network: MLPNetwork, n_members: int) -> np.ndarray:
    """Factors (Q,) of the penalty of each parameter of a mean, with which it is the mean of the members' penalties."""
    result = np.full(network.n_parameters, 1 / n_members)
    result[network.layers[-1].weight] = n_members
    return result
