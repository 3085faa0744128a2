"""What the runs were made of: the matrix of runtimes, the commands that repeat them, versions,
diagnoses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from qstrategies.errors import InputError
from qstrategies.files import FileError, atomic_write, exists, read_bytes
from qstrategies.records import (
    PRESETS,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    RuntimeCheck,
    TrainingConfig,
)
from qstrategies.report.grid import Grid
from qstrategies.typed_json import build, load

DIAGNOSIS = "diagnosis.json"
"""Beside the record of a run that was diagnosed."""


def runtimes(records: Sequence[RunRecord]) -> Grid:
    """Every executor with every form of the file: in how many runs all its logits were equal, and
    how far off the worst was."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for record in records:
        for check in record.checks:
            groups.setdefault((check.runtime, check.file), []).append(check)
    rows = [
        [
            runtime,
            file,
            f"{sum(check.rows_equal == 1 for check in checks)} of {len(checks)}",
            _farthest(checks),
            str(max(check.images for check in checks)),
            next((check.first_difference for check in checks if check.first_difference), "-"),
        ]
        for (runtime, file), checks in groups.items()
    ]
    skipped = dict.fromkeys(item for record in records for item in record.skipped)
    rows += [[item.runtime, item.file or "-", "not run", "-", "-", item.reason] for item in skipped]
    notes = (
        "Against PyTorch's int8 model. Distance in steps of the output scale; images: the "
        "most that one run was checked on."
    )
    return Grid(
        "Runtimes",
        [
            "executor",
            "file",
            "runs with the same bits",
            "largest distance",
            "images",
            "first difference",
        ],
        rows,
        notes,
    )


def mixed_bits(records: Sequence[RunRecord]) -> Grid:
    """The bits of every layer's weights, of the runs whose layers differ in them."""
    rows = [
        [record.config.run_id, ", ".join(f"{name} {bits}" for name, bits in found.items())]
        for record in records
        if len(set((found := record.weight_bits).values())) > 1
    ]
    return Grid("Bits per layer", ["run", "bits of the weights"], rows)


def failures(records: Sequence[RunRecord]) -> Grid:
    """The runs that failed, and why."""
    rows = [
        [record.config.run_id, record.reason or "no reason recorded"]
        for record in records
        if record.status == "failed"
    ]
    return Grid("Failed runs", ["run", "reason"], rows)


def notes(records: Sequence[RunRecord]) -> Grid:
    """What the records say of themselves, each once, and of which runs."""
    runs: dict[str, list[str]] = {}
    for record in records:
        for note in record.notes:
            runs.setdefault(note, []).append(record.config.run_id)
    rows = [
        [note, "all" if len(names) == len(records) else ", ".join(names)]
        for note, names in runs.items()
    ]
    return Grid("To be known", ["what", "runs"], rows)


def _farthest(checks: Sequence[RuntimeCheck]) -> str:
    """The largest distance, if every one can be measured."""
    steps = [check.max_steps for check in checks]
    return "-" if None in steps else f"{max(step for step in steps if step is not None):g}"


def commands(records: Sequence[RunRecord]) -> Grid:
    """The command that makes each run again, with its seed."""
    rows = [[record.config.run_id, _again(record), _commit(record)] for record in records]
    notes = "The same machine, seed and versions give the same int8 model, bit for bit."
    return Grid("How to make each run again", ["run", "command", "commit"], rows, notes)


def _again(record: RunRecord) -> str:
    if record.lent:
        return f"qs.compare in Python, given {' and '.join(record.lent)} as here"
    return command(record.config, record.used)


def _commit(record: RunRecord) -> str:
    return str(record.environment.get("commit") or "-")[:12]


def command(config: ExperimentConfig, used: Sequence[str] = ()) -> str:
    """The command line of ``config`` with the files ``used``, without what the preset says; for
    what has none, the call from Python."""
    schedules = _training(config)
    if schedules is None:
        return "run_experiment in Python, with the configuration in its record.json"
    default = ExperimentConfig(strategy=config.strategy)
    words = ["qstrategies", "run", config.strategy]
    words += [word for path in used for word in ("--use", path)]
    words += [
        word for name, value in config.options.items() for word in ("--option", f"{name}={value!r}")
    ]
    for flag, ours, usual in (
        ("model", config.model, default.model),
        ("dataset", config.dataset, default.dataset),
        ("checkpoint", config.start and config.start.path, None),
    ):
        words += [f"--{flag}", str(ours)] if ours != usual else []
    words += ["--seed", str(config.seed), "--weight-bits", str(config.quantization.weight_bits)]
    draw = config.calibration_draw
    words += ["--calibration-draw", str(draw)] if draw else []
    words += schedules + _quantization(config.quantization)
    words += ["--pixels", config.pixels] if config.pixels != default.pixels else []
    for form in config.forms:
        words += ["--form", form]
    return shlex.join(words)


