"""ONNX Runtime at each of its graph optimisation levels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime

_LEVELS = onnxruntime.GraphOptimizationLevel


class OnnxRuntime(Runtime):
    """``threads`` 0 leaves the number of threads to ONNX Runtime."""

    level: ClassVar[onnxruntime.GraphOptimizationLevel] = _LEVELS.ORT_ENABLE_ALL

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = self.level
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise InputError(f"ONNX Runtime cannot load {str(path)!r}: {str(error).splitlines()[0]}") from None
        entry = self.session.get_inputs()[0]
        self.input_name = entry.name
        self.dtype = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}.get(entry.type)
        if self.dtype is None:
            raise InputError(f"{str(path)!r} takes {entry.type}: expected images as uint8 or float32")

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.session.run(None, {self.input_name: images.astype(self.dtype, copy=False)})[0]


@RUNTIMES.register("onnxruntime-disabled")
class Disabled(OnnxRuntime):
    """Every node as it stands, in float between Q and DQ."""

    summary = "ONNX Runtime, no graph optimisation"
    level = _LEVELS.ORT_DISABLE_ALL


@RUNTIMES.register("onnxruntime-basic")
class Basic(OnnxRuntime):
    """Provider-independent rewriting."""

    summary = "ONNX Runtime, basic optimisations"
    level = _LEVELS.ORT_ENABLE_BASIC


@RUNTIMES.register("onnxruntime-extended")
class Extended(OnnxRuntime):
    """Fused integer kernels."""

    summary = "ONNX Runtime, extended optimisations"
    level = _LEVELS.ORT_ENABLE_EXTENDED


@RUNTIMES.register("onnxruntime-all")
class All(OnnxRuntime):
    """Fused integer kernels and other memory layouts; ONNX Runtime's default."""

    summary = "ONNX Runtime, all optimisations (its default)"
