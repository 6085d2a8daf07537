"""Many independent fits in few runs of the engine: sort them by what they share, cut, run, finish."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs

from ._alpha_search import choose_alphas
from ._prepared import CannotBatchError, Prepared, run_together
from ._training import Training
from .optim import Solution, Status
from .optim._isolation import isolated
from .optim._threads import openmp_threads

#: bytes of Jacobian rows of all models of a run on a CPU: more bring nothing, as an operation then takes long against
#: starting it (docs/performance.md)
RUN_BYTES = 8 * 2**20


@dataclass
class Fit:
    """A fit to be done: an estimator that takes the fitted attributes, and the arguments of its ``fit``.

    ``origin`` is equal for fits whose estimators carry copies of one ``torch.nn.Module``.
    """

    estimator: Training
    X: Any
    y: Any
    sample_weight: Any = None
    origin: Any = None


@dataclass
class Outcome:
    """What became of a fit: ``batch`` fits shared its run (0: it was not done), in so many seconds for each."""

    error: Exception | None = None
    seconds: float = 0.0
    batch: int = 0


@dataclass
class _Waiting:
    """A prepared fit, and where its result goes."""

    fit: Fit
    outcome: Outcome
    shadow: Training
    prepared: Prepared


def alone(estimator: Training) -> str | None:
    """Return why an estimator is fitted on its own, as far as its parameters tell; None if they do not."""
    if getattr(estimator, "_skl_callbacks", None):
        return "callbacks are registered"
    if estimator.verbose:
        return "verbose is on"
    return "max_time is set" if estimator.max_time is not None else None


def fit_together(
    fits: Iterable[Fit | None], n_jobs: int | None = None, report: Callable[[int], None] | None = None
) -> list[Outcome]:
    """Do the fits that can share runs of the engine, and leave the others alone.

    Parameters
    ----------
    fits : iterable of Fit or None
        Read one after the other, while earlier ones are already running; None for one that is not to be done.
    n_jobs : int or None
        Number of runs at a time, each in a thread.
    report : function, optional
        Called with the number of fits that are done, when it changes.

    Returns
    -------
    outcomes : list of Outcome
    """
    outcomes: list[Outcome] = []
    with _Runs(n_jobs, report) as runs:
        for fit in fits:
            outcome = Outcome()
            outcomes.append(outcome)
            if fit is not None and alone(fit.estimator) is None:
                runs.add(fit, outcome)
        runs.flush()
    return outcomes


class _Runs:
    """Fits that wait for others of the same key, and runs under way."""

    def __init__(self, n_jobs: int | None, report: Callable[[int], None] | None):
        self.n_jobs = effective_n_jobs(n_jobs)
        self.report = report
        self.waiting: dict[tuple, list[_Waiting]] = {}
        self.running: deque[tuple[Future, list[_Waiting]]] = deque()
        self.n_done = 0

    def __enter__(self) -> _Runs:
        self.threads = ThreadPoolExecutor(self.n_jobs) if self.n_jobs > 1 else None
        return self

    def __exit__(self, *_: Any) -> None:
        if self.threads is not None:
            self.threads.shutdown(cancel_futures=True)

    def add(self, fit: Fit, outcome: Outcome) -> None:
        """Prepare a fit; run it with those that wait for its like once they are enough."""
        began = time.perf_counter()
        try:
            shadow, prepared = fit.estimator._ready(fit.X, fit.y, fit.sample_weight)
            key = (*prepared.key(fit.origin), fit.estimator.jacobian_max_rows)
            with isolated(prepared.problem.y.device):
                fitting = fit.estimator._check_memory(
                    prepared.problem, prepared.options.get("solver"), prepared.problem.y.device
                )
        except CannotBatchError:
            return
        except Exception as error:
            outcome.error = error
            outcome.batch = 1
            self._count(1)
            return
        finally:
            outcome.seconds += time.perf_counter() - began
        if prepared.most_starts > fitting:
            return
        bucket = self.waiting.setdefault(key, [])
        bucket.append(_Waiting(fit, outcome, shadow, prepared))
        n_models = sum(waiting.prepared.most_starts for waiting in bucket)
        if n_models + prepared.most_starts > min(fitting, models_at_once(prepared)):
            self._start(self.waiting.pop(key))

    def flush(self) -> None:
        """Run what is left, and wait for the end of all."""
        for key in list(self.waiting):
            self._start(self.waiting.pop(key))
        while self.running:
            self._finish_first()

    def _start(self, bucket: list[_Waiting]) -> None:
        if self.threads is None:
            self._finish(bucket, lambda: _run(bucket))
            return
        while len(self.running) >= 2 * self.n_jobs:  # what waits takes memory
            self._finish_first()
        share = max(1, torch.get_num_threads() // self.n_jobs)
        self.running.append((self.threads.submit(_run, bucket, share), bucket))

    def _finish_first(self) -> None:
        future, bucket = self.running.popleft()
        self._finish(bucket, future.result)

    def _finish(self, bucket: list[_Waiting], result: Callable[[], tuple[Solution, float]]) -> None:
        """Give every fit of a run its fitted attributes."""
        try:
            solution, seconds = result()
        except Exception as error:
            warnings.warn(
                f"{len(bucket)} fits could not be run together ({type(error).__name__}: {error}); each is done on its "
                "own.",
                RuntimeWarning,
                stacklevel=5,
            )
            return
        if Status.INTERRUPTED in solution.status:
            raise KeyboardInterrupt
        for waiting, row in zip(bucket, solution.leaders(), strict=True):
            began, outcome = time.perf_counter(), waiting.outcome
            try:
                with np.errstate(all="ignore"):
                    fitted = waiting.shadow._finish(waiting.prepared, solution, int(row), stacklevel=6)
                waiting.fit.estimator._adopt(waiting.shadow, fitted)
            except Exception as error:
                outcome.error = error
            outcome.batch = len(bucket)
            outcome.seconds += seconds / len(bucket) + time.perf_counter() - began
        self._count(len(bucket))

    def _count(self, number: int) -> None:
        self.n_done += number
        if self.report is not None:
            self.report(self.n_done)


def models_at_once(prepared: Prepared) -> float:
    """How many models are best run together, as far as speed goes."""
    problem = prepared.problem
    if problem.y.device.type != "cpu":
        return float("inf")
    numbers = problem.n_samples * problem.n_curvature * (problem.network.n_parameters + 1)
    return RUN_BYTES / (numbers * problem.y.element_size())


def _run(bucket: list[_Waiting], n_threads: int | None = None) -> tuple[Solution, float]:
    """The solution of all fits of a bucket, and how long it took."""
    began = time.perf_counter()
    first = bucket[0]
    with isolated(first.prepared.problem.y.device), openmp_threads(n_threads), np.errstate(all="ignore"):
        estimator, problem = first.fit.estimator, first.prepared.problem
        at_once = estimator._check_memory(problem, first.prepared.options.get("solver"), problem.y.device)
        for waiting, prepared in zip(bucket, choose_alphas([w.prepared for w in bucket], at_once), strict=True):
            waiting.prepared = prepared
        solution = run_together([w.prepared for w in bucket], first.fit.estimator.jacobian_max_rows)
    return solution, time.perf_counter() - began
