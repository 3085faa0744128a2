"""Layers with weights, and the pools that share their windows: see hostile_operators.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_draft import Array, Draft, ImpossibleError, Tensor, finite

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
    """The name of a weight, the largest output for ``x``, and its steps per channel along ``axis``,
    or one."""
    values = draft.rng.integers(-64, 65, shape)
    limit = draft.one_of((64, 8, 64), (127, 1))
    values = np.clip(values * 2 if limit == 127 else values, -limit, limit)
    channels = shape[axis] if draft.opset >= 13 and draft.one_of((True, False)) else 1
    wanted = draft.one_of((2.0**-6, 2.0**-9, 1.0))
    scales = np.array(
        [draft.scale(wanted * 2.0 ** -(index % 3)) for index in range(min(channels, 3))], np.float32
    )
    scales = np.resize(scales, channels)
    if draft.opset >= 13 and not draft.odd():
        scales = scales * np.float32(draft.one_of((1, 1, 3, 5, 11, 29), (7, 13, 15, 255)))
    largest = finite(x.top * float(np.abs(values).sum() / shape[axis] * scales.max()))
    form = draft.one_of(("quantized",), ("float", "free", "quantized at load"))
    spread = scales.reshape(
        [-1 if index == axis and channels > 1 else 1 for index in range(len(shape))]
    )
    if form == "free":
        return (
            draft.constant((draft.rng.normal(size=shape) * 0.1).astype(np.float32)),
            largest,
            scales,
        )
    if form == "float":
        return draft.constant((values * spread).astype(np.float32)), largest, scales
    dtype = draft.one_of((np.int8,), (np.uint8,))
    shift = 128 if dtype == np.uint8 else 0
    zero_point = draft.one_of((shift,), (shift, 0, 1, 2, 64))
    stored = (
        (values + shift).clip(*np.array([np.iinfo(dtype).min, np.iinfo(dtype).max])).astype(dtype)
    )
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
    form = draft.one_of(
        ("integers", "integers", "none"),
        ("wrong scale", "float", "off the grid", "huge", "zero point"),
    )
    if form == "none":
        return []
    step = np.float32(x.step) * scales
    most = int(min(max(finite(top / max(float(step.max()), 1e-30)), 1), 2**20))
    values = draft.rng.integers(-most, most + 1, channels).astype(np.int32)
    if form == "float":
        return [draft.constant((values * step).astype(np.float32))]
    if form == "off the grid":
        return [
            draft.constant(
                ((values + draft.rng.uniform(-0.5, 0.5, channels)) * step).astype(np.float32)
            )
        ]
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
    autos = (
        (None, None, None, None, "VALID")
        if dilations
        else (None, None, None, None, "SAME_UPPER", "SAME_LOWER", "VALID")
    )
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
    return draft.node(
        "Conv", [x.name, name, *extra], top, group=group, kernel_shape=shape, **windows(draft, rank)
    )


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
    around["output_padding"] = draft.one_of(
        (None, [1] * rank) if strided else (None,), ([1] * rank,)
    )
    around["output_shape"] = draft.one_of((None,), ([5] * rank, [size * 2 for size in x.shape[2:]]))
    return draft.node("ConvTranspose", [x.name, name, *extra], top, group=group, **around)


def gemm(draft: Draft, x: Tensor) -> Tensor:
    if len(x.shape) != 2:
        x = flatten(draft, x)
    outs, transposed = draft.one_of((1, 2, 5)), draft.one_of((1, 0, None))
    inner = x.shape[1]
    name, top, scales = weight(
        draft, (outs, inner) if transposed else (inner, outs), 0 if transposed else 1, x
    )
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
        return draft.node(
            "MatMul", [x.name, draft.node("Transpose", [x.name], x.top, perm=axes).name], x.top**2
        )
    shape = (
        (x.shape[-1], outs)
        if not draft.odd() or len(x.shape) < 3
        else (x.shape[-3], x.shape[-1], outs)
    )
    name, top, scales = weight(draft, shape, len(shape) - 1, x)
    product = draft.node("MatMul", [x.name, name], top)
    extra = bias(draft, outs, x, scales, top)
    return draft.node("Add", [product.name, *extra], top) if extra else product


def flatten(draft: Draft, x: Tensor) -> Tensor:
    return draft.node("Flatten", [x.name], x.top, x.step, axis=draft.one_of((1, None), (2, -1)))


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
    return draft.node(
        "MaxPool",
        [x.name],
        x.top,
        x.step,
        outputs,
        kernel_shape=kernel,
        ceil_mode=ceil,
        storage_order=order,
        **around,
    )


def average_pool(draft: Draft, x: Tensor) -> Tensor:
    rank = spatial(x)
    around = windows(draft, rank)
    if draft.opset < 19:
        del around["dilations"]
    kernel = draft.one_of(
        ([2] * rank, [2] + [1] * (rank - 1), [3] * rank, [4] + [2] * (rank - 1)),
        ([5] * rank, [1] * rank),
    )
    more = {
        "ceil_mode": draft.one_of((None, None, None, 1)),
        "count_include_pad": draft.one_of((None, 0, 1)),
    }
    return draft.node("AveragePool", [x.name], x.top, kernel_shape=kernel, **around, **more)
