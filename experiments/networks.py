"""Networks of torchvision and timm with random weights: what gets through, with which bits, proof
and noise.

python experiments/networks.py [--images 32] [--names resnet18 ...] [--out runs/networks]

Each network is measured once, in a process of its own, and kept in the folder as JSON, so that an
interrupted run goes on where it was. timm's networks need `pip install 'qstrategies[networks]'`,
and are left out without it.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tools import file_outputs, static_file
from torch import Tensor, nn
from zoo import Network, networks, random_images

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.execution.crosscheck import CrossCheck
from qstrategies.execution.distance import unexplained
from qstrategies.experiment.environment import describe
from qstrategies.files import atomic_write
from qstrategies.operators.island import BESIDE_FLOAT, ONLY_DIVIDES
from qstrategies.quantization.structure import leaves
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnx_runtime import OnnxRuntime

ONNX_RUNTIME = tuple(
    name for name in RUNTIMES.names() if issubclass(RUNTIMES.get(name), OnnxRuntime)
)
OTHERS = ("onnxruntime-web", "opencv-dnn", "openvino", "tract")
PROOFS = {
    "integer_kernels": "integer kernels",
    "float_executors": "float executors",
    "saturation_safe": "without VNNI",
}
COLUMNS = (
    *("network", "float islands", "PyTorch", "ONNX Runtime", *OTHERS, "proven"),
    *("dB", "free", "static", "s", "static s"),
)
FIGURES = 5  # columns of numbers, at the end
CALIBRATION, TOP = 16, 0.8  # images, and the brightest value in them: the test images exceed it

Found = dict[str, Any]
T = TypeVar("T")


def measured(network: Network, images: int, folder: Path) -> Found:
    """The figures of one network, or the one line with which it was refused, or failed."""
    torch.set_num_threads(1)
    vnni = any("vnni" in flag for flag in describe()["cpu_flags"])
    model, found = network.build(), {"name": network.name, "source": network.source, "vnni": vnni}
    generator = torch.Generator().manual_seed(1)
    calibration = random_images(CALIBRATION, network.shape, generator) * TOP
    pixels = (random_images(images, network.shape, generator) * 255).round().to(torch.uint8)
    try:
        return found | _figures(model, calibration, pixels, folder)
    except qs.InputError as error:
        return found | {"refused": _line(error)}
    except Exception as error:
        return found | {"fault": f"{type(error).__name__}: {_line(error)}"}


def _figures(model: nn.Module, calibration: Tensor, pixels: Tensor, folder: Path) -> Found:
    def quantized(config: qs.QuantizationConfig) -> qs.QuantizedModel:
        return qs.quantize(
            model, [calibration], calibration[:2], input_scale=1 / 255, config=config
        )

    def road() -> list[qs.ExportedModel]:
        return qs.export_onnx(quantized(qs.QuantizationConfig()), folder / "ours.onnx")

    exported, seconds = timed(road)
    exact = exported[0].quantized
    assert exact is not None
    certificate = exported[0].certificate or {}
    inside = (pixels * TOP).round().to(torch.uint8)  # noise is measured where calibration was
    expected = outputs(model, inside.float() / 255)
    free = quantized(qs.QuantizationConfig(exact=False))
    beside = BESIDE_FLOAT, ONLY_DIVIDES
    islands = [each.module for each in exact.islands if each.reason not in beside]
    return {
        "islands": collections.Counter(str(module.name) for module in islands),
        "float_bytes": sum(island.size for island in exact.islands),
        "equal": equal_rows(exported, pixels),
        "proven": [name for key, name in PROOFS.items() if certificate.get(key)],
        "unproven": None if exact.islands else first_breach(exported[0].path),
        "decibels": centred(expected, outputs(exact.reference(), inside)),
        "free": centred(expected, outputs(free.reference(), inside)),
        "seconds": seconds,
        "static": _static(model, calibration, inside, expected, folder),
    }


def first_breach(path: Path) -> str | None:
    """What first breaks a guarantee of the file ``path``, None if nothing does."""
    found = itertools.chain(*qs.certify(path).breaches.values())
    return next((f"{breach.node}: {breach.reason}" for breach in found), None)


def _static(
    model: nn.Module, calibration: Tensor, pixels: Tensor, expected: Tensor, folder: Path
) -> Found:
    """The same figures of quantize_static's file in ONNX Runtime, or why there is none."""
    try:
        path, seconds = timed(lambda: static_file(model, calibration, folder))
        found = file_outputs(path, pixels.float() / 255)
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {_line(error)}"}
    return {"decibels": centred(expected, found), "seconds": seconds}


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """What ``action`` gives, and its seconds of one core."""
    started = time.thread_time()
    result = action()
    return result, time.thread_time() - started


def _line(error: Exception) -> str:
    """The first line of what it says, with nothing that ends a cell of the table."""
    return str(error).strip().partition("\n")[0].replace("|", "/")[:200]


