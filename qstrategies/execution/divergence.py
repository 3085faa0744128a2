"""The first node at which two executors of one ONNX file differ."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qstrategies.runtimes.base import Runtime, refusing


@dataclass(frozen=True)
class Divergence:
    """``node`` makes the first tensor that differs, from ``through``; ``found`` and ``expected``
    are its element ``index``.

    Both are in steps, zero point included: the integers of the quantized tensor. Only the output of
    a file that does not quantize it is in real numbers. A tensor that differs in its shape has no
    such element: ``shapes`` are both.
    """

    node: str
    op_type: str
    through: tuple[str, ...]
    index: tuple[int, ...]
    found: float
    expected: float
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def __str__(self) -> str:
        through = f" (through {', '.join(self.through)})" if self.through else ""
        where = f"{self.op_type} {self.node!r}{through}"
        if self.shapes is not None:
            return f"{where}: shape {list(self.shapes[0])} instead of {list(self.shapes[1])}"
        return f"{where}, element {list(self.index)}: {self.found:g} instead of {self.expected:g}"


def first_divergence(
    path: Path, found: type[Runtime], expected: type[Runtime], inputs: Sequence[NDArray[Any]]
) -> Divergence | None:
    """Run the file cut after each quantized tensor, in the order of the graph, in both executors
    over ``inputs``, each [N, ...].

    A cut file ends in the DequantizeLinear that follows, so that an executor fuses what it fuses in
    the whole file. None if no cut file differs, though the whole one may: where an executor fuses
    across the cut. Raises ``InputError`` if an executor does not take a cut file.
    """
    model = onnx.load(str(path), load_external_data=False)
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.onnx"
        for node in _cuts(model.graph):
            onnx.save(_until(model, node), str(cut))
            ours, theirs = (_run(kind, cut, inputs) for kind in (found, expected))
            if not np.array_equal(ours, theirs, equal_nan=True):
                return _describe(model.graph, node, ours, theirs)
    return None


def _run(kind: type[Runtime], cut: Path, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    with refusing(kind.summary, cut):
        return kind(cut).run(*inputs)


def _cuts(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every DequantizeLinear of an activation, and the node that makes the output."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if (node.op_type == "DequantizeLinear" and node.input[0] not in constants) or graph.output[
            0
        ].name in node.output:
            yield node


def _until(model: onnx.ModelProto, last: onnx.NodeProto) -> onnx.ModelProto:
    """``model`` with the output of ``last`` as its output, without what that does not need."""
    needed = set(last.output)
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for field in (cut.graph.node, cut.graph.output, cut.graph.initializer):
        del field[:]
    cut.graph.node.extend(reversed(nodes))
    cut.graph.initializer.extend(
        tensor for tensor in model.graph.initializer if tensor.name in needed
    )
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    cut.graph.output.append(
        known.get(
            last.output[0], helper.make_tensor_value_info(last.output[0], TensorProto.FLOAT, None)
        )
    )
    return cut


def _describe(
    graph: onnx.GraphProto, last: onnx.NodeProto, found: NDArray[Any], expected: NDArray[Any]
) -> Divergence:
    producers = {name: node for node in graph.node for name in node.output}
    maker = producers.get(last.input[0], last) if last.op_type == "DequantizeLinear" else last
    through = tuple(dict.fromkeys(_through(producers, maker)))
    if found.shape != expected.shape:
        return Divergence(
            maker.name, maker.op_type, through, (), np.nan, np.nan, (found.shape, expected.shape)
        )
    index = tuple(int(i) for i in np.argwhere(found != expected)[0])
    ours, theirs = (_in_steps(graph, last, float(values[index])) for values in (found, expected))
    return Divergence(maker.name, maker.op_type, through, index, ours, theirs)


def _in_steps(graph: onnx.GraphProto, node: onnx.NodeProto, real: float) -> float:
    """The integer that ``node``, a DequantizeLinear per tensor, made ``real`` of; ``real`` itself
    for any other node."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = (
        [constants[name] for name in node.input[1:]] if node.op_type == "DequantizeLinear" else []
    )
    if not values or values[0].size > 1:
        return real
    return float(np.rint(real / float(values[0].item()))) + (
        int(values[1].item()) if len(values) > 1 else 0
    )


def _through(producers: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> Iterator[str]:
    """The nodes between the last tensors that were compared and ``node``, in the order of the
    graph."""
    for name in node.input:
        before = producers.get(name)
        if before is not None and before.op_type != "DequantizeLinear":
            yield from _through(producers, before)
            yield before.name
