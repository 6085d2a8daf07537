"""The loop: the textbook's path, one path a model, and an optimum that MINPACK and NIST agree with."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sklm.losses import SquaredError
from sklm.optim import (
    SCALINGS,
    SOLVERS,
    STRATEGIES,
    Bold,
    GainRatio,
    Geodesic,
    Mask,
    MiniBatches,
    Multiplicative,
    RandomSubset,
    RateSearch,
    Status,
    Stopping,
    StreamedRows,
    _loop,
    _minimize,
    levenberg_marquardt,
    make_problem,
)
from sklm.optim._cg import ConjugateGradients

from .. import reference
from ..problems import CASES, CURVE, NIST, PLANE, SURFACE, WIDE, Case, tensor

#: ends at rounding
TIGHT = Stopping(max_iter=500, tol=0.0, n_iter_no_change=500, gradient_tol=0.0)


def fit(case, n_models=1, *, near=0.0, max_iter=20, problem=None, theta=None, **options):
    options.setdefault("stopping", Stopping(max_iter=max_iter))
    problem = case.problem(n_models) if problem is None else problem
    return levenberg_marquardt(problem, case.starts(n_models, near=near) if theta is None else theta, **options)


def objectives(solution, model=0):
    curve = solution.history["objective"][:, model]
    return curve[~np.isnan(curve)]


# -- the path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [1e-3, 1.0])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_path_is_the_textbooks(case, damping):
    X, y = case.data()
    function = reference.perceptron(case.network().sizes, case.activation, X)
    theta, stopping = case.starts(2), Stopping(max_iter=12, target_loss=1e-9)
    solution = levenberg_marquardt(case.problem(2), theta, damping=damping, stopping=stopping)
    for model in range(2):
        curve = objectives(solution, model)
        expected = reference.textbook_curve(function, theta[model], y, damping, len(curve))
        assert len(curve) >= 4
        np.testing.assert_allclose(curve, expected, rtol=1e-6)


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", [CURVE, SURFACE, WIDE], ids=str)
def test_objective_never_rises_and_a_rejection_restores_the_parameters_exactly(case, strategy, acceleration):
    problem, theta = case.problem(3), case.starts(3)
    thetas = [dict(enumerate(theta))]

    def remember(progress):
        thetas.append(dict(zip(progress.state.model.tolist(), progress.state.theta.clone(), strict=True)))

    options = {"strategy": STRATEGIES[strategy](), "acceleration": acceleration, "callback": remember}
    solution = fit(case, 3, damping=1e-8, max_iter=25, **options)
    curve = np.vstack([problem.evaluate(theta).objective, solution.history["objective"]])
    damping = np.vstack([np.full(3, 1e-8), solution.history["damping"]])
    rejections = 0
    for i, (before, after) in enumerate(pairwise(thetas)):
        for model in after:
            assert curve[i + 1, model] <= curve[i, model]
            if curve[i + 1, model] == curve[i, model]:
                assert torch.equal(after[model], before[model])
                assert damping[i + 1, model] > damping[i, model]
                rejections += 1
            else:
                assert not torch.equal(after[model], before[model])
    assert rejections >= 3


def test_a_rejection_costs_no_linearisation():
    class Counting(SOLVERS["cholesky"]):
        prepared = factorised = 0

        def prepare(self, system, scaling):
            self.prepared += 1
            return super().prepare(system, scaling)

        def factorise(self, system, damping, scaling):
            self.factorised += 1
            return super().factorise(system, damping, scaling)

    solver = Counting()
    solution = fit(CURVE, damping=1e-8, solver=solver)
    curve = np.concatenate([CURVE.problem().evaluate(CURVE.starts()).objective, objectives(solution)])
    assert solver.factorised == 20
    # the last iteration's acceptance is not linearised any more
    assert solver.prepared == 1 + np.count_nonzero(np.diff(curve[:-1]))
    assert solver.prepared < 18


class Uphill:
    """Accept every possible step, with its own memory, in which the accepted steps are counted."""

    def start(self, damping):
        return {"count": torch.zeros_like(damping)}

    def update(self, trial, memory):
        accept = torch.isfinite(trial.trial_objective)
        return accept, trial.damping * 0.5, {"count": memory["count"] + accept}


def test_a_strategy_of_ones_own_may_go_uphill_and_the_best_iterate_is_returned():
    counts = []
    solution = fit(
        SURFACE,
        4,
        damping=0.5,
        max_iter=15,
        strategy=Uphill(),
        callback=lambda progress: counts.append(progress.state.memory["count"].clone()),
    )
    problem = SURFACE.problem(4)
    curve, start = solution.history["objective"], problem.evaluate(SURFACE.starts(4)).objective.numpy()
    assert (np.diff(curve, axis=0) > 0).any()
    assert (curve[-1] > np.minimum(curve.min(axis=0), start)).any()
    np.testing.assert_array_equal(solution.score, np.minimum(curve.min(axis=0), start))
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(problem.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)
    np.testing.assert_allclose(solution.history["damping"], 0.5 * 0.5 ** np.arange(1, 16)[:, None] * np.ones(4))
    assert counts[-1].tolist() == [15] * 4


@pytest.mark.parametrize("options", [{}, {"batches": MiniBatches(60, 20, seed=0)}], ids=["full", "mini-batches"])
def test_best_and_last_iterate_differ_after_another_model_has_ended(options):
    """Both models improve at first, whereupon one is at its target; the other goes on, uphill at times."""
    theta, problem = torch.cat([SURFACE.starts(near=0.1), SURFACE.starts(seed=2)]), SURFACE.problem(2)
    start = problem.evaluate(theta).objective.numpy()
    stopping = Stopping(max_iter=15, target_loss=float(start[0]) * 0.99)
    solution = fit(SURFACE, 2, theta=theta, damping=0.5, strategy=Uphill(), stopping=stopping, **options)
    curve = solution.history["objective"]
    assert solution.n_iter.tolist() == [1, 15]
    assert (curve[0] < start).all()
    assert curve[-1, 1] > curve[:, 1].min()
    np.testing.assert_array_equal(solution.score, np.nanmin(curve, axis=0))
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(problem.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)


# -- models of a batch ------------------------------------------------------------------------------------------


def folds(problem, n_models):
    """Weights (B, N): every model leaves out other rows."""
    rows = torch.arange(problem.n_samples)
    return torch.stack([(rows % n_models != model).double() for model in range(n_models)])


OPTIONS = {
    "plain": {},
    "multiplicative": {"strategy": Multiplicative()},
    "delayed gratification": {"strategy": STRATEGIES["delayed_gratification"]()},
    "geodesic": {"acceleration": Geodesic()},
    **{name: {"solver": name} for name in SOLVERS},
    # at its own tolerance, rounding decides now and then whether a solution takes one product more
    "cg": {"solver": ConjugateGradients(1e-10, 1000)},
    "marquardt": {"scaling": SCALINGS["marquardt"], "solver": "qr"},
    "more": {"scaling": SCALINGS["more"]},
    "momentum": {"acceleration": "momentum"},
    "line search": {"line_search": RateSearch()},
    "bold": {"acceptance": Bold()},
    "dampings": {"n_dampings": 3},
    "parameters": {"param_selection": RandomSubset(0.9), "scaling": SCALINGS["running_maximum"]},
    "mask": {"param_selection": Mask(np.arange(39) % 3 != 1), "scaling": SCALINGS["more"]},
}


@pytest.mark.parametrize("early", [False, True], ids=["", "ends apart"])
@pytest.mark.parametrize("name", OPTIONS)
def test_batched_models_follow_the_paths_that_they_follow_alone(name, early):
    n_models, options = 5, OPTIONS[name]
    whole = SURFACE.problem(n_models)
    theta = SURFACE.starts(n_models, near=0.5)
    damping = tensor([1e-3, 1e-2, 1e-1, 1.0, 10.0])
    problem = SURFACE.problem(n_models, weights=folds(whole, n_models), alpha=tensor([0.0, 1e-4, 0, 1e-3, 1e-2]))
    stopping = Stopping(max_iter=20, tol=0.03, n_iter_no_change=2) if early else Stopping(max_iter=20)
    together = levenberg_marquardt(problem, theta, damping=damping, stopping=stopping, **options)
    for model in range(n_models):
        one = torch.tensor([model])
        alone = levenberg_marquardt(problem.models(one), theta[one], damping=damping[one], stopping=stopping, **options)
        assert together.n_iter[model] == alone.n_iter[0]
        assert together.status[model] == alone.status[0]
        for curve in ("objective", "loss", "damping"):
            got = together.history[curve][: alone.n_iter[0], model]
            np.testing.assert_allclose(got, alone.history[curve][:, 0], rtol=1e-6)
        np.testing.assert_allclose(together.score[model], alone.score[0], rtol=1e-6)
        np.testing.assert_allclose(together.loss[model], alone.loss[0], rtol=1e-6)
        assert np.isnan(together.history["loss"][alone.n_iter[0] :, model]).all()
    np.testing.assert_allclose(problem.evaluate(together.theta).objective, together.score, rtol=1e-10)
    if early:
        assert len(set(together.n_iter)) > 2


def test_batched_models_with_validation_that_end_apart():
    case = Case("overfit", hidden=(15,), n_samples=40, noise=1.0)
    problem = case.problem(4)
    train, valid = problem.take(np.arange(0, 40, 2)), problem.take(np.arange(1, 40, 2))
    theta, stopping = case.starts(4), Stopping(max_iter=60, n_iter_no_change=5)
    together = levenberg_marquardt(train, theta, validation=valid, stopping=stopping)
    assert len(set(together.n_iter)) > 2
    np.testing.assert_allclose(valid.evaluate(together.theta).objective, together.score, rtol=1e-10)
    np.testing.assert_allclose(train.evaluate(together.theta).loss, together.loss, rtol=1e-10)
    for model in range(4):
        one = torch.tensor([model])
        alone = levenberg_marquardt(train.models(one), theta[one], validation=valid.models(one), stopping=stopping)
        assert together.n_iter[model] == alone.n_iter[0]
        np.testing.assert_allclose(together.score[model], alone.score[0], rtol=1e-5)


def test_batched_models_of_a_module():
    case = NIST["Rat42"]
    starts = tensor([case.starts[0], case.starts[1], (60.0, 2.0, 0.05)])
    options = {"scaling": SCALINGS["more"], "solver": "qr", "stopping": Stopping(max_iter=10)}
    together = levenberg_marquardt(case.problem(n_models=3), starts, **options)
    for model in range(3):
        alone = levenberg_marquardt(case.problem(), starts[model : model + 1], **options)
        np.testing.assert_allclose(objectives(together, model), objectives(alone), rtol=1e-6)


def test_models_with_inputs_and_targets_of_their_own():
    rng = np.random.default_rng(0)
    X, y = tensor(rng.normal(size=(3, 20, 2))), tensor(rng.normal(size=(3, 20, 3)))
    theta, network = SURFACE.starts(3), SURFACE.network()
    stopping = Stopping(max_iter=10, tol=0.2, n_iter_no_change=2)
    together = levenberg_marquardt(make_problem(network, SquaredError(), X, y, n_models=3), theta, stopping=stopping)
    for model in range(3):
        problem = make_problem(network, SquaredError(), X[model], y[model])
        alone = levenberg_marquardt(problem, theta[model : model + 1], stopping=stopping)
        np.testing.assert_allclose(objectives(together, model), objectives(alone), rtol=1e-6)


# -- rows and weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [1, 7, 100, "auto"])
def test_chunks_do_not_change_the_result(max_rows):
    options = {"near": 0.3, "stopping": TIGHT, "acceleration": Geodesic()}
    whole = fit(SURFACE, problem=SURFACE.problem(jacobian_max_rows=None), **options)
    parts = fit(SURFACE, problem=SURFACE.problem(jacobian_max_rows=max_rows), **options)
    np.testing.assert_allclose(parts.score, whole.score, rtol=1e-9)
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(objectives(parts)[:10], objectives(whole)[:10], rtol=1e-9)


def assert_same_fit(one, other, near=0.3):
    """Two problems with one objective: the same path at first, the same optimum in the end."""
    theta = CURVE.starts(2, near=near)
    a, b = (levenberg_marquardt(problem, theta, stopping=TIGHT) for problem in (one, other))
    for model in range(2):
        np.testing.assert_allclose(objectives(a, model)[:10], objectives(b, model)[:10], rtol=1e-8)
    np.testing.assert_allclose(a.score, b.score, rtol=1e-8)
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-8)


@pytest.mark.parametrize("max_rows", [None, 7])
def test_a_row_of_no_weight_is_left_out(max_rows):
    X, y = CURVE.data()
    kept = torch.arange(40) % 4 != 1
    weights = kept.double()
    part = make_problem(CURVE.network(), SquaredError(), X[kept], y[kept], n_models=2)
    assert_same_fit(CURVE.problem(2, weights=weights, jacobian_max_rows=max_rows), part)
    wild = torch.where(kept[:, None], y, 1e6)
    problem = make_problem(CURVE.network(), SquaredError(), X, wild, n_models=2, weights=weights)
    assert_same_fit(problem, part)


@pytest.mark.parametrize("max_rows", [None, 7])
def test_weight_k_is_the_row_k_times(max_rows):
    X, y = CURVE.data()
    repeats = torch.arange(40) % 4
    problem = make_problem(
        CURVE.network(), SquaredError(), X.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0), n_models=2
    )
    assert_same_fit(CURVE.problem(2, weights=repeats.double(), jacobian_max_rows=max_rows), problem)


def test_order_of_rows_does_not_matter():
    X, y = CURVE.data()
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    assert_same_fit(CURVE.problem(2), make_problem(CURVE.network(), SquaredError(), X[order], y[order], n_models=2))


def test_nothing_of_the_callers_is_written_to():
    X, y = SURFACE.data()
    weights, theta = tensor(np.random.default_rng(0).uniform(size=(2, 60))), SURFACE.starts(2)
    alpha, damping = tensor([0.0, 1e-3]), tensor([1e-2, 1e-1])
    given = (X, y, weights, theta, alpha, damping)
    copies = [t.clone() for t in given]
    for options in ({}, {"batches": MiniBatches(60, 13, seed=0)}, {"solver": "dual", "acceleration": Geodesic()}):
        problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=2, weights=weights, alpha=alpha)
        solution = levenberg_marquardt(problem, theta, damping=damping, stopping=Stopping(max_iter=5), **options)
        assert (solution.theta != theta).any()
    array = X.numpy().copy()
    array.flags.writeable = False
    rows = StreamedRows(array, np.zeros(2), np.ones(2), X.device, X.dtype)
    levenberg_marquardt(make_problem(SURFACE.network(), SquaredError(), rows, y, n_models=2), theta)
    for tensors in zip(given, copies, strict=True):
        assert torch.equal(*tensors)


# -- the optimum ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceleration", [None, Geodesic()], ids=["plain", "geodesic"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", [PLANE, CURVE, SURFACE], ids=str)
def test_optimum_is_minpacks(case, strategy, acceleration):
    X, y = case.data()
    theta = case.starts(near=0.3)
    function = reference.perceptron(case.network().sizes, case.activation, X)
    parameters, objective = reference.scipy_optimum(function, theta[0], y)
    solution = levenberg_marquardt(
        case.problem(), theta, strategy=STRATEGIES[strategy](), acceleration=acceleration, stopping=TIGHT
    )
    np.testing.assert_allclose(solution.score, objective, rtol=1e-9)
    np.testing.assert_allclose(solution.theta[0], parameters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_penalised_linear_optimum_is_the_closed_form(solver):
    """Ridge regression with an intercept that is not penalised."""
    X, y = (t.numpy() for t in PLANE.data())
    weights = np.random.default_rng(0).uniform(size=12)
    share = weights / weights.sum()
    X0, y0 = X - share @ X, y - share @ y
    ridge = np.linalg.solve((X0.T * share) @ X0 / 2 + 0.3 * np.eye(3), (X0.T * share) @ y0 / 2)
    problem = PLANE.problem(weights=tensor(weights), alpha=0.3)
    solution = levenberg_marquardt(problem, PLANE.starts(), solver=solver, stopping=TIGHT)
    np.testing.assert_allclose(solution.theta[0, :6].reshape(2, 3), ridge.T, rtol=1e-8)
    np.testing.assert_allclose(solution.theta[0, 6:], share @ y - share @ X @ ridge, rtol=1e-8)


@pytest.mark.parametrize("scaling", ["marquardt", "more"])
@pytest.mark.parametrize(
    ("case", "start"), [(case, start) for case in NIST.values() for start in range(len(case.starts))], ids=str
)
def test_certified_parameters(case, scaling, start):
    problem = case.problem(start)
    options = {"scaling": SCALINGS[scaling], "solver": "qr", "stopping": TIGHT}
    solution = levenberg_marquardt(problem, problem.network.start[None], **options)
    np.testing.assert_allclose(solution.theta[0], case.parameters, rtol=1e-6)
    np.testing.assert_allclose(2 * len(case.y) * solution.score, case.residual_sum, rtol=1e-9)


def test_more_parameters_than_rows_are_fitted_exactly():
    solution = fit(WIDE, 3, max_iter=300)
    assert (solution.score < 1e-15).all()


def test_float32():
    X, y = (t.float() for t in SURFACE.data())
    theta = SURFACE.starts(2, near=0.3)
    problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=2)
    solution = levenberg_marquardt(problem, theta.float(), stopping=Stopping(max_iter=30))
    assert solution.theta.dtype == torch.float32
    np.testing.assert_allclose(solution.score, fit(SURFACE, 2, near=0.3, max_iter=30).score, rtol=1e-4)


# -- mini-batches -----------------------------------------------------------------------------------------------


class Batches(MiniBatches):
    """Count the batches that are taken."""

    taken = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.taken += 1
            yield batch


@pytest.mark.parametrize("solver", ["cholesky", "dual"])
def test_mini_batches_return_the_best_iterate_on_all_rows(solver):
    batches = Batches(60, 7, seed=0)  # six batches of seven rows, three of six
    problem = SURFACE.problem(3)
    solution = fit(SURFACE, 3, near=1.0, solver=solver, batches=batches, max_iter=15)
    assert batches.taken == 15 * 9
    assert solution.n_iter.tolist() == [15] * 3
    curve = solution.history["objective"]
    assert curve.shape == (15, 3)
    assert (np.diff(curve, axis=0) > 0).any()  # an epoch may end higher
    np.testing.assert_array_equal(solution.score, curve.min(axis=0))
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    np.testing.assert_allclose(problem.evaluate(solution.theta).loss, solution.loss, rtol=1e-12)
    assert (solution.score < 0.5 * problem.evaluate(SURFACE.starts(3, near=1.0)).objective.numpy()).all()


def test_one_batch_of_all_rows_is_the_full_fit():
    full = fit(SURFACE, 2, max_iter=12)
    batch = fit(SURFACE, 2, max_iter=12, batches=MiniBatches(60, 60, seed=0))
    np.testing.assert_allclose(batch.history["objective"], full.history["objective"], rtol=1e-6)


def test_mini_batches_are_the_same_for_all_models():
    theta = SURFACE.starts(3)
    options = {"stopping": Stopping(max_iter=4)}
    together = levenberg_marquardt(SURFACE.problem(3), theta, batches=MiniBatches(60, 20, seed=5), **options)
    for model in range(3):
        one = theta[model : model + 1]
        alone = levenberg_marquardt(SURFACE.problem(), one, batches=MiniBatches(60, 20, seed=5), **options)
        np.testing.assert_allclose(objectives(together, model), objectives(alone), rtol=1e-6)


def test_mini_batches_from_a_stream_are_those_of_resident_rows():
    X, y = SURFACE.data()
    rows = StreamedRows(X.numpy(), np.zeros(2), np.ones(2), X.device, X.dtype)
    problem = make_problem(SURFACE.network(), SquaredError(), rows, y, jacobian_max_rows=7)
    curves = [
        fit(SURFACE, problem=p, batches=MiniBatches(60, 20, seed=5), max_iter=4).history["objective"]
        for p in (problem, SURFACE.problem())
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-6)


# -- what is reported -------------------------------------------------------------------------------------------


def test_callback_sees_every_iteration():
    seen = []

    def look(progress):
        best = progress.state.best_score
        seen.append((progress.iteration, progress.n_active, float(best[progress.leader]), float(best.min())))

    solution = fit(SURFACE, 3, callback=look, max_iter=6)
    assert [row[0] for row in seen] == [1, 2, 3, 4, 5, 6]
    assert [row[1] for row in seen] == [3, 3, 3, 3, 3, 0]
    assert all(leader == best for _, _, leader, best in seen)
    assert seen[-1][2] == solution.score.min() == solution.score[solution.best]


@pytest.mark.parametrize("options", [{}, {"batches": MiniBatches(60, 20, seed=0)}], ids=["full", "mini-batches"])
def test_curves_have_an_entry_an_iteration(options):
    stopping = Stopping(max_iter=30, tol=0.1, n_iter_no_change=3)
    solution = fit(SURFACE, 4, stopping=stopping, **options)
    assert len(set(solution.n_iter)) > 1
    assert set(solution.history) == {"objective", "loss", "damping", "validation"}
    for name, curve in solution.history.items():
        assert curve.shape == (max(solution.n_iter), 4)
        lengths = (~np.isnan(curve)).sum(axis=0)
        np.testing.assert_array_equal(lengths, 0 if name == "validation" else solution.n_iter)


def test_last_damping_is_reported():
    solution = fit(CURVE, 2, damping=tensor([0.1, 10.0]), max_iter=3)
    np.testing.assert_array_equal(solution.damping, solution.history["damping"][-1])


def test_the_same_again():
    first, second = (fit(SURFACE, 3, acceleration=Geodesic()) for _ in range(2))
    assert torch.equal(first.theta, second.theta)


def test_defaults():
    solution = levenberg_marquardt(CURVE.problem(), CURVE.starts())
    explicit = levenberg_marquardt(
        CURVE.problem(), CURVE.starts(), damping=1e-2, strategy=GainRatio(), scaling=SCALINGS["identity"]
    )
    assert torch.equal(solution.theta, explicit.theta)
    assert solution.status[0] is not Status.RUNNING


# -- accelerators -----------------------------------------------------------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Take the ways of a device that the host rarely looks at: no shortcuts, finished models are carried along."""

    class Blind(_minimize.Choice):
        def __init__(self, mask):
            super().__init__(mask)
            self.all = self.none = False

    def looks(self, iteration, latest):
        return iteration % _loop.POLL == 0 or latest >= self.stopping.max_iter

    monkeypatch.setattr(_minimize, "Choice", Blind)
    monkeypatch.setattr(_loop, "Choice", Blind)
    monkeypatch.setattr(_minimize._Loop, "on_cpu", False)
    monkeypatch.setattr(_minimize._Loop, "_looks", looks)


