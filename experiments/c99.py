"""The C99 form of the exported models: the bits of all test images, the time beside ONNX Runtime's,
and the sizes on a Cortex-M. Prints a table: python experiments/c99.py [FILE...] [--data-dir
FOLDER]."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from elsewhere import location_of, self_test
from numpy.typing import NDArray

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.datasets import made_dataset
from qstrategies.errors import InputError
from qstrategies.execution.crosscheck import run_in_batches
from qstrategies.onnx_file import read_metadata
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime
from qstrategies.runtimes.onnx_runtime import All

ROOT = Path(__file__).parent.parent
ROUNDS, TIMED = 5, 2000
HEADER = """\
| file | images | unequal logits | C, us an image | ONNX Runtime, us an image | ratio | Cortex-M3 |
| --- | ---: | ---: | ---: | ---: | ---: | --- |"""


def row(path: Path, images: NDArray[Any], folder: Path) -> str:
    """A line of the table; times are CPU time on one thread, one image at a time, in turns."""
    source = qs.export_c(path, folder, "model").path
    ours, theirs = RUNTIMES.get("c99")(source), All(path, threads=1)
    expected = run_in_batches(RUNTIMES.get("onnxruntime-disabled")(path), images)
    unequal = int((run_in_batches(ours, images) != expected).sum())
    mine, others = _times(ours, theirs, images[:TIMED])
    shown = path.relative_to(ROOT / "exported") if path.is_relative_to(ROOT) else path.name
    return (
        f"| {shown} | {len(images)} | {unequal} of {expected.size} | {mine:.0f} | {others:.0f} "
        f"| {mine / others:.1f} | {_on_a_microcontroller(source)} |"
    )


def _times(ours: Runtime, theirs: Runtime, images: NDArray[Any]) -> tuple[float, float]:
    """Microseconds of CPU time an image, the least of some rounds."""

    def one_by_one() -> None:
        for index in range(len(images)):
            theirs.run(images[index : index + 1])

    rounds = [(_seconds(lambda: ours.run(images)), _seconds(one_by_one)) for _ in range(ROUNDS)]
    least: tuple[float, float] = tuple(np.min(rounds, 0) / len(images) * 1e6)
    return least


def _seconds(action: Callable[[], object]) -> float:
    """Of CPU, with those of the processes that it starts and ends."""
    started = _spent()
    action()
    return _spent() - started


def _spent() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _on_a_microcontroller(source: Path) -> str:
    """What the self-test says there, with the bytes of flash and memory."""
    done = self_test(source)
    if done is None:
        return "not run: no compiler or emulator"
    if done.returncode:
        return f"ended with {done.returncode}"
    flash, _, memory = done.stdout.splitlines()[1].split()[:3]
    return f"golden vectors hold, {flash} bytes of flash, {memory} of memory"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument(
        "--data-dir", type=Path, help="with the IDX files of a dataset that is not in the package"
    )
    chosen = parser.parse_args()
    exported = (ROOT / "exported").rglob("*.onnx")
    files = chosen.files or sorted(path for path in exported if ".fast." not in path.name)
    reason = RUNTIMES.get("c99").missing()
    if reason is not None:
        raise InputError(reason)
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            name = read_metadata(path)["dataset"]
            dataset = made_dataset(name, location_of(name, chosen.data_dir))
            images = dataset.splits["test"].images.numpy()
            print(row(path, images, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
