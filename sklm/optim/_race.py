"""Starts of one fit that race each other: which of them are given up."""

from __future__ import annotations

import torch
from torch import Tensor


def fallen_behind(score: Tensor, running: Tensor, group: Tensor, number: int) -> Tensor:
    """Return the mask (b,) of running models that are not among the best ``number`` running ones of their group.

    Parameters
    ----------
    score : (b,) tensor
        Less is better; NaN is worst. Of equal scores, the first is best.
    running : (b,) bool tensor
    group : (b,) int tensor
        Number of the fit that each model is a start of.
    number : int

    Notes
    -----
    One stage of successive halving (Karnin, Koren & Somekh, Almost optimal exploration in multi-armed bandits, ICML
    2013, algorithm 1, where half of the arms go on).
    """
    key = torch.where(running, score, torch.inf).nan_to_num(torch.inf, torch.inf)
    order = key.argsort(stable=True)
    order = order[(~running)[order].long().argsort(stable=True)]  # those that have ended come last
    return (places(order, group) >= number) & running


def places(order: Tensor, group: Tensor) -> Tensor:
    """Return the place (b,) of every model in its group (b,), from 0, when they stand in this ``order`` (b,)."""
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).scatter_(0, order, place)
