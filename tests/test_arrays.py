"""What X, y and sample_weight may be: bad input is refused with a reason, good input of any kind gives one result."""

import datetime
import decimal
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sklm._solving
import sklm._training_set
from sklm import CNN, MLP, LMClassifier, LMRegressor
from sklm._arrays import (
    RowView,
    far_outside,
    flatten_images,
    mean_scaling,
    no_scaling,
    output_scaling,
    refuse_text_and_dates,
    sorted_rows,
    standard_scaling,
)
from sklm._penalty import for_climbing, make_folds
from sklm.optim import MiniBatches

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def surface(n=40):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


def small(**options):
    return LMRegressor(**{"hidden_layer_sizes": 4, "random_state": 0, "max_iter": 10, "n_init": 1, **options})


def raises(kind, match, *args, **options):
    """``fit`` refuses, and leaves the estimator unfitted."""
    model = small(**options)
    with pytest.raises(kind, match=match):
        model.fit(*args)
    assert not [name for name in vars(model) if name.endswith("_")]


# -- not finite --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_not_finite(bad, word):
    X, y = surface()
    X_bad, y_bad, weights = X.copy(), y.copy(), np.ones(40)
    X_bad[3, 1] = y_bad[3] = weights[3] = bad
    raises(ValueError, f"Input X contains {word}", X_bad, y)
    raises(ValueError, f"Input y contains {word}", X, y_bad)
    raises(ValueError, f"Input y contains {word}", X, np.c_[y, y_bad])
    raises(ValueError, f"Input sample_weight contains {word}", X, y, weights)
    raises(ValueError, "y contains None", X, [*y[1:], None])
    model = small().fit(X, y)
    with pytest.raises(ValueError, match=f"Input X contains {word}"):
        model.predict(X_bad)


# -- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "kind", "match"),
    [
        (np.r_[-1e-9, np.ones(39)], ValueError, "Negative values in data passed to `sample_weight`"),
        (np.zeros(40), ValueError, "at least one non-zero number|zero for every row"),
        (np.ones(39), ValueError, r"sample_weight.shape == \(39,\), expected \(40,\)"),
        (np.ones((40, 1)), ValueError, "Sample weights must be 1D array or scalar"),
        (np.ones(40) + 1j, ValueError, "Complex data not supported"),
        (scipy.sparse.csr_matrix(np.ones((40, 1))), TypeError, "Sparse data was passed for sample_weight"),
        (["1"] * 40, TypeError, "sample_weight holds str"),
        (np.full(40, "2020-01-01", dtype="M8[D]"), TypeError, "sample_weight holds dates"),
    ],
    ids=["negative", "zero", "short", "column", "complex", "sparse", "strings", "dates"],
)
def test_weights_refused(weights, kind, match):
    raises(kind, match, *surface(), weights)


def test_weights_of_any_kind_give_one_result():
    X, y = surface()
    weights = np.arange(1, 41.0)
    expected = small().fit(X, y, weights).predict(X)
    read_only = weights.copy()
    read_only.setflags(write=False)
    for given in (
        weights.tolist(),
        weights.astype(int),
        weights.astype(np.float32),
        weights.astype(">f8"),
        weights[::-1].copy()[::-1],
        weights.astype(object),
        pd.Series(weights, index=range(100, 140)),
        read_only,
    ):
        assert_array_equal(small().fit(X, y, given).predict(X), expected)
    assert_allclose(small().fit(X, y, 3.0).predict(X), small().fit(X, y).predict(X), rtol=1e-9)


# -- shapes ------------------------------------------------------------------------------------------------------


def test_shapes_refused():
    X, y = surface()
    raises(ValueError, "Expected 2D array, got 1D array instead", X[:, 0], y)
    raises(ValueError, "Found array with dim 3", X[None], y)
    raises(ValueError, "Found array with dim 3", X, y[:, None, None])
    raises(ValueError, r"inconsistent numbers of samples: \[40, 39\]", X, y[:-1])
    raises(ValueError, "0 sample", X[:0], y[:0])
    raises(ValueError, r"0 feature\(s\)", X[:, :0], y)
    raises(ValueError, "requires y to be passed", X, None)
    raises(ValueError, "inhomogeneous", [[1, 2], [3]] * 20, y)


def test_y_as_a_column_fits_without_broadcasting():
    X, y = surface()
    flat, column = small(max_iter=40).fit(X, y), small(max_iter=40).fit(X, y[:, None])
    assert flat.loss_ == column.loss_ < 0.01
    assert flat.predict(X).shape == (40,)
    assert column.predict(X).shape == (40, 1)


