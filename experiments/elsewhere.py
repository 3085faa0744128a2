"""Executors that ``verify`` does not know: PyTorch on a saved model, older ONNX Runtimes, a browser
and a microcontroller. Each says of one file whether it gives the bits of the reference."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import qstrategies as qs
from qstrategies.datasets import DATASETS
from qstrategies.datasets.base import Location
from qstrategies.evaluation import Evaluation
from qstrategies.execution.crosscheck import (
    REFERENCE,
    check_engines,
    output_steps,
    run_in_batches,
    run_module,
)
from qstrategies.execution.distance import compare
from qstrategies.records import RuntimeCheck
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnxruntime_web import FOLDER as WEB
from qstrategies.specification.vectors import vectors_path

ROOT = Path(__file__).parent.parent
CORTEX_M = ROOT / "examples" / "cortex_m" / "run"
sys.path.insert(0, str(ROOT / "tests"))

from browser import (  # type: ignore[import-not-found]  # noqa: E402
    CHROMIUM,
    Browser,
    served,
)


@dataclass(frozen=True)
class Found:
    """What an executor makes of a file: whether all bits are those of the reference, over what, and
    the reason if they are not and one is known."""

    executor: str
    version: str
    over: str
    equal: bool
    reason: str | None = None

    @classmethod
    def of(cls, check: RuntimeCheck, version: str) -> Found:
        """From a comparison over examples."""
        equal = check.rows_equal == 1
        return cls(check.runtime, version, str(check.images), equal, check.known)


def location_of(dataset: str, data: Path | None) -> Location:
    """Where ``dataset`` is found: in the package, or the folder ``data``."""
    packaged = getattr(DATASETS.get(dataset), "packaged", None)
    return Location(folder=None if packaged else data)


def in_pytorch(path: Path, inputs: Sequence[NDArray[Any]]) -> list[Found]:
    """PyTorch's int8 engines and the reference module on the saved form of the ONNX file ``path``,
    if it lies beside it."""
    saved = path.with_suffix(".safetensors")
    if not saved.exists():
        return []
    quantized = qs.load(saved)
    integers = [torch.from_numpy(array) for array in inputs]
    reference = Evaluation(run_in_batches(RUNTIMES.get(REFERENCE)(path), *inputs), None)
    checks, _ = check_engines(quantized, integers, reference)
    outputs = run_module(quantized.reference(), quantized, integers)
    name = "pytorch-reference"
    checks.append(compare(name, saved.name, outputs, reference, output_steps(quantized)))
    return [Found.of(check, torch.__version__) for check in checks]


IN_AN_OLDER_RUNTIME = """
import sys
import numpy as np, onnxruntime
path, inputs, expected = sys.argv[1:]
for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, "ORT_" + level)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = np.array_split(np.load(inputs), 100)
    found = [session.run(None, {session.get_inputs()[0].name: batch})[0] for batch in batches]
    print(onnxruntime.__version__, np.array_equal(np.concatenate(found), np.load(expected)))
"""


def in_older_runtime(python: Path, path: Path, inputs: NDArray[Any]) -> Found:
    """The ONNX Runtime of another Python, at its four optimisation levels."""
    with tempfile.TemporaryDirectory() as folder:
        given, expected = Path(folder, "inputs.npy"), Path(folder, "expected.npy")
        np.save(given, inputs)
        np.save(expected, run_in_batches(RUNTIMES.get(REFERENCE)(path), inputs))
        command = [str(each) for each in (python, "-c", IN_AN_OLDER_RUNTIME, path, given, expected)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    equal = [answer for _, answer in lines] == ["True"] * 4
    return Found(f"onnxruntime {lines[0][0]}, four levels", lines[0][0], str(len(inputs)), equal)


@contextmanager
def chromium() -> Iterator[Callable[[Path], list[Found]]]:
    """``in_browser`` with a browser on a page of this repository; says nothing where there is
    none."""
    if CHROMIUM is None or RUNTIMES.get("onnxruntime-web").missing() is not None:
        yield lambda _: []
        return
    with tempfile.TemporaryDirectory() as profile, served(ROOT) as address:
        browser = Browser(profile)
        try:
            browser.open(f"{address}/examples/web/")
            browser.wait("document.getElementById('verdict')?.className")
            yield lambda path: [in_browser(browser, path)]
        finally:
            browser.close()


IN_A_BROWSER = """(async () => {
  const ort = await import("/%s/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
  const { equalVectors } = await import("/examples/web/vectors.mjs");
  ort.env.wasm.numThreads = 1;
  const file = await (await fetch("/%s")).arrayBuffer();
  const golden = await (await fetch("/%s")).json();
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return [await equalVectors(ort, session, golden), golden.vectors.length, navigator.userAgent];
})()"""


def in_browser(browser: Any, path: Path) -> Found:
    """onnxruntime-web (WebAssembly) in ``browser``, over the golden vectors of ``path``, which lies
    in this repository."""
    portable = path.with_name(path.name.replace(".fast.", "."))
    places = [each.resolve().relative_to(ROOT) for each in (WEB, path, vectors_path(portable))]
    equal, count, agent = browser.run(IN_A_BROWSER % tuple(map(Path.as_posix, places)))
    version = re.search(r"Chrome/(\d+)", agent)
    name = "onnxruntime-web in Chromium"
    number = version.group(1) if version else "-"
    return Found(name, f"Chromium {number}", f"{count} golden vectors", equal == count)


def self_test(source: Path) -> subprocess.CompletedProcess[str] | None:
    """The self-test of the C99 form ``source`` on an emulated Cortex-M3; None where no compiler or
    emulator is."""
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        return None
    return subprocess.run([CORTEX_M, source], capture_output=True, text=True, check=False)


def on_microcontroller(path: Path) -> list[Found]:
    """The C99 form of ``path`` over the golden vectors there; nothing where it cannot be run."""
    count = len(json.loads(vectors_path(path).read_bytes())["vectors"])
    with tempfile.TemporaryDirectory() as folder:
        done = self_test(qs.export_c(path, folder, "model").path)
    if done is None:
        return []
    name = "c99 on an emulated Cortex-M3"
    reason = done.stderr.strip().splitlines()[-1] if done.returncode > 1 and done.stderr else None
    return [Found(name, "-O2", f"{count} golden vectors", done.returncode == 0, reason)]
