"""LMRegressor's losses other than the squared error: their oracles, units, links and targets."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog, minimize
from sklearn.linear_model import GammaRegressor, PoissonRegressor
from sklearn.metrics import (
    mean_absolute_error,
    mean_gamma_deviance,
    mean_pinball_loss,
    mean_poisson_deviance,
    mean_squared_error,
)
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from sklm import CNN, LMRegressor
from sklm.losses import LOSSES, AbsoluteError, Huber, PoissonDeviance, Quantile

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DEVIANCES = {"poisson": (PoissonRegressor, mean_poisson_deviance), "gamma": (GammaRegressor, mean_gamma_deviance)}
ROBUST = {"huber": Huber(), "absolute_error": AbsoluteError(), "quantile": Quantile(0.8)}


def plane(n=150, seed=0):
    """Two inputs at different scales, a linear output with gross errors."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) * [1.0, 50.0] + [3.0, 1000.0]
    y = X @ [2.0, 0.03] - 5 + 0.1 * rng.normal(size=n)
    wrong = rng.permutation(n)[: n // 10]
    y[wrong] += rng.uniform(10, 100, size=len(wrong))
    return X, y


def rates(loss, n=200, seed=0):
    """The same two inputs, and targets of the distribution of a deviance."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) * [1.0, 50.0] + [3.0, 1000.0]
    mean = np.exp(0.5 * (X[:, 0] - 3) - 0.4 * (X[:, 1] - 1000) / 50 + 1.2)
    return X, rng.poisson(mean).astype(float) if loss == "poisson" else mean * rng.gamma(3.0, 1 / 3, size=n)


def linear(**options):
    return LMRegressor(**{"hidden_layer_sizes": (), "random_state": 0, "tol": 1e-10, "max_iter": 2000, **options})


def small(**options):
    return LMRegressor(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 30, "n_init": 1, **options})


def data(loss):
    return rates(loss) if loss in DEVIANCES else plane()


every_loss = pytest.mark.parametrize("loss", sorted(LOSSES))
both_deviances = pytest.mark.parametrize("loss", sorted(DEVIANCES))


# -- against other programs --------------------------------------------------------------------------------------


@both_deviances
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_deviances_without_hidden_layer_are_scikit_learns(loss, alpha, weighted):
    X, y = rates(loss)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(X)) if weighted else None
    model = linear(loss=loss, alpha=alpha).fit(X, y, weights)
    scaler = StandardScaler().fit(X, sample_weight=weights)
    # dividing the targets by their mean divides the Poisson deviance, and so multiplies the penalty
    scale = np.average(y, weights=weights) if loss == "poisson" else 1.0
    expected = DEVIANCES[loss][0](alpha=alpha * scale, solver="newton-cholesky", tol=1e-12)
    expected.fit(scaler.transform(X), y, sample_weight=weights)
    assert_allclose(model.predict(X), expected.predict(scaler.transform(X)), rtol=1e-5)
    assert_allclose(model.coefs_[0][:, 0], expected.coef_ / scaler.scale_, rtol=1e-4)
    assert_allclose(model.loss_, DEVIANCES[loss][1](y, model.predict(X), sample_weight=weights) / 2, rtol=1e-9)


def spread(y, weights=None):
    """What robust losses call a deviation: 1.4826 times the median distance from the median, by weight."""

    def median(values):
        order = np.argsort(values)
        share = np.cumsum(np.ones(len(y)) if weights is None else weights[order])
        return values[order][share >= share[-1] / 2][0]

    return 1.4826 * median(np.abs(y - median(y)))


@pytest.mark.parametrize("delta", [0.01, 0.1, 1.0])
def test_huber_without_hidden_layer_is_its_minimum(delta):
    X, y = plane()
    model = linear(loss=Huber(delta)).fit(X, y)
    size = delta * spread(y)
    Z = np.c_[StandardScaler().fit_transform(X), np.ones(len(X))]

    def objective(w):
        error = torch.tensor(Z @ w)
        return float(torch.nn.functional.huber_loss(error, torch.tensor(y), delta=size))

    def gradient(w):
        return Z.T @ np.clip(Z @ w - y, -size, size) / len(y)

    start = np.linalg.lstsq(Z, y, rcond=None)[0]
    found = minimize(objective, start, jac=gradient, method="BFGS", options={"gtol": 1e-10, "maxiter": 1000})
    assert_allclose(model.loss_, found.fun, rtol=1e-6)
    assert_allclose(model.predict(X), Z @ found.x, rtol=1e-3, atol=1e-3 * size)
    assert_allclose(model.loss_, objective(np.linalg.lstsq(Z, model.predict(X), rcond=None)[0]), rtol=1e-9)


def test_gross_errors_do_not_pull():
    X, y = plane()
    for loss in (Huber(0.01), "absolute_error"):
        model = linear(loss=loss, tol=1e-7).fit(X, y)
        assert_allclose(model.coefs_[0][:, 0], [2.0, 0.03], rtol=0.05)
    squared = linear().fit(X, y)
    assert abs(squared.predict(X).mean() - (X @ [2.0, 0.03] - 5).mean()) > 2


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantiles_without_hidden_layer_are_the_linear_programs(quantile):
    X, y = plane(80)
    Z = np.c_[StandardScaler().fit_transform(X), np.ones(80)]
    # minimise q u + (1 - q) v with y = Z w + u - v
    cost = np.r_[np.zeros(6), np.full(80, quantile), np.full(80, 1 - quantile)]
    equal = np.c_[Z, -Z, np.eye(80), -np.eye(80)]
    best = linprog(cost, A_eq=equal, b_eq=y).fun / 80
    model = linear(loss=Quantile(quantile), tol=1e-6).fit(X, y)
    reached = mean_pinball_loss(y, model.predict(X), alpha=quantile)
    assert best * (1 - 1e-9) <= reached <= best * 1.01
    assert abs(np.mean(y <= model.predict(X)) - quantile) < 0.06
    assert_allclose(model.loss_, reached, atol=1e-4 * y.std())
    if quantile == 0.5:
        absolute = linear(loss="absolute_error", tol=1e-6).fit(X, y)
        assert mean_absolute_error(y, absolute.predict(X)) <= 2 * best * 1.01
        assert_allclose(absolute.loss_, mean_absolute_error(y, absolute.predict(X)), atol=1e-4 * y.std())


def test_quantiles_of_a_network_cover_their_share():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(1000, 1))
    y = np.sin(2 * X[:, 0]) + (0.2 + 0.1 * X[:, 0] ** 2) * rng.normal(size=1000)
    low, high = (
        small(loss=Quantile(q), max_iter=80, hidden_layer_sizes=5, growing=False).fit(X, y).predict(X)
        for q in (0.1, 0.9)
    )
    assert abs(np.mean(y < low) - 0.1) < 0.03
    assert abs(np.mean(y < high) - 0.9) < 0.03
    width = high - low
    assert width[np.abs(X[:, 0]) > 1.5].mean() > 1.3 * width[np.abs(X[:, 0]) < 0.5].mean()


def test_known_rates_are_recovered_by_a_network():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(2000, 1))
    mean = np.exp(1.5 * np.sin(2 * X[:, 0]) + 2)
    for loss, y in (("poisson", rng.poisson(mean)), ("gamma", mean * rng.gamma(10.0, 0.1, size=2000))):
        model = small(loss=loss, hidden_layer_sizes=5, max_iter=100, n_init=2).fit(X, y)
        assert np.mean(np.abs(np.log(model.predict(X) / mean))) < 0.06


# -- units -------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_y_does_not_matter(loss, unit):
    X, y = data(loss)
    options = {"loss": loss, "max_iter": 12, "alpha": 1e-3}
    one, other = small(**options).fit(X, y), small(**options).fit(X, y * unit)
    assert_allclose(other.predict(X), one.predict(X) * unit, rtol=1e-6)
    power = {"squared_error": 2, "huber": 2, "gamma": 0}.get(loss, 1)
    assert_allclose(other.loss_, one.loss_ * unit**power, rtol=1e-6)


def own_units(loss, y, predicted, weights):
    """The documented loss of predictions in the units of y."""
    predicted = np.broadcast_to(predicted, y.shape).copy()
    if loss == "huber":
        size = spread(y, weights)
        values = torch.nn.functional.huber_loss(torch.tensor(predicted), torch.tensor(y), reduction="none", delta=size)
        return np.average(values.numpy(), weights=weights)
    if loss == "squared_error":
        return mean_squared_error(y, predicted, sample_weight=weights) / 2
    if loss in DEVIANCES:
        return DEVIANCES[loss][1](y, predicted, sample_weight=weights) / 2
    if loss == "quantile":
        return mean_pinball_loss(y, predicted, sample_weight=weights)
    return mean_absolute_error(y, predicted, sample_weight=weights)


@every_loss
def test_loss_is_in_the_units_of_y(loss):
    X, y = data(loss)
    weights = np.random.default_rng(3).uniform(0.5, 2, size=len(y))
    model = small(loss=loss, alpha=1e-3).fit(X, 40 * y, weights)
    smoothing = 1e-4 * 40 * y.std() if loss in ("absolute_error", "quantile") else 0
    assert_allclose(model.loss_, own_units(loss, 40 * y, model.predict(X), weights), rtol=1e-9, atol=smoothing)
    assert_allclose(model.loss_curve_.min(), model.loss_, rtol=1e-3)


@every_loss
def test_several_outputs_each_at_its_own_scale(loss):
    X, y = data(loss)
    Y = np.c_[y, 1e6 * y[::-1]]
    model = small(loss=loss, hidden_layer_sizes=6).fit(X, Y)
    assert model.predict(X).shape == Y.shape
    expected = [own_units(loss, Y[:, k], model.predict(X)[:, k], np.ones(len(y))) for k in range(2)]
    assert_allclose(model.loss_, np.mean(expected), rtol=1e-3 if loss in ("absolute_error", "quantile") else 1e-8)
    for k, alone in enumerate(own_units(loss, Y[:, k], Y[:, k].mean(), np.ones(len(y))) for k in range(2)):
        assert expected[k] < alone  # each is fitted, not only the large one


@every_loss
def test_target_loss_is_in_the_units_of_y(loss):
    X, y = data(loss)
    curve = small(loss=loss, alpha=0.0).fit(X, 1000 * y).loss_curve_
    target = (curve[2] + curve[-1]) / 2
    model = small(loss=loss, target_loss=target).fit(X, 1000 * y)
    assert model.status_ == "target"
    assert model.loss_ <= target < model.loss_curve_[-2]


@every_loss
def test_weight_k_is_the_row_k_times_and_weight_0_no_row(loss):
    X, y = data(loss)
    counts = np.random.default_rng(5).integers(0, 4, size=len(X))
    X[counts == 0] += 100
    options = {"loss": loss, "max_iter": 8, "alpha": 1e-3}
    weighted = small(**options).fit(X, y, counts)
    repeated = small(**options).fit(X.repeat(counts, axis=0), y.repeat(counts))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-6)
    assert_allclose(weighted.loss_, repeated.loss_, rtol=1e-6)


# -- links -------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_the_module_predicts(loss, n_outputs):
    X, y = data(loss)
    Y = y if n_outputs == 1 else np.c_[y, 7 * y]
    model = small(loss=loss, max_iter=6).fit(X, Y)
    module = model.to_module()
    assert isinstance(module, torch.nn.Sequential)
    outputs = module(torch.tensor(X)).detach().numpy()
    assert_allclose(outputs, model.predict(X).reshape(len(X), -1), rtol=1e-8, atol=1e-8)


@every_loss
def test_coefs_give_the_linear_predictor(loss):
    X, y = data(loss)
    model = small(loss=loss, max_iter=6).fit(X, y)
    outputs = np.tanh(X @ model.coefs_[0] + model.intercepts_[0]) @ model.coefs_[1] + model.intercepts_[1]
    predicted = np.exp(outputs) if loss in DEVIANCES else outputs
    assert_allclose(predicted[:, 0], model.predict(X), rtol=1e-8, atol=1e-8)


@both_deviances
def test_means_are_positive(loss):
    X, y = rates(loss)
    model = small(loss=loss).fit(X, y)
    predicted = model.predict((X - X.mean(0)) * 3 + X.mean(0))
    assert predicted.min() > 0
    assert np.isfinite(predicted).all()
    linear_model = linear(loss=loss).fit(X, y)
    assert np.isfinite(linear_model.predict(X)).all()


@both_deviances
def test_the_module_of_a_module_and_of_images_includes_the_link(loss):
    X, y = rates(loss)
    model = LMRegressor(architecture=torch.nn.Linear(2, 1), standardize=True, loss=loss).fit(X, y)
    outputs = model.to_module()(torch.tensor(X)).detach().numpy()
    assert_allclose(outputs[:, 0], model.predict(X), rtol=1e-8)
    assert_allclose(model.predict(X), linear(loss=loss).fit(X, y).predict(X), rtol=1e-3)
    X = np.random.default_rng(0).normal(size=(200, 16))
    architecture = CNN(conv_channels=(2,), kernel_size=3, stride=1, input_shape=(1, 4, 4))
    model = LMRegressor(architecture=architecture, loss=loss, max_iter=4, random_state=0).fit(X, y)
    outputs = model.to_module()(torch.tensor(X)).detach().numpy()
    assert_allclose(outputs[:, 0], model.predict(X), rtol=1e-8)


# -- going on ----------------------------------------------------------------------------------------------------


@every_loss
def test_warm_start_on_data_at_another_scale_starts_from_the_same_function(loss):
    X, y = data(loss)
    model = small(loss=loss, warm_start=True, max_iter=5).fit(X, y)
    before = model.predict(3 * X + 1)
    model.set_params(damping=1e15, max_iter=1).fit(3 * X + 1, 100 * y)  # a step of no length
    deviation = y.mean() if loss in DEVIANCES else y.std() if loss == "squared_error" else spread(y)
    assert model.y_scale_ == pytest.approx(100 * deviation)
    assert_allclose(model.predict(3 * X + 1), before, rtol=1e-6)


def test_warm_start_with_another_link_keeps_the_outputs_of_the_network():
    X, y = rates("poisson")
    model = small(loss="poisson", warm_start=True, max_iter=5).fit(X, y)
    before = np.log(model.predict(X))
    model.set_params(loss="squared_error", damping=1e15, max_iter=1).fit(X, y)
    assert_allclose(model.predict(X), before, rtol=1e-6, atol=1e-6)


@every_loss
def test_partial_fit_goes_down(loss):
    X, y = data(loss)
    model = small(loss=loss)
    losses = []
    for _ in range(20):
        model.partial_fit(X, y)
        losses.append(model.loss_)
    assert np.all(np.diff(losses) <= 1e-12 * losses[0])
    # one call is an iteration of a fit
    fit = small(loss=loss, alpha=0.0, growing=False, max_iter=20, tol=0).fit(X, y)
    assert losses[-1] < losses[0]
    assert_allclose(losses[-1], fit.loss_, rtol=0.05)
    assert_allclose(model.loss_curve_, losses, rtol=1e-9)


def test_partial_fit_of_counts_in_batches():
    X, y = rates("poisson", n=600)
    model = small(loss="poisson")
    for _ in range(6):
        for rows in np.split(np.arange(600), 6):
            model.partial_fit(X[rows], y[rows])
    null = mean_poisson_deviance(y, np.full(600, y.mean()))
    assert mean_poisson_deviance(y, model.predict(X)) < 0.6 * null
    scale = model.y_scale_.copy()
    model.partial_fit(X, 2 * y)
    assert_array_equal(model.y_scale_, scale)


@both_deviances
def test_early_stopping_scores_by_the_loss(loss):
    X, y = rates(loss)
    model = small(loss=loss, early_stopping=True, validation_fraction=0.3, max_iter=60, hidden_layer_sizes=10)
    model.fit(X, 50 * y)
    assert_allclose(model.best_validation_score_, model.validation_scores_.max(), rtol=1e-12)
    assert model.best_validation_score_ < 0


# -- what is refused ---------------------------------------------------------------------------------------------


def test_targets_that_a_deviance_has_no_room_for():
    X, y = rates("gamma")
    zero, negative = y.copy(), y.copy()
    zero[3], negative[3] = 0.0, -0.5
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=r"GammaDeviance needs targets above zero; the smallest is 0\."):
            getattr(small(loss="gamma"), method)(X, zero)
        with pytest.raises(ValueError, match=r"PoissonDeviance needs targets not below zero; the smallest is -0\.5"):
            getattr(small(loss="poisson"), method)(X, negative)
        with pytest.raises(ValueError, match="PoissonDeviance needs a target above zero in every column"):
            getattr(small(loss="poisson"), method)(X, np.c_[y, 0 * y])
    weights = np.ones(200)
    weights[3] = 0  # no row, so no target
    assert np.isfinite(small(loss="gamma").fit(X, zero, weights).loss_)
    assert np.isfinite(small(loss="poisson").fit(X, negative, weights).loss_)
    assert np.isfinite(small(loss="poisson").fit(X, zero).loss_)


def test_a_later_batch_of_zeros_is_a_batch_of_counts():
    X, y = rates("poisson")
    model = small(loss="poisson").partial_fit(X, y)
    none = y == 0
    assert none.sum() > 5
    model.partial_fit(X[none], y[none])
    assert np.isfinite(model.theta_).all()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Huber(0.0), "delta of Huber must be a finite number above zero; got 0.0"),
        (Huber(np.inf), "delta of Huber must be a finite number above zero; got inf"),
        (Huber("1"), "delta of Huber must be a finite number above zero; got '1'"),
        (AbsoluteError(-1e-3), "smoothing of AbsoluteError must be a finite number above zero"),
        (Quantile(0.0), "quantile of Quantile must lie between 0 and 1; got 0.0"),
        (Quantile(1), "quantile of Quantile must lie between 0 and 1; got 1"),
        (Quantile(0.5, 0), "smoothing of Quantile must be a finite number above zero"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_impossible_parameters_of_a_loss(loss, message, method):
    model = small(loss=loss)
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(*plane())
    assert not hasattr(model, "theta_")


@pytest.mark.parametrize("loss", ["log_loss", "mae", Huber, None], ids=repr)
def test_unknown_losses(loss):
    with pytest.raises(ValueError, match="The 'loss' parameter of LMRegressor must be"):
        small(loss=loss).fit(*plane())


# -- manners -----------------------------------------------------------------------------------------------------


def test_tags_follow_the_loss():
    positive = {name for name in LOSSES if LMRegressor(loss=name).__sklearn_tags__().target_tags.positive_only}
    # as in scikit-learn, whose own PoissonRegressor is 'positive_only' too: the tag is for targets below zero
    assert positive == {"poisson", "gamma"}
    assert PoissonRegressor().__sklearn_tags__().target_tags.positive_only
    assert LMRegressor(loss=PoissonDeviance()).__sklearn_tags__().target_tags.positive_only


def test_names_are_objects_with_their_defaults():
    for name, kind in LOSSES.items():
        X, y = data(name)
        by_name, by_object = (small(loss=loss, max_iter=4).fit(X, y) for loss in (name, kind()))
        assert_array_equal(by_name.theta_, by_object.theta_)


def test_the_callers_loss_is_not_the_models():
    X, y = plane()
    loss = Huber(0.5)
    model = small(loss=loss).fit(X, y)
    loss.delta = 1e-3
    assert model._fitted_loss.delta == 0.5
    assert model.get_params()["loss__delta"] == 1e-3


def test_grid_search_over_a_parameter_of_the_loss():
    X, y = plane()
    search = GridSearchCV(linear(loss=Huber(), tol=1e-2), {"loss__delta": [1e-2, 100.0]}, cv=3)
    search.set_params(scoring="neg_median_absolute_error").fit(X, y)
    assert search.best_params_ == {"loss__delta": 1e-2}
    assert search.best_estimator_._fitted_loss.delta == 1e-2


@pytest.mark.parametrize("growing", [True, {"batch_size": 100}], ids=str)
def test_growing_and_batches_work_with_every_loss(growing):
    options = {"growing": True} if growing is True else growing
    for loss in ("poisson", "gamma"):
        X, y = rates(loss, n=600)
        model = small(loss=loss, hidden_layer_sizes=2, max_iter=40, **options).fit(X, y)
        metric = DEVIANCES[loss][1]
        assert metric(y, model.predict(X)) < 0.8 * metric(y, np.full(600, y.mean()))
        assert_allclose(model.loss_, metric(y, model.predict(X)) / 2, rtol=1e-9)


# -- images ------------------------------------------------------------------------------------------------------


def ramps(n=150):
    """Images whose target is the steepness of a ramp, with its direction at random."""
    rng = np.random.default_rng(0)
    slope, angle = rng.uniform(-1, 1, size=n), rng.uniform(0, np.pi, size=n)
    u, v = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 6))
    X = slope[:, None, None] * (np.cos(angle)[:, None, None] * u + np.sin(angle)[:, None, None] * v)
    return X[:, None] + 0.02 * rng.normal(size=(n, 1, 6, 6)), np.abs(slope)


def convolutional(**options):
    architecture = CNN(conv_channels=(3,), kernel_size=3, stride=1, activation="tanh", input_shape=(1, 6, 6))
    return LMRegressor(**{"architecture": architecture, "random_state": 0, "max_iter": 30, "alpha": 1e-4, **options})


def test_images_may_come_flat_or_not():
    X, y = ramps()
    model, other = convolutional().fit(X, y), convolutional().fit(X.reshape(150, -1), y)
    assert_array_equal(other.theta_, model.theta_)
    assert_array_equal(other.predict(X), model.predict(X.reshape(150, -1)))
    assert model.score(X, y) > 0.8
    assert model.n_features_in_ == 36
    outputs = model.to_module()(torch.tensor(X.reshape(150, -1))).detach().numpy()
    assert_allclose(outputs[:, 0], model.predict(X), rtol=1e-9, atol=1e-9)
    assert_array_equal(model.predict(X[:, 0]), model.predict(X))  # the axis of one channel may be left out
    with pytest.raises(ValueError, match=r"images of shape \(5, 6\); the architecture's input_shape is \(1, 6, 6\)"):
        model.predict(X[:, 0, 1:])
    with pytest.raises(ValueError, match=r"images of shape \(2, 6, 6\)"):
        convolutional().fit(np.concatenate([X, X], axis=1), y)


def test_signals_may_come_flat_or_not():
    X, y = ramps()
    signal = X[:, 0, :4].reshape(150, 2, 12)
    architecture = CNN(conv_channels=(3,), kernel_size=3, stride=2, input_shape=(2, 12))
    model = convolutional(architecture=architecture).fit(signal, y)
    other = convolutional(architecture=architecture).fit(signal.reshape(150, 24), y)
    assert_array_equal(other.theta_, model.theta_)
    assert_array_equal(other.predict(signal), model.predict(signal.reshape(150, 24)))


def test_units_of_images_and_targets_do_not_matter():
    X, y = ramps()
    one = convolutional(max_iter=8).fit(X, y)
    other = convolutional(max_iter=8).fit(255 * X + 100, 1e4 * y - 3)
    assert_allclose(other.predict(255 * X + 100), 1e4 * one.predict(X) - 3, rtol=1e-6, atol=1e-2)
    weights = np.random.default_rng(5).integers(0, 3, size=150)
    weighted = convolutional(max_iter=5).fit(X, y, weights)
    repeated = convolutional(max_iter=5).fit(X.repeat(weights, axis=0), y.repeat(weights))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-7, atol=1e-7)
    warm = one.set_params(warm_start=True, damping=1e15, max_iter=1)
    before = warm.predict(3 * X + 1)
    assert_allclose(warm.fit(3 * X + 1, 2 * y).predict(3 * X + 1), before, rtol=1e-6, atol=1e-6)


def test_grid_search_over_the_kernel_size():
    X, y = ramps()
    search = GridSearchCV(convolutional(max_iter=8), {"architecture__kernel_size": [1, 3, 5]}, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) == 3
    assert search.best_estimator_.architecture_.kernel_size == search.best_params_["architecture__kernel_size"]