# -- degenerate data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 3.3, -1e8, 1e-300])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.1}, {"n_init": 3}, {"batch_size": 10}, {"solver": "qr"}], ids=str)
def test_constant_y_is_exact_without_a_warning(value, options):
    X, _y = surface()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small(max_iter=1000, **options).fit(X, np.full(40, value))
    assert_array_equal(model.predict(X + 5), np.full(40, value))
    assert model.loss_ == 0
    assert model.converged_
    assert model.n_iter_ < 50


def test_one_constant_output_among_others():
    X, y = surface()
    model = small(max_iter=40, alpha=0.0).fit(X, np.c_[y, np.full(40, 7.1)])
    assert_array_equal(model.predict(X)[:, 1], 7.1)
    assert np.mean((model.predict(X)[:, 0] - y) ** 2) < 0.01


@pytest.mark.parametrize("scaling", ["identity", "marquardt", "more"])  # a column of zeros makes diag(J^T J) singular
@pytest.mark.parametrize("solver", ["cholesky", "qr", "eigh", "dual"])
@pytest.mark.parametrize("standardize", [True, False])
def test_degenerate_columns(scaling, solver, standardize):
    X, y = surface()
    columns = {
        "zero": np.c_[X, np.zeros(40)],
        "constant": np.c_[X, np.full(40, 5.0)],
        "duplicate": np.c_[X, X[:, 0]],
        "collinear": np.c_[X, X @ [1.0, -2.0]],
    }
    alpha = "auto" if (scaling, solver, standardize) == ("identity", "cholesky", True) else 0.0
    options = {"damping_scaling": scaling, "solver": solver, "standardize": standardize, "alpha": alpha}
    for name, data in columns.items():
        model = small(max_iter=40, tol=1e-3, **options).fit(data, y)
        if standardize or scaling != "marquardt":  # which follows saturated units far out
            assert model.score(data, y) > 0.5, name
        assert model.loss_curve_[-1] < model.loss_curve_[0]
        assert np.isfinite(model.theta_).all()


def test_a_constant_column_is_left_out_exactly():
    X, y = surface()
    model = small().fit(np.c_[X, np.full(40, 1e8 + 0.1)], y)
    changed = np.c_[X, np.random.default_rng(0).normal(size=40)]
    assert_array_equal(model.predict(changed), model.predict(np.c_[X, np.full(40, 1e8 + 0.1)]))
    assert_array_equal(model.coefs_[0][2], 0)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_one_row(n_outputs):
    X, y = surface()
    target = y[:1] if n_outputs == 1 else np.c_[y, y][:1]
    model = small(max_iter=1000).fit(X[:1], target)
    assert_array_equal(model.predict(X[:1]), target)
    assert model.converged_
    assert model.n_iter_ < 50
    assert model.message_


def test_one_column():
    X, _y = surface()
    assert small(max_iter=40).fit(X[:, :1], np.sin(2 * X[:, 0])).score(X[:, :1], np.sin(2 * X[:, 0])) > 0.99


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr", "eigh", "dual"])
def test_fewer_rows_than_parameters(solver):
    X, y = surface(8)
    model = small(hidden_layer_sizes=30, max_iter=100, solver=solver, alpha=0.0).fit(X, y)
    assert_allclose(model.predict(X), y, atol=1e-6)
    assert model.converged_


def test_all_columns_constant_predicts_the_weighted_mean():
    _, y = surface()
    weights = np.arange(1.0, 41)
    model = small(max_iter=1000).fit(np.ones((40, 2)), y, weights)
    assert_allclose(model.predict(np.ones((1, 2))), np.average(y, weights=weights), rtol=1e-9)
    assert model.converged_
    assert model.n_iter_ < 100


def test_contradicting_rows_give_their_mean():
    model = small(max_iter=1000).fit([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0])
    assert_allclose(model.predict([[1.0, 2.0]]), 1.5, rtol=1e-9)
    assert model.converged_


