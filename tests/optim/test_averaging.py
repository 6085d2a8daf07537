"""Mini-batches with a memory, and randomly drawn curvature, against the formulas written out with autograd."""

import numpy as np
import pytest
import torch

from sklm.architectures import MLP
from sklm.losses import SoftmaxCrossEntropy
from sklm.optim import MiniBatches, Multiplicative, Stopping, _linear, levenberg_marquardt, make_problem
from sklm.optim._solvers import Cholesky

from .. import reference
from ..problems import SURFACE, tensor

DAMPING, ALPHA = 0.2, 0.05


class AcceptAll:
    """Take every step and keep the damping."""

    def start(self, damping):
        return {}

    def update(self, trial, memory):
        return torch.ones_like(trial.gain_ratio, dtype=torch.bool), trial.damping, memory


def run(problem, theta, batches, **options):
    """Last iterate and average after every epoch."""
    seen = []
    solution = levenberg_marquardt(
        problem,
        theta,
        batches=batches,
        callback=lambda p: seen.append((p.state.theta.clone(), p.state.mean_theta.clone())),
        **{"damping": DAMPING, "strategy": AcceptAll(), "stopping": Stopping(max_iter=2, tol=0.0), **options},
    )
    return solution, seen


def formula(theta, size, memory, n_epochs, remembers=True):
    """The same for one model, step by step; ``remembers`` says whether the matrix is averaged, too."""
    X, y = SURFACE.data()
    network, rng = SURFACE.network(), np.random.default_rng(3)
    penalty, n_batches = ALPHA * network.coefficient_mask, -(-60 // size)
    average, mean, step, result = None, theta.numpy().copy(), 0, []
    theta = theta.clone()
    for _ in range(n_epochs):
        for index in np.array_split(rng.permutation(60), n_batches):
            step += 1
            function = reference.perceptron(network.sizes, SURFACE.activation, X[index])
            rows, residual = reference.stacked_rows(function, theta, y[index], tensor(np.ones(len(index))))
            gram = rows.T @ rows + np.diag(penalty)
            rate = min(1.0, max(60 / n_batches / memory, 6 / (step + 5)))
            average = gram if average is None or not remembers else (1 - rate) * average + rate * gram
            gradient = rows.T @ residual + penalty * theta.numpy()
            direction = np.linalg.solve(average + rate * DAMPING * np.eye(len(gram)), -gradient)
            theta = theta + rate * torch.from_numpy(direction)
            share = min(1.0, max(60 / n_batches / (2 * memory), 5 / (step + 4)))
            mean = (1 - share) * mean + share * theta.numpy()
        result.append((theta.numpy(), mean.copy()))
    return result


@pytest.mark.parametrize("solver", ["cholesky", "eigh", "auto", "dual"])
@pytest.mark.parametrize(("size", "memory"), [(10, 40), (15, 1000), (20, 20)])
def test_steps_and_averages_follow_the_formula(size, memory, solver):
    theta = SURFACE.starts(2, near=0.3)
    problem = SURFACE.problem(2, alpha=ALPHA)
    _, seen = run(problem, theta, MiniBatches(60, size, 3, memory), solver=solver)
    for model in range(2):
        expectations = formula(theta[model], size, memory, 2, remembers=solver != "dual")
        for (last, mean), expected in zip(seen, expectations, strict=True):
            np.testing.assert_allclose(last[model], expected[0], rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(mean[model], expected[1], rtol=1e-7, atol=1e-9)


def test_what_is_judged_and_kept_is_the_average():
    problem = SURFACE.problem(alpha=ALPHA)
    solution, seen = run(problem, SURFACE.starts(near=0.3), MiniBatches(60, 10, 3, 40), stopping=Stopping(max_iter=4))
    objectives = [float(problem.evaluate(mean).objective) for _, mean in seen]
    np.testing.assert_allclose(solution.history["objective"][:, 0], objectives, rtol=1e-10)
    best = int(np.argmin(objectives))
    torch.testing.assert_close(solution.theta, seen[best][1])


def test_a_memory_below_the_batch_changes_nothing():
    theta = SURFACE.starts(near=0.3)
    plain, _ = run(SURFACE.problem(), theta, MiniBatches(60, 20, 3))
    short, _ = run(SURFACE.problem(), theta, MiniBatches(60, 20, 3, 10), solver="cholesky")
    np.testing.assert_allclose(short.history["objective"], plain.history["objective"], rtol=1e-8)


def test_a_model_of_a_batch_is_as_alone():
    theta, options = SURFACE.starts(3, near=1.0), {"strategy": Multiplicative(), "stopping": Stopping(max_iter=6)}
    together, _ = run(SURFACE.problem(3), theta, MiniBatches(60, 10, 3, 40), **options)
    for model in range(3):
        alone, _ = run(SURFACE.problem(), theta[model : model + 1], MiniBatches(60, 10, 3, 40), **options)
        torch.testing.assert_close(together.theta[model : model + 1], alone.theta, rtol=1e-7, atol=1e-9)


def test_damping_never_falls_below_the_prior():
    """The first damping counts once: in full for the first memory of rows, and ever less for what comes after."""
    batches = MiniBatches(60, 10, 3, 40)
    solution, _ = run(
        SURFACE.problem(),
        SURFACE.starts(near=0.3),
        batches,
        strategy=Multiplicative(),
        stopping=Stopping(max_iter=5),
    )
    steps = 6 * np.arange(1, 6)
    prior = DAMPING * np.array([min(1, 1 / (step * batches.rate(step))) for step in steps])
    damping = solution.history["damping"][:, 0]
    assert (damping >= prior * (1 - 1e-12)).all()
    assert damping[-1] < DAMPING


def test_without_an_average_of_the_matrix_the_damping_stays_above_the_first_one():
    options = {"strategy": Multiplicative(), "stopping": Stopping(max_iter=5), "solver": "dual"}
    solution, _ = run(SURFACE.problem(), SURFACE.starts(near=0.3), MiniBatches(60, 10, 3, 40), **options)
    assert (solution.history["damping"] >= DAMPING).all()


@pytest.mark.parametrize("solver", ["qr", "cg"])
def test_other_solvers_are_refused(solver):
    with pytest.raises(ValueError, match="Averaging over mini-batches needs solver='cholesky', 'eigh' or 'dual'"):
        run(SURFACE.problem(), SURFACE.starts(), MiniBatches(60, 10, 3, 40), solver=solver)


# -- drawn curvature ---------------------------------------------------------------------------------------------


def classes(n_models=1, n_draws=1, **options):
    rng = np.random.default_rng(0)
    X = tensor(rng.normal(size=(80, 3)))
    y = torch.eye(4, dtype=torch.float64)[torch.from_numpy(rng.integers(0, 4, 80))]
    network = MLP(5).build(3, 4)
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    loss = SoftmaxCrossEntropy(curvature="sampled" if n_draws else "exact", curvature_samples=max(n_draws, 1))
    return make_problem(network, loss, X, y, n_models=n_models, alpha=0.01, **options), theta


def curve(problem, theta, **options):
    options = {"stopping": Stopping(max_iter=15, tol=0.0), "seed": 5, **options}
    return levenberg_marquardt(problem, theta, **options).history["objective"]


@pytest.mark.parametrize("n_draws", [1, 3])
def test_chunks_and_company_do_not_change_the_draws(n_draws):
    problem, theta = classes(3, n_draws)
    whole = curve(problem, theta)
    chunks, _ = classes(3, n_draws, jacobian_max_rows=7)
    np.testing.assert_allclose(curve(chunks, theta), whole, rtol=1e-7)
    for model in range(3):
        alone = curve(problem.models(torch.tensor([model])), theta[model : model + 1])
        np.testing.assert_allclose(alone[:, 0], whole[:, model], rtol=1e-7)
    assert not np.allclose(curve(problem, theta, seed=6), whole, rtol=1e-7)


@pytest.mark.parametrize("solver", ["cholesky", "eigh", "dual"])
def test_solvers_agree_on_drawn_curvature(solver):
    problem, theta = classes(2, 2)
    np.testing.assert_allclose(curve(problem, theta, solver=solver), curve(problem, theta), rtol=1e-6)


def test_drawn_curvature_reaches_a_minimum_of_the_exact_objective():
    problem, theta = classes(1, 1)
    exact, _ = classes(1, 0)
    options = {"stopping": Stopping(max_iter=400, tol=0.0), "seed": 5}
    drawn = levenberg_marquardt(problem, theta, **options)
    further = levenberg_marquardt(exact, drawn.theta, **options)
    np.testing.assert_allclose(drawn.score, further.score, rtol=1e-9)
    values = drawn.history["objective"][:, 0]
    assert (np.diff(values[np.isfinite(values)]) <= 0).all()
    assert drawn.score < 0.5 * values[0]


def test_batches_with_drawn_curvature_are_halved_and_a_model_of_several_is_as_alone():
    class Watched(Cholesky):
        def accumulator(self, theta):
            inner = super().accumulator(theta)
            add, inner.add = inner.add, lambda rows: (widths.append(rows.shape[2]), add(rows))
            return inner

    problem, theta = classes(3, 1)
    options = {"seed": 5, "solver": Watched(), "damping": 1.0, "stopping": Stopping(max_iter=4, tol=0.0)}
    for memory, width in ((60, 10), (None, 20)):
        widths = []
        batches = [MiniBatches(80, 20, 3, memory) for _ in range(4)]
        together = levenberg_marquardt(problem, theta, batches=batches[3], **options)
        assert set(widths) == {width}
        for model in range(3):
            index = torch.tensor([model])
            alone = levenberg_marquardt(problem.models(index), theta[index], batches=batches[model], **options)
            torch.testing.assert_close(together.theta[index], alone.theta, rtol=1e-6, atol=1e-8)


def test_qr_is_refused():
    problem, theta = classes()
    with pytest.raises(ValueError, match="solver='qr' cannot be used with randomly drawn curvature"):
        curve(problem, theta, solver="qr")


def test_lower_triangle_in_blocks_is_the_same_system(monkeypatch):
    problem, theta = classes(2, 0, jacobian_max_rows=30)
    expected = {solver: curve(problem, theta, solver=solver) for solver in ("cholesky", "eigh")}
    monkeypatch.setattr(_linear, "TRIANGLE_SIZE", 2)
    monkeypatch.setattr(_linear, "TRIANGLE_LEAST", 1)
    for solver, whole in expected.items():
        np.testing.assert_allclose(curve(problem, theta, solver=solver), whole, rtol=1e-7)
