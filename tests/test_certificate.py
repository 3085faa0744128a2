"""The certificate against brute force, against planted faults, and against what executors do."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qstrategies.certificate import certify, certify_model
from qstrategies.certificate.report import GUARANTEES
from qstrategies.onnx_file import read_metadata
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.exact_movement import GatherElements

EXPORTED = sorted((Path(__file__).parent.parent / "exported").glob("*.onnx"))
EXACT = {"integer_kernels", "float_executors"}


def build(nodes, constants, shape=(1, 4), outputs=1, kind=TensorProto.UINT8, opset=19):
    """A model of ``nodes`` from input x to outputs y (y1...), with NumPy ``constants`` by name."""
    names = ["y", *(f"y{index}" for index in range(1, outputs))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(made)
    onnx.checker.check_model(model, full_check=True)
    return model


def node(op, inputs, output, **attributes):
    return helper.make_node(
        op,
        inputs,
        [output] if isinstance(output, str) else output,
        name=f"the_{op}_{output}",
        **attributes,
    )


def layer(
    weight,
    bias=None,
    *,
    op="Gemm",
    x=(1.0, 0),
    w=2.0**-8,
    y=(0.25, 128),
    shape=(1, 4),
    signed=False,
    **attributes,
):
    """DequantizeLinear -> ``op`` with int8 ``weight`` and int32 ``bias`` -> QuantizeLinear, and a
    spare Dequantize at the end."""
    dtype = np.int8 if signed else np.uint8
    constants = {
        "sx": np.float32(x[0]),
        "zx": dtype(x[1]),
        "w8": np.int8(weight),
        "sw": np.float32(w),
    }
    constants |= {"sy": np.float32(y[0]), "zy": np.uint8(y[1])}
    axis = {"axis": 1 if op in ("ConvTranspose", "MatMul") else 0} if np.size(w) > 1 else {}
    nodes = [
        node("DequantizeLinear", ["x", "sx", "zx"], "xr"),
        node("DequantizeLinear", ["w8", "sw"], "w", **axis),
    ]
    if bias is not None:
        constants |= {
            "b32": np.int32(bias),
            "sb": np.broadcast_to(np.float32(x[0]) * np.float32(w), np.shape(bias)),
        }
        nodes.append(node("DequantizeLinear", ["b32", "sb"], "b", axis=0))
    nodes.append(node(op, ["xr", "w", *(["b"] if bias is not None else [])], "r", **attributes))
    nodes += [
        node("QuantizeLinear", ["r", "sy", "zy"], "q"),
        node("DequantizeLinear", ["q", "sy", "zy"], "y"),
    ]
    return build(nodes, constants, shape, kind=TensorProto.INT8 if signed else TensorProto.UINT8)


def between(
    nodes,
    constants,
    *,
    shape=(1, 4, 6, 6),
    out=(2.0**-4, 0),
    into=(2.0**-4, 0),
    opset=19,
    **settings,
):
    """x -> DequantizeLinear (d) -> ``nodes`` (r) -> QuantizeLinear, with ``settings`` ->
    DequantizeLinear (y)."""
    constants = {
        "sx": np.float32(into[0]),
        "zx": np.uint8(into[1]),
        "sy": np.float32(out[0]),
        "zy": np.uint8(out[1]),
        **constants,
    }
    ends = [
        node("QuantizeLinear", ["r", "sy", "zy"], "q", **settings),
        node("DequantizeLinear", ["q", "sy", "zy"], "y"),
    ]
    return build(
        [node("DequantizeLinear", ["x", "sx", "zx"], "d"), *nodes, *ends],
        constants,
        shape,
        opset=opset,
    )


def broken(model):
    """What a model breaks of all but fixed-point kernels: {(guarantee, node)}, and all reasons in
    one text."""
    found = certify_model(model).breaches
    return {(name, item.node) for name in found for item in found[name]}, "; ".join(
        item.reason for name in found for item in found[name]
    )


def brute_force(rows, bias, low, high):
    """The largest |partial sum| per row over all corners of the inputs and all subsets of the
    terms."""
    largest = []
    for row, constant in zip(rows, bias, strict=True):
        sums = [
            abs(sum(subset))
            for corner in itertools.product([low, high], repeat=len(row))
            for terms in [[*(int(w) * x for w, x in zip(row, corner, strict=True)), int(constant)]]
            for size in range(len(terms) + 1)
            for subset in itertools.combinations(terms, size)
        ]
        largest.append(max(sums))
    return tuple(largest)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("zero_point", "signed"), [(0, False), (128, False), (254, False), (0, True), (-128, True)]
)
def test_the_bound_is_the_true_maximum_over_all_inputs_and_orders(seed, zero_point, signed):
    rng = np.random.default_rng(seed)
    w, b = rng.integers(-127, 128, (2, 4)), rng.integers(-9999, 9999, 2)
    expected = brute_force(
        w, b, *(limit - zero_point for limit in ((-128, 127) if signed else (0, 255)))
    )
    cases = [
        layer(w, b, transB=1, x=(1.0, zero_point), signed=signed),
        layer(w.T, b, x=(1.0, zero_point), signed=signed),
        layer(
            w.reshape(2, 2, 1, 2),
            b,
            op="Conv",
            group=2,
            shape=(1, 4, 1, 2),
            x=(1.0, zero_point),
            signed=signed,
        ),
    ]
    for model in cases:
        assert certify_model(model).layers[0].accumulators == expected
    no_bias = brute_force(
        w, [0, 0], *(limit - zero_point for limit in ((-128, 127) if signed else (0, 255)))
    )
    assert (
        certify_model(layer(w.T, op="MatMul", x=(1.0, zero_point), signed=signed))
        .layers[0]
        .accumulators
        == no_bias
    )
    transposed = layer(
        np.concatenate([w.T, w.T])[:, :, None],
        [0] * 4,
        op="ConvTranspose",
        group=2,
        shape=(1, 8, 3),
        x=(1.0, zero_point),
        signed=signed,
    )
    assert certify_model(transposed).layers[0].accumulators == no_bias * 2


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_a_convolution_are_those_of_a_few_lines_of_numpy(seed):
    rng = np.random.default_rng(seed)
    w, b, odd = (
        rng.integers(-60, 61, (8, 5, 3, 3)),
        rng.integers(-5000, 5000, 8),
        rng.choice([1, 3, 5, 9, 11], 8),
    )
    found = certify_model(
        layer(w, b, op="Conv", w=odd * 2.0**-9, y=(2.0**-2, 0), shape=(1, 5, 6, 6))
    )
    rows = w.reshape(8, -1)
    positive, negative = (
        np.where(rows > 0, rows, 0).sum(1) * 255 + np.maximum(b, 0),
        np.where(rows < 0, rows, 0).sum(1) * 255 + np.minimum(b, 0),
    )
    bound = np.maximum(positive, -negative)
    figures = found.layers[0]
    assert (
        figures.accumulators == tuple(bound)
        and figures.mantissas == tuple(odd)
        and figures.float_units == tuple(bound * odd)
    )
    assert figures.pairs == tuple(
        max(abs(p + q) for p, q in itertools.combinations(row, 2) if p * q > 0)
        for row in rows.tolist()
    )
    innermost = w.transpose(0, 2, 3, 1).reshape(8, -1)
    sums = [
        np.where(order[:, 1:] * order[:, :-1] > 0, np.abs(order[:, 1:] + order[:, :-1]), 0)
        for order in (rows, innermost)
    ]
    alone = np.abs(rows).max(1)
    assert figures.adjacent == tuple(np.max([item.max(1) for item in sums] + [alone], 0))
    assert found.complete


def test_float_weights_that_are_an_integer_grid_are_proven_and_others_are_not():
    weight = np.float32([[3, -5], [7, 2]]) * np.float32(2.0**-9)
    constants = {"w": weight, "b": np.float32([2.0**-9, 6]), "sy": np.float32(1), "zy": np.uint8(2)}
    nodes = [
        node("Cast", ["x"], "f", to=TensorProto.FLOAT),
        node("Gemm", ["f", "w", "b"], "r", transB=1),
    ]
    nodes += [
        node("Relu", ["r"], "p"),
        node("QuantizeLinear", ["p", "sy", "zy"], "q"),
        node("DequantizeLinear", ["q", "sy", "zy"], "y"),
    ]
    found = certify_model(build(nodes, constants, (1, 2)))
    assert found.complete and found.layers[0].form == "float"
    assert found.layers[0].float_units == (5 * 255, 9 * 255 + 6 * 512)
    constants["w"] = np.float32([[0.1, 0.2], [0.3, 0.4]])
    places, reasons = broken(build(nodes, constants, (1, 2)))
    assert places >= {(name, "the_Gemm_r") for name in EXACT} and "no more than 2^24" in reasons


GOOD = [[64, -64, 10, 3], [1, 2, 3, 4]]
Q = "the_QuantizeLinear_q"
FIRST, LAYER = "the_DequantizeLinear_xr", "the_Gemm_r"
FAULTS = {
    "input scale": (layer(GOOD, transB=1, x=(0.75, 0)), EXACT, {FIRST}, "0.75 is no power of two"),
    "input zero point": (layer(GOOD, transB=1, x=(1.0, 3)), EXACT, {FIRST}, "zero point 3 is odd"),
    "output scale": (layer(GOOD, transB=1, y=(0.3, 0)), EXACT, {Q}, "no power of two"),
    "output zero point": (layer(GOOD, transB=1, y=(0.25, 127)), EXACT, {Q}, "127 is odd"),
    "saturation": (layer([[127, 0, 0, 2]], transB=1), {"saturation_safe"}, {LAYER}, "channel 0: two weights sum to 129"),
    "float sums": (
        layer([GOOD[0], [1, 60, 60, 60]], [1, 1], transB=1, w=[0.25, 1001 * 2.0**-16], y=(1.0, 0)),
        {"float_executors"}, {LAYER}, "channel 1: sums of up to",
    ),
    "int32": (layer(np.full((1, 70000), 127), transB=1, shape=(1, 70000)), set(GUARANTEES), {LAYER}, "overflow int32"),
    "reciprocal": (layer(GOOD, transB=1, w=13 * 2.0**-10), {"integer_kernels"}, {LAYER}, "as its reciprocal"),
    "zero point first": (layer(GOOD, transB=1, w=2.0**-19), EXACT, {Q}, "add the zero point 128 before rounding"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_node_and_breaks_only_what_it_must(fault):
    model, guarantees, nodes, reason = FAULTS[fault]
    places, reasons = broken(model)
    assert {name for name, _ in places} == guarantees and {where for _, where in places} == nodes
    assert reason in reasons


def test_the_same_layers_without_a_fault_are_proven():
    for zero_point, scale in ((128, 2.0**-8), (0, 2.0**-19), (0, 11 * 2.0**-12)):
        assert certify_model(layer(GOOD, [1, -1], transB=1, w=scale, y=(0.25, zero_point))).complete


def test_a_bias_off_its_grid_is_found_in_both_forms():
    model = layer(GOOD, [100, -7], transB=1)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "sb")
    off = numpy_helper.to_array(scale) * np.float32(1 + 2.0**-20)
    scale.CopyFrom(numpy_helper.from_array(off, "sb"))
    assert "the scale of the bias is not s_x s_w" in broken(model)[1]
    bias = next(item for item in model.graph.node if item.output[0] == "b")
    model.graph.node.remove(bias)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 0.001]), "b"))
    places, reasons = broken(model)
    assert (
        places == {(name, LAYER) for name in EXACT}
        and "channel 1: the bias is no whole number" in reasons
    )


I64 = np.int64
OTHER = np.float32(np.arange(36).reshape(1, 1, 6, 6)) * np.float32(2.0**-5)
PROVEN = {
    "Add": ([node("Add", ["d", "c"], "r")], {"c": OTHER}, {}),
    "Sub": ([node("Sub", ["d", "c"], "r")], {"c": OTHER}, {"into": (2.0**-4, 100)}),
    "Mul": ([node("Mul", ["d", "c"], "r")], {"c": OTHER}, {"into": (2.0**-4, 100), "out": (2.0**-2, 20)}),
    "Concat": ([node("Relu", ["d"], "p"), node("Concat", ["d", "p"], "r", axis=1)], {}, {"into": (2.0**-4, 100), "out": (2.0**-4, 100)}),
    "MaxPool": ([node("MaxPool", ["d"], "r", kernel_shape=[2, 2])], {}, {}),
    "AveragePool over 4": ([node("AveragePool", ["d"], "r", kernel_shape=[2, 2])], {}, {"into": (2.0**-4, 30), "out": (2.0**-4, 30)}),
    "AveragePool over 9": ([node("AveragePool", ["d"], "r", kernel_shape=[3, 3])], {}, {"into": (2.0**-4, 30), "out": (2.0**-4, 30)}),
    "padded AveragePool": ([node("AveragePool", ["d"], "r", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}, {}),
    "AveragePool over 9, finer in than out": ([node("AveragePool", ["d"], "r", kernel_shape=[3, 3])], {}, {"out": (2.0**-3, 20)}),
    "GlobalAveragePool over 36": ([node("GlobalAveragePool", ["d"], "r")], {}, {"into": (2.0**-4, 30), "out": (2.0**-4, 30)}),
    "GlobalAveragePool over 49": ([node("GlobalAveragePool", ["d"], "r")], {}, {"shape": (1, 4, 7, 7)}),
    "ReduceMean over 8": ([node("ReduceMean", ["d", "axes"], "r")], {"axes": I64([2, 3])}, {"shape": (1, 4, 2, 4)}),
    "Clip": (
        [node("Clip", ["d", "least", "most"], "r")],
        {"least": np.float32(0), "most": np.float32(6)},
        {"into": (2.0**-4, 30), "out": (2.0**-4, 4)},
    ),
    "Pad": ([node("Pad", ["d", "pads"], "r")], {"pads": I64([0, 0, 1, 1, 0, 0, 1, 1])}, {}),
    "Resize": ([node("Resize", ["d", "", "by"], "r")], {"by": np.float32([1, 1, 2, 2])}, {}),
    "moving": (
        [
            node("Transpose", ["d"], "t", perm=[0, 2, 3, 1]),
            node("Split", ["t"], ["u", "v"], axis=1, num_outputs=2),
            node("Reshape", ["v", "to"], "r"),
        ],
        {"to": I64([1, -1])},
        {},
    ),
    "Slice": ([node("Slice", ["d", "from", "to"], "r")], {"from": I64([0, 1]), "to": I64([1, 3])}, {}),
    "table": (
        [
            node("Cast", ["x"], "i", to=TensorProto.INT32),
            node("Gather", ["table", "i"], "l"),
            node("DequantizeLinear", ["l", "sx", "zx"], "r"),
        ],
        {"table": np.uint8(np.arange(256) ** 2 // 256)},
        {},
    ),
    "table by elements": (
        [
            node("Cast", ["x"], "i", to=TensorProto.INT32),
            node("Reshape", ["i", "flat"], "j"),
            node("GatherElements", ["table", "j"], "l"),
            node("Reshape", ["l", "image"], "k"),
            node("DequantizeLinear", ["k", "sx", "zx"], "r"),
        ],
        {
            "table": np.uint8(np.arange(256) ** 2 // 256),
            "flat": I64([-1]),
            "image": I64([-1, 4, 6, 6]),
        },
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROVEN)
def test_a_proven_operator_gives_the_same_bits_at_every_level_of_optimisation(name, tmp_path):
    nodes, constants, settings = PROVEN[name]
    model = between(nodes, constants, **settings)
    assert certify_model(model).complete
    onnx.save(model, str(tmp_path / "m.onnx"))
    images = (
        np.random.default_rng(0)
        .integers(0, 256, (1, *settings.get("shape", (1, 4, 6, 6))[1:]))
        .astype(np.uint8)
    )
    expected = ReferenceEvaluator(model, new_ops=[GatherElements]).run(None, {"x": images})[0]
    for runtime in ("onnxruntime-disabled", "onnxruntime-all"):
        np.testing.assert_array_equal(
            RUNTIMES.get(runtime)(tmp_path / "m.onnx").run(images), expected
        )


UNPROVEN = {
    "sigmoid": ([node("Sigmoid", ["d"], "r")], {}, {}, "no proof is known for Sigmoid", EXACT),
    "mean over 28": ([node("GlobalAveragePool", ["d"], "r")], {}, {"shape": (1, 4, 4, 7)}, "if they are divided differently", EXACT),
    "mean over 7, finer in than out": (
        [node("AveragePool", ["d"], "r", kernel_shape=[7, 1])],
        {}, {"shape": (1, 4, 7, 3), "out": (2.0**-3, 0)}, "if they are divided differently", EXACT,
    ),
    "mean over the border": ([node("AveragePool", ["d"], "r", kernel_shape=[3, 3], pads=[1] * 4)], {}, {}, "at the border", EXACT),
    "add of far scales": ([node("Add", ["d", "c"], "r")], {"c": np.float32([2.0**-30])}, {}, "24 bits of float32", EXACT),
    "integers that overflow": (
        [node("Cast", ["x"], "i", to=TensorProto.INT8), node("DequantizeLinear", ["i", "sx"], "r")], {}, {}, "integers can overflow", EXACT,
    ),
    "linear resize": ([node("Resize", ["d", "", "by"], "r", mode="linear")], {"by": np.float32([1, 1, 2, 2])}, {}, "'linear'", EXACT),
    "varying factors": ([node("MatMul", ["d", "d"], "r")], {}, {}, "not constant", set(GUARANTEES)),
    "alpha": (
        [node("Gemm", ["d", "c"], "r", alpha=0.3)],
        {"c": np.float32(np.eye(4))}, {"shape": (1, 4)}, "alpha is 0.3", set(GUARANTEES),
    ),
    "float constant rounded at load": (
        [
            node("QuantizeLinear", ["c", "sx", "zx"], "cq"),
            node("DequantizeLinear", ["cq", "sx", "zx"], "cd"),
            node("Add", ["d", "cd"], "r"),
        ],
        {"c": OTHER}, {}, "rounds its constant", EXACT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_is_not_proven_is_named_with_its_reason(name):
    nodes, constants, settings, reason, guarantees = UNPROVEN[name]
    places, reasons = broken(between(nodes, constants, **settings))
    assert {guarantee for guarantee, _ in places} == guarantees and reason in reasons


@pytest.mark.parametrize(
    ("count", "alike"), [(6, True), (7, True), (36, True), (28, False), (56, False)]
)
def test_a_mean_is_proven_exactly_if_division_and_reciprocal_round_alike(count, alike):
    sums = np.arange(255 * count + 1)
    exact = np.array([round(Fraction(int(total), count)) for total in sums])  # half to even
    same = [
        np.rint(value) == exact
        for value in (
            np.float32(sums) / np.float32(count),
            np.float32(sums) * np.float32(1 / count),
        )
    ]
    assert np.all(same) == alike
    assert (
        certify_model(
            between([node("GlobalAveragePool", ["d"], "r")], {}, shape=(1, 4, 1, count))
        ).complete
        is alike
    )


def test_real_valued_inputs_are_proven_only_without_a_zero_point():
    constants = {"s": np.float32(0.5), "z": np.uint8(0)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "y"),
    ]
    assert certify_model(build(nodes, constants, kind=TensorProto.FLOAT)).complete
    places, reasons = broken(build(nodes, constants | {"z": np.uint8(2)}, kind=TensorProto.FLOAT))
    assert places == {(name, Q) for name in EXACT} and "before rounding" in reasons


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.name)
def test_every_committed_file_is_certified_in_full(path):
    found = certify(path)
    assert found.complete, found.as_text()
    assert len(found.layers) == 3 and [item.form for item in found.layers[1:]] == ["int8", "int8"]
    assert found.layers[0].form == ("float" if ".fast" in path.name else "int8")


def test_the_text_and_the_json_hold_the_verdicts(exported):
    found = certify(exported)
    assert (
        json.loads(json.dumps(found.as_dict))["summary"]
        == found.summary
        == read_metadata(exported)["certificate"]
    )
    shown = found.as_text()
    assert all(f"{GUARANTEES[name]:<30} yes" in shown for name in GUARANTEES)
    assert "exact on fixed-point kernels   NO" in shown
    unsafe = certify_model(FAULTS["saturation"][0])
    assert (
        "safe without VNNI              NO\n  the_Gemm_r: channel 0: two weights sum to 129"
        in unsafe.as_text()
    )
    assert (
        json.loads(json.dumps(unsafe.as_dict))["broken_by"]["saturation_safe"][0]["node"] == LAYER
    )


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_file_of_another_tool_is_read_and_its_faults_are_named(tmp_path, per_channel):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.batches = iter(
                [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
            )

        def get_next(self):
            return next(self.batches, None)

    rng = np.random.default_rng(1)
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], "c"),
        node("Relu", ["c"], "r"),
        node("Sigmoid", ["r"], "y"),
    ]
    onnx.save(
        build(nodes, constants, (1, 3, 8, 8), kind=TensorProto.FLOAT), str(tmp_path / "f.onnx")
    )
    quantize_static(
        tmp_path / "f.onnx",
        tmp_path / "q.onnx",
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
    )
    found = certify(tmp_path / "q.onnx")
    assert [item.form for item in found.layers] == ["int8"] and len(
        found.layers[0].accumulators
    ) == 4
    assert not found.holds("integer_kernels") and not found.holds("saturation_safe")
    assert any("no power of two" in item.reason for item in found.breaches["integer_kernels"])
    assert any("Sigmoid" in item.reason for item in found.breaches["float_executors"])


def test_a_certificate_shows_itself_in_a_line(exported):
    shown = repr(certify(exported))
    assert len(shown) < 250 and "exact on integer kernels: yes" in shown
