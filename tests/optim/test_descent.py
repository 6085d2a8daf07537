"""What all optimizers share with Levenberg-Marquardt: one path a model, reasons to stop, faults, the best iterate."""

import time

import numpy as np
import pytest
import torch

from sklm.architectures import ModuleArchitecture
from sklm.losses import SquaredError
from sklm.optim import (
    OPTIMIZERS,
    SGD,
    Adam,
    MiniBatches,
    Status,
    Stopping,
    StreamedRows,
    _descent,
    _descent_search,
    _loop,
    _optimizers,
    gradient_descent,
    make_problem,
)

from ..problems import CURVE, NIST, SURFACE, Case, Formula, tensor

VARIANTS = {
    **{name: {"optimizer": make()} for name, make in OPTIMIZERS.items()},
    "adam": {"optimizer": Adam(0.05)},
    "sgd": {"optimizer": SGD(0.2)},
    "adam, mini-batches": {"optimizer": Adam(0.05), "batches": (60, 20, 5)},
    "sgd, mini-batches": {"optimizer": SGD(0.05), "batches": (60, 20, 5)},
}


def fit(name, problem, theta, **options):
    chosen = dict(VARIANTS[name])
    if "batches" in chosen:
        chosen["batches"] = MiniBatches(*chosen["batches"])
    return gradient_descent(problem, theta, **chosen, **options)


def folds(n_samples, n_models):
    rows = torch.arange(n_samples)
    return torch.stack([(rows % n_models != model).double() for model in range(n_models)])


# -- models of a batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True], ids=["", "ends apart"])
@pytest.mark.parametrize("name", VARIANTS)
def test_batched_models_follow_the_paths_that_they_follow_alone(name, early):
    problem = SURFACE.problem(5, weights=folds(60, 5), alpha=tensor([0.0, 1e-4, 0, 1e-3, 1e-2]))
    theta = SURFACE.starts(5, near=0.5)
    stopping = Stopping(max_iter=15, tol=0.2, n_iter_no_change=2) if early else Stopping(max_iter=15)
    together = fit(name, problem, theta, stopping=stopping)
    for model in range(5):
        one = torch.tensor([model])
        alone = fit(name, problem.models(one), theta[one], stopping=stopping)
        assert together.n_iter[model] == alone.n_iter[0]
        assert together.status[model] == alone.status[0]
        for curve in ("objective", "loss"):
            got = together.history[curve][: alone.n_iter[0], model]
            np.testing.assert_allclose(got, alone.history[curve][:, 0], rtol=1e-6)
        np.testing.assert_allclose(together.score[model], alone.score[0], rtol=1e-6)
        assert np.isnan(together.history["loss"][alone.n_iter[0] :, model]).all()
    np.testing.assert_allclose(problem.evaluate(together.theta).objective, together.score, rtol=1e-10)
    np.testing.assert_allclose(problem.evaluate(together.theta).loss, together.loss, rtol=1e-10)
    assert together.damping.isnan().all()
    if early:
        assert len(set(together.n_iter)) > 1


@pytest.mark.parametrize("name", VARIANTS)
def test_validation_chooses_the_best_iterate_and_stops(name):
    case = Case("overfit", hidden=(15,), n_samples=120, noise=1.0)
    problem = case.problem(3)
    train, valid = problem.take(np.arange(0, 120, 2)), problem.take(np.arange(1, 120, 2))
    solution = fit(name, train, case.starts(3), validation=valid, stopping=Stopping(max_iter=400, n_iter_no_change=5))
    assert solution.validated
    np.testing.assert_allclose(valid.evaluate(solution.theta).objective, solution.score, rtol=1e-10)
    np.testing.assert_allclose(train.evaluate(solution.theta).loss, solution.loss, rtol=1e-10)
    start = valid.evaluate(case.starts(3)).objective.numpy()
    np.testing.assert_allclose(solution.score, np.minimum(start, np.nanmin(solution.history["validation"], axis=0)))
    assert Status.VALIDATION in solution.status


