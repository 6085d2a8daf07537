"""Geodesic acceleration against its formula, with every derivative taken by autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sklm.optim import ACCELERATIONS, SCALINGS, SOLVERS, Acceleration, Geodesic, Stopping, levenberg_marquardt

from .. import reference
from ..problems import CURVE, SURFACE, WIDE, tensor

DAMPING = 0.3


class AcceptAll:
    """Take every step and keep the damping."""

    def start(self, damping):
        return {}

    def update(self, trial, memory):
        return torch.ones_like(trial.gain_ratio, dtype=torch.bool), trial.damping, memory


def one_step(case, n_models=1, *, scaling="identity", **options):
    """Parameters after one iteration, whatever they are worth."""
    seen = []
    levenberg_marquardt(
        case.problem(n_models, weights=weights(case), alpha=0.1),
        case.starts(n_models),
        damping=DAMPING,
        strategy=AcceptAll(),
        scaling=SCALINGS[scaling],
        stopping=Stopping(max_iter=1),
        callback=lambda progress: seen.append(progress.state.theta.numpy().copy()),
        **options,
    )
    return seen[0]


def weights(case):
    return tensor(np.random.default_rng(0).uniform(size=case.n_samples))


def formula(case, theta, scaling):
    """Step ``v``, acceleration ``a`` and the norm they are compared in: Transtrum & Sethna, eqs. 7-9 and 15."""
    X, y = case.data()
    network = case.network()
    function = reference.perceptron(network.sizes, case.activation, X)
    rows, residual = reference.stacked_rows(function, theta, y, weights(case))
    penalty = 0.1 * network.coefficient_mask
    scale = np.ones(len(theta)) if scaling == "identity" else (rows**2).sum(0)
    matrix = rows.T @ rows + np.diag(penalty + DAMPING * scale)
    velocity = -np.linalg.solve(matrix, rows.T @ residual + penalty * theta.numpy())
    root = (weights(case) / weights(case).sum() / y.shape[1]).sqrt()
    bend = root[:, None] * reference.bend(function, theta, torch.from_numpy(velocity))
    acceleration = -np.linalg.solve(matrix, rows.T @ bend.reshape(-1).numpy())
    return velocity, acceleration, lambda p: np.sqrt(p @ (scale * p))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scaling", ["identity", "marquardt"])
@pytest.mark.parametrize("case", [CURVE, SURFACE, WIDE], ids=str)
def test_correction_is_half_the_acceleration(case, scaling, solver):
    theta = case.starts(3)
    got = one_step(case, 3, scaling=scaling, solver=solver, acceleration=Geodesic(largest_ratio=1e9))
    plain = one_step(case, 3, scaling=scaling, solver=solver)
    for model in range(3):
        velocity, acceleration, _ = formula(case, theta[model], scaling)
        start = theta[model].numpy()
        np.testing.assert_allclose(plain[model] - start, velocity, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got[model] - start, velocity + acceleration / 2, rtol=1e-7, atol=1e-9)
        assert np.abs(acceleration).max() > 1e-3 * np.abs(velocity).max()


@pytest.mark.parametrize("scaling", ["identity", "marquardt"])
def test_too_large_a_correction_leaves_the_plain_step(scaling):
    """Model by model: the limits are set between the ratios 2 |a| / |v| of three models."""
    theta = SURFACE.starts(3)
    ratios = []
    for model in range(3):
        velocity, acceleration, norm = formula(SURFACE, theta[model], scaling)
        ratios.append(2 * norm(acceleration) / norm(velocity))
    always = one_step(SURFACE, 3, scaling=scaling, acceleration=Geodesic(1e9))
    never = one_step(SURFACE, 3, scaling=scaling, acceleration=None)
    for ratio in ratios:
        for limit in (0.999 * ratio, 1.001 * ratio):
            got = one_step(SURFACE, 3, scaling=scaling, acceleration=Geodesic(limit))
            expected = np.where((np.array(ratios) <= limit)[:, None], always, never)
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_chunks_change_nothing():
    theta = SURFACE.starts(2)
    curves = [
        levenberg_marquardt(
            SURFACE.problem(2, jacobian_max_rows=max_rows),
            theta,
            acceleration=Geodesic(),
            stopping=Stopping(max_iter=10),
        ).history["objective"]
        for max_rows in (None, 7)
    ]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-8)


def test_same_with_and_without_the_rows_of_the_linearisation():
    """Models of which few, or all but few, accept: the rows are those of an earlier linearisation, or gone."""

    class Forgetful(Geodesic):
        def correct(self, at, step, memory):
            return super().correct(replace(at, rows=None), step, memory)

    theta, seen = SURFACE.starts(5), []

    class Counting(Geodesic):
        def correct(self, at, step, memory):
            seen.append(at.rows is not None)
            return super().correct(at, step, memory)

    curves = [
        levenberg_marquardt(
            SURFACE.problem(5, alpha=0.01),
            theta,
            damping=tensor([0.1, 1e-9, 1e-9, 1e-9, 1e-9]),
            acceleration=rule,
            stopping=Stopping(max_iter=20, tol=0.0),
        ).history["objective"]
        for rule in (Forgetful(), Counting())
    ]
    assert len(set(seen)) == 2
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-6)


def test_it_is_registered_with_the_published_ratio():
    assert ACCELERATIONS["geodesic"]().largest_ratio == Geodesic().largest_ratio == 0.75


def test_your_own_correction():
    class Shorten(Acceleration):
        def correct(self, at, step, memory):
            return -0.9 * step

    theta = CURVE.starts()
    short = one_step(CURVE, acceleration=Shorten()) - theta.numpy()
    np.testing.assert_allclose(short, 0.1 * (one_step(CURVE) - theta.numpy()), rtol=1e-9)
