"""Which runtime gives the same bits on which models, over the whole test split: writes
docs/runtimes.md.

python experiments/runtimes.py [FILE...] [--data-dir FOLDER] [--out docs/runtimes.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qstrategies.cli import guarded
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError
from qstrategies.execution.subject import Subject
from qstrategies.execution.verify import verify
from qstrategies.experiment.environment import describe
from qstrategies.export.forms import executors_of
from qstrategies.files import atomic_write
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.c99 import COMPILER
from qstrategies.runtimes.onnxruntime_web import FOLDER as WEB
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


COMMITTED = ("*.onnx", "fixed_point/*.onnx", "fixed_point/*.tflite")
HEAD = """# Runtimes

Written by `python experiments/runtimes.py` on {date}: {cpu}.
So many files have logits that are bit-equal to those of PyTorch on every image, by model and form of the file. The C99 form is made of
the portable file; [c99.md](c99.md) has it on an emulated microcontroller too.
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


def form_of(path: Path) -> str:
    """The form of a file, by its name."""
    if path.suffix == ".onnx":
        return "fast" if ".fast." in path.name else "portable"
    return path.suffix.removeprefix(".")


def table(reports: list[dict[str, Any]]) -> str:
    """One line per runtime: how many files of each form it gave the same bits for, and on how many
    images of each."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    skipped: dict[str, str] = {}
    for report in reports:
        skipped |= report["skipped"]
        for check in report["checks"]:
            found[check["runtime"], form_of(Path(report["file"]))].append(check)
    files = [Path(report["file"]) for report in reports]
    forms = list(dict.fromkeys(form_of(file) for file in files))
    lines = [
        f"| runtime | version | images per file | {' | '.join(forms)} |",
        f"| --- | --- | ---: | {' | '.join(['---:'] * len(forms))} |",
    ]
    names = dict.fromkeys(name for file in files for name in executors_of(file))
    for name in names:
        groups = [found[name, form] for form in forms]
        if not any(groups):
            cells = " | ".join("-" for _ in forms)
            lines.append(f"| {name} | skipped: {markdown(skipped[name])} | - | {cells} |")
            continue
        images = max(check["images"] for checks in groups for check in checks)
        cells = " | ".join(map(same, groups))
        lines.append(f"| {name} | {version_of(name)} | {images} | {cells} |")
    return "\n".join(lines)


def same(checks: list[dict[str, Any]]) -> str:
    """How many of ``checks`` found the same bits; "-" of none."""
    equal = sum(check["rows_equal"] == 1 for check in checks)
    return f"{equal} of {len(checks)}" if checks else "-"


def title_of(path: Path) -> str:
    """What is said of the model in ``path``, above the table of all alike."""
    metadata = Subject.of(path).metadata
    return f"{metadata['model']}{' with fixed_point' * bool(metadata.get('fixed_point'))}"


def section(title: str, reports: list[dict[str, Any]]) -> str:
    """The table of the files that ``title`` names, and why an executor is apart."""
    apart = {
        (check["runtime"], check["known"])
        for report in reports
        for check in report["checks"]
        if check["runtime"] in report["apart"]
    }
    notes = [f"\n{name}: {known or 'DIFFERENT'}.\n" for name, known in sorted(apart, key=str)]
    return f"\n## {title}, {len(reports)} files\n\n{table(reports)}\n{''.join(notes)}"


def page(found: Mapping[Path, dict[str, Any]]) -> str:
    """All of docs/runtimes.md, from the report of each file."""
    by_title = defaultdict(list)
    for path, report in found.items():
        by_title[title_of(path)].append(report)
    cpu = ", ".join([describe()["cpu"], *describe()["cpu_flags"]])
    head = HEAD.format(date=datetime.date.today(), cpu=cpu)
    return head + "".join(section(*each) for each in sorted(by_title.items())) + OTHERS


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
    parser.add_argument("--out", type=Path, default=Path("docs/runtimes.md"), help="what to write")
    return parser.parse_args()


def main() -> int:
    """The command line."""
    chosen = arguments()
    if not chosen.files:
        raise InputError("no files: name some, or run this where exported/ is")
    for name in RUNTIMES.names():
        RUNTIMES.get(name).image_limit = SLOW.get(name)
    location = Location(folder=chosen.data_dir)
    text = page({path: verify(path, location) for path in chosen.files})
    atomic_write(chosen.out, text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
