import pytest
import torch

from sklm.losses import LOSSES, Loss

from ..problems import tensor


class Poisson(Loss):
    """A loss with a curvature of its own, to test what the base class adds."""

    def curvature_columns(self, n_outputs):
        return n_outputs

    def value(self, outputs, y, weights):
        return ((outputs.exp() - y * outputs) * weights.unsqueeze(1)).sum(-1)

    def factor(self, outputs, y):
        return torch.diag_embed((outputs / 2).exp().mT).permute(0, 2, 3, 1)

    def residual(self, outputs, y):
        return (outputs.exp() - y) * (-outputs / 2).exp()


def test_a_loss_must_say_all_four_things():
    with pytest.raises(TypeError, match="abstract"):
        Loss()


def test_hessian_product_comes_from_the_factor():
    outputs, direction = tensor([[[0.3, -1.0], [0.5, 2.0]]]), tensor([[[1.0, 2.0], [3.0, -4.0]]])
    product = Poisson().hessian_product(outputs, torch.zeros_like(outputs), direction)
    torch.testing.assert_close(product, outputs.exp() * direction)


def test_one_factor_serves_several_models():
    factor = torch.ones((1, 2, 1, 3), dtype=torch.float64)

    class Constant(Poisson):
        def factor(self, outputs, y):
            return factor

    direction = tensor([[[1.0, 2, 3], [4, 5, 6]], [[0, 1, 0], [1, 0, 0]]])
    product = Constant().hessian_product(direction, direction, direction)
    torch.testing.assert_close(product, direction.sum(1, keepdim=True).expand(2, 2, 3))


def test_losses_without_units_are_reported_as_they_are():
    torch.testing.assert_close(Poisson().report_weights(tensor([5.0, 7.0])), tensor([1.0]))


@pytest.mark.parametrize("name", LOSSES)
def test_registered_losses_are_losses_without_arguments(name):
    assert isinstance(LOSSES[name](), Loss)
