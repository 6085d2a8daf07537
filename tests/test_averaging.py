"""``n_init='auto'``: the mean of the starts where they end in different minima, as one wider network."""

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, mean_poisson_deviance
from sklearn.model_selection import GridSearchCV

from sklm import LMClassifier, LMGridSearchCV, LMRegressor, _averaging, _reporting, fit_many
from sklm.architectures import MLP
from sklm.optim import Status

rng = np.random.default_rng(2)
X = rng.uniform(-1, 1, (150, 2))
#: jumps, which twenty units smooth in several ways
Y = np.sign(X[:, 0] * X[:, 1]) + 0.1 * rng.normal(size=150)
X_NEW = rng.uniform(-1, 1, (4000, 2))
REGRESSOR = LMRegressor(relevance=None, random_state=0)

FEW = np.random.default_rng(0).uniform(-1, 1, (60, 2))
LABELS = np.where(FEW[:, 1] > 0.5 * np.sin(6 * FEW[:, 0]), "above", "below")
CLASSIFIER = LMClassifier(random_state=0)


@pytest.fixture(scope="module")
def regressor():
    return clone(REGRESSOR).fit(X, Y)


@pytest.fixture(scope="module")
def classifier():
    return clone(CLASSIFIER).fit(FEW, LABELS)


def members(model):
    """The networks whose mean a model with one hidden layer is: functions of raw rows."""
    (first, last), (bias, outside) = model.coefs_, model.intercepts_
    number = model.n_averaged_
    units = first.shape[1] // number
    for k in range(number):
        part = slice(k * units, (k + 1) * units)
        yield lambda rows, p=part: np.tanh(rows @ first[:, p] + bias[p]) @ last[p] * number + outside


def test_the_network_is_wider_and_the_mean_of_different_ones(regressor):
    assert (regressor.n_averaged_, regressor.architecture_.hidden_layer_sizes) == (4, (80,))
    each = [member(X_NEW)[:, 0] for member in members(regressor)]
    np.testing.assert_allclose(regressor.predict(X_NEW), np.mean(each, axis=0), atol=1e-10)
    assert min(np.std(one - regressor.predict(X_NEW)) for one in each) > 0.01


def test_it_is_better_on_new_rows_than_its_members(regressor):
    truth = np.sign(X_NEW[:, 0] * X_NEW[:, 1])

    def error(outputs):
        return np.mean((outputs - truth) ** 2)

    each = [error(member(X_NEW)[:, 0]) for member in members(regressor)]
    assert error(regressor.predict(X_NEW)) < 0.97 * np.mean(each)


def test_what_is_reported_is_that_of_the_mean(regressor):
    loss = 0.5 * np.mean((regressor.predict(X) - Y) ** 2)
    np.testing.assert_allclose(regressor.loss_, loss, rtol=1e-10)
    single = LMRegressor(20, relevance=None, alpha=regressor.alpha_, n_init=4, random_state=0).fit(X, Y)
    assert single.loo_score_ < regressor.loo_score_ < regressor.score(X, Y)
    assert len(regressor.loss_curve_) == regressor.n_iter_


def test_the_leave_one_out_score_is_near_that_of_the_members_fitted_without_each_row(regressor):
    held = np.random.default_rng(1).choice(len(X), 10, replace=False)
    predicted = []
    for n in held:
        rest = np.delete(np.arange(len(X)), n)
        start = clone(REGRESSOR).set_params(
            hidden_layer_sizes="auto", alpha=regressor.alpha_, warm_start=True, tol=1e-5
        )
        outputs = []
        for member in range(4):
            start.__dict__.update(one_member(regressor, member))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs.append(start.fit(X[rest], Y[rest]).predict(X[[n]]))
        predicted.append(np.mean(outputs))
    without = np.mean((np.array(predicted) - Y[held]) ** 2)
    # the score of all rows, against some of them
    assert 0.5 < without / (np.var(Y) * (1 - regressor.loo_score_)) < 2


def one_member(model, number):
    """Fitted attributes of one of the networks whose mean a model is."""
    wide = model.architecture_.build(2, 1)
    units = wide.sizes[1] // model.n_averaged_
    part = slice(number * units, (number + 1) * units)
    first, last = wide.layers
    weights = model.theta_[first.weight].reshape(-1, 2)[part].ravel()
    outside = model.theta_[last.weight][part] * model.n_averaged_
    theta = np.concatenate([weights, model.theta_[first.bias][part], outside, model.theta_[last.bias]])
    return {**vars(model), "architecture_": MLP((units,)), "theta_": theta, "warm_start": True, "alpha": model.alpha_}


