"""The order of the stages: train, quantize, evaluate, export, cross-check, record."""

from __future__ import annotations

import dataclasses
import resource
import time
from dataclasses import dataclass
from typing import Any

from torch import nn

from qstrategies.arguments import public
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Dataset
from qstrategies.evaluation import Evaluation, evaluate
from qstrategies.execution.timing import measure
from qstrategies.experiment import environment
from qstrategies.experiment.checks import (
    DEFAULT_RUNTIME,
    cross_check,
    evaluate_engines,
    export,
    file_sizes,
    on_pixels,
)
from qstrategies.experiment.dependencies import Inputs
from qstrategies.experiment.fit import notes
from qstrategies.experiment.floating import Floating, float_results
from qstrategies.experiment.quantized import free_scales_accuracy, quantize_stage
from qstrategies.experiment.stages import Stage
from qstrategies.experiment.trained import float_stage, tuned_stage
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.files import atomic_write, remove
from qstrategies.guest import guest, own_randomness
from qstrategies.models import MODELS
from qstrategies.onnx_file import read_metadata
from qstrategies.plugins import used
from qstrategies.quantization.model import QuantizedModel
from qstrategies.records import (
    RECORD,
    ExperimentConfig,
    RunRecord,
    RuntimeCheck,
    Skipped,
    Speed,
    WeightHistogram,
)
from qstrategies.records.predictions import Predictions, SplitPredictions
from qstrategies.registry import LENT
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy
from qstrategies.trackers.base import settings_and_figures
from qstrategies.training.histogram import weight_histogram
from qstrategies.training.loop import TrainingDivergedError

TIMED_IMAGES = 256


@public
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
        return record_failure(config, workspace, str(error))
    record = _kept(record, workspace, inputs)
    for tracker in workspace.trackers:
        tracker.run(config.run_id, *settings_and_figures(record))
    return record


def record_failure(
    config: ExperimentConfig, workspace: Workspace, reason: str, traceback: str | None = None
) -> RunRecord:
    """Leave a record that says why the run of ``config`` failed; with a ``traceback`` if it may
    come out otherwise the next time."""
    try:
        inputs = Inputs(workspace.dataset).of_run(config)
    except Exception:  # they may be what failed
        inputs = {}
    record = RunRecord(
        config=config,
        status="failed",
        reason=reason,
        traceback=traceback,
        environment=environment.describe(),
    )
    return _kept(record, workspace, inputs)


def _kept(record: RunRecord, workspace: Workspace, inputs: dict[str, str]) -> RunRecord:
    config = record.config
    group = STRATEGIES.get(config.strategy).group
    pairs = ((MODELS, config.model), (DATASETS, config.dataset))
    lent = tuple(name for registry, name in pairs if registry.origin(name) == LENT)
    record = dataclasses.replace(record, inputs=inputs, used=used(), lent=lent, group=group)
    atomic_write(workspace.folder / config.run_id / RECORD, record.to_json())
    return record


def _run(config: ExperimentConfig, workspace: Workspace) -> RunRecord:
    clock = _Clock()
    strategy = STRATEGIES.get(config.strategy)(**config.options)
    trained = _train(config, workspace, strategy)
    clock.lap("train")
    floating = float_results(config, workspace, trained.floating)
    clock.lap("evaluate_float")
    dataset = workspace.dataset(config.dataset)
    int8 = _quantize(config, strategy, trained, dataset, clock)
    files = _export(config, workspace, floating, int8, clock)
    predictions = _predictions(floating, int8)
    predictions.save(workspace.folder / config.run_id)
    record = RunRecord(
        config=config,
        status="done",
        environment=environment.describe(),
        starts_from=strategy.course.parent,
        float_accuracy=floating.evaluations["test"].accuracy,
        float_key=trained.floating.key,
        epochs_before=trained.epochs_before(strategy),
        curve=trained.last.history.curve,
        histograms=trained.histograms(int8.quantized),
        metric=dataset.task.measure,
        notes=notes(config, dataset),
        agreement=predictions.test.agreement,
        sizes=file_sizes(
            [floating.file, *files.exported],
            {"float": trained.floating.model, "int8": int8.module},
            int8.quantized,
        ),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        seconds=clock.laps,
    )
    return files.told(int8.told(record))


@dataclass(frozen=True)
class _Trained:
    """``floating``: the float model that the int8 one is compared with."""

    baseline: Stage
    tuned: Stage | None
    floating: Stage

    @property
    def last(self) -> Stage:
        return self.tuned or self.baseline

    def epochs_before(self, strategy: Strategy) -> int:
        """Epochs of the float model that the last training continued."""
        continued = self.tuned is not None and not strategy.course.fresh
        return len(self.baseline.history.curve) if continued else 0

    def histograms(self, quantized: QuantizedModel) -> tuple[WeightHistogram, ...]:
        """Weights while they were trained, then as they are quantized."""
        history = self.last.history
        folded = weight_histogram(quantized.weights, "folded", len(history.curve))
        return (*history.histograms, folded)


