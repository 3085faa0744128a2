"""What exact scales cost: signal to noise with exact and with free scales.

python experiments/exactness_cost.py [--images 64] [--names resnet18 ...] [--out runs/exactness]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch
from networks import TOP, centred, outputs
from zoo import Network

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.files import atomic_write

NAMES = (
    "resnet18",
    "resnet34",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
)
BATCHES, BATCH = 2, 16  # of calibration
EXACT = qs.QuantizationConfig()
CONFIGS = {
    "free scales": dataclasses.replace(EXACT, exact=False),
    "vnni_or_arm": dataclasses.replace(EXACT, saturation="vnni_or_arm"),
    "any_kernel": EXACT,
    "vnni_or_arm, min_max": dataclasses.replace(
        EXACT, saturation="vnni_or_arm", observer="min_max"
    ),
    "any_kernel, min_max": dataclasses.replace(EXACT, observer="min_max"),
}

RANGES = {"inside": TOP, "beyond": 1.0}
"""Up to where test images go."""
TITLES = {
    "inside": f"Images in [0, {TOP}], as in calibration",
    "beyond": "Images in [0, 1], further than the calibration saw",
}
Figures = dict[str, dict[str, float]]
"""By the key of ``RANGES``, then by that of ``CONFIGS``."""


def decibels(name: str, images: int) -> Figures:
    """Signal to noise of the logits of a network, centred per class."""
    network = Network(name)
    model, generator = network.build(), torch.Generator().manual_seed(1)
    calibration = [
        torch.rand(BATCH, *network.shape, generator=generator) * TOP for _ in range(BATCHES)
    ]
    whole = torch.rand(images, *network.shape, generator=generator) * 255
    pixels = {key: torch.round(whole * top).byte() for key, top in RANGES.items()}
    expected = {key: outputs(model, each.float() / 255) for key, each in pixels.items()}
    found: Figures = {key: {} for key in RANGES}
    for label, config in CONFIGS.items():
        quantized = qs.quantize(
            model, calibration, calibration[0][:2], config=config, input_scale=1 / 255
        )
        reference = quantized.reference()
        for key, each in pixels.items():
            found[key][label] = centred(expected[key], outputs(reference, each))
    return found


HEAD = """# What exactness costs

Written by `python experiments/exactness_cost.py`: signal to noise in dB of the logits against those of the float model, less
their mean over the images, for 8-bit networks of torchvision. Random weights, batch norms with the statistics of random images,
calibrated on {calibration} random images in [0, {top}], tested on {images}. *Free scales* are those of the usual tools: the range over 255,
weights rounded to nearest. *min_max* takes the range of activations as it is.
"""  # noqa: E501


def page(found: dict[str, Figures], images: int) -> str:
    """The tables, with what each exact form loses against free scales."""
    head = HEAD.format(calibration=BATCHES * BATCH, top=TOP, images=images)
    return head + "".join(
        table(title, {name: figures[key] for name, figures in found.items()})
        for key, title in TITLES.items()
    )


def table(title: str, found: dict[str, dict[str, float]]) -> str:
    """A row per network, and the largest loss of each exact form."""
    free, *exact = CONFIGS
    lines = [
        f"\n## {title}\n",
        f"| network | {free} | {' | '.join(exact)} |",
        f"| --- | {' | '.join(['---:'] * len(CONFIGS))} |",
    ]
    for name, figures in found.items():
        cells = [f"{figures[label]:.1f} ({figures[label] - figures[free]:+.1f})" for label in exact]
        lines.append(f"| {name} | {figures[free]:.1f} | {' | '.join(cells)} |")
    losses = [max(each[free] - each[label] for each in found.values()) for label in exact]
    lines.append(f"| largest loss | | {' | '.join(f'{loss:.1f}' for loss in losses)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is not measured yet, and write the table of all that is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="random test images (default: 64)")
    parser.add_argument("--names", nargs="*", default=NAMES, choices=NAMES, help="which networks")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/exactness"), help="folder of what is written"
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names:
        path = chosen.out / f"{name}.json"
        if not path.exists():
            figures = decibels(name, chosen.images)
            atomic_write(path, json.dumps(figures, indent=1) + "\n")
            inside = figures["inside"].items()
            print(name, *(f"{label} {value:.1f}" for label, value in inside), flush=True)
    files = {name: chosen.out / f"{name}.json" for name in NAMES}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    atomic_write(chosen.out / "exactness_cost.md", page(found, chosen.images))
    print(page(found, chosen.images))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
