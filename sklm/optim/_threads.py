"""Keep small problems on one processor core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

#: multiplications of one linearisation below which a second thread costs more than it brings (docs/performance.md)
ONE_THREAD_WORK = 2e7


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
    if device.type != "cpu" or work >= ONE_THREAD_WORK or torch.get_num_threads() == 1:
        yield
        return
    libraries = _openmp()
    before = [library.num_threads for library in libraries]
    for library in libraries:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, number in zip(libraries, before, strict=True):
            library.set_num_threads(number)
