"""What the defaults of a classifier choose: loss and curvature, penalties to try, units, and mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from ._base import AUTO_UNITS, SEARCHING_ROWS, Affords, n_parameters_of, units_by_rows
from ._choosing import Setting
from ._mini_batches import LEAST_DUAL_BATCHES, MATRIX_ROWS_PER_PARAMETER
from ._penalty import LEAST_COLUMNS, Folds, can_climb, can_search_classes, for_classes, for_climbing
from ._prepared import Prepared
from ._training import Training
from ._training_set import TrainingSet
from .architectures import CNN, MLP, Architecture, Network
from .losses import LogisticLoss, Loss, SoftmaxCrossEntropy, SquaredError

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
#: ... but up to so many classes of many columns have fewer units, with which a search is affordable
FEW_CLASSES = 4
#: ... as long as they have no more than so many rows for each parameter of 20 units, if they are two
SEARCHING_ROWS_OF_TWO = 9.0
#: ... or, of so many rows that more units are better, columns are weighed with few, up to the first number, for the
#: second, which are fitted in mini-batches: of two classes from so many rows for each parameter of 20 units on, and for
#: each of theirs up to the fourth; of up to so many classes
FEW_UNITS, BROADER_UNITS, BROADER_ROWS_OF_TWO, MOST_BROADER_ROWS, BROADER_CLASSES = 15, 40, 6.0, 20.0, 6
#: ``curvature_samples='auto'``: two columns above so many multiplications, where that makes enough of them
TWO_COLUMNS_WORK = 2e9
#: ``alpha='cv'``: what the penalty of coefficients of deviation one is multiplied by
PRIOR_FACTORS = (10.0, 3.0, 1.0, 0.3, 0.1)
#: the same with 'auto'; what is tried while columns are weighed, times that: rarely more; and the least of all that, as
#: rows left out may all be right, with any certainty
AUTO_FACTORS, WEIGHED_FACTORS, LEAST_FACTOR = (10.0, 3.0, 1.0, 0.3), (1.0, 0.3, 0.1), 0.1
#: times the least of the first: tried where that one is the best, as it is where classes have sharp and clean limits
#: ... but not of fewer rows than this, which may all be right by chance
SMALLER_FACTORS, SMALLER_ROWS = (1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 300), 60


class ClassRules(Training):
    """Rules behind 'auto' where they are not those of regression; ``meaning['_kind']`` says what the targets are."""

    _auto_restarts = False
    _averaged_work = inf  # the search takes longer
    _smaller_batches = True
    _batch_share = 0.5  # rows of images are what costs
    _searches_alpha = False
    _searching_rows = MATRIX_ROWS_PER_PARAMETER  # with more there are mini-batches, and no search

    def _is_affordable(self, n_rows: float, n_parameters: int) -> bool:
        return can_search_classes(n_rows, n_parameters)

    def _auto_sizes(self, n_units: float, shape: tuple[int, int, int], affords: Affords | None) -> tuple[int, ...]:
        n_samples, n_inputs, n_outputs = shape
        if n_outputs == 1:
            return super()._auto_sizes(n_units, shape, affords)
        if n_inputs == 1 or not self._is_lm:
            return (AUTO_UNITS,)
        # more units memorise wrong labels where every class has outputs of its own, but for a penalty or many rows
        few = MLP((AUTO_UNITS,)).build(n_inputs, n_outputs)
        if affords is not None:
            if self._batches(few, n_samples, 0) is None and affords(n_samples, few.n_parameters):
                return (AUTO_UNITS,)
            fewer = self._fewer_units(n_units, shape, affords)
            if fewer is not None:
                return fewer
        return self._many_units(n_units, shape)

    def _many_units(self, n_units: float, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Sizes of hidden layers for more rows than a search takes."""
        n_samples, n_inputs, n_outputs = shape
        if n_outputs == 1:
            return (units_by_rows(n_units),)
        units = units_by_rows(n_units, MOST_CLASSES_UNITS)
        many = MLP((units,)).build(n_inputs, n_outputs)
        few_rows = n_samples <= MOST_ROWS_FOR_UNITS * many.n_parameters
        return (units,) if few_rows and self._batches(many, n_samples, 0) is not None else (AUTO_UNITS,)

    def _fewer_units(self, n_units: float, shape: tuple[int, int, int], affords: Affords) -> tuple[int, ...] | None:
        fewer = super()._fewer_units(n_units, shape, affords)
        if fewer is not None and fewer[0] <= FEW_UNITS and self._may_be_broader(n_units, shape):
            return fewer
        return None if self._are_many(n_units, shape) else fewer

    def _are_many(self, n_units: float, shape: tuple[int, int, int]) -> bool:
        """Whether rows, or classes, are so many that more units are better than a search."""
        most = SEARCHING_ROWS_OF_TWO if shape[2] == 1 else SEARCHING_ROWS
        return n_units >= most * n_parameters_of(AUTO_UNITS, shape) or shape[2] > FEW_CLASSES

    def _may_be_broader(self, n_units: float, shape: tuple[int, int, int]) -> bool:
        """Whether columns may be weighed with few units, for more of them in mini-batches."""
        n_samples, n_inputs, n_outputs = shape
        weighs = isinstance(self.relevance, str) and self.standardize in ("auto", True) and n_inputs >= LEAST_COLUMNS
        least = BROADER_ROWS_OF_TWO * n_parameters_of(AUTO_UNITS, shape) if n_outputs == 1 else 0.0
        suits = weighs and self.loss == "log_loss" and self.max_time is None and n_outputs <= BROADER_CLASSES
        network = MLP((BROADER_UNITS,)).build(n_inputs, n_outputs)
        suits &= least <= n_units <= MOST_BROADER_ROWS * network.n_parameters
        return suits and self._batches(network, n_samples, 0) is not None

    def _is_first_of_two(self, architecture: Architecture, data: TrainingSet, meaning: dict[str, Any]) -> bool:
        """Whether units are few because columns are to be weighed with them."""
        if not isinstance(self.hidden_layer_sizes, str) or self.architecture is not None:
            return False
        few = isinstance(architecture, MLP) and architecture.hidden_layer_sizes[0] <= FEW_UNITS
        few &= meaning["_kind"] != "multilabel"
        return few and self._may_be_broader(data.n_units, data.shape)

    def _with_others(self, fit: Prepared, data: TrainingSet, meaning: dict[str, Any], seed: int) -> Prepared:
        weighs = fit.folds is not None and fit.folds.weighs
        few = not weighs and self._is_first_of_two(fit.core["architecture_"], data, meaning)
        if few and self._are_many(data.n_units, data.shape):  # nothing says which columns matter
            sizes = self._many_units(data.n_units, data.shape)
            fit = self._prepared(data, meaning, None, self._own_copy(MLP(sizes)), seed)
        return super()._with_others(fit, data, meaning, seed)

    def _broader(
        self, fit: Prepared, data: TrainingSet, meaning: dict[str, Any], seed: int
    ) -> Callable[[Prepared], Prepared] | None:
        weighs = fit.folds is not None and fit.folds.weighs
        if not weighs or not self._is_first_of_two(fit.core["architecture_"], data, meaning):
            return None

        def broader(one: Prepared) -> Prepared:
            chosen = MLP((BROADER_UNITS,), one.core["architecture_"].activation)
            unknown = one.core["relevance_"] is None  # as if nobody had asked
            if unknown:
                chosen = MLP(self._many_units(data.n_units, data.shape))
            fit = self._prepared(data, meaning, None, self._own_copy(chosen), seed, like=one)
            return replace(fit, n_averaged=fit.n_averaged if unknown else 1, watcher=one.watcher)

        return broader

    def _make_loss(self, network: Network, n_rows: int, meaning: dict[str, Any]) -> Loss:
        if self.loss != "log_loss":
            return self._squared_error()
        loss = self._cross_entropy(network, n_rows) if meaning["_kind"] == "multiclass" else self._logistic_loss()
        loss.validate()
        return loss

    def _squared_error(self) -> SquaredError:
        changed = {
            "label_smoothing": self.label_smoothing != 0,
            "curvature": self.curvature != "auto",
            "curvature_samples": self.curvature_samples != "auto",
        }
        ignored = [name for name, differs in changed.items() if differs]
        if ignored:
            raise ValueError(f"{' and '.join(ignored)} would be ignored with loss={self.loss!r}; use 'log_loss'.")
        return SquaredError()

    def _logistic_loss(self) -> LogisticLoss:
        if self.curvature in ("sampled", "fisher"):
            raise ValueError(
                f"curvature={self.curvature!r} is for more than two classes; the exact curvature of two, or of "
                "several labels a row, costs no more. Use 'auto' or 'exact'."
            )
        if self.curvature_samples != "auto":
            raise ValueError(
                f"curvature_samples={self.curvature_samples} would be ignored: it is for more than two classes and one "
                "label a row. Leave it at 'auto'."
            )
        return LogisticLoss(self.label_smoothing)

    def _cross_entropy(self, network: Network, n_rows: int) -> SoftmaxCrossEntropy:
        curvature = self._curvature(network, n_rows) if self.curvature == "auto" else self.curvature
        if self.curvature_samples != "auto":
            self._check_samples(network.n_outputs)
        if curvature == "sampled" and self._solver_name() == "qr":
            raise ValueError(
                "curvature='sampled' cannot be used with solver='qr'; use solver='cholesky' or 'eigh', or "
                "curvature='exact'."
            )
        return SoftmaxCrossEntropy(self.label_smoothing, curvature, self._n_drawn(network, n_rows))

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
        # a linear network is LogisticRegression(C=1), and of modules nothing is known
        known = architecture.restarts or isinstance(architecture, CNN)
        suits = known and self.alpha == "auto" and self.loss == "log_loss"
        plain = self._is_lm and self.target_loss is None and self._selection() is None
        return suits and plain and not self._asks_to_hold_out and not data.is_large

    def _folds(self, at: Setting) -> Folds | None:
        if self.alpha == "cv":
            return super()._folds(at)
        data, batches = at.data, at.batches
        if not self._may_search(at.architecture, data):
            return None
        rows, n_parameters = len(data.X) * at.n_columns, at.network.n_parameters
        whole = batches is None or self._is_first_of_two(at.architecture, data, at.meaning)
        if whole and at.architecture.restarts and can_search_classes(rows, n_parameters):
            folds = for_classes(self._divided(at), at.n_columns)
        elif can_climb(len(data.X), rows, n_parameters, batches):
            folds = for_climbing(
                np.asarray(data.X), at.start, batches, LEAST_DUAL_BATCHES, at.seed, data.strata, at.far
            )
        else:
            return None
        # equal rows are left out together, but of nearly equal ones some stay, and nothing is learned of new ones
        if folds is None or folds.twins:
            return None
        prior = self._prior_of(folds, at)
        if folds.climbs:
            return replace(folds, alphas=np.array([prior]))
        alphas, least = prior * np.array(AUTO_FACTORS), prior * LEAST_FACTOR
        return replace(folds, alphas=alphas, factors=WEIGHED_FACTORS, least_alpha=least, smaller=_smaller(folds))

    def _with_candidates(self, folds: Folds, at: Setting) -> Folds:
        # one confident error may outweigh a fold: all rows have to be left out once
        alphas = self._prior_of(folds, at) * np.array(PRIOR_FACTORS)
        return replace(folds, n_held_out=int(folds.of_row.max()) + 1, alphas=alphas, smaller=_smaller(folds))

    def _prior_of(self, folds: Folds, at: Setting) -> float:
        """The penalty of coefficients of deviation one for the rows of folds: what these take the place of counts."""
        return self._prior_penalty(at.data, at.meaning) * len(at.data.X) / len(folds.rows)

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


def _smaller(folds: Folds) -> tuple[float, ...]:
    """Factors of penalties below all others that may be tried."""
    return SMALLER_FACTORS if len(folds.rows) >= SMALLER_ROWS else ()
