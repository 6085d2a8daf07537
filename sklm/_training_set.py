"""Validated training data, and what the engine is told about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from ._arrays import RowView, Scaling, far_outside, float_blocks, sorted_rows, standard_scaling
from ._waves import MOST_POINTS, Waves, find_waves
from .architectures import Inputs
from .optim._memory import available_bytes
from .optim._problem import are_counts

#: weights that differ by more than this do not weigh rows where columns are scaled
MOST_UNEQUAL = 100.0
#: ... but those below this share of their median
NO_WEIGHT = 1e-6


@dataclass
class TrainingSet:
    """Validated training data.

    X : (N, F) float ndarray, raw; y : (N, K) float64 ndarray, encoded; weights : (N,) float64, positive; strata : (N,)
    ndarray or None, what a hold-out should keep the shares of.
    """

    X: np.ndarray | RowView
    y: np.ndarray
    weights: np.ndarray
    strata: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples, inputs and outputs."""
        return (*self.X.shape, self.y.shape[1])

    @property
    def scaling_weights(self) -> np.ndarray:
        """Weights (N,) for means and deviations: ones where they differ too much.

        Reciprocal variances over decades would scale by a few exact rows, and put all others far outside. Next to
        nothing is no weight.
        """
        if self.weights.max() <= MOST_UNEQUAL * self.weights.min():
            return self.weights
        share = self.weights / np.median(self.weights)
        return np.where(share > NO_WEIGHT, 1.0, share)

    @cached_property
    def scaling(self) -> Scaling:
        """Means and deviations of the columns of X."""
        return standard_scaling(self.X, self.scaling_weights)

    @cached_property
    def far(self) -> np.ndarray:
        """Mask (N,) of the rows that are far outside; of large X nobody looks."""
        if self.is_large:
            return np.zeros(len(self.X), dtype=bool)
        return far_outside(np.asarray(self.X), self.scaling_weights, self.scaling)

    @cached_property
    def waves(self) -> Waves | None:
        """The waves that a curve consists of; None if it does not."""
        x, Y = self.scaling.apply(np.asarray(self.X)), standard_scaling(self.y, self.scaling_weights).apply(self.y)
        some = np.random.default_rng(0).permutation(len(x))[:MOST_POINTS] if len(x) > MOST_POINTS else slice(None)
        found = find_waves(x[some, 0], Y[some], self.weights[some])
        return None if found is None else found.times(self.scaling.scale[0])

    def take(self, index: np.ndarray) -> TrainingSet:
        """Rows ``index``; large X are not copied."""
        X = RowView(self.X, index) if self.is_large else self.X[index]
        strata = None if self.strata is None else self.strata[index]
        return replace(self, X=X, y=self.y[index], weights=self.weights[index], strata=strata)

    def without_zero_weights(self) -> TrainingSet:
        """Leave out the rows that do not count."""
        return self if np.all(self.weights > 0) else self.take(np.flatnonzero(self.weights > 0))

    @cached_property
    def which_distinct(self) -> np.ndarray:
        """Number (N,) of the different row of X that each row is; their own numbers where all differ."""
        distinct, which = np.unique(np.asarray(self.X), axis=0, return_inverse=True)
        return np.arange(len(which)) if len(distinct) == len(which) else which.reshape(-1)

    def obstacle_to_hold_out(self, fraction: float, whole: bool = False) -> str | None:
        """Why rows cannot be divided into such a fraction for validation and others for training; None if they can."""
        n_samples = int(self.which_distinct.max()) + 1 if whole else len(self.X)
        n_held = int(np.ceil(fraction * n_samples))
        least = 2 if self.strata is None else len(np.unique(self.strata))
        if n_held < least or n_samples - n_held < max(1, least - 1):
            return (
                f"early_stopping with validation_fraction={fraction} leaves {n_held} of n_samples={n_samples} rows for "
                f"validation and {n_samples - n_held} for training; at least {least} and {max(1, least - 1)} are "
                "needed. Change validation_fraction or pass more rows."
            )
        if self.strata is not None:
            values, counts = np.unique(self.strata, return_counts=True)
            if counts.min() < 2:
                return (
                    f"early_stopping divides the rows of every class and needs two or more of each; class "
                    f"{values.tolist()[counts.argmin()]!r} has one. Leave the class out or set early_stopping=False."
                )
        return None

    def hold_out(self, fraction: float, seed: int, whole: bool = False) -> tuple[TrainingSet, TrainingSet]:
        """Split into rows for training and for validation; ``whole`` keeps equal rows of X together (without strata).

        Raises
        ------
        ValueError
            If either part would be too small.
        """
        obstacle = self.obstacle_to_hold_out(fraction, whole)
        if obstacle is not None:
            raise ValueError(obstacle)
        which = self.which_distinct if whole else np.arange(len(self.X))
        n_samples = int(which.max()) + 1
        n_held = int(np.ceil(fraction * n_samples))
        strata = None if whole else self.strata
        _, held = train_test_split(np.arange(n_samples), test_size=n_held, random_state=seed, stratify=strata)
        is_held = np.isin(which, held)
        return self.take(np.flatnonzero(~is_held)), self.take(np.flatnonzero(is_held))

    @property
    def n_units(self) -> float:
        """Rows, or the sum of weights that count equal rows."""
        return float(self.weights.sum()) if bool(are_counts(self.weights)) else len(self.weights)

    @property
    def is_large(self) -> bool:
        """Whether X is read in pieces instead of being copied."""
        return self.X.nbytes > available_bytes(torch.device("cpu")) // 4

    def standardised(self, x: Scaling, dtype: torch.dtype, samples_first: bool) -> torch.Tensor:
        """Standardised inputs (F, N), written block by block so that only one copy of X exists.

        With ``samples_first`` the result is a view of (N, F).
        """
        numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        result = np.empty((len(self.X), self.X.shape[1]) if samples_first else self.X.shape[::-1], dtype=numpy_dtype)
        rows_first = result if samples_first else result.T
        for rows, block in float_blocks(self.X):
            rows_first[rows] = x.apply(block, out=block)
        return torch.from_numpy(result).mT if samples_first else torch.from_numpy(result)

    @cached_property
    def _sorted_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Order (N,) of the rows by their values, and their cumulative shares (N,) of the weight in it."""
        order = sorted_rows(self.X)
        cumulative = np.cumsum(self.weights[order])
        return order, cumulative / cumulative[-1]

    def inputs(self, x: Scaling) -> Inputs:
        """What starts may know: ranges of the standardised columns, and rows drawn by their weight.

        Neither the order of the rows nor whether equal ones are repeated or weighted makes a difference to the draw.
        """
        low, high = x.apply(x.low[None])[0], x.apply(x.high[None])[0]

        def rows(quantile: np.ndarray) -> np.ndarray:
            order, cumulative = self._sorted_rows
            drawn = np.minimum(np.searchsorted(cumulative, quantile, side="right"), len(cumulative) - 1)
            return x.apply(np.asarray(self.X[order[drawn]], dtype=np.float64))

        return Inputs(low, high, len(self.X), rows)
