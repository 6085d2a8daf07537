import threading
from types import SimpleNamespace

import pytest
import torch

from sklm.optim import Stopping, levenberg_marquardt
from sklm.optim._threads import ONE_THREAD_WORK, on_suited_threads, suited_threads

from ..problems import CURVE

CPU = torch.device("cpu")
SMALL, LARGE = 0.5 * ONE_THREAD_WORK, 2 * ONE_THREAD_WORK
N_THREADS = max(torch.get_num_threads(), 2)


@pytest.fixture(autouse=True)
def several():
    before = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("work", "expected"), [(SMALL, 1), (LARGE, N_THREADS)])
def test_small_work_is_done_by_one_thread(work, expected):
    with suited_threads(work, CPU):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == N_THREADS


def test_the_number_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), suited_threads(SMALL, CPU):
        raise ZeroDivisionError
    assert torch.get_num_threads() == N_THREADS


def test_blocks_may_be_nested():
    with suited_threads(SMALL, CPU):
        with suited_threads(SMALL, CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        with suited_threads(LARGE, CPU):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == N_THREADS


def test_other_threads_keep_their_number():
    seen, inside, done = [], threading.Event(), threading.Event()

    def older():
        torch.get_num_threads()
        inside.wait(10)
        seen.append(torch.get_num_threads())
        done.set()

    thread = threading.Thread(target=older)
    thread.start()
    with suited_threads(SMALL, CPU):
        inside.set()
        assert done.wait(10)
        newer = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        newer.start()
        newer.join()
    thread.join()
    assert seen == [N_THREADS, N_THREADS]


def test_a_small_fit_uses_one_thread_and_leaves_the_number_as_it_was():
    seen = []
    options = {"stopping": Stopping(max_iter=2), "callback": lambda progress: seen.append(torch.get_num_threads())}
    levenberg_marquardt(CURVE.problem(), CURVE.starts(), **options)
    assert seen == [1, 1]
    assert torch.get_num_threads() == N_THREADS
    with pytest.raises(ZeroDivisionError):
        levenberg_marquardt(CURVE.problem(), CURVE.starts(), callback=lambda progress: 1 / 0)
    assert torch.get_num_threads() == N_THREADS


def test_a_judging_function_uses_the_threads_that_suit_a_linearisation():
    @on_suited_threads
    def judge(problem, theta, answer):
        """Say something."""
        return torch.get_num_threads(), answer

    assert judge.__doc__ == "Say something."
    for n_samples, expected in ((40, 1), (40 * 10**6, N_THREADS)):  # 10 parameters
        problem = SimpleNamespace(n_samples=n_samples, network=CURVE.network())
        assert judge(problem, torch.zeros(1, 10), answer=3) == (expected, 3)
    assert torch.get_num_threads() == N_THREADS