VARIANTS = {
    **OPTIONS,
    "mini-batches": {"batches": (60, 20, 5)},
    "validation": {"validation": True},
    "uphill": {"strategy": Uphill()},
}


def fit_variant(name, problem, theta):
    options = dict(VARIANTS[name])
    if "batches" in options:
        options["batches"] = MiniBatches(*options["batches"])
    if "validation" in options:
        options["validation"] = problem.take(np.arange(0, 60, 3))
    stopping = Stopping(max_iter=30, tol=0.03, n_iter_no_change=2)
    return levenberg_marquardt(problem, theta, stopping=stopping, **options)


@pytest.mark.parametrize("name", VARIANTS)
def test_models_carried_along_after_their_end_do_not_change(name, request):
    theta = SURFACE.starts(6, near=0.5)
    expected = fit_variant(name, SURFACE.problem(6), theta)
    request.getfixturevalue("as_on_a_gpu")
    got = fit_variant(name, SURFACE.problem(6), theta)
    assert len(set(expected.n_iter)) > 2
    assert got.status == expected.status
    np.testing.assert_array_equal(got.n_iter, expected.n_iter)
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-8)
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-8)
    torch.testing.assert_close(got.theta, expected.theta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got.damping, expected.damping, rtol=1e-6)
    n = len(expected.history["objective"])
    for curve in ("objective", "loss", "damping", "validation"):
        np.testing.assert_allclose(got.history[curve][:n], expected.history[curve], rtol=1e-6)
        assert np.isnan(got.history[curve][n:]).all()


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("name", OPTIONS)
def test_cuda_follows_the_path_of_the_cpu(name):
    weights = tensor(np.random.default_rng(0).uniform(size=(3, 60)))
    curves, thetas = [], []
    for device in ("cpu", "cuda"):
        X, y = (t.to(device) for t in SURFACE.data())
        problem = make_problem(
            SURFACE.network(), SquaredError(), X, y, n_models=3, weights=weights.to(device), alpha=1e-3
        )
        theta = SURFACE.starts(3, near=0.3).to(device)
        solution = levenberg_marquardt(problem, theta, stopping=Stopping(max_iter=20), **OPTIONS[name])
        assert solution.theta.device.type == device
        curves.append(solution.history["objective"])
        thetas.append(solution.theta.cpu())
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-8)
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-6, atol=1e-8)


