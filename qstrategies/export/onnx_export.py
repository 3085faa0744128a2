"""``export_onnx``: one file, opset 19 and IR 9, so that runtimes of the last years load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qstrategies.arguments import public
from qstrategies.certificate import certify_model
from qstrategies.certificate.report import EXACT
from qstrategies.errors import InputError, SelfCheckError, check_choice
from qstrategies.export.islands import IR_VERSION, exported
from qstrategies.export.lowering import LOWERINGS, lower
from qstrategies.export.onnx_writer import to_onnx
from qstrategies.export.selfcheck import check_file
from qstrategies.files import atomic_write, read_bytes, remove, sha256
from qstrategies.guest import guest, own_randomness
from qstrategies.onnx_file import (
    HASH_KEY,
    content_hash,
    defaults_of,
    graphs_of,
    load_checked,
    standard_opset,
    unchanged,
)
from qstrategies.pixels import PIXEL_SCALE
from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.model import QuantizedModel
from qstrategies.records import PIXELS, QuantizationConfig
from qstrategies.specification.vectors import golden_vectors, vectors_path


@dataclass(frozen=True)
class ExportedModel:
    """An ONNX file on disk. ``form`` is "portable" (all integers), "fast" (as one runtime's kernels
    like it) or "float".

    ``same_as`` is the ``content_sha256`` of the portable form where the bits of "fast" are proven
    to be the same.

    ``certificate`` is the summary of what the file guarantees and ``quantized`` the model it was
    made from, both None for "float". ``pixels`` is as ``export_onnx`` was told.
    """

    path: Path
    form: str
    sha256: str
    size: int
    content_sha256: str = field(repr=False)
    same_as: str | None = field(default=None, repr=False)
    certificate: Mapping[str, Any] | None = field(default=None, repr=False)
    quantized: QuantizedModel | None = field(default=None, repr=False, compare=False)
    pixels: str = "uint8"

    def inputs(self, *tensors: Tensor) -> list[NDArray[Any]]:
        """What the file takes for ``tensors`` [N, ...], one for each input of its model: see
        ``InputSpec.integers``."""
        assert self.quantized is not None
        specs = zip(self.quantized.inputs, tensors, strict=True)
        return [spec.for_file(tensor, self.pixels).numpy() for spec, tensor in specs]


@public
@guest
@own_randomness()
def export_onnx(
    quantized: QuantizedModel,
    path: Path | str,
    metadata: Mapping[str, Any] | None = None,
    *,
    pixels: str = "uint8",
    optimize_for: str | None = "onnxruntime",
) -> list[ExportedModel]:
    """Write ``path`` (portable) and ``NAME.fast.onnx`` beside it, if there is something to gain for
    the runtime ``optimize_for``; and ``NAME.vectors.json``, the golden vectors of the first, if it
    is certified to give the same bits everywhere.

    Every rewriting of the second is an identity of real numbers. Its metadata names the portable
    form by its content hash, as ``same_as``, if both certificates prove that float executors
    compute those real numbers: then both give the same bits.

    Args:
        metadata: stored in the file, each value as JSON, beside the form, the summary of the
            certificate and a hash of it all.
        pixels: "uint8" for inputs that are the integers of their quantizers (raw pixels 0...255),
            "float32" for their real values.
        optimize_for: one of ``export.lowering.LOWERINGS``; None for the portable file alone.

    Raises:
        InputError: unknown ``pixels`` or ``optimize_for``, or a float island that PyTorch cannot
            export.
        SelfCheckError: the file does not compute what ``quantized`` does.
    """
    check_choice("pixel type", pixels, PIXELS)
    if optimize_for is not None:
        check_choice("runtime to optimize for", optimize_for, LOWERINGS)
    for name, spec in zip(quantized.output_names, quantized.graph.outputs, strict=True):
        if spec.dtype.is_complex:
            raise InputError(
                f"output {name!r} is complex, and files are of real numbers: give "
                "torch.view_as_real of it"
            )
    path = Path(path)
    portable = to_onnx(quantized, pixels)
    check_file(quantized, portable)
    if quantized.config.exact:
        asked = {name: getattr(quantized.config, name) for name in ("saturation", "levels")}
        asked |= {"fixed_point": True} if quantized.config.fixed_point else {}
        metadata = {**asked, **(metadata or {})}
    files = [saved(portable, path, "portable", metadata, quantized)]
    _save_vectors(files[0])
    fast = None if optimize_for is None else _lowered(portable, optimize_for)
    if fast is not None:
        files.append(
            saved(
                fast, path.with_suffix(".fast.onnx"), "fast", metadata, quantized, portable=files[0]
            )
        )
    return [replace(file, pixels=pixels) for file in files]


def _lowered(portable: onnx.ModelProto, runtime: str) -> onnx.ModelProto | None:
    """The form for ``runtime``; None if there is nothing to gain."""
    model = ir.from_proto(portable)
    if not lower(model.graph, runtime):
        return None
    return onnx.shape_inference.infer_shapes(_plain(ir.to_proto(model)))


@public
@guest
@own_randomness()
def export_float_onnx(
    model: nn.Module,
    input_shape: tuple[int, ...],
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.uint8,
    input_scale: float = PIXEL_SCALE,
) -> ExportedModel:
    """Write the float model, for size and speed to be compared with.

    In go raw uint8 pixels like into the int8 files, of steps of ``input_scale``; of another
    ``dtype`` what ``model`` takes.
    """
    example = torch.zeros(2, *input_shape, dtype=dtype)
    batch = {0: torch.export.Dim("batch")}
    whole = _FromPixels(model, 1 / input_scale) if dtype == torch.uint8 else model.eval()
    proto = exported(whole, (example,), [batch], input_names=["image"], output_names=["logits"])
    return saved(_plain(proto), path, "float", metadata)


def float_file(path: Path) -> ExportedModel | None:
    """What ``export_float_onnx`` wrote to ``path``, if it is still there and unchanged."""
    try:
        model = load_checked(path)
    except InputError:
        return None
    if not unchanged(model):
        return None
    data = read_bytes(path)
    return ExportedModel(path, "float", sha256(data), len(data), content_hash(model))


class _FromPixels(nn.Module):
    def __init__(self, model: nn.Module, steps: float) -> None:
        super().__init__()
        self.model = copy_of(model).eval()
        self.steps = int(steps) if steps.is_integer() else steps

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image.float() / self.steps)


def saved(
    proto: onnx.ModelProto,
    path: Path,
    form: str,
    metadata: Mapping[str, Any] | None,
    quantized: QuantizedModel | None = None,
    portable: ExportedModel | None = None,
) -> ExportedModel:
    """Write ``proto``, which is ``quantized`` in ``form``, with its certificate and ``metadata``.

    Raises:
        SelfCheckError: it does not keep what was asked for.
    """
    _write_out_defaults(proto)
    onnx.checker.check_model(proto, full_check=True)
    certificate = None if quantized is None else _certificate(proto, form, quantized.config)
    same_as = _proven_same(certificate, portable)
    entries = {**(metadata or {}), "form": form, "certificate": certificate, "same_as": same_as}
    for key, value in entries.items():
        if value is not None or key in (metadata or {}):
            proto.metadata_props.add(key=key, value=json.dumps(value))
    content = content_hash(proto)
    proto.metadata_props.add(key=HASH_KEY, value=json.dumps(content))
    data = proto.SerializeToString(deterministic=True)
    atomic_write(path, data)
    return ExportedModel(
        path, form, sha256(data), len(data), content, same_as, certificate, quantized
    )


def _write_out_defaults(proto: onnx.ModelProto) -> None:
    """Set every attribute that has a default: nobody has to know which version has which."""
    opset = standard_opset(proto)
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            if opset is not None and node.domain in ("", "ai.onnx"):
                node.attribute.extend(defaults_of(node, opset))


def _save_vectors(file: ExportedModel) -> None:
    """Write the golden vectors beside ``file``; where nobody promises its bits, or outputs are not
    quantized, remove older ones."""
    beside, promised = vectors_path(file.path), file.certificate or {}
    assert file.quantized is not None
    whole = all(spec.quantizer is not None for spec in file.quantized.graph.outputs)
    if whole and all(promised.get(name) for name in EXACT):
        atomic_write(beside, golden_vectors(file.path).json)
    else:
        remove(beside)


def _certificate(proto: onnx.ModelProto, form: str, config: QuantizationConfig) -> dict[str, Any]:
    """The summary of the certificate, which must not deny what was asked for; only the portable
    form is for fixed-point kernels."""
    certificate = certify_model(proto)
    layers = {layer.node for layer in certificate.layers}
    unsafe = [each for each in certificate.breaches["saturation_safe"] if each.node in layers]
    if config.exact and config.saturation == "any_kernel" and unsafe:
        raise SelfCheckError(f"{unsafe[0].node}: {unsafe[0].reason}")
    apart = certificate.breaches["integer_kernels"]
    ties = [each for each in certificate.fixed_point_breaches if each not in apart]
    if config.fixed_point and form == "portable" and ties:
        raise SelfCheckError(f"{ties[0].node}: {ties[0].reason}")
    return certificate.summary


def _plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto`` without the traces of an exporter."""
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version, proto.doc_string = "qstrategies", "", ""
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    return proto


def _proven_same(
    certificate: Mapping[str, Any] | None, portable: ExportedModel | None
) -> str | None:
    """The content hash of ``portable`` if it and the file of ``certificate`` are exact on every
    executor, whatever its kernels."""
    if certificate is None or portable is None or portable.certificate is None:
        return None
    return (
        portable.content_sha256
        if certificate["float_executors"] and portable.certificate["float_executors"]
        else None
    )
