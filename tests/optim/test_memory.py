import pytest
import torch

from sklm.optim._memory import available_bytes, chunk_rows, human

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("requested", "n_samples", "expected"),
    [(None, 100, 100), (7, 100, 7), (1, 100, 1), (1000, 100, 100), (None, 0, 1), (5, 0, 1)],
)
def test_requested_rows(requested, n_samples, expected):
    assert chunk_rows(requested, n_samples, 8, 0, CPU) == expected


def test_auto_takes_fewer_of_longer_rows_and_never_too_few():
    rows = [chunk_rows("auto", 10**9, size, 0, CPU) for size in (8, 1000, 100_000, 10**8, 10**12)]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[1] > rows[2]
    assert rows[-1] >= 16
    assert rows[1] * 1000 <= 64 * 2**20


def test_available_bytes_is_a_plausible_amount():
    assert 2**20 < available_bytes(CPU) < 2**50


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0.0 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (5000 * 2**30, "4.9 TiB")]
)
def test_human(n_bytes, text):
    assert human(n_bytes) == text
