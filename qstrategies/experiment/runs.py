"""The order of the stages: train, quantize, evaluate, export, cross-check, record."""

from __future__ import annotations

import dataclasses
import io
import resource
import time
from typing import Any

import torch
from torch import nn

from qstrategies.evaluation import Evaluation, evaluate
from qstrategies.execution.timing import measure
from qstrategies.experiment import environment
from qstrategies.experiment.checks import (
    DEFAULT_RUNTIME,
    cross_check,
    evaluate_engines,
    export,
    on_pixels,
)
from qstrategies.experiment.dependencies import Inputs
from qstrategies.experiment.quantized import free_scales_accuracy, quantize_stage
from qstrategies.experiment.stages import Stage
from qstrategies.experiment.trained import float_stage, tuned_stage
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.export.onnx_export import ExportedModel, export_float_onnx
from qstrategies.files import atomic_write, remove
from qstrategies.guest import guest, own_randomness
from qstrategies.onnx_file import read_metadata
from qstrategies.pixels import to_input
from qstrategies.records import (
    RECORD,
    ExperimentConfig,
    RunRecord,
)
from qstrategies.records.predictions import Predictions, SplitPredictions
from qstrategies.strategies import STRATEGIES
from qstrategies.training.histogram import weight_histogram
from qstrategies.training.loop import TrainingDivergedError

SECONDS_PER_RUN = {"full": 11.0, "quick": 3.0}


@guest
@own_randomness()
def run_experiment(config: ExperimentConfig, workspace: Workspace) -> RunRecord:
    """Run ``config`` from training to cross-check; its record and its models lie in
    ``workspace.folder / config.run_id``.

    A diverged training gives a record with status "failed".
    """
    check_config(config)
    inputs = Inputs(workspace.dataset).of_run(config)
    remove(
        workspace.folder / config.run_id / RECORD
    )  # an older record must not lie beside the files of this run
    try:
        record = _run(config, workspace)
    except TrainingDivergedError as error:
        record = RunRecord(
            config=config, status="failed", reason=str(error), environment=environment.describe()
        )
    record = dataclasses.replace(record, inputs=inputs)
    atomic_write(workspace.folder / config.run_id / RECORD, record.to_json())
    if record.status == "done":
        for tracker in workspace.trackers:
            tracker.run(config.run_id, *_told(record))
    return record


def _told(record: RunRecord) -> tuple[dict[str, str], dict[str, float]]:
    """What trackers hear of a finished run: its settings, and the figures that one ranks runs
    by."""
    config = dataclasses.asdict(record.config)
    nested = {
        f"{group}.{name}": value
        for group in config
        if isinstance(config[group], dict)
        for name, value in config[group].items()
    }
    flat = {name: value for name, value in config.items() if not isinstance(value, dict)} | nested
    results = {
        name: getattr(record, name)
        for name in ("float_accuracy", "int8_accuracy", "validation_accuracy", "agreement")
    }
    return {name: str(value) for name, value in flat.items()}, {
        **results,
        **{f"bytes_{name}": size for name, size in record.sizes.items()},
    }


def _run(config: ExperimentConfig, workspace: Workspace) -> RunRecord:
    clock = _Clock()
    strategy = STRATEGIES.get(config.strategy)(**config.options)
    splits = workspace.dataset(config.dataset).splits
    baseline = float_stage(config, workspace)
    tuned = tuned_stage(config, workspace, baseline)
    clock.lap("train")
    reference_model = baseline if strategy.course.fake_quantized or tuned is None else tuned
    float_evaluations, float_file = _float_results(config, workspace, reference_model)
    clock.lap("evaluate_float")
    quantized = quantize_stage(config, strategy, splits["train"], reference_model.model, tuned)
    clock.lap("quantize")
    engines, references, int8 = evaluate_engines(config, quantized, splits["test"])
    int8_evaluations = {
        "validation": evaluate(on_pixels(int8), splits["validation"]),
        "test": references[config.quantization.engine],
    }
    free = free_scales_accuracy(config, strategy, splits, reference_model.model)
    clock.lap("evaluate_int8")
    reference, float_accuracy = int8_evaluations["test"], float_evaluations["test"].accuracy
    exported = export(config, workspace, quantized, reference)
    clock.lap("export")
    executors: dict[str, Any] = {
        f"pytorch-{name}": evaluation.predictions for name, evaluation in references.items()
    }
    checks, skipped = cross_check(
        config, exported, splits["test"], reference, quantized.output_scale, executors
    )
    clock.lap("cross_check")
    speeds = measure(
        float_file.path, [model.path for model in exported], splits["test"].images.numpy()
    )
    clock.lap("speed")
    validation, test = (
        _predictions(float_evaluations[name], int8_evaluations[name])
        for name in ("validation", "test")
    )
    Predictions(validation, test, executors).save(workspace.folder / config.run_id)
    last = tuned or baseline
    onnxruntime = next(check for check in checks if check.runtime == DEFAULT_RUNTIME)
    return RunRecord(
        config=config,
        status="done",
        environment=environment.describe(),
        starts_from=strategy.course.parent,
        float_accuracy=float_accuracy,
        float_key=reference_model.key,
        int8_accuracy=reference.accuracy,
        validation_accuracy=int8_evaluations["validation"].accuracy,
        engines={
            name: evaluation.accuracy
            for name, evaluation in references.items()
            if len(evaluation.logits) == len(splits["test"])
        },
        engines_equal=all(check.rows_equal == 1 for check in engines),
        onnxruntime_accuracy=onnxruntime.accuracy,
        agreement=float((test.float == test.int8).mean()),
        free_scales_accuracy=free,
        output_scale=quantized.output_scale,
        classes=reference.logits.shape[1],
        exactness=read_metadata(exported[0].path)["certificate"],
        checks=(*engines, *checks),
        skipped=tuple(skipped),
        sizes={
            "float": float_file.size,
            **{model.form: model.size for model in exported},
            **_torch_sizes(reference_model.model, int8),
            "weights": quantized.weight_bytes,
        },
        weight_bits=quantized.weight_bits,
        speeds=speeds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        epochs_before=0 if tuned is None or strategy.course.fresh else len(baseline.history.curve),
        curve=last.history.curve,
        histograms=(
            *last.history.histograms,
            weight_histogram(quantized.weights, "folded", len(last.history.curve)),
        ),
        seconds=clock.laps,
        files={model.path.name: model.sha256 for model in exported},
    )


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def _float_results(
    config: ExperimentConfig, workspace: Workspace, trained: Stage
) -> tuple[dict[str, Evaluation], ExportedModel]:
    """The float model on validation and test images, and its ONNX file; once per model."""
    path = workspace.stages / f"{trained.key[:24]}.float.onnx"
    if path not in workspace.float_results or not path.is_file():
        model, splits = trained.model, workspace.dataset(config.dataset).splits
        evaluations = {
            name: evaluate(lambda images: model(to_input(images)), splits[name])
            for name in ("validation", "test")
        }
        shape = tuple(splits["test"].images.shape[1:])
        exported = export_float_onnx(model, shape, path, {"accuracy": evaluations["test"].accuracy})
        workspace.float_results[path] = evaluations, exported
    return workspace.float_results[path]


def _predictions(floating: Evaluation, int8: Evaluation) -> SplitPredictions:
    assert int8.labels is not None
    return SplitPredictions(int8.labels, floating.predictions, int8.predictions)


def _torch_sizes(model: nn.Module, int8: nn.Module) -> dict[str, int]:
    sizes = {}
    for name, module in (("float_pytorch", model), ("int8_pytorch", int8)):
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        sizes[name] = buffer.tell()
    return sizes
