"""
Fitting your own formula
========================

A damped oscillation with five physical parameters,

.. math:: f(t) = A \\, e^{-t / \\tau} \\cos(2 \\pi f t + \\varphi) + c,

is fitted to noisy measurements. The formula is an ordinary ``torch.nn.Module``; :class:`sklm.LMRegressor` trains a
copy of it from the values it carries, and knows how sure they are.
"""

import sys
from math import pi

import matplotlib.pyplot as plt
import numpy as np
import torch

from sklm import LMRegressor

# %%
# The formula
# -----------
# Every parameter is a scalar ``torch.nn.Parameter`` and starts from a rough guess, read off a plot of the data. The
# module gets rows of shape (n, 1) and returns (n,). A frequency guess must be good to about half a period over the
# length of the record; the others may be far off.


class DampedOscillation(torch.nn.Module):
    def __init__(self, amplitude, tau, frequency, phase, offset):
        super().__init__()
        self.amplitude = torch.nn.Parameter(torch.tensor(amplitude, dtype=torch.float64))
        self.tau = torch.nn.Parameter(torch.tensor(tau, dtype=torch.float64))
        self.frequency = torch.nn.Parameter(torch.tensor(frequency, dtype=torch.float64))
        self.phase = torch.nn.Parameter(torch.tensor(phase, dtype=torch.float64))
        self.offset = torch.nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, X):
        t = X[:, 0]
        wave = torch.cos(2 * pi * self.frequency * t + self.phase)
        return self.amplitude * torch.exp(-t / self.tau) * wave + self.offset


# %%
# Data
# ----
# Times are in seconds, the signal in millivolts.

truth = {"amplitude": 2.5, "tau": 0.8, "frequency": 3.2, "phase": 0.4, "offset": 0.3}
rng = np.random.default_rng(0)
t = np.sort(rng.uniform(0, 2, 120))
X = t.reshape(-1, 1)


def formula(t, amplitude, tau, frequency, phase, offset):
    return amplitude * np.exp(-t / tau) * np.cos(2 * pi * frequency * t + phase) + offset


y = formula(t, **truth) + rng.normal(0, 0.15, len(t))

# %%
# Fit
# ---
# With a module as architecture, X and y are not standardised, the damping is scaled so that the units of the
# parameters do not matter, and the steps are solved by QR. The user's module is left as it is; ``to_module`` returns
# the fitted copy.

guess = DampedOscillation(amplitude=1.0, tau=2.0, frequency=3.0, phase=0.0, offset=0.0)
model = LMRegressor(architecture=guess).fit(X, y)
fitted = model.to_module()
print(f"{model.n_iter_} iterations, R2 = {model.score(X, y):.4f}: {model.message_}")

# %%
# Standard errors
# ---------------
# ``covariance_`` is :math:`s^2 (J^T J)^{-1}`, where J is the Jacobian of the predictions at the solution and
# :math:`s^2` the residual sum of squares divided by the degrees of freedom (Seber and Wild, *Nonlinear Regression*,
# 1989, section 2.1.2), as from ``scipy.optimize.curve_fit``.

standard_error = np.sqrt(np.diag(model.covariance_))

print(f"\n{'':12}{'start':>8}{'true':>8}{'fitted':>10}{'std. error':>12}{'off by':>16}")
for (name, value), start, error in zip(fitted.named_parameters(), guess.parameters(), standard_error, strict=True):
    off = (value.item() - truth[name]) / error
    print(f"{name:12}{start.item():8.2f}{truth[name]:8.2f}{value.item():10.4f}{error:12.4f}{off:+9.2f} errors")
print(f"noise: true 0.15, estimated {model.noise_std_:.3f}")

# %%
# ``return_std`` gives the standard deviation of new measurements. Without the noise, it is that of the fitted curve:
# the band of plus and minus two of them is where the *curve* lies, not where new measurements fall.

grid = np.linspace(0, 2.4, 600).reshape(-1, 1)
curve, deviation = model.predict(grid, return_std=True)
band = 2 * np.sqrt(deviation**2 - model.noise_std_**2)

figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
axes.plot(t, y, ".", color="0.45", ms=4, label="measured")
axes.plot(grid[:, 0], guess(torch.tensor(grid)).detach(), color="0.7", lw=1, ls="--", label="start")
axes.fill_between(grid[:, 0], curve - band, curve + band, color="C0", alpha=0.3, lw=0, label="±2 standard errors")
axes.plot(grid[:, 0], curve, color="C0", lw=1.2, label="fitted")
axes.set(xlabel="t (s)", ylabel="signal (mV)", title="Damped oscillation, five parameters")
axes.legend(ncols=4, loc="upper right", fontsize="small")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
plt.show()
