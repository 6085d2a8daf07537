from dataclasses import replace

import numpy as np
import pytest
import torch

from sklm.architectures import CNN, MLP
from sklm.losses import SoftmaxCrossEntropy, SquaredError
from sklm.optim import make_problem, stack_problems

from .. import reference
from ..problems import CASES, CURVE, SURFACE, tensor


def objective(case, theta, weights, alpha):
    """``F(theta)`` of one model, written out."""
    X, y = case.data()
    network = case.network()
    outputs = reference.perceptron(network.sizes, case.activation, X)(theta)
    loss = ((outputs - y) ** 2).mean(1) / 2
    coefficients = theta[torch.from_numpy(network.coefficient_mask)]
    return float((weights * loss).sum() / weights.sum() + alpha / 2 * coefficients.square().sum())


@pytest.mark.parametrize("max_rows", [7, None])
@pytest.mark.parametrize("case", CASES.values(), ids=str)
def test_objective_is_the_weighted_mean_loss_plus_penalty(case, max_rows):
    rng = np.random.default_rng(0)
    weights, alpha = tensor(rng.uniform(size=(3, case.n_samples))), tensor([0.0, 0.1, 2.0])
    problem = case.problem(3, weights=weights, alpha=alpha, jacobian_max_rows=max_rows)
    theta = case.starts(3)
    point = problem.evaluate(theta)
    expected = [objective(case, *row) for row in zip(theta, weights, alpha, strict=True)]
    np.testing.assert_allclose(point.objective, expected, rtol=1e-12)
    unpenalised = [objective(case, *row, 0.0) for row in zip(theta, weights, strict=True)]
    np.testing.assert_allclose(point.loss, unpenalised, rtol=1e-12)
    torch.testing.assert_close(problem.evaluate(theta, keep=False).objective, point.objective, rtol=1e-14, atol=0)


def test_memory_of_an_old_evaluation_may_be_reused():
    problem = SURFACE.problem(3, jacobian_max_rows=20)
    old, theta = problem.evaluate(SURFACE.starts(3, seed=1)), SURFACE.starts(3)
    fresh = problem.evaluate(theta).objective
    assert torch.equal(problem.evaluate(theta, reuse=old.forwards).objective, fresh)


def test_loss_is_reported_in_squared_units_of_the_targets():
    X, y = SURFACE.data()
    scale = tensor([1.0, 10.0, 100.0])
    problem = make_problem(SURFACE.network(), SquaredError(), X, y, output_scale=scale)
    theta = SURFACE.starts()
    error = (problem.network.forward(theta, X.mT.contiguous()).outputs[0].mT - y) * scale
    np.testing.assert_allclose(problem.evaluate(theta).loss, [error.square().mean() / 2], rtol=1e-12)