# -- kinds of numbers and of memory ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i8", ">i4", "f2", "f4", ">f4", ">f8", "f8", np.longdouble, bool, object]
)
def test_numeric_dtypes_are_read_as_their_values(dtype):
    X, y = surface()
    X, y = np.round(np.abs(X) * 20), np.round(np.abs(y) * 20)
    if dtype is bool:
        X, y = X > 20, y > 20
    expected = small().fit(np.asarray(X, dtype=float), np.asarray(y, dtype=float)).predict(np.asarray(X, dtype=float))
    a, b = X.astype(dtype), y.astype(dtype)
    assert_allclose(small().fit(a, b).predict(a), expected, rtol=1e-9, atol=1e-9)
    assert small().fit(a, b).predict(a).dtype == np.float64


def memory_layouts():
    X, y = surface()
    read_only, y_read_only = X.copy(), y.copy()
    read_only.setflags(write=False)
    y_read_only.setflags(write=False)
    yield "fortran", np.asfortranarray(X), y
    yield "negative stride", np.ascontiguousarray(X[::-1])[::-1], np.ascontiguousarray(y[::-1])[::-1]
    yield "negative column stride", np.ascontiguousarray(X[:, ::-1])[:, ::-1], y
    yield "every second", np.repeat(X, 2, axis=1)[:, ::2], np.repeat(y, 3)[::3]
    yield "read-only", read_only, y_read_only
    yield "list", X.tolist(), y.tolist()
    yield "tensor", torch.tensor(X), torch.tensor(y)
    yield "data frame", pd.DataFrame(X, columns=["a", "b"]), pd.Series(y, index=range(5, 45))
    yield "nullable", pd.DataFrame(X, columns=["a", "b"]).astype("Float64"), pd.Series(y).astype("Float64")
    yield "object", X.astype(object), y.astype(object)


@pytest.mark.parametrize(("name", "X", "y"), list(memory_layouts()), ids=[case[0] for case in memory_layouts()])
def test_memory_layouts_give_one_result(name, X, y):
    expected = small().fit(*surface()).predict(surface()[0])
    assert_allclose(small().fit(X, y).predict(X), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_memory_map(tmp_path, dtype):
    X, y = surface()
    np.save(tmp_path / "X.npy", X.astype(dtype))
    np.save(tmp_path / "y.npy", y)
    mapped, target = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "Xy")
    model = small().fit(mapped, target)
    expected = small().fit(X.astype(dtype), y)
    assert_array_equal(model.theta_, expected.theta_)
    assert_array_equal(model.predict(mapped), expected.predict(X.astype(dtype)))


@pytest.fixture
def tight(monkeypatch):
    """Make every array of 300 rows larger than its budget; list the arrays that are read in pieces."""
    arrays = []

    def streamed(array, *args, kind=sklm._solving.StreamedRows):
        arrays.append(getattr(array, "array", array))  # a view of some rows, or all of them
        return kind(array, *args)

    monkeypatch.setattr(sklm._solving, "StreamedRows", streamed)
    for module in (sklm._solving, sklm._training_set):
        monkeypatch.setattr(module, "available_bytes", lambda device: 64)
    monkeypatch.setattr(sklm._solving.Solving, "_check_memory", lambda *_: 100)
    return arrays


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 50},
        {"early_stopping": True},
        {"n_init": 2},
        {"jacobian_max_rows": 64},
        {"init": "data"},
        {"hidden_layer_sizes": 1, "growing": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_memory_map_larger_than_the_budget_gives_the_same_result(tmp_path, request, options, weighted):
    X, y = surface(300)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    weights = np.arange(300) % 3 if weighted else None
    options = {"alpha": 0.0, **options}  # pieces are not searched for a penalty
    expected = small(**options).fit(X, y, weights)
    arrays = request.getfixturevalue("tight")
    model = small(**options).fit(mapped, y, weights)
    assert arrays
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-9, atol=1e-9)
    assert_allclose(model.loss_, expected.loss_, rtol=1e-9)


@pytest.mark.parametrize("case", ["plain", "one weight zero", "early stopping", "standardize off"])
def test_a_large_map_is_never_copied(tmp_path, tight, case):
    X, y = surface(300)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    weights = (np.arange(300) != 17).astype(float) if case == "one weight zero" else None
    small(early_stopping=case == "early stopping", standardize=case != "standardize off").fit(mapped, y, weights)
    assert tight
    assert all(np.shares_memory(array, mapped) for array in tight)


# -- refused kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array])
def test_sparse(make):
    X, y = surface()
    raises(TypeError, "Sparse data was passed for X, but dense data is required", make(X), y)
    raises(TypeError, "[Ss]parse data was passed for y|y is sparse", X, make(y[:, None]))
    with pytest.raises(TypeError, match="Sparse data was passed for X"):
        small().fit(X, y).predict(make(X))


