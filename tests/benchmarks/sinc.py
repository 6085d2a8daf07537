"""The headline example of torch-levenberg-marquardt: y = sinc(10 x), 20 000 points, 1-20-1 tanh, 61 parameters.

Runs LMRegressor with its default options and, if the package is installed, torch-levenberg-marquardt 1.2.3 with the
settings of its own example (batches of 1000, learning rate 1, QR, 10 attempts), in turn, seed by seed. Time counts
training only (for LMRegressor all of ``fit``). The target is a mean squared error over all points.

    python tests/benchmarks/sinc.py --seeds 5
"""

import argparse
import json
import statistics
import time
import warnings

import numpy as np
import torch

from sklm import LMRegressor

x = torch.linspace(-1, 1, 20_000, dtype=torch.float64).unsqueeze(1)
y = torch.sinc(10 * x)
X, Y = x.numpy(), y.numpy()[:, 0]


def ours(seed, target, **options):
    """Seconds until the target is reached (infinite if it is not), and the mean squared error."""
    model = LMRegressor(random_state=seed, target_loss=target / 2, **options)
    began = time.perf_counter()
    model.fit(X, Y)
    seconds = time.perf_counter() - began
    error = float(np.mean((model.predict(X) - Y) ** 2))
    return (seconds if error <= target else float("inf")), error, seconds


def rival(seed, target, dtype, max_epochs=200):
    """The same for torch-levenberg-marquardt, judged after every epoch."""
    import torch_levenberg_marquardt as tlm

    torch.manual_seed(seed)
    a, b = x.to(dtype), y.to(dtype)
    net = torch.nn.Sequential(torch.nn.Linear(1, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1)).to(dtype)
    module = tlm.training.LevenbergMarquardtModule(
        model=net, loss_fn=tlm.loss.MSELoss(), learning_rate=1.0, attempts_per_step=10, solve_method="qr"
    )
    loader = tlm.utils.FastDataLoader(torch.utils.data.TensorDataset(a, b), batch_size=1000, repeat=1, shuffle=True)
    elapsed, error, stop = 0.0, float("inf"), False
    for _ in range(max_epochs):
        began = time.perf_counter()
        for batch_x, batch_y in loader:
            *_, stop, _ = module.training_step(batch_x, batch_y)
            if stop:
                break
        elapsed += time.perf_counter() - began
        with torch.no_grad():
            error = float((net(a) - b).square().mean())
        if error <= target or stop:
            break
    return (elapsed if error <= target else float("inf")), error, elapsed


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=3.3e-7)
    parser.add_argument("--final", type=float, default=1e-9)
    parser.add_argument("--batch-size", type=int, default=None, help="mini-batches for LMRegressor too")
    parser.add_argument("--no-rival", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {} if args.batch_size is None else {"batch_size": args.batch_size}
    ours(99, 1e-3)  # first call of every kernel
    rows = []
    for seed in range(args.seeds):
        row = {"seed": seed}
        row["sklm"], _, _ = ours(seed, args.target, **options)
        row["sklm_final"], row["sklm_final_mse"], row["sklm_final_seconds"] = ours(seed, args.final, **options)
        if not args.no_rival:
            row["rival_float32"], row["rival_float32_mse"], _ = rival(seed, args.target, torch.float32)
            row["rival_float64"], row["rival_float64_mse"], _ = rival(seed, args.target, torch.float64)
        rows.append(row)
        print(json.dumps(row), flush=True)
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "seed"}
    print("medians", json.dumps(medians))
    for key in ("rival_float32", "rival_float64"):
        if key in medians:
            print(f"{key}: {medians[key] / medians['sklm']:.1f} times the time of sklm to {args.target:g}")
