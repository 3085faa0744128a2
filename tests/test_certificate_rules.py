"""What the certificate proves or refuses, against what executors make of it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from test_certificate import EXACT, between, broken, build, node

from qstrategies.certificate import certify_model

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
    with np.errstate(invalid="ignore"):  # where it leaves int32
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


def rolled_by_a_remainder():
    """A roll whose shift is computed, which no shape inference follows, before what needs the
    shape."""
    nodes, constants = rolled(-2)
    first = [
        node("Shape", ["d"], "size", start=2, end=3),
        node("Mod", ["shift", "size"], "cut"),
    ]
    last = [
        node("MaxPool", ["r0"], "p", kernel_shape=[3, 3], pads=[1] * 4),
        node("ReduceMean", ["p", "all"], "r"),
    ]
    nodes[-1].output[0] = "r0"
    constants["shift"] = constants.pop("cut")
    return [*first, *nodes, *last], constants | {"all": I64([2])}


MEAN = {"a": I64([-1])}
PROVEN = {
    "Neg": ([node("Neg", ["d"], "r")], {}, SIGNED),
    "Abs": ([node("Abs", ["d"], "r")], {}, {"into": (2.0**-4, 128), "out": (2.0**-4, 0)}),
    "Max with a constant": ([node("Max", ["d", "c"], "r")], {"c": F(0.5)}, SIGNED),
    "Min of two": ([node("Neg", ["d"], "n"), node("Min", ["d", "n"], "r")], {}, SIGNED),
    "Div by 4": ([node("Div", ["d", "c"], "r")], {"c": F(4)}, SIGNED),
    "Div by powers of two": (
        [node("Div", ["d", "c"], "r")],
        {"c": F([-0.5, 2, 1, 8]).reshape(4, 1, 1)},
        COARSER,
    ),
    "Mul by 1/4": ([node("Mul", ["d", "c"], "r")], {"c": F(0.25)}, SIGNED),
    "Sub": ([node("Relu", ["d"], "p"), node("Sub", ["p", "d"], "r")], {}, SIGNED),
    "roll": (*rolled(2), SIGNED),
    "a roll by a remainder": (*rolled_by_a_remainder(), SIGNED | {"shape": ("n", 4, 8, 6)}),
    "GatherND": ([node("GatherND", ["d", "i"], "r")], {"i": I64([[0, 3], [0, -4]])}, SIGNED),
    "Gather": ([node("Gather", ["d", "i"], "r", axis=1)], {"i": I64([3, -1, 0])}, SIGNED),
    "Pad with a value on the grid": (
        [node("Pad", ["d", "p", "v"], "r")],
        {"p": I64([0, 0, 1, 2, 0, 0, 2, 1]), "v": F(0.5)},
        SIGNED,
    ),
    "Pad with the edge": (
        [node("Pad", ["d", "p"], "r", mode="edge")],
        {"p": I64([0, 0, 1, 2, 0, 0, 9, 1])[:8] % 6},
        SIGNED,
    ),
    "Pad by reflection": (
        [node("Pad", ["d", "p"], "r", mode="reflect")],
        {"p": I64([0, 0, 1, 2, 0, 0, 5, 1])},
        SIGNED,
    ),
    "Clip off the grid": (
        [node("Clip", ["d", "l", "h"], "r")],
        {"l": F(-0.3), "h": F(0.7)},
        SIGNED,
    ),
    "Clip at a tie": (
        [node("Clip", ["d", "l", "h"], "r")],
        {"l": F(-3 / 32), "h": F(5 / 32)},
        SIGNED,
    ),
    "Clip beyond what flows in": (
        [node("Clip", ["d", "l", "h"], "r")],
        {"l": F(-1e9), "h": F(1e30)},
        SIGNED,
    ),
    "Clip beyond one end": (
        [node("Clip", ["d", "l", "h"], "r")],
        {"l": F(1), "h": F(1e30)},
        SIGNED,
    ),
    "ReduceMax": ([node("ReduceMax", ["d", "a"], "r", keepdims=0)], MEAN, SIGNED),
    "Expand": (
        [node("ReduceMin", ["d", "a"], "m"), node("Expand", ["m", "s"], "r")],
        MEAN | {"s": I64([1, 4, 6, 6])},
        SIGNED,
    ),
    "Where": (
        [node("Neg", ["d"], "n"), node("Where", ["c", "d", "n"], "r")],
        {"c": np.array([True, False] * 3)},
        SIGNED,
    ),
    "Tile": ([node("Tile", ["d", "s"], "r")], {"s": I64([1, 2, 1, 2])}, SIGNED),
    "DepthToSpace": ([node("DepthToSpace", ["d"], "r", blocksize=2)], {}, SIGNED),
    "Dropout": ([node("Dropout", ["d"], "r")], {}, SIGNED),
    "Resize by 3": (
        [
            node(
                "Resize",
                ["d", "", "f"],
                "r",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"f": F([1, 1, 3, 3])},
        SIGNED,
    ),
    "MaxPool with ceil_mode": (
        [node("MaxPool", ["d"], "r", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
        SIGNED,
    ),
    "ReduceMean over 4 channels": (
        [node("ReduceMean", ["d", "a"], "r", keepdims=0)],
        {"a": I64([-3])},
        SIGNED,
    ),
    "ReduceSum over an image": (
        [node("ReduceSum", ["d", "a"], "r")],
        {"a": I64([2, -1])},
        SIGNED,
    ),
    "linear layer on [N, T, C]": (*linear(False), SIGNED | {"shape": (2, 7, 64)}),
    "linear layer with bias on [N, T, C]": (*linear(True), SIGNED | {"shape": (2, 7, 64)}),
    "constants computed exactly": (
        [node("Add", ["k", "l"], "c"), node("Transpose", ["c"], "t"), node("Add", ["d", "t"], "r")],
        {"k": F(0.5), "l": F(np.arange(36).reshape(6, 6) / 64)},
        SIGNED,
    ),
    "a shape computed from a symbolic one": (
        [
            node("Shape", ["d"], "s"),
            node("Gather", ["s", "zero"], "n"),
            node("Unsqueeze", ["n", "first"], "u"),
            node("Concat", ["u", "rest"], "to", axis=0),
            node("Reshape", ["d", "to"], "r"),
        ],
        {"zero": I64(0), "first": I64([0]), "rest": I64([-1])},
        SIGNED | {"shape": ("n", 4, 6, 6)},
    ),
    "a product of sizes": (
        [
            node("Shape", ["d"], "s", end=2),
            node("ReduceMax", ["s"], "n"),
            node("Mul", ["s", "n"], "m"),
            node("Mul", ["m", "zero"], "k"),
            node("Add", ["k", "to"], "t"),
            node("Reshape", ["d", "t"], "r"),
        ],
        {"zero": I64([0]), "to": I64([-1, 4])},
        SIGNED | {"shape": ("n", 4, 6, 6)},
    ),
    "quantized constants": (
        [
            stored("k", np.uint8([3, 7, 1, 9]).reshape(4, 1, 1), 2.0**-3)[0],
            node("Mul", ["k", "k"], "kk"),
            node("Add", ["d", "kk"], "r"),
        ],
        stored("k", np.uint8([3, 7, 1, 9]).reshape(4, 1, 1), 2.0**-3)[1],
        SIGNED,
    ),
    "a requantization behind a Split": (
        [
            node("Neg", ["d"], "n"),
            node("QuantizeLinear", ["n", "s1", "z1"], "nq"),
            node("DequantizeLinear", ["nq", "s1", "z1"], "e"),
            node("Split", ["e"], ["r", "other"], axis=1, num_outputs=2),
        ],
        {"s1": F(2.0**-3), "z1": np.uint8(128)},
        SIGNED,
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_what_is_proven_is_the_same_everywhere(name):
    nodes, constants, settings = PROVEN[name]
    model = between(nodes, constants, **settings)
    assert certify_model(model).complete, certify_model(model).as_text()
    assert outputs(model) == {reference(model)}


def again(*nodes, **constants):
    """A negated input between two quantizers (e) -> ``nodes`` (r) -> another quantizer."""
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
    """Bounds that are less than 2^-23 from those of the quantizer behind them."""
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
        between(
            [node("Dropout", ["d", "p", "t"], "r")], {"p": F(0.5), "t": np.array(True)}, **SIGNED
        ),
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
