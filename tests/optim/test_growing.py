"""Fits that start on few rows: as good as those on all rows from the start, and with the same manners."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sklm.optim import (
    Geodesic,
    Growth,
    Status,
    Stopping,
    _growing,
    fit_growing,
    levenberg_marquardt,
)

from ..problems import CURVE, SURFACE, tensor

MANY = replace(CURVE, n_samples=3000)
STOPPING = Stopping(max_iter=300, n_iter_no_change=8)
GROWTH = Growth(seed=0)


def grow(problem, theta, growth=GROWTH, stopping=STOPPING, **options):
    return fit_growing(problem, theta, growth, damping=1e-2, stopping=stopping, **options)


def curve_of(solution, model, name="objective"):
    """A curve without the gaps between stages."""
    curve = solution.history[name][:, model]
    return curve[~np.isnan(curve)]


def assert_same_path(one, other):
    """Curves are the same as far down as they fall: at a minimum, rounding says how many more iterations there are."""
    np.testing.assert_allclose(one[-1], other[-1], rtol=1e-6)
    high = [curve[curve > 1.02 * curve[-1]] for curve in (one, other)]
    np.testing.assert_allclose(*high, rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "growth", "sizes"),
    [
        (MANY, Growth(0, rows_per_parameter=8, factor=4), [80, 320]),
        (MANY, Growth(0, rows_per_parameter=16, factor=4), [160, 640]),
        (MANY, Growth(0, rows_per_parameter=16, factor=10), [160]),
        (replace(SURFACE, n_samples=2000), Growth(0, rows_per_parameter=8, factor=4), [104, 416]),
        (CURVE, Growth(0, rows_per_parameter=8, factor=4), []),
    ],
    ids=lambda value: str(value),
)
def test_sizes(case, growth, sizes):
    """Curvature rows for every parameter; every subset is at most 1 / factor of all rows."""
    assert growth.sizes(case.problem()) == sizes


def test_too_few_rows_are_fitted_all_at_once():
    theta = CURVE.starts(2)
    plain = levenberg_marquardt(CURVE.problem(2), theta, damping=1e-2, stopping=STOPPING)
    solution = grow(CURVE.problem(2), theta)
    assert torch.equal(solution.theta, plain.theta)
    assert solution.status == plain.status
    np.testing.assert_array_equal(solution.history["loss"], plain.history["loss"])


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
def test_result_is_that_of_all_rows_and_as_good(acceleration):
    """From starts near one optimum both find it; the stages before the last do not cost any accuracy."""
    problem, theta = MANY.problem(3), MANY.starts(3, near=0.3)
    plain = levenberg_marquardt(problem, theta, stopping=STOPPING, acceleration=acceleration)
    solution = grow(problem, theta, acceleration=acceleration)
    assert (solution.score <= plain.score * (1 + 1e-6)).all()
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(problem.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)
    assert all(status.converged for status in solution.status)


def test_most_iterations_are_on_few_rows():
    problem, theta, n_rows = MANY.problem(), MANY.starts(near=0.3), []

    class Counting(Geodesic):
        def correct(self, at, *arguments):
            n_rows.append(at.problem.n_samples)
            return super().correct(at, *arguments)

    grow(problem, theta, acceleration=Counting())
    assert n_rows == sorted(n_rows)
    assert set(n_rows) == {40, 320, 3000}
    assert sum(n < 3000 for n in n_rows) > sum(n == 3000 for n in n_rows)


@pytest.mark.parametrize("max_iter", [5, 17, 300])
@pytest.mark.parametrize("validate", [False, True])
def test_path_of_a_model_does_not_depend_on_the_batch(max_iter, validate):
    problem, theta = MANY.problem(4), MANY.starts(4, near=1.0)
    valid = problem.take(np.arange(0, 3000, 5)) if validate else None
    stopping = replace(STOPPING, max_iter=max_iter)
    together = grow(problem, theta, stopping=stopping, validation=valid)
    for model in range(4):
        one = torch.tensor([model])
        alone = grow(problem.models(one), theta[one], stopping=stopping, validation=valid and valid.models(one))
        assert together.status[model].converged == alone.status[0].converged
        assert alone.status[0].converged or together.n_iter[model] == alone.n_iter[0] == max_iter
        assert_same_path(curve_of(together, model), curve_of(alone, 0))
        np.testing.assert_allclose(together.score[model], alone.score[0], rtol=1e-6)


@pytest.mark.parametrize("near", [0.3, 1.0])
@pytest.mark.parametrize("max_iter", [1, 2, 7, 14, 20, 300])
def test_max_iter_counts_all_stages_and_n_iter_is_the_length_of_the_curve(max_iter, near):
    problem = MANY.problem(3)
    solution = grow(problem, MANY.starts(3, near=near), stopping=replace(STOPPING, max_iter=max_iter))
    for model in range(3):
        for name in ("objective", "loss", "damping"):
            assert len(curve_of(solution, model, name)) == solution.n_iter[model]
        assert solution.n_iter[model] <= max_iter
        if solution.n_iter[model] < max_iter:
            assert solution.status[model] is not Status.MAX_ITER
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)


def test_max_iter_is_used_up_by_every_model_that_has_not_converged():
    """A slow model of the batch does not take iterations away from a quick one."""
    solution = grow(
        MANY.problem(4), MANY.starts(4, near=1.0), stopping=Stopping(max_iter=40, tol=0, n_iter_no_change=40)
    )
    for model, status in enumerate(solution.status):
        assert status is not Status.MAX_ITER or solution.n_iter[model] == 40


def test_a_stage_is_judged_on_other_rows_than_its_own():
    problem = MANY.problem()
    history = grow(problem, MANY.starts(near=0.3)).history
    judged = ~np.isnan(history["validation"][:, 0])
    assert judged[0]
    assert not judged[-1]
    assert (np.diff(judged.astype(int)) <= 0).all()
    assert (history["validation"][judged] != history["objective"][judged]).all()
    np.testing.assert_allclose(history["validation"][judged][-1], history["objective"][judged][-1], rtol=0.5)


def test_rows_are_drawn_by_the_seed():
    problem, theta = MANY.problem(), MANY.starts()
    curves = [grow(problem, theta, growth=Growth(seed)).history["loss"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert not np.array_equal(curves[0][:5], curves[2][:5])


def test_iterations_are_numbered_on_over_the_stages():
    seen = []
    solution = grow(MANY.problem(), MANY.starts(near=0.3), callback=lambda progress: seen.append(progress.iteration))
    assert seen == list(range(1, int(solution.n_iter[0]) + 1))


@pytest.mark.parametrize("at", [1, 4, 12])
def test_a_callback_ends_the_whole_fit(at):
    calls = []

    def stop(progress):
        calls.append(progress.iteration)
        return progress.iteration >= at

    problem = MANY.problem(4)
    solution = grow(problem, MANY.starts(4, near=1.0), callback=stop)
    assert calls == list(range(1, at + 1))
    assert Status.CALLBACK in solution.status
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)


@pytest.mark.parametrize("how", ["callback", "interrupt"])
def test_a_stop_ends_the_whole_fit_also_when_a_model_had_finished_its_stage(how):
    """Model 0 is at its target from the first step on."""
    problem, calls = MANY.problem(2), []
    theta = torch.cat([MANY.truth(), MANY.starts()])

    def stop(progress):
        calls.append(progress.n_active)
        if len(calls) < 2:
            return False
        if how == "interrupt":
            raise KeyboardInterrupt
        return True

    stopping = replace(STOPPING, target_loss=0.01)
    solution = grow(problem, theta, stopping=stopping, callback=stop)
    assert calls == [1, 1]
    assert solution.status[1] is (Status.CALLBACK if how == "callback" else Status.INTERRUPTED)
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)


@pytest.mark.parametrize("at", [1, 4, 12])
def test_an_interrupt_ends_the_whole_fit(at):
    calls = []

    def interrupt(progress):
        calls.append(progress.iteration)
        if progress.iteration >= at:
            raise KeyboardInterrupt

    problem = MANY.problem(2)
    solution = grow(problem, MANY.starts(2), callback=interrupt)
    assert calls == list(range(1, at + 1))
    assert solution.status == [Status.INTERRUPTED] * 2
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)


def test_time_ends_the_fit():
    solution = grow(MANY.problem(), MANY.starts(), stopping=replace(STOPPING, max_time=0.0))
    assert solution.status == [Status.TIME]
    assert solution.n_iter[0] == 1


def test_a_non_finite_start_is_left_out():
    theta = MANY.starts(3, near=0.3)
    good = grow(MANY.problem(2), theta[[0, 2]])
    theta[1, -1] = torch.nan
    solution = grow(MANY.problem(3), theta)
    assert solution.status[1] is Status.NONFINITE
    assert solution.n_iter[1] == 0
    assert solution.n_iter[[0, 2]].tolist() == good.n_iter.tolist()
    np.testing.assert_allclose(solution.score[[0, 2]], good.score, rtol=1e-9)


def test_validation_rows_choose_the_result():
    problem = MANY.problem(2)
    train, valid = problem.take(np.arange(0, 3000, 2)), problem.take(np.arange(1, 3000, 2))
    solution = grow(train, MANY.starts(2, near=0.3), validation=valid)
    np.testing.assert_allclose(valid.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(train.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)


def test_weights_hold_in_every_stage():
    """Rows that are wrong but have no weight change nothing."""
    weights = torch.ones((1, 3000), dtype=torch.float64)
    weights[:, ::3] = 0
    clean = MANY.problem(weights=weights)
    dirty = replace(clean, y=torch.where(weights > 0, clean.y, 1e3))
    theta = MANY.starts(near=0.3)
    np.testing.assert_allclose(grow(dirty, theta).theta, grow(clean, theta).theta, rtol=1e-9)


def test_finalists_are_the_best_of_the_first_stage():
    """Two starts near the truth among those that can at best become a constant."""
    theta = torch.zeros((6, 10), dtype=torch.float64)
    theta[[1, 4]] = MANY.starts(2, near=0.1)
    problem = MANY.problem(6)
    solution = grow(problem, theta, replace(GROWTH, finalists=2))
    assert len(solution.status) == len(solution.score) == len(solution.n_iter) == 2
    assert solution.history["loss"].shape[1] == 2
    for model, start in enumerate((1, 4)):
        assert len(curve_of(solution, model)) == solution.n_iter[model]
        one = torch.tensor([start])
        alone = grow(problem.models(one), theta[one])
        assert_same_path(curve_of(solution, model), curve_of(alone, 0))
        np.testing.assert_allclose(solution.theta[model], alone.theta[0], rtol=1e-6)


def test_more_finalists_than_models_are_all_of_them():
    theta = MANY.starts(2, near=0.3)
    few = grow(MANY.problem(2), theta, replace(GROWTH, finalists=5))
    assert torch.equal(few.theta, grow(MANY.problem(2), theta).theta)


def test_finalists_without_stages_are_all_models():
    solution = grow(CURVE.problem(3), CURVE.starts(3), replace(GROWTH, finalists=1))
    assert len(solution.score) == 3


def test_inputs_are_not_written_to():
    theta = MANY.starts(2)
    problem = MANY.problem(2, weights=tensor(np.random.default_rng(0).uniform(size=3000)))
    copies = [t.clone() for t in (theta, problem.y, problem.weights, problem.rows.chunk(0, 3000))]
    grow(problem, theta)
    for before, now in zip(copies, (theta, problem.y, problem.weights, problem.rows.chunk(0, 3000)), strict=True):
        assert torch.equal(before, now)


def test_damping_may_differ_between_models():
    problem, theta = MANY.problem(2), MANY.starts(2, near=0.3)
    damping = tensor([1e-3, 10.0])
    together = fit_growing(problem, theta, GROWTH, damping=damping, stopping=STOPPING)
    for model in range(2):
        one = torch.tensor([model])
        alone = fit_growing(problem.models(one), theta[one], GROWTH, damping=float(damping[model]), stopping=STOPPING)
        assert_same_path(curve_of(together, model), curve_of(alone, 0))


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_other_factors(factor):
    growth = Growth(seed=0, rows_per_parameter=8, factor=factor)
    sizes = growth.sizes(MANY.problem())
    assert sizes[0] == 80
    assert all(np.isclose(b / a, factor, rtol=0.02) for a, b in pairwise(sizes))
    assert sizes[-1] * factor <= 3000
    solution = grow(MANY.problem(), MANY.starts(near=0.3), growth)
    assert solution.status[0].converged


def test_finalists_are_those_of_every_group():
    """Three fits in a batch end as each of them does alone."""
    growth, problem, theta = Growth(0, finalists=1), MANY.problem(9), MANY.starts(9, near=1.0)
    groups = np.repeat([0, 1, 2], [4, 2, 3])
    together = grow(problem, theta, growth=growth, groups=groups)
    np.testing.assert_array_equal(together.groups, [0, 1, 2])
    np.testing.assert_array_equal(together.leaders(), [0, 1, 2])
    for group in range(3):
        members = torch.from_numpy(np.flatnonzero(groups == group))
        alone = grow(problem.models(members), theta[members], growth=growth)
        assert together.status[group] == alone.status[0]
        np.testing.assert_allclose(curve_of(together, group)[:9], curve_of(alone, 0)[:9], rtol=1e-6)
        np.testing.assert_allclose(together.score[group], alone.score[0], rtol=1e-6)


@pytest.mark.parametrize("max_iter", [8, 40])
def test_iterations_are_left_for_all_rows(max_iter):
    """However hard the first rows are, a quarter of the iterations or more is for more rows than those."""
    problem, theta, n_rows = MANY.problem(), MANY.starts(near=1.0), []

    class Counting(Geodesic):
        def correct(self, at, *arguments):
            n_rows.append(at.problem.n_samples)
            return super().correct(at, *arguments)

    stopping = Stopping(max_iter=max_iter, tol=0.0, gradient_tol=0.0)
    grow(problem, theta, acceleration=Counting(), stopping=stopping)
    assert n_rows.count(40) <= max_iter / 2
    assert n_rows.count(40) + n_rows.count(320) <= 3 * max_iter / 4


def hopeless_then_good(n_good=2):
    """A start that can at best become a constant, and some near the truth."""
    return torch.cat([torch.zeros((1, 10), dtype=torch.float64), MANY.starts(n_good, near=0.1)])


def test_a_stage_aims_as_far_below_the_target_as_new_rows_are_above_fitted_ones(monkeypatch):
    aims, original = [], _growing.levenberg_marquardt

    def noted(problem, theta, *, stopping, **options):
        aims.append((problem.n_samples, stopping.target_loss))
        return original(problem, theta, stopping=stopping, **options)

    monkeypatch.setattr(_growing, "levenberg_marquardt", noted)
    problem = MANY.problem(1)
    for target in (1e-12, 0.0, -1.0):
        grow(problem, MANY.starts(1), stopping=replace(STOPPING, target_loss=target))
    n_rows, n_parameters = problem.n_samples, problem.network.n_parameters
    shares = {n: (n - n_parameters) / (n + n_parameters) for n in (40, 320)} | {n_rows: 1.0}
    assert {n for n, _ in aims} == shares.keys()
    assert {target for n, target in aims if target > 0} == {1e-12 * share for share in shares.values()}
    assert {target for _, target in aims if target <= 0} == {0.0, -1.0}


def test_optimism_is_the_share_that_is_left_on_fitted_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 10))
    residuals = np.eye(40) - X @ np.linalg.pinv(X)
    noise, fresh = rng.normal(size=(2, 40, 20_000))
    fitted, new = np.mean((residuals @ noise) ** 2), np.mean((fresh - noise + residuals @ noise) ** 2)
    assert _growing.optimism(40, 10) == 0.6
    assert fitted / new == pytest.approx(0.6, rel=0.01)
    assert _growing.optimism(9, 10) == 0.0


class Sizes(Geodesic):
    """Notes how many models are in a batch, and how many rows."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def correct(self, at, *arguments):
        self.seen.append((len(at.theta), at.problem.n_samples))
        return super().correct(at, *arguments)


