"""The dual solver without the Jacobian, against least squares on the rows that ``pullback`` writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklm.architectures import CNN, ModuleArchitecture
from sklm.losses import SquaredError
from sklm.optim import SCALINGS, Geodesic, Stopping, _curvature, _kernel, _linear, levenberg_marquardt, make_problem
from sklm.optim._batch import scatter, select
from sklm.optim._curvature import Workspace, linearise
from sklm.optim._dual import Dual, DualSystem
from sklm.optim._kernel import LayerPart, RowsPart

from .. import reference
from ..problems import tensor
from .systems import ALPHA, CNNS, DAMPING, LOSSES, MLPS, N_MODELS, N_SAMPLES, Rows, close, explicit, make


@pytest.fixture(autouse=True)
def layers_of_small_systems_too(monkeypatch):
    monkeypatch.setattr(_curvature, "SMALL_ROWS", 0)


def compare(problem, theta, scaling):
    """Check the solver against explicit matrices; returns the system."""
    solver = Dual()
    system, _ = linearise(problem, theta, None, solver.accumulator(theta), Workspace())
    scaling = SCALINGS[scaling](system.diagonal, 2 * system.diagonal)
    system = solver.prepare(system, scaling)
    vector = tensor(np.random.default_rng(1).normal(size=theta.shape))
    for damping in (DAMPING, 3 * DAMPING.flip(0)):  # the second as after a rejection
        factor = solver.factorise(system, damping, scaling)
        step, solved, gradient, diagonal, form = explicit(problem, theta, scaling, damping, vector)
        assert factor.ok.all()
        close(factor.step, step)
        close(factor.solve(vector), solved)
        close(factor.quadratic(vector).unsqueeze(1), form)
    close(system.gradient, gradient)
    close(system.diagonal, diagonal)
    return system


@pytest.mark.parametrize("alpha", [0.0, ALPHA], ids=["free", "penalised"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("architecture", [*MLPS.values(), *CNNS.values()], ids=[*MLPS, *CNNS])
def test_steps_are_those_of_explicit_rows(architecture, scaling, alpha):
    system = compare(*make(architecture, alpha=alpha), scaling)
    assert all(isinstance(part, LayerPart) for part in system.parts) or isinstance(architecture, CNN)


@pytest.mark.parametrize("chunk", [4, None])
@pytest.mark.parametrize("architecture", ["two", "pooled", "many filters"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, architecture, chunk):
    compare(*make((MLPS | CNNS)[architecture], loss, jacobian_max_rows=chunk), "identity")


@pytest.mark.parametrize("scaling", ["identity", "marquardt"])
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("architecture", CNNS)
def test_every_way_through_a_convolution(architecture, keep, pairs, scaling, monkeypatch):
    """Rows kept or multiplied out again, pairs of positions or rows, in the smallest blocks."""
    monkeypatch.setattr(LayerPart, "rows_are_smaller", lambda part: keep)
    monkeypatch.setattr(LayerPart, "_pairs_are_quicker", lambda part: pairs)
    monkeypatch.setattr(_kernel, "CPU_BLOCK_BYTES", 1)
    monkeypatch.setattr(_linear, "TRIANGLE_SIZE", 2)
    monkeypatch.setattr(_linear, "TRIANGLE_LEAST", 1)
    system = compare(*make(CNNS[architecture], jacobian_max_rows=5), scaling)
    assert all(isinstance(part, RowsPart) == keep for part in system.parts)


def test_the_test_nets_take_all_ways_by_themselves():
    ways = set()
    for architecture in CNNS.values():
        problem, theta = make(architecture)
        system, _ = linearise(problem, theta, None, Dual().accumulator(theta), Workspace())
        for part in system.parts:
            if isinstance(part, RowsPart):
                ways.add("rows")
            elif part.inputs.shape[2] > 1:
                ways.add("pairs" if part._pairs_are_quicker() else "blocks")
            else:
                ways.add("dense")
    assert ways == {"rows", "pairs", "blocks", "dense"}


@pytest.mark.parametrize("alpha", [0.0, ALPHA], ids=["free", "penalised"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_module_keeps_its_rows(scaling, alpha):
    module = torch.nn.Sequential(torch.nn.Linear(12, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    with torch.inference_mode(False), torch.no_grad():
        problem, theta = make(ModuleArchitecture(module), "huber", alpha, jacobian_max_rows=5)
        assert [type(part) for part in compare(problem, theta, scaling).parts] == [RowsPart]


@pytest.mark.parametrize("alpha", [0.0, ALPHA], ids=["free", "penalised"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("architecture", ["two", "pooled"])
def test_small_systems_keep_their_rows(architecture, scaling, alpha, monkeypatch):
    monkeypatch.undo()
    problem, theta = make((MLPS | CNNS)[architecture], "softmax", alpha, jacobian_max_rows=5)
    assert [type(part) for part in compare(problem, theta, scaling).parts] == [RowsPart]


@pytest.mark.parametrize("architecture", ["two", "pooled"])
def test_one_set_of_rows_a_model(architecture):
    architecture = (MLPS | CNNS)[architecture]
    rng = np.random.default_rng(0)
    X, y = tensor(rng.normal(size=(N_MODELS, N_SAMPLES, 12))), tensor(rng.normal(size=(N_MODELS, N_SAMPLES, 2)))
    network = architecture.build(12, 2)
    problem = make_problem(network, SquaredError(), X, y, n_models=N_MODELS, alpha=ALPHA)
    compare(problem, tensor(0.5 * rng.normal(size=(N_MODELS, network.n_parameters))), "identity")


@pytest.mark.parametrize("alpha", [0.0, ALPHA], ids=["free", "penalised"])
@pytest.mark.parametrize("architecture", ["two", "pooled"])
def test_models_can_be_selected_and_merged(architecture, alpha):
    problem, theta = make((MLPS | CNNS)[architecture], alpha=alpha)
    solver = Dual()
    system, _ = linearise(problem, theta, None, solver.accumulator(theta), Workspace())
    scaling = SCALINGS["identity"](system.diagonal, system.diagonal)
    system = solver.prepare(system, scaling)
    assert len(system.kernels) == (1 if isinstance(alpha, float) else 2)
    whole = solver.factorise(system, DAMPING, scaling)
    index = torch.tensor([2, 0])
    part = select(system, index)
    got = solver.factorise(part, DAMPING[index], scaling[index])
    torch.testing.assert_close(got.step, whole.step[index], rtol=1e-12, atol=0)
    merged = scatter(select(system, torch.tensor([1, 1, 1])), index, part)
    assert torch.equal(solver.factorise(merged, DAMPING, scaling.contiguous()).step[index], whole.step[index])


@pytest.mark.parametrize("n_dampings", [1, 2])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("architecture", ["two", "hidden"])
def test_fits_follow_the_path_of_cholesky(architecture, scaling, n_dampings):
    """With geodesic steps, rejections, and models of a batch that stop at different times."""
    problem, theta = make((MLPS | CNNS)[architecture], "squared", alpha=ALPHA + 1e-3)
    options = {
        "scaling": SCALINGS[scaling],
        "damping": tensor([1e-5, 1e-2, 10]),
        "acceleration": Geodesic(),
        "n_dampings": n_dampings,
        "stopping": Stopping(max_iter=12, tol=0.01, n_iter_no_change=2),
    }
    primal, dual = (levenberg_marquardt(problem, theta, solver=solver, **options) for solver in ("cholesky", "dual"))
    np.testing.assert_allclose(dual.history["objective"], primal.history["objective"], rtol=1e-6)
    np.testing.assert_array_equal(dual.n_iter, primal.n_iter)
    assert (np.diff(primal.history["damping"], axis=0) > 0).any()


def test_kernels_do_not_depend_on_the_damping_under_the_identity(monkeypatch):
    """A rejected step makes no product of matrices anew."""
    problem, theta = make(MLPS["two"])
    solver = Dual()
    system, _ = linearise(problem, theta, None, solver.accumulator(theta), Workspace())
    scaling = SCALINGS["identity"](system.diagonal, system.diagonal)
    system = solver.prepare(system, scaling)
    for part in (LayerPart, RowsPart):
        monkeypatch.delattr(part, "add_plain")
        monkeypatch.delattr(part, "add_weighted")
    assert solver.factorise(system, DAMPING, scaling).ok.all()


def test_so_it_is_in_a_whole_fit(monkeypatch):
    """Also after models were dropped, and after only some of them were linearised anew."""
    problem, theta = make(MLPS["two"], alpha=ALPHA + 1e-3)
    monkeypatch.delattr(DualSystem, "weighted_kernel")
    stopping = Stopping(max_iter=30, tol=0.01, n_iter_no_change=2)
    solution = levenberg_marquardt(problem, theta, solver="dual", damping=tensor([1e-4, 1e-2, 10]), stopping=stopping)
    assert len(set(solution.n_iter)) > 1


def test_single_precision():
    problem, theta = make(MLPS["two"])
    expected = solve(problem, theta)
    problem, theta = make(MLPS["two"])
    single = make_problem(
        problem.network,
        problem.loss,
        problem.rows.X.mT.float(),
        problem.y.mT.float(),
        n_models=N_MODELS,
        weights=problem.weights.float(),
        alpha=ALPHA.float(),
    )
    got = solve(single, theta.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def solve(problem, theta):
    solver = Dual()
    system, _ = linearise(problem, theta, None, solver.accumulator(theta), Workspace())
    scaling = SCALINGS["identity"](system.diagonal, system.diagonal)
    return solver.factorise(solver.prepare(system, scaling), DAMPING.to(theta.dtype), scaling).step


def test_the_reference_is_least_squares():
    """The explicit matrices above, against the stacked problem solved by orthogonal factors."""
    problem, theta = make(MLPS["wide"])
    (rows, _), _ = linearise(problem, theta, None, Rows(), Workspace())
    ones = torch.ones_like(theta)
    step = explicit(problem, theta, ones, DAMPING, ones)[0]
    for b in range(N_MODELS):
        penalty = (problem.alpha[b] * problem.penalty_mask).numpy()
        damped = DAMPING[b].item() * ones[b].numpy()
        expected = reference.damped_step(
            rows[b, :-1].mT.numpy(), rows[b, -1].numpy(), theta[b].numpy(), penalty, damped
        )
        np.testing.assert_allclose(step[b], expected, rtol=1e-8, atol=1e-10)
