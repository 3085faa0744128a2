"""The operators that a drawn file may hold, each with the attributes that tools write and with
those that nobody expects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hostile_draft import EXAMPLES, Draft, Tensor
from hostile_layers import (
    Operator,
    average_pool,
    conv,
    conv_transpose,
    flatten,
    gemm,
    ints,
    matmul,
    max_pool,
    over_space,
)
from hostile_moving import (
    depth_to_space,
    expand,
    gather,
    pad,
    reshape,
    resize,
    sliced,
    split,
    squeeze,
    tile,
    transpose,
)
from onnx import TensorProto


def other(draft: Draft, x: Tensor) -> Tensor:
    """A second operand: another tensor of its type that broadcasts, itself, or a constant on a
    grid."""
    fitting = [tensor for tensor in draft.tensors.values() if _broadcasts(tensor, x)]
    form = draft.one_of(
        ("tensor", "tensor", "quantized", "float"), ("off the grid", "integer", "scalar")
    )
    if form == "tensor" and fitting:
        return draft.one_of(fitting[-4:])
    shape = x.shape[1:] if draft.one_of((True, False)) else (1,) * (len(x.shape) - 1)
    values = draft.rng.integers(-100, 101, shape)
    step = draft.scale(x.top / 100)
    if form == "quantized":
        names = [draft.constant(values.astype(np.int8)), draft.constant(step)]
        return draft.node("DequantizeLinear", names, 100 * float(step), float(step))
    if form == "off the grid":
        return draft.tensors[
            draft.constant((values * draft.rng.uniform(0.3, 1)).astype(np.float32))
        ]
    if form == "scalar":
        return draft.tensors[
            draft.constant(np.float32(draft.one_of((0.0, -1.0, 3.0, 1e38, 1e-40, 0.1))))
        ]
    return draft.tensors[draft.constant((values * step).astype(np.float32))]


def _broadcasts(tensor: Tensor, x: Tensor) -> bool:
    if (
        tensor.dtype != x.dtype
        or not tensor.shape
        or tensor.shape[0] != EXAMPLES
        or len(tensor.shape) != len(x.shape)
    ):
        return False
    return all(1 in pair or pair[0] == pair[1] for pair in zip(tensor.shape, x.shape, strict=True))


def binary(op: str) -> Operator:
    """Add, Sub, Mul, Div, Max, Min."""

    def build(draft: Draft, x: Tensor) -> Tensor:
        y = other(draft, x)
        if op == "Div":
            powers = 2.0 ** draft.rng.integers(-3, 4, draft.one_of(((), (1,))))
            y = (
                draft.tensors[draft.constant(np.float32(powers))]
                if draft.one_of((True,), (False,))
                else y
            )
        tops = {
            "Mul": x.top * y.top,
            "Div": x.top / (y.top or 1),
            "Max": max(x.top, y.top),
            "Min": max(x.top, y.top),
        }
        names = (
            draft.one_of(([x.name, y.name], [y.name, x.name])) if op != "Div" else [x.name, y.name]
        )
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
        (
            (0.0, 6.0),
            (0.0, 32 * unit),
            (-16 * unit, 16 * unit),
            (-1.0, 1.0),
            (0.0, None),
            (None, 64 * unit),
        ),
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
        return draft.node(
            op,
            [x.name, *extra],
            x.top,
            keepdims=keep,
            noop_with_empty_axes=draft.one_of((None,), (0, 1)),
        )

    return build


def cast(draft: Draft, x: Tensor) -> Tensor:
    """To another type and back."""
    to = draft.one_of(
        (TensorProto.FLOAT, TensorProto.DOUBLE),
        (TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT8, TensorProto.BFLOAT16),
    )
    there = draft.node("Cast", [x.name], x.top, x.step, to=to)
    if to not in (TensorProto.INT32, TensorProto.INT8) and draft.one_of((True, False)):
        there = draft.one_of((unary("Relu"), unary("Neg"), binary("Add"), reduced("ReduceMean")))(
            draft, there
        )
    return draft.node("Cast", [there.name], x.top, x.step, to=TensorProto.FLOAT)


def dropout(draft: Draft, x: Tensor) -> Tensor:
    if draft.opset < 12:
        return draft.node("Dropout", [x.name], x.top, x.step, ratio=draft.one_of((None, 0.5)))
    ratio, training = draft.constant(np.float32(0.5)), draft.one_of((None, False), (True,))
    extra = [ratio] if training is None else [ratio, draft.constant(np.array(training))]
    return draft.node(
        "Dropout",
        [x.name, *extra],
        x.top,
        x.step,
        draft.one_of((1,), (2,)),
        seed=draft.one_of((None,), (7,)),
    )


def batch_norm(draft: Draft, x: Tensor) -> Tensor:
    channels = x.shape[1] if len(x.shape) > 1 else 1
    arrays = [np.ones(channels), np.zeros(channels), np.zeros(channels), np.full(channels, 0.25)]
    names = [draft.constant(array.astype(np.float32)) for array in arrays]
    training = draft.one_of((None,), (1,)) if draft.opset >= 14 else None
    return draft.node(
        "BatchNormalization",
        [x.name, *names],
        x.top,
        training_mode=training,
        outputs=3 if training else 1,
    )


def unproven(draft: Draft, x: Tensor) -> Tensor:
    """An operator that executors compute each in its own way."""
    op = draft.one_of(
        (
            "Sigmoid",
            "Tanh",
            "Exp",
            "Sqrt",
            "Softmax",
            "LeakyRelu",
            "HardSigmoid",
            "Floor",
            "Round",
            "Sign",
            "Erf",
            "Elu",
        )
    )
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
    "Identity", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Gather", "Tile", "Expand",
    "Squeeze", "DepthToSpace", "MaxPool", "Pad",
)  # fmt: skip
"""Operators that may also be applied to the integers between QuantizeLinear and
DequantizeLinear."""
INTEGER = (
    "Concat",
    "Max",
    "Min",
    "Relu",
    "ReduceMax",
    "Add",
    "Sub",
    "Resize",
    "Clip",
    "Abs",
    "Neg",
)
"""Those that are rarely applied to them."""
KEEPING = {*MOVING, "GlobalMaxPool", "ReduceMax", "Dropout", "Relu"} - {"Pad"}
"""Operators behind which tools quantize as before."""
