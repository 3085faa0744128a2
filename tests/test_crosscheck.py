"""A cross-check can fail: what an executor raises, gives otherwise or is excused for becomes a row
with its reason."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.evaluation import Evaluation
from qstrategies.execution.distance import compare
from qstrategies.execution.divergence import first_divergence
from qstrategies.execution.verify import report_text, verify
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Rewriting
from qstrategies.runtimes.onnx_runtime import Disabled

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 2, 6, 6), np.uint8))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    calibration = torch.rand(16, 2, 6, 6)
    quantized = qs.quantize(model, [calibration], calibration[:2], input_scale=1 / 255)
    return qs.export_onnx(quantized, tmp_path_factory.mktemp("file") / "model.onnx")


class Planted(Disabled):
    """An executor with a fault."""

    summary = "planted"


@pytest.fixture
def plant(monkeypatch):
    def register(**members):
        kind = type("Planted", (Planted,), members)
        monkeypatch.setitem(RUNTIMES._items, "planted", kind)
        return kind

    return register


def fails(error):
    def run(self, *inputs):
        raise error

    return run


def shifted(self, *inputs):
    return Disabled.run(self, *inputs) + np.float32(2)


def row(report, name="planted"):
    (found,) = [check for check in report.checks if check.runtime == name]
    return found


@pytest.mark.parametrize(
    "error", [TypeError("cannot add"), ValueError(), IndexError("of 3"), MemoryError("too large")]
)
def test_an_executor_that_raises_is_a_row_with_its_reason(error, exported, plant):
    plant(run=fails(error))
    report = qs.cross_check(exported[0], PIXELS, ["planted", "onnxruntime-all"])
    (skipped,) = report.skipped
    assert (
        skipped.runtime == "planted"
        and type(error).__name__ in skipped.reason
        and str(error) in skipped.reason
    )
    assert report.same and row(report, "onnxruntime-all").rows_equal == 1
    assert f"skipped: {skipped.reason}" in str(report)


def test_an_interruption_is_none_of_an_executors_errors(exported, plant):
    plant(run=fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        qs.cross_check(exported[0], PIXELS, ["planted"])


def test_an_engine_that_raises_anything_is_a_row(exported, monkeypatch):
    quantized, usual = exported[0].quantized, type(exported[0].quantized).int8

    def int8(self, engine):
        if engine == "qnnpack":
            raise TypeError("no such kernel")
        return usual(self, engine)

    monkeypatch.setattr(type(quantized), "int8", int8)
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no qnnpack")
    report = qs.cross_check(exported[0], PIXELS, ["onnxruntime-all"])
    assert [(item.runtime, item.reason) for item in report.skipped] == [
        ("pytorch-qnnpack", "no such kernel")
    ]


def test_another_shape_is_a_difference(exported, plant):
    plant(run=lambda self, *inputs: Disabled.run(self, *inputs)[:, :, :1])
    report = qs.cross_check(exported[0], PIXELS, ["planted"])
    found = row(report)
    assert not report.same and (found.rows_equal, found.max_steps) == (0, None)
    assert found.first_difference == "an output [8, 2, 1, 2] instead of [8, 2, 2, 2]"
    assert "DIFFERENT" in str(report)


def test_what_is_not_finite_is_a_difference_without_a_distance():
    expected = np.zeros((2, 3), np.float32)
    found = compare(
        "r", "f", np.float32([[0, np.nan, 0], [0, 0, 0]]), Evaluation(expected, None), 1.0
    )
    assert (found.rows_equal, found.max_steps) == (0.5, None)
    both = np.float32([[np.nan, 1]])
    assert compare("r", "f", both, Evaluation(both, None), 1.0).rows_equal == 1


def test_the_reasons_of_both_files_are_kept(exported, plant, tmp_path):
    def refuse(self, path):
        raise InputError(f"not {path.name}")

    plant(__init__=refuse)
    path = Path(shutil.copy(exported[0].path, tmp_path / "other.onnx"))
    report = qs.cross_check([exported[0], replace(exported[0], path=path)], PIXELS, ["planted"])
    reasons = [("model.onnx", "not model.onnx"), ("other.onnx", "not other.onnx")]
    assert [(item.file, item.reason) for item in report.skipped] == reasons


def test_a_reason_that_is_no_files_is_told_once(exported, plant):
    plant(missing=classmethod(lambda cls: "not installed"))
    report = qs.cross_check(exported, PIXELS, ["planted"])
    assert [(item.runtime, item.file, item.reason) for item in report.skipped] == [
        ("planted", None, "not installed")
    ]


def unrounded(path):
    """The file whose last quantizer is gone."""
    model = onnx.load(str(path))
    *_, quantize, dequantize = model.graph.node
    dequantize.CopyFrom(
        onnx.helper.make_node(
            "Identity", quantize.input[:1], dequantize.output, name=dequantize.name
        )
    )
    model.graph.node.remove(quantize)
    return model


def test_an_excuse_must_give_every_bit(exported, plant):
    reason = Rewriting("it leaves out the last rounding", unrounded(exported[0].path))

    def run(self, *inputs):
        folder = Path(exported[0].path).parent
        onnx.save(reason.model, str(folder / "unrounded.onnx"))
        return Disabled(folder / "unrounded.onnx").run(*inputs)

    plant(run=run, rewriting=lambda self: reason)
    report = qs.cross_check(exported[0], PIXELS, ["planted"])
    assert report.same and report.apart == ["planted"] and row(report).known == reason.reason
    assert f"known: {reason.reason}" in str(report) and str(report).endswith("but in planted")

    plant(run=shifted, rewriting=lambda self: reason)
    report = qs.cross_check(exported[0], PIXELS, ["planted"])
    assert not report.same and row(report).known is None and str(report).endswith("DIFFERENT")


@pytest.mark.parametrize(
    "rewriting", [lambda self: None, fails(RuntimeError("no graph"))], ids=["none", "raises"]
)
def test_without_an_excuse_a_difference_is_one(rewriting, exported, plant):
    plant(run=shifted, rewriting=rewriting)
    assert not qs.cross_check(exported[0], PIXELS, ["planted"]).same


@pytest.mark.skipif(
    RUNTIMES.get("openvino").missing() is not None, reason="OpenVINO is not installed"
)
def test_openvino_has_no_excuse_without_an_addition(exported, monkeypatch):
    kind = RUNTIMES.get("openvino")
    assert kind(exported[0].path).rewriting() is None
    usual = kind.run
    monkeypatch.setattr(kind, "run", lambda self, *inputs: usual(self, *inputs) + np.float32(1))
    report = qs.cross_check(exported[0], PIXELS, ["openvino"])
    assert not report.same and report.apart == ["openvino"]


@pytest.mark.skipif(
    RUNTIMES.get("opencv-dnn").missing() is not None, reason="OpenCV is not installed"
)
@pytest.mark.parametrize("padding", [0, 1])
def test_opencv_leaves_padding_out_of_averages_and_is_excused_for_no_more(
    padding, monkeypatch, tmp_path
):
    torch.manual_seed(0)
    pool = nn.AvgPool2d(3, 1, padding)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), pool, nn.Conv2d(3, 2, 1)).eval()
    calibration = torch.rand(16, 2, 6, 6)
    quantized = qs.quantize(model, [calibration], calibration[:2], input_scale=1 / 255)
    (exported, *_) = qs.export_onnx(quantized, tmp_path / "model.onnx")
    report = qs.cross_check(exported, PIXELS, ["opencv-dnn"])
    assert report.same and report.apart == ["opencv-dnn"] * padding
    kind = RUNTIMES.get("opencv-dnn")
    usual = kind.run
    monkeypatch.setattr(kind, "run", lambda self, *inputs: usual(self, *inputs) + np.float32(1))
    assert not qs.cross_check(exported, PIXELS, ["opencv-dnn"]).same


def test_verify_makes_rows_of_the_same_kinds(exported, plant, tmp_path):
    path = exported[0].path
    plant(run=fails(TypeError("cannot add")))
    report = verify(path, runtimes=["planted", "onnxruntime-all"])
    assert "TypeError: cannot add" in report["skipped"]["planted"] and report["verdict"] == "same"

    plant(run=lambda self, *inputs: Disabled.run(self, *inputs)[:, :1])
    report = verify(path, runtimes=["planted"])
    assert report["verdict"] == "different" and report["apart"] == ["planted"]
    assert "an output [64, 1, 2, 2] instead of [64, 2, 2, 2]" in report_text(
        report
    ) and "DIFFERENT" in report_text(report)

    excuse = Rewriting("it leaves out the last rounding", unrounded(path))
    plant(run=shifted, rewriting=lambda self: excuse)
    report = verify(path, runtimes=["planted"])
    assert report["verdict"] == "different" and report["checks"][0]["known"] is None


def test_a_divergence_may_be_a_shape_or_an_error(exported, plant):
    path, pixels = exported[0].path, [PIXELS.numpy()]
    found = first_divergence(
        path, plant(run=lambda self, *inputs: Disabled.run(self, *inputs)[:, :1]), Disabled, pixels
    )
    assert (
        found is not None
        and found.shapes is not None
        and str(found).endswith(f"shape {list(found.shapes[0])} instead of {list(found.shapes[1])}")
    )
    with pytest.raises(InputError, match="IndexError: of 3"):
        first_divergence(path, plant(run=fails(IndexError("of 3"))), Disabled, pixels)


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_a_file_is_given_what_it_takes(pixels, tmp_path):
    """Integers or real values, whatever the caller gave."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    values = torch.randn(32, 6) * 3 + 1
    quantized = qs.quantize(model.eval(), [values], values[:2])
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", pixels=pixels)
    for given in (values, quantized.inputs[0].integers(values)):
        found = qs.cross_check(exported, given)
        assert found.same and not found.apart
