"""Grid and randomised search whose fits run through the engine together."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs, parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed

from ._batching import Fit, Outcome, alone, fit_together, parts_for_processes, travels
from ._docs import document_search
from ._sklearn import _check_method_params, _safe_split
from ._training import Training, interrupts_end_all
from ._verbose import FitsLine
from .architectures import Architecture


class _BatchedSearch:
    """Mixin before a search of scikit-learn: fits first, in batches, then lets the search fit and score as it does.

    scikit-learn calls ``fit`` of a clone for every candidate and split. Where that fit has been done already, the call
    takes over its result. Scores, times, failures, callbacks and results are thus scikit-learn's own.
    """

    estimator: Any
    _evaluation: _Evaluation

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Run fit with all sets of parameters, see scikit-learn's search of the same name.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        **params : dict
            For ``fit`` of the estimator, the scorers and the splitter, such as ``sample_weight`` and ``groups``.

        Returns
        -------
        self : object
        """
        self._evaluation = _Evaluation(self)
        # to score is too little work to send it to processes
        hint = {"prefer": "threads"} if isinstance(_last(self.estimator), Training) else {}
        try:
            with parallel_config(**hint), interrupts_end_all():
                return super().fit(X, y, **params)  # type: ignore[misc]
        finally:
            del self._evaluation

    # -- what the search's own fit calls, in this order ----------------------------------------------------------

    def _get_routed_params_for_fit(self, params: dict) -> Any:
        routed = super()._get_routed_params_for_fit(params)  # type: ignore[misc]
        self._evaluation.fit_params = routed.estimator.fit
        return routed

    def _check_input_parameters(self, X: Any, y: Any, split_params: dict) -> None:
        super()._check_input_parameters(X, y, split_params)  # type: ignore[misc]
        self._evaluation.data = X, y, split_params

    def _run_search(self, evaluate_candidates: Callable, *, callback_ctx: Any = None) -> None:
        evaluate = partial(self._evaluation.evaluate, evaluate_candidates)
        super()._run_search(evaluate, callback_ctx=callback_ctx)  # type: ignore[misc]

    def _format_results(self, candidate_params: list, n_splits: int, out: list, more_results: Any = None) -> dict:
        done = self._evaluation.done
        out = [
            result if fit is None else {**result, "fit_time": fit.outcome.seconds}
            for result, fit in zip(out, done, strict=True)
        ]
        batched = np.array([fit is not None and fit.outcome.batch > 0 for fit in done])
        more_results = {**(more_results or {}), "batched": batched.reshape(-1, n_splits).all(axis=1)}
        return super()._format_results(candidate_params, n_splits, out, more_results)  # type: ignore[misc]

    def __getstate__(self) -> dict:
        # the search is sent along with every task of a worker process: not the data of all
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_evaluation"}


@document_search
class LMGridSearchCV(_BatchedSearch, GridSearchCV):
    """``GridSearchCV`` that fits all candidates on all splits together.

    A drop-in replacement for scikit-learn's class of that name without LM, with the same parameters, methods and
    attributes. It is quicker where the fits are small, and fits the others in the ordinary way; see
    :func:`sklm.fit_many` for which of them can run together.

    Parameters
    ----------
    estimator : estimator
        ``LMRegressor``, ``LMClassifier`` or a ``Pipeline`` that ends in one; its other steps are fitted one by one.
        Other estimators work as in scikit-learn, one by one.
    param_grid : dict or list of dicts
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    sklearn.model_selection.GridSearchCV : The full description of parameters and attributes.
    sklm.fit_many : Many fits without a search.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklm import LMClassifier, LMGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {{"damping": [0.01, 1.0], "alpha": [1e-3, 1e-2]}}
    >>> search = LMGridSearchCV(LMClassifier(3, random_state=0), grid).fit(X, y)
    >>> bool(search.best_score_ > 0.9), search.cv_results_["batched"].tolist()
    (True, [True, True, True, True])
    """


@document_search
class LMRandomizedSearchCV(_BatchedSearch, RandomizedSearchCV):
    """``RandomizedSearchCV`` that fits all candidates on all splits together.

    A drop-in replacement for scikit-learn's class of that name without LM, with the same parameters, methods and
    attributes. It is quicker where the fits are small, and fits the others in the ordinary way; see
    :func:`sklm.fit_many` for which of them can run together.

    Parameters
    ----------
    estimator : estimator
        ``LMRegressor``, ``LMClassifier`` or a ``Pipeline`` that ends in one; its other steps are fitted one by one.
        Other estimators work as in scikit-learn, one by one.
    param_distributions : dict or list of dicts
    n_iter : int, default=10
        Number of candidates drawn.
    {parameters}
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.

    Attributes
    ----------
    {attributes}

    See Also
    --------
    sklearn.model_selection.RandomizedSearchCV : The full description of parameters and attributes.
    LMGridSearchCV : All candidates of a grid.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from sklm import LMClassifier, LMRandomizedSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> draws = {{"alpha": loguniform(1e-4, 1e-1)}}
    >>> search = LMRandomizedSearchCV(LMClassifier(3, random_state=0), draws, n_iter=4, random_state=0).fit(X, y)
    >>> bool(search.best_score_ > 0.9)
    True
    """


