"""Nodes with weights: the bound of every channel's accumulator, and what makes it exact."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qstrategies.certificate import fixed_point
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
from qstrategies.certificate.products import (
    adjacent_of,
    by_output,
    kernel_orders,
    multiplied,
    pairs_of,
)
from qstrategies.certificate.report import EXACT, Layer
from qstrategies.certificate.tensors import Constant
from qstrategies.certificate.windows import check_room

LARGEST_INT32 = 2**31 - 1
LARGEST_PAIR = 128  # 255 * 128 < 2^15: two products of uint8 activations fit 16 bits
LARGEST_SCALE = 2.0**60
SMALLEST_SCALE = 2.0**-60
"""Times or over two scales of activations, see ``quantizers``, these stay normal in float32."""

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
    "ConvTranspose": Declaration(
        (1, 11, 22),
        (2, 3),
        attributes={**_WINDOWS, "output_padding": not_negative},
    ),
    "Gemm": Declaration(
        (7, 9, 11, 13),
        (2, 3),
        attributes={"alpha": only(1.0), "beta": only(1.0), "transA": only(0), "transB": only(0, 1)},
    ),
    "MatMul": Declaration((1, 9, 13), (2, 2)),
}


def certify_layer(
    call: Call,
) -> tuple[Layer, Grid, Array, list[tuple[str, str]], fixed_point.Sums]:
    """The figures of ``call``, the values of its output, its step per channel, its breaches as
    (guarantee, reason), and how its sums end.

    Raises ``UnprovenError`` for a form of the operator that no bound is known for.
    """
    weight, bias = _constant(call, 1), _constant(call, 2)
    if weight is None or call.first.constant is not None:
        raise UnprovenError("it multiplies constants at load, each executor in its own order")
    _check_kernels(call, quantized=weight.scale is not None)
    if call.node.op_type == "Conv":
        check_room(call, weight.integers.shape[2:])
    x = call.first.grid.merged()
    if x.divisor != 1 or x.high - x.low > FLOAT_EXACT:
        raise UnprovenError("its input is not quantized")
    sums = _Sums(*_integers(call, x, weight, bias), x)
    layer = _figures(call, sums, weight)
    breaches = _exponent_breaches(sums.scale, x)
    if weight.scale is not None:
        breaches += _scale_breaches(sums, bias)
    in_integers = weight.scale is not None and call.first.moved_from is not None
    breaches += _bound_breaches(layer, EXACT[1:] if in_integers else EXACT)
    bare = weight.scale is not None and not np.rint(sums.offset).any()
    return layer, sums.output, sums.step, breaches, replace(sums.ends, bare=bare)


@dataclass(frozen=True)
class _Sums:
    """What a layer adds up.

    ``rows``: weights [out_channels, products] as integers; ``scale`` [out_channels]: their steps;
    ``offset`` [out_channels]: the bias in steps of the accumulator; ``x``: what flows in.
    """

    rows: Array
    scale: Array
    offset: Array
    x: Grid

    @property
    def step(self) -> Array:
        """The steps of the accumulators [out_channels]."""
        return self.scale * self.x.step

    @functools.cached_property
    def sizes(self) -> Array:
        """The magnitudes of the weights, integers where ``rows`` are."""
        return np.abs(self.rows)

    @functools.cached_property
    def bits(self) -> Array:
        """All magnitudes of a channel, or-ed: int64 [out_channels]."""
        sizes = self.sizes
        if sizes.dtype == np.float64:
            sizes = np.minimum(sizes, 2.0**62).astype(np.int64)
        return np.bitwise_or.reduce(sizes, axis=1).astype(np.int64)

    @functools.cached_property
    def bounds(self) -> tuple[Array, Array]:
        """How far below and above zero a partial sum gets, whatever the order [out_channels]."""
        total = self.rows.sum(1, dtype=np.float64)
        sizes = self.sizes.sum(1, dtype=np.float64)
        positive, negative = (sizes + total) / 2, (sizes - total) / 2
        up, down = max(self.x.high, 0), max(-self.x.low, 0)
        below = positive * down + negative * up + np.maximum(-self.offset, 0)
        above = positive * up + negative * down + np.maximum(self.offset, 0)
        return below, above

    @property
    def ends(self) -> fixed_point.Sums:
        """Of the sums, in bits."""
        largest = np.maximum(*self.bounds)
        return fixed_point.Sums.of(self.bits, self.offset, self.step, largest)

    @property
    def output(self) -> Grid:
        """The grid of all output channels.

        Zero bits that all integers of a channel end in make its unit coarser.
        """
        constants = np.minimum(np.abs(np.rint(self.offset)), 2.0**62).astype(np.int64)
        together = self.bits | constants
        units = self.step / mantissa(self.step) * (together & -together)
        used = units[together > 0]  # a channel of zeros has no unit
        unit = float(used.min()) if used.size else 1.0
        low, high = (int(np.ceil((bound * self.step / unit).max())) for bound in self.bounds)
        return Grid(unit, -low, high, signed_zero=True)


def _figures(call: Call, sums: _Sums, weight: Constant) -> Layer:
    stored = multiplied(weight)
    return Layer(
        node=call.node.name,
        weights=weight.stored,
        form="float" if stored is None else "int8",
        accumulators=tuple(map(int, np.ceil(np.maximum(*sums.bounds)))),
        mantissas=tuple(map(int, mantissa(sums.step))),
        pairs=() if stored is None else pairs_of(by_output(call, stored)),
        adjacent=() if stored is None else adjacent_of(kernel_orders(call, stored)),
    )


def _check_kernels(call: Call, *, quantized: bool) -> None:
    """Raise ``UnprovenError`` where ONNX Runtime quantizes what is in float."""
    if not quantized and "DequantizeLinear" in call.first.through:
        reason = "ONNX Runtime quantizes them by itself"
        raise UnprovenError(f"its weights are in float behind a DequantizeLinear: {reason}")
    if quantized and _may_be_blocked(call):
        raise UnprovenError(
            "neither its input comes straight from a DequantizeLinear nor its output to a "
            "QuantizeLinear: ONNX Runtime may take a kernel that quantizes its input in blocks"
        )


def _may_be_blocked(call: Call) -> bool:
    """Whether ONNX Runtime may take MatMulNBits, which quantizes its float input block by block."""
    if call.node.op_type not in ("Gemm", "MatMul") or call.attributes.get("transB", 0):
        return False
    straight = call.first.through <= {"QuantizeLinear", "DequantizeLinear"}
    return not (straight and call.first.moved_from) and call.readers != ("QuantizeLinear",)


def _constant(call: Call, index: int) -> Constant | None:
    tensor = call.optional(index)
    if tensor is not None and tensor.constant is None:
        raise UnprovenError("its weight or bias is not constant")
    return None if tensor is None else tensor.constant


def _integers(
    call: Call,
    x: Grid,
    weight: Constant,
    bias: Constant | None,
) -> tuple[Array, Array, Array]:
    """Weights, steps and bias as in ``_Sums``.

    Weights in float are integers too, in steps of the lowest bit of their channel; in float64, so
    exact below 2^53.
    """
    rows = by_output(call, weight.integers)
    if weight.scale is None:
        rows = rows.astype(np.float64)
        if not np.isfinite(rows).all():
            raise UnprovenError("a weight is not finite")
        offset = _bias(bias, len(rows), real=True) / x.step
        joined = np.concatenate([rows, offset[:, None]], 1)
        steps = np.array([lowest_bit(row) for row in joined])
        return rows / steps[:, None], steps, offset / steps
    sizes = zip(weight.integers.shape, weight.scale.shape, strict=True)
    shape = [1 if axis > 1 and steps == 1 else size for axis, (size, steps) in enumerate(sizes)]
    scales = by_output(call, np.broadcast_to(weight.scale, shape))  # one along a window will do
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
    per_channel = values.size == 1 or values.size == values.shape[-1] == channels
    if not per_channel or not np.isfinite(values).all():
        shape = list(values.shape)
        raise UnprovenError(f"its bias of shape {shape} is not one number per output channel")
    return np.broadcast_to(values.reshape(-1), channels)


def _scale_breaches(sums: _Sums, bias: Constant | None) -> list[tuple[str, str]]:
    step, offset = sums.step, sums.offset
    found = _found(
        ~reciprocal_safe(sums.scale),
        "the weight scale changes when it is stored as its reciprocal",
        "integer_kernels",
    )
    reason = "the bias is no whole number of steps s_x s_w"
    found += _found(offset != np.rint(offset), reason, *EXACT)
    if bias is not None and bias.scale is not None:
        wrong = np.broadcast_to(bias.scale.reshape(-1), step.shape) != step.astype(np.float32)
        found += _found(wrong, "the scale of the bias is not s_x s_w", *EXACT)
    return found


def _exponent_breaches(scale: Array, x: Grid) -> list[tuple[str, str]]:
    outside = (scale < SMALLEST_SCALE) | (scale > LARGEST_SCALE)
    reason = "the weight scale is outside of 2^-60 to 2^60: products may leave the range of float32"
    found = _found(outside, reason, *EXACT)
    if not 2.0**-40 <= x.unit <= 2.0**40:
        reason = f"its input is in steps of {x.unit:g}: products may leave the range of float32"
        found += [(guarantee, reason) for guarantee in EXACT]
    return found


def _bound_breaches(layer: Layer, exact: Sequence[str]) -> list[tuple[str, str]]:
    accumulators = np.array(layer.accumulators, np.float64)
    units, pairs = np.array(layer.float_units, np.float64), np.array(layer.pairs)
    largest = max(layer.float_units)
    reason = f"sums of up to {largest} units of float32: it tells no more than 2^24 apart"
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
    if not bad.any():
        return []
    return [(guarantee, f"{_channels(bad)}: {reason}") for guarantee in guarantees]


def _channels(bad: Array) -> str:
    """The first of the channels that are ``bad``, and how many more there are."""
    more = int(bad.sum()) - 1
    return f"channel {int(np.argmax(bad))}" + (f" and {more} more" if more else "")
