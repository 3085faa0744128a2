import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from qstrategies.certificate import certify
from qstrategies.errors import InputError
from qstrategies.export.onnx_export import export_float_onnx, export_onnx
from qstrategies.export.onnx_writer import IR_VERSION, OPSET
from qstrategies.onnx_file import content_hash, read_metadata
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.records import QuantizationConfig

ALLOWED = {"DequantizeLinear", "QuantizeLinear", "Conv", "Relu", "MaxPool", "Reshape", "Gemm"}


def quantize(cnn, mnist, **settings):
    prepared = prepare(
        cnn, QuantizationConfig(**settings), (torch.zeros(2, 1, 28, 28),), input_scale=PIXEL_SCALE
    )
    calibrate(prepared, [to_input(mnist["train"].images[:256])])
    return QuantizedModel.of(prepared)


def initializers(path):
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(path)).graph.initializer
    }


def logits(path, images, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options)
    return session.run(None, {"image": images})[0]


def test_the_portable_file_is_minimal_qdq(cnn, mnist, tmp_path):
    (portable, fast) = export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx", {"strategy": "x"})
    model = onnx.load(str(portable.path))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= ALLOWED
    assert (model.ir_version, model.opset_import[0].version, len(model.opset_import)) == (
        IR_VERSION,
        OPSET,
        1,
    )
    (entry,), (result,) = model.graph.input, model.graph.output
    assert (entry.name, result.name) == ("image", "logits")
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = entry.type.tensor_type.shape.dim
    assert dims[0].dim_param and [dim.dim_value for dim in dims][1:] == [1, 28, 28]
    arrays = initializers(portable.path)
    for layer in ("conv1", "conv2", "fc"):
        assert arrays[f"{layer}.weight"].dtype == np.int8
        assert arrays[f"{layer}.bias"].dtype == np.int32
    floats = {name: array.shape for name, array in arrays.items() if array.dtype == np.float32}
    assert all(name.endswith(("_scale", ".scale")) for name in floats), (
        "no float weight is left over"
    )
    assert all(len(shape) <= 1 for shape in floats.values())
    assert portable.size < 46_000 and fast.size < 46_000
    assert (tmp_path / "m.fast.onnx") == fast.path


def test_biases_have_the_scale_of_the_accumulator(cnn, mnist, tmp_path):
    path = export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx")[0].path
    model = onnx.load(str(path))
    arrays = initializers(path)
    producer = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 3
    for node in layers:
        entry, weight, bias = (producer[name] for name in node.input)
        np.testing.assert_array_equal(
            arrays[bias.input[1]], arrays[entry.input[1]] * arrays[weight.input[1]]
        )
        assert len(bias.input) == 2, "no zero point"


def test_both_forms_and_both_pixel_types_give_the_bits_of_pytorch(cnn, mnist, tmp_path):
    model = quantize(cnn, mnist)
    images = mnist["test"].images[:300]
    expected = model.int8()(images.float()).numpy()
    portable, fast = export_onnx(model, tmp_path / "m.onnx")
    for file in (portable, fast):
        np.testing.assert_array_equal(logits(file.path, images.numpy()), expected)
        np.testing.assert_array_equal(logits(file.path, images[:1].numpy()), expected[:1])
    floats = export_onnx(model, tmp_path / "f.onnx", pixels="float32")[0]
    np.testing.assert_array_equal(logits(floats.path, images.numpy().astype(np.float32)), expected)


def test_the_fast_form_has_one_float_layer_and_pools_before_relu(cnn, mnist, tmp_path):
    fast = export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx")[1]
    assert [node.op_type for node in onnx.load(str(fast.path)).graph.node][:5] == [
        "Cast",
        "Conv",
        "MaxPool",
        "Relu",
        "QuantizeLinear",
    ]
    arrays = initializers(fast.path)
    floats = {name for name, array in arrays.items() if array.dtype == np.float32}
    assert {name for name in floats if not name.endswith(("_scale", ".scale"))} == {
        "conv1.weight_float",
        "conv1.bias_float",
    }


