"""LMClassifier."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from ._base import BaseLM
from ._docs import document
from ._labels import (
    class_factors,
    codes_of,
    counts_of_shares,
    encode,
    indicators,
    is_indicator_matrix,
    refuse_labels,
    targets_of,
)
from ._probabilities import ClassProbabilities
from ._rival import OF_CLASSES
from ._sklearn import Interval, StrOptions, _fit_context
from ._training import has_partial_fit


@document(
    activation="""
activation : {'auto', 'tanh', 'logistic', 'relu', 'softplus', 'elu', 'silu', 'sin', 'identity'}, default='auto'
    Activation of the hidden layers. Smooth ones suit the method. 'auto' is 'tanh', and 'softplus' where 'auto' or 'cv'
    leaves rows out for ``alpha`` and this one has at most 0.85 of the log-loss on them (``architecture_.activation``);
    a warm start keeps it.
""",
    loss="""
loss : {'log_loss', 'squared_error'}, default='log_loss'
    Cross entropy, or squared error on targets of zeros and ones.
""",
    alpha="""
alpha : float, 'auto' or 'cv', default='auto'
    Penalty ``alpha / 2 * |coefficients|^2`` with standardised inputs, per mean loss. One over the sum of the weights
    (the number of rows; of labels, for an indicator matrix) is the prior of ``LogisticRegression(C=1)``: every
    coefficient is normal with deviation one beforehand. A ``sample_weight`` that sums to less than two, such as that of
    AdaBoost, is scaled to a mean of one. 'auto' takes 0.3, 1, 3 or 10 times that, by the log-loss on rows left out, or
    down to 0.001 times that where the least of these is the best; where fits are long or in mini-batches, and for CNNs,
    up to 30 times that, by one fold. This takes two to 15 times as long as a fit with a number. It is just that without
    hidden layers, for modules, with ``early_stopping``, ``target_loss`` or another loss, with twenty rows a parameter
    in mini-batches, and in ``partial_fit``, for all rows so far. 'cv' always leaves rows out, and more of them, and
    begins with 0.1 times that, too; see the user guide.
""",
    batch="""
batch_size : int, 'auto' or None, default='auto'
    Rows of a step. None uses all; an integer trains on shuffled mini-batches of about that size and keeps the best
    full-data iterate. It changes the result. 'auto' takes mini-batches of half as many rows as there are parameters:
    for at least 20 rows a parameter where N K P^2 is above 4e9 (N rows, K outputs, P parameters), and, at most 1000 or
    N / 4 rows, for fewer where N P min(N, P) is; see the user guide.
    With 'adam' and 'sgd', None and 'auto' are 200 rows, as in ``MLPClassifier``, and a number of N or more is all rows;
    L-BFGS always uses all.
batch_memory : int, 'auto' or None, default='auto'
""",
    holdout="""
early_stopping : bool, default=False
    Hold out ``validation_fraction`` of the rows, stop when they no longer improve, and keep the model that was best on
    them.
""",
    starts="""
    'auto' is one; but after a search for ``alpha``, for 'auto' as ``hidden_layer_sizes``, fewer than 32 rows (times
    columns of curvature) a parameter and no ``max_time``, it is four, or two where few folds were left out as fits take
    long. Their mean is kept instead of the best if they end in different minima (``n_averaged_``).
