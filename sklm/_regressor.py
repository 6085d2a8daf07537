"""LMRegressor."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if

from ._arrays import refuse_text_and_dates
from ._base import FEWEST_UNITS, Affords, BaseLM, most_units
from ._docs import document
from ._error_bars import ErrorBars
from ._mini_batches import DUAL_WORK
from ._penalty import can_search, can_search_quickly, linearisation
from ._rival import OF_NUMBERS
from ._sklearn import StrOptions, _fit_context
from ._training import has_partial_fit
from .architectures import Network
from .losses import LOSSES, Loss
from .optim import Mask
from .optim._problem import are_counts

#: whole sample weights of this mean and more are no counts: they would make few rows look like many
NO_COUNTS = 100.0


@document(
    activation="""
activation : {'auto', 'tanh', 'logistic', 'relu', 'softplus', 'elu', 'silu', 'sin', 'identity'}, default='auto'
    Activation of the hidden layers. Smooth ones suit the method. 'auto' is 'tanh'; but with two columns or more, where
    'auto' or 'cv' leaves rows out for ``alpha``, 'sin' if that has at most 0.9 of the loss on them (0.3 where tanh
    finds no penalty or leaves less than 0.01 of the loss of zero outputs; it is not tried below 0.001 or
    above 0.7); and for curves that are sums of waves. The fitted ``architecture_.activation`` says what it is; a warm
    start keeps it.
""",
    loss="""
loss : {'squared_error', 'huber', 'absolute_error', 'quantile', 'poisson', 'gamma'} or Loss, default='squared_error'
    What the outputs are compared by. An object of :mod:`sklm.losses` sets its parameters, such as
    ``Quantile(quantile=0.9)``. 'poisson' and 'gamma' have a log link: they predict positive means.
""",
    alpha="""
alpha : float, 'auto' or 'cv', default='auto'
    Penalty ``alpha / 2 * |coefficients|^2`` on the standardised problem, per mean loss: it means the same for every
    number of rows. Noisy data want 1e-5 to 1e-1; noise-free data 0. 'cv' finds it by cross-validation on rows left out,
    as ``alpha_``, for some times the cost of the fit. 'auto' does so where rows (times outputs) are fewer than a
    hundred a parameter and that is affordable, and is 0 where they are more, for linear models, modules, CNNs,
    mini-batches, ``early_stopping``, ``target_loss`` and other optimizers. See the user guide, "Noisy data".
""",
    batch="""
batch_size : int, 'auto' or None, default='auto'
    Rows of a step. None uses all; an integer trains on shuffled mini-batches of about that size and keeps the best
    full-data iterate. It changes the result. 'auto' takes all rows while an iteration takes up to a third of a second
    (1e10 multiplications, N K P min(N K, P) for N rows, K outputs and P parameters), then mini-batches of as many rows
    as there are parameters, or, with fewer than 20 rows a parameter, of half as many and at most 1000; see the user
    guide.
    With 'adam' and 'sgd', None and 'auto' are 200 rows, as in ``MLPRegressor``, and a number of N or more is all rows;
    L-BFGS always uses all.
batch_memory : int, 'auto' or None, default='auto'
""",
    holdout="""
early_stopping : bool or 'auto', default='auto'
    Hold out ``validation_fraction`` of the rows, stop when they no longer improve, and keep the model that was best on
    them. 'auto' does so where noise would be memorised and a search for ``alpha='auto'`` takes too long: from 2e9
    multiplications an iteration on (see ``batch_size``; whole weights count as rows), with fewer than a hundred rows
    (times outputs) a parameter, all equal rows together; not with a ``target_loss``, for linear models, modules and
    CNNs, an X that is read in pieces, and other optimizers. A number for ``alpha``, or False, trains on all rows.
""",
    starts="""
    'auto' takes four where that is cheap (N K P^2 up to 5e7 for N rows, K outputs and P parameters), else one; when
    the fit is growing, only the best of them goes beyond the first rows. Modules and CNNs start once. The others are
    compared by their leave-one-out loss (``loo_score_``) where it is known, otherwise by their objective. Where the
    search for ``alpha`` sees no noise, up to 28 further starts join the four and race; they count, and the objective
    decides, if the leave-one-out loss of the best is below 1e-7 of that of zero outputs. Where it sees noise, for
    ``hidden_layer_sizes='auto'`` and fewer than 32 rows (times outputs) a parameter, there are four up to
    N K P min(N K, P) = 1e8, and their mean is kept instead of the best if they end in different minima
    (``n_averaged_``).
