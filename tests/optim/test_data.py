import numpy as np
import pytest
import torch

from sklm.losses import SquaredError
from sklm.optim import Stopping, StreamedRows, TensorRows, levenberg_marquardt, make_problem

from ..problems import SURFACE, tensor

CPU = torch.device("cpu")
MEAN, SCALE = np.array([5.0, -3.0]), np.array([2.0, 0.1])


@pytest.fixture
def array():
    """Raw inputs (N, F) that standardise to those of SURFACE."""
    return SURFACE.data()[0].numpy() * SCALE + MEAN


def streamed(array, **options):
    return StreamedRows(array, MEAN, 1 / SCALE, CPU, torch.float64, **options)


@pytest.fixture
def resident():
    return TensorRows(SURFACE.data()[0].mT.contiguous())


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_chunks_and_selections_are_those_of_resident_rows(array, resident):
    rows = streamed(array)
    assert rows.n_samples == resident.n_samples == 60
    for start, stop in ((0, 60), (0, 7), (53, 60)):
        close(rows.chunk(start, stop), resident.chunk(start, stop))
        assert rows.chunk(start, stop).is_contiguous()
    index = np.array([40, 2, 2, 17])
    close(rows.take(index).chunk(0, 4), resident.take(index).chunk(0, 4))
    assert rows.models(torch.tensor([1])).n_samples == 60


def test_a_subset_of_the_rows(array, resident):
    subset = np.array([40, 3, 11, 25])
    rows = streamed(array, rows=subset)
    assert rows.n_samples == 4
    close(rows.chunk(1, 3), resident.X[:, [3, 11]])
    close(rows.take(np.array([2, 0])).X, resident.X[:, [11, 40]])


def test_resident_rows_of_one_model_each():
    X = tensor(np.random.default_rng(0).normal(size=(3, 2, 9)))
    rows = TensorRows(X)
    assert rows.n_samples == 9
    close(rows.chunk(2, 5), X[:, :, 2:5])
    close(rows.models(torch.tensor([2, 0])).X, X[[2, 0]])
    close(rows.take(np.array([8, 1])).X, X[:, :, [8, 1]])


@pytest.mark.parametrize("kind", ["array", "memmap", "float32", "integers"])
def test_any_numeric_array_is_only_read(kind, array, tmp_path):
    if kind == "memmap":
        np.save(tmp_path / "X.npy", array)
        array = np.load(tmp_path / "X.npy", mmap_mode="r")
    elif kind == "float32":
        array = array.astype(np.float32)
    elif kind == "integers":
        array = (10 * array).astype(np.int8)
    before = np.array(array)
    if not isinstance(array, np.memmap):
        array.flags.writeable = False
    rows = streamed(array)
    close(rows.chunk(5, 30), tensor((before[5:30].astype(float) - MEAN) / SCALE).mT)
    rows.take(np.array([1, 2])).X.zero_()
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("max_rows", [7, None])
def test_a_fit_is_the_same(max_rows, array):
    X, y = SURFACE.data()
    theta = SURFACE.starts(2, near=0.3)
    stopping = Stopping(max_iter=15)
    losses = [
        levenberg_marquardt(
            make_problem(SURFACE.network(), SquaredError(), rows, y, n_models=2, jacobian_max_rows=max_rows),
            theta,
            stopping=stopping,
        ).history["loss"]
        for rows in (X, streamed(array))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-8)


def test_float32():
    rows = StreamedRows(np.ones((3, 2)), np.zeros(2), np.ones(2), CPU, torch.float32)
    assert rows.chunk(0, 2).dtype == torch.float32
