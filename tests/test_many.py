"""fit_many against one fit after the other."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import ConvergenceWarning

from sklm import CNN, LMClassifier, LMRegressor, _depth, fit_many
from sklm import _batching as batching
from sklm import _many as many
from sklm.losses import Huber, Loss
from sklm.optim import GainRatio, Layers, RandomSubset

from .problems import Formula

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (90, 2))
CURVES = [np.sin(2 * X[:, 0] + k) + X[:, 1] ** 2 + 0.05 * RNG.normal(size=90) for k in range(4)]
TWO = [np.column_stack([curve, 3 * curve**2 + 5]) for curve in CURVES]
LABELS = [np.digitize(curve, [0.2, 0.8]) for curve in CURVES]
MANY_X = RNG.uniform(-1, 1, (700, 2))
MANY = [np.sin(2 * MANY_X[:, 0] + k) + 0.05 * RNG.normal(size=700) for k in range(3)]


def one_by_one(estimator, X, ys, weights=None):
    weights = [None] * len(ys) if weights is None else weights
    return [clone(estimator).fit(X, y, w) for y, w in zip(ys, weights, strict=True)]


def assert_same(together, alone, X=X, rtol=1e-8):
    for model, reference in zip(together, alone, strict=True):
        assert model.status_ == reference.status_
        assert model.n_iter_ == reference.n_iter_
        assert set(vars(model)) == set(vars(reference))
        for name in ("loss_", "loss_curve_", "best_validation_score_"):
            value = getattr(reference, name)
            if value is not None:
                assert_allclose(getattr(model, name), value, rtol=max(1e-5, rtol), err_msg=name)
        # later on the damping follows from differences of objectives that agree in most digits
        assert_allclose(model.damping_curve_[:4], reference.damping_curve_[:4], rtol=max(1e-5, rtol))
        assert_allclose(model.x_mean_, reference.x_mean_)
        assert_allclose(model.y_scale_, reference.y_scale_)
        outputs = model._linear_predictor(X), reference._linear_predictor(X)
        assert_allclose(*outputs, rtol=rtol, atol=rtol * np.abs(outputs[1]).max())
        assert model.n_features_in_ == reference.n_features_in_


REGRESSORS = {
    "plain": LMRegressor(3, alpha=1e-3, n_init=1, random_state=0),
    # once converged, starts that found the same minimum differ by rounding alone
    "starts": LMRegressor(3, alpha=1e-3, n_init=3, max_iter=9, random_state=1),
    "batches": LMRegressor(3, alpha=1e-3, batch_size=30, max_iter=15, random_state=0),
    "memory": LMRegressor(3, alpha=1e-3, batch_size=30, batch_memory=70, max_iter=15, random_state=0),
    "validation": LMRegressor(3, alpha=1e-3, early_stopping=True, random_state=0),
    "target": LMRegressor(3, alpha=1e-4, n_init=3, target_loss=3e-3, random_state=0),
    "loss": LMRegressor(3, alpha=1e-3, loss=Huber(0.5), max_iter=9, damping_strategy=GainRatio(4.0), random_state=0),
    "single": LMRegressor(2, alpha=1e-2, dtype="float32", max_iter=6, random_state=0),
    "dual": LMRegressor(40, alpha=1e-2, solver="dual", n_init=1, max_iter=8, random_state=0),
    "qr": LMRegressor(3, alpha=1e-3, solver="qr", max_iter=20, damping_scaling="more", random_state=0),
    "rules": LMRegressor(
        3,
        alpha=1e-3,
        acceleration=("momentum", "geodesic"),
        line_search="rate",
        acceptance="bold",
        n_dampings=2,
        damping_strategy="trust_region",
        max_iter=9,
        random_state=0,
    ),
    "random parameters": LMRegressor(3, alpha=1e-3, param_selection="random", n_init=2, max_iter=9, random_state=0),
    "layers": LMRegressor(3, alpha=1e-3, param_selection=Layers("reversed"), max_iter=9, random_state=0),
    "raw": LMRegressor(3, alpha=1e-3, standardize=False, jacobian_max_rows=20, n_init=1, max_iter=9, random_state=0),
}


@pytest.mark.parametrize("name", REGRESSORS)
@pytest.mark.parametrize("targets", [CURVES, TWO], ids=["one", "two"])
def test_every_fit_is_that_of_its_own(name, targets):
    estimator = REGRESSORS[name]
    together, sizes = fit_many(estimator, X, targets, return_batch_sizes=True)
    assert_array_equal(sizes, 4)
    assert_same(together, one_by_one(estimator, X, targets), rtol=1e-3 if name == "single" else 1e-8)


@pytest.mark.parametrize("n_init", ["auto", 3])
@pytest.mark.parametrize("validate", [False, True])
def test_growing(n_init, validate):
    """With few finalists of every fit, not of the batch."""
    estimator = LMRegressor(
        3, alpha=1e-3, n_init=n_init, early_stopping=validate, growing=True, max_iter=20, random_state=0
    )
    together, sizes = fit_many(estimator, MANY_X, MANY, return_batch_sizes=True)
    assert_array_equal(sizes, 3)
    assert_same(together, one_by_one(estimator, MANY_X, MANY), MANY_X)


@pytest.mark.parametrize(
    "estimator",
    [
        LMClassifier(3, alpha=1e-2, random_state=0),
        LMClassifier(3, alpha=1e-2, class_weight="balanced", label_smoothing=0.1, n_init=2, random_state=0),
        LMClassifier(3, alpha=1e-2, curvature="sampled", max_iter=12, random_state=0),
        LMClassifier(3, alpha=1e-2, early_stopping=True, random_state=0),
    ],
    ids=["plain", "balanced", "drawn", "validation"],
)
def test_classes(estimator):
    names = np.array(["low", "middle", "high"])
    labels = [names[y] for y in LABELS]
    together, sizes = fit_many(estimator, X, labels, return_batch_sizes=True)
    if not estimator.early_stopping:  # else the shares of the classes decide about the number of rows
        assert_array_equal(sizes, 4)
    assert_same(together, one_by_one(estimator, X, labels))
    assert_array_equal(together[1].predict(X), clone(estimator).fit(X, labels[1]).predict(X))


def test_two_classes_and_several_labels_are_batches_of_their_own():
    estimator = LMClassifier(3, alpha=1e-2, random_state=0)
    binary = [(y > 0).astype(int) for y in LABELS[:2]]
    several = [np.column_stack([y > 0, y > 1]).astype(int) for y in LABELS[:2]]
    together, sizes = fit_many(estimator, X, [*binary, *several], return_batch_sizes=True)
    assert_array_equal(sizes, 2)
    assert_same(together, one_by_one(estimator, X, [*binary, *several]))


def test_own_inputs_weights_and_options():
    """What may differ within a batch does, and the results show it."""
    inputs = [X, 10 * X + 3, X**3, X[::-1].copy()]
    weights = [None, RNG.uniform(0.1, 2, 90), None, RNG.uniform(0.1, 2, 90)]
    options = [(0, 1e-2, 1, 0), (1e-2, 1.0, 2, 1), (1e-3, 10.0, 1, 2), (1e-1, 1e-3, 3, 3)]
    estimators = [LMRegressor(3, alpha=a, damping=d, n_init=n, max_iter=9, random_state=s) for a, d, n, s in options]
    together, sizes = fit_many(estimators, inputs, CURVES[0], weights, return_batch_sizes=True)
    assert_array_equal(sizes, 4)
    alone = [clone(e).fit(x, CURVES[0], w) for e, x, w in zip(estimators, inputs, weights, strict=True)]
    for model, reference, x in zip(together, alone, inputs, strict=True):
        assert_same([model], [reference], x)
    assert not any(hasattr(estimator, "theta_") for estimator in estimators)
    assert len({model.loss_ for model in together}) == 4


def test_zero_weights_and_sizes_make_batches():
    weights = [np.ones(90), np.where(np.arange(90) < 60, 1.0, 0.0), np.where(np.arange(90) < 30, 0.0, 1.0)]
    estimator = LMRegressor(3, alpha=1e-2, max_iter=9, random_state=0)  # before starts meet in a minimum
    together, sizes = fit_many(estimator, X, CURVES[:3], weights, return_batch_sizes=True)
    assert_array_equal(sizes, [1, 2, 2])
    assert_same(together, one_by_one(estimator, X, CURVES[:3], weights))
    sizes = fit_many([LMRegressor(h, max_iter=3) for h in (2, 3, 2, 3, 3)], X, CURVES[0], return_batch_sizes=True)[1]
    assert_array_equal(sizes, [2, 3, 2, 3, 3])


def test_seeds_part_batches_only_where_rows_are_shuffled():
    whole = [LMRegressor(3, random_state=seed, max_iter=3) for seed in range(3)]
    assert_array_equal(fit_many(whole, X, CURVES[0], return_batch_sizes=True)[1], 3)
    mini = [clone(estimator).set_params(batch_size=30) for estimator in whole]
    assert_array_equal(fit_many(mini, X, CURVES[0], return_batch_sizes=True)[1], 1)


def test_seeds_and_selections_part_batches_where_they_say_what_moves():
    random = [LMRegressor(3, param_selection=RandomSubset(5), random_state=k, max_iter=3) for k in (0, 1, 0)]
    assert_array_equal(fit_many(random, X, CURVES[0], return_batch_sizes=True)[1], [2, 1, 2])
    masks = [np.arange(13) < 9, np.arange(13) < 9, np.arange(13) < 8]
    fixed = [LMRegressor(3, param_selection=mask, random_state=k, max_iter=3) for k, mask in enumerate(masks)]
    assert_array_equal(fit_many(fixed, X, CURVES[0], return_batch_sizes=True)[1], [2, 2, 1])


def test_a_module_given_once_is_batched():
    x = np.linspace(0, 2, 40)[:, None]
    curves = [a * np.exp(-b * x[:, 0]) + 0.01 * RNG.normal(size=40) for a, b in ((1, 1), (2, 0.5), (3, 2))]
    decay = LMRegressor(architecture=Formula(lambda x, b1, b2: b1 * torch.exp(-b2 * x), (1.0, 1.0)), random_state=0)
    together, sizes = fit_many(decay, x, curves, return_batch_sizes=True)
    assert_array_equal(sizes, 3)
    assert_same(together, one_by_one(decay, x, curves), x)
    assert_allclose([model.theta_ for model in together], [(1, 1), (2, 0.5), (3, 2)], rtol=0.05)
    assert_array_equal(fit_many([decay, clone(decay)], x, curves[0], return_batch_sizes=True)[1], 1)


def test_images():
    images = RNG.normal(size=(60, 36))
    cnn = LMRegressor(architecture=CNN(2, 3, input_shape=(1, 6, 6)), alpha=1e-1, max_iter=8, n_init=2, random_state=0)
    inputs, y = [images, 2 * images[:, ::-1]], images[:, 7] + images[:, 8] ** 2
    together, sizes = fit_many(cnn, inputs, y, return_batch_sizes=True)
    assert_array_equal(sizes, 2)
    for model, x in zip(together, inputs, strict=True):
        assert_same([model], [clone(cnn).fit(x, y)], x)


class Unseen(Loss):
    """A loss with something that cannot be compared."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __getattr__(self, name):
        raise AttributeError(name)

    def curvature_columns(self, n_outputs):
        return n_outputs

    def value(self, outputs, y, weights):
        return (0.5 * (outputs - y).square() * weights.unsqueeze(1)).sum(-1)

    def factor(self, outputs, y):
        return torch.ones_like(outputs).unsqueeze(2)

    def residual(self, outputs, y):
        return outputs - y


