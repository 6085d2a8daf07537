"""Any ``torch.nn.Module`` as architecture, through reverse-mode ``torch.func``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vjp, vmap

from .._parameters import Parameters
from ._base import Architecture, Forward, Network
from ._starts import Inputs

#: parameters without derivatives that are asked for their differences, how far apart (relative to their size, or to
#: one), and relative differences that are rounding
MOST_IDLE, PROBE, ROUNDING = 32, 1e-3, 1e-12


class ModuleArchitecture(Parameters, Architecture):
    """A ``torch.nn.Module`` that maps rows (n, F) to (n,) or (n, K), every row on its own.

    Parameters
    ----------
    module : torch.nn.Module
        A copy of it is trained, in evaluation mode, starting from the values it carries; parameters with
        ``requires_grad=False`` stay as they are. Its operations must work under ``torch.func.vmap`` (no Python
        ``if`` on tensor values).

    Notes
    -----
    X and y reach the module unscaled unless ``standardize=True`` is asked for, so that its parameters keep their
    physical meaning; damping is then scaled by the running maximum of diag(J^T J), which makes their units
    irrelevant, and the steps are solved by QR. Every parameter whose name does not end in 'bias' is penalised by
    ``alpha``.
    """

    standardize = False
    damping_scaling = "more"
    solver = "qr"
    restarts = False
    tol = 1e-12

    def __init__(self, module: torch.nn.Module):
        self.module = module

    def build(self, n_inputs: int, n_outputs: int) -> ModuleNetwork:
        """Return the network; fails if the module has no trainable parameter or the wrong output shape.

        Raises
        ------
        ValueError
            With what is wrong and what the module should return.
        """
        with torch.inference_mode(False), torch.no_grad():
            network = ModuleNetwork(_own_copy(self.module), n_outputs).to(torch.device("cpu"), torch.float64)
            n = n_outputs + 2  # a number of rows that cannot be taken for another size
            probe = torch.linspace(0.1, 0.9, n * n_inputs, dtype=torch.float64, device="cpu").view(n, n_inputs)
            try:
                outputs = network.raw(network.start, probe)
                single = network.raw(network.start, probe[:1])
            except Exception as error:
                hint = " It is evaluated in float64: make constants with dtype=rows.dtype."
                raise ValueError(
                    f"The module could not be evaluated on a batch of shape ({n}, {n_inputs}): {error}"
                    f"{hint if 'dtype' in str(error) else ''}"
                ) from error
        _check_shape(outputs, n, n_outputs)
        if single.numel() != n_outputs:
            raise ValueError(
                f"The module must treat every row on its own, but for a single row it returned shape "
                f"{tuple(single.shape)}; its forward() may fix the number of rows."
            )
        if not torch.allclose(outputs[:1], single.reshape(outputs[:1].shape), rtol=1e-6, equal_nan=True):
            raise ValueError(
                "The module must treat every row on its own, but its output for the first of some rows changes "
                "when the others are left out. Remove operations over the rows, such as means over dimension 0."
            )
        return network

    def starts(self, network: Network, init: str, inputs: Inputs, generators: list) -> np.ndarray:
        """Start 0 is what the module carries; later ones scatter every parameter by about its own size."""
        if init != "auto":
            raise ValueError(
                f"init must be 'auto' for a module, which starts from the values it carries; got {init!r}."
            )
        assert isinstance(network, ModuleNetwork)
        network.check_differentiable(inputs.rows(np.linspace(0, 1, 7, endpoint=False)))
        carried = network.start.cpu().double().numpy()
        spread = np.where(carried == 0, 1.0, np.abs(carried))
        draws = [rng.normal(size=carried.shape) for rng in generators]
        return np.stack([carried + (k > 0) * spread * draw for k, draw in enumerate(draws)])


def _check_shape(outputs: object, n: int, n_outputs: int) -> None:
    if not isinstance(outputs, Tensor):
        raise ValueError(f"The module must return a tensor; it returned {type(outputs).__name__}.")
    if not outputs.is_floating_point():
        raise ValueError(f"The module must return real floating-point numbers; it returned {outputs.dtype}.")
    allowed = [(n, n_outputs)] + ([(n,)] if n_outputs == 1 else [])
    if tuple(outputs.shape) not in allowed:
        raise ValueError(
            f"The module must return shape {' or '.join(str(a).replace(str(n), 'n', 1) for a in allowed)} for n rows "
            f"and {n_outputs} target column(s); for n = {n} it returned {tuple(outputs.shape)}."
        )


def _own_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy with ordinary tensors, also of a module made in inference mode."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None and p.is_inference():
                part._parameters[name] = torch.nn.Parameter(p.clone(), p.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()
    return module


class ScaledModule(torch.nn.Module):
    """A module of standardised inputs and outputs as one of raw ones.

    module : torch.nn.Module; x_mean, x_inverse : (F,); y_mean, y_scale : (K,) ndarrays
    """

    x_mean: Tensor
    x_inverse: Tensor
    y_mean: Tensor
    y_scale: Tensor

    def __init__(
        self,
        module: torch.nn.Module,
        x_mean: np.ndarray,
        x_inverse: np.ndarray,
        y_mean: np.ndarray,
        y_scale: np.ndarray,
    ):
        super().__init__()
        self.module = module
        for name, value in (("x_mean", x_mean), ("x_inverse", x_inverse), ("y_mean", y_mean), ("y_scale", y_scale)):
            self.register_buffer(name, torch.tensor(np.array(value), dtype=torch.float64, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, F) to (n, K)."""
        outputs = self.module((x - self.x_mean) * self.x_inverse)
        return outputs.reshape(len(x), -1) * self.y_scale + self.y_mean


