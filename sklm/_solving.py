"""From hyperparameters and data to a run of the engine."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ._alpha_search import choose_alphas
from ._arrays import Scaling
from ._base import AUTO_STARTS, DTYPES, LONG_STARTS
from ._mini_batches import MiniBatching
from ._penalty import (
    ENOUGH_ROWS,
    LEAST_COLUMNS,
    SEARCH_WORK,
    Folds,
    can_search,
    linearisation,
    make_folds,
    searched_rows,
)
from ._prepared import Prepared
from ._training_set import TrainingSet
from ._verbose import IterationLines, ProgressLine, SearchLine, say
from .architectures import Architecture, Network
from .losses import Loss
from .optim import (
    Growth,
    Mask,
    MiniBatches,
    Problem,
    Progress,
    SearchInterrupted,
    Solution,
    Status,
    Stopping,
    StreamedRows,
    TensorRows,
    make_problem,
)
from .optim._data import samples_last
from .optim._memory import available_bytes, human
from .optim._minimize import resolve_solver

#: ``n_init='auto'``: several starts where one linearisation of one of them takes at most so many multiplications
AUTO_WORK = 5e7
#: where the search for a penalty finds no noise, up to the second number of starts, and up to the first one over the
#: root of those multiplications: the fewer they are, the less a batch costs; further starts race, see ``RACE``
NOISELESS_WORK, NOISELESS_STARTS = 2.2e4, 32
#: of fits of classes for which fewer folds are left out than these, a start takes much of the time of the search
FOLDS_OF_QUICK_FITS = 3
#: ``tol='auto'`` of squared errors: where a linearisation takes W multiplications, and these are more than the first, a
#: fit ends at (W / the second)^2 of the loss of zero outputs, but at no more than the third
LONG_WORK, NEGLIGIBLE_WORK, MOST_NEGLIGIBLE = 1e8, 3e13, 1e-5


#: vectors of parameters that a fit has at its peak (measured: 25 to 32, in double precision); for so many parameters
#: and more somebody looks whether there is room for these
VECTORS, MANY_PARAMETERS = 32, 1_000_000
#: ends by themselves at which a ``target_loss`` may not have been reached
FELL_SHORT = (Status.GRADIENT, Status.STEP, Status.DECREASE, Status.DAMPING, Status.VALIDATION)


class Solving(MiniBatching):
    """Builds problems, runs the engine on all starts and reports how it went."""

    #: whether ``n_init='auto'`` may mean several starts, of which the best is kept
    _auto_restarts = True
    #: ... and several, the mean of which may be kept: up to so many multiplications of a linearisation
    _averaged_work = 1e8

    def _problem(
        self,
        network: Network,
        loss: Loss,
        data: TrainingSet,
        x: Scaling,
        y: Scaling,
        n_models: int,
        device: torch.device,
        alpha: float,
    ) -> Problem:
        dtype, first = DTYPES[self.dtype], network.samples_first
        rows: Any
        if data.is_large:
            rows = StreamedRows(data.X, x.mean, x.inverse, device, dtype, first)
        else:
            rows = TensorRows(data.standardised(x, dtype, first).to(device), first)
        return make_problem(
            network,
            loss,
            rows,
            samples_last(y.apply(data.y), device, dtype).mT,
            n_models=n_models,
            weights=torch.tensor(data.weights, dtype=torch.float64, device="cpu"),
            alpha=alpha,
            output_scale=torch.tensor(y.scale, dtype=torch.float64, device="cpu"),
            jacobian_max_rows=self.jacobian_max_rows,
        )

    def _built(self, architecture: Architecture, data: TrainingSet) -> Network:
        """The network for these columns and targets, if there is room for the vectors of parameters that a fit needs.

        Raises
        ------
        MemoryError
            If there is not.
        """
        free = _free(torch.device("cpu"))
        try:
            network = architecture.build(data.X.shape[1], data.y.shape[1])
            need = VECTORS * 8 * network.n_parameters
            if network.n_parameters < MANY_PARAMETERS or need <= free:
                return network
            size = f"about {human(need)} for its {network.n_parameters} parameters and steps"
        except MemoryError:
            size = "more than that for its parameters"
        raise MemoryError(
            f"{human(free)} are free in memory, and {architecture} needs {size}. Use fewer or smaller layers."
        )

    def _suited(self, problem: Problem, options: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Options with the solver that 'auto' means for this problem and memory, and the acceleration that suits it."""
        if "solver" not in options:
            return options
        solver, network, n_samples = options["solver"], problem.network, problem.n_samples
        batches = self._batches(network, n_samples, 0)
        averages = batches is not None and batches.memory is not None
        rows = self._batch_rows(network, n_samples)
        if averages and solver == "auto" and not self._averages_matrix(network, n_samples, rows):
            solver = "dual"
        free = _free(device)
        if self.solver == "auto" and not averages and self._need(problem, "cg") <= free < self._need(problem, solver):
            solver = "cg"
        # another solution costs as much as the first one there, and forward passes are not kept
        plain = solver == "cg" and self.acceleration == "auto"
        return {**options, "solver": solver, "acceleration": [] if plain else options["acceleration"]}

    def _negligible(self, architecture: Architecture, problem: Problem) -> float:
        """Share of the loss of zero outputs that is not worth long iterations; 0 where every digit is wanted."""
        work = linearisation(problem.n_samples * problem.n_curvature, problem.network.n_parameters)
        asked = self.tol != "auto" or self.target_loss is not None
        suits = self._is_lm and architecture.restarts and problem.loss.is_squared
        return min((work / NEGLIGIBLE_WORK) ** 2, MOST_NEGLIGIBLE) if suits and work > LONG_WORK and not asked else 0.0

    def _need(self, problem: Problem, solver: Any) -> int:
        """Bytes that a solver takes for one model, for all dampings that are tried at once."""
        network, selection = problem.network, self._selection()
        n_rows = self._batch_rows(network, problem.n_samples) * problem.n_curvature
        if isinstance(solver, str):
            batches = self._batches(network, problem.n_samples, 0)
            solver = resolve_solver(solver, problem, batches, selection)
        n_active = None if selection is None else selection.check(network)
        return solver.working_bytes(int(self.n_dampings), network, n_rows, DTYPES[self.dtype].itemsize, n_active)

    def _check_memory(self, problem: Problem, solver: Any, device: torch.device) -> int:
        """Return how many models fit at once; raise MemoryError if not one does. Without a solver, any number."""
        if solver is None:
            return sys.maxsize
        need, free = self._need(problem, solver), _free(device)
        if need > free:
            network = problem.network
            n_rows = self._batch_rows(network, problem.n_samples) * problem.n_curvature
            few_rows = self._need(problem, resolve_solver("auto", problem, None, self._selection()))
            help_ = (
                "solver='auto', which solves in the space of the rows"
                if few_rows <= free
                else "solver='cg', which stores no matrix, or batch_memory=None and a batch_size below the number of "
                "parameters"
            )
            raise MemoryError(
                f"A network of {network.n_parameters} parameters on {n_rows} rows needs about {human(need)} for its "
                f"Gauss-Newton system, and {human(free)} are free on {device}. Use {help_}, fewer or smaller hidden "
                "layers, or dtype='float32' (half)."
            )
        return max(1, int(free // max(need, 1)))

    def _growth(self, network: Network, n_samples: int, seed: int) -> Growth | None:
        if not self._grows(network, n_samples):
            return None
        return Growth(seed, finalists=1 if self.n_init == "auto" else None)

    #: whether ``alpha='auto'`` may mean a search
    _searches_alpha = True

    @property
    def _alpha_is_open(self) -> bool:
        return self.alpha == "cv" or (self._searches_alpha and self.alpha == "auto")

    def _folds(
        self,
        architecture: Architecture,
        network: Network,
        loss: Loss,
        data: TrainingSet,
        batches: MiniBatches | None,
        start: np.ndarray,
        seed: int,
        meaning: dict[str, Any],
    ) -> Folds | None:
        """Folds to search for alpha with; None where that is not wanted, or targets are constant.

        Raises
        ------
        ValueError
            If it is wanted and cannot be done.
        """
        asked = self.alpha == "cv"
        obstacles = {
            "early_stopping=True, which has validation rows of its own": self._asks_to_hold_out,
            f"optimizer={self.optimizer!r}: it is for Levenberg-Marquardt only": not self._is_lm,
            "mini-batches, which batch_size='auto' means for long iterations (batch_size=None takes all rows)": batches
            is not None,
            "an X that is read in pieces": data.is_large,
            "a module that has no parameter but biases": not network.coefficient_mask.any(),
        }
        hindered = [reason for reason, present in obstacles.items() if present]
        if hindered and asked:
            raise ValueError(f"alpha='cv' cannot be used with {hindered[0]}. Give alpha as a number.")
        n_columns, n_parameters = loss.curvature_columns(network.n_outputs), network.n_parameters
        rows = data.n_units * n_columns
        suits = self._may_memorise(architecture, network, rows) and can_search(rows, n_parameters)
        if hindered or not (asked or suits) or not np.ptp(data.y, axis=0).any():
            return None
        folds = self._divided(data, n_columns, start, seed)
        if folds is None and asked:
            raise ValueError("alpha='cv' needs at least two different rows of X. Give alpha as a number.")
        return folds and self._with_candidates(folds, data, meaning)

    def _divided(self, data: TrainingSet, n_columns: int, start: np.ndarray, seed: int) -> Folds | None:
        """Folds of the rows that a search takes, for ``n_columns`` curvature columns; None if all rows are equal."""
        most = int(np.ceil(searched_rows(len(start)) / n_columns))
        return make_folds(np.asarray(data.X), start, most, n_columns, seed, data.strata)

    def _weighs(self, architecture: Architecture, network: Network, n_inputs: int) -> bool:
        """Whether columns may be weighed, where a penalty is searched for."""
        layers = architecture.restarts and network.input_weights is not None and self._scales(architecture)
        return isinstance(self.relevance, str) and layers and n_inputs >= LEAST_COLUMNS

    def _scales(self, architecture: Architecture) -> bool:
        """Whether inputs, and targets where the loss allows it, are standardised."""
        return bool(architecture.standardize if self.standardize == "auto" else self.standardize)

    def _may_memorise(self, architecture: Architecture, network: Network, rows: float) -> bool:
        """Whether noise is worth a guard against it: rows (times outputs) are few, and the loss has no target."""
        few = rows < ENOUGH_ROWS * network.n_parameters
        return architecture.restarts and self.target_loss is None and few

    @property
    def _asks_to_hold_out(self) -> bool:
        return not isinstance(self.early_stopping, str) and bool(self.early_stopping)

    def _holds_out(self, architecture: Architecture, network: Network, data: TrainingSet) -> bool:
        """Whether 'auto' means to hold rows out: where a search for a penalty takes too long, and none is given."""
        if not isinstance(self.early_stopping, str):
            return False
        rows, n_parameters = data.n_units * network.n_outputs, network.n_parameters
        long = linearisation(rows, n_parameters) > SEARCH_WORK
        if not (long and self.alpha == "auto" and self._is_lm and self._may_memorise(architecture, network, rows)):
            return False
        batches = self._batches(network, len(data.X), 0)
        searched = batches is None and can_search(rows, n_parameters)
        if searched or data.is_large or not np.ptp(data.y, axis=0).any():
            return False
        return data.obstacle_to_hold_out(self.validation_fraction, whole=True) is None

    def _with_candidates(self, folds: Folds, data: TrainingSet, meaning: dict[str, Any]) -> Folds:
        """The folds with the penalties to try, where these are not the usual ones."""
        return folds

    def _with_alpha(self, fit: Prepared, folds: Folds) -> Prepared:
        """The fit with the penalty that a search finds, and the time that is left.

        If the user stops the search, what is returned starts from the best model of the search, and ends there.
        """
        if self.verbose:
            say(f"Searching for alpha on {len(folds.rows)} of {fit.problem.n_samples} rows ...")
        try:
            fit, was_late = self._searched(fit)
        except SearchInterrupted as search:
            return fit.interrupted_at(search)
        if was_late:
            warnings.warn(
                f"max_time={self.max_time:g} ended the search for alpha before it was done; alpha_={fit.alpha:.3g} is "
                "the best so far. Give alpha as a number, or more time.",
                ConvergenceWarning,
                stacklevel=6,
            )
        return fit

    def _searched(self, fit: Prepared) -> tuple[Prepared, bool]:
        """The same, and whether a limit of time ended the search."""
        began, stopping = time.monotonic(), fit.options["stopping"]
        line, at_once = SearchLine() if self.verbose == 1 else None, self._models_at_once(fit)
        if at_once < fit.n_averaged:
            fit = replace(fit, n_averaged=1)
        try:
            (fit,) = choose_alphas([replace(fit, watcher=line)], at_once, self.jacobian_max_rows)
        finally:
            if line is not None:
                line.close()
        seconds = time.monotonic() - began
        if self.verbose:
            weighed = "" if fit.core["relevance_"] is None else ", columns are weighed"
            say(f"alpha = {fit.alpha:.3g} after {seconds:.1f} s{weighed}")
        fit = replace(fit, options={**fit.options, "stopping": stopping.left(began)}, watcher=None)
        return fit, seconds >= stopping.max_time / 2

    def _models_at_once(self, fit: Prepared) -> int:
        return self._check_memory(fit.problem, fit.options.get("solver"), fit.problem.y.device)

    def _solve(self, fit: Prepared, callback: Callable[[Progress], bool | None] | None) -> tuple[Solution, int]:
        """Run the engine on all starts, as many at once as fit in memory; return a solution and its best row."""
        stopping, device = fit.options["stopping"], fit.problem.y.device
        at_once = self._models_at_once(fit)
        solutions: list[tuple[Solution, int]] = []
        began, interrupted = time.monotonic(), False
        try:
            for first in range(0, len(fit.theta), at_once):
                starts = fit.theta[first : first + at_once]
                models = torch.arange(first, first + len(starts), device=device)
                validation, left = fit.validation and fit.validation.models(models), stopping.left(began)
                solution = fit.run(fit.problem.models(models), validation, starts, callback, stopping=left)
                solutions.append((solution, solution.best))
                interrupted = Status.INTERRUPTED in solution.status
                if interrupted or {Status.CALLBACK, Status.TIME}.intersection(solution.status):
                    break
                if stopping.target_loss >= 0 and Status.TARGET in solution.status:
                    break
        except KeyboardInterrupt:  # before the first iteration of these starts
            if not solutions and fit.searched is None:
                raise
            interrupted = True
        if not solutions and fit.searched is not None:
            return self._solve(fit.ended_at(fit.searched, fit.alpha), None)
        solution, row = min(solutions, key=lambda pair: pair[0].rank[pair[1]])
        return solution.interrupted() if interrupted else solution, row

    def _n_starts(self, architecture: Architecture, network: Network, loss: Loss, n_samples: int) -> int:
        """Number of starts: what was asked for, or a few where a start on the first rows is cheap."""
        if self.growing is True and self._batches(network, n_samples, 0) is not None:
            raise ValueError("growing=True and batch_size exclude each other; leave growing='auto' or batch_size=None.")
        if self.n_init != "auto":
            return int(self.n_init)
        # random parameters are no place to freeze some of them
        several = architecture.restarts and self._auto_restarts and not isinstance(self._selection(), Mask)
        return AUTO_STARTS if several and self._start_work(network, loss, n_samples) <= AUTO_WORK else 1

    def _n_noiseless_starts(self, network: Network, loss: Loss, n_samples: int, n_starts: int) -> int:
        """Number of starts where there turns out to be no noise, and there would be ``n_starts`` otherwise."""
        if self.n_init != "auto" or n_starts == 1 or not self._auto_restarts:
            return n_starts
        work = self._start_work(network, loss, n_samples)
        return int(np.clip(NOISELESS_WORK / np.sqrt(work), n_starts, NOISELESS_STARTS))

    def _n_averaged(self, folds: Folds | None, n_starts: int, rows: float, n_parameters: int) -> int:
        """Number of starts whose mean, a wider network, may be kept; ``rows`` counts columns of curvature."""
        mine = self.n_init != "auto" or not isinstance(self.hidden_layer_sizes, str) or self.architecture is not None
        if mine or folds is None or self._selection() is not None:
            return 1
        grows = rows >= Growth.rows_per_parameter * Growth.factor * n_parameters  # with one of the starts
        if grows or linearisation(rows, n_parameters) > self._averaged_work:
            return 1
        if n_starts > 1 or self.max_time is not None:
            return n_starts
        return AUTO_STARTS if self._auto_restarts or folds.n_held_out >= FOLDS_OF_QUICK_FITS else LONG_STARTS

    def _start_work(self, network: Network, loss: Loss, n_samples: int) -> float:
        """Multiplications of a linearisation of the first rows."""
        rows: float = n_samples * loss.curvature_columns(network.n_outputs)
        if self._grows(network, n_samples):
            rows = min(rows, Growth.rows_per_parameter * network.n_parameters)
        return rows * network.n_parameters**2

    def _grows(self, network: Network, n_samples: int) -> bool:
        if self._make_optimizer() is not None:
            return False
        return self.growing is True or (self.growing == "auto" and self._batches(network, n_samples, 0) is None)

    # -- while and after ----------------------------------------------------------------------------------------

    def _printers(self) -> list[Callable[[Progress], None]]:
        if not self.verbose:
            return []
        return [ProgressLine(self.max_iter, self.max_time or inf)] if self.verbose == 1 else [IterationLines()]

    def _warn(self, solution: Solution, row: int, stopping: Stopping, stacklevel: int) -> None:
        """Warn of what the user should know; ``stacklevel`` is that of a warning in the calling function."""
        stacklevel += 1
        if Status.INTERRUPTED in solution.status:
            early = " It comes from the search for alpha, before the fit itself." if solution.n_iter[row] == 0 else ""
            warnings.warn(
                f"Training interrupted by the user; the best model so far is kept.{early}",
                UserWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] in (Status.DERIVATIVE, Status.STALLED):
            warnings.warn(
                f"{type(self).__name__} stopped early: {solution.status[row].message} The best model so far is "
                "kept. Try other starting values or scales of the parameters.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] is Status.DIVERGED:
            warnings.warn(
                f"{type(self).__name__} stopped early: {solution.status[row].message} The best model so far is kept. "
                "Lower the learning rate of the optimizer.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif stopping.target_loss >= 0 and solution.status[row] in FELL_SHORT:
            warnings.warn(
                f"{type(self).__name__} did not reach target_loss={self.target_loss:g}: {solution.status[row].message} "
                f"The loss is {solution.loss[row]:.3g}. Try a larger n_init, more hidden units, or a lower tol.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] is Status.MAX_ITER:
            tol = stopping.tol
            warnings.warn(
                f"{type(self).__name__} reached max_iter={self.max_iter} before it converged, which is when the "
                f"objective falls by less than tol={tol:g}, relative, in {stopping.n_iter_no_change} accepted steps or "
                "epochs. The best model so far is kept. If it is good enough, raise tol; if the training loss "
                "should be lower, raise max_iter; for noisy data raise alpha above alpha_ or set early_stopping=True.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )


def _free(device: torch.device) -> float:
    """Bytes that a fit may take."""
    return 0.8 * available_bytes(device)


def refuse_nonfinite(solution: Solution, row: int) -> None:
    """Raise ValueError if the objective, or its derivative, was not finite at the start."""
    status = solution.status[row]
    if status is Status.NONFINITE:
        raise ValueError(
            "The objective is not finite at the starting values: the network's output is NaN or infinite on the "
            "training rows. Check the module's starting values, or choose other ones."
        )
    if status is Status.DERIVATIVE and not solution.moved[row]:
        raise ValueError(
            "The derivatives of the network are NaN or infinite on the training rows at the starting values, although "
            "its output is finite. Look for functions such as sqrt or a fractional power at zero."
        )
