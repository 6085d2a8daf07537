"""Many independent fits in few runs of the engine: sort them by what they share, cut, run, finish."""

from __future__ import annotations

import pickle
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import effective_n_jobs, wrap_non_picklable_objects

from ._alpha_search import choose_alphas
from ._depth import Result, deepened, together
from ._discrepancy import down_to_noise
from ._linear_model import is_all_there_is, linear_models, simplest, waves_if_better
from ._prepared import CannotBatchError, Prepared
from ._training import Training
from .optim import Status
from .optim._dual import Dual
from .optim._isolation import isolated
from .optim._linear import LinearSolver
from .optim._minimize import resolve_solver
from .optim._threads import openmp_threads

Made = TypeVar("Made")

#: bytes of what a step of all models of a run works on, on a CPU: with more, operations wait for memory; but so many
#: models are quicker than fewer however large they are (docs/performance.md)
RUN_BYTES, LEAST_MODELS = 8 * 2**20, 4
#: multiplications of a step of one model above which company saves little or nothing (docs/performance.md)
BATCH_WORK = 1e7
#: fits for which another process pays, and most that a process does before it reports (a batch is seldom larger)
LEAST_OF_A_JOB, MOST_OF_A_PART = 25, 64


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
    owner = next(kind for kind in type(estimator).__mro__ if "fit" in vars(kind))
    if owner.__module__.partition(".")[0] != __package__:
        return "its class has a fit of its own"
    if getattr(estimator, "_skl_callbacks", None):
        return "callbacks are registered"
    if estimator.verbose:
        return "verbose is on"
    return "max_time is set" if estimator.max_time is not None else None