def _train(config: ExperimentConfig, workspace: Workspace, strategy: Strategy) -> _Trained:
    baseline = float_stage(config, workspace)
    tuned = tuned_stage(config, workspace, baseline)
    is_float = tuned is not None and not strategy.course.fake_quantized
    return _Trained(baseline, tuned, tuned if is_float and tuned else baseline)


@dataclass(frozen=True)
class _Int8:
    """The int8 model with the kernels of the configured engine, ``references`` of every engine,
    ``executors``: what each predicts of the test images, and ``free``: its accuracy with free
    scales."""

    quantized: QuantizedModel
    module: nn.Module
    engines: list[RuntimeCheck]
    references: dict[str, Evaluation]
    evaluations: dict[str, Evaluation]
    executors: dict[str, Any]
    free: float | None

    def told(self, record: RunRecord) -> RunRecord:
        """``record`` with the accuracy of the int8 model; of engines, of those that ran all
        images."""
        test = self.evaluations["test"]
        engines = {
            name: evaluation.accuracy
            for name, evaluation in self.references.items()
            if len(evaluation) == len(test)
        }
        return dataclasses.replace(
            record,
            int8_accuracy=test.accuracy,
            validation_accuracy=self.evaluations["validation"].accuracy,
            engines=engines,
            engines_equal=all(check.rows_equal == 1 for check in self.engines),
            free_scales_accuracy=self.free,
            output_scale=self.quantized.output_scale,
            classes=test.logits.shape[1] if test.scored is None else None,
            weight_bits=self.quantized.weight_bits,
        )


def _quantize(
    config: ExperimentConfig,
    strategy: Strategy,
    trained: _Trained,
    dataset: Dataset,
    clock: _Clock,
) -> _Int8:
    model, splits, task = trained.floating.model, dataset.splits, dataset.task
    quantized = quantize_stage(config, strategy, splits["train"], model, trained.tuned)
    clock.lap("quantize")
    engines, references, int8 = evaluate_engines(config, quantized, splits["test"], task)
    evaluations = {
        "validation": evaluate(on_pixels(int8), splits["validation"], task),
        "test": references[config.quantization.engine],
    }
    executors: dict[str, Any] = {
        f"pytorch-{name}": evaluation.predictions for name, evaluation in references.items()
    }
    free = free_scales_accuracy(config, strategy, dataset, model)
    clock.lap("evaluate_int8")
    return _Int8(quantized, int8, engines, references, evaluations, executors, free)


@dataclass(frozen=True)
class _Files:
    """The ONNX files and every executor of them, that of PyTorch's engines before."""

    exported: list[ExportedModel]
    checks: tuple[RuntimeCheck, ...]
    skipped: tuple[Skipped, ...]
    speeds: tuple[Speed, ...]

    def told(self, record: RunRecord) -> RunRecord:
        """``record`` with what the files guarantee and give."""
        default = next(check for check in self.checks if check.runtime == DEFAULT_RUNTIME)
        return dataclasses.replace(
            record,
            exactness=read_metadata(self.exported[0].path)["certificate"],
            onnxruntime_accuracy=default.accuracy,
            checks=self.checks,
            skipped=self.skipped,
            speeds=self.speeds,
            files={model.path.name: model.sha256 for model in self.exported},
        )


def _export(
    config: ExperimentConfig, workspace: Workspace, floating: Floating, int8: _Int8, clock: _Clock
) -> _Files:
    test, scale = workspace.dataset(config.dataset).splits["test"], int8.quantized.output_scale
    reference = int8.evaluations["test"]
    exported = export(config, workspace, int8.quantized, reference)
    clock.lap("export")
    checks, skipped = cross_check(config, exported, test, reference, scale, int8.executors)
    clock.lap("cross_check")
    timed = test.first(TIMED_IMAGES).images
    files = [
        (model.path, model.inputs(timed)[0]) for model in exported if model.path.suffix == ".onnx"
    ]
    speeds = measure((floating.file.path, timed.numpy()), files)
    clock.lap("speed")
    return _Files(exported, (*int8.engines, *checks), tuple(skipped), speeds)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def _predictions(floating: Floating, int8: _Int8) -> Predictions:
    def of(split: str) -> SplitPredictions:
        expected, found = floating.evaluations[split], int8.evaluations[split]
        return SplitPredictions(found.marks, expected.predictions, found.predictions)

    return Predictions(of("validation"), of("test"), int8.executors)
