"""A fit that is ready for the engine, and what it must share with others to be run together with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._noise import Noise
from ._penalty import Folds
from ._rival import Linear, Rival
from ._rows_left_out import RowsLeftOut
from .optim import (
    Growth,
    MiniBatches,
    Problem,
    Progress,
    SearchInterrupted,
    Solution,
    Status,
    TensorRows,
    fit_growing,
    gradient_descent,
    leave_one_out,
    levenberg_marquardt,
    stack_problems,
)
from .optim._race import places
from .optim._status import FINAL

#: starts of a fit are compared by the objective where not even the leave-one-out loss of the best of them is above this
#: share of that of zero outputs: there is no noise to memorise
NEGLIGIBLE = 1e-7
#: error bars of predictions take a matrix of so many rows at most, and of so many where a fit needs none
MOST_PARAMETERS, MOST_PARAMETERS_OF_FEW_ROWS = 1000, 500
#: a loss on rows left out is as much as noise leaves between these multiples of that
MOSTLY_NOISE = (0.7, 1.5)
#: penalties up to this one are as good as none
NO_PENALTY = 1e-7
#: a curve is fitted down to its noise with so many penalties at most
ATTEMPTS = 3
#: with a penalty, the search alone rules a fit out beside another one where its loss is above this share
HOPELESS = 0.8


class CannotBatchError(Exception):
    """The fit has to run on its own; the message says why."""


@dataclass
class Prepared(RowsLeftOut):
    """All that the engine needs for one fit, and what its result is finished with.

    Attributes
    ----------
    problem, validation : Problem
        Of as many models as there are starts; ``validation`` may be None.
    theta : (S, P) float64 ndarray
        The starts.
    options : dict
        Keyword arguments of the engine.
    seed : int
        Of mini-batches, growing and drawn curvature.
    growth : Growth or None
    batches : MiniBatches or None
        Never iterated itself, only copies of it.
    core : dict
        The fitted attributes that are known before the fit.
    draw : callable
        ``draw(relevance, number)`` returns the first starts (number, P) for columns with these factors (F,), or None.
    alpha : float
        The penalty, if it need not be searched for or was found.
    folds : Folds or None
        To find it with; see ``choose_alphas``.
    alpha_scores : dict or None
        What was found.
    searched_losses : (H,) float64 ndarray or None
        Losses on the rows that each of H folds leaves out, with what was found.
    rival_losses : (H,) float64 ndarray or None
        The same of a fit that was found to be noisy: well behind that, there is no need to find out if there is noise.
    n_averaged : int
        Number of starts whose mean may take the place of the best one; those beyond ``theta`` count if there is noise.
    n_noiseless : int
        Number of starts where the search sees no noise; those beyond ``theta`` count if there is none.
    searched : (P,) float64 ndarray or None
        The best model of the search: what is left if the user stops before the first iteration.
    deeper_sizes : tuple of int or None
        Hidden layers to compare with, if there are any; see ``deepened``.
    deeper : callable or None
        ``deeper(fit)`` returns the same fit with these, and the columns as they are in ``fit``.
    rival : Rival or None
        The same fit with another activation, which takes its place where rows left out say so.
    linear : Linear or None
        The same fit without a hidden layer, which takes its place where rows left out do not speak for one.
    noise : Noise or None
        What the neighbours of the points of a curve leave, as a loss.
    wider : callable or None
        ``wider(times)`` returns the same fit of a curve with so many times the units, without folds.
    broader : callable or None
        ``broader(fit)`` returns the same fit with more units, for columns weighed as in ``fit``, where a search with
        as many would take too long.
    narrower : callable or None
        ``narrower()`` returns the same fit with so few units that a search is affordable, where rows are held out
        because it is not; or None, where these would not tell.
    interrupted : bool
        The user stopped before the first iteration: no step is taken from ``theta``.
    watcher : callable or None
        Is shown the iterations of the search.
    """

    problem: Problem
    validation: Problem | None
    theta: np.ndarray
    options: dict[str, Any]
    seed: int
    growth: Growth | None
    batches: MiniBatches | None
    core: dict[str, Any]
    draw: Callable[[np.ndarray | None, int], np.ndarray]
    alpha: float = 0.0
    folds: Folds | None = None
    alpha_scores: dict[float, float] | None = None
    searched_losses: np.ndarray | None = None
    rival_losses: np.ndarray | None = None
    n_averaged: int = 1
    n_noiseless: int = 0
    searched: np.ndarray | None = None
    deeper_sizes: tuple[int, int] | None = None
    deeper: Callable[[Prepared], Prepared] | None = None
    rival: Rival | None = None
    linear: Linear | None = None
    noise: Noise | None = None
    wider: Callable[[int], Prepared] | None = None
    broader: Callable[[Prepared], Prepared] | None = None
    narrower: Callable[[], Prepared | None] | None = None
    interrupted: bool = False
    watcher: Callable[[Progress], None] | None = None

    def run(
        self,
        problem: Problem,
        validation: Problem | None,
        theta: np.ndarray,
        callback: Callable[[Progress], bool | None] | None = None,
        **options: Any,
    ) -> Solution:
        """Run the engine with the options of this fit, or others, on starts theta (B, P) of ``problem``."""
        options = {**self.options, "validation": validation, "callback": callback, **options}
        starts = torch.from_numpy(theta).to(problem.y.device, problem.y.dtype)
        if self.growth is not None:
            solution = fit_growing(problem, starts, self.growth, seed=self.seed, **options)
        elif "optimizer" in options:
            solution = gradient_descent(problem, starts, batches=copy.deepcopy(self.batches), **options)
        else:
            batches = copy.deepcopy(self.batches)
            solution = levenberg_marquardt(problem, starts, batches=batches, seed=self.seed, **options)
        if self.interrupted:
            return solution.interrupted()
        several = len(solution.group) > len(np.unique(solution.group))
        interrupted = Status.INTERRUPTED in solution.status  # whoever did that is waiting
        if interrupted or not (several and self.predicts_rows and len(solution.theta) == len(theta)):
            return solution
        try:
            values = leave_one_out(problem, solution.theta).cpu().numpy()
        except KeyboardInterrupt:
            return solution.interrupted()
        lead = solution.leaders()  # by the objective
        exact = values[lead] <= NEGLIGIBLE * problem.null_loss().cpu().numpy()[lead]
        noiseless = np.isin(solution.group, solution.group[lead[exact]])
        values[noiseless] = np.nan
        if options["stopping"].race:  # of many minima, one may well memorise noise where no row is left out
            group = torch.from_numpy(solution.group)
            place = places(torch.arange(len(group), device=group.device), group).numpy()
            values[~noiseless & (place >= options["stopping"].spared)] = np.inf
        reached = np.array([status is Status.TARGET for status in solution.status])
        values[np.isin(solution.group, solution.group[reached])] = np.nan  # the others were stopped for it
        return replace(solution, leave_one_out=values)

    def with_options(self, **options: Any) -> Prepared:
        """The fit with some options of the engine replaced."""
        return replace(self, options={**self.options, **options})

    def limited(self, **limits: float) -> Prepared:
        """The fit with other limits of ``Stopping``."""
        return self.with_options(stopping=replace(self.options["stopping"], **limits))

    def interrupted_at(self, search: SearchInterrupted) -> Prepared:
        """The fit that ends where the search for its penalty was stopped."""
        assert self.folds is not None
        share = len(self.folds.rows) / self.problem.n_samples
        fit = self if search.scales is None else self.weighed(search.scales[0])
        return fit.ended_at(search.theta[0].cpu().double().numpy(), share * float(search.alpha[0]))

    def ended_at(self, theta: np.ndarray, alpha: float) -> Prepared:
        """The fit that the user has stopped at a model theta (P,) of the search."""
        stopping = replace(self.options["stopping"], max_iter=0)
        options = {**self.options, "stopping": stopping}
        stopped = replace(self, theta=theta[None], options=options, growth=None, folds=None, interrupted=True)
        return replace(stopped, **stopped.penalised(alpha))

    def penalised(self, alpha: float) -> dict[str, Any]:
        """The fields that say that the penalty is ``alpha``."""
        alphas = torch.full_like(self.problem.alpha, alpha)
        return {"problem": replace(self.problem, alpha=alphas, penalised=alpha > 0), "alpha": alpha}

    def weighed(self, scales: Tensor) -> Prepared:
        """The fit of columns that were alike with scales (F,), and starts for these; the same if all are 1."""
        if bool((scales == 1).all()):
            return self
        assert isinstance(self.problem.rows, TensorRows)
        factors = scales.cpu().double().numpy()
        core = {**self.core, "relevance_": factors, "x_inverse_scale_": self.core["x_inverse_scale_"] * factors}
        problem = replace(self.problem, rows=TensorRows(self.problem.rows.X * scales[:, None]))
        return replace(self, problem=problem, core=core, theta=self.draw(factors, len(self.theta)))

    def is_noise(self, loss: float) -> bool:
        """Whether a loss on rows left out is known to be that of noise: no other model has much less."""
        if self.noise is None or not self.noise.is_certain:
            return False
        return MOSTLY_NOISE[0] * self.noise.mean <= loss <= MOSTLY_NOISE[1] * self.noise.mean

    def joined(self) -> dict[str, Any]:
        """The fields that say that all starts of a fit without noise take part."""
        return self._started(self.n_noiseless) if self.predicts_rows else {}

    def of_starts(self, number: int) -> Prepared:
        """The fit with the first so many starts."""
        return replace(self, problem=self.problem.repeated(number), theta=self.theta[:number])

    def averaging(self) -> Prepared:
        """The fit with the starts whose mean may be kept, if it is noisy."""
        return replace(self, **self._started(self.n_averaged)) if self.alpha > NO_PENALTY else self

    def _started(self, number: int) -> dict[str, Any]:
        """The fields of a fit with so many starts, if it has fewer."""
        if number <= len(self.theta):
            return {}
        theta = self.draw(self.core["relevance_"], number)
        return {"problem": self.problem.repeated(len(theta)), "theta": theta}

    @property
    def most_starts(self) -> int:
        """How many models the fit may come to have."""
        return max(len(self.theta), self.n_noiseless, self.n_averaged)

    @property
    def most_runs(self) -> int:
        """How many times ``max_iter`` iterations there may be, one run after the other."""
        if self.noise is not None:  # a curve may be fitted again
            return 2 + ATTEMPTS
        if self.deeper is not None or self.narrower is not None:  # another network
            return 2
        return len(self.theta) if self.stages and self.options["stopping"].target_loss >= 0 else 1

    @property
    def stages(self) -> list[int]:
        """Rows of the stages that the fit grows by, before all; empty where it takes all from the start."""
        return [] if self.growth is None else self.growth.sizes(self.problem)

    def obstacle_to_error_bars(self, solution: Solution, row: int) -> str | None:
        """Why nothing is known of how far a fit may be off; None if something is."""
        problem, network = self.problem, self.problem.network
        selection = self.options.get("param_selection")
        few = problem.n_samples * network.n_outputs <= network.n_parameters
        undetermined = few and self.alpha == 0
        most = MOST_PARAMETERS_OF_FEW_ROWS if few else MOST_PARAMETERS
        obstacles = {
            f"the loss is {problem.loss}, and they are for the squared error": not problem.loss.is_squared,
            "the optimizer is not Levenberg-Marquardt": "optimizer" in self.options,
            "it was fitted in mini-batches; batch_size=None takes all rows": self.batches is not None,
            "rows were held out; early_stopping=False takes all rows": self.validation is not None,
            "param_selection holds parameters fixed": selection is not None and not selection.varies,
            f"it ended short of a minimum: {solution.status[row].message}": not is_minimum(solution, row),
            f"the fit has {network.n_parameters} parameters, more than {most}; use fewer units": (
                network.n_parameters > most
            ),
            "all targets are the same": undetermined and not problem.null_loss().any(),
            "it has no penalty and no more rows (times outputs) than parameters": undetermined,
            "it is of single precision; use dtype='float64'": problem.y.dtype != torch.float64,
        }
        return next((reason for reason, present in obstacles.items() if present), None)

    def key(self, origin: Any) -> tuple:
        """What fits must have in common to be run together.

        ``origin`` stands for the values and the code of a ``torch.nn.Module``, which cannot be compared.

        Raises
        ------
        CannotBatchError
            If an option is an object that cannot be compared with those of other fits, or rows are not in memory.
        """
        problem, network = self.problem, self.problem.network
        if not isinstance(problem.rows, TensorRows):
            raise CannotBatchError("X is read in pieces")
        if self.options["stopping"].max_time < float("inf"):
            raise CannotBatchError("max_time would be shared")
        if self.narrower is not None:
            raise CannotBatchError("two networks are fitted one after the other")
        if self.options["stopping"].target_loss >= 0 and self.stages:
            raise CannotBatchError("a growing fit with target_loss tries its starts one by one")
        rows = None if self.batches is None else (self.batches.n_batches, self.batches.memory)
        selection = self.options.get("param_selection")
        draws = self.batches is not None or bool(self.stages)
        draws = draws or problem.loss.n_draws > 0 or (selection is not None and selection.varies)
        options = {name: value for name, value in self.options.items() if name not in ("damping", "stopping")}
        return (
            comparable(self.core["architecture_"], origin),
            comparable(problem.loss, origin),
            comparable(options, origin),
            self.options["stopping"],
            (problem.n_samples, network.n_parameters, network.n_outputs, tuple(problem.rows.X.shape)),
            (rows, self.growth and replace(self.growth, seed=0), problem.y.dtype, problem.y.device),
            None if self.validation is None else self.validation.n_samples,
            None if self.folds is None else (self.folds.n_held_out, len(self.folds.rows), len(self.folds.alphas)),
            self.folds is not None and self.folds.alphas[-1] == 0 and self.has_rows_of_its_own,
            None if self.folds is None else (self.folds.weighs, self.folds.factors),
            (self.deeper_sizes, self.rival is not None, self.linear is not None, self.broader is not None),
            self.seed if draws else None,
        )


def is_minimum(solution: Solution, row: int) -> bool:
    """Whether a start went on until it was in a minimum, or nearly."""
    short = (*FINAL, Status.TARGET, Status.DERIVATIVE, Status.STALLED)
    return solution.status[row] not in short and Status.INTERRUPTED not in solution.status


def ratio_of_losses(ours: np.ndarray | None, theirs: np.ndarray | None) -> float:
    """The mean loss on rows that folds leave out over that of another fit; NaN where one is not known."""
    if ours is None or theirs is None:
        return np.nan
    same = min(len(ours), len(theirs))  # long fits leave out fewer folds
    with np.errstate(all="ignore"):
        return float(ours[:same].mean() / theirs[:same].mean())


def is_hopeless(alpha: float, losses: np.ndarray | None, rival_losses: np.ndarray | None) -> bool:
    """Whether the search for a penalty rules a fit out: it is noisy, and its losses (H,) are near those of another."""
    return alpha > NO_PENALTY and ratio_of_losses(losses, rival_losses) > HOPELESS


def run_together(fits: list[Prepared], jacobian_max_rows: int | str | None) -> Solution:
    """Run fits of equal keys as one batch; the result's ``leaders()`` are their best starts, in their order."""
    first, counts = fits[0], [len(fit.theta) for fit in fits]
    problem = stack_problems([fit.problem for fit in fits], jacobian_max_rows)
    validation = None
    if first.validation is not None:
        validation = stack_problems([fit.validation for fit in fits if fit.validation is not None], jacobian_max_rows)
    options: dict[str, Any] = {"callback": first.watcher}
    if "damping" in first.options:
        each = zip(fits, counts, strict=True)
        damping = np.concatenate([np.broadcast_to(fit.options["damping"], count) for fit, count in each])
        options["damping"] = torch.tensor(damping, dtype=problem.y.dtype, device=problem.y.device)
    theta = np.concatenate([fit.theta for fit in fits])
    return first.run(problem, validation, theta, groups=np.repeat(np.arange(len(fits)), counts), **options)


def comparable(value: Any, origin: Any) -> Any:
    """Return something hashable that is equal for equal options.

    Raises
    ------
    CannotBatchError
        For objects whose values cannot be seen.
    """
    if value is None or isinstance(value, str | bool | int | float | type | FunctionType | BuiltinFunctionType):
        return (type(value).__name__, value)
    if isinstance(value, np.generic):
        return comparable(value.item(), origin)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return (value.shape, value.dtype.str, value.tobytes())
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(comparable(item, origin) for item in value))
    if isinstance(value, dict):
        return tuple((name, comparable(value[name], origin)) for name in sorted(value))
    if isinstance(value, torch.nn.Module) and origin is not None:
        return ("module", origin)
    # an ordinary object is its class and its attributes; others may hide something
    kind = type(value)
    plain = kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    if plain and hasattr(value, "__dict__"):
        return (kind, comparable(vars(value), origin))
    raise CannotBatchError(f"{kind.__name__} objects cannot be compared")
