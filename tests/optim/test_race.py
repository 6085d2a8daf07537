"""Starts of a fit that are given up for better ones."""

import numpy as np
import pytest
import torch

from sklm.optim import Status, Stopping, levenberg_marquardt
from sklm.optim._race import fallen_behind

from ..problems import SURFACE


def slow(score, running, group, number):
    """Group by group, in plain Python."""
    behind = [False] * len(score)
    for one in set(group):
        members = [k for k in range(len(score)) if group[k] == one and running[k]]
        members.sort(key=lambda k: (score[k] if score[k] == score[k] else np.inf, k))
        for k in members[number:]:
            behind[k] = True
    return behind


@pytest.mark.parametrize("number", [0, 1, 2, 5, 40])
def test_the_worst_of_every_group_fall_behind(number):
    rng = np.random.default_rng(number)
    for _ in range(20):
        score = rng.integers(0, 9, 40).astype(float)  # with equal ones
        score[rng.uniform(size=40) < 0.2] = rng.choice([np.nan, np.inf])
        running, group = rng.uniform(size=40) < 0.7, rng.integers(0, 4, 40)
        got = fallen_behind(*map(torch.from_numpy, (score, running, group)), number)
        assert got.tolist() == slow(score, running, group, number)


def test_a_race_stops_those_behind_and_leaves_the_others_alone():
    theta, limits = SURFACE.starts(8), {"max_iter": 30, "tol": 0.0, "n_iter_no_change": 100}
    free = levenberg_marquardt(SURFACE.problem(8), theta, stopping=Stopping(**limits))
    race = Stopping(**limits, race=((5, 4), (10, 2), (30, 1), (99, 1)))
    raced = levenberg_marquardt(SURFACE.problem(8), theta, stopping=race)
    best = np.minimum.accumulate(free.history["objective"])
    first = np.argsort(best[4])[:4]
    second = first[np.argsort(best[9, first])[:2]]
    expected = np.full(8, 5)
    expected[first], expected[second] = 10, 30
    np.testing.assert_array_equal(raced.n_iter, expected)
    assert {raced.status[k] for k in range(8) if k not in second} == {Status.SUPERSEDED}
    assert {raced.status[k] for k in second} == {Status.MAX_ITER}  # a race does not end with one
    torch.testing.assert_close(raced.theta[second], free.theta[second], rtol=1e-9, atol=1e-12)
    assert raced.best == second[np.argmin(free.score[second])]


def test_the_first_models_are_spared():
    theta, groups = SURFACE.starts(8), np.array([1, 0, 0, 1, 1, 0, 1, 0])
    race = Stopping(max_iter=9, tol=0.0, n_iter_no_change=100, race=((5, 1),), spared=2)
    raced = levenberg_marquardt(SURFACE.problem(8), theta, stopping=race, groups=groups)
    given_up = np.array([status is Status.SUPERSEDED for status in raced.status])
    assert not given_up[[0, 1, 2, 3]].any()  # the first two of each group
    assert (given_up[[4, 6]].sum(), given_up[[5, 7]].sum()) == (1, 1)


def test_a_race_is_within_a_group_and_among_those_that_still_run():
    groups, done = np.array([1, 1, 0, 0, 0, 0]), np.array([0, 0, 40, 0, 0, 0])
    race = Stopping(max_iter=40, tol=0.0, n_iter_no_change=100, race=((45, 2),))  # counted by the one furthest on
    raced = levenberg_marquardt(SURFACE.problem(6), SURFACE.starts(6), stopping=race, groups=groups, done=done)
    given_up = [k for k in range(6) if raced.status[k] is Status.SUPERSEDED]
    assert len(given_up) == 1
    assert given_up[0] in (3, 4, 5)
    assert raced.n_iter[given_up[0]] == 5
    assert raced.status[2] is Status.MAX_ITER
