"""Factors of the inputs, from models of folds."""

import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import SquaredError
from sklm.optim import (
    Stopping,
    _penalty_race,
    cross_validate_alpha,
    levenberg_marquardt,
    make_problem,
    stack_problems,
    weigh_inputs,
)
from sklm.optim._relevance import LEAST, _helps, _Models, rescaled

from ..problems import tensor

ALPHAS = (0.1, 0.01, 0.001, 0.0)


def table(n_samples=100, seed=0, noise=0.1, n_columns=6):
    """The first column matters most, the second less, the others not at all."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_columns))
    y = np.sin(1.5 * X[:, 0]) + 0.3 * X[:, 1] + noise * rng.normal(size=n_samples)
    return X, (y - y.mean()) / y.std(), rng.permutation(n_samples) % 5


def weigh(X, y, folds, n_held_out=3, hidden=(8,), weights=None, alphas=ALPHAS, restarts=False, **options):
    """Search and relevance of one fit, and what they were asked; with ``restarts`` penalties are not left to drift."""
    network = MLP(hidden).build(X.shape[1], 1)
    weights = None if weights is None else tensor(weights)
    problem = make_problem(network, SquaredError(), tensor(X), tensor(y[:, None]), weights=weights)
    theta = tensor(np.random.default_rng(0).normal(size=(1, network.n_parameters)) * 0.5)
    divided = torch.from_numpy(folds)[None], n_held_out
    search = cross_validate_alpha(problem, theta, *divided, alphas=alphas)
    options["starts"] = theta if restarts else None
    return problem, search, weigh_inputs(problem, search, *divided, **options)


@pytest.mark.parametrize("seed", range(3))
def test_columns_that_do_not_matter_are_found(seed):
    _, search, found = weigh(*table(200, seed=seed))
    scales = found.scales[0].numpy()
    assert scales[0] == 1
    assert 0.03 < scales[1] < 0.9
    assert (scales[2:] < 0.5 * scales[1]).all()
    assert found.score[0] < 0.9 * search.score[0]
    assert found.alpha[0] > 0


def test_the_score_is_the_loss_on_rows_that_neither_models_nor_factors_have_seen():
    X, y, folds = table()
    changed = y.copy()
    changed[folds == 0] += 100 * np.random.default_rng(1).normal(size=(folds == 0).sum())
    _, search, _ = weigh(X, y, folds, 1, alphas=(0.01,))
    problem, other, found = weigh(X, changed, folds, 1, alphas=(0.01,))
    torch.testing.assert_close(search.theta_of_folds, other.theta_of_folds)  # training has not seen them
    # neither has what was weighed: its model has the loss that is said, on its own inputs
    held = tensor((folds == 0).astype(float))[None]
    scaled = make_problem(
        problem.network, SquaredError(), tensor(X) * found.scales, tensor(changed[:, None]), weights=held
    )
    assert scaled.evaluate(found.theta).objective.item() == pytest.approx(found.score[0], rel=1e-9)


def test_nothing_is_weighed_where_it_does_not_help():
    """A function of the sum of the columns: all matter the same."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    y = np.tanh(X.sum(1)) + 0.1 * rng.normal(size=150)
    _, search, found = weigh(X, y / y.std(), rng.permutation(150) % 5)
    assert (found.scales == 1).all()
    np.testing.assert_array_equal(found.alpha, search.chosen)
    np.testing.assert_array_equal(found.score, search.score)
    torch.testing.assert_close(found.theta, search.theta, rtol=0, atol=0)


def test_what_has_no_penalty_is_left_alone():
    X, y, folds = table(noise=0.0)
    _, search, found = weigh(X, y, folds, alphas=(0.0,))
    assert search.chosen[0] == 0
    assert (found.scales == 1).all()


def loss_at_the_end(X, y, folds, hidden, found):
    """On the rows that fold 0 leaves out, of a fit of the others from a start of its own."""
    network, scaled = MLP(hidden).build(X.shape[1], 1), tensor(X) * found.scales
    parts = [
        make_problem(
            network, SquaredError(), scaled, tensor(y[:, None]), alpha=alpha, weights=tensor(rows.astype(float))
        )
        for alpha, rows in ((float(found.alpha[0]), folds != 0), (0.0, folds == 0))
    ]
    start = tensor(np.random.default_rng(1).normal(size=(1, network.n_parameters)) * 0.5)
    return parts[1].evaluate(levenberg_marquardt(parts[0], start).theta).objective.item()


