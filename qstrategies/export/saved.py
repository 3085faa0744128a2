"""A quantized model as one safetensors file: integers and scales as tensors, all else as JSON.

Reading it runs no code from the file. Parts that stay in float are in it as ONNX; read back, they
run in ONNX Runtime, which may round them otherwise than PyTorch did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import safetensors.numpy
import torch

from qstrategies import typed_json
from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.export.islands import Ends, ExportedIslands, OnnxPart, export_islands
from qstrategies.files import FileError, atomic_write, check_file, read_bytes
from qstrategies.guest import guest, own_randomness
from qstrategies.operators.base import Array, Node, TensorSpec
from qstrategies.operators.island import Island
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.quantization.interface import InputSpec
from qstrategies.quantization.model import QuantizedModel
from qstrategies.records import QuantizationConfig

KEY, ISLANDS = "qstrategies", "islands"
VERSION = 1
DTYPES = {str(each).removeprefix("torch."): each for each in (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)}  # fmt: skip


@public
@guest
@own_randomness()
def save(quantized: QuantizedModel, path: Path | str) -> None:
    """Write ``quantized`` to ``path``; ``load`` gives the same bits in any process, but for parts
    that stay in float: those run in ONNX Runtime then, which may round otherwise than PyTorch.

    Raises:
        InputError: a float part that cannot be exported to ONNX, or a path that cannot be written.
    """
    arrays: dict[str, Array] = {}
    islands = export_islands(quantized.graph)
    if islands.ends:
        arrays[ISLANDS] = np.frombuffer(islands.graph.SerializeToString(), np.uint8)
    content = {
        "version": VERSION,
        "config": dataclasses.asdict(quantized.config),
        "inputs": [_plain(spec, "", arrays) for spec in quantized.inputs],
        "outputs": _containers(quantized.outputs),
        "graph": {
            "inputs": [_plain(spec, "", arrays) for spec in quantized.graph.inputs],
            "outputs": [spec.name for spec in quantized.graph.outputs],
            "nodes": [_plain_node(node, islands, arrays) for node in quantized.graph.nodes],
        },
    }
    text = json.dumps(content, allow_nan=False)
    # One entry: safetensors writes several in any order.
    metadata = {KEY: f"{_seal(text, arrays)} {text}"}
    atomic_write(Path(path), safetensors.numpy.save(arrays, metadata))


@public
@guest
def load(path: Path | str) -> QuantizedModel:
    """The model that ``save`` wrote to ``path``. Named tuples and data classes that it returned
    come back as dicts.

    Raises:
        InputError: no such file, another kind of file, or one that was altered.
    """
    check_file(Path(path), most=None)
    try:
        return _loaded(read_bytes(Path(path)))
    except FileError:
        raise
    except (InputError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} is no saved model: {error}; write it again with qs.save"
        ) from None


def _loaded(data: bytes) -> QuantizedModel:
    text, arrays = _parts(data)
    content = typed_json.load(text)
    if content.get("version") != VERSION:
        raise InputError(f"its version is {content.get('version')!r}, expected {VERSION}")
    reader = _Reader(arrays)
    graph = reader.graph(content["graph"])
    return QuantizedModel(
        graph,
        typed_json.build(QuantizationConfig, content["config"]),
        tuple(reader.value(InputSpec, each) for each in content["inputs"]),
        _structure(content["outputs"]),
    )


def _parts(data: bytes) -> tuple[str, dict[str, Array]]:
    """The JSON and the arrays of a file whose seal is whole."""
    try:
        arrays = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        seal, _, text = metadata[KEY].partition(" ")
    except Exception as error:  # safetensors raises types of its own
        raise InputError(" ".join(str(error).split()) or type(error).__name__) from None
    if seal != _seal(text, arrays):
        raise InputError("it was altered after it was written")
    return text, arrays


def _seal(text: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _plain(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """``value`` as JSON; its arrays go to ``arrays``, under names that begin with ``name``."""
    if isinstance(value, np.ndarray):
        arrays[name] = np.array(value, order="C")
        return name
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple | list):
        return [_plain(each, f"{name}.{place}", arrays) for place, each in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return {each: _plain(getattr(value, each), f"{name}.{each}", arrays) for each in fields}
    assert value is None or isinstance(value, bool | int | float | str), value
    return value


def _plain_node(node: Node, islands: ExportedIslands, arrays: dict[str, Array]) -> Any:
    inputs = [spec.name for spec in node.inputs]
    if isinstance(node, Island):
        fields: Any = {"name": node.name, "output": _plain(node.output, "", arrays)}
        fields |= {"reason": node.reason, "size": node.size}
        fields["ends"] = _plain(islands.ends[node.output.name], "", arrays)
    else:
        fields = _plain(node, node.output.name, arrays)
    return {"kind": type(node).__name__, **fields, "inputs": inputs}


def _containers(value: Any) -> Any:
    """The structure of what a model returns, as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _containers(named)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _containers(value._asdict())
    if isinstance(value, Mapping):
        return {"dict": {str(name): _containers(each) for name, each in value.items()}}
    if isinstance(value, tuple | list):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_containers(each) for each in value]}
    return value


def _structure(value: Any) -> Any:
    """The inverse of ``_containers``."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {name: _structure(each) for name, each in content.items()}
    return {"list": list, "tuple": tuple}[kind](_structure(each) for each in content)


class _Reader:
    """JSON -> values, by the hints of their classes."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.kinds = {kind.__name__: kind for kind in _subclasses(Node)}
        self.islands = onnx.GraphProto()
        if ISLANDS in arrays:
            self.islands.ParseFromString(arrays[ISLANDS].tobytes())

    def graph(self, content: Any) -> IntegerGraph:
        inputs = tuple(self.value(TensorSpec, each) for each in content["inputs"])
        known = {spec.name: spec for spec in inputs}
        nodes = []
        for fields in content["nodes"]:
            sources = tuple(known[name] for name in fields["inputs"])
            nodes.append(self.node(fields, sources))
            known[nodes[-1].output.name] = nodes[-1].output
        return IntegerGraph(inputs, tuple(known[name] for name in content["outputs"]), tuple(nodes))

    def node(self, content: Any, inputs: tuple[TensorSpec, ...]) -> Node:
        fields = {name: each for name, each in content.items() if name not in ("kind", "inputs")}
        kind = self.kinds.get(content["kind"])
        if kind is None:
            raise InputError(f"it has an operator of the unknown kind {content['kind']!r:.40}")
        values: dict[str, Any] = {}
        if kind is Island:
            values["module"] = OnnxPart(self.islands, self.value(Ends, fields.pop("ends")))
        hints = get_type_hints(kind)
        values |= {name: self.value(hints[name], each) for name, each in fields.items()}
        made: Node = kind(inputs=inputs, **values)
        return made

    def value(self, kind: Any, content: Any) -> Any:
        if kind == Array:
            return self.arrays[content]
        if kind is torch.dtype:
            return DTYPES[content]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            hints = get_type_hints(kind)
            return kind(**{name: self.value(hints[name], each) for name, each in content.items()})
        choices = [each for each in get_args(kind) if dataclasses.is_dataclass(each)]
        if choices and content is None:
            return None
        if choices:
            return self.value(choices[0], content)
        return typed_json.build(kind, content)


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    found: list[type] = []
    for each in direct:
        found += [each, *_subclasses(each)]
    return found
