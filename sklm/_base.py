"""What the estimators share: parameters, their constraints, and the template of ``fit``."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning

from ._arrays import RowView, Scaling
from ._sklearn import Interval, Options, StrOptions
from ._verbose import IterationLines, ProgressLine
from .architectures import ACTIVATIONS, MLP, STARTS, Architecture, Inputs, ModuleArchitecture, Network
from .losses import LOSSES, Loss
from .optim import (
    ACCELERATIONS,
    SCALINGS,
    SOLVERS,
    STRATEGIES,
    DampingStrategy,
    Growth,
    MiniBatches,
    Problem,
    Progress,
    Solution,
    Status,
    Stopping,
    StreamedRows,
    TensorRows,
    fit_growing,
    levenberg_marquardt,
    make_problem,
)
from .optim._data import samples_last
from .optim._memory import available_bytes, human
from .optim._minimize import resolve_solver

#: ``n_init='auto'``: this many starts where one linearisation of one of them takes at most so many multiplications
AUTO_STARTS, AUTO_WORK = 4, 5e7

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass
class TrainingSet:
    """Validated training data.

    X : (N, F) float ndarray, raw; y : (N, K) float64 ndarray, raw; weights : (N,) float64, positive.
    """

    X: np.ndarray | RowView
    y: np.ndarray
    weights: np.ndarray

    def take(self, index: np.ndarray) -> TrainingSet:
        """Rows ``index``; large X are not copied."""
        X = RowView(self.X, index) if self.is_large else self.X[index]
        return TrainingSet(X, self.y[index], self.weights[index])

    @property
    def is_large(self) -> bool:
        """Whether X is read in pieces instead of being copied."""
        return self.X.nbytes > available_bytes(torch.device("cpu")) // 4


def _standardised(X: np.ndarray | RowView, x: Scaling, dtype: torch.dtype, block: int = 65536) -> torch.Tensor:
    """Standardised inputs (F, N), written block by block so that only one copy of X exists."""
    result = np.empty((X.shape[1], len(X)), dtype=np.float32 if dtype == torch.float32 else np.float64)
    for start in range(0, len(X), block):
        result[:, start : start + block] = x.apply(np.asarray(X[start : start + block], dtype=np.float64)).T
    return torch.from_numpy(result)


class BaseLM(CallbackSupportMixin, BaseEstimator):
    """Hyperparameters and engine set-up of the Levenberg-Marquardt estimators."""

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "architecture": [Architecture, torch.nn.Module, None],
        "loss": [StrOptions(set(LOSSES)), Loss],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "damping": [Interval(Real, 0, None, closed="neither")],
        "damping_strategy": [StrOptions(set(STRATEGIES)), DampingStrategy],
        "damping_scaling": [StrOptions({"auto", *SCALINGS}), callable],
        "acceleration": [StrOptions(set(ACCELERATIONS)), None],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "jacobian_max_rows": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
        "growing": [StrOptions({"auto"}), "boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "target_loss": [Interval(Real, 0, None, closed="left"), None],
        "tol": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
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
        hidden_layer_sizes: Any = (20,),
        activation: str = "tanh",
        *,
        architecture: Any = None,
        loss: Any = "squared_error",
        alpha: float = 0.0,
        damping: float = 1e-2,
        damping_strategy: Any = "gain_ratio",
        damping_scaling: Any = "auto",
        acceleration: str | None = "geodesic",
        solver: str = "auto",
        batch_size: int | None = None,
        jacobian_max_rows: int | str | None = "auto",
        growing: bool | str = "auto",
        max_iter: int = 1000,
        max_time: float | None = None,
        target_loss: float | None = None,
        tol: float | str = "auto",
        n_iter_no_change: int = 20,
        early_stopping: bool = False,
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
        self.damping = damping
        self.damping_strategy = damping_strategy
        self.damping_scaling = damping_scaling
        self.acceleration = acceleration
        self.solver = solver
        self.batch_size = batch_size
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

    # -- hyperparameters to objects ---------------------------------------------------------------------------

    def _make_architecture(self) -> Architecture:
        if self.architecture is None:
            return MLP(self.hidden_layer_sizes, self.activation)
        changed = [
            name
            for name, default in (("hidden_layer_sizes", (20,)), ("activation", "tanh"))
            if not np.array_equal(np.asarray(getattr(self, name)), np.asarray(default))
        ]
        if changed:
            raise ValueError(
                f"{' and '.join(changed)} would be ignored because architecture is given; set them on the architecture "
                "or leave architecture=None."
            )
        if isinstance(self.architecture, torch.nn.Module):
            return ModuleArchitecture(self.architecture)
        return self.architecture

    def _own_architecture(self) -> Architecture:
        """A copy of the architecture that later changes of the parameter do not reach."""
        with torch.inference_mode(False):
            return copy.deepcopy(self._make_architecture())

    def _make_loss(self) -> Loss:
        return LOSSES[self.loss]() if isinstance(self.loss, str) else self.loss

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
            tol=architecture.tol if self.tol == "auto" else float(self.tol),
            together=True,
            n_iter_no_change=int(min(self.n_iter_no_change, 2**31)),
            target_loss=-1.0 if self.target_loss is None else float(self.target_loss),
            gradient_tol=max(1e-10, eps),
            # identity scaling multiplies a standardised problem; the others a diagonal of any size
            min_damping=1e-14 if scaling == "identity" else 1e3 * torch.finfo(DTYPES[self.dtype]).tiny,
        )

    def _options(self, architecture: Architecture) -> dict[str, Any]:
        """Keyword arguments of the engine."""
        scaling = architecture.damping_scaling if self.damping_scaling == "auto" else self.damping_scaling
        if isinstance(self.damping_strategy, type):
            raise ValueError(
                f"The 'damping_strategy' parameter of {type(self).__name__} must be an object, not a class: write "
                f"{self.damping_strategy.__name__}()."
            )
        strategy = (
            STRATEGIES[self.damping_strategy]() if isinstance(self.damping_strategy, str) else self.damping_strategy
        )
        return {
            "damping": float(self.damping),
            "strategy": strategy,
            "scaling": SCALINGS[scaling] if isinstance(scaling, str) else scaling,
            "acceleration": None if self.acceleration is None else ACCELERATIONS[self.acceleration](),
            "solver": architecture.solver if self.solver == "auto" else self.solver,
            "stopping": self._stopping(architecture, scaling),
        }

    # -- data to problems -------------------------------------------------------------------------------------

    def _problem(
        self,
        network: Network,
        data: TrainingSet,
        x: Scaling,
        y: Scaling,
        n_models: int,
        device: torch.device,
        alpha: float,
    ) -> Problem:
        dtype = DTYPES[self.dtype]
        rows: Any
        if data.is_large:
            rows = StreamedRows(data.X, x.mean, x.inverse, device, dtype)
        else:
            rows = TensorRows(_standardised(data.X, x, dtype).to(device))
        return make_problem(
            network,
            self._make_loss(),
            rows,
            samples_last(y.apply(data.y), device, dtype).mT,
            n_models=n_models,
            weights=torch.tensor(data.weights / data.weights.max(), device=device, dtype=dtype),
            alpha=alpha,
            output_scale=torch.tensor(y.scale, device=device, dtype=dtype),
            jacobian_max_rows=self.jacobian_max_rows,
        )

    def _check_memory(self, problem: Problem, solver: Any, device: torch.device) -> int:
        """Return how many models fit at once; raise MemoryError if not one does."""
        network, dtype = problem.network, DTYPES[self.dtype]
        n_rows = problem.n_samples * problem.n_curvature
        if self.batch_size is not None:
            n_rows = min(n_rows, self.batch_size * problem.n_curvature)
        need = resolve_solver(solver, problem, self._batches(problem.n_samples, 0)).working_bytes(
            1, network.n_parameters, n_rows, dtype.itemsize
        )
        free = 0.8 * available_bytes(device)
        if need > free:
            few_rows = resolve_solver("auto", problem).working_bytes(1, network.n_parameters, n_rows, dtype.itemsize)
            help_ = (
                "solver='auto', which solves in the space of the rows"
                if few_rows <= free
                else "a batch_size below the number of parameters, which is solved in the space of the rows"
            )
            raise MemoryError(
                f"A network of {network.n_parameters} parameters on {n_rows} rows needs about {human(need)} for its "
                f"Gauss-Newton system, and {human(free)} are free on {device}. Use {help_}, fewer or smaller hidden "
                "layers, or dtype='float32' (half)."
            )
        return max(1, int(free // max(need, 1)))

    def _batches(self, n_samples: int, seed: int) -> MiniBatches | None:
        if self.batch_size is None or self.batch_size >= n_samples:
            return None
        return MiniBatches(n_samples, self.batch_size, seed)

    def _solve(
        self,
        problem: Problem,
        theta: np.ndarray,
        options: dict[str, Any],
        validation: Problem | None,
        seed: int,
        callback: Callable[[Progress], bool | None] | None,
        device: torch.device,
    ) -> tuple[Solution, int]:
        """Run the engine on all starts, as many at once as fit in memory; return a solution and its best row."""
        at_once = self._check_memory(problem, options["solver"], device)
        growth = Growth(seed, finalists=1 if self.n_init == "auto" else None)
        solutions: list[tuple[Solution, int]] = []
        began, max_time = time.monotonic(), options["stopping"].max_time
        for first in range(0, len(theta), at_once):
            left = max(max_time - (time.monotonic() - began), 0.0)
            options = {**options, "stopping": replace(options["stopping"], max_time=left)}
            starts = torch.from_numpy(theta[first : first + at_once]).to(device, DTYPES[self.dtype])
            part = problem.models(torch.arange(first, first + len(starts), device=device))
            valid = validation and validation.models(torch.arange(first, first + len(starts), device=device))
            if self._grows(problem.n_samples):
                solution = fit_growing(part, starts, growth, validation=valid, callback=callback, **options)
            else:
                solution = levenberg_marquardt(
                    part,
                    starts,
                    validation=valid,
                    batches=self._batches(problem.n_samples, seed),
                    callback=callback,
                    **options,
                )
            solutions.append((solution, solution.best))
            if {Status.INTERRUPTED, Status.CALLBACK, Status.TIME}.intersection(solution.status):
                break
            if options["stopping"].target_loss >= 0 and Status.TARGET in solution.status:
                break
        return min(solutions, key=lambda pair: pair[0].rank[pair[1]])

    def _n_starts(self, architecture: Architecture, network: Network, data: TrainingSet) -> int:
        """Number of starts: what was asked for, or a few where a start on the first rows is cheap."""
        if self.growing is True and self._batches(len(data.X), 0) is not None:
            raise ValueError("growing=True and batch_size exclude each other; leave growing='auto' or batch_size=None.")
        if self.n_init != "auto":
            return int(self.n_init)
        rows = min(data.y.size, 8 * network.n_parameters) if self._grows(len(data.X)) else data.y.size
        return AUTO_STARTS if architecture.restarts and rows * network.n_parameters**2 <= AUTO_WORK else 1

    def _grows(self, n_samples: int) -> bool:
        return self.growing is True or (self.growing == "auto" and self._batches(n_samples, 0) is None)

    def _inputs(self, data: TrainingSet, x: Scaling) -> Inputs:
        low, high = x.apply(x.low[None])[0], x.apply(x.high[None])[0]
        cumulative = np.cumsum(data.weights) / np.sum(data.weights)

        def rows(quantile: np.ndarray) -> np.ndarray:
            index = np.minimum(np.searchsorted(cumulative, quantile, side="right"), len(cumulative) - 1)
            return x.apply(np.asarray(data.X[index], dtype=np.float64))

        return Inputs(low, high, len(data.X), rows)

    # -- while and after ----------------------------------------------------------------------------------------

    def _printers(self) -> list[Callable[[Progress], None]]:
        if not self.verbose:
            return []
        return [ProgressLine(self.max_iter)] if self.verbose == 1 else [IterationLines()]

    def _warn(self, solution: Solution, row: int, options: dict[str, Any]) -> None:
        if Status.INTERRUPTED in solution.status:
            warnings.warn("Training interrupted by the user; the best model so far is kept.", UserWarning, stacklevel=5)
        elif solution.status[row] in (Status.DERIVATIVE, Status.STALLED):
            warnings.warn(
                f"{type(self).__name__} stopped early: {solution.status[row].message} The best model so far is "
                "kept. Try other starting values or scales of the parameters.",
                ConvergenceWarning,
                stacklevel=5,
            )
        elif solution.status[row] is Status.MAX_ITER:
            tol = options["stopping"].tol
            warnings.warn(
                f"{type(self).__name__} reached max_iter={self.max_iter} before it converged (less than {tol:g} "
                f"relative progress in {self.n_iter_no_change} accepted steps). The best model so far is kept. If it "
                "is good enough, raise tol; if the training loss should be lower, raise max_iter; for noisy data set "
                "alpha (1e-4 to 1e-1) or early_stopping=True.",
                ConvergenceWarning,
                stacklevel=5,
            )
