"""How long the road takes from a float model to certified files, stage by stage, on one core.

python experiments/road.py [--size 64] [--out docs/road.md]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import random_network
from torch import Tensor, nn

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.selfcheck import check_nodes

STAGES = ("prepare", "calibrate", "decide", "self-check", "export and certify")
NETWORKS = ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnet_b0")
IMAGES, REPEATS = 8, 5
HEAD = """# How long the road takes

Written by `python experiments/road.py`: milliseconds on one core, the fastest of {repeats} rounds, torchvision's networks at
{size} x {size} pixels. *prepare*: capture, two observed runs, exact forms, placement; *calibrate*: {images} images;
*self-check*: every node against its float form. The total leaves out calibration, whose time is that of the float model's forward pass.

| network | {stages} | total |
| --- |{columns} ---: |
"""  # noqa: E501


def rounds(model: nn.Module, images: Tensor, path: Path) -> list[float]:
    """The seconds of every stage, once."""
    made: dict[str, Any] = {}
    config = qs.QuantizationConfig()

    def prepared() -> None:
        made["prepared"] = prepare(model, config, images[:2], input_scale=1 / 255)

    def calibrated() -> None:
        made["inputs"] = calibrate(made["prepared"], [images])

    def decided() -> None:
        made["quantized"] = QuantizedModel.of(made["prepared"])

    def checked() -> None:
        check_nodes(made["prepared"], made["quantized"].graph, made["inputs"])

    def exported() -> None:
        qs.export_onnx(made["quantized"], path, optimize_for=None)

    return [seconds(stage) for stage in (prepared, calibrated, decided, checked, exported)]


def seconds(stage: Callable[[], None]) -> float:
    """How long ``stage`` takes."""
    started = time.perf_counter()
    stage()
    return time.perf_counter() - started


def row(name: str, size: int, path: Path) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    own = name in MODELS.names()
    model = MODELS.get(name)().eval() if own else random_network(name, size)
    shape = model.input_shape if own else (3, size, size)
    images = torch.rand(IMAGES, *shape)  # type: ignore[misc]
    best = min((rounds(model, images, path) for _ in range(REPEATS)), key=sum)
    total = sum(best) - best[1]
    return f"| {name} | {' | '.join(f'{each * 1000:.0f}' for each in best)} | {total * 1000:.0f} |"


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=int, default=64, help="of torchvision's images in pixels (default: 64)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/road.md"), help="the table")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(name, chosen.size, Path(folder) / "model.onnx")
            for name in (*MODELS.names(), *NETWORKS)
        ]
    head = HEAD.format(
        repeats=REPEATS,
        size=chosen.size,
        images=IMAGES,
        stages=" | ".join(STAGES),
        columns=" ---: |" * len(STAGES),
    )
    text = head + "\n".join(rows) + "\n"
    atomic_write(chosen.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
