"""Float islands -> ONNX, by PyTorch's exporter: all islands of a model in one call, since a call
costs more than an island."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from qstrategies.errors import InputError
from qstrategies.guest import without_torchs_deprecations
from qstrategies.operators.island import Island
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.runtimes.onnx_runtime import plain_session

if TYPE_CHECKING:
    from qstrategies.export.onnx_writer import OnnxWriter

OPSET, IR_VERSION = 19, 9
EXAMPLES = 2
NAMED = 6  # islands in a message


@dataclass(frozen=True)
class Ends:
    """What a part of an ONNX graph reads and gives, by name."""

    inputs: tuple[str, ...]
    output: str


def export_islands(graph: IntegerGraph) -> ExportedIslands:
    """Export all islands of ``graph``. Raises ``InputError``, naming them, if PyTorch cannot."""
    islands = graph.islands
    if not islands:
        return ExportedIslands({}, onnx.GraphProto())
    if all(isinstance(island.module, OnnxPart) for island in islands):
        known = {island.output.name: island.module.ends for island in islands}
        return ExportedIslands(known, islands[0].module.graph)
    shapes = _examples(graph)
    inputs: list[Tensor] = []
    places: list[list[int]] = []
    for island in islands:
        places.append(list(range(len(inputs), len(inputs) + len(island.inputs))))
        inputs += [shapes[spec.name].clone() for spec in island.inputs]
    specs = [spec for island in islands for spec in island.inputs]
    dynamic = [_dynamic(spec.shape) for spec in specs]
    try:
        proto = exported(_Together(islands, places), tuple(inputs), dynamic)
    except Exception as error:
        names = sorted({island.name for island in islands})
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InputError(
            f"what stays in float cannot be exported ({', '.join(names[:NAMED])}{more}): "
            f"{_cause(error)}; rewrite it with operators of ONNX, for any number of examples"
        ) from None
    ends = {}
    for island, chosen, result in zip(islands, places, proto.graph.output, strict=True):
        names_in = tuple(proto.graph.input[place].name for place in chosen)
        ends[island.output.name] = Ends(names_in, result.name)
    return ExportedIslands(ends, proto.graph)


def _cause(error: BaseException) -> str:
    """The first line of what an exporter's error comes from, with the next one if that begins a
    list."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).split("\n") if str(error).strip() else [type(error).__name__]
    first, *rest = [line.strip() for line in lines if line.strip()]
    return f"{first} {rest[0].lstrip('- ')}" if first.endswith(":") and rest else first


class ExportedIslands:
    """The graph of all islands together, and where each of them is in it, by the name of its
    result; ``write`` copies what one of them needs."""

    def __init__(self, ends: Mapping[str, Ends], graph: onnx.GraphProto) -> None:
        self.ends, self.graph = ends, graph
        self.makers = {output: node for node in graph.node for output in node.output}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}

    def write(self, output: str, to: OnnxWriter, inputs: Sequence[str]) -> str:
        """Write the island that gives ``output`` on ``inputs``; the name of its result."""
        ends = self.ends[output]
        renamed = dict(zip(ends.inputs, inputs, strict=True))
        for node in self.needed(ends):
            self._copy(node, output, to, renamed)
        return renamed[ends.output]

    def needed(self, ends: Ends) -> list[onnx.NodeProto]:
        """The nodes between ``ends``, in the order of execution."""
        wanted, open_names, given = set(), [ends.output], set(ends.inputs)
        while open_names:
            name = open_names.pop()
            node = self.makers.get(name)
            if node is not None and name not in given and node.name not in wanted:
                wanted.add(node.name)
                open_names += _read(node)
        return [node for node in self.graph.node if node.name in wanted]

    def _copy(
        self, node: onnx.NodeProto, island: str, to: OnnxWriter, renamed: dict[str, str]
    ) -> None:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        for name in _read(node):
            if name in self.tensors and name not in renamed:
                renamed[name] = to.constant(
                    f"{island}.{name}", onnx.numpy_helper.to_array(self.tensors[name])
                )
        _rename_read(copied, renamed)
        for index, name in enumerate(node.output):
            renamed[name] = to.free_name(f"{island}.{name}") if name else name
            copied.output[index] = renamed[name]
        copied.name = to.free_name(f"{island}.{node.name}")
        del copied.metadata_props[:]
        copied.doc_string = ""
        to.nodes.append(copied)


def _read(node: onnx.NodeProto) -> list[str]:
    """The names that ``node`` reads, in the bodies of its loops and branches too."""
    names = list(node.input)
    for body in _bodies(node):
        for each in body.node:
            names += _read(each)
        names += [each.name for each in body.output]
    return names


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]