def parts_for_processes(n_fits: int, n_jobs: int | None, estimators: list[Any], needed: Any) -> list[slice]:
    """Divide fits among worker processes, each of which fits what it gets together; [] where one process does as well.

    Threads would wait for each other: half of the time of small fits is the interpreter's.

    Parameters
    ----------
    n_fits : int
    n_jobs : int or None
        Processes at a time, as joblib counts them.
    estimators : list
        What may use a GPU, which is one for all processes.
    needed : object
        What the processes need beside the data; it may be that it cannot be sent there.
    """
    n_jobs = min(effective_n_jobs(n_jobs), n_fits // LEAST_OF_A_JOB)
    on_cpu = not torch.cuda.is_available() or all(str(getattr(one, "device", "cpu")) == "cpu" for one in estimators)
    if n_jobs < 2 or not on_cpu or not travels(needed):
        return []
    n_parts = n_jobs * max(1, n_fits // (n_jobs * MOST_OF_A_PART))
    places = [round(n_fits * part / n_parts) for part in range(n_parts + 1)]
    return [slice(*ends) for ends in pairwise(places)]


def travels(what: Any) -> bool:
    """Whether it can be sent from process to process, as joblib does: what is defined in a script can."""
    try:
        pickle.loads(pickle.dumps(wrap_non_picklable_objects(what)))
    except Exception:  # anything, as it is the user's code
        return False
    return True


def fit_together(
    fits: Iterable[Fit | None],
    n_jobs: int | None = None,
    report: Callable[[int], None] | None = None,
    gaining: bool = False,
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
    gaining : bool
        Leave those alone, too, that would not be quicker for it, see :func:`gains`.

    Returns
    -------
    outcomes : list of Outcome
    """
    outcomes: list[Outcome] = []
    with _Runs(n_jobs, report, gaining) as runs:
        for fit in fits:
            outcome = Outcome()
            outcomes.append(outcome)
            if fit is not None and alone(fit.estimator) is None:
                runs.add(fit, outcome)
        runs.flush()
    return outcomes


class _Runs:
    """Fits that wait for others of the same key, and runs under way."""

    def __init__(self, n_jobs: int | None, report: Callable[[int], None] | None, gaining: bool):
        self.n_jobs = effective_n_jobs(n_jobs)
        self.report, self.gaining = report, gaining
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
                fitting = fit.estimator._models_at_once(prepared)
        except CannotBatchError:
            return
        except Exception as error:
            outcome.error = error
            outcome.batch = 1
            self._count(1)
            return
        finally:
            outcome.seconds += time.perf_counter() - began
        if prepared.most_starts > fitting or (self.gaining and not gains(prepared)):
            return
        bucket = self.waiting.setdefault(key, [])
        bucket.append(_Waiting(fit, outcome, shadow, prepared))
        # one run for every job: they end at about the same time
        if len(bucket) >= self.n_jobs * _room(prepared, fitting):
            for share in self._shares(self.waiting.pop(key)):
                self._start(share)

    def flush(self) -> None:
        """Run what is left, and wait for the end of all."""
        for key in list(self.waiting):
            for share in self._shares(self.waiting.pop(key)):
                self._start(share)
        while self.running:
            self._finish_first()

    def _shares(self, bucket: list[_Waiting]) -> list[list[_Waiting]]:
        """Divide fits of equal keys evenly among the jobs."""
        parts = np.array_split(np.arange(len(bucket)), min(self.n_jobs, len(bucket)))
        return [[bucket[number] for number in part] for part in parts]

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

    def _finish(self, bucket: list[_Waiting], done: Callable[[], tuple[list[Result], float]]) -> None:
        """Give every fit of a run its fitted attributes."""
        try:
            results, seconds = done()
        except Exception as error:
            warnings.warn(
                f"{len(bucket)} fits could not be run together ({type(error).__name__}: {error}); each is done on its "
                "own.",
                RuntimeWarning,
                stacklevel=5,
            )
            return
        if any(Status.INTERRUPTED in result.solution.status for result in results):
            raise KeyboardInterrupt
        for waiting, result in zip(bucket, results, strict=True):
            began, outcome = time.perf_counter(), waiting.outcome
            try:
                with np.errstate(all="ignore"):
                    fitted = waiting.shadow._finish(result.fit, result.solution, result.row, stacklevel=6)
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
    problem, network = prepared.problem, prepared.problem.network
    if problem.y.device.type != "cpu":
        return float("inf")
    solver, n_rows, size = _solver(prepared), _rows_of_step(prepared), problem.y.element_size()
    if solver is None:
        need = n_rows * network.floats_per_row * size
    else:
        need = n_rows * (network.n_parameters + 1) * size + solver.working_bytes(1, network, n_rows, size)
    return max(LEAST_MODELS, RUN_BYTES / need)


def gains(prepared: Prepared) -> bool:
    """Whether a fit is quicker in company: its steps are short, and there is room for another one in a run."""
    solver = _solver(prepared)
    if prepared.problem.y.device.type != "cpu" or solver is None:
        return True
    n_rows, n_parameters = _rows_of_step(prepared), prepared.problem.network.n_parameters
    side, other = (n_rows, n_parameters) if isinstance(solver, Dual) else (n_parameters, n_rows)
    work = side**2 * (other + side / 3)  # of the symmetric matrix and its Cholesky factor
    return work <= BATCH_WORK and models_at_once(prepared) >= 2 * len(prepared.theta)


def _solver(prepared: Prepared) -> LinearSolver | None:
    """What solves for the steps; None for optimizers that solve nothing."""
    options = prepared.options
    if "optimizer" in options:
        return None
    return resolve_solver(options["solver"], prepared.problem, prepared.batches, options["param_selection"])


def _rows_of_step(prepared: Prepared) -> int:
    """Curvature rows that a step works on."""
    problem, batches = prepared.problem, prepared.batches
    n_samples = problem.n_samples if batches is None else batches.largest
    return n_samples * problem.n_curvature


def _run(bucket: list[_Waiting], n_threads: int | None = None) -> tuple[list[Result], float]:
    """The results of all fits of a bucket, and how long they took."""
    began = time.perf_counter()
    estimator, fits = bucket[0].fit.estimator, [waiting.prepared for waiting in bucket]
    with isolated(fits[0].problem.y.device), openmp_threads(n_threads), np.errstate(all="ignore"):

        def search(others: list[Prepared]) -> list[Prepared]:
            return _by_keys(others, estimator, _searched_alike)

        def solve(others: list[Prepared]) -> list[Result]:
            return _by_keys(others, estimator, _run_alike)

        linear = linear_models(fits, search, solve)
        if any(one is not None and Status.INTERRUPTED in one.solution.status for one in linear):
            raise KeyboardInterrupt
        results = [
            one if one is not None and is_all_there_is(fit, one) else None
            for fit, one in zip(fits, linear, strict=True)
        ]
        others = [number for number, result in enumerate(results) if result is None]
        found = _run_alike([fits[number] for number in others], estimator) if others else []
        stopping = fits[0].options["stopping"]
        found = [
            waves_if_better(fits[number], linear[number], result) for number, result in zip(others, found, strict=True)
        ]
        found = down_to_noise(found, stopping, solve, solve)
        for number, result in zip(others, found, strict=True):
            results[number] = simplest(fits[number], linear[number], result)
        done = [result for result in results if result is not None]
        if any(result.fit.deeper is not None for result in done):
            done = deepened(done, stopping, search, solve)
        return done, time.perf_counter() - began


def _by_keys(
    fits: list[Prepared], estimator: Training, run: Callable[[list[Prepared], Training], list[Made]]
) -> list[Made]:
    """What ``run`` makes of fits, those of equal keys together, as many at a time as there is room for."""
    alike: dict[tuple, list[int]] = {}
    for number, fit in enumerate(fits):
        alike.setdefault(fit.key(None), []).append(number)
    found: dict[int, Made] = {}
    for numbers in alike.values():
        first = fits[numbers[0]]
        room = _room(first, estimator._models_at_once(first))
        for part in np.array_split(numbers, -(-len(numbers) // room)):
            found.update(zip(part, run([fits[n] for n in part], estimator), strict=True))
    return [found[number] for number in range(len(fits))]


def _room(prepared: Prepared, fitting: int) -> int:
    """How many fits like this one are best run together, of ``fitting`` models in memory; few come to most starts."""
    return max(1, int(min(fitting / prepared.most_starts, models_at_once(prepared) / len(prepared.theta))))


def _searched_alike(fits: list[Prepared], estimator: Training) -> list[Prepared]:
    """Fits of equal keys with the penalties that a search finds, as many models at a time as is quickest."""
    first, most = fits[0], max(len(fit.theta) for fit in fits)
    quickest = max(most, int(min(estimator._models_at_once(first), models_at_once(first))))
    return choose_alphas(fits, quickest, estimator.jacobian_max_rows)


def _run_alike(fits: list[Prepared], estimator: Training) -> list[Result]:
    """Search for the penalties of fits of equal keys, where they have none, and fit them."""
    may_differ = fits[0].rival is not None or fits[0].broader is not None
    fits = _searched_alike(fits, estimator)
    # activations or units are not the same any more
    return _by_keys(fits, estimator, _solved_alike) if may_differ else _solved_alike(fits, estimator)


def _solved_alike(fits: list[Prepared], estimator: Training) -> list[Result]:
    return together(fits, estimator.jacobian_max_rows)
