"""Layers and pools: kernels that slide over an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qstrategies.errors import InputError
from qstrategies.export.c99.piece import Piece, Place
from qstrategies.export.c99.rounding import quotient_of, rounding_of
from qstrategies.specification.program import (
    Array,
    AveragePool,
    Convolution,
    Linear,
    MaxPool,
    TransposedConvolution,
)


def _three(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """One number for each of three dimensions."""
    if len(values) > 3:
        raise InputError(f"an image of {len(values)} dimensions")
    return (*[fill] * (3 - len(values)), *values)


def _window(node: Any, kernel: Sequence[int], *, transposed: bool = False) -> dict[str, Any]:
    dilation = getattr(node, "dilation", (1,) * len(kernel))
    return {
        "x_size": _three(node.inputs[0].shape[2:], 1),
        "y_size": _three(node.output.shape[2:], 1),
        "kernel": _three(kernel, 1),
        "stride": _three(node.stride, 1),
        "pad": _three(node.pads, 0),
        "dilation": _three(dilation, 1),
        "transposed": int(transposed),
    }


LINE = 16
"""As in ``kernels/rounded_line.c``."""
_GENERAL = ("rounding", "rounded", "window", "element", "layer", "convolution")
_PLANE = ("rounding", "rounded", "rounded_line", "window", "layer", "plane_convolution")


def convolution(place: Place) -> Piece:
    node: Convolution = place.node
    transposed = isinstance(node, TransposedConvolution)
    outer, inner, *kernel = node.weight.shape
    grouped = node.weight.reshape(node.groups, outer // node.groups, inner, *_three(kernel, 1))
    ordered = grouped.swapaxes(1, 2) if transposed else grouped
    _, outputs, inputs, *_ = ordered.shape
    fields = {
        "window": _window(node, kernel, transposed=transposed),
        "images": node.inputs[0].shape[0],
        "groups": node.groups,
        "inputs": inputs,
        "outputs": outputs,
        **_products(place, ordered.transpose(0, 1, 5, 3, 4, 2)),
    }
    if inputs == 1 and not transposed:
        return place.call(_PLANE, fields, _spread(fields["window"]), kind="layer")
    return place.call(_GENERAL, fields, inputs * math.prod(kernel), kind="layer")


def _spread(window: Mapping[str, Any]) -> int:
    """The room for all that a kernel goes over in an image of one channel, the last dimension in
    whole strides, and for a line of results."""
    names = ("y_size", "stride", "kernel", "dilation")
    each = zip(*(window[name] for name in names), strict=True)
    reach = [(y - 1) * stride + (k - 1) * dilation + 1 for y, stride, k, dilation in each]
    stride = window["stride"][2]
    return math.prod(reach[:2]) * math.ceil(reach[2] / stride) * stride + LINE


def linear(place: Place) -> Piece:
    """Each row is an image of one pixel."""
    node: Linear = place.node
    outputs, inputs = node.weight.shape
    one = (1, 1, 1)
    names = ("x_size", "y_size", "kernel", "stride", "dilation")
    fields = {
        "window": {**dict.fromkeys(names, one), "pad": (0, 0, 0), "transposed": 0},
        "images": node.inputs[0].size // inputs,
        "groups": 1,
        "inputs": inputs,
        "outputs": outputs,
        **_products(place, node.weight),
    }
    return place.call(_GENERAL, fields, inputs, kind="layer")


def _products(place: Place, weight: Array) -> dict[str, Any]:
    return {
        "zero_point": place.node.zero_point,
        "weight": place.array("int8_t", "weight", weight),
        "bias": place.array("int32_t", "bias", place.node.bias),
        "rounding": rounding_of(place),
    }


def average_pool(place: Place) -> Piece:
    node: AveragePool = place.node
    fields = {
        "window": _window(node, node.kernel),
        "planes": math.prod(node.inputs[0].shape[:2]),
        "zero_point": node.zero_point,
        **quotient_of(place),
    }
    return place.call(("rounding", "rounded_quotient", "window", "element", "average_pool"), fields)


def max_pool(place: Place) -> Piece:
    node: MaxPool = place.node
    fields = {
        "window": _window(node, node.kernel),
        "planes": math.prod(node.inputs[0].shape[:2]),
    }
    return place.call(("window", "element", "max_pool"), fields)
