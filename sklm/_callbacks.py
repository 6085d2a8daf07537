"""From the engine's one hook an iteration to scikit-learn's callbacks and to ``verbose``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .optim import Progress


def input_attributes(estimator: Any) -> dict[str, Any]:
    """What validation has set on an estimator: number and names of the columns."""
    names = ("n_features_in_", "feature_names_in_")
    return {name: estimator.__dict__[name] for name in names if name in estimator.__dict__}


class FitCallbacks:
    """Tasks of one ``fit``: a root task, and a subtask an iteration if a callback is registered.

    Parameters
    ----------
    owner : estimator
        The estimator that the user holds.
    shadow : estimator
        The stand-in with the validated input attributes.
    given : tuple
        X, y and sample_weight as passed.
    printers : list of callables
        Called with the engine's progress, whether or not callbacks are registered.
    attributes : callable
        From theta (P,) float64 to the fitted attributes, for callbacks that want a fitted estimator.
    most : int
        Iterations that there may be.
    """

    def __init__(
        self,
        owner: Any,
        shadow: Any,
        given: tuple,
        printers: list[Callable],
        attributes: Callable[[np.ndarray], dict],
        most: int,
    ):
        self.most = most
        self.owner, self.shadow, self.printers, self.attributes = owner, shadow, printers, attributes
        X, y, sample_weight = given
        self.data = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        self.active = bool(getattr(owner, "_skl_callbacks", []))
        self.root = owner._init_callback_context(max_subtasks=most if self.active else 0)
        self.root.call_on_fit_task_begin(estimator=owner, **self.data)
        self.task: Any = None
        self.n_tasks = 0
        self._begin()

    @property
    def per_iteration(self) -> Callable[[Progress], bool | None] | None:
        """The engine's callback, None if nobody listens."""
        return self._iteration if self.active or self.printers else None

    def _begin(self) -> None:
        if self.active and self.n_tasks < self.most:
            self.n_tasks += 1
            self.task = self.root.subcontext(task_name="iteration")
            self.task.call_on_fit_task_begin(estimator=self.owner, **self.data)

    def _iteration(self, progress: Progress) -> bool:
        for printer in self.printers:
            printer(progress)
        if not self.active:
            return False
        if self.task is None:
            self._begin()
        if self.task is None:
            return False

        def attributes() -> dict[str, Any]:
            theta = progress.state.best_theta[progress.leader].cpu().double().numpy()
            return {**input_attributes(self.shadow), **self.attributes(theta)}

        stop = self.task.call_on_fit_task_end(estimator=self.owner, reconstruction_attributes=attributes, **self.data)
        self.task = None
        if progress.n_active and not stop:
            self._begin()
        return bool(stop)

    def close(self) -> None:
        """End the lines that printers have left open."""
        for printer in self.printers:
            getattr(printer, "close", lambda: None)()

    def finish(self, fitted: dict[str, Any]) -> None:
        """End the root task."""
        self.root.call_on_fit_task_end(
            estimator=self.owner, reconstruction_attributes={**input_attributes(self.shadow), **fitted}, **self.data
        )
