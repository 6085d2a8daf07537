"""What a fitted network is used for: predictions, the formula for raw data, a torch module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from ._arrays import Scaling, flatten_images, output_scaling, refuse_text_and_dates
from .architectures import Architecture, MLPNetwork, Network, PolynomialNetwork, ScaledModule
from .losses import Loss
from .optim._data import samples_last
from .optim._isolation import isolated

#: rows predicted at once, and activations
_PREDICT_ROWS, _PREDICT_FLOATS = 8192, 2**22


class FittedNetwork:
    """Mixin: methods that need only the fitted attributes, numpy arrays and the architecture.

    The network is rebuilt from ``architecture_`` whenever it is needed, so that nothing of torch is stored.
    """

    architecture_: Architecture
    theta_: np.ndarray
    x_mean_: np.ndarray
    x_inverse_scale_: np.ndarray
    y_mean_: np.ndarray
    y_scale_: np.ndarray
    n_features_in_: int
    n_outputs_: int
    _fitted_loss: Loss
    #: architecture and parameters (M, P) of the networks whose mean this is
    _members: tuple[Architecture, np.ndarray] | None = None

    def _linear_predictor(self, X: Any) -> np.ndarray:
        """Outputs of the network before the inverse link, (n_samples, K), for targets in their own units."""
        return self._outputs(self._checked(X))

    def _checked(self, X: Any) -> np.ndarray:
        """Rows to predict, (n_samples, F), after every check."""
        check_is_fitted(self)
        refuse_text_and_dates(X, "X")
        X = flatten_images(X, self.architecture_)
        return validate_data(self, X, reset=False, dtype=[np.float64, np.float32], order=None)

    def _outputs(self, X: np.ndarray) -> np.ndarray:
        """The same for checked rows."""
        network = self.architecture_.build(self.n_features_in_, self.n_outputs_)
        cpu = torch.device("cpu")
        result = np.empty((len(X), self.n_outputs_))
        outside = self._output_scaling()
        rows = max(1, min(_PREDICT_ROWS, _PREDICT_FLOATS // network.floats_per_row))
        with isolated(cpu), np.errstate(all="ignore"):
            network = network.to(cpu, torch.float64)
            theta = torch.tensor(np.array(self.theta_)[None], dtype=torch.float64, device=cpu)
            for place, inputs in self._scaled_blocks(X, rows):
                outputs = network.forward(theta, inputs, derivatives=False).outputs[0]
                result[place] = outputs.mT.numpy() * outside.scale + outside.mean
        return result

    @property
    def _single_networks(self) -> tuple[Architecture, np.ndarray]:
        """Architecture and parameters (M, P) of the networks whose mean this is, or of the one that it is."""
        return (self.architecture_, self.theta_[None]) if self._members is None else self._members

    def _going_on(self, network: Network) -> np.ndarray:
        """Parameters (M, P) that a warm start of a network goes on from: of the members, where it is like these."""
        theta = self._single_networks[1]
        return theta if theta.shape[1] == network.n_parameters else self.theta_[None]

    def _scaled_blocks(self, X: np.ndarray, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield ``size`` checked rows at a time, as their place and the inputs (F, n) of the network."""
        for start in range(0, len(X), size):
            block = X[start : start + size] - self.x_mean_
            block *= self.x_inverse_scale_
            yield slice(start, start + len(block)), samples_last(block, torch.device("cpu"), torch.float64)

    def _output_scaling(self) -> Scaling:
        return output_scaling(self._fitted_loss.target_scaling, self._stored_scalings()[1])

    def _layers(self) -> tuple[MLPNetwork, list[np.ndarray], list[np.ndarray]]:
        """The network, or that of a polynomial's terms, with weights (n_out, n_in) and biases for raw X and outputs."""
        check_is_fitted(self)
        network = self.architecture_.build(self.n_features_in_, self.n_outputs_)
        layered = network.head if isinstance(network, PolynomialNetwork) else network
        if not isinstance(layered, MLPNetwork):
            raise AttributeError(
                "coefs_ and intercepts_ exist for MLP and Polynomial architectures; use to_module() for others."
            )
        inside, outside = self._stored_scalings()[0], self._output_scaling()
        raw = (Scaling.none(self.n_features_in_), Scaling.none(self.n_outputs_))
        theta = network.rescale(self.theta_, inside, raw[0], outside, raw[1])
        weights = [theta[layer.weight].reshape(layer.fan_out, layer.fan_in) for layer in layered.layers]
        return layered, weights, [theta[layer.bias] for layer in layered.layers]

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weights of each layer for raw X and y, (n_in, n_out); of a polynomial the coefficients of its products."""
        return [weight.T for weight in self._layers()[1]]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Biases of each layer for raw X and y, (n_out,)."""
        return self._layers()[2]

    def to_module(self) -> torch.nn.Module:
        """Return the fitted network for raw X as a float64 ``torch.nn.Module`` on the CPU.

        It maps rows (n, n_features) to the linear predictor (n, n_outputs) followed by the inverse of the loss's link:
        to predictions for regression, to log-odds (two classes, labels) or unnormalised log-probabilities (several
        classes) for classification. An MLP or CNN becomes a ``torch.nn.Sequential``; a module architecture comes back
        as a copy of the module with the fitted parameters. Where inputs are standardised and the layers cannot absorb
        that, a scaling is put around them.
        """
        check_is_fitted(self)
        network = self.architecture_.build(self.n_features_in_, self.n_outputs_)
        with torch.inference_mode(False), torch.no_grad():
            module = self._sequential() if isinstance(network, MLPNetwork) else self._scaled(network)
            link = self._fitted_loss.link_module()
            if link is None:
                return module
            return torch.nn.Sequential(*(module if isinstance(module, torch.nn.Sequential) else [module]), link)

    def _sequential(self) -> torch.nn.Sequential:
        network, weights, biases = self._layers()
        parts: list[torch.nn.Module] = []
        for weight, bias in zip(weights, biases, strict=True):
            # skip_init: torch.nn.Linear would draw from the caller's random numbers
            linear = torch.nn.utils.skip_init(
                torch.nn.Linear, weight.shape[1], weight.shape[0], dtype=torch.float64, device="cpu"
            )
            linear.weight.copy_(torch.tensor(weight, device="cpu"))
            linear.bias.copy_(torch.tensor(bias, device="cpu"))
            parts += [linear, network.activation.module()]
        return torch.nn.Sequential(*parts[:-1])

    def _scaled(self, network: Network) -> torch.nn.Module:
        module, outside = network.to_module(self.theta_), self._output_scaling()
        x = self._stored_scalings()[0]
        if np.all(x.inverse == 1) and np.all(x.mean == 0) and np.all(outside.scale == 1) and np.all(outside.mean == 0):
            return module
        return ScaledModule(module, x.mean, x.inverse, outside.mean, outside.scale)

    def _stored_scalings(self) -> tuple[Scaling, Scaling]:
        def rebuild(mean: np.ndarray, scale: np.ndarray, inverse: np.ndarray) -> Scaling:
            return Scaling(mean, scale, inverse, mean, mean)

        def invert(values: np.ndarray) -> np.ndarray:
            return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)

        return (
            rebuild(self.x_mean_, invert(self.x_inverse_scale_), self.x_inverse_scale_),
            rebuild(self.y_mean_, self.y_scale_, invert(self.y_scale_)),
        )
