"""What integers for fixed-point kernels cost: accuracy and signal to noise, and what the files take
on a chip. Writes docs/fixed_point_cost.md.

python experiments/fixed_point_cost.py [--epochs 3] [--data-dir FOLDER] [--out runs/fixed_point]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from networks import TOP, centred, outputs
from torch import Tensor, nn
from zoo import TORCHVISION

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.evaluation import evaluate
from qstrategies.experiment.checks import on_pixels
from qstrategies.experiment.trained import float_stage
from qstrategies.export.tflite.memory import memory_of
from qstrategies.files import atomic_write
from qstrategies.progress import Progress
from qstrategies.runtimes import RUNTIMES
from qstrategies.text import markdown

TRAINED = {"cnn": "mnist", "depthwise": "fashion_mnist", "resnet8": "fashion_mnist"}
RANDOM = "mobilenet_v2"
WIDTHS = (8, 6, 4)
CONFIGS = [
    (saturation, fixed_point)
    for saturation in ("vnni_or_arm", "any_kernel")
    for fixed_point in (False, True)
]
CALIBRATION, TESTED = 256, 32
ARENA = """\
import sys
from tflite_micro.python.tflite_micro import runtime
content = open(sys.argv[1], "rb").read()
runtime.Interpreter.from_bytes(content, arena_size=1 << 27).print_allocations()
"""


def of_trained(name: str, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of a network that is trained first, with each of ``CONFIGS``."""
    location = qs.Location(folder=chosen.data_dir)
    workspace = qs.Workspace(chosen.out / "runs", location, Progress(quiet=True))
    training = qs.TrainingConfig(epochs=chosen.epochs)
    config = qs.ExperimentConfig(
        strategy="no_norm", model=name, dataset=TRAINED[name], training=training
    )
    dataset = workspace.dataset(TRAINED[name])
    train, test = dataset.splits["train"], dataset.splits["test"]
    model = float_stage(config, workspace).model
    calibration = train.model_inputs(train.images[:CALIBRATION])
    floating = evaluate(lambda images: model(test.model_inputs(images)), test, dataset.task)
    expected = torch.from_numpy(floating.logits)
    for made, figures in quantized(model, calibration, name, chosen.out):
        found = evaluate(on_pixels(made.reference()), test, dataset.task)
        noise = centred(expected, torch.from_numpy(found.logits))
        yield figures | {"decibels": noise, "lost": floating.accuracy - found.accuracy}


