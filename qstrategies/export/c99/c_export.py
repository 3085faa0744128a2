"""``export_c``: what a certified file computes as C99, with its golden vectors as a self-test."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import onnx

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.export.c99.arena import Arena, arena_of
from qstrategies.export.c99.calls import CALLS
from qstrategies.export.c99.piece import Piece, Place
from qstrategies.export.c99.self_test import self_test
from qstrategies.export.c99.text import comment, kernel
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.export.onnx_writer import to_onnx
from qstrategies.files import atomic_write, read_bytes, sha256
from qstrategies.guest import guest
from qstrategies.onnx_file import load_checked
from qstrategies.quantization.model import QuantizedModel
from qstrategies.specification.ends import End
from qstrategies.specification.lowering import lowered
from qstrategies.specification.program import Program
from qstrategies.specification.vectors import vectors_of

IDENTIFIER = r"[A-Za-z][A-Za-z0-9_]{0,30}"
MARK = "qstrategies-c99"
"""What the comment with the ends of the file begins with: its readers look for it."""


@public
@guest
def export_c(
    model: QuantizedModel | Path | str, folder: Path | str, name: str = "model"
) -> ExportedModel:
    """Write ``NAME.c`` and ``NAME.h``, which compute the bits of the ONNX file in C99 without
    dependencies, floats or allocation, and ``NAME_test.c``, a program that checks them with the
    golden vectors.

    Args:
        model: a quantized model, or an ONNX file that is certified to give the same bits on all
            executors.
        name: of the files and the prefix of what they define.

    Raises:
        InputError: a name that is no identifier of C; a model of which no integers say what it
            computes, as one with parts in float; or numbers that do not fit 64 bits.
    """
    if not re.fullmatch(IDENTIFIER, name):
        raise InputError(f"{name!r} is no name for C: expected letters, digits and _, at most 31")
    proto, data = _read(model)
    program = lowered(proto, "" if isinstance(model, QuantizedModel) else sha256(data))
    source = _Source(program, name, [value.name for value in proto.graph.input])
    path = Path(folder) / f"{name}.c"
    atomic_write(path.with_suffix(".h"), source.header)
    atomic_write(path.with_name(f"{name}_test.c"), self_test(name, vectors_of(data)))
    atomic_write(path, source.text)
    digest = sha256(source.text.encode())
    quantized = model if isinstance(model, QuantizedModel) else None
    return ExportedModel(path, "c99", digest, len(source.text), digest, quantized=quantized)


def _read(model: QuantizedModel | Path | str) -> tuple[onnx.ModelProto, bytes]:
    """The ONNX file."""
    if isinstance(model, QuantizedModel):
        proto = to_onnx(model, "uint8")
        return proto, proto.SerializeToString(deterministic=True)
    return load_checked(Path(model)), read_bytes(Path(model))


class _Source:
    """``given``: the names of all inputs of the model, also of those that nothing reads."""

    def __init__(self, program: Program, name: str, given: Sequence[str]) -> None:
        self.program, self.name, self.given = program, name, given
        self.arena: Arena = arena_of(program)
        self.pieces: list[Piece] = []
        for number, node in enumerate(program.nodes):
            try:
                self.pieces.append(CALLS[type(node)](Place(number, node, self.arena.places)))
            except InputError as error:
                raise InputError(
                    f"{node.output.name!r} has no form in C: {error}; export it as ONNX"
                ) from None

    @property
    def parameters(self) -> str:
        inputs = [f"const uint8_t *input_{i}" for i, _ in enumerate(self.program.inputs)]
        outputs = [f"uint8_t *output_{i}" for i, _ in enumerate(self.program.outputs)]
        return ", ".join([*inputs, *outputs])

    @property
    def header(self) -> str:
        upper, program = self.name.upper(), self.program
        of = f" with the SHA-256 {program.file_sha256}" if program.file_sha256 else ""
        lines = [
            comment(
                f"What the ONNX file{of} computes. Each input and output is an array of 8-bit "
                "integers; the real value of one is (integer - zero_point) * scale."
            ),
            f"/* {MARK} {self._described()} */",
            f"#ifndef {upper}_H",
            f"#define {upper}_H",
            "",
            "#include <stdint.h>",
            "",
            *_sizes(upper, "INPUT", program.inputs),
            *_sizes(upper, "OUTPUT", program.outputs),
            "",
            comment("Bytes of the static memory between calls, besides the weights."),
            f"#define {upper}_ARENA_SIZE {max(self.arena.size, 1)}",
            "",
            comment("It uses that memory: one call at a time."),
            f"void {self.name}_run({self.parameters});",
            "",
            "#endif",
        ]
        return "\n".join(lines) + "\n"

    def _described(self) -> str:
        """The ends as JSON that neither ends a comment nor begins another."""
        inputs = [
            dataclasses.asdict(end) | {"place": self.given.index(end.name)}
            for end in self.program.inputs
        ]
        outputs = [dataclasses.asdict(end) for end in self.program.outputs]
        return json.dumps({"inputs": inputs, "outputs": outputs}).replace("*", "\\u002a")

    @property
    def text(self) -> str:
        used = dict.fromkeys(each for piece in self.pieces for each in piece.kernels)
        order = [name for name in ORDER if name in used]
        row = max((piece.row for piece in self.pieces), default=0)
        memory = (
            [f"static uint8_t arena[{self.name.upper()}_ARENA_SIZE];"] if self.arena.size else []
        )
        memory += [f"static int16_t row[{row}];"] if row else []
        parts = [
            f'#include "{self.name}.h"',
            *map(kernel, [*order, "copy"]),
            *memory,
            *self._constants(),
            self._run(),
        ]
        return "\n\n".join(parts) + "\n"

    def _constants(self) -> list[str]:
        texts = []
        for node, piece in zip(self.program.nodes, self.pieces, strict=True):
            if piece.constants:
                about = f"{node.output.name} {list(node.output.shape)}: {node.formula}"
                texts.append("\n".join([comment(about), *piece.constants]))
        return texts

    def _run(self) -> str:
        lines = [f"void {self.name}_run({self.parameters})", "{"]
        for node, piece in zip(self.program.nodes, self.pieces, strict=True):
            if piece.calls:
                lines.append(f"    {comment(f'{node.output.name} {list(node.output.shape)}')}")
                lines += [f"    {call}" for call in piece.calls]
        for number, end in enumerate(self.program.outputs):
            size = f"{self.name.upper()}_OUTPUT_{number}_SIZE"
            lines.append(f"    copy({self.arena.places[end.tensor]}, output_{number}, {size});")
        return "\n".join([*lines, "}"])


ORDER = (
    "rounding", "rounded", "rounded_line", "rounded_quotient", "window", "element", "dimensions",
    "offset", "pair", "layer", "plane_convolution", "convolution", "average_pool", "max_pool",
    "addition", "product", "extremum", "mean", "move", "concatenation", "clip", "table",
)  # fmt: skip
"""Of the kernels: what they need comes before them."""


def _sizes(upper: str, kind: str, ends: Sequence[End]) -> list[str]:
    lines = []
    for number, end in enumerate(ends):
        lines.append(comment(f"{end.name} {list(end.shape)}"))
        lines.append(f"#define {upper}_{kind}_{number}_SIZE {math.prod(end.shape)}")
    return lines
