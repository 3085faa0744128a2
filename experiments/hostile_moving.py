"""Operators that move values, or pick some of them: see hostile_operators.py."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hostile_draft import EXAMPLES, Draft, ImpossibleError, Tensor
from hostile_layers import floats, ints, spatial


def pad(draft: Draft, x: Tensor) -> Tensor:
    rank = len(x.shape)
    sides = [draft.one_of((0, 1, 1), (2, -1)) if side % rank > 1 else 0 for side in range(2 * rank)]
    modes = ("reflect", "edge", "wrap") if draft.opset >= 19 else ("reflect", "edge")
    mode = draft.one_of((None, "constant", *modes))
    value = draft.one_of((None, 0.0, 4 * x.step), (0.1, 1e38, -math.inf, 1e-42, -0.0))
    if draft.opset < 11:
        return draft.node("Pad", [x.name], x.top, x.step, pads=sides, mode=mode, value=value)
    extra = [draft.constant(ints(*sides))]
    if value is not None and mode in (None, "constant"):
        extra.append(draft.constant(np.float32(value)))
    return draft.node("Pad", [x.name, *extra], x.top, x.step, mode=mode)


def resize(draft: Draft, x: Tensor) -> Tensor:
    rank = spatial(x)
    factor = draft.one_of((2.0, 3.0), (0.5, 1.5, 0.7, 2.3))
    scales = draft.constant(floats(1, 1, *[factor] * rank))
    mode = draft.one_of(("nearest",), ("linear", "cubic", None))
    if draft.opset < 11:
        return draft.node("Resize", [x.name, scales], x.top, x.step, mode=mode)
    place = draft.one_of(
        ("asymmetric", "asymmetric", "half_pixel"),
        ("pytorch_half_pixel", "align_corners", "tf_crop_and_resize", None),
    )
    rounding = draft.one_of(("floor",), ("round_prefer_floor", "round_prefer_ceil", "ceil", None))
    roi = (
        draft.constant(floats(*[0] * (rank + 2), *[1.5] * (rank + 2)))
        if place == "tf_crop_and_resize"
        else ""
    )
    extra = [roi, scales]
    if draft.odd():
        extra = [
            roi,
            "",
            draft.constant(ints(*x.shape[:2], *(int(size * factor) for size in x.shape[2:]))),
        ]
    more: dict[str, Any] = {"extrapolation_value": draft.one_of((None,), (0.1, 1e30))}
    if draft.opset >= 18:
        more["antialias"] = draft.one_of((None,), (1,))
    names = [x.name, *extra]
    return draft.node(
        "Resize",
        names,
        x.top,
        x.step,
        mode=mode,
        coordinate_transformation_mode=place,
        nearest_mode=rounding,
        **more,
    )


def reshape(draft: Draft, x: Tensor) -> Tensor:
    shapes = ([0, -1], [EXAMPLES, -1], [0, 1, -1], [0, -1, 1, 1])
    target = draft.one_of(shapes, ([-1], [-1, 1, x.shape[-1]], [0, 0, -1]))
    allow = draft.one_of((None,), (0,)) if draft.opset >= 14 else None
    return draft.node(
        "Reshape", [x.name, draft.constant(ints(*target))], x.top, x.step, allowzero=allow
    )


def transpose(draft: Draft, x: Tensor) -> Tensor:
    orders = [(0, *rest) for rest in itertools.permutations(range(1, len(x.shape)))]
    order = draft.one_of(orders, (None, (*orders[-1][1:], 0)))
    return draft.node("Transpose", [x.name], x.top, x.step, perm=order)


def sliced(draft: Draft, x: Tensor) -> Tensor:
    axis = draft.one_of(tuple(range(1, len(x.shape))) or (0,))
    start, end, step = draft.one_of(
        ((0, 2, 1), (1, 1000, 1), (0, 1000, 2)), ((-1, -1000, -1), (-2, 1000, 1), (1000, -1000, -2))
    )
    return draft.node(
        "Slice",
        [x.name, *(draft.constant(ints(value)) for value in (start, end, axis, step))],
        x.top,
        x.step,
    )


def split(draft: Draft, x: Tensor) -> Tensor:
    axis = draft.one_of(tuple(range(1, len(x.shape))) or (0,))
    size = x.shape[axis]
    if size < 2:
        raise ImpossibleError("nothing to split")
    parts = [size // 2, size - size // 2]
    first = draft.one_of((True, False))
    if draft.opset < 13:
        left = draft.node("Split", [x.name], x.top, x.step, 2, axis=axis, split=parts)
    elif draft.opset >= 18 and draft.odd():
        left = draft.node("Split", [x.name], x.top, x.step, 2, axis=axis, num_outputs=2)
    else:
        left = draft.node(
            "Split", [x.name, draft.constant(ints(*parts))], x.top, x.step, 2, axis=axis
        )
    right = draft.tensors[f"{left.name}_1"]
    return (
        left if first else draft.node("Concat", [right.name, left.name], x.top, x.step, axis=axis)
    )


def gather(draft: Draft, x: Tensor) -> Tensor:
    axis = draft.one_of(tuple(range(1, len(x.shape))) or (0,))
    size = x.shape[axis]
    index = draft.one_of(
        (ints(size - 1, 0), ints(0)), (ints(-1, 0), np.zeros(1, np.int32), np.array(0, np.int64))
    )
    return draft.node("Gather", [x.name, draft.constant(index)], x.top, x.step, axis=axis)


def tile(draft: Draft, x: Tensor) -> Tensor:
    repeats = [draft.one_of((1, 2)) if axis else 1 for axis in range(len(x.shape))]
    return draft.node("Tile", [x.name, draft.constant(ints(*repeats))], x.top, x.step)


def expand(draft: Draft, x: Tensor) -> Tensor:
    shape = [
        1 if size > 1 or axis == 0 else draft.one_of((2, 1)) for axis, size in enumerate(x.shape)
    ]
    return draft.node("Expand", [x.name, draft.constant(ints(*shape))], x.top, x.step)


def squeeze(draft: Draft, x: Tensor) -> Tensor:
    op = draft.one_of(("Unsqueeze", "Squeeze"))
    axes = draft.one_of(([len(x.shape) - 1], [2], [1]), ([-1],))
    if draft.opset < 13:
        return draft.node(op, [x.name], x.top, x.step, axes=axes)
    return draft.node(op, [x.name, draft.constant(ints(*axes))], x.top, x.step)


def depth_to_space(draft: Draft, x: Tensor) -> Tensor:
    op = draft.one_of(("SpaceToDepth", "DepthToSpace"))
    if op == "SpaceToDepth" and any(size % 2 for size in x.shape[2:]):
        raise ImpossibleError("no multiple of the block")
    mode = (
        draft.one_of((None, "DCR", "CRD")) if op == "DepthToSpace" and draft.opset >= 11 else None
    )
    return draft.node(op, [x.name], x.top, x.step, blocksize=draft.one_of((2,), (1, 3)), mode=mode)
