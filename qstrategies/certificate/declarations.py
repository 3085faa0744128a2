"""What a node may look like to be proven: whatever its declaration does not name is unproven."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from qstrategies.certificate.grid import Array, Grid, UnprovenError
from qstrategies.certificate.tensors import FLOAT, INTEGERS, KNOWN, Kind, Tensor

FLOATS: frozenset[int] = frozenset({FLOAT})
NUMBERS: frozenset[int] = FLOATS | INTEGERS
NEWEST = onnx.defs.onnx_opset_version()
WIDENED = (19, 21, 23, 24, 25)
"""Operator sets that gave many operators more types and nothing else."""


@dataclass(frozen=True)
class Call:
    """A node, with what is known of its inputs (None for one that is left out) and outputs.

    ``version``: the operator set, up to ``opset``, that last changed its operator.
    ``attributes``: those of the node, and the defaults of its operator's version for the others.
    ``readers``: the operators that read its first output, behind a Relu or Clip if that is all.
    """

    node: onnx.NodeProto
    opset: int
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Kind, ...]
    readers: tuple[str, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """The inputs that are there."""
        return [tensor for tensor in self.inputs if tensor is not None]

    @property
    def first(self) -> Tensor:
        """The first input, which must be there."""
        if not self.inputs or self.inputs[0] is None:
            raise UnprovenError("its first input is left out")
        return self.inputs[0]

    def optional(self, index: int) -> Tensor | None:
        """Input ``index``, None where that is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Array | None:
        """The constant behind input ``index``; None where that is left out.

        Raises ``UnprovenError`` for one that varies.
        """
        tensor = self.optional(index)
        if tensor is None:
            return None
        if tensor.constant is None or tensor.constant.scale is not None:
            raise UnprovenError(f"its input {index} is not constant")
        return tensor.constant.integers


Accepts = Callable[[Any], bool]


def only(*values: Any) -> Accepts:
    """Accepts these values of an attribute."""
    return lambda value: value in values


def anything(_: Any) -> bool:
    """Accepts every value of an attribute."""
    return True


def not_negative(values: Any) -> bool:
    """Accepts lists without a negative number."""
    return all(value >= 0 for value in values)


def positive(values: Any) -> bool:
    """Accepts lists of positive numbers."""
    return all(value > 0 for value in values)


@dataclass(frozen=True)
class Declaration:
    """What is known of one operator.

    Args:
        versions: the operator sets that defined it as it is known here.
        inputs: the least and the largest number of inputs.
        prove: what its output can hold; None for operators that the walk itself treats.
        attributes: by name, which values are known; all others are unproven.
        types: of the first input.
        outputs: the largest number of outputs.
        moves: whether it only places or picks values: executors may move it, or leave it out.
    """

    versions: tuple[int, ...]
    inputs: tuple[int, float]
    prove: Callable[[Call], Grid] | None = None
    attributes: Mapping[str, Accepts] = field(default_factory=dict)
    types: frozenset[int] = FLOATS
    outputs: int = 1
    moves: bool = False

    def check(self, call: Call) -> None:
        """Raise ``UnprovenError`` for whatever in ``call`` is not declared."""
        node = call.node
        if call.version not in self.versions:
            raise UnprovenError(
                f"its version of operator set {call.version}: not known to the proof"
            )
        least, most = self.inputs
        if not least <= len(node.input) <= most or not all(node.input[:least]):
            raise UnprovenError(f"it has {len(node.input)} inputs: expected {least} to {most}")
        used = [name for name in node.output[self.outputs :] if name]
        if used or not all(node.output[:1]):
            raise UnprovenError(f"its output {len(node.output)} is not known to the proof")
        self._check_attributes(call)
        self._check_types(call)

    def _check_attributes(self, call: Call) -> None:
        for item in call.node.attribute:
            if item.name not in self.attributes or item.ref_attr_name:
                raise UnprovenError(f"its attribute {item.name!r} is not known to the proof")
        for name, accepts in self.attributes.items():
            value = call.attributes.get(name)
            if value is not None and not accepts(value):
                shown = value.decode(errors="replace") if isinstance(value, bytes) else value
                raise UnprovenError(f"its attribute {name} is {shown!r}: not known to the proof")

    def _check_types(self, call: Call) -> None:
        for kind in (*(tensor.kind for tensor in call.tensors), *call.outputs):
            if kind.element not in KNOWN:
                known = "only float32, integers and bool are known"
                raise UnprovenError(f"it computes in {kind.name}: {known}")
        if call.inputs and call.first.kind.element not in self.types:
            raise UnprovenError(f"its input is {call.first.kind.name}: not known to the proof")


def call_of(
    node: onnx.NodeProto,
    opset: int,
    inputs: tuple[Tensor | None, ...],
    outputs: tuple[Kind, ...],
    readers: tuple[str, ...],
) -> Call:
    """``node`` in the operator set ``opset``; raises ``UnprovenError`` for one without it."""
    if node.domain not in ("", "ai.onnx") or node.overload:
        raise UnprovenError(f"it is an operator of {node.domain!r}, not of the standard")
    if not 1 <= opset <= NEWEST:
        raise UnprovenError(f"operator set {opset} is not known: the newest known one is {NEWEST}")
    version, defaults = _definition(node.op_type, opset)
    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return Call(node, opset, version, {**defaults, **given}, inputs, outputs, readers)


@functools.cache
def _definition(operator: str, opset: int) -> tuple[int, Mapping[str, Any]]:
    """Since when ``operator`` is what it is in ``opset``, and the defaults of its attributes."""
    try:
        schema = onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        raise UnprovenError(f"operator set {opset} has no operator {operator}") from None
    defaults = {
        name: onnx.helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }
    return schema.since_version, defaults