STRINGS = {
    "str": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S"),
    "object": lambda a: a.astype(str).astype(object),
    "list": lambda a: a.astype(str).tolist(),
    "mixed": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 7, "1.5", a.astype(object)),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_strings_that_look_like_numbers(kind):
    X, y = surface()
    raises(TypeError, "X holds (strings|str|bytes).*sklm needs numbers.*OrdinalEncoder", STRINGS[kind](X), y)
    raises(TypeError, "y holds (strings|str|bytes).*sklm needs numbers", X, STRINGS[kind](y))
    with pytest.raises(TypeError, match=r"X holds (strings|str|bytes)"):
        small().fit(X, y).predict(STRINGS[kind](X))


def test_masked_entries():
    X, y = surface()
    masked = np.ma.masked_array(X, mask=np.arange(X.size).reshape(X.shape) == 3)
    raises(ValueError, "X has masked entries", masked, y)
    raises(ValueError, "y has masked entries", X, np.ma.masked_array(y, mask=np.arange(40) == 3))
    weights = np.ma.masked_array(np.ones(40), mask=np.arange(40) == 3)
    with pytest.raises(ValueError, match="sample_weight has masked entries"):
        small().fit(X, y, sample_weight=weights)
    model = small().fit(np.ma.masked_array(X, mask=False), y)
    assert_array_equal(model.theta_, small().fit(X, y).theta_)
    with pytest.raises(ValueError, match="X has masked entries"):
        model.predict(masked)


def test_dates():
    X, y = surface()
    raises(TypeError, "days since the first one", (X * 1e9).astype("M8[ns]"), y)
    raises(TypeError, "y holds dates", X, (y * 1e9).astype("M8[ns]"))
    raises(TypeError, "X holds time differences", (X * 1e9).astype("m8[ns]"), y)
    raises(TypeError, "y holds time differences", X, (y * 1e9).astype("m8[ns]"))
    raises(TypeError, "X holds datetime values", np.array([[datetime.datetime(2020, 1, 1), 1.0]] * 40, dtype=object), y)
    raises(TypeError, "y holds date values", X, [datetime.date(2020, 1, 1)] * 40)


def test_objects():
    X, y = surface()
    raises(TypeError, "X holds dict objects", np.array([[{}, 1.0]] * 40, dtype=object), y)
    raises(TypeError, "y holds object objects", X, np.array([object()] * 40))
    raises(TypeError, "X holds structured records", np.zeros(40, dtype=[("a", float), ("b", float)]), y)
    raises(ValueError, "Complex data not supported", X + 0j, y)
    raises(ValueError, "Complex data not supported", X, y + 0j)
    raises(ValueError, "Input X contains NaN", np.array([[None, 1.0]] * 40, dtype=object), y)
    assert small().fit(X, np.array([decimal.Decimal(2)] * 40)).predict(X)[0] == 2


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (["1", "2"] * 20, "holds (strings|str)"),
        (pd.Series(["1", "2"] * 20, dtype=object), "holds (strings|str)"),
        (pd.Series(["1", "2"] * 20, dtype="string"), "holds (strings|str)"),
        (pd.Categorical(["x", "y"] * 20), "holds (strings|str)"),
        (pd.to_datetime(np.arange(40)), "holds dates"),
        (pd.to_datetime(np.arange(40)).tz_localize("UTC"), "holds (dates|Timestamp values)"),
        (pd.to_timedelta(np.arange(40)), "holds time differences"),
        (pd.period_range("2020", periods=40, freq="D"), "holds (dates|Period)"),
        ([datetime.date(2020, 1, 1)] * 40, "holds date values"),
        ([object()] * 40, "holds object objects"),
        ([[1, 2]] * 40, "holds list objects"),
    ],
    ids=["str", "object", "string", "category", "date", "zone", "delta", "period", "date object", "object", "list"],
)
def test_pandas_columns(column, match):
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"])
    bad = frame.assign(b=column)
    raises(TypeError, f"column 'b' of X {match}", bad, y)
    raises(TypeError, f"y {match}", frame, bad["b"])
    raises(TypeError, f"column 'b' of y {match}", frame, bad)
    with pytest.raises(TypeError, match=f"column 'b' of X {match}"):
        small().fit(frame, y).predict(bad)


