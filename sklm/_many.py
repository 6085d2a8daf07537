"""fit_many: a list of independent fits as few runs of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn import get_config
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from ._batching import Fit, Outcome, fit_together, parts_for_processes, travels
from ._sklearn import _num_samples
from ._training import Training


def fit_many(
    estimators: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    n_jobs: int | None = None,
    return_batch_sizes: bool = False,
) -> Any:
    """Fit many independent models at once.

    Each result is that of ``clone(estimator).fit(X, y, sample_weight)`` on its own, to rounding: the same starts,
    mini-batches and growing, and its own standardisation. Models of the same size on the same number of rows run
    through the engine together, which saves most of what an iteration of a small model costs.

    Parameters
    ----------
    estimators : LMRegressor, LMClassifier or list of them
        One for all fits, or one a fit. They are cloned.
    X : array-like of shape (n_samples, n_features), or list of such arrays
        One for all fits, or one a fit.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), list of such arrays, or an ndarray of them
        One for all fits, or one a fit. An array (a, b) is one target a fit where b is the number of rows and a is not;
        pass a list of arrays where both are.
    sample_weight : array-like of shape (n_samples,), list of such arrays or None, or an ndarray of them, optional
    n_jobs : int or None, default=None
        Worker processes that divide the fits, where there are some dozen for each; -1 means one a processor core. Where
        the parameters cannot be sent to a process, or there is a GPU, threads that run a batch each.
    return_batch_sizes : bool, default=False
        Return also how many fits ran together with each, itself included.

    Returns
    -------
    fitted : list of estimators
        In the order of the fits.
    batch_sizes : ndarray of int of shape (n_fits,), with ``return_batch_sizes=True``
        0 for a fit that ran in the ordinary way.

    Raises
    ------
    ValueError, TypeError
        If the numbers of estimators, X, y and weights that are given one a fit differ, or as in ``fit``; a note says
        which fit it was.

    Notes
    -----
    Together run fits with equal parameters but ``alpha``, ``damping``, ``class_weight``, ``n_init`` and, where neither
    mini-batches nor growing shuffle the rows, ``random_state``, and with the same numbers of rows (with weight),
    columns and outputs. A batch is cut where what its steps work on leaves the processor's caches or memory. Fits with
    ``max_time``, ``verbose``, callbacks, a class that has a ``fit`` of its own, memory-mapped X that is read in pieces,
    or parameters that are objects whose contents cannot be compared run one by one.
    A ``torch.nn.Module`` is batched where one estimator is given for all
    fits. Where rounding grows from step to step, as it does in mini-batches with little penalty, results differ as they
    do for another ``jacobian_max_rows``; and of several starts that find the same minimum, another one may be kept.

    Examples
    --------
    >>> import numpy as np
    >>> from sklm import LMRegressor, fit_many
    >>> x = np.linspace(0, 1, 50)[:, None]
    >>> curves = [np.exp(-rate * x[:, 0]) for rate in (1, 2, 3)]
    >>> models = fit_many(LMRegressor(3, target_loss=1e-6, random_state=0), x, curves)
    >>> all(model.score(x, curve) > 0.9999 for model, curve in zip(models, curves))
    True
    """
    given = estimators if isinstance(estimators, list | tuple) else None
    for estimator in [estimators] if given is None else given:
        if not isinstance(estimator, Training):
            raise TypeError(f"fit_many fits LMRegressor and LMClassifier; got {type(estimator).__name__}.")
    each_X = X if _is_list_of(X, 2) else None
    each_y = y if _is_list_of(y, 1) else _split_targets(y, None if each_X is not None else X)
    each_weight = sample_weight
    if not (_is_list_of(sample_weight, 1) or getattr(sample_weight, "ndim", 1) == 2):
        each_weight = None
    several = {"estimators": given, "X": each_X, "y": each_y, "sample_weight": each_weight}
    lengths = {name: len(values) for name, values in several.items() if values is not None}
    if 0 in lengths.values() or (isinstance(y, list | tuple) and not len(y)):
        raise ValueError("There is nothing to fit: the list of estimators, X, y or weights is empty.")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"One for every fit must be given of {' and '.join(lengths)}; got {lengths}.")
    fits = []
    for k in range(next(iter(lengths.values()), 1)):
        estimator = estimators if given is None else given[k]
        fits.append(
            Fit(
                clone(estimator),
                X if each_X is None else each_X[k],
                y if each_y is None else each_y[k],
                sample_weight if each_weight is None else each_weight[k],
                origin=id(estimator.architecture),
            )
        )
    for k, fit in enumerate(fits):
        with _numbered(k):
            if (k == 0 or given is not None) and not get_config()["skip_parameter_validation"]:
                fit.estimator._validate_params()
            if k == 0 or _looks_wrong(fit, each_X is not None):  # says what is wrong before any work
                fit.estimator._shadow()._validate(fit.X, fit.y, fit.sample_weight, reset=True)
    outcomes = _fit_in_processes(fits, n_jobs) or fit_together(fits, n_jobs)
    for k, (fit, outcome) in enumerate(zip(fits, outcomes, strict=True)):
        with _numbered(k):
            if outcome.error is not None:
                raise outcome.error
            if not outcome.batch:
                fit.estimator.fit(fit.X, fit.y, fit.sample_weight)
    fitted = [fit.estimator for fit in fits]
    return (fitted, np.array([outcome.batch for outcome in outcomes])) if return_batch_sizes else fitted


def _fit_in_processes(fits: list[Fit], n_jobs: int | None) -> list[Outcome]:
    """As :func:`fit_together`, in worker processes; nothing where one process does as well."""
    estimators = [fit.estimator for fit in fits]
    parts = parts_for_processes(len(fits), n_jobs, estimators, estimators)
    if not parts:
        return []
    run = Parallel(n_jobs=min(effective_n_jobs(n_jobs), len(parts)), prefer="processes")  # every one starts
    outcomes: list[Outcome] = []
    for fitted, part in run(delayed(_fit_part)(fits[part]) for part in parts):
        for fit, estimator in zip(fits[len(outcomes) :], fitted, strict=False):
            fit.estimator = estimator
        outcomes += part
    return outcomes


def _fit_part(fits: list[Fit]) -> tuple[list[Training], list[Outcome]]:
    """Fitted estimators and what became of them; one that cannot be sent to another process has not been fitted."""
    outcomes = fit_together(fits)
    for fit, outcome in zip(fits, outcomes, strict=True):
        if outcome.batch and not travels((fit.estimator, outcome)):
            fit.estimator, outcome.batch, outcome.error = clone(fit.estimator), 0, None
    return [fit.estimator for fit in fits], outcomes


@contextmanager
def _numbered(k: int) -> Iterator[None]:
    """Errors say which fit they are of."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was fit number {k} of fit_many, counted from 0.")
        raise


