"""Reading TFLite files that may come from anywhere, and telling whether an exported one was
altered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qstrategies.errors import InputError
from qstrategies.files import check_file, read_bytes, sha256
from qstrategies.typed_json import load

METADATA_KEY, HASH_KEY = "qstrategies", "content_sha256"
NO_HASH = "0" * 64
"""What stands in the place of the hash while it is computed."""
IDENTIFIER = b"TFL3"
MOST_DIMENSIONS = 8


def schema() -> Any:
    """The generated schema; raises ``InputError`` where the package is missing."""
    try:
        import tflite
    except ImportError:
        raise InputError(
            "TFLite files need the package tflite: pip install 'qstrategies[tflite]'"
        ) from None
    return tflite


def metadata_bytes(entries: Mapping[str, Any]) -> bytes:
    """``entries`` as a file stores them, with a place for its hash."""
    return json.dumps({**entries, HASH_KEY: NO_HASH}).encode()


@dataclass(frozen=True)
class Sealed:
    """The bytes of a file, and the ``digest`` of all else that is in it."""

    content: bytes
    digest: str


def sealed(content: bytes) -> Sealed:
    """``content``, whose metadata hold ``NO_HASH``, with the SHA-256 of it all in that place."""
    place = _entry(NO_HASH)  # equal weights of 48 are zeros in text too
    assert content.count(place) == 1
    digest = sha256(content)
    return Sealed(content.replace(place, _entry(digest)), digest)


def _entry(digest: str) -> bytes:
    """How the metadata hold a hash."""
    return json.dumps({HASH_KEY: digest})[1:-1].encode()


@dataclass(frozen=True, eq=False)
class TfliteModel:
    """A file that was read.

    Attributes:
        content: its bytes.
        model: the root of the schema.
        metadata: what ``export_tflite`` stored; empty for a file of another tool.
    """

    content: bytes
    model: Any
    metadata: Mapping[str, Any]

    @property
    def graph(self) -> Any:
        """Its only subgraph."""
        return self.model.Subgraphs(0)

    @property
    def unchanged(self) -> bool | None:
        """Whether it is what ``export_tflite`` wrote, by the hash in it; None without one."""
        digest = self.metadata.get(HASH_KEY)
        if not isinstance(digest, str):
            return None
        before = self.content.replace(digest.encode(), NO_HASH.encode(), 1)
        return sha256(before) == digest

    def data(self, buffer: int) -> bytes:
        """What ``buffer`` holds."""
        found = self.model.Buffers(buffer).DataAsNumpy()
        return found.tobytes() if isinstance(found, np.ndarray) else b""


def load_tflite(path: Path) -> TfliteModel:
    """The model in ``path``, all parts of it inside of the file.

    Raises:
        InputError: a broken file, one of several subgraphs or custom operators, or damaged
            metadata.
    """
    check_file(path)
    content = read_bytes(path)
    tflite = schema()
    try:
        if content[4:8] != IDENTIFIER:
            raise InputError("its identifier is not TFL3")
        found = TfliteModel(content, tflite.Model.GetRootAs(content, 0), {})
        _check(found)
        return TfliteModel(content, found.model, _metadata(found))
    except Exception as error:  # flatbuffers follows whatever the bytes point to
        raise InputError(f"{str(path)!r} is not a valid TFLite file: {error}") from None


def _check(found: TfliteModel) -> None:
    """Visit all that kernels will read."""
    model = found.model
    if model.SubgraphsLength() != 1:
        raise InputError(f"it has {model.SubgraphsLength()} subgraphs: expected one")
    for place in range(model.OperatorCodesLength()):
        if model.OperatorCodes(place).CustomCode():
            raise InputError("it has a custom operator: only builtin ones are read")
    for place in range(model.BuffersLength()):
        found.data(place)
    graph = found.graph
    for place in range(graph.TensorsLength()):
        tensor = graph.Tensors(place)
        if (
            tensor.ShapeLength() > MOST_DIMENSIONS
            or not 0 <= tensor.Buffer() < model.BuffersLength()
        ):
            raise InputError(f"its tensor {place} is damaged")
    for place in range(graph.OperatorsLength()):
        operator = graph.Operators(place)
        numbers = [*np.ravel(operator.InputsAsNumpy()), *np.ravel(operator.OutputsAsNumpy())]
        if not all(-1 <= each < graph.TensorsLength() for each in numbers):
            raise InputError(f"its operator {place} reads what is not there")
        if not operator.OpcodeIndex() < model.OperatorCodesLength():
            raise InputError(f"its operator {place} is of no kind")


def _metadata(found: TfliteModel) -> dict[str, Any]:
    for place in range(found.model.MetadataLength()):
        entry = found.model.Metadata(place)
        if entry.Name() == METADATA_KEY.encode():
            entries = load(found.data(entry.Buffer()).decode())
            if not isinstance(entries, dict):
                raise InputError("its metadata are no object")
            return entries
    return {}
