"""``export_onnx``: one file, opset 19 and IR 9, so that runtimes of the last years load it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from qstrategies.certificate import certify_model
from qstrategies.errors import check_choice
from qstrategies.export.lowering import float_first_layer
from qstrategies.export.passes import clean
from qstrategies.files import atomic_write, sha256
from qstrategies.onnx_file import HASH_KEY, content_hash
from qstrategies.quantization.convert import QuantizedModel
from qstrategies.records import PIXELS

OPSET, IR_VERSION = 19, 9


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file on disk. ``form`` is "portable" (all integers), "fast" (float first layer) or "float".

    ``quantized`` is the model it was made from, None for "float".
    """

    path: Path
    form: str
    sha256: str
    size: int
    quantized: QuantizedModel | None = field(default=None, repr=False, compare=False)


def export_onnx(
    quantized: QuantizedModel, path: Path | str, metadata: Mapping[str, Any] | None = None, *, pixels: str = "uint8", fast: bool = True
) -> list[ExportedModel]:
    """Write ``path`` (portable) and, if ``fast`` and there is something to gain, ``NAME.fast.onnx`` beside it.

    Args:
        metadata: stored in the file, each value as JSON, beside the form, the summary of the certificate and a hash of it all.
        pixels: "uint8" for inputs that are the integers of their quantizers (raw pixels 0...255), "float32" for their
            real values.

    Raises:
        InputError: unknown ``pixels``, or a bias that does not fit int32.
    """
    check_choice("pixel type", pixels, PIXELS)
    path = Path(path)
    model = _export(quantized.reference(), {entry.name: torch.zeros(2, *entry.shape) for entry in quantized.inputs})
    clean(model.graph, pixels)
    exported = [_save(model, path, "portable", metadata, quantized)]
    if fast and float_first_layer(model.graph):
        exported.append(_save(model, path.with_suffix(".fast.onnx"), "fast", metadata, quantized))
    return exported


def export_float_onnx(
    model: nn.Module, input_shape: tuple[int, ...], path: Path, metadata: Mapping[str, Any] | None = None
) -> ExportedModel:
    """Write the float model, raw uint8 pixels in like the int8 files, for size and speed to be compared with."""
    example = torch.zeros(2, *input_shape, dtype=torch.uint8)
    return _save(_export(_FromPixels(model), {"image": example}, optimize=True), path, "float", metadata)


class _FromPixels(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image.float() / 255)


def _export(module: nn.Module, examples: Mapping[str, torch.Tensor], *, optimize: bool = False) -> ir.Model:
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(examples.values()),
            dynamo=True,
            optimize=optimize,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=["logits"],
            dynamic_shapes=tuple({0: batch} for _ in examples),
            verbose=False,
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet(name: str) -> Any:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _save(
    model: ir.Model, path: Path, form: str, metadata: Mapping[str, Any] | None, quantized: QuantizedModel | None = None
) -> ExportedModel:
    proto = ir.to_proto(model)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.doc_string = "qstrategies", "", ""
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    certificate = {} if form == "float" else {"certificate": certify_model(proto).summary}
    for key, value in {**(metadata or {}), "form": form, **certificate}.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    proto.metadata_props.add(key=HASH_KEY, value=json.dumps(content_hash(proto)))
    data = proto.SerializeToString(deterministic=True)
    atomic_write(path, data)
    return ExportedModel(path, form, sha256(data), len(data), quantized)
