"""TensorFlow Lite Micro's interpreter and reference kernels: what runs on microcontrollers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import not_installed
from qstrategies.runtimes.tflite_runtime import TfliteRuntime

ARENA = 1 << 26
"""Bytes for the tensors of one example: more than any microcontroller has."""


@RUNTIMES.register("tflite-micro")
class TfliteMicro(TfliteRuntime):
    """Two roundings, halves up and then away from zero."""

    summary = "TensorFlow Lite Micro, on a part of the images"
    executor = "TensorFlow Lite Micro"
    image_limit = 200

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("tflite_micro", "tflite") or not_installed("tflite", "tflite")

    def load(self, content: bytes) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self.interpreter = runtime.Interpreter.from_bytes(content, arena_size=ARENA)

    def run_one(self, inputs: list[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
        for place, array in enumerate(inputs):
            self.interpreter.set_input(array, place)
        self.interpreter.invoke()
        return [self.interpreter.get_output(place).copy() for place in range(len(self.steps))]
