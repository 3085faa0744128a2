"""The ONNX reference evaluator: the standard's own NumPy code, slow and literal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_19

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, read_model, refused


class DequantizeLinear(DequantizeLinear_19):
    """That of operator set 19, for the sets before it: the evaluator has none for them, and the numbers are the same."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("DequantizeLinear", 19)


@RUNTIMES.register("onnx-reference")
class OnnxReference(Runtime):
    """Runs a part of the images only."""

    summary = "the ONNX reference evaluator, on a part of the images"
    image_limit = 32

    def __init__(self, path: Path) -> None:
        model = read_model("the ONNX reference evaluator", path)
        self.path, self.dtypes = path, list(input_dtypes(model).values())
        try:
            old = any(opset.domain == "" and opset.version < 19 for opset in model.opset_import)
            self.evaluator = ReferenceEvaluator(model, new_ops=[DequantizeLinear] if old else None)
        except Exception as error:  # the evaluator raises many unrelated types for what it does not know
            raise refused("the ONNX reference evaluator", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        triples = zip(self.evaluator.input_names, self.dtypes, inputs, strict=True)
        return self.outputs({name: array.astype(dtype, copy=False) for name, dtype, array in triples})[0]

    def outputs(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs of the file for its ``inputs`` by name; raises ``InputError`` as ``run`` does."""
        try:
            with np.errstate(invalid="raise"):  # it casts to int32 before it clips: where that overflows, it is wrong
                found: Any = self.evaluator.run(None, inputs)
        except Exception as error:
            raise refused("the ONNX reference evaluator", self.path, error) from None
        return [np.asarray(array) for array in found]
