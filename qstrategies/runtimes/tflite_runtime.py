"""What the executors of TFLite files share: integers in and out, one example at a time."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.runtimes.base import Runtime, joined, refused
from qstrategies.tflite_file import TfliteModel, load_tflite

OFFSET = 128
IMAGE = "image"


class TfliteRuntime(Runtime):
    """Arrays go in and come out as those of the ONNX form do: channels first, integers of uint8 in,
    real numbers out. ``executor`` is its name in messages."""

    suffix = ".tflite"
    executor: str

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = load_tflite(path)
        except InputError as error:
            raise refused(self.executor, path, error) from None
        self.layouts = file.metadata.get("layouts", {})
        self.steps = _steps_of(file)
        try:
            self.load(file.content)
        except Exception as error:  # its own types, and those of what it calls
            raise refused(self.executor, path, error) from None

    @abstractmethod
    def load(self, content: bytes) -> None:
        """Get ready to run the file of ``content``."""

    @abstractmethod
    def run_one(self, inputs: list[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
        """The outputs of the file, of one example."""

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        entered = [self._entered(place, array) for place, array in enumerate(inputs)]
        examples = zip(*entered, strict=True)
        results = [self.run_one([array[None] for array in example]) for example in examples]
        whole = [np.concatenate(each) for each in zip(*results, strict=True)]
        return joined([self._left(place, array) for place, array in enumerate(whole)])

    def _entered(self, place: int, array: NDArray[Any]) -> NDArray[np.int8]:
        stored = (array.astype(np.uint8).astype(np.int16) - OFFSET).astype(np.int8)
        last = self._layout("inputs", place) == IMAGE
        return np.ascontiguousarray(np.moveaxis(stored, 1, -1) if last else stored)

    def _left(self, place: int, array: NDArray[np.int8]) -> NDArray[np.float32]:
        scale, zero_point = self.steps[place]
        reals = (array.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
        last = self._layout("outputs", place) == IMAGE
        return np.moveaxis(reals, -1, 1) if last else reals

    def _layout(self, ends: str, place: int) -> str | None:
        known = self.layouts.get(ends, [])
        return known[place] if place < len(known) else None


def _steps_of(file: TfliteModel) -> list[tuple[float, int]]:
    """Scale and zero point of every output."""
    found = []
    for number in file.graph.OutputsAsNumpy():
        known = file.graph.Tensors(number).Quantization()
        if known is None or known.ScaleLength() != 1 or known.ZeroPointLength() != 1:
            raise InputError("an output has no single scale: only int8 files are run")
        found.append((known.Scale(0), known.ZeroPoint(0)))
    return found
