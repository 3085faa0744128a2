"""Values replaced where a constant mask says so: ``x (1 - mask) + value mask``."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.addition import Add, sum_with_constant
from qstrategies.operators.base import FORMS, Call, is_number, recognizes
from qstrategies.operators.constant import drawn, with_constant
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.product import Multiply


class Keep(Multiply):
    """``a`` where ``b``, a mask of 0 and 1, is 1; 0 elsewhere, whatever ``a`` is there."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(b == 0, 0.0, a)


FORMS[Keep] = FORMS[Multiply]


@recognizes(torch.masked_fill, "masked_fill", "masked_fill_")
def _masked_fill(call: Call, input: fx.Node, mask: Any, value: Any) -> fx.Node | None:
    constant = is_number(value) or isinstance(value, Tensor)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not constant:
        return None
    fill = torch.where(mask, torch.as_tensor(value, dtype=torch.float32), 0.0)
    kept = with_constant(call, Keep(), input, ~mask)
    if kept is None or not fill.any():
        return kept
    return sum_with_constant(call, Add(), kept, fill)


@recognizes(torch.where)
def _where(call: Call, condition: Any, input: Any, other: Any) -> fx.Node | None:
    if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
        return None
    if isinstance(input, fx.Node):
        return _masked_fill(call, input, ~condition, other)
    return _masked_fill(call, other, condition, input) if isinstance(other, fx.Node) else None


class _Chosen(nn.Module):
    """``torch.where`` of a constant."""

    def __init__(self, mask: Tensor, value: Any, *, first: bool) -> None:
        super().__init__()
        self.target, self.mask, self.value, self.first = torch.where, mask, value, first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return torch.where(self.mask, x, self.value)
        return torch.where(self.mask, self.value, x)


@draws()
def _draw(random: Random, shape: Sizes) -> nn.Module:
    mask = drawn(random, shape).detach() > 0
    if happens(random, 0.5):
        return Applied(spelling(random, _masked_fill), mask, 0)
    return _Chosen(mask, 0.0, first=happens(random, 0.5))


@draws(exact=False)  # beside the value the rest may be little
def _draw_value(random: Random, shape: Sizes) -> nn.Module:
    mask, other = drawn(random, shape).detach() > 0, drawn(random, shape).detach()
    if happens(random, 0.5):
        return Applied(spelling(random, _masked_fill), mask, 0.5)
    return _Chosen(mask, random.choice((0.5, other)), first=happens(random, 0.5))