TARGET = replace(STOPPING, target_loss=1e-3, together=True)


def test_with_a_target_starts_are_tried_one_by_one_until_one_reaches_it():
    theta, sizes, numbers = hopeless_then_good(), Sizes(), []
    problem = MANY.problem(3)
    solution = grow(
        problem,
        theta,
        replace(GROWTH, finalists=1),
        TARGET,
        acceleration=sizes,
        callback=lambda progress: numbers.append(progress.iteration),
    )
    assert {models for models, _ in sizes.seen} == {1}
    assert {rows for _, rows in sizes.seen} == {40}  # all rows confirm it
    assert numbers == list(range(1, len(numbers) + 1))
    one = torch.tensor([1])
    alone = grow(problem.models(one), theta[one], stopping=TARGET, acceleration="geodesic")
    np.testing.assert_allclose(solution.theta, alone.theta, rtol=1e-6)
    assert len(numbers) > solution.n_iter[0] == alone.n_iter[0] == len(curve_of(solution, 0))
    assert solution.status == [Status.TARGET]
    np.testing.assert_allclose(problem.models(one).evaluate(solution.theta).loss, solution.loss, rtol=1e-12)
    assert solution.loss[0] <= 1e-3


def test_a_target_that_all_rows_do_not_confirm_is_gone_on_to():
    """The first rows of the subset alone are without noise."""
    order, problem, sizes = np.random.default_rng(GROWTH.seed).permutation(3000), MANY.problem(), Sizes()
    noise = torch.from_numpy(np.random.default_rng(0).normal(scale=0.1, size=3000))
    noise[torch.from_numpy(order[:40])] = 0
    noisy = replace(problem, y=problem.y + noise)
    stopping = replace(TARGET, target_loss=0.0045)
    solution = grow(noisy, MANY.truth(), replace(GROWTH, finalists=1), stopping, acceleration=sizes)
    assert {rows for _, rows in sizes.seen} == {40, 320, 3000}
    assert solution.loss[0] > 0.0045
    assert solution.status[0] is not Status.TARGET


