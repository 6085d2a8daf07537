"""Damping rules against their published formulas, one number at a time."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklm.optim import STRATEGIES, DampingStrategy, DelayedGratification, GainRatio, Multiplicative, Trial, TrustRegion

from ..problems import tensor


def trial(gain_ratio, damping=1.0):
    """Trials with an objective of 1 and a predicted reduction of 0.1."""
    gain_ratio = np.atleast_1d(gain_ratio)
    objective, predicted = np.ones_like(gain_ratio), np.full_like(gain_ratio, 0.1)
    after = np.where(np.isfinite(gain_ratio), objective - gain_ratio * predicted, np.inf)
    damping = np.broadcast_to(damping, gain_ratio.shape)
    return Trial(*map(tensor, (objective, after, predicted, gain_ratio, damping)))


def play(strategy, ratios, damping=1.0):
    """Dampings and decisions of one model over a sequence of gain ratios."""
    memory, decisions, dampings = strategy.start(tensor([damping])), [], []
    for ratio in ratios:
        accept, value, memory = strategy.update(trial(ratio, damping), memory)
        damping = float(value[0])
        decisions.append(bool(accept[0]))
        dampings.append(damping)
    return decisions, dampings


@pytest.mark.parametrize("decrease", [3.0, 9.0])
def test_gain_ratio_on_acceptance(decrease):
    """Nielsen: max(1/3, 1 - (2 rho - 1)^3)."""
    ratios = np.array([1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0, 1.5, 100.0])
    strategy = GainRatio(decrease)
    accept, damping, memory = strategy.update(trial(ratios, 0.7), strategy.start(tensor(np.full(10, 0.7))))
    assert accept.all()
    expected = 0.7 * np.maximum(1 / decrease, 1 - (2 * ratios - 1) ** 3)
    np.testing.assert_allclose(damping, expected, rtol=1e-14)
    assert all((value == 2).all() for value in memory.values())


def test_gain_ratio_on_a_run_of_rejections():
    """The factor doubles from rejection to rejection and starts again at two."""
    decisions, dampings = play(GainRatio(), [-0.5, -np.inf, 0.0, np.nan, 1.0, -1.0, 0.5, -1.0])
    assert decisions == [False, False, False, False, True, False, True, False]
    factors = [2, 4, 8, 16, 1 / 3, 2, 1, 2]
    np.testing.assert_allclose(dampings, np.cumprod(factors), rtol=1e-14)


@pytest.mark.parametrize(
    ("strategy", "down", "up"),
    [
        (Multiplicative(), 10, 10),
        (Multiplicative(decrease=7.0, increase=1.5), 7, 1.5),
        (DelayedGratification(), 3, 2),
        (DelayedGratification(decrease=5.0, increase=1.5), 5, 1.5),
    ],
    ids=str,
)
def test_fixed_factors(strategy, down, up):
    decisions, dampings = play(strategy, [1.0, 0.01, -0.01, -np.inf, 0.0, 2.0], damping=0.3)
    assert decisions == [True, True, False, False, False, True]
    factors = [1 / down, 1 / down, up, up, up, 1 / down]
    np.testing.assert_allclose(dampings, 0.3 * np.cumprod(factors), rtol=1e-14)


@pytest.mark.parametrize("rule", [TrustRegion(), TrustRegion(3.0, 5.0, 0.1, 0.6, 0.05)], ids=str)
def test_thresholds_of_a_trust_region(rule):
    """Nocedal & Wright, algorithm 4.1, for the inverse of the radius."""
    ratios = np.r_[np.linspace(-1, 2, 31) + 1e-3, 1e-5, rule.low, rule.high, np.nan, -np.inf]
    accept, damping, memory = rule.update(trial(ratios, 0.7), rule.start(tensor(np.full(len(ratios), 0.7))))
    for ratio, taken, value in zip(ratios, accept, damping, strict=True):
        factor = 1.0
        if not ratio >= rule.low:
            factor = rule.increase
        elif ratio > rule.high:
            factor = 1 / rule.decrease
        assert bool(taken) == bool(ratio > rule.accept_above)
        np.testing.assert_allclose(value, 0.7 * factor, rtol=1e-14)
    assert memory == {}


@pytest.mark.parametrize(
    "options", [{"low": 0.8}, {"accept_above": 0.3}, {"accept_above": -0.1}, {"increase": 1.0}, {"decrease": 0.5}]
)
def test_thresholds_out_of_order(options):
    with pytest.raises(ValueError, match="TrustRegion needs"):
        TrustRegion(**options).start(tensor([1.0]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_models_of_a_batch_do_not_interact(name):
    strategy, ratios = STRATEGIES[name](), np.array([0.9, -1.0, np.nan, 0.3])
    memory = strategy.start(torch.ones(4, dtype=torch.float64))
    for _ in range(3):
        accept, damping, memory = strategy.update(trial(ratios), memory)
    for model, ratio in enumerate(ratios):
        assert bool(accept[model]) == play(strategy, [ratio])[0][0]
        alone = strategy.start(tensor([1.0]))
        for _ in range(3):
            _, expected, alone = strategy.update(trial(ratio), alone)
        assert damping[model] == expected[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STRATEGIES)
def test_precision_is_that_of_the_damping_whatever_the_default(name, default, dtype):
    strategy, results = STRATEGIES[name](), []
    before = torch.get_default_dtype()
    for setting in (before, default):
        torch.set_default_dtype(setting)
        try:
            made = Trial(*(value.to(dtype) for value in vars(trial([0.9, -1.0], 0.3)).values()))
            results.append(strategy.update(made, strategy.start(made.damping))[1])
        finally:
            torch.set_default_dtype(before)
    assert results[0].dtype == results[1].dtype == dtype
    assert torch.equal(*results)


@pytest.mark.parametrize("name", STRATEGIES)
def test_arguments_are_not_written_to(name):
    strategy, made = STRATEGIES[name](), trial([0.9, -1.0, -np.inf], 0.3)
    memory = strategy.start(made.damping)
    before = [value.clone() for value in (*vars(made).values(), *memory.values())]
    strategy.update(made, memory)
    for value, expected in zip((*vars(made).values(), *memory.values()), before, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_are_parameters_of_a_search(name):
    strategy = STRATEGIES[name]()
    assert isinstance(strategy, DampingStrategy)
    changed = clone(strategy).set_params(decrease=4.0)
    assert changed.get_params()["decrease"] == 4.0
    assert changed != strategy
    assert repr(changed).startswith(f"{type(strategy).__name__}(decrease=4.0")
