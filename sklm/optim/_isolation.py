"""Run numerical code the same way whatever the caller has switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ._threads import safe_after_fork


@contextmanager
def isolated(device: torch.device, inference: bool = False) -> Iterator[None]:
    """Leave the caller's inference mode, autocast and gradient recording for a block, in this thread only.

    Products of single precision are those of single precision, even where the process allows shorter numbers. With
    ``inference`` the block runs in inference mode, a tenth faster for small problems; its tensors must be cloned before
    they leave.
    """
    with (
        torch.inference_mode(inference),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        safe_after_fork(),
        full_precision(),
    ):
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 on a GPU and no bfloat16 on a CPU in products of float32 matrices: they ruin the step.

    The switches are the process's, and are set back at the end.
    """
    # before torch 2.9 there is one switch, that of the GPU
    places = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    name, exact = ("fp32_precision", "ieee") if hasattr(places[0], "fp32_precision") else ("allow_tf32", False)
    before = [(place, getattr(place, name)) for place in places if hasattr(place, name)]
    lowered = [(place, value) for place, value in before if value not in (exact, "none")]
    for place, _ in lowered:
        setattr(place, name, exact)
    try:
        yield
    finally:
        for place, value in lowered:
            setattr(place, name, value)
