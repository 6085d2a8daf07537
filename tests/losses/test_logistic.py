"""Logistic loss: digits in the tails, and scikit-learn's logistic regression."""

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.linear_model import LogisticRegression

from sklm.losses import LogisticLoss

from ..problems import tensor
from .linear import fit_linear


def data(n_samples=150, n_outputs=1):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 3))
    logits = X @ rng.normal(size=(3, n_outputs)) + 0.3
    return X, (rng.uniform(size=logits.shape) < scipy.special.expit(logits)).astype(float)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_small_losses_keep_their_digits(target):
    margin = np.array([[[5.0, 30.0, 100.0, 700.0]]])
    outputs = tensor(margin if target else -margin)
    value = LogisticLoss().pointwise(outputs, torch.full((1, 4), target, dtype=torch.float64))
    np.testing.assert_allclose(value, np.log1p(np.exp(-margin)), rtol=1e-14)


def test_the_smallest_smoothed_loss_is_the_entropy_of_the_target():
    outputs = tensor([[[np.log(0.95 / 0.05)]]])
    y, weights = torch.ones((1, 1), dtype=torch.float64), torch.ones((1, 1), dtype=torch.float64)
    loss = LogisticLoss(label_smoothing=0.1)
    assert loss.gradient(outputs, y).abs() < 1e-15
    assert float(loss.value(outputs, y, weights)) == pytest.approx(-0.95 * np.log(0.95) - 0.05 * np.log(0.05))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_linear_model_is_scikit_learns(n_outputs):
    X, y = data(n_outputs=n_outputs)
    weights, alpha = np.random.default_rng(1).uniform(0.5, 2, len(X)), 0.02
    # the loss is a mean over outputs, the penalty is not
    coefficients, intercepts, _ = fit_linear(LogisticLoss(), X, y, weights=weights, alpha=alpha)
    for k in range(n_outputs):
        expected = LogisticRegression(C=1 / (alpha * n_outputs * weights.sum()), tol=1e-12, solver="newton-cholesky")
        expected.fit(X, y[:, k], weights)
        np.testing.assert_allclose(coefficients[k], expected.coef_[0], rtol=1e-6)
        np.testing.assert_allclose(intercepts[k], expected.intercept_[0], rtol=1e-6)


def test_inverse_link_is_accurate_in_both_tails():
    outputs = np.array([[-1e4, -700.0, -40.0, -1.0], [0.0, 1.0, 40.0, 1e4]])
    np.testing.assert_allclose(LogisticLoss().inverse_link(outputs), scipy.special.expit(outputs), rtol=1e-15)


def test_targets_are_probabilities():
    LogisticLoss().check_targets(np.array([[0.0], [0.3], [1.0]]))
    with pytest.raises(ValueError, match="between 0 and 1; they range from -1 to 2"):
        LogisticLoss().check_targets(np.array([[-1.0], [2.0]]))


@pytest.mark.parametrize("value", [-0.1, 1.0, "0.1", None, float("nan"), True])
def test_label_smoothing_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="label_smoothing must be at least 0 and below 1"):
        LogisticLoss(value).validate()