def _rename_read(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Give what ``node`` reads the names that it has outside. In place."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    for body in _bodies(node):
        for each in body.node:
            _rename_read(each, renamed)
        for value in body.output:
            value.name = renamed.get(value.name, value.name)


class OnnxPart(nn.Module):
    """The part of a saved graph between ``ends``, run by ONNX Runtime."""

    def __init__(self, graph: onnx.GraphProto, ends: Ends) -> None:
        super().__init__()
        self.graph, self.ends = graph, ends
        self._session: onnxruntime.InferenceSession | None = None

    def forward(self, *tensors: Tensor) -> Tensor:
        if self._session is None:
            self._session = plain_session(self._model())
        arrays = (np.ascontiguousarray(tensor.numpy(force=True)) for tensor in tensors)
        (result,) = self._session.run(None, dict(zip(self.ends.inputs, arrays, strict=True)))
        return torch.from_numpy(np.array(result)).to(tensors[0].device)

    def _model(self) -> bytes:
        nodes = ExportedIslands({}, self.graph).needed(self.ends)
        read = {name for node in nodes for name in _read(node)}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in read]
        inputs = [each for each in self.graph.input if each.name in self.ends.inputs]
        outputs = [each for each in self.graph.output if each.name == self.ends.output]
        graph = onnx.helper.make_graph(nodes, "island", inputs, outputs, constants)
        opsets = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        content: bytes = model.SerializeToString()
        return content


class _Together(nn.Module):
    """All islands side by side, on their inputs one behind another."""

    def __init__(self, islands: Sequence[Island], places: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.islands = nn.ModuleList(island.module for island in islands)
        self.places = places

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(self.islands, self.places, strict=True)
        return tuple(island(*(tensors[place] for place in chosen)) for island, chosen in pairs)


def exported(
    module: nn.Module, examples: tuple[Tensor, ...], dynamic: Sequence[Any], **names: Any
) -> onnx.ModelProto:
    """``module`` by PyTorch's exporter, without a word of it on the screen."""
    dimensions: Any = (
        {"tensors": tuple(dynamic)} if isinstance(module, _Together) else tuple(dynamic)
    )
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            dynamic_shapes=dimensions,
            verbose=False,
            **names,
        )
    assert program is not None and program.exported_program is not None
    _check_counts(program.exported_program)
    _release_shapes(program.exported_program)
    proto: onnx.ModelProto = ir.to_proto(program.model)
    return proto


def _check_counts(program: torch.export.ExportedProgram) -> None:
    """Raise ``InputError`` where ``program`` holds only for so many examples, or only for more."""
    entries = [node for node in program.graph.nodes if node.op == "placeholder"]
    shapes = [getattr(node.meta.get("val"), "shape", ()) for node in entries]
    counts = {str(size) for shape in shapes for size in shape}
    for symbol, bounds in program.range_constraints.items():
        if str(symbol) not in counts:
            continue  # how many elements a mask of constants leaves, and its like
        if bounds.lower > EXAMPLES or float(bounds.upper) < math.inf:
            raise InputError(
                "its forward decides by how many examples there are, and what is exported holds "
                f"for {bounds.lower} to {bounds.upper} of them"
            )


def _release_shapes(program: torch.export.ExportedProgram) -> None:
    """Break a cycle of sizes and tensors that leads through C++, where Python's collector does not
    look, and forget by instance."""
    for method in vars(ShapeEnv).values():
        if hasattr(method, "cache_clear"):
            method.cache_clear()
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            mode.shape_env.tracked_fakes = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines of the exporter, nor what it says of PyTorch's future."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with without_torchs_deprecations():
            yield
    finally:
        logger.setLevel(before)


@torch.no_grad()
def _examples(graph: IntegerGraph) -> dict[str, Tensor]:
    """What every tensor is for ``EXAMPLES`` inputs of zeros, in real numbers on its grid."""
    values = {}
    for spec in graph.inputs:
        sizes = [EXAMPLES if size is None else size for size in spec.shape]
        values[spec.name] = torch.zeros(sizes, dtype=spec.dtype)
    for node in graph.nodes:
        constants = (torch.from_numpy(array) for array in node.constants)
        value = node.reals(*(values[spec.name] for spec in node.inputs), *constants)
        grid = node.output.quantizer
        values[node.output.name] = value if grid is None else grid.rounded(value)
    return values


def _dynamic(shape: Sequence[int | None]) -> dict[int, Any]:
    return {place: torch.export.Dim.DYNAMIC for place, size in enumerate(shape) if size is None}
