"""Which executor gives the same bits on which models, over whole test splits: writes
docs/runtimes.md.

python experiments/runtimes.py [FILE...] [--data-dir FOLDER] [--older PYTHON...] [--out FILE]

Files of one model stand in one column. An ONNX file with golden vectors runs in a browser and on an
emulated microcontroller too, one with NAME.safetensors beside it in PyTorch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from elsewhere import (
    Found,
    chromium,
    in_older_runtime,
    in_pytorch,
    location_of,
    on_microcontroller,
)

from qstrategies.cli import guarded
from qstrategies.datasets import made_dataset
from qstrategies.errors import InputError
from qstrategies.execution.subject import Subject
from qstrategies.execution.verify import verify
from qstrategies.experiment.environment import describe
from qstrategies.files import atomic_write
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.c99 import COMPILER
from qstrategies.runtimes.onnxruntime_web import FOLDER as WEB
from qstrategies.specification.vectors import vectors_path
from qstrategies.text import markdown

PACKAGES = {
    "openvino": "openvino",
    "opencv-dnn": "opencv-python-headless",
    "tract": "tract",
    "numpy-integer": "numpy",
    "onnx-reference": "onnx",
    "litert-builtin": "ai-edge-litert",
    "litert-reference": "ai-edge-litert",
    "litert-xnnpack": "ai-edge-litert",
    "tflite-micro": "tflite-micro",
}


SLOW = {
    "onnx-reference": 32,
    "litert-reference": 2000,
    "tflite-micro": 1000,
}  # images of each file; all others run the whole split, as slow as they are


COMMITTED = ("**/*.onnx", "**/*.tflite")
HEAD = """# Runtimes

Written by `python experiments/runtimes.py` on {date}: {cpu}.
So many files of each model in [exported/](../exported/README.md) have outputs of which every bit is that of the reference (ONNX Runtime without
optimisations), on every example of the test split, or as many as it says. Executors take files of different forms: portable and fast
ONNX, TFLite, the C99 form (made here of the portable file), the saved model of PyTorch.
"""  # noqa: E501
OTHERS = """
## Others that were tried

- ncnn 1.0.20261020: its importer (pnnx) leaves QuantizeLinear and DequantizeLinear as they are, which ncnn does not know, and
  ncnn does not load the result. Its own int8 files have scales that its own tool finds.
- ESP-DL's simulator (esp-ppq 1.3.12): it reads the graph, but its executor fails at the first QuantizeLinear or DequantizeLinear; it
  quantizes float models with scales of its own.
- ONNX files with weights of 4 bits (`--form int4`, operator set 21, IR 10): ONNX Runtime 1.16.3 refuses them; 1.20.1 and 1.32.0, onnxruntime-web
  1.30.0, OpenVINO 2026.4.1 and the ONNX reference evaluator give the bits of the portable file; OpenCV 5.0 and tract 0.23.9 do not load them.
