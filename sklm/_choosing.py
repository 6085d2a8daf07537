"""What the defaults choose: how many starts, whether and how penalties are searched, and when rows are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._base import AUTO_STARTS, LONG_STARTS
from ._mini_batches import MiniBatching
from ._penalty import (
    ENOUGH_ROWS,
    LEAST_COLUMNS,
    SEARCH_WORK,
    Folds,
    can_search,
    has_lags,
    linearisation,
    make_folds,
    searched_rows,
)
from ._training_set import TrainingSet
from .architectures import Architecture, Network
from .losses import Loss
from .optim import Growth, Mask, MiniBatches

#: ``n_init='auto'``: several starts where one linearisation of one of them takes at most so many multiplications
AUTO_WORK = 5e7
#: where the search for a penalty finds no noise, up to the second number of starts, and up to the first one over the
#: root of those multiplications: the fewer they are, the less a batch costs; further starts race, see ``RACE``
NOISELESS_WORK, NOISELESS_STARTS = 2.2e4, 32
#: of fits of classes for which fewer folds are left out than these, a start takes much of the time of the search
FOLDS_OF_QUICK_FITS = 3


@dataclass(frozen=True)
class Setting:
    """What a search for a penalty depends on.

    architecture, network, loss; data : TrainingSet; batches : MiniBatches or None; start : (P,) ndarray; seed : int;
    meaning : dict, of the targets
    """

    architecture: Architecture
    network: Network
    loss: Loss
    data: TrainingSet
    batches: MiniBatches | None
    start: np.ndarray
    seed: int
    meaning: dict[str, Any]

    @property
    def n_columns(self) -> int:
        """Curvature columns of a row."""
        return self.loss.curvature_columns(self.network.n_outputs)

    @property
    def far(self) -> np.ndarray | None:
        """Mask (N,) of the rows that are far outside, where columns have scales of their own."""
        return self.data.far if self.architecture.input_groups(self.data.X.shape[1]) is None else None


class Choosing(MiniBatching):
    """Rules behind 'auto', from the size of the problem."""

    #: whether ``n_init='auto'`` may mean several starts, of which the best is kept
    _auto_restarts = True
    #: ... and several, the mean of which may be kept: up to so many multiplications of a linearisation
    _averaged_work = 1e8

    #: whether ``alpha='auto'`` may mean a search
    _searches_alpha = True

    @property
    def _alpha_is_open(self) -> bool:
        return self.alpha == "cv" or (self._searches_alpha and self.alpha == "auto")

    def _folds(self, at: Setting) -> Folds | None:
        """Folds to search for alpha with; None where that is not wanted, or targets are constant.

        Raises
        ------
        ValueError
            If it is wanted and cannot be done.
        """
        asked, data, network = self.alpha == "cv", at.data, at.network
        obstacles = {
            "early_stopping=True, which has validation rows of its own": self._asks_to_hold_out,
            f"optimizer={self.optimizer!r}: it is for Levenberg-Marquardt only": not self._is_lm,
            "mini-batches, which batch_size='auto' means for long iterations (batch_size=None takes all rows)": (
                at.batches is not None
            ),
            "an X that is read in pieces": data.is_large,
            "a module that has no parameter but biases": not network.coefficient_mask.any(),
        }
        hindered = [reason for reason, present in obstacles.items() if present]
        if hindered and asked:
            raise ValueError(f"alpha='cv' cannot be used with {hindered[0]}. Give alpha as a number.")
        rows = data.n_units * at.n_columns
        suits = self._may_memorise(at.architecture, network, rows) and can_search(rows, network.n_parameters)
        if hindered or not (asked or suits) or not np.ptp(data.y, axis=0).any():
            return None
        folds = self._divided(at)
        if folds is None and asked:
            raise ValueError("alpha='cv' needs at least two different rows of X. Give alpha as a number.")
        return folds and self._with_candidates(folds, at)

    def _divided(self, at: Setting) -> Folds | None:
        """Folds of the rows that a search takes; None if all rows are equal."""
        most = int(np.ceil(searched_rows(len(at.start)) / at.n_columns))
        X, data = np.asarray(at.data.X), at.data
        in_order = data.strata is None and has_lags(X, data.y)
        return make_folds(X, at.start, most, at.n_columns, at.seed, data.strata, at.far, in_order)

    def _weighs(self, architecture: Architecture, network: Network, n_inputs: int) -> bool:
        """Whether columns may be weighed, where a penalty is searched for."""
        layers = architecture.restarts and network.input_weights is not None and self._scales(architecture)
        return isinstance(self.relevance, str) and layers and n_inputs >= LEAST_COLUMNS

    def _scales(self, architecture: Architecture) -> bool:
        """Whether inputs, and targets where the loss allows it, are standardised."""
        return bool(architecture.standardize if self.standardize == "auto" else self.standardize)

    def _may_memorise(self, architecture: Architecture, network: Network, rows: float) -> bool:
        """Whether noise is worth a guard against it: rows (times outputs) are few, and the loss has no target."""
        few = rows < ENOUGH_ROWS * network.n_parameters
        return architecture.restarts and self.target_loss is None and few

    @property
    def _asks_to_hold_out(self) -> bool:
        return not isinstance(self.early_stopping, str) and bool(self.early_stopping)

    def _holds_out(self, architecture: Architecture, network: Network, data: TrainingSet) -> bool:
        """Whether 'auto' means to hold rows out: where a search for a penalty takes too long, and none is given."""
        if not isinstance(self.early_stopping, str):
            return False
        rows, n_parameters = data.n_units * network.n_outputs, network.n_parameters
        long = linearisation(rows, n_parameters) > SEARCH_WORK
        if not (long and self.alpha == "auto" and self._is_lm and self._may_memorise(architecture, network, rows)):
            return False
        batches = self._batches(network, len(data.X), 0)
        searched = batches is None and can_search(rows, n_parameters)
        if searched or data.is_large or not np.ptp(data.y, axis=0).any():
            return False
        return data.obstacle_to_hold_out(self.validation_fraction, whole=True) is None

    def _with_candidates(self, folds: Folds, at: Setting) -> Folds:
        """The folds with the penalties to try, where these are not the usual ones."""
        return folds

    # -- starts -------------------------------------------------------------------------------------------------------

    def _growth(self, network: Network, n_samples: int, seed: int) -> Growth | None:
        if not self._grows(network, n_samples):
            return None
        return Growth(seed, finalists=1 if self.n_init == "auto" else None)

    def _n_starts(self, architecture: Architecture, network: Network, loss: Loss, n_samples: int) -> int:
        """Number of starts: what was asked for, or a few where a start on the first rows is cheap."""
        if self.growing is True and self._batches(network, n_samples, 0) is not None:
            raise ValueError("growing=True and batch_size exclude each other; leave growing='auto' or batch_size=None.")
        if self.n_init != "auto":
            return int(self.n_init)
        # random parameters are no place to freeze some of them
        several = architecture.restarts and self._auto_restarts and not isinstance(self._selection(), Mask)
        return AUTO_STARTS if several and self._start_work(network, loss, n_samples) <= AUTO_WORK else 1

    def _n_noiseless_starts(self, network: Network, loss: Loss, n_samples: int, n_starts: int) -> int:
        """Number of starts where there turns out to be no noise, and there would be ``n_starts`` otherwise."""
        if self.n_init != "auto" or n_starts == 1 or not self._auto_restarts:
            return n_starts
        work = self._start_work(network, loss, n_samples)
        return int(np.clip(NOISELESS_WORK / np.sqrt(work), n_starts, NOISELESS_STARTS))

    def _n_averaged(self, folds: Folds | None, n_starts: int, rows: float, n_parameters: int) -> int:
        """Number of starts whose mean, a wider network, may be kept; ``rows`` counts columns of curvature."""
        mine = self.n_init != "auto" or not isinstance(self.hidden_layer_sizes, str) or self.architecture is not None
        if mine or folds is None or self._selection() is not None:
            return 1
        if self._has_stages(rows, n_parameters) or linearisation(rows, n_parameters) > self._averaged_work:
            return 1
        if n_starts > 1 or self.max_time is not None:
            return n_starts
        return AUTO_STARTS if self._auto_restarts or folds.n_held_out >= FOLDS_OF_QUICK_FITS else LONG_STARTS

    def _has_stages(self, rows: float, n_parameters: int) -> bool:
        """Whether a growing fit takes fewer than all ``rows`` (times columns of curvature) at first."""
        return rows >= Growth.rows_per_parameter * Growth.factor * n_parameters

    def _start_work(self, network: Network, loss: Loss, n_samples: int) -> float:
        """Multiplications of a linearisation of the first rows."""
        rows: float = n_samples * loss.curvature_columns(network.n_outputs)
        if self._grows(network, n_samples):
            rows = min(rows, Growth.rows_per_parameter * network.n_parameters)
        return rows * network.n_parameters**2

    def _grows(self, network: Network, n_samples: int) -> bool:
        if self._make_optimizer() is not None:
            return False
        return self.growing is True or (self.growing == "auto" and self._batches(network, n_samples, 0) is None)
