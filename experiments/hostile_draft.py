"""A QDQ file while it is drawn: every choice is either usual or, with a probability that is drawn
first, odd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

Array = NDArray[Any]
Choices = Sequence[Any]

EXAMPLES = 6
OPSETS = ((19, 13, 17, 18, 21), (10, 11, 12, 14, 15, 16, 20, 22, 23))
RARITIES = (0, 0, 80, 40, 40, 15, 4)  # one choice in so many is odd; 0: none
IR_VERSION = 10
SCALES = ("mantissa", "free", "one bit off", "tiny", "huge", "subnormal")
COMPUTED = ("Identity", "Neg", "Cast", "Mul", "Exp", "MatMul", "Softmax")


class ImpossibleError(Exception):
    """A node that the standard does not allow with these inputs; it is left out."""


@dataclass(frozen=True)
class Quantizer:
    """The inputs of QuantizeLinear and DequantizeLinear behind the tensor, by name."""

    names: tuple[str, ...]
    scale: float
    zero_point: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Tensor:
    """A value of the graph; no magnitude in it exceeds ``top`` by much, ``step`` is the scale that
    it was quantized with, and ``quantizer`` what DequantizeLinear made it of, if it did.
    """

    name: str
    kind: onnx.TypeProto
    top: float = 1.0
    step: float = 1.0
    quantizer: Quantizer | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim.dim_value for dim in self.kind.tensor_type.shape.dim)

    @property
    def dtype(self) -> int:
        return self.kind.tensor_type.elem_type


class Draft:
    """Nodes, constants and inputs so far. ``rng`` fills large arrays; what decides the structure is
    drawn by hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.names = self.oddities = 0
        self.rarity = draw(st.sampled_from(RARITIES))
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.opset: int = self.one_of(*OPSETS)
        self.opsets = [helper.make_opsetid("", self.opset)]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.known: dict[str, Array] = {}
        self.tensors: dict[str, Tensor] = {}

    def odd(self) -> bool:
        """Whether the next choice is an odd one."""
        found = bool(self.rarity) and self.draw(st.integers(0, self.rarity - 1)) == self.rarity - 1
        self.oddities += found
        return found

    def one_of(self, usual: Choices, odd: Choices = ()) -> Any:
        """One of the ``usual`` values, or rarely one of the ``odd`` ones."""
        values = odd if odd and self.odd() else usual
        return values[0] if len(values) == 1 else self.draw(st.sampled_from(values))

    def name(self, stem: str) -> str:
        """A new name that begins with ``stem``."""
        self.names += 1
        return f"{stem}_{self.names}"

    def add_input(self, dtype: int, shape: tuple[int, ...]) -> Tensor:
        """A graph input for ``EXAMPLES`` examples, its batch or all of its dimensions perhaps
        symbolic."""
        name = f"input_{len(self.inputs)}"
        batch = self.one_of(("n", EXAMPLES))
        dims = (
            (batch, *shape)
            if not self.odd()
            else tuple(f"d{axis}" for axis in range(len(shape) + 1))
        )
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return self._enter(name, helper.make_tensor_type_proto(dtype, (EXAMPLES, *shape)), 255.0)

    def _enter(self, name: str, kind: onnx.TypeProto, top: float, step: float = 1.0) -> Tensor:
        self.tensors[name] = Tensor(name, kind, top, step)
        return self.tensors[name]

    def constant(self, value: Any) -> str:
        """The name of the constant ``value``, however it is stored; odd ones are computed when the
        file is loaded."""
        array, name = np.asarray(value), self.name("constant")
        how = self.one_of(("initializer", "initializer", "node"), ("computed", "computed", "input"))
        if how == "computed" and array.dtype == np.float32:
            return self._computed(array)
        tensor = numpy_helper.from_array(array, name)
        self._enter(
            name,
            helper.make_tensor_type_proto(tensor.data_type, array.shape),
            float(np.abs(array.astype(float)).max(initial=0)),
        )
        self.known[name] = array
        if how == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
            return name
        self.initializers.append(tensor)
        if how == "input":
            self.inputs.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        return name

    def _stored(self, array: Array) -> str:
        name = self.name("stored")
        self.initializers.append(numpy_helper.from_array(array, name))
        self._enter(
            name,
            helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            ),
            1.0,
        )
        self.known[name] = array
        return name

    def _computed(self, array: Array) -> str:
        """About ``array``, the result of an operator on constants."""
        how = self.one_of(COMPUTED)
        top = float(np.abs(array).max(initial=0)) or 1.0
        if how == "Cast":
            return self.node(
                how, [self._stored(array.astype(np.float64))], to=TensorProto.FLOAT
            ).name
        if how == "Mul":
            return self.node(
                how,
                [self._stored(array / np.float32(3)), self._stored(np.array(3, np.float32))],
                top=top,
            ).name
        if how == "Exp":
            with np.errstate(all="ignore"):
                return self.node(
                    how,
                    [self._stored(np.log(np.maximum(np.abs(array), np.float32(1e-30))))],
                    top=top,
                ).name
        if how == "MatMul" and array.ndim >= 2:
            return self.node(
                how,
                [self._stored(array), self._stored(np.eye(array.shape[-1], dtype=np.float32))],
                top=top,
            ).name
        if how == "Softmax" and array.ndim:
            return self.node(how, [self._stored(array / top)], top=1.0, axis=-1).name
        return (
            self.node("Neg", [self._stored(-array)], top=top).name
            if how == "Neg"
            else self.node("Identity", [self._stored(array)], top=top).name
        )

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        top: float = 1.0,
        step: float = 1.0,
        outputs: int = 1,
        **attributes: Any,
    ) -> Tensor:
        """The first output of a new node, its type inferred; attributes that are None are left out.

        Raises ``ImpossibleError`` where the standard does not allow the node.
        """
        name = self.name(op)
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(
            op, inputs, [name, *(f"{name}_{index}" for index in range(1, outputs))], name=name
        )
        node.attribute.extend(_attribute(key, value) for key, value in given.items())
        kinds = {text: self.tensors[text].kind for text in inputs if text}
        known = {
            text: numpy_helper.from_array(self.known[text], text)
            for text in inputs
            if text in self.known
        }
        try:
            schema = onnx.defs.get_schema(op, self.opset, "")
            found = shape_inference.infer_node_outputs(
                schema, node, kinds, known, opset_imports=self.opsets, ir_version=IR_VERSION
            )
        except Exception as error:  # the checker and the inference raise unrelated types
            raise ImpossibleError(str(error)) from None
        for text in node.output:
            kind = found.get(text)
            if kind is None or not kind.tensor_type.HasField("shape") or not _complete(kind):
                raise ImpossibleError(f"{op}: no shape")
        self.nodes.append(node)
        for text in node.output:
            self._enter(text, found[text], finite(top), step)
        return self.tensors[name]

    def scale(self, wanted: float) -> np.float32:
        """A scale near ``wanted``: a power of two, or an odd one."""
        wanted = finite(wanted)
        power = 2.0 ** math.floor(math.log2(min(max(wanted, 1e-30), 1e30)))
        return self._scale(self.one_of(("power",), SCALES), power)

    def _scale(self, kind: str, power: float) -> np.float32:
        short = 2 * int(self.rng.integers(1, 32)) + 1
        values = {
            "power": power,
            "mantissa": power * short / 32,
            "free": power * self.rng.uniform(1, 2),
            "one bit off": np.nextafter(np.float32(power), np.float32(0)),
            "tiny": 2.0 ** -int(self.rng.integers(60, 127)),
            "huge": 2.0 ** int(self.rng.integers(60, 127)),
            "subnormal": short * 2.0 ** -int(self.rng.integers(140, 150)),
        }
        return np.float32(values[kind]) or np.float32(2.0**-149)

    def quantizer(self, wanted: float, signed: bool | None = None) -> Quantizer:
        """Scale near ``wanted`` and zero point for an activation."""
        scale, wide = self.scale(wanted), self.opset >= 21
        dtype = np.dtype(
            self.one_of((np.uint8, np.uint8, np.int8), (np.uint16, np.int16) if wide else ())
        )
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        middle = (low + high + 1) // 2
        usual = (
            (middle, low, low, middle + 2 * (low < 0))
            if signed is None
            else (middle if signed else low,)
        )
        zero_point = self.one_of(
            usual, (low + 1, high, high - 1, middle + 1, int(self.rng.integers(low, high + 1)))
        )
        names = [self.constant(scale)]
        if not (dtype == np.uint8 and zero_point == 0 and self.odd()):
            names.append(self.constant(np.array(zero_point, dtype)))
        return Quantizer(tuple(names), float(scale), zero_point, dtype)

    def quantize(self, real: Tensor, quantizer: Quantizer) -> Tensor:
        """QuantizeLinear."""
        extra = self._quantizer_attributes()
        return self.node(
            "QuantizeLinear",
            [real.name, *quantizer.names],
            top=255.0,
            step=quantizer.scale,
            **extra,
        )

    def dequantize(self, integers: Tensor, quantizer: Quantizer) -> Tensor:
        """DequantizeLinear, rarely with another scale or zero point than the one that the integers
        were made with."""
        if self.odd():
            other = self.quantizer(quantizer.scale)
            if other.dtype == quantizer.dtype and len(other.names) == len(quantizer.names):
                quantizer = other
        limits = np.iinfo(quantizer.dtype)
        top = (
            max(limits.max - quantizer.zero_point, quantizer.zero_point - limits.min)
            * quantizer.scale
        )
        axis = self.one_of((None,), (0, 1)) if self.opset >= 13 else None
        real = self.node(
            "DequantizeLinear",
            [integers.name, *quantizer.names],
            top=top,
            step=quantizer.scale,
            axis=axis,
        )
        return replace(real, quantizer=quantizer)

    def _quantizer_attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.opset >= 13:
            found["axis"] = self.one_of((None,), (0, -1))
        if self.opset >= 19:
            found["saturate"] = self.one_of((None,), (0, 1))
        if self.opset >= 23:
            found["precision"] = self.one_of((None,), (TensorProto.FLOAT, TensorProto.FLOAT16))
        return found


def finite(value: float) -> float:
    """``value``, or 1 where a product of odd scales left the range of floats."""
    return value if math.isfinite(value) else 1.0


def _attribute(key: str, value: Any) -> onnx.AttributeProto:
    kind = onnx.AttributeProto.INTS if value == [] else None  # an empty list tells no type
    return helper.make_attribute(key, value, attr_type=kind)


def _complete(kind: onnx.TypeProto) -> bool:
    dims = kind.tensor_type.shape.dim
    return (
        all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims)
        and math.prod(dim.dim_value for dim in dims) < 2**16
    )
