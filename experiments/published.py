"""Published figures beside ours, by the published recipes, as docs/published.md. What was
interrupted goes on; --report only writes the page of what is done.

The networks take turns of ten epochs, so that there is something of each at any
time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from published_a2q import Curve
from published_page import NETWORKS, page
from published_training import Examples, Training

from qstrategies.cli import guarded
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Split
from qstrategies.files import atomic_write
from qstrategies.training.hardware import keep_freed_memory

TURN = 10
FAMILIES = list(dict.fromkeys(network.name.split()[0] for network in NETWORKS))


def all_images(splits: dict[str, Split]) -> dict[str, Examples]:
    """All 60 000 images to train with, as published, and the test images."""
    parts = [splits[name] for name in ("train", "validation")]
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return {"train": (images, labels), "test": (splits["test"].images, splits["test"].labels)}


def take_turns(trainings: Sequence[Training], data: dict[str, Examples]) -> None:
    """Train all to their end."""
    while left := [training for training in trainings if training.unfinished]:
        for training in left:
            training.run(data, TURN)
            done = len(training.accuracies)
            print(f"{training.network.name}: {done} of {training.epochs} epochs", flush=True)


def run(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    splits = DATASETS.get("mnist")().splits
    curve = Curve(splits, chosen.out)
    wanted = [network for network in NETWORKS if network.name.split()[0] in chosen.networks]
    trainings = [Training(network, chosen.out, chosen.share) for network in wanted]
    if not chosen.report:
        curve.run()
        take_turns(trainings, all_images(splits))
    atomic_write(chosen.page, page(curve.results(), trainings))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--networks", nargs="*", default=FAMILIES, help=f"{', '.join(FAMILIES)}, or none"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the published epochs")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--page", type=Path, default=Path("docs/published.md"))
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: run(arguments)))
