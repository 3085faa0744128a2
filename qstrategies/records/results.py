"""What a run leaves behind, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qstrategies.errors import InputError
from qstrategies.files import FileError, read_bytes
from qstrategies.records.configs import ExperimentConfig
from qstrategies.records.metric import ACCURACY, Metric
from qstrategies.records.parts import (
    Environment,
    Epoch,
    Figure,
    RuntimeCheck,
    Skipped,
    Speed,
    WeightHistogram,
)
from qstrategies.typed_json import (
    Count,
    Fraction,
    Name,
    NonNegative,
    Sha256,
    Shallow,
    build,
    content_key,
    load,
)

RECORD = "record.json"
"""In the folder of a run."""


FIGURES = (
    "float_accuracy",
    "int8_accuracy",
    "validation_accuracy",
    "onnxruntime_accuracy",
    "free_scales_accuracy",
)
"""The fields of a record that are figures of its metric."""


MEASURED = (
    "float_accuracy",
    "int8_accuracy",
    "validation_accuracy",
    "onnxruntime_accuracy",
    "agreement",
    "checks",
    "sizes",
    "speeds",
    "histograms",
)
"""What every finished run has measured."""


GROUPS = (
    "baselines",
    "ranges of weights",
    "post-training",
    "QAT",
    "learned steps",
    "accumulators",
)
"""Of strategies, in the order in which they are shown."""


SEAL = "content_sha256"
"""The key of a record's JSON that holds the hash of all the rest."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that one run left behind. Accuracies are figures of ``metric`` on the test split, sizes
    bytes, times seconds.

    Of the ``sizes`` "weights" is what they take if none has more than the ``weight_bits`` of its
    layer; the others are those of files, which store every weight in a byte.

    A run that failed has a ``reason``, and a ``traceback`` where it may come out otherwise the next
    time: then it is run again.

    ``group`` is that of the strategy, one of ``GROUPS`` or the user's own.

    ``inputs`` is what the run depends on besides its configuration, by name (see ``dependencies``);
    empty in records from before it was noted down. ``used`` are the user's files that were imported
    (``--use``), ``lent`` the names of models and data that were given as objects. ``notes`` is what
    somebody who reads the figures should know. ``classes`` is how many the model tells apart.
    ``curve`` is the run's own training, after ``epochs_before`` of
    the float model it continues, as far as that was trained here; ``peak_bytes`` is the largest
    resident memory of the process so far.
    """

    config: ExperimentConfig
    status: Literal["done", "failed"]
    reason: str | None = None
    traceback: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    used: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    environment: Environment = field(default_factory=Environment)
    starts_from: Name | None = None
    group: str = ""
    metric: Metric = ACCURACY
    float_accuracy: Figure | None = None
    float_key: Sha256 | None = None
    int8_accuracy: Figure | None = None
    validation_accuracy: Figure | None = None
    engines: dict[str, Figure] = field(default_factory=dict)
    engines_equal: bool | None = None
    onnxruntime_accuracy: Figure | None = None
    agreement: Fraction | None = None
    free_scales_accuracy: Figure | None = None
    output_scale: NonNegative | None = None
    classes: Count | None = None
    exactness: dict[str, Shallow] = field(default_factory=dict)
    checks: tuple[RuntimeCheck, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    sizes: dict[str, Count] = field(default_factory=dict)
    weight_bits: dict[str, Count] = field(default_factory=dict)
    speeds: tuple[Speed, ...] = ()
    peak_bytes: Count | None = None
    epochs_before: Count = 0
    curve: tuple[Epoch, ...] = ()
    histograms: tuple[WeightHistogram, ...] = ()
    seconds: dict[str, NonNegative] = field(default_factory=dict)
    files: dict[Name, Sha256] = field(default_factory=dict)

    def __repr__(self) -> str:
        figures = f"float {self.float_accuracy}, int8 {self.int8_accuracy}"
        return f"RunRecord({self.config.run_id}: {self.status}, {figures})"

    @property
    def label(self) -> str:
        """The strategy, with whatever sets this run apart from the defaults of a comparison but
        bits and seed."""
        config, quantization = self.config, self.config.quantization
        marks = [f"{name}={value:g}" for name, value in config.options.items()]
        marks += [] if quantization.levels == "narrow" else [quantization.levels]
        marks += [] if quantization.per_channel else ["per-tensor"]
        marks += [] if quantization.observer is None else [quantization.observer]
        marks += ["reduce-range"] if quantization.reduce_range else []
        marks += [] if quantization.exact else ["free-scales"]
        marks += [] if quantization.saturation == "any_kernel" else [quantization.saturation]
        marks += [] if config.model == "cnn" else [config.model]
        marks += [] if config.dataset == "mnist" else [config.dataset]
        return " ".join([config.strategy, *marks])

    @property
    def drop(self) -> float | None:
        """How much worse int8 is than float, in units of the metric: float accuracy minus int8
        accuracy, as a fraction."""
        if self.float_accuracy is None or self.int8_accuracy is None:
            return None
        return self.metric.sign * (self.float_accuracy - self.int8_accuracy)

    def to_json(self) -> str:
        """The record as indented JSON with one final newline, sealed by a hash of its content."""
        content = dataclasses.asdict(self)
        return json.dumps({**content, SEAL: content_key(content)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRecord:
        """The inverse of ``to_json``; raises ``InputError`` for anything else, as a value of
        another type or out of its range.

        Records from before there were seals and some of the fields are read too.
        """
        try:
            content = load(text)
            seal = content.pop(SEAL, None) if isinstance(content, dict) else None
            record: RunRecord = build(cls, content)
            _check_figures(record)
            _check_measured(record)
            if seal not in (None, content_key(content)):
                raise InputError("it was altered after it was written")
        except (InputError, RecursionError) as error:
            raise InputError(f"not a run record: {error}") from None
        return record


def _check_figures(record: RunRecord) -> None:
    """Raise ``InputError`` for a figure that is no fraction where the metric is one."""
    if not record.metric.fraction:
        return
    figures = {name: getattr(record, name) for name in FIGURES}
    figures |= {f"engines[{name!r}]": value for name, value in record.engines.items()}
    for kind in ("checks", "curve"):
        for place, each in enumerate(getattr(record, kind)):
            figures[f"{kind}[{place}].accuracy"] = each.accuracy
    for name, value in figures.items():
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} is {value!r}, expected 0...1")


def _check_measured(record: RunRecord) -> None:
    """Raise ``InputError`` for a finished run that lacks what the tables and the evidence are made
    of."""
    if record.status != "done":
        return
    measured = [name for name in MEASURED if name != "agreement" or record.metric == ACCURACY]
    for name in measured:
        if getattr(record, name) in (None, (), {}):
            raise InputError(f"the run is finished, but has no {name}")
    for kind in ("float", "portable"):
        if kind not in record.sizes:
            raise InputError(f"sizes has no {kind!r}")
    if record.exactness and "saturation_safe" not in record.exactness:
        raise InputError("exactness has no 'saturation_safe'")


def read_record(path: Path) -> RunRecord:
    """The record in the file ``path``; raises ``InputError`` that names it."""
    try:
        return RunRecord.from_json(read_bytes(path))
    except FileError:
        raise
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is {error}; remove it, and run the same command again"
        ) from None