def test_scale_of_the_weights_does_not_matter():
    weights = tensor(np.random.default_rng(0).uniform(size=CURVE.n_samples))
    theta = CURVE.starts()
    values = [CURVE.problem(weights=scale * weights).evaluate(theta).objective for scale in (1.0, 1e-200, 1e200)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(values[2], values[0], rtol=1e-12, atol=0)


def test_every_model_may_have_its_own_rows_and_targets():
    theta, rng = SURFACE.starts(3), np.random.default_rng(0)
    X, y = tensor(rng.normal(size=(3, 8, 2))), tensor(rng.normal(size=(3, 8, 3)))
    network = SURFACE.network()
    together = make_problem(network, SquaredError(), X, y, n_models=3).evaluate(theta)
    for model in range(3):
        alone = make_problem(network, SquaredError(), X[model], y[model]).evaluate(theta[model : model + 1])
        torch.testing.assert_close(together.objective[model], alone.objective[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("max_rows", [1, 7, 40, 100, None, "auto"])
def test_chunks_are_all_rows_once_in_order(max_rows):
    X, y = CURVE.data()
    weights = torch.arange(1.0, 41, dtype=torch.float64)
    chunks = list(CURVE.problem(weights=weights, jacobian_max_rows=max_rows).chunks())
    for parts, whole in zip(
        zip(*((c.X, c.y, c.weights, c.root_weights) for c in chunks), strict=True),
        (X.mT, y.mT, weights[None] / 820, (weights[None] / 820).sqrt()),
        strict=True,
    ):
        torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=1e-15, atol=0)
    if isinstance(max_rows, int):
        assert max(c.X.shape[-1] for c in chunks) == min(max_rows, 40)


def test_take_restricts_rows_and_normalises_weights_again():
    weights = tensor(np.random.default_rng(0).uniform(size=(2, 40)))
    problem, theta, index = CURVE.problem(2, weights=weights, alpha=0.1), CURVE.starts(2), np.array([30, 3, 4, 11])
    X, y = CURVE.data()
    expected = make_problem(
        CURVE.network(), SquaredError(), X[index], y[index], n_models=2, weights=weights[:, index], alpha=0.1
    )
    part = problem.take(index)
    assert part.n_samples == 4
    torch.testing.assert_close(part.evaluate(theta).objective, expected.evaluate(theta).objective, rtol=1e-13, atol=0)


def test_take_of_rows_without_weight_is_finite():
    weights = torch.ones(40, dtype=torch.float64)
    weights[:5] = 0
    assert CURVE.problem(weights=weights).take(np.arange(5)).evaluate(CURVE.starts()).objective.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
def test_models_restricts_to_some_models(shared):
    rng, n_models = np.random.default_rng(0), 4
    shape = () if shared else (n_models,)
    X, y = tensor(rng.normal(size=(*shape, 9, 2))), tensor(rng.normal(size=(*shape, 9, 3)))
    weights = tensor(rng.uniform(size=9 if shared else (n_models, 9)))
    alpha = tensor(rng.uniform(size=n_models))
    problem = make_problem(SURFACE.network(), SquaredError(), X, y, n_models=n_models, weights=weights, alpha=alpha)
    theta, index = SURFACE.starts(n_models), torch.tensor([2, 0])
    torch.testing.assert_close(
        problem.models(index).evaluate(theta[index]).objective, problem.evaluate(theta).objective[index]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.zeros(40)}, r"y must have shape \(N, K\)"),
        ({"y": torch.zeros(39, 1)}, "with N = 40"),
        ({"y": torch.zeros(40, 2)}, "2 columns but the network has 1 outputs"),
        ({"weights": torch.ones(39)}, "weights must be"),
        ({"weights": torch.ones(3, 40)}, "weights must be"),
        ({"weights": -torch.ones(40)}, "non-negative"),
        ({"weights": torch.zeros(40)}, "positive sum"),
        ({"weights": torch.cat([torch.ones(1, 40), torch.zeros(1, 40)])}, "positive sum for every model"),
        ({"weights": torch.full((40,), torch.nan)}, "non-negative"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    X, y = CURVE.data()
    options = {"network": CURVE.network(), "loss": SquaredError(), "X": X, "y": y, "n_models": 2, **change}
    with pytest.raises(ValueError, match=message):
        make_problem(**options)


def several(case, own, max_rows="auto"):
    """Problems of 1, 2 and 1 models, and start points for all of them."""
    X, y = case.data()
    rng, problems = np.random.default_rng(3), []
    for k, n_models in enumerate((1, 2, 1)):
        weights = tensor(rng.uniform(0.1, 1, case.n_samples)) if own else None
        inputs, targets = (X * (1 + k), y + k) if own else (X, y)
        scale = tensor(np.full(case.n_outputs, 1.0 + k if own else 2.0))
        problems.append(
            make_problem(
                case.network(),
                SquaredError(),
                inputs,
                targets,
                n_models=n_models,
                weights=weights,
                alpha=0.1 * k,
                output_scale=scale,
                jacobian_max_rows=max_rows,
            )
        )
    return problems, case.starts(4)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("max_rows", [7, None])
def test_stacked_problems_are_those_that_went_in(own, max_rows):
    problems, theta = several(SURFACE, own, max_rows)
    stacked = stack_problems(problems, max_rows)
    assert stacked.rows.chunk(0, 5).ndim == (3 if own else 2)
    assert stacked.weights.shape == (4 if own else 1, SURFACE.n_samples)
    index = np.array([3, 1, 20, 8])
    for whole, part in ((stacked, problems), (stacked.take(index), [p.take(index) for p in problems])):
        got, start = whole.evaluate(theta), 0
        for problem in part:
            stop = start + len(problem.alpha)
            expected = problem.evaluate(theta[start:stop])
            torch.testing.assert_close(got.objective[start:stop], expected.objective, rtol=1e-13, atol=0)
            torch.testing.assert_close(got.loss[start:stop], expected.loss, rtol=1e-13, atol=0)
            start = stop
    some = stacked.models(torch.tensor([2, 3])).evaluate(theta[2:])
    torch.testing.assert_close(some.loss, stacked.evaluate(theta).loss[2:], rtol=1e-13, atol=0)
    torch.testing.assert_close(some.objective, stacked.evaluate(theta).objective[2:], rtol=1e-13, atol=0)


def test_chunks_without_rows_are_sized_by_activations():
    """Of 2 000 rows and 90 000 parameters, 64 Jacobian rows fill the cache, activations of 1000 do not."""
    X = torch.zeros(2000, 3, dtype=torch.float64)
    problem = make_problem(MLP((300, 300)).build(3, 1), SquaredError(), X, X[:, :1])
    assert problem.max_rows == 64
    assert 1000 < problem.layerwise().max_rows <= 2000
    small = problem.take(np.arange(10)).layerwise()
    assert small.max_rows == small.n_samples == 10
    fixed = make_problem(MLP(3).build(3, 1), SquaredError(), X, X[:, :1], jacobian_max_rows=7)
    assert fixed.max_rows == fixed.layerwise().max_rows == 7


# -- rows drawn by what they matter --------------------------------------------------------------------------------


def classes(architecture, shared=True, n_models=3, **options):
    """41 rows of 12 inputs with weights, two of them zero, 3 classes."""
    rng = np.random.default_rng(0)
    X = tensor(rng.normal(size=(41, 12) if shared else (n_models, 41, 12)))
    y = tensor(np.eye(3)[rng.integers(0, 3, 41)])
    weights = rng.uniform(0.5, 2, (n_models, 41))
    weights[:, [0, 40]] = 0
    network, loss = architecture.build(12, 3), SoftmaxCrossEntropy(curvature="sampled")
    theta = tensor(rng.normal(size=(n_models, network.n_parameters)))
    return make_problem(network, loss, X, y, n_models=n_models, weights=tensor(weights), **options), theta


KINDS = [MLP(4), CNN(2, kernel_size=2, input_shape=(1, 3, 4))]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("architecture", KINDS, ids=["MLP", "CNN"])
def test_rows_are_drawn_as_often_as_they_matter_with_weights_that_undo_it(architecture, shared):
    problem, theta = classes(architecture, shared)
    gap = problem.loss.gradient(problem.evaluate(theta).forwards[0].outputs, problem.y).square().sum(1).sqrt()
    for seed in range(5):
        part = problem.informative(theta, [seed])
        assert part.n_samples == 21
        for model in range(3):
            weights, X = problem.weights[model], problem.rows.chunk(0, 41).expand(3, -1, -1)[model]
            mean = (weights * gap[model]).sum() / weights.sum()
            expected = weights * (0.8 * gap[model] / mean + 0.2)
            expected = 21 * expected / expected.sum()
            drawn = part.rows.chunk(0, 21)[model]
            index = (drawn.mT[:, None] == X.mT).all(2).nonzero()[:, 1]
            times = torch.bincount(index, minlength=41)
            assert ((times >= expected.floor()) & (times <= expected.ceil())).all()
            torch.testing.assert_close(part.weights[model], (weights / expected)[index])
            torch.testing.assert_close(part.y[model], problem.y[:, index])


@pytest.mark.parametrize("architecture", KINDS, ids=["MLP", "CNN"])
def test_rows_drawn_by_what_they_matter_do_not_depend_on_company_or_chunks(architecture):
    problem, theta = classes(architecture)
    together = problem.informative(theta, [7])
    pieces, _ = classes(architecture, jacobian_max_rows=6)
    torch.testing.assert_close(pieces.informative(theta, [7]).weights, together.weights)
    for model in range(3):
        alone = problem.models(torch.tensor([model])).informative(theta[model : model + 1], [7])
        assert torch.equal(alone.rows.chunk(0, 21), together.rows.chunk(0, 21)[model])
        torch.testing.assert_close(alone.weights, together.weights[model : model + 1])
        value = alone.evaluate(theta[model : model + 1]).objective
        torch.testing.assert_close(value, together.evaluate(theta).objective[model : model + 1])


def test_sums_over_rows_drawn_by_what_they_matter_are_right_in_the_mean():
    problem, theta = classes(KINDS[0])
    loss = torch.stack([problem.informative(theta, [seed]).evaluate(theta).loss for seed in range(200)])
    torch.testing.assert_close(loss.mean(0), problem.evaluate(theta).loss, rtol=0.01, atol=0)
    uniform = torch.stack(
        [
            problem.take(np.random.default_rng(seed).permutation(41)[:21], True).evaluate(theta).loss
            for seed in range(200)
        ]
    )
    assert (loss.std(0) < 0.5 * uniform.std(0)).all()


def test_where_no_row_matters_all_are_drawn_alike():
    problem, theta = classes(MLP(4), n_models=1)
    theta[:, -3:] = tensor([1e4, 0.0, -1e4])
    part = replace(problem, y=torch.eye(3, dtype=torch.float64)[0, :, None].expand(3, 41)).informative(theta, [0])
    torch.testing.assert_close(part.weights, torch.full((1, 21), 1 / 21, dtype=torch.float64))
