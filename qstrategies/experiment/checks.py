"""The quantized model of a configuration in every engine and runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qstrategies.datasets.base import Split
from qstrategies.evaluation import CHECKED_BYTES, Evaluation, evaluate
from qstrategies.execution.crosscheck import check_runtimes
from qstrategies.execution.distance import compare, logits_hash
from qstrategies.experiment import environment
from qstrategies.experiment.workspace import Workspace
from qstrategies.export.forms import write_form
from qstrategies.export.onnx_export import ExportedModel, export_onnx
from qstrategies.quantization.model import QuantizedModel
from qstrategies.records import ENGINES, ExperimentConfig, RuntimeCheck, Skipped
from qstrategies.runtimes import runtimes_for
from qstrategies.tasks import CLASSIFICATION, Task

DEFAULT_RUNTIME = "onnxruntime-all"


QUICK_IMAGES = 500  # what the engines and runtimes get that do not run over all images


QUICK_LEFT_OUT = (
    "litert-reference",
    "numpy-integer",
    "onnx-reference",
    "onnxruntime-web",
    "opencv-dnn",
    "openvino",
    "tflite-micro",
    "tract",
)  # slow to start or to run


def evaluate_engines(
    config: ExperimentConfig, quantized: QuantizedModel, split: Split, task: Task
) -> tuple[list[RuntimeCheck], dict[str, Evaluation], nn.Module]:
    """The configured engine over all of ``split``, which is the reference, then the others against
    it."""
    first = config.quantization.engine
    part = split if config.checks == "full" else split.first(QUICK_IMAGES)
    names = [
        first,
        *(
            name
            for name in ENGINES
            if name != first and name in torch.backends.quantized.supported_engines
        ),
    ]
    checks, evaluations = [], {}
    int8 = quantized.int8(first)
    for name in names:
        model = int8 if name == first else quantized.int8(name)
        evaluations[name] = evaluate(on_pixels(model), split if name == first else part, task)
        checks.append(
            compare(
                f"pytorch-{name}",
                "int8 module",
                evaluations[name].logits,
                evaluations[first],
                quantized.output_scale,
            )
        )
    return checks, evaluations, int8


def checked(split: Split, reference: Evaluation) -> int:
    """How many inputs of ``split`` the files are given: those whose outputs are kept, and that fit
    into memory."""
    return min(split.count(CHECKED_BYTES), len(reference.logits))


def on_pixels(int8: nn.Module) -> Callable[[Tensor], Tensor]:
    """``int8`` as a function of inputs as a split keeps them."""
    return lambda images: int8(images)


def export(
    config: ExperimentConfig, workspace: Workspace, quantized: QuantizedModel, reference: Evaluation
) -> list[ExportedModel]:
    """The files of ``quantized``, whose outputs are those of ``reference``."""
    dataset, here = workspace.dataset(config.dataset), environment.describe()
    metadata = {
        "strategy": config.strategy,
        "options": config.options,
        "weight_bits": config.quantization.weight_bits,
        "activation_bits": config.quantization.activation_bits,
        "exact": config.quantization.exact,
        "model": config.model,
        "seed": config.seed,
        "dataset": config.dataset,
        "dataset_hash": dataset.fingerprint,
        "labels": dataset.labels,
        **figure_entries(dataset.task, reference.accuracy),
        "output_scale": quantized.output_scale,
        "logits_sha256": logits_hash(
            reference.logits[: checked(dataset.splits["test"], reference)]
        ),
        "run": config.run_id,
        "commit": here["commit"],
        "packages": here["packages"],
    }
    entry = quantized.inputs[0]
    if entry.scale is not None and not entry.pixels:
        metadata |= {"input_scale": entry.scale, "input_zero_point": entry.zero_point}
    path = workspace.folder / config.run_id / "model.onnx"
    files = export_onnx(quantized, path, metadata, pixels=config.pixels)
    return files + [write_form(form, quantized, path, metadata) for form in config.forms]


def figure_entries(task: Task, value: float) -> dict[str, Any]:
    """The figure of ``task`` as files store it."""
    if task is CLASSIFICATION:
        return {"accuracy": value}
    return {"metric": task.metric, "figure": value}


def cross_check(
    config: ExperimentConfig,
    exported: list[ExportedModel],
    split: Split,
    reference: Evaluation,
    scale: float | None,
    predictions: dict[str, Any],
) -> tuple[list[RuntimeCheck], list[Skipped]]:
    """Every runtime over all examples of every form but "fast" when checks are full; else the
    default one, the others over a part. Of a split that lies on disk no more than
    ``CHECKED_BYTES`` count.

    What each predicts is added to ``predictions``.
    """
    loaded = split.first(checked(split, reference)).images
    checks: list[RuntimeCheck] = []
    skipped: list[Skipped] = []
    for model in exported:
        names = runtimes_for(model.path)
        others = [name for name in names if name not in (DEFAULT_RUNTIME, *QUICK_LEFT_OUT)]
        images = model.inputs(loaded)[0]
        first = [name for name in names if name == DEFAULT_RUNTIME]
        if config.checks == "full" and model.form != "fast":
            parts = [(images, names)]
        else:
            parts = [(images, first), (images[:QUICK_IMAGES], others)]
        for part, chosen in parts:
            found, left_out = check_runtimes(
                model.path, [part], reference, scale, chosen, predictions
            )
            checks += found
            skipped += left_out
    return checks, list(dict.fromkeys(skipped))


def file_sizes(
    files: Sequence[ExportedModel], modules: Mapping[str, nn.Module], quantized: QuantizedModel
) -> dict[str, int]:
    """Bytes of every file, of both models as PyTorch saves them, and of weights of no more bits
    than their layers have."""
    sizes = {file.form: file.size for file in files}
    for name, module in modules.items():
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        sizes[f"{name}_pytorch"] = buffer.tell()
    return {**sizes, "weights": quantized.weight_bytes}