def test_classes(classifier):
    assert classifier.n_averaged_ == 4
    logits = np.mean([member(FEW)[:, 0] for member in members(classifier)], axis=0)
    probabilities = classifier.predict_proba(FEW)
    np.testing.assert_allclose(np.log(probabilities[:, 1] / probabilities[:, 0]), logits, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(classifier.loss_, log_loss(LABELS, probabilities), rtol=1e-8)


def test_classes_are_better_on_new_rows(classifier):
    labels = np.where(X_NEW[:, 1] > 0.5 * np.sin(6 * X_NEW[:, 0]), "above", "below")
    signs = np.where(labels == classifier.classes_[1], 1, -1)

    def losses(logits):
        return np.logaddexp(0, -signs * logits).mean()

    each = [losses(member(X_NEW)[:, 0]) for member in members(classifier)]
    assert log_loss(labels, classifier.predict_proba(X_NEW)) < 0.97 * np.mean(each)


@pytest.mark.parametrize(
    "options",
    [
        {"n_init": 1},
        {"n_init": 4},
        {"hidden_layer_sizes": 20},
        {"alpha": 1e-3},
        {"early_stopping": True},
        {"optimizer": "lbfgs", "max_iter": 50},
    ],
)
@pytest.mark.parametrize(("estimator", "rows", "targets"), [(REGRESSOR, X, Y), (CLASSIFIER, FEW, LABELS)])
def test_a_single_network_where_the_user_has_a_say(estimator, rows, targets, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = clone(estimator).set_params(**{"max_iter": 30, **options}).fit(rows, targets)
    assert (model.n_averaged_, model.architecture_.hidden_layer_sizes) in ((1, (20,)), (1, 20))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_single_network_where_starts_agree_or_there_is_no_noise():
    short = clone(REGRESSOR).set_params(max_iter=100)
    smooth = np.sin(3 * X[:, 0]) + X[:, 1]
    exact = clone(short).fit(X, smooth)
    assert (exact.n_averaged_, exact.alpha_) == (1, 0)
    noisy = clone(short).fit(X, smooth + 0.5 * rng.normal(size=150))
    assert noisy.n_averaged_ == 1
    assert noisy.alpha_ > 0


def test_starts_that_are_far_behind_do_not_count(monkeypatch):
    seen, original = [], _averaging._members

    def spy(solution, row):
        seen.append((solution.rank / solution.rank[row], original(solution, row)))
        return seen[-1][1]

    monkeypatch.setattr(_averaging, "_members", spy)
    clone(REGRESSOR).fit(X, Y)
    ratios, kept = seen.pop()
    assert len(kept) == 4
    monkeypatch.setattr(_averaging, "BEHIND", np.median(ratios))
    clone(REGRESSOR).fit(X, Y)
    np.testing.assert_array_equal(seen.pop()[1], np.flatnonzero(ratios <= np.median(ratios)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_batch_gives_the_same():
    estimator = clone(REGRESSOR).set_params(max_iter=30)  # on long paths rounding grows
    targets = [Y, Y[::-1]]
    for together, y in zip(fit_many(estimator, X, targets), targets, strict=True):
        alone = clone(estimator).fit(X, y)
        assert together.n_averaged_ == alone.n_averaged_
        np.testing.assert_allclose(together.predict(X_NEW), alone.predict(X_NEW), rtol=1e-8, atol=1e-8)
    assert clone(estimator).fit(X, Y).n_averaged_ == 4


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_one_search_gives_the_same():
    grid = {"activation": ["tanh", "logistic"]}
    cv = [(np.arange(60), np.arange(50, 60)), (np.arange(55), np.arange(55, 60))]
    options, model = {"cv": cv, "scoring": "neg_log_loss"}, clone(CLASSIFIER).set_params(max_iter=15)
    ours = LMGridSearchCV(model, grid, **options).fit(FEW, LABELS)
    theirs = GridSearchCV(model, grid, **options).fit(FEW, LABELS)
    assert clone(model).fit(FEW, LABELS).n_averaged_ == 4  # the first one of them
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-8)
    assert ours.cv_results_["batched"].all()


def long_table(n_rows, n_columns, n_classes):
    rows = np.random.default_rng(0).uniform(-1, 1, (n_rows, n_columns))
    return rows, np.digitize(np.sin(3 * rows[:, 0]) + rows[:, 1] * rows[:, 2], np.linspace(-0.5, 0.5, n_classes - 1))


@pytest.mark.parametrize(("n_rows", "n_columns", "batched"), [(700, 25, False), (1000, 40, True)])
def test_long_fits_have_two_starts(n_rows, n_columns, batched):
    _, fit = LMClassifier(relevance=None, random_state=0)._ready(*long_table(n_rows, n_columns, 5))
    assert fit.folds.climbs
    assert (len(fit.theta), fit.n_averaged) == (1, 2)
    assert (fit.batches is not None) is batched


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_mini_batches():
    rows, kinds = long_table(1000, 40, 5)
    model = LMClassifier(relevance=None, max_iter=3, random_state=0).fit(rows, kinds)
    assert model.n_averaged_ == 2
    assert model.architecture_.hidden_layer_sizes == (60,)
    np.testing.assert_allclose(model.loss_, log_loss(kinds, model.predict_proba(rows)), rtol=1e-8)


def test_it_goes_on_as_the_network_that_it_is(regressor, classifier):
    again = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(again.predict(X_NEW), regressor.predict(X_NEW))
    with torch.inference_mode():
        outputs = regressor.to_module()(torch.from_numpy(X_NEW))[:, 0].numpy()
    np.testing.assert_allclose(outputs, regressor.predict(X_NEW), atol=1e-10)
    step = pickle.loads(pickle.dumps(classifier)).partial_fit(FEW, LABELS)
    assert (step.n_averaged_, step.architecture_.hidden_layer_sizes) == (4, (80,))


def test_partial_fit_stays_near(regressor):
    """The penalty of the wide network is the mean of the members', so that it is near its minimum."""
    model = pickle.loads(pickle.dumps(regressor))
    for _ in range(5):
        model.partial_fit(X, Y)
    assert np.sqrt(np.mean((model.predict(X_NEW) - regressor.predict(X_NEW)) ** 2)) < 0.1
    assert 0.5 * regressor.loss_ < model.loss_ < 1.1 * regressor.loss_


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_a_warm_start_goes_on_from_every_member(kind, request):
    model = pickle.loads(pickle.dumps(request.getfixturevalue(kind)))
    rows, targets = (X, Y) if kind == "regressor" else (FEW, LABELS)
    before, loss, alpha = model.n_averaged_, model.loss_, model.alpha_
    model.set_params(warm_start=True).fit(rows, targets)
    assert (model.n_averaged_, model.architecture_.hidden_layer_sizes, model.alpha_) == (before, (80,), alpha)
    assert 0.7 * loss < model.loss_ < 1.2 * loss  # they were at their minima, or near
    assert model.loo_score_ is None if kind == "classifier" else model.loo_score_ > 0.8
    # a number of units asks for one network: it goes on from the first of those
    model.set_params(hidden_layer_sizes=20).fit(rows, targets)
    assert (model.n_averaged_, model.architecture_.hidden_layer_sizes) == (1, 20)


def test_a_warm_start_of_one_network_stays_one():
    smooth = np.sin(3 * X[:, 0]) + 0.5 * np.random.default_rng(5).normal(size=150)
    model = clone(REGRESSOR).set_params(warm_start=True).fit(X, smooth)
    assert model.n_averaged_ == 1
    model.fit(X, Y)  # where starts differ
    assert (model.n_averaged_, model.architecture_.hidden_layer_sizes) == (1, (20,))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_little_by_little_is_not_worse():
    whole = LMRegressor(relevance=None, random_state=0).fit(X, Y)
    parts = LMRegressor(relevance=None, random_state=0, warm_start=True, max_iter=20)
    for _ in range(12):
        parts.fit(X, Y)
    assert parts.n_averaged_ == 4
    assert parts.loo_score_ > whole.loo_score_ - 0.03


def test_further_starts_wait_for_noise():
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(600, 14))
    exact = np.sin(rows @ draw.normal(size=14) * 0.3) + rows[:, 0]
    _, fit = LMRegressor(relevance=None, random_state=0)._ready(rows, exact)
    assert (len(fit.theta), fit.n_averaged) == (1, 4)
    assert len(replace(fit, alpha=0.0).averaging().theta) == 1
    noisy = replace(fit, alpha=1e-3).averaging()
    assert len(noisy.theta) == len(noisy.problem.alpha) == 4
    np.testing.assert_array_equal(noisy.theta[0], fit.theta[0])


def test_no_further_starts_without_room_time_or_need(monkeypatch):
    draw = np.random.default_rng(0)
    many = draw.normal(size=(6500, 2))
    _, fit = LMClassifier(random_state=0)._ready(many, many[:, 0] + draw.normal(size=6500) > 0)
    assert fit.folds is not None
    assert fit.n_averaged == 1
    _, fit = LMClassifier(random_state=0, max_time=100)._ready(FEW, LABELS)
    assert fit.n_averaged == 1
    runs = []
    original = LMClassifier._solve
    monkeypatch.setattr(LMClassifier, "_solve", lambda *a: runs.append(len(a[1].theta)) or original(*a))
    monkeypatch.setattr(LMClassifier, "_models_at_once", lambda *_: 3)
    assert clone(CLASSIFIER).fit(FEW, LABELS).n_averaged_ == 1
    assert runs == [1]


@pytest.mark.parametrize("kind", ["three classes, weights", "labels", "smoothed", "poisson"])
def test_the_loss_of_every_kind_of_mean(monkeypatch, kind):
    monkeypatch.setattr(_averaging, "WORTH", -1.0)
    monkeypatch.setattr(_averaging, "LUCK", np.inf)
    rows, w = X[:90], np.random.default_rng(0).uniform(0.5, 2, 90)
    three, two = np.digitize(np.hypot(*rows.T), [0.5, 0.9]), (rows[:, 0] > 0.5 * np.sin(6 * rows[:, 1])).astype(int)
    if kind == "three classes, weights":
        model = LMClassifier(random_state=0).fit(rows, three, sample_weight=w)
        expected = log_loss(three, model.predict_proba(rows), sample_weight=w)
    elif kind == "labels":
        both = np.c_[two, three == 1].astype(int)
        model = LMClassifier(activation="tanh", random_state=0).fit(rows, both)
        p = model.predict_proba(rows)
        expected = -(both * np.log(p) + (1 - both) * np.log(1 - p)).mean()
    elif kind == "smoothed":
        model = LMClassifier(label_smoothing=0.1, random_state=0).fit(rows, two)
        targets = np.where(np.eye(2)[two] == 1, 0.95, 0.05)
        expected = -(targets * np.log(model.predict_proba(rows))).sum(1).mean()
    else:
        counts = np.random.default_rng(1).poisson(np.exp(1 + np.sin(4 * rows[:, 0]))).astype(float)
        model = LMRegressor(loss="poisson", random_state=0).fit(rows, counts)
        expected = 0.5 * mean_poisson_deviance(counts, model.predict(rows))
    assert model.n_averaged_ == 4
    np.testing.assert_allclose(model.loss_, expected, rtol=1e-8)


def test_a_mean_is_done_when_its_members_are(monkeypatch):
    states, original = [], _averaging._members

    def spy(solution, row):
        states.append((solution.status[row], list(solution.status)))
        return original(solution, row)

    monkeypatch.setattr(_averaging, "_members", spy)
    with pytest.warns(ConvergenceWarning, match="reached max_iter=80"):
        model = clone(REGRESSOR).set_params(max_iter=80).fit(X, Y)
    ((best, every),) = states
    assert best.converged
    assert Status.MAX_ITER in every
    assert (model.n_averaged_, model.status_, model.converged_) == (4, "max_iter", False)


def test_a_start_with_a_fault_is_no_member(monkeypatch):
    original = _averaging._members

    def spy(solution, row):
        solution.status[(row + 1) % 4] = Status.STALLED
        return original(solution, row)

    monkeypatch.setattr(_averaging, "_members", spy)
    assert clone(REGRESSOR).fit(X, Y).n_averaged_ == 3


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_decides(monkeypatch):
    short = clone(REGRESSOR).set_params(max_iter=80)
    monkeypatch.setattr(_averaging, "LUCK", 0.5)
    assert clone(short).fit(X, Y).n_averaged_ == 1
    monkeypatch.setattr(_averaging, "LUCK", np.inf)
    monkeypatch.setattr(_averaging, "WORTH", 1.0)
    assert clone(short).fit(X, Y).n_averaged_ == 1
    monkeypatch.setattr(_averaging, "WORTH", -1.0)
    assert clone(short).fit(X, Y).n_averaged_ == 4
    exact = clone(short).fit(X, np.sin(3 * X[:, 0]) + X[:, 1])
    assert (exact.n_averaged_, exact.alpha_) == (1, 0)


def test_a_fit_that_was_stopped_keeps_its_best_start(monkeypatch):
    original = _reporting.mean_of_starts

    def stopped(fit, solution, row, alone):
        assert original(fit, solution, row, alone) is not None
        solution.status[(row + 1) % 4] = Status.TIME
        return original(fit, solution, row, alone)

    monkeypatch.setattr(_reporting, "mean_of_starts", stopped)
    model = clone(REGRESSOR).fit(X, Y)
    assert (model.n_averaged_, model.architecture_.hidden_layer_sizes) == (1, (20,))
