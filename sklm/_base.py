"""What the estimators share: parameters, their constraints, and the template of ``fit``."""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from numbers import Integral, Real
from types import FunctionType
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin

from ._sklearn import Interval, InvalidParameterError, Options, StrOptions
from .architectures import ACTIVATIONS, MLP, STARTS, Architecture, ModuleArchitecture, Network, Polynomial
from .losses import Loss
from .optim import (
    ACCELERATIONS,
    ACCEPTANCES,
    LINE_SEARCHES,
    OPTIMIZERS,
    SCALINGS,
    SELECTIONS,
    SOLVERS,
    STRATEGIES,
    Acceleration,
    Acceptance,
    DampingStrategy,
    LineSearch,
    Mask,
    Optimizer,
    ParameterSelection,
    Stopping,
    make_accelerations,
)
from .optim._descent import make_optimizer

DTYPES = {"float64": torch.float64, "float32": torch.float32}
#: whether a search is affordable with so many rows (times outputs) and parameters
Affords = Callable[[float, int], bool]
#: ``hidden_layer_sizes='auto'``: units of the one layer, for up to so many rows or a single column, and at most
AUTO_UNITS, AUTO_UNITS_ROWS, MOST_AUTO_UNITS = 20, 500, 50
#: ... and where there are so many columns that a search would take too long with these
FEWER_UNITS = (15, 10, 8, 6, 5, 4)
#: ... and where even these are too many for a quick one
FEWEST_UNITS = (4, 3, 2)
#: with fewer rows a parameter than this, a search for the penalty or the relevance of columns is worth more than units
SEARCHING_ROWS = 4.0
#: starts of ``n_init='auto'``, and of long fits the mean of which may be kept
AUTO_STARTS, LONG_STARTS = 4, 2
#: the race of any further ones: after so many iterations, so many of those that still run go on
RACE = ((100, 16), (200, 8), (300, 4))
#: what only Levenberg-Marquardt reads, with the values by which it is left out or left alone
LM_OPTIONS: dict[str, tuple] = {
    "damping": (1e-2,),
    "damping_strategy": ("gain_ratio",),
    "damping_scaling": ("auto",),
    "acceleration": ("auto", None),
    "line_search": (None,),
    "acceptance": (None,),
    "n_dampings": (1,),
    "param_selection": (None,),
    "solver": ("auto",),
    "batch_memory": ("auto", None),
    "jacobian_max_rows": ("auto",),
    "growing": ("auto", False),
    "curvature": ("auto",),
    "curvature_samples": ("auto",),
}


