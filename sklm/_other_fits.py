"""Fits that may take the place of the usual one: another activation, no hidden layer, more units, two layers."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import comb
from typing import Any

import numpy as np
import torch

from ._base import AUTO_UNITS, FEWER_UNITS, most_units
from ._depth import Result, deepened, deeper_sizes, together
from ._discrepancy import down_to_noise
from ._linear_model import ROWS_OF_HIGH, is_all_there_is, linear_models, narrowed, simplest, waves_if_better
from ._prepared import Prepared
from ._rival import Linear, Rival, Rules
from ._streaming import Streaming
from ._training_set import TrainingSet
from ._verbose import say
from ._waves import as_parameters, losses_left_out
from .architectures import MLP, Architecture, Polynomial
from .optim import Progress, SearchInterrupted, Status, Stopping
from .optim._growing import shifted
from .optim._isolation import isolated

#: a linear model is tried where its matrix and the factor of that take no more multiplications
LINEAR_WORK = 1e9
#: ... and polynomials up to these degrees, of one column and of more, where they take no more than this
DEGREES_OF_CURVE, DEGREES, POLYNOMIAL_WORK = 5, 3, 1e8
#: levels of the columns of a designed experiment
MOST_LEVELS = 5
#: ... in this share of ``max_time``
LINEAR_TIME = 0.25
#: fewer units than this are not compared with many, for which rows are held out
LEAST_NARROW = 6

#: is shown the iterations of a fit
Listener = Callable[[Progress], bool | None]


class OtherFits(Streaming):
    """Prepares and runs what is compared with a fit of one hidden layer of tanh."""

    #: when another activation takes the place of the usual one
    _rival_rules: Rules

    @abstractmethod
    def _prepared(
        self,
        data: TrainingSet,
        meaning: dict,
        previous: Any,
        architecture: Architecture,
        seed: int,
        like: Prepared | None = None,
    ) -> Prepared:
        """A fit for an architecture; with columns weighed as in a fit ``like`` it."""

    def _compares_depths(self) -> bool:
        """Whether none and two hidden layers may be compared with one."""
        return False

    def _with_others(self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int) -> Prepared:
        """The fit with what it is to be compared with."""
        architecture = fit.core["architecture_"]
        fit = replace(fit, rival=self._rival(fit, data, meaning, seed), linear=self._linear(fit, data, meaning, seed))
        fit = replace(fit, broader=self._broader(fit, data, meaning, seed))
        if not (self._compares_depths() and self._scales(architecture)):
            return fit
        if fit.noise is not None:
            fit = replace(fit, wider=self._wider(fit, data, meaning, seed))
        if fit.validation is not None and not self._asks_to_hold_out:
            return replace(fit, narrower=self._narrower(fit, data, meaning, seed))
        if fit.folds is None or not fit.has_rows_of_its_own:
            return fit
        network = fit.problem.network
        rows = data.n_units * fit.problem.n_curvature
        sizes = deeper_sizes(rows, data.X.shape[1], network.n_outputs, network.n_parameters)
        if sizes is None:
            return fit

        def deeper(one: Prepared) -> Prepared:
            chosen = MLP(sizes, one.core["architecture_"].activation)
            return self._prepared(data, meaning, None, self._own_copy(chosen), seed, like=one)

        return replace(fit, deeper_sizes=sizes, deeper=deeper)

    def _rival(self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int) -> Rival | None:
        """The same fit with another activation, where that is open and rows left out may decide."""
        architecture = fit.core["architecture_"]
        is_open = self.activation == "auto" and self.architecture is None and architecture.restarts
        is_open &= data.X.shape[1] >= self._rival_rules.least_columns
        if not is_open or fit.folds is None or fit.folds.climbs:
            return None
        other = MLP(architecture.hidden_layer_sizes, self._rival_rules.activation)
        return Rival(lambda: self._prepared(data, meaning, None, other, seed), self._rival_rules)

    def _broader(
        self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int
    ) -> Callable[[Prepared], Prepared] | None:
        """The same fit with more units, where it has few only because a search takes long."""
        return None

    def _wider(self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int) -> Callable[[int], Prepared]:
        """The same fit with so many times the units of its one layer, and a penalty that is known."""
        (units,), activation = fit.core["architecture_"].hidden_layer_sizes, fit.core["architecture_"].activation

        def wider(times: int) -> Prepared:
            made = self._prepared(data, meaning, None, self._own_copy(MLP((times * units,), activation)), seed)
            return replace(made, folds=None, n_noiseless=0)

        return wider

    def _narrower(
        self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int
    ) -> Callable[[], Prepared | None] | None:
        """The same fit with so few units that rows can be left out in a search, if there is such a number."""
        affords = self._affords()
        if affords is None or self.max_time is not None or not isinstance(self.relevance, str):
            return None
        sizes = most_units((AUTO_UNITS, *FEWER_UNITS), data.n_units, data.shape, affords)
        if sizes is None or sizes[0] < LEAST_NARROW:
            return None

        def narrower() -> Prepared | None:
            made = self._prepared(data, meaning, None, self._own_copy(MLP(sizes)), seed)
            return made if made.folds is not None and made.has_rows_of_its_own else None

        return narrower

    def _linear(self, fit: Prepared, data: TrainingSet, meaning: dict, seed: int) -> Linear | None:
        """The same fit without a hidden layer, where rows left out may decide; not if the fit is to be gone on with."""
        architecture = fit.core["architecture_"]
        is_open = self._compares_depths() and self._scales(architecture) and isinstance(self.alpha, str)
        is_open &= self.relevance is None or isinstance(self.relevance, str)
        is_open &= self._is_lm and self._selection() is None and self.target_loss is None and not self.warm_start
        is_open &= not data.is_large and bool(np.ptp(data.y, axis=0).any()) and not self._asks_to_hold_out
        if not is_open or not (fit.batches is None or fit.validation is not None):
            return None

        def make(simple: Architecture) -> Prepared:
            model = self._prepared(data, meaning, None, simple, seed)
            model = replace(model, n_averaged=1, n_noiseless=0, folds=None)  # it has one minimum
            if fit.folds is None:
                return model
            return replace(model, folds=replace(fit.folds, start=model.theta[0], weighs=False, smaller=()))

        n_columns, n_outputs = data.X.shape[1], data.y.shape[1]
        degrees = DEGREES_OF_CURVE if n_columns == 1 else DEGREES
        makes: list[Callable[[], Prepared]] = []
        for degree in range(1, degrees + 1):
            n_parameters = comb(n_columns + degree, degree) * n_outputs
            if degree == 1 and _work(len(data.X), n_parameters) > LINEAR_WORK:
                break
            if degree > 1 and _work(len(data.X) * n_outputs, n_parameters) > POLYNOMIAL_WORK:
                break
            if degree > 2 and data.n_units * n_outputs < ROWS_OF_HIGH * n_parameters:
                break
            simple = MLP((), architecture.activation) if degree == 1 else Polynomial(degree)
            makes.append(partial(make, simple))
        by_rows = fit.has_rows_of_its_own or fit.validation is not None
        waves = self._waves(fit, data, make) if n_columns == 1 and self.activation == "auto" else []
        has_more_waves = bool(waves) and data.waves is not None and not data.waves.are_all
        makes[1:1] = waves
        return Linear(tuple(makes), by_rows, _has_few_levels(np.asarray(data.X)), has_more_waves) if makes else None

    def _waves(
        self, fit: Prepared, data: TrainingSet, make: Callable[[Architecture], Prepared]
    ) -> list[Callable[[], Prepared]]:
        """The same fit with sines that start from the waves of a curve, if it has some."""
        problem = fit.problem
        if fit.validation is not None or not problem.loss.is_squared or problem.y.ndim > 2 or data.waves is None:
            return []
        x, Y = (part.cpu().double().numpy() for part in (problem.rows.chunk(0, len(data.X))[0], problem.y.mT))
        waves, losses = data.waves.times(fit.core["x_inverse_scale_"][0]), None
        if not (fit.predicts_rows and fit.has_rows_of_its_own):
            if fit.folds is None:
                return []
            rows = fit.folds.rows
            losses = losses_left_out(x[rows], Y[rows], data.weights[rows], fit.folds.of_row, fit.folds.n_held_out)
            if losses is None:
                return []

        def made() -> Prepared:
            model = make(MLP((waves.n_units(Y.shape[1]),), "sin"))
            theta = as_parameters(waves, x, Y, data.weights)[None]
            return replace(model.of_starts(1), theta=theta, growth=None, noise=None, folds=None, searched_losses=losses)

        return [made]

    # -- runs -------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        """A line for those who asked for it."""
        if self.verbose:
            say(text)

    def _linear_result(self, fit: Prepared) -> tuple[Result | None, bool]:
        """The linear model of a fit, if it has one, and whether it is the fit: exact, or the user stopped it."""
        if fit.linear is None:
            return None, False
        self._say("Trying simple models ...")
        fit = fit.limited(max_time=LINEAR_TIME * fit.options["stopping"].max_time)

        def search(fits: list[Prepared]) -> list[Prepared]:
            try:
                return [self._searched(fits[0])[0]]
            except SearchInterrupted as end:
                return [fits[0].interrupted_at(end)]

        try:
            with isolated(fit.problem.y.device):
                (result,) = linear_models([fit], search, lambda fits: together(fits, self.jacobian_max_rows))
        except (MemoryError, torch.OutOfMemoryError) as error:
            warnings.warn(f"A linear model could not be tried: {error}", UserWarning, stacklevel=6)
            return None, False
        if result is None:
            return None, False
        try:
            is_final = Status.INTERRUPTED in result.solution.status or is_all_there_is(fit, result)
        except KeyboardInterrupt:
            result, is_final = result.ended(Status.INTERRUPTED), True
        if result.cut_short is Status.INTERRUPTED:
            result = result.ended(Status.INTERRUPTED)
        return result, is_final

    def _refined(
        self,
        asked: Prepared,
        plain: Result | None,
        result: Result,
        stopping: Stopping,
        listener: Listener | None,
        shown: list[Prepared],
    ) -> Result:
        """The result of a fit with one hidden layer, or what is better than it; ``shown`` ends with what is.

        ``stopping`` has the time that is left.
        """
        fit, began, done = result.fit, time.monotonic(), int(result.solution.n_iter.max())

        def solve(fits: list[Prepared]) -> list[Result]:
            nonlocal done
            shown.append(fits[0])
            one = Result(fits[0], *self._solve(fits[0], shifted(listener, done)))
            done += int(one.solution.n_iter.max())
            return [one]

        def search(fits: list[Prepared]) -> list[Prepared]:
            shown.append(self._with_alpha_for_depth(fits[0]))
            return shown[-1:]

        result = waves_if_better(asked, plain, result)
        if result.fit is not fit:
            self._say(f"{result.fit.core['architecture_']} is kept.")
            fit = result.fit
        (result,) = down_to_noise([result], stopping, lambda fits: together(fits, self.jacobian_max_rows), solve)
        if result.fit is not fit:
            number = result.fit.problem.network.n_parameters
            self._say(f"alpha = {result.fit.alpha:.3g}, with {number} parameters, by the noise between neighbours.")
        one, result = result, simplest(asked, plain, result)
        if result.fit is not one.fit:
            self._say(f"{result.fit.core['architecture_']} is kept.")
        if one.fit.narrower is not None:
            before, result = result, narrowed(one.fit.narrower, result, search, solve)
            if result.fit is not before.fit:
                self._say("Fewer units are kept.")
        elif result.fit is one.fit and result.fit.deeper is not None:
            tried = len(shown)
            (result,) = deepened([result], stopping.left(began), search, solve)
            if len(shown) > tried:
                deep = result.fit is shown[-1]
                self._say("Two hidden layers are kept." if deep else "One hidden layer is kept.")
        shown.append(result.fit)
        return result

    def _with_alpha_for_depth(self, fit: Prepared) -> Prepared:
        """A fit of other hidden layers with the penalty that a search finds, and the time that is left.

        None is left where that ended the search.
        """
        self._say(f"Trying hidden layers of {fit.core['architecture_'].hidden_layer_sizes} units ...")
        fit, was_late = self._searched(fit)
        if not was_late:
            return fit
        return fit.limited(max_time=0.0)


def _has_few_levels(X: np.ndarray) -> bool:
    """Whether X (N, F) is like a designed experiment."""
    return X.shape[1] > 1 and all(len(np.unique(column)) <= MOST_LEVELS for column in X.T)


def _work(n_rows: int, n_parameters: int) -> float:
    """Multiplications of a matrix and its factor."""
    return n_rows * n_parameters**2 + n_parameters**3