def equal_rows(exported: Sequence[qs.ExportedModel], pixels: Tensor) -> list[str]:
    """One cell for PyTorch's engines, one for ONNX Runtime, one for every other runtime."""
    report = qs.cross_check(exported, pixels, [*ONNX_RUNTIME, *OTHERS])
    engines = {check.runtime for check in report.checks if check.runtime.startswith("pytorch-")}
    groups = (sorted(engines), ONNX_RUNTIME, *([name] for name in OTHERS))
    return [summary(report, group) for group in groups]


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
    """The least share of equal rows of these executors, with the largest distance, and whether it
    is known what they compute instead; "-" if none of them took a file."""
    checks = [check for check in report.checks if check.runtime in runtimes]
    if not checks:
        return "-"
    least = min(check.rows_equal for check in checks)
    steps = max(check.max_steps or 0 for check in checks)
    if least == 1:
        return "all"
    known = "" if any(map(unexplained, checks)) else ", known"
    return f"{least:.0%} ({steps:.3g} steps{known})"


def row(found: Found) -> str:
    """One line of the table."""
    name = f"{found['name']} (timm)" if found["source"] == "timm" else found["name"]
    for key in ("refused", "fault"):
        if key in found:
            return f"| {name} | {key}: {found[key]} |" + " |" * (len(COLUMNS) - 2)
    islands = ", ".join(f"{count} {kind}" for kind, count in sorted(found["islands"].items()))
    cells = [name, islands or "-", *found["equal"], _proven(found), *_numbers(found)]
    return f"| {' | '.join(cells)} |"


def _proven(found: Found) -> str:
    """What is proven, and why no more is."""
    if len(found["proven"]) == len(PROOFS):
        return "all"
    proven = ", ".join(found["proven"]) or "-"
    return f"{proven} ({found['unproven']})" if found["unproven"] else proven


def _numbers(found: Found) -> list[str]:
    static = found["static"]
    figures = [found["decibels"], found["free"], static.get("decibels")]
    figures += [found["seconds"], static.get("seconds")]
    return ["-" if figure is None else f"{figure:.1f}" for figure in figures]


HEAD = """# Networks of torchvision and timm

Written by `python experiments/networks.py`: random weights, batch norms with the statistics of
random images, dropout present, calibrated on {calibration} random images in [0, {top}]; bits are
compared on {images} in [0, 1], further than the calibration saw, and noise on as many in
[0, {top}]. {accepted} of {all} networks are accepted without options; {proven} are integers from
end to end and certified; {unequal} of these differ between PyTorch, ONNX Runtime, its web build
and tract.

- *float islands*: what stays in float by itself.
- *PyTorch* to *tract*: rows equal to the reference on the grid, bit for bit: the least over
  PyTorch's four engines, over ONNX Runtime's four optimisation levels, and for each other runtime,
  with both forms of the file (- where it takes neither). *known*: they are those of the file
  as the runtime changes it: OpenVINO roundings before additions and behind linear layers without a
  bias, OpenCV the padding of averages (exactness.md).
- *proven*: what `certify` proves; of a network of integers also why no more.
- *dB*: signal to noise of the first output against the float model, less its mean over the images;
  *free*: the same with free scales; *static*: the same of onnxruntime's `quantize_static` in ONNX
  Runtime (QDQ, per channel, minimum and maximum of the same images, told that images lie in
  [0, 1]) on a CPU {cpu} VNNI: without it, the 16-bit sums of such files saturate; *dB* is above it
  in {better} of {compared} rows. Random weights: compare along a row.
- *s*: seconds of one core from the model to certified files, calibration and self-checks included;
  *static s*: to the file of `quantize_static`, with its float export.

"""


def page(found: list[Found], images: int) -> str:
    """The table with what it says, and below it why a tool has no figures."""
    accepted = [each for each in found if "equal" in each]
    certified = [each for each in accepted if len(each["proven"]) >= 2 and not each["islands"]]
    noises = [(each["decibels"], each["static"].get("decibels")) for each in accepted]
    compared = [ours > theirs for ours, theirs in noises if theirs is not None]
    head = HEAD.format(
        calibration=CALIBRATION,
        top=TOP,
        images=images,
        accepted=len(accepted),
        all=len(found),
        proven=len(certified),
        unequal=sum(not _equal(each) for each in certified),
        better=sum(compared),
        compared=len(compared),
        cpu=" or ".join(sorted({"with" if each["vnni"] else "without" for each in found})),
    )
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * (len(COLUMNS) - FIGURES) + " ---: |" * FIGURES,
        *(row(each) for each in found),
    ]
    missing = {each["name"]: each["static"].get("reason") for each in accepted}
    notes = [f"- {name}: {reason}" for name, reason in missing.items() if reason]
    if notes:
        lines += [
            "",
            "Where `quantize_static`, or the float export that it needs, fails:",
            "",
            *notes,
        ]
    return head + "\n".join(lines) + "\n"


def _equal(found: Found) -> bool:
    """Whether the executors that the certificate speaks of agree: all but OpenCV and OpenVINO."""
    cells = dict(zip(("PyTorch", "ONNX Runtime", *OTHERS), found["equal"], strict=True))
    return all(cells[name] in ("all", "-") for name in cells.keys() - {"opencv-dnn", "openvino"})


def in_own_process(network: Network, images: int) -> Found:
    """``measured``, whose memory is given back."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(1, context) as pool,
    ):
        return pool.submit(measured, network, images, Path(folder)).result()


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
            found = in_own_process(known[name], chosen.images)
            atomic_write(path, json.dumps(found, indent=1) + "\n")
            print(row(found), flush=True)
    files = [chosen.out / f"{name}.json" for name in known]
    text = page([json.loads(path.read_text()) for path in files if path.exists()], chosen.images)
    atomic_write(chosen.out / "networks.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
