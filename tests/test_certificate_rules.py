"""Every kind of node that the certificate knows or refuses, against what executors make of it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from test_certificate import EXACT, between, broken, build, layer, node

from qstrategies.certificate import certify_model
from qstrategies.certificate.report import GUARANTEES

F, I64 = np.float32, np.int64
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
SIGNED = {"into": (2.0**-4, 128), "out": (2.0**-4, 128)}
COARSER = {"into": (2.0**-4, 128), "out": (2.0**-3, 128)}
WEIGHTS = np.int8(np.random.default_rng(3).integers(-60, 61, (64, 32)))


def pixels(model, seed=0):
    """Random integers for the input of ``model``."""
    entry = model.graph.input[0]
    tensor = entry.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = [dim.dim_value or 2 for dim in tensor.shape.dim]
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return {entry.name: values.view(np.int8) if dtype == np.int8 else values.astype(dtype)}


def at_level(model, level, inputs):
    """The bytes of the first output in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return session.run(None, inputs)[0].tobytes()


def outputs(model):
    """What ONNX Runtime's four levels give, as bytes."""
    return {at_level(model, level, pixels(model)) for level in LEVELS}


def reference(model):
    """What the ONNX reference evaluator gives, as bytes."""
    return ReferenceEvaluator(model).run(None, pixels(model))[0].tobytes()


def rolled(shift):
    """Nodes that roll d along axis 2 into r."""
    return [
        node("Slice", ["d", "cut", "end", "axis"], "back"),
        node("Slice", ["d", "start", "cut", "axis"], "front"),
        node("Concat", ["back", "front"], "r", axis=2),
    ], {"cut": I64([shift]), "end": I64([2**62]), "start": I64([0]), "axis": I64([2])}


def stored(name, integers, scale, **attributes):
    """A node that dequantizes the constant ``integers`` into ``name``, and its constants."""
    return node("DequantizeLinear", [f"{name}_i", f"{name}_s"], name, **attributes), {
        f"{name}_i": integers,
        f"{name}_s": F(scale),
    }


def linear(bias):
    """A linear layer on [N, T, C] as MatMul, with a scale per output channel."""
    scales = F(2.0**-10) * F(np.arange(32) % 3 * 2 + 1)
    weight, constants = stored("w", WEIGHTS, scales, axis=1)
    if not bias:
        return [weight, node("MatMul", ["d", "w"], "r")], constants
    added, more = stored("b", np.arange(-16, 16, dtype=np.int32), scales * F(2.0**-4), axis=0)
    nodes = [weight, added, node("MatMul", ["d", "w"], "m"), node("Add", ["m", "b"], "r")]
    return nodes, constants | more