def _training(config: ExperimentConfig) -> list[str] | None:
    """The preset that both schedules are variants of, and what differs (optimizer, schedule and
    batch size go to both); None if none is."""
    shared = ("optimizer", "schedule", "batch_size")
    for name, preset in PRESETS.items():
        common = {
            key: value
            for key in shared
            if (value := getattr(config.training, key)) != getattr(preset["training"], key)
        }
        if (
            TrainingConfig(**{**vars(preset["tuning"]), **common, **_own(config.tuning)})
            == config.tuning
        ):
            words = ["--preset", name] if name != "default" else []
            words += [
                word
                for key, value in common.items()
                for word in (f"--{key.replace('_', '-')}", str(value))
            ]
            pairs = (
                ("", config.training, preset["training"]),
                ("tune-", config.tuning, preset["tuning"]),
            )
            for prefix, ours, usual in pairs:
                for key in ("epochs", "learning_rate"):
                    value = getattr(ours, key)
                    words += (
                        [f"--{prefix}{key.replace('_', '-')}", repr(value)]
                        if value != getattr(usual, key)
                        else []
                    )
            return words
    return None


def _own(training: TrainingConfig) -> dict[str, Any]:
    return {"epochs": training.epochs, "learning_rate": training.learning_rate}


def _quantization(config: QuantizationConfig) -> list[str]:
    default = QuantizationConfig()
    usual = config.activation_bits == default.activation_bits
    words = [] if usual else ["--activation-bits", str(config.activation_bits)]
    words += [] if config.levels == default.levels else ["--levels", config.levels]
    words += [] if config.per_channel else ["--per-tensor"]
    words += [] if config.observer is None else ["--observer", config.observer]
    words += ["--reduce-range"] if config.reduce_range else []
    words += [] if config.exact else ["--free-scales"]
    usual = config.saturation == default.saturation
    words += [] if usual else ["--saturation", config.saturation]
    words += ["--fixed-point"] if config.fixed_point else []
    words += [] if config.engine == default.engine else ["--engine", config.engine]
    usual = config.calibration_images == default.calibration_images
    return words if usual else [*words, "--calibration-images", str(config.calibration_images)]


def versions(records: Sequence[RunRecord]) -> Grid:
    """Machine and versions, a column per environment that runs were made in."""
    environments: dict[str, dict[str, Any]] = {}
    for record in records:
        flat = {
            key: value for key, value in record.environment.items() if key != "packages"
        } | record.environment.get("packages", {})
        environments.setdefault(json.dumps(flat, sort_keys=True), flat)
    found = list(environments.values())
    names = dict.fromkeys(name for flat in found for name in flat)
    rows = [[name, *(_plain(flat.get(name)) for flat in found)] for name in names]
    return Grid(
        "Machine and versions",
        ["", *(f"environment {number}" for number in range(1, len(found) + 1))],
        rows,
    )


def _plain(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else "-"
        if value is None
        else str(value)
    )


def keep_diagnosis(folder: Path, content: str) -> None:
    """Write the JSON of a diagnosis beside the record of its run, where a report finds it."""
    atomic_write(folder / DIAGNOSIS, content)


def diagnoses(records: Sequence[RunRecord], folder: Path) -> Grid:
    """The findings of the runs that were diagnosed."""
    rows = [
        [
            record.config.run_id,
            finding["rule"],
            finding["where"],
            finding["evidence"],
            finding["advice"],
        ]
        for record in records
        for finding in _findings(folder / record.config.run_id / DIAGNOSIS)
    ]
    notes = (
        ""
        if rows
        else (
            "No run was diagnosed with a finding. qstrategies diagnose RUN says where a loss "
            "comes from."
        )
    )
    return Grid("Diagnosis", ["run", "finding", "where", "evidence", "try"], rows, notes)


class Finding(TypedDict):
    """One finding of a diagnosis."""

    rule: str
    where: str
    evidence: str
    advice: str


class Findings(TypedDict):
    """What of a diagnosis is reported."""

    findings: list[Finding]


def _findings(path: Path) -> list[Finding]:
    """Those in the file ``path``, none if it is not there; raises ``InputError`` if it is
    damaged."""
    if not exists(path):
        return []
    try:
        found: Findings = build(Findings, load(read_bytes(path)))
    except FileError:
        raise
    except InputError as error:
        raise InputError(
            f"{str(path)!r} is not a diagnosis: {error}; run qstrategies diagnose again"
        ) from None
    return found["findings"]
