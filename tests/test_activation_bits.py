"""Activations of fewer than 8 bits: the same in every executor, proven, and in their range."""

import dataclasses

import numpy as np
import pytest
import torch
from test_contract import NETS, QUICK, STEPS, fresh, seen, stepped
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.operators.base import Quantizer
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.observers import ACTIVATION_OBSERVERS
from qstrategies.quantization.prepare import prepare


@pytest.fixture(scope="module")
def floats(mnist):
    return {name: stepped(fresh(name), seen(mnist["train"], name)) for name in NETS}


def quantized(name, model, config, data):
    images, _ = data
    example, batches = to_input(images[:2]), [to_input(images[:64])]
    if name != "lsq":
        settings = {"config": config, "strategy": name, "input_scale": PIXEL_SCALE}
        return qs.quantize(model, batches, example, **settings)
    settings = {"config": config, "input_scale": PIXEL_SCALE, "steps": STEPS}
    trainee = qs.prepare(model, example, name, **settings)
    stepped(trainee.model, data, trainee)
    return trainee.finish(batches)


COMBINATIONS = [
    *((name, net, 4) for name in ("no_norm", "lsq") for net in NETS),
    ("adaround", "cnn", 4),
    ("lsq", "resnet8", 6),
    ("no_norm", "depthwise", 2),
]


@pytest.mark.parametrize(("name", "net", "bits"), COMBINATIONS)
def test_fewer_bits_are_exact_in_every_executor_and_proven(
    name, net, bits, floats, mnist, tmp_path
):
    images = seen(mnist["test"], net)[0][:16]
    config = qs.QuantizationConfig(weight_bits=4, activation_bits=bits)
    found = quantized(name, floats[net], config, seen(mnist["train"], net))
    values = found.graph.integers(images.numpy())
    ends = {spec.name for spec in (*found.graph.inputs, *found.graph.outputs)}
    inner = [node.output for node in found.graph.nodes if node.output.name not in ends]
    assert {spec.grid.quant_max for spec in inner} == {2**bits - 1}
    assert 2 ** (bits - 1) <= max(values[spec.name].max() for spec in inner) < 2**bits
    exported = qs.export_onnx(found, tmp_path / "model.onnx")
    checked = qs.cross_check(exported, images, runtimes=None if net == "cnn" else QUICK)
    assert checked.same and not checked.apart, str(checked)
    assert all(qs.certify(file.path).complete for file in exported)
    outputs = found.int8()(images.float())
    assert torch.equal(outputs, found.reference()(images.float()))
    qs.save(found, tmp_path / "model.safetensors")
    assert torch.equal(qs.load(tmp_path / "model.safetensors").int8()(images.float()), outputs)


class Joined(nn.Module):
    """A concatenation, an addition, averages, a table, ReLU6 and padding between layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(size, 4, 3) for size in (1, 4, 8))
        self.clip, self.pool, self.curve = nn.ReLU6(), nn.AvgPool2d(3), nn.SiLU()
        self.pad, self.head = nn.ReflectionPad2d(1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.clip(self.first(8 * x))
        y = self.curve(self.second(self.pad(x)))
        x = self.third(torch.cat([x + y, y], 1))
        return self.head(self.pool(x.relu()).mean((2, 3)))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("observer", ["histogram", "min_max"])
def test_all_kinds_of_tensors_between_layers_have_the_bits(observer, exact, tmp_path):
    torch.manual_seed(0)
    model, images = Joined().eval(), torch.rand(4, 1, 16, 16)
    config = qs.QuantizationConfig(activation_bits=4, observer=observer, exact=exact)
    found = qs.quantize(model, [images], images[:2], config=config)
    narrow = [spec.grid for spec in (node.output for node in found.graph.nodes[:-1])]
    assert {grid.quant_max for grid in narrow} == {15}
    assert found.graph.inputs[0].grid.quant_max == found.graph.outputs[0].grid.quant_max == 255
    exported = qs.export_onnx(found, tmp_path / "model.onnx")
    if exact:
        checked = qs.cross_check(exported, images)
        assert checked.same, str(checked)
        assert all(qs.certify(file.path).complete for file in exported)


@pytest.mark.parametrize("bits", range(2, 9))
def test_what_shares_a_quantizer_with_an_end_keeps_8_bits(bits):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten())
    config = qs.QuantizationConfig(activation_bits=bits)
    prepared = prepare(model.eval(), config, torch.rand(2, 1, 8, 8))
    calibrate(prepared, [torch.rand(2, 1, 8, 8)])
    tops = {each.quant_max for each in prepared.activations.values()}
    widths = [prepared.activation_bits(group) for group in sorted(prepared.activations)]
    assert tops == {255, 2**bits - 1} and widths == [8, bits, 8]


def test_eight_bits_are_what_uint8_saturates_at(floats, mnist):
    train = seen(mnist["train"], "cnn")
    found = quantized("no_norm", floats["cnn"], qs.QuantizationConfig(), train)
    grids = [spec.grid for spec in (node.output for node in found.graph.nodes)]
    assert all(grid.whole and grid == dataclasses.replace(grid, quant_max=255) for grid in grids)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_a_narrow_quantizer_is_round_then_clip(bits):
    grid = Quantizer(0.5, 2, quant_max=2**bits - 1)
    reals = np.arange(-200, 200) / 4
    expected = np.clip(np.rint(reals / 0.5) + 2, 0, 2**bits - 1)
    assert np.array_equal(grid.quantize(torch.tensor(reals)).numpy(), expected)
    assert grid.ends == (-1.0, (2**bits - 3) * 0.5)


def test_a_reduced_range_goes_with_8_bits_only():
    with pytest.raises(
        InputError, match="reduce_range makes 8-bit activations 7 bits wide: leave it out with 4"
    ):
        qs.QuantizationConfig(activation_bits=4, reduce_range=True)


def test_free_scales_are_chosen_for_the_values_that_there_are():
    x = torch.randn(1 << 14, generator=torch.Generator().manual_seed(0))
    scales = {}
    for top in (15, 255):
        kind = ACTIVATION_OBSERVERS["histogram", False]
        settings = {"dtype": torch.quint8, "qscheme": torch.per_tensor_affine}
        observer = kind(quant_min=0, quant_max=top, **settings)
        observer(x)
        scales[top] = float(observer.calculate_qparams()[0])

    def error(span):
        scale = span / 15
        return float((x - (x / scale + 7).round().clamp(0, 15).sub(7) * scale).square().mean())

    assert 15 * scales[15] < 0.9 * 255 * scales[255], "few values clip more"
    assert error(15 * scales[15]) < 0.8 * error(255 * scales[255])