@pytest.mark.parametrize("dtype", [bool, "boolean", "Int64", "Float32", "int8"])
def test_pandas_numbers(dtype):
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"]).assign(b=(X[:, 1] > 0).astype(int))
    expected = small().fit(frame, y).predict(frame)
    given = frame.astype({"b": dtype})
    assert_allclose(small().fit(given, y).predict(given), expected, rtol=1e-7)
    category = frame.assign(b=pd.Categorical(frame["b"]))
    assert_allclose(small().fit(category, y).predict(category), expected, rtol=1e-7)


def test_pandas_missing_value():
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"]).astype("Float64")
    frame.loc[3, "b"] = pd.NA
    raises(ValueError, "Input X contains NaN", frame, y)


def test_pandas_columns_of_the_same_name():
    X, y = surface()
    frame = pd.DataFrame(np.c_[X, X], columns=["a", "b", "a", "b"])
    raises(ValueError, r"X has columns of the same name: \['a', 'b'\]. Rename them, or pass X.to_numpy\(\)", frame, y)
    small().fit(frame.to_numpy(), y)


# -- columns at predict ------------------------------------------------------------------------------------------


def test_columns_at_predict():
    X, y = surface()
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = small().fit(frame, y)
    assert_array_equal(model.feature_names_in_, ["a", "b"])
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        model.predict(frame[["b", "a"]])
    with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- c"):
        model.predict(frame.rename(columns={"a": "c"}))
    with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- c"):
        model.predict(frame.assign(c=1))
    with pytest.raises(ValueError, match="now missing:\n- b"):
        model.predict(frame[["a"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    plain = small().fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but LMRegressor is expecting 2"):
        plain.predict(np.c_[X, X[:, 0]])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        plain.predict(X[0])
    with pytest.raises(ValueError, match="0 sample"):
        plain.predict(X[:0])


@pytest.mark.parametrize("n_values", [1, 2, 30, 10**6])
@pytest.mark.parametrize("n_columns", [1, 3, 12])
def test_rows_are_sorted_by_one_column_after_the_other(n_values, n_columns):
    X = np.random.default_rng(0).integers(0, n_values, (500, n_columns)) - n_values / 2
    assert_array_equal(sorted_rows(X), np.lexsort(X.T[::-1]))
    index = np.arange(0, 500, 3)
    assert_array_equal(sorted_rows(RowView(X, index)), np.lexsort(X[index].T[::-1]))


def test_far_input_gives_a_finite_prediction_without_a_warning():
    X, y = surface()
    model = small().fit(X, y)
    assert np.isfinite(model.predict(X * 1e300)).all()


# -- pieces ------------------------------------------------------------------------------------------------------


def test_refuse_passes_numbers():
    for value in ([[1, 2.5]], np.ones(3), pd.DataFrame({"a": [1]}), pd.Series([1.0]), [None, 1.0], [True]):
        assert refuse_text_and_dates(value, "X") is None


@pytest.mark.parametrize("offset", [0, 1e8, -1e15])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e150])
def test_standard_scaling_is_the_weighted_mean_and_deviation(offset, unit):
    rng = np.random.default_rng(0)
    small_part = rng.integers(-8, 8, size=(500, 2)).astype(float)
    weights = rng.uniform(0.5, 2, size=500)
    array = (small_part + offset) * unit  # offset and integers are exact
    scaling = standard_scaling(array, weights)
    mean = np.average(small_part, axis=0, weights=weights)
    deviation = np.sqrt(np.average((small_part - mean) ** 2, axis=0, weights=weights))
    assert_allclose(scaling.scale, deviation * unit, rtol=1e-9 if abs(offset) < 1e10 else 0.2)
    assert_allclose(scaling.mean, (mean + offset) * unit, rtol=1e-12)
    assert_allclose(scaling.apply(array).std(), 1, rtol=0.2)
    assert_array_equal(scaling.low, array.min(0))


def test_standard_scaling_constant_columns_and_none():
    array = np.c_[np.full(9, 0.1), np.arange(9.0)]
    scaling = standard_scaling(array, np.ones(9))
    assert (scaling.mean[0], scaling.scale[0], scaling.inverse[0]) == (0.1, 0, 0)
    assert standard_scaling(array, np.ones(9), keep_constant=True).scale[0] == 1
    assert_array_equal(no_scaling(array).apply(array), array)


GROUPS = np.array([4, 1, 1, 4, 0])


@pytest.mark.parametrize(("offset", "unit"), [(0.0, 1.0), (1e8, 1.0), (-3.0, 1e-200), (5.0, 1e150)])
def test_standard_scaling_of_groups_is_that_of_all_their_values(offset, unit):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(50, 5)) * [1, 3, 0.1, 10, 2] + [0, 1, -1, 5, 2]
    weights = rng.uniform(0.5, 2, size=50)
    scaling = standard_scaling((raw + offset) * unit, weights, groups=GROUPS)
    for group in (0, 1, 4):
        member = group == GROUPS
        values, share = raw[:, member].ravel(), np.repeat(weights, member.sum())
        mean = np.average(values, weights=share)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=share))
        assert_allclose(scaling.mean[member] / unit, mean + offset, rtol=1e-12)
        assert_allclose(scaling.scale[member] / unit, deviation, rtol=1e-6)
        assert_allclose(scaling.inverse[member] * unit, 1 / deviation, rtol=1e-6)
    assert_array_equal(scaling.low, ((raw + offset) * unit).min(axis=0))
    assert_array_equal(scaling.high, ((raw + offset) * unit).max(axis=0))


