"""Which runtime gives the same bits on the committed models: writes docs/runtimes.md.

python experiments/runtimes.py [--files exported] [--out docs/runtimes.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qstrategies.cli import guarded
from qstrategies.environment import describe
from qstrategies.errors import InputError
from qstrategies.files import atomic_write
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnxruntime_web import FOLDER as WEB
from qstrategies.verify import verify

PACKAGES = {
    "openvino": "openvino",
    "opencv-dnn": "opencv-python-headless",
    "tract": "tract",
    "numpy-integer": "numpy",
    "onnx-reference": "onnx",
}


def version_of(runtime: str) -> str:
    """The version of what computes in ``runtime``."""
    if runtime == "onnxruntime-web":
        return json.loads((WEB / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    return version(PACKAGES.get(runtime, "onnxruntime"))


def table(reports: list[dict[str, Any]]) -> str:
    """One line per runtime: how many files of each form it gave the same bits for, and on how many images of each."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        for check in report["checks"]:
            found[check["runtime"], ".fast." in report["file"]].append(check)
    lines = ["| runtime | version | images per file | portable | fast |", "| --- | --- | ---: | ---: | ---: |"]
    for name in RUNTIMES.names():
        both = [found[name, fast] for fast in (False, True)]
        if not any(both):
            lines.append(f"| {name} | skipped: {next(report['skipped'][name] for report in reports)} | - | - | - |")
            continue
        images = max(check["images"] for checks in both for check in checks)
        same = [f"{sum(check['rows_equal'] == 1 for check in checks)} of {len(checks)}" for checks in both]
        lines.append(f"| {name} | {version_of(name)} | {images} | {same[0]} | {same[1]} |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=Path("exported"), help="a folder of exported models (default: exported)")
    parser.add_argument("--out", type=Path, default=Path("docs/runtimes.md"), help="what to write (default: docs/runtimes.md)")
    chosen = parser.parse_args()
    files = sorted(chosen.files.glob("*.onnx"))
    if not files:
        raise InputError(f"no *.onnx in {str(chosen.files)!r}")
    text = table([verify(path) for path in files])
    cpu = ", ".join([describe()["cpu"], *describe()["cpu_flags"]])
    head = f"# Runtimes\n\nWritten by `python experiments/runtimes.py` on {datetime.date.today()}: {cpu}.\n"
    head += f"Of the {len(files)} files in {chosen.files}, so many have bit-equal logits on every image, by the form of the file:\n\n"
    atomic_write(chosen.out, f"{head}{text}\n".encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
