"""The operators that a drawn file may hold, each with the attributes that tools write and with those that nobody expects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_draft import EXAMPLES, Array, Draft, ImpossibleError, Tensor, finite
from onnx import TensorProto

Operator = Callable[[Draft, Tensor], Tensor]


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def spatial(x: Tensor) -> int:
    """How many spatial axes ``x`` has; raises ``ImpossibleError`` if it has none."""
    if len(x.shape) < 3:
        raise ImpossibleError("no spatial axes")
    return len(x.shape) - 2


def weight(draft: Draft, shape: tuple[int, ...], axis: int, x: Tensor) -> tuple[str, float, Array]:
    """The name of a weight, the largest output for ``x``, and its steps per channel along ``axis``, or one."""
    values = draft.rng.integers(-64, 65, shape)
    limit = draft.one_of((64, 8, 64), (127, 1))
    values = np.clip(values * 2 if limit == 127 else values, -limit, limit)
    channels = shape[axis] if draft.opset >= 13 and draft.one_of((True, False)) else 1
    wanted = draft.one_of((2.0**-6, 2.0**-9, 1.0))
    scales = np.array([draft.scale(wanted * 2.0 ** -(index % 3)) for index in range(min(channels, 3))], np.float32)
    scales = np.resize(scales, channels)
    if draft.opset >= 13 and not draft.odd():
        scales = scales * np.float32(draft.one_of((1, 1, 3, 5, 11, 29), (7, 13, 15, 255)))
    largest = finite(x.top * float(np.abs(values).sum() / shape[axis] * scales.max()))
    form = draft.one_of(("quantized",), ("float", "free", "quantized at load"))
    spread = scales.reshape([-1 if index == axis and channels > 1 else 1 for index in range(len(shape))])
    if form == "free":
        return draft.constant((draft.rng.normal(size=shape) * 0.1).astype(np.float32)), largest, scales
    if form == "float":
        return draft.constant((values * spread).astype(np.float32)), largest, scales
    dtype = draft.one_of((np.int8,), (np.uint8,))
    shift = 128 if dtype == np.uint8 else 0
    zero_point = draft.one_of((shift,), (shift, 0, 1, 2, 64))
    stored = (values + shift).clip(*np.array([np.iinfo(dtype).min, np.iinfo(dtype).max])).astype(dtype)
    names = [draft.constant(scales if channels > 1 or draft.odd() else scales.reshape(()))]
    if shift or not draft.one_of((False, False, True)):
        names.append(draft.constant(np.full(draft.tensors[names[0]].shape, zero_point, dtype)))
    place = axis if channels > 1 or draft.odd() else None
    if form == "quantized at load":
        real = draft.constant((values * spread * draft.rng.uniform(0.9, 1.1)).astype(np.float32))
        integers = draft.node("QuantizeLinear", [real, *names], axis=place).name
    else:
        integers = draft.constant(stored)
    return draft.node("DequantizeLinear", [integers, *names], axis=place).name, largest, scales


def bias(draft: Draft, channels: int, x: Tensor, scales: Array, top: float) -> list[str]:
    """The name of a bias, or none."""
    form = draft.one_of(("integers", "integers", "none"), ("wrong scale", "float", "off the grid", "huge", "zero point"))
    if form == "none":
        return []
    step = np.float32(x.step) * scales
    most = int(min(max(finite(top / max(float(step.max()), 1e-30)), 1), 2**20))
    values = draft.rng.integers(-most, most + 1, channels).astype(np.int32)
    if form == "float":
        return [draft.constant((values * step).astype(np.float32))]
    if form == "off the grid":
        return [draft.constant(((values + draft.rng.uniform(-0.5, 0.5, channels)) * step).astype(np.float32))]
    if form == "huge":
        values = draft.rng.integers(-(2**31), 2**31, channels).astype(np.int32)
    if form == "wrong scale":
        step = step * np.float32(draft.one_of((2, 0.5, 1.0000001)))
    names = [draft.constant(values), draft.constant(step if len(step) > 1 else step.reshape(()))]
    if form == "zero point":
        names.append(draft.constant(np.zeros(draft.tensors[names[1]].shape, np.int32)))
    return [draft.node("DequantizeLinear", names, axis=0 if len(step) > 1 else None).name]


def windows(draft: Draft, rank: int) -> dict[str, Any]:
    """Strides, dilations and padding of a convolution or a pool."""
    dilations = draft.one_of((None, None, None, [2] * rank), ([1] * (rank - 1) + [3],))
    autos = (None, None, None, None, "VALID") if dilations else (None, None, None, None, "SAME_UPPER", "SAME_LOWER", "VALID")
    auto = draft.one_of(autos, ("NOTSET",))
    pads = [draft.one_of((0, 1, 0), (2, 3)) for _ in range(2 * rank)]
    return {
        "strides": draft.one_of((None, [2] * rank, [1] * rank), ([3] + [1] * (rank - 1),)),
        "dilations": dilations,
        "auto_pad": auto,
        "pads": pads if auto is None and any(pads) else None,
    }


def conv(draft: Draft, x: Tensor) -> Tensor:
    rank, channels = spatial(x), x.shape[1]
    group = draft.one_of((1, 1, channels), (2, 3))
    outs, kernel = group * draft.one_of((1, 2, 3)), [draft.one_of((1, 2, 3)) for _ in range(rank)]
    if channels % group:
        raise ImpossibleError("groups")
    name, top, scales = weight(draft, (outs, channels // group, *kernel), 0, x)
    extra = bias(draft, outs, x, scales, top)
    shape = draft.one_of((kernel, None))
    return draft.node("Conv", [x.name, name, *extra], top, group=group, kernel_shape=shape, **windows(draft, rank))


def conv_transpose(draft: Draft, x: Tensor) -> Tensor:
    rank, channels = spatial(x), x.shape[1]
    group = draft.one_of((1, 1, channels), (2,))
    if channels % group:
        raise ImpossibleError("groups")
    outs, kernel = draft.one_of((1, 2, 3)), [draft.one_of((1, 2, 3)) for _ in range(rank)]
    name, top, scales = weight(draft, (channels, outs, *kernel), 1, x)
    if len(scales) > 1:
        scales = np.tile(scales, group)
    extra = bias(draft, outs * group, x, scales, top)
    around = windows(draft, rank)
    strided = around["strides"] == [2] * rank
    around["output_padding"] = draft.one_of((None, [1] * rank) if strided else (None,), ([1] * rank,))
    around["output_shape"] = draft.one_of((None,), ([5] * rank, [size * 2 for size in x.shape[2:]]))
    return draft.node("ConvTranspose", [x.name, name, *extra], top, group=group, **around)


def gemm(draft: Draft, x: Tensor) -> Tensor:
    if len(x.shape) != 2:
        x = flatten(draft, x)
    outs, transposed = draft.one_of((1, 2, 5)), draft.one_of((1, 0, None))
    inner = x.shape[1]
    name, top, scales = weight(draft, (outs, inner) if transposed else (inner, outs), 0 if transposed else 1, x)
    extra = bias(draft, draft.one_of((outs,), (1,)), x, scales[:outs], top)
    more = {
        "alpha": draft.one_of((None, None, 1.0), (0.5, 2.0, 0.3)),
        "beta": draft.one_of((None, 1.0), (0.5, 0.0)),
        "transA": draft.one_of((None, 0), (1,)),
    }
    return draft.node("Gemm", [x.name, name, *extra], top, transB=transposed, **more)


def matmul(draft: Draft, x: Tensor) -> Tensor:
    outs = draft.one_of((1, 2, 4))
    if draft.odd() and len(x.shape) > 2:
        axes = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
        return draft.node("MatMul", [x.name, draft.node("Transpose", [x.name], x.top, perm=axes).name], x.top**2)
    shape = (x.shape[-1], outs) if not draft.odd() or len(x.shape) < 3 else (x.shape[-3], x.shape[-1], outs)
    name, top, scales = weight(draft, shape, len(shape) - 1, x)
    product = draft.node("MatMul", [x.name, name], top)
    extra = bias(draft, outs, x, scales, top)
    return draft.node("Add", [product.name, *extra], top) if extra else product


def flatten(draft: Draft, x: Tensor) -> Tensor:
    return draft.node("Flatten", [x.name], x.top, x.step, axis=draft.one_of((1, None), (2, -1)))


def other(draft: Draft, x: Tensor) -> Tensor:
    """A second operand: another tensor of its type that broadcasts, itself, or a constant on a grid."""
    fitting = [tensor for tensor in draft.tensors.values() if _broadcasts(tensor, x)]
    form = draft.one_of(("tensor", "tensor", "quantized", "float"), ("off the grid", "integer", "scalar"))
    if form == "tensor" and fitting:
        return draft.one_of(fitting[-4:])
    shape = x.shape[1:] if draft.one_of((True, False)) else (1,) * (len(x.shape) - 1)
    values = draft.rng.integers(-100, 101, shape)
    step = draft.scale(x.top / 100)
    if form == "quantized":
        names = [draft.constant(values.astype(np.int8)), draft.constant(step)]
        return draft.node("DequantizeLinear", names, 100 * float(step), float(step))
    if form == "off the grid":
        return draft.tensors[draft.constant((values * draft.rng.uniform(0.3, 1)).astype(np.float32))]
    if form == "scalar":
        return draft.tensors[draft.constant(np.float32(draft.one_of((0.0, -1.0, 3.0, 1e38, 1e-40, 0.1))))]
    return draft.tensors[draft.constant((values * step).astype(np.float32))]


def _broadcasts(tensor: Tensor, x: Tensor) -> bool:
    if tensor.dtype != x.dtype or not tensor.shape or tensor.shape[0] != EXAMPLES or len(tensor.shape) != len(x.shape):
        return False
    return all(1 in pair or pair[0] == pair[1] for pair in zip(tensor.shape, x.shape, strict=True))


def binary(op: str) -> Operator:
    """Add, Sub, Mul, Div, Max, Min."""

    def build(draft: Draft, x: Tensor) -> Tensor:
        y = other(draft, x)
        if op == "Div":
            powers = 2.0 ** draft.rng.integers(-3, 4, draft.one_of(((), (1,))))
            y = draft.tensors[draft.constant(np.float32(powers))] if draft.one_of((True,), (False,)) else y
        tops = {"Mul": x.top * y.top, "Div": x.top / (y.top or 1), "Max": max(x.top, y.top), "Min": max(x.top, y.top)}
        names = draft.one_of(([x.name, y.name], [y.name, x.name])) if op != "Div" else [x.name, y.name]
        if op in ("Max", "Min"):
            names = draft.one_of((names,), (names[:1], [*names, x.name]))
        return draft.node(op, names, tops.get(op, x.top + y.top), x.step)

    return build


def concat(draft: Draft, x: Tensor) -> Tensor:
    y = other(draft, x)
    axis = draft.one_of((1, -1), (0, 2)) if len(x.shape) > 1 else 0
    parts = draft.one_of(([x.name, y.name],), ([x.name], [y.name, x.name, y.name]))
    return draft.node("Concat", parts, max(x.top, y.top), x.step, axis=axis)


def clip(draft: Draft, x: Tensor) -> Tensor:
    unit = x.step
    low, high = draft.one_of(
        ((0.0, 6.0), (0.0, 32 * unit), (-16 * unit, 16 * unit), (-1.0, 1.0), (0.0, None), (None, 64 * unit)),
        (
            (0.3, 1.7),
            (2.0, 1.0),
            (-1e38, 1e38),
            (-3e-39, 7e-42),
            (-math.inf, math.inf),
            (1000.1, 2000.2),
            (None, None),
            (0.1 * unit, 9.3 * unit),
        ),
    )
    if draft.opset < 11:
        return draft.node("Clip", [x.name], x.top, x.step, min=low, max=high)
    bounds = ["" if bound is None else draft.constant(np.float32(bound)) for bound in (low, high)]
    while bounds and not bounds[-1]:
        bounds.pop()
    return draft.node("Clip", [x.name, *bounds], x.top, x.step)


def unary(op: str, **attributes: Any) -> Operator:
    """An operator of one input."""
    return lambda draft, x: draft.node(op, [x.name], x.top, x.step, **attributes)


def over_space(op: str) -> Operator:
    """A pool over all spatial axes."""

    def build(draft: Draft, x: Tensor) -> Tensor:
        spatial(x)
        return draft.node(op, [x.name], x.top, x.step)

    return build


def max_pool(draft: Draft, x: Tensor) -> Tensor:
    rank = spatial(x)
    around = windows(draft, rank)
    outputs = draft.one_of((1,), (2,))
    order = draft.one_of((None,), (0, 1))
    kernel = [draft.one_of((2, 3), (1,)) for _ in range(rank)]
    ceil = draft.one_of((None, None, 0, 1))
    return draft.node("MaxPool", [x.name], x.top, x.step, outputs, kernel_shape=kernel, ceil_mode=ceil, storage_order=order, **around)


def average_pool(draft: Draft, x: Tensor) -> Tensor:
    rank = spatial(x)
    around = windows(draft, rank)
    if draft.opset < 19:
        del around["dilations"]
    kernel = draft.one_of(([2] * rank, [2] + [1] * (rank - 1), [3] * rank, [4] + [2] * (rank - 1)), ([5] * rank, [1] * rank))
    more = {"ceil_mode": draft.one_of((None, None, None, 1)), "count_include_pad": draft.one_of((None, 0, 1))}
    return draft.node("AveragePool", [x.name], x.top, kernel_shape=kernel, **around, **more)


def reduced(op: str) -> Operator:
    """ReduceMean, ReduceMax and their like."""

    def build(draft: Draft, x: Tensor) -> Tensor:
        rank = len(x.shape)
        choices: tuple[Any, ...] = ([rank - 1], [*range(2, rank)] or [1], [1], [-1])
        axes = draft.one_of(choices, (None, [], [0], [*range(rank)]))
        keep = draft.one_of((None, 1, 0))
        since = 13 if op == "ReduceSum" else 18
        if draft.opset < since:
            return draft.node(op, [x.name], x.top, axes=axes, keepdims=keep)
        extra = [] if axes is None else [draft.constant(ints(*axes))]
        return draft.node(op, [x.name, *extra], x.top, keepdims=keep, noop_with_empty_axes=draft.one_of((None,), (0, 1)))

    return build


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
    place = draft.one_of(("asymmetric", "asymmetric", "half_pixel"), ("pytorch_half_pixel", "align_corners", "tf_crop_and_resize", None))
    rounding = draft.one_of(("floor",), ("round_prefer_floor", "round_prefer_ceil", "ceil", None))
    roi = draft.constant(floats(*[0] * (rank + 2), *[1.5] * (rank + 2))) if place == "tf_crop_and_resize" else ""
    extra = [roi, scales]
    if draft.odd():
        extra = [roi, "", draft.constant(ints(*x.shape[:2], *(int(size * factor) for size in x.shape[2:])))]
    more: dict[str, Any] = {"extrapolation_value": draft.one_of((None,), (0.1, 1e30))}
    if draft.opset >= 18:
        more["antialias"] = draft.one_of((None,), (1,))
    names = [x.name, *extra]
    return draft.node("Resize", names, x.top, x.step, mode=mode, coordinate_transformation_mode=place, nearest_mode=rounding, **more)


def reshape(draft: Draft, x: Tensor) -> Tensor:
    shapes = ([0, -1], [EXAMPLES, -1], [0, 1, -1], [0, -1, 1, 1])
    target = draft.one_of(shapes, ([-1], [-1, 1, x.shape[-1]], [0, 0, -1]))
    allow = draft.one_of((None,), (0,)) if draft.opset >= 14 else None
    return draft.node("Reshape", [x.name, draft.constant(ints(*target))], x.top, x.step, allowzero=allow)


def transpose(draft: Draft, x: Tensor) -> Tensor:
    orders = [(0, *rest) for rest in itertools.permutations(range(1, len(x.shape)))]
    order = draft.one_of(orders, (None, (*orders[-1][1:], 0)))
    return draft.node("Transpose", [x.name], x.top, x.step, perm=order)


def sliced(draft: Draft, x: Tensor) -> Tensor:
    axis = draft.one_of(tuple(range(1, len(x.shape))) or (0,))
    start, end, step = draft.one_of(((0, 2, 1), (1, 1000, 1), (0, 1000, 2)), ((-1, -1000, -1), (-2, 1000, 1), (1000, -1000, -2)))
    return draft.node("Slice", [x.name, *(draft.constant(ints(value)) for value in (start, end, axis, step))], x.top, x.step)


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
        left = draft.node("Split", [x.name, draft.constant(ints(*parts))], x.top, x.step, 2, axis=axis)
    right = draft.tensors[f"{left.name}_1"]
    return left if first else draft.node("Concat", [right.name, left.name], x.top, x.step, axis=axis)


def gather(draft: Draft, x: Tensor) -> Tensor:
    axis = draft.one_of(tuple(range(1, len(x.shape))) or (0,))
    size = x.shape[axis]
    index = draft.one_of((ints(size - 1, 0), ints(0)), (ints(-1, 0), np.zeros(1, np.int32), np.array(0, np.int64)))
    return draft.node("Gather", [x.name, draft.constant(index)], x.top, x.step, axis=axis)


def tile(draft: Draft, x: Tensor) -> Tensor:
    repeats = [draft.one_of((1, 2)) if axis else 1 for axis in range(len(x.shape))]
    return draft.node("Tile", [x.name, draft.constant(ints(*repeats))], x.top, x.step)


def expand(draft: Draft, x: Tensor) -> Tensor:
    shape = [1 if size > 1 or axis == 0 else draft.one_of((2, 1)) for axis, size in enumerate(x.shape)]
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
    mode = draft.one_of((None, "DCR", "CRD")) if op == "DepthToSpace" and draft.opset >= 11 else None
    return draft.node(op, [x.name], x.top, x.step, blocksize=draft.one_of((2,), (1, 3)), mode=mode)


def cast(draft: Draft, x: Tensor) -> Tensor:
    """To another type and back."""
    to = draft.one_of(
        (TensorProto.FLOAT, TensorProto.DOUBLE), (TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT8, TensorProto.BFLOAT16)
    )
    there = draft.node("Cast", [x.name], x.top, x.step, to=to)
    if to not in (TensorProto.INT32, TensorProto.INT8) and draft.one_of((True, False)):
        there = draft.one_of((unary("Relu"), unary("Neg"), binary("Add"), reduced("ReduceMean")))(draft, there)
    return draft.node("Cast", [there.name], x.top, x.step, to=TensorProto.FLOAT)


def dropout(draft: Draft, x: Tensor) -> Tensor:
    if draft.opset < 12:
        return draft.node("Dropout", [x.name], x.top, x.step, ratio=draft.one_of((None, 0.5)))
    ratio, training = draft.constant(np.float32(0.5)), draft.one_of((None, False), (True,))
    extra = [ratio] if training is None else [ratio, draft.constant(np.array(training))]
    return draft.node("Dropout", [x.name, *extra], x.top, x.step, draft.one_of((1,), (2,)), seed=draft.one_of((None,), (7,)))


def batch_norm(draft: Draft, x: Tensor) -> Tensor:
    channels = x.shape[1] if len(x.shape) > 1 else 1
    arrays = [np.ones(channels), np.zeros(channels), np.zeros(channels), np.full(channels, 0.25)]
    names = [draft.constant(array.astype(np.float32)) for array in arrays]
    training = draft.one_of((None,), (1,)) if draft.opset >= 14 else None
    return draft.node("BatchNormalization", [x.name, *names], x.top, training_mode=training, outputs=3 if training else 1)


def unproven(draft: Draft, x: Tensor) -> Tensor:
    """An operator that executors compute each in its own way."""
    op = draft.one_of(("Sigmoid", "Tanh", "Exp", "Sqrt", "Softmax", "LeakyRelu", "HardSigmoid", "Floor", "Round", "Sign", "Erf", "Elu"))
    return draft.node(op, [x.name], x.top)


COMMON: dict[str, Operator] = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "ConvTranspose": conv_transpose,
    "Relu": unary("Relu"),
    "Clip": clip,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    **{op: over_space(op) for op in ("GlobalAveragePool", "GlobalMaxPool")},
    **{op: reduced(op) for op in ("ReduceMean", "ReduceMax")},
    **{op: binary(op) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    "Concat": concat,
    **{op: unary(op) for op in ("Neg", "Abs", "Identity")},
    "Pad": pad,
    "Resize": resize,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Slice": sliced,
    "Split": split,
    "Gather": gather,
    "Tile": tile,
    "Expand": expand,
    "Squeeze": squeeze,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
}
RARE: dict[str, Operator] = {
    "Cast": cast,
    "BatchNormalization": batch_norm,
    **{op: reduced(op) for op in ("ReduceMin", "ReduceSum", "ReduceProd", "ReduceL1")},
    "Unproven": unproven,
}
WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
MOVING = (
    "Identity", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Gather", "Tile", "Expand", "Squeeze", "DepthToSpace", "MaxPool",
    "Pad",
)  # fmt: skip
"""Operators that may also be applied to the integers between QuantizeLinear and DequantizeLinear."""
INTEGER = ("Concat", "Max", "Min", "Relu", "ReduceMax", "Add", "Sub", "Resize", "Clip", "Abs", "Neg")
"""Those that are rarely applied to them."""
KEEPING = {*MOVING, "GlobalMaxPool", "ReduceMax", "Dropout", "Relu"} - {"Pad"}
"""Operators behind which tools quantize as before."""
