"""What a run is asked for."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from qstrategies.arguments import check_fields, fitting
from qstrategies.errors import InputError, check_choice, check_range
from qstrategies.records.checkpoint import Checkpoint
from qstrategies.records.levels import LEVELS, LevelSet
from qstrategies.text import file_name
from qstrategies.typed_json import (
    Name,
    content_key,
)

OPTIMIZERS = ("adam", "adamw", "sgd")


SCHEDULES = ("constant", "cosine", "one_cycle")


OBSERVERS = ("histogram", "min_max", "moving_average")


SATURATIONS = ("any_kernel", "vnni_or_arm")


PIXELS = ("float32", "uint8")


CHECKS = ("full", "quick")


FORMS = ("c", "int4", "safetensors", "tflite")
"""What a model may be written as besides ONNX."""


ENGINES = ("fbgemm", "onednn", "qnnpack", "x86")


CALIBRATION_IMAGES = 1024
"""Where nobody asks for another number; all, where there are fewer."""


FIXED_POINT_BITS = 7
"""Of a weight: stored twice as large it fits 8."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how fast to train. ``learning_rate`` is the peak of the schedule, per step, not
    per epoch."""

    epochs: int = 3
    learning_rate: float = 8e-3
    optimizer: str = "adam"
    schedule: str = "one_cycle"
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("epochs", self.epochs, 1, 1000)
        check_range("learning rate", self.learning_rate, 1e-8, 10)
        check_range("batch size", self.batch_size, 2, 8192)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)


class Widths(NamedTuple):
    """Bits of weights and of activations; as text "4", or "W4A4" where activations have fewer than
    8."""

    weights: int
    activations: int = 8

    def __str__(self) -> str:
        return str(self.weights) if self.activations == 8 else f"W{self.weights}A{self.activations}"

    @property
    def title(self) -> str:
        """Of a column, and in a sentence."""
        return f"{self} bits" if self.activations == 8 else str(self)


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """What the int8 model looks like; every field but ``engine`` and ``calibration_images`` also
    steers QAT.

    ``levels``: the integers that weights are rounded to (``levels.py``).
    ``observer`` None means the strategy's own default. ``exact`` restricts the scales so that every
    executor gives the same bits (see ``quantization/scales.py``): with ``saturation`` "any_kernel"
    on all CPUs; "vnni_or_arm" allows finer 8-bit weights, whose products kernels of AVX2 cannot add
    in pairs in 16 bits. ``fixed_point``: the bits are the same in fixed-point kernels too, as those
    of microcontrollers (``quantization/fixed_point.py``); weights then have 7 bits at most, less
    yet where "any_kernel" is asked for too. ``engine`` is ``torch.backends.quantized.engine``.

    ``activation_bits``: of all tensors between layers. What the user gives (pixels) and what the
    network returns (logits) keep 8, and so does what shares a quantizer with them.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    levels: str = "narrow"
    per_channel: bool = True
    observer: str | None = None
    reduce_range: bool = False
    exact: bool = True
    saturation: str = "any_kernel"
    fixed_point: bool = False
    engine: str = "x86"
    calibration_images: int = CALIBRATION_IMAGES

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("weight bits", self.weight_bits, 2, 8)
        check_choice("level set", self.levels, LEVELS)
        most = 64 if self.fixed_point else 128
        if self.level_set.largest > most:
            stored = " as fixed_point stores them, twice as large" if self.fixed_point else ""
            raise InputError(
                f"levels {self.levels!r} of {self.weight_bits} weight bits reach "
                f"{self.level_set.largest}, beyond int8{stored}: at most {6 if stored else 7} bits"
            )
        if self.fixed_point and not self.exact:
            raise InputError("fixed_point needs exact scales: got exact=False")
        check_range("activation bits", self.activation_bits, 2, 8)
        check_range("number of calibration images", self.calibration_images, 1, 10_000)
        check_choice("saturation", self.saturation, SATURATIONS)
        check_choice("engine", self.engine, ENGINES)
        if self.observer is not None:
            check_choice("observer", self.observer, OBSERVERS)
        if self.reduce_range and self.activation_bits < 8:
            raise InputError(
                f"reduce_range makes 8-bit activations 7 bits wide: leave it out with "
                f"{self.activation_bits} bits"
            )

    @property
    def widths(self) -> Widths:
        """What results are grouped by."""
        return Widths(self.weight_bits, self.activation_bits)

    @property
    def level_set(self) -> LevelSet:
        """The integers that a weight may be."""
        return LevelSet.of(self.levels, self.stored_bits(self.weight_bits))

    def stored_bits(self, bits: int) -> int:
        """What is left of so many ``bits`` of a weight: no kernel without ties has an eighth."""
        return min(bits, FIXED_POINT_BITS) if self.fixed_point else bits

    @property
    def width(self) -> str:
        """What weights and activations are, in short: "w2", "w4a4", or "w2 no_zero"."""
        bits = f"w{self.weight_bits}"
        bits += "" if self.activation_bits == 8 else f"a{self.activation_bits}"
        return bits + ("" if self.levels == "narrow" else f" {self.levels}")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run: a strategy with its options on a model and a dataset, from one seed.

    ``training`` makes the float model (or trains QAT from scratch), ``tuning`` is what a strategy
    that continues from a float model adds to it. ``checks`` "full" runs every engine and every
    runtime of the portable file over all test images; what else there is, and all of "quick", runs
    in the default engine and runtime over all images and in the others over a part. ``pixels`` is
    the dtype of the exported input. ``seed`` is that of weights, batches and calibration images;
    ``calibration_draw`` n > 0 takes the n-th other draw of calibration images for the same seed.
    ``checkpoint`` is a float model that is trained already, which takes the place of ``training``:
    the path of a safetensors file, which is read at once. ``forms``: what is written besides ONNX.
    """

    strategy: Name
    options: dict[str, float] = field(default_factory=dict)
    model: Name = "cnn"
    dataset: Name = "mnist"
    checkpoint: Checkpoint | str | None = None
    training: TrainingConfig = TrainingConfig()
    tuning: TrainingConfig = TrainingConfig(
        epochs=1, learning_rate=2e-3, schedule="cosine", batch_size=512
    )
    quantization: QuantizationConfig = QuantizationConfig()
    seed: int = 0
    calibration_draw: int = 0
    checks: str = "full"
    pixels: str = "uint8"
    forms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.checkpoint, Checkpoint | None):
            path = fitting(Path, self.checkpoint, "checkpoint of ExperimentConfig")
            object.__setattr__(self, "checkpoint", Checkpoint.at(path))
        check_fields(self)
        check_choice("checks", self.checks, CHECKS)
        check_choice("pixel type", self.pixels, PIXELS)
        for form in self.forms:
            check_choice("form", form, FORMS)
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("calibration draw", self.calibration_draw, 0, 999)

    @property
    def start(self) -> Checkpoint | None:
        """The checkpoint, read."""
        assert not isinstance(self.checkpoint, str)
        return self.checkpoint

    @functools.cached_property
    def run_id(self) -> str:
        """A readable name that is unique to this configuration, and that of a folder."""
        weights, activations = self.quantization.widths
        bits = f"w{weights}" if activations == 8 else f"w{weights}a{activations}"
        draw = f"d{self.calibration_draw}" if self.calibration_draw else ""
        content = dataclasses.asdict(self)
        settings = content["quantization"]
        if self.start is not None:
            del content["checkpoint"]["path"]
        # what was added later has no part in the names of runs that do without
        for part, name in ((content, "checkpoint"), (content, "forms"), (settings, "fixed_point")):
            if not part[name]:
                del part[name]
        key = content_key(content)[:8]
        return f"{file_name(self.strategy)}-{bits}-s{self.seed}{draw}-{key}"

    @property
    def calibration_seed(self) -> int:
        """What calibration images are drawn with: the seed, or for other draws of it a number that
        is no seed, below 2^32 since generators take no more bits."""
        if self.calibration_draw == 0:
            return self.seed
        drawn = content_key([self.seed, self.calibration_draw])
        return 2**31 + int(drawn[:8], 16) % 2**31


PRESETS: dict[str, dict[str, TrainingConfig]] = {
    "default": {
        "training": TrainingConfig(),
        "tuning": TrainingConfig(epochs=1, learning_rate=2e-3, schedule="cosine", batch_size=512),
    },
    "post": {
        "training": TrainingConfig(
            epochs=15, learning_rate=1e-3, schedule="constant", batch_size=64
        ),
        "tuning": TrainingConfig(epochs=2, learning_rate=1e-3, schedule="constant", batch_size=64),
    },
    "speech": {
        "training": TrainingConfig(epochs=20, learning_rate=3e-3, batch_size=64),
        "tuning": TrainingConfig(epochs=3, learning_rate=1e-3, schedule="cosine", batch_size=64),
    },
}
