"""ONNX Runtime at each of its graph optimisation levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, joined, refused

_DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
}
_LEVELS = onnxruntime.GraphOptimizationLevel


def plain_session(model: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread, without optimization and without a word: every node of
    ``model``, an ONNX file, as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(model, options)


class OnnxRuntime(Runtime):
    """``threads`` 0 leaves the number of threads to ONNX Runtime."""

    level: ClassVar[onnxruntime.GraphOptimizationLevel] = _LEVELS.ORT_ENABLE_ALL

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = self.level
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others wait too
        options.log_severity_level = 4  # errors are raised, and need not be printed too
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class of their own
            raise refused("ONNX Runtime", path, error) from None
        self.dtypes = {}
        for entry in self.session.get_inputs():
            if entry.type not in _DTYPES:
                raise InputError(
                    f"{str(path)!r} takes {entry.type}: expected {' or '.join(_DTYPES)}"
                )
            self.dtypes[entry.name] = _DTYPES[entry.type]

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        pairs = zip(self.dtypes.items(), inputs, strict=True)
        return joined(
            self.session.run(
                None, {name: array.astype(dtype, copy=False) for (name, dtype), array in pairs}
            )
        )


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
