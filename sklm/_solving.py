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
from ._base import DTYPES
from ._choosing import Choosing
from ._penalty import (
    Folds,
    linearisation,
)
from ._prepared import Prepared
from ._training_set import TrainingSet
from ._verbose import IterationLines, ProgressLine, SearchLine, say
from .architectures import Architecture, Network
from .losses import Loss
from .optim import (
    Problem,
    Progress,
    SearchInterrupted,
    Solution,
    Status,
    StreamedRows,
    TensorRows,
    make_problem,
)
from .optim._data import samples_last
from .optim._memory import VECTORS, available_bytes, human
from .optim._minimize import resolve_solver

#: ``tol='auto'`` of squared errors: where a linearisation takes W multiplications, and these are more than the first, a
#: fit ends at (W / the second)^2 of the loss of zero outputs, but at no more than the third
LONG_WORK, NEGLIGIBLE_WORK, MOST_NEGLIGIBLE = 1e8, 3e13, 1e-5
#: ... and any fit with at least so many curvature rows a parameter where the loss falls slowly below this share of that
#: of zero outputs, the square of the rounding error of single precision: of fewer rows, further digits say more about
#: what is between them
SLIGHT, SLIGHT_ROWS = 1e-14, 3.0
#: multiplications of a core in a second, and iterations of all starts that there is time for under a ``max_time``: with
#: more starts, some begin when others are done
WORK_PER_SECOND, STEPS_IN_TIME = 1e10, 20
#: for so many parameters and more somebody looks whether there is room for the vectors of a run
MANY_PARAMETERS = 1_000_000


class Solving(Choosing):
    """Builds problems, runs the engine on all starts and reports how it went."""

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
        is_tall = n_samples * network.n_outputs >= network.n_parameters
        if solver == "auto" and network.loses_digits and batches is None and problem.loss.is_squared and is_tall:
            solver = "qr"
        free = _free(device)
        if self.solver == "auto" and not averages and self._need(problem, "cg") <= free < self._need(problem, solver):
            solver = "cg"
        # another solution costs as much as the first one there, and forward passes are not kept
        plain = solver == "cg" and self.acceleration == "auto"
        return {**options, "solver": solver, "acceleration": [] if plain else options["acceleration"]}

    def _little_left(self, architecture: Architecture, problem: Problem) -> dict[str, float]:
        """Shares of the loss of zero outputs at which to stop: at once, and where it falls slowly; see ``Stopping``."""
        asked = self.tol != "auto" or self.target_loss is not None
        if asked or not (self._is_lm and architecture.restarts and problem.loss.is_squared):
            return {}
        n_rows, n_parameters = problem.n_samples * problem.n_curvature, problem.network.n_parameters
        work = linearisation(n_rows, n_parameters)
        level = min((work / NEGLIGIBLE_WORK) ** 2, MOST_NEGLIGIBLE) if work > LONG_WORK else 0.0
        return {"negligible": level, "slight": SLIGHT if n_rows >= SLIGHT_ROWS * n_parameters else 0.0}

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
        usual, n_parameters = fit.core["architecture_"], fit.problem.network.n_parameters
        if at_once < fit.n_averaged:
            fit = replace(fit, n_averaged=1)
        try:
            (fit,) = choose_alphas([replace(fit, watcher=line)], at_once, self.jacobian_max_rows)
        finally:
            if line is not None:
                line.close()
        seconds = time.monotonic() - began
        if self.verbose:
            found = "" if fit.core["relevance_"] is None else ", columns are weighed"
            chosen = fit.core["architecture_"]
            if chosen != usual and chosen.activation != usual.activation:
                found += f", units are {chosen.activation}"
            if fit.problem.network.n_parameters != n_parameters:
                found += f", {chosen.hidden_layer_sizes[0]} units"
            say(f"alpha = {fit.alpha:.3g} after {seconds:.1f} s{found}")
        fit = replace(fit.with_options(stopping=stopping.left(began)), watcher=None)
        return fit, seconds >= stopping.max_time / 2

    def _models_at_once(self, fit: Prepared) -> int:
        return self._check_memory(fit.problem, fit.options.get("solver"), fit.problem.y.device)

    def _models_in_time(self, fit: Prepared) -> int:
        """How many starts are tried at once, so that an iteration of all takes a small part of ``max_time``."""
        problem, stopping = fit.problem, fit.options["stopping"]
        n_rows = problem.n_samples if fit.batches is None else fit.batches.largest
        n_rows = min([n_rows, *fit.stages[:1]])
        work = linearisation(n_rows * problem.n_curvature, problem.network.n_parameters)
        return int(np.clip(stopping.max_time * WORK_PER_SECOND / STEPS_IN_TIME / work, 1, sys.maxsize))

    def _solve(self, fit: Prepared, callback: Callable[[Progress], bool | None] | None) -> tuple[Solution, int]:
        """Run the engine on all starts, as many at once as fit in memory; return a solution and its best row."""
        stopping, device = fit.options["stopping"], fit.problem.y.device
        at_once = min(self._models_at_once(fit), self._models_in_time(fit))
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

    # -- while and after ----------------------------------------------------------------------------------------

    def _printers(self) -> list[Callable[[Progress], None]]:
        if not self.verbose:
            return []
        return [ProgressLine(self.max_iter, self.max_time or inf)] if self.verbose == 1 else [IterationLines()]


def _free(device: torch.device) -> float:
    """Bytes that a fit may take."""
    return 0.8 * available_bytes(device)
