"""Kill a small comparison at random moments, start it again until it is done, compare it with one
that nobody killed.

    python experiments/kill_test.py [--kills 100] [--seed 0]

Every other kill waits for a temporary file, so that it falls into a write. All must be equal but
times.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from qstrategies.cli import guarded
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Dataset, Split
from qstrategies.errors import check_range
from qstrategies.evidence import conclude
from qstrategies.experiment.comparison import plan, read_records, run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import TEMPORARY, sha256
from qstrategies.progress import Progress
from qstrategies.records import ExperimentConfig, RunRecord, Speed, TrainingConfig
from qstrategies.report import write

SIZES = {"train": 1024, "validation": 128, "test": 200}
SHORT = TrainingConfig(epochs=1, batch_size=64, learning_rate=3e-3)
PAUSE = 1e-3
"""Seconds between two looks for a temporary file."""
IMPORTED = [
    "torch",
    "onnxscript",
    "onnxruntime",
    "qstrategies.experiment.comparison",
    "qstrategies.report.write",
    "qstrategies.evidence",
]
"""What takes long to import, and is imported once, before the processes are forked."""


@DATASETS.register("noise")
class Noise(Dataset):
    """Random pixels, brighter in the rows of their class."""

    name = "noise"
    summary = "random pixels"
    labels = tuple("0123456789")

    @cached_property
    def splits(self) -> dict[str, Split]:
        random = torch.Generator().manual_seed(0)
        return {name: self._split(name, size, random) for name, size in SIZES.items()}

    def _split(self, name: str, size: int, random: torch.Generator) -> Split:
        labels = torch.randint(10, (size,), generator=random)
        images = torch.randint(160, (size, 1, 28, 28), generator=random, dtype=torch.uint8)
        rows = torch.arange(28) // 3 == labels[:, None]
        brighter = rows[:, None, :, None].to(torch.uint8) * 90
        return Split(name, images + brighter, labels)


class Strict(Progress):
    """After a kill nothing may be found damaged or changed."""

    def note(self, message: str) -> None:
        raise AssertionError(message)


def compare(folder: Path) -> None:
    """The comparison, in a process of its own: a float model, and QAT on it."""
    base = ExperimentConfig(strategy="no_norm", dataset="noise", training=SHORT, tuning=SHORT)
    configs = plan(base, ["no_norm", "qat"], [8], [0])
    quick = [dataclasses.replace(config, checks="quick") for config in configs]
    run_all(quick, Workspace(folder, progress=Strict(quiet=True)))


def start(folder: Path | None) -> ForkServerProcess:
    """``compare`` (for None nothing) in a process forked from one that has imported everything
    already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=compare, args=(folder,)) if folder else context.Process()
    process.start()
    return process


def temporary(folder: Path) -> set[Path]:
    """The files that are being written, or were when their writer was killed."""
    pattern = "*".join(TEMPORARY)
    return {path for place in ("", "*/") for path in folder.glob(place + pattern)}


def writes(process: ForkServerProcess, folder: Path) -> Iterator[Path]:
    """Every new temporary file that is seen while ``process`` runs."""
    seen = temporary(folder)
    while process.is_alive():
        for path in temporary(folder) - seen:
            seen.add(path)
            yield path
        time.sleep(PAUSE)


@dataclasses.dataclass(frozen=True)
class Whole:
    """An uninterrupted comparison: what it left, how many seconds it took and how many writes were
    seen."""

    left: dict[str, Any]
    seconds: float
    writes: int


def uninterrupted(folder: Path) -> Whole:
    """Run it once, by the clock, when the imports are done."""
    start(None).join()
    started, process = time.monotonic(), start(folder)
    count = sum(1 for _ in writes(process, folder))
    seconds = time.monotonic() - started
    assert process.exitcode == 0 and count > 0
    return Whole(left(folder), seconds, count)


