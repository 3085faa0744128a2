"""The whole file: what computes each node, in order, and the comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from qstrategies.arguments import public
from qstrategies.errors import InputError, SelfCheckError
from qstrategies.onnx_file import content_hash, load_checked
from qstrategies.onnx_model.functions import (
    BINARY,
    MERGED,
    PLAIN,
    REDUCTIONS,
    UNARY,
    binary,
    merged,
    parts,
    reduction,
)
from qstrategies.onnx_model.layers import LAYERS
from qstrategies.onnx_model.node import Node, Step, named
from qstrategies.onnx_model.observe import BATCHES, random_inputs, sizes_observed, watched

TOLERANCE = 1e-3
"""Of the largest output: float32 sums of other orders through a hundred layers stay well below, a
misread attribute does not."""
FLOOR = 1e-6
"""Below it nothing is told apart: a sigmoid's tail."""
RECURRENT = ("GRU", "LSTM", "RNN", "Loop", "Scan")
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")


class OnnxModel(nn.Module):
    """The nodes of a file, one after another. It takes and gives what the file does."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: Path,
        sizes: Mapping[str, Tensor],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.source = f"{path.name} {content_hash(model)}"
        constants = _constants(model) | dict(sizes)
        graph = model.graph
        self.inputs = [entry.name for entry in _inputs(model)]
        self.outputs = [entry.name for entry in graph.output]
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[Step | str, list[str], str]] = []
        opset = _opset(model)
        for number, proto in enumerate(graph.node):
            if proto.output[0] in sizes:
                continue
            node = _node(proto, constants, shapes, opset)
            if all(name in constants for name in proto.input if name):
                constants |= _folded(node, constants)
            else:
                self._add(f"{number}_{proto.op_type}", node)

    def extra_repr(self) -> str:
        return self.source

    def values(self, *inputs: Tensor) -> dict[str, Any]:
        """Of the inputs and of every node, by name."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        for step, names, output in self.steps:
            function = self.layers[step] if isinstance(step, str) else step
            values[output] = function(*[values[name] for name in names])
        return values

    def results(self, *inputs: Tensor) -> Any:
        """The output, or a tuple of several."""
        values = self.values(*inputs)
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def _add(self, label: str, node: Node) -> None:
        if node.proto.op_type == "Split":
            for step, output in zip(parts(node), node.proto.output, strict=True):
                self.steps.append((step, node.computed, output))
            return
        step = _step(node)
        if isinstance(step, nn.Module):
            self.layers[label] = step
        named = label if isinstance(step, nn.Module) else step
        self.steps.append((named, node.computed, node.proto.output[0]))


class OneInput(OnnxModel):
    """With a signature that torch.fx traces."""

    def forward(self, x: Tensor) -> Any:
        return self.results(x)


class SeveralInputs(OnnxModel):
    """In the order of the file."""

    def forward(self, *inputs: Tensor) -> Any:
        return self.results(*inputs)


@public
def from_onnx(path: str | Path, shape: Sequence[int] | None = None) -> nn.Module:
    """The float model in an ONNX file as a PyTorch model, to be quantized, or registered and
    compared.

    Args:
        shape: of one input without the batch, where the file leaves sizes open and asks for them
            (a Shape operator), or 64 is none that it takes.

    Raises:
        InputError: a broken file, a quantized one, an operator that is not read, by name.
        SelfCheckError: what was read does not compute what ONNX Runtime does.
    """
    place = Path(path)
    proto = load_checked(place, beside=True)
    try:
        _refuse_recurrent(proto.graph)
        entries = _inputs(proto)
        runs = [random_inputs(entries, shape, batch) for batch in BATCHES]
        values = [watched(proto, inputs, _outputs(proto)) for inputs in runs]
        sizes = sizes_observed(proto, values, _constants(proto))
        shapes = {name: tuple(value.shape) for name, value in (values[0] | runs[0]).items()}
        kind = OneInput if len(entries) == 1 else SeveralInputs
        model = kind(proto, place, sizes, shapes).eval()
        for inputs, expected in zip(runs, values, strict=True):
            _check(model, inputs, expected)
    except InputError as error:
        raise type(error)(f"{str(path)!r}: {error}") from None
    return model


def _refuse_recurrent(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in RECURRENT:
            raise InputError(
                f"the recurrent layer {node.op_type} is not read ({named(node)!r}): give the "
                "network as a torch.nn.Module, where it stays in float and all else is quantized"
            )


def _node(
    proto: onnx.NodeProto,
    constants: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    opset: int,
) -> Node:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in proto.attribute}
    for name, value in attributes.items():
        attributes[name] = value.decode() if isinstance(value, bytes) else value
    known = [shapes[name] for name in proto.input if name in shapes]
    shape = max(known, key=len, default=None)
    return Node(proto, attributes, tuple(constants.get(name) for name in proto.input), shape, opset)


def _step(node: Node) -> Step:
    kind = node.proto.op_type
    if kind in PLAIN:
        return PLAIN[kind]()
    if kind in UNARY:
        return UNARY[kind]
    if kind in BINARY:
        return binary(node)
    if kind in MERGED:
        return merged(node)
    if kind in REDUCTIONS:
        return reduction(node)
    if kind in LAYERS:
        return LAYERS[kind](node)
    why = "of a quantized file: float models are read" if kind in QUANTIZED else ""
    node.require(False, why)
    raise AssertionError


def _constants(model: onnx.ModelProto) -> dict[str, Tensor]:
    return {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in model.graph.initializer
    }


def _folded(node: Node, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of ``node``, all of whose inputs are constants, or sizes of the batch."""
    given = {name: constants[name].numpy() for name in node.proto.input if name}
    try:
        found = ReferenceEvaluator(node.proto).run(None, given)
    except Exception:  # as of a size that is that of the batch, or a graph in an attribute
        node.require(False, "of constants")
        raise
    return {
        name: torch.from_numpy(np.array(value))
        for name, value in zip(node.proto.output, found, strict=True)
    }


def _opset(model: onnx.ModelProto) -> int:
    return next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {each.name for each in model.graph.initializer}
    return [entry for entry in model.graph.input if entry.name not in constants]


def _outputs(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name]


@torch.no_grad()
def _check(model: OnnxModel, inputs: Mapping[str, Tensor], expected: Mapping[str, NDArray]) -> None:
    """Raise ``SelfCheckError`` naming the first node that gives something else in ONNX Runtime."""
    try:
        values = model.values(*inputs.values())
    except Exception as error:  # what was read does not go together
        raise SelfCheckError(f"what was read does not run: {error}") from None
    for _, _, name in model.steps:
        ours, theirs = (np.asarray(each, np.float64) for each in (values[name], expected[name]))
        apart = np.abs(ours - theirs).max(initial=0) if ours.shape == theirs.shape else np.inf
        if not apart <= TOLERANCE * np.abs(theirs).max(initial=0) + FLOOR:
            raise SelfCheckError(f"what gives {name!r} was misread: {apart:g} apart")
