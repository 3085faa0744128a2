"""Reading ONNX files that may come from anywhere, and telling whether an exported one was
altered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from sys import float_info
from typing import Annotated, Any

import onnx

from qstrategies.errors import InputError, first_line
from qstrategies.files import check_file, sha256
from qstrategies.typed_json import LARGEST, Fraction, Range, Sha256, build, load

HASH_KEY = "content_sha256"
METADATA: dict[str, Any] = {
    "accuracy": Fraction,
    "dataset": str,
    "figure": Annotated[float, Range(-LARGEST)],
    "form": str,
    "input_scale": Annotated[float, Range(float_info.min)],
    "input_zero_point": int,
    "labels": list[str] | None,
    "levels": str,
    "logits_sha256": Sha256,
    "metric": str,
    "model": str,
    "output_scale": Annotated[float, Range(float_info.min)] | None,
    "strategy": str,
    "weight_bits": int,
}
"""What the entries are that are read again, where there are any."""
INTEGRITY = {
    True: "unchanged since its export",
    False: "ALTERED after its export",
    None: "no hash in this file",
}


def load_checked(path: Path, *, beside: bool = False) -> onnx.ModelProto:
    """The model in ``path``: valid, self-contained, and made of standard operators only; else
    raises ``InputError``.

    Args:
        beside: read weights from files in the same folder too, as PyTorch's exporter leaves them.
    """
    check_file(path)
    try:
        model = onnx.load(str(path), load_external_data=beside)  # which refuses other folders
        _refuse_foreign_parts(model, path)
        onnx.checker.check_model(model, full_check=True)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # protobuf and the checker raise many unrelated types for a broken file
        raise InputError(f"{str(path)!r} is not a valid ONNX file: {first_line(error)}") from None
    return model


def _refuse_foreign_parts(model: onnx.ModelProto, path: Path) -> None:
    if model.functions:
        raise InputError(
            f"{str(path)!r} defines functions of its own ({model.functions[0].name!r}): "
            "only standard operators are read"
        )
    for graph in graphs_of(model.graph):
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        constants = [
            tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)
        ]
        sparse = [attribute.sparse_tensor for attribute in attributes] + list(
            graph.sparse_initializer
        )
        parts = [part for tensor in sparse for part in (tensor.values, tensor.indices)]
        if any(
            tensor.data_location == tensor.EXTERNAL or tensor.external_data
            for tensor in (*graph.initializer, *constants, *parts)
        ):
            raise InputError(
                f"{str(path)!r} keeps its weights in other files: only self-contained "
                "files are read; onnx.save(onnx.load(FILE), FILE) makes it one"
            )
        named = (*graph.node, *graph.initializer, *graph.input, *graph.output)
        names = [
            name
            for node in graph.node
            for name in (node.op_type, node.domain, *node.input, *node.output)
        ]
        if not all(isinstance(name, str) for name in [*names, *(item.name for item in named)]):
            raise InputError(f"{str(path)!r} has names that are no UTF-8 text: export it again")
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise InputError(
                    f"{str(path)!r} has the operator {node.op_type!r} of {node.domain!r}: "
                    "only standard operators are read"
                )


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """``graph`` and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(inner)


def defaults_of(node: onnx.NodeProto, opset: int) -> list[onnx.AttributeProto]:
    """The attributes that ``node`` leaves to the defaults of its operator, a standard one of the
    set ``opset``; none for an operator that this version of ONNX does not know."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return []
    given = {attribute.name for attribute in node.attribute}
    values = [each.default_value for each in schema.attributes.values() if each.name not in given]
    return [value for value in values if value.type != onnx.AttributeProto.UNDEFINED]


def standard_opset(model: onnx.ModelProto) -> int | None:
    """The version of the standard operators that ``model`` imports; None if it is not one."""
    found = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return found[0] if len(found) == 1 else None


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``export_onnx`` stored in ``path``; raises ``InputError`` for a broken file or one of
    another tool."""
    model = load_checked(path)
    if model.producer_name != "qstrategies":
        raise InputError(
            f"{str(path)!r} was not exported by qstrategies (its producer is "
            f"{model.producer_name!r}): export it with qs.export_onnx"
        )
    return metadata_of(model, path)


def metadata_of(model: onnx.ModelProto, path: Path) -> dict[str, Any]:
    """The metadata of a file that qstrategies exported; empty for one of another tool.

    Raises ``InputError`` for metadata that is not JSON or of other types than ``METADATA``.
    ``path`` is named in the message.
    """
    if model.producer_name != "qstrategies":
        return {}
    try:
        found = {item.key: load(item.value) for item in model.metadata_props}
    except InputError as error:
        raise InputError(f"{str(path)!r} has damaged metadata: {error}; export it again") from None
    return checked_metadata(found, path)


def checked_metadata(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """``found`` in the types of ``METADATA``; raises ``InputError`` about ``path`` for others."""
    named = {name: kind for name, kind in METADATA.items() if name in found}
    try:
        return found | {name: build(kind, found[name], name) for name, kind in named.items()}
    except InputError as error:
        raise InputError(f"{str(path)!r} has damaged metadata: {error}; export it again") from None


def content_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of all of ``model`` but the metadata entry that holds this hash."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.metadata_props[:]
    copied.metadata_props.extend(item for item in model.metadata_props if item.key != HASH_KEY)
    return sha256(copied.SerializeToString(deterministic=True))


def unchanged(model: onnx.ModelProto) -> bool | None:
    """Whether ``model`` is what ``export_onnx`` wrote, by the hash that it stored; None if there is
    no hash."""
    stored = [item.value for item in model.metadata_props if item.key == HASH_KEY]
    return stored == [json.dumps(content_hash(model))] if stored else None
