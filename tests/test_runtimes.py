"""The contract of every executor, and the cross-check that compares them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import SIZES, SmallMNIST
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.evaluation import Evaluation
from qstrategies.execution.crosscheck import check_runtimes
from qstrategies.execution.distance import compare
from qstrategies.execution.predict import predict
from qstrategies.execution.verify import report_text, verify
from qstrategies.export.forms import executors_of
from qstrategies.onnx_file import read_metadata
from qstrategies.runtimes import RUNTIMES, runtimes_for
from qstrategies.runtimes.base import Runtime


@pytest.fixture(scope="module")
def small_test(location):
    return SmallMNIST(location).splits["test"]


@pytest.mark.parametrize("name", runtimes_for(Path("model.onnx")))
class TestContract:
    def test_it_describes_itself_and_gives_the_reference_logits(self, name, exported, small_test):
        kind = RUNTIMES.get(name)
        assert kind.summary and issubclass(kind, Runtime)
        if (reason := kind.missing()) is not None:
            pytest.skip(reason)
        images = small_test.images.numpy()[:20]
        logits = kind(exported).run(images)
        assert logits.shape == (20, 10) and logits.dtype == np.float32
        np.testing.assert_array_equal(
            logits, RUNTIMES.get("onnxruntime-disabled")(exported).run(images)
        )

    def test_a_broken_file_is_a_clear_error(self, name, tmp_path, exported):
        if (reason := RUNTIMES.get(name).missing()) is not None:
            pytest.skip(reason)
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(exported.read_bytes()[:2000])
        with pytest.raises(InputError, match="cannot load"):
            RUNTIMES.get(name)(broken)


@pytest.mark.skipif(
    RUNTIMES.get("onnxruntime-web").missing() is not None, reason="onnxruntime-web is not installed"
)
def test_files_share_one_node_until_one_is_refused_or_it_ends(exported, small_test, tmp_path):
    web = RUNTIMES.get("onnxruntime-web")
    images = small_test.images.numpy()[:5]
    first, second = web(exported), web(exported)
    assert first.node is second.node
    expected = first.run(images)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot load"):
        web(broken)
    third = web(exported)
    assert third.node is not first.node
    np.testing.assert_array_equal(second.run(images), expected)
    third.node.process.kill()
    with pytest.raises(InputError, match="Node ended with code -9"):
        third.run(images)
    np.testing.assert_array_equal(web(exported).run(images), expected)


@pytest.mark.skipif(
    RUNTIMES.get("opencv-dnn").missing() is not None, reason="OpenCV is not installed"
)
def test_opencv_refuses_a_table_that_it_would_read_wrongly(tmp_path):
    nodes = [
        onnx.helper.make_node("Relu", ["image"], ["quantized"]),
        onnx.helper.make_node("Cast", ["quantized"], ["index"], to=onnx.TensorProto.INT32),
        onnx.helper.make_node("Gather", ["table", "index"], ["logits"]),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 4])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 4])
    table = onnx.numpy_helper.from_array(np.zeros(256, np.float32), "table")
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "table", [image], [logits], [table])),
        str(tmp_path / "table.onnx"),
    )
    with pytest.raises(InputError, match="less 128"):
        RUNTIMES.get("opencv-dnn")(tmp_path / "table.onnx")


class Residual(nn.Module):
    """An addition behind two convolutions, and a layer behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.relu = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
            nn.ReLU(),
        )
        self.inner, self.outer = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.last(self.outer(self.relu(self.inner(x))) + x)


@pytest.mark.skipif(
    RUNTIMES.get("openvino").missing() is not None, reason="OpenVINO is not installed"
)
def test_openvino_computes_what_the_file_without_the_rounding_before_an_addition_says(tmp_path):
    torch.manual_seed(0)
    calibration = torch.rand(64, 3, 16, 16)
    quantized = qs.quantize(Residual().eval(), [calibration], calibration[:2], input_scale=1 / 255)
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)
    pixels = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    report = qs.cross_check(exported, pixels)
    assert (
        report.same
        and report.apart == ["openvino"]
        and "the same bits everywhere but in openvino" in str(report)
    )
    assert max(check.max_steps for check in report.checks) <= 4

    model = onnx.load(str(exported[0].path))
    made_by = {output: node for node in model.graph.node for output in node.output}
    (addition,) = (node for node in model.graph.node if node.op_type == "Add")
    for index, name in enumerate(addition.input):
        before = made_by[made_by[made_by[name].input[0]].input[0]]
        if before.op_type == "Conv":
            addition.input[index] = before.output[0]
    onnx.save(model, str(tmp_path / "unrounded.onnx"))
    expected = RUNTIMES.get("onnxruntime-disabled")(tmp_path / "unrounded.onnx").run(pixels.numpy())
    np.testing.assert_array_equal(
        RUNTIMES.get("openvino")(exported[0].path).run(pixels.numpy()), expected
    )


