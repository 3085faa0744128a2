"""Part of the benchmark: the files of other tools for the same float models, on one thread of ONNX
Runtime."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from networks import random_network, with_statistics
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

import qstrategies as qs
from qstrategies.execution.timing import interleaved
from qstrategies.models import MODELS

OWN, TORCHVISION = ("cnn", "resnet8", "depthwise"), ("resnet18", "mobilenet_v2")
SIZE = 224  # pixels, of torchvision's networks
SECONDS = 0.2  # of one file's turn


class Reader(CalibrationDataReader):
    """Batches for quantize_static."""

    def __init__(self, images: torch.Tensor) -> None:
        self.batches = iter([{"image": batch.numpy()} for batch in images.split(32)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


def float_file(model: nn.Module, calibration: torch.Tensor, folder: Path) -> Path:
    """The float model as torch exports it, in the form that quantize_static asks for."""
    plain, result = folder / "exported.onnx", folder / "float.onnx"
    dims = ({0: torch.export.Dim("batch")},)
    names: dict[str, Any] = {
        "input_names": ["image"],
        "output_names": ["logits"],
        "dynamic_shapes": dims,
    }
    torch.onnx.export(
        model,
        (calibration[:2].contiguous(),),
        plain,
        dynamo=True,
        external_data=False,
        verbose=False,
        **names,
    )
    quant_pre_process(str(plain), str(result), skip_symbolic_shape=True)
    return result


def static_file(model: nn.Module, calibration: torch.Tensor, folder: Path) -> Path:
    """What onnxruntime's own quantize_static makes of the same float model: QDQ, per channel, and
    uint8 activations, which are as fast as its default of int8 or, where there are additions or
    ReLU6, up to 2.7 times as fast."""
    result = folder / "quantize_static.onnx"
    plain = float_file(model, calibration, folder)
    quantize_static(
        plain,
        result,
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
    )
    return result


def nncf_file(calibration: torch.Tensor, folder: Path) -> Path | None:
    """What NNCF makes of ``float.onnx`` in ``folder`` with its defaults; None where it is not
    installed."""
    if importlib.util.find_spec("nncf") is None:
        return None
    os.environ["NNCF_CI"] = "1"  # no telemetry
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    batches = [batch.numpy() for batch in calibration.split(32)]
    dataset = nncf.Dataset(batches, lambda batch: {"image": batch})
    result = folder / "nncf.onnx"
    onnx.save(
        nncf.quantize(onnx.load(str(folder / "float.onnx")), dataset, subset_size=len(batches)),
        str(result),
    )
    return result


def file_times(
    paths: list[Path], pixels: NDArray[np.uint8], repeats: int | None = None
) -> list[float]:
    """Seconds per call on one thread; ``repeats`` calls a turn, or as many as fit into
    ``SECONDS``."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    actions: list[Callable[[], object]] = []
    for path in paths:
        session = onnxruntime.InferenceSession(str(path), settings)
        entry = session.get_inputs()[0]
        images = pixels if entry.type == "tensor(uint8)" else (pixels / 255).astype(np.float32)
        actions.append(functools.partial(session.run, None, {entry.name: images}))
    for action in actions:
        action()
    started = time.perf_counter()
    actions[-1]()
    fitting = max(1, int(SECONDS / (time.perf_counter() - started)))
    return interleaved(actions, repeats or fitting, rounds=15 if fitting > 1 else 5)


def rival_rows() -> list[str]:
    """Microseconds per image of each model at batch 1 and 64, all files of one model taking
    turns."""
    rows = []
    for name in (*OWN, *TORCHVISION):
        with tempfile.TemporaryDirectory() as scratch:
            rows += _rows_of(name, Path(scratch))
    return [
        (
            f"Random weights; torchvision's networks at {SIZE} x {SIZE} pixels. *best rival*: "
            "the faster of the two other int8 files."
        ),
        "quantize_static writes uint8 activations here, which is at least as fast as its default.",
        "",
        "| model | batch | float32 | quantize_static | NNCF | portable | for ONNX Runtime "
        "| best rival / ours | proven the same |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *rows,
    ]


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A model with random weights, and the shape [C, H, W] of its images."""
    if name in TORCHVISION:
        return random_network(name, 64), (3, SIZE, SIZE)
    torch.manual_seed(0)
    model: Any = MODELS.get(name)()
    return with_statistics(model, model.input_shape), model.input_shape


def _rows_of(name: str, folder: Path) -> list[str]:
    model, shape = network(name)
    calibration = torch.rand(32, *shape)
    quantized = qs.quantize(model, [calibration], calibration[:2], input_scale=1 / 255)
    ours = qs.export_onnx(quantized, folder / "ours.onnx", optimize_for="onnxruntime")
    rivals = [
        path
        for path in (static_file(model, calibration, folder), nncf_file(calibration, folder))
        if path is not None
    ]
    files = [folder / "float.onnx", *rivals, *(form.path for form in ours)]
    best = ours[-1]
    proof = (
        "one form" if len(ours) == 1 else "yes" if best.same_as == ours[0].content_sha256 else "no"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, *shape), np.uint8)
    rows = []
    for batch in (1, 64):
        times = dict(zip(files, file_times(files, pixels[:batch]), strict=True))
        columns = [
            folder / "float.onnx",
            folder / "quantize_static.onnx",
            folder / "nncf.onnx",
            ours[0].path,
            best.path,
        ]
        cells = [f"{times[path] / batch * 1e6:.1f}" if path in times else "-" for path in columns]
        ratio = min(times[path] for path in rivals) / times[best.path]
        rows.append(f"| {name} | {batch} | {' | '.join(cells)} | {ratio:.2f} | {proof} |")
        print(rows[-1], flush=True)
    return rows