""",
)
class LMRegressor(RegressorMixin, MultiOutputMixin, ErrorBars):
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
        Of a polynomial ``coefs_[0]`` are the coefficients of the products of columns, in the order of
        ``sklearn.preprocessing.PolynomialFeatures(degree, include_bias=False)``.
    intercepts_ : list of ndarray of shape (n_out,)
        Biases of each layer, likewise.
    loss_ : float
        Loss of the fitted model on the training rows without penalty: half the mean squared error in squared units of
        y, or the mean of another loss.
    loss_curve_ : ndarray of shape (n_iter_,)
        The same after every iteration; while the fit is growing, on the rows in use.
    damping_curve_ : ndarray of shape (n_iter_,) or None
        Damping after every iteration; None with another optimizer than 'lm', as is ``damping_``.
    validation_scores_ : ndarray of shape (n_iter_,) or None
        R^2 on the held-out rows after every iteration (of the standardised targets together when there are several),
        with ``early_stopping``; for another loss than the squared error its negative, of the scaled targets.
    best_validation_score_ : float or None
        The score there of the model that is kept; that may be what the fit began with, if nothing was better.
    loo_score_ : float or None
        Approximate leave-one-out R^2 on the training rows (as ``validation_scores_`` for other losses), by which starts
        are compared. Where sample weights are whole numbers they count equal rows, of which one is left out at a time;
        other weights are those of single rows. None with mini-batches, ``early_stopping``, a mask of parameters, solver
        'dual' or 'cg', another optimizer, where there are no more rows than parameters, and for a fit that ended at its
        ``target_loss``, short of a minimum.
    alpha_ : float
        The penalty of the fit.
    alpha_scores_ : dict of float to float, or None
        Mean loss of standardised targets on the rows left out, for every alpha that was tried with all columns alike;
        those well behind the best were given up early. ``alpha_`` may be another, where there is little noise (user
        guide, "Noisy data") or columns have a ``relevance_``. None where there was no search.
    noise_std_ : float, ndarray of shape (n_outputs_,) for two-dimensional y, or None
        Standard deviation of the noise in units of y, of a row of mean weight: the residuals over the rows that the
        parameters leave. None where :meth:`predict` has no standard deviations, which says why: for another loss than
        the squared error, with mini-batches, rows held out, another optimizer, a mask of parameters, more than 1000 of
        them (500 with fewer rows than that), single precision, where less than two rows are left by the parameters, and
        for a fit that ended short of a minimum (not at ``max_iter``).
    covariance_ : ndarray of shape (n_parameters, n_parameters)
        Covariance of ``theta_`` by the curvature at the minimum, as that of ``scipy.optimize.curve_fit``; infinite for
        parameters that the rows do not determine. An AttributeError where there is no ``noise_std_``, or the network is
        the mean of several.
    relevance_ : ndarray of shape (n_features_in_,) or None
        Factor of each standardised column; None where all are alike. ``alpha_`` is for the weights of columns that have
        these factors.
    batch_size_ : int
        Rows of a step: those of the largest mini-batch, or all training rows.
    n_averaged_ : int
        Number of starts whose mean the network is: all that are not far behind where these ended in different minima
        (see ``n_init``), and the hidden layers are so many times as wide; otherwise 1.
    n_iter_ : int
        Iterations of the start that won.
    status_ : str
        Why it stopped: 'gradient', 'step', 'decrease', 'target', 'negligible' (next to nothing is
        left), 'exact', 'damping', 'max_iter', 'time', 'validation', 'interrupted', 'callback', 'derivative'
        (derivatives became infinite), 'stalled' (no step helps, yet the gradient is not zero) or 'diverged' (the steps
        of another optimizer than 'lm' were too long); after ``partial_fit`` 'one_step' or 'no_step'.
    message_ : str
        The same as a sentence.
    converged_ : bool
        False if a limit or a person ended the fit.
    damping_ : float or None
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

    _parameter_constraints: dict = {
        **BaseLM._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), Loss],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
    }

    _rival_rules = OF_NUMBERS
    _most_averaged = 2000  # a step with more takes most of a second

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LMRegressor:
        """Fit the network to (X, y).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. A read-only memory map of float64 is read in pieces and may exceed memory. For a ``CNN``
            also images (n_samples, channels, height, width).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; weight k counts as the row k times, weight 0 as no row. Error bars take weights for reciprocal
            variances.

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
        return self._fit(X, y, sample_weight)

    @available_if(has_partial_fit)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LMRegressor:
        """Take one Levenberg-Marquardt step on a batch of rows.

        The standardisation is that of the first batch. The step goes as far as the rows count beside those before (of
        ``batch_memory``); see the user guide, "Continuing a fit". One that would raise the objective of the batch is
        tried again with more damping, up to ten times.

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
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Return standard deviations, too: of new targets about the prediction, from the noise (``noise_std_``) and
            from what the training rows leave open. See the user guide, "Error bars".

        Returns
        -------
        y : float64 ndarray of shape (n_samples,) or (n_samples, n_outputs)
            As y was passed to ``fit``, in its units.
        y_std : float64 ndarray of the same shape
            With ``return_std=True``.

        Raises
        ------
        AttributeError
            With ``return_std=True``, if the fit has none; says why.
        """
        X = self._checked(X)
        result = self._fitted_loss.inverse_link(self._outputs(X))
        parts = [result, self._standard_deviations(X)] if return_std else [result]
        if self._flat_output:
            parts = [part[:, 0] for part in parts]
        return tuple(parts) if return_std else parts[0]

    def _compares_depths(self) -> bool:
        automatic = isinstance(self.hidden_layer_sizes, str) and self.architecture is None
        return automatic and not isinstance(self._selection(), Mask)

    def _is_affordable(self, n_rows: float, n_parameters: int) -> bool:
        return can_search_quickly(n_rows, n_parameters)

    def _fewer_units(self, n_units: float, shape: tuple[int, int, int], affords: Affords) -> tuple[int, ...] | None:
        fewer = super()._fewer_units(n_units, shape, affords)
        weighs = isinstance(self.relevance, str) and self.standardize in ("auto", True)
        if self.max_time is not None or not weighs:
            return fewer
        # a long search is better than none
        return fewer or most_units(FEWEST_UNITS, n_units, shape, _can_search_all)

    # -- targets ------------------------------------------------------------------------------------------------

    def _loss_object(self) -> Loss:
        loss = LOSSES[self.loss]() if isinstance(self.loss, str) else self.loss
        loss.validate()
        return loss

    def _make_loss(self, network: Network, n_rows: int, meaning: dict[str, Any]) -> Loss:
        return copy.deepcopy(self._loss_object())

    def _refuse_targets(self, y: Any) -> None:
        if y is not None:
            refuse_text_and_dates(y, "y")

    def _encode(
        self, y: np.ndarray, weights: np.ndarray, first: bool, classes: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        y = np.asarray(y, dtype=np.float64)
        if not np.isfinite(y).all():  # scikit-learn lets these pass among objects
            raise ValueError("y contains None or infinity; sklm needs finite numbers. Leave rows without a target out.")
        targets = y.reshape(len(y), -1)
        if not first and targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {targets.shape[1]} columns; the model was started with {self.n_outputs_}.")
        self._loss_object().check_targets(targets[weights > 0], first)
        if bool(are_counts(weights)) and weights.mean() >= NO_COUNTS:
            weights = weights / weights.mean()
        return targets, weights, {"_flat_output": y.ndim == 1 if first else self._flat_output}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        loss = LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss
        tags.target_tags.positive_only = any(getattr(loss, name, False) for name in ("positive_only", "non_negative"))
        return tags


def _can_search_all(n_rows: float, n_parameters: int) -> bool:
    """Whether a search is affordable, and all rows are taken in every step."""
    return can_search(n_rows, n_parameters) and linearisation(n_rows, n_parameters) <= DUAL_WORK


# the constructor is inherited, and only this class uses it directly: Python's message about a misspelt option names it
LMRegressor.__init__.__qualname__ = "LMRegressor.__init__"