@pytest.mark.parametrize(("n_columns", "factor", "seed"), [(14, 0.1, 1), (14, 0.2, 0), (8, 0.2, 1)])
def test_a_penalty_does_not_drift_away(n_columns, factor, seed):
    """Models on their way hardly notice that a penalty goes down round by round; those of new starts do."""
    given = dict(zip(("X", "y", "folds"), table(120, seed=seed, n_columns=n_columns), strict=True), hidden=(12,))
    _, search, drifted = weigh(**given, factors=(factor,))
    _, _, held = weigh(**given, factors=(factor,), restarts=True)
    assert drifted.alpha[0] < 0.05 * search.chosen[0]
    assert 9 * drifted.alpha[0] <= held.alpha[0] <= search.chosen[0]
    torch.testing.assert_close(held.scales, drifted.scales)
    assert loss_at_the_end(**given, found=held) < 0.85 * loss_at_the_end(**given, found=drifted)


def test_what_new_starts_do_not_confirm_is_not_weighed():
    """A start of all zeros stays where it is, and learns nothing of the columns."""
    X, y, folds = table(120, seed=1, n_columns=14)
    problem, search, found = weigh(X, y, folds, hidden=(12,), factors=(0.1,), restarts=True)
    assert (found.scales[0, 1:] < 1).all()
    zeros, divided = torch.zeros_like(search.theta), (torch.from_numpy(folds)[None], 3)
    found = weigh_inputs(problem, search, *divided, factors=(0.1,), starts=zeros)
    assert (found.scales == 1).all()
    np.testing.assert_array_equal(found.alpha, search.chosen)