def test_standard_scaling_of_groups_with_constant_columns():
    values = np.random.default_rng(0).normal(size=30)
    raw = np.c_[values, np.full(30, 3.0), np.full(30, 3.0), np.full(30, 3.0), np.full(30, 9.0)]
    groups = np.array([0, 0, 1, 1, 2])
    scaling = standard_scaling(raw, np.ones(30), groups=groups)
    pooled = raw[:, :2].std()
    assert_allclose(scaling.scale, [pooled, pooled, 0, 0, 0], rtol=1e-12)  # an edge that is always dark is no loss
    assert_allclose(scaling.inverse, [1 / pooled, 1 / pooled, 0, 0, 0], rtol=1e-12)
    assert_allclose(scaling.mean, [*[raw[:, :2].mean()] * 2, 3, 3, 9], rtol=1e-12)
    kept = standard_scaling(raw, np.ones(30), groups=groups, keep_constant=True)
    assert_allclose(kept.scale, [pooled, pooled, 1, 1, 1], rtol=1e-12)
    assert_array_equal(kept.inverse[2:], 1)
    # two constant columns of different height vary as a group
    both = standard_scaling(raw[:, 3:], np.ones(30), groups=np.zeros(2, int))
    assert_allclose((both.mean, both.scale), [[6, 6], [3, 3]], rtol=1e-12)


def test_standard_scaling_of_single_columns_as_groups_is_the_usual_one():
    raw = np.random.default_rng(0).normal(size=(30, 4)) * [1, 10, 0, 1e-5] + 3
    weights = np.random.default_rng(1).uniform(0.5, 2, size=30)
    for keep_constant in (False, True):
        plain = standard_scaling(raw, weights, keep_constant=keep_constant)
        groups = standard_scaling(raw, weights, groups=np.arange(4), keep_constant=keep_constant)
        for name in ("mean", "scale", "inverse", "low", "high"):
            assert_allclose(getattr(groups, name), getattr(plain, name), rtol=1e-14)


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
def test_mean_scaling_divides_by_the_weighted_mean(unit):
    raw = np.random.default_rng(0).gamma(2.0, size=(30, 2)) * [1, 1e6]
    weights = np.random.default_rng(1).uniform(0.5, 2, size=30)
    scaling = mean_scaling(raw * unit, weights * 1e-200)
    assert_allclose(scaling.apply(raw * unit), raw / np.average(raw, axis=0, weights=weights), rtol=1e-12)
    assert_allclose(scaling.scale * scaling.inverse, 1, rtol=1e-15)
    assert_array_equal(scaling.mean, 0)


def test_output_scaling_is_a_factor_or_under_a_logarithm_a_shift():
    raw = np.random.default_rng(0).gamma(2.0, size=(30, 2)) * [1, 1e6]
    by_mean = mean_scaling(raw, np.ones(30))
    outside = output_scaling("mean", by_mean)
    outputs = np.log(by_mean.apply(raw))
    assert_allclose(np.exp(outputs * outside.scale + outside.mean), raw, rtol=1e-9)
    assert_array_equal(outside.inverse, 1)
    standard = standard_scaling(raw, np.ones(30))
    for kind in ("standard", None):
        assert output_scaling(kind, standard) is standard


