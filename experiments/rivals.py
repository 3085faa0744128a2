"""Part of the benchmark: how fast the files of other tools for the same float models are, on one
thread of ONNX Runtime.

python experiments/rivals.py [--names resnet18 ...] [--rivals PYTHON] [--out docs/inference.md]

NNCF is part of `pip install 'qstrategies[benchmark]'`; PYTHON is an interpreter that has it, this
one if none is named.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tools import static_file
from workers import Worker, calibration, fastest, seconds
from zoo import classifier

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.experiment import environment
from qstrategies.files import atomic_write

NETWORKS = ("cnn", "resnet8", "depthwise", "resnet18", "mobilenet_v2", "efficientnet_b0")
SIZE = 224  # pixels, of torchvision's networks
LARGE = ("resnet18", "mobilenet_v2", "efficientnet_b0")
SECONDS, ROUNDS = 0.05, 30  # of one file's turn, and how many it has
HEAD = (
    f"Random weights; torchvision's networks at {SIZE} x {SIZE} pixels; microseconds per image,",
    "all files of a network in turns. *best rival*: the faster of the two other int8 files.",
    "quantize_static writes uint8 activations here, which is at least as fast as its default.",
    "",
    "| model | batch | float32 | quantize_static | NNCF | portable | for ONNX Runtime "
    "| best rival / ours | proven the same |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
)


def file_times(
    paths: Sequence[Path], pixels: NDArray[np.uint8], repeats: int | None = None
) -> list[float]:
    """Seconds of one core per call on one thread; ``repeats`` calls a turn, or as many as fit into
    ``SECONDS``."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    actions: list[Callable[[], object]] = []
    for path in paths:
        session = onnxruntime.InferenceSession(str(path), settings)
        entry = session.get_inputs()[0]
        images = pixels if entry.type == "tensor(uint8)" else (pixels / 255).astype(np.float32)
        actions.append(functools.partial(session.run, None, {entry.name: images}))
    for action in actions:
        action()
    fitting = repeats or max(1, int(SECONDS / seconds(actions[-1])))
    turns = [functools.partial(_repeated, action, fitting) for action in actions]
    return [taken / fitting for taken in fastest(turns, ROUNDS)]


def _repeated(action: Callable[[], object], repeats: int) -> None:
    for _ in range(repeats):
        action()


def rival_rows(python: str, names: Sequence[str] = NETWORKS) -> list[str]:
    """The table of ``names``, NNCF under the interpreter ``python``."""
    rows = []
    with contextlib.closing(Worker("NNCF", python)) as nncf:
        for name in names:
            with tempfile.TemporaryDirectory() as scratch:
                rows += _rows_of(name, nncf, Path(scratch))
    return [*HEAD, *rows]


def _rows_of(name: str, nncf: Worker, folder: Path) -> list[str]:
    model, shape = classifier(name, SIZE)
    images = calibration(shape)
    nncf.make(name, SIZE, folder)
    static_file(model, images, folder)
    quantized = qs.quantize(model, [images], images[:2], input_scale=1 / 255)
    ours = qs.export_onnx(quantized, folder / "ours.onnx", optimize_for="onnxruntime")
    rivals = [folder / file for file in ("quantize_static.onnx", "nncf.onnx")]
    columns = [folder / "float.onnx", *rivals, ours[0].path, ours[-1].path]
    files = sorted({path for path in columns if path.exists()})
    pixels = np.random.default_rng(0).integers(0, 256, (64, *shape), np.uint8)
    rows = []
    for batch in (1, 8) if name in LARGE else (1, 64):
        times = dict(zip(files, file_times(files, pixels[:batch]), strict=True))
        cells = [f"{times[path] / batch * 1e6:.1f}" if path in times else "-" for path in columns]
        ratio = min(times[path] for path in rivals if path in times) / times[ours[-1].path]
        rows.append(f"| {name} | {batch} | {' | '.join(cells)} | {ratio:.2f} | {_proof(ours)} |")
        print(rows[-1], flush=True)
    return rows


def _proof(ours: Sequence[qs.ExportedModel]) -> str:
    if len(ours) == 1:
        return "one form"
    return "yes" if ours[-1].same_as == ours[0].content_sha256 else "no"


def machine() -> str:
    """What was measured on."""
    here: Any = environment.describe()
    packages = ", ".join(f"{name} {here['packages'][name]}" for name in ("torch", "onnxruntime"))
    return f"{here['cpu']}, {', '.join(here['cpu_flags'])}; {packages}"


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--names", nargs="*", default=NETWORKS, choices=NETWORKS, help="which (default: all)"
    )
    parser.add_argument("--rivals", default=sys.executable, help="an interpreter that has NNCF")
    parser.add_argument("--out", type=Path, default=Path("docs/inference.md"), help="the table")
    chosen = parser.parse_args()
    title = f"# Inference\n\nWritten by `python experiments/rivals.py`: {machine()}.\n\n"
    text = title + "\n".join(rival_rows(chosen.rivals, chosen.names)) + "\n"
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
