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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qstrategies.cli import guarded
from qstrategies.datasets.base import Location
from qstrategies.errors import InputError
from qstrategies.execution.verify import verify
from qstrategies.experiment.environment import describe
from qstrategies.export.forms import executors_of
from qstrategies.files import atomic_write
from qstrategies.onnx_file import read_metadata
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
}


SLOW = {
    "onnx-reference": 32
}  # images of each file; all others run the whole split, as slow as they are


def version_of(runtime: str) -> str:
    """The version of what computes in ``runtime``."""
    if runtime == "onnxruntime-web":
        return json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    if runtime == "c99":
        command = [COMPILER, "-dumpfullversion"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"{COMPILER} {done.stdout.strip()}"
    return version(PACKAGES.get(runtime, "onnxruntime"))


def table(reports: list[dict[str, Any]]) -> str:
    """One line per runtime: how many files of each form it gave the same bits for, and on how many
    images of each."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        for check in report["checks"]:
            found[check["runtime"], ".fast." in report["file"]].append(check)
    lines = [
        "| runtime | version | images per file | portable | fast |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name in executors_of(Path("model.onnx")):
        both = [found[name, fast] for fast in (False, True)]
        if not any(both):
            reason = markdown(next(report["skipped"][name] for report in reports))
            lines.append(f"| {name} | skipped: {reason} | - | - | - |")
            continue
        images = max(check["images"] for checks in both for check in checks)
        same = list(map(_same, both))
        lines.append(f"| {name} | {version_of(name)} | {images} | {same[0]} | {same[1]} |")
    return "\n".join(lines)


def _same(checks: list[dict[str, Any]]) -> str:
    """How many files gave the same bits, of those that the runtime takes."""
    equal = sum(check["rows_equal"] == 1 for check in checks)
    return f"{equal} of {len(checks)}" if checks else "-"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    committed = sorted(Path("exported").glob("*.onnx"))
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        default=committed,
        help="exported models (default: those in exported/)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the IDX files of a dataset that is not in the package",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/runtimes.md"),
        help="what to write (default: docs/runtimes.md)",
    )
    chosen = parser.parse_args()
    if not chosen.files:
        raise InputError("no files: name some, or run this where exported/ is")
    for name in executors_of(Path("model.onnx")):
        RUNTIMES.get(name).image_limit = SLOW.get(name)
    reports = [verify(path, Location(folder=chosen.data_dir)) for path in chosen.files]
    models = sorted({read_metadata(path)["model"] for path in chosen.files})
    cpu = ", ".join([describe()["cpu"], *describe()["cpu_flags"]])
    head = (
        "# Runtimes\n\nWritten by `python experiments/runtimes.py` on "
        f"{datetime.date.today()}: {cpu}.\n"
    )
    head += (
        "So many files have logits that are bit-equal to those of PyTorch on every image, by "
        "model and form of the file. The C99 form is made of the portable file; [c99.md](c99.md) "
        "has it on an emulated microcontroller too.\n"
    )
    for model in models:
        found = [
            report
            for path, report in zip(chosen.files, reports, strict=True)
            if read_metadata(path)["model"] == model
        ]
        head += f"\n## {model}, {len(found)} files\n\n{table(found)}\n"
        apart = {
            (check["runtime"], check["known"])
            for report in found
            for check in report["checks"]
            if check["runtime"] in report["apart"]
        }
        head += "".join(
            f"\n{name}: {known or 'DIFFERENT'}.\n" for name, known in sorted(apart, key=str)
        )
    atomic_write(chosen.out, head.encode())
    print(head)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
