"""How much memory there is, and what fits into it."""

from __future__ import annotations

import os

import torch

#: bytes of Jacobian rows worked on at once on a CPU: about what a shared last-level cache holds (measured in
#: docs/performance.md)
CPU_CHUNK_BYTES = 4 * 2**20
#: the same on a GPU, where large launches matter more than caches
GPU_CHUNK_BYTES = 256 * 2**20
#: activations may take this much more than Jacobian rows: they are used once
ACTIVATION_SHARE = 8
#: vectors of parameters that a run has at its peak (measured: 25 to 32, in double precision)
VECTORS = 32
#: forward passes are kept for the next linearisation up to this size
FORWARD_BYTES = 64 * 2**20


def available_bytes(device: torch.device) -> int:
    """Return the bytes that can be allocated on ``device`` without swapping, as the system reports them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 * 2**30


def chunk_rows(
    requested: int | str | None, n_samples: int, row_bytes: int, activation_bytes: int, device: torch.device
) -> int:
    """Return how many samples are linearised at once.

    requested : int, None (all) or 'auto' (from cache size). ``row_bytes`` and ``activation_bytes`` are those of the
    Jacobian rows and of the activations of a sample, for all models.
    """
    if requested is None:
        return max(n_samples, 1)
    if isinstance(requested, str):
        if requested != "auto":
            raise ValueError(f"jacobian_max_rows must be a positive integer, None or 'auto'; got {requested!r}.")
        budget = CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
        requested = max(min(budget // row_bytes, ACTIVATION_SHARE * budget // max(activation_bytes, 1)), 64)
    return max(1, min(int(requested), n_samples))


def human(n_bytes: float) -> str:
    """Format a number of bytes: ``human(3 * 2**30) == '3.0 GiB'``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
