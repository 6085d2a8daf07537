"""Iterations recorded as graphs: the path of the CPU, on a device that refuses to be waited for while it records."""

import numpy as np
import pytest
import torch

from sklm import CNN, MLP, losses
from sklm.optim import (
    Bold,
    GainRatio,
    MiniBatches,
    RateSearch,
    Stopping,
    _graph,
    _isolation,
    _loop,
    _minimize,
    levenberg_marquardt,
    make_problem,
)

from .. import simulated
from ..problems import SURFACE, tensor

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Counted(simulated.Graph):
    """A graph that counts what is done with it."""

    recorded = replayed = 0

    def record(self, work):
        Counted.recorded += 1
        return super().record(work)

    def replay(self):
        Counted.replayed += 1
        super().replay()


@pytest.fixture
def device(monkeypatch):
    """The simulated device, with graphs. Its tensors are no tensors of inference mode."""
    monkeypatch.setattr(_minimize, "isolated", lambda device, inference=False: _isolation.isolated(device))
    monkeypatch.setitem(_graph.GRAPHS, "sim", Counted)
    monkeypatch.setattr(_graph, "RECORD_FOR", 1)
    monkeypatch.setattr(_graph, "RECORD_AFTER", 2)  # before anything is at an optimum, where rounding decides
    Counted.recorded = Counted.replayed = 0
    return simulated.DEVICE


def both(device, build, **options):
    """The solutions on the CPU and on the device of ``build(place) -> problem, theta, options``."""
    solutions = []
    for place in (torch.device("cpu"), device):
        problem, theta, extra = build(place)
        simulated.Log.clear()
        solutions.append(levenberg_marquardt(problem, theta, **extra, **options))
    return solutions


def assert_same_path(cpu, got, rtol=1e-7):
    assert got.status == cpu.status
    np.testing.assert_array_equal(got.n_iter, cpu.n_iter)
    np.testing.assert_allclose(got.score, cpu.score, rtol=rtol)
    np.testing.assert_allclose(got.theta.cpu(), cpu.theta, rtol=1e-5, atol=1e-7)
    n = len(cpu.history["objective"])
    for curve in ("objective", "loss", "damping", "validation"):
        np.testing.assert_allclose(got.history[curve][:n], cpu.history[curve], rtol=1e-6, err_msg=curve)
        assert np.isnan(got.history[curve][n:]).all()


def data(n_inputs, n_outputs, n_samples=60, classes=False):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, n_inputs))
    y = np.abs(np.sin(2 * X[:, :1] + np.arange(n_outputs))) + 0.1
    if classes:
        y = (y > 0.6) * 1.0 if n_outputs == 1 else np.eye(n_outputs)[rng.integers(0, n_outputs, n_samples)]
    return tensor(X), tensor(y)


NETWORKS = {
    "squared": (MLP(8), losses.SquaredError(), 1, 1, 60),
    "several outputs": (MLP((6, 5)), losses.SquaredError(), 2, 5, 60),
    "separable": (MLP(40), losses.SquaredError(), 2, 4, 60),
    "dual": (MLP((20, 20)), losses.SquaredError(), 3, 1, 30),
    "softmax": (MLP(6), losses.SoftmaxCrossEntropy(), 3, 3, 60),
    "logistic": (MLP(6), losses.LogisticLoss(), 3, 1, 60),
    "huber": (MLP(6), losses.Huber(), 3, 1, 60),
    "poisson": (MLP(6), losses.PoissonDeviance(), 3, 1, 60),
    "relu": (MLP(8, activation="relu"), losses.SquaredError(), 2, 1, 60),
    "convolution": (CNN((4,), kernel_size=2, input_shape=(1, 4, 4)), losses.SquaredError(), 16, 1, 200),
    "max pooling": (CNN((3,), kernel_size=2, pooling="max", input_shape=(1, 5, 5)), losses.SquaredError(), 25, 1, 200),
}


