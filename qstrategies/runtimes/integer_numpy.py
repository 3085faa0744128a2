"""The arbiter: QDQ graphs in exact integer arithmetic; the only rounding is that of QuantizeLinear,
half to even."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, input_dtypes, joined, read_model, refused
from qstrategies.runtimes.exact import Node, Real, opset_of
from qstrategies.runtimes.exact_arithmetic import (
    absolute,
    add,
    clip,
    constant,
    dequantize,
    div,
    gemm,
    integers_too,
    matmul,
    max_over,
    maximum,
    mean_over,
    minimum,
    mul,
    negate,
    over_space,
    quantize,
    reduction,
    relu,
    subtract,
    sum_over,
)
from qstrategies.runtimes.exact_movement import MOVING, cast, concat, dropout, move, pad, resize
from qstrategies.runtimes.exact_windows import average_pool, conv, conv_transpose, max_pool

OF_INTEGERS_TOO: dict[str, Callable[..., Real]] = {
    "Abs": absolute,
    "Add": add,
    "Clip": clip,
    "Concat": concat,
    "GlobalMaxPool": over_space(max_over),
    "Max": maximum,
    "Min": minimum,
    "Neg": negate,
    "ReduceMax": reduction(max_over),
    "Relu": relu,
    "Sub": subtract,
}
OPS: dict[str, Callable[..., Any]] = {
    "Constant": constant,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Div": div,
    "Mul": mul,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": over_space(mean_over),
    "ReduceMean": reduction(mean_over),
    "ReduceSum": reduction(sum_over),
    "Resize": resize,
    "Cast": cast,
    "Pad": pad,
    "Dropout": dropout,
    **{name: integers_too(function) for name, function in OF_INTEGERS_TOO.items()},
    **dict.fromkeys(MOVING, move),
}


@RUNTIMES.register("numpy-integer")
class IntegerNumpy(Runtime):
    """Runs a part of the images only."""

    summary = "integers only, in NumPy: the arbiter, on a part of the images"
    image_limit = 200

    def __init__(self, path: Path) -> None:
        model = read_model("the integer interpreter", path)
        self.path, self.inputs = path, input_dtypes(model)
        self.known: dict[str, Any] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.ends = [output.name for output in model.graph.output]
        self.nodes = []
        for node in (Node(proto, opset_of(model)) for proto in model.graph.node):
            if all(name in self.known for name in node.proto.input if name):
                self._compute(node, self.known)
            else:
                self.nodes.append(node)

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        return joined(self.outputs(*inputs))

    def outputs(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Every output of the file by itself."""
        values: dict[str, Any] = dict(self.known)
        for (name, dtype), array in zip(self.inputs.items(), inputs, strict=True):
            values[name] = array.astype(dtype, copy=False)
        for node in self.nodes:
            self._compute(node, values)
        return [_in_floats(values[name]) for name in self.ends]

    def _compute(self, node: Node, values: dict[str, Any]) -> None:
        """Add the outputs of ``node`` to ``values``."""
        operands = [values[name] if name else None for name in node.proto.input]
        name = f"{node.proto.op_type} {node.proto.name!r}"
        if node.proto.op_type not in OPS:
            raise refused(
                "the integer interpreter",
                self.path,
                ValueError(f"no operator {name}. Valid: {', '.join(OPS)}"),
            )
        try:
            outputs = OPS[node.proto.op_type](node, *operands)
        except Exception as error:  # a strange node may break any assumption
            raise refused(
                "the integer interpreter", self.path, ValueError(f"{name}: {error}")
            ) from None
        values.update(
            zip(node.proto.output, outputs if isinstance(outputs, list) else [outputs], strict=True)
        )


def _in_floats(output: Any) -> NDArray[np.float32]:
    if isinstance(output, Real):
        output = np.ldexp(output.integers / output.divisor, output.exponent)
    return output.astype(np.float32)