@pytest.mark.parametrize(
    "estimator",
    [
        LMRegressor(3, max_time=60, random_state=0, max_iter=5),
        LMRegressor(3, verbose=1, random_state=0, max_iter=5),
        LMRegressor(3, loss=Unseen(), random_state=0, max_iter=5),
        LMRegressor(3, random_state=0, max_iter=5).set_callbacks(ProgressBar()),
    ],
    ids=["time", "verbose", "object", "callbacks"],
)
def test_the_others_are_fitted_in_the_ordinary_way(estimator, capfd):
    together, sizes = fit_many(estimator, X, CURVES[:2], return_batch_sizes=True)
    assert_array_equal(sizes, 0)
    assert_same(together, one_by_one(estimator, X, CURVES[:2]))


def test_a_batch_is_cut_and_each_part_runs(monkeypatch):
    estimator = LMRegressor(3, n_init=2, alpha=1e-2, max_iter=9, random_state=0)
    monkeypatch.setattr(
        batching, "RUN_BYTES", 5 * (90 + 3 * 14) * 14 * 8
    )  # two fits of two starts, and half of a third
    together, sizes = fit_many(estimator, X, CURVES[:3], return_batch_sizes=True)
    assert_array_equal(sizes, [2, 2, 1])
    assert_same(together, one_by_one(estimator, X, CURVES[:3]))
    threads, sizes = fit_many(estimator, X, CURVES[:3], n_jobs=2, return_batch_sizes=True)
    assert_array_equal(sizes, [2, 2, 1])
    for model, other in zip(threads, together, strict=True):
        assert_array_equal(model.theta_, other.theta_)


