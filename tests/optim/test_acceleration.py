"""Accelerations against their formulas, with every derivative taken by autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sklm.optim import (
    ACCELERATIONS,
    SCALINGS,
    SOLVERS,
    Acceleration,
    Geodesic,
    Linearised,
    Momentum,
    Stopping,
    levenberg_marquardt,
    make_accelerations,
)
from sklm.optim._cg import ConjugateGradients

from .. import reference
from ..problems import CURVE, PLANE, SURFACE, WIDE, tensor

DAMPING = 0.3
TIGHT = pytest.param(ConjugateGradients(1e-13, 1000), id="cg")


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


@pytest.mark.parametrize("solver", [*(name for name in SOLVERS if name != "cg"), TIGHT])
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


# -- momentum ---------------------------------------------------------------------------------------------------


def linearised(n_models=3, p=5, seed=0):
    """A point with a random positive matrix, and the last step."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_models, p + 2, p))
    matrix = np.einsum("bnp,bnq->bpq", rows, rows) + 0.1 * np.eye(p)
    gradient, previous = rng.normal(size=(2, n_models, p))
    step = -np.linalg.solve(matrix, gradient[..., None])[..., 0]
    at = Linearised(
        problem=None,
        theta=tensor(np.zeros((n_models, p))),
        forwards=None,
        rows=None,
        gradient=tensor(gradient),
        scaling=tensor(np.ones((n_models, p))),
        step=tensor(step),
        damping=tensor(np.full(n_models, 0.1)),
        solve=None,
        quadratic=lambda v: torch.einsum("bp,bpq,bq->b", v, tensor(matrix), v),
        previous=tensor(previous),
    )
    return at, matrix


@pytest.mark.parametrize("cosine", [0.5, 0.85, 0.99])
def test_momentum_is_the_published_step_and_keeps_its_constraints(cosine):
    at, matrix = linearised()
    shares = tensor([1.0, 0.5, 0.125])
    got = at.step + Momentum(cosine).correct(at, at.step, {"share": shares})
    for b in range(3):
        gradient, step = at.gradient[b].numpy(), got[b].numpy()
        expected = reference.momentum_step(matrix[b], gradient, at.previous[b].numpy(), float(shares[b]), cosine)
        np.testing.assert_allclose(step, expected, rtol=1e-10)
        i_gg = gradient @ np.linalg.solve(matrix[b], gradient)
        dp = float(shares[b]) * np.sqrt(i_gg)
        np.testing.assert_allclose(step @ matrix[b] @ step, dp**2, rtol=1e-10)
        np.testing.assert_allclose(gradient @ step, -cosine * dp * np.sqrt(i_gg), rtol=1e-10)
        undamped = matrix[b] - 0.1 * np.eye(5)
        np.testing.assert_allclose(at.reduction(got)[b], -gradient @ step - 0.5 * step @ undamped @ step, rtol=1e-9)


def test_momentum_leaves_the_plain_step_where_the_formula_is_of_no_use():
    """No last step; a parallel one; no gradient; numbers that are not finite."""
    at, _ = linearised(6)
    previous, gradient, step = at.previous.clone(), at.gradient.clone(), at.step.clone()
    previous[0] = 0.0
    previous[1] = 2.5 * at.step[1]
    previous[2] = -at.step[2] * (1 + 1e-12)
    gradient[3], step[3] = 0.0, 0.0
    previous[4, 0] = torch.nan
    at = replace(at, previous=previous, gradient=gradient, step=step)
    correction = Momentum().correct(at, step, {"share": torch.ones(6, dtype=torch.float64)})
    assert (correction[:5] == 0).all()
    assert (correction[5] != 0).all()


def test_share_of_the_momentum():
    rule = Momentum()
    memory = rule.start(torch.zeros(2, 3, dtype=torch.float64))
    shares = []
    for accepted in (True, False, False, True, True, True, False):
        memory = rule.update(memory, torch.tensor([accepted, not accepted]))
        shares.append(memory["share"].tolist())
    assert [a for a, _ in shares] == [1, 0.5, 0.25, 0.5, 1, 1, 0.5]
    assert [b for _, b in shares] == [0.5, 1, 1, 0.5, 0.25, 0.125, 0.25]


@pytest.mark.parametrize("rule", ["momentum", ("momentum", "geodesic"), Momentum(0.8)], ids=str)
@pytest.mark.parametrize("case", [PLANE, CURVE, SURFACE], ids=str)
def test_momentum_ends_at_the_same_minimum(case, rule):
    problem, theta = case.problem(2), case.starts(2, near=0.1)
    tight = Stopping(max_iter=400, tol=0.0, n_iter_no_change=500, gradient_tol=0.0)
    plain = levenberg_marquardt(problem, theta, stopping=tight)
    momentum = levenberg_marquardt(problem, theta, stopping=tight, acceleration=rule)
    np.testing.assert_allclose(momentum.score, plain.score, rtol=1e-9)
    np.testing.assert_allclose(momentum.theta, plain.theta, rtol=1e-4, atol=1e-4)
    assert max(momentum.n_iter) < 400


@pytest.mark.parametrize("cosine", [0.0, 1.0, -0.5])
def test_impossible_cosine(cosine):
    with pytest.raises(ValueError, match="cosine must be"):
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), acceleration=Momentum(cosine))


@pytest.mark.parametrize("given", ["fast", ("geodesic", "fast"), 3, Geodesic, [None]], ids=str)
def test_what_is_no_acceleration(given):
    with pytest.raises(ValueError, match="acceleration must be one of"):
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), acceleration=given)


def test_names_objects_and_sequences():
    assert make_accelerations(None) == make_accelerations(()) == []
    assert make_accelerations("momentum") == [Momentum()]
    assert make_accelerations(Geodesic(0.5)) == [Geodesic(0.5)]
    assert make_accelerations(["momentum", Geodesic(0.5)]) == [Momentum(), Geodesic(0.5)]


def test_rules_in_a_row_are_applied_in_order():
    class Add(Acceleration):
        def __init__(self, factor, shift):
            self.factor = factor
            self.shift = shift

        def correct(self, at, step, memory):
            return (self.factor - 1) * step + self.shift

    theta, plain = CURVE.starts().numpy(), one_step(CURVE)
    got = one_step(CURVE, acceleration=(Add(2.0, 1.0), Add(0.5, 3.0)))
    np.testing.assert_allclose(got - theta, 0.5 * (2 * (plain - theta) + 1) + 3, rtol=1e-9)
