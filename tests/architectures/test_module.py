import copy
import functools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.func import functional_call

from sklm.architectures import Inputs, ModuleArchitecture, ModuleNetwork

from ..problems import Formula, tensor
from .derivatives import NETWORK_CHECKS, Setting


class Peak(nn.Module):
    """A Gaussian on a slope: parameters of no, one and two axes, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(1.5))
        self.centre = nn.Parameter(torch.tensor([0.2, -0.4]))
        self.mix = nn.Parameter(torch.tensor([[1.0, 0.3], [-0.2, 0.8]]))
        self.width = nn.Parameter(torch.tensor(0.9), requires_grad=False)
        self.bias = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        distance = ((x - self.centre) @ self.mix).square().sum(1)
        return self.height * torch.exp(-distance / self.width**2) + self.bias


def dense(n_outputs: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, n_outputs))
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return module


MODULES = {"peak": (Peak(), 1), "dense": (dense(1), 1), "dense K=3": (dense(3), 3)}
N_SAMPLES = 4

every_module = pytest.mark.parametrize("name", MODULES)
every_batch = pytest.mark.parametrize("n_models", [1, 3])
every_inputs = pytest.mark.parametrize("shared", [True, False], ids=["X", "BX"])


@functools.cache
def setting(name, n_models, shared):
    module, n_outputs = MODULES[name]
    network = ModuleArchitecture(module).build(2, n_outputs)
    rng = np.random.default_rng(1)
    theta = network.start + tensor(0.3 * rng.normal(size=(n_models, network.n_parameters)))
    X = tensor(rng.normal(size=(2, N_SAMPLES) if shared else (n_models, 2, N_SAMPLES)))
    direction = tensor(rng.normal(size=theta.shape))
    plain = copy.deepcopy(module).double().eval()
    trained = {k: p.shape for k, p in plain.named_parameters() if p.requires_grad}

    def function(rows):
        def outputs(flat):
            parts = torch.split(flat, [shape.numel() for shape in trained.values()])
            values = {k: part.reshape(shape) for (k, shape), part in zip(trained.items(), parts, strict=True)}
            return functional_call(plain, values, (rows,)).reshape(N_SAMPLES, n_outputs)

        return outputs

    return Setting.of(network, function, theta, X, direction)


@pytest.mark.parametrize("check", NETWORK_CHECKS)
@every_inputs
@every_batch
@every_module
def test_derivatives_equal_autograd(name, n_models, shared, check):
    check(setting(name, n_models, shared))


def test_only_trainable_parameters_are_fitted_and_names_ending_in_bias_not_penalised():
    network = ModuleArchitecture(Peak()).build(2, 1)
    assert network.n_parameters == 1 + 2 + 4 + 1
    assert network.coefficient_mask.tolist() == [True] * 7 + [False]
    torch.testing.assert_close(network.start, tensor([1.5, 0.2, -0.4, 1, 0.3, -0.2, 0.8, 0.1]), rtol=1e-7, atol=0)


def test_load_returns_a_module_with_the_parameters():
    module, _ = MODULES["dense K=3"]
    s = setting("dense K=3", 1, True)
    loaded = s.network.to_module(s.theta[0].numpy())
    s.close(loaded(s.X.mT).detach().mT, s.outputs[0])
    assert all(p.requires_grad and p.dtype == torch.float64 for p in loaded.parameters())
    assert type(loaded) is type(module)


def test_the_users_module_is_left_alone():
    module = dense(1).train()
    before = copy.deepcopy(module.state_dict())
    network = ModuleArchitecture(module).build(2, 1)
    network.to_module(np.zeros(network.n_parameters))
    assert module.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_rescale_returns_a_copy():
    """A module's standardisation never changes."""
    network, theta = ModuleArchitecture(Peak()).build(2, 1), np.arange(8.0)
    rescaled = network.rescale(theta, None, None, None, None)
    np.testing.assert_array_equal(rescaled, theta)
    assert rescaled is not theta


def test_starts_scatter_around_what_the_module_carries():
    architecture = ModuleArchitecture(Formula(lambda x, a, b, c: a + b * x + c, (0.0, 1e-6, -1e3)))
    network = architecture.build(1, 1)
    inputs = Inputs.of(np.ones((3, 1)))

    def starts(n_init):
        return architecture.starts(network, "auto", inputs, [np.random.default_rng([0, k]) for k in range(n_init)])

    many = starts(200)
    np.testing.assert_array_equal(many[0], [0.0, 1e-6, -1e3])
    np.testing.assert_array_equal(many[:3], starts(3))
    spread = np.abs(many[1:] - many[0]).mean(axis=0) / [1, 1e-6, 1e3]
    assert ((spread > 0.5) & (spread < 1.5)).all()
    with pytest.raises(ValueError, match="init must be 'auto' for a module"):
        architecture.starts(network, "glorot", inputs, [np.random.default_rng(0)])


class Wrong(nn.Module):
    """A module with one parameter and whatever outputs a test wants."""

    def __init__(self, function, dtype=torch.float64):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.function = function

    def forward(self, x):
        return self.function(x, self.scale)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Tanh()), "no parameter with requires_grad=True"),
        (Wrong(lambda x, s: s * x[:, 0], dtype=torch.complex128), "complex parameters"),
        (Wrong(lambda x, s: (s * x[:, 0]).to(torch.complex128)), "(?i)complex"),
        (Wrong(lambda x, s: s * x), "1 target"),
        (Wrong(lambda x, s: (s * x).sum()), "return"),
        (Wrong(lambda x, s: s * x[:1, 0]), "return"),
        (Wrong(lambda x, s: (s * x)[:, :1, None]), "return"),
        (Wrong(lambda x, s: (s * x[:, 0], x)), "(?i)tensor"),
        (Wrong(lambda x, s: x @ torch.ones((3, 1), dtype=x.dtype) * s), r"batch of shape \(3, 2\)"),
    ],
)
def test_unusable_modules_are_refused_with_what_is_wrong(module, message):
    with pytest.raises(ValueError, match=message):
        ModuleArchitecture(module).build(2, 1)


def test_outputs_of_one_axis_are_not_taken_for_three_targets():
    with pytest.raises(ValueError, match="3 target"):
        ModuleArchitecture(Peak()).build(2, 3)


def test_parameters_of_the_architecture():
    architecture = ModuleArchitecture(Peak())
    copied = clone(architecture)
    assert copied.module is not architecture.module
    assert list(architecture.get_params()) == ["module"]
    assert architecture.set_params(module=dense(1)).module is not copied.module
    assert repr(architecture).startswith("ModuleArchitecture(module=Sequential(")


def test_network_moves_to_a_dtype():
    network = ModuleArchitecture(Peak()).build(2, 1)
    assert isinstance(network, ModuleNetwork)
    assert network.to(torch.device("cpu"), torch.float32) is network
    theta = network.start[None]
    assert theta.dtype == torch.float32
    assert network.forward(theta, torch.zeros((2, 3))).outputs.dtype == torch.float32
