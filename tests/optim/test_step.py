"""Every rule of a step against a slow loop in numpy, alone and together."""

import numpy as np
import pytest
import torch

from sklm.optim import (
    SCALINGS,
    SOLVERS,
    Armijo,
    Bold,
    Geodesic,
    Layers,
    Mask,
    MiniBatches,
    Momentum,
    Multiplicative,
    RandomSubset,
    RateSearch,
    Stopping,
    _curvature,
    levenberg_marquardt,
)
from sklm.optim._cg import ConjugateGradients

from .. import reference
from ..problems import CURVE, SURFACE, WIDE, tensor

#: name: options of the loop, the same for the slow reference, and what must have happened
RULES = {
    "momentum": ({"acceleration": Momentum(0.9)}, {"cosine": 0.9}, {"accepted", "rejected"}),
    "rates": (
        {"line_search": RateSearch(4, 0.3)},
        {"rates": [0.3, 0.09, 0.027, 0.0081]},
        {"accepted", "searched"},
    ),
    "armijo": (
        {"line_search": Armijo(6, 0.5, 0.1)},
        {"rates": [0.5**k for k in range(1, 7)], "armijo": 0.1},
        {"accepted", "searched"},
    ),
    "bold": ({"acceptance": Bold(2)}, {"bold": 2}, {"accepted", "bold", "rejected"}),
    "bold 1": ({"acceptance": Bold(1, "current")}, {"bold": 1, "bold_best": False}, {"accepted", "bold"}),
    "three dampings": ({"n_dampings": 3}, {"n_dampings": 3}, {"accepted", "rejected"}),
    "two dampings": ({"n_dampings": 2}, {"n_dampings": 2}, {"accepted", "rejected"}),
    "running maximum": ({"scaling": SCALINGS["running_maximum"]}, {"floor": 0.01}, {"accepted", "rejected"}),
    "all": (
        {
            "acceleration": ["momentum"],
            "line_search": RateSearch(2, 0.5),
            "acceptance": Bold(2),
            "n_dampings": 2,
            "scaling": SCALINGS["running_maximum"],
        },
        {"cosine": 0.95, "rates": [0.5, 0.25], "bold": 2, "n_dampings": 2, "floor": 0.01},
        {"accepted", "searched"},
    ),
}
N_ITER = 12
TIGHT = pytest.param(ConjugateGradients(1e-13, 1000), id="cg")


def path(case, theta, damping, **options):
    """Parameters (n_iter, B, P) after every iteration."""
    seen = []
    options.setdefault("stopping", Stopping(max_iter=N_ITER, tol=0.0, n_iter_no_change=10**6))
    solution = levenberg_marquardt(
        case.problem(len(theta)),
        theta,
        damping=damping,
        callback=lambda progress: seen.append(progress.state.theta.numpy().copy()),
        **options,
    )
    return np.array(seen), solution


def slow(case, theta, damping, **options):
    X, y = case.data()
    function = reference.perceptron(case.network().sizes, case.activation, X)
    return reference.rules_path(function, theta, y, damping, N_ITER, **options)


@pytest.mark.parametrize("name", RULES)
def test_path_is_that_of_the_formulas(name):
    options, formula, expected = RULES[name]
    events = set()
    for case, damping in ((CURVE, 1e-5), (SURFACE, 1e-4)):
        theta = case.starts(3)
        got, _ = path(case, theta, damping, **options)
        for model in range(3):
            want, happened = slow(case, theta[model], damping, **formula)
            events |= set(happened)
            scale = np.abs(want).max(axis=1, keepdims=True)
            np.testing.assert_allclose(got[:, model] / scale, want / scale, rtol=0, atol=1e-6)
    assert expected <= events


@pytest.mark.parametrize("solver", [*(name for name in SOLVERS if name != "cg"), "dual, layers", TIGHT])
@pytest.mark.parametrize("name", ["momentum", "three dampings", "all"])
def test_path_is_that_of_the_formulas_for_every_solver(name, solver, monkeypatch):
    if solver == "dual, layers":  # as large systems are solved
        monkeypatch.setattr(_curvature, "SMALL_ROWS", 0)
        solver = "dual"
    options, formula, _ = RULES[name]
    theta = CURVE.starts(2)
    got, _ = path(CURVE, theta, 1e-3, solver=solver, **options)
    for model in range(2):
        want, _ = slow(CURVE, theta[model], 1e-3, **formula)
        np.testing.assert_allclose(got[:, model], want, rtol=1e-4, atol=1e-5)


def mask(case):
    return np.arange(case.network().n_parameters) % 3 != 1


SELECTED = {
    "random": lambda case: RandomSubset(0.4),
    "number": lambda case: RandomSubset(3),
    "cyclic": lambda case: Layers(),
    "reversed": lambda case: Layers("reversed"),
    "shuffled": lambda case: Layers("random"),
    "mask": lambda case: Mask(mask(case)),
}


