"""Networks of torchvision and timm with random weights: what gets through, with which bits, proof
and noise.

python experiments/networks.py [--images 32] [--names resnet18 ...] [--out runs/networks]

Each network is measured once and kept in the folder as JSON, so that an interrupted run goes on
where it was. timm's networks need `pip install 'qstrategies[networks]'`, and are left out without
it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.datasets.torchvision_import import torchvision
from qstrategies.execution.crosscheck import CrossCheck
from qstrategies.files import atomic_write
from qstrategies.quantization.structure import leaves
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

ONNX_RUNTIME = tuple(
    name for name in RUNTIMES.names() if issubclass(RUNTIMES.get(name), OnnxRuntime)
)
OTHERS = ("onnxruntime-web", "opencv-dnn", "openvino", "tract")
CALIBRATION, TOP = 16, 0.8  # images, and the brightest value in them: the test images exceed it


@dataclass(frozen=True)
class Network:
    """Where a network comes from, and the images that it is given."""

    name: str
    source: str = "classification"
    shape: tuple[int, ...] = (3, 96, 96)
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network with random weights and the statistics of random images."""
        torch.manual_seed(0)
        models: Any = torchvision().models  # timm imports torchvision too
        if self.source == "timm":
            timm = importlib.import_module("timm")
            return with_statistics(timm.create_model(self.name, pretrained=False), self.shape)
        home = models if self.source == "classification" else getattr(models, self.source)
        return with_statistics(getattr(home, self.name)(weights=None, **self.settings), self.shape)


SEGMENTATION: dict[str, Any] = {"source": "segmentation", "settings": {"weights_backbone": None}}
LARGE, VIDEO = (3, 224, 224), (3, 4, 48, 48)
TORCHVISION = (
    *(Network(name) for name in ("alexnet", "vgg11", "vgg11_bn", "squeezenet1_0", "squeezenet1_1")),
    *(
        Network(name)
        for name in ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
    ),
    *(
        Network(name)
        for name in (
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mobilenet_v3_large",
            "mnasnet0_5",
            "mnasnet1_0",
        )
    ),
    *(
        Network(name)
        for name in (
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
            "efficientnet_b0",
            "efficientnet_v2_s",
        )
    ),
    *(
        Network(name)
        for name in ("regnet_y_400mf", "regnet_x_400mf", "densenet121", "convnext_tiny")
    ),
    Network("googlenet", settings={"init_weights": False}),
    Network("inception_v3", settings={"init_weights": False, "aux_logits": False}),
    *(Network(name, shape=LARGE) for name in ("vit_b_32", "swin_t")),
    Network("lraspp_mobilenet_v3_large", **SEGMENTATION),
    Network("fcn_resnet50", **SEGMENTATION),
    *(Network(name, "video", VIDEO) for name in ("r3d_18", "mc3_18", "r2plus1d_18")),
)
TIMM = (
    *(
        Network(name, "timm")
        for name in ("mobilenetv3_small_050", "lcnet_050", "ghostnet_050", "repvgg_a0", "mixnet_s")
    ),
    *(
        Network(name, "timm")
        for name in ("efficientnet_lite0", "tinynet_e", "resnet10t", "fbnetc_100", "mobileone_s0")
    ),
    *(
        Network(name, "timm")
        for name in ("convnext_atto", "semnasnet_075", "spnasnet_100", "rexnet_100", "dla34")
    ),
    *(Network(name, "timm", (3, 128, 128)) for name in ("mobilevit_xxs", "edgenext_xx_small")),
    *(
        Network(name, "timm", LARGE)
        for name in ("levit_128s", "vit_tiny_patch16_224", "deit_tiny_patch16_224")
    ),
)


def networks() -> dict[str, Network]:
    """All that can be had here, by name."""
    known = [*TORCHVISION, *(TIMM if importlib.util.find_spec("timm") else ())]
    return {network.name: network for network in known}


def random_network(name: str, size: int) -> nn.Module:
    """A classifier of torchvision with random weights and the statistics of random images [16, 3,
    ``size``, ``size``]."""
    return Network(name, shape=(3, size, size)).build()


