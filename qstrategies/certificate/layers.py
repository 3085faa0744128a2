"""Nodes with weights: the bound of every output channel's accumulator, and the conditions that make it exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qstrategies.certificate.declarations import (
    Call,
    Declaration,
    anything,
    not_negative,
    only,
    positive,
)
from qstrategies.certificate.grid import (
    FLOAT_EXACT,
    Array,
    Grid,
    UnprovenError,
    lowest_bit,
    mantissa,
    reciprocal_safe,
)
from qstrategies.certificate.report import EXACT, Layer
from qstrategies.certificate.tensors import Constant

LARGEST_INT32 = 2**31 - 1
LARGEST_PAIR = 128  # 255 * 128 < 2^15: two products of uint8 activations fit 16 bits
LARGEST_SCALE = 2.0**60
SMALLEST_SCALE = 2.0**-60
"""With two scales of activations, see ``quantizers``, they multiply and divide to normal numbers of float32."""

_WINDOWS = {
    "kernel_shape": positive,
    "strides": positive,
    "dilations": positive,
    "pads": not_negative,
    "group": anything,
    "auto_pad": only(b"NOTSET"),
}
WEIGHTED: dict[str, Declaration] = {
    "Conv": Declaration((1, 11, 22), (2, 3), attributes=_WINDOWS),
    "ConvTranspose": Declaration((1, 11, 22), (2, 3), attributes={**_WINDOWS, "output_padding": not_negative}),
    "Gemm": Declaration(
        (7, 9, 11, 13),
        (2, 3),
        attributes={"alpha": only(1.0), "beta": only(1.0), "transA": only(0), "transB": only(0, 1)},
    ),
    "MatMul": Declaration((1, 9, 13), (2, 2)),
}


def certify_layer(call: Call) -> tuple[Layer, Grid, list[tuple[str, str]]]:
    """The figures of ``call``, the values of its output, and its breaches as (guarantee, reason).

    Raises ``UnprovenError`` for a form of the operator that no bound is known for.
    """
    node, x, weight, bias = (
        call.node,
        call.first.grid.merged(),
        _constant(call, 1),
        _constant(call, 2),
    )
    if weight is None or call.first.constant is not None:
        raise UnprovenError("it multiplies constants when the file is loaded, each executor in its own order")
    if x.divisor != 1 or x.high - x.low > FLOAT_EXACT:
        raise UnprovenError("its input is not quantized")
    quantized = weight.scale is not None
    if not quantized and "DequantizeLinear" in call.first.through:
        raise UnprovenError("its weights are in float behind a DequantizeLinear: ONNX Runtime quantizes them by itself")
    if quantized and _may_be_blocked(call):
        raise UnprovenError(
            "neither its input comes straight from a DequantizeLinear nor its output to a QuantizeLinear: "
            "ONNX Runtime may take a kernel that quantizes its input in blocks"
        )
    rows, scale, offset = _integers(call, x, weight, bias)
    step = scale * x.step
    total, sizes = rows.sum(1, dtype=np.float64), np.abs(rows).sum(1, dtype=np.float64)
    positive, negative = (sizes + total) / 2, (sizes - total) / 2
    up, down = max(x.high, 0), max(-x.low, 0)
    largest = positive * up + negative * down + np.maximum(offset, 0)
    smallest = positive * down + negative * up + np.maximum(-offset, 0)
    stored = _multiplied(weight)
    layer = Layer(
        node=node.name,
        weights=weight.stored,
        form="int8" if quantized else "float",
        accumulators=tuple(map(int, np.ceil(np.maximum(largest, smallest)))),
        mantissas=tuple(map(int, mantissa(step))),
        pairs=() if stored is None else _pairs(_by_output(call, stored)),
        adjacent=() if stored is None else _adjacent(_kernel_orders(call, stored)),
    )
    breaches = _exponent_breaches(scale, x)
    if quantized:
        breaches += _scale_breaches(scale, step, offset, bias)
    in_integers = quantized and call.first.moved_from is not None
    breaches += _bound_breaches(layer, EXACT[1:] if in_integers else EXACT)
    return layer, _output(rows, step, offset, smallest, largest), breaches


def _may_be_blocked(call: Call) -> bool:
    """Whether ONNX Runtime may take MatMulNBits, which quantizes a float input again, block by block."""
    if call.node.op_type not in ("Gemm", "MatMul") or call.attributes.get("transB", 0):
        return False
    straight = call.first.through <= {"QuantizeLinear", "DequantizeLinear"}
    return not (straight and call.first.moved_from) and call.readers != ("QuantizeLinear",)


def _constant(call: Call, index: int) -> Constant | None:
    tensor = call.optional(index)
    if tensor is not None and tensor.constant is None:
        raise UnprovenError("its weight or bias is not constant")
    return None if tensor is None else tensor.constant


def _multiplied(weight: Constant) -> Array | None:
    """Magnitudes of the integers that kernels multiply: as they are stored, signed. None for float weights.

    Kernels subtract the zero point afterwards, from the sums. The instructions with 16-bit sums take
    one signed operand, so that unsigned weights become signed with another zero point, 128 lower.
    """
    stored = weight.unquantized
    if stored is None:
        return None
    if stored.dtype not in (np.int8, np.uint8):
        raise UnprovenError(f"its weights are stored as {stored.dtype}: expected int8 or uint8")
    lower = 128 if stored.dtype == np.uint8 else 0
    return np.abs(stored.astype(np.int16) - np.int16(lower)).astype(np.uint8)


def _integers(call: Call, x: Grid, weight: Constant, bias: Constant | None) -> tuple[Array, Array, Array]:
    """Weights [out_channels, products] as integers, their steps [out_channels], and the bias in steps of the accumulator.

    Weights in float are integers too, in steps of the lowest bit of their channel; in float64, exact below 2^53.
    """
    rows = _by_output(call, weight.integers)
    if weight.scale is None:
        rows = rows.astype(np.float64)
        if not np.isfinite(rows).all():
            raise UnprovenError("a weight is not finite")
        offset = _bias(bias, len(rows), real=True) / x.step
        steps = np.array([lowest_bit(np.append(row, constant)) for row, constant in zip(rows, offset, strict=True)])
        return rows / steps[:, None], steps, offset / steps
    scales = _by_output(call, np.broadcast_to(weight.scale, weight.integers.shape))
    if (scales != scales[:, :1]).any():
        raise UnprovenError("weights of different scales meet in one sum")
    steps = scales[:, 0].astype(np.float64)
    real = bias is not None and bias.scale is None
    return rows, steps, _bias(bias, len(rows), real=real) / (steps * x.step if real else 1)


def _bias(bias: Constant | None, channels: int, *, real: bool) -> Array:
    """The real values or the integers of the bias, shape [out_channels]."""
    if bias is None:
        return np.zeros(channels)
    values = bias.values if real else bias.integers.astype(np.float64)
    if bias.unquantized is not None and bias.unquantized.dtype != np.int32:
        raise UnprovenError(f"its bias is stored as {bias.unquantized.dtype}: expected int32")
    if not np.isfinite(values).all() or not (values.size == 1 or values.size == values.shape[-1] == channels):
        raise UnprovenError(f"its bias of shape {list(values.shape)} is not one number per output channel, of {channels}")
    return np.broadcast_to(values.reshape(-1), channels)


def _by_output(call: Call, array: Array) -> Array:
    """``array``, laid out as the weight of ``call``, with a row of products per output channel."""
    operator, attributes = call.node.op_type, call.attributes
    if operator == "Conv":
        return array.reshape(len(array), -1)
    if operator == "ConvTranspose":
        groups = attributes["group"]
        grouped = array.reshape(groups, len(array) // groups, *array.shape[1:])
        return grouped.swapaxes(1, 2).reshape(groups * array.shape[1], -1)
    if array.ndim != 2:
        raise UnprovenError(f"its weight has {array.ndim} dimensions: expected 2")
    return array if attributes.get("transB", 0) else array.T


def _kernel_orders(call: Call, array: Array) -> list[Array]:
    """The rows of products in the orders that kernels sum them: as stored, and with the input channels innermost."""
    rows = [_by_output(call, array)]
    if call.node.op_type == "Conv":
        rows.append(np.moveaxis(array, 1, -1).reshape(len(array), -1))
    return rows


def _pairs(sizes: Array) -> tuple[int, ...]:
    """The sum of the two largest of each row of uint8."""
    others, largest = sizes.copy(), sizes.argmax(1)[:, None]
    np.put_along_axis(others, largest, 0, 1)
    second = others.max(1).astype(np.int64)
    return tuple((np.take_along_axis(sizes, largest, 1)[:, 0] + second).tolist())


def _adjacent(orders: list[Array]) -> tuple[int, ...]:
    """The largest sum of two neighbours of each row of uint8, over all orders."""
    padded = [np.pad(rows, ((0, 0), (0, 1))) for rows in orders]
    sums = [np.add(rows[:, :-1], rows[:, 1:], dtype=np.uint16).max(1) for rows in padded]
    return tuple(np.max(sums, 0).tolist())


def _scale_breaches(scale: Array, step: Array, offset: Array, bias: Constant | None) -> list[tuple[str, str]]:
    found = _found(
        ~reciprocal_safe(scale),
        "the weight scale changes when it is stored as its reciprocal",
        "integer_kernels",
    )
    found += _found(offset != np.rint(offset), "the bias is no whole number of steps s_x s_w", *EXACT)
    if bias is not None and bias.scale is not None:
        wrong = np.broadcast_to(bias.scale.reshape(-1), step.shape) != step.astype(np.float32)
        found += _found(wrong, "the scale of the bias is not s_x s_w", *EXACT)
    return found


def _exponent_breaches(scale: Array, x: Grid) -> list[tuple[str, str]]:
    outside = (scale < SMALLEST_SCALE) | (scale > LARGEST_SCALE)
    reason = "the weight scale is outside of 2^-60 to 2^60: products may leave the range of float32"
    found = _found(outside, reason, *EXACT)
    if not 2.0**-40 <= x.unit <= 2.0**40:
        found += [
            (
                guarantee,
                f"its input is in steps of {x.unit:g}: products may leave the range of float32",
            )
            for guarantee in EXACT
        ]
    return found


def _bound_breaches(layer: Layer, exact: Sequence[str]) -> list[tuple[str, str]]:
    accumulators, units, pairs = (np.array(figures, np.float64) for figures in (layer.accumulators, layer.float_units, layer.pairs))
    reason = f"sums of up to {max(layer.float_units)} units of float32: it tells no more than 2^24 apart"
    found = _found(units > FLOAT_EXACT, reason, *exact)
    if layer.form == "int8":
        found += _found(
            accumulators > LARGEST_INT32,
            f"sums of up to {max(layer.accumulators)} overflow int32",
            "integer_kernels",
        )
        found += _found(
            pairs > LARGEST_PAIR,
            f"two weights sum to {max(layer.pairs)}: above {LARGEST_PAIR} 16 bits can saturate",
            "saturation_safe",
        )
    return found


def _found(bad: Array, reason: str, *guarantees: str) -> list[tuple[str, str]]:
    return [(guarantee, f"{_channels(bad)}: {reason}") for guarantee in guarantees] if bad.any() else []


def _channels(bad: Array) -> str:
    """The first of the channels that are ``bad``, and how many more there are."""
    more = int(bad.sum()) - 1
    return f"channel {int(np.argmax(bad))}" + (f" and {more} more" if more else "")


def _output(rows: Array, step: Array, offset: Array, smallest: Array, largest: Array) -> Grid:
    """The grid of all output channels. Zero bits that all integers of a channel end in make its unit coarser."""
    integers = np.abs(rows)
    if integers.dtype == np.float64:
        integers = np.minimum(integers, 2.0**62).astype(np.int64)
    constants = np.minimum(np.abs(np.rint(offset)), 2.0**62).astype(np.int64)
    together = np.bitwise_or.reduce(integers, axis=1) | constants
    units = (step / mantissa(step) * (together & -together))[together > 0]  # a channel of zeros has no unit
    unit = float(units.min()) if units.size else 1.0
    low, high = (int(np.ceil((bound * step / unit).max())) for bound in (smallest, largest))
    return Grid(unit, -low, high, signed_zero=True)
