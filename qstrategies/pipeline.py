"""The order of the stages: train, quantize, evaluate, export, cross-check, record."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qstrategies import environment
from qstrategies.crosscheck import check_runtimes, compare
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import CalibrationSet, Dataset, Location, Split
from qstrategies.dependencies import Inputs, fresh_model
from qstrategies.evaluation import Evaluation, evaluate
from qstrategies.export.onnx_export import ExportedModel, export_float_onnx, export_onnx
from qstrategies.files import atomic_write, remove, sha256
from qstrategies.guest import guest, own_randomness
from qstrategies.models import MODELS
from qstrategies.onnx_file import read_metadata
from qstrategies.predictions import Predictions, SplitPredictions
from qstrategies.progress import Progress
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.qat import FakeQuantizedModel, finished, prepare_qat
from qstrategies.records import (
    ENGINES,
    RECORD,
    Epoch,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    RuntimeCheck,
    Skipped,
    TrainingConfig,
)
from qstrategies.runtimes import RUNTIMES
from qstrategies.stages import Stage, stage
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Strategy
from qstrategies.text import file_name
from qstrategies.timing import measure
from qstrategies.trackers.base import Tracker
from qstrategies.training import (
    PIXEL_SCALE,
    History,
    TrainingDivergedError,
    to_input,
    train,
    weight_histogram,
)

DEFAULT_RUNTIME = "onnxruntime-all"
QUICK_IMAGES = 500  # what the engines and runtimes get that do not run over all images
QUICK_LEFT_OUT = (
    "numpy-integer",
    "onnx-reference",
    "onnxruntime-web",
    "opencv-dnn",
    "openvino",
    "tract",
)  # slow to start or to run
SECONDS_PER_EPOCH = {
    False: 6.5,
    True: 9.0,
}  # float and QAT: only the first guess of the remaining time
SECONDS_PER_RUN = {"full": 11.0, "quick": 3.0}


@dataclass
class Workspace:
    """Where results and reusable stages are kept, where data is found, and who hears of
    progress."""

    folder: Path
    location: Location = field(default_factory=Location)
    progress: Progress = field(default_factory=lambda: Progress(0, quiet=True))
    trackers: Sequence[Tracker] = ()
    datasets: dict[tuple[type[Dataset], Location], Dataset] = field(default_factory=dict)
    float_results: dict[Path, tuple[dict[str, Evaluation], ExportedModel]] = field(
        default_factory=dict
    )

    def dataset(self, name: str) -> Dataset:
        """The dataset ``name``, loaded once."""
        kind = DATASETS.get(name)
        if (kind, self.location) not in self.datasets:
            self.datasets[kind, self.location] = kind(self.location)
        return self.datasets[kind, self.location]

    @property
    def stages(self) -> Path:
        """The folder of reusable trained models."""
        return self.folder / "stages"


def check_config(config: ExperimentConfig) -> None:
    """Raise ``InputError`` for unknown names and options before any work is done."""
    STRATEGIES.get(config.strategy)(**config.options)
    MODELS.get(config.model)
    DATASETS.get(config.dataset)


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
    reference_model = baseline if strategy.quantize_aware or tuned is None else tuned
    float_evaluations, float_file = _float_results(config, workspace, reference_model)
    clock.lap("evaluate_float")
    quantized = quantize_stage(config, strategy, splits["train"], reference_model.model, tuned)
    clock.lap("quantize")
    engines, references, int8 = _evaluate_engines(config, quantized, splits["test"])
    int8_evaluations = {
        "validation": evaluate(on_pixels(int8), splits["validation"]),
        "test": references[config.quantization.engine],
    }
    free = _free_scales_accuracy(config, strategy, splits, reference_model.model)
    clock.lap("evaluate_int8")
    reference, float_accuracy = int8_evaluations["test"], float_evaluations["test"].accuracy
    exported = _export(config, workspace, quantized, reference)
    clock.lap("export")
    executors: dict[str, Any] = {
        f"pytorch-{name}": evaluation.predictions for name, evaluation in references.items()
    }
    checks, skipped = _cross_check(
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
        starts_from=strategy.starts_from,
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
        },
        speeds=speeds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        epochs_before=0 if tuned is None or strategy.from_scratch else len(baseline.history.curve),
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


def float_stage(config: ExperimentConfig, workspace: Workspace) -> Stage:
    """The float model of the strategy itself, or of the one that it starts from."""
    recipe = STRATEGIES.get(config.strategy).starts_from or config.strategy
    kind = STRATEGIES.get(recipe)
    options = {name: value for name, value in config.options.items() if name in kind.options}
    depends_on = _common(config, workspace, recipe) | {
        "strategy": recipe,
        "options": kind(**options).values,
    }
    depends_on["training"] = dataclasses.asdict(config.training)

    def build() -> nn.Module:
        return fresh_model(config.model, config.seed)

    trainer = _trainer(config, workspace, kind(**options), config.training, recipe)
    return stage(workspace.stages, depends_on, build, trainer, workspace.progress.note)


def tuned_stage(config: ExperimentConfig, workspace: Workspace, baseline: Stage) -> Stage | None:
    """What the strategy adds to the float model it starts from; None if it adds no training."""
    kind = STRATEGIES.get(config.strategy)
    if kind.starts_from is None:
        return None
    strategy = kind(**config.options)
    schedule = config.training if kind.from_scratch else config.tuning
    depends_on = _common(config, workspace, config.strategy) | {
        "strategy": config.strategy,
        "options": strategy.values,
    }
    depends_on |= {"parent": baseline.key, "training": dataclasses.asdict(schedule)}
    if kind.quantize_aware:
        depends_on["quantization"] = {
            **dataclasses.asdict(_resolved(config, strategy)),
            "engine": "",
            "calibration_images": 0,
        }

    def build() -> nn.Module:
        model = (
            fresh_model(config.model, config.seed)
            if kind.from_scratch
            else copy.deepcopy(baseline.model)
        )
        if not kind.quantize_aware:
            return model
        return prepare_qat(
            model, _resolved(config, strategy), _example(config), input_scale=PIXEL_SCALE
        )

    label = (
        f"{config.strategy} w{config.quantization.weight_bits}"
        if kind.quantize_aware
        else config.strategy
    )
    trainer = _trainer(config, workspace, strategy, schedule, label)
    return stage(workspace.stages, depends_on, build, trainer, workspace.progress.note)


def _common(config: ExperimentConfig, workspace: Workspace, strategy: str) -> dict[str, Any]:
    here = environment.describe()
    return {
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "inputs": Inputs(workspace.dataset).of_training(config, strategy),
        "threads": here["threads"],
        "device": here["device"],
        "training_dtype": here["training_dtype"],
        "machine": here["machine"],
        "cpu_flags": here["cpu_flags"],
    }


def _trainer(
    config: ExperimentConfig,
    workspace: Workspace,
    strategy: Strategy,
    schedule: TrainingConfig,
    label: str,
) -> Callable[[nn.Module, str], History]:
    def run(model: nn.Module, key: str) -> History:
        def report(number: int, epoch: Epoch) -> None:
            text = (
                f"{label} seed {config.seed}: epoch {number} of {schedule.epochs}, loss "
                f"{epoch.loss:.4f}, validation {epoch.accuracy:.2%}"
            )
            workspace.progress.advance(SECONDS_PER_EPOCH[strategy.quantize_aware], text)
            for listener in listeners:
                listener(number, epoch)

        name = f"{file_name(label.replace(' ', '-'))}-s{config.seed}-{key[:8]}"
        with contextlib.ExitStack() as stack:
            listeners = [
                stack.enter_context(tracker.training(name)) for tracker in workspace.trackers
            ]
            return train(
                model,
                strategy,
                workspace.dataset(config.dataset).splits,
                schedule,
                config.seed,
                report,
            )

    return run


def _resolved(config: ExperimentConfig, strategy: Strategy) -> QuantizationConfig:
    observer = config.quantization.observer or strategy.observer
    return dataclasses.replace(config.quantization, observer=observer)


def prepared_for(config: ExperimentConfig, strategy: Strategy, model: nn.Module) -> Prepared:
    """The float ``model`` with the observers of ``config``."""
    return prepare(model, _resolved(config, strategy), _example(config), input_scale=PIXEL_SCALE)


def _example(config: ExperimentConfig) -> Tensor:
    return torch.zeros(2, *MODELS.get(config.model).input_shape)  # type: ignore[attr-defined]


def quantize_stage(
    config: ExperimentConfig,
    strategy: Strategy,
    train_split: Split,
    model: nn.Module,
    tuned: Stage | None,
) -> QuantizedModel:
    """Calibrate a float model (PTQ) or take the trained quantizers (QAT), and put everything on its
    integer grid."""
    if strategy.quantize_aware:
        assert tuned is not None and isinstance(tuned.model, FakeQuantizedModel)
        return QuantizedModel.of(finished(tuned.model))
    prepared = prepared_for(config, strategy, model)
    calibration = CalibrationSet(train_split, config.quantization.calibration_images, config.seed)
    calibrate(prepared, [to_input(batch) for batch in calibration.images.split(128)])
    strategy.refine(prepared, calibration)
    return QuantizedModel.of(prepared)


def _free_scales_accuracy(
    config: ExperimentConfig, strategy: Strategy, splits: dict[str, Split], model: nn.Module
) -> float | None:
    """What a float model would reach without the restriction to exact scales; None where that takes
    another training."""
    if strategy.quantize_aware or not config.quantization.exact:
        return None
    free = dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, exact=False)
    )
    int8 = quantize_stage(free, strategy, splits["train"], model, None).int8()
    return evaluate(on_pixels(int8), splits["test"]).accuracy


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


def _evaluate_engines(
    config: ExperimentConfig, quantized: QuantizedModel, split: Split
) -> tuple[list[RuntimeCheck], dict[str, Evaluation], nn.Module]:
    """The configured engine over all of ``split``, which is the reference, then the others against
    it."""
    first = config.quantization.engine
    part = (
        split
        if config.checks == "full"
        else Split(split.name, split.images[:QUICK_IMAGES], split.labels[:QUICK_IMAGES])
    )
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
        evaluations[name] = evaluate(on_pixels(model), split if name == first else part)
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


def on_pixels(int8: nn.Module) -> Callable[[Tensor], Tensor]:
    """``int8`` as a function of uint8 images."""
    return lambda images: int8(images)


def _export(
    config: ExperimentConfig, workspace: Workspace, quantized: QuantizedModel, reference: Evaluation
) -> list[ExportedModel]:
    dataset, here = workspace.dataset(config.dataset), environment.describe()
    metadata = {
        "strategy": config.strategy,
        "options": config.options,
        "weight_bits": config.quantization.weight_bits,
        "exact": config.quantization.exact,
        "model": config.model,
        "seed": config.seed,
        "dataset": config.dataset,
        "dataset_hash": dataset.fingerprint,
        "labels": dataset.labels,
        "accuracy": reference.accuracy,
        "output_scale": quantized.output_scale,
        "logits_sha256": logits_hash(reference.logits),
        "run": config.run_id,
        "commit": here["commit"],
        "packages": here["packages"],
    }
    return export_onnx(
        quantized, workspace.folder / config.run_id / "model.onnx", metadata, pixels=config.pixels
    )


def logits_hash(logits: Any) -> str:
    """SHA-256 over the float32 logits [N, classes] of the whole test split: two executors agree iff
    the hashes do."""
    return sha256(
        (np.ascontiguousarray(logits, np.float32) + 0.0).tobytes()
    )  # + 0.0 turns -0.0 into 0.0


def _cross_check(
    config: ExperimentConfig,
    exported: list[ExportedModel],
    split: Split,
    reference: Evaluation,
    scale: float | None,
    predictions: dict[str, Any],
) -> tuple[list[RuntimeCheck], list[Skipped]]:
    """Every runtime over all images of the portable form when checks are full; else the default
    one, the others over a part.

    What each predicts is added to ``predictions``.
    """
    images = split.images.numpy()
    others = [name for name in RUNTIMES.names() if name not in (DEFAULT_RUNTIME, *QUICK_LEFT_OUT)]
    checks: list[RuntimeCheck] = []
    skipped: list[Skipped] = []
    for model in exported:
        if config.checks == "full" and model.form == "portable":
            parts = [(images, RUNTIMES.names())]
        else:
            parts = [(images, [DEFAULT_RUNTIME]), (images[:QUICK_IMAGES], others)]
        for part, names in parts:
            found, left_out = check_runtimes(
                model.path, [part], reference, scale, names, predictions
            )
            checks += found
            skipped += left_out
    return checks, list(dict.fromkeys(skipped))


def _torch_sizes(model: nn.Module, int8: nn.Module) -> dict[str, int]:
    sizes = {}
    for name, module in (("float_pytorch", model), ("int8_pytorch", int8)):
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        sizes[name] = buffer.tell()
    return sizes
