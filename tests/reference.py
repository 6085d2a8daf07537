"""Slow, independent oracles: autograd, numpy, scipy. Nothing here knows how sklm computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import scipy.optimize
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.autograd.functional import jacobian as autograd_jacobian

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "relu": torch.relu,
    "softplus": lambda z: torch.log1p(torch.exp(z)),
    "elu": torch.nn.functional.elu,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
    "identity": lambda z: z,
}

Function = Callable[[Tensor], Tensor]

#: for loops of many small operations, in which a second thread only makes the first one wait
one_thread = ThreadpoolController().wrap(limits=1)


def perceptron(sizes: list[int], activation: str, X: Tensor) -> Function:
    """``theta (P,) -> outputs (N, K)`` of a perceptron: for every layer the weights row by row, then the biases."""

    def outputs(theta: Tensor) -> Tensor:
        a, start = X, 0
        for index, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight = theta[start : start + fan_in * fan_out].reshape(fan_out, fan_in)
            start += fan_in * fan_out
            a = a @ weight.T + theta[start : start + fan_out]
            start += fan_out
            if index < len(sizes) - 2:
                a = ACTIVATIONS[activation](a)
        return a

    return outputs


@one_thread
def jacobian(function: Function, theta: Tensor) -> Tensor:
    """Derivative (..., P) of ``function(theta)`` (...) by reverse-mode autograd."""
    return autograd_jacobian(function, theta, vectorize=True)


@one_thread
def bend(function: Function, theta: Tensor, direction: Tensor) -> Tensor:
    """Second derivative of ``function`` along a line, by differentiating ``<u, f>`` twice along it and once by u."""
    t = torch.zeros((), dtype=theta.dtype, requires_grad=True)
    outputs = function(theta + t * direction)
    u = torch.zeros_like(outputs, requires_grad=True)
    product = (u * outputs).sum()
    for _ in range(2):
        (product,) = torch.autograd.grad(product, t, create_graph=True, materialize_grads=True)
        if not product.requires_grad:
            return torch.zeros_like(outputs).detach()
    return torch.autograd.grad(product, u, materialize_grads=True)[0]


def multiplied_out(layers: Iterable, n_parameters: int) -> Tensor:
    """Jacobian rows (B, P, R, n) from the factors of every layer; NaN where no layer has a parameter."""
    out = None
    for layer in layers:
        if out is None:
            n_models, n, n_columns = layer.cotangents.shape[:3]
            out = torch.full((n_models, n_parameters, n_columns, n), torch.nan, dtype=layer.inputs.dtype)
        products = torch.einsum("bnrlo,bnlq->boqrn", layer.cotangents, layer.inputs)
        out[:, layer.weight] = products.flatten(1, 2)
        out[:, layer.bias] = torch.einsum("bnrlo->born", layer.cotangents)
    assert out is not None
    return out


def stacked_rows(
    function: Function, theta: Tensor, y: Tensor, weights: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Jacobian (N K, P) and residual (N K,) of ``sum_n w_n |f_n - y_n|^2 / (2 K sum w)`` as half a sum of squares."""
    n_samples, n_outputs = y.shape
    weights = torch.ones(n_samples, dtype=y.dtype) if weights is None else weights
    root = (weights / weights.sum() / n_outputs).sqrt()[:, None].expand_as(y).reshape(-1)
    residual = root * (function(theta) - y).reshape(-1)
    rows = root[:, None] * jacobian(function, theta).reshape(-1, len(theta))
    return rows.numpy(), residual.numpy()


def damped_step(
    rows: np.ndarray, residual: np.ndarray, theta: np.ndarray, penalty: np.ndarray, damped: np.ndarray
) -> np.ndarray:
    """Minimise ``|J p + z|^2 + sum penalty (theta + p)^2 + sum damped p^2`` as one least-squares problem."""
    stacked = np.concatenate([rows, np.diag(np.sqrt(penalty)), np.diag(np.sqrt(damped))])
    target = np.concatenate([residual, np.sqrt(penalty) * theta, np.zeros_like(theta)])
    return -np.linalg.lstsq(stacked, target)[0]


@one_thread
def textbook_curve(function: Function, theta: Tensor, y: Tensor, damping: float, n_iter: int) -> np.ndarray:
    """Objectives (n_iter,) of Levenberg-Marquardt as in Madsen, Nielsen & Tingleff (2004), algorithm 3.16."""

    def objective(theta: Tensor) -> float:
        return float(0.5 * (function(theta) - y).square().mean())

    growth, curve = 2.0, []
    value = objective(theta)
    for _ in range(n_iter):
        rows, residual = stacked_rows(function, theta, y)
        gradient = rows.T @ residual
        step = -np.linalg.solve(rows.T @ rows + damping * np.eye(len(theta)), gradient)
        predicted = 0.5 * step @ (damping * step - gradient)
        trial = theta + torch.from_numpy(step)
        ratio = (value - objective(trial)) / predicted
        if ratio > 0:
            theta, value = trial, objective(trial)
            damping *= max(1 / 3, 1 - (2 * ratio - 1) ** 3)
            growth = 2.0
        else:
            damping *= growth
            growth *= 2
        curve.append(value)
    return np.array(curve)


