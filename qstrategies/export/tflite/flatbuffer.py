"""The bytes of a TFLite file: tensors, constants and operators in the schema of the ``tflite``
package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qstrategies.operators.base import Array
from qstrategies.tflite_file import IDENTIFIER, schema

VERSION = 3
ALIGNMENT = 16
"""Of constants, which the schema asks for and kernels rely on."""
LAST_OLD_CODE = 127
"""Operators beyond it have no place in the field that old readers look at."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """Scales (one, or one per place along ``axis``) and the zero point that they share."""

    scale: Array
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, eq=False)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    kind: str
    buffer: int
    quantization: Quantization | None


@dataclass(frozen=True, eq=False)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    output: int
    options: str
    settings: Mapping[str, int]


@dataclass(eq=False)
class TfliteFile:
    """A file with one subgraph, in the order in which ``tensor`` and ``operator`` are called."""

    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    codes: list[tuple[str, int]] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str,
        quantization: Quantization | None = None,
        data: bytes = b"",
    ) -> int:
        """The number of a new tensor of a ``kind`` of the schema; a constant has ``data``."""
        buffer = 0
        if data:
            buffer = len(self.buffers)
            self.buffers.append(data)
        self.tensors.append(_Tensor(name, tuple(shape), kind, buffer, quantization))
        return len(self.tensors) - 1

    def operator(
        self,
        code: str,
        version: int,
        inputs: Sequence[int],
        output: int,
        options: str = "",
        **settings: int,
    ) -> None:
        """Add the builtin operator ``code`` in the ``version`` of its kernel; ``settings`` are
        fields of the table ``options``."""
        if (code, version) not in self.codes:
            self.codes.append((code, version))
        place = self.codes.index((code, version))
        self.operators.append(_Operator(place, tuple(inputs), output, options, settings))

    def content(
        self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes]
    ) -> bytes:
        """The whole file, reading ``inputs`` and giving ``outputs``, with named ``metadata``."""
        return _Packing(self).pack(inputs, outputs, metadata)


class _Packing:
    """One use of a flatbuffers builder, which writes children before their parents."""

    def __init__(self, file: TfliteFile) -> None:
        import flatbuffers

        self.file, self.schema = file, schema()
        self.builder = flatbuffers.Builder(1024)

    def pack(
        self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes]
    ) -> bytes:
        first = len(self.file.buffers)
        buffers = self._tables([*self.file.buffers, *metadata.values()], self._buffer)
        noted = self._tables(list(enumerate(metadata, first)), self._metadata)
        codes = self._tables(self.file.codes, self._code)
        subgraphs = self._tables([(inputs, outputs)], self._subgraph)
        description = self.builder.CreateString("qstrategies")
        model = self._table(
            "Model",
            Version=VERSION,
            OperatorCodes=codes,
            Subgraphs=subgraphs,
            Description=description,
            Buffers=buffers,
            Metadata=noted,
        )
        self.builder.Finish(model, IDENTIFIER)
        return bytes(self.builder.Output())

    def _table(self, name: str, **fields: int) -> int:
        """A table of scalars and of what was written before."""
        getattr(self.schema, f"{name}Start")(self.builder)
        for each, value in fields.items():
            getattr(self.schema, f"{name}Add{each}")(self.builder, value)
        return int(getattr(self.schema, f"{name}End")(self.builder))

    def _tables(self, items: Sequence[Any], pack: Callable[[Any], int]) -> int:
        places = [pack(item) for item in items]
        self.builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self.builder.PrependUOffsetTRelative(place)
        return int(self.builder.EndVector())

    def _numbers(self, values: Any, dtype: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype)))

    def _buffer(self, data: bytes) -> int:
        if not data:
            return self._table("Buffer")
        self.builder.StartVector(1, len(data), ALIGNMENT)
        head = self.builder.head - len(data)
        self.builder.head = head
        self.builder.Bytes[head : head + len(data)] = data
        return self._table("Buffer", Data=int(self.builder.EndVector()))

    def _metadata(self, item: tuple[int, str]) -> int:
        buffer, name = item
        return self._table("Metadata", Name=self.builder.CreateString(name), Buffer=buffer)

    def _code(self, item: tuple[str, int]) -> int:
        name, version = item
        code = getattr(self.schema.BuiltinOperator, name)
        old = min(code, LAST_OLD_CODE)
        return self._table(
            "OperatorCode", DeprecatedBuiltinCode=old, BuiltinCode=code, Version=version
        )

    def _subgraph(self, ends: tuple[Sequence[int], Sequence[int]]) -> int:
        tensors = self._tables(self.file.tensors, self._tensor)
        operators = self._tables(self.file.operators, self._operator)
        inputs, outputs = (self._numbers(each, np.int32) for each in ends)
        name = self.builder.CreateString("main")
        return self._table(
            "SubGraph",
            Tensors=tensors,
            Inputs=inputs,
            Outputs=outputs,
            Operators=operators,
            Name=name,
        )

    def _tensor(self, tensor: _Tensor) -> int:
        fields = {
            "Shape": self._numbers(tensor.shape, np.int32),
            "Name": self.builder.CreateString(tensor.name),
        }
        if tensor.quantization is not None:
            fields["Quantization"] = self._quantization(tensor.quantization)
        kind = getattr(self.schema.TensorType, tensor.kind)
        return self._table("Tensor", Type=kind, Buffer=tensor.buffer, **fields)

    def _quantization(self, known: Quantization) -> int:
        zero_points = np.full(known.scale.size, known.zero_point)
        scale = self._numbers(known.scale, np.float32)
        return self._table(
            "QuantizationParameters",
            Scale=scale,
            ZeroPoint=self._numbers(zero_points, np.int64),
            QuantizedDimension=known.axis,
        )

    def _operator(self, operator: _Operator) -> int:
        fields = {
            "OpcodeIndex": operator.code,
            "Inputs": self._numbers(operator.inputs, np.int32),
            "Outputs": self._numbers([operator.output], np.int32),
        }
        if operator.options:
            kind = getattr(self.schema.BuiltinOptions, operator.options)
            fields["BuiltinOptionsType"] = kind
            fields["BuiltinOptions"] = self._table(operator.options, **operator.settings)
        return self._table("Operator", **fields)