@pytest.mark.skipif(
    RUNTIMES.get("openvino").missing() is not None, reason="OpenVINO is not installed"
)
def test_openvino_computes_what_the_file_with_a_range_behind_a_linear_layer_says(tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3, 2, 1), nn.Hardswish(), nn.Flatten(2), nn.Linear(256, 64)
    nn.init.zeros_(layers[3].bias)  # which is as if it had none
    calibration = torch.rand(64, 3, 32, 32)
    quantized = qs.quantize(
        nn.Sequential(*layers).eval(), [calibration], calibration[:2], input_scale=1 / 255
    )
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)
    report = qs.cross_check(exported, calibration.mul(255).round().to(torch.uint8), ["openvino"])
    assert report.same
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # where it was seen
        assert report.apart == ["openvino"], "OpenVINO mended it: the rewriting can go"


def test_compare_measures_in_steps_and_names_the_first_difference():
    expected = np.zeros((4, 3), np.float32)
    expected[:, 1] = 1
    logits = expected.copy()
    logits[2, 0] = 2.5
    check = compare("r", "f", logits, Evaluation(expected, np.array([1, 1, 1, 0])), 0.5)
    assert (check.rows_equal, check.max_steps, check.agreement, check.accuracy) == (
        0.75,
        5.0,
        0.75,
        0.5,
    )
    assert check.first_difference == "image 2, logit 0: 2.5 instead of 0"
    assert (
        compare("r", "f", expected, Evaluation(expected, np.ones(4)), 0.5).first_difference is None
    )


def test_a_missing_runtime_is_skipped_with_its_reason(exported, small_test, monkeypatch):
    monkeypatch.setattr(
        RUNTIMES.get("onnxruntime-basic"), "missing", classmethod(lambda cls: "not installed")
    )
    images = small_test.images.numpy()[:10]
    reference = Evaluation(
        RUNTIMES.get("onnxruntime-all")(exported).run(images), small_test.labels.numpy()[:10]
    )
    checks, skipped = check_runtimes(
        exported, [images], reference, 0.125, ["onnxruntime-basic", "onnxruntime-all"]
    )
    assert [check.runtime for check in checks] == ["onnxruntime-all"]
    assert [(item.runtime, item.reason) for item in skipped] == [
        ("onnxruntime-basic", "not installed")
    ]


def test_a_runtime_that_does_not_take_the_file_is_skipped_with_its_reason(
    exported, small_test, monkeypatch
):
    def refuse(self, path):
        raise InputError("no such operator")

    monkeypatch.setattr(RUNTIMES.get("onnxruntime-basic"), "__init__", refuse)
    images = small_test.images.numpy()[:10]
    checks, skipped = check_runtimes(
        exported,
        [images],
        Evaluation(np.zeros((10, 10), np.float32), None),
        1.0,
        ["onnxruntime-basic"],
    )
    assert checks == [] and [(item.runtime, item.reason) for item in skipped] == [
        ("onnxruntime-basic", "no such operator")
    ]


def test_verify_finds_pytorchs_bits_and_notices_one_changed_weight(exported, location, tmp_path):
    report = verify(exported, location)
    assert report["verdict"] == "same"
    assert {check["runtime"]: check["pytorch_bits"] for check in report["checks"]} == {
        name: None if (RUNTIMES.get(name).image_limit or SIZES["test"]) < SIZES["test"] else True
        for name in executors_of(exported)
        if RUNTIMES.get(name).missing() is None
    }
    assert "the same bits everywhere" in report_text(report)
    model = onnx.load(str(exported))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "conv2.weight")
    changed = onnx.numpy_helper.to_array(weights).copy()
    changed[0, 0, 0, 0] ^= 32
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, str(tmp_path / "changed.onnx"))
    altered = verify(tmp_path / "changed.onnx", location, ["onnxruntime-all"])
    assert altered["verdict"] == "different" and altered["checks"][0]["pytorch_bits"] is False
    assert report["unchanged"] is True and altered["unchanged"] is False
    assert "DIFFERENT" in report_text(altered) and "ALTERED after its export" in report_text(
        altered
    )


def test_verify_refuses_unknown_runtimes_and_float_files(exported, location, workspace):
    with pytest.raises(InputError, match="Did you mean 'onnxruntime-all'"):
        verify(exported, location, ["onnxruntime-al"])
    with pytest.raises(InputError, match="only int8 exports can be verified"):
        verify(next(workspace.stages.glob("*.float.onnx")), location)


def test_predict_reads_any_picture_and_inverts_dark_on_light(exported, small_test, tmp_path):
    from PIL import Image

    files = []
    for index in range(8):
        pixels = small_test.images[index, 0].numpy()
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels if index % 2 else 255 - pixels).resize((28, 28)).convert("RGB").save(
            files[-1]
        )
    expected = (
        RUNTIMES.get("onnxruntime-all")(exported).run(small_test.images.numpy()[:8]).argmax(1)
    )
    results = predict(exported, files)
    assert [result["label"] for result in results] == [
        read_metadata(exported)["labels"][index] for index in expected
    ]
    assert all(result["margin"] >= 0 for result in results)
    (tmp_path / "no.png").write_text("not a picture")
    with pytest.raises(InputError, match="not an image that Pillow reads"):
        predict(exported, [tmp_path / "no.png"])
