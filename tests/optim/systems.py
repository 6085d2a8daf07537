"""Small problems of every architecture and loss, and their systems from explicit rows and matrices."""

from __future__ import annotations

import numpy as np
import torch

from sklm.architectures import ACTIVATIONS, CNN, MLP
from sklm.losses import Huber, LogisticLoss, PoissonDeviance, SoftmaxCrossEntropy, SquaredError
from sklm.optim import make_problem
from sklm.optim._curvature import Workspace, linearise

from ..problems import tensor

N_MODELS, N_SAMPLES = 3, 9
DAMPING = tensor([1e-2, 0.1, 2.0])
ALPHA = tensor([0.0, 0.3, 1e-2])

MLPS = {
    "linear": MLP(()),
    "wide": MLP((7,)),
    "two": MLP((4, 3)),
    "three": MLP((3, 5, 2)),
    **{name: MLP((4, 3), name) for name in ACTIVATIONS},
}
CNNS = {
    "plain": CNN(conv_channels=3, kernel_size=2, stride=1, pooling=None, input_shape=(1, 4, 3)),
    "padded": CNN(conv_channels=(2, 3), kernel_size=3, stride=(1, 2), padding=1, pooling=None, input_shape=(1, 4, 3)),
    "pooled": CNN(
        conv_channels=(2, 3),
        kernel_size=2,
        stride=1,
        padding=1,
        pooling=("max", "average"),
        pool_size=2,
        input_shape=(1, 4, 3),
    ),
    "many filters": CNN(conv_channels=(16, 6), kernel_size=(6, 3), stride=(2, 1), pooling=None, input_shape=(1, 12)),
    "signal": CNN(conv_channels=(3, 2), kernel_size=3, stride=(2, 1), padding=1, pooling=None, input_shape=(2, 6)),
    "hidden": CNN(
        conv_channels=2, kernel_size=2, stride=1, pooling=None, hidden_layer_sizes=(4,), input_shape=(3, 2, 2)
    ),
}
LOSSES = {
    "squared": (SquaredError(), 1),
    "squared, 3": (SquaredError(), 3),
    "softmax": (SoftmaxCrossEntropy(), 3),
    "drawn": (SoftmaxCrossEntropy(curvature="sampled", curvature_samples=2), 3),
    "fisher": (SoftmaxCrossEntropy(curvature="fisher"), 3),
    "logistic": (LogisticLoss(), 1),
    "huber": (Huber(), 2),
    "poisson": (PoissonDeviance(), 1),
}


def make(architecture, loss="squared, 3", alpha=ALPHA, **options):
    """A problem of three models on nine samples, two of them without weight, and parameters."""
    rng = np.random.default_rng(5)
    loss, n_outputs = LOSSES[loss]
    y = rng.normal(size=(N_SAMPLES, n_outputs))
    if loss.target_scaling is None:
        y = np.eye(n_outputs)[rng.integers(0, 3, N_SAMPLES)] if n_outputs > 1 else (y > 0).astype(float)
    elif loss.non_negative:
        y = rng.poisson(2.0, y.shape).astype(float)
    weights = rng.uniform(0.5, 2, (N_MODELS, N_SAMPLES))
    weights[:, 2] = weights[1, 7] = 0
    network = architecture.build(12, n_outputs)
    X = tensor(rng.normal(size=(N_SAMPLES, 12)))
    problem = make_problem(
        network, loss, X, tensor(y), n_models=N_MODELS, weights=tensor(weights), alpha=alpha, **options
    )
    theta = tensor(0.4 * rng.normal(size=(N_MODELS, network.n_parameters)))
    return problem.with_noise([4]) if loss.n_draws else problem, theta


class Rows:
    """Collect the rows as they are."""

    def __init__(self):
        self.pieces = []

    def add(self, rows):
        self.pieces.append(rows.clone())

    def finish(self, theta, penalty, extra=None):
        return torch.cat(self.pieces, dim=2), torch.zeros_like(theta) if extra is None else extra


def explicit(problem, theta, scaling, damping, vector):
    """Step, solution for ``vector``, gradient and diagonal (B, P), and the quadratic form (B, 1), from matrices."""
    (rows, extra), _ = linearise(problem, theta, None, Rows(), Workspace())
    results = []
    for b in range(N_MODELS):
        jacobian, residual = rows[b, :-1].mT.numpy(), rows[b, -1].numpy()
        penalty = (problem.alpha[b] * problem.penalty_mask).numpy()
        gradient = jacobian.T @ residual + penalty * theta[b].numpy() + extra[b].numpy()
        matrix = jacobian.T @ jacobian + np.diag(penalty + damping[b].item() * scaling[b].numpy())
        step, solved = np.linalg.solve(matrix, np.stack([-gradient, vector[b].numpy()], 1)).T
        form = vector[b].numpy() @ matrix @ vector[b].numpy()
        results.append((step, solved, gradient, np.square(jacobian).sum(0), form[None]))
    return [tensor(np.stack(part)) for part in zip(*results, strict=True)]


def close(got, expected, tol=1e-10):
    scale = expected.abs().amax(1, keepdim=True)
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=tol)
