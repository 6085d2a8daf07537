"""Classes of many columns: columns weighed with few units, for more units in mini-batches."""

import numpy as np
import pytest

import sklm._alpha_search
import sklm._class_rules
import sklm._penalty
from sklm import LMClassifier, fit_many
from sklm._class_rules import BROADER_UNITS, FEW_UNITS

N_COLUMNS = 12


def table(n_rows, n_classes=3, seed=0):
    """Rows of which two columns say the class."""
    X = np.random.default_rng(seed).uniform(-1, 1, (n_rows, N_COLUMNS))
    score = np.sin(3 * X[:, 0]) + X[:, 1]
    return X, np.digitize(score, np.linspace(-0.7, 0.7, n_classes - 1))


@pytest.fixture
def long_fits(monkeypatch):
    """Fits of small tables take what those of large ones do."""
    monkeypatch.setattr(sklm._class_rules, "BATCHED_WORK", 1e6)
    monkeypatch.setattr(sklm._class_rules, "BATCHED_FEW_WORK", 1e6)
    monkeypatch.setattr(sklm._penalty, "MOST_CLASSES_WORK", 1.5e7)


@pytest.mark.usefixtures("long_fits")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_that_come_to_have_other_units_are_not_run_together(recwarn):
    X, y = table(500)
    useless = np.random.default_rng(3).integers(0, 3, 500)
    model = LMClassifier(activation="tanh", random_state=0, max_iter=5)
    together = fit_many(model, X, [y, useless])
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    for one, targets in zip(together, (y, useless), strict=True):
        alone = LMClassifier(activation="tanh", random_state=0, max_iter=5).fit(X, targets)
        assert one.architecture_ == alone.architecture_
        np.testing.assert_allclose(one.predict_proba(X), alone.predict_proba(X), rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("long_fits")
def test_units_are_more_for_weighed_columns():
    X, y = table(500)
    X_new, y_new = table(4000, seed=1)
    model = LMClassifier(random_state=0)
    _, fit = model._ready(X, y)
    few = fit.core["architecture_"].hidden_layer_sizes
    assert few[0] <= FEW_UNITS
    assert fit.broader is not None
    assert fit.folds.weighs
    assert fit.batches is not None  # the search takes all of its rows all the same
    model.fit(X, y)
    assert model.architecture_.hidden_layer_sizes == (BROADER_UNITS,)
    assert model.relevance_[:2].min() > 3 * model.relevance_[2:].max()
    plain = LMClassifier(BROADER_UNITS, relevance=None, random_state=0).fit(X, y)

    def log_loss(model):
        return -model.predict_log_proba(X_new)[np.arange(len(y_new)), y_new].mean()

    assert log_loss(model) < 0.7 * log_loss(plain)


@pytest.mark.usefixtures("long_fits")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_many_fits_are_the_fits_one_by_one():
    X, y = table(500)
    others = [y, np.roll(y, 7)]
    together = fit_many(LMClassifier(random_state=0, max_iter=5), X, others)
    for model, targets in zip(together, others, strict=True):
        alone = LMClassifier(random_state=0, max_iter=5).fit(X, targets)
        assert model.architecture_ == alone.architecture_
        np.testing.assert_allclose(model.predict_proba(X), alone.predict_proba(X), rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("long_fits")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_ends_the_attempt_leaves_few_units(error, monkeypatch):
    def climbed(fit, stopping):
        raise error

    monkeypatch.setattr(sklm._alpha_search, "climbed", climbed)
    X, y = table(500)
    model = LMClassifier(random_state=0)
    if error is MemoryError:
        with pytest.warns(UserWarning, match="More units could not be tried, few are kept"):
            model.fit(X, y)
        assert model.relevance_ is not None
    else:
        with pytest.warns(UserWarning, match="interrupted by the user"):
            model.fit(X, y)
        assert model.status_ == "interrupted"
    assert model.architecture_.hidden_layer_sizes[0] <= FEW_UNITS
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.usefixtures("long_fits")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_units_stay_where_rows_left_out_speak_for_them(monkeypatch):
    usual = sklm._alpha_search.climbed

    def climbed(fit, stopping):
        found = usual(fit, stopping)
        found.searched_losses[:] = np.inf
        return found

    monkeypatch.setattr(sklm._alpha_search, "climbed", climbed)
    X, y = table(500)
    model = LMClassifier(random_state=0, max_iter=5).fit(X, y)
    assert model.architecture_.hidden_layer_sizes[0] <= 2 * FEW_UNITS  # or the mean of two
    assert model.relevance_ is not None


@pytest.mark.usefixtures("long_fits")
def test_where_nothing_is_searched_units_are_as_many_as_ever():
    X, y = table(600, 5)
    rows = np.repeat(X, 2, axis=0) + 1e-12 * np.arange(1200)[:, None]
    labels = np.repeat(y, 2)
    plain = LMClassifier(relevance=None, random_state=0)._ready(rows, labels)[1]
    fit = LMClassifier(random_state=0)._ready(rows, labels)[1]
    assert fit.folds is None
    assert fit.broader is None
    assert fit.core["architecture_"] == plain.core["architecture_"]
    assert fit.core["architecture_"].hidden_layer_sizes[0] > FEW_UNITS


@pytest.mark.parametrize(
    "options", [{"relevance": None}, {"max_time": 100.0}, {"standardize": False}, {"loss": "squared_error"}]
)
def test_what_rules_out_the_attempt(options):
    shape = (20_000, 40, 3)
    assert LMClassifier()._may_be_broader(20_000, shape)
    assert not LMClassifier(**options)._may_be_broader(20_000, shape)
    assert not LMClassifier()._may_be_broader(20_000, (20_000, 2, 3))
    assert not LMClassifier()._may_be_broader(20_000, (20_000, 40, 10))
    assert not LMClassifier()._may_be_broader(5000, (5000, 40, 1))
    assert LMClassifier()._may_be_broader(20_000, (20_000, 40, 1))
