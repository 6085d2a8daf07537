"""From a solution of the engine to fitted attributes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ._arrays import Scaling
from ._averaging import mean_of_starts
from ._fitted import FittedNetwork
from ._prepared import Prepared
from ._starting import Starting
from .architectures import Architecture
from .losses import Loss
from .optim import Problem, Solution, Status, Stopping
from .optim._leave_one_out import LeftOut

#: ends by themselves at which a ``target_loss`` may not have been reached
FELL_SHORT = (Status.GRADIENT, Status.STEP, Status.DECREASE, Status.DAMPING, Status.VALIDATION)


class Reporting(FittedNetwork, Starting):
    """What ``predict`` needs, and how the fit went."""

    def _finish(self, fit: Prepared, solution: Solution, row: int, stacklevel: int) -> dict[str, Any]:
        """Fitted attributes from a row of the solution; warnings point ``stacklevel`` calls up, from the caller."""
        refuse_nonfinite(solution, row)
        known = fit.knows_rows_left_out(solution, row)
        alone = fit.left_out(solution, np.array([row])) if known else None
        mean = mean_of_starts(fit, solution, row, alone)
        rows = np.array([row]) if mean is None else mean.rows
        if any(solution.status[member] is Status.MAX_ITER for member in rows):  # a mean is done when all members are
            solution = replace(solution, status=list(solution.status))
            solution.status[row] = Status.MAX_ITER
        if not (solution.status[row] is Status.MAX_ITER and self._is_as_good_as_exact(solution, row, fit)):
            self._warn(fit, solution, row, stacklevel + 1)
        fitted = {**fit.core, "theta_": solution.theta[row].cpu().double().numpy()}
        fitted.update(alpha_=fit.alpha, alpha_scores_=fit.alpha_scores)
        fitted.update(self._report(solution, row, fit.validation))
        if mean is not None:
            fitted.update(architecture_=mean.architecture, theta_=mean.theta, loss_=mean.loss)
        fitted["_members"] = None if mean is None else (fit.core["architecture_"], mean.members)
        left_out = alone if mean is None else mean.left_out
        if left_out is None and self._has_error_bars(fit, solution, row):
            left_out = fit.left_out(solution, rows)
        fitted["n_averaged_"], fitted["loo_score_"] = len(rows), None
        if known:
            assert left_out is not None
            fitted["loo_score_"] = float(self._as_scores(-left_out.loss.cpu().numpy(), fit.problem)[0])
        return {**fitted, **self._error_bars(fit, solution, row, rows, left_out)}

    def _has_error_bars(self, fit: Prepared, solution: Solution, row: int) -> bool:
        """Whether predictions of a fit have error bars."""
        return False

    def _error_bars(
        self, fit: Prepared, solution: Solution, row: int, rows: np.ndarray, left_out: LeftOut | None
    ) -> dict[str, Any]:
        """Fitted attributes for these, from the starts ``rows`` (m,) whose mean the fit is, ``row`` the best."""
        return {}

    def _no_error_bars(self, reason: str) -> dict[str, Any]:
        """The same where there are none."""
        return {}

    def _core(
        self, architecture: Architecture, loss: Loss, x: Scaling, y: Scaling, meaning: dict[str, Any]
    ) -> dict[str, Any]:
        """What ``predict`` needs, beside ``theta_``."""
        return {
            "architecture_": architecture,
            "x_mean_": x.mean,
            "x_inverse_scale_": x.inverse,
            "y_mean_": y.mean,
            "y_scale_": y.scale,
            "n_outputs_": len(y.mean),
            "_fitted_loss": loss,
            **meaning,
        }

    def _report(self, solution: Solution, row: int, validation: Problem | None) -> dict[str, Any]:
        history = {name: curve[:, row] for name, curve in solution.history.items()}
        ran = ~np.isnan(history["damping"]) | ~np.isnan(history["objective"])
        damping = float(solution.damping[row])
        damped = not np.isnan(damping)  # by Levenberg-Marquardt
        scores = best_score = None
        if validation is not None:
            scores = self._as_scores(-history["validation"][ran], validation)
            best_score = float(self._as_scores(-solution.score[row], validation))
        status = solution.status[row]
        return {
            "loss_": float(solution.loss[row]),
            "loss_curve_": history["loss"][ran],
            "damping_curve_": history["damping"][ran] if damped else None,
            "validation_scores_": scores,
            "best_validation_score_": best_score,
            "n_iter_": int(solution.n_iter[row]),
            "status_": status.name.lower(),
            "message_": status.message,
            "converged_": status.converged,
            "damping_": damping if damped else None,
        }

    def _warn(self, fit: Prepared, solution: Solution, row: int, stacklevel: int) -> None:
        """Warn of what the user should know; ``stacklevel`` is that of a warning in the calling function."""
        stacklevel += 1
        stopping: Stopping = fit.options["stopping"]
        if Status.INTERRUPTED in solution.status:
            early = ""
            if solution.n_iter[row] == 0 and (fit.interrupted or fit.searched is not None):
                early = " It comes from the search for alpha, before the fit itself."
            elif solution.n_iter[row] == 0:
                early = " No iteration was done: it is what the fit began with."
            warnings.warn(
                f"Training interrupted by the user; the best model so far is kept.{early}",
                UserWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] in (Status.DERIVATIVE, Status.STALLED):
            warnings.warn(
                f"{type(self).__name__} stopped early: {solution.status[row].message} The best model so far is "
                "kept. Try other starting values or scales of the parameters.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] is Status.DIVERGED:
            warnings.warn(
                f"{type(self).__name__} stopped early: {solution.status[row].message} The best model so far is kept. "
                "Lower the learning rate of the optimizer.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif stopping.target_loss >= 0 and solution.status[row] in FELL_SHORT:
            warnings.warn(
                f"{type(self).__name__} did not reach target_loss={self.target_loss:g}: {solution.status[row].message} "
                f"The loss is {solution.loss[row]:.3g}. Try a larger n_init, more hidden units, or a lower tol.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        elif solution.status[row] is Status.MAX_ITER and self.n_iter_no_change != np.inf:  # which asks for all of them
            tol = stopping.tol
            warnings.warn(
                f"{type(self).__name__} reached max_iter={self.max_iter} before it converged, which is when the "
                f"objective falls by less than tol={tol:g}, relative, in {stopping.n_iter_no_change} accepted steps or "
                "epochs. The best model so far is kept. If it is good enough, raise tol; if the training loss "
                "should be lower, raise max_iter; for noisy data raise alpha above alpha_ or set early_stopping=True.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )

    def _is_as_good_as_exact(self, solution: Solution, row: int, fit: Prepared) -> bool:
        """Whether R^2 is one to ten digits: nobody need be told that it could be still nearer."""
        return fit.problem.loss.is_squared and float(self._as_scores(-solution.score[row], fit.problem)) > 1 - 1e-10

    def _as_scores(self, values: np.ndarray, problem: Problem) -> np.ndarray:
        """Negative losses on the rows of a problem as R^2, where that measures them; otherwise as they are."""
        if not (problem.loss.is_squared and self._numeric_targets):
            return values
        spread = _spread(problem)
        if spread == 0:  # as r2_score does
            return np.where(values == 0, 1.0, 0.0)
        return 1 + values * (2 * problem.network.n_outputs / spread)


def _spread(problem: Problem) -> float:
    """Weighted variance of the targets, summed over outputs."""
    mean = (problem.y * problem.weights).sum(-1, keepdim=True)
    return float(((problem.y - mean).square() * problem.weights).sum())


def refuse_nonfinite(solution: Solution, row: int) -> None:
    """Raise ValueError if the objective, or its derivative, was not finite at the start."""
    status = solution.status[row]
    if status is Status.NONFINITE:
        raise ValueError(
            "The objective is not finite at the starting values: the network's output is NaN or infinite on the "
            "training rows. Check the module's starting values, or choose other ones."
        )
    if status is Status.DERIVATIVE and not solution.moved[row]:
        raise ValueError(
            "The derivatives of the network are NaN or infinite on the training rows at the starting values, although "
            "its output is finite. Look for functions such as sqrt or a fractional power at zero."
        )
