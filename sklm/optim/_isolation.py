"""Run numerical code the same way whatever the caller has switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Leave inference mode, autocast and gradient recording for the duration of a block, in this thread only."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
