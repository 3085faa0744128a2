"""OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Rewriting, Runtime, joined, not_installed, read_model, refused

ROUNDING = (
    "it fuses a convolution with the addition behind it and leaves out the rounding between them"
)
BIAS = "it adds the bias of the first channel of a transposed convolution to all channels"
"""Of quantized ones, on CPUs without AVX-512."""
RANGE = (
    "it rounds a linear layer to which no bias is added by a range that holds the zero point of "
    "its input, and rounds that"
)


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """Float layers stay in float32: by default the plugin rounds them to bf16 on a CPU that has
    it."""

    summary = "OpenVINO on the CPU"

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("openvino")

    def __init__(self, path: Path) -> None:
        import openvino

        self.path = path
        try:
            self.model = openvino.Core().compile_model(
                str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
            )
        except RuntimeError as error:
            raise refused("OpenVINO", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        pairs = zip(inputs, self.model.inputs, strict=True)
        try:
            results = self.model(
                [array.astype(entry.element_type.to_dtype(), copy=False) for array, entry in pairs]
            )
            return joined([results[place].copy() for place in range(len(self.model.outputs))])
        except RuntimeError as error:
            raise refused("OpenVINO", self.path, error) from None

    def rewriting(self) -> Rewriting | None:
        """The file as the plugin's account of its work shows that it computes it: without the
        rounding of every convolution that it fuses with an addition, with one bias for all
        channels of a transposed convolution whose addition it does not name, and by ranges behind
        linear layers whose dequantization it does not name."""
        model = read_model("OpenVINO", self.path)
        reasons = []
        if names := self._not_rounded(model.graph):
            reasons.append(ROUNDING)
        for name in names:
            _leave_out_rounding(model.graph, name)
        if nodes := self._not_added(model.graph):
            reasons.append(BIAS)
        for node in nodes:
            _repeat_first_bias(model.graph, node)
        if kept := [*self._kept_as_ranges(model.graph)]:
            reasons.append(RANGE)
        for layer, quantize in kept:
            _keep_range(model.graph, layer, quantize)
        return Rewriting(", and ".join(reasons), model) if reasons else None

    def _not_rounded(self, graph: onnx.GraphProto) -> set[str]:
        """The names of the QuantizeLinear nodes of ``graph`` that do not round."""
        fused = [names for kind, names in self._computed() if kind == "Convolution"]
        return {name for names in fused for name in _before_addition(graph, names)}

    def _not_added(self, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        """The transposed convolutions of ``graph`` whose bias is added by no operator: that
        addition has their name."""
        computed = {name for _, names in self._computed() for name in names}
        transposed = (node for node in graph.node if node.op_type == "ConvTranspose")
        return [node for node in transposed if node.input[2:] and node.name not in computed]

    def _kept_as_ranges(
        self, graph: onnx.GraphProto
    ) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """Every linear layer of ``graph`` that is fused with the QuantizeLinear behind it and
        nothing else, with that: where a bias is added, the dequantization before it has a name."""
        nodes = {node.name: node for node in graph.node}
        for kind, (first, *rest) in self._computed():
            layer = nodes.get(first.removesuffix("/WithoutBiases"))
            quantize = nodes.get(rest[0]) if rest else None
            if kind != "FullyConnected" or layer is None or quantize is None:
                continue
            if quantize.input[0] == layer.output[0] and _is_quantized(graph, layer, quantize):
                yield layer, quantize

    def _computed(self) -> Iterator[tuple[str, list[str]]]:
        """The kind of every operator of the compiled model, and the names of the file's nodes that
        it computes, in order."""
        for operator in self.model.get_runtime_model().get_ordered_ops():
            info = operator.get_rt_info()
            names = info["originalLayersNames"].astype(str).split(",")
            yield info["layerType"].astype(str), names


def _before_addition(graph: onnx.GraphProto, fused: Sequence[str]) -> Iterator[str]:
    """The names of the QuantizeLinear nodes among ``fused`` that lie between the convolution and an
    Add."""
    kinds = {node.name: node.op_type for node in graph.node}
    additions = [place for place, name in enumerate(fused) if kinds.get(name) == "Add"]
    yield from (
        name for name in fused[: max(additions, default=0)] if kinds.get(name) == "QuantizeLinear"
    )


def _repeat_first_bias(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Let ``node`` add what it adds to its first channel to all."""
    bias, first, count = node.input[2], f"{node.name}_first", f"{node.name}_channels"
    ends = [(f"{node.name}_begin", [0]), (f"{node.name}_end", [1])]
    for name, end in ends:
        graph.initializer.append(numpy_helper.from_array(np.array(end), name))
    node.input[2] = f"{node.name}_repeated"
    place = list(graph.node).index(node)
    made = [
        helper.make_node("Slice", [bias, *(name for name, _ in ends)], [first]),
        helper.make_node("Shape", [bias], [count]),
        helper.make_node("Expand", [first, count], [node.input[2]]),
    ]
    for each in reversed(made):
        graph.node.insert(place, each)


