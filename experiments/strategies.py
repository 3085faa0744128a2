"""Every strategy on four networks, from 8 to 2 bits, at equal total training.

python experiments/strategies.py [--tasks depthwise ...] [--settings W4A8 ...] [--seeds 3]

All of it takes about seven hours of two cores, by what was run so far: two tasks at a time, one
process of one thread each (OMP_NUM_THREADS=1, --tasks). Every finished run is kept, so that an
interrupted study goes on where it was; "--tasks" alone only writes the page of what there is.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strategies_page import widths, write_page

from qstrategies.cli import guarded
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError, check_choice
from qstrategies.experiment.comparison import run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.progress import Progress
from qstrategies.records import (
    LEVELS,
    PRESETS,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    TrainingConfig,
)
from qstrategies.strategies import STRATEGIES
from qstrategies.training.hardware import keep_freed_memory

CONTROLS = ("no_norm", "finetune")
"""What others are compared with: they get every seed."""
LEADERS = 10
"""So many get more than one seed."""
COMPOSITIONS = (
    "cle+bias_correction",
    "cle+gptq",
    "cle+adaround",
    "cle+mse_clip+adaround",
    "mixed+adaround",
    "mixed+lsq",
    "adaround+efficient_qat",
    "cle+qat",
    "cle+lsq",
    "cle+mixed+lsq",
    "cle+adaround+efficient_qat",
)


@dataclass(frozen=True)
class Task:
    """A network on a dataset, and the epochs that every strategy has in all."""

    model: str
    dataset: str
    epochs: int
    preset: str
    settings: tuple[str, ...]

    @property
    def tuning(self) -> TrainingConfig:
        """What strategies add that continue a float model."""
        return PRESETS[self.preset]["tuning"]

    def training(self, strategy: str) -> TrainingConfig:
        """What is left for the float model beside what ``strategy`` adds to it."""
        adds = STRATEGIES.get(strategy).course.schedule == "tuning"
        epochs = self.epochs - self.tuning.epochs * adds
        return dataclasses.replace(PRESETS[self.preset]["training"], epochs=epochs)


BITS = ("W4A8", "W2A8", "W4A4", "W3A8", "W8A8", "W2A8 no_zero")
PER_TENSOR = " per tensor"
BOTH = (*(name + PER_TENSOR for name in BITS[:-1]), *BITS)
TASKS = {
    "cnn": Task("cnn", "mnist", 4, "default", BITS),
    "resnet8": Task("resnet8", "fashion_mnist", 9, "default", BITS),
    "depthwise": Task("depthwise", "fashion_mnist", 9, "default", BOTH),
    "ds_cnn": Task("ds_cnn", "spoken_digits", 23, "speech", BOTH),
}
"""By name; the settings in the order in which they are run."""


def quantization(setting: str) -> QuantizationConfig:
    """From "W4A8", "W4A8 per tensor" or "W2A8 no_zero"."""
    (weights, activations), rest = widths(setting), setting.partition(" ")[2]
    return QuantizationConfig(
        weight_bits=weights,
        activation_bits=activations,
        per_channel=rest != PER_TENSOR.strip(),
        levels=rest if rest in LEVELS else "narrow",
    )


def config(task: Task, setting: str, strategy: str, seed: int) -> ExperimentConfig:
    """One run of the study."""
    return ExperimentConfig(
        strategy=strategy,
        model=task.model,
        dataset=task.dataset,
        training=task.training(strategy),
        tuning=task.tuning,
        quantization=quantization(setting),
        seed=seed,
        checks="quick",
    )


def names() -> list[str]:
    """Every strategy of the study: those that others are compared with, then what trains nothing of
    its own, then the rest."""
    others = [name for name in STRATEGIES.names() if name not in CONTROLS]
    others = sorted([*others, *COMPOSITIONS], key=_trains)
    return [*CONTROLS, *others]


def _trains(strategy: str) -> bool:
    return STRATEGIES.get(strategy).course.schedule is not None


def leaders(records: Sequence[RunRecord], count: int) -> list[str]:
    """The ``count`` strategies that lead on validation images, and those they are compared with."""
    done = [record for record in records if record.validation_accuracy is not None]
    done.sort(key=lambda record: -(record.validation_accuracy or 0))
    best = [record.config.strategy for record in done if record.config.strategy not in CONTROLS]
    return [*CONTROLS, *best[:count]]


def one(config: ExperimentConfig, workspace: Workspace) -> list[RunRecord]:
    """The record of a run; none where the strategy refuses it, which is said."""
    try:
        return run_all([config], workspace)
    except InputError as error:
        workspace.progress.note(f"{config.strategy}: {error}")
        return []


def study(task: Task, chosen: argparse.Namespace, workspace: Workspace) -> None:
    """Run what is not run yet of ``task``, of what the command line asks for."""
    _ = workspace.dataset(task.dataset).splits  # a missing file is said at once
    for setting in [name for name in task.settings if name in chosen.settings]:
        workspace.progress.note(f"\n{task.model} {setting}")
        first = []
        for name in [*CONTROLS, *chosen.strategies]:
            first += one(config(task, setting, name, 0), workspace)
        for seed in range(1, chosen.seeds):
            for name in leaders(first, LEADERS):
                one(config(task, setting, name, seed), workspace)


def parsed() -> argparse.Namespace:
    """The command line."""
    every = list(dict.fromkeys(name for task in TASKS.values() for name in task.settings))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks",
        nargs="*",
        default=list(TASKS),
        help=f"of {', '.join(TASKS)}; none: only the page",
    )
    parser.add_argument("--settings", nargs="+", default=every, choices=every)
    parser.add_argument("--strategies", nargs="+", default=names()[len(CONTROLS) :])
    parser.add_argument(
        "--seeds", type=int, default=1, help="of the ten that lead after one (default: 1)"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--page", type=Path, help="to write (default: strategies.md in --out)")
    return parser.parse_args()


def main() -> int:
    """Run what is asked for, and write the page of all that there is."""
    chosen = parsed()
    keep_freed_memory()
    for strategy in chosen.strategies:
        STRATEGIES.get(strategy)
    for name in chosen.tasks:
        check_choice("task", name, TASKS)
        packaged = getattr(DATASETS.get(TASKS[name].dataset), "packaged", None) is not None
        location = Location(folder=None if packaged else chosen.data_dir)
        workspace = Workspace(chosen.out / name, location, progress=Progress())
        study(TASKS[name], chosen, workspace)
    settings = {name: task.settings for name, task in TASKS.items()}
    page = chosen.page or chosen.out / "strategies.md"
    print(*write_page(page, chosen.out, settings), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