def test_every_job_gets_an_equal_share():
    estimator = LMRegressor(3, n_init=1, alpha=1e-2, max_iter=4, random_state=0)
    together, sizes = fit_many(estimator, X, CURVES[:3] * 3, n_jobs=2, return_batch_sizes=True)
    assert_array_equal(sizes, [5, 5, 5, 5, 5, 4, 4, 4, 4])
    assert_same(together, one_by_one(estimator, X, CURVES[:3] * 3))


@pytest.fixture
def divided(monkeypatch):
    """Few fits are enough for another process."""
    monkeypatch.setattr(batching, "LEAST_OF_A_JOB", 2)


def refused(*args, **options):
    raise AssertionError("fits in this process")


def test_fits_in_processes(divided, monkeypatch):
    ones = [LMRegressor(units, n_init=1, alpha=1e-2, max_iter=9, random_state=0) for units in (2, 2, 3, 3, 3)]
    weights = [None, *np.random.default_rng(0).uniform(0.1, 2, (4, 90))]
    alone = [one.fit(X, CURVES[0], weight) for one, weight in zip(ones, weights, strict=True)]
    monkeypatch.setattr(many, "fit_together", refused)
    together, sizes = fit_many(ones, X, CURVES[0], weights, n_jobs=2, return_batch_sizes=True)
    assert_array_equal(sizes, [2, 2, 3, 3, 3])
    assert_same(together, alone)


