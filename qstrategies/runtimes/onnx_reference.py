"""The ONNX reference evaluator: the standard's own NumPy code, slow and literal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_19

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, joined, read_model, refused
from qstrategies.runtimes.exact import Node, opset_of
from qstrategies.runtimes.exact_movement import GatherElements


class DequantizeLinear(DequantizeLinear_19):
    """That of operator set 19, for the sets before it: the evaluator has none for them, and the
    numbers are the same."""

    op_domain = ""
    op_schema = onnx.defs.get_schema("DequantizeLinear", 19)


class GlobalMaxPool(OpRun):
    """Of any number of dimensions; the evaluator's own is right for four."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


def fault_of(node: Node) -> str | None:
    """What the evaluator computes otherwise than the standard says, in ``node``; None if nothing is
    known."""
    get, kind = node.attributes.get, node.proto.op_type
    pads, mode = get("pads", []), get("auto_pad", b"NOTSET")
    plain = max(get("strides", [1]) + get("dilations", [1])) == 1
    if kind == "ConvTranspose" and get("group", 1) > 1:
        return "it mixes up the groups of a transposed convolution"
    if kind == "ConvTranspose" and (get("output_shape") or mode != b"NOTSET"):
        return "it pads a transposed convolution by its pads alone"
    if kind == "MaxPool" and plain and len(set(pads)) > 1:
        return "it takes the pads of a max pool in another order"
    if kind == "MaxPool" and plain and any(pads) and (get("ceil_mode") or len(pads) != 4):
        return "it pads a max pool without strides twice or not at all"
    if kind == "MaxPool" and mode in (b"SAME_LOWER", b"SAME_UPPER"):
        return "it rounds the padding of a max pool otherwise"
    if kind == "AveragePool" and get("ceil_mode"):
        return "it centres an average pool with ceil_mode"
    if kind == "AveragePool" and mode != b"NOTSET" and get("dilations"):
        return "it forgets the dilations of an average pool"
    return None


@RUNTIMES.register("onnx-reference")
class OnnxReference(Runtime):
    """Runs a part of the images only."""

    summary = "the ONNX reference evaluator, on a part of the images"
    image_limit = 32

    def __init__(self, path: Path) -> None:
        model = read_model("the ONNX reference evaluator", path)
        for node in model.graph.node:
            if (fault := fault_of(Node(node, opset_of(model)))) is not None:
                raise refused(
                    "the ONNX reference evaluator", path, ValueError(f"{node.name!r}: {fault}")
                )
        self.path, self.dtypes = path, input_dtypes(model)
        try:
            self.evaluator = ReferenceEvaluator(
                model,
                new_ops=[DequantizeLinear, GlobalMaxPool, GatherElements][opset_of(model) >= 19 :],
            )
        except (
            Exception
        ) as error:  # the evaluator raises many unrelated types for what it does not know
            raise refused("the ONNX reference evaluator", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        pairs = zip(self.dtypes.items(), inputs, strict=True)
        return joined(
            self.outputs({name: array.astype(dtype, copy=False) for (name, dtype), array in pairs})
        )

    def outputs(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs of the file for its ``inputs`` by name; raises ``InputError`` as ``run``
        does."""
        try:
            with np.errstate(
                invalid="raise"
            ):  # it casts to int32 before it clips: where that overflows, it is wrong
                found: Any = self.evaluator.run(None, inputs)
        except Exception as error:
            raise refused("the ONNX reference evaluator", self.path, error) from None
        return [np.asarray(array) for array in found]
