"""Standard deviations of predictions: what a fit leaves open, and the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._prepared import Prepared
from ._training import Training
from .optim import Problem, Solution
from .optim._curvature import output_rows
from .optim._isolation import isolated
from .optim._leave_one_out import LeftOut

#: rows beyond the parameters that they determine, at least, that tell the noise
LEAST_FREEDOM = 2.0
#: floats of Jacobian rows of predictions at once
_FLOATS = 2**22


class ErrorBars(Training):
    """What regressors with the squared error know of their own errors.

    Notes
    -----
    For noise of variance s^2, the same for all rows, the parameters have the covariance ``s^2 (J^T J + M)^-1`` about
    the minimum (of several outputs, see ``_factors``), with J the Jacobian of all rows and M the penalty on the same
    scale: the Gaussian approximation of the posterior (MacKay 1992, Neural Computation 4(3), pp. 448-472, eqs. 2.5 to
    2.16), and without a penalty the delta method of nonlinear least squares (Seber & Wild 1989, section 5.1). s^2 is
    the sum of the squared residuals over ``N - gamma``, where gamma is the trace of ``J (J^T J + M)^-1 J^T``. A new
    target at x then has the variance ``s^2 + j^T covariance j`` with j the derivative of the output. The mean of
    several fits is taken for a mixture of their distributions: mean of their variances, plus the variance of their
    outputs.
    """

    noise_std_: float | np.ndarray | None

    def _has_error_bars(self, fit: Prepared, solution: Solution, row: int) -> bool:
        return fit.obstacle_to_error_bars(solution, row) is None

    def _error_bars(
        self, fit: Prepared, solution: Solution, row: int, rows: np.ndarray, left_out: LeftOut | None
    ) -> dict[str, Any]:
        obstacle = fit.obstacle_to_error_bars(solution, row)
        if left_out is None:
            return self._no_error_bars(str(obstacle))
        # reciprocal variances are no counts, even where they are whole numbers
        problem = fit.problem
        n_outputs, n_rows = problem.network.n_outputs, problem.n_samples
        n_effective = left_out.n_effective.mean(0).cpu().double().numpy()
        if obstacle is None and not np.all(np.isfinite(n_effective)):
            obstacle = "its derivatives are not finite"
        if obstacle is None and np.any(n_rows - n_effective < LEAST_FREEDOM - 1e-6):
            obstacle = f"{n_rows} rows determine {n_effective.max():.1f} parameters, which leaves too few for the noise"
        if obstacle is not None:
            return self._no_error_bars(obstacle)
        # of the mean over the outputs of half the squares
        squares = 2 * n_outputs * left_out.fitted[0].cpu().double().numpy()
        noise = squares * n_rows / (n_rows - n_effective)
        with isolated(problem.y.device):
            members, theta = fit.members(solution, rows)
            factors = _factors(members, theta, left_out.whitener, torch.from_numpy(noise).to(theta))
        deviation = np.sqrt(noise) * fit.core["y_scale_"]
        return {
            "noise_std_": float(deviation[0]) if fit.core["_flat_output"] else deviation,
            "_posterior": {
                "factors": factors.cpu().double().numpy(),
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
        if len(posterior["factors"]) > 1:
            raise AttributeError(
                "covariance_ is for a single network, and this one is the mean of several; set n_init=1 or "
                "hidden_layer_sizes."
            )
        factor = posterior["factors"][0]
        covariance = factor @ factor.T
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
            raise AttributeError(f"This fit has no error bars: {known.rstrip('.')}.")
        return known

    def _standard_deviations(self, X: np.ndarray) -> np.ndarray:
        """Standard deviations (n, K) of new targets in their units, for checked raw rows X (n, F)."""
        posterior, cpu = self._known_posterior(), torch.device("cpu")
        architecture, members = self._single_networks
        network = architecture.build(self.n_features_in_, self.n_outputs_)
        n_members, n_parameters = members.shape
        size = max(1, _FLOATS // (n_members * self.n_outputs_ * (n_parameters + 1)))
        variance = np.empty((len(X), self.n_outputs_))
        with isolated(cpu), np.errstate(all="ignore"):
            network = network.to(cpu, torch.float64)
            theta, factors = (torch.tensor(np.array(part), device=cpu) for part in (members, posterior["factors"]))
            eye = torch.eye(self.n_outputs_, dtype=torch.float64, device=cpu)[None, :, :, None]
            for place, inputs in self._scaled_blocks(X, size):
                n = inputs.shape[-1]
                forward = network.forward(theta, inputs)
                rows = theta.new_empty(*theta.shape, self.n_outputs_, n)
                network.pullback(theta, inputs, forward, eye.expand(1, -1, -1, n), rows)
                white = torch.bmm(factors.mT, rows.flatten(2)).unflatten(2, (self.n_outputs_, n))
                open_ = white.square_().sum(1).mean(0).mT.numpy()
                among = forward.outputs.var(0, correction=0).mT.numpy()
                variance[place] = posterior["noise"] + open_ + among
        variance[np.isnan(variance)] = np.inf  # so far away that derivatives are no numbers any more
        return np.sqrt(variance) * self._output_scaling().scale


def _factors(problem: Problem, theta: Tensor, whitener: Tensor, noise: Tensor) -> Tensor:
    """F (B, P, P) with ``F F^T`` the covariance of theta (B, P), for a noise (K,) of each output.

    Notes
    -----
    With A the matrix of all rows and the penalty M, and W its whitener, the covariance of a minimum is
    ``A^-1 (sum_k s_k^2 J_k^T J_k + s^2 M) A^-1``, with the mean of the variances for s^2: the noise of one output
    moves what it shares with the others. For noise of one size this is ``s^2 A^-1``.
    """
    n_outputs, n_rows = problem.network.n_outputs, problem.n_samples
    whitener = whitener / np.sqrt(n_rows * n_outputs)
    if n_outputs == 1:
        return whitener * noise.sqrt()
    gram = torch.diag_embed(problem.alpha[:, None] * problem.penalty_mask) * noise.mean() * n_rows * n_outputs
    for chunk, _, rows in output_rows(problem, theta):
        weights = n_rows * noise[:, None] * chunk.weights[:, None, None, :]
        gram += torch.bmm((rows * weights).flatten(2), rows.flatten(2).mT)
    inside = whitener.mT @ gram @ whitener
    values, vectors = torch.linalg.eigh(inside)
    return whitener @ (vectors * values.clamp_min(0).sqrt()[:, None, :])
