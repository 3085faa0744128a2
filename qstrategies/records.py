"""The frozen values that pass between the stages, and their JSON. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qstrategies.errors import InputError, check_choice, check_range
from qstrategies.text import file_name

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one_cycle")
OBSERVERS = ("histogram", "min_max", "moving_average")
PIXELS = ("float32", "uint8")
CHECKS = ("full", "quick")
MARGIN = 0.001
"""A difference of accuracies, as a fraction, that does not matter, where the user names none."""
ENGINES = ("fbgemm", "onednn", "qnnpack", "x86")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast to train. ``learning_rate`` is the peak of the schedule, per step, not per epoch."""

    epochs: int = 3
    learning_rate: float = 8e-3
    optimizer: str = "adam"
    schedule: str = "one_cycle"
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1, 1000)
        check_range("learning rate", self.learning_rate, 1e-8, 10)
        check_range("batch size", self.batch_size, 2, 8192)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """What the int8 model looks like; every field but ``engine`` and ``calibration_images`` also steers QAT.

    ``observer`` None means the strategy's own default. ``exact`` restricts the scales so that every executor gives the
    same bits (see ``quantization/scales.py``). ``engine`` is ``torch.backends.quantized.engine``.
    """

    weight_bits: int = 8
    per_channel: bool = True
    observer: str | None = None
    reduce_range: bool = False
    exact: bool = True
    engine: str = "x86"
    calibration_images: int = 1024

    def __post_init__(self) -> None:
        check_range("weight bits", self.weight_bits, 2, 8)
        check_range("number of calibration images", self.calibration_images, 1, 10_000)
        check_choice("engine", self.engine, ENGINES)
        if self.observer is not None:
            check_choice("observer", self.observer, OBSERVERS)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run: a strategy with its options on a model and a dataset, from one seed.

    ``training`` makes the float model (or trains QAT from scratch), ``tuning`` is what a strategy that continues from a
    float model adds to it. ``checks`` "full" runs every engine and every runtime of the portable file
    over all test images; what else there is, and all of "quick", runs in the default engine and runtime over all images and
    in the others over a part. ``pixels`` is the dtype of the exported input.
    """

    strategy: str
    options: dict[str, float] = field(default_factory=dict)
    model: str = "cnn"
    dataset: str = "mnist"
    training: TrainingConfig = TrainingConfig()
    tuning: TrainingConfig = TrainingConfig(epochs=1, learning_rate=2e-3, schedule="cosine", batch_size=512)
    quantization: QuantizationConfig = QuantizationConfig()
    seed: int = 0
    checks: str = "full"
    pixels: str = "uint8"

    def __post_init__(self) -> None:
        check_choice("checks", self.checks, CHECKS)
        check_choice("pixel type", self.pixels, PIXELS)
        check_range("seed", self.seed, 0, 2**31 - 1)

    @property
    def run_id(self) -> str:
        """A readable name that is unique to this configuration, and that of a folder."""
        return f"{file_name(self.strategy)}-w{self.quantization.weight_bits}-s{self.seed}-{content_key(self)[:8]}"


PRESETS: dict[str, dict[str, TrainingConfig]] = {
    "default": {
        "training": TrainingConfig(),
        "tuning": TrainingConfig(epochs=1, learning_rate=2e-3, schedule="cosine", batch_size=512),
    },
    "post": {
        "training": TrainingConfig(epochs=15, learning_rate=1e-3, schedule="constant", batch_size=64),
        "tuning": TrainingConfig(epochs=2, learning_rate=1e-3, schedule="constant", batch_size=64),
    },
}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a learning curve: mean training loss (nats), validation accuracy (fraction), seconds."""

    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class WeightHistogram:
    """Weights of all convolutional and linear layers at one moment; ``counts`` over equal bins of [low, high]."""

    when: str
    epoch: int
    low: float
    high: float
    max_abs: float
    sigma: float
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RuntimeCheck:
    """One executor against the PyTorch int8 reference, in steps of the output scale (1 where it has none)."""

    runtime: str
    file: str
    images: int
    accuracy: float | None
    agreement: float
    rows_equal: float
    max_steps: float
    first_difference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An executor that could not be used here, and why."""

    runtime: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One ONNX file in ONNX Runtime on one thread, and its ratio to the float file measured in turn with it."""

    file: str
    microseconds_batch_1: float
    images_per_second_batch_256: float
    speedup_batch_1: float
    speedup_batch_256: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that one run left behind. Accuracies are fractions of the test split, sizes bytes, times seconds.

    ``curve`` is the run's own training, after ``epochs_before`` of the float model it continues; ``peak_bytes`` is the
    largest resident memory of the process so far.
    """

    config: ExperimentConfig
    status: Literal["done", "failed"]
    reason: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    starts_from: str | None = None
    float_accuracy: float | None = None
    float_key: str | None = None
    int8_accuracy: float | None = None
    validation_accuracy: float | None = None
    engines: dict[str, float] = field(default_factory=dict)
    engines_equal: bool | None = None
    onnxruntime_accuracy: float | None = None
    agreement: float | None = None
    free_scales_accuracy: float | None = None
    output_scale: float | None = None
    exactness: dict[str, Any] = field(default_factory=dict)
    checks: tuple[RuntimeCheck, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    speeds: tuple[Speed, ...] = ()
    peak_bytes: int | None = None
    epochs_before: int = 0
    curve: tuple[Epoch, ...] = ()
    histograms: tuple[WeightHistogram, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The strategy, with whatever sets this run apart from the defaults of a comparison but bits and seed."""
        config, quantization = self.config, self.config.quantization
        marks = [f"{name}={value:g}" for name, value in config.options.items()]
        marks += [] if quantization.per_channel else ["per-tensor"]
        marks += [] if quantization.observer is None else [quantization.observer]
        marks += ["reduce-range"] if quantization.reduce_range else []
        marks += [] if quantization.exact else ["free-scales"]
        marks += [] if config.model == "cnn" else [config.model]
        marks += [] if config.dataset == "mnist" else [config.dataset]
        return " ".join([config.strategy, *marks])

    @property
    def drop(self) -> float | None:
        """Float accuracy minus int8 accuracy, as a fraction."""
        if self.float_accuracy is None or self.int8_accuracy is None:
            return None
        return self.float_accuracy - self.int8_accuracy

    def to_json(self) -> str:
        """The record as indented JSON with one final newline."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """The inverse of ``to_json``; raises ``InputError`` for anything else."""
        try:
            raw = json.loads(text)
            raw["config"] = config_from_dict(raw["config"])
            for name, kind in _NESTED.items():
                raw[name] = tuple(kind(**item) for item in raw[name])
            for histogram in raw["histograms"]:
                object.__setattr__(histogram, "counts", tuple(histogram.counts))
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"not a run record: {error}") from None


_NESTED = {"checks": RuntimeCheck, "skipped": Skipped, "speeds": Speed, "curve": Epoch, "histograms": WeightHistogram}


def labels(records: Sequence[RunRecord]) -> list[str]:
    """What to call each record among these: its own label and the other settings in which the records differ."""
    others = [_unlabelled(record.config) for record in records]
    varying = [name for name in (others[0] if others else ()) if len({str(settings[name]) for settings in others}) > 1]
    return [
        " ".join([record.label, *(f"{name}={settings[name]}" for name in varying)])
        for record, settings in zip(records, others, strict=True)
    ]


def _unlabelled(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that ``RunRecord.label`` leaves out, but bits, seed and checks, as the command line calls them."""
    settings = vars(config.training) | {f"tune_{name}": value for name, value in vars(config.tuning).items()}
    settings |= {
        "engine": config.quantization.engine,
        "calibration_images": config.quantization.calibration_images,
        "pixels": config.pixels,
    }
    return {name.replace("_", "-"): value for name, value in settings.items()}


def config_from_dict(raw: dict[str, Any]) -> ExperimentConfig:
    """The inverse of ``dataclasses.asdict`` for ``ExperimentConfig``."""
    parts = {
        "training": TrainingConfig(**raw["training"]),
        "tuning": TrainingConfig(**raw["tuning"]),
        "quantization": QuantizationConfig(**raw["quantization"]),
    }
    return ExperimentConfig(**{**raw, **parts})


def content_key(value: Any) -> str:
    """SHA-256 of the canonical JSON of a dataclass or of plain data: equal content, equal key."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()
