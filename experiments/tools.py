"""What other tools make of a float model: the files of onnxruntime's quantize_static and of NNCF,
and torchao's int8 module."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

BATCH = 8  # of calibration, and of a file whose batch torch's export fixes
INPUT = "image"


class Reader(CalibrationDataReader):
    """Batches for quantize_static."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter([{INPUT: batch.numpy()} for batch in images.split(BATCH)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


def float_file(model: nn.Module, calibration: Tensor, folder: Path) -> Path:
    """The float model as torch exports it, in the form that quantize_static asks for."""
    plain, result = folder / "exported.onnx", folder / "float.onnx"
    warnings.simplefilter("ignore")  # torch's own, hundreds of them
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        model,
        (calibration[:BATCH].contiguous(),),
        plain,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=[INPUT],
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
    )
    quant_pre_process(str(plain), str(result), skip_symbolic_shape=True)
    return result


def static_file(model: nn.Module, calibration: Tensor, folder: Path) -> Path:
    """What onnxruntime's own quantize_static makes of the same float model: QDQ, per channel,
    ranges by minimum and maximum, and uint8 activations, which are as fast as its default of int8
    or, where there are additions or ReLU6, up to 2.7 times as fast.

    It is told that images lie in [0, 1], as our road is.
    """
    pixels = {"rmin": np.float32(0), "rmax": np.float32(1)}
    result = folder / "quantize_static.onnx"
    quantize_static(
        float_file(model, calibration, folder),
        result,
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        extra_options={"TensorQuantOverrides": {INPUT: [pixels]}},
    )
    return result


def nncf_file(model: nn.Module, calibration: Tensor, folder: Path) -> Path:
    """What NNCF makes of the same float file with its defaults.

    Raises:
        ImportError: it is not installed.
    """
    os.environ["NNCF_CI"] = "1"  # no telemetry
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    batches = [batch.numpy() for batch in calibration.split(BATCH)]
    dataset = nncf.Dataset(batches, lambda batch: {INPUT: batch})
    result = folder / "nncf.onnx"
    plain = onnx.load(str(float_file(model, calibration, folder)))
    onnx.save(nncf.quantize(plain, dataset, subset_size=len(batches)), str(result))
    return result


def pt2e_module(model: nn.Module, calibration: Tensor) -> nn.Module:
    """What torchao's PT2E makes of the same float model for x86: a module of oneDNN's int8 kernels.

    Raises:
        ImportError: it is not installed.
    """
    from torchao.quantization.pt2e import lowering, quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    example = (calibration[:BATCH].contiguous(),)
    # not strict, ResNet's ReLU of two calls ends in "Input partition has more than one output node"
    graph = torch.export.export(model, example, strict=True).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = quantize_pt2e.prepare_pt2e(graph, quantizer)
    observe(prepared, calibration)
    with torch.no_grad():
        converted = quantize_pt2e.convert_pt2e(prepared)
        lowered: nn.Module = lowering.lower_pt2e_quantized_to_x86(converted, example)
    return lowered


@torch.no_grad()
def observe(prepared: nn.Module, calibration: Tensor) -> None:
    """Run a prepared module over the images."""
    for batch in calibration.split(BATCH):
        prepared(batch)


def file_outputs(path: Path, images: Tensor) -> Tensor:
    """The first output of an ONNX file for real-valued images."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings)
    parts = [session.run(None, {INPUT: batch.numpy()})[0] for batch in images.split(BATCH)]
    return torch.from_numpy(np.concatenate(parts))