- MNN's converter installs packages by itself when it starts, so it was not run.
"""  # noqa: E501


def version_of(runtime: str) -> str:
    """The version of what computes in ``runtime``."""
    if runtime == "onnxruntime-web":
        return json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    if runtime == "c99":
        command = [COMPILER, "-dumpfullversion"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"{COMPILER} {done.stdout.strip()}"
    return version(PACKAGES.get(runtime, "onnxruntime"))


def title_of(path: Path) -> str:
    """What is said of the model in ``path``, above the column of all alike."""
    metadata = Subject.of(path).metadata
    return f"{metadata['model']}{', fixed point' * bool(metadata.get('fixed_point'))}"


def found_in(
    path: Path, data: Path | None, older: Sequence[Path], in_browser: Callable[[Path], list[Found]]
) -> tuple[list[Found], dict[str, str]]:
    """What every executor makes of ``path``, and why others were skipped."""
    subject = Subject.of(path)
    dataset = subject.metadata["dataset"]
    location = location_of(dataset, data)
    report = verify(path, location)
    checks = report["checks"]
    found = [
        Found(
            check["runtime"],
            version_of(check["runtime"]),
            str(check["images"]),
            check["rows_equal"] == 1 and check["pytorch_bits"] is not False,
            check["known"],
        )
        for check in checks
    ]
    if path.suffix == ".onnx":
        images = made_dataset(dataset, location).splits["test"].images
        inputs = [subject.takes(images)]
        found += in_pytorch(path, inputs)
        found += [in_older_runtime(python, path, inputs[0]) for python in older]
        found += in_browser(path)
        portable = vectors_path(path).exists()
        found += on_microcontroller(path) if portable else []
    return found, report["skipped"]


def table(found: Mapping[Path, Sequence[Found]], skipped: Mapping[str, str]) -> str:
    """A row for each executor, a column for each model: how many of its files have the bits."""
    columns: dict[str, list[Sequence[Found]]] = defaultdict(list)
    for path, each in found.items():
        columns[title_of(path)].append(each)
    columns = dict(sorted(columns.items()))
    names = dict.fromkeys(each.executor for group in found.values() for each in group)
    headings = [f"{title}, {len(groups)} files" for title, groups in columns.items()]
    lines = [
        f"| executor | version | examples | {' | '.join(headings)} |",
        f"| --- | --- | ---: | {' | '.join(['---:'] * len(columns))} |",
    ]
    for name in sorted(names):
        cells = [
            [each for group in groups for each in group if each.executor == name]
            for groups in columns.values()
        ]
        first = next(each for cell in cells for each in cell)
        counts = " | ".join(map(same, cells))
        lines.append(f"| {name} | {first.version} | {first.over} | {counts} |")
    lines += [
        f"| {name} | skipped: {markdown(reason)} | - | {' | '.join(['-'] * len(columns))} |"
        for name, reason in sorted(skipped.items())
        if name not in names
    ]
    return "\n".join(lines)


def same(cell: Sequence[Found]) -> str:
    """How many of a cell found the same bits; "-" of none."""
    return f"{sum(each.equal for each in cell)} of {len(cell)}" if cell else "-"


def apart(found: Iterable[Sequence[Found]]) -> str:
    """Why executors are apart, one line for each reason."""
    reasons = {
        (each.executor, each.reason or "DIFFERENT")
        for group in found
        for each in group
        if not each.equal
    }
    return "".join(f"\n{name}: {reason}.\n" for name, reason in sorted(reasons))


def page(found: Mapping[Path, Sequence[Found]], skipped: Mapping[str, str]) -> str:
    """All of docs/runtimes.md."""
    cpu = ", ".join([describe()["cpu"], *describe()["cpu_flags"]])
    head = HEAD.format(date=datetime.date.today(), cpu=cpu)
    return f"{head}\n{table(found, skipped)}\n{apart(found.values())}{OTHERS}"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    committed = [path for pattern in COMMITTED for path in sorted(Path("exported").glob(pattern))]
    parser.add_argument(
        "files", type=Path, nargs="*", default=committed, help="default: those in exported/"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="with the IDX files of a dataset that is not in the package"
    )
    parser.add_argument(
        "--older",
        type=Path,
        nargs="*",
        default=[],
        metavar="PYTHON",
        help="interpreters with NumPy and another ONNX Runtime",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/runtimes.md"), help="what to write")
    return parser.parse_args()


def main() -> int:
    """The command line."""
    chosen = arguments()
    if not chosen.files:
        raise InputError("no files: name some, or run this where exported/ is")
    for name in RUNTIMES.names():
        RUNTIMES.get(name).image_limit = SLOW.get(name)
    found: dict[Path, list[Found]] = {}
    skipped: dict[str, str] = {}
    with chromium() as in_browser:
        for path in chosen.files:
            found[path], reasons = found_in(path, chosen.data_dir, chosen.older, in_browser)
            skipped |= reasons
            print(f"{path}: {sum(each.equal for each in found[path])} of {len(found[path])}")
    text = page(found, skipped)
    atomic_write(chosen.out, text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
