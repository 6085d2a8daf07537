"""Which parameters move: rows that are computed, choices that are made, and architectures of every kind."""

import numpy as np
import pytest
import torch
from torch import nn

from sklm.architectures import CNN, MLP, ModuleArchitecture, Network
from sklm.losses import LogisticLoss, SoftmaxCrossEntropy, SquaredError
from sklm.optim import SELECTIONS, Layers, Mask, RandomSubset, Status, Stopping, levenberg_marquardt, make_problem
from sklm.optim._cg import ConjugateGradients

from ..problems import CURVE, NIST, PLANE, SURFACE, tensor


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


ARCHITECTURES = {
    "mlp": MLP((3, 4)),
    "cnn": CNN(conv_channels=(2, 3), kernel_size=2, padding=(1, 0), stride=1, input_shape=(1, 2, 2)),
    "module": ModuleArchitecture(module()),
}


def network_and_rows(name, n_models, shared=True):
    network = ARCHITECTURES[name].build(4, 2)
    rng = np.random.default_rng(0)
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    X = tensor(rng.normal(size=(7, 4) if shared else (n_models, 7, 4)))
    return network, theta, X.mT if network.samples_first else X.mT.contiguous()


def numbers_of(network):
    """Nothing of some layers, all of others, single weights or biases."""
    groups, n = network.parameter_groups(), network.n_parameters
    yield from groups
    yield np.concatenate([groups[0], groups[-1]])
    yield np.array([0])
    yield np.array([n - 1])
    yield np.arange(1, n, 2)
    yield np.arange(n)
    yield np.array([3, groups[-1][0], n - 2])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_some_parameters_are_those_of_the_whole_jacobian(name, n_models, shared):
    network, theta, X = network_and_rows(name, n_models, shared)
    forward = network.forward(theta, X)
    for lead in (1, n_models):
        cotangents = tensor(np.random.default_rng(1).normal(size=(lead, 2, 3, 7)))

        def buffer(size):
            if network.samples_first:
                return torch.full((n_models, 7, 3, size), torch.nan, dtype=theta.dtype).permute(0, 3, 2, 1)
            return torch.full((n_models, size, 3, 7), torch.nan, dtype=theta.dtype)

        whole = buffer(network.n_parameters)
        network.pullback(theta, X, forward, cotangents, whole)
        for numbers in numbers_of(network):
            # the network's own, and the one that networks without one inherit
            for function in (type(network).pullback_of, Network.pullback_of):
                some = buffer(len(numbers))
                function(network, numbers, theta.device)(theta, X, forward, cotangents, some)
                torch.testing.assert_close(some, whole[:, numbers], rtol=1e-12, atol=1e-14)


def test_layers_that_nothing_is_asked_of_are_not_touched(monkeypatch):
    """Training the last layer alone carries nothing back through the network."""
    for name, function in (("mlp", "_mlp._back"), ("cnn", "_layers.Convolution.back")):
        network, theta, X = network_and_rows(name, 1)
        calls = []
        monkeypatch.setattr(f"sklm.architectures.{function}", lambda *a, calls=calls: calls.append(a))
        numbers = network.parameter_groups()[-1]
        out = torch.empty(1, 7, 2, len(numbers), dtype=theta.dtype).permute(0, 3, 2, 1)
        if not network.samples_first:
            out = out.contiguous()
        cotangents = torch.ones(1, 2, 2, 7, dtype=theta.dtype)
        network.pullback_of(numbers, theta.device)(theta, X, network.forward(theta, X), cotangents, out)
        assert calls == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_groups_are_the_layers(name):
    network = ARCHITECTURES[name].build(4, 2)
    groups = network.parameter_groups()
    np.testing.assert_array_equal(Network.parameter_groups(network)[0], np.arange(network.n_parameters))
    assert len(groups) == {"mlp": 3, "cnn": 3, "module": 2}[name]
    np.testing.assert_array_equal(np.concatenate(groups), np.arange(network.n_parameters))
    assert len(groups[-1]) == {"mlp": 10, "cnn": groups[-1].size, "module": 8}[name]
    assert not network.coefficient_mask[groups[-1]][-2:].any()  # ends in the biases of two outputs
    assert network.coefficient_mask[groups[-1]][:-2].all()


