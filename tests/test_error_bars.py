"""``predict(return_std=True)``, ``noise_std_`` and ``covariance_`` against closed forms, scipy and simulation."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklm import MLP, LMRegressor, _rows_left_out, fit_many
from sklm.optim import Status

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
Y = X @ [1.0, -2.0, 0.5] + 3 + 0.3 * rng.normal(size=40)
X_NEW = rng.normal(size=(25, 3))
LINEAR = LMRegressor((), alpha=0, tol=1e-12)


def textbook(X, y, X_new, precision=None):
    """Prediction, its standard deviation for new targets of mean weight, and that of the noise, by least squares."""
    precision = np.ones(len(X)) if precision is None else precision / np.mean(precision)
    design, new = np.c_[X, np.ones(len(X))], np.c_[X_new, np.ones(len(X_new))]
    inverse = np.linalg.inv(design.T @ (precision[:, None] * design))
    weights = inverse @ design.T @ (precision[:, None] * y.reshape(len(X), -1)).reshape(y.shape)
    variance = precision @ (y - design @ weights) ** 2 / (len(X) - design.shape[1])
    spread = 1 + np.einsum("ij,jk,ik->i", new, inverse, new)
    return new @ weights, np.sqrt(np.multiply.outer(spread, variance)), np.sqrt(variance)


class Decay(torch.nn.Module):
    """height * exp(-t / time) + floor, and something that has no effect."""

    def __init__(self, height, time, floor, split=False):
        super().__init__()
        values = [height, time, floor / 2, floor / 2] if split else [height, time, floor]
        self.values = torch.nn.ParameterList([torch.tensor(value, dtype=torch.float64) for value in values])

    def forward(self, rows):
        height, time, *floor = self.values
        return height * torch.exp(-rows[:, 0] / time) + sum(floor)


def decay(t, height, time, floor):
    return height * np.exp(-t / time) + floor


TIMES = np.linspace(0, 5, 50)
SIGNAL = decay(TIMES, 3, 0.7, 0.2) + 0.02 * rng.normal(size=50)


@pytest.mark.parametrize("weights", [None, rng.uniform(1, 4, 40), rng.integers(1, 4, 40), np.full(40, 400.0)])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_linear_model_has_those_of_the_textbook(weights, n_outputs):
    targets = np.c_[Y, 100 * Y + 20 * rng.normal(size=40)][:, :n_outputs]
    model = clone(LINEAR).fit(X, targets, sample_weight=weights)
    expected, deviation, noise = textbook(X, targets, X_NEW, weights)
    predicted, found = model.predict(X_NEW, return_std=True)
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    np.testing.assert_allclose(found, deviation, rtol=1e-6)
    np.testing.assert_allclose(model.noise_std_, noise, rtol=1e-6)
    assert np.shape(model.noise_std_) == noise.shape
    np.testing.assert_array_equal(predicted, model.predict(X_NEW))


def test_a_penalised_linear_model_is_a_gaussian_process():
    """The same posterior for the same noise, with a linear kernel and an almost free intercept."""
    x, y = (X - X.mean(0)) / X.std(0), (Y - Y.mean()) / Y.std()
    alpha = 0.05
    model = LMRegressor((), alpha=alpha, tol=1e-12).fit(x, y)
    noise = model.noise_std_
    scaled = noise / np.sqrt(alpha * 40)  # deviation of a coefficient beforehand

    kernel = DotProduct(sigma_0=1e4, sigma_0_bounds="fixed") * 1.0 + WhiteKernel((noise / scaled) ** 2, "fixed")
    kernel.set_params(k1__k2__constant_value_bounds="fixed")
    process = GaussianProcessRegressor(kernel, alpha=0, optimizer=None).fit(x, y / scaled)
    expected, deviation = process.predict(X_NEW, return_std=True)
    predicted, found = model.predict(X_NEW, return_std=True)
    np.testing.assert_allclose(predicted, scaled * expected, atol=1e-5)
    np.testing.assert_allclose(found, scaled * deviation, rtol=1e-5)
    assert 36 < (n_left := np.sum((model.predict(x) - y) ** 2) / noise**2) < 40, n_left


@pytest.mark.parametrize("weights", [None, 1 / np.linspace(0.5, 2, 50) ** 2, np.tile([4.0, 16.0], 25)])
def test_a_formula_has_those_of_curve_fit(weights):
    model = LMRegressor(architecture=Decay(1.0, 1.0, 0.0)).fit(TIMES[:, None], SIGNAL, sample_weight=weights)
    sigma = None if weights is None else weights**-0.5
    best, covariance = curve_fit(decay, TIMES, SIGNAL, [1, 1, 0], sigma=sigma, xtol=1e-12, ftol=1e-12)
    np.testing.assert_allclose(model.theta_, best, rtol=1e-5)
    np.testing.assert_allclose(model.covariance_, covariance, rtol=1e-4)


def test_what_the_rows_do_not_determine():
    rows = TIMES[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = LMRegressor(architecture=Decay(1.0, 1.0, 0.0, split=True)).fit(rows, SIGNAL)
    whole = LMRegressor(architecture=Decay(1.0, 1.0, 0.0)).fit(rows, SIGNAL)
    deviations = np.sqrt(np.diag(split.covariance_))
    np.testing.assert_array_equal(np.isinf(deviations), [False, False, True, True])
    np.testing.assert_allclose(deviations[:2], np.sqrt(np.diag(whole.covariance_))[:2], rtol=1e-4)
    # but predictions are as sure as before
    np.testing.assert_allclose(*(m.predict(rows, return_std=True)[1] for m in (split, whole)), rtol=1e-4)


@pytest.mark.parametrize(("n_rows", "noise"), [(50, 0.3), (200, 0.1), (200, 0.3)])
def test_as_many_new_targets_are_inside_as_should_be(n_rows, noise):
    inside, inside_of_two, ratios = [], [], []
    for seed in range(6):
        draw = np.random.default_rng(seed)

        def sample(n, draw=draw):
            x = draw.uniform(-1, 1, (n, 1))
            return x, np.sin(5 * x[:, 0]) * np.exp(x[:, 0]) + noise * draw.normal(size=n)

        model = LMRegressor(6, random_state=seed).fit(*sample(n_rows))
        x, y = sample(2000)
        predicted, deviation = model.predict(x, return_std=True)
        error = np.abs(y - predicted) / deviation
        inside.append(np.mean(error < 1))
        inside_of_two.append(np.mean(error < 1.96))
        ratios.append(model.noise_std_ / noise)
    assert 0.64 < np.mean(inside) < 0.73  # 0.683
    assert 0.93 < np.mean(inside_of_two) < 0.97  # 0.95
    assert 0.9 < np.mean(ratios) < 1.1


def test_it_is_less_sure_away_from_the_rows():
    x = np.linspace(-1, 1, 60)[:, None]
    model = LMRegressor(8, random_state=0).fit(x, np.sin(3 * x[:, 0]) + 0.1 * rng.normal(size=60))
    _, (inside, outside) = model.predict([[0.0], [3.0]], return_std=True)
    assert outside > 2 * inside > 2 * model.noise_std_


def test_of_constant_targets_and_few_rows():
    model = LMRegressor(random_state=0).fit(X, np.ones(40))
    with pytest.raises(AttributeError, match="all targets are the same"):
        model.predict(X_NEW, return_std=True)


def test_it_is_never_nan_however_far_away():
    y = np.sin(X[:, 0])
    for model in (LMRegressor(3, alpha=1e-3, random_state=0), LINEAR):
        mean, std = model.fit(X, y).predict(np.array([[1e308, 0, 0], [0, -1e200, 1e308]]), return_std=True)
        assert np.isfinite(mean).all()
        assert (std > 0).all()  # infinite, where derivatives cannot be computed


def test_the_mean_of_several_starts_is_a_mixture():
    draw = np.random.default_rng(2)
    square = draw.uniform(-1, 1, (150, 2))
    jumps = np.sign(square[:, 0] * square[:, 1]) + 0.1 * draw.normal(size=150)
    model = LMRegressor(random_state=0).fit(square, jumps)
    assert model.n_averaged_ == 4
    new = draw.uniform(-1, 1, (50, 2))
    predicted, deviation = model.predict(new, return_std=True)
    scaled, each = (new - model.x_mean_) * model.x_inverse_scale_, []
    for theta in model._members[1]:  # weights and biases of one layer after the other
        hidden = np.tanh(scaled @ theta[:40].reshape(20, 2).T + theta[40:60])
        each.append((hidden @ theta[60:80] + theta[80]) * model.y_scale_ + model.y_mean_)
    among = np.var(each, axis=0)
    np.testing.assert_allclose(predicted, np.mean(each, axis=0), atol=1e-10)
    assert np.all(deviation**2 > among + model.noise_std_**2)
    # what is left are variances of single fits, which are those of a fit of its own for one member
    single = LMRegressor(20, alpha=model.alpha_, n_init=1, random_state=0).fit(square, jumps)
    of_one = single.predict(new, return_std=True)[1] ** 2 - single.noise_std_**2
    rest = deviation**2 - among - model.noise_std_**2
    assert 0.5 < np.median(rest / of_one) < 2
    with pytest.raises(AttributeError, match="mean of several; set n_init=1"):
        _ = model.covariance_


def test_units_shapes_and_pipelines():
    model = LMRegressor(3, random_state=0).fit(X, Y)
    predicted, deviation = model.predict(X_NEW, return_std=True)
    assert predicted.shape == deviation.shape == (25,)
    assert isinstance(model.noise_std_, float)
    larger = LMRegressor(3, random_state=0).fit(X, 1000 * Y + 5)
    np.testing.assert_allclose(larger.predict(X_NEW, return_std=True)[1], 1000 * deviation, rtol=1e-5)
    pair = LMRegressor(5, alpha=1e-3, random_state=0).fit(X, np.c_[Y, Y])
    assert pair.predict(X_NEW, return_std=True)[1].shape == (25, 2)
    steps = make_pipeline(StandardScaler(), LMRegressor(3, random_state=0)).fit(X, Y)
    np.testing.assert_allclose(steps.predict(X_NEW, return_std=True)[1], deviation, rtol=1e-5)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X_NEW, return_std=True)[1], deviation)
    (together,) = fit_many(LMRegressor(3, random_state=0), X, [Y])
    np.testing.assert_allclose(together.predict(X_NEW, return_std=True)[1], deviation, rtol=1e-6)


def test_many_rows_are_predicted_in_pieces(monkeypatch):
    model = LMRegressor(5, alpha=1e-2, random_state=0).fit(X, Y)
    whole = model.predict(X_NEW, return_std=True)[1]
    monkeypatch.setattr("sklm._error_bars._FLOATS", 200)
    np.testing.assert_allclose(model.predict(X_NEW, return_std=True)[1], whole, rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "huber"}, "the loss is Huber"),
        ({"optimizer": "lbfgs", "max_iter": 20}, "the optimizer is not Levenberg-Marquardt"),
        ({"batch_size": 10}, "mini-batches; batch_size=None takes all rows"),
        ({"early_stopping": True}, "early_stopping=False takes all rows"),
        ({"hidden_layer_sizes": 300, "alpha": 1e-2, "n_init": 1}, "1501 parameters, more than 500; use fewer units"),
        ({"hidden_layer_sizes": 20, "alpha": 0, "max_iter": 30}, "no penalty and no more rows"),
        ({"target_loss": 10.0, "n_init": 1}, "ended short of a minimum: The loss reached target_loss"),
    ],
)
def test_fits_without_say_why(options, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LMRegressor(**{"hidden_layer_sizes": 5, "max_iter": 30, "random_state": 0, **options}).fit(X, Y)
    assert model.noise_std_ is None
    assert model.predict(X_NEW).shape == (25,)
    with pytest.raises(AttributeError, match="This fit has no error bars.*" + message):
        model.predict(X_NEW, return_std=True)


def test_constant_weights_do_not_matter():
    """As counts, 400 for each of 30 rows would be enough to need no penalty."""
    x = np.linspace(-1, 1, 30)[:, None]
    y = np.sin(4 * x[:, 0]) + 0.2 * np.random.default_rng(0).normal(size=30)
    plain, weighed = (LMRegressor(random_state=0).fit(x, y, sample_weight=w) for w in (None, np.full(30, 400)))
    assert weighed.alpha_ == plain.alpha_ > 0
    np.testing.assert_allclose(weighed.noise_std_, plain.noise_std_, rtol=1e-6)


def test_no_freedom_is_left():
    assert LMRegressor((), alpha=0).fit(X[:7], Y[:7]).noise_std_ > 0
    with pytest.raises(AttributeError, match=r"5 rows determine 4\.0 parameters"):
        LMRegressor((), alpha=0).fit(X[:5], Y[:5]).predict(X_NEW, return_std=True)
    with pytest.raises(AttributeError, match="no error bars"):
        LMRegressor((), alpha=0).fit(X[:4], Y[:4]).predict(X_NEW, return_std=True)


def test_a_step_of_partial_fit_has_none():
    model = LMRegressor(5, random_state=0).fit(X, Y).partial_fit(X, Y)
    assert model.noise_std_ is None
    with pytest.raises(AttributeError, match="partial_fit has seen a batch"):
        model.predict(X_NEW, return_std=True)


def test_of_a_fit_that_was_stopped(monkeypatch):
    model = LMRegressor(5, max_time=1e-9, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y)
    assert model.status_ == Status.TIME.name.lower()
    with pytest.raises(AttributeError, match="short of a minimum"):
        model.predict(X_NEW, return_std=True)


def test_outputs_of_different_noise_share_parameters():
    """What a noisy output moves in the hidden layer moves the others, too: coverage by simulation."""
    where = np.linspace(-1.5, 1.5, 7)[:, None]
    inside = []
    for seed in range(25):
        draw = np.random.default_rng(seed)
        x = draw.uniform(-1, 1, (200, 1))
        curve = np.tanh(2 * x[:, 0] + 0.3)
        both = np.c_[curve + 1e-2 * draw.normal(size=200), curve + 0.5 * draw.normal(size=200)]
        model = LMRegressor(1, alpha=0, n_init=2, tol=1e-8, random_state=0).fit(x, both)
        predicted, deviation = model.predict(where, return_std=True)
        truth = np.tanh(2 * where + 0.3) + np.array([1e-2, 0.5]) * draw.normal(size=(7, 2))
        inside.append(np.abs(truth - predicted) < 1.96 * deviation)
    assert np.all(np.mean(inside, axis=(0, 1)) > 0.9)
    assert np.all(np.mean(inside, axis=0) > 0.72)


def test_every_output_has_its_own_freedom():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.few = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            self.many = torch.nn.Parameter(torch.zeros(14, dtype=torch.float64))

        def forward(self, rows):
            return torch.stack([rows[:, 0] * self.few[0], rows @ self.many], dim=1)

    rows = rng.normal(size=(25, 14))
    targets = rng.normal(size=(25, 2))
    model = LMRegressor(architecture=Two()).fit(rows, targets)
    residual = targets - model.predict(rows)
    np.testing.assert_allclose(model.noise_std_**2, (residual**2).sum(0) / [24, 11], rtol=1e-6)


def test_covariance_of_two_linear_outputs():
    targets = np.c_[Y, 100 * Y + 500 * rng.normal(size=40)]
    model = LMRegressor((), alpha=0, standardize=False, tol=1e-12).fit(X, targets)
    design = np.c_[X, np.ones(40)]
    residual = targets - model.predict(X)
    expected = np.multiply.outer((residual**2).sum(0) / 36, np.diag(np.linalg.inv(design.T @ design)))
    found = np.diag(model.covariance_)  # weights (K, F), then biases (K,)
    np.testing.assert_allclose(found[:6].reshape(2, 3), expected[:, :3], rtol=1e-5)
    np.testing.assert_allclose(found[6:], expected[:, 3], rtol=1e-5)


def test_an_ill_conditioned_formula():
    years = np.linspace(1990, 2020, 60)

    class Cubic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.values = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, rows):
            return sum(self.values[k] * (rows[:, 0] / 1000) ** k for k in range(4))

    heights = np.sin((years - 1990) / 10) + 0.1 * np.random.default_rng(3).normal(size=60)
    model = LMRegressor(architecture=Cubic()).fit(years[:, None], heights)
    left, singular, right = np.linalg.svd(np.vander(years / 1000, 4, increasing=True), full_matrices=False)
    variance = np.sum((heights - left @ (left.T @ heights)) ** 2) / 56
    spread = right.T / singular
    new = np.array([2000.0, 2030.0])
    rows = np.vander(new / 1000, 4, increasing=True)
    np.testing.assert_allclose(np.diag(model.covariance_), variance * (spread**2).sum(1), rtol=1e-2)
    expected = np.sqrt(variance * (1 + ((rows @ spread) ** 2).sum(1)))
    np.testing.assert_allclose(model.predict(new[:, None], return_std=True)[1], expected, rtol=1e-2)


def test_directions_that_the_rows_leave_open_are_not_sure():
    twice = np.c_[X, X[:, 0]]
    model = LMRegressor((), alpha=0).fit(twice, Y)
    together, apart = model.predict([[1.0, 0, 0, 1], [1.0, 0, 0, -1]], return_std=True)[1]
    assert together < 1
    assert apart > 1000
    assert np.isinf(np.diag(model.covariance_)).sum() == 2


def test_single_precision_has_none():
    model = LMRegressor(5, alpha=1e-2, dtype="float32", n_init=1, random_state=0).fit(X, Y)
    with pytest.raises(AttributeError, match="single precision; use dtype='float64'"):
        model.predict(X_NEW, return_std=True)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_derivatives_that_are_not_finite(monkeypatch, n_outputs):
    original = _rows_left_out.left_out

    def spoiled(problem, theta, **options):
        return original(problem, torch.full_like(theta, torch.nan), **options)

    monkeypatch.setattr(_rows_left_out, "left_out", spoiled)
    model = LMRegressor(3, alpha=1e-2, n_init=1, random_state=0).fit(X, np.c_[Y, Y][:, :n_outputs])
    with pytest.raises(AttributeError, match="its derivatives are not finite"):
        model.predict(X_NEW, return_std=True)


def test_arrays_that_cannot_be_written_to(tmp_path):
    model = LMRegressor(5, random_state=0).fit(X, Y)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert not mapped.theta_.flags.writeable
    np.testing.assert_array_equal(mapped.predict(X, return_std=True)[1], model.predict(X, return_std=True)[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_reciprocal_variances(dtype):
    """Those of single precision are all whole numbers."""
    own = np.random.default_rng(0)  # that of the module depends on which tests came before
    sizes = 1e-4 * own.uniform(0.5, 2, 40)
    targets = X @ [1.0, -2.0, 0.5] + sizes * own.normal(size=40)
    weights = (1 / sizes**2).astype(dtype)
    options = {"alpha": "cv", "random_state": 0}
    model = LMRegressor((), **options).fit(X, targets, sample_weight=weights)
    scaled = LMRegressor((), **options).fit(X, targets, sample_weight=weights.astype(float) * np.pi / 1e9)
    assert model.alpha_ == scaled.alpha_
    np.testing.assert_allclose(model.noise_std_, scaled.noise_std_, rtol=1e-2)


def test_other_architectures():
    given = LMRegressor(architecture=MLP((4,)), alpha=1e-3, random_state=0).fit(X, Y)
    assert np.all(given.predict(X_NEW, return_std=True)[1] > given.noise_std_)
    assert given.covariance_.shape == (len(given.theta_),) * 2
    assert np.all(np.linalg.eigvalsh(given.covariance_) > 0)
