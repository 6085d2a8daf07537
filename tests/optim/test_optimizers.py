"""Adam and SGD, step by step as torch.optim takes them on an autograd copy of the network."""

import numpy as np
import pytest
import torch

from sklm.optim import SGD, Adam, MiniBatches, Status, Stopping, gradient_descent

from .. import reference
from ..problems import CURVE, PLANE, SURFACE, tensor

RIVALS = {
    "adam": (Adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
    "adam, other decay": (
        Adam(0.3, (0.5, 0.6), 1e-2),
        lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.5, 0.6), eps=1e-2),
    ),
    "sgd": (SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "heavy ball": (SGD(0.05, 0.8, False), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "plain": (SGD(0.1, 0.0, False), lambda p: torch.optim.SGD(p, lr=0.1)),
}


def paths(case, optimizer, n_models, n_iter, problem=None, batches=None):
    """Iterates (n_iter, B, P)."""
    seen = []
    gradient_descent(
        case.problem(n_models) if problem is None else problem,
        case.starts(n_models),
        optimizer=optimizer,
        batches=batches,
        stopping=Stopping(max_iter=n_iter, tol=0.0, n_iter_no_change=n_iter),
        callback=lambda progress: seen.append(progress.state.theta.clone()),
    )
    return torch.stack(seen)


def autograd_path(case, build, start, index, alpha=0.0, weights=None):
    """Iterates (steps, P) of a torch optimizer for row numbers ``index``, one list a step; ``weights`` (N,)."""
    X, y = case.data()
    weights = torch.ones(len(X), dtype=torch.float64) if weights is None else weights
    mask = tensor(case.network().coefficient_mask)
    theta = start.clone().requires_grad_()
    optimizer, result = build([theta]), []
    for rows in index:
        function = reference.perceptron(case.network().sizes, case.activation, X[rows])
        optimizer.zero_grad()
        loss = (function(theta) - y[rows]).square().mean(1) @ weights[rows] / (2 * len(rows) * weights.mean())
        (loss + 0.5 * alpha * (theta.square() @ mask)).backward()
        optimizer.step()
        result.append(theta.detach().clone())
    return torch.stack(result)


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("case", [CURVE, SURFACE], ids=str)
def test_first_steps_are_torchs(case, name):
    optimizer, build = RIVALS[name]
    got = paths(case, optimizer, 2, 30)
    for model in range(2):
        expected = autograd_path(case, build, case.starts(2)[model], [np.arange(case.n_samples)] * 30)
        torch.testing.assert_close(got[:, model], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_epochs_of_mini_batches_are_torchs(name):
    optimizer, build = RIVALS[name]
    weights, alpha = tensor(np.random.default_rng(0).uniform(0.5, 2, size=60)), 0.1
    problem = SURFACE.problem(2, weights=weights, alpha=alpha)
    got = paths(SURFACE, optimizer, 2, 3, problem, MiniBatches(60, 16, seed=5))
    order, index = iter(MiniBatches(60, 16, seed=5)), []
    while len(index) < 12:
        index.append(next(order)[0])
    assert sorted(np.concatenate(index[:4])) == list(range(60))
    for model in range(2):
        expected = autograd_path(SURFACE, build, SURFACE.starts(2)[model], index, alpha, weights)
        torch.testing.assert_close(got[:, model], expected[3::4], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "match"),
    [
        (Adam(0.0), "learning_rate of Adam must be a finite number above zero; got 0.0"),
        (Adam("1"), "learning_rate of Adam"),
        (Adam(betas=(0.9, 1.0)), r"betas of Adam must be two numbers in \[0, 1\)"),
        (Adam(betas=(0.9,)), "betas of Adam"),
        (Adam(betas=0.9), "betas of Adam"),
        (Adam(epsilon=0), "epsilon of Adam"),
        (SGD(float("nan")), "learning_rate of SGD"),
        (SGD(momentum=1.0), r"momentum of SGD must be a number in \[0, 1\); got 1.0"),
        (SGD(nesterov="yes"), "nesterov of SGD must be True or False; got 'yes'"),
    ],
)
def test_impossible_parameters(optimizer, match):
    with pytest.raises(ValueError, match=match):
        gradient_descent(CURVE.problem(), CURVE.starts(), optimizer=optimizer)


def test_steps_too_long_end_the_fit_and_the_best_iterate_is_kept():
    solution = gradient_descent(SURFACE.problem(3), SURFACE.starts(3), optimizer=SGD(1e9))
    assert solution.status == [Status.DIVERGED] * 3
    start = SURFACE.problem(3).evaluate(SURFACE.starts(3)).objective.numpy()
    assert (solution.score <= start).all()
    assert torch.isfinite(solution.theta).all()


@pytest.mark.parametrize("batches", [None, (12, 5)], ids=["full", "mini-batches"])
def test_divergence_of_a_linear_model(batches):
    given = None if batches is None else MiniBatches(*batches, seed=0)
    solution = gradient_descent(PLANE.problem(2), PLANE.starts(2), optimizer=SGD(1e6), batches=given)
    assert solution.status == [Status.DIVERGED] * 2
    assert not solution.status[0].converged
    assert torch.equal(solution.theta, PLANE.starts(2))
    assert not solution.moved.any()
    curve = solution.history["objective"]
    assert len(curve) == solution.n_iter.max() < 10
    assert (curve[-1] > 1e6 * PLANE.problem(2).evaluate(PLANE.starts(2)).objective.numpy()).all()
