"""QuantizeLinear and DequantizeLinear: the one rounding, and what executors do around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto, helper

from qstrategies.certificate.declarations import WIDENED, Call, Declaration, anything, only
from qstrategies.certificate.grid import FLOAT_EXACT, Array, Grid, UnprovenError, mantissa
from qstrategies.certificate.means import check_mean
from qstrategies.certificate.tensors import FLOAT, QUANTIZED, Constant, Quantizer, Tensor

SMALLEST_STEP = 2.0**-16  # float32 holds 8 bits for the result and 16 behind the point
LARGEST_SCALE = 2.0**32
SMALLEST_SCALE = 2.0**-32
"""Two of them and a weight's scale multiply and divide to normal numbers, in any order."""
CLIP_TOLERANCE = 2.0**-22
"""ONNX Runtime leaves out a Clip whose bounds are within 2^-23 of those of the next quantizer."""
MOST_STEPS = 2.0**31 - 2.0**9  # some executors round to int32 before they saturate

_ALONE = {"DequantizeLinear", "Relu", "Clip"}
"""Behind an input of the graph, these make no two pairs of quantizers that could be merged."""
_PASSED = {"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that ONNX Runtime moves quantizers past."""
_VERSIONS = (10, 13, *WIDENED)
_SETTINGS = {"axis": anything, "block_size": only(0), "output_dtype": only(0)}
QUANTIZE = Declaration(
    _VERSIONS,
    (2, 3),
    attributes={**_SETTINGS, "saturate": only(1), "precision": only(0, FLOAT)},
)
DEQUANTIZE = Declaration(
    _VERSIONS,
    (2, 3),
    attributes={**_SETTINGS, "output_dtype": only(0, FLOAT)},
    types=QUANTIZED | {TensorProto.INT32},
)


def quantizer_of(call: Call) -> Quantizer:
    """The parameters of ``call``; raises ``UnprovenError`` unless each is one constant number."""
    scale, zero_point = call.constant(1), call.constant(2)
    if scale is None or scale.size != 1 or (zero_point is not None and zero_point.size != 1):
        raise UnprovenError("its scale and zero point are not one constant number each")
    if scale.dtype != np.float32:
        raise UnprovenError(f"its scale is {scale.dtype}: only float32 is known")
    if not np.isfinite(scale).all() or not (scale > 0).all():
        raise UnprovenError(f"its scale is {float(scale.item())}")
    integers = call.outputs[0] if call.node.op_type == "QuantizeLinear" else call.first.kind
    if integers.element not in QUANTIZED:
        raise UnprovenError(f"its integers are {integers.name}: only uint8 and int8 are known")
    return Quantizer(
        float(scale.item()),
        0 if zero_point is None else int(zero_point.item()),
        integers.element,
    )


def scale_breaches(quantizer: Quantizer) -> Iterator[str]:
    """What is wrong with the parameters alone."""
    if mantissa(np.array(quantizer.scale)) != 1:
        yield f"its scale {quantizer.scale:g} is no power of two"
    if not SMALLEST_SCALE <= quantizer.scale <= LARGEST_SCALE:
        outside = "outside of 2^-32 to 2^32: products may leave the range of float32"
        yield f"its scale {quantizer.scale:g} is {outside}"
    if quantizer.zero_point % 2:
        yield f"its zero point {quantizer.zero_point} is odd"


def rounding_breaches(values: Tensor, to: Quantizer) -> Iterator[str]:
    """Why executors may round ``values`` to other integers of ``to``."""
    grid = values.grid
    requantizes = values.moved_from not in (None, to)
    if requantizes and values.through - _ALONE and not values.apart:
        moved = "what was only moved since it was dequantized with another scale or zero point"
        yield f"it quantizes {moved}: ONNX Runtime merges the two"
    if "Clip" in values.through and to.scale <= CLIP_TOLERANCE:
        yield f"its scale {to.scale:g} is so small that ONNX Runtime leaves out a needed Clip"
    if grid.divisor != 1:
        yield from _mean_breaches(grid, to)
        return
    if not grid.unbounded and max(grid.most, -grid.least) / to.scale > MOST_STEPS:
        yield "values of 2^31 of its steps and more leave int32 before they are saturated"
    if to.zero_point and grid.unit / to.scale < SMALLEST_STEP:
        steps = f"{grid.unit / to.scale:.3g} of the output's step, less than 2^-16"
        kernels = f"kernels that add the zero point {to.zero_point} before rounding lose bits"
        yield f"values in steps of {steps}: {kernels}"
    elif {"Add", "DequantizeLinear"} <= values.through and not _folded_exactly(grid, to):
        yield "kernels for additions fold the zero points into a sum that is too long for float32"
    for point in grid.points:
        yield from _point_breaches(point, to)


def stands(call: Call, carried: Tensor) -> bool:
    """Whether executors neither move quantizers past ``call``, which reads ``carried``, nor drop
    it."""
    if call.node.op_type in _PASSED:
        return False
    if call.node.op_type in ("Gather", "GatherElements", "GatherND"):
        indices = call.constant(1)
        return indices is not None and indices.ravel().tolist() != list(range(indices.size))
    return carried.kind.contradicts(call.outputs[0])


def _folded_exactly(grid: Grid, to: Quantizer) -> bool:
    """Whether float32 holds the stored integers, and the zero points, of both operands at once.

    Without its zero point an operand is at most four times as large: 255 and 255 instead of 128.
    """
    largest = 4 * grid.units + abs(to.zero_point) * to.scale / grid.unit
    return largest <= FLOAT_EXACT


def range_breaches(values: Tensor, to: Quantizer) -> Iterator[str]:
    """Why kernels that keep a layer's multiplier M as the range of its result may round apart.

    OpenVINO does where no bias is added: in float32 M has to be ``255 / (high - low)``, and the
    zero point ``-255 low / (high - low)``; or there is nothing to round.
    """
    sums = values.sums
    if sums is None or not sums.bare:
        return
    multiplier = (sums.step / to.scale).astype(np.float32)
    nothing = np.log2(multiplier / mantissa(multiplier)) + sums.least >= 0
    stored = np.iinfo(helper.tensor_dtype_to_np_dtype(to.element))
    zero, whole = np.float32(to.zero_point - stored.min), np.float32(stored.max - stored.min)
    low, high = -zero / multiplier, (whole - zero) / multiplier
    with np.errstate(all="ignore"):
        found, shift = whole / (high - low), -low * whole / (high - low)
    if not (nothing | (found == multiplier) & (shift == zero)).all():
        yield "no bias is added: kernels that keep the range of the result lose its multiplier"


def _mean_breaches(mean: Grid, to: Quantizer) -> Iterator[str]:
    try:
        check_mean(mean, to.scale, to.zero_point)
    except UnprovenError as error:
        yield str(error)


def _point_breaches(point: float, to: Quantizer) -> Iterator[str]:
    """A bound between two values: all ways to divide and add the zero point must round it alike."""
    single, scale, zero = np.float32(point), np.float32(to.scale), np.float32(to.zero_point)
    places = [single / scale, single * (np.float32(1) / scale)]
    found = {float(np.rint(place) + zero) for place in places}
    if len(found | {float(np.rint(place + zero)) for place in places}) > 1:
        yield f"a bound of {point:g} is rounded by each executor in its own way"


def dequantized(call: Call) -> Constant:
    """The constant that ``call`` makes of stored integers with one scale, or one per channel."""
    stored, scale, zero_point = (call.constant(index) for index in range(3))
    assert stored is not None and scale is not None
    if scale.dtype != np.float32 or scale.ndim > 1 or not (np.isfinite(scale) & (scale > 0)).all():
        raise UnprovenError("its scale is not one positive number, or one per channel")
    if zero_point is not None and zero_point.size != scale.size:
        raise UnprovenError("its zero points are not as many as its scales")
    if stored.dtype == np.int32 and zero_point is not None and zero_point.any():
        raise UnprovenError("its zero point is not 0: kernels add an int32 bias as it is stored")
    shape = _along(stored, scale, call.attributes.get("axis", 1))
    integers: Array = stored.astype(np.int16 if stored.itemsize == 1 else np.int64)
    if zero_point is not None and zero_point.any():
        integers = integers - zero_point.astype(integers.dtype).reshape(shape)
    constant = call.first.constant
    assert constant is not None
    return Constant(integers, scale.reshape(shape), constant.stored, stored)


def _along(stored: Array, scale: Array, axis: int) -> list[int]:
    """The shape in which ``scale`` broadcasts to ``stored``."""
    shape = [1] * stored.ndim
    if scale.size == 1:
        return shape
    if not -stored.ndim <= axis < stored.ndim or stored.shape[axis] != scale.size:
        shown = f"the shape {list(stored.shape)} along axis {axis}"
        raise UnprovenError(f"it has {scale.size} scales for {shown}")
    shape[axis] = scale.size
    return shape
