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
        types: Any = self.evaluator.input_types
        self.dtypes = [onnx.helper.tensor_dtype_to_np_dtype(entry.tensor_type.elem_type) for entry in types]

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        triples = zip(self.evaluator.input_names, self.dtypes, inputs, strict=True)
        outputs: Any = self.evaluator.run(None, {name: array.astype(dtype, copy=False) for name, dtype, array in triples})
        return np.asarray(outputs[0])
