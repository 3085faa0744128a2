"""Tools that take turns, each in a process of its own with one thread, under an interpreter that
has it: what a table of times beside other tools is measured with."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime
import tools
import torch
from torch import Tensor, nn
from zoo import classifier, random_images

import qstrategies as qs
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.selfcheck import check_nodes

STAGES = ("prepare", "calibrate", "decide", "self-check", "export and certify")
IMAGES = 8  # of calibration


def stages(model: nn.Module, images: Tensor, path: Path) -> list[float]:
    """The seconds of every stage of the road to ``path``."""
    made: dict[str, Any] = {}
    config = qs.QuantizationConfig()

    def prepared() -> None:
        made["prepared"] = prepare(model, config, images[:2], input_scale=1 / 255)

    def calibrated() -> None:
        made["inputs"] = calibrate(made["prepared"], [images])

    def decided() -> None:
        made["quantized"] = QuantizedModel.of(made["prepared"])

    def checked() -> None:
        check_nodes(made["prepared"], made["quantized"].graph, made["inputs"])

    def exported() -> None:
        qs.export_onnx(made["quantized"], path, optimize_for=None)

    return [seconds(stage) for stage in (prepared, calibrated, decided, checked, exported)]


def seconds(action: Callable[[], object]) -> float:
    """How long ``action`` keeps a core busy: the same as the time that passes, if it is idle."""
    started = time.thread_time()
    action()
    return time.thread_time() - started


def fastest(actions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The least seconds of each action, all of them taking turns."""
    taken = [[seconds(action) for action in actions] for _ in range(rounds)]
    return [min(column) for column in zip(*taken, strict=True)]


def seconds_without(owner: Any, method: str, action: Callable[[], object]) -> float:
    """``seconds`` of ``action`` without those inside ``owner.method``."""
    inside, original = [0.0], getattr(owner, method)

    def timed(*args: Any, **settings: Any) -> Any:
        started = time.thread_time()
        try:
            return original(*args, **settings)
        finally:
            inside[0] += time.thread_time() - started

    with mock.patch.object(owner, method, timed):
        return seconds(action) - inside[0]


def ours(model: nn.Module, images: Tensor, folder: Path) -> float:
    """The road without ``calibrate``."""
    taken = stages(model, images, folder / "ours.onnx")
    return sum(taken) - taken[STAGES.index("calibrate")]


def onnx_tool(
    make: Callable[[nn.Module, Tensor, Path], Path], model: nn.Module, images: Tensor, folder: Path
) -> float:
    """A file without all that ONNX Runtime computes on the way: calibration, bias correction."""
    action = functools.partial(make, model, images, folder)
    return seconds_without(onnxruntime.InferenceSession, "run", action)


def pt2e(model: nn.Module, images: Tensor, _folder: Path) -> float:
    """The lowered module, without the runs of the observed one."""
    return seconds_without(tools, "observe", lambda: tools.pt2e_module(model, images))


TOOLS: dict[str, Callable[[nn.Module, Tensor, Path], float]] = {
    "ours": ours,
    "quantize_static": functools.partial(onnx_tool, tools.static_file),
    "NNCF": functools.partial(onnx_tool, tools.nncf_file),
    "torchao PT2E": pt2e,
}


class Worker:
    """One of ``TOOLS`` in a process of its own, under the interpreter ``python``."""

    def __init__(self, tool: str, python: str = sys.executable) -> None:
        paths = [str(Path(qs.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self.process = subprocess.Popen(
            [python, __file__, tool],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def make(self, name: str, size: int, folder: Path) -> float | str:
        """The seconds that the tool takes for ``classifier(name, size)``, or why it fails; its file
        is then in ``folder``."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([name, size, str(folder)]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        return json.loads(line) if line else f"its process ended with {self.process.wait()}"

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def calibration(shape: tuple[int, ...]) -> Tensor:
    """The same images in every process."""
    return random_images(IMAGES, shape, torch.Generator().manual_seed(0))


def serve(tool: str) -> None:
    """Answer what ``Worker.make`` asks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what tools print is no answer
    torch.set_num_threads(1)
    for line in sys.stdin:
        name, size, folder = json.loads(line)
        model, shape = classifier(name, size)
        answer: float | str
        try:
            answer = TOOLS[tool](copy.deepcopy(model), calibration(shape), Path(folder))
        except Exception as error:
            answer = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
