"""The ONNX reference evaluator: the standard's own NumPy code, slow and literal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime


@RUNTIMES.register("onnx-reference")
class OnnxReference(Runtime):
    """Runs a part of the images only."""

    summary = "the ONNX reference evaluator, on a part of the images"
    image_limit = 32

    def __init__(self, path: Path) -> None:
        try:
            self.evaluator = ReferenceEvaluator(onnx.load(str(path), load_external_data=False))
        except Exception as error:  # protobuf and onnx raise many unrelated types for a broken file
            raise InputError(f"the ONNX reference evaluator cannot load {str(path)!r}: {error}") from None
        self.input_name = self.evaluator.input_names[0]
        types: Any = self.evaluator.input_types
        is_float = types[0].tensor_type.elem_type == onnx.TensorProto.FLOAT
        self.dtype = np.float32 if is_float else np.uint8

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs: Any = self.evaluator.run(None, {self.input_name: images.astype(self.dtype, copy=False)})
        return np.asarray(outputs[0])
