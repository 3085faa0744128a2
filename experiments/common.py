"""What every experiment script shares: its command line, its workspace, and how its record is
shown."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from qstrategies.cli import guarded
from qstrategies.datasets.base import Location
from qstrategies.evidence import conclude
from qstrategies.experiment.comparison import plan, run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.progress import Progress
from qstrategies.records import PRESETS, ExperimentConfig
from qstrategies.report import write
from qstrategies.training.hardware import keep_freed_memory


def options(description: str | None) -> argparse.Namespace:
    """--seed, --epochs, --quick, where data is found, and --out; and the process made ready for
    training."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, batches and calibration (default: 0)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="epochs of the float training, and of QAT from scratch (default: the preset's)",
    )
    parser.add_argument("--quick", action="store_true", help="one epoch: a look, not a result")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the IDX files of a dataset that is not in the package",
    )
    parser.add_argument(
        "--download", action="store_true", help="let torchvision download such a dataset"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / Path(sys.argv[0]).stem,
        help="folder of what is written",
    )
    return parser.parse_args()


def config(
    chosen: argparse.Namespace, epochs: int | None = None, preset: str = "default"
) -> ExperimentConfig:
    """The preset with the command line's seed and number of epochs (``epochs`` where it names
    none)."""
    training, tuning = PRESETS[preset]["training"], PRESETS[preset]["tuning"]
    asked = chosen.epochs if chosen.epochs is not None else epochs or training.epochs
    number = 1 if chosen.quick else asked
    return ExperimentConfig(
        strategy="no_norm",
        training=dataclasses.replace(training, epochs=number),
        tuning=tuning,
        seed=chosen.seed,
    )


def experiment(  # noqa: PLR0913 - one keyword per setting
    description: str | None,
    strategies: Sequence[str],
    bits: Sequence[int] = (8,),
    epochs: int | None = None,
    *,
    model: str = "cnn",
    dataset: str = "mnist",
    preset: str = "default",
    per_channel: Sequence[bool] = (True,),
) -> None:
    """Run ``strategies`` at ``bits``, print the table, write models and figures; exits with code 2
    on bad input."""
    chosen = options(description)

    def run() -> int:
        base = dataclasses.replace(config(chosen, epochs, preset), model=model, dataset=dataset)
        configs = []
        for granularity in per_channel:
            quantization = dataclasses.replace(base.quantization, per_channel=granularity)
            configs += plan(
                dataclasses.replace(base, quantization=quantization),
                strategies,
                bits,
                [chosen.seed],
            )
        location = Location(folder=chosen.data_dir, download=chosen.download)
        records = run_all(configs, Workspace(chosen.out, location, progress=Progress()))
        conclusion = conclude(records, chosen.out)
        written = write.write_report(records, chosen.out, *conclusion)
        models = [
            chosen.out / record.config.run_id / name for record in records for name in record.files
        ]
        print(
            write.as_text(records, chosen.out, *conclusion),
            "Written:",
            *(str(path) for path in [*written, *models]),
            sep="\n  ",
        )
        return 0

    sys.exit(guarded(run))
