"""Run numerical code the same way whatever the caller has switched on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
        full_precision,
    ):
        yield


class _Precision:
    """Holds the process's switches for float32 products at full precision while any block in any thread wants that."""

    def __init__(self) -> None:
        self.lock, self.blocks, self.before = threading.Lock(), 0, []  # type: ignore[var-annotated]

    def __enter__(self) -> None:
        with self.lock:
            self.blocks += 1
            if self.blocks == 1:
                self.before = [found for place in self._places() if (found := self._raised(*place)) is not None]

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                for place, name, value in self.before:
                    setattr(place, name, value)

    @staticmethod
    def _places() -> list[tuple[Any, str, Any]]:
        """Switch, name and value of full precision; before torch 2.9 there is one, that of the GPU."""
        places = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
        name, exact = ("fp32_precision", "ieee") if hasattr(places[0], "fp32_precision") else ("allow_tf32", False)
        return [(place, name, exact) for place in places if hasattr(place, name)]

    @staticmethod
    def _raised(place: Any, name: str, exact: Any) -> tuple[Any, str, Any] | None:
        """Set a switch to full precision; return what to set it back to, None if it was there."""
        value = getattr(place, name)
        if value in (exact, "none"):
            return None
        if name == "fp32_precision":
            place.fp32_precision = "none"  # is the value inherited?
            value = "none" if place.fp32_precision == value else value
        setattr(place, name, exact)
        return place, name, value


#: no TF32 on a GPU and no bfloat16 on a CPU in products of float32 matrices: they ruin the step
full_precision = _Precision()
