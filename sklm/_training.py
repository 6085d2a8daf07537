"""The template of ``fit`` and ``partial_fit``: everything but what targets mean."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ._arrays import flatten_images, refuse_text_and_dates
from ._callbacks import FitCallbacks, input_attributes
from ._choosing import Setting
from ._depth import Result
from ._noise import Noise, noise_of_curve
from ._other_fits import OtherFits
from ._penalty import has_lags
from ._prepared import Prepared
from ._sklearn import _check_sample_weight, _fit_context
from ._streaming import started
from ._training_set import TrainingSet
from ._verbose import described
from .architectures import Architecture, ModuleArchitecture
from .optim import Problem, Status
from .optim._batches import EARLY_STEPS
from .optim._isolation import isolated

#: whether Ctrl-C ends more than one fit here: then it is not for a fit to keep its best model
_ends_more = ContextVar("whether an interrupt ends more than one fit", default=False)


@contextmanager
def interrupts_end_all() -> Iterator[None]:
    """Let Ctrl-C in a fit of this block raise KeyboardInterrupt; in the calling thread."""
    token = _ends_more.set(True)
    try:
        yield
    finally:
        _ends_more.reset(token)


def has_partial_fit(estimator: Any) -> bool:
    """Whether the estimator has ``partial_fit``; for ``available_if``.

    Raises
    ------
    AttributeError
        If it has not, saying why.
    """
    if not estimator._is_lm:
        raise AttributeError(f"partial_fit is for optimizer='lm' only; optimizer={estimator.optimizer!r}.")
    return True


class Training(OtherFits):
    """Fitting in the order: check, encode the targets, scale, build, solve, and only then set attributes."""

    @abstractmethod
    def _encode(
        self, y: np.ndarray, weights: np.ndarray, first: bool, classes: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Return targets (N, K) float64 and weights (N,) for the engine, and fitted attributes on what they mean.

        ``first`` is false for a later batch of ``partial_fit``, whose targets must mean the same as before.
        ``classes`` are the labels that are known beforehand, if any.
        """

    def _strata(self, y: np.ndarray, meaning: dict[str, Any]) -> np.ndarray | None:
        """What a hold-out keeps the shares of, (N,), from the encoded targets."""
        return None

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        shadow = self._shadow()
        data, meaning = shadow._validate(X, y, sample_weight, reset=True)
        previous = self if self.warm_start and hasattr(self, "theta_") else None
        with np.errstate(all="ignore"):
            fit = shadow._prepare(data, meaning, previous)
            fitted = shadow._train(fit, self, (X, y, sample_weight))
        self._adopt(shadow, fitted)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: np.ndarray | None = None) -> Self:
        first = not hasattr(self, "theta_")
        if self._asks_to_hold_out:
            raise ValueError("partial_fit does not support early_stopping=True: it sees one batch at a time.")
        if self.alpha == "cv":
            raise ValueError("partial_fit does not support alpha='cv': it sees one batch at a time. Give a number.")
        made = self._make_architecture() if first else self._make_architecture(self._auto_of(self.architecture_))
        if not first and not isinstance(made, ModuleArchitecture) and made != self.architecture_:
            raise ValueError(
                f"The architecture was {self.architecture_} when the model was started and is {made} now; partial_fit "
                "cannot go on. Call fit, or set it back."
            )
        shadow = self._shadow()
        data, meaning = shadow._validate(X, y, sample_weight, reset=first, classes=classes)
        with np.errstate(all="ignore"):
            fitted = shadow._step(data, meaning, None if first else self)
        self._adopt(shadow, fitted)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _ready(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[Self, Prepared]:
        """Prepare a first fit for the engine without doing it; the stand-in finishes it."""
        shadow = self._shadow()
        data, meaning = shadow._validate(X, y, sample_weight, reset=True)
        with np.errstate(all="ignore"):
            return shadow, shadow._prepare(data, meaning, None)

    def _shadow(self) -> Self:
        """A stand-in that takes the attributes of a fit until it has succeeded."""
        shadow = object.__new__(type(self))
        shadow.__dict__.update(self.__dict__)
        return shadow

    def _adopt(self, shadow: Self, fitted: dict[str, Any]) -> None:
        if "feature_names_in_" not in shadow.__dict__:
            self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(input_attributes(shadow), **fitted)

    def _validate(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, classes: np.ndarray | None = None
    ) -> tuple[TrainingSet, dict[str, Any]]:
        """Return clean data and what the targets mean."""
        refuse_text_and_dates(X, "X")
        if sample_weight is not None:
            refuse_text_and_dates(sample_weight, "sample_weight")
        self._refuse_targets(y)
        X = flatten_images(X, self._make_architecture())
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=self._numeric_targets,
            order=None,
        )
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not np.any(weights > 0):
            raise ValueError("sample_weight is zero for every row: there is nothing to fit.")
        targets, weights, meaning = self._encode(y, weights, reset, classes)
        if not np.any(weights > 0):
            raise ValueError("class_weight times sample_weight is zero for every row: there is nothing to fit.")
        return TrainingSet(X, targets, weights, self._strata(targets, meaning)).without_zero_weights(), meaning

    def _check_same_targets(self, previous: Any, meaning: dict[str, Any]) -> None:
        """Raise ValueError if the targets mean something else than in the fit that a warm start goes on from."""

    def _refuse_targets(self, y: Any) -> None:
        """Raise TypeError for targets that would be misread."""

    def _prepare(self, data: TrainingSet, meaning: dict, previous: Training | None) -> Prepared:
        """Build what the engine needs, with the random numbers of this fit."""
        architecture = self._own_architecture(data.n_units, data.shape, previous)
        if previous is not None:
            self._check_same_targets(previous, meaning)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        fit = self._prepared(data, meaning, previous, architecture, seed)
        return self._with_others(fit, data, meaning, seed) if previous is None else fit

    def _prepared(
        self,
        data: TrainingSet,
        meaning: dict,
        previous: Training | None,
        architecture: Architecture,
        seed: int,
        like: Prepared | None = None,
    ) -> Prepared:
        """The same for an architecture; with columns weighed as in a fit ``like`` it."""
        network = self._built(architecture, data)
        self._check_penalty(network)
        held_out = None
        was_found = previous is not None and previous.alpha_scores_ is not None
        automatic = not was_found and self._holds_out(architecture, network, data)
        if automatic or self._asks_to_hold_out:
            data, held_out = data.hold_out(self.validation_fraction, seed, whole=automatic)
        loss = self._make_loss(network, self._rows_at_once(network, len(data.X)), meaning)
        loss = self._in_units(loss, data, architecture)
        batches = self._batches(network, len(data.X), seed)
        options = self._options(architecture, batches is not None and batches.rate(10**9) < 1)
        patience = self._patience(batches, held_out is not None)
        options["stopping"] = replace(options["stopping"], n_iter_no_change=patience)
        x, y = self._scalings(data, architecture, loss, previous)
        if previous is not None:
            self._check_continues(previous, architecture, network, data.X.shape[1])
        alike, relevance = x, self._given_relevance(network, data.X.shape[1], previous)
        if like is not None:
            relevance = like.core["relevance_"]
        x = alike.times(relevance)

        def draw(relevance: np.ndarray | None, number: int) -> np.ndarray:
            scaling = alike.times(relevance)
            return self._starts(architecture, network, data, scaling, y, loss, seed, previous, number)

        def unfitted() -> np.ndarray:  # a fitted model has seen the rows that folds leave out
            return theta[0] if previous is None else self._random_starts(architecture, network, data, x, seed, 1)[0]

        number = self._n_starts(architecture, network, loss, len(data.X))
        n_members = 1 if previous is None else len(previous._going_on(network))
        rows = len(data.X) * loss.curvature_columns(network.n_outputs)
        # a few rows would only take a fitted model from where it is
        whole_rows = previous is not None and self.growing == "auto" and self._has_stages(rows, network.n_parameters)
        keeps = n_members > 1 or whole_rows
        number = n_members if keeps and self.n_init == "auto" else max(number, n_members)
        whole_rows &= number == n_members
        theta = draw(relevance, number)
        prior = self._penalty(data, meaning)
        alpha, scores, folds = prior, None, None
        if isinstance(self.alpha, str) and not automatic:
            setting = Setting(architecture, network, loss, data, batches, unfitted(), seed, meaning)
            folds = self._folds(setting)
        if previous is None:
            n_averaged = self._n_averaged(folds, number, rows, network.n_parameters)
        else:
            n_averaged = n_members if isinstance(self.hidden_layer_sizes, str) else 1
        stays = was_found and (folds is not None or (self._alpha_is_open and not automatic))
        if previous is not None and stays:
            alpha, scores, folds = previous.alpha_, previous.alpha_scores_, None
            share = prior / previous._prior if previous._prior else 1.0
            if share != 1:  # the penalty of classes goes with the number of rows
                alpha, scores = share * alpha, {share * tried: score for tried, score in scores.items()}
        work = len(theta) * rows * network.n_parameters**2
        device = self._make_device(work)
        with isolated(device):
            problem = self._problem(network, loss, data, x, y, len(theta), device, alpha)
            validation = None
            if held_out is not None:
                validation = self._problem(network, loss, held_out, x, y, len(theta), device, 0.0)
            options = self._suited(problem, options, device)
            if self._numeric_targets and loss.target_scaling == "standard" and self._scales(architecture):
                options["stopping"] = replace(options["stopping"], **self._little_left(architecture, problem))
        growth = None if whole_rows else self._growth(network, len(data.X), seed)
        core = self._core(architecture, loss, x, y, meaning)
        core["batch_size_"] = len(data.X) if batches is None else batches.largest
        core["relevance_"] = relevance
        core["_prior"] = prior
        # what was fitted to the end counts in full beside later batches of a stream
        core["_stream"] = started(EARLY_STEPS * data.n_units, float(data.weights.sum()), data.n_units)
        whole = like is None and relevance is None and not (folds is not None and folds.climbs)
        weighs = whole and self._weighs(architecture, network, data.X.shape[1])
        fit = Prepared(problem, validation, theta, options, seed, growth, batches, core, draw, alpha, None, scores)
        open_alpha = isinstance(self.alpha, str) and architecture.restarts and self._selection() is None
        if open_alpha and previous is None and held_out is None and batches is None:
            fit = replace(fit, noise=self._noise(data, problem))
        if folds is None:
            return replace(fit, n_averaged=n_averaged)
        most = self._n_noiseless_starts(network, loss, len(data.X), number)
        return replace(fit, folds=replace(folds, weighs=weighs), n_averaged=n_averaged, n_noiseless=most)

    def _noise(self, data: TrainingSet, problem: Problem) -> Noise | None:
        """What the neighbours of the points of a curve leave, as a loss; None where there are none, or none alike."""
        suits = self._numeric_targets and problem.loss.is_squared and self._is_lm and self.target_loss is None
        if data.X.shape[1] != 1 or data.is_large or not suits or np.ptp(data.weights) > 0:
            return None
        x, Y = np.asarray(data.X)[:, 0], problem.y.mT.cpu().double().numpy()
        if len(np.unique(x)) < len(x) or has_lags(x[:, None], data.y):
            return None
        noise, spread = noise_of_curve(x, Y), float(np.mean(Y**2, axis=0).sum())
        return None if noise is None or spread == 0 else noise.times(float(problem.null_loss()[0]) / spread)

    def _train(self, fit: Prepared, owner: Training, given: tuple) -> dict[str, Any]:
        began = time.monotonic()
        self._say(f"Fitting {described(fit)} ...")
        asked, (plain, is_final) = fit, self._linear_result(fit)
        if plain is not None:
            fit = fit.with_options(stopping=fit.options["stopping"].left(began))
        if plain is not None and is_final:
            fit = plain.fit
        elif fit.folds is not None:
            fit = self._with_alpha(fit, fit.folds)
        shown = [fit]
        most = owner.max_iter * fit.most_runs
        callbacks = FitCallbacks(owner, self, given, self._printers(), lambda t: {**shown[-1].core, "theta_": t}, most)
        listener = callbacks.per_iteration
        try:
            with isolated(fit.problem.y.device):
                began = time.monotonic()
                if plain is not None and is_final and Status.INTERRUPTED in plain.solution.status:
                    result = plain
                else:
                    result = Result(fit, *self._solve(fit, listener))
                if not is_final:
                    stopping = fit.options["stopping"].left(began)
                    result = self._refined(asked, plain, result, stopping, listener, shown)
                fit, solution, row = result.fit, result.solution, result.row
        finally:
            callbacks.close()
        if Status.INTERRUPTED in solution.status and _ends_more.get():
            raise KeyboardInterrupt
        try:
            fitted = self._finish(fit, solution, row, stacklevel=5)
        except KeyboardInterrupt:  # in the leave-one-out loss, which an interrupted fit has not
            fitted = self._finish(fit, solution.interrupted(), row, stacklevel=5)
        try:
            callbacks.finish(fitted)
        except KeyboardInterrupt:
            if _ends_more.get():
                raise
            fitted = self._finish(fit, solution.interrupted(), row, stacklevel=5)
        self._say(fitted["message_"])
        return fitted

    # -- pieces of fit ------------------------------------------------------------------------------------------

    def _penalty(self, data: TrainingSet, meaning: dict[str, Any]) -> float:
        """Number for ``alpha``, 0 for one that is to be searched for."""
        return 0.0 if isinstance(self.alpha, str) else float(self.alpha)