def test_without_a_start_that_reaches_the_target_the_best_goes_on():
    theta = torch.cat([hopeless_then_good(1), torch.zeros((1, 10), dtype=torch.float64)])
    stopping = replace(TARGET, target_loss=0.0)
    solution = grow(MANY.problem(3), theta, replace(GROWTH, finalists=1), stopping)
    one = torch.tensor([1])
    alone = grow(MANY.problem(1), theta[one], stopping=stopping)
    np.testing.assert_allclose(solution.theta, alone.theta, rtol=1e-6)


@pytest.mark.parametrize("between", [False, True])
def test_an_interrupt_while_starts_are_tried_keeps_the_best_so_far(between, monkeypatch):
    calls = []

    def interrupt(progress):
        calls.append(progress.iteration)
        if len(calls) == 12:
            raise KeyboardInterrupt

    if between:
        run = _growing.levenberg_marquardt

        def once(*arguments, **options):
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return run(*arguments, **options)

        monkeypatch.setattr(_growing, "levenberg_marquardt", once)
    problem, theta = MANY.problem(3), hopeless_then_good()
    stopping = replace(TARGET, target_loss=0.0, tol=0)
    callback = None if between else interrupt
    solution = grow(problem, theta, replace(GROWTH, finalists=1), stopping, callback=callback)
    assert set(solution.status) == {Status.INTERRUPTED}
    one = torch.tensor([0])
    np.testing.assert_allclose(problem.models(one).evaluate(solution.theta).objective, solution.score, rtol=1e-12)


