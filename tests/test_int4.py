"""ONNX files with two weights in a byte."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.export.forms import write_form
from qstrategies.export.nibbles import nibbles

NET = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 40))


def quantized(**settings):
    torch.manual_seed(0)
    data = torch.rand(16, 3, 8, 8)
    config = qs.QuantizationConfig(**settings)
    return qs.quantize(NET.eval(), [data], data[:2], config=config, input_scale=1 / 255)


@pytest.mark.parametrize("settings", [{"weight_bits": 4}, {"weight_bits": 3, "fixed_point": True}])
def test_weights_of_four_bits_take_half_a_byte_and_give_the_same_bits(settings, tmp_path):
    made = quantized(**settings)
    portable = qs.export_onnx(made, tmp_path / "m.onnx")[0]
    packed = write_form("int4", made, portable.path)
    assert packed.path.name == "m.int4.onnx" and packed.form == "int4"
    weights = sum(layer.rounded_layer.weight.size for layer in made.graph.layers)
    assert portable.size - packed.size > 0.4 * weights
    assert onnx.load(packed.path).ir_version == 10
    names = [f"onnxruntime-{level}" for level in ("disabled", "basic", "extended", "all")]
    pixels = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    report = qs.cross_check(packed, pixels, [*names, "numpy-integer", "onnx-reference"])
    assert report.same and not report.apart and not report.skipped


def test_a_model_without_such_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="no layer has weights of 4 bits"):
        write_form("int4", quantized(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="Did you mean 'int4'"):
        write_form("int5", quantized(), tmp_path / "m.onnx")


def test_the_first_of_two_is_low():
    assert nibbles(np.array([1, -1, -8, 7, 3], np.int8)) == bytes([0xF1, 0x78, 0x03])
