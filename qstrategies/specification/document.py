"""A program written out: the normative specification of one file, as JSON and as Markdown."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from qstrategies.arguments import public
from qstrategies.files import atomic_write, sha256
from qstrategies.specification.ends import End
from qstrategies.specification.lowering import program_of
from qstrategies.specification.program import Node, Program, Rounding, Tensor
from qstrategies.text import markdown

SCHEMA = "qstrategies-specification"
VERSION = 1
ROUND = (
    "ROUND(total) = min(max(r + zero_point, low), high), where r is total * multiplier rounded to "
    "the nearest integer, of two that are equally near to the even one; the multiplier is that of "
    "the channel (dimension 1; of a linear node the last), or the only one. All numbers are exact: "
    "no partial sum of the total is larger in magnitude than bound, in whatever order"
)
TENSORS = (
    "A tensor holds integers of 8 bits without sign. Whatever varies with the batch has size 1. "
    "The real value of an input or output is (integer - zero_point) * scale; an input of float32 "
    "becomes min(max(r + zero_point, 0), 255), r being the value / scale rounded as in ROUND"
)


@dataclass(frozen=True)
class Specification:
    """The normative integer semantics of one file: ``json`` for programs, ``markdown`` for
    people."""

    program: Program

    @property
    def content(self) -> dict[str, Any]:
        """Plain data, as in ``specification.schema.json``."""
        used = {node.kind: node.formula for node in self.program.nodes}
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "file_sha256": self.program.file_sha256,
            "tensors": TENSORS,
            "rounding": ROUND,
            "kinds": dict(sorted(used.items())),
            "inputs": [_end(each) for each in self.program.inputs],
            "outputs": [_end(each) for each in self.program.outputs],
            "nodes": [_node(each) for each in self.program.nodes],
        }

    @property
    def json(self) -> str:
        """One node per line."""
        content = self.content
        nodes = ",\n".join(json.dumps(each) for each in content.pop("nodes"))
        entries = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items()]
        return "{\n" + ",\n".join([*entries, f'"nodes": [\n{nodes}\n]']) + "\n}\n"

    @property
    def markdown(self) -> str:
        """A page: the rules, then a table of the nodes. Weights are named by their SHA-256."""
        content = self.content
        lines = [
            f"# Specification of the file {content['file_sha256']}",
            "",
            f"{TENSORS}.",
            "",
            f"{ROUND}.",
            "",
            "| kind | formula |",
            "| --- | --- |",
            *(f"| {kind} | {markdown(text)} |" for kind, text in content["kinds"].items()),
            "",
            "| end | tensor | shape | scale | zero point |",
            "| --- | --- | --- | --- | ---: |",
            *(_end_row("input", each) for each in content["inputs"]),
            *(_end_row("output", each) for each in content["outputs"]),
            "",
            "| output | shape | kind | inputs | parameters |",
            "| --- | --- | --- | --- | --- |",
            *(_row(node) for node in self.program.nodes),
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Both: JSON to ``path``, Markdown beside it; raises ``FileError``."""
        atomic_write(path, self.json)
        atomic_write(path.with_suffix(".md"), self.markdown)


@public
def specify(path: Path | str) -> Specification:
    """The specification of the ONNX file ``path``; raises ``InputError`` as ``program_of``."""
    return Specification(program_of(path))


def _end(end: End) -> dict[str, Any]:
    return dataclasses.asdict(end) | {"scale": _text(Fraction(end.scale))}


def _text(number: Fraction) -> str:
    return f"{number.numerator}/{number.denominator}"


def _node(node: Node) -> dict[str, Any]:
    fields = {name: _plain(each) for name, each in vars(node).items()}
    fields |= {"output": _tensor(node.output), "inputs": [each.name for each in node.inputs]}
    return {"kind": node.kind, **fields}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "low": tensor.low,
        "high": tensor.high,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return _text(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Rounding):
        return {name: _plain(each) for name, each in vars(value).items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 1:
        return value.tolist()
    data = base64.b64encode(np.ascontiguousarray(value, np.int8).tobytes()).decode()
    return {"dtype": "int8", "shape": list(value.shape), "base64": data}


def _end_row(end: str, entry: dict[str, Any]) -> str:
    name = markdown(entry["name"])
    tensor = markdown(entry["tensor"])
    return (
        f"| {end} {name} ({entry['dtype']}) | {tensor} | {entry['shape']} | {entry['scale']} | "
        f"{entry['zero_point']} |"
    )


def _row(node: Node) -> str:
    hidden = ("output", "inputs", "operators", "offsets")
    shown = [f"{name} {_short(each)}" for name, each in vars(node).items() if name not in hidden]
    inputs = ", ".join(tensor.name for tensor in node.inputs)
    cells = [node.output.name, str(list(node.output.shape)), node.kind, inputs, "; ".join(shown)]
    return f"| {' | '.join(markdown(cell) for cell in cells)} |"


def _short(value: Any) -> str:
    """In a cell of a table: a long array by its hash, the multipliers by their extremes."""
    if isinstance(value, np.ndarray):
        return f"{list(value.shape)} of SHA-256 {sha256(np.ascontiguousarray(value).tobytes())}"
    if not isinstance(value, Rounding):
        return str(list(value) if isinstance(value, tuple) else value)
    least, most = min(value.multipliers), max(value.multipliers)
    multipliers = _text(least) if least == most else f"{_text(least)} to {_text(most)}"
    return (
        f"multiplier {multipliers}, zero_point {value.zero_point}, {value.low} to {value.high}, "
        f"bound {value.bound}"
    )