def kill_at(seconds: float, process: ForkServerProcess) -> None:
    """Kill it that long after the start."""
    process.join(seconds)
    process.kill()


def kill_in_write(number: int, folder: Path, process: ForkServerProcess) -> None:
    """Kill it at the sight of that temporary file, counted from 0."""
    for _ in itertools.islice(writes(process, folder), number, number + 1):
        process.kill()


def killed(folder: Path, kill: Callable[[ForkServerProcess], None]) -> bool:
    """Whether ``kill`` came before the comparison was done."""
    process = start(folder)
    kill(process)
    process.join()
    assert process.exitcode in (0, -9), f"exit code {process.exitcode}"
    return process.exitcode != 0


def left(folder: Path) -> dict[str, Any]:
    """All that a comparison left, by name, without times: records, tables, and the bytes of what
    holds none."""
    records = [timeless(record) for record in read_records(folder)]
    found: dict[str, Any] = {record.config.run_id: record for record in records}
    found["table"] = write.as_data(records, *conclude(records, folder))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        has_times = path.suffix in (".json", ".safetensors")
        found[str(path.relative_to(folder))] = None if has_times else sha256(path.read_bytes())
    for path in folder.glob("stages/*.safetensors"):
        data = path.read_bytes()
        found[f"tensors of {path.name}"] = sha256(data[8 + int.from_bytes(data[:8], "little") :])
    return found


def timeless(record: RunRecord) -> RunRecord:
    """``record`` without what may differ between two runs."""
    curve = tuple(dataclasses.replace(epoch, seconds=0) for epoch in record.curve)
    times = dict.fromkeys(
        (
            "microseconds_batch_1",
            "images_per_second_batch_256",
            "speedup_batch_1",
            "speedup_batch_256",
        ),
        1.0,
    )
    speeds = tuple(Speed(file=speed.file, **times) for speed in record.speeds)
    return dataclasses.replace(record, seconds={}, speeds=speeds, curve=curve, peak_bytes=1)


def main(chosen: argparse.Namespace) -> int:
    """Kill until there were enough kills; the exit code is 1 if anything differs."""
    check_range("number of kills", chosen.kills, 1, 100_000)
    draw = random.Random(chosen.seed)  # noqa: S311
    kills = inside = attempts = comparisons = 0
    with tempfile.TemporaryDirectory() as name:
        whole = uninterrupted(Path(name) / "whole")
        print(
            f"uninterrupted: {whole.seconds:.1f} s, {whole.writes} writes, "
            f"{len(whole.left)} results",
            flush=True,
        )
        seconds = whole.seconds
        while kills < chosen.kills:
            folder = Path(name) / str(comparisons)
            while kills < chosen.kills:
                goes_on, started = folder.exists(), time.monotonic()
                part = (
                    draw.random() if goes_on else 1.0
                )  # of a comparison that goes on less is left
                at_random = functools.partial(kill_at, draw.uniform(0, part * seconds))
                in_write = functools.partial(
                    kill_in_write, int(draw.uniform(0, part * whole.writes)), folder
                )
                attempts += 1
                if not killed(folder, in_write if attempts % 2 else at_random):
                    seconds = (
                        seconds if goes_on else time.monotonic() - started
                    )  # other processes come and go
                    break
                kills += 1
                inside += bool(temporary(folder))
            assert not killed(folder, ForkServerProcess.join), "nobody killed it"
            comparisons += 1
            found = left(folder)
            apart = [
                key
                for key in whole.left.keys() | found.keys()
                if whole.left.get(key, "") != found.get(key, "")
            ]
            print(
                f"{kills} kills, {inside} inside a write, {comparisons} comparisons",
                *apart,
                sep="\n  differs: ",
                flush=True,
            )
            if apart:
                return 1
    print(
        f"{kills} kills, {inside} of them inside a write, over {comparisons} comparisons: "
        "all results are equal"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=100, help="how often a process is killed (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    sys.exit(guarded(lambda: main(parser.parse_args())))