@pytest.mark.parametrize("solver", ["cholesky", "qr", "dual", "auto", ConjugateGradients(1e-12, 1000)], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_frozen_parameters_do_not_change_and_the_rest_reaches_its_optimum(name, solver):
    """The last layer alone is a linear least-squares problem, penalised."""
    network, theta, X = network_and_rows(name, 2)
    y = tensor(np.random.default_rng(2).normal(size=(7, 2)))
    mask = np.zeros(network.n_parameters, dtype=bool)
    mask[network.parameter_groups()[-1]] = True
    problem = make_problem(network, SquaredError(), X.mT, y, n_models=2, alpha=0.1)
    solution = levenberg_marquardt(
        problem,
        theta,
        param_selection=Mask(mask),
        solver=solver,
        stopping=Stopping(max_iter=100, tol=0.0, gradient_tol=1e-12),
    )
    np.testing.assert_array_equal(solution.theta[:, ~mask], theta[:, ~mask])
    assert all(status.converged for status in solution.status)
    numbers = np.flatnonzero(mask)
    start = theta[0].clone().index_fill(0, torch.from_numpy(numbers), 0.0)

    def outputs(at):
        return network.forward(at[None], X).outputs[0].mT.reshape(-1).numpy()

    base = outputs(start)
    design = np.stack([outputs(start.clone().index_fill(0, torch.tensor([k]), 1.0)) - base for k in numbers], axis=1)
    penalty = np.diag(0.1 * network.coefficient_mask[numbers])
    ridge = np.linalg.solve(design.T @ design / 14 + penalty, design.T @ (y.reshape(-1).numpy() - base) / 14)
    np.testing.assert_allclose(solution.theta[0, mask], ridge, rtol=1e-6, atol=1e-7)
    assert problem.evaluate(theta).objective[0] > solution.score[0] + 0.01


@pytest.mark.parametrize("rule", [RandomSubset(0.3), RandomSubset(4), Layers("random"), Layers("reversed")], ids=str)
@pytest.mark.parametrize("case", [CURVE, SURFACE], ids=str)
def test_changing_parts_end_at_the_optimum_of_all(case, rule):
    problem, theta = case.problem(2), case.starts(2, near=0.05)
    tight = Stopping(max_iter=400, tol=1e-6, n_iter_no_change=60)
    whole = levenberg_marquardt(problem, theta, stopping=tight)
    parts = levenberg_marquardt(problem, theta, stopping=tight, param_selection=rule)
    np.testing.assert_allclose(parts.score, whole.score, rtol=0.2)
    assert (parts.score < 0.7 * problem.evaluate(theta).objective.numpy()).all()


def test_a_subset_without_gradient_does_not_end_the_fit():
    """Weights of an input that is always zero are drawn now and then."""
    X, y = CURVE.data()
    problem = make_problem(MLP((3,)).build(2, 1), SquaredError(), torch.cat([X, torch.zeros_like(X)], dim=1), y)
    theta = tensor(np.random.default_rng(3).normal(size=(1, 13)))
    numbers = [RandomSubset(1).choose(problem.network, step, 0)[0] for step in range(60)]
    assert {1, 3, 5} & set(numbers[:20])
    solution = levenberg_marquardt(problem, theta, param_selection=RandomSubset(1), stopping=Stopping(max_iter=60))
    assert solution.status == [Status.MAX_ITER]


@pytest.mark.parametrize("loss", [LogisticLoss(), SoftmaxCrossEntropy(curvature="sampled")], ids=["logistic", "drawn"])
def test_with_other_losses(loss):
    network, theta, X = network_and_rows("mlp", 1)
    y = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0, 1, 0, 1]), 2).double()
    problem = make_problem(network, loss, X.mT, y, alpha=0.01)
    solution = levenberg_marquardt(problem, theta, param_selection=Layers(), stopping=Stopping(max_iter=40))
    assert solution.score[0] < 0.7 * float(problem.evaluate(theta).objective)


def test_what_is_drawn():
    network = SURFACE.network()
    n, rule = network.n_parameters, RandomSubset(0.3)
    assert rule.check(network) == round(0.3 * n)
    draws = [rule.choose(network, step, 1) for step in range(200)]
    for numbers in draws:
        assert len(numbers) == round(0.3 * n)
        assert (np.diff(numbers) > 0).all()
    share = np.bincount(np.concatenate(draws), minlength=n) / 200
    np.testing.assert_allclose(share, 0.3, atol=0.13)
    np.testing.assert_array_equal(draws[5], rule.choose(network, 5, 1))
    assert not np.array_equal(draws[5], rule.choose(network, 5, 2))


def test_orders_of_layers():
    network = SURFACE.network()
    first = [group[0] for group in network.parameter_groups()]
    starts = {
        order: [Layers(order).choose(network, step, 3)[0] for step in range(9)]
        for order in ("cyclic", "reversed", "random")
    }
    assert starts["cyclic"] == first * 3
    assert starts["reversed"] == first[::-1] * 3
    for turn in range(3):
        assert sorted(starts["random"][3 * turn : 3 * turn + 3]) == first
    assert starts["random"] not in (first * 3, first[::-1] * 3)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (RandomSubset(0.0), "share above 0"),
        (RandomSubset(1.5), "share above 0"),
        (RandomSubset(0), "number of parameters up to 10"),
        (RandomSubset(11), "number of parameters up to 10"),
        (RandomSubset(True), "share above 0"),
        (Layers("backwards"), "order must be"),
        (Mask(np.ones(9, dtype=bool)), r"shape \(10,\).*\(9,\)"),
        (Mask(np.ones(10)), "dtype bool"),
        (Mask([False] * 10), "nothing to fit"),
    ],
)
def test_what_does_not_fit_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), param_selection=rule)


@pytest.mark.parametrize("case", [PLANE, NIST["Misra1a"]], ids=["linear", "formula"])
def test_one_layer_cannot_take_turns(case):
    problem = case.problem()
    with pytest.raises(ValueError, match="one layer only"):
        Layers().check(problem.network)


def test_registry():
    assert {name: make() for name, make in SELECTIONS.items()} == {"random": RandomSubset(0.5), "layers": Layers()}
