"""LMRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ._arrays import Scaling, no_scaling, refuse_text_and_dates, standard_scaling
from ._base import DTYPES, BaseLM, TrainingSet
from ._callbacks import FitCallbacks, input_attributes
from ._docs import document
from ._fitted import FittedNetwork
from ._sklearn import _check_sample_weight, _fit_context
from .architectures import MLP, Architecture, Network
from .optim import Problem, Solution, Status, Stopping, levenberg_marquardt
from .optim._isolation import isolated


@document
class LMRegressor(RegressorMixin, MultiOutputMixin, FittedNetwork, BaseLM):
    """Neural-network regression trained by Levenberg-Marquardt.

    Fits small networks (10 to some thousand weights) on 50 to 10^6 rows to errors that first-order methods do not
    reach. Works in pipelines and grid searches; X and y need no scaling.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer for raw X and raw y: with ``a = X``, every hidden layer is
        ``a = activation(a @ coefs_[i] + intercepts_[i])`` and the prediction is ``a @ coefs_[-1] + intercepts_[-1]``.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer, likewise.
    loss_ : float
        Half the mean squared error of the fitted model on the training rows, in squared units of y, without penalty.
    loss_curve_ : ndarray of shape (n_iter_,)
        The same after every iteration; while the fit is growing, on the rows in use.
    damping_curve_ : ndarray of shape (n_iter_,)
        Damping after every iteration.
    validation_scores_ : ndarray of shape (n_iter_,) or None
        R^2 on the held-out rows after every iteration (of the standardised targets together when there are several),
        with ``early_stopping=True``; the negative loss there for a loss other than the squared error.
    best_validation_score_ : float or None
        The score there of the model that is kept.
    n_iter_ : int
        Iterations of the start that won.
    status_ : str
        Why it stopped: 'gradient', 'step', 'decrease', 'target', 'exact', 'damping', 'max_iter', 'time', 'validation',
        'interrupted', 'callback', 'derivative' (derivatives became infinite) or 'stalled' (no step helps, yet the
        gradient is not zero); after ``partial_fit`` 'one_step' or 'no_step'.
    message_ : str
        The same as a sentence.
    converged_ : bool
        False if a limit or a person ended the fit.
    damping_ : float
        The last damping; ``partial_fit`` goes on from it.
    theta_ : ndarray of shape (n_parameters,)
        Parameters as the optimiser sees them: for standardised inputs and outputs where ``standardize`` is on.
    x_mean_, x_inverse_scale_, y_mean_, y_scale_ : ndarray
        The standardisation; zero scale marks a constant column.
    architecture_ : Architecture
        What ``theta_`` belongs to.
    n_outputs_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of str, if X had string column names

    See Also
    --------
    sklearn.neural_network.MLPRegressor : Larger networks, trained by Adam or L-BFGS.
    sklearn.gaussian_process.GaussianProcessRegressor : Predictions with standard deviations, for few rows.

    Notes
    -----
    Minimises ``sum_n w_n |f(x_n) - y_n|^2 / (2 K sum_n w_n) + alpha / 2 |coefficients|^2`` (standardised y, K outputs)
    by ``(J^T J + damping D) step = -gradient`` with the Jacobian J built by hand-written back-propagation and
    accumulated over chunks of rows (Levenberg 1944; Marquardt 1963; Hagan & Menhaj 1994). See the user guide.

    Examples
    --------
    >>> import numpy as np
    >>> from sklm import LMRegressor
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> y = np.sinc(3 * X[:, 0])
    >>> model = LMRegressor(hidden_layer_sizes=10, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.999999)
    True
    """

    # -- fitting --------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LMRegressor:
        """Fit the network to (X, y).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. A read-only memory map of float64 is read in pieces and may exceed memory.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; weight k counts as the row k times, weight 0 as no row.

        Returns
        -------
        self : LMRegressor

        Raises
        ------
        ValueError, TypeError
            If the data or an option cannot be used; raised before any work, the estimator is left as it was.
        MemoryError
            If the linear system would not fit; says what helps.
        """
        shadow = self._shadow()
        data, flat = shadow._validate(X, y, sample_weight, reset=True)
        previous = self if self.warm_start and hasattr(self, "theta_") else None
        with np.errstate(all="ignore"):
            fitted = shadow._train(data, flat, previous, self, (X, y, sample_weight))
        self._adopt(shadow, fitted)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LMRegressor:
        """Take one Levenberg-Marquardt step on a batch of rows.

        The standardisation is that of the first batch; the damping is carried over. A step that would raise the
        objective of the batch is tried again with more damping, up to ten times.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self : LMRegressor

        Raises
        ------
        ValueError
            If the data cannot be used, the architecture was changed since the first batch, or ``early_stopping`` is on.
        """
        first = not hasattr(self, "theta_")
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it sees one batch at a time.")
        if not first and isinstance(self.architecture_, MLP) and self._make_architecture() != self.architecture_:
            raise ValueError(
                f"The architecture was {self.architecture_} when the model was started and is "
                f"{self._make_architecture()} now; partial_fit cannot go on. Call fit, or set it back."
            )
        shadow = self._shadow()
        data, flat = shadow._validate(X, y, sample_weight, reset=first)
        with np.errstate(all="ignore"):
            fitted = shadow._step(data, flat, None if first else self)
        self._adopt(shadow, fitted)
        return self

    def _shadow(self) -> LMRegressor:
        """A stand-in that takes the attributes of a fit until it has succeeded."""
        shadow = object.__new__(type(self))
        shadow.__dict__.update(self.__dict__)
        return shadow

    def _adopt(self, shadow: LMRegressor, fitted: dict[str, Any]) -> None:
        if "feature_names_in_" not in shadow.__dict__:
            self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(input_attributes(shadow), **fitted)

    def _validate(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[TrainingSet, bool]:
        """Return clean data and whether y was one-dimensional."""
        refuse_text_and_dates(X, "X")
        for value, name in ((y, "y"), (sample_weight, "sample_weight")):
            if value is not None:
                refuse_text_and_dates(value, name)
        X, y = validate_data(
            self, X, y, reset=reset, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True, order=None
        )
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not np.any(weights > 0):
            raise ValueError("sample_weight is zero for every row: there is nothing to fit.")
        y = np.asarray(y, dtype=np.float64)
        flat = y.ndim == 1
        y = y.reshape(len(y), -1)
        if not reset and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} columns; the model was started with {self.n_outputs_}.")
        if np.all(weights > 0):
            return TrainingSet(X, y, weights), flat
        return TrainingSet(X, y, weights).take(np.flatnonzero(weights > 0)), flat

    def _train(
        self, data: TrainingSet, flat: bool, previous: LMRegressor | None, owner: LMRegressor, given: tuple
    ) -> dict[str, Any]:
        architecture = self._own_architecture()
        network = architecture.build(data.X.shape[1], data.y.shape[1])
        self._check_penalty(network)
        options = self._options(architecture)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        held_out = None
        if self.early_stopping:
            data, held_out = self._hold_out(data, seed)
        x, y = self._scalings(data, architecture, previous)
        theta = self._starts(architecture, network, data, x, y, seed, previous)
        device = self._make_device(len(theta) * data.y.size * network.n_parameters**2)
        with isolated(device):
            problem = self._problem(network, data, x, y, len(theta), device, self.alpha)
            validation = None
            if held_out is not None:
                validation = self._problem(network, held_out, x, y, len(theta), device, 0.0)
            callbacks = FitCallbacks(
                owner, self, given, self._printers(), lambda t: self._core(architecture, t, x, y, flat)
            )
            try:
                solution, row = self._solve(problem, theta, options, validation, seed, callbacks.per_iteration, device)
            finally:
                callbacks.close()
        _refuse_nonfinite(solution, row)
        self._warn(solution, row, options)
        fitted = self._core(architecture, solution.theta[row].cpu().double().numpy(), x, y, flat)
        fitted.update(self._report(solution, row, validation))
        callbacks.finish(fitted)
        return fitted

    def _core(
        self, architecture: Architecture, theta: np.ndarray, x: Scaling, y: Scaling, flat: bool
    ) -> dict[str, Any]:
        """What ``predict`` needs."""
        return {
            "architecture_": architecture,
            "theta_": theta,
            "x_mean_": x.mean,
            "x_inverse_scale_": x.inverse,
            "y_mean_": y.mean,
            "y_scale_": y.scale,
            "n_outputs_": len(y.mean),
            "_flat_output": flat,
        }

    def _report(self, solution: Solution, row: int, validation: Problem | None) -> dict[str, Any]:
        history = {name: curve[:, row] for name, curve in solution.history.items()}
        ran = np.isfinite(history["damping"])
        scores = best_score = None
        if validation is not None:
            scores, best_score = -history["validation"][ran], -float(solution.score[row])
            if validation.loss.is_squared:
                scale = 2 * len(validation.y) / _spread(validation)
                scores, best_score = 1 + scale * scores, 1 + scale * best_score
        status = solution.status[row]
        return {
            "loss_": float(solution.loss[row]),
            "loss_curve_": history["loss"][ran],
            "damping_curve_": history["damping"][ran],
            "validation_scores_": scores,
            "best_validation_score_": best_score,
            "n_iter_": int(solution.n_iter[row]),
            "status_": status.name.lower(),
            "message_": status.message,
            "converged_": status.converged,
            "damping_": float(solution.damping[row]),
        }

    def _step(self, data: TrainingSet, flat: bool, previous: LMRegressor | None) -> dict[str, Any]:
        """One accepted step, for ``partial_fit``."""
        if previous is None:
            architecture = self._own_architecture()
            network = architecture.build(data.X.shape[1], data.y.shape[1])
            self._check_penalty(network)
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            x, y = self._scalings(data, architecture, None, keep_constant=True)
            theta = self._starts(architecture, network, data, x, y, seed, None)[:1]
            damping = self.damping
        else:
            architecture, flat = previous.architecture_, previous._flat_output
            network = architecture.build(data.X.shape[1], data.y.shape[1])
            x, y = previous._stored_scalings()
            theta, damping = previous.theta_[None], previous.damping_
        device = self._make_device(data.y.size * network.n_parameters**2)
        options = self._options(architecture)
        options["damping"] = damping
        with isolated(device):
            problem = self._problem(network, data, x, y, 1, device, self.alpha)
            self._check_memory(problem, options["solver"], device)
            options["stopping"] = Stopping(max_iter=10, tol=0.0)
            start = torch.from_numpy(np.array(theta)).to(device, DTYPES[self.dtype])
            solution = levenberg_marquardt(
                problem,
                start,
                callback=lambda progress: not torch.equal(progress.state.theta, start),
                **options,
            )
        _refuse_nonfinite(solution, 0)
        fitted = self._core(architecture, solution.theta[0].cpu().double().numpy(), x, y, flat)
        fitted.update(self._report(solution, 0, None))
        moved = bool(solution.moved[0])
        if not moved:  # one hopeless batch is no reason to distrust the next ones
            fitted["damping_"] = float(damping)
        fitted["status_"], fitted["converged_"] = ("one_step" if moved else "no_step"), False
        fitted["message_"] = "One step was taken." if moved else "No step lowered the objective of the batch."
        if previous is not None:
            fitted["n_iter_"] = previous.n_iter_ + 1
            for name in ("loss_curve_", "damping_curve_"):
                fitted[name] = np.append(getattr(previous, name), fitted[name][-1:])
        else:
            fitted["n_iter_"] = 1
            fitted.update({name: fitted[name][-1:] for name in ("loss_curve_", "damping_curve_")})
        return fitted

    # -- pieces of fit ------------------------------------------------------------------------------------------

    def _check_penalty(self, network: Network) -> None:
        if self.alpha > 0 and not network.coefficient_mask.any():
            raise ValueError("alpha > 0 would have no effect: the module has no parameter but biases.")

    def _hold_out(self, data: TrainingSet, seed: int) -> tuple[TrainingSet, TrainingSet]:
        n_samples = len(data.X)
        n_held = int(np.ceil(self.validation_fraction * n_samples))
        if n_held < 2 or n_samples - n_held < 1:
            raise ValueError(
                f"early_stopping with validation_fraction={self.validation_fraction} leaves {n_held} of "
                f"n_samples={n_samples} rows for validation; at least 2 are needed, and 1 for training. Raise "
                "validation_fraction or pass more rows."
            )
        train, held = train_test_split(np.arange(n_samples), test_size=n_held, random_state=seed)
        return data.take(np.sort(train)), data.take(np.sort(held))

    def _scalings(
        self, data: TrainingSet, architecture: Architecture, previous: LMRegressor | None, keep_constant: bool = False
    ) -> tuple[Scaling, Scaling]:
        scale = architecture.standardize if self.standardize == "auto" else self.standardize
        if not scale:
            return no_scaling(data.X), no_scaling(data.y)
        if previous is not None and not architecture.standardize:
            return previous._stored_scalings()  # a module's parameters cannot be carried over to another scaling
        return (
            standard_scaling(data.X, data.weights, keep_constant=keep_constant),
            standard_scaling(data.y, data.weights, keep_constant=keep_constant),
        )

    def _starts(
        self,
        architecture: Architecture,
        network: Network,
        data: TrainingSet,
        x: Scaling,
        y: Scaling,
        seed: int,
        previous: LMRegressor | None,
    ) -> np.ndarray:
        """Start vectors, a row a start (.., P); with a warm start, the first one is the fitted model."""
        n_starts = self._n_starts(architecture, network, data)
        generators = [np.random.default_rng([seed, k]) for k in range(n_starts)]
        theta = architecture.starts(network, self.init, self._inputs(data, x), generators)
        if previous is not None:
            if len(previous.theta_) != network.n_parameters or previous.n_features_in_ != data.X.shape[1]:
                raise ValueError(
                    "warm_start needs the same architecture and columns as the last fit: "
                    f"{len(previous.theta_)} parameters then, {network.n_parameters} now."
                )
            old_x, old_y = previous._stored_scalings()
            theta[0] = network.rescale(previous.theta_, old_x, x, old_y, y)
        return theta


def _refuse_nonfinite(solution: Solution, row: int) -> None:
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


def _spread(problem: Problem) -> float:
    """Weighted variance of the targets, summed over outputs."""
    mean = (problem.y * problem.weights).sum(-1, keepdim=True)
    return float(((problem.y - mean).square() * problem.weights).sum())
