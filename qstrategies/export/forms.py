"""What a quantized model may be written as besides ONNX, by the names of ``records.FORMS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qstrategies.errors import check_choice
from qstrategies.export.c99.c_export import export_c
from qstrategies.export.int4 import export_int4
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.export.saved import save
from qstrategies.export.tflite.tflite_export import export_tflite
from qstrategies.files import sha256
from qstrategies.quantization.model import QuantizedModel
from qstrategies.runtimes import RUNTIMES

Write = Callable[[QuantizedModel, Path, Mapping[str, Any] | None], ExportedModel]


def _export_c(
    quantized: QuantizedModel, path: Path, _: Mapping[str, Any] | None = None
) -> ExportedModel:
    return export_c(quantized, path.parent, path.stem)


def _save(
    quantized: QuantizedModel, path: Path, _: Mapping[str, Any] | None = None
) -> ExportedModel:
    save(quantized, path)
    content = path.read_bytes()
    digest = sha256(content)
    return ExportedModel(path, "safetensors", digest, len(content), digest, quantized=quantized)


WRITERS: dict[str, tuple[str, Write]] = {
    "c": (".c", _export_c),
    "int4": (".int4.onnx", export_int4),
    "safetensors": (".safetensors", _save),
    "tflite": (".tflite", export_tflite),
}
"""The suffix of each form, and what writes it."""

MAKERS: dict[tuple[str, str], Callable[[Path, Path], ExportedModel]] = {(".onnx", ".c"): export_c}
"""What makes a form of one suffix of a file of another, in a folder."""


def executors_of(path: Path) -> list[str]:
    """The names of the runtimes that take ``path``, or a form that can be made of it."""
    made = [after for before, after in MAKERS if before == path.suffix]
    return [name for name in RUNTIMES.names() if RUNTIMES.get(name).suffix in (path.suffix, *made)]


def write_form(
    form: str, quantized: QuantizedModel, beside: Path, metadata: Mapping[str, Any] | None = None
) -> ExportedModel:
    """Write ``quantized`` as ``form`` beside the ONNX file ``beside``, under its name.

    Raises:
        InputError: an unknown form, or an operator that it has not.
    """
    check_choice("form", form, WRITERS)
    suffix, write = WRITERS[form]
    return write(quantized, beside.with_suffix(suffix), metadata)
