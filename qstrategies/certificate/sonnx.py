"""The rules of ONNX's safety profile (SONNX) that a file alone can keep or break.

The working group's drafts of 2025: https://github.com/onnx/working-groups, safety-related-profile,
deliverables/reqs/reqs.md ("reqs"), documents/profile_graph/graph.md ("graph"),
documents/profile_opset/general_restrictions.md ("general") and profile_opset/conv/conv.md ("conv").
The list of operators of the profile, and with it what holds for single operators, is still open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, TensorProto

from qstrategies.onnx_file import defaults_of, graphs_of, standard_opset
from qstrategies.text import line

IMPLIED = ("kernel_shape", "strides", "dilations", "pads", "output_padding", "perm")
"""Attributes whose default the text of an operator has, and not its schema."""
UNWRITABLE = ("AveragePool", "dilations")
"""Not asked for: ONNX Runtime, whose QLinearAveragePool has it not, refuses files that set it."""
RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip


@dataclass(frozen=True)
class Violation:
    """A node or tensor, the rule that it breaks, and how."""

    place: str
    rule: str
    reason: str


def violations(model: onnx.ModelProto) -> tuple[Violation, ...]:
    """What in ``model`` breaks the rules, by rule and in the order of the file."""
    graphs = list(graphs_of(model.graph))
    found = [*_versions(model)]
    for check in CHECKS:
        for graph in graphs:
            found += check(graph, standard_opset(model))
    return tuple(found)


def as_text(found: Sequence[Violation]) -> str:
    """The verdict for a terminal, one line for each violation."""
    lines = [f"{'safety profile (SONNX)':<30} {'NO' if found else 'yes'}"]
    return "\n".join(
        [*lines, *(line(f"  {each.place}: {each.rule}: {each.reason}") for each in found)]
    )


def _versions(model: onnx.ModelProto) -> Iterator[Violation]:
    rule = "operator versions (reqs, FO 000)"
    if standard_opset(model) is None:
        yield Violation("the file", rule, "it imports not one version of the standard operators")
    for function in model.functions:
        yield Violation(function.name, "no functions (graph)", "it is a graph of its own")


def _sparse(graph: onnx.GraphProto, _: int | None) -> Iterator[Violation]:
    rule = "no sparse tensors (general, GR1)"
    for tensor in graph.sparse_initializer:
        yield Violation(tensor.values.name, rule, "it is stored as a sparse tensor")
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("sparse_tensor_type"):
            yield Violation(value.name, rule, "its type is that of a sparse tensor")
    for node in graph.node:
        for attribute in node.attribute:
            sparse = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)
            if attribute.type in sparse:
                yield Violation(_name(node), rule, f"its attribute {attribute.name} is one")


def _types(graph: onnx.GraphProto, _: int | None) -> Iterator[Violation]:
    rule = "explicit types and shapes (reqs, VA 001; general, GR2)"
    known = {each.name: each for each in (*graph.value_info, *graph.output, *graph.input)}
    made = [name for node in graph.node for name in node.output if name]
    for name in dict.fromkeys([*(each.name for each in graph.input), *made]):
        kind = known[name].type.tensor_type if name in known else onnx.TypeProto.Tensor()
        if kind.elem_type == TensorProto.UNDEFINED:
            yield Violation(name, rule, "the file does not say its type")
        elif not kind.HasField("shape"):
            yield Violation(name, rule, "the file does not say its shape")
        elif not all(dim.dim_value or dim.dim_param for dim in kind.shape.dim):
            yield Violation(name, rule, "one of its dimensions has neither a size nor a name")


def _defaults(graph: onnx.GraphProto, opset: int | None) -> Iterator[Violation]:
    rule = "no default values (reqs, OP 016)"
    for node in graph.node:
        if opset is None or node.domain not in ("", "ai.onnx"):
            continue
        given = {attribute.name for attribute in node.attribute}
        missing = [each.name for each in defaults_of(node, opset)]
        if onnx.defs.has(node.op_type, max_inclusive_version=opset):
            attributes = onnx.defs.get_schema(node.op_type, opset, "").attributes
            implied = [each for each in IMPLIED if each in attributes and each not in given]
            missing += [each for each in implied if (node.op_type, each) != UNWRITABLE]
        if missing:
            yield Violation(_name(node), rule, f"it does not set {', '.join(missing)}")


def _padding(graph: onnx.GraphProto, _: int | None) -> Iterator[Violation]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "auto_pad" and attribute.s != b"NOTSET":
                reason = f"its padding is {attribute.s.decode(errors='replace')}"
                yield Violation(_name(node), "explicit padding (conv, R2)", reason)


def _unused(graph: onnx.GraphProto, _: int | None) -> Iterator[Violation]:
    read = {name for inner in graphs_of(graph) for node in inner.node for name in node.input}
    read |= {name for inner in graphs_of(graph) for name in (each.name for each in inner.output)}
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in read | constants:
            yield Violation(value.name, "every input is used (graph, C2)", "nothing reads it")
    for node in graph.node:
        for name in node.output:
            if name and name not in read:
                reason = f"nothing reads its output {name}"
                yield Violation(_name(node), "every output is used (graph, R2)", reason)


def _random(graph: onnx.GraphProto, _: int | None) -> Iterator[Violation]:
    for node in graph.node:
        if node.op_type in RANDOM:
            rule = "deterministic operators (reqs, OP 032; graph, R3)"
            yield Violation(_name(node), rule, "it draws numbers")


Check = Callable[[onnx.GraphProto, int | None], Iterator[Violation]]
CHECKS: tuple[Check, ...] = (_sparse, _types, _defaults, _padding, _unused, _random)


def _name(node: onnx.NodeProto) -> str:
    """With the operator, since the name may be empty."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
