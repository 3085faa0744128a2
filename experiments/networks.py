"""Eight torchvision networks with random weights: the same bits in every engine and runtime, and what the file proves.

python experiments/networks.py [--images 256] [--size 96] [--out runs/networks]
"""

from __future__ import annotations

import argparse
import sys
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
    runtimes = [runtime for runtime in RUNTIMES.names() if RUNTIMES.get(runtime).image_limit is None]
    report = qs.cross_check(exported, pixels, runtimes)
    print(f"{name}\n{report}\n", flush=True)
    certificate = certify(exported[0].path).summary
    proofs = " | ".join("yes" if certificate[key] else "no" for key in ("integer_kernels", "float_executors", "saturation_safe"))
    return f"| {name} | {summary(report, 'pytorch-')} | {summary(report, 'onnxruntime-')} | {others(report)} | {proofs} |"


def summary(report: CrossCheck, prefix: str) -> str:
    """The share of equal rows over all executors whose name begins so."""
    checks = [check for check in report.checks if check.runtime.startswith(prefix)]
    return f"{min(check.rows_equal for check in checks):.2%} of {len(checks)}"


def others(report: CrossCheck) -> str:
    """The other runtimes, each with its share of equal rows."""
    checks = [check for check in report.checks if not check.runtime.startswith(("pytorch-", "onnxruntime-"))]
    return ", ".join(f"{check.runtime} {check.rows_equal:.2%}" for check in checks if check.file.count(".") == 1) or "-"


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
        "Rows of logits that are equal bit for bit to PyTorch's engine x86: the least over PyTorch's engines, and over ONNX Runtime's",
        "optimisation levels with both forms of the file; then what `qstrategies certify` proves from the portable file.",
        "",
        "| network | PyTorch | ONNX Runtime | other runtimes | integer kernels | float executors | without VNNI |",
        "| --- | ---: | ---: | --- | --- | --- | --- |",
    ]
    rows = [row(name, chosen.images, chosen.size, chosen.out) for name in chosen.names]
    text = "\n".join([*head, *rows]) + "\n"
    atomic_write(chosen.out / "networks.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
