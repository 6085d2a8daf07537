"""LMClassifier."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from ._base import AUTO_UNITS, BaseLM, units_by_rows
from ._docs import document
from ._labels import class_factors, codes_of, counts_of_shares, encode, indicators, is_indicator_matrix, targets_of
from ._mini_batches import LEAST_DUAL_BATCHES, MATRIX_ROWS_PER_PARAMETER
from ._penalty import Folds, can_climb, can_search_classes, for_classes, for_climbing
from ._probabilities import ClassProbabilities
from ._sklearn import Interval, StrOptions, _fit_context
from ._training import has_partial_fit
from ._training_set import TrainingSet
from .architectures import MLP, Architecture, Network
from .losses import LogisticLoss, Loss, SoftmaxCrossEntropy, SquaredError
from .optim import MiniBatches

#: ``tol='auto'`` of MLPs and CNNs: the log-loss of fitted rows goes on falling when that of new ones does not
CLASSIFIER_TOL = 1e-2
#: ``curvature='auto'``: exact up to this many multiplications of a linearisation, ...
EXACT_WORK = 3e8
#: ... and up to the first number where drawn columns would be fewer than so many for every parameter, or the second
#: where they would be fewer than parameters: steps are then solved in their space, which is quick
FEW_ROWS_WORK, FEWER_ROWS_WORK, DRAWN_ROWS_PER_PARAMETER = 2e10, 2.5e9, 2
#: ``batch_size='auto'``: mini-batches where a linearisation of all rows takes more multiplications than the first, or,
#: with several outputs and fewer rows than parameters, the second
BATCHED_WORK, BATCHED_FEW_WORK = 4e9, 1e9
#: ``hidden_layer_sizes='auto'`` where more than two classes are fitted in mini-batches: at most so many units, where
#: there are no more rows a parameter than the second number
MOST_CLASSES_UNITS, MOST_ROWS_FOR_UNITS = 100, 7
#: ``curvature_samples='auto'``: two columns above so many multiplications, where that makes enough of them
TWO_COLUMNS_WORK = 2e9
#: ``alpha='cv'``: what the penalty of coefficients of deviation one is multiplied by
PRIOR_FACTORS = (10.0, 3.0, 1.0, 0.3, 0.1)
#: the same with 'auto'; what is tried while columns are weighed, times that: rarely more; and the least of all that, as
#: rows left out may all be right, with any certainty
AUTO_FACTORS, WEIGHED_FACTORS, LEAST_FACTOR = (10.0, 3.0, 1.0, 0.3), (1.0, 0.3, 0.1), 0.1
#: times the least of the first: tried where that one is the best, as it is where classes have sharp and clean limits
SMALLER_FACTORS = (1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 300)


@document(
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
    down to 0.001 times that where the least of these is the best; where fits are long or in mini-batches, up to 30
    times that, by one fold. This takes two to 15 times as long as a fit with a number. It is just that without hidden
    layers, for CNNs and modules, with ``early_stopping``, ``target_loss`` or another loss, with twenty rows a parameter
    in mini-batches, and in ``partial_fit``, where the rows are those of the batch: give a number there. 'cv' always
    leaves rows out, and more of them, and begins with 0.1 times that, too; see the user guide.
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
        The score there of the model that is kept.
    loo_score_ : float or None
        Approximate negative leave-one-out log-loss on the training rows. None with mini-batches, drawn curvature,
        ``early_stopping`` and a mask as ``param_selection``, where there are no more rows (times classes) than
        parameters, and for a fit that ended at its ``target_loss``.
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weights of each layer for raw X. The last layer gives the log-odds of two classes or of each label, or the
        unnormalised log-probabilities of several classes.
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
    _auto_restarts = False
    _averaged_work = inf  # the search takes longer
    _smaller_batches = True
    _batch_share = 0.5  # rows of images are what costs
    _searches_alpha = False
    _searching_rows = MATRIX_ROWS_PER_PARAMETER  # with more there are mini-batches, and no search

    def __init__(
        self,
        hidden_layer_sizes: Any = "auto",
        activation: str = "tanh",
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

        The standardisation is that of the first batch; the damping is carried over. A step that would raise the
        objective of the batch is tried again with more damping, up to ten times.

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

    def _is_affordable(self, n_rows: float, n_parameters: int) -> bool:
        return not isinstance(self.relevance, str) or can_search_classes(n_rows, n_parameters)

    def _auto_sizes(self, n_units: float, shape: tuple[int, int, int]) -> tuple[int, ...]:
        n_samples, n_inputs, n_outputs = shape
        if n_outputs == 1:
            return super()._auto_sizes(n_units, shape)
        if n_inputs == 1 or not self._is_lm:
            return (AUTO_UNITS,)
        # more units memorise wrong labels where every class has outputs of its own, but for a penalty or many rows
        few, affords = MLP((AUTO_UNITS,)).build(n_inputs, n_outputs), self._affords()
        whole = self._batches(few, n_samples, 0) is None
        if whole and affords is not None and affords(n_samples, few.n_parameters):
            return (AUTO_UNITS,)
        units = units_by_rows(n_units, MOST_CLASSES_UNITS)
        many = MLP((units,)).build(n_inputs, n_outputs)
        few_rows = n_samples <= MOST_ROWS_FOR_UNITS * many.n_parameters
        return (units,) if few_rows and self._batches(many, n_samples, 0) is not None else (AUTO_UNITS,)

    def _strata(self, y: np.ndarray, meaning: dict[str, Any]) -> np.ndarray | None:
        return None if meaning["_kind"] == "multilabel" else meaning["classes_"][codes_of(y)]

    def _check_same_targets(self, previous: Any, meaning: dict[str, Any]) -> None:
        if previous._kind != meaning["_kind"] or not np.array_equal(previous.classes_, meaning["classes_"]):
            raise ValueError(
                f"warm_start needs the classes of the last fit, {previous.classes_.tolist()!r}; y holds "
                f"{meaning['classes_'].tolist()!r}."
            )

    def _make_loss(self, network: Network, n_rows: int, meaning: dict[str, Any]) -> Loss:
        several = meaning["_kind"] == "multiclass"
        loss: Loss
        if self.loss != "log_loss":
            changed = {
                "label_smoothing": self.label_smoothing != 0,
                "curvature": self.curvature != "auto",
                "curvature_samples": self.curvature_samples != "auto",
            }
            ignored = [name for name, differs in changed.items() if differs]
            if ignored:
                raise ValueError(f"{' and '.join(ignored)} would be ignored with loss={self.loss!r}; use 'log_loss'.")
            return SquaredError()
        elif several:
            curvature = self._curvature(network, n_rows) if self.curvature == "auto" else self.curvature
            if self.curvature_samples != "auto":
                self._check_samples(network.n_outputs)
            if curvature == "sampled" and self._solver_name() == "qr":
                raise ValueError(
                    "curvature='sampled' cannot be used with solver='qr'; use 'cholesky', 'eigh' or 'exact'."
                )
            loss = SoftmaxCrossEntropy(self.label_smoothing, curvature, self._n_drawn(network, n_rows))
        elif self.curvature in ("sampled", "fisher"):
            raise ValueError(
                f"curvature={self.curvature!r} is for more than two classes; the exact curvature of two, or of "
                "several labels a row, costs no more. Use 'auto' or 'exact'."
            )
        elif self.curvature_samples != "auto":
            raise ValueError(
                f"curvature_samples={self.curvature_samples} would be ignored: it is for more than two classes and one "
                "label a row. Leave it at 'auto'."
            )
        else:
            loss = LogisticLoss(self.label_smoothing)
        loss.validate()
        return loss

    def _check_samples(self, n_classes: int) -> None:
        if self.curvature in ("exact", "fisher"):
            raise ValueError(
                f"curvature_samples={self.curvature_samples} would be ignored with curvature={self.curvature!r}; use "
                "'auto' or 'sampled', or leave curvature_samples='auto'."
            )
        if int(self.curvature_samples) > n_classes:
            raise ValueError(
                f"curvature_samples={self.curvature_samples} are more columns than the exact curvature of {n_classes} "
                "classes has; use curvature='exact'."
            )

    def _auto_tol(self, architecture: Architecture) -> float:
        return max(architecture.tol, CLASSIFIER_TOL) if architecture.standardize else architecture.tol

    def _penalty(self, data: TrainingSet, meaning: dict[str, Any]) -> float:
        if not isinstance(self.alpha, str):
            return float(self.alpha)
        return self._prior_penalty(data, meaning)

    def _prior_penalty(self, data: TrainingSet, meaning: dict[str, Any]) -> float:
        """Penalty of coefficients of deviation one beforehand."""
        # the loss of several labels is their mean
        return 1 / (float(data.weights.sum()) * (data.y.shape[1] if meaning["_kind"] == "multilabel" else 1))

    def _may_search(self, architecture: Architecture, data: TrainingSet) -> bool:
        """Whether ``alpha='auto'`` means a search, were there time for it."""
        # MLPs only: a linear one is LogisticRegression(C=1), CNNs gained nothing, and of modules nothing is known
        suits = self.alpha == "auto" and self.loss == "log_loss" and architecture.restarts
        plain = self._is_lm and self.target_loss is None and self._selection() is None
        return suits and plain and not self._asks_to_hold_out and not data.is_large

    def _folds(
        self,
        architecture: Architecture,
        network: Network,
        loss: Loss,
        data: TrainingSet,
        batches: MiniBatches | None,
        start: np.ndarray,
        seed: int,
        meaning: dict[str, Any],
    ) -> Folds | None:
        if self.alpha == "cv":
            return super()._folds(architecture, network, loss, data, batches, start, seed, meaning)
        if not self._may_search(architecture, data):
            return None
        n_columns = loss.curvature_columns(network.n_outputs)
        rows, n_parameters = len(data.X) * n_columns, network.n_parameters
        if batches is None and can_search_classes(rows, n_parameters):
            folds = for_classes(self._divided(data, n_columns, start, seed), n_columns)
        elif can_climb(len(data.X), rows, n_parameters, batches):
            folds = for_climbing(np.asarray(data.X), start, batches, LEAST_DUAL_BATCHES, seed, data.strata)
        else:
            return None
        # equal rows are left out together, but of nearly equal ones some stay, and nothing is learned of new ones
        if folds is None or folds.twins:
            return None
        prior = self._prior_of(folds, data, meaning)
        if folds.climbs:
            return replace(folds, alphas=np.array([prior]))
        alphas, least = prior * np.array(AUTO_FACTORS), prior * LEAST_FACTOR
        return replace(folds, alphas=alphas, factors=WEIGHED_FACTORS, least_alpha=least, smaller=SMALLER_FACTORS)

    def _with_candidates(self, folds: Folds, data: TrainingSet, meaning: dict[str, Any]) -> Folds:
        # one confident error may outweigh a fold: all rows have to be left out once
        alphas = self._prior_of(folds, data, meaning) * np.array(PRIOR_FACTORS)
        return replace(folds, n_held_out=int(folds.of_row.max()) + 1, alphas=alphas, smaller=SMALLER_FACTORS)

    def _prior_of(self, folds: Folds, data: TrainingSet, meaning: dict[str, Any]) -> float:
        """The penalty of coefficients of deviation one for the rows of folds: what these take the place of counts."""
        return self._prior_penalty(data, meaning) * len(data.X) / len(folds.rows)

    def _most_work(self, network: Network, n_samples: int) -> float:
        few = network.n_outputs > 1 and n_samples < network.n_parameters
        return BATCHED_FEW_WORK if few else BATCHED_WORK

    def _columns(self, network: Network) -> int:
        if self.loss != "log_loss" or self.curvature == "exact" or network.n_outputs == 1:
            return network.n_outputs
        return 1 if self.curvature_samples == "auto" else min(int(self.curvature_samples), network.n_outputs)

    def _n_drawn(self, network: Network, n_rows: int) -> int:
        """Columns that are drawn a row, if any: two where one would make too few, and all many more."""
        if self.curvature_samples != "auto":
            return int(self.curvature_samples)
        long = self._exact_work(network, n_rows) > TWO_COLUMNS_WORK and network.n_outputs >= 4
        few = network.n_parameters <= n_rows < DRAWN_ROWS_PER_PARAMETER * network.n_parameters
        return 2 if long and few else 1

    def _exact_work(self, network: Network, n_rows: int) -> float:
        """Multiplications of a linearisation with the exact curvature."""
        return n_rows * network.n_outputs * network.n_parameters**2

    def _curvature(self, network: Network, n_rows: int) -> str:
        """Exact where that is cheap, or where drawn columns would be too few for the number of parameters."""
        work = self._exact_work(network, n_rows)
        if self._solver_name() == "qr":  # cannot take a gradient beside its rows
            return "exact"
        drawn, n_parameters = n_rows * self._n_drawn(network, n_rows), network.n_parameters
        most = EXACT_WORK
        if drawn < DRAWN_ROWS_PER_PARAMETER * n_parameters:
            most = FEW_ROWS_WORK if drawn >= n_parameters else FEWER_ROWS_WORK
        return "exact" if work <= most else "sampled"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
