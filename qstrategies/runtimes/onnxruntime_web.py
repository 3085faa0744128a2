"""onnxruntime-web: ONNX Runtime for browsers, its WebAssembly in a process of Node."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, refused

FOLDER = Path(__file__).parent / "web"


class _Node:
    """A process of Node that runs many files, as ``web/run.mjs`` describes."""

    shared: ClassVar[_Node | None] = None

    @classmethod
    def get(cls) -> _Node:
        """The one of this process; another one where that has ended or refused a file, which may
        have left it in disorder."""
        found = cls.shared
        if found is None or found.owner != os.getpid() or found.process.poll() is not None:
            cls.shared = found = cls()
        return found

    def __init__(self) -> None:
        command = ["node", str(FOLDER / "run.mjs")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.numbers = itertools.count()
        self.closing: deque[int] = deque()
        weakref.finalize(self, _end, self.process, self.owner)

    @contextmanager
    def told(self, command: dict[str, Any], *contents: bytes) -> Iterator[dict[str, Any]]:
        """The answer to ``command``, behind which more may be received.

        Raises ``RuntimeError`` with what it says, or where it has ended.
        """
        with self.lock:
            while self.closing:  # asked for by the garbage collector, at any moment
                self._send(_encoded({"close": self.closing.popleft()}))
            for message in (_encoded(command), *contents):
                self._send(message)
            answer = json.loads(self.received())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            yield answer

    def _send(self, message: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(struct.pack("<I", len(message)) + message)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def received(self) -> bytes:
        """The next message."""
        assert self.process.stdout is not None
        header = self.process.stdout.read(4)
        if len(header) < 4:
            raise self._ended()
        return self.process.stdout.read(*struct.unpack("<I", header))

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"Node ended with code {self.process.wait()}")


@RUNTIMES.register("onnxruntime-web")
class OnnxRuntimeWeb(Runtime):
    """All files of a process share one Node; runs a part of the images only."""

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
        self.path, self.node = path, _Node.get()
        self.number = next(self.node.numbers)
        with self._refusing(), self.node.told({"load": self.number}, path.read_bytes()) as answer:
            self.dtypes = [np.dtype(name) for name in answer["inputs"]]
        weakref.finalize(self, self.node.closing.append, self.number)

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        pairs = zip(inputs, self.dtypes, strict=True)
        contents = [array.astype(dtype).tobytes() for array, dtype in pairs]
        command = {"run": self.number, "shapes": [array.shape for array in inputs]}
        with self._refusing(), self.node.told(command, *contents) as answer:
            return np.frombuffer(self.node.received(), np.float32).reshape(answer["shape"])

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            _Node.shared = None
            raise refused("onnxruntime-web", self.path, error) from None


def _encoded(command: dict[str, Any]) -> bytes:
    return json.dumps(command).encode()


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.communicate()