@pytest.mark.parametrize("name", VARIANTS)
def test_models_carried_along_after_their_end_do_not_change(name, monkeypatch):
    """As on a device that the host rarely looks at."""
    theta, stopping = SURFACE.starts(6, near=0.5), Stopping(max_iter=30, tol=0.05, n_iter_no_change=2)
    expected = fit(name, SURFACE.problem(6), theta, stopping=stopping)

    class Blind(_loop.Choice):
        def __init__(self, mask):
            super().__init__(mask)
            self.all = self.none = False

    for module in (_loop, _descent_search, _optimizers):
        monkeypatch.setattr(module, "Choice", Blind)
    monkeypatch.setattr(_descent._Descent, "on_cpu", False)
    looks = lambda self, iteration, latest: iteration % _loop.POLL == 0 or latest >= self.stopping.max_iter  # noqa: E731
    monkeypatch.setattr(_descent._Descent, "_looks", looks)
    got = fit(name, SURFACE.problem(6), theta, stopping=stopping)
    assert got.status == expected.status
    np.testing.assert_array_equal(got.n_iter, expected.n_iter)
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_models_of_a_module(name):
    case = NIST["Rat42"]
    starts = tensor([case.starts[0], case.starts[1], (60.0, 2.0, 0.05)])
    options = {**VARIANTS[name], "stopping": Stopping(max_iter=10)}
    options.pop("batches", None)
    together = gradient_descent(case.problem(n_models=3), starts, **options)
    assert (together.loss < case.problem(n_models=3).evaluate(starts).loss.numpy()).any()
    for model in range(3):
        alone = gradient_descent(case.problem(), starts[model : model + 1], **options)
        np.testing.assert_allclose(together.score[model], alone.score[0], rtol=1e-6)


# -- rows and weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_chunks_and_streams_do_not_change_the_result(name, monkeypatch):
    X, y = SURFACE.data()
    network, theta, stopping = SURFACE.network(), SURFACE.starts(2), Stopping(max_iter=8)
    whole = fit(name, SURFACE.problem(2), theta, stopping=stopping)
    monkeypatch.setattr(_descent, "chunk_rows", lambda *_: 7)
    parts = fit(name, SURFACE.problem(2), theta, stopping=stopping)
    rows = StreamedRows(X.numpy(), np.zeros(2), np.ones(2), X.device, X.dtype)
    streamed = fit(name, make_problem(network, SquaredError(), rows, y, n_models=2), theta, stopping=stopping)
    for other in (parts, streamed):
        np.testing.assert_allclose(other.history["objective"], whole.history["objective"], rtol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_k_is_the_row_k_times(name):
    X, y = CURVE.data()
    repeats = torch.arange(40) % 4
    X2, y2 = X.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0)
    repeated = make_problem(CURVE.network(), SquaredError(), X2, y2, n_models=2)
    weighted, theta, stopping = CURVE.problem(2, weights=repeats.double()), CURVE.starts(2), Stopping(max_iter=10)
    one, other = (fit(name, problem, theta, stopping=stopping) for problem in (repeated, weighted))
    np.testing.assert_allclose(one.history["objective"], other.history["objective"], rtol=1e-8)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_of_the_callers_is_written_to(name):
    X, y = SURFACE.data()
    weights, theta, alpha = torch.ones(2, 60, dtype=torch.float64), SURFACE.starts(2), tensor([0.0, 1e-3])
    copies = [t.clone() for t in (X, y, weights, theta, alpha)]
    problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=2, weights=weights, alpha=alpha)
    chunks = problem.max_rows
    solution = fit(name, problem, theta, stopping=Stopping(max_iter=3))
    assert solution.moved.all()
    for tensors in zip((X, y, weights, theta, alpha), copies, strict=True):
        assert torch.equal(*tensors)
    assert problem.max_rows == chunks


def test_float32():
    X, y = SURFACE.data()
    problem = make_problem(SURFACE.network(), SquaredError(), X.float(), y.float(), n_models=2)
    for name in VARIANTS:
        solution = fit(name, problem, SURFACE.starts(2).float(), stopping=Stopping(max_iter=5))
        assert solution.theta.dtype == torch.float32
        assert solution.moved.all()


# -- reasons to stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_target_ends_the_other_starts_where_they_belong_together(name):
    problem, theta = SURFACE.problem(3), SURFACE.starts(3)
    worst = float(problem.evaluate(theta).loss.min()) * 0.7
    solution = fit(name, problem, theta, stopping=Stopping(target_loss=worst, together=True, max_iter=300))
    assert Status.TARGET in solution.status
    assert set(solution.status) <= {Status.TARGET, Status.SUPERSEDED}
    assert solution.loss[solution.best] <= worst


