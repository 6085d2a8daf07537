"""Architectures: from hyperparameters to a function with hand-written derivatives."""

from ._activations import ACTIVATIONS
from ._base import Architecture, Forward, Network
from ._cnn import CNN
from ._cnn_network import CNNNetwork
from ._mlp import MLP, MLPNetwork
from ._module import ModuleArchitecture, ModuleNetwork, ScaledModule
from ._polynomial import Polynomial, PolynomialNetwork
from ._starts import STARTS, Inputs

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "MLP",
    "STARTS",
    "Architecture",
    "CNNNetwork",
    "Forward",
    "Inputs",
    "MLPNetwork",
    "ModuleArchitecture",
    "ModuleNetwork",
    "Network",
    "Polynomial",
    "PolynomialNetwork",
    "ScaledModule",
]
