"""Every reason to stop, reached by a problem made for it."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import SquaredError
from sklm.optim import (
    SCALINGS,
    SOLVERS,
    GainRatio,
    Geodesic,
    MiniBatches,
    Multiplicative,
    Status,
    Stopping,
    gradient_descent,
    levenberg_marquardt,
    make_problem,
)
from sklm.optim._loop import Loop

from .. import reference
from ..problems import CURVE, PLANE, SURFACE, Case, Nist, tensor

ENDLESS = {"max_iter": 10_000, "tol": 0.0, "n_iter_no_change": 10**6, "gradient_tol": 0.0}


def fit(case, stopping, *, near=0.3, n_models=1, problem=None, **options):
    problem = problem or case.problem(n_models)
    return levenberg_marquardt(problem, case.starts(n_models, near=near), stopping=Stopping(**stopping), **options)


def assert_best_of_history(solution, problem, model=0):
    """What is returned is the best point that was seen, and its score is right."""
    curve = solution.history["objective"][:, model]
    start = np.inf if len(curve) == 0 else np.nanmin(curve)
    assert solution.score[model] <= start
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective[model], solution.score[model], rtol=1e-12)


@pytest.mark.parametrize("case", [PLANE, CURVE], ids=str)
def test_gradient(case):
    solution = fit(case, ENDLESS | {"gradient_tol": 1e-6})
    assert solution.status == [Status.GRADIENT]
    X, y = case.data()
    function = reference.perceptron(case.network().sizes, case.activation, X)
    gradient = reference.jacobian(lambda theta: (function(theta) - y).square().mean() / 2, solution.theta[0])
    assert gradient.abs().max() < 1e-6


def test_gradient_does_not_depend_on_the_units_of_the_targets():
    n_iter = []
    for unit in (1, 2**20):  # powers of two, so that rounding is the same
        X, y = PLANE.data()
        problem = make_problem(PLANE.network(), SquaredError(), X, unit * y)
        solution = levenberg_marquardt(
            problem, unit * PLANE.starts(), stopping=Stopping(**ENDLESS | {"gradient_tol": 1e-6})
        )
        assert solution.status == [Status.GRADIENT]
        n_iter.append(solution.n_iter[0])
    assert n_iter[0] == n_iter[1]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", [PLANE, CURVE, SURFACE], ids=str)
def test_without_tolerances_a_fit_ends_at_rounding(case, solver):
    solution = fit(case, ENDLESS, solver=solver)
    assert solution.status[0] in (Status.GRADIENT, Status.STEP, Status.DAMPING)
    assert solution.n_iter[0] < 2000


class Never:
    """Reject every step."""

    def __init__(self, factor):
        self.factor = factor

    def start(self, damping):
        return {}

    def update(self, trial, memory):
        return torch.zeros_like(trial.gain_ratio, dtype=torch.bool), self.factor * trial.damping, memory


def test_step():
    solution = fit(CURVE, ENDLESS | {"max_damping": 1e30}, strategy=Never(10.0))
    assert solution.status == [Status.STALLED]  # the gradient is not zero, so this is no convergence
    assert solution.damping[0] > 1e10


@pytest.mark.parametrize(("max_damping", "status"), [(1e30, Status.STEP), (1e3, Status.DAMPING)])
def test_no_step_helps_at_a_minimum(max_damping, status):
    found = fit(CURVE, {"max_iter": 500, "tol": 0.0})
    again = levenberg_marquardt(
        CURVE.problem(),
        found.theta,
        strategy=Never(10.0),
        stopping=Stopping(max_iter=500, tol=0.0, n_iter_no_change=10**6, gradient_tol=0.0, max_damping=max_damping),
    )
    assert again.status == [status]
    assert status.converged
    assert torch.equal(again.theta, found.theta)


@pytest.mark.parametrize("factor", [10.0, float("inf"), float("nan")])
def test_damping(factor):
    solution = fit(CURVE, ENDLESS | {"max_damping": 1e3}, strategy=Never(factor))
    assert solution.status == [Status.STALLED]
    assert not Status.STALLED.converged
    assert torch.equal(solution.theta, CURVE.starts(near=0.3))
    assert solution.n_iter[0] == (5 if factor == 10 else 1)


def test_damping_stays_above_its_minimum():
    solution = fit(PLANE, {"max_iter": 10, "min_damping": 1e-3}, strategy=Multiplicative())
    assert np.nanmin(solution.history["damping"]) == 1e-3


@pytest.mark.parametrize("patience", [1, 4])
def test_decrease(patience):
    """No relative fall of ten percent within some accepted steps, counted by hand."""
    solution = fit(SURFACE, ENDLESS | {"tol": 0.1, "n_iter_no_change": patience}, near=0, n_models=4)
    assert solution.status == [Status.DECREASE] * 4
    start = SURFACE.problem(4).evaluate(SURFACE.starts(4)).objective.numpy()
    for model in range(4):
        anchor = previous = start[model]
        stall = n_iter = 0
        for value in solution.history["objective"][:, model]:
            n_iter += 1
            if value < 0.9 * anchor:
                anchor, stall = value, 0
            else:
                stall += value != previous
            previous = value
            if stall == patience:
                break
        assert solution.n_iter[model] == n_iter
    assert len(set(solution.n_iter)) > 1


def test_rejections_alone_are_no_lack_of_decrease():
    solution = fit(CURVE, {"max_iter": 12, "n_iter_no_change": 2}, strategy=Never(2.0))
    assert solution.status == [Status.MAX_ITER]


def test_target_is_a_loss_in_the_units_of_the_targets_and_without_penalty():
    X, y = CURVE.data()
    scale = tensor([10.0])
    problem = make_problem(CURVE.network(), SquaredError(), X, y, alpha=1e-3, output_scale=scale)
    solution = fit(CURVE, ENDLESS | {"target_loss": 3.0}, near=1.0, problem=problem)
    assert solution.status == [Status.TARGET]
    curve = solution.history["loss"][:, 0]
    assert (curve[:-1] > 3.0).all()
    assert curve[-1] <= 3.0
    assert solution.loss[0] == curve[-1]


def test_negligible_is_a_share_of_the_loss_of_zero_outputs():
    problem = CURVE.problem(1)
    full = fit(CURVE, ENDLESS | {"max_iter": 12}, near=1.0, problem=problem).history["objective"][:, 0]
    number = 1 + np.flatnonzero(np.diff(full) < 0)[2]  # a step that was accepted
    level = full[number] * (1 + 1e-9) / problem.null_loss().item()
    solution = fit(CURVE, ENDLESS | {"negligible": level}, near=1.0, problem=problem)
    assert (solution.status, solution.status[0].converged) == ([Status.NEGLIGIBLE], True)
    np.testing.assert_array_equal(solution.history["objective"][:, 0], full[: number + 1])


def test_the_penalty_counts_for_what_is_negligible():
    problem, options = CURVE.problem(1, alpha=0.05), {"max_iter": 200}
    free = fit(CURVE, options, near=1.0, problem=problem)
    loss, objective = (value / problem.null_loss().item() for value in (free.loss[0], free.score[0]))
    assert loss < objective
    between = fit(CURVE, options | {"negligible": (loss + objective) / 2}, near=1.0, problem=problem)
    assert between.status != [Status.NEGLIGIBLE]


def test_what_is_slight_has_to_halve():
    problem, options = CURVE.problem(1), {"n_iter_no_change": 5, "max_iter": 400}
    halving = fit(CURVE, options | {"tol": 0.5}, near=1.0, problem=problem)
    slight = fit(CURVE, options | {"tol": 0.0, "slight": 1e6}, near=1.0, problem=problem)
    assert (halving.status, slight.status) == ([Status.DECREASE], [Status.NEGLIGIBLE])
    np.testing.assert_array_equal(slight.history["objective"], halving.history["objective"])


def test_what_is_not_slight_goes_on():
    problem, options = CURVE.problem(1), {"n_iter_no_change": 5, "max_iter": 400, "tol": 1e-3}
    usual = fit(CURVE, options, near=1.0, problem=problem)
    below = 0.9 * usual.score[0] / problem.null_loss().item()
    same = fit(CURVE, options | {"slight": below}, near=1.0, problem=problem)
    assert same.status == usual.status == [Status.DECREASE]
    np.testing.assert_array_equal(same.history["objective"], usual.history["objective"])


def test_no_target_by_default_even_for_a_perfect_fit():
    assert Stopping().target_loss < 0


@pytest.mark.parametrize("unit", [1e-100, 1.0, 1e100])
def test_exact(unit):
    """Data without noise, whatever their size."""
    case = Case("exact plane", hidden=(), n_samples=12, n_inputs=3, noise=0.0)
    X, y = case.data()
    problem = make_problem(case.network(), SquaredError(), X, unit * y)
    solution = levenberg_marquardt(problem, torch.zeros_like(case.starts()), stopping=Stopping(**ENDLESS))
    assert solution.status == [Status.EXACT]
    np.testing.assert_allclose(solution.theta, unit * case.truth(), rtol=1e-12)


def test_exact_at_the_start():
    X, y = PLANE.data()
    theta = torch.zeros_like(PLANE.starts())
    problem = make_problem(PLANE.network(), SquaredError(), X, torch.zeros_like(y))
    solution = levenberg_marquardt(problem, theta)
    assert solution.status == [Status.EXACT]
    assert torch.equal(solution.theta, theta)
    assert solution.score.tolist() == [0.0]


def test_max_iter():
    solution = fit(SURFACE, {"max_iter": 3}, near=0, n_models=2)
    assert solution.status == [Status.MAX_ITER] * 2
    assert solution.n_iter.tolist() == [3, 3]
    assert solution.history["objective"].shape == (3, 2)


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 1), (0.1, 3)])
def test_time(seconds, most):
    """One iteration is done in any case; here every one takes 60 ms."""
    solution = fit(SURFACE, ENDLESS | {"max_time": seconds}, callback=lambda progress: time.sleep(0.06))
    assert solution.status == [Status.TIME]
    assert 1 <= solution.n_iter[0] <= most
    assert_best_of_history(solution, SURFACE.problem())


class Clock:
    """Time that passes by a second at every look."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("run", [levenberg_marquardt, gradient_descent])
