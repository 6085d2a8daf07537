"""Accuracy on MNIST by iteration: a CNN of 2202 parameters with pooling, batches of 600.

    SKLM_MNIST=path/to/folder python tests/benchmarks/mnist_iterations.py --seeds 5

The network of Pooladzandi & Zhou (arXiv:2212.08769): convolution of 4 filters 5 x 5, max pooling, 8 filters 5 x 5, max
pooling, dense layer of 10. One pass over the first ``600 n`` shuffled images is n iterations; seconds are those of that
fit. 100 iterations are one epoch. Published are 97.5 % for Levenberg-Marquardt and 96.5 % for Adam after 100.
"""

import argparse
import time
import warnings

import numpy as np
from mnist import read

from sklm import CNN, LMClassifier

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, nargs="+", default=[5, 10, 20, 100])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    X, X_test = ((read(f"{part}-images-idx3").reshape(-1, 784) / 255).astype(np.float32) for part in ("train", "t10k"))
    y, y_test = read("train-labels-idx1"), read("t10k-labels-idx1")
    network = CNN((4, 8), kernel_size=5, stride=1, pooling="max", input_shape=(1, 28, 28))
    print(
        "| seed | "
        + " | ".join(f"{n} iterations" for n in args.iterations)
        + " |\n|"
        + "---|" * (1 + len(args.iterations))
    )
    for seed in range(args.seeds):
        order, cells = np.random.default_rng(seed).permutation(len(X)), []
        for n in args.iterations:
            part = order[: 600 * n]
            model = LMClassifier(
                architecture=network, dtype="float32", batch_size=600, batch_memory=13212, max_iter=1, random_state=seed
            )
            began = time.perf_counter()
            model.fit(X[part], y[part])
            cells.append(f"{model.score(X_test, y_test):.2%} ({time.perf_counter() - began:.1f} s)")
        print(f"| {seed} | " + " | ".join(cells) + " |", flush=True)
