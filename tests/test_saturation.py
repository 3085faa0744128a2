"""ReLU6: as the saturation of an int8 kernel where only layers read it, as a Clip of integers
elsewhere."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.exact_forms import drop_training_only
from qstrategies.quantization.float_graph import normalized_copy
from qstrategies.quantization.saturation import relu6_to_saturation, saturation_top
from qstrategies.quantization.structure import Arguments
from qstrategies.runtimes import RUNTIMES


class Residual(nn.Module):
    """ReLU6 that an addition reads too."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.clamp = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU6(),
        )

    def forward(self, x):
        x = self.clamp(self.first(x))
        return self.second(x) + x


class Sum(nn.Module):
    """Nothing here has parameters that would scale the sum alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.first(x) + self.second(x)


def norm(channels):
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.weight, 1, 2)
    nn.init.normal_(layer.bias)
    return layer


REWRITTEN = {
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3, padding=1)
    ),
    "normalized": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), norm(4), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4)
    ),
    "no factor in the norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU6(), nn.Conv2d(4, 4, 3)
    ),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        norm(4),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 5),
    ),
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.Hardtanh(0, 6), nn.Linear(8, 3)
    ),
}
KEPT = {
    "residual": Residual,
    "last": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6()),
    "another interval": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardtanh(-1, 1), nn.Conv2d(4, 4, 3)
    ),
    "behind an addition": lambda: nn.Sequential(Sum(), nn.ReLU6(), nn.Conv2d(4, 4, 3)),
}
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 40


def rewritten(model, left=(), bits=8):
    traced = normalized_copy(model, Arguments.of(model, IMAGES), left).module
    drop_training_only(traced)
    traced = traced.double()
    return traced, relu6_to_saturation(traced, saturation_top(bits))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", REWRITTEN)
def test_the_rewritten_network_with_a_cut_at_the_top_is_the_same_function(name, bits):
    torch.manual_seed(0)
    model = REWRITTEN[name]().eval()
    traced, saturating = rewritten(model, bits=bits)
    assert len(saturating) == 1 and not any(
        isinstance(module, nn.Hardtanh) for module in traced.modules()
    )
    (relu,) = (name for name, module in traced.named_modules() if isinstance(module, nn.ReLU))
    traced.set_submodule(relu, nn.Hardtanh(0, saturation_top(bits)))
    expected = model.double()(IMAGES.double())
    torch.testing.assert_close(traced(IMAGES.double())[0], expected, rtol=1e-12, atol=1e-12)
    traced.set_submodule(relu, nn.ReLU())
    assert not torch.allclose(traced(IMAGES.double())[0], expected, rtol=1e-3), (
        "the images never reach 6"
    )


@pytest.mark.parametrize("name", KEPT)
def test_it_stays_where_anything_else_reads_it_or_nothing_takes_the_factor(name):
    assert rewritten(KEPT[name]().eval())[1] == set()


@pytest.mark.parametrize("left", ["0", "1", "2"])
def test_layers_that_are_left_in_float_are_not_scaled(left):
    assert rewritten(REWRITTEN["convolution"]().eval(), [left])[1] == set()


@pytest.mark.parametrize("name", REWRITTEN)
def test_the_file_has_no_clip_and_saturates_as_pytorch_does(name, tmp_path):
    torch.manual_seed(0)
    model = REWRITTEN[name]().eval()
    quantized = qs.quantize(model, [IMAGES], IMAGES[:2])
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx")
    assert all(
        node.op_type != "Clip" for form in exported for node in onnx.load(str(form.path)).graph.node
    )
    scale, zero_point = quantized.inputs[0].scale, quantized.inputs[0].zero_point
    pixels = (IMAGES / scale + zero_point).round().clamp(0, 255).byte()
    assert qs.cross_check(
        exported, pixels, ["onnxruntime-all", "onnxruntime-disabled", "numpy-integer"]
    ).same
    error = (quantized.int8("x86")(IMAGES) - model(IMAGES)).abs().max() / model(IMAGES).abs().max()
    assert error < 0.03


def test_a_clip_that_stays_is_one_of_integers_in_the_form_for_onnx_runtime(tmp_path):
    torch.manual_seed(0)
    quantized = qs.quantize(Residual().eval(), [IMAGES], IMAGES[:2], input_scale=None)
    portable, fast = qs.export_onnx(quantized, tmp_path / "model.onnx")
    graph = onnx.load(str(fast.path)).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    clips = [node for node in graph.node if node.op_type == "Clip"]
    assert clips and all(made_by[node.input[0]] == "QuantizeLinear" for node in clips)
    assert fast.same_as == portable.content_sha256
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)
    plain = RUNTIMES.get("numpy-integer")(portable.path).run(pixels)
    for name in ("numpy-integer", "onnxruntime-disabled", "onnxruntime-all"):
        np.testing.assert_array_equal(RUNTIMES.get(name)(fast.path).run(pixels), plain)


def test_no_second_form_is_made_where_none_is_asked_for_and_an_unknown_runtime_is_refused(tmp_path):
    quantized = qs.quantize(Residual().eval(), [IMAGES], IMAGES[:2])
    assert len(qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)) == 1
    with pytest.raises(qs.InputError, match="'onnxrt'.*onnxruntime"):
        qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for="onnxrt")
