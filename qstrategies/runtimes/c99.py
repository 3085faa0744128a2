"""The C99 form, compiled by the compiler of this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.files import read_bytes
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, joined, refused

COMPILER = "cc"
FLAGS = ("-std=c99", "-O3", "-march=native")
ENDS = re.compile(r"^/\* qstrategies-c99 (\{.*\}) \*/$", re.M)
"""The comment of the header that describes inputs and outputs."""


@RUNTIMES.register("c99")
class C99(Runtime):
    """Takes what the ONNX file takes that it is made of. The source is compiled and run: it must be
    one's own."""

    summary = "the C99 form, compiled here"
    suffix = ".c"

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which(COMPILER) else "no C compiler (cc): install gcc or clang"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inputs, self.outputs = _ends(path)
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.program = Path(folder) / "run"
        source = self.program.with_suffix(".c")
        source.write_text(_reader(path.stem, len(self.inputs), len(self.outputs)))
        paths = map(str, (path, source, "-o", self.program))
        command = [COMPILER, *FLAGS, f"-I{path.parent}", *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise refused("the C compiler", path, RuntimeError(done.stderr.strip()))

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        examples = len(inputs[0])
        read = [_integers(inputs[end["place"]], end) for end in self.inputs]
        data = np.concatenate([array.reshape(examples, -1) for array in read], 1).tobytes()
        done = subprocess.run([self.program], input=data, capture_output=True, check=False)
        sizes = [int(np.prod(end["shape"])) for end in self.outputs]
        if done.returncode or len(done.stdout) != examples * sum(sizes):
            raise InputError(
                f"{str(self.path)!r} ended with the code {done.returncode}: export it again"
            )
        found = np.frombuffer(done.stdout, np.uint8).reshape(examples, sum(sizes))
        parts = np.split(found, np.cumsum(sizes)[:-1], 1)
        return joined([_real(*pair) for pair in zip(parts, self.outputs, strict=True)])


def _ends(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the program reads, with its place among the inputs of the model, and what it gives."""
    header = read_bytes(path.with_suffix(".h")).decode(errors="replace")
    found = ENDS.search(header)
    if found is None:
        raise refused("the C99 executor", path, ValueError("its header is none of export_c"))
    ends = json.loads(found.group(1))
    return ends["inputs"], ends["outputs"]


def _integers(array: NDArray[Any], end: dict[str, Any]) -> NDArray[np.uint8]:
    """Of real values, for a file that takes such; else as they are."""
    if end["dtype"] == "uint8":
        return array.astype(np.uint8)
    steps = np.rint(array.astype(np.float32) / np.float32(end["scale"])) + end["zero_point"]
    return np.clip(steps, 0, 255).astype(np.uint8)


def _real(integers: NDArray[np.uint8], end: dict[str, Any]) -> NDArray[np.float32]:
    rows, *others = end["shape"]
    steps = integers.astype(np.float32) - np.float32(end["zero_point"])
    return (steps * np.float32(end["scale"])).reshape(len(integers) * rows, *others)


def _reader(name: str, inputs: int, outputs: int) -> str:
    """A program that reads one example after another and writes the outputs of each."""
    upper = name.upper()
    given = [f"input_{i}" for i in range(inputs)]
    made = [f"output_{i}" for i in range(outputs)]
    memory = [f"static uint8_t {each}[{upper}_{each.upper()}_SIZE];" for each in (*given, *made)]
    read = " && ".join(f"fread({each}, 1, sizeof {each}, stdin) == sizeof {each}" for each in given)
    write = [f"        fwrite({each}, 1, sizeof {each}, stdout);" for each in made]
    lines = [
        "#include <stdio.h>",
        f'#include "{name}.h"',
        *memory,
        "int main(void)",
        "{",
        f"    while ({read}) {{",
        f"        {name}_run({', '.join((*given, *made))});",
        *write,
        "    }",
        "    return ferror(stdout);",
        "}",
    ]
    return "\n".join(lines) + "\n"
