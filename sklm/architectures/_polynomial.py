"""Polynomials of several variables, such as the models of response surfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from .._parameters import Parameters
from ._base import Affine, Architecture, Forward, LayerFactors, Network, rescale_outputs
from ._mlp import MLPNetwork
from ._starts import Inputs


class Polynomial(Parameters, Architecture):
    """Polynomial in all columns: a constant, and every product of up to ``degree`` of them.

    Of degree 2 it is the second-order model of response surfaces (Box & Wilson 1951, Journal of the Royal Statistical
    Society B 13, pp. 1-45). It is linear in its parameters, ``(F + degree)! / (F! degree!)`` an output, and so has one
    minimum.

    Parameters
    ----------
    degree : int, default=2
        Of the polynomial, at least 1.

    Notes
    -----
    The parameters of output k are the coefficients of the products in the order of
    ``sklearn.preprocessing.PolynomialFeatures``: ``x1, x2, ..., x1 x1, x1 x2, ...``; those of the next output follow,
    and at the end are the K constants. With ``standardize=False`` they are those of raw X and y. ``alpha`` acts on all
    but the constants.

    Examples
    --------
    >>> import numpy as np
    >>> from sklm import LMRegressor, Polynomial
    >>> X = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    >>> y = 1 + 2 * X[:, 0] - 3 * X[:, 0] * X[:, 1] + 0.5 * X[:, 1] ** 2
    >>> model = LMRegressor(architecture=Polynomial(2), standardize=False).fit(X, y)
    >>> print(model.theta_.round(6) + 0.0)  # x1, x2, x1 x1, x1 x2, x2 x2, constant
    [ 2.   0.   0.  -3.   0.5  1. ]
    """

    restarts = False

    def __init__(self, degree: int = 2):
        self.degree = degree

    def build(self, n_inputs: int, n_outputs: int) -> PolynomialNetwork:
        """Return the network for ``n_inputs`` columns and ``n_outputs`` targets.

        Raises
        ------
        ValueError
            If the degree is no positive integer.
        """
        degree = self.degree
        if not isinstance(degree, int | np.integer) or isinstance(degree, bool) or degree < 1:
            raise ValueError(f"degree must be a positive integer; got {degree!r}.")
        return PolynomialNetwork(n_inputs, n_outputs, int(degree))

    def starts(self, network: Network, init: str, inputs: Inputs, generators: list) -> np.ndarray:
        """Return zeros (len(generators), P), whatever ``init`` is: there is one minimum, a step away from anywhere."""
        return np.zeros((len(generators), network.n_parameters))


class PolynomialNetwork(Network):
    """The function a :class:`Polynomial` defines: one linear layer on T products of inputs."""

    loses_digits = True  # powers of a row that is far from the others

    def __init__(self, n_inputs: int, n_outputs: int, degree: int):
        self.n_inputs = n_inputs
        #: the factors of every product
        self.products = [
            factors
            for number in range(1, degree + 1)
            for factors in combinations_with_replacement(range(n_inputs), number)
        ]
        self.levels = _levels(n_inputs, degree)
        self.head = MLPNetwork([len(self.products), n_outputs], "identity")
        self.n_parameters, self.n_outputs = self.head.n_parameters, n_outputs
        self.output_places, self.coefficient_mask = self.head.output_places, self.head.coefficient_mask
        self.layer_floats = self.head.layer_floats
        self.floats_per_row = self.head.sizes[0] + self.head.floats_per_row
        self._levels = [tuple(torch.tensor(numbers, device="cpu") for numbers in level) for level in self.levels]

    def to(self, device: torch.device, dtype: torch.dtype) -> PolynomialNetwork:
        self._levels = [(before.to(device), factor.to(device)) for before, factor in self._levels]
        return self

    def terms(self, X: Tensor) -> Tensor:
        """The products at inputs (F, n) or (B, F, n): (T, n) or (B, T, n)."""
        return terms_of(X, self._levels, -2)

    def forward(self, theta: Tensor, X: Tensor, reuse: Forward | None = None, derivatives: bool = True) -> Forward:
        return self.head.forward(theta, self.terms(X), reuse, derivatives)

    def pullback(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
        self.head.pullback(theta, self.terms(X), forward, cotangents, out)

    def pullback_of(self, numbers: np.ndarray, device: torch.device) -> Callable[..., None]:
        of_terms = self.head.pullback_of(numbers, device)

        def pullback(theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor, out: Tensor) -> None:
            of_terms(theta, self.terms(X), forward, cotangents, out)

        return pullback

    def layer_factors(self, theta: Tensor, X: Tensor, forward: Forward, cotangents: Tensor) -> Iterator[LayerFactors]:
        yield from self.head.layer_factors(theta, self.terms(X), forward, cotangents)

    def vjp(self, theta: Tensor, X: Tensor, forward: Forward, cotangent: Tensor) -> Tensor:
        return self.head.vjp(theta, self.terms(X), forward, cotangent)

    def jvp(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        return self.head.jvp(theta, self.terms(X), forward, direction)

    def second_directional(self, theta: Tensor, X: Tensor, forward: Forward, direction: Tensor) -> Tensor:
        return torch.zeros_like(forward.outputs)

    def rescale(self, theta: np.ndarray, old_x: Affine, new_x: Affine, old_y: Affine, new_y: Affine) -> np.ndarray:
        """As the base class says: a product of old inputs ``shift + ratio * new`` is a polynomial of the new ones."""
        shift = (new_x.mean - old_x.mean) * old_x.inverse
        # a column that the old scaling left out had no effect, and starts from none
        ratio = np.where(new_x.inverse != 0, old_x.inverse * new_x.scale, 1.0)
        place = {factors: number for number, factors in enumerate([(), *self.products])}
        old_by_new = np.zeros((len(place), len(place)))
        old_by_new[0, 0] = 1.0
        for factors in self.products:
            before, last = old_by_new[place[factors[:-1]]], factors[-1]
            row = shift[last] * before
            for known in np.flatnonzero(before):
                longer = tuple(sorted((*([(), *self.products][known]), last)))
                row[place[longer]] += ratio[last] * before[known]
            old_by_new[place[factors]] = row
        theta, layer = np.array(theta), self.head.layers[0]
        coefficients = np.c_[theta[layer.bias], theta[layer.weight].reshape(self.n_outputs, -1)] @ old_by_new
        theta[layer.bias], theta[layer.weight] = coefficients[:, 0], coefficients[:, 1:].ravel()
        rescale_outputs(theta, layer, old_y, new_y)
        return theta

    def to_module(self, theta: np.ndarray) -> torch.nn.Module:
        return PolynomialModule(self, theta)


class PolynomialModule(torch.nn.Module):
    """A fitted :class:`Polynomial` on the CPU: (n, F) to (n, K), with ``weight`` (K, T) and ``bias`` (K,)."""

    def __init__(self, network: PolynomialNetwork, theta: np.ndarray):
        super().__init__()
        layer = network.head.layers[0]
        values = torch.tensor(np.array(theta), dtype=torch.float64, device="cpu")
        self.weight = torch.nn.Parameter(values[layer.weight].reshape(network.n_outputs, -1).clone())
        self.bias = torch.nn.Parameter(values[layer.bias].clone())
        for number, level in enumerate(network.levels):
            for name, numbers in zip(("before", "factor"), level, strict=True):
                self.register_buffer(f"{name}{number}", torch.tensor(numbers, device="cpu"))
        self.n_levels = len(network.levels)

    def forward(self, x: Tensor) -> Tensor:
        levels = [(getattr(self, f"before{level}"), getattr(self, f"factor{level}")) for level in range(self.n_levels)]
        return torch.nn.functional.linear(terms_of(x, levels, -1), self.weight, self.bias)


def _levels(n_inputs: int, degree: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For products of 2, 3, ... factors: which of one factor less each is a multiple of, and by which input."""
    levels = []
    for number in range(2, degree + 1):
        shorter = {
            factors: place for place, factors in enumerate(combinations_with_replacement(range(n_inputs), number - 1))
        }
        products = list(combinations_with_replacement(range(n_inputs), number))
        before = np.array([shorter[factors[:-1]] for factors in products])
        levels.append((before, np.array([factors[-1] for factors in products])))
    return levels


def terms_of(X: Tensor, levels: list, axis: int) -> Tensor:
    """Products of the inputs along an axis, those of fewer factors first; see ``_levels``."""
    parts = [X]
    for before, factor in levels:
        parts.append(parts[-1].index_select(axis, before) * X.index_select(axis, factor))
    return torch.cat(parts, dim=axis)