class _Evaluation:
    """The fits of a search, done in batches before it asks for them.

    Attributes
    ----------
    done : list of _Done or None
        One a candidate and split, in the search's order, of all calls so far; None where scikit-learn fits.
    """

    fit_params: dict
    data: tuple[Any, Any, dict]

    def __init__(self, search: Any):
        self.search = search
        self.done: list[_Done | None] = []

    def evaluate(
        self,
        evaluate_candidates: Callable,
        candidate_params: Any,
        cv: Any = None,
        more_results: Any = None,
        callback_ctx: Any = None,
    ) -> dict:
        """Stand in for the search's own function of that name; the splits are drawn once and passed on."""
        X, y, split_params = self.data
        candidates = list(candidate_params)
        splits = list((cv or self.search._checked_cv_orig).split(X, y, **split_params))
        contexts = _Contexts(callback_ctx, partial(self._fit, candidates, splits))
        return evaluate_candidates(candidates, cv=_Splits(splits), more_results=more_results, callback_ctx=contexts)

    def _fit(self, candidates: list[dict], splits: list) -> list[_Done | None]:
        """Fit what can be fitted together, and with several jobs the rest as well; None for what is left."""
        n_jobs = self.search.n_jobs
        recipe = _Recipe(self.search.estimator, *self.data[:2], self.fit_params)
        origins = [_origin(parameters, number) for number, parameters in enumerate(candidates)]
        tasks = [
            None if getattr(self.search, "_skl_callbacks", None) else _Task(parameters, train, origin)
            for train, _ in splits
            for parameters, origin in zip(candidates, origins, strict=True)
        ]
        line = FitsLine(len(tasks)) if self.search.verbose else None
        try:
            found = self._fit_in_processes(recipe, tasks, line) or recipe.fit_together(tasks, n_jobs, line)
        finally:
            if line is not None:
                line.close()
        alone = [number for number, fit in enumerate(found) if fit is not None and not fit.outcome.batch]
        several = effective_n_jobs(n_jobs) > 1
        rest = [number for number in alone if several and travels(found[number])]
        for number in alone:  # scikit-learn fits the others, and as well in one process
            found[number] = None
        run = Parallel(n_jobs=n_jobs, pre_dispatch=self.search.pre_dispatch, prefer="processes")
        singly = run(delayed(_fit_one)(recipe, tasks[number]) for number in rest)
        for number, fit in zip(rest, singly, strict=True):
            found[number] = fit
        done = [found[s * len(candidates) + c] for c, s in product(range(len(candidates)), range(len(splits)))]
        self.done += done
        return done

    def _fit_in_processes(
        self, recipe: _Recipe, tasks: list[_Task | None], report: Callable[[int], None] | None
    ) -> list[_Done | None]:
        """The same in several processes, each with batches of its own; nothing where one process does as well."""
        search = self.search
        parameters = [task.parameters for task in tasks if task is not None]
        needed = (recipe.base, recipe.fit_params, parameters)
        parts = parts_for_processes(len(tasks), search.n_jobs, [_last(search.estimator)], needed)
        if not parts:
            return []
        n_jobs = min(effective_n_jobs(search.n_jobs), len(parts))  # every one starts, needed or not
        run = Parallel(n_jobs=n_jobs, pre_dispatch=search.pre_dispatch, prefer="processes", return_as="generator")
        done: list[_Done | None] = []
        for part in run(delayed(_fit_part)(recipe, tasks[part]) for part in parts):
            done += part
            if report is not None:
                report(sum(fit is not None and bool(fit.outcome.batch) for fit in done))
        return done


@dataclass
class _Task:
    """A candidate on the training rows of a split; ``origin`` as in :class:`Fit`."""

    parameters: dict
    train: np.ndarray
    origin: Any


