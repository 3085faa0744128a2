"""``export_tflite``: the integers of a quantized model as one TFLite file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.export.tflite import layers, operators
from qstrategies.export.tflite.writer import TfliteWriter
from qstrategies.files import atomic_write, sha256
from qstrategies.guest import guest
from qstrategies.quantization.model import QuantizedModel
from qstrategies.tflite_file import METADATA_KEY, metadata_bytes, sealed

__all__ = ["export_tflite", "layers", "operators"]


@public
@guest
def export_tflite(
    quantized: QuantizedModel, path: Path | str, metadata: Mapping[str, Any] | None = None
) -> ExportedModel:
    """Write ``path``: int8 tensors, per-channel weights, channels last, one example at a time.

    Its integers are those of the ONNX form, activations less 128. Its bits are those of the ONNX
    form too in kernels that round as ONNX Runtime does (XNNPACK), and with
    ``QuantizationConfig(fixed_point=True)`` in those of microcontrollers: see docs/exactness.md.

    Args:
        metadata: stored in the file as JSON, beside the layouts of inputs and outputs and a hash
            of it all.

    Raises:
        InputError: an operator that TFLite has not, or a part that stays in float, by name.
    """
    if not quantized.config.exact:
        raise InputError("free scales have no TFLite form: quantize with exact=True")
    path, writer = Path(path), TfliteWriter(quantized.graph)
    entries = {
        **{
            name: getattr(quantized.config, name)
            for name in ("saturation", "levels", "fixed_point")
        },
        **(metadata or {}),
        "form": "tflite",
        "layouts": writer.layouts,
    }
    stored = {METADATA_KEY: metadata_bytes(entries)}
    file = sealed(writer.file.content(writer.inputs, writer.outputs, stored))
    atomic_write(path, file.content)
    size, digest = len(file.content), sha256(file.content)
    return ExportedModel(path, "tflite", digest, size, file.digest, quantized=quantized)