def test_fits_together_are_fits_alone():
    tables = [table(seed=seed, noise=noise) for seed, noise in ((0, 0.1), (1, 0.3), (2, 1.0))]
    network, folds = MLP((8,)).build(6, 1), torch.from_numpy(np.stack([folds for _, _, folds in tables]))
    problem = stack_problems(
        [make_problem(network, SquaredError(), tensor(X), tensor(y[:, None])) for X, y, _ in tables]
    )
    theta = tensor(np.random.default_rng(0).normal(size=(1, network.n_parameters)) * 0.5).expand(3, -1)
    singly = [weigh(*one, restarts=True)[2] for one in tables]
    for at_once in (None, 7):
        search = cross_validate_alpha(problem, theta, folds, 3, alphas=ALPHAS)
        together = weigh_inputs(problem, search, folds, 3, models_at_once=at_once, starts=theta)
        for row, alone in enumerate(singly):
            torch.testing.assert_close(together.scales[row], alone.scales[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(together.alpha[row], alone.alpha[0])
            np.testing.assert_allclose(together.score[row], alone.score[0], rtol=1e-5)


def test_rescaling_keeps_the_function():
    network, rng = MLP((5, 4)).build(3, 2), np.random.default_rng(0)
    theta, X = tensor(rng.normal(size=(2, network.n_parameters))), tensor(rng.normal(size=(3, 20)))
    old, new = tensor(rng.uniform(0.1, 1, (2, 3))), tensor(rng.uniform(0.1, 1, (2, 3)))
    before = network.forward(theta, X * old.unsqueeze(2)).outputs
    after = network.forward(rescaled(theta, old, new, network.input_weights), X * new.unsqueeze(2)).outputs
    torch.testing.assert_close(before, after)


def test_a_scaled_input_is_a_penalty_of_its_own():
    """A minimum for scaled inputs is one of the loss with penalties alpha / s^2 (gradient by autograd)."""
    X, y, _ = table()
    network, scales, alpha = MLP((4,)).build(6, 1), torch.linspace(0.2, 1, 6, dtype=torch.float64), 1e-2
    problem = make_problem(network, SquaredError(), tensor(X) * scales, tensor(y[:, None]), alpha=alpha)
    start = tensor(np.random.default_rng(0).normal(size=(1, network.n_parameters)))
    theta = levenberg_marquardt(problem, start, stopping=Stopping(tol=0, max_iter=500)).theta
    place = network.input_weights
    theta = rescaled(theta, scales[None], torch.ones(1, 6, dtype=torch.float64), place)[0].requires_grad_()
    first, bias, last, shift = torch.split(theta, [24, 4, 4, 1])
    weight = first.view(4, 6)
    outputs = torch.tanh(tensor(X) @ weight.T + bias) @ last + shift
    penalty = alpha / 2 * ((weight.square() / scales.square()).sum() + last.square().sum())
    (0.5 * (outputs - tensor(y)).square().mean() + penalty).backward()
    assert theta.grad.abs().max() < 1e-6


def test_the_least_factor_bounds_the_penalty():
    _, _, found = weigh(*table(n_columns=10))
    assert found.scales.min() >= LEAST * (1 - 1e-12)
    assert found.scales.max() == 1


def test_no_time_is_no_weighing():
    X, y, folds = table()
    _, search, found = weigh(X, y, folds, stopping=Stopping(max_time=0.0))
    assert (found.scales == 1).all()
    np.testing.assert_array_equal(found.alpha, search.chosen)


def test_the_user_can_stop_it(monkeypatch):
    X, y, folds = table()
    problem, search, _ = weigh(X, y, folds, stopping=Stopping(max_time=0.0))
    calls, original = [], _penalty_race.levenberg_marquardt

    def stopped(*given, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*given, **options)

    monkeypatch.setattr(_penalty_race, "levenberg_marquardt", stopped)
    with pytest.raises(KeyboardInterrupt):
        weigh_inputs(problem, search, torch.from_numpy(folds)[None], 3)
    assert len(calls) == 3


def test_folds_must_agree():
    before = np.array([[1, 1, 1], [2, 1, 1], [1, 1, 1], [1, np.inf, 1], [1, np.inf, np.inf], [1, np.inf, np.inf]])
    after = np.array([[9, 9, 9], [10, 14, 14], [11, 12, 13], [9, np.inf, 9], [9, np.inf, np.inf], [8, np.inf, np.inf]])

    def models(losses):
        score = np.nanmean(np.where(np.isfinite(losses), losses, np.nan), axis=1)
        return _Models(torch.empty(0), torch.empty(0), np.empty(0), score, losses)

    # of a single fold, a tenth is not enough
    np.testing.assert_array_equal(_helps(models(before), models(after / 10)), [True, False, False, True, False, True])


def test_what_more_training_or_another_penalty_explains_is_no_relevance():
    """Where factors stay one whatever the weights, nothing may be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklm.optim._relevance._by_weights", lambda theta, scales, place: scales)
        for seed in range(4):
            _, search, found = weigh(*table(seed=seed))
            np.testing.assert_array_equal(found.alpha, search.chosen)


def test_no_penalty_below_the_least_is_tried():
    X, y, folds = table(noise=0.0)
    _, search, free = weigh(X, y, folds, alphas=(0.01,))
    _, _, found = weigh(X, y, folds, alphas=(0.01,), least_alpha=0.009)
    assert free.alpha[0] < 0.009 <= found.alpha[0]
    assert search.chosen[0] == 0.01


def test_folds_without_weight_do_not_count():
    X, y, folds = table()
    weights = np.where(folds == 1, 0.0, 1.0)
    keep = folds != 1
    renumbered = np.where(folds[keep] > 1, folds[keep] - 1, folds[keep])
    _, _, found = weigh(X, y, folds, 3, weights=weights)
    _, _, same = weigh(X[keep], y[keep], renumbered, 2)
    np.testing.assert_allclose(found.score, same.score, rtol=1e-6)
    torch.testing.assert_close(found.scales, same.scales, rtol=1e-4, atol=1e-6)


def test_a_column_without_weight_anywhere_stays():
    """All weights of the inputs are zero, as much penalty makes them: there is no largest one to compare with."""
    X, y, folds = table()
    _, _, found = weigh(X, y, folds, alphas=(1e6,))
    assert torch.isfinite(found.scales).all()
    assert (found.scales == 1).all()
