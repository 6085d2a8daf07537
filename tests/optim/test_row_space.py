"""The space of the rows against the matrix of the parameters."""

import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import LogisticLoss, SoftmaxCrossEntropy, SquaredError
from sklm.optim import make_problem
from sklm.optim._row_space import has_few_rows, row_space

from ..problems import tensor

LOSSES = {"squared": SquaredError(), "softmax": SoftmaxCrossEntropy(), "logistic": LogisticLoss()}


@pytest.mark.parametrize("max_rows", [None, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_against_the_inverse_and_determinant(name, max_rows):
    rng = np.random.default_rng(0)
    n_outputs = 1 if name == "logistic" else 3
    X, y = rng.normal(size=(12, 4)), np.eye(3)[rng.integers(0, 3, 12)][:, :n_outputs]
    network = MLP(8).build(4, n_outputs)
    weights = tensor(rng.uniform(0.5, 2, 12))
    problem = make_problem(
        network, LOSSES[name], tensor(X), tensor(y), n_models=2, weights=weights, jacobian_max_rows=max_rows
    )
    theta = tensor(rng.normal(size=(2, network.n_parameters)))
    precision = tensor(rng.uniform(0.1, 2, (2, network.n_parameters)))
    got = row_space(problem, theta, precision)
    assert has_few_rows(problem)
    for model in range(2):

        def outputs(flat):
            first, second = network.layers
            hidden = torch.tanh(tensor(X) @ flat[first.weight].view(8, 4).mT + flat[first.bias])
            return (hidden @ flat[second.weight].view(n_outputs, 8).mT + flat[second.bias]).mT

        f = outputs(theta[model])
        p = {"squared": None, "softmax": torch.softmax(f, 0), "logistic": torch.sigmoid(f)}[name]
        if name == "squared":
            curvature = torch.eye(3, dtype=f.dtype).expand(12, 3, 3) / 3
        elif name == "softmax":
            curvature = torch.diag_embed(p.T) - p.T[:, :, None] * p.T[:, None, :]
        else:
            curvature = (p * (1 - p)).T[:, :, None]
        curvature = curvature * (weights / weights.sum())[:, None, None]
        jacobian = torch.func.jacrev(outputs)(theta[model])  # (K, N, P)
        matrix = torch.diag(precision[model]) + torch.einsum("knp,nkl,lnq->pq", jacobian, curvature, jacobian)
        spread = torch.einsum("knp,pq,lnq->nkl", jacobian, torch.linalg.inv(matrix), jacobian)
        torch.testing.assert_close(got.spread[model], spread, rtol=1e-8, atol=1e-10)
        expected = torch.linalg.slogdet(matrix)[1]
        torch.testing.assert_close(got.log_determinant[model], expected, rtol=1e-9, atol=0)


def test_rows_times_outputs_are_counted():
    X, y = tensor(np.zeros((10, 2))), tensor(np.zeros((10, 3)))
    network = MLP(5).build(2, 3)  # 33 parameters
    assert has_few_rows(make_problem(network, SquaredError(), X, y))
    assert not has_few_rows(make_problem(network, SquaredError(), X.repeat(2, 1), y.repeat(2, 1)))