@pytest.mark.parametrize("name", VARIANTS)
def test_limits(name):
    problem, theta = SURFACE.problem(2), SURFACE.starts(2)
    endless = {"tol": 0.0, "n_iter_no_change": 10**9}
    assert fit(name, problem, theta, stopping=Stopping(max_iter=3, **endless)).status == [Status.MAX_ITER] * 2
    began = time.monotonic()
    timed = fit(name, problem, theta, stopping=Stopping(max_iter=10**9, max_time=0.05, **endless))
    assert timed.status == [Status.TIME] * 2
    assert time.monotonic() - began < 5
    slow = fit(name, problem, theta, stopping=Stopping(tol=0.9, n_iter_no_change=2))
    assert Status.DECREASE in slow.status


@pytest.mark.parametrize("name", VARIANTS)
def test_callback_and_keyboard(name):
    problem, theta = SURFACE.problem(2), SURFACE.starts(2)
    seen = []

    def stop(progress):
        seen.append((progress.iteration, progress.n_active))
        return progress.iteration == 3

    solution = fit(name, problem, theta, callback=stop)
    assert solution.status == [Status.CALLBACK] * 2
    assert seen == [(1, 2), (2, 2), (3, 2)]

    def interrupt(progress):
        if progress.iteration == 4:
            raise KeyboardInterrupt

    solution = fit(name, problem, theta, callback=interrupt)
    assert solution.status == [Status.INTERRUPTED] * 2
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    start = problem.evaluate(theta).objective.numpy()
    np.testing.assert_allclose(solution.score, np.minimum(start, np.nanmin(solution.history["objective"], axis=0)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_starts_that_are_not_finite(name):
    network = ModuleArchitecture(Formula(lambda x, b: torch.sqrt(b) * x, (1.0,))).build(1, 1)
    x = tensor([[1.0], [2.0]])
    problem = make_problem(network, SquaredError(), x, 3 * x, n_models=3)
    theta = tensor([[-1.0], [0.0], [4.0]])  # not finite, derivative not finite, good
    solution = fit(name, problem, theta, stopping=Stopping(max_iter=20))
    assert solution.status[:2] == [Status.NONFINITE, Status.DERIVATIVE]
    assert torch.equal(solution.theta[:2], theta[:2])
    assert solution.moved.tolist() == [False, False, True]
    assert solution.best == 2
    assert 4 < solution.theta[2] < 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"theta must have shape \(2, 10\)"):
        gradient_descent(CURVE.problem(2), CURVE.starts(3))
    with pytest.raises(ValueError, match=r"optimizer must be one of .*'adam'.* or an Optimizer; got 'adagrad'"):
        gradient_descent(CURVE.problem(), CURVE.starts(), optimizer="adagrad")
    batches = MiniBatches(40, 10, seed=0, memory=40)
    with pytest.raises(ValueError, match="Mini-batches with a memory are for Levenberg-Marquardt"):
        gradient_descent(CURVE.problem(), CURVE.starts(), optimizer="adam", batches=batches)


# -- accelerators -----------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("early", [False, True], ids=["", "ends between two looks"])
@pytest.mark.parametrize("name", VARIANTS)
def test_cuda_follows_the_path_of_the_cpu(name, early):
    stopping = Stopping(max_iter=20, tol=0.2, n_iter_no_change=2) if early else Stopping(max_iter=10)
    solutions = []
    for device in ("cpu", "cuda"):
        X, y = (t.to(device) for t in SURFACE.data())
        problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=4, alpha=1e-3)
        solutions.append(fit(name, problem, SURFACE.starts(4, near=0.3).to(device), stopping=stopping))
        assert solutions[-1].theta.device.type == device
    cpu, cuda = solutions
    assert cuda.status == cpu.status
    np.testing.assert_array_equal(cuda.n_iter, cpu.n_iter)
    n = len(cpu.history["objective"])
    np.testing.assert_allclose(cuda.history["objective"][:n], cpu.history["objective"], rtol=1e-6)
    np.testing.assert_allclose(cuda.score, cpu.score, rtol=1e-6)
