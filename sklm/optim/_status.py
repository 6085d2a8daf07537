"""Why a fit ended: codes whose values are stable, with the sentence a user reads."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Stop reason of one model. ``status.message`` is a sentence, ``status.converged`` a verdict."""

    RUNNING = 0
    GRADIENT = 1
    STEP = 2
    DECREASE = 3
    TARGET = 4
    EXACT = 5
    DAMPING = 6
    MAX_ITER = 7
    TIME = 8
    VALIDATION = 9
    INTERRUPTED = 10
    CALLBACK = 11
    NONFINITE = 12
    SUPERSEDED = 13
    DERIVATIVE = 14
    STALLED = 15
    DIVERGED = 16
    NEGLIGIBLE = 17

    @property
    def message(self) -> str:
        """What happened."""
        return _MESSAGES[self]

    @property
    def converged(self) -> bool:
        """Whether the loop ended by itself, rather than by a limit, a person or a fault."""
        return self in _CONVERGED


#: reasons that end the whole fit, not only a stage
FINAL = (Status.INTERRUPTED, Status.CALLBACK, Status.TIME)

_CONVERGED = frozenset(
    {
        Status.GRADIENT,
        Status.STEP,
        Status.DECREASE,
        Status.TARGET,
        Status.EXACT,
        Status.DAMPING,
        Status.VALIDATION,
        Status.CALLBACK,
        Status.SUPERSEDED,
        Status.NEGLIGIBLE,
    }
)

_MESSAGES = {
    Status.RUNNING: "The fit is still running.",
    Status.GRADIENT: "The gradient is zero to rounding: no parameter on its own can lower the objective.",
    Status.STEP: "The step is below the resolution of the parameters.",
    Status.DECREASE: "The objective fell by less than tol (relative) over n_iter_no_change iterations.",
    Status.TARGET: "The loss reached target_loss.",
    Status.EXACT: "The fit is exact: the objective is zero to rounding.",
    Status.DAMPING: "The damping reached its maximum: no step, however short, lowers the objective.",
    Status.MAX_ITER: "max_iter iterations were done.",
    Status.TIME: "max_time seconds were used.",
    Status.VALIDATION: "The validation score did not improve for n_iter_no_change iterations.",
    Status.INTERRUPTED: "The fit was interrupted; the best model so far is kept.",
    Status.CALLBACK: "A callback asked to stop.",
    Status.NONFINITE: "The objective is not finite at the start.",
    Status.DERIVATIVE: "The objective is finite but its derivatives are not.",
    Status.STALLED: "No step lowers the objective although its gradient is not zero.",
    Status.DIVERGED: "The steps were too long: the objective grew a million times, or beyond all numbers.",
    Status.NEGLIGIBLE: "Next to nothing of the loss is left, and to go on is not worth the time.",
    Status.SUPERSEDED: "Another start of the same fit was better, or at its target or next to nothing first.",
}