@pytest.mark.parametrize(
    ("rules", "solver"),
    [
        *((rules, "auto") for rules in (None, "momentum", "all")),
        *((None, name) for name in SOLVERS if name not in ("cholesky", "cg")),
        *(("all", solver) for solver in ("dual", ConjugateGradients(1e-13, 1000))),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SELECTED)
def test_only_selected_parameters_move_and_as_the_formulas_say(name, rules, solver, monkeypatch):
    monkeypatch.setattr(_curvature, "SMALL_ROWS", 0)
    case, selection = SURFACE, SELECTED[name](SURFACE)
    options, formula = ({}, {}) if rules is None else RULES[rules][:2]
    theta = case.starts(2)
    theta[:, 1] = -0.0  # its sign must survive
    subsets = [selection.choose(case.network(), step, 7) for step in range(N_ITER)]
    got, _ = path(case, theta, 1e-3, param_selection=selection, seed=7, solver=solver, **options)
    before = theta.numpy()
    for subset, after in zip(subsets, got, strict=True):
        still = np.setdiff1d(np.arange(theta.shape[1]), subset)
        np.testing.assert_array_equal(after[:, still].view(np.int64), before[:, still].view(np.int64))
        before = after
    for model in range(2):
        want, events = slow(case, theta[model], 1e-3, subsets=subsets, **formula)
        scale = np.abs(want).max(axis=1, keepdims=True)
        np.testing.assert_allclose(got[:, model] / scale, want / scale, rtol=0, atol=1e-5)
        assert events.count("rejected") < N_ITER


COMBINATIONS = {
    **{name: options for name, (options, _, _) in RULES.items()},
    "momentum and geodesic": {"acceleration": ("momentum", "geodesic")},
    "geodesic and momentum": {"acceleration": ("geodesic", Momentum())},
    "random": {"param_selection": RandomSubset(0.5), "acceleration": "geodesic"},
    "layers": {"param_selection": Layers("random"), "scaling": SCALINGS["more"], "n_dampings": 2},
    "mask": {"param_selection": Mask(mask(SURFACE)), "line_search": Armijo()},
    "multiplicative": {"strategy": Multiplicative(), "acceptance": Bold(), "line_search": RateSearch()},
    "eigh": {"solver": "eigh", "n_dampings": 4, "acceleration": Geodesic()},
    "cg": {"solver": ConjugateGradients(1e-13, 1000), "n_dampings": 2, "acceleration": Geodesic()},
    "cg, layers": {"solver": ConjugateGradients(1e-13, 1000), "param_selection": Layers(), "line_search": Armijo()},
    "dual": {"solver": "dual", "n_dampings": 3, "acceleration": "momentum"},
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_batched_models_follow_the_paths_that_they_follow_alone(name):
    theta, damping = SURFACE.starts(4, near=0.5), tensor([1e-6, 1e-3, 1e-1, 1.0])
    options = {"stopping": Stopping(max_iter=15, tol=0.03, n_iter_no_change=3), "seed": 5, **COMBINATIONS[name]}
    problem = SURFACE.problem(4, alpha=tensor([0.0, 1e-4, 0, 1e-3]))
    together = levenberg_marquardt(problem, theta, damping=damping, **options)
    for model in range(4):
        one = torch.tensor([model])
        alone = levenberg_marquardt(problem.models(one), theta[one], damping=damping[one], **options)
        assert together.n_iter[model] == alone.n_iter[0]
        assert together.status[model] == alone.status[0]
        got = together.history["objective"][: alone.n_iter[0], model]
        np.testing.assert_allclose(got, alone.history["objective"][:, 0], rtol=1e-5)
    np.testing.assert_allclose(problem.evaluate(together.theta).objective, together.score, rtol=1e-10)


@pytest.mark.parametrize("name", ["rates", "three dampings", "all", "random"])
def test_chunks_and_recomputed_forward_passes_change_nothing(name, monkeypatch):
    options, theta = COMBINATIONS[name], SURFACE.starts(2)
    stopping = Stopping(max_iter=10)
    curves = [
        levenberg_marquardt(
            SURFACE.problem(2, jacobian_max_rows=rows), theta, damping=1e-4, stopping=stopping, **options
        ).history["objective"]
        for rows in (None, 7)
    ]
    size = 2 * 60 * SURFACE.network().floats_per_row * 8
    monkeypatch.setattr("sklm.optim._problem.FORWARD_BYTES", size)  # room for the models, not for their trials
    curves.append(
        levenberg_marquardt(SURFACE.problem(2), theta, damping=1e-4, stopping=stopping, **options).history["objective"]
    )
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["rates", "bold 1", "momentum", "three dampings", "random", "layers"])
def test_mini_batches(name):
    """The best epoch on all rows is returned, and the fit is better than its start."""
    problem, theta = SURFACE.problem(2), SURFACE.starts(2, near=1.0)
    solution = levenberg_marquardt(
        problem, theta, batches=MiniBatches(60, 20, 0), stopping=Stopping(max_iter=15), **COMBINATIONS[name]
    )
    np.testing.assert_allclose(problem.evaluate(solution.theta).objective, solution.score, rtol=1e-12)
    assert (solution.score < 0.7 * problem.evaluate(theta).objective.numpy()).all()


def test_the_best_of_several_dampings_is_the_lowest():
    """From one point, every damping alone; together they take the best."""
    theta, damping = WIDE.starts(), 0.01
    alone = [path(WIDE, theta, damping * f, stopping=Stopping(max_iter=1))[1].score[0] for f in (0.1, 1, 10, 100)]
    together = path(WIDE, theta, damping, n_dampings=4, stopping=Stopping(max_iter=1))[1]
    np.testing.assert_allclose(together.score[0], min(alone), rtol=1e-9)
    assert len(set(np.round(alone, 12))) == 4
