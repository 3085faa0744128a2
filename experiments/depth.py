"""How far what runs is from what was simulated, against depth: with free scales, and with exact
ones.

python experiments/depth.py [--images 64] [--out docs/depth.md]

Convolutions with ReLU, one behind the other, with random weights. What an executor gives is
compared with the float32 simulation that every quantization tool shows its user (here
``reference()``), value by value of the last layer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.experiment import environment
from qstrategies.files import atomic_write
from qstrategies.report.drawing import png, subplots
from qstrategies.runtimes import RUNTIMES

DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50)
CHANNELS, SIZE = 16, 12
EXECUTORS = ("onnxruntime-all", "onnxruntime-web", "openvino", "tract")
ENGINE = "PyTorch x86"
HEAD = """# Simulation and execution against depth

Written by `python experiments/depth.py` on {cpu}: {channels} channels of {size} x {size}, 3 x 3
convolutions with ReLU, random weights, 8 bits, calibrated on random images; {images} other images.
Percent of the values of the last layer that are not those of the simulation in float32, and the
largest difference in steps of the output. Free scales are what quantization usually has, any real
numbers; exact ones are this package's default.

![values that differ from the simulation, against depth](depth.png)

"""


def network(depth: int) -> nn.Sequential:
    """``depth`` convolutions, whose weights keep the variance."""
    torch.manual_seed(depth)
    layers: list[nn.Module] = []
    for number in range(depth):
        layer = nn.Conv2d(3 if number == 0 else CHANNELS, CHANNELS, 3, padding=1)
        nn.init.kaiming_normal_(layer.weight)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers).eval()


def differences(depth: int, images: Tensor, *, exact: bool) -> Iterator[tuple[str, float, float]]:
    """Of each executor the share of values that are not those of the simulation, and the largest
    difference in steps."""
    calibration = torch.randn(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    config = qs.QuantizationConfig(exact=exact)
    quantized = qs.quantize(network(depth), [calibration], calibration[:2], config=config)
    integers = quantized.inputs[0].integers(images)
    expected = quantized.reference()(integers).numpy()
    step = quantized.graph.outputs[0].grid.scale
    found = {ENGINE: quantized.int8("x86")(integers).numpy()}
    with tempfile.TemporaryDirectory() as folder:
        path = qs.export_onnx(quantized, Path(folder) / "model.onnx")[0].path
        for name in EXECUTORS:
            if RUNTIMES.get(name).missing() is None:
                found[name] = RUNTIMES.get(name)(path).run(integers.numpy())
    for name, values in found.items():
        apart = np.abs(values - expected) / step
        yield name, float((apart > 0).mean()), float(apart.max())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("docs/depth.md"))
    chosen = parser.parse_args()
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(chosen.images, 3, SIZE, SIZE, generator=generator)
    found = {
        (exact, depth, name): (share, steps)
        for exact in (False, True)
        for depth in DEPTHS
        for name, share, steps in differences(depth, images, exact=exact)
    }
    names = list(dict.fromkeys(name for _, _, name in found))
    text = HEAD.format(
        cpu=environment.describe()["cpu"], channels=CHANNELS, size=SIZE, images=chosen.images
    )
    for exact, title in ((False, "Free scales"), (True, "Exact scales")):
        text += f"## {title}\n\n| layers | {' | '.join(names)} |\n"
        text += f"| ---: |{' ---: |' * len(names)}\n"
        for depth in DEPTHS:
            cells = [found[exact, depth, name] for name in names]
            figures = [f"{share:.2%} ({steps:.0f})" for share, steps in cells]
            text += f"| {depth} | {' | '.join(figures)} |\n"
        text += "\n"
    atomic_write(chosen.out, text.rstrip() + "\n")
    draw(found, names, chosen.out.with_suffix(".png"))
    print(text)
    return 0


def draw(
    found: dict[tuple[bool, int, str], tuple[float, float]], names: list[str], path: Path
) -> None:
    """Both kinds of scales in one figure."""
    figure, axes = subplots(size=(7.5, 4))
    for name in names:
        shares = [100 * found[False, depth, name][0] for depth in DEPTHS]
        axes.plot(DEPTHS, shares, marker="o", label=f"free scales, {name}")
    largest = [max(found[True, depth, name][0] for name in names) for depth in DEPTHS]
    line = [100 * share for share in largest]
    axes.plot(DEPTHS, line, color="black", linewidth=2.5, label="exact scales, each of them")
    axes.set_xlabel("layers")
    axes.set_ylabel("values that differ from the simulation, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    atomic_write(path, png(figure))


if __name__ == "__main__":
    sys.exit(guarded(main))
