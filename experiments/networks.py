"""Eight torchvision networks with random weights: the same bits in every engine and runtime, and what the file proves.

python experiments/networks.py [--images 256] [--size 96] [--out runs/networks]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import qstrategies as qs
from qstrategies.certificate import certify
from qstrategies.cli import guarded
from qstrategies.crosscheck import CrossCheck
from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.files import atomic_write
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

ONNX_RUNTIME = tuple(name for name in RUNTIMES.names() if issubclass(RUNTIMES.get(name), OnnxRuntime))
OTHERS = ("onnxruntime-web", "opencv-dnn", "openvino", "tract")
NAMES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "squeezenet1_1",
    "vgg11",
)


def random_network(name: str, size: int) -> nn.Module:
    """The network with random weights and the BN statistics of random images [16, 3, ``size``, ``size``]."""
    torch.manual_seed(0)
    return with_statistics(getattr(torchvision().models, name)(weights=None), (3, size, size))


def with_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """``model`` in eval mode, its batch norms random and with the statistics of random images of ``shape`` [C, H, W]."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.rand(16, *shape))
    return model.eval()


def row(name: str, images: int, size: int, folder: Path) -> str:
    """One line of the table."""
    model = random_network(name, size)
    shape = (3, size, size)
    quantized = qs.quantize(model, [torch.rand(16, *shape) for _ in range(2)], torch.rand(2, *shape), input_scale=1 / 255)
    exported = qs.export_onnx(quantized, folder / f"{name}.onnx")
    pixels = torch.randint(0, 256, (images, *shape), dtype=torch.uint8)
    report = qs.cross_check(exported, pixels, [*ONNX_RUNTIME, *OTHERS])
    print(f"{name}\n{report}\n", flush=True)
    certificate = certify(exported[0].path).summary
    proofs = " | ".join("yes" if certificate[key] else "no" for key in ("integer_kernels", "float_executors", "saturation_safe"))
    engines = sorted({check.runtime for check in report.checks if check.runtime.startswith("pytorch-")})
    groups = [engines, ONNX_RUNTIME, *([runtime] for runtime in OTHERS)]
    return f"| {name} | {' | '.join(summary(report, group) for group in groups)} | {proofs} |"


def summary(report: CrossCheck, runtimes: Sequence[str]) -> str:
    """The least share of equal rows of these executors, with the largest distance; "-" if none of them took a file."""
    checks = [check for check in report.checks if check.runtime in runtimes]
    if not checks:
        return "-"
    steps = max(check.max_steps or 0 for check in checks)
    return f"{min(check.rows_equal for check in checks):.2%}" + (f" ({steps:g} steps)" if steps else "")


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="random images (default: 256)")
    parser.add_argument("--size", type=int, default=96, help="of the images in pixels (default: 96)")
    parser.add_argument("--names", nargs="*", default=NAMES, choices=NAMES, help="which networks (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"), help="folder of what is written")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    head = [
        "# Networks of torchvision",
        "",
        f"Written by `python experiments/networks.py`: random weights, {chosen.images} random uint8 images, {chosen.size} x {chosen.size}.",
        "Rows of logits that are equal bit for bit to PyTorch's engine x86, and the largest distance where not all are: the least",
        "over PyTorch's engines, over ONNX Runtime's optimisation levels, and for each other runtime, with both forms of the file",
        "(- where it is not installed or takes neither); then what `qstrategies certify` proves from the portable file.",
        "",
        f"| network | PyTorch | ONNX Runtime | {' | '.join(OTHERS)} | integer kernels | float executors | without VNNI |",
        f"| --- | ---: | ---: |{' ---: |' * len(OTHERS)} --- | --- | --- |",
    ]
    rows = [row(name, chosen.images, chosen.size, chosen.out) for name in chosen.names]
    text = "\n".join([*head, *rows]) + "\n"
    atomic_write(chosen.out / "networks.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