def _looks_wrong(fit: Fit, own_X: bool) -> bool:
    """Whether a fit may well be refused: it is not given as finite numbers, one target and no negative weight a row.

    A look at each takes no time beside what ``fit`` checks. An X that is not its ``own_X`` has been checked.
    """
    given = [part for part in (fit.X if own_X else None, fit.y, fit.sample_weight) if part is not None]
    if not all(isinstance(part, np.ndarray) and part.ndim and part.dtype.kind in "fiub" for part in given):
        return True
    if any(len(part) != _num_samples(fit.X) for part in given):
        return True
    looked_at = [part for part in given if not isinstance(part, np.memmap)]
    negative = fit.sample_weight is not None and bool((fit.sample_weight < 0).any())
    return negative or not all(np.isfinite(part).all() for part in looked_at)


def _is_list_of(value: Any, n_axes: int) -> bool:
    """Whether a value is a list of arrays (or None) with at least so many axes."""
    if not isinstance(value, list | tuple) or not len(value):
        return False
    return all(item is None or len(getattr(item, "shape", None) or np.shape(item)) >= n_axes for item in value)


def _split_targets(y: Any, X: Any) -> Any:
    """The targets of an array with one axis more than those of a fit, or None for the targets of all fits."""
    shape: tuple[int, ...] = getattr(y, "shape", ())
    if len(shape) == 3:
        return y
    if len(shape) < 2 or X is None or not isinstance(y, np.ndarray):
        return None
    n_samples = _num_samples(X)
    if shape[0] == n_samples == shape[1]:
        raise ValueError(
            f"y of shape {tuple(shape)} could be a target for each of {n_samples} fits or {n_samples} outputs of one; "
            "pass list(y) for the former, [y] for the latter."
        )
    return y if shape[1] == n_samples else None
