"""Weights rounded up or down so that the errors of a channel cancel.

The error of a result is the sum of ``(q - w) x`` over the products of its channel. Behind a ReLU no
``x`` is negative, and those of one window are nearly alike: what counts is the sum of the errors
``q - w``, which rounding to nearest leaves to chance. As in SQuant (Guo et al., arXiv 2202.07471)
some weights are rounded the other way, those first that lie closest to a tie, until the errors of
every kernel, and then those of every output channel, sum to at most half a step. It takes no data.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def balanced(steps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """``steps``, the weights over their scale, rounded to one of the two integers beside them.

    Args:
        steps: shape [out_channels, in_channels, window], float32.
        low, high: shape [out_channels]; nothing is moved below or above them that rounding to
            nearest leaves inside.

    Returns:
        Integers as float32, in the shape of ``steps``. What is an integer already stays.
    """
    return _Rounding(steps, low, high).balanced() if steps.numel() else steps


class _Rounding:
    """``steps`` and ``integers`` have the shape [window, out_channels, in_channels]: what is looked
    for in every kernel is then found for many kernels at once."""

    def __init__(self, steps: Tensor, low: Tensor, high: Tensor) -> None:
        self.steps = steps.permute(2, 0, 1).contiguous()
        self.integers = torch.round(self.steps)
        # errors lie within 1; where there is no room for a move, those that ask for it count as 0
        self.least = (self.integers - high[:, None]).clamp_(-1, 0)
        self.most = (self.integers - low[:, None]).clamp_(0, 1)

    def balanced(self) -> Tensor:
        if len(self.steps) > 1:
            self._cancel_in_kernels()
        self._cancel_in_channels()
        return self.integers.permute(1, 2, 0).contiguous()

    def _movable(self, errors: Tensor) -> Tensor:
        """``errors``, 0 where the integer on the other side of the weight is out of bounds. In
        place."""
        return torch.clamp(errors, self.least, self.most, out=errors)

    def _cancel_in_kernels(self) -> None:
        errors = self.integers - self.steps
        totals = errors.sum(0).flatten()
        movable = self._movable(errors).view(len(errors), -1)
        kernels = (totals.abs() > 0.5).nonzero().flatten()
        while len(kernels):
            signs = totals[kernels].sign()
            gain, place = _largest(movable.index_select(1, kernels).mul_(signs))
            found = gain > 0
            kernels, signs, place = kernels[found], signs[found], place[found]
            moved = place * len(totals) + kernels
            self.integers.view(-1).index_add_(0, moved, signs, alpha=-1)
            movable.view(-1).index_fill_(0, moved, 0)
            totals.index_add_(0, kernels, signs, alpha=-1)
            kernels = kernels[totals[kernels].abs() > 0.5]

    def _cancel_in_channels(self) -> None:
        """Move at most one weight of a kernel, in the kernels whose own sum gains most by it."""
        errors = self.integers - self.steps
        kernels = errors.sum(0)
        totals = kernels.sum(1, keepdim=True)
        signs, count = totals.sign(), totals.abs().round().long()
        gain, place = _largest(self._movable(errors).mul_(signs))
        movable = gain > 0
        worth = torch.where(movable, gain + kernels * signs, -torch.inf)
        outputs, inputs = (_among_largest(worth, count) & movable).nonzero(as_tuple=True)
        self.integers[place[outputs, inputs], outputs, inputs] -= signs[outputs, 0]


def _among_largest(values: Tensor, count: Tensor) -> Tensor:
    """Which are the ``count`` [rows, 1] largest of each row of ``values``, the first ones of equal
    ones. ``topk`` takes three times as long, and of equal ones as it comes."""
    size = values.shape[1]
    ordered = torch.from_numpy(np.sort(values.numpy(), axis=1))
    last = ordered.gather(1, (size - count).clamp_(0, size - 1))
    chosen = (values >= last) & (count > 0)
    if bool((chosen.sum(1, keepdim=True) > count).any()):
        above = values > last
        equal = chosen & ~above
        chosen = above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))
    return chosen


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """``values.max(0)`` of [window, ...], whose kernel takes four times as long."""
    window = len(values)
    if window > torch.iinfo(torch.uint8).max:
        return values.max(0)
    highest = values.amax(0)
    from_end = torch.arange(window, 0, -1, dtype=torch.uint8).view(-1, *[1] * highest.dim())
    first = window - ((values == highest).view(torch.uint8) * from_end).amax(0).long()
    return highest, first