def test_a_fit_that_fails_in_a_process(divided):
    broken = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(broken.weight, torch.nan)
    ones = [LMRegressor(architecture=module, max_iter=3) for module in (torch.nn.Linear(2, 1),) * 3 + (broken,)]
    with pytest.raises(ValueError, match="not finite at the starting values") as raised:
        fit_many(ones, X, CURVES[0], n_jobs=2)
    assert "fit number 3" in raised.value.__notes__[0]


def test_what_cannot_be_sent_to_a_process_is_fitted_here(divided, monkeypatch):
    monkeypatch.setattr(batching, "travels", lambda what: False)
    monkeypatch.setattr(many, "_fit_part", refused)
    estimator = LMRegressor(2, n_init=1, alpha=1e-2, max_iter=9, random_state=0)
    assert_same(fit_many(estimator, X, CURVES, n_jobs=2), one_by_one(estimator, X, CURVES))


@pytest.mark.parametrize(
    ("options", "rows", "expected"),
    [
        ({}, 90, True),
        ({}, 30_000, False),  # the matrix of 33 parameters takes 3e7 multiplications
        ({"batch_size": 100}, 30_000, True),
        ({"hidden_layer_sizes": 60}, 2000, False),  # 241 parameters
        ({"hidden_layer_sizes": 60}, 50, True),  # 50 x 50 instead of 241 x 241
        ({"hidden_layer_sizes": 60, "n_init": 4}, 200, False),  # 4 of such models are enough for a run
        ({"hidden_layer_sizes": 60, "optimizer": "adam"}, 30_000, True),
    ],
    ids=["small", "rows", "mini-batches", "parameters", "dual", "starts", "no matrix"],
)
def test_where_company_pays(options, rows, expected):
    rng = np.random.default_rng(0)
    estimator = LMRegressor(8, n_init=1, alpha=1e-2, random_state=0, growing="auto").set_params(**options)
    _, prepared = estimator._ready(rng.normal(size=(rows, 2)), rng.normal(size=rows))
    assert batching.gains(prepared) == expected


