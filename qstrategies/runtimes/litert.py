"""LiteRT, TensorFlow Lite's successor: its reference kernels, its own optimized ones, and
XNNPACK's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import not_installed
from qstrategies.runtimes.tflite_runtime import TfliteRuntime


class LiteRT(TfliteRuntime):
    """``kernels`` is the name of an ``OpResolverType``."""

    executor = "LiteRT"
    kernels: ClassVar[str]

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("ai_edge_litert", "tflite") or not_installed("tflite", "tflite")

    def load(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        with _silence():
            self.interpreter = Interpreter(
                model_content=content,
                experimental_op_resolver_type=OpResolverType[self.kernels],
                num_threads=1,
            )
            self.interpreter.allocate_tensors()
        self.inputs = [each["index"] for each in self.interpreter.get_input_details()]
        self.outputs = [each["index"] for each in self.interpreter.get_output_details()]

    def run_one(self, inputs: list[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
        for number, array in zip(self.inputs, inputs, strict=True):
            self.interpreter.set_tensor(number, array)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(number) for number in self.outputs]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No word of LiteRT's own on standard error, which its exceptions repeat."""
    before = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@RUNTIMES.register("litert-reference")
class Reference(LiteRT):
    """Two roundings in convolutions, halves up and then away from zero; one in linear layers."""

    summary = "LiteRT's reference kernels, on a part of the images"
    kernels = "BUILTIN_REF"
    image_limit = 1000


@RUNTIMES.register("litert-builtin")
class Builtin(LiteRT):
    """Two roundings, halves up in both."""

    summary = "LiteRT's own optimized kernels"
    kernels = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"


@RUNTIMES.register("litert-xnnpack")
class Xnnpack(LiteRT):
    """One float32 product, halves to even; what XNNPACK does not take, ``litert-builtin``'s."""

    summary = "LiteRT with XNNPACK (its default)"
    kernels = "AUTO"