MEAN = {"a": I64([-1])}
PROVEN = {
    "Neg": ([node("Neg", ["d"], "r")], {}, SIGNED),
    "Abs": ([node("Abs", ["d"], "r")], {}, {"into": (2.0**-4, 128), "out": (2.0**-4, 0)}),
    "Max with a constant": ([node("Max", ["d", "c"], "r")], {"c": F(0.5)}, SIGNED),
    "Min of two": ([node("Neg", ["d"], "n"), node("Min", ["d", "n"], "r")], {}, SIGNED),
    "Div by 4": ([node("Div", ["d", "c"], "r")], {"c": F(4)}, SIGNED),
    "Div by powers of two": (
        [node("Div", ["d", "c"], "r")], {"c": F([-0.5, 2, 1, 8]).reshape(4, 1, 1)}, COARSER,
    ),
    "Mul by 1/4": ([node("Mul", ["d", "c"], "r")], {"c": F(0.25)}, SIGNED),
    "Sub": ([node("Relu", ["d"], "p"), node("Sub", ["p", "d"], "r")], {}, SIGNED),
    "roll": (*rolled(2), SIGNED),
    "Gather": ([node("Gather", ["d", "i"], "r", axis=1)], {"i": I64([3, -1, 0])}, SIGNED),
    "Pad with a value on the grid": (
        [node("Pad", ["d", "p", "v"], "r")], {"p": I64([0, 0, 1, 2, 0, 0, 2, 1]), "v": F(0.5)}, SIGNED,
    ),
    "Pad with the edge": ([node("Pad", ["d", "p"], "r", mode="edge")], {"p": I64([0, 0, 1, 2, 0, 0, 9, 1])[:8] % 6}, SIGNED),
    "Pad by reflection": ([node("Pad", ["d", "p"], "r", mode="reflect")], {"p": I64([0, 0, 1, 2, 0, 0, 5, 1])}, SIGNED),
    "Clip off the grid": ([node("Clip", ["d", "l", "h"], "r")], {"l": F(-0.3), "h": F(0.7)}, SIGNED),
    "Clip at a tie": ([node("Clip", ["d", "l", "h"], "r")], {"l": F(-3 / 32), "h": F(5 / 32)}, SIGNED),
    "Clip beyond what flows in": ([node("Clip", ["d", "l", "h"], "r")], {"l": F(-1e9), "h": F(1e30)}, SIGNED),
    "Clip beyond one end": ([node("Clip", ["d", "l", "h"], "r")], {"l": F(1), "h": F(1e30)}, SIGNED),
    "ReduceMax": ([node("ReduceMax", ["d", "a"], "r", keepdims=0)], MEAN, SIGNED),
    "Expand": (
        [node("ReduceMin", ["d", "a"], "m"), node("Expand", ["m", "s"], "r")], MEAN | {"s": I64([1, 4, 6, 6])}, SIGNED,
    ),
    "Where": (
        [node("Neg", ["d"], "n"), node("Where", ["c", "d", "n"], "r")], {"c": np.array([True, False] * 3)}, SIGNED,
    ),
    "Tile": ([node("Tile", ["d", "s"], "r")], {"s": I64([1, 2, 1, 2])}, SIGNED),
    "DepthToSpace": ([node("DepthToSpace", ["d"], "r", blocksize=2)], {}, SIGNED),
    "Dropout": ([node("Dropout", ["d"], "r")], {}, SIGNED),
    "Resize by 3": (
        [node("Resize", ["d", "", "f"], "r", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"f": F([1, 1, 3, 3])}, SIGNED,
    ),
    "MaxPool with ceil_mode": ([node("MaxPool", ["d"], "r", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, SIGNED),
    "ReduceMean over 4 channels": ([node("ReduceMean", ["d", "a"], "r", keepdims=0)], {"a": I64([-3])}, SIGNED),
    "linear layer on [N, T, C]": (*linear(False), SIGNED | {"shape": (2, 7, 64)}),
    "linear layer with bias on [N, T, C]": (*linear(True), SIGNED | {"shape": (2, 7, 64)}),
    "constants computed exactly": (
        [node("Add", ["k", "l"], "c"), node("Transpose", ["c"], "t"), node("Add", ["d", "t"], "r")],
        {"k": F(0.5), "l": F(np.arange(36).reshape(6, 6) / 64)}, SIGNED,
    ),
    "a shape computed from a symbolic one": (
        [
            node("Shape", ["d"], "s"), node("Gather", ["s", "zero"], "n"), node("Unsqueeze", ["n", "first"], "u"),
            node("Concat", ["u", "rest"], "to", axis=0), node("Reshape", ["d", "to"], "r"),
        ],
        {"zero": I64(0), "first": I64([0]), "rest": I64([-1])}, SIGNED | {"shape": ("n", 4, 6, 6)},
    ),
    "a requantization behind a Split": (
        [
            node("Neg", ["d"], "n"), node("QuantizeLinear", ["n", "s1", "z1"], "nq"), node("DequantizeLinear", ["nq", "s1", "z1"], "e"),
            node("Split", ["e"], ["r", "other"], axis=1, num_outputs=2),
        ],
        {"s1": F(2.0**-3), "z1": np.uint8(128)}, SIGNED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROVEN)
def test_what_is_proven_is_the_same_everywhere(name):
    nodes, constants, settings = PROVEN[name]
    model = between(nodes, constants, **settings)
    assert certify_model(model).complete, certify_model(model).as_text()
    assert outputs(model) == {reference(model)}


def again(*nodes, **constants):
    """x -> DequantizeLinear -> Neg -> QuantizeLinear -> DequantizeLinear (e) -> ``nodes`` (r) -> another QuantizeLinear."""
    first = [
        node("Neg", ["d"], "n"),
        node("QuantizeLinear", ["n", "s1", "z1"], "nq"),
        node("DequantizeLinear", ["nq", "s1", "z1"], "e"),
    ]
    constants |= {"s1": F(2.0**-4), "z1": np.uint8(128)}
    return between([*first, *nodes], constants, into=(2.0**-4, 128), out=(2.0**-5, 0))


def blocked():
    """A MatMul whose input was not dequantized, and whose output is not quantized at once."""
    weight, constants = stored("w", WEIGHTS, 2.0**-10)
    nodes = [
        node("Cast", ["x"], "f", to=TensorProto.FLOAT),
        weight,
        node("MatMul", ["f", "w"], "m"),
        node("Neg", ["m"], "n"),
        node("QuantizeLinear", ["n", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "y"),
    ]
    return build(nodes, constants | {"s": F(2), "z": np.uint8(128)}, (7, 64))


def float_weights():
    """Weights in float between two quantizers."""
    weight = F(np.random.default_rng(1).integers(-50, 50, (3, 4, 1, 1))) * F(2.0**-6)
    return between([node("Conv", ["d", "w"], "r")], {"w": weight}, **COARSER)


def shifted_bias():
    """A bias in int32 with a zero point."""
    zeros = {"zx": np.uint8(0), "zw": np.int8(0), "zb": np.int32(500)}
    constants = {
        "s": F(1),
        "sw": F(2.0**-6),
        "w8": np.ones((4, 4), np.int8),
        "b32": np.int32([1, 2, 3, 4]),
    }
    nodes = [
        node("DequantizeLinear", ["x", "s", "zx"], "d"),
        node("DequantizeLinear", ["w8", "sw", "zw"], "w"),
        node("DequantizeLinear", ["b32", "sw", "zb"], "b"),
        node("Gemm", ["d", "w", "b"], "r"),
        node("QuantizeLinear", ["r", "s", "zx"], "q"),
        node("DequantizeLinear", ["q", "s", "zx"], "y"),
    ]
    return build(nodes, constants | zeros, (4, 4))


def fine_clip():
    """Bounds that ONNX Runtime takes for those of the quantizer behind them, since they are 2^-23 away at most."""
    bounds = {"l": F(-100 * 2.0**-30), "h": F(100 * 2.0**-30)}
    tiny = (2.0**-30, 128)
    return between([node("Clip", ["d", "l", "h"], "r")], bounds, into=tiny, out=tiny)


DIFFERENT = {
    "two pairs of quantizers": (again(node("Identity", ["e"], "r")), "merges the two"),
    "a Dropout between quantizers": (again(node("Dropout", ["e"], "r")), "merges the two"),
    "an addition of nothing": (again(node("Add", ["e", "c"], "r"), c=F(0)), "merges the two"),
    "a product with 1": (again(node("Mul", ["c", "e"], "r"), c=F(1)), "merges the two"),
    "a product with 1 in front": (again(node("Mul", ["e", "c"], "r"), c=F(1)), "merges the two"),
    "a Clip finer than the tolerance": (fine_clip(), "leaves out a needed Clip"),
    "float weights": (float_weights(), "quantizes them by itself"),
    "an input quantized in blocks": (blocked(), "in blocks"),
    "a bias with a zero point": (shifted_bias(), "its zero point is not 0"),
    "a Dropout in training": (
        between([node("Dropout", ["d", "p", "t"], "r")], {"p": F(0.5), "t": np.array(True)}, **SIGNED),
        "random",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_executors_compute_differently_is_refused(name):
    model, reason = DIFFERENT[name]
    assert len(outputs(model)) > 1
    places, reasons = broken(model)
    assert {guarantee for guarantee, _ in places} >= EXACT and reason in reasons


def test_more_steps_than_int32_holds_are_refused():
    """The reference evaluator rounds to int32 before it saturates."""
    for scale, proven in ((2.0**23, True), (2.0**26, False)):
        model = between([node("Mul", ["d", "c"], "r")], {"c": F(scale)}, **SIGNED)
        assert certify_model(model).complete is proven
        assert (outputs(model) == {reference(model)}) is proven
    assert "leave int32" in broken(model)[1]


def in_opset(opset, nodes, constants, **settings):
    """``between`` in another operator set."""
    return between(nodes, constants, opset=opset, **SIGNED, **settings)


NEGATED = [node("Neg", ["d"], "r")]
REFUSED = {
    "Pad with its value as an attribute": (
        in_opset(10, [node("Pad", ["d"], "r", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.3)], {}), "version of operator set 2",
    ),
    "Clip with its bounds as attributes": (in_opset(10, [node("Clip", ["d"], "r", min=-0.5, max=0.5)], {}), "version of operator set 6"),
    "the precision of a QuantizeLinear": (in_opset(23, NEGATED, {}, precision=TensorProto.FLOAT16), "precision is 10"),
    "a QuantizeLinear without saturation": (in_opset(19, NEGATED, {}, saturate=0), "saturate is 0"),
    "a type as an attribute": (in_opset(21, NEGATED, {}, output_dtype=TensorProto.UINT8), "output_dtype is 2"),
    "an operator set of the future": (in_opset(28, NEGATED, {}), "version of operator set 28"),
    "a mean over empty axes": (in_opset(18, [node("ReduceMean", ["d", "a"], "r")], {"a": I64([])}), "over no axis"),
    "a maximum over empty axes": (
        in_opset(18, [node("ReduceMax", ["d", "a"], "r", noop_with_empty_axes=1)], {"a": I64([])}), "noop_with_empty_axes is 1",
    ),
    "a mean over a symbolic batch": (
        in_opset(18, [node("ReduceMean", ["d", "a"], "r")], {"a": I64([0])}, shape=("n", 4, 6, 6)), "number of values in a mean",
    ),
    "the indices of a max pool": (between([node("MaxPool", ["d"], ["r", "i"], kernel_shape=[2, 2])], {}, **SIGNED), "output 2 is not"),
    "a window without a value": (
        between([node("MaxPool", ["d"], "r", kernel_shape=[2, 2], pads=[2] * 4)], {}, **SIGNED), "holds no value",
    ),
    "a pool over zeros that were padded": (
        between(
            [node("Pad", ["d", "p"], "e"), node("MaxPool", ["e"], "r", kernel_shape=[2, 2], pads=[0] * 4)],
            {"p": I64([0, 0, 1, 1, 0, 0, 1, 1])}, **SIGNED,
        ), "zeros padded before it",
    ),
    "padding by the executor's choice": (
        between([node("MaxPool", ["d"], "r", kernel_shape=[3, 3], auto_pad="SAME_UPPER")], {}, **SIGNED), "auto_pad is 'SAME_UPPER'",
    ),
    "a dilated mean": (between([node("AveragePool", ["d"], "r", kernel_shape=[2, 2], dilations=[2, 2])], {}, **SIGNED), "dilations"),
    "a Pad off the grid": (
        between([node("Pad", ["d", "p", "v"], "r")], {"p": I64([0, 0, 1, 1, 0, 0, 1, 1]), "v": F(0.3)}, **SIGNED), "before rounding",
    ),
    "a reflection of more than there is": (
        between([node("Pad", ["d", "p"], "r", mode="reflect")], {"p": I64([0, 0, 7, 0, 0, 0, 0, 0])}, **SIGNED), "more values than",
    ),
    "a negative Pad": (between([node("Pad", ["d", "p"], "r")], {"p": I64([0, 0, -1, 0, 0, 0, 0, 0])}, **SIGNED), "negative"),
    "Clip just beside a tie": (
        between([node("Clip", ["d", "l"], "r")], {"l": np.nextafter(F(5 / 32), F(1))}, **SIGNED), "a bound of 0.15625 is rounded",
    ),
    "Clip that excludes all": (between([node("Clip", ["d", "l"], "r")], {"l": F(900)}, **SIGNED), "exclude"),
    "Div by 3": (between([node("Div", ["d", "c"], "r")], {"c": F(3)}, **SIGNED), "by the reciprocal"),
    "Resize by 1.5": (
        between(
            [node("Resize", ["d", "", "f"], "r", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
            {"f": F([1, 1, 1.5, 1.5])}, **SIGNED,
        ), "other neighbours, since it resizes by 1.5",
    ),
    "Resize at ties": (
        between([node("Resize", ["d", "", "f"], "r", coordinate_transformation_mode="asymmetric")], {"f": F([1, 1, 2, 2])}, **SIGNED),
        "other neighbours",
    ),
    "Resize with a value beyond its input": (
        between(
            [node("Resize", ["d", "o", "f"], "r", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.3)],
            {"o": F([0, 0, 0, 0, 1, 1, 1, 2]), "f": F([1, 1, 2, 2])}, **SIGNED,
        ), "tf_crop_and_resize",
    ),
    "a product of matrices at load": (
        between([node("MatMul", ["k", "k"], "c"), node("Add", ["d", "c"], "r")], {"k": F(np.eye(6))}, **SIGNED), "multiplies constants",
    ),
    "an exponential at load": (
        between([node("Exp", ["k"], "c"), node("Mul", ["d", "c"], "r")], {"k": F(0)}, **SIGNED), "no proof is known for Exp",
    ),
    "a sum at load that is rounded": (
        between([node("Add", ["k", "l"], "c"), node("Add", ["d", "c"], "r")], {"k": F(0.5), "l": F(2.0**-26)}, **SIGNED), "24 bits",
    ),
    "integers at load that overflow": (
        between(
            [node("Mul", ["k", "k"], "c"), node("Cast", ["c"], "f", to=TensorProto.FLOAT), node("Add", ["d", "f"], "r")],
            {"k": np.int32(2**17)}, **SIGNED,
        ), "overflow",
    ),
    "float16": (
        between([node("Cast", ["d"], "h", to=TensorProto.FLOAT16), node("Cast", ["h"], "r", to=1)], {}, **SIGNED), "float16",
    ),
    "float64": (
        between([node("Cast", ["d"], "h", to=TensorProto.DOUBLE), node("Cast", ["h"], "r", to=TensorProto.FLOAT)], {}, **SIGNED), "double",
    ),
    "an index that may lie outside": (
        between(
            [node("Cast", ["x"], "i", to=TensorProto.INT32), node("Gather", ["t", "i"], "r")], {"t": F(np.arange(200))}, **SIGNED,
        ), "outside of its table",
    ),
    "an axis given twice": (between([node("ReduceMax", ["d", "a"], "r")], {"a": I64([1, -3])}, **SIGNED), "twice"),
    "scales of 2^-33": (between(NEGATED, {}, into=(2.0**-33, 128), out=(2.0**-33, 128)), "outside of 2^-32 to 2^32"),
    "a subnormal scale": (between(NEGATED, {}, into=(2.0**-140, 128), out=(2.0**-140, 128)), "range of float32's exponent"),
    "weights of 2^-61": (layer([[60, -3, 5, 7]], transB=1, x=(2.0**30, 0), w=2.0**-61, y=(2.0**-24, 0)), "outside of 2^-60 to 2^60"),
    "an addition that outgrows its kernels": (
        between([node("Add", ["d", "c"], "r")], {"c": F(2.0**-20)}, into=(2.0**-4, 128)), "fold the zero points",
    ),
}  # fmt: skip


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
    values = [*model.graph.value_info, *model.graph.output]
    next(value for value in values if value.name == name).CopyFrom(helper.make_tensor_value_info(name, kind, shape))
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
    assert "number of values in a mean is not known" in broken(claiming(model, "e", (1, 4, 6, 6)))[1]


def test_a_constant_that_whoever_runs_the_file_may_override_is_none():
    model = between(NEGATED, {}, **SIGNED)
    assert certify_model(model).complete
    model.graph.input.append(helper.make_tensor_value_info("sy", TensorProto.FLOAT, ()))
    assert "not constant" in broken(model)[1]


@pytest.mark.parametrize(("operator", "reason"), [("GlobalAveragePool", "a mean over 9"), ("Neg", "-0.0")])
def test_what_leaves_the_graph_unrounded_must_be_exact(operator, reason):
    constants = {"s": F(1), "z": np.uint8(0)}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], "d"), node(operator, ["d"], "y")]
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
def test_saturation_is_judged_on_the_integers_that_kernels_multiply(dtype, zero_point, values, safe, signed):
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
