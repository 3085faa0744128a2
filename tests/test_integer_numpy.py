"""The integer interpreter against the standard's own code, operator by operator, and against
fractions."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qstrategies.errors import InputError
from qstrategies.runtimes import RUNTIMES

KIND = RUNTIMES.get("numpy-integer")
OPSET = [helper.make_opsetid("", 19)]


class Weight(NamedTuple):
    """int8 (or int32) values with a scale per channel along ``axis``."""

    shape: tuple
    axis: int = 0
    dtype: type = np.int8


def quantized(rng, weight):
    limit = 127 if weight.dtype is np.int8 else 2000
    channels = weight.shape[weight.axis]
    scales = rng.integers(1, 12, channels) * 2.0 ** rng.integers(-6, -3, channels)
    return rng.integers(-limit, limit + 1, weight.shape).astype(weight.dtype), scales.astype(
        np.float32
    )


def ints(*values):
    return np.array(values, np.int64)


def floats(*values):
    return np.array(values, np.float32)


# operator: shapes of the inputs, further operands, attributes
CASES = {
    "Conv, 2d": ("Conv", [(2, 4, 7, 6)], [Weight((6, 2, 3, 2)), Weight((6,), 0, np.int32)],
                 {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    "Conv, 1d": ("Conv", [(2, 3, 11)], [Weight((4, 3, 3))], {"pads": [2, 1], "strides": [3]}),
    "Conv, depthwise": ("Conv", [(2, 5, 6, 6)], [Weight((5, 1, 3, 3))], {"group": 5, "pads": [1, 1, 1, 1]}),
    "Conv, float weights": ("Conv", [(2, 1, 6, 6)], [floats(*range(-9, 9)).reshape(2, 1, 3, 3) * 11 / 64, floats(0.5, -3)], {}),
    "ConvTranspose, 2d": ("ConvTranspose", [(2, 4, 5, 4)], [Weight((4, 3, 3, 2), 1), Weight((3,), 0, np.int32)],
                          {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    "ConvTranspose, groups": ("ConvTranspose", [(2, 4, 5, 4)], [Weight((4, 3, 3, 2), 1), Weight((6,), 0, np.int32)],
                              {"group": 2, "strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    "ConvTranspose, 1d": ("ConvTranspose", [(2, 3, 6)], [Weight((3, 4, 3), 1)], {"dilations": [2], "pads": [1, 2]}),
    "Gemm": ("Gemm", [(3, 9)], [Weight((5, 9)), Weight((5,), 0, np.int32)], {"transB": 1}),
    "Gemm, transposed": ("Gemm", [(3, 9)], [Weight((9, 5), 1)], {}),
    "MatMul": ("MatMul", [(2, 3, 9)], [Weight((9, 5), 1)], {}),
    "Relu": ("Relu", [(2, 3, 4)], [], {}),
    "Clip": ("Clip", [(2, 3, 4)], [floats(-1.5).reshape(()), floats(6).reshape(())], {}),
    "MaxPool": ("MaxPool", [(2, 3, 8, 7)], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "MaxPool, ceil": ("MaxPool", [(2, 3, 8, 7)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "MaxPool, dilated": ("MaxPool", [(2, 3, 9)], [], {"kernel_shape": [3], "dilations": [2]}),
    "AveragePool, 4": ("AveragePool", [(2, 3, 8, 6)], [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "AveragePool, padding counts": ("AveragePool", [(2, 3, 8, 6)], [],
                                    {"kernel_shape": [4, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "AveragePool, padding does not count": ("AveragePool", [(2, 3, 8, 8)], [], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    "GlobalAveragePool": ("GlobalAveragePool", [(5, 6, 4, 4)], [], {}),
    "ReduceMean": ("ReduceMean", [(5, 6, 4, 4)], [ints(-1, -2)], {"keepdims": 0}),
    "Add": ("Add", [(2, 3, 4), (2, 3, 4)], [], {}),
    "Add, broadcast": ("Add", [(2, 3, 4), (3, 1)], [], {}),
    "Mul": ("Mul", [(2, 3, 4), (2, 3, 1)], [], {}),
    "Mul, float constant": ("Mul", [(2, 3, 4)], [floats(1.5, -0.25, 3).reshape(1, 3, 1)], {}),
    "Concat": ("Concat", [(2, 3, 4), (2, 2, 4)], [], {"axis": 1}),
    "Reshape": ("Reshape", [(2, 3, 4)], [ints(0, -1)], {}),
    "Flatten": ("Flatten", [(2, 3, 4)], [], {}),
    "Transpose": ("Transpose", [(2, 3, 4)], [], {"perm": [0, 2, 1]}),
    "Squeeze": ("Squeeze", [(2, 1, 4)], [ints(1)], {}),
    "Unsqueeze": ("Unsqueeze", [(2, 4)], [ints(1, 3)], {}),
    "Slice": ("Slice", [(2, 6, 4)], [ints(1), ints(6), ints(1), ints(2)], {}),
    "Gather": ("Gather", [(2, 6, 4)], [ints(5, 0, 3)], {"axis": 1}),
    "GatherElements": ("GatherElements", [(2, 6, 4)], [np.arange(24).reshape(2, 3, 4) % 6], {"axis": 1}),
    "Identity": ("Identity", [(2, 4)], [], {}),
    "Resize, scales": ("Resize", [(2, 3, 4, 5)], ["", floats(1, 1, 2, 3)],
                       {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    "Resize, sizes": ("Resize", [(2, 3, 4)], ["", "", ints(2, 3, 8)],
                      {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
}  # fmt: skip


class Builder:
    """Nodes and initializers under names of their own."""

    def __init__(self, seed=0):
        self.rng, self.nodes, self.constants = np.random.default_rng(seed), [], []

    def constant(self, array):
        self.constants.append(
            numpy_helper.from_array(np.asarray(array), f"constant_{len(self.constants)}")
        )
        return self.constants[-1].name

    def node(self, op, inputs, outputs=1, **attributes):
        names = [f"{op}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, names, name=f"{op}_{len(self.nodes)}", **attributes)
        )
        return names[0] if outputs == 1 else names

    def quantizer(self, scale, zero_point=np.uint8(0)):
        return [self.constant(np.float32(scale)), self.constant(zero_point)]

    def operand(self, value):
        if isinstance(value, str):
            return value
        if not isinstance(value, Weight):
            return self.constant(value)
        values, scales = quantized(self.rng, value)
        return self.node(
            "DequantizeLinear", [self.constant(values), self.constant(scales)], axis=value.axis
        )

    def save(self, path, inputs, output):
        entries = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, list(shape))
            for name, shape in inputs.items()
        ]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "graph", entries, [result], self.constants)
        onnx.save(helper.make_model(graph, opset_imports=OPSET, ir_version=9), str(path))
        return path


def random_file(path, op, shapes, operands, attributes):
    """DequantizeLinear, ``op``, QuantizeLinear to a step twice as coarse, so that ties abound,
    DequantizeLinear."""
    build = Builder()
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    real = [
        build.node(
            "DequantizeLinear", [name, *build.quantizer(2.0 ** -(2 + k), np.uint8(128 - 2 * k))]
        )
        for k, name in enumerate(inputs)
    ]
    result = build.node(op, [*real, *(build.operand(value) for value in operands)], **attributes)
    step = build.quantizer(
        0.5 if op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") else 32.0, np.uint8(100)
    )
    output = build.node("DequantizeLinear", [build.node("QuantizeLinear", [result, *step]), *step])
    arrays = [build.rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    return build.save(path, inputs, output), arrays


def standard(case, path, arrays):
    if case == "ConvTranspose, groups":  # the reference evaluator has no groups here
        return RUNTIMES.get("onnxruntime-disabled")(path).run(*arrays)
    return ReferenceEvaluator(str(path)).run(
        None, {f"x{index}": array for index, array in enumerate(arrays)}
    )[0]


@pytest.mark.parametrize("case", CASES)
def test_every_operator_gives_the_bits_of_the_standard(case, tmp_path):
    path, arrays = random_file(tmp_path / "model.onnx", *CASES[case])
    expected, found = standard(case, path, arrays), KIND(path).run(*arrays)
    assert len(np.unique(expected)) > 5 and found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_split_and_a_table_of_256_values(tmp_path):
    build = Builder()
    table = build.constant(build.rng.integers(0, 256, 256).astype(np.uint8))
    looked_up = build.node("Gather", [table, build.node("Cast", ["x0"], to=TensorProto.INT32)])
    real = build.node("DequantizeLinear", [looked_up, *build.quantizer(0.25, np.uint8(6))])
    left, right = build.node("Split", [real, build.constant(ints(2, 3))], outputs=2, axis=1)
    path = build.save(
        tmp_path / "model.onnx", {"x0": (4, 5)}, build.node("Concat", [right, left], axis=1)
    )
    pixels = build.rng.integers(0, 256, (4, 5)).astype(np.uint8)
    np.testing.assert_array_equal(KIND(path).run(pixels), standard("", path, [pixels]))


def requantizer(path, scale_in, scale_out, zero_point=0):
    build = Builder()
    real = build.node("DequantizeLinear", ["x0", *build.quantizer(scale_in, np.uint8(128))])
    step = build.quantizer(scale_out, np.uint8(zero_point))
    return build.save(
        path,
        {"x0": (256,)},
        build.node("DequantizeLinear", [build.node("QuantizeLinear", [real, *step]), *step]),
    )


@pytest.mark.parametrize(
    ("scale_in", "scale_out"),
    [(0.5, 1), (3 / 8, 3 / 4), (5 / 8, 7 / 16), (1, 2.0**-5), (2.0**-60, 1), (1, 6), (2.0**40, 1)],
)
def test_requantization_rounds_the_exact_quotient_half_to_even_and_saturates(
    scale_in, scale_out, tmp_path
):
    path = requantizer(tmp_path / "model.onnx", scale_in, scale_out, 100)
    quotients = [(value - 128) * Fraction(scale_in) / Fraction(scale_out) for value in range(256)]
    steps = [min(max(round(quotient) + 100, 0), 255) - 100 for quotient in quotients]
    np.testing.assert_array_equal(
        KIND(path).run(np.arange(256, dtype=np.uint8)), np.float32(steps) * np.float32(scale_out)
    )


def test_an_average_is_rounded_once_from_its_fraction(tmp_path):
    build = Builder()
    real = build.node("DequantizeLinear", ["x0", *build.quantizer(1, np.uint8(0))])
    step = build.quantizer(0.5, np.uint8(0))
    quantized = build.node("QuantizeLinear", [build.node("GlobalAveragePool", [real]), *step])
    path = build.save(
        tmp_path / "model.onnx",
        {"x0": (64, 1, 2, 3)},
        build.node("DequantizeLinear", [quantized, *step]),
    )
    pixels = build.rng.integers(0, 100, (64, 1, 2, 3)).astype(np.uint8)
    expected = [round(Fraction(int(image.sum()), 6) * 2) / 2 for image in pixels]
    np.testing.assert_array_equal(KIND(path).run(pixels).ravel(), np.float32(expected))


@pytest.mark.parametrize("scales", [(0.1, 1), (1, 1 / 3), (1, -1.0), (0, 1)])
def test_a_scale_that_is_not_exact_is_refused(scales, tmp_path):
    path = requantizer(tmp_path / "model.onnx", *scales)
    with pytest.raises(
        InputError, match=r"(Quantize|Dequantize)Linear.*the scale (0\.1|0\.333|-1|0)"
    ):
        KIND(path).run(np.arange(256, dtype=np.uint8))


def test_free_float_weights_unknown_operators_and_other_attributes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    shape = [(2, 1, 6, 6)]
    free = rng.normal(size=(2, 1, 3, 3)).astype(np.float32)
    for op, operands, attributes, reason in (
        ("Conv", [free], {}, "float constant"),
        ("MaxPool", [], {"kernel_shape": [3, 3], "storage_order": 1}, "storage_order=1; only 0"),
        ("MaxPool", [], {"kernel_shape": [1, 7]}, "a kernel that spans 7 of 6 elements"),
        ("Sigmoid", [], {}, "no operator Sigmoid 'Sigmoid_1'. Valid: Constant, QuantizeLinear"),
    ):
        path, arrays = random_file(tmp_path / "model.onnx", op, shape, operands, attributes)
        with pytest.raises(InputError, match=reason):
            KIND(path).run(*arrays)


def test_what_does_not_fit_int64_is_refused(tmp_path):
    build = Builder()
    real = build.node("DequantizeLinear", ["x0", *build.quantizer(2.0**30, np.uint8(0))])
    small = build.node("DequantizeLinear", ["x1", *build.quantizer(2.0**-30, np.uint8(0))])
    path = build.save(
        tmp_path / "model.onnx", {"x0": (4,), "x1": (4,)}, build.node("Add", [real, small])
    )
    with pytest.raises(InputError, match=r"Add.*68 bits; at most 62"):
        KIND(path).run(np.full(4, 255, np.uint8), np.full(4, 255, np.uint8))
