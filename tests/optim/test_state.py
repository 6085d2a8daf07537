from dataclasses import replace

import numpy as np
import torch

from sklm.optim import Solution, Status
from sklm.optim._state import History

from ..problems import tensor


def test_history_puts_values_where_their_models_belong():
    history = History()
    history.append(torch.tensor([0, 1, 2]), loss=tensor([10.0, 11, 12]), damping=tensor([1.0, 1, 1]))
    history.append(torch.tensor([2, 0]), loss=tensor([22.0, 20]), damping=tensor([2.0, 2]))
    curves = history.arrays(np.array([2, 1, 2]))
    np.testing.assert_array_equal(curves["loss"], [[10, 11, 12], [20, np.nan, 22]])
    np.testing.assert_array_equal(curves["damping"], [[1, 1, 1], [2, np.nan, 2]])
    assert np.isnan(curves["validation"]).all()
    assert curves["validation"].shape == (2, 3)


def test_history_forgets_models_carried_along_after_their_end():
    history = History()
    for value in range(3):
        history.append(torch.tensor([0, 1]), loss=tensor([value, value]))
    np.testing.assert_array_equal(history.arrays(np.array([3, 1]))["loss"], [[0, 0], [1, np.nan], [2, np.nan]])


def solution(score, status=Status.DECREASE):
    n_models = len(score)
    theta, zeros = torch.zeros((n_models, 1)), np.zeros(n_models)
    statuses = status if isinstance(status, list) else [status] * n_models
    return Solution(theta, theta[:, 0], np.array(score), zeros, statuses, zeros.astype(int), {})


def test_best_is_the_lowest_finite_score():
    assert solution([3.0, 1.0, 2.0]).best == 1
    assert solution([np.nan, np.inf, 2.0]).best == 2


def test_exact_fits_are_equally_good():
    """What rounding leaves of the objective is no reason to prefer one."""
    got = solution([1e-5, 3e-32, 1e-32], [Status.DECREASE, Status.EXACT, Status.EXACT])
    assert got.best == 1
    assert got.rank.tolist() == [1e-5, 0, 0]


def test_what_was_given_up_is_never_the_best():
    got = solution([1.0, 0.5, 2.0], [Status.DECREASE, Status.SUPERSEDED, Status.MAX_ITER])
    assert got.rank.tolist() == [1, np.inf, 2]
    got = replace(got, leave_one_out=np.array([3.0, 1.0, 2.0]))
    assert got.rank.tolist() == [3, np.inf, 2]


def test_groups_are_ranked_each_on_its_own():
    """The third fit has a start at its target, which beats better ones of the same fit only."""
    scores = np.array([3.0, 1, 2, 5, 4, np.nan, 0.1, 7])
    codes = [Status.DECREASE] * 6 + [Status.STEP, Status.TARGET]
    grouped = replace(solution(scores), status=codes, groups=np.array([0, 0, 0, 1, 1, 1, 2, 2]))
    np.testing.assert_array_equal(grouped.rank, [3, 1, 2, 5, 4, np.inf, np.inf, 7])
    np.testing.assert_array_equal(grouped.leaders(), [1, 4, 7])
    np.testing.assert_array_equal(grouped.leaders(2), [1, 2, 3, 4, 6, 7])
    np.testing.assert_array_equal(grouped.leaders(9), np.arange(8))
    mixed = replace(solution(scores[:4]), groups=np.array([1, 0, 1, 0]))
    np.testing.assert_array_equal(mixed.leaders(), [1, 2])
    np.testing.assert_array_equal(solution(scores[:4]).leaders(2), [1, 2])


def test_leave_one_out_ranks_the_fits_where_it_is_known():
    unknown = [np.nan, np.inf]
    result = replace(solution([1.0, 0.0, 3.0, 2.0]), groups=np.array([0, 0, 1, 1]))
    result = replace(result, leave_one_out=np.array([0.1, 0.2, *unknown]))
    np.testing.assert_array_equal(result.rank, [0.1, 0.2, 3.0, 2.0])
    np.testing.assert_array_equal(result.leaders(), [0, 3])
    mixed = replace(result, leave_one_out=np.array([np.nan, 0.2, 0.1, np.nan]))
    np.testing.assert_array_equal(mixed.leaders(), [1, 2])


def test_the_leader_is_the_first_of_equals_like_the_best():
    equal = solution(np.array([2.0, 1, 1]))
    assert equal.leaders()[0] == equal.best == 1
