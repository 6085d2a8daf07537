"""A device that works as a GPU does, simulated on the CPU: for code that runs there, where there is none.

Tensors on ``sim:0`` hold numbers on the CPU that only an explicit copy gives out, and are refused by numpy. The device
counts how often the host waits for it (values, data-dependent shapes, copies), and graphs of its work can be recorded
and replayed: while recording, waiting raises, as CUDA does, and nothing that was there before changes.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("devices in Python need a newer torch", allow_module_level=True)


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16]


backend_registration._setup_privateuseone_for_python_backend("sim", backend_module=_Module())
DEVICE = torch.device("sim:0")
#: operations for whose results the host waits, or for their shapes
WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "allclose",
    "_unique2",
    "unique_dim",
    "repeat_interleave",
    "linalg_cholesky",
    "linalg_inv",
    "linalg_solve",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_qr",
    "_linalg_check_errors",
}


class Simulated(torch.Tensor):
    """A tensor on the device; ``inner`` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Simulated({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


class Log:
    """What the device did: operations, and those for which the host waited."""

    operations = 0
    waits: list[str] = []
    recording = None

    @classmethod
    def clear(cls):
        cls.operations, cls.waits = 0, []


def _wait(name):
    if Log.recording is not None:
        raise RuntimeError(f"{name} waits for the device while its work is recorded")
    Log.waits.append(name)


def _call(func, args, kwargs):
    outer = {}

    def unwrap(part):
        if isinstance(part, Simulated):
            outer[id(part.inner)] = part
            return part.inner
        if (
            isinstance(part, torch.Tensor)
            and part.ndim
            and str(func) not in ("aten.copy_.default", "aten.index.Tensor")
        ):
            raise RuntimeError(f"{func}: tensors on two devices")
        return part

    def wrap(part):
        if not isinstance(part, torch.Tensor):
            return part
        known = outer.get(id(part))
        if known is None:
            return Simulated(part)
        if known.shape != part.shape:
            raise NotImplementedError(f"{func} resizes its output")
        return known

    Log.operations += 1
    name, to_host = str(func), "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
    masks = (
        [index for index in args[1] if index is not None] if name.startswith(("aten.index.", "aten.index_put")) else []
    )
    if name.split(".")[1] in WAITS or to_host or any(mask.dtype == torch.bool for mask in masks):
        _wait(name)
    if name == "aten.copy_.default" and isinstance(args[0], Simulated) != isinstance(args[1], Simulated):
        _wait(name)
    inner, options = tree_map(unwrap, (args, kwargs))
    if "device" in options:
        options["device"] = "cpu"
    options.pop("pin_memory", None)
    if Log.recording is not None:
        Log.recording.save(func, inner, options)
    result = func(*inner, **options)
    if Log.recording is not None:
        Log.recording.add(func, inner, options, result)
    if to_host:
        return result.clone()
    if name == "aten.copy_.default" and not isinstance(args[0], Simulated):
        return args[0]
    return tree_map(wrap, result)


def _written(func, args, kwargs):
    """The tensors that an operation writes to."""
    schema = func._schema.arguments
    named = {argument.name: value for argument, value in zip(schema, args, strict=False)} | kwargs
    return [
        named[argument.name]
        for argument in schema
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name in named
    ]


class Graph:
    """Work on the device, recorded and replayed; see ``sklm.optim._graph.Graph``."""

    def __init__(self, device):
        self.steps, self.before = [], {}

    def prepare(self, work):
        return work()

    def record(self, work):
        Log.recording = self
        try:
            return work()
        finally:
            Log.recording = None
            for tensor, value in self.before.values():
                tensor.copy_(value)

    def save(self, func, args, kwargs):
        for tensor in _written(func, args, kwargs):
            self.before.setdefault((tensor.data_ptr(), tensor.shape), (tensor, tensor.clone()))

    def add(self, func, args, kwargs, result):
        self.steps.append((func, args, kwargs, result))

    def replay(self):
        for func, args, kwargs, result in self.steps:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                tree_map(_refill, result, again)


def _refill(old, new):
    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
        old.copy_(new)


_kernels = torch.library.Library("aten", "IMPL")


def _factory(name):
    operator, overload = [*name.split("."), "default"][:2]
    function = getattr(getattr(torch.ops.aten, operator), overload)

    def make(*args, device=None, pin_memory=None, layout=None, **kwargs):
        return Simulated(function(*args, device="cpu", **kwargs))

    _kernels.impl(name, make, "PrivateUse1")


def _copy_from(source, target, non_blocking=False):
    _wait("aten._copy_from.default")
    (target.inner if isinstance(target, Simulated) else target).copy_(
        source.inner if isinstance(source, Simulated) else source
    )
    return target


for _name in ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m"):
    _factory(_name)
_kernels.impl("_copy_from", _copy_from, "PrivateUse1")
