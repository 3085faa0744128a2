"""How long the road takes from a float model to certified files: stage by stage, calibration beside
the float model's own runs, and the whole of it beside other tools.

python experiments/road.py [--size 64] [--rivals PYTHON] [--out docs/road.md]

NNCF and torchao are part of `pip install 'qstrategies[benchmark]'`; PYTHON is an interpreter that
has them, this one if none is named.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from workers import IMAGES, STAGES, TOOLS, Worker, calibration, fastest, stages
from zoo import classifier

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.prepare import prepare

NETWORKS = ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnet_b0")
CALIBRATED = ("mobilenet_v2", "resnet18")
BESIDE_OTHERS = ("cnn", "mobilenet_v2", "resnet18", "efficientnet_b0")
LARGE = 224  # pixels, where calibration is measured as well
ROUNDS, ROUNDS_OF_RIVALS = 5, 2
HEAD = """# How long the road takes

Written by `python experiments/road.py`: milliseconds of one core, the fastest of {rounds} rounds,
torchvision's networks at {size} x {size} pixels. *prepare*: capture, two observed runs, exact
forms, placement; *calibrate*: {images} images; *self-check*: every node against its float form. The
total leaves out calibration, whose time is that of the float model's forward pass.
"""
CALIBRATION = """
Calibration with {images} images, beside the float model on the same images, in turns:
"""
RIVALS = """
Seconds of one core from a float model to what is deployed, in turns, each tool in a process of its
own, the fastest of {rounds} rounds. *ours*: the table above, certificate and self-checks included.
*quantize_static* and *NNCF*: an int8 ONNX file from torch's float export, which is counted.
*torchao PT2E*: `torch.export`, the quantizer for x86 and the lowering to oneDNN's kernels. Left out
is what runs the model over calibration images, observers included: our `calibrate`, the prepared
module of PT2E, and all that ONNX Runtime computes for the other two.
"""


def stage_row(name: str, size: int, path: Path) -> str:
    """One line of the first table."""
    model, shape = classifier(name, size)
    images = calibration(shape)
    best = min((stages(model, images, path) for _ in range(ROUNDS)), key=sum)
    total = sum(best) - best[STAGES.index("calibrate")]
    return f"| {name} | {' | '.join(f'{each * 1000:.0f}' for each in best)} | {total * 1000:.0f} |"


@torch.no_grad()
def calibration_row(name: str, size: int) -> str:
    """One line of the second table."""
    model, shape = classifier(name, size)
    images = calibration(shape)
    prepared = prepare(model, qs.QuantizationConfig(), images[:2], input_scale=1 / 255)
    forward = functools.partial(_forward, model, images)
    observed = functools.partial(calibrate, prepared, [images])
    plain, ours = fastest([forward, observed], 3 * ROUNDS)
    cells = f"{plain * 1000:.0f} | {ours * 1000:.0f} | {ours / plain:.2f}"
    return f"| {name} | {size} | {cells} |"


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def rival_rows(size: int, python: str) -> list[str]:
    """The lines of the third table, and why a tool has no time."""
    workers = {tool: Worker(tool, sys.executable if tool == "ours" else python) for tool in TOOLS}
    rows, reasons = [], []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for worker in workers.values():
            stack.callback(worker.close)
        for name in BESIDE_OTHERS:
            best, failed = _times(workers, name, size, folder)
            rows.append(_rival_row(name, best))
            reasons += [f"- {name}, {tool}: {reason}" for tool, reason in failed.items()]
            print(rows[-1], flush=True)
    return [*rows, "", *reasons] if reasons else rows


def _times(
    workers: dict[str, Worker], name: str, size: int, folder: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """The least seconds of every tool, and what is wrong with the others."""
    best: dict[str, float] = {}
    failed: dict[str, str] = {}
    for _ in range(ROUNDS_OF_RIVALS):
        for tool in workers.keys() - failed.keys():
            answer = workers[tool].make(name, size, folder)
            if isinstance(answer, str):
                failed[tool] = answer
            else:
                best[tool] = min(answer, best.get(tool, answer))
    return best, failed


def _rival_row(name: str, best: dict[str, float]) -> str:
    cells = [f"{best[tool]:.2f}" if tool in best else "-" for tool in TOOLS]
    rivals = [taken for tool, taken in best.items() if tool != "ours"]
    ratio = f"{min(rivals) / best['ours']:.1f}" if rivals and "ours" in best else "-"
    return f"| {name} | {' | '.join(cells)} | {ratio} |"


def heading(*names: str) -> list[str]:
    """The first two lines of a table of figures."""
    return [f"| {' | '.join(names)} |", "| --- |" + " ---: |" * (len(names) - 1)]


def main() -> int:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=64, help="of torchvision's images in pixels (default: 64)"
    )
    parser.add_argument(
        "--rivals", default=sys.executable, help="an interpreter that has NNCF and torchao"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/road.md"), help="the tables")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        rows = [stage_row(name, chosen.size, path) for name in (*MODELS.names(), *NETWORKS)]
    sizes = sorted({chosen.size, LARGE})
    lines = [
        HEAD.format(rounds=ROUNDS, size=chosen.size, images=IMAGES),
        *heading("network", *STAGES, "total"),
        *rows,
        CALIBRATION.format(images=IMAGES),
        *heading("network", "pixels", "float", "calibrate", "calibrate / float"),
        *(calibration_row(name, size) for name in CALIBRATED for size in sizes),
        RIVALS.format(rounds=ROUNDS_OF_RIVALS),
        *heading("network", *TOOLS, "best other / ours"),
        *rival_rows(chosen.size, chosen.rivals),
    ]
    text = "\n".join(lines) + "\n"
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