def test_flatten_images():
    image = CNN(input_shape=(2, 3, 4))
    X = np.arange(5 * 24.0).reshape(5, 2, 3, 4)
    flat = flatten_images(X, image)
    assert_array_equal(flat, X.reshape(5, 24))
    assert_array_equal(flatten_images(torch.tensor(X), image), flat)
    assert_array_equal(flatten_images(np.asfortranarray(X), image), flat)
    assert flatten_images(flat, image) is flat
    assert_array_equal(flatten_images(X.reshape(5, 2, 12), CNN(input_shape=[2, 12])), flat)
    # whoever takes no images gets them as they are, for scikit-learn to refuse
    for architecture in (None, MLP((3,)), torch.nn.Linear(2, 1)):
        assert flatten_images(X, architecture) is X
    table = pd.DataFrame(flat)
    assert flatten_images(table, image) is table
    with pytest.raises(ValueError, match=r"images of shape \(3, 4, 2\); the architecture's input_shape is \(2, 3, 4\)"):
        flatten_images(X.transpose(0, 2, 3, 1), image)
    with pytest.raises(ValueError, match=r"images of shape \(2, 12\)"):
        flatten_images(X.reshape(5, 2, 12), image)


def test_nested_lists_of_images_are_images():
    X = np.random.default_rng(0).normal(size=(20, 1, 3, 3))
    options = {"architecture": CNN((2,), kernel_size=2, input_shape=(1, 3, 3)), "max_iter": 3, "random_state": 0}
    y = X.sum(axis=(1, 2, 3))
    expected = LMRegressor(**options).fit(X, y)
    assert_array_equal(LMRegressor(**options).fit(X.tolist(), y).theta_, expected.theta_)
    assert_array_equal(expected.predict(X.tolist()), expected.predict(X))


@pytest.mark.parametrize(("dtype", "scale"), [("float64", 1e-170), ("float64", 1e170), ("float32", 1e-25)])
def test_targets_whose_square_is_no_number_are_fitted(dtype, scale):
    """A tiny scale is not that of constant targets."""
    X = np.random.default_rng(0).normal(size=(50, 2))
    y = np.sin(X[:, 0])
    model = LMRegressor(4, dtype=dtype, max_iter=60, tol=1e-2, random_state=0).fit(X, scale * y)
    assert model.n_iter_ > 5
    np.testing.assert_allclose(model.predict(X) / scale, y, atol=0.05)


# -- rows far outside ---------------------------------------------------------------------------------------------


