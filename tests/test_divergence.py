"""The first node at which two executors differ: planted, and real."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qstrategies.execution.divergence import first_divergence
from qstrategies.execution.verify import report_text, verify
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.onnx_runtime import Disabled

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), np.uint8)


def bias_of(path, layer):
    """The name of the integer bias of ``layer`` in the file at ``path``."""
    tensors = onnx.load(str(path)).graph.initializer
    (name,) = (
        tensor.name
        for tensor in tensors
        if tensor.name.startswith(f"{layer}.bias") and tensor.data_type == TensorProto.INT32
    )
    return name


def planted(bias):
    """An executor whose convolution or linear layer with ``bias`` has one wrong bias, wherever a
    file still holds it."""

    class Planted(Disabled):
        def __init__(self, path):
            model = onnx.load(str(path))
            for tensor in model.graph.initializer:
                if tensor.name == bias:
                    values = numpy_helper.to_array(tensor).copy()
                    values[3] += 2**16
                    tensor.CopyFrom(numpy_helper.from_array(values, bias))
            wrong = path.with_suffix(".wrong.onnx")
            onnx.save(model, str(wrong))
            super().__init__(wrong)

    return Planted


@pytest.fixture
def file(tmp_path):
    return Path(shutil.copy(Path(__file__).parent.parent / "exported" / "qat.onnx", tmp_path))


@pytest.mark.parametrize(
    ("name", "operator"), [("conv1", "Conv"), ("conv2", "Conv"), ("fc", "Gemm")]
)
def test_a_wrong_layer_is_named_with_its_element_and_both_values(name, operator, file):
    bias = bias_of(file, name)
    graph = onnx.load(str(file)).graph
    dequantize = next(node for node in graph.node if node.input[0] == bias)
    layer = next(node for node in graph.node if dequantize.output[0] in node.input)
    assert layer.op_type == operator
    found = first_divergence(file, planted(bias), Disabled, [IMAGES])
    assert found is not None and found.op_type == "QuantizeLinear" and layer.name in found.through
    assert found.index[:2] == (0, 3)
    assert 0 <= found.expected < found.found <= 255


def test_executors_that_agree_have_no_divergence(file):
    assert first_divergence(file, RUNTIMES.get("onnxruntime-all"), Disabled, [IMAGES]) is None


def free_scales(path):
    """conv and average with the scale 0.1 in float32: half steps are exact for integer kernels
    only."""
    rng = np.random.default_rng(1)
    scale = {
        name: np.float32(value) for name, value in {"x": 0.1, "w": 0.5, "y": 0.1, "z": 0.1}.items()
    }
    constants = {
        **{f"{name}_scale": value for name, value in scale.items()},
        "zero": np.uint8(0),
        "w_zero": np.int8(0),
    }
    constants |= {
        "w": rng.integers(-1, 2, (8, 1, 5, 5)).astype(np.int8),
        "b": rng.integers(-90, 90, 8).astype(np.int32),
    }
    constants["b_scale"] = np.float32(scale["x"] * scale["w"])
    nodes = [
        ("DequantizeLinear", ["image", "x_scale", "zero"], "real"),
        ("DequantizeLinear", ["w", "w_scale", "w_zero"], "weight"),
        ("DequantizeLinear", ["b", "b_scale"], "bias"),
        ("Conv", ["real", "weight", "bias"], "sums"),
        ("QuantizeLinear", ["sums", "y_scale", "zero"], "quantized"),
        ("DequantizeLinear", ["quantized", "y_scale", "zero"], "features"),
        ("GlobalAveragePool", ["features"], "means"),
        ("QuantizeLinear", ["means", "z_scale", "zero"], "quantized_means"),
        ("DequantizeLinear", ["quantized_means", "z_scale", "zero"], "logits"),
    ]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in nodes],
        "free",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9),
        str(path),
    )
    return path


def test_a_file_with_free_scales_diverges_at_its_convolution(tmp_path):
    path = free_scales(tmp_path / "free.onnx")
    found = first_divergence(path, RUNTIMES.get("onnxruntime-all"), Disabled, [IMAGES])
    assert found is not None and (found.node, found.through) == ("quantized", ("sums",))
    assert abs(found.found - found.expected) == 1


def test_verify_reports_the_divergence(exported, location, monkeypatch, tmp_path):
    file = shutil.copy(exported, tmp_path)
    monkeypatch.setitem(RUNTIMES._items, "onnxruntime-basic", planted(bias_of(file, "conv2")))
    report = verify(Path(file), location, ["onnxruntime-basic", "onnxruntime-all"])
    assert [check["first_divergence"] is None for check in report["checks"]] == [False, True]
    assert "first divergence: QuantizeLinear" in report_text(report)