def momentum_step(A: np.ndarray, gradient: np.ndarray, previous: np.ndarray, share: float, cosine: float) -> np.ndarray:
    """Adaptive momentum as printed: Ampazis & Perantonis 2000; Pooladzandi & Zhou, arXiv:2212.08769, eqs. 8-13."""
    newton = np.linalg.solve(A, gradient)
    i_gg, i_gf, i_ff = gradient @ newton, gradient @ previous, previous @ A @ previous
    dp = share * np.sqrt(i_gg)
    dq = -cosine * dp * np.sqrt(i_gg)
    z2 = 0.5 * ((i_gg * dp**2 - dq**2) / (i_ff * i_gg - i_gf**2)) ** -0.5
    z1 = (-2 * z2 * dq + i_gf) / i_gg
    return -z1 / (2 * z2) * newton + previous / (2 * z2)


@one_thread
def rules_path(
    function: Function,
    theta: Tensor,
    y: Tensor,
    damping: float,
    n_iter: int,
    *,
    cosine: float | None = None,
    rates: list[float] | None = None,
    armijo: float | None = None,
    bold: int | None = None,
    bold_best: bool = True,
    n_dampings: int = 1,
    floor: float | None = None,
    subsets: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Parameters (n_iter, P) of one model under the rules that are given, and what happened in every iteration."""

    def objective(theta: np.ndarray) -> float:
        return float(0.5 * (function(torch.from_numpy(theta)) - y).square().mean())

    x, growth, share, path, events = theta.numpy().copy(), 2.0, 1.0, [], []
    value, previous, largest = objective(x), np.zeros(len(x)), np.zeros(len(x))
    lowest = value
    for iteration in range(n_iter):
        index = np.arange(len(x)) if subsets is None else subsets[iteration]
        rows, residual = stacked_rows(function, torch.from_numpy(x), y)
        gradient, gram = (rows.T @ residual)[index], (rows.T @ rows)[np.ix_(index, index)]
        largest[index] = np.maximum(largest[index], np.diag(gram))
        scale = np.ones(len(index)) if floor is None else np.maximum(largest[index], floor)
        tries = []
        for power in range(-((n_dampings - 1) // 2), n_dampings // 2 + 1):
            used = damping * 10.0**power
            A = gram + used * np.diag(scale)
            part = -np.linalg.solve(A, gradient)
            if cosine is not None and previous[index].any():
                part = momentum_step(A, gradient, previous[index], share, cosine)
            predicted = -gradient @ part - 0.5 * part @ gram @ part
            step = np.zeros(len(x))
            step[index] = part
            tries.append((objective(x + step), used, predicted, step))
        better = [t for t in tries if t[0] < value]
        trial, used, predicted, step = min(better, key=lambda t: t[0]) if better else tries[-1]
        ratio, event = (value - trial) / predicted, "rejected"
        old = growth
        if ratio > 0:
            damping, growth, event = used * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0, "accepted"
        else:
            damping, growth = used * growth, 2 * growth
        if event == "rejected" and bold is not None and previous.any():
            angle = step @ previous / np.linalg.norm(step) / np.linalg.norm(previous)
            if (1 - angle) ** bold * trial <= (lowest if bold_best else value):
                event, damping, growth = "bold", used, old
        if event == "rejected" and rates is not None:
            found = [(objective(x + rate * step), rate) for rate in rates]
            slope = (rows.T @ residual) @ step
            if armijo is None:
                found = [min(found)] if min(found)[0] < value else []
            else:
                found = [(f, rate) for f, rate in found if f <= value + armijo * rate * slope and slope < 0][:1]
            if found:
                trial, step, event = found[0][0], found[0][1] * step, "searched"
        share = 0.5 * share if event == "rejected" else min(1.0, 2 * share)
        if event != "rejected":
            x, value, previous = x + step, trial, step
            lowest = min(lowest, value)
        path.append(x.copy())
        events.append(event)
    return np.array(path), events


@one_thread
def scipy_optimum(function: Function, theta: Tensor, y: Tensor) -> tuple[np.ndarray, float]:
    """Parameters and mean squared error / 2 that MINPACK finds from ``theta``."""

    def residual(parameters: np.ndarray) -> np.ndarray:
        return (function(torch.from_numpy(parameters)) - y).reshape(-1).numpy()

    def derivative(parameters: np.ndarray) -> np.ndarray:
        return jacobian(function, torch.from_numpy(parameters)).reshape(-1, len(parameters)).numpy()

    tolerance = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    result = scipy.optimize.least_squares(
        residual, theta.numpy(), derivative, method="lm", x_scale="jac", max_nfev=5000, **tolerance
    )
    return result.x, result.cost / y.numel()
