"""Bold acceptance against its inequality, and what is returned after a way uphill."""

import itertools

import numpy as np
import pytest
import torch

from sklm.optim import ACCEPTANCES, Acceptance, Bold, MiniBatches, Stopping, Trial, levenberg_marquardt

from ..problems import SURFACE, tensor


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("reference", ["best", "current"])
def test_the_inequality(power, reference):
    rule, rng = Bold(power, reference), np.random.default_rng(0)
    step, previous = rng.normal(size=(2, 400, 3))
    step += previous
    previous[0] = 0
    current, best, after = 1.0, 0.5, rng.uniform(0.4, 20, 400)
    after[1] = np.inf
    values = [np.full(400, current), after, np.ones(400), np.full(400, -1.0), np.ones(400)]
    trial = Trial(*map(tensor, values))
    memory = rule.start(tensor(np.full(400, best)))
    accept = torch.zeros(400, dtype=torch.bool)
    got, memory = rule.uphill(trial, accept, tensor(step), tensor(previous), memory)
    with np.errstate(all="ignore"):
        cosine = (step * previous).sum(1) / np.linalg.norm(step, axis=1) / np.linalg.norm(previous, axis=1)
        expected = (1 - cosine) ** power * after <= (best if reference == "best" else current)
    np.testing.assert_array_equal(got, expected)
    assert not got[:2].any()
    assert 20 < got.sum() < 380
    if reference == "best":
        assert (memory["lowest"] == best).all()


@pytest.mark.parametrize("options", [{}, {"n_dampings": 2}, {"acceleration": "momentum"}], ids=str)
def test_the_best_iterate_is_returned(options):
    problem, theta, seen = SURFACE.problem(6), SURFACE.starts(6), []
    solution = levenberg_marquardt(
        problem,
        theta,
        damping=1e-3,
        acceptance=Bold(2),
        stopping=Stopping(max_iter=25, tol=0.0),
        callback=lambda progress: seen.append(progress.state.theta.clone()),
        **options,
    )
    curve = np.vstack([problem.evaluate(theta).objective, solution.history["objective"]])
    assert (np.diff(curve, axis=0) > 0).any()
    np.testing.assert_array_equal(solution.score, curve.min(axis=0))
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    best = curve.argmin(axis=0)
    for model in range(6):
        assert torch.equal(solution.theta[model], torch.stack([theta, *seen])[best[model], model])
    # after the climbs at the end of a fit, the last iterate is not the best
    ends = [
        levenberg_marquardt(problem, theta, damping=1e-3, acceptance=Bold(2), stopping=Stopping(max_iter=n), **options)
        for n in range(1, 25)
    ]
    assert any((end.score < end.history["objective"][-1]).any() for end in ends)


def test_damping_stays_where_a_step_goes_uphill():
    problem, theta = SURFACE.problem(6), SURFACE.starts(6)
    solution = levenberg_marquardt(
        problem, theta, damping=1e-3, acceptance=Bold(2), stopping=Stopping(max_iter=25, tol=0.0)
    )
    curve = np.vstack([problem.evaluate(theta).objective, solution.history["objective"]])
    damping = np.vstack([np.full(6, 1e-3), solution.history["damping"]])
    rose = np.diff(curve, axis=0) > 0
    assert rose.any()
    np.testing.assert_array_equal(damping[1:][rose], damping[:-1][rose])


@pytest.mark.parametrize(("power", "reference"), [(3, "best"), (0, "best"), (1, "last")])
def test_impossible_parameters(power, reference):
    with pytest.raises(ValueError, match="must be"):
        levenberg_marquardt(SURFACE.problem(), SURFACE.starts(), acceptance=Bold(power, reference))


def test_your_own():
    class Every(Acceptance):
        def uphill(self, trial, accept, step, previous, memory):
            return torch.ones_like(accept), memory

    class Wrong(Acceptance):
        def uphill(self, trial, accept, step, previous, memory):
            return 1.0, memory

    problem, theta = SURFACE.problem(2), SURFACE.starts(2)
    stopping = Stopping(max_iter=5, tol=0.0)
    solution = levenberg_marquardt(problem, theta, damping=1e-3, acceptance=Every(), stopping=stopping)
    curve = np.vstack([problem.evaluate(theta).objective, solution.history["objective"]])
    assert (np.diff(curve, axis=0) != 0).all()
    assert (np.diff(curve, axis=0) > 0).any()
    with pytest.raises(TypeError, match="bool tensor"):
        levenberg_marquardt(problem, theta, acceptance=Wrong())


def test_mini_batches_have_no_best_so_far():
    with pytest.raises(ValueError, match="reference='current'"):
        levenberg_marquardt(SURFACE.problem(), SURFACE.starts(), acceptance=Bold(), batches=MiniBatches(60, 20, 0))


def test_registry():
    assert {name: make() for name, make in ACCEPTANCES.items()} == {"bold": Bold(2, "best")}
    for power, reference in itertools.product((1, 2), ("best", "current")):
        assert Bold(power, reference).get_params() == {"power": power, "reference": reference}