def with_broken_rows(n=200, seed=0):
    """Rows of which two are broken readings, and new ones."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n + 1000, 2))
    f = np.sin(3 * X[:, 0]) + X[:, 1]
    y = f[:n] + 0.05 * rng.normal(size=n)
    broken = X[:n].copy()
    broken[[3, 7], 0], y[[3, 7]] = [90.0, -140.0], 0.0
    return broken, y, X[n:], f[n:]


def test_few_rows_far_from_the_middle_half_are_far_outside():
    X = np.random.default_rng(0).normal(size=(200, 3))
    assert not far_outside(X, np.ones(len(X))).any()
    X[[5, 9], [0, 2]] = [40.0, -1e9]
    assert np.flatnonzero(far_outside(X, np.ones(len(X)))).tolist() == [5, 9]
    for scale in (1e-300, 1e290):
        assert np.flatnonzero(far_outside(X * scale, np.ones(len(X)))).tolist() == [5, 9]
    low, median, high = np.quantile(X[:, 0], [0.25, 0.5, 0.75])
    X[5, 0] = median + 19.9 * (high - low)
    assert np.flatnonzero(far_outside(X, np.ones(len(X)))).tolist() == [9]
    X[:4, 1] = 1e6  # with the other one, more than two of a hundred
    assert not far_outside(X, np.ones(len(X))).any()


def test_long_tails_rare_values_and_constants_are_not_far_outside():
    rng = np.random.default_rng(0)
    X = np.c_[np.zeros(500), rng.random(500) < 0.01, rng.exponential(size=500), np.exp(rng.normal(size=500))]
    assert not far_outside(X.astype(float), np.ones(len(X))).any()
    assert not far_outside(np.ones((1, 2)), np.ones(1)).any()


def test_broken_rows_neither_set_the_scale_nor_the_penalty():
    X, y, new, truth = with_broken_rows()
    model = LMRegressor(10, random_state=0).fit(X, y)
    fine = np.setdiff1d(np.arange(len(X)), [3, 7])
    without = LMRegressor(10, random_state=0).fit(X[fine], y[fine])
    assert_allclose(model.x_mean_, without.x_mean_)
    assert_allclose(model.x_inverse_scale_, without.x_inverse_scale_)
    errors = [np.sqrt(np.mean((one.predict(new) - truth) ** 2)) for one in (model, without)]
    assert errors[0] < 2 * errors[1] < 0.1
    assert np.isfinite(model.predict(X)).all()


def test_broken_rows_of_classes():
    X, y, new, truth = with_broken_rows()
    model = LMClassifier(10, random_state=0).fit(X, y > 0)
    assert model.score(new, truth > 0) > 0.93


def test_broken_rows_are_never_left_out_to_find_a_penalty():
    X, _, _, _ = with_broken_rows()
    far = far_outside(X, np.ones(len(X)))
    folds = make_folds(X, np.zeros(20), 200, 1, seed=0, far=far)
    assert np.flatnonzero(folds.of_row < 0).tolist() == [3, 7]
    assert np.bincount(folds.of_row[folds.of_row >= 0]).tolist() == [40, 40, 40, 39, 39]
    few = for_climbing(X, np.zeros(20), MiniBatches(200, 40, 0, None), 5, 0, None, far)
    assert few.batches.n_samples == (few.of_row != 0).sum()
    half = make_folds(X, np.zeros(20), 99, 1, seed=0, far=far)
    assert ((half.of_row < 0).sum(), len(half.rows)) == (1, 100)  # as many of these as of the others


def test_no_fold_is_empty_where_broken_rows_are_all_the_same():
    for seed in range(10):
        X = np.random.default_rng(seed).integers(0, 4, (400, 1)).astype(float)
        X[:5] = -999.0
        folds = make_folds(X, np.zeros(20), 1000, 1, seed, far=far_outside(X, np.ones(400)))
        assert set(folds.of_row) == {-1, 0, 1, 2, 3}


def test_targets_of_broken_rows_count_for_their_scale():
    X = np.random.default_rng(0).normal(size=(300, 1))
    X[:4, 0], y = [1e4, 1.1e4, 1.2e4, 1.3e4], np.zeros(300)
    y[:4] = [3, 4, 5, 6]
    for loss in ("squared_error", "poisson"):
        model = LMRegressor(4, loss=loss, alpha=1e-6, random_state=4).fit(X, y)
        assert model.predict(X[:4]).mean() > 3
        assert np.abs(model.predict(X[4:])).max() < 0.1


def test_a_column_that_tells_broken_rows_apart_is_not_left_out():
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=300), np.zeros(300)]
    y = 0.1 * rng.normal(size=300)
    X[:6, 0], X[:3, 1], y[:3], y[3:6] = 1e4, 1.0, 5.0, -5.0
    model = LMRegressor(4, alpha=1e-4, random_state=0).fit(X, y)
    assert model.predict(X[:3]).min() > 1
    assert model.predict(X[3:6]).max() < -1
    assert model.x_inverse_scale_.min() > 0


@pytest.mark.parametrize("target", [30.0, 100.0])
def test_broken_rows_with_targets_of_their_own(target):
    rng = np.random.default_rng(0)
    X, new = rng.uniform(-3, 3, (300, 2)), rng.uniform(-3, 3, (1000, 2))
    y = np.sin(X[:, 0]) + 0.3 * X[:, 1] + 0.5 * rng.normal(size=300)
    X[:5, 0], y[:5] = 400.0, target
    model = LMRegressor(20, n_init=1, relevance=None, random_state=0).fit(X, y)
    assert np.mean((model.predict(new) - np.sin(new[:, 0]) - 0.3 * new[:, 1]) ** 2) < 0.05
    assert model.alpha_ > 1e-7  # there is noise


def test_a_weight_is_so_many_broken_rows():
    X = np.random.default_rng(0).normal(size=(500, 1))
    X[0], weights = 300.0, np.ones(500)
    weights[[0, 5, 9]] = [5, 3, 2]
    model = small(alpha=1e-3).fit(X, np.sin(X[:, 0]), weights)
    number = weights.astype(int)
    repeated = small(alpha=1e-3).fit(np.repeat(X, number, 0), np.repeat(np.sin(X[:, 0]), number))
    assert_allclose(model.x_inverse_scale_, repeated.x_inverse_scale_)
    assert_allclose(model.x_mean_, repeated.x_mean_)
    assert model.x_inverse_scale_[0] > 0.5