@dataclass
class _Recipe:
    """What the fits of a search are made of."""

    base: Any
    X: Any
    y: Any
    fit_params: dict

    def estimator(self, parameters: dict) -> Any:
        """The estimator of a candidate; None where scikit-learn has to fit it: it says what is wrong, or calls back."""
        try:
            estimator = clone(self.base).set_params(**clone(parameters, safe=False))
        except Exception:
            return None
        last = _last(estimator)
        if not isinstance(last, Training) or any(getattr(part, "_skl_callbacks", None) for part in (estimator, last)):
            return None
        return estimator

    def fit_together(
        self, tasks: list[_Task | None], n_jobs: int | None = None, report: Callable[[int], None] | None = None
    ) -> list[_Done | None]:
        """Do the fits that gain from company; ``outcome.batch`` of the others is 0, and None is for scikit-learn."""
        made: list[_Done | None] = []

        def fits() -> Iterator[Fit | None]:
            rows: _Rows | None = None  # one copy of the rows of a split at a time
            for task in tasks:
                began, fit, error = time.perf_counter(), None, None
                estimator = None if task is None else self.estimator(task.parameters)
                if task is not None and estimator is not None and alone(_last(estimator)) is None:
                    if rows is None or rows.train is not task.train:
                        rows = _Rows.of(self, task.train)
                    try:
                        fit = rows.record(estimator, task.origin)
                    except Exception as raised:
                        error = raised
                outcome = Outcome(error, time.perf_counter() - began, batch=int(error is not None))
                made.append(None if estimator is None else _Done(estimator, outcome))
                yield fit

        outcomes = fit_together(fits(), n_jobs, report, gaining=True)
        for fit, outcome in zip(made, outcomes, strict=True):
            if fit is not None and outcome.batch:
                fit.outcome = replace(outcome, seconds=fit.outcome.seconds + outcome.seconds)
        return made


def _origin(parameters: dict, number: int) -> Any:
    """The same for candidates that do not change the architecture, so that modules are copies of one."""
    changes = any(
        re.search(r"(^|__)architecture(__|$)", name)
        or hasattr(value, "get_params")
        or isinstance(value, Architecture | torch.nn.Module)
        for name, value in parameters.items()
    )
    return number if changes else "base"


@dataclass
class _Rows:
    """The training rows of a split."""

    train: np.ndarray
    X: Any
    y: Any
    fit_params: dict

    @classmethod
    def of(cls, recipe: _Recipe, train: np.ndarray) -> _Rows:
        fit_params = _check_method_params(recipe.X, params=recipe.fit_params, indices=train)
        X, y = _safe_split(recipe.base, recipe.X, recipe.y, train)
        return cls(train, X, y, fit_params)

    def record(self, estimator: Any, origin: Any) -> Fit:
        """Fit the steps before the last, and return the fit of the last one."""
        last = _last(estimator)
        given: list[Fit] = []

        def fit(X: Any, y: Any, sample_weight: Any = None) -> Training:
            given.append(Fit(last, X, y, sample_weight, origin))
            return last

        last.fit = fit
        try:
            estimator.fit(self.X, self.y, **self.fit_params)
        finally:
            del last.fit
        return given[0]


def _last(estimator: Any) -> Any:
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) and estimator.steps else estimator


@dataclass
class _Splits:
    """A splitter that has been asked before."""

    splits: list

    def split(self, X: Any, y: Any = None, **params: Any) -> list:
        return self.splits


@dataclass
class _Done:
    """A fit that has been done, or has failed."""

    estimator: Any
    outcome: Outcome

    def adopt(self, estimator: Any, X: Any, y: Any = None, **params: Any) -> Any:
        """Give ``estimator``, set up for the same fit, its result."""
        if self.outcome.error is not None:
            raise self.outcome.error
        estimator.__dict__.update(self.estimator.__dict__)
        return estimator


def _fit_one(recipe: _Recipe, task: _Task) -> _Done | None:
    """A fit in the ordinary way; None where the result cannot be sent to another process."""
    outcome, estimator, began = Outcome(), recipe.estimator(task.parameters), time.perf_counter()
    try:
        rows = _Rows.of(recipe, task.train)
        estimator.fit(rows.X, rows.y, **rows.fit_params)
    except Exception as error:
        outcome.error = error
    outcome.seconds = time.perf_counter() - began
    done = _Done(estimator, outcome)
    return done if travels(done) else None


def _fit_part(recipe: _Recipe, tasks: list[_Task | None]) -> list[_Done | None]:
    """Fits that gain from company; None also where the result cannot be sent to another process."""
    done = recipe.fit_together(tasks)
    return done if travels(done) else [fit if travels(fit) else None for fit in done]


class _Contexts:
    """The callback context of the search; all fits are done when the first evaluation is announced."""

    def __init__(self, context: Any, fit_all: Callable[[], list[_Done | None]]):
        self.context, self.fit_all = context, fit_all
        self.done: list[_Done | None] | None = None

    def subcontext(self, task_name: str, task_id: int) -> _Context:
        if self.done is None:
            self.done = self.fit_all()
        return _Context(self.context.subcontext(task_name=task_name, task_id=task_id), self.done[task_id])


@dataclass
class _Context:
    """The callback context of one evaluation, which the estimator passes through right before it is fitted."""

    context: Any
    done: _Done | None

    @contextmanager
    def propagate_callback_context(self, estimator: Any) -> Iterator[None]:
        with self.context.propagate_callback_context(estimator):
            if self.done is None:
                yield
                return
            estimator.fit = partial(self.done.adopt, estimator)
            try:
                yield
            finally:
                del estimator.fit

    def call_on_fit_task_begin(self, **given: Any) -> _Context:
        self.context.call_on_fit_task_begin(**given)
        return self

    def call_on_fit_task_end(self, **given: Any) -> Any:
        return self.context.call_on_fit_task_end(**given)
