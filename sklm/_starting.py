"""Where a fit begins: scalings, factors of columns and starting values, of its own or from a fit before."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import Scaling, check_relevance, mean_scaling, no_scaling, output_scaling, standard_scaling
from ._solving import Solving
from ._training_set import TrainingSet
from ._waves import as_start
from .architectures import MLP, Architecture, MLPNetwork, Network
from .losses import Loss


class Starting(Solving):
    """From clean data to what the engine starts from; a warm start goes on from a ``previous`` estimator."""

    #: whether y is checked to be numbers
    _numeric_targets = True

    def _given_relevance(self, network: Network, n_inputs: int, previous: Any) -> np.ndarray | None:
        """Factors of the columns (F,) that are known before the fit, from a ``previous`` one or given; None for none.

        Raises
        ------
        ValueError
            If what was given cannot be used.
        """
        if self.relevance is None:
            return None
        if isinstance(self.relevance, str):
            return None if previous is None else previous.relevance_
        if network.input_weights is None:
            raise ValueError("relevance is for MLPs only; leave relevance='auto' with this architecture.")
        return check_relevance(self.relevance, n_inputs, getattr(self, "feature_names_in_", None))

    def _check_penalty(self, network: Network) -> None:
        if not isinstance(self.alpha, str) and self.alpha > 0 and not network.coefficient_mask.any():
            raise ValueError("alpha > 0 would have no effect: the module has no parameter but biases.")

    def _scalings(
        self,
        data: TrainingSet,
        architecture: Architecture,
        loss: Loss,
        previous: Any,
        keep_constant: bool = False,
    ) -> tuple[Scaling, Scaling]:
        if not self._scales(architecture):
            return no_scaling(data.X), no_scaling(data.y)
        if previous is not None and not architecture.standardize:
            return previous._stored_scalings()  # a module's parameters cannot be carried over to another scaling
        groups = architecture.input_groups(data.X.shape[1])
        weights = data.scaling_weights
        if groups is None and not keep_constant:
            x = data.scaling
        else:
            x = standard_scaling(data.X, weights, groups=groups, keep_constant=keep_constant)
        if groups is None and data.far.any():  # by the others, which starts cover, too
            x = data.take(np.flatnonzero(~data.far)).scaling.completed(x)
        if loss.target_scaling == "mean":
            return x, mean_scaling(data.y, weights)
        if loss.target_scaling == "standard" and self._numeric_targets:
            y = standard_scaling(data.y, weights, keep_constant=keep_constant)
            return x, y if not loss.is_robust else y.by_middle(data.y, weights)
        return x, no_scaling(data.y)

    def _in_units(self, loss: Loss, data: TrainingSet, architecture: Architecture) -> Loss:
        """A loss that was named, with its errors in units of the targets' spread, also where these are not scaled.

        Of several outputs, the smallest spread counts.
        """
        if not loss.is_robust or not isinstance(self.loss, str) or self._scales(architecture):
            return loss
        spread = standard_scaling(data.y, data.scaling_weights).by_middle(data.y, data.scaling_weights).scale
        return loss.in_units(float(spread[spread > 0].min())) if spread.any() else loss

    def _starts(
        self,
        architecture: Architecture,
        network: Network,
        data: TrainingSet,
        x: Scaling,
        y: Scaling,
        loss: Loss,
        seed: int,
        previous: Any,
        number: int,
    ) -> np.ndarray:
        """Start vectors (number, P); with a warm start, the first one, or ones, are fitted."""
        theta = self._random_starts(architecture, network, data, x, seed, number)
        if previous is None and self._may_have_waves(architecture, loss, data) and data.waves is not None:
            assert isinstance(network, MLPNetwork)
            waves, inputs = data.waves.times(x.inverse[0]), x.apply(np.asarray(data.X))[:, 0]
            as_start(theta[0], waves, network.layers[0].fan_out, inputs, y.apply(data.y), data.weights)
        if previous is not None:
            old_x, old_y = previous._stored_scalings()
            before = output_scaling(previous._fitted_loss.target_scaling, old_y)
            now = output_scaling(loss.target_scaling, y)
            for row, fitted in enumerate(previous._going_on(network)):
                theta[row] = network.rescale(fitted, old_x, x, before, now)
        constant = np.flatnonzero(y.scale == 0)
        if len(constant) and network.output_places is not None:  # weights that fade away would become denormal numbers
            theta[:, network.output_places[constant]] = 0.0
        return theta

    def _may_have_waves(self, architecture: Architecture, loss: Loss, data: TrainingSet) -> bool:
        """Whether the first start is looked for in a periodogram: of a curve by one layer of sines."""
        if not (isinstance(architecture, MLP) and architecture.activation == "sin" and self.init == "auto"):
            return False
        if np.size(architecture.hidden_layer_sizes) != 1:
            return False
        return data.X.shape[1] == 1 and self._numeric_targets and loss.is_squared and not data.is_large

    def _check_continues(self, previous: Any, architecture: Architecture, network: Network, n_inputs: int) -> None:
        if previous._going_on(network).shape[1] != network.n_parameters or previous.n_features_in_ != n_inputs:
            raise ValueError(
                "warm_start needs the same architecture and columns as the last fit: "
                f"{len(previous.theta_)} parameters then, {network.n_parameters} now."
            )
        before, now = (getattr(one, "activation", None) for one in (previous.architecture_, architecture))
        if before != now:
            raise ValueError(
                f"warm_start cannot go on with other units: activation was {before!r} in the last fit, and is {now!r}. "
                "Set it back, or warm_start=False."
            )

    def _random_starts(
        self, architecture: Architecture, network: Network, data: TrainingSet, x: Scaling, seed: int, number: int
    ) -> np.ndarray:
        """The first ``number`` starts, (number, P); start k is the same for every number above k."""
        generators = [np.random.default_rng([seed, k]) for k in range(number)]
        return architecture.starts(network, self.init, data.inputs(x), generators)