def with_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """``model`` in eval mode, its batch norms random and with the statistics of random images of
    ``shape`` [C, ...]."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            # of all batches alike: what a momentum leaves of the variance of 1 that they begin with
            # can exceed that of small activations, and deep networks would lose their signal
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.rand(16, *shape))
    return model.eval()


def measured(network: Network, images: int, folder: Path) -> dict[str, Any]:
    """The figures of one network, or the one line with which it was refused."""
    model, started = network.build(), time.perf_counter()
    generator = torch.Generator().manual_seed(1)
    calibration = torch.rand(CALIBRATION, *network.shape, generator=generator) * TOP
    try:
        quantized = qs.quantize(model, [calibration], calibration[:2], input_scale=1 / 255)
        exported = qs.export_onnx(quantized, folder / f"{network.name}.onnx")
    except qs.InputError as error:
        return {"name": network.name, "source": network.source, "refused": str(error)}
    seconds = time.perf_counter() - started
    pixels = torch.randint(0, 256, (images, *network.shape), dtype=torch.uint8, generator=generator)
    report = qs.cross_check(exported, pixels, [*ONNX_RUNTIME, *OTHERS])
    free = qs.quantize(
        model,
        [calibration],
        calibration[:2],
        input_scale=1 / 255,
        config=qs.QuantizationConfig(exact=False),
    )
    expected = outputs(model, pixels.float() / 255)
    certificate = exported[0].certificate or {}
    engines = sorted(
        {check.runtime for check in report.checks if check.runtime.startswith("pytorch-")}
    )
    return {
        "name": network.name,
        "source": network.source,
        "islands": dict(
            collections.Counter(
                island.module.name for island in quantized.islands if hasattr(island.module, "name")
            )
        ),
        "float_bytes": sum(island.size for island in quantized.islands),
        "equal": [
            summary(report, group)
            for group in (engines, ONNX_RUNTIME, *([name] for name in OTHERS))
        ],
        "proofs": [
            bool(certificate.get(key))
            for key in ("integer_kernels", "float_executors", "saturation_safe")
        ],
        "decibels": [
            centred(expected, outputs(each.reference(), pixels)) for each in (quantized, free)
        ],
        "seconds": seconds,
    }


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """The first output for ``images``, in small batches."""
    parts = [
        next(each for _, each in leaves(model(part)) if isinstance(each, Tensor))
        for part in images.split(8)
    ]
    return torch.cat(parts)


def centred(expected: Tensor, found: Tensor) -> float:
    """Signal to noise in dB, the signal less its mean over the images: a constant logit is no
    signal."""
    signal = (expected - expected.mean(0, keepdim=True)).square().sum()
    return float(10 * torch.log10(signal / (expected - found).square().sum()))


def summary(report: CrossCheck, runtimes: Sequence[str]) -> str:
    """The least share of equal rows of these executors, with the largest distance; "-" if none of
    them took a file."""
    checks = [check for check in report.checks if check.runtime in runtimes]
    if not checks:
        return "-"
    least = min(check.rows_equal for check in checks)
    steps = max(check.max_steps or 0 for check in checks)
    return "all" if least == 1 else f"{least:.0%} ({steps:.3g} steps)"


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    name = f"{found['name']} (timm)" if found["source"] == "timm" else found["name"]
    if "refused" in found:
        return f"| {name} | refused: {found['refused']} |" + " |" * (len(OTHERS) + 6)
    islands = (
        ", ".join(f"{count} {kind}" for kind, count in sorted(found["islands"].items())) or "-"
    )
    proofs = {True: "yes", False: "no"}
    exact, free = found["decibels"]
    cells = [islands, *found["equal"], *(proofs[each] for each in found["proofs"])]
    return f"| {name} | {' | '.join(cells)} | {exact:.1f} / {free:.1f} | {found['seconds']:.1f} |"


HEAD = """# Networks of torchvision and timm

Written by `python experiments/networks.py`: random weights, batch norms with the statistics of random images, dropout present,
calibrated on {calibration} random images in [0, {top}], tested on {images} in [0, 1]: further than the calibration saw.
{accepted} of {all} networks are accepted without options; {proven} are integers from end to end and certified.

*Float islands*: what stays in float by itself. *Rows equal* to the reference on the grid, bit for bit: the least over PyTorch's
four engines, over ONNX Runtime's four optimisation levels, and for each other runtime, with both forms of the file (- where it
takes neither). Then what `certify` proves. *dB*: signal to noise of the first output against the float model, less its mean over
the images, with exact and with free scales (random weights: compare along a row). *s*: seconds from the model to certified files.
OpenVINO leaves out the rounding between a convolution and the addition behind it, and rounds some ties its own way (exactness.md).

"""  # noqa: E501


def page(found: list[dict[str, Any]], images: int) -> str:
    """The table with what it says."""
    accepted = [each for each in found if "refused" not in each]
    head = HEAD.format(
        calibration=CALIBRATION,
        top=TOP,
        images=images,
        accepted=len(accepted),
        all=len(found),
        proven=sum(all(each["proofs"][:2]) for each in accepted),
    )
    proofs = "integer kernels | float executors | without VNNI"
    lines = [
        (
            f"| network | float islands | PyTorch | ONNX Runtime | {' | '.join(OTHERS)} | "
            f"{proofs} | dB | s |"
        ),
        f"| --- | --- | --- | --- |{' --- |' * len(OTHERS)} --- | --- | --- | ---: | ---: |",
        *(row(each) for each in found),
    ]
    return head + "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is not measured yet, and write the table of all that is."""
    known = networks()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="random test images (default: 32)")
    parser.add_argument(
        "--names",
        nargs="*",
        default=list(known),
        choices=list(known),
        help="which networks (default: all)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/networks"), help="folder of what is written"
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names:
        path = chosen.out / f"{name}.json"
        if not path.exists():
            found = measured(known[name], chosen.images, chosen.out)
            atomic_write(path, json.dumps(found, indent=1) + "\n")
            print(row(found), flush=True)
            with contextlib.suppress(FileNotFoundError):
                (chosen.out / f"{name}.onnx").unlink()
                (chosen.out / f"{name}.fast.onnx").unlink()
    files = [chosen.out / f"{name}.json" for name in known]
    text = page([json.loads(path.read_text()) for path in files if path.exists()], chosen.images)
    atomic_write(chosen.out / "networks.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
