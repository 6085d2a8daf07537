"""From class labels to the network's targets of zeros and ones, and what every class weighs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from ._arrays import refuse_masked


def is_indicator_matrix(y: Any) -> bool:
    """Whether y holds several labels a row; ValueError if it holds no labels at all."""
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass", "multilabel-indicator"):
        raise ValueError(
            f"Unknown label type: {kind}. LMClassifier needs class labels, or an indicator matrix of zeros and "
            "ones; use LMRegressor for continuous targets."
        )
    return kind == "multilabel-indicator"


def refuse_labels(y: Any) -> None:
    """Raise an error for labels that are missing or cannot be put in order.

    Raises
    ------
    ValueError
        If some are masked or None.
    TypeError
        If they are of types that do not compare.
    """
    refuse_masked(y, "y")
    listed = isinstance(y, list | tuple)
    lengths = {len(label) if isinstance(label, list | tuple | set) else 0 for label in y} if listed else set()
    if len(lengths) > 1:
        raise ValueError(
            "y holds lists of labels of different lengths. For several labels a row, pass an indicator matrix of zeros "
            "and ones: MultiLabelBinarizer().fit_transform(y)."
        )
    nested = listed and any(np.ndim(label) for label in y)
    array = np.empty(0) if nested or hasattr(y, "toarray") else np.asarray(y)
    if array.dtype != object or array.ndim != 1:
        return
    if any(label is None for label in array):
        raise ValueError("y holds None; every row needs a label. Leave these rows out.")
    if any(isinstance(label, float) and label != label for label in array):
        return  # scikit-learn says it
    try:
        sorted(set(array.tolist()))
    except TypeError:
        kinds = sorted({type(label).__name__ for label in array})
        raise TypeError(
            f"y holds labels of types that cannot be put in order: {', '.join(kinds)}. Make them alike, for example "
            "all strings."
        ) from None


def indicators(y: Any) -> np.ndarray:
    """Targets (N, K) from an indicator matrix, dense or sparse."""
    return np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)


def encode(y: Any, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes (K,) in sorted order, and the number (N,) of each label among them.

    Parameters
    ----------
    y : array-like of shape (N,)
    classes : sorted ndarray (K,) or None
        All labels that there are; None for those of y.

    Raises
    ------
    ValueError
        If there is one class only, or a label that is none of the classes.
    """
    y = column_or_1d(y, warn=True)
    if classes is None:
        classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes.tolist()[0]!r}; a classifier needs two classes or more.")
    unseen = np.setdiff1d(y, classes)
    if len(unseen):
        raise ValueError(f"y holds the labels {unseen[:5].tolist()!r}, which are not among the classes {classes!r}.")
    return classes, np.searchsorted(classes, y)


def counts_of_shares(weights: np.ndarray) -> np.ndarray:
    """Weights (N,) as numbers of rows: shares, which sum to less than two for several rows, get a mean of one."""
    total, number = weights.sum(), np.count_nonzero(weights)
    return weights / total * number if number > 1 and 0 < total < 2 else weights


def targets_of(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """One column (N, 1) for two classes, else one for every class (N, K)."""
    return codes[:, None].astype(np.float64) if n_classes == 2 else np.eye(n_classes)[codes]


def codes_of(targets: np.ndarray) -> np.ndarray:
    """Numbers (N,) of the classes: the inverse of :func:`targets_of`."""
    return targets.argmax(axis=1) if targets.shape[1] > 1 else targets[:, 0].astype(int)


def class_factors(class_weight: dict | str, classes: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Factor (K,) that every class is weighted by.

    Parameters
    ----------
    class_weight : dict or 'balanced'
        Factors by label, one where it is not named; or inversely proportional to the sum of weights of a class.
    classes : ndarray (K,)
    codes, weights : ndarray (N,)
        The rows' classes by number, and their sample weights.

    Raises
    ------
    ValueError
        If no label is one of the classes, or a factor negative or not finite. Where some are none, a warning.
    """
    if isinstance(class_weight, str):
        total = np.bincount(codes, weights, len(classes))
        share = np.count_nonzero(total) * total
        return np.divide(total.sum(), share, out=np.zeros(len(classes)), where=share > 0)
    labels = classes.tolist()
    unknown = [label for label in class_weight if label not in labels]
    if len(unknown) == len(class_weight) > 0:
        raise ValueError(f"class_weight names {unknown!r}, which are not among the classes {labels!r}.")
    if unknown:  # a fold may lack a rare class
        warnings.warn(
            f"class_weight names {unknown!r}, which are not among the classes {labels!r}; they are ignored.",
            UserWarning,
            stacklevel=6,
        )
    factors = np.array([class_weight.get(label, 1.0) for label in labels], dtype=np.float64)
    if not np.all(factors >= 0) or not np.all(np.isfinite(factors)):
        raise ValueError(f"class_weight must hold finite, non-negative numbers; got {class_weight!r}.")
    return factors
