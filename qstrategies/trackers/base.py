"""The small interface of every tracker."""

from __future__ import annotations

import dataclasses
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from qstrategies.records import Epoch, RunRecord

OnEpoch = Callable[[int, Epoch], None]
"""Takes an epoch's number, from 1, and its figures."""


class Tracker(ABC):
    """Hears of every training while it goes on and of every run when it is done."""

    summary: ClassVar[str] = ""
    module: ClassVar[str]
    """The Python module that it needs, which is also the name of its extra."""

    @classmethod
    def missing(cls) -> str | None:
        """Why this tracker cannot be used here, or None if it can."""
        return (
            None
            if importlib.util.find_spec(cls.module)
            else f"not installed: pip install 'qstrategies[{cls.module}]'"
        )

    @abstractmethod
    def __init__(self, folder: Path) -> None:
        """Write below ``folder``, if to a folder at all."""

    @abstractmethod
    def training(self, name: str) -> AbstractContextManager[OnEpoch]:
        """What to call after each epoch, for as long as the training ``name`` goes on; an exception
        marks it as failed."""

    @abstractmethod
    def run(self, name: str, settings: Mapping[str, str], results: Mapping[str, float]) -> None:
        """The run ``name`` is done: what it was given and what came out, accuracies as fractions,
        sizes in bytes."""


def metrics(epoch: Epoch) -> dict[str, float]:
    """The figures of one epoch by name; accuracy as a fraction."""
    return {"loss": epoch.loss, "validation_accuracy": epoch.accuracy, "seconds": epoch.seconds}


def settings_and_figures(record: RunRecord) -> tuple[dict[str, str], dict[str, float]]:
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
        name.replace("accuracy", record.metric.key): getattr(record, name)
        for name in ("float_accuracy", "int8_accuracy", "validation_accuracy", "agreement")
    }
    return {name: str(value) for name, value in flat.items()}, {
        **results,
        **{f"bytes_{name}": size for name, size in record.sizes.items()},
    }