def test_time_is_looked_at_after_every_mini_batch(monkeypatch, run):
    monkeypatch.setattr("sklm.optim._loop.time", Clock())
    problem, taken = SURFACE.problem(2), []
    monkeypatch.setattr(type(problem), "take", lambda self, index, **_: taken.append(index) or self)
    options = {"optimizer": "sgd"} if run is gradient_descent else {}
    batches = MiniBatches(problem.n_samples, 2, seed=0)
    assert batches.n_batches > 10
    stopping = Stopping(**(ENDLESS | {"max_time": 5.0}))
    solution = run(problem, SURFACE.starts(2), stopping=stopping, batches=batches, **options)
    assert len(taken) == 5
    assert solution.status == [Status.TIME] * 2
    assert solution.n_iter.tolist() == [1, 1]
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)


def test_validation_stops_and_returns_the_best_by_validation():
    """A large net on few noisy rows: the validation loss rises again."""
    case = Case("overfit", hidden=(20,), n_samples=40, noise=1.0)
    problem = case.problem()
    train, valid = problem.take(np.arange(0, 40, 2)), problem.take(np.arange(1, 40, 2))
    solution = fit(
        case, {"max_iter": 200, "n_iter_no_change": 7}, near=0, problem=train, validation=valid, acceleration=Geodesic()
    )
    assert solution.status == [Status.VALIDATION]
    curve = solution.history["validation"][:, 0]
    assert solution.n_iter[0] == len(curve) < 200
    assert solution.score[0] == curve.min()
    assert np.argmin(curve) < len(curve) - 1
    np.testing.assert_allclose(valid.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(train.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)
    assert solution.loss[0] > solution.history["loss"][-1, 0]


def test_callback():
    seen = []

    def third(progress):
        seen.append((progress.iteration, progress.n_active))
        return progress.iteration == 3

    solution = fit(SURFACE, ENDLESS, near=0, n_models=2, callback=third)
    assert solution.status == [Status.CALLBACK] * 2
    assert seen == [(1, 2), (2, 2), (3, 2)]
    assert solution.n_iter.tolist() == [3, 3]


@pytest.mark.parametrize("value", [None, False, 0])
def test_a_callback_that_returns_nothing_true_goes_on(value):
    assert fit(SURFACE, {"max_iter": 4}, callback=lambda progress: value).status == [Status.MAX_ITER]


def interrupt(progress):
    if progress.iteration == 4:
        raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [None, 10])