class BaseLM(CallbackSupportMixin, BaseEstimator):
    """Hyperparameters and engine set-up of the Levenberg-Marquardt estimators."""

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "activation": [StrOptions({"auto", *ACTIVATIONS})],
        "architecture": [Architecture, torch.nn.Module, None],
        "alpha": [Interval(Real, 0, None, closed="left"), StrOptions({"auto", "cv"})],
        "relevance": [StrOptions({"auto"}), "array-like", None],
        "optimizer": [StrOptions({"lm", *OPTIMIZERS}), Optimizer],
        "damping": [Interval(Real, 0, Stopping.max_damping, closed="neither")],
        "damping_strategy": [StrOptions(set(STRATEGIES)), DampingStrategy],
        "damping_scaling": [StrOptions({"auto", *SCALINGS}), callable],
        "acceleration": [StrOptions({"auto", *ACCELERATIONS}), Acceleration, tuple, list, None],
        "line_search": [StrOptions(set(LINE_SEARCHES)), LineSearch, None],
        "acceptance": [StrOptions(set(ACCEPTANCES)), Acceptance, None],
        "n_dampings": [Interval(Integral, 1, None, closed="left")],
        "param_selection": [StrOptions(set(SELECTIONS)), ParameterSelection, np.ndarray, tuple, list, None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "batch_memory": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "jacobian_max_rows": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "growing": [StrOptions({"auto"}), "boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "target_loss": [Interval(Real, 0, None, closed="left"), None],
        "tol": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf}), StrOptions({"auto"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "standardize": [StrOptions({"auto"}), "boolean"],
        "init": [StrOptions({"auto", *STARTS})],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "dtype": [StrOptions(set(DTYPES))],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = "auto",
        activation: str = "auto",
        *,
        architecture: Any = None,
        loss: Any = "squared_error",
        alpha: float | str = "auto",
        relevance: Any = "auto",
        optimizer: Any = "lm",
        damping: float = 1e-2,
        damping_strategy: Any = "gain_ratio",
        damping_scaling: Any = "auto",
        acceleration: Any = "auto",
        line_search: Any = None,
        acceptance: Any = None,
        n_dampings: int = 1,
        param_selection: Any = None,
        solver: str = "auto",
        batch_size: int | str | None = "auto",
        batch_memory: int | str | None = "auto",
        jacobian_max_rows: int | str | None = "auto",
        growing: bool | str = "auto",
        max_iter: int = 1000,
        max_time: float | None = None,
        target_loss: float | None = None,
        tol: float | str = "auto",
        n_iter_no_change: int | str = "auto",
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        standardize: bool | str = "auto",
        init: str = "auto",
        n_init: int | str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        verbose: int = 0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.architecture = architecture
        self.loss = loss
        self.alpha = alpha
        self.relevance = relevance
        self.optimizer = optimizer
        self.damping = damping
        self.damping_strategy = damping_strategy
        self.damping_scaling = damping_scaling
        self.acceleration = acceleration
        self.line_search = line_search
        self.acceptance = acceptance
        self.n_dampings = n_dampings
        self.param_selection = param_selection
        self.solver = solver
        self.batch_size = batch_size
        self.batch_memory = batch_memory
        self.jacobian_max_rows = jacobian_max_rows
        self.growing = growing
        self.max_iter = max_iter
        self.max_time = max_time
        self.target_loss = target_loss
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.standardize = standardize
        self.init = init
        self.n_init = n_init
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.verbose = verbose

    @classmethod
    @cache  # scikit-learn looks at the signature for every clone
    def _get_param_names(cls) -> list[str]:
        return super()._get_param_names()

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of the architecture by names like ``architecture__kernel_size``.

        Raises
        ------
        ValueError
            For names that are no parameters, and for those of an architecture that is None.
        """
        nested = [name for name in params if name.startswith("architecture__")]
        if nested and params.get("architecture", self.architecture) is None:
            raise ValueError(
                f"{nested[0]} cannot be set while architecture is None: give one first, such as "
                f"{type(self).__name__}(architecture=CNN()) or architecture=MLP(). Without one, hidden_layer_sizes and "
                "activation are parameters of the estimator itself."
            )
        return super().set_params(**params)

    def _validate_params(self) -> None:
        """As in scikit-learn, with a hint for classes and functions in place of objects."""
        for name in ("architecture", "loss"):
            value, must = getattr(self, name), f"The {name!r} parameter of {type(self).__name__} must be an object"
            if isinstance(value, type):
                raise InvalidParameterError(f"{must}, not a class; pass {value.__name__}(...).")
            if isinstance(value, FunctionType):
                raise InvalidParameterError(
                    f"{must}, not a function. Write a class (of torch.nn.Module for a formula, of sklm.losses.Loss for "
                    'a loss) and pass an object of it; see the user guide, "Your own formula" and "Losses".'
                )
        super()._validate_params()

    # -- hyperparameters to objects ---------------------------------------------------------------------------

    def _make_architecture(self, auto: MLP | Polynomial | None = None) -> Architecture:
        """The architecture; where sizes or the activation are 'auto', these are those of another, if it is given."""
        auto, given = auto or MLP((AUTO_UNITS,)), self.hidden_layer_sizes
        automatic = isinstance(given, str)
        if self.architecture is None:
            if isinstance(auto, Polynomial):
                if automatic:
                    return auto
                auto = MLP(())
            given = tuple(given.tolist()) if isinstance(given, np.ndarray) and given.ndim else given
            activation = auto.activation if self.activation == "auto" else self.activation
            return MLP(auto.hidden_layer_sizes if automatic else given, activation)
        changed = [] if automatic else ["hidden_layer_sizes"]
        changed += [] if self.activation in ("auto", "tanh") else ["activation"]
        if changed:
            raise ValueError(
                f"{' and '.join(changed)} would be ignored because architecture is given; set them on the architecture "
                "or leave architecture=None."
            )
        if isinstance(self.architecture, torch.nn.Module):
            return ModuleArchitecture(self.architecture)
        return self.architecture

    @staticmethod
    def _auto_of(architecture: Architecture) -> MLP | Polynomial | None:
        """What 'auto' meant in a fitted architecture, if it is one that has it."""
        return architecture if isinstance(architecture, MLP | Polynomial) else None

    def _own_architecture(
        self, n_units: float, shape: tuple[int, int, int], previous: Any = None, searches: bool = True
    ) -> Architecture:
        """A copy of the architecture that later changes of the parameter do not reach.

        ``n_units`` are rows as weights count them, ``shape`` is (samples, inputs, outputs). What is 'auto' stays what
        it was in a ``previous`` fit. ``searches`` is false where rows are not left out whatever the options.
        """
        if previous is None:
            affords = self._affords() if searches else None
            return self._own_copy(MLP(self._auto_sizes(n_units, shape, affords)))
        return self._own_copy(self._auto_of(previous._single_networks[0]))

    def _auto_sizes(self, n_units: float, shape: tuple[int, int, int], affords: Affords | None) -> tuple[int, ...]:
        """Sizes of the hidden layers that 'auto' means: with the root of the rows, in tens.

        With few rows a parameter, no more units than let rows be left out in a search.
        """
        _, n_inputs, n_outputs = shape
        if n_inputs == 1:
            return (AUTO_UNITS,)
        wanted = units_by_rows(n_units)
        many = n_units * n_outputs >= self._searching_rows * n_parameters_of(wanted, shape)
        if affords is None or many:
            return (wanted,)
        usual = most_units(range(wanted, AUTO_UNITS - 1, -10), n_units, shape, affords)
        return usual or self._fewer_units(n_units, shape, affords) or (wanted,)

    def _fewer_units(self, n_units: float, shape: tuple[int, int, int], affords: Affords) -> tuple[int, ...] | None:
        """Sizes of hidden layers that are fewer than usual, for so many columns that a search needs that."""
        return most_units(FEWER_UNITS, n_units, shape, affords)

    def _own_copy(self, auto: MLP | Polynomial | None) -> Architecture:
        """A copy of the architecture, with sizes and activation of another where these are 'auto'."""
        with torch.inference_mode(False):
            return copy.deepcopy(self._make_architecture(auto))

    #: rows a parameter below which units are fewer, if a search is affordable then
    _searching_rows = SEARCHING_ROWS

    @abstractmethod
    def _is_affordable(self, n_rows: float, n_parameters: int) -> bool:
        """Whether what the defaults search for is affordable with so many rows and parameters."""

    def _affords(self) -> Affords | None:
        """What 'auto' sizes of hidden layers must afford, for rows and parameters; None where nothing is searched."""
        automatic = self.alpha == "auto" and self._is_lm and self.target_loss is None
        whole = self.early_stopping in ("auto", False) and self.batch_size in ("auto", None)
        return self._is_affordable if automatic and whole else None

    @property
    def _is_lm(self) -> bool:
        return isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS

    def _make_optimizer(self) -> Optimizer | None:
        """A copy of the optimizer, checked; None for Levenberg-Marquardt."""
        if self._is_lm:
            return None
        given = {name: getattr(self, name, values[0]) for name, values in LM_OPTIONS.items()}
        ignored = [
            name for name, value in given.items() if isinstance(value, np.ndarray) or value not in LM_OPTIONS[name]
        ]
        if ignored:
            raise ValueError(
                f"{' and '.join(ignored)} would be ignored with optimizer={self.optimizer!r}: for Levenberg-Marquardt "
                "only. Leave the default, or use optimizer='lm'."
            )
        return make_optimizer(copy.deepcopy(self.optimizer))

    @abstractmethod
    def _make_loss(self, network: Network, n_rows: int, meaning: dict[str, Any]) -> Loss:
        """The loss for a network, so many samples a step and what the targets mean."""

    def _make_device(self, work: float) -> torch.device:
        """Resolve ``device``; ``work`` is about the number of multiplications of one linearisation."""
        name = str(self.device)
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", name):
            raise ValueError(f"device must be 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'; got {self.device!r}.")
        if name == "auto":
            # a GPU pays only where a linearisation is long against launching its kernels
            name = "cuda" if torch.cuda.is_available() and work > 1e9 else "cpu"
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device={self.device!r} cannot be used here: {error}. Use 'cpu' or 'auto'.") from error
        if device.type == "mps" and self.dtype == "float64":
            raise ValueError("device='mps' has no float64; use dtype='float32' or device='cpu'.")
        return device

    def _stopping(self, architecture: Architecture, scaling: Any) -> Stopping:
        eps = torch.finfo(DTYPES[self.dtype]).eps
        return Stopping(
            max_iter=self.max_iter,
            max_time=float("inf") if self.max_time is None else float(self.max_time),
            tol=self._auto_tol(architecture) if self.tol == "auto" else float(self.tol),
            together=True,
            race=RACE if self.n_init == "auto" else (),
            spared=AUTO_STARTS,
            target_loss=-1.0 if self.target_loss is None else float(self.target_loss),
            gradient_tol=max(1e-10, eps),
            # identity scaling multiplies a standardised problem; the others a diagonal of any size
            min_damping=1e-14 if scaling == "identity" else 1e3 * torch.finfo(DTYPES[self.dtype]).tiny,
        )

    def _solver_name(self) -> str:
        return self._make_architecture().solver if self.solver == "auto" else self.solver

    def _auto_tol(self, architecture: Architecture) -> float:
        return architecture.tol

    def _rule(self, name: str, registry: Mapping[str, Callable[[], Any]]) -> Any:
        """The object that a parameter stands for: itself, or one of the registry by its name."""
        given = getattr(self, name)
        if isinstance(given, type):
            raise ValueError(
                f"The '{name}' parameter of {type(self).__name__} must be an object, not a class: write "
                f"{given.__name__}()."
            )
        return registry[given]() if isinstance(given, str) else given

    def _selection(self) -> ParameterSelection | None:
        """The rule that ``param_selection`` stands for; an array is a mask."""
        given = self._rule("param_selection", SELECTIONS)
        return given if given is None or isinstance(given, ParameterSelection) else Mask(np.array(given))

    def _options(self, architecture: Architecture, averages: bool) -> dict[str, Any]:
        """Keyword arguments of the engine; ``averages`` where mini-batches are averaged."""
        optimizer = self._make_optimizer()
        if optimizer is not None:
            return {"optimizer": optimizer, "stopping": self._stopping(architecture, "identity")}
        scaling = architecture.damping_scaling if self.damping_scaling == "auto" else self.damping_scaling
        acceleration = self.acceleration
        if isinstance(acceleration, str) and acceleration == "auto":
            acceleration = None if averages else "geodesic"
        return {
            "damping": float(self.damping),
            "strategy": self._rule("damping_strategy", STRATEGIES),
            "scaling": SCALINGS[scaling] if isinstance(scaling, str) else scaling,
            "acceleration": make_accelerations(acceleration),
            "line_search": self._rule("line_search", LINE_SEARCHES),
            "acceptance": self._rule("acceptance", ACCEPTANCES),
            "n_dampings": int(self.n_dampings),
            "param_selection": self._selection(),
            "solver": self._solver_name(),
            "stopping": self._stopping(architecture, scaling),
        }


def units_by_rows(n_rows: float, most: int = MOST_AUTO_UNITS) -> int:
    """Units of a hidden layer, which go with the root of the rows, in tens."""
    return min(max(10 * round(AUTO_UNITS / 10 * (n_rows / AUTO_UNITS_ROWS) ** 0.5), AUTO_UNITS), most)


def most_units(
    numbers: Iterable[int], n_rows: float, shape: tuple[int, int, int], affords: Affords
) -> tuple[int, ...] | None:
    """The first of the numbers of units that ``affords`` allows, asked for rows (times outputs) and parameters."""
    return next(((units,) for units in numbers if affords(n_rows * shape[2], n_parameters_of(units, shape))), None)


def n_parameters_of(units: int, shape: tuple[int, int, int]) -> int:
    """Parameters of a network with one hidden layer, for (samples, inputs, outputs)."""
    return MLP((units,)).build(*shape[1:]).n_parameters
