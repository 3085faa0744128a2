"""A float ONNX file is a model: what is read computes what ONNX Runtime does, what is not is named."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qstrategies as qs
from qstrategies.cli import main
from qstrategies.errors import InputError, SelfCheckError
from qstrategies.models import MODELS
from qstrategies.onnx_model.layers import LAYERS

RANDOM = np.random.default_rng(0)


def weights(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def saved(path, nodes, constants=(), *, shape=("n", 3, 8, 8), opset=17):
    """A file of ``nodes``, from "x" to "y"; ``constants`` are c0, c1, ..."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(each), f"c{i}") for i, each in enumerate(constants)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def node(kind, *inputs, output="y", **attributes):
    return helper.make_node(kind, list(inputs) or ["x"], [output], **attributes)


def ints(*values):
    return np.array(values, np.int64)


ONE = np.float32
SIDES = ints(0, 0, 1, 2, 0, 0, 0, 1)
CASES = {
    "conv": ([node("Conv", "x", "c0", "c1", strides=[2, 1], pads=[1, 0, 1, 0])], [weights(4, 3, 3, 3), weights(4)]),
    "grouped and dilated": ([node("Conv", "x", "c0", group=3, dilations=[2, 2])], [weights(6, 1, 3, 3)]),
    "transposed": ([node("ConvTranspose", "x", "c0", strides=[2, 2], output_padding=[1, 0])], [weights(3, 4, 2, 2)]),
    "transposed with uneven pads": ([node("ConvTranspose", "x", "c0", strides=[2, 2], pads=[1, 0, 0, 1])], [weights(3, 4, 3, 3)]),
    "batch norm": ([node("BatchNormalization", "x", "c0", "c1", "c2", "c3", epsilon=1e-3)], [weights(3), weights(3), weights(3), np.abs(weights(3))]),
    "linear": ([node("Flatten", output="f"), node("Gemm", "f", "c0", "c1", transB=1)], [weights(5, 192), weights(5)]),
    "linear the other way": ([node("Flatten", output="f"), node("Gemm", "f", "c0", "c1")], [weights(192, 5), weights(1)]),
    "matmul": ([node("MatMul", "x", "c0")], [weights(8, 5)]),
    "max pool": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], []),
    "max pool, step 1": ([node("MaxPool", kernel_shape=[2, 2])], []),
    "average pool": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], []),
    "global average": ([node("GlobalAveragePool")], []),
    "nearest": ([node("Resize", "x", "", "c0", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], [np.array([1, 1, 2, 2], ONE)]),
    "bilinear": ([node("Resize", "x", "", "c0", mode="linear")], [np.array([1, 1, 2, 2], ONE)]),
    "numbers": ([node("Add", "x", "c0", output="a"), node("Div", "c1", "a", output="b"), node("Sub", "c1", "b")], [np.array(3, ONE), np.array([2], ONE)]),
    "a vector": ([node("Mul", "c0", "x")], [weights(1, 3, 1, 1)]),
    "two inputs": ([node("Relu", output="a"), node("Mul", "x", "a", output="b"), node("Concat", "a", "b", axis=1)], []),
    "clip": ([node("Clip", "x", "c0", "c1")], [np.array(0.25, ONE), np.array(0.5, ONE)]),
    "clip from below": ([node("Clip", "x", "c0")], [np.array(0.25, ONE)]),
    "hard sigmoid": ([node("HardSigmoid", alpha=1 / 6)], []),
    "another hard sigmoid": ([node("HardSigmoid")], []),
    "prelu": ([node("Sub", "x", "c1", output="a"), node("PRelu", "a", "c0")], [weights(3, 1, 1), np.array(0.5, ONE)]),
    "leaky": ([node("Sub", "x", "c0", output="a"), node("LeakyRelu", "a", alpha=0.3)], [np.array(0.5, ONE)]),
    "softmax": ([node("Softmax", axis=1)], []),
    "pad": ([node("Pad", "x", "c0", "c1")], [SIDES, np.array(0.5, ONE)]),
    "reflected": ([node("Pad", "x", "c0", mode="reflect")], [SIDES]),
    "moved": ([node("Transpose", perm=[0, 2, 3, 1], output="a"), node("Reshape", "a", "c0", output="b"), node("Unsqueeze", "b", "c1", output="c"), node("Squeeze", "c", "c1")], [ints(0, 64, -1), ints(1)]),
    "where": ([node("Equal", "x", "c0", output="a"), node("Where", "a", "c1", "x")], [np.array(0.5, ONE), weights(8)]),
    "sum": ([node("ReduceSum", "x", "c0", keepdims=0)], [ints(1, 3)]),
    "largest and smallest": ([node("ReduceMax", output="a", axes=[1]), node("ReduceMin", "a", axes=[2, 3])], []),
    "mean": ([node("ReduceMean", axes=[2, 3], keepdims=0)], []),
    "slice": ([node("Slice", "x", "c0", "c1", "c2", "c3")], [ints(1, -6), ints(2**40, -1), ints(1, -1), ints(1, 2)]),
    "gather": ([node("Gather", "x", "c0", axis=2)], [np.array(3, np.int64)]),
    "gather several": ([node("Gather", "x", "c0", axis=-3)], [ints(2, -3)]),
    "padded as TensorFlow does": ([node("Conv", "x", "c0", auto_pad="SAME_UPPER", strides=[2, 3])], [weights(4, 3, 3, 2)]),
    "and below": ([node("Conv", "x", "c0", auto_pad="SAME_LOWER")], [weights(4, 3, 2, 4)]),
    "uneven pads": ([node("Conv", "x", "c0", pads=[0, 1, 2, 0])], [weights(4, 3, 3, 3)]),
    "largest of several": ([node("Max", "x", "c0", "c1", output="a"), node("Min", "a", "x", output="b"), node("Sum", "a", "b", "x")], [weights(3, 1, 1), np.array(0.5, ONE)]),
    "compared": ([node("Greater", "x", "c0", output="a"), node("Where", "a", "x", "c1")], [np.array(0.5, ONE), np.array(0, ONE)]),
    "instance norm": ([node("InstanceNormalization", "x", "c0", "c1")], [weights(3), weights(3)]),
    "layer norm": ([node("LayerNormalization", "x", "c0", "c1", epsilon=1e-3)], [weights(8), weights(8)]),
    "pixels from channels": ([node("Concat", "x", "x", "x", "x", axis=1, output="a"), node("DepthToSpace", "a", blocksize=2, mode="CRD")], []),
    "curves": ([node("Sub", "x", "c0", output="a"), node("Selu", "a", output="b"), node("Celu", "b", alpha=0.5, output="c"), node("LogSoftmax", "c", axis=1)], [np.array(0.5, ONE)]),
    "global maximum": ([node("GlobalMaxPool")], []),
    "length": ([node("ReduceL2", "x", axes=[1], keepdims=1, output="a"), node("Div", "x", "a")], []),
    "steps": ([node("Mul", "x", "c0", output="a"), node("Floor", "a", output="b"), node("Sign", "b", output="c"), node("Ceil", "a", output="d"), node("Add", "c", "d", output="e"), node("Round", "e")], [np.array(4, ONE)]),
    "unequal parts": ([helper.make_node("Split", ["x", "c0"], ["a", "b"], axis=-1), node("Concat", "b", "a", axis=3)], [ints(3, 5)]),
    "parts": ([helper.make_node("Split", ["x"], ["a", "b"], axis=2), node("Sub", "a", "b")], []),
    "pooled as TensorFlow does": ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER", output="a"), node("AveragePool", "a", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 3])], []),
    "pooled with uneven pads": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], []),
    "a scaled product": ([node("Flatten", output="f"), node("Gemm", "f", "c0", "c1", transB=1, alpha=0.5, beta=2.0)], [weights(5, 192), weights(5)]),
    "zeros allowed": ([node("Reshape", "x", "c0", allowzero=1)], [ints(-1, 192)]),
    "repeated": ([node("Tile", "x", "c0")], [ints(1, 1, 2, 3)]),
    "several dimensions": ([node("Unsqueeze", "x", "c0")], [ints(-1, 1)]),
    "pixels from channels, blocks first": ([node("Concat", "x", "x", "x", "x", axis=1, output="a"), node("Mul", "a", "c0", output="b"), node("DepthToSpace", "b", blocksize=2)], [weights(12, 1, 1)]),
    "folded": ([node("Reshape", "c0", "c1", output="a"), node("Add", "x", "a")], [weights(3), ints(1, 3, 1, 1)]),
}  # fmt: skip
SIZES = [
    node("Shape", output="s"),
    node("Gather", "s", "c0", output="n"),
    node("Unsqueeze", "n", "c1", output="m"),
    node("Concat", "m", "c2", axis=0, output="t"),
    node("Reshape", "x", "t"),
]
CASES["a batch read from the input"] = SIZES, [np.array(0, np.int64), ints(0), ints(-1)]
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
CASES["nearest to a size"] = (
    [*SIZES[:-1], node("Resize", "x", "", "", "t", mode="nearest", **NEAREST)],
    [np.array(0, np.int64), ints(0), ints(3, 12, 5)],
)


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnx_runtime_does_for_any_batch(name, tmp_path):
    nodes, constants = CASES[name]
    path = saved(tmp_path / "model.onnx", nodes, constants)
    model = copy.deepcopy(qs.from_onnx(path))
    x = RANDOM.random((5, 3, 8, 8), np.float32)
    with torch.no_grad():
        found = model(torch.from_numpy(x)).numpy()
    expected = run(path, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())  # float32 sums


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([node("Det", output="y")], [], "the operator Det is not read ('y')"),
        ([node("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 2, 1])], [], "MaxPool with uneven pads [0, 0, 2, 1]"),
        ([node("ReduceMean", axes=[1], keepdims=0, output="a"), helper.make_node("GRU", ["a", "c0", "c1"], ["y"], hidden_size=4)], [weights(1, 12, 8), weights(1, 12, 4)], "GRU is not read ('y'): give the network as a torch.nn.Module, where"),
        ([node("Shape", output="s"), node("ConstantOfShape", "s")], [], "ConstantOfShape of constants"),
        ([node("Relu", output="a"), node("Conv", "x", "a", name="dyn")], [], "Conv with weights that are computed is not read ('dyn')"),
        ([node("QuantizeLinear", "x", "c0", output="a"), node("DequantizeLinear", "a", "c0")], [np.array(0.1, ONE)], "QuantizeLinear of a quantized file: float models are read"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(nodes, constants, message, tmp_path):
    shape = (3, 3, 3, 3) if "QuantizeLinear" in message else ("n", 3, 8, 8)
    path = saved(tmp_path / "model.onnx", nodes, constants, shape=shape)
    with pytest.raises(InputError) as caught:
        qs.from_onnx(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_misread_is_an_error_that_names_the_place(tmp_path, monkeypatch):
    nodes, constants = CASES["conv"]
    path = saved(
        tmp_path / "model.onnx",
        [*nodes[:0], node("Conv", "x", "c0", output="a"), node("Relu", "a")],
        constants[:1],
    )
    real = LAYERS["Conv"]
    monkeypatch.setitem(
        LAYERS, "Conv", lambda each: torch.nn.Sequential(real(each), torch.nn.ReLU())
    )
    with pytest.raises(SelfCheckError, match="what gives 'a' was misread: "):
        qs.from_onnx(path)


@pytest.fixture
def net(tmp_path):
    nodes = [
        node("Conv", "x", "c0", "c1", output="a"),
        node("HardSwish", "a", output="b"),
        node("GlobalAveragePool", "b", output="c"),
        node("Flatten", "c", output="d"),
        node("Gemm", "d", "c2", "c3", transB=1),
    ]
    constants = [weights(8, 1, 3, 3), weights(8), weights(10, 8), weights(10)]
    return saved(tmp_path / "net.onnx", nodes, constants, shape=("n", 1, "h", "w"))


def test_a_file_is_quantized_as_a_model_is(net, tmp_path):
    batches = [torch.rand(8, 1, 12, 12)]
    quantized = qs.quantize(str(net), batches, batches[0], input_scale=1 / 255)
    assert list(quantized.islands) == []
    files = qs.export_onnx(quantized, tmp_path / "int8.onnx")
    pixels = (batches[0] * 255).to(torch.uint8)
    assert qs.cross_check(files, pixels, ["onnxruntime-all"]).same
    expected = run(net, batches[0].numpy())
    assert np.abs(quantized.int8()(pixels).numpy() - expected).max() < 0.1 * np.abs(expected).max()


def test_a_file_is_a_trained_model_of_the_command_line(net, tmp_path, location, registries, capsys):
    import conftest

    assert conftest.SmallMNIST
    out = ["--out", str(tmp_path / "out"), "--cache-dir", str(location.cache), "--quiet", "--json"]
    command = ["run", "no_norm", "--model", str(net), "--dataset", "small_mnist", *out]
    assert main(command) == 0
    assert MODELS.origin("net") == str(net)
    assert main(["run", "weight_norm", "--model", str(net), *out[:4]]) == 2
    assert "'weight_norm' trains from scratch" in capsys.readouterr().err


def test_weights_beside_the_file_are_read_and_no_others(net, tmp_path):
    """As PyTorch's exporter leaves them, unless asked otherwise."""
    expected = qs.from_onnx(net)
    model, path = onnx.load(net), tmp_path / "beside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    x = torch.rand(2, 1, 12, 12)
    assert torch.equal(qs.from_onnx(path)(x), expected(x))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "moved.onnx").write_bytes(path.read_bytes())
    elsewhere = onnx.load(path, load_external_data=False)
    for tensor in elsewhere.graph.initializer:
        tensor.external_data[0].value = "../weights"
    (tmp_path / "in" / "elsewhere.onnx").write_bytes(elsewhere.SerializeToString())
    for name in ("moved", "elsewhere"):
        with pytest.raises(InputError, match="is not a valid ONNX file: .*weights"):
            qs.from_onnx(tmp_path / "in" / f"{name}.onnx")
