"""Where results lie, and whether a configuration can be run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qstrategies.arguments import check_fields
from qstrategies.datasets import DATASETS, made_dataset
from qstrategies.datasets.base import Dataset, Location
from qstrategies.evaluation import Evaluation
from qstrategies.experiment.checkpoint import check_start
from qstrategies.export.onnx_export import ExportedModel
from qstrategies.models import MODELS
from qstrategies.progress import Progress
from qstrategies.records import (
    ExperimentConfig,
)
from qstrategies.strategies import STRATEGIES
from qstrategies.trackers.base import Tracker


@dataclass
class Workspace:
    """Where results and reusable stages are kept, where data is found, and who hears of
    progress."""

    folder: Path
    location: Location = field(default_factory=Location)
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    trackers: Sequence[Tracker] = ()
    datasets: dict[tuple[Dataset | Callable[..., Dataset], Location], Dataset] = field(
        default_factory=dict
    )
    float_results: dict[Path, tuple[dict[str, Evaluation], ExportedModel]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def dataset(self, name: str) -> Dataset:
        """The dataset ``name``, loaded once."""
        kind = DATASETS.get(name)
        if (kind, self.location) not in self.datasets:
            self.datasets[kind, self.location] = made_dataset(name, self.location)
        return self.datasets[kind, self.location]

    @property
    def stages(self) -> Path:
        """The folder of reusable trained models."""
        return self.folder / "stages"


def check_config(config: ExperimentConfig) -> None:
    """Raise ``InputError`` for unknown names and options before any work is done."""
    STRATEGIES.get(config.strategy)(**config.options).resolved(config.quantization)
    MODELS.get(config.model)
    DATASETS.get(config.dataset)
    check_start(config)
