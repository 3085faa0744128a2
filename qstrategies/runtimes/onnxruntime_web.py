"""onnxruntime-web: ONNX Runtime for browsers, its WebAssembly in a process of Node."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, refused

FOLDER = Path(__file__).parent / "web"


@RUNTIMES.register("onnxruntime-web")
class OnnxRuntimeWeb(Runtime):
    """One process per file, which ``web/run.mjs`` describes; runs a part of the images only."""

    summary = "onnxruntime-web (WASM) in Node, on a part of the images"
    image_limit = 1000

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("node") is None:
            return "needs Node"
        return (
            None
            if (FOLDER / "node_modules" / "onnxruntime-web").is_dir()
            else f"not installed: npm ci --prefix {os.path.relpath(FOLDER)}"
        )

    def __init__(self, path: Path) -> None:
        command = ["node", str(FOLDER / "run.mjs")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        weakref.finalize(self, _end, self.process)
        self.path = path
        self._send(path.read_bytes())
        self.dtypes = [np.dtype(name) for name in self._reply()["inputs"]]

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        for array, dtype in zip(inputs, self.dtypes, strict=True):
            self._send(json.dumps(array.shape).encode())
            self._send(array.astype(dtype).tobytes())
        shape = self._reply()["shape"]
        return np.frombuffer(self._receive(), np.float32).reshape(shape)

    def _send(self, message: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(struct.pack("<I", len(message)) + message)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self) -> bytes:
        assert self.process.stdout is not None
        header = self.process.stdout.read(4)
        if len(header) < 4:
            raise self._ended()
        return self.process.stdout.read(*struct.unpack("<I", header))

    def _reply(self) -> dict[str, Any]:
        reply = json.loads(self._receive())
        if "error" in reply:
            raise refused("onnxruntime-web", self.path, RuntimeError(reply["error"]))
        return reply

    def _ended(self) -> InputError:
        return refused(
            "onnxruntime-web",
            self.path,
            RuntimeError(f"Node ended with code {self.process.wait()}"),
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