def test_an_interrupt_before_the_first_start_is_for_the_caller(monkeypatch):
    def at_once(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(_growing, "levenberg_marquardt", at_once)
    with pytest.raises(KeyboardInterrupt):
        grow(MANY.problem(3), hopeless_then_good(), replace(GROWTH, finalists=1), TARGET)


def test_time_ends_the_trying_of_starts():
    stopping = replace(TARGET, target_loss=0.0, max_time=0.0)
    solution = grow(MANY.problem(3), hopeless_then_good(), replace(GROWTH, finalists=1), stopping)
    assert solution.status == [Status.TIME]
    assert solution.n_iter.tolist() == [1]


def test_dampings_of_starts_that_are_tried_one_by_one_may_differ():
    theta, problem = hopeless_then_good(1), MANY.problem(2)
    damping = torch.tensor([1e-2, 1.0], dtype=torch.float64)
    growth, one = replace(GROWTH, finalists=1), torch.tensor([1])
    solution = fit_growing(problem, theta, growth, damping=damping, stopping=TARGET)
    alone = fit_growing(problem.models(one), theta[one], growth, damping=1.0, stopping=TARGET)
    np.testing.assert_allclose(curve_of(solution, 0, "damping"), curve_of(alone, 0, "damping"), rtol=1e-6)
    np.testing.assert_allclose(solution.theta, alone.theta, rtol=1e-6)
