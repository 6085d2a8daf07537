"""Iterations on a GPU as one launch each: CUDA graphs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ._batch import leaves, with_leaves

#: iterations of a batch of some size before it is worth recording one, and of how many more
RECORD_AFTER, RECORD_FOR = 8, 16

#: what is kept for each thread
_own = threading.local()
#: a process records one graph at a time
_recording = threading.Lock()


class Graph(Protocol):
    """Work on a device, recorded once and replayed on the same memory."""

    def prepare(self, work: Callable[[], Any]) -> Any:
        """Do the work once where it will be recorded, so that libraries have their memory, and return what it gives."""

    def record(self, work: Callable[[], Any]) -> Any:
        """Record the work without doing it and return its results, whose memory every replay fills."""

    def replay(self) -> None: ...


class CUDAGraph:
    """See ``torch.cuda.graph``: no synchronisation, no values on the host, the same shapes and addresses each time."""

    def __init__(self, device: torch.device):
        self.device, self.graph = device, torch.cuda.CUDAGraph()
        streams = _own.__dict__.setdefault("streams", {})  # libraries keep memory for every stream that they have seen
        if device not in streams:
            streams[device] = torch.cuda.Stream(device)
        self.stream = streams[device]

    def prepare(self, work: Callable[[], Any]) -> Any:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        self.stream.synchronize()  # the results are used, and freed, on the other stream
        return result

    def record(self, work: Callable[[], Any]) -> Any:
        current = torch.cuda.current_stream(self.device)
        try:
            with (
                torch.cuda.device(self.device),
                torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
            ):
                return work()
        finally:
            torch.cuda.set_stream(current)  # torch leaves a recording that failed on the other stream

    def replay(self) -> None:
        self.graph.replay()


#: by type of device
GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CUDAGraph}


class Recorded:
    """One iteration, ``carry -> (carry, curves)``, as a graph.

    Parameters
    ----------
    function : callable
        Takes and returns a tree of tensors (dataclasses, dicts, lists), the carry, with more tensors as second result.
        It must neither look at values nor write to the carry.
    carry : tree
        Copied: the copy is what every replay reads and writes.
    graph : Graph

    Raises
    ------
    RuntimeError
        If the device refuses to record the work, or if a replay gives something else than the work itself.

    Notes
    -----
    The first call of the result is already made, and checked against ``function`` itself.
    """

    def __init__(self, function: Callable[[Any], tuple[Any, dict[str, Tensor]]], carry: Any, graph: Graph):
        self.graph = graph
        # one place for every leaf, also where two are the same tensor now
        self.carry = with_leaves(carry, [leaf.clone() for leaf in leaves(carry)])
        with _recording:
            expected = graph.prepare(lambda: [leaf.clone() for leaf in leaves(function(self.carry)[0])])
            self.curves = graph.record(lambda: self._work(function))
        graph.replay()
        pairs = zip(leaves(self.carry), expected, strict=True)
        if not all(torch.allclose(new.double(), old.double(), rtol=1e-6, equal_nan=True) for new, old in pairs):
            raise RuntimeError("the replay of an iteration gave something else than the iteration")

    def _work(self, function: Callable[[Any], tuple[Any, dict[str, Tensor]]]) -> dict[str, Tensor]:
        new, curves = function(self.carry)
        old = leaves(self.carry)
        mine = set(map(id, old))
        # what is handed on from another place in the carry is copied before that place is written to
        values = [leaf.clone() if id(leaf) in mine else leaf for leaf in leaves(new)]
        curves = {name: curve.clone() for name, curve in curves.items()}
        for place, value, source in zip(old, values, leaves(new), strict=True):
            if source is not place:
                place.copy_(value)
        return curves

    def set(self, carry: Any) -> None:
        """Go on from another carry of the same shapes."""
        for place, value in zip(leaves(self.carry), leaves(carry), strict=True):
            place.copy_(value)

    def values(self) -> tuple[Any, dict[str, Tensor]]:
        """The carry, which the next replay writes over, and copies of the curves."""
        return self.carry, {name: curve.clone() for name, curve in self.curves.items()}


def recorded(
    function: Callable[[Any], tuple[Any, dict[str, Tensor]]], carry: Any, device: torch.device
) -> Recorded | None:
    """Return a :class:`Recorded`, one iteration done, or None with a warning where the device cannot do that."""
    try:
        return Recorded(function, carry, GRAPHS[device.type](device))
    except RuntimeError as error:  # too little memory for an iteration that is kept, too
        warnings.warn(
            f"The iterations of this fit are not recorded as a graph of the device, which costs time and nothing else: "
            f"{error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
