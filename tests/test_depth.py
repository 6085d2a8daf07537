"""``hidden_layer_sizes='auto'``: two hidden layers instead of one where rows left out evidently say so."""

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklm import (
    LMClassifier,
    LMGridSearchCV,
    LMRegressor,
    _alpha_search,
    _batching,
    _depth,
    _other_fits,
    _prepared,
    _training,
    fit_many,
)
from sklm._depth import deeper_sizes
from sklm._noise import Noise
from sklm.architectures import MLP
from sklm.optim import Status, Stopping

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(n_samples=150, noise=0.0, seed=0):
    """A product, which one layer of few units has trouble with, and new rows without noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_samples + 2000, 2))
    y = np.sin(4 * X[:, 0]) * np.exp(X[:, 1])
    noisy = y[:n_samples] + noise * y.std() * rng.standard_normal(n_samples)
    return X[:n_samples], noisy, X[n_samples:], y[n_samples:]


def error(model, X, y):
    return np.sqrt(np.mean((model.predict(X) - y) ** 2)) / y.std()


def sizes(model):
    return model.architecture_.hidden_layer_sizes


@pytest.fixture(scope="module")
def deep():
    """A fit for which two layers are found."""
    X, y, *_ = table()
    return LMRegressor(random_state=0, max_iter=300).fit(X, y)


def tried(monkeypatch):
    """A list that is filled with what is tried beside one layer."""
    found, original = [], _depth.deepened

    def spy(results, stopping, search, solve):
        def noted(fits):
            found.extend(fit.core["architecture_"].hidden_layer_sizes for fit in fits)
            return search(fits)

        return original(results, stopping, noted, solve)

    monkeypatch.setattr(_other_fits, "deepened", spy)
    return found


# -- which sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_inputs", [1, 2, 7])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("n_rows", [200, 777, 3000])
@pytest.mark.parametrize("n_one", [100, 300])
def test_two_layers_have_two_rows_a_parameter_and_a_bounded_linearisation(n_rows, n_inputs, n_outputs, n_one):
    units, same = deeper_sizes(n_rows, n_inputs, n_outputs, n_one)
    assert units == same >= 4

    def n_parameters(units):
        return MLP((units, units)).build(n_inputs, n_outputs).n_parameters

    def suits(number):
        return number <= n_rows / 2 and n_rows * number**2 <= max(5e7, n_rows * n_one**2)

    assert suits(n_parameters(units))
    assert not suits(n_parameters(units + 1))


def test_no_sizes_for_few_rows_or_many_parameters():
    assert deeper_sizes(39, 1, 1, 61) is None
    assert deeper_sizes(40, 1, 1, 61) == deeper_sizes(91, 1, 1, 61) == (4, 4)  # 33 parameters
    assert deeper_sizes(92, 1, 1, 61) == (5, 5)  # 46 parameters
    assert deeper_sizes(10_000, 8, 1, 501) == (10, 10)  # 211 parameters, 4.5e8 multiplications
    assert deeper_sizes(100_000, 8, 1, 501) is None  # 70 parameters are no match
    assert deeper_sizes(17_000, 5, 1, 351) is None  # more than a hundred rows a parameter


# -- what it finds ------------------------------------------------------------------------------------------------


def test_few_rows_are_enough():
    """With fewer rows than parameters of one layer, whose leave-one-out loss is rough."""
    X, y, X_new, y_new = table(70)
    options = {"activation": "tanh", "random_state": 0, "max_iter": 200}
    chosen, one = LMRegressor(**options).fit(X, y), LMRegressor(20, **options).fit(X, y)
    assert sizes(chosen) == (4, 4)
    assert error(chosen, X_new, y_new) < 0.2 * error(one, X_new, y_new)


def test_two_layers_are_found_where_they_are_better(deep):
    X, y, X_new, y_new = table()
    one = LMRegressor(20, random_state=0, max_iter=300).fit(X, y)
    assert sizes(deep) == (6, 6)
    assert error(deep, X_new, y_new) < 0.2 * error(one, X_new, y_new)
    assert deep.loo_score_ > one.loo_score_


def test_the_result_is_that_of_the_chosen_sizes(deep):
    X, y, X_new, _ = table()
    same = LMRegressor((6, 6), random_state=0, max_iter=300).fit(X, y)
    for name in ("theta_", "alpha_", "alpha_scores_", "n_iter_", "loss_", "loo_score_", "status_"):
        np.testing.assert_equal(getattr(deep, name), getattr(same, name))
    np.testing.assert_array_equal(deep.predict(X_new), same.predict(X_new))


def test_columns_are_weighed_as_for_one_layer():
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, (120, 3))
    y, options = np.sin(4 * X[:, 0]) * np.exp(X[:, 1]), {"activation": "tanh", "random_state": 0, "max_iter": 60}
    model, one = LMRegressor(**options).fit(X, y), LMRegressor(20, **options).fit(X, y)
    assert len(sizes(model)) == 2
    assert model.relevance_ is not None
    np.testing.assert_array_equal(model.relevance_, one.relevance_)
    same = LMRegressor(sizes(model), relevance=model.relevance_, **options).fit(X, y)
    np.testing.assert_array_equal(model.theta_, same.theta_)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_with_noise_one_layer_stays_as_it_is(noise):
    X, y, *_ = table(noise=noise)
    model, one = (LMRegressor(units, activation="tanh", random_state=1).fit(X, y) for units in ("auto", 20))
    assert sizes(model) == (20,)
    np.testing.assert_array_equal(model.theta_, one.theta_)
    assert model.status_ == one.status_


@pytest.mark.parametrize("times", [10.0, 0.1])
def test_nobody_needs_more_digits_than_end_a_long_fit(monkeypatch, times):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 2))
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 * X[:, 0]
    monkeypatch.setattr("sklm._solving.LONG_WORK", 0.0)  # as if an iteration took long
    monkeypatch.setattr("sklm._solving.NEGLIGIBLE_WORK", 2e9)
    monkeypatch.setattr("sklm._depth.NEGLIGIBLE", times)
    found = tried(monkeypatch)
    model = LMRegressor(activation="tanh", random_state=0).fit(X, y)  # on rows left out, thrice what ends the fit
    assert bool(found) == (times < 1)
    assert found or model.status_ == "negligible"


def test_much_noise_costs_nothing(monkeypatch):
    X, y, *_ = table(noise=0.5)
    found = tried(monkeypatch)
    LMRegressor(random_state=0).fit(X, y)
    assert not found


def test_nobody_needs_more_digits_than_a_smooth_curve_has(monkeypatch):
    X = np.linspace(0, 3, 150)[:, None]
    found = tried(monkeypatch)
    model = LMRegressor(random_state=0).fit(X, np.exp(-X[:, 0]))
    assert model.loo_score_ > 1 - 1e-10
    assert not found
    assert sizes(model) == (20,)


def test_several_outputs():
    X, y, X_new, y_new = table(150)
    Y, Y_new = np.c_[y, y**2], np.c_[y_new, y_new**2]
    options = {"activation": "tanh", "random_state": 0, "max_iter": 100}
    model, one = LMRegressor(**options).fit(X, Y), LMRegressor(20, **options).fit(X, Y)
    assert len(sizes(model)) == 2
    assert np.mean((model.predict(X_new) - Y_new) ** 2) < 0.3 * np.mean((one.predict(X_new) - Y_new) ** 2)


# -- the rule -----------------------------------------------------------------------------------------------------


class FakeFit:
    def __init__(self, loss, alpha=0.0, predicts_rows=True, searched=1.0, negligible=0.0, noise=None):
        self.loss, self.alpha, self.predicts_rows = loss, alpha, predicts_rows
        self.noise = noise and Noise(noise, noise, True)
        self.searched_losses = np.atleast_1d(searched)
        self.problem, self.deeper = self, lambda: None
        self.options = {"stopping": Stopping(negligible=negligible)}

    def leave_one_out(self, solution, row, rough=False):
        return self.loss if rough else None

    def null_loss(self):
        return torch.tensor([0.5])

    def is_noise(self, loss):
        return _prepared.Prepared.is_noise(self, loss)


def result(loss, **options):
    return _depth.Result(FakeFit(loss, **options), None, 0)


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        (result(0.029), result(1.0), True),
        (result(0.031), result(1.0), False),
        (result(0.1, searched=0.2), result(1.0), True),
        (result(0.029, searched=50.0), result(1.0), True),  # a search that ends early does not speak against it
        (result(0.031, searched=50.0), result(1.0), False),
        (result(0.02, searched=2.0), result(1.0, alpha=1e-4), False),
        (result(0.02, searched=2.0), result(1.0, searched=2.0), True),
        (result(0.35, alpha=1e-4), result(1.0), True),
        (result(0.37, alpha=1e-4), result(1.0), False),
        (result(0.2, alpha=1e-9), result(1.0), False),
        (result(0.002), result(1.0, predicts_rows=False), True),
        (result(0.01, alpha=1e-4), result(1.0, predicts_rows=False), False),
        (result(0.0, predicts_rows=False), result(1.0), False),
        (result(0.0), result(None), False),
        (result(None), result(1.0), False),
        (result(np.nan), result(1.0), False),
        (result(0.0, searched=np.inf), result(1.0), False),
        (result(0.02, searched=1.2), result(1.0, searched=[1.2, 0.1, 0.1]), True),  # the same folds
        (result(0.25, alpha=1e-4, searched=[1.0, 2.0]), result(1.0, searched=[1.0, 0.9, 1.0]), False),
    ],
)
def test_what_counts_as_evidence(new, old, better):
    assert _depth._is_better(new, old, old.fit.loss) is better


@pytest.mark.parametrize(
    ("new", "max_time", "hopeless"),
    [
        (FakeFit(1.0, alpha=1e-4, searched=0.81), 1.0, True),
        (FakeFit(1.0, alpha=1e-4, searched=0.79), 1.0, False),
        (FakeFit(1.0, alpha=0.0, searched=10.0), 1.0, False),
        (FakeFit(1.0, alpha=1e-9, searched=10.0), 1.0, False),
        (FakeFit(1.0, alpha=1e-4, searched=2.0), 0.0, False),
        (FakeFit(1.0, alpha=1e-4, searched=np.nan), 1.0, False),
        (FakeFit(1.0, alpha=1e-4, searched=np.inf), 1.0, True),
        (FakeFit(1.0, alpha=1e-4, searched=[0.9, 9.0]), 1.0, True),
    ],
)
def test_what_is_hopeless_after_the_search(new, max_time, hopeless):
    new.options = {"stopping": Stopping(max_time=max_time)}
    assert _depth._is_hopeless(new, FakeFit(1.0)) is hopeless


def test_what_is_hopeless_is_not_fitted(monkeypatch):
    """With noise two layers are level with one on the folds; alone and among many."""
    X, y, *_ = table(noise=0.1, seed=1)
    searched, solved = [], []
    for where in (_other_fits, _batching):

        def spy(results, stopping, search, solve, original=where.deepened):
            return original(
                results,
                stopping,
                lambda fits: searched.append(len(fits)) or search(fits),
                lambda fits: solved.append(len(fits)) or solve(fits),
            )

        monkeypatch.setattr(where, "deepened", spy)
    model = LMRegressor(random_state=0).fit(X, y)
    assert len(sizes(model)) == 1
    for one in fit_many(LMRegressor(random_state=0), X, [y, y]):
        np.testing.assert_allclose(one.predict(X), model.predict(X), atol=1e-6)
    assert searched == [1, 2]
    assert not solved


def test_nobody_asks_whether_what_is_hopeless_has_noise(monkeypatch):
    """All rows judge a penalty where folds leave little; not that of two layers that noise and the folds rule out."""
    X, y, *_ = table(noise=0.05, seed=1)
    asked, original = [], _alpha_search.by_all_rows

    def spy(fits, *given):
        asked.append([fit.core["architecture_"].hidden_layer_sizes for fit in fits])
        return original(fits, *given)

    monkeypatch.setattr(_alpha_search, "by_all_rows", spy)
    model = LMRegressor(random_state=0, max_iter=100).fit(X, y)
    assert model.alpha_ > 1e-7
    assert [len(sizes) for (sizes,) in asked] == [1]
    asked.clear()
    monkeypatch.setattr(_prepared, "HOPELESS", np.inf)
    again = LMRegressor(random_state=0, max_iter=100).fit(X, y)
    assert [len(sizes) for (sizes,) in asked] == [1, 2]
    np.testing.assert_array_equal(again.theta_, model.theta_)


@pytest.mark.parametrize(
    ("found", "little"),
    [
        (result(0.04), True),
        (result(0.04, noise=0.03), False),
        (result(0.04, noise=0.02), True),
        (result(0.04, noise=0.06), True),
        (result(0.06), False),
        (result(0.06, searched=0.04), True),
        (result(1e-11), False),
        (result(1e-11, predicts_rows=False), True),
        (result(4e-6, negligible=1e-6), False),
        (result(6e-6, negligible=1e-6), True),
        (result(4e-6, negligible=1e-6, predicts_rows=False), True),
        (result(None, searched=0.04), False),  # nothing could be said of two layers
    ],
)
def test_what_counts_as_little(found, little):
    assert _depth._is_little(found, found.fit.loss) is little


def test_of_few_rows_without_a_penalty_the_folds_speak():
    assert _depth._left_out(result(None, searched=[0.03, 0.05], predicts_rows=False)) == pytest.approx(0.04)
    assert _depth._left_out(result(0.2, searched=0.04, predicts_rows=False)) == 0.2
    assert _depth._left_out(result(None, searched=0.04, predicts_rows=False, alpha=1e-4)) is None
    assert _depth._left_out(result(None, searched=0.04)) is None
    assert _depth._left_out(result(None, searched=[np.inf, 0.04], predicts_rows=False)) == 0.04
    assert _depth._left_out(result(None, searched=[np.inf], predicts_rows=False)) is None


# -- where it is not tried ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_layer_sizes": 20},
        {"alpha": 0.0},
        {"target_loss": 1e-6},
        {"early_stopping": True},
        {"batch_size": 50},
        {"optimizer": "lbfgs"},
        {"param_selection": np.arange(81) < 60},
        {"architecture": MLP((20,))},
        {"standardize": False},
        {"solver": "dual"},
        {"solver": "cg"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_only_where_everything_is_automatic(monkeypatch, options):
    X, y, *_ = table()
    found = tried(monkeypatch)
    LMRegressor(random_state=0, max_iter=10, **options).fit(X, y)
    assert not found


@pytest.mark.parametrize("what", ["copies", "weights"])
def test_rows_of_which_a_copy_stays_say_nothing(monkeypatch, what):
    X, y, *_ = table(50, seed=1)
    found = tried(monkeypatch)
    if what == "copies":
        LMRegressor(random_state=0, max_iter=100).fit(np.tile(X, (3, 1)), np.tile(y, 3))
    else:
        LMRegressor(random_state=0, max_iter=100).fit(X, y, np.full(len(y), 3))
    assert not found


def test_a_classifier_that_searches_keeps_one_layer():
    X, y, *_ = table()
    assert sizes(LMClassifier(alpha="cv", max_iter=20, random_state=0).fit(X, y > 0)) == (20,)


def test_a_warm_start_keeps_the_layers(monkeypatch):
    X, y, *_ = table()
    model = LMRegressor(random_state=0, warm_start=True, max_iter=200).fit(X, y)
    assert sizes(model) == (6, 6)
    before, found = model.loss_, tried(monkeypatch)
    model.fit(X, y)
    assert sizes(model) == (6, 6)
    assert model.loss_ <= before
    assert not found
    assert sizes(LMRegressor(random_state=0, max_iter=20).partial_fit(X, y)) == (20,)


# -- limits and faults --------------------------------------------------------------------------------------------


def test_a_limit_of_time_keeps_one_layer_and_says_so(monkeypatch):
    X, y, *_ = table()
    found, original = [], _training.Training._with_alpha_for_depth

    def late(self, fit):
        found.append(fit.options["stopping"].max_time)
        fit.options["stopping"] = _other_fits.replace(fit.options["stopping"], max_time=0.0)
        return original(self, fit)

    monkeypatch.setattr(_training.Training, "_with_alpha_for_depth", late)
    model = LMRegressor(random_state=0, max_iter=100, max_time=60).fit(X, y)
    assert len(found) == 1
    assert found[0] < 60
    assert (sizes(model), model.status_, model.converged_) == ((20,), "time", False)


@pytest.fixture(scope="module")
def one():
    X, y, *_ = table()
    return LMRegressor(20, random_state=0, max_iter=60).fit(X, y)


@pytest.mark.parametrize("when", ["judging one layer", "searching", "fitting", "judging two layers"])
def test_an_interrupt_keeps_one_layer(monkeypatch, one, when):
    X, y, *_ = table()
    search, solve, left_out = _training.Training._with_alpha_for_depth, _training.Training._solve, _depth._left_out

    def searching(self, fit):
        if when == "searching":
            raise KeyboardInterrupt
        return search(self, fit)

    def fitting(self, fit, callback):
        solution, row = solve(self, fit, callback)
        two = len(fit.core["architecture_"].hidden_layer_sizes) == 2
        return solution.interrupted() if two and when == "fitting" else solution, row

    def judging(result):
        two = len(result.fit.core["architecture_"].hidden_layer_sizes) == 2
        if when == ("judging two layers" if two else "judging one layer"):
            raise KeyboardInterrupt
        return left_out(result)

    monkeypatch.setattr(_training.Training, "_with_alpha_for_depth", searching)
    monkeypatch.setattr(_training.Training, "_solve", fitting)
    monkeypatch.setattr(_depth, "_left_out", judging)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        model = LMRegressor(random_state=0, max_iter=60).fit(X, y)
    assert (sizes(model), model.status_) == ((20,), "interrupted")
    np.testing.assert_array_equal(model.theta_, one.theta_)


def test_too_little_memory_keeps_one_layer_and_says_so(monkeypatch):
    X, y, *_ = table()

    def full(self, fit):
        raise MemoryError("full")

    monkeypatch.setattr(_training.Training, "_with_alpha_for_depth", full)
    with pytest.warns(UserWarning, match="Two hidden layers could not be tried, one is kept: full"):
        model = LMRegressor(random_state=0, max_iter=60).fit(X, y)
    assert (sizes(model), model.status_) == ((20,), "max_iter")


def test_a_callback_sees_both_and_its_stop_ends_both():
    X, y, *_ = table()
    seen = []

    class Watch(LMRegressor):
        def _printers(self):
            return [lambda progress: seen.append((progress.iteration, progress.state.theta.shape[1]))]

    model = Watch(random_state=0, max_iter=60).fit(X, y)
    assert sizes(model) == (6, 6)
    numbers, widths = zip(*seen, strict=True)
    assert list(numbers) == list(range(1, len(numbers) + 1))
    assert set(widths) == {81, 67}
    assert model.n_iter_ == 60


def test_verbose_says_what_is_tried(capsys):
    X, y, *_ = table()
    LMRegressor(random_state=0, max_iter=20, verbose=1).fit(X, y)
    printed = capsys.readouterr().err
    assert "Trying hidden layers of (6, 6) units" in printed
    assert "One hidden layer is kept" in printed
    assert "-" not in re.sub(r"e-\d+", "", printed)  # no negative times


# -- many fits ----------------------------------------------------------------------------------------------------


def test_many_fits_are_what_single_ones_are():
    X, y, X_new, _ = table()
    noise = np.random.default_rng(0).normal(size=len(y))
    targets = [y + 0.3 * noise, y**2]
    model = LMRegressor(random_state=1, max_iter=100)  # more would let a race of starts go by rounding
    many, together = fit_many(model, X, targets, return_batch_sizes=True)
    assert list(together) == [2] * 2
    assert [len(sizes(one)) for one in many] == [1, 2]
    for one, target in zip(many, targets, strict=True):
        alone = clone(model).fit(X, target)
        assert sizes(one) == sizes(alone)
        np.testing.assert_allclose(one.predict(X_new), alone.predict(X_new), rtol=0, atol=1e-5)


def test_a_search_gives_the_same_scores_as_scikit_learn():
    X, y, *_ = table()
    model = LMRegressor(activation="tanh", relevance=None, random_state=0, max_iter=20)
    grid = {"damping": [1e-2, 1e-1]}
    ours, theirs = LMGridSearchCV(model, grid, cv=2).fit(X, y), GridSearchCV(model, grid, cv=2, refit=False).fit(X, y)
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=0, atol=1e-7
    )
    assert len(sizes(ours.best_estimator_)) == 2


@pytest.mark.parametrize("stage", ["search", "fit"])
def test_an_interrupt_in_many_fits_raises(monkeypatch, stage):
    X, y, *_ = table()
    original = _depth.deepened

    def interrupted(results, stopping, search, solve):
        def raises(fits):
            raise KeyboardInterrupt

        return original(results, stopping, *((raises, solve) if stage == "search" else (search, raises)))

    monkeypatch.setattr("sklm._batching.deepened", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_many(LMRegressor(random_state=0, max_iter=20), X, [y, y**2])
    assert Status.INTERRUPTED in _depth.FINAL
