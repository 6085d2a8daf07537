"""Selecting and writing back models (rows of the leading axis) of nested tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._constant import constant

T = TypeVar("T")


def select(tree: T, index: Tensor) -> T:
    """Keep the models ``index`` (b,) of every tensor in a dataclass, dict, list or tensor; other leaves stay."""
    return _map(tree, lambda leaf: leaf[index])


def scatter(tree: T, index: Tensor, part: T) -> T:
    """Return ``tree`` with the models ``index`` (b,) replaced by those of ``part``; ``tree`` is left as it was."""

    def put(leaf: Tensor, new: Tensor) -> Tensor:
        result = leaf.clone()
        result[index] = new
        return result

    return _map(tree, put, part)


def repeat(tree: T, times: int) -> T:
    """Return every model of ``tree`` ``times`` times in a row; one model alone is not copied."""
    return _map(tree, lambda leaf: leaf.unsqueeze(1).expand(-1, times, *leaf.shape[1:]).flatten(0, 1))


def where(condition: Tensor, new: T, old: T) -> T:
    """Choose model by model: ``condition`` (B,) picks from ``new``."""
    return _map(new, lambda a, b: a.where(condition.reshape(-1, *[1] * (a.ndim - 1)), b), old)


def evolve(record: T, **changes: Any) -> T:
    """Return a copy of a dataclass with some fields changed: ``dataclasses.replace`` for the inner loop."""
    result = object.__new__(type(record))
    result.__dict__.update(record.__dict__, **changes)
    return result


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, one for every place, in a fixed order."""
    found: list[Tensor] = []

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, dict | list | tuple):
            for value in part.values() if isinstance(part, dict) else part:
                visit(value)
        elif is_dataclass(part) and not isinstance(part, type):
            for value in part.__dict__.values():
                visit(value)

    visit(tree)
    return found


def with_leaves(tree: T, values: Iterable[Tensor]) -> T:
    """The tree with other tensors, in the order of :func:`leaves`."""
    following = iter(values)

    def visit(part: Any) -> Any:
        if isinstance(part, Tensor):
            return next(following)
        if isinstance(part, dict):
            return {key: visit(value) for key, value in part.items()}
        if isinstance(part, list | tuple):
            return type(part)(visit(value) for value in part)
        if is_dataclass(part) and not isinstance(part, type):
            return evolve(part, **{name: visit(value) for name, value in part.__dict__.items()})
        return part

    return visit(tree)


class Choice:
    """Pick new or old values model by model, without work on the CPU where all models agree.

    Parameters
    ----------
    mask : (B,) bool tensor
    """

    def __init__(self, mask: Tensor):
        self.mask = mask
        if not mask.is_cpu:
            self.all = self.none = False
        elif mask.shape[0] == 1:
            self.all = bool(mask)
            self.none = not self.all
        else:
            self.all = bool(mask.all())
            self.none = not self.all and not bool(mask.any())

    @classmethod
    def of_all(cls, like: Tensor) -> Choice:
        """The choice of every model (B,), without looking."""
        choice = object.__new__(cls)
        choice.mask, choice.all, choice.none = constant(True, like, torch.bool), True, False
        return choice

    def __call__(self, new: T, old: T) -> T:
        """Return ``new`` where the mask holds, else ``old``; trees as in :func:`select`."""
        if self.all:
            return new
        return old if self.none else where(self.mask, new, old)


def _map(tree: Any, function: Any, *others: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {key: _map(value, function, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(value, function, *(other[i] for other in others)) for i, value in enumerate(tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        values: dict[str, Any] = {}
        seen: dict[tuple[int, ...], Any] = {}  # fields that share one object everywhere go on sharing it
        for name, value in tree.__dict__.items():
            rest = [getattr(other, name) for other in others]
            key = (id(value), *map(id, rest))
            if key not in seen:
                seen[key] = _map(value, function, *rest)
            values[name] = seen[key]
        return evolve(tree, **values)
    return tree
