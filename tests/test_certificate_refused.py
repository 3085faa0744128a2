"""What the certificate refuses, each with its reason, and what it judges from the whole graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_certificate import EXACT, between, broken, build, layer, node

from qstrategies.certificate import certify_model
from qstrategies.certificate.report import GUARANTEES

F, I64 = np.float32, np.int64
SIGNED = {"into": (2.0**-4, 128), "out": (2.0**-4, 128)}


def in_opset(opset, nodes, constants, **settings):
    """``between`` in another operator set."""
    return between(nodes, constants, opset=opset, **SIGNED, **settings)


NEGATED = [node("Neg", ["d"], "r")]
REFUSED = {
    "Pad with its value as an attribute": (
        in_opset(10, [node("Pad", ["d"], "r", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.3)], {}),
        "version of operator set 2",
    ),
    "Clip with its bounds as attributes": (
        in_opset(10, [node("Clip", ["d"], "r", min=-0.5, max=0.5)], {}),
        "version of operator set 6",
    ),
    "the precision of a QuantizeLinear": (
        in_opset(23, NEGATED, {}, precision=TensorProto.FLOAT16),
        "precision is 10",
    ),
    "a QuantizeLinear without saturation": (in_opset(19, NEGATED, {}, saturate=0), "saturate is 0"),
    "a type as an attribute": (
        in_opset(21, NEGATED, {}, output_dtype=TensorProto.UINT8),
        "output_dtype is 2",
    ),
    "an operator set of the future": (in_opset(28, NEGATED, {}), "version of operator set 28"),
    "a mean over empty axes": (
        in_opset(18, [node("ReduceMean", ["d", "a"], "r")], {"a": I64([])}),
        "over no axis",
    ),
    "a maximum over empty axes": (
        in_opset(18, [node("ReduceMax", ["d", "a"], "r", noop_with_empty_axes=1)], {"a": I64([])}),
        "noop_with_empty_axes is 1",
    ),
    "a mean over a symbolic batch": (
        in_opset(18, [node("ReduceMean", ["d", "a"], "r")], {"a": I64([0])}, shape=("n", 4, 6, 6)),
        "number of values in a mean",
    ),
    "the indices of a max pool": (
        between([node("MaxPool", ["d"], ["r", "i"], kernel_shape=[2, 2])], {}, **SIGNED),
        "output 2 is not",
    ),
    "a window larger than its input": (
        between(
            [node("MaxPool", ["d"], "r", kernel_shape=[2, 2], strides=[2, 2])],
            {},
            shape=(1, 4, 4, 1),
            **SIGNED,
        ),
        "larger than its padded input",
    ),
    "a window without a value": (
        between([node("MaxPool", ["d"], "r", kernel_shape=[2, 2], pads=[2] * 4)], {}, **SIGNED),
        "holds no value",
    ),
    "a pool over zeros that were padded": (
        between(
            [
                node("Pad", ["d", "p"], "e"),
                node("MaxPool", ["e"], "r", kernel_shape=[2, 2], pads=[0] * 4),
            ],
            {"p": I64([0, 0, 1, 1, 0, 0, 1, 1])},
            **SIGNED,
        ),
        "zeros padded before it",
    ),
    "padding by the executor's choice": (
        between(
            [node("MaxPool", ["d"], "r", kernel_shape=[3, 3], auto_pad="SAME_UPPER")], {}, **SIGNED
        ),
        "auto_pad is 'SAME_UPPER'",
    ),
    "a dilated mean": (
        between(
            [node("AveragePool", ["d"], "r", kernel_shape=[2, 2], dilations=[2, 2])], {}, **SIGNED
        ),
        "dilations",
    ),
    "a Pad off the grid": (
        between(
            [node("Pad", ["d", "p", "v"], "r")],
            {"p": I64([0, 0, 1, 1, 0, 0, 1, 1]), "v": F(0.3)},
            **SIGNED,
        ),
        "before rounding",
    ),
    "a reflection of more than there is": (
        between(
            [node("Pad", ["d", "p"], "r", mode="reflect")],
            {"p": I64([0, 0, 7, 0, 0, 0, 0, 0])},
            **SIGNED,
        ),
        "more values than",
    ),
    "a negative Pad": (
        between([node("Pad", ["d", "p"], "r")], {"p": I64([0, 0, -1, 0, 0, 0, 0, 0])}, **SIGNED),
        "negative",
    ),
    "Clip just beside a tie": (
        between([node("Clip", ["d", "l"], "r")], {"l": np.nextafter(F(5 / 32), F(1))}, **SIGNED),
        "a bound of 0.15625 is rounded",
    ),
    "Clip that excludes all": (
        between([node("Clip", ["d", "l"], "r")], {"l": F(900)}, **SIGNED),
        "exclude",
    ),
    "Div by 3": (
        between([node("Div", ["d", "c"], "r")], {"c": F(3)}, **SIGNED),
        "by the reciprocal",
    ),
    "Resize by 1.5": (
        between(
            [
                node(
                    "Resize",
                    ["d", "", "f"],
                    "r",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            ],
            {"f": F([1, 1, 1.5, 1.5])},
            **SIGNED,
        ),
        "other neighbours: it resizes by 1.5",
    ),
    "Resize at ties": (
        between(
            [node("Resize", ["d", "", "f"], "r", coordinate_transformation_mode="asymmetric")],
            {"f": F([1, 1, 2, 2])},
            **SIGNED,
        ),
        "other neighbours",
    ),
    "Resize with a value beyond its input": (
        between(
            [
                node(
                    "Resize",
                    ["d", "o", "f"],
                    "r",
                    coordinate_transformation_mode="tf_crop_and_resize",
                    extrapolation_value=0.3,
                )
            ],
            {"o": F([0, 0, 0, 0, 1, 1, 1, 2]), "f": F([1, 1, 2, 2])},
            **SIGNED,
        ),
        "tf_crop_and_resize",
    ),
    "a product of matrices at load": (
        between(
            [node("MatMul", ["k", "k"], "c"), node("Add", ["d", "c"], "r")],
            {"k": F(np.eye(6))},
            **SIGNED,
        ),
        "multiplies constants",
    ),
    "a mean at load": (
        between(
            [node("ReduceMean", ["k"], "c", keepdims=0), node("Add", ["d", "c"], "r")],
            {"k": F([1, 1, 2])},
            **SIGNED,
        ),
        "computes a constant at load",
    ),
    "a constant of many terabytes": (
        between(
            [node("Expand", ["k", "s"], "c"), node("Gather", ["c", "i"], "r")],
            {"k": F([1]), "s": I64([2**40]), "i": I64([0])},
            **SIGNED,
        ),
        "too large to be computed",
    ),
    "an exponential at load": (
        between([node("Exp", ["k"], "c"), node("Mul", ["d", "c"], "r")], {"k": F(0)}, **SIGNED),
        "no proof is known for Exp",
    ),
    "a sum at load that is rounded": (
        between(
            [node("Add", ["k", "l"], "c"), node("Add", ["d", "c"], "r")],
            {"k": F(0.5), "l": F(2.0**-26)},
            **SIGNED,
        ),
        "24 bits",
    ),
    "integers at load that overflow": (
        between(
            [
                node("Mul", ["k", "k"], "c"),
                node("Cast", ["c"], "f", to=TensorProto.FLOAT),
                node("Add", ["d", "f"], "r"),
            ],
            {"k": np.int32(2**17)},
            **SIGNED,
        ),
        "overflow",
    ),
    "float16": (
        between(
            [node("Cast", ["d"], "h", to=TensorProto.FLOAT16), node("Cast", ["h"], "r", to=1)],
            {},
            **SIGNED,
        ),
        "float16",
    ),
    "float64": (
        between(
            [
                node("Cast", ["d"], "h", to=TensorProto.DOUBLE),
                node("Cast", ["h"], "r", to=TensorProto.FLOAT),
            ],
            {},
            **SIGNED,
        ),
        "double",
    ),
    "an index that may lie outside": (
        between(
            [node("Cast", ["x"], "i", to=TensorProto.INT32), node("Gather", ["t", "i"], "r")],
            {"t": F(np.arange(200))},
            **SIGNED,
        ),
        "outside of its table",
    ),
    "elements of a table of two dimensions": (
        between(
            [
                node("Cast", ["x"], "i", to=TensorProto.INT32),
                node("GatherElements", ["t", "i"], "r"),
            ],
            {"t": F(np.zeros((9, 4, 256, 256)))},
            **SIGNED,
        ),
        "one dimension",
    ),
    "an element that may lie outside": (
        between(
            [
                node("Cast", ["x"], "i", to=TensorProto.INT32),
                node("Reshape", ["i", "flat"], "j"),
                node("GatherElements", ["t", "j"], "r"),
            ],
            {"t": F(np.arange(200)), "flat": I64([-1])},
            **SIGNED,
        ),
        "outside of its table",
    ),
    "an axis given twice": (
        between([node("ReduceMax", ["d", "a"], "r")], {"a": I64([1, -3])}, **SIGNED),
        "twice",
    ),
    "scales of 2^-33": (
        between(NEGATED, {}, into=(2.0**-33, 128), out=(2.0**-33, 128)),
        "outside of 2^-32 to 2^32",
    ),
    "a subnormal scale": (
        between(NEGATED, {}, into=(2.0**-140, 128), out=(2.0**-140, 128)),
        "range of float32's exponent",
    ),
    "weights of 2^-61": (
        layer([[60, -3, 5, 7]], transB=1, x=(2.0**30, 0), w=2.0**-61, y=(2.0**-24, 0)),
        "outside of 2^-60 to 2^60",
    ),
    "an int32 bias added behind a product, whose scale kernels leave unread": (
        between(
            [node("DequantizeLinear", ["b", "s"], "c"), node("Add", ["d", "c"], "r")],
            {"b": np.array([3], np.int32), "s": F(2.0**-5)},
            **SIGNED,
        ),
        "int32 constant",
    ),
    "an addition that outgrows its kernels": (
        between([node("Add", ["d", "c"], "r")], {"c": F(2.0**-20)}, into=(2.0**-4, 128)),
        "fold the zero points",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_declaration_names_is_refused_with_its_reason(name):
    model, reason = REFUSED[name]
    places, reasons = broken(model)
    assert {guarantee for guarantee, _ in places} >= EXACT and reason in reasons, reasons


def test_an_operator_that_may_hide_products_is_not_safe_without_vnni_either():
    model = between([node("Einsum", ["d"], "r", equation="nchw->nhwc")], {}, **SIGNED)
    assert {guarantee for guarantee, _ in broken(model)[0]} == set(GUARANTEES)


def claiming(model, name, shape, kind=TensorProto.FLOAT):
    """``model``, whose tensor ``name`` is said to have ``shape``."""
    claim = helper.make_tensor_value_info(name, kind, shape)
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name == name:
            value.CopyFrom(claim)
    return model


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [("e", (1, 4, 2, 2), 1), ("y", (1, 4, 3, 3), 1), ("e", (1, 4, 6, 6), 10)],
)
def test_types_and_shapes_that_contradict_the_inference_are_unproven(name, shape, kind):
    nodes = [node("Reshape", ["d", "to"], "e"), node("GlobalAveragePool", ["e"], "r")]
    model = between(nodes, {"to": I64([1, 4, 6, 6])}, **SIGNED)
    assert certify_model(model).complete
    assert f"the file says that '{name}' is" in broken(claiming(model, name, shape, kind))[1]


def test_a_count_that_only_the_file_claims_is_not_known():
    nodes = [node("Reshape", ["d", "to"], "e"), node("GlobalAveragePool", ["e"], "r")]
    model = between(nodes, {"to": I64([1, 4, -1, 6])}, shape=(1, 4, "h", 6), **SIGNED)
    assert (
        "number of values in a mean or sum is not known"
        in broken(claiming(model, "e", (1, 4, 6, 6)))[1]
    )


def test_a_constant_that_whoever_runs_the_file_may_override_is_none():
    nodes = [node("Reshape", ["d", "to"], "e"), node("GlobalAveragePool", ["e"], "r")]
    model = between(nodes, {"to": I64([1, 4, 6, 6])}, shape=(1, 4, "h", 6), **SIGNED)
    assert certify_model(model).complete
    entries = {"to": (TensorProto.INT64, (4,)), "sy": (TensorProto.FLOAT, ())}
    for name, (kind, shape) in entries.items():
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    reasons = broken(model)[1]
    assert "not constant" in reasons and "number of values in a mean" in reasons
    model.ir_version = 3  # in which every constant had to be an input
    assert certify_model(model).complete


@pytest.mark.parametrize(
    ("operator", "reason"),
    [("GlobalAveragePool", "a mean over 9"), ("Neg", "-0.0"), ("Clip", "-0.0")],
)
def test_what_leaves_the_graph_unrounded_must_be_exact(operator, reason):
    constants = {"s": F(1), "z": np.uint8(0), "low": F(-0.0)}
    inputs = ["d", "low"] if operator == "Clip" else ["d"]
    nodes = [node("DequantizeLinear", ["x", "s", "z"], "d"), node(operator, inputs, "y")]
    places, reasons = broken(build(nodes, constants, (1, 4, 3, 3)))
    assert places == {(name, "output y") for name in EXACT} and reason in reasons


@pytest.mark.parametrize(
    ("dtype", "zero_point", "values", "safe"),
    [
        (np.int8, 100, [127, 127, 100], False),  # 27 and 27 without the zero point
        (np.int8, 20, [64, -64, 10], True),
        (np.int8, -20, [64, 65, 0], False),
        (np.uint8, 128, [192, 64, 128], True),
        (np.uint8, 0, [1, 2, 3], False),  # 127 and 126, once they are signed
        (np.uint8, 200, [192, 193, 200], False),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_saturation_is_judged_on_the_integers_that_kernels_multiply(
    dtype, zero_point, values, safe, signed
):
    model = layer([[1, 1, 1]], op="Gemm", transB=1, shape=(1, 3), signed=signed)
    replaced = {"w8": dtype([values]), "zw": dtype(zero_point)}
    for tensor in model.graph.initializer:
        if tensor.name in replaced:
            tensor.CopyFrom(numpy_helper.from_array(replaced[tensor.name], tensor.name))
    model.graph.initializer.append(numpy_helper.from_array(replaced["zw"], "zw"))
    next(item for item in model.graph.node if item.output[0] == "w").input.append("zw")
    del model.graph.value_info[:]
    found = certify_model(model)
    assert found.holds("saturation_safe") is safe
    high, low = (127, 128) if signed else (255, 0)
    rows = np.int64(values) - zero_point
    assert found.layers[0].accumulators == (
        max(
            rows.clip(0).sum() * high - rows.clip(None, 0).sum() * low,
            rows.clip(0).sum() * low - rows.clip(None, 0).sum() * high,
        ),
    )