class ModuleNetwork(Network):
    """A module seen as a function of one flat parameter vector, with per-row Jacobians by ``vmap(jacrev)``.

    Forward mode is not used: ``torch.func.jvp`` is not safe in several threads.
    """

    uses_autograd = True

    def __init__(self, module: torch.nn.Module, n_outputs: int):
        self.module = module.eval()
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("The module has no parameter with requires_grad=True: there is nothing to fit.")
        if any(p.is_complex() for p in trained.values()):
            raise ValueError("The module has complex parameters; only real ones can be fitted.")
        self.names = list(trained)
        self.shapes = [p.shape for p in trained.values()]
        self.sizes = [p.numel() for p in trained.values()]
        self.n_parameters, self.n_outputs = sum(self.sizes), n_outputs
        self.coefficient_mask = np.repeat([not name.endswith("bias") for name in self.names], self.sizes)
        self.floats_per_row = 4 * self.n_parameters * n_outputs + 64
        for p in module.parameters():
            p.requires_grad_(False)

    @property
    def start(self) -> Tensor:
        """The values the module carries, (P,)."""
        values = dict(self.module.named_parameters())
        return torch.cat([values[name].reshape(-1) for name in self.names])

    def to(self, device: torch.device, dtype: torch.dtype) -> ModuleNetwork:
        self.module.to(device=device, dtype=dtype)
        return self

    def to_module(self, theta: np.ndarray) -> torch.nn.Module:
        """Return a copy of the module that carries theta (P,), on the CPU in float64."""
        module = copy.deepcopy(self.module).to(device="cpu", dtype=torch.float64)
        for name, value in self._split(torch.tensor(theta, dtype=torch.float64, device="cpu")).items():
            module.get_parameter(name).copy_(value)
        for p in module.parameters():
            p.requires_grad_(True)
        return module

    def check_differentiable(self, rows: np.ndarray) -> None:
        """Raise ValueError if the module's Jacobian cannot be taken row by row; rows (n, F)."""
        with torch.inference_mode(False), torch.no_grad():
            X = torch.tensor(np.array(rows).T, dtype=torch.float64, device="cpu")
            theta = self.start.unsqueeze(0)
            eye = torch.eye(self.n_outputs, dtype=torch.float64, device="cpu")
            cotangents = eye[None, :, :, None].expand(1, -1, -1, X.shape[1])  # of several outputs, sums may cancel
            out = torch.empty((1, self.n_parameters, *cotangents.shape[2:]), dtype=torch.float64, device="cpu")
            try:
                self.pullback(theta, X, self.forward(theta, X), cotangents, out)
            except Exception as error:
                raise ValueError(
                    "The module cannot be differentiated row by row with torch.func.vmap and jacrev. Use torch "
                    "operations only, no `if` on values (torch.where instead) and no writing into tensors made inside "
                    f"forward (torch.stack instead). torch says: {error}"
                ) from error
            self._check_idle(theta, X, cotangents, out.abs().amax((0, 2, 3)) == 0)
        idle = [name for name, part in self._split(out.abs().amax((0, 2, 3))).items() if not bool(part.any())]
        if idle:
            warnings.warn(
                f"The module's parameters {idle} have no influence on its output at the starting values. If that is "
                "not meant, look for .item(), .detach() or .data in forward, or start elsewhere.",
                UserWarning,
                stacklevel=2,
            )

    def _check_idle(self, theta: Tensor, X: Tensor, cotangents: Tensor, idle: Tensor) -> None:
        """Raise ValueError if the outputs change with a parameter of those ``idle`` (P,) whose derivatives are zero.

        At the point itself a derivative may well be zero, so neighbours are asked, too.
        """
        out = torch.empty((1, self.n_parameters, *cotangents.shape[2:]), dtype=theta.dtype, device="cpu")
        for number in idle.nonzero().flatten()[:MOST_IDLE].tolist():
            sides, flat = [], True
            for sign in (-1, 1):
                moved = theta.clone()
                moved[0, number] += sign * PROBE * max(1.0, abs(float(theta[0, number])))
                forward = self.forward(moved, X)
                self.pullback(moved, X, forward, cotangents, out)
                sides.append(forward.outputs)
                flat &= not bool(out[0, number].any())
            change = (sides[1] - sides[0]).abs().max()
            if flat and bool(change > ROUNDING * sides[0].abs().max()):
                places = zip(self.names, np.cumsum([0, *self.sizes[:-1]]), self.sizes, strict=True)
                name, first, size = next(place for place in places if place[1] <= number < place[1] + place[2])
                shown = f"{name!r}" if size == 1 else f"number {number - first} of {name!r}"
                raise ValueError(
                    f"The module's output changes with its parameter {shown}, and torch gives a derivative of zero: "
                    "forward has .item(), .detach(), float(), rounding or a comparison of the parameter, or a function "
                    "that torch cannot differentiate (such as torch.special.bessel_j0). Write it in functions that it "
                    "can, or set requires_grad=False to hold the parameter fixed."
                )

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        parts = torch.split(theta, self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def raw(self, theta: Tensor, X: Tensor) -> Tensor:
        """Outputs as the module returns them for theta (P,) and X (n, F)."""
        return functional_call(self.module, self._split(theta), (X,))

    def _row(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs (K,) of one row x (F,)."""
        return self.raw(theta, x.unsqueeze(0)).reshape(self.n_outputs)

    def _each(
        self, function: Callable[[Tensor, Tensor, Tensor], Tensor], theta: Tensor, X: Tensor, other: Tensor
    ) -> Tensor:
        """Apply ``function(theta (P,), X (n, F), other)`` to every model; ``other`` has the model axis."""
        rows, other = X.mT, other.expand(len(theta), *other.shape[1:])
        if len(theta) == 1:
            return function(theta[0], rows if rows.ndim == 2 else rows[0], other[0]).unsqueeze(0)
        return vmap(function, in_dims=(0, 0 if rows.ndim == 3 else None, 0))(theta, rows, other)

    def forward(self, theta: Tensor, X: Tensor, reuse: Forward | None = None, derivatives: bool = True) -> Forward:
        def outputs(t: Tensor, rows: Tensor, _: Tensor) -> Tensor:
            return self.raw(t, rows).reshape(-1, self.n_outputs).mT

        return Forward(self._each(outputs, theta, X, theta), ())

    def pullback(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
        def rows(t: Tensor, X: Tensor, cotangents: Tensor) -> Tensor:
            jacobian = vmap(jacrev(self._row), in_dims=(None, 0))(t, X)
            return torch.einsum("nkp,krn->prn", jacobian, cotangents)

        out.copy_(self._each(rows, theta, X, cotangents))

    def parameter_groups(self) -> list[np.ndarray]:
        """The parameters of every submodule that has some of its own, in the order of their names."""
        owners = np.repeat([name.rpartition(".")[0] for name in self.names], self.sizes)
        numbers = np.arange(self.n_parameters)
        return [numbers[owners == owner] for owner in dict.fromkeys(owners.tolist())]

    def pullback_of(self, numbers: np.ndarray, device: torch.device) -> Callable[..., None]:
        """As the base class says; autograd stops at the parameters that are not asked for."""
        index = torch.from_numpy(numbers).to(device)

        def rows(t: Tensor, X: Tensor, cotangents: Tensor) -> Tensor:
            def row(some: Tensor, x: Tensor) -> Tensor:
                return self._row(t.index_copy(0, index, some), x)

            jacobian = vmap(jacrev(row), in_dims=(None, 0))(t[index], X)
            return torch.einsum("nkp,krn->prn", jacobian, cotangents)

        def pullback(theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
            out.copy_(self._each(rows, theta, X, cotangents))

        return pullback

    def vjp(self, theta: Tensor, X: Tensor, forward: Forward, cotangent: Tensor) -> Tensor:
        def pull(t: Tensor, X: Tensor, cotangent: Tensor) -> Tensor:
            function = vjp(lambda u: self.raw(u, X).reshape(-1, self.n_outputs).mT, t)[1]
            return function(cotangent)[0]

        return self._each(pull, theta, X, cotangent)

    def jvp(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        """First derivative along a line, by reverse mode twice: ``u -> J^T u`` is linear, and J is its transpose."""

        def slope(t: Tensor, X: Tensor, v: Tensor) -> Tensor:
            pull = vjp(lambda u: self.raw(u, X).reshape(-1, self.n_outputs).mT, t)[1]
            return vjp(lambda u: pull(u)[0], v.new_zeros(self.n_outputs, len(X)))[1](v)[0]

        return self._each(slope, theta, X, direction)

    def second_directional(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=theta.dtype, device=theta.device)

        def bend(t: Tensor, X: Tensor, v: Tensor) -> Tensor:
            def one(x: Tensor) -> Tensor:
                return jacrev(jacrev(lambda s: self._row(t + s * v, x)))(zero)

            return vmap(one)(X).mT

        return self._each(bend, theta, X, direction)
