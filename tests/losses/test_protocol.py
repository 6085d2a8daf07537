"""Every loss against its plain formula, with autograd's derivatives."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from .. import reference
from ..problems import tensor
from .cases import LOSS_CASES, N_SAMPLES

SETTINGS = [(case, B, K) for case in LOSS_CASES for K in case.n_outputs for B in (1, 3)]
every_setting = pytest.mark.parametrize(
    ("case", "n_models", "n_outputs"), SETTINGS, ids=[f"{case.name}-{B}-{K}" for case, B, K in SETTINGS]
)
every_case = pytest.mark.parametrize("case", LOSS_CASES, ids=[case.name for case in LOSS_CASES])


def draw(case, n_models, n_outputs, seed=0):
    """Outputs (B, K, n), y (K, n) and the generator."""
    rng = np.random.default_rng(seed)
    outputs = tensor(rng.normal(size=(n_models, n_outputs, N_SAMPLES)))
    return outputs, tensor(case.targets(rng, n_outputs)), rng


def full(loss, outputs, y):
    """Factor (B, K, R, n) and residual (B, R, n) at full size."""
    n_models, n_outputs, n_samples = outputs.shape
    n_columns = loss.curvature_columns(n_outputs)
    residual = loss.residual(outputs, y)
    assert residual.shape == (n_models, n_columns, n_samples)
    return loss.factor(outputs, y).expand(n_models, n_outputs, n_columns, n_samples), residual


def curvature(case, outputs, y):
    """Oracle (B, K, K, n) for S S^T."""
    if case.symmetric is None:
        hessian = torch.autograd.functional.hessian(case.total(y), outputs, vectorize=True)  # (B, K, n, B, K, n)
        return torch.einsum("bknbjn->bkjn", hessian)
    y = y.expand(outputs.shape)
    slope = reference.jacobian(lambda f: case.symmetric(f, y).sum() / f.shape[1], outputs)
    return torch.diag_embed((slope / (outputs - y)).mT, dim1=1, dim2=2)


@every_setting
def test_value_is_the_weighted_sum_of_the_formula(case, n_models, n_outputs):
    outputs, y, rng = draw(case, n_models, n_outputs)
    for weights in (rng.uniform(size=(1, N_SAMPLES)), rng.uniform(size=(n_models, N_SAMPLES))):
        weights = tensor(weights)
        value = case.loss.value(outputs, y, weights)
        plain = case.formula(outputs, y.expand(outputs.shape))
        expected = (
            (plain * weights[:, None]).sum(-1) / n_outputs
            if plain.ndim == 3
            else (plain * weights).sum(-1, keepdim=True)
        )
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        assert (value >= 0).all()


@every_setting
def test_factor_and_residual_give_curvature_and_gradient(case, n_models, n_outputs):
    outputs, y, _ = draw(case, n_models, n_outputs)
    factor, residual = full(case.loss, outputs, y)
    gradient = reference.jacobian(case.total(y), outputs)
    torch.testing.assert_close(torch.einsum("bkrn,brn->bkn", factor, residual), gradient, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(case.loss.gradient(outputs, y), gradient, rtol=1e-11, atol=1e-14)
    product = torch.einsum("bkrn,bjrn->bkjn", factor, factor)
    torch.testing.assert_close(product, curvature(case, outputs, y), rtol=1e-11, atol=1e-14)


@every_setting
def test_the_factor_of_a_separable_loss_is_diagonal(case, n_models, n_outputs):
    if not case.loss.separable:
        pytest.skip("the loss is none")
    factor, _ = full(case.loss, *draw(case, n_models, n_outputs)[:2])
    assert factor.shape[1] == factor.shape[2]
    assert torch.equal(factor, torch.diag_embed(factor.diagonal(dim1=1, dim2=2), dim1=1, dim2=2))


@every_setting
def test_project_and_hessian_product_agree_with_the_factor(case, n_models, n_outputs):
    outputs, y, rng = draw(case, n_models, n_outputs)
    factor, _ = full(case.loss, outputs, y)
    direction = tensor(rng.normal(size=outputs.shape))
    columns = torch.einsum("bkrn,bkn->brn", factor, direction)
    torch.testing.assert_close(case.loss.project(outputs, y, direction), columns, rtol=1e-11, atol=1e-13)
    expected = torch.einsum("bkrn,brn->bkn", factor, columns)
    torch.testing.assert_close(case.loss.hessian_product(outputs, y, direction), expected, rtol=1e-11, atol=1e-13)


@every_setting
def test_targets_may_be_one_set_a_model(case, n_models, n_outputs):
    """One y (K, n) for all models is the same as a copy each, and models do not mix."""
    outputs, y, rng = draw(case, n_models, n_outputs)
    weights = tensor(rng.uniform(size=(n_models, N_SAMPLES)))
    each = y.expand(outputs.shape).contiguous()
    for name in ("factor", "residual", "gradient"):
        method = getattr(case.loss, name)
        assert torch.equal(method(outputs, y), method(outputs, each))
        assert torch.equal(method(outputs, y)[-1], method(outputs[-1:], each[-1:])[0])
    assert torch.equal(case.loss.value(outputs, y, weights), case.loss.value(outputs, each, weights))
    torch.testing.assert_close(
        case.loss.value(outputs, y, weights)[-1:], case.loss.value(outputs[-1:], y, weights[-1:]), rtol=1e-14, atol=0
    )


EXTREMES = [-1e4, -800.0, -100.0, -40.0, 0.0, 40.0, 100.0, 800.0, 1e4]


def extremes(case, n_outputs):
    """Outputs (1, K, n) and y (1, K, n): far out on all sides, and on the targets."""
    rng = np.random.default_rng(1)
    far = rng.choice(EXTREMES, (n_outputs, 60))
    y = np.concatenate([case.targets(rng, n_outputs) for _ in range(12)], axis=1)[:, :60]
    near = y[:, :12].astype(float)
    return tensor(np.concatenate([far, near], axis=1)[None]), tensor(np.concatenate([y, y[:, :12]], axis=1)[None])


@every_setting
def test_extreme_outputs(case, n_models, n_outputs):
    """Derivatives are right wherever the value is finite, and nothing is NaN anywhere."""
    outputs, y = extremes(case, n_outputs)
    weights = torch.ones((1, outputs.shape[-1]), dtype=torch.float64)
    factor, residual = full(case.loss, outputs, y)
    value = case.loss.value(outputs, y, weights / weights.sum())
    assert torch.isfinite(factor).all()
    assert torch.isfinite(residual).all()
    assert (value >= 0).all()
    gradient = reference.jacobian(case.total(y), outputs)
    fine = torch.isfinite(gradient).all(1)[0]
    assert fine.sum() > 20
    found = torch.einsum("bkrn,brn->bkn", factor, residual)
    torch.testing.assert_close(found[..., fine], gradient[..., fine], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(case.loss.gradient(outputs, y)[..., fine], gradient[..., fine], rtol=1e-11, atol=1e-12)
    if case.symmetric is None:
        product = torch.einsum("bkrn,bjrn->bkjn", factor, factor)
        eps = torch.finfo(torch.float64).eps
        oracle = curvature(case, outputs, y)
        torch.testing.assert_close(product[..., fine], oracle[..., fine], rtol=1e-11, atol=2 * n_outputs * eps)
    plain = case.formula(outputs, y)
    plain = plain.sum(1) / n_outputs if plain.ndim == 3 else plain
    alone = torch.stack([case.loss.value(outputs, y, w[None]).sum() for w in torch.eye(len(fine)).double()])
    torch.testing.assert_close(alone[fine], plain[0, fine], rtol=1e-11, atol=1e-12)


@every_case
def test_a_weight_of_zero_takes_out_what_overflows(case):
    n_outputs = case.n_outputs[-1]
    outputs, y, _ = draw(case, 1, n_outputs)
    far = torch.cat([outputs, torch.full_like(outputs, 1e4), torch.full_like(outputs, -1e4)], -1)
    weights = torch.ones((1, N_SAMPLES), dtype=torch.float64)
    padded = torch.cat([weights, 0 * weights, 0 * weights], -1)
    value = case.loss.value(far, y.repeat(1, 3), padded)
    torch.testing.assert_close(value, case.loss.value(outputs, y, weights), rtol=1e-14, atol=0)


@every_setting
def test_float32_is_float64_rounded(case, n_models, n_outputs):
    outputs, y, rng = draw(case, n_models, n_outputs)
    weights = tensor(rng.uniform(size=(1, N_SAMPLES)))
    single = [t.float() for t in (outputs, y, weights)]
    value = case.loss.value(*single)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), case.loss.value(outputs, y, weights), rtol=1e-5, atol=1e-5)
    for name in ("factor", "residual", "gradient"):
        found, expected = getattr(case.loss, name)(*single[:2]), getattr(case.loss, name)(outputs, y)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@every_setting
def test_float32_extremes_are_finite(case, n_models, n_outputs):
    outputs, y = (t.float() for t in extremes(case, n_outputs))
    weights = torch.full((1, outputs.shape[-1]), 1 / outputs.shape[-1])
    for tensors in (*full(case.loss, outputs, y), case.loss.gradient(outputs, y)):
        assert torch.isfinite(tensors).all()
    assert not torch.isnan(case.loss.value(outputs, y, weights)).any()


@every_setting
def test_nothing_is_written_to(case, n_models, n_outputs):
    outputs, y, rng = draw(case, n_models, n_outputs)
    weights, direction = tensor(rng.uniform(size=(1, N_SAMPLES))), tensor(rng.normal(size=outputs.shape))
    copies = [t.clone() for t in (outputs, y, weights, direction)]
    loss = case.loss
    with torch.inference_mode():
        loss.value(outputs, y, weights)
        loss.factor(outputs, y)
        loss.residual(outputs, y)
        loss.gradient(outputs, y)
        loss.project(outputs, y, direction)
        loss.hessian_product(outputs, y, direction)
    for after, before in zip((outputs, y, weights, direction), copies, strict=True):
        assert torch.equal(after, before)


@every_setting
def test_no_method_looks_at_values(case, n_models, n_outputs):
    """A look waits for all work queued on a GPU; tensors of the meta device have no values to look at."""
    outputs = torch.empty((n_models, n_outputs, N_SAMPLES), device="meta")
    y, weights = torch.empty((n_outputs, N_SAMPLES), device="meta"), torch.empty((1, N_SAMPLES), device="meta")
    loss = case.loss
    full(loss, outputs, y)
    assert loss.value(outputs, y, weights).device.type == "meta"
    for result in (
        loss.gradient(outputs, y),
        loss.hessian_product(outputs, y, outputs),
        (loss.factor(outputs, y) * loss.project(outputs, y, outputs).unsqueeze(1)).sum(2),
    ):
        assert result.shape == outputs.shape


@pytest.mark.parametrize("case", [case for case in LOSS_CASES if 1 in case.n_outputs], ids=lambda case: case.name)
def test_repeating_an_output_does_not_change_a_separable_loss(case):
    """The mean over K: damping and alpha keep their meaning for any number of outputs."""
    outputs, y, rng = draw(case, 2, 1)
    weights = tensor(rng.uniform(size=(1, N_SAMPLES)))
    many, targets = outputs.expand(-1, 4, -1), y.expand(4, -1)
    torch.testing.assert_close(
        case.loss.value(many, targets, weights).sum(1), case.loss.value(outputs, y, weights).sum(1)
    )
    torch.testing.assert_close(
        (full(case.loss, many, targets)[0] ** 2).sum((1, 2)), (full(case.loss, outputs, y)[0] ** 2).sum((1, 2))
    )


@every_case
def test_report_weights_undo_the_scaling_of_targets(case):
    """``value`` of scaled targets times the report weights is ``value`` in the units of the targets."""
    n_outputs = case.n_outputs[-1]
    outputs, y, _ = draw(case, 1, n_outputs)
    scale = tensor(np.linspace(0.5, 4.0, n_outputs))
    weights = torch.ones((1, N_SAMPLES), dtype=torch.float64)
    loss = clone(case.loss)
    scaled = loss.value(outputs, y, weights) * loss.report_weights(scale)
    units = []
    for k in range(n_outputs):
        f, target = outputs, y
        if loss.target_scaling == "standard":
            f, target = outputs * scale[k], y * scale[k]
            for name in ("delta", "smoothing"):
                if name in loss.get_params():
                    loss.set_params(**{name: getattr(case.loss, name) * float(scale[k])})
        elif loss.target_scaling == "mean":
            f, target = outputs + scale[k].log(), y * scale[k]
        units.append(loss.value(f, target, weights)[:, min(k, scaled.shape[1] - 1)])
    torch.testing.assert_close(scaled, torch.stack(units, 1)[:, : scaled.shape[1]], rtol=1e-9, atol=1e-12)


@every_case
def test_defaults_are_valid_equal_and_cloneable(case):
    case.loss.validate()
    assert clone(case.loss) == case.loss
    type(case.loss)().validate()
