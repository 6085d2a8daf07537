"""How many processor cores a fit uses: one for small problems, and one in a forked process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

Made = TypeVar("Made")

#: multiplications of one linearisation of one model below which a second thread brings little on an idle machine, and
#: costs much on a busy one (docs/performance.md)
ONE_THREAD_WORK = 2e8

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@contextmanager
def safe_after_fork() -> Iterator[None]:
    """Use one thread of torch for a block in a process made by ``os.fork``, where its thread pool is gone.

    Without this, torch waits for ever for threads that the fork did not copy.
    """
    number = torch.get_num_threads()
    if not _forked or number == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)


@lru_cache(maxsize=1)
def _openmp() -> list[Any]:
    """OpenMP runtimes of the process; looked up once, when torch has loaded its own."""
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "openmp"]


@contextmanager
def suited_threads(work: float, device: torch.device) -> Iterator[None]:
    """Use one OpenMP thread for a block on the CPU whose linearisations take ``work`` multiplications.

    The number of OpenMP threads is a setting of the calling thread, so that other threads do not see the change;
    torch's own setting is not touched. Waiting for a second thread costs microseconds an operation on an idle
    machine and milliseconds on a busy one.
    """
    enough = device.type == "cpu" and work < ONE_THREAD_WORK and torch.get_num_threads() > 1
    with openmp_threads(1 if enough else None):
        yield


def on_suited_threads(judge: Callable[..., Made]) -> Callable[..., Made]:
    """Let a function of a problem and parameters theta (B, P) use the threads that suit a linearisation of it."""

    @wraps(judge)
    def judged(problem: Any, theta: Tensor, *given: Any, **options: Any) -> Made:
        work = problem.n_samples * problem.network.n_outputs * theta.shape[1] ** 2
        with suited_threads(work, theta.device):
            return judge(problem, theta, *given, **options)

    return judged


@contextmanager
def openmp_threads(number: int | None) -> Iterator[None]:
    """Use ``number`` OpenMP threads in the calling thread, for a block; None leaves the number as it is."""
    if number is None:
        yield
        return
    libraries = _openmp()
    before = [library.num_threads for library in libraries]
    for library in libraries:
        library.set_num_threads(number)
    try:
        yield
    finally:
        for library, number in zip(libraries, before, strict=True):
            library.set_num_threads(number)