@needs_cuda
def test_cuda_models_that_end_between_two_looks():
    """The host looks at the device now and then; what it does not see may not show in the result."""
    stopping = Stopping(max_iter=40, tol=0.03, n_iter_no_change=2)
    solutions = []
    for device in ("cpu", "cuda"):
        X, y = (t.to(device) for t in SURFACE.data())
        problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=5)
        solutions.append(levenberg_marquardt(problem, SURFACE.starts(5, near=0.5).to(device), stopping=stopping))
    cpu, cuda = solutions
    assert cuda.status == cpu.status
    np.testing.assert_array_equal(cuda.n_iter, cpu.n_iter)
    np.testing.assert_allclose(cuda.score, cpu.score, rtol=1e-8)
    n = len(cpu.history["objective"])
    np.testing.assert_allclose(cuda.history["objective"][:n], cpu.history["objective"], rtol=1e-8)
    assert np.isnan(cuda.history["objective"][n:]).all()


@needs_cuda
def test_cuda_module_and_stream():
    case = NIST["Rat42"]
    scores = []
    for device in ("cpu", "cuda"):
        X, y = case.data()
        rows = StreamedRows(X.numpy(), np.zeros(1), np.ones(1), torch.device(device), torch.float64)
        problem = make_problem(case.network(), SquaredError(), rows, y.to(device), jacobian_max_rows=4)
        solution = levenberg_marquardt(
            problem, tensor([case.starts[0]]).to(device), scaling=SCALINGS["more"], solver="qr", stopping=TIGHT
        )
        scores.append(solution.score)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-8)
