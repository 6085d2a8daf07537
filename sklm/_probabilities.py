"""What a fitted classifier says of new rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from ._class_rules import ClassRules


class ClassProbabilities(ClassifierMixin, ClassRules):
    """Probabilities, and the labels that follow from them; ``_kind`` says what the targets were."""

    _kind: str

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        probability : float64 ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``; rows sum to one. For an indicator matrix the probability of every
            label, (n_samples, n_labels). With ``loss='squared_error'`` the outputs, cut to [0, 1] and divided by
            their sum: not calibrated.
        """
        check_is_fitted(self)
        outputs = self._linear_predictor(X)
        if self._fitted_loss.is_squared:
            probability = _as_probabilities(outputs, normalise=self._kind == "multiclass")
            return np.hstack([1 - probability, probability]) if self._kind == "binary" else probability
        return self._fitted_loss.inverse_link(np.hstack([-outputs, outputs]) if self._kind == "binary" else outputs)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithm of :meth:`predict_proba`, without its rounding of small probabilities to zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_probability : float64 ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
        """
        check_is_fitted(self)
        if self._fitted_loss.is_squared:
            return np.log(self.predict_proba(X))
        outputs = self._linear_predictor(X)
        if self._kind == "multiclass":
            outputs = outputs - outputs.max(axis=1, keepdims=True)
            return outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
        if self._kind == "binary":
            outputs = np.hstack([-outputs, outputs])
        return -np.logaddexp(0, -outputs)

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The most probable class, or an indicator matrix of the labels more probable than not.
        """
        probability = self.predict_proba(X)
        if self._kind == "multilabel":
            return (probability > 0.5).astype(int)
        return self.classes_[probability.argmax(axis=1)]


def _as_probabilities(outputs: np.ndarray, normalise: bool) -> np.ndarray:
    """Outputs (N, K) of a fit to zeros and ones, cut to [0, 1] and, for classes, divided by their sum."""
    eps = np.finfo(np.float64).eps
    cut = np.clip(outputs, eps, 1 - eps)
    if not normalise:
        return cut
    return cut / cut.sum(axis=1, keepdims=True)