@pytest.mark.parametrize("acceleration", [None, "geodesic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_replays_follow_the_path_of_the_cpu(name, acceleration, device):
    architecture, loss, n_inputs, n_outputs, n_samples = NETWORKS[name]
    X, y = data(n_inputs, n_outputs, n_samples, name in ("softmax", "logistic"))

    def build(place):
        network = architecture.build(n_inputs, n_outputs)
        theta = 0.5 * torch.randn(3, network.n_parameters, generator=torch.Generator().manual_seed(1)).double()
        problem = make_problem(network, loss, X.to(place), y.to(place), n_models=3, alpha=1e-4)
        return problem, theta.to(place), {"acceleration": acceleration}

    cpu, got = both(device, build, stopping=Stopping(max_iter=25))
    assert_same_path(cpu, got)
    assert (Counted.recorded, Counted.replayed) == (1, int(got.n_iter.max()) - _graph.RECORD_AFTER)


def surface(n_models, near=0.5, **options):
    def build(place):
        X, y = (t.to(place) for t in SURFACE.data())
        problem = make_problem(SURFACE.network(), losses.SquaredError(), X, y, n_models=n_models)
        extra = dict(options)
        if extra.pop("validated", False):
            extra["validation"] = problem.take(np.arange(0, 60, 3))
        if "batches" in extra:
            extra["batches"] = extra["batches"]()  # they have a state
        return problem, SURFACE.starts(n_models, near=near).to(place), extra

    return build


@pytest.mark.parametrize(
    "options",
    [
        {"stopping": Stopping(max_iter=30, tol=0.03, n_iter_no_change=2)},
        {"stopping": Stopping(max_iter=30, tol=0.03, n_iter_no_change=2), "validated": True},
        {"stopping": Stopping(max_iter=10, race=((5, 4), (8, 1)))},
        {"stopping": Stopping(max_iter=8, race=((8, 1),))},
        {"stopping": Stopping(max_iter=10, target_loss=0.02, together=True)},
        {"acceleration": ["geodesic", "momentum"], "stopping": Stopping(max_iter=9)},
        {"strategy": GainRatio(5.0), "damping": 10.0, "stopping": Stopping(max_iter=9)},
    ],
    ids=["ends apart", "validation", "race", "race at the end", "together", "momentum", "strategy"],
)
def test_what_the_loop_decides_is_decided_alike(options, device):
    cpu, got = both(device, surface(6, **options))
    assert_same_path(cpu, got)
    assert Counted.replayed > 2


def test_finished_models_stay_until_half_are_done(device, monkeypatch):
    """Of twelve, the batch is recorded for at most 12, 6, 3 and 1 of them."""
    monkeypatch.setattr(_loop, "POLL", 1)
    cpu, got = both(device, surface(12, stopping=Stopping(max_iter=30, tol=0.03, n_iter_no_change=2)))
    assert_same_path(cpu, got)
    assert len(set(cpu.n_iter)) > 5
    assert 1 <= Counted.recorded <= 4


def slow(place, **options):
    """A fit that is far from its end after 64 iterations."""
    X, y = (t.to(place) for t in data(2, 1))
    network = MLP(8).build(2, 1)
    theta = torch.randn(2, network.n_parameters, generator=torch.Generator().manual_seed(1)).double()
    problem = make_problem(network, losses.SquaredError(), X, y, n_models=2)
    if options.pop("validated", False):
        options["validation"] = problem.take(np.arange(0, 60, 3))
    return problem, theta.to(place), options


def waits(n_iter, **options):
    """How often the host waited for the device in a fit of so many iterations."""
    problem, theta, extra = slow(simulated.DEVICE, **options)
    simulated.Log.clear()
    stopping = Stopping(max_iter=n_iter, tol=0.0, n_iter_no_change=999, gradient_tol=0.0)
    assert (levenberg_marquardt(problem, theta, stopping=stopping, **extra).n_iter == n_iter).all()
    return len(simulated.Log.waits)


@pytest.mark.parametrize("validated", [False, True])
def test_the_host_waits_only_when_it_looks(validated, device):
    """Every eighth iteration, for one value."""
    assert waits(64, validated=validated) - waits(32, validated=validated) == 4
    assert Counted.recorded == 2


def test_a_replay_takes_the_place_of_the_operations(device, monkeypatch):
    counts = []
    for recorded in (True, False):
        if not recorded:
            monkeypatch.delitem(_graph.GRAPHS, "sim")
        before = []
        for n_iter in (32, 64):
            waits(n_iter)
            before.append(simulated.Log.operations)
        counts.append((before[1] - before[0]) / 32)
    assert counts[0] < 10  # copies of the curves, and the looks
    assert counts[1] > 200


@pytest.mark.parametrize("solver", ["cholesky", "dual"])
def test_the_host_waits_as_little_without_graphs(solver, device, monkeypatch):
    monkeypatch.delitem(_graph.GRAPHS, "sim")
    assert waits(48, solver=solver) - waits(16, solver=solver) == 4


class Looks(GainRatio):
    """A rule of a user, which looks at a value."""

    def update(self, trial, memory):
        float(trial.damping[0])
        return super().update(trial, memory)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": Looks()},
        {"solver": "qr"},
        {"callback": lambda progress: False},
        {"batches": lambda: MiniBatches(60, 20, 5)},
        {"n_dampings": 3},
        {"line_search": RateSearch()},
        {"acceptance": Bold()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_may_look_at_values_is_not_recorded(options, device):
    cpu, got = both(device, surface(2, **options), stopping=Stopping(max_iter=9))
    assert_same_path(cpu, got)
    assert Counted.recorded == 0


class Refusing(simulated.Graph):
    def record(self, work):
        raise RuntimeError("operation not permitted when stream is capturing")


class Full(simulated.Graph):
    def prepare(self, work):
        raise torch.OutOfMemoryError("CUDA out of memory")


class Wrong(simulated.Graph):
    """A graph whose replays go astray, as if memory had been given to somebody else."""

    def replay(self):
        super().replay()
        for function, (target, *_), _, _ in self.steps:
            if function is torch.ops.aten.copy_.default and target.is_floating_point():
                target.mul_(1.001)


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        (Refusing, "not permitted when stream"),
        (Full, "out of memory"),
        (Wrong, "gave something else than the iteration"),
    ],
)
def test_a_device_that_cannot_goes_on_without(graph, match, device, monkeypatch):
    monkeypatch.setitem(_graph.GRAPHS, "sim", graph)
    with pytest.warns(RuntimeWarning, match=match) as record:
        cpu, got = both(device, surface(3), stopping=Stopping(max_iter=9))
    assert_same_path(cpu, got)
    assert len(record) == 1


def test_a_short_rest_is_not_recorded(device, monkeypatch):
    monkeypatch.setattr(_graph, "RECORD_FOR", 6)
    for max_iter, recorded in ((8, 0), (9, 1)):  # the third iteration and six more
        problem, theta, _ = surface(2)(device)
        levenberg_marquardt(problem, theta, stopping=Stopping(max_iter=max_iter))
        assert Counted.recorded == recorded


def test_an_interrupt_in_a_replay_leaves_as_many_entries_as_iterations(device, monkeypatch):
    class Interrupted(simulated.Graph):
        replays = 0

        def replay(self):
            super().replay()
            Interrupted.replays += 1
            if Interrupted.replays == 3:
                raise KeyboardInterrupt

    monkeypatch.setitem(_graph.GRAPHS, "sim", Interrupted)
    problem, theta, _ = slow(device)
    got = levenberg_marquardt(problem, theta, stopping=Stopping(max_iter=30))
    assert [status.name for status in got.status] == ["INTERRUPTED"] * 2
    assert (got.n_iter == np.isfinite(got.history["objective"]).sum(0)).all()
    cpu = levenberg_marquardt(*slow(torch.device("cpu"))[:2], stopping=Stopping(max_iter=int(got.n_iter[0]) + 1))
    assert (got.score >= cpu.score * (1 - 1e-9)).all()


def on_device(*values):
    return [tensor([float(value)]).to(simulated.DEVICE) for value in values]


def test_a_carry_that_changes_places():
    """Fibonacci numbers: the old second is the new first, so that it must be read before it is written over."""

    def function(carry):
        first, second = carry
        return (second, first + second), {"sum": first + second}

    recorded = _graph.Recorded(function, tuple(on_device(1, 1)), simulated.Graph(simulated.DEVICE))
    sums = [recorded.values()[1]["sum"]]
    for _ in range(4):
        recorded.graph.replay()
        sums.append(recorded.values()[1]["sum"])
    assert [float(value) for value in sums] == [2, 3, 5, 8, 13]
    assert [float(value) for value in recorded.values()[0]] == [8, 13]


def test_one_tensor_in_two_places_becomes_two():
    def function(carry):
        return {"moves": carry["moves"] + 1, "stays": carry["stays"]}, {}

    (one,) = on_device(5)
    recorded = _graph.Recorded(function, {"moves": one, "stays": one}, simulated.Graph(simulated.DEVICE))
    recorded.graph.replay()
    carry, _ = recorded.values()
    assert (float(carry["moves"]), float(carry["stays"]), float(one)) == (7, 5, 5)


def test_the_simulated_device_refuses_what_cuda_refuses():
    (a,) = on_device(1)
    with pytest.raises(RuntimeError, match="numpy"):
        a.numpy()
    with pytest.raises(RuntimeError, match="two devices"):
        a + tensor([1.0])
    works = {
        "value": lambda: bool(a > 0),
        "copy": lambda: a.cpu(),
        "copy there": lambda: tensor([1.0]).to(a.device),
        "nonzero": lambda: a.nonzero(),
        "mask": lambda: a[a > 0],
        "put": lambda: a.index_put_((a > 0,), a),
        "equal": lambda: torch.equal(a, a),
        "unique": lambda: a.unique(),
        "check": lambda: torch.linalg.cholesky(a[None]),
        "eigenvalues": lambda: torch.linalg.eigh(a[None]),
    }
    for work in works.values():
        with pytest.raises(RuntimeError, match="waits"):
            simulated.Graph(a.device).record(work)
    before = a.clone()
    simulated.Graph(a.device).record(lambda: a.add_(1))
    assert float(a) == float(before)


@needs_cuda
@pytest.mark.parametrize("acceleration", [None, "geodesic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_graphs_give_what_single_operations_give(name, acceleration, monkeypatch):
    architecture, loss, n_inputs, n_outputs, n_samples = NETWORKS[name]
    X, y = (t.cuda() for t in data(n_inputs, n_outputs, n_samples, name in ("softmax", "logistic")))
    solutions, replays, replay = [], [], _graph.CUDAGraph.replay
    monkeypatch.setattr(_graph.CUDAGraph, "replay", lambda self: (replays.append(1), replay(self)))
    for after in (10**9, 8):
        monkeypatch.setattr(_graph, "RECORD_AFTER", after)
        network = architecture.build(n_inputs, n_outputs)
        theta = 0.5 * torch.randn(3, network.n_parameters, generator=torch.Generator().manual_seed(1)).double().cuda()
        problem = make_problem(network, loss, X, y, n_models=3, alpha=1e-4)
        solutions.append(levenberg_marquardt(problem, theta, acceleration=acceleration, stopping=Stopping(max_iter=25)))
    assert len(replays) == int(solutions[1].n_iter.max()) - 8
    assert_same_path(*solutions, rtol=1e-8)