def _leave_out_rounding(graph: onnx.GraphProto, name: str) -> None:
    """Let the QuantizeLinear ``name`` only saturate, a Clip of its integers clip real numbers, and
    the DequantizeLinear nodes behind them do nothing."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantize = next(node for node in graph.node if node.name == name)
    source, *parameters = quantize.input
    scale, zero_point = (constants[parameter] for parameter in parameters)

    def real(integers: Sequence[int], of: str) -> list[str]:
        bounds = [f"{of}_lowest", f"{of}_highest"]
        for bound, integer in zip(bounds, integers, strict=True):
            value = np.float32((integer - int(zero_point.item())) * float(scale.item()))
            graph.initializer.append(numpy_helper.from_array(np.array(value), bound))
        return bounds

    limits = np.iinfo(zero_point.dtype)
    ends = real((limits.min, limits.max), name)
    quantize.CopyFrom(helper.make_node("Clip", [source, *ends], quantize.output, name=name))
    reals = [quantize.output[0]]
    for node in graph.node:
        if node.name == name or node.input[0] not in reals:
            continue
        if node.op_type == "Clip":
            ends = real([int(constants[bound].item()) for bound in node.input[1:]], node.name)
            del node.input[1:]
            node.input.extend(ends)
            reals.append(node.output[0])
        else:
            inputs = [node.input[0]]
            node.CopyFrom(helper.make_node("Identity", inputs, node.output, name=node.name))
    # of the type that they had
    claims = [value for value in graph.value_info if value.name not in reals]
    del graph.value_info[:]
    graph.value_info.extend(claims)


def _is_quantized(graph: onnx.GraphProto, layer: onnx.NodeProto, quantize: onnx.NodeProto) -> bool:
    """Whether ``layer`` is a Gemm of dequantized operands, and every number around it stored."""
    stored = {tensor.name for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    x, weight = (made_by.get(name) for name in layer.input[:2])
    if layer.op_type != "Gemm" or x is None or weight is None:
        return False
    kinds = {x.op_type, weight.op_type}
    known = (*x.input[1:], *weight.input, *quantize.input[1:])
    return kinds == {"DequantizeLinear"} and len(known) == 7 and stored.issuperset(known)


def _keep_range(graph: onnx.GraphProto, layer: onnx.NodeProto, quantize: onnx.NodeProto) -> None:
    """Let ``quantize`` read what the sums of ``layer``, its input's zero point in them, give by the
    ends of its range: ``low = -z s / s_sum + z_x sum(w)``, and 255 steps above it ``high``."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    x, weight = (made_by[name] for name in layer.input[:2])
    x_scale, x_zero, scale, zero = (constants[name] for name in (*x.input[1:], *quantize.input[1:]))
    w, w_scale, _ = (constants[name] for name in weight.input)
    transposed = any(each.name == "transB" and each.i for each in layer.attribute)
    step = np.float32(x_scale * w_scale)
    shift = np.float32(int(x_zero) * w.astype(np.int64).sum(1 if transposed else 0))
    limits = np.iinfo(zero.dtype)
    ends = (np.float32(end - int(zero)) for end in (limits.min, limits.max))
    low, high = (np.float32(end * scale) / step + shift for end in ends)
    whole = np.float32(limits.max - limits.min)
    chain = [
        ("Div", step),
        ("Add", shift),
        ("Mul", whole / (high - low)),
        ("Add", -low * whole / (high - low)),
        ("Round", None),
        ("Sub", np.float32(zero)),
        ("Mul", np.float32(scale)),
    ]
    place, source = list(graph.node).index(quantize), quantize.input[0]
    for number, (kind, operand) in enumerate(chain):
        inputs, made = [source], f"{quantize.name}_range_{number}"
        if operand is not None:
            inputs.append(f"{made}_operand")
            graph.initializer.append(numpy_helper.from_array(np.array(operand), inputs[-1]))
        graph.node.insert(place + number, helper.make_node(kind, inputs, [made]))
        source = made
    quantize.input[0] = source