def test_targets_as_arrays():
    estimator = LMRegressor(2, max_iter=3, random_state=0)
    rows = np.array(CURVES)
    assert [m.loss_ for m in fit_many(estimator, X, rows)] == [m.loss_ for m in fit_many(estimator, X, CURVES)]
    assert len(fit_many(estimator, X, np.array(TWO))) == 4
    assert len(fit_many(estimator, X, TWO[0])) == 1  # two outputs
    assert len(fit_many(estimator, X, CURVES[0])) == 1
    square = np.zeros((4, 4))
    with pytest.raises(ValueError, match="for each of 4 fits or 4 outputs"):
        fit_many(estimator, X[:4], square)


def test_errors_come_before_and_name_the_fit(monkeypatch):
    def work(*_):
        raise AssertionError("nothing should run")

    monkeypatch.setattr("sklm._many.fit_together", work)
    estimator = LMRegressor(2, max_iter=3)
    with pytest.raises(ValueError, match=r"One for every fit.*'estimators': 2, 'y': 4"):
        fit_many([estimator] * 2, X, CURVES)
    with pytest.raises(TypeError, match="got Formula"):
        fit_many(Formula(lambda x, b: x, (1.0,)), X, CURVES)
    with pytest.raises(ValueError, match="NaN") as caught:
        fit_many(estimator, X, [CURVES[0], np.full(90, np.nan)])
    assert "fit number 1" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="max_iter"):
        fit_many([estimator, LMRegressor(max_iter=-1)], X, CURVES[0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fit_many(estimator, X, [CURVES[0], CURVES[1][:50]])
    with pytest.raises(ValueError, match="contains infinity"):
        fit_many(estimator, [X, np.full_like(X, np.inf)], CURVES[0])
    with pytest.raises(ValueError, match="contains NaN"):
        fit_many(estimator, X, [CURVES[0].tolist(), [float("nan")] * 90])
    with pytest.raises(ValueError, match="Negative values"):
        fit_many(estimator, X, CURVES[0], [np.ones(90), -np.ones(90)])
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_many(estimator, X, [])


def test_a_batch_that_fails_as_a_whole_is_done_one_by_one(monkeypatch):
    def broken(*_):
        raise RuntimeError("no batch today")

    monkeypatch.setattr(_depth, "run_together", broken)
    estimator = LMRegressor(2, max_iter=3, random_state=0)
    with pytest.warns(RuntimeWarning, match="4 fits could not be run together .*no batch today"):
        together, sizes = fit_many(estimator, X, CURVES, return_batch_sizes=True)
    assert_array_equal(sizes, 0)
    assert_same(together, one_by_one(estimator, X, CURVES))


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_warnings_point_at_the_caller():
    with pytest.warns(ConvergenceWarning, match="max_iter=2") as caught:
        fit_many(LMRegressor(2, max_iter=2, random_state=0), X, CURVES)
    assert {str(warning.filename) for warning in caught} == {__file__}
    with pytest.warns(ConvergenceWarning, match="max_iter=2") as caught:
        LMRegressor(2, max_iter=2, random_state=0).fit(X, CURVES[0])
    assert {str(warning.filename) for warning in caught} == {__file__}


def test_an_interrupt_ends_it(monkeypatch):
    from sklm.losses import SquaredError

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SquaredError, "factor", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_many(LMRegressor(2, random_state=0), X, CURVES)


def test_a_growing_fit_with_a_target_is_done_alone():
    """It tries its starts one by one, so that company would change it."""
    X = np.random.default_rng(0).uniform(-2, 2, (600, 1))
    estimator = LMRegressor(5, target_loss=1e-3, random_state=0)
    for target in (np.sin(4 * X[:, 0]), np.cos(3 * X[:, 0])):
        alone = clone(estimator).fit(X, target)
        for model in fit_many(estimator, X, [target, target]):
            np.testing.assert_array_equal(model.theta_, alone.theta_)
            assert (model.n_iter_, model.status_) == (alone.n_iter_, alone.status_)
