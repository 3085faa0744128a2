"""Operators that pick and place elements, on real tensors of ``exact.py`` and on integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qstrategies.errors import InputError
from qstrategies.runtimes.exact import Array, Node, Real, elementwise, operand, shifted

MOVING = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip


class GatherElements(OpRun):
    """From tables of any length; the evaluator's own takes 64 entries at most."""

    op_domain = ""

    def _run(self, x: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        parts = [slice(size) for size in indices.shape]
        parts[axis] = slice(None)
        return (np.take_along_axis(x[tuple(parts)], indices, axis),)


def move(node: Node, x: Any, *others: Array) -> Any:
    """An operator that only moves elements, by the standard's own code."""
    given = [value for value in others if value is not None]
    inputs, outputs = [name for name in node.proto.input if name], node.proto.output
    graph = onnx.helper.make_graph([node.proto], "movement", _named(inputs), _named(outputs))
    opsets = [onnx.helper.make_opsetid("", node.opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    evaluator = ReferenceEvaluator(model, new_ops=[GatherElements])

    def part(array: Array, index: int) -> Array:
        found: Any = evaluator.run(None, dict(zip(inputs, [array, *given], strict=True)))
        return np.asarray(found[index])

    moved = []
    for index in range(len(outputs)):
        movement = functools.partial(part, index=index)
        moved.append(x.moved(movement) if isinstance(x, Real) else movement(x))
    return moved if len(moved) > 1 else moved[0]


def _named(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names)]


def pad(
    node: Node,
    x: Any,
    sides: Array | None = None,
    value: Array | None = None,
    axes: Array | None = None,
) -> Any:
    """Padding is moving, but for the constant: it is added where no element came to lie. A negative
    pad crops."""
    get, rank = node.attributes.get, len(_shape(x))
    if node.opset < 11:
        sides, value = np.array(get("pads")), node.float_attribute("value")
    assert sides is not None
    pads = np.zeros((rank, 2), np.int64)
    pads[range(rank) if axes is None else axes.tolist()] = sides.reshape(2, -1).T
    mode = get("mode", b"constant").decode()
    movement = functools.partial(padded, pads=pads, mode=mode)
    moved: Any = x.moved(movement) if isinstance(x, Real) else movement(x)
    if mode != "constant" or value is None:
        return moved
    around = 1 - padded(np.ones(_shape(x), np.int64), pads)
    if not isinstance(x, Real):
        return moved + (value * around).astype(x.dtype)
    fill = operand(value.reshape((1,) * rank))
    return elementwise(np.add, moved, Real(fill.integers * around, fill.exponent))


def padded(array: Array, pads: Array, mode: str = "constant") -> Array:
    """``array`` with ``pads`` [axes, 2] around it, cropped where they are negative; ``mode`` as
    NumPy's."""
    if mode != "constant" and pads.min() < 0:
        raise InputError(f"negative pads with mode={mode!r}")
    kinds: Any = {"mode": mode}
    wide = np.pad(array, np.maximum(pads, 0), **kinds)
    cut = np.maximum(-pads, 0)
    return wide[
        tuple(
            slice(before, size - after)
            for (before, after), size in zip(cut, wide.shape, strict=True)
        )
    ]


def _shape(x: Any) -> tuple[int, ...]:
    return x.integers.shape if isinstance(x, Real) else x.shape


def concat(node: Node, *parts: Any) -> Real:
    reals = [operand(part) for part in parts]
    divisor, axis = math.lcm(*(real.divisor for real in reals)), node.attributes["axis"]
    reals = [real.aligned(*range(real.integers.ndim)) for real in reals]
    exponent = np.minimum.reduce([real.exponent for real in reals])
    whole = [shifted(real.over(divisor).integers, real.exponent - exponent) for real in reals]
    return Real(np.concatenate(whole, axis), exponent, divisor)


def resize(node: Node, x: Any, *others: Array | None) -> Any:
    """Nearest neighbour as PyTorch's: element ``floor(i / scale)`` along every axis."""
    node.require(mode=b"nearest", axes=None)
    if node.opset > 10:  # the only way there was before
        node.expect(coordinate_transformation_mode=b"asymmetric", nearest_mode=b"floor")
    scales, sizes = (others[0], None) if node.opset < 11 else (*others[1:], None, None)[:2]
    shape = _shape(x)
    if sizes is not None:
        ratios = [Fraction(new, old) for new, old in zip(sizes.tolist(), shape, strict=True)]
    else:
        assert scales is not None
        ratios = [Fraction(scale) for scale in scales.tolist()]
    index = np.ix_(
        *(
            [int(i / ratio) for i in range(int(old * ratio))]
            for old, ratio in zip(shape, ratios, strict=True)
        )
    )
    return x.moved(lambda array: array[index]) if isinstance(x, Real) else x[index]


def cast(node: Node, x: Any) -> Any:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    if isinstance(x, Real) or np.issubdtype(x.dtype, np.floating):
        if dtype in (np.float32, np.float64):
            return x
        raise InputError(f"a cast of real numbers to {dtype}")
    if dtype in (np.float32, np.float64):
        return Real(x.astype(np.int64), np.zeros((1,) * x.ndim, np.int64))
    return x.astype(dtype)


def dropout(node: Node, x: Any, ratio: Array | None = None, training: Array | None = None) -> Any:
    """Nothing, but in training."""
    if len(node.proto.output) > 1 or (
        training is not None and training.any() and (ratio is None or ratio.any())
    ):
        raise InputError("dropout in training, or its mask")
    return x
