from dataclasses import dataclass

import pytest
import torch

from sklm.optim._batch import Choice, evolve, repeat, scatter, select, where

from ..problems import tensor


@dataclass
class Tree:
    one: torch.Tensor
    rest: object


def tree(offset=0.0):
    one = tensor([0.0, 1, 2]) + offset
    return Tree(one, [{"a": tensor([[0.0, 0], [1, 1], [2, 2]]) + offset}, (one + 10, None), "name"])


def leaves(tree):
    return [tree.one, tree.rest[0]["a"], tree.rest[1][0]]


def test_select_keeps_models_of_every_tensor():
    part = select(tree(), torch.tensor([2, 0]))
    assert [leaf.tolist() for leaf in leaves(part)] == [[2, 0], [[2, 2], [0, 0]], [12, 10]]
    assert part.rest[1][1] is None
    assert part.rest[2] == "name"


def test_scatter_writes_into_a_copy():
    whole = tree()
    result = scatter(whole, torch.tensor([1]), select(tree(100), torch.tensor([1])))
    assert result.one.tolist() == [0, 101, 2]
    assert result.rest[0]["a"].tolist() == [[0, 0], [101, 101], [2, 2]]
    assert torch.equal(whole.one, tree().one)


def test_fields_that_shared_a_tensor_may_part():
    """At the start the best parameters are the current ones, in one tensor; later they are not."""
    same = tensor([0.0, 1, 2])
    result = scatter(Tree(same, same), torch.tensor([1]), Tree(tensor([10.0]), tensor([20.0])))
    assert (result.one.tolist(), result.rest.tolist()) == ([0, 10, 2], [0, 20, 2])
    apart = Tree(tensor([10.0, 10, 10]), tensor([20.0, 20, 20]))
    result = where(torch.tensor([True, False, True]), Tree(same, same), apart)
    assert (result.one.tolist(), result.rest.tolist()) == ([0, 10, 2], [0, 20, 2])


@pytest.mark.parametrize("mask", [[True, True, True], [False, False, False], [True, False, True]])
def test_choice_is_where(mask):
    mask, new, old = torch.tensor(mask), tree(100), tree()
    choice = Choice(mask)
    assert choice.all == bool(mask.all())
    assert choice.none == (not bool(mask.any()))
    for got, expected, a, b in zip(*map(leaves, (choice(new, old), where(mask, new, old), new, old)), strict=True):
        assert torch.equal(got, expected)
        assert torch.equal(got, torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b))


def test_evolve_changes_a_copy():
    before = tree()
    after = evolve(before, rest=5)
    assert (after.rest, after.one) == (5, before.one)
    assert before.rest != 5
    assert type(after) is Tree


def test_repeat_puts_the_copies_of_a_model_side_by_side():
    wide = repeat(tree(), 2)
    assert wide.one.tolist() == [0, 0, 1, 1, 2, 2]
    assert wide.rest[0]["a"].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2], [2, 2]]
    assert wide.rest[1][1] is None
    alone = tensor([[1.0, 2.0]])
    assert repeat(alone, 3).data_ptr() == alone.data_ptr()
    assert repeat(None, 3) is None
