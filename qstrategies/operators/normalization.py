"""Batch normalization with statistics of its own: folded into the layer before it, or a depthwise
layer."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from qstrategies.operators.base import (
    FORMS,
    Call,
    Form,
    Node,
    Placing,
    Shape,
    Site,
    recognizes,
    shape_of,
)
from qstrategies.operators.drawing import Applied, Sizes, draws, happens, spelling
from qstrategies.operators.layer import take
from qstrategies.operators.linear import rows_of

NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _standing(site: Site) -> Node:
    raise AssertionError(f"{site.output.name}: exact_forms leaves no batch normalization standing")


for _kind in dict.fromkeys(NORMS.values()):
    FORMS[_kind] = Form(placing=Placing.OWN, node=_standing, takes_relu=True, weighted=True)


@recognizes(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _module(call: Call, norm: Any, x: fx.Node) -> fx.Node | None:
    statistics = (norm.running_mean, norm.running_var)
    numbers = (norm.weight, norm.bias, norm.momentum, norm.eps)
    return _emit(call, x, *statistics, *numbers, count=norm.num_batches_tracked)


@recognizes(functional.batch_norm)
def _functional(
    call: Call,
    input: fx.Node,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> fx.Node | None:
    if training:
        return None
    fixed = getattr(running_mean, "stays_in_eval", False)
    statistics = (running_mean, running_var)
    return _emit(call, input, *statistics, weight, bias, momentum, eps, fixed=fixed)


@torch.no_grad()
def _emit(
    call: Call,
    x: fx.Node,
    mean: Any,
    var: Any,
    weight: Any,
    bias: Any,
    momentum: float | None,
    eps: float,
    *,
    fixed: bool = False,
    count: Tensor | None = None,
) -> fx.Node | None:
    """A batch normalization; ``fixed``: in training too, by these statistics; ``count``: of the
    batches that these are an average of."""
    known = isinstance(mean, Tensor) and isinstance(var, Tensor)
    numbers = isinstance(weight, Tensor | None) and isinstance(bias, Tensor | None)
    if not (known and numbers and len(shape_of(x)) in NORMS):
        return None
    norm = NORMS[len(shape_of(x))](len(mean), eps, momentum)
    take(norm.running_mean, mean)
    take(norm.running_var, var)
    if count is not None:
        take(norm.num_batches_tracked, count)
    for own, value in ((norm.weight, weight), (norm.bias, bias)):
        if value is None:
            own.requires_grad_(False)  # the user's has none
        else:
            take(own, value)
    norm.stays_in_eval = fixed
    return call.emit(norm.eval(), x, shape=shape_of(x))


def affine(
    call: Call, x: fx.Node, factor: Tensor | float, offset: Tensor | float
) -> fx.Node | None:
    """``factor x + offset`` with one number per channel: a normalization that needs no statistics,
    to be folded like any.

    The tensors broadcast over ``x``, [N, C, ...] or [..., C], with one value per channel; None if
    they do not.
    """
    shape = shape_of(x)
    by_channel = _numbers(factor, offset, shape, 1) if len(shape) in NORMS else None
    if by_channel is not None:
        return _scaled(call, x, *by_channel)
    by_feature = _numbers(factor, offset, shape, len(shape) - 1) if len(shape) > 2 else None
    if by_feature is None:
        return None
    rows = _scaled(call, rows_of(call, x, len(by_feature[0])), *by_feature)
    return None if rows is None else call.reshape(rows)


@recognizes(torch.addcmul, "addcmul")
def _sum_with_product(
    call: Call, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1
) -> fx.Node | None:
    nodes = [each for each in (input, tensor1, tensor2) if isinstance(each, fx.Node)]
    if len(nodes) > 1:
        return None
    if nodes == [input]:
        return affine(call, input, 1.0, value * tensor1 * tensor2)
    factor = tensor1 if nodes == [tensor2] else tensor2
    return affine(call, nodes[0], value * factor, input)


def _scaled(call: Call, x: fx.Node, weight: Tensor, bias: Tensor) -> fx.Node | None:
    half = torch.full((len(weight),), 0.5)  # var + eps = 1: PyTorch before 2.11 refuses eps = 0
    return _emit(call, x, 0 * half, half, weight, bias, momentum=0.0, eps=0.5, fixed=True)


def _numbers(
    factor: Tensor | float, offset: Tensor | float, shape: Shape, axis: int
) -> tuple[Tensor, Tensor] | None:
    """Both with one number for each place along ``axis`` of ``shape``; None if they have others."""
    size = shape[axis]
    if size is None:
        return None
    weight, bias = (_along(value, len(shape), axis, size) for value in (factor, offset))
    return None if weight is None or bias is None else (weight, bias)


def _along(value: Tensor | float, dimensions: int, axis: int, size: int) -> Tensor | None:
    if not isinstance(value, Tensor):
        return torch.full((size,), float(value))
    wanted = [1] * dimensions
    wanted[axis] = size
    missing = dimensions - value.dim()
    fits = missing >= 0 and [*[1] * missing, *value.shape] == wanted
    return value.reshape(-1).float() if fits and value.is_floating_point() else None


@draws(often=6)
def _draw(random: Random, shape: Sizes) -> nn.Module | None:
    kind = NORMS.get(len(shape) + 1)
    if kind is None:
        return None
    eps, affine_ = random.choice((1e-5, 1e-3, 0.3)), happens(random, 0.8)
    norm = kind(shape[0], eps, random.choice((0.1, None)), affine_)
    if happens(random, 0.8):
        return norm
    mean, var = torch.full_like(norm.running_mean, 0.2), torch.full_like(norm.running_var, 1.5)
    return Applied(functional.batch_norm, mean, var, norm.weight, norm.bias, eps=eps)


@draws()
def _draw_sum_with_product(random: Random, shape: Sizes) -> nn.Module:
    numbers = (channels(random, shape) for _ in range(2))
    return Applied(spelling(random, _sum_with_product), *numbers, value=0.5)


def channels(random: Random, shape: Sizes) -> Tensor:
    """One number per channel for tensors of ``shape``, none of them 0: to add, to multiply by."""
    numbers = [random.choice((-1, 1)) * random.uniform(0.1, 2) for _ in range(shape[0])]
    return torch.tensor(numbers).reshape(-1, *[1] * (len(shape) - 1))
