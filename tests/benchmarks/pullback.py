"""Jacobian rows per second of the hand-written pullbacks, as a ratio to ``torch.func.vmap(jacrev)`` on the same nets.

    python tests/benchmarks/pullback.py

Both write all K rows of every sample (``jacrev``) or the one row of a random combination of the outputs (``grad``, what
drawn curvature needs). The rival's time includes its forward pass, as it cannot be left out; so does ours here.
"""

import argparse
import itertools
import time

import numpy as np
import torch
from torch.func import functional_call, grad, jacrev, vmap

from sklm import CNN, MLP
from sklm.architectures import Inputs

MNIST = CNN((8, 4, 4, 4, 4), kernel_size=(4, 4, 2, 2, 2), stride=(2, 2, 1, 1, 1), input_shape=(1, 28, 28))
NETS = {
    "MLP 10-40-40-1": (MLP((40, 40)), 10, 1),
    "MLP 20-30-10": (MLP(30), 20, 10),
    "CNN of 1026 parameters": (MNIST, 784, 10),
}


def fastest(function, repeats):
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def module_of(sizes):
    parts = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        parts += [torch.nn.Linear(fan_in, fan_out), torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


def measure(architecture, n_inputs, n_outputs, dtype, n, repeats):
    network = architecture.build(n_inputs, n_outputs)
    X = torch.randn(n, n_inputs, dtype=dtype)
    theta = architecture.starts(network, "auto", Inputs.of(X.double().numpy()), [np.random.default_rng(0)])
    is_mlp = isinstance(architecture, MLP)
    module = (module_of(network.sizes) if is_mlp else network.to_module(theta[0])).to(dtype)
    start = torch.from_numpy(theta).to(dtype)
    own = {name: p.detach() for name, p in module.named_parameters()}
    inputs = X.mT.contiguous() if is_mlp else X.mT
    for columns in sorted({1, n_outputs}):
        cotangents = (torch.eye(n_outputs) if columns > 1 else torch.randn(n_outputs, 1)).to(dtype)
        cotangents = cotangents[None, :, :, None].expand(1, n_outputs, columns, n).contiguous()
        if is_mlp:
            out = torch.empty(1, network.n_parameters, columns, n, dtype=dtype)
        else:
            out = torch.empty(1, n, columns, network.n_parameters, dtype=dtype).permute(0, 3, 2, 1)

        def ours(cotangents=cotangents, out=out):
            with torch.inference_mode():
                network.pullback(start, inputs, network.forward(start, inputs), cotangents, out)

        def row(parameters, x, direction):
            return functional_call(module, parameters, (x[None],))[0] @ direction

        def outputs(parameters, x):
            return functional_call(module, parameters, (x[None],))[0]

        if columns == 1:
            directions = cotangents[0, :, 0].mT.contiguous()
            rival = lambda d=directions: vmap(grad(row), in_dims=(None, 0, 0))(own, X, d)  # noqa: E731
        else:
            rival = lambda: vmap(jacrev(outputs), in_dims=(None, 0))(own, X)  # noqa: E731
        yield columns, columns * n / fastest(ours, repeats), columns * n / fastest(rival, repeats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, {args.rows} samples at once; thousand Jacobian rows a second")
    print("| network | precision | rows a sample | sklm | torch.func | ratio |\n|---|---|---|---|---|---|")
    for name, (architecture, n_inputs, n_outputs) in NETS.items():
        for dtype in (torch.float64, torch.float32):
            for columns, mine, other in measure(architecture, n_inputs, n_outputs, dtype, args.rows, args.repeats):
                precision = str(dtype).removeprefix("torch.")
                print(
                    f"| {name} | {precision} | {columns} | {mine / 1e3:.0f} | {other / 1e3:.0f} | {mine / other:.1f} |",
                    flush=True,
                )