def of_random(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Those of mobilenet_v2 with random weights."""
    network = next(each for each in TORCHVISION if each.name == RANDOM)
    model, generator = network.build(), torch.Generator().manual_seed(1)
    calibration = torch.rand(32, *network.shape, generator=generator) * TOP
    pixels = torch.randint(0, 256, (64, *network.shape), dtype=torch.uint8, generator=generator)
    expected = outputs(model, pixels.float() / 255)
    for made, figures in quantized(model, calibration, RANDOM, chosen.out):
        found = outputs(made.reference(), pixels)
        yield figures | {"decibels": centred(expected, found), "lost": None}


def quantized(
    model: nn.Module, calibration: Tensor, name: str, folder: Path
) -> Iterator[tuple[qs.QuantizedModel, dict[str, Any]]]:
    """``model`` with each of ``CONFIGS`` and ``WIDTHS``; what its file takes and gives."""
    for bits in WIDTHS:
        for saturation, fixed_point in CONFIGS:
            config = qs.QuantizationConfig(
                weight_bits=bits, saturation=saturation, fixed_point=fixed_point
            )
            made = qs.quantize(
                model, [calibration], calibration[:2], config=config, input_scale=1 / 255
            )
            figures = {"bits": bits, "saturation": saturation, "fixed_point": fixed_point}
            yield made, figures | (chip(made, name, bits, folder) if fixed_point else {})


def chip(made: qs.QuantizedModel, name: str, bits: int, folder: Path) -> dict[str, Any]:
    """Bytes of the TFLite file and of its tensors, and whether its bits are those of PyTorch."""
    file = qs.export_tflite(made, folder / f"{name}-{bits}.tflite")
    pixels = torch.randint(0, 256, (TESTED, *made.inputs[0].shape), dtype=torch.uint8)
    checked = qs.cross_check(file, pixels)
    apart = [each for each in checked.apart if not each.startswith("pytorch")]
    return {**vars(memory_of(file.path)), "arena": arena(file.path), "apart": apart}


def arena(path: Path) -> int | None:
    """Bytes that TensorFlow Lite Micro allocates for ``path``; None where it is missing."""
    if RUNTIMES.get("tflite-micro").missing() is not None:
        return None
    command = [sys.executable, "-c", ARENA, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Arena allocation total (\d+) bytes", told.stdout + told.stderr)
    return None if found is None else int(found.group(1))


HEAD = """# What fixed-point integers cost

Written by `python experiments/fixed_point_cost.py`. Points of accuracy lost on the test images, and signal to noise of the logits in
dB against the float model (less their mean over the images), with and without `fixed_point`: cnn on MNIST, depthwise and resnet8 on
Fashion-MNIST, {epochs} epochs and one seed each, `no_norm`, per-channel weights, {calibration} training images for the ranges;
mobilenet_v2 of torchvision has random weights with the statistics of random images, 96 x 96, and decibels only.

"""  # noqa: E501
MEMORY = """
## On a chip

The TFLite files of the `any_kernel` models with `fixed_point`: flash is the file; activations are the bytes of the tensors that are
alive at once, 8 bits each; the arena is what TensorFlow Lite Micro allocates in all, on a 64-bit machine. *Same bits*: {count} random
images in all of LiteRT's kernels and TensorFlow Lite Micro, against PyTorch.

| network | weight bits | flash | activations | arena | same bits |
| --- | ---: | ---: | ---: | ---: | --- |
"""  # noqa: E501


def page(found: dict[str, list[dict[str, Any]]], epochs: int) -> str:
    """Both tables."""
    titles = [f"{saturation}{', fixed point' * fixed}" for saturation, fixed in CONFIGS]
    lines = [f"| network | weight bits | {' | '.join(titles)} |"]
    lines.append(f"| --- | ---: | {' | '.join(['---:'] * len(titles))} |")
    memory = []
    for name, rows in found.items():
        for bits in WIDTHS:
            chosen = [row for row in rows if row["bits"] == bits]
            lines.append(f"| {name} | {bits} | {' | '.join(map(cell, chosen))} |")
            fixed = chosen[-1]
            same = markdown(f"all but {', '.join(fixed['apart'])}" if fixed["apart"] else "yes")
            sizes = " | ".join(str(fixed[key] or "-") for key in ("flash", "activations", "arena"))
            memory.append(f"| {name} | {bits} | {sizes} | {same} |")
    head = HEAD.format(epochs=epochs, calibration=CALIBRATION)
    return head + "\n".join(lines) + "\n" + MEMORY.format(count=TESTED) + "\n".join(memory) + "\n"


def cell(row: dict[str, Any]) -> str:
    """Decibels, and points lost where there are any."""
    lost = "" if row["lost"] is None else f"{100 * row['lost']:+.2f}, "
    return f"{lost}{row['decibels']:.1f} dB"


def main() -> int:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="of training (default: 3)")
    parser.add_argument("--data-dir", type=Path, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/fixed_point"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (*TRAINED, RANDOM):
        path = chosen.out / f"{name}.json"
        if not path.exists():
            rows = list(of_random(chosen) if name == RANDOM else of_trained(name, chosen))
            atomic_write(path, json.dumps(rows, indent=1) + "\n")
        found[name] = json.loads(path.read_text())
    atomic_write(Path("docs/fixed_point_cost.md"), page(found, chosen.epochs))
    print(page(found, chosen.epochs))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
