"""The ONNX reference evaluator: the standard's own NumPy code, slow and literal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, read_model, refused


@RUNTIMES.register("onnx-reference")
class OnnxReference(Runtime):
    """Runs a part of the images only."""

    summary = "the ONNX reference evaluator, on a part of the images"
    image_limit = 32

    def __init__(self, path: Path) -> None:
        model = read_model("the ONNX reference evaluator", path)
        self.dtypes = list(input_dtypes(model).values())
        try:
            self.evaluator = ReferenceEvaluator(model)
        except Exception as error:  # the evaluator raises many unrelated types for what it does not know
            raise refused("the ONNX reference evaluator", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        triples = zip(self.evaluator.input_names, self.dtypes, inputs, strict=True)
        outputs: Any = self.evaluator.run(None, {name: array.astype(dtype, copy=False) for name, dtype, array in triples})
        return np.asarray(outputs[0])