""",
)
class LMClassifier(ClassProbabilities):
    """Neural-network classification trained by Levenberg-Marquardt on the exact curvature of the log-loss.

    Two classes, several classes, or several labels a row (an indicator matrix); labels of any type. Works in pipelines,
    grid searches and calibration; X needs no scaling.

    Parameters
    ----------
    {parameters}
    class_weight : dict, 'balanced' or None, default=None
        Weight of each class, times ``sample_weight``; 'balanced' is inversely proportional to the classes' frequencies.
    label_smoothing : float, default=0.0
        Share of the probability that the targets spread evenly over the classes.
    curvature : {'auto', 'exact', 'sampled', 'fisher'}, default='auto'
        How the Hessian of the log-loss of more than two classes enters: in full (as many columns a row as classes), by
        random mixtures of these columns (right in the mean), or by the empirical Fisher
        matrix (one column). 'auto' draws where the exact one is expensive, see the user guide.
    curvature_samples : int or 'auto', default='auto'
        Columns drawn a row. 'auto' is 2 for four and more classes where N K P^2 is above 2e9 (N rows, K classes, P
        parameters) and N between P and 2 P, else 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order; for an indicator matrix the numbers of its columns.
    loss_ : float
        Mean log-loss of the fitted model on the training rows (with label smoothing), without penalty.
    loss_curve_ : ndarray of shape (n_iter_,)
        The same after every iteration; while the fit is growing, on the rows in use.
    damping_curve_ : ndarray of shape (n_iter_,) or None
        Damping after every iteration; None with another optimizer than 'lm', as is ``damping_``.
    validation_scores_ : ndarray of shape (n_iter_,) or None
        Negative log-loss on the held-out rows after every iteration, with ``early_stopping=True``.
    best_validation_score_ : float or None
        The score there of the model that is kept; that may be what the fit began with, if nothing was better.
    loo_score_ : float or None
        Approximate negative leave-one-out log-loss on the training rows. None with mini-batches, drawn curvature,
        ``early_stopping`` and a mask as ``param_selection``, where there are no more rows (times classes) than
        parameters, and for a fit that ended at its ``target_loss``.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer for raw X. The last layer gives the log-odds of two classes or of each label, or the
        unnormalised log-probabilities of several classes. Of a polynomial ``coefs_[0]`` are the coefficients of the
        products of columns, in the order of ``sklearn.preprocessing.PolynomialFeatures(degree, include_bias=False)``.
    intercepts_ : list of ndarray of shape (n_out,)
    alpha_ : float
        The penalty of the fit.
    relevance_ : ndarray of shape (n_features_in_,) or None
        Factor of each standardised column; None where all are alike. ``alpha_`` is for the weights of columns that have
        these factors.
    alpha_scores_ : dict of float to float, or None
        Mean loss on rows left out with every penalty that was tried, before columns were weighed; those well behind the
        best one were not trained to the end. None where nothing was chosen.
    batch_size_ : int
        Rows of a step: those of the largest mini-batch, or all training rows.
    n_averaged_ : int
        Number of starts whose mean the network is: all that are not far behind where these ended in different minima
        (see ``n_init``), and the hidden layers are so many times as wide; otherwise 1.
    n_iter_ : int
        Iterations of the fit, without the search for a penalty.
    status_ : str
        Why it stopped: 'gradient', 'step', 'decrease', 'target', 'exact' (separable rows are fitted to rounding),
        'damping', 'max_iter', 'time', 'validation', 'interrupted', 'callback', 'derivative' (derivatives became
        infinite), 'stalled' (no step helps, yet the gradient is not zero) or 'diverged' (the steps of another
        optimizer than 'lm' were too long); after ``partial_fit`` 'one_step' or 'no_step'.
    message_ : str
        The same as a sentence.
    converged_ : bool
        False if a limit or a person ended the fit.
    damping_ : float or None
    theta_ : ndarray of shape (n_parameters,)
        Parameters as the optimiser sees them: for standardised inputs where ``standardize`` is on.
    x_mean_, x_inverse_scale_, y_mean_, y_scale_ : ndarray
        The standardisation of X; targets are not scaled.
    architecture_ : Architecture
    n_outputs_ : int
        Outputs of the network: 1 for two classes, else the number of classes or labels.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, if X had string column names

    See Also
    --------
    sklearn.neural_network.MLPClassifier : Larger networks, trained by Adam or L-BFGS.
    sklearn.linear_model.LogisticRegression : The same without hidden layers.

    Notes
    -----
    Minimises the weighted mean of ``-log p_y`` plus ``alpha / 2 |coefficients|^2``. The Gauss-Newton matrix is
    ``sum_n w_n J_n^T H_n J_n`` with the exact output Hessian ``H = diag(p) - p p^T = S S^T``,
    ``S = diag(sqrt p) - p sqrt(p)^T`` (Schraudolph 2002 calls it the generalised Gauss-Newton matrix). The default
    penalty keeps separable data from having no finite minimum.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklm import LMClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=False)
    >>> model = LMClassifier(hidden_layer_sizes=5, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.97)
    True
    """

    _parameter_constraints: dict = {
        **BaseLM._parameter_constraints,
        "loss": [StrOptions({"log_loss", "squared_error"})],
        "alpha": [Interval(Real, 0, None, closed="left"), StrOptions({"auto", "cv"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "curvature": [StrOptions({"auto", "exact", "sampled", "fisher"})],
        "curvature_samples": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    }

    _numeric_targets = False
    _rival_rules = OF_CLASSES

    def __init__(
        self,
        hidden_layer_sizes: Any = "auto",
        activation: str = "auto",
        *,
        architecture: Any = None,
        loss: Any = "log_loss",
        alpha: float | str = "auto",
        relevance: Any = "auto",
        optimizer: Any = "lm",
        damping: float = 1e-2,
        damping_strategy: Any = "gain_ratio",
        damping_scaling: Any = "auto",
        acceleration: Any = "auto",
        line_search: Any = None,
        acceptance: Any = None,
        n_dampings: int = 1,
        param_selection: Any = None,
        solver: str = "auto",
        batch_size: int | str | None = "auto",
        batch_memory: int | str | None = "auto",
        jacobian_max_rows: int | str | None = "auto",
        growing: bool | str = "auto",
        max_iter: int = 1000,
        max_time: float | None = None,
        target_loss: float | None = None,
        tol: float | str = "auto",
        n_iter_no_change: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        standardize: bool | str = "auto",
        init: str = "auto",
        n_init: int | str = "auto",
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        verbose: int = 0,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        curvature: str = "auto",
        curvature_samples: int | str = "auto",
    ):
        super().__init__(
            hidden_layer_sizes,
            activation,
            architecture=architecture,
            loss=loss,
            alpha=alpha,
            relevance=relevance,
            optimizer=optimizer,
            damping=damping,
            damping_strategy=damping_strategy,
            damping_scaling=damping_scaling,
            acceleration=acceleration,
            line_search=line_search,
            acceptance=acceptance,
            n_dampings=n_dampings,
            param_selection=param_selection,
            solver=solver,
            batch_size=batch_size,
            batch_memory=batch_memory,
            jacobian_max_rows=jacobian_max_rows,
            growing=growing,
            max_iter=max_iter,
            max_time=max_time,
            target_loss=target_loss,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            standardize=standardize,
            init=init,
            n_init=n_init,
            warm_start=warm_start,
            random_state=random_state,
            device=device,
            dtype=dtype,
            verbose=verbose,
        )
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.curvature = curvature
        self.curvature_samples = curvature_samples

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LMClassifier:
        """Fit the network to (X, y).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers. A read-only memory map of float64 is read in pieces and may exceed memory. For a ``CNN``
            also images (n_samples, channels, height, width).
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels of any type, or an indicator matrix of zeros and ones for several labels a row.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; weight k counts as the row k times, weight 0 as no row. Weights that sum to less than two, as
            shares do, are scaled to a mean of one.

        Returns
        -------
        self : LMClassifier

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
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> LMClassifier:
        """Take one Levenberg-Marquardt step on a batch of rows.

        The standardisation is that of the first batch. The step goes as far as the rows count beside those before (of
        ``batch_memory``); see the user guide, "Continuing a fit". One that would raise the objective of the batch is
        tried again with more damping, up to ten times.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
        classes : array-like of shape (n_classes,), optional
            All labels that will ever occur; needed in the first call, except for an indicator matrix.
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self : LMClassifier

        Raises
        ------
        ValueError
            If the data cannot be used, ``classes`` is missing or differs from the first call's, y has a label that is
            not in it, the architecture was changed since the first batch, or ``early_stopping`` is on.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                "partial_fit cannot balance classes that it has not seen yet; pass class_weight as a dict, or weights "
                "as sample_weight."
            )
        known = None if classes is None else unique_labels(classes)
        if hasattr(self, "theta_"):
            if known is not None and not np.array_equal(known, self.classes_):
                raise ValueError(f"classes={known!r} differs from the classes of the first call, {self.classes_!r}.")
            known = self.classes_
        elif known is None and type_of_target(y) != "multilabel-indicator":
            raise ValueError("classes must be passed on the first call to partial_fit: all labels that will occur.")
        return self._partial_fit(X, y, sample_weight, known)

    # -- targets ------------------------------------------------------------------------------------------------

    def _refuse_targets(self, y: Any) -> None:
        refuse_labels(y)

    def _encode(
        self, y: np.ndarray, weights: np.ndarray, first: bool, classes: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        weights = counts_of_shares(weights)
        if is_indicator_matrix(y):
            return self._encode_indicators(y, weights, first)
        if not first and self._kind == "multilabel":
            raise ValueError("y is one-dimensional; the model was started with an indicator matrix.")
        classes, codes = encode(y, classes)
        if self.class_weight is not None:
            weights = weights * class_factors(self.class_weight, classes, codes, weights)[codes]
        kind = "binary" if len(classes) == 2 else "multiclass"
        return targets_of(codes, len(classes)), weights, {"classes_": classes, "_kind": kind}

    def _encode_indicators(
        self, y: Any, weights: np.ndarray, first: bool
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        if self.class_weight is not None:
            raise ValueError("class_weight is for one label a row; pass sample_weight with an indicator matrix.")
        targets = indicators(y)
        if not first and (self._kind != "multilabel" or targets.shape[1] != self.n_outputs_):
            raise ValueError(
                f"y is an indicator matrix of {targets.shape[1]} labels; the model was started with {self.classes_!r}."
            )
        return targets, weights, {"classes_": np.arange(targets.shape[1]), "_kind": "multilabel"}

    def _strata(self, y: np.ndarray, meaning: dict[str, Any]) -> np.ndarray | None:
        return None if meaning["_kind"] == "multilabel" else meaning["classes_"][codes_of(y)]

    def _check_same_targets(self, previous: Any, meaning: dict[str, Any]) -> None:
        if previous._kind != meaning["_kind"] or not np.array_equal(previous.classes_, meaning["classes_"]):
            raise ValueError(
                f"warm_start needs the classes of the last fit, {previous.classes_.tolist()!r}; y holds "
                f"{meaning['classes_'].tolist()!r}."
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
