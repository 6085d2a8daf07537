import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklm.losses import SquaredError

from .. import reference
from ..problems import tensor

every_size = pytest.mark.parametrize(("n_models", "n_outputs"), [(1, 1), (3, 1), (1, 3), (3, 3)])
N_SAMPLES = 5


def setting(n_models, n_outputs):
    rng = np.random.default_rng(0)
    outputs = tensor(rng.normal(size=(n_models, n_outputs, N_SAMPLES)))
    y = tensor(rng.normal(size=(n_outputs, N_SAMPLES)))
    return outputs, y, rng


def plain(y):
    """Loss of every sample (B, n), written out."""
    return lambda outputs: ((outputs - y) ** 2).sum(-2) / (2 * y.shape[0])


@every_size
def test_value_is_the_weighted_sum_output_by_output(n_models, n_outputs):
    outputs, y, rng = setting(n_models, n_outputs)
    for shape in ((1, N_SAMPLES), (n_models, N_SAMPLES)):
        weights = tensor(rng.uniform(size=shape))
        value = SquaredError().value(outputs, y, weights)
        assert value.shape == (n_models, n_outputs)
        torch.testing.assert_close(value.sum(1), (plain(y)(outputs) * weights).sum(1), rtol=1e-12, atol=0)
        alone = (outputs[:, 0] - y[0]).square() * weights / (2 * n_outputs)
        torch.testing.assert_close(value[:, 0], alone.sum(1), rtol=1e-12, atol=0)


@every_size
def test_factor_and_residual_give_hessian_and_gradient(n_models, n_outputs):
    """S S^T and S z against autograd's second and first derivative of the loss."""
    outputs, y, rng = setting(n_models, n_outputs)
    loss = SquaredError()
    n_columns = loss.curvature_columns(n_outputs)
    factor = loss.factor(outputs, y).expand(n_models, n_outputs, n_columns, N_SAMPLES)
    residual = loss.residual(outputs, y)
    assert residual.shape == (n_models, n_columns, N_SAMPLES)

    def total(outputs):
        return plain(y)(outputs).sum()

    gradient = reference.jacobian(total, outputs)
    torch.testing.assert_close(torch.einsum("bkrn,brn->bkn", factor, residual), gradient, rtol=1e-12, atol=1e-15)
    hessian = torch.autograd.functional.hessian(total, outputs)  # (B, K, n, B, K, n)
    same = torch.einsum("bknbjn->bkjn", hessian)
    torch.testing.assert_close(torch.einsum("bkrn,bjrn->bkjn", factor, factor), same, rtol=1e-12, atol=1e-15)
    assert hessian.abs().sum() == pytest.approx(float(same.abs().sum()))  # samples and models do not interact

    direction = tensor(rng.normal(size=outputs.shape))
    expected = torch.einsum("bkjn,bjn->bkn", same, direction)
    torch.testing.assert_close(loss.hessian_product(outputs, y, direction), expected, rtol=1e-12, atol=1e-15)


def test_repeating_an_output_does_not_change_the_loss_or_its_curvature():
    """The mean over K: damping and alpha keep their meaning for any number of outputs."""
    outputs, y, rng = setting(2, 1)
    weights = tensor(rng.uniform(size=(1, N_SAMPLES)))
    loss = SquaredError()
    many, targets = outputs.expand(-1, 4, -1), y.expand(4, -1)
    torch.testing.assert_close(loss.value(many, targets, weights).sum(1), loss.value(outputs, y, weights).sum(1))
    torch.testing.assert_close(
        (loss.factor(many, targets).expand(2, 4, 4, N_SAMPLES) ** 2).sum((1, 2)),
        (loss.factor(outputs, y).expand(2, 1, 1, N_SAMPLES) ** 2).sum((1, 2)),
    )


def test_nothing_is_written_to():
    outputs, y, _ = setting(2, 3)
    weights = torch.full((1, N_SAMPLES), 0.5, dtype=torch.float64)
    copies = outputs.clone(), y.clone(), weights.clone()
    loss = SquaredError()
    loss.value(outputs, y, weights)
    loss.residual(outputs, y)
    loss.hessian_product(outputs, y, outputs)
    for tensors in zip((outputs, y, weights), copies, strict=True):
        assert torch.equal(*tensors)


def test_one_row_of_weights_or_targets_serves_every_model():
    outputs, y, _ = setting(3, 2)
    weights = torch.ones((1, N_SAMPLES), dtype=torch.float64)
    shared = SquaredError().value(outputs, y, weights)
    torch.testing.assert_close(
        SquaredError().value(outputs, y.expand(3, 2, N_SAMPLES), weights.expand(3, -1)), shared, rtol=1e-14, atol=0
    )


def test_report_weights_are_squared_units():
    torch.testing.assert_close(SquaredError().report_weights(tensor([1.0, 3.0])), tensor([1.0, 9.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_outputs(dtype):
    outputs = torch.ones((1, 2, 3), dtype=dtype)
    loss = SquaredError()
    assert loss.factor(outputs, outputs).dtype == dtype
    assert loss.residual(outputs, outputs).dtype == dtype
    assert loss.value(outputs, outputs, torch.ones((1, 3), dtype=dtype)).dtype == dtype


def test_equal_and_cloneable():
    assert clone(SquaredError()) == SquaredError()
    assert repr(SquaredError()) == "SquaredError()"
