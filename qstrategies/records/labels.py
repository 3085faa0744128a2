"""What to call runs among others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qstrategies.records.configs import ExperimentConfig
from qstrategies.records.results import RunRecord


def labels(records: Sequence[RunRecord]) -> list[str]:
    """What to call each record among these: its own label and the other settings in which the
    records differ."""
    others = [_unlabelled(record.config) for record in records]
    varying = [
        name
        for name in (others[0] if others else ())
        if len({str(settings[name]) for settings in others}) > 1
    ]
    return [
        " ".join([record.label, *(f"{name}={settings[name]}" for name in varying)])
        for record, settings in zip(records, others, strict=True)
    ]


def _unlabelled(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that ``RunRecord.label`` leaves out, but bits, seed and checks, as the command
    line calls them."""
    settings = vars(config.training) | {
        f"tune_{name}": value for name, value in vars(config.tuning).items()
    }
    settings |= {
        "engine": config.quantization.engine,
        "calibration_images": config.quantization.calibration_images,
        "pixels": config.pixels,
        "checkpoint": config.start and config.start.sha256[:8],
    }
    return {name.replace("_", "-"): value for name, value in settings.items()}
