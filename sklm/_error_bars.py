"""Standard deviations of predictions: what a fit leaves open, and the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ._prepared import Prepared
from ._training import Training
from .optim import Solution
from .optim._data import samples_last
from .optim._isolation import isolated
from .optim._leave_one_out import LeftOut

#: floats of Jacobian rows of predictions at once
_FLOATS = 2**22


class ErrorBars(Training):
    """What regressors with the squared error know of their own errors.

    Notes
    -----
    For noise of variance s^2, the same for all rows, the parameters have the covariance ``s^2 (J^T J + M)^-1`` about
    the minimum, with J the Jacobian of all rows and M the penalty on the same scale: the Gaussian approximation of the
    posterior (MacKay 1992, Neural Computation 4(3), pp. 448-472, eqs. 2.5 to 2.16), and without a penalty the delta
    method of nonlinear least squares (Seber & Wild 1989, section 5.1). s^2 is the sum of the squared residuals over
    ``N - gamma``, where gamma is the trace of ``J (J^T J + M)^-1 J^T``. A new target at x then has the variance
    ``s^2 + j^T covariance j`` with j the derivative of the output. The mean of several fits is taken for a mixture of
    their distributions: mean of their variances, plus the variance of their outputs.
    """

    noise_std_: np.ndarray | None

    def _has_error_bars(self, fit: Prepared, solution: Solution, row: int) -> bool:
        return fit.obstacle_to_error_bars(solution, row) is None

    def _error_bars(
        self, fit: Prepared, solution: Solution, rows: np.ndarray, left_out: LeftOut | None
    ) -> dict[str, Any]:
        obstacle = fit.obstacle_to_error_bars(solution, rows[0])
        if obstacle is not None or left_out is None:
            return self._no_error_bars(str(obstacle))
        n_outputs, n_rows = fit.problem.network.n_outputs, fit.n_units
        n_effective = float(left_out.n_effective.mean()) / n_outputs
        if not n_rows - n_effective > 1e-6 * n_rows:
            return self._no_error_bars(
                "the rows are no more than the parameters that they determine, which leaves none for the noise"
            )
        # of the mean over the outputs of half the squares
        squares = 2 * n_outputs * left_out.fitted[0].cpu().double().numpy()
        noise = squares * n_rows / (n_rows - n_effective)
        factors = left_out.whitener.cpu().double().numpy() / np.sqrt(n_rows * n_outputs)
        theta = solution.theta[torch.from_numpy(rows).to(solution.theta.device)].cpu().double().numpy()
        scale = fit.core["y_scale_"]
        return {
            "noise_std_": np.sqrt(noise) * scale,
            "_posterior": {
                "architecture": fit.core["architecture_"],
                "theta": theta,
                "factors": factors,
                "noise": noise,
                "loose": left_out.loose[0].cpu().numpy(),
            },
        }

    def _no_error_bars(self, reason: str) -> dict[str, Any]:
        return {"noise_std_": None, "_posterior": reason}

    @property
    def covariance_(self) -> np.ndarray:
        """Covariance of ``theta_``, (P, P); see ``LMRegressor``."""
        check_is_fitted(self)
        posterior = self._known_posterior()
        if len(posterior["theta"]) > 1:
            raise AttributeError(
                "covariance_ is for a single network, and this one is the mean of several; set n_init=1 or "
                "hidden_layer_sizes."
            )
        factor = posterior["factors"][0]
        covariance = posterior["noise"].mean() * (factor @ factor.T)
        loose = posterior["loose"]
        covariance[loose] = covariance[:, loose] = np.inf
        return covariance

    def _known_posterior(self) -> dict[str, Any]:
        """What error bars are computed from.

        Raises
        ------
        AttributeError
            If this fit has none.
        """
        known = getattr(self, "_posterior", "it is under way")
        if isinstance(known, str):
            raise AttributeError(f"This fit has no error bars: {known}.")
        return known

    def _standard_deviations(self, X: np.ndarray) -> np.ndarray:
        """Standard deviations (n, K) of new targets in their units, for checked raw rows X (n, F)."""
        posterior, cpu = self._known_posterior(), torch.device("cpu")
        network = posterior["architecture"].build(self.n_features_in_, self.n_outputs_)
        n_members, n_parameters = posterior["theta"].shape
        size = max(1, _FLOATS // (n_members * self.n_outputs_ * (n_parameters + 1)))
        variance = np.empty((len(X), self.n_outputs_))
        with isolated(cpu), np.errstate(all="ignore"):
            network = network.to(cpu, torch.float64)
            theta, factors = torch.from_numpy(posterior["theta"]), torch.from_numpy(posterior["factors"])
            eye = torch.eye(self.n_outputs_, dtype=torch.float64)[None, :, :, None]
            for start in range(0, len(X), size):
                inputs = samples_last(
                    (X[start : start + size] - self.x_mean_) * self.x_inverse_scale_, cpu, torch.float64
                )
                n = inputs.shape[-1]
                forward = network.forward(theta, inputs)
                rows = theta.new_empty(*theta.shape, self.n_outputs_, n)
                network.pullback(theta, inputs, forward, eye.expand(1, -1, -1, n), rows)
                white = torch.bmm(factors.mT, rows.flatten(2)).unflatten(2, (self.n_outputs_, n))
                spread = white.square_().sum(1).mean(0).mT.numpy()  # for noise of one
                among = forward.outputs.var(0, correction=0).mT.numpy()
                variance[start : start + n] = posterior["noise"] * (1 + spread) + among
        return np.sqrt(variance) * self._output_scaling().scale