def test_reduced_range_leaves_no_clip(cnn, mnist, tmp_path):
    path = export_onnx(quantize(cnn, mnist, reduce_range=True), tmp_path / "m.onnx")[0].path
    assert {node.op_type for node in onnx.load(str(path)).graph.node} <= ALLOWED


@pytest.mark.parametrize("settings", [{"per_channel": False}, {"weight_bits": 2}, {"exact": False}])
def test_other_quantizers_export_too(cnn, mnist, tmp_path, settings):
    model = quantize(cnn, mnist, **settings)
    images = mnist["test"].images[:100]
    path = export_onnx(model, tmp_path / "m.onnx")[0].path
    exact = settings.get("exact", True)
    level = "ORT_ENABLE_ALL" if exact else "ORT_DISABLE_ALL"  # integer kernels may saturate
    found = logits(path, images.numpy(), level)
    steps = np.abs(found - model.int8()(images.float()).numpy()) / model.output_scale
    assert steps.max() <= (0 if exact else 2)


def test_metadata_is_read_back_and_the_same_model_gives_the_same_file(cnn, mnist, tmp_path):
    metadata = {"labels": ["0", "1"], "accuracy": 0.5, "strategy": "x"}
    model = quantize(cnn, mnist)
    first = export_onnx(model, tmp_path / "a.onnx", metadata)[0]
    second = export_onnx(model, tmp_path / "b.onnx", metadata)[0]
    assert first.sha256 == second.sha256
    added = {
        "form": "portable",
        "saturation": "any_kernel",
        "levels": "narrow",
        "certificate": certify(first.path).summary,
        "content_sha256": content_hash(onnx.load(str(first.path))),
    }
    assert read_metadata(first.path) == {**metadata, **added}


def test_the_float_file_agrees_with_the_float_model(cnn, mnist, tmp_path):
    file = export_float_onnx(cnn, (1, 28, 28), tmp_path / "f.onnx")
    images = mnist["test"].images[:100]
    with torch.no_grad():
        expected = cnn(to_input(images)).numpy()
    np.testing.assert_allclose(logits(file.path, images.numpy()), expected, rtol=1e-3, atol=1e-3)


def test_an_unknown_pixel_type_is_refused(cnn, mnist, tmp_path):
    with pytest.raises(InputError, match="unknown pixel type 'int8'. Did you mean 'uint8'"):
        export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx", pixels="int8")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_broken_or_foreign_are_refused(cnn, mnist, tmp_path):
    path = export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx", {"a": 1})[0].path
    broken, foreign, damaged = (
        tmp_path / name for name in ("broken.onnx", "foreign.onnx", "damaged.onnx")
    )
    broken.write_bytes(path.read_bytes()[:1000])
    model = onnx.load(str(path))
    model.producer_name = "another"
    onnx.save(model, str(foreign))
    model.producer_name = "qstrategies"
    model.metadata_props[0].value = "{"
    onnx.save(model, str(damaged))
    cases = {
        broken: "not a valid ONNX file",
        foreign: "not exported by qstrategies",
        damaged: "damaged metadata",
        tmp_path / "none": "no such file",
    }
    for file, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_metadata(file)


def test_external_weights_are_refused(cnn, mnist, tmp_path):
    path = export_onnx(quantize(cnn, mnist), tmp_path / "m.onnx")[0].path
    onnx.save(
        onnx.load(str(path)),
        str(tmp_path / "e.onnx"),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    with pytest.raises(InputError, match="only self-contained files|not a valid ONNX"):
        read_metadata(tmp_path / "e.onnx")


def test_exported_metadata_of_a_run_says_where_it_comes_from(exported):
    metadata = read_metadata(exported)
    assert set(metadata) >= {
        "strategy",
        "seed",
        "commit",
        "packages",
        "dataset_hash",
        "accuracy",
        "labels",
        "logits_sha256",
        "output_scale",
    }
    assert metadata["labels"] == list("0123456789")
    assert json.dumps(metadata)