def test_keyboard_interrupt(batches):
    solution = fit(
        SURFACE,
        ENDLESS,
        near=0,
        n_models=3,
        callback=interrupt,
        batches=batches and MiniBatches(60, batches, seed=0),
    )
    assert solution.status == [Status.INTERRUPTED] * 3
    assert solution.n_iter.tolist() == [4, 4, 4]
    for model in range(3):
        assert_best_of_history(solution, SURFACE.problem(3), model)


def test_keyboard_interrupt_keeps_what_ended_before():
    solution = fit(SURFACE, ENDLESS | {"target_loss": 0.001}, n_models=6, callback=interrupt)
    assert set(solution.status) == {Status.TARGET, Status.INTERRUPTED}
    for model, status in enumerate(solution.status):
        assert (solution.loss[model] <= 0.001) == (status is Status.TARGET)


def test_an_error_in_a_callback_is_not_swallowed():
    def fail(progress):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(SURFACE, ENDLESS, callback=fail)


@pytest.fixture
def interruptible():
    """Python's own handling of control-C, which a process in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise on Windows")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("delay", [0.02, 0.1, 0.15])
def test_interrupt_signal(delay):
    """Control-C at any moment ends the fit with the best model so far."""
    timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT))
    problem = SURFACE.problem(2)
    started = threading.Event()

    def start_timer(progress):
        if not started.is_set():
            started.set()
            timer.start()

    solution = fit(
        SURFACE,
        ENDLESS | {"max_iter": 10**7, "max_time": 20.0, "max_damping": float("inf")},
        n_models=2,
        strategy=Never(1.0),
        callback=start_timer,
    )
    timer.join()
    assert solution.status == [Status.INTERRUPTED] * 2
    assert_best_of_history(solution, problem)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_start_is_left_out_and_the_others_are_fitted(value):
    theta = SURFACE.starts(3)
    alone = levenberg_marquardt(SURFACE.problem(2), theta[[0, 2]], stopping=Stopping(max_iter=20))
    theta[1, -1] = value
    solution = levenberg_marquardt(SURFACE.problem(3), theta, stopping=Stopping(max_iter=20))
    assert solution.status == [Status.MAX_ITER, Status.NONFINITE, Status.MAX_ITER]
    assert solution.n_iter.tolist() == [20, 0, 20]
    assert np.isnan(solution.history["objective"][:, 1]).all()
    assert solution.score[1] == np.inf
    assert solution.best != 1
    np.testing.assert_allclose(solution.score[[0, 2]], alone.score, rtol=1e-9)
    np.testing.assert_allclose(solution.loss[[0, 2]], alone.loss, rtol=1e-9)


def test_nothing_but_non_finite_starts():
    solution = levenberg_marquardt(SURFACE.problem(2), torch.full_like(SURFACE.starts(2), torch.nan))
    assert solution.status == [Status.NONFINITE] * 2
    assert solution.history["objective"].shape == (0, 2)


OVERFLOW = Nist(
    "overflow",
    lambda x, a: torch.exp(a * x),
    x=tuple(np.linspace(0, 20, 11)),
    y=tuple(np.exp(0.5 * np.linspace(0, 20, 11))),
    starts=((-0.5,),),
    parameters=(0.5,),
    residual_sum=0.0,
)
LOGARITHM = Nist(
    "logarithm",
    lambda x, a: torch.log(a - x),
    x=(0.0, 0.5, 0.9),
    y=tuple(np.log(1.0 + 1e-3 - np.array([0.0, 0.5, 0.9]))),
    starts=((3.0,),),
    parameters=(1.001,),
    residual_sum=0.0,
)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", [OVERFLOW, LOGARITHM], ids=lambda case: case.name)
def test_a_non_finite_trial_is_a_rejection_and_the_fit_goes_on(case, solver, scaling):
    """The first steps jump to where the model overflows or is undefined."""
    problem = case.problem()
    thetas = [problem.network.start[None].clone()]
    solution = levenberg_marquardt(
        problem,
        thetas[0],
        damping=1e-14,
        scaling=SCALINGS[scaling],
        solver=solver,
        stopping=Stopping(max_iter=500, n_iter_no_change=500),
        callback=lambda progress: thetas.append(progress.state.theta.clone()),
    )
    assert torch.equal(thetas[1], thetas[0])
    assert np.isfinite(solution.history["objective"]).all()
    np.testing.assert_allclose(solution.theta[0], case.parameters, rtol=1e-6)


class Everything:
    """Accept whatever comes, and remember it."""

    def __init__(self):
        self.trials = []

    def start(self, damping):
        return {}

    def update(self, trial, memory):
        self.trials.append(float(trial.trial_objective[0]))
        return torch.ones_like(trial.damping, dtype=torch.bool), 10 * trial.damping, memory


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", [OVERFLOW, LOGARITHM], ids=lambda case: case.name)
def test_no_strategy_can_accept_a_non_finite_trial(case, solver):
    """It sees an infinite objective, also where the model is undefined, and the parameters stay."""
    problem, strategy = case.problem(), Everything()
    solution = levenberg_marquardt(
        problem,
        problem.network.start[None],
        damping=1e-14,
        solver=solver,
        strategy=strategy,
        stopping=Stopping(max_iter=4),
    )
    assert strategy.trials[0] == np.inf
    assert not np.isnan(strategy.trials).any()
    assert np.isfinite(solution.history["objective"]).all()
    assert solution.history["objective"][0, 0] == float(problem.evaluate(problem.network.start[None]).objective)


class Failing(SOLVERS["cholesky"]):
    """Report a failure with a step that would be fine."""

    def factorise(self, system, damping, scaling):
        factor = super().factorise(system, damping, scaling)
        return replace(factor, ok=torch.tensor([True, False]))


@pytest.mark.parametrize("strategy", [GainRatio(), Everything()], ids=["gain ratio", "everything"])
def test_a_failed_factorisation_is_a_rejection(strategy):
    theta = SURFACE.starts(2, near=0.3)
    solution = fit(SURFACE, {"max_iter": 4}, n_models=2, solver=Failing(), strategy=strategy)
    assert torch.equal(solution.theta[1], theta[1])
    assert not torch.equal(solution.theta[0], theta[0])
    assert (np.diff(solution.history["damping"][:, 1]) > 0).all()


def test_together_one_model_at_the_target_stops_the_others():
    options = ENDLESS | {"target_loss": 0.001}
    apart = fit(SURFACE, options | {"max_iter": 20}, n_models=6)
    solution = fit(SURFACE, options | {"together": True}, n_models=6)
    first = np.array([status is Status.TARGET for status in solution.status])
    assert first.any()
    assert not first.all()
    assert {status for status in solution.status if status is not Status.TARGET} == {Status.SUPERSEDED}
    assert len(set(solution.n_iter)) == 1
    assert solution.n_iter[0] == min(apart.n_iter)


@pytest.mark.parametrize("race", [(), ((10**6, 1),)], ids=["full runs", "race"])
def test_a_race_is_over_when_next_to_nothing_is_left(race):
    options = {"max_iter": 300, "tol": 0.0, "n_iter_no_change": 4, "slight": 1e-3, "race": race, "spared": 6}
    groups = np.array([0, 0, 0, 1, 1, 1])
    solution = fit(SURFACE, options, near=0.5, n_models=6, groups=groups)
    cut = np.array([status is Status.SUPERSEDED for status in solution.status])
    slight = solution.score <= 1e-3 * SURFACE.problem(1).null_loss().item()
    for members in (groups == 0, groups == 1):
        assert slight[members & ~cut].any()
        assert not race or len(set(solution.n_iter[members])) == 1
    assert cut.any() == bool(race)


@pytest.mark.parametrize("on_cpu", [True, False], ids=["cpu", "as on a gpu"])
def test_who_is_given_up_with_next_to_nothing_left_stops_nobody(monkeypatch, on_cpu):
    """On a GPU models that have ended stay in the batch."""
    monkeypatch.setattr(Loop, "on_cpu", on_cpu)
    x = np.linspace(-1, 1, 200)[:, None]
    y = np.tanh(3 * x - 1) + 0.5 * np.tanh(0.5 - 2 * x)
    problem = make_problem(
        MLP((4,)).build(1, 1), SquaredError(), tensor(x), tensor((y - y.mean()) / y.std()), n_models=12
    )
    theta = tensor(np.random.default_rng(0).normal(size=(12, 13)))
    theta[0] = 0  # ends in a poor stationary point
    limits = {"max_iter": 400, "tol": 1e-3, "n_iter_no_change": 20, "slight": 1e-6, "together": True}
    stopping = Stopping(**limits, race=((25, 2),), spared=4)
    solution = levenberg_marquardt(problem, theta, stopping=stopping)
    given_up = [
        score for score, status in zip(solution.score, solution.status, strict=True) if status is Status.SUPERSEDED
    ]
    assert min(given_up) < 5e-7
    assert solution.score[solution.best] < 1e-12


def test_together_means_within_a_group():
    options, groups = ENDLESS | {"target_loss": 0.001, "together": True}, np.array([1, 1, 0, 0, 1, 0])
    solution = fit(SURFACE, options, near=0.5, n_models=6, groups=groups)
    np.testing.assert_array_equal(solution.groups, groups)
    for group in (0, 1):
        members = np.flatnonzero(groups == group)
        status = [solution.status[member] for member in members]
        assert Status.TARGET in status
        assert set(status) <= {Status.TARGET, Status.SUPERSEDED}
        alone = levenberg_marquardt(
            SURFACE.problem(3), SURFACE.starts(6, near=0.5)[torch.from_numpy(members)], stopping=Stopping(**options)
        )
        np.testing.assert_array_equal(solution.n_iter[members], alone.n_iter)
        assert status == alone.status
    assert solution.n_iter[0] != solution.n_iter[2]
