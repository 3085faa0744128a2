"""Weights rounded up or down: against brute force, and what the proof asks of them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from qstrategies.operators.layer import RoundedLayer
from qstrategies.quantization.balance import balanced
from qstrategies.quantization.exact_forms import from_kernels, kernels_of
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.rounding import balanced_integers
from qstrategies.quantization.scales import FLOAT_EXACT, float_units, largest_pair, mantissa

SHAPES = [(6, 5, 9), (4, 40, 1), (7, 1, 25), (1, 1, 1), (300, 700, 1)]


def drawn(shape, size=20.0):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * size


def limits(channels, low=-127.0, high=127.0):
    return torch.full((channels,), low), torch.full((channels,), high)


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_cancel_and_every_integer_lies_beside_its_weight(shape):
    steps = drawn(shape)
    errors = (balanced(steps, *limits(shape[0])) - steps).double()
    assert errors.abs().max() < 1
    assert errors.sum((1, 2)).abs().max() <= 0.5 + 1e-4, "of float32 sums"
    assert errors.sum(2).abs().max() < 1.5, "half a step, and one move for the channel"


def test_integers_stay():
    steps = torch.round(drawn((5, 6, 9)))
    assert torch.equal(balanced(steps, *limits(5)), steps)


@pytest.mark.parametrize("seed", range(20))
def test_a_kernel_has_the_least_errors_of_all_that_cancel(seed):
    steps = torch.rand(1, 1, 6, generator=torch.Generator().manual_seed(seed)) * 9 - 4
    found = balanced(steps, *limits(1)).flatten().numpy()
    steps = steps.flatten().numpy()
    choices = np.array(list(itertools.product(*zip(np.floor(steps), np.ceil(steps), strict=True))))
    errors = choices - steps
    cancel = np.abs(errors.sum(1)) <= 0.5
    least = np.square(errors[cancel]).sum(1).min()
    assert np.square(found - steps).sum() == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("size", [60, 600])
def test_of_equal_gains_the_first_are_taken(size):
    steps = torch.full((1, size, 1), 0.25)
    expected = torch.zeros_like(steps)
    expected[:, : size // 4] = 1
    assert torch.equal(balanced(steps, *limits(1)), expected)


def test_kernels_first_then_channels_as_in_a_few_lines_of_numpy():
    steps = drawn((3, 8, 4)).numpy()
    expected = np.rint(steps)
    for channel, integers in zip(steps, expected, strict=True):
        for kernel, row in zip(channel, integers, strict=True):
            total = (row - kernel).sum()
            order = np.argsort(-(row - kernel) * np.sign(total))
            row[order[: int(np.rint(abs(total)))]] -= np.sign(total)
        errors = integers - channel
        sign = np.sign(errors.sum())
        gain = errors.max(1) if sign > 0 else (-errors).max(1)
        place = (errors * sign).argmax(1)
        order = np.argsort(-(gain + errors.sum(1) * sign))[: int(np.rint(abs(errors.sum())))]
        integers[order, place[order]] -= sign
    found = balanced(torch.tensor(steps), *limits(3))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_bounds_hold_for_what_is_moved_and_let_what_exceeds_them_come_back():
    steps = drawn((50, 20, 9))
    nearest, found = torch.round(steps), balanced(steps, *limits(50, -10.0, 20.0))
    moved = found != nearest
    assert moved.any()
    outwards = found[moved & (found.abs() > nearest.abs())]
    assert outwards.min() >= -10 and outwards.max() <= 20
    inwards = moved & (found.abs() < nearest.abs())
    assert nearest[inwards].max() > 20 and nearest[inwards].min() < -10


LAYERS = [
    nn.Conv2d(6, 8, 3, groups=2),
    nn.Conv1d(3, 4, 5),
    nn.Linear(30, 7),
    nn.ConvTranspose2d(6, 4, 3, groups=2),
    nn.ConvTranspose2d(5, 3, (2, 3)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_kernels_of_a_layer_are_those_that_one_output_channel_sums(layer):
    kernels = kernels_of(layer, layer.weight.detach())
    assert torch.equal(from_kernels(layer, kernels), layer.weight)
    dimensions = layer.weight.dim() - 2
    channels = getattr(layer, "in_channels", None) or layer.in_features
    x = torch.ones(1, channels, *[12] * dimensions)  # in the middle, a sum of all weights
    result = layer(x)[(0, slice(None), *[6] * dimensions)] - layer.bias
    torch.testing.assert_close(result, kernels.sum((1, 2)), atol=1e-5, rtol=1e-5)


def nearest_of(layer, quantizer):
    rows = kernels_of(layer, layer.weight.detach()).flatten(1)
    scale = quantizer.scale(rows)
    integers = torch.round(rows / scale[:, None])
    weight = from_kernels(layer, integers).to(torch.int8).numpy()
    return RoundedLayer(weight, scale.numpy(), np.zeros(len(scale), np.int32)), scale


@pytest.mark.parametrize("kind", ["normal", "outlier", "one sign", "uniform"])
@pytest.mark.parametrize("bits", [8, 4])
def test_balanced_layers_keep_what_the_proof_asks_for(kind, bits):
    torch.manual_seed(1)
    layer = nn.Conv2d(64, 16, 3)
    with torch.no_grad():
        layer.weight.normal_()
        if kind == "outlier":
            layer.weight[:, 0, 0, 0] = 20
        elif kind == "one sign":
            layer.weight.abs_()
        elif kind == "uniform":
            layer.weight.uniform_(-1, 1)
    quantizer = WeightQuantizer(bits, per_channel=True, exact=True, pairs=True)
    nearest, scale = nearest_of(layer, quantizer)
    found = balanced_integers(layer, layer.weight.detach(), scale, torch.zeros(16), quantizer)
    rows = found.flatten(1)
    assert (rows.numpy() != nearest.weight.reshape(16, -1)).any()
    assert largest_pair(rows).max() <= 128 and rows.abs().max() <= quantizer.quant_max
    assert (float_units(rows, scale, torch.zeros(16)) <= FLOAT_EXACT).all()


def test_channels_that_float32_could_not_add_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(WeightQuantizer, "largest_sum", 0)
    torch.manual_seed(0)
    layer = nn.Linear(50, 40)
    quantizer = WeightQuantizer(8, per_channel=True, exact=True, pairs=True)
    nearest, scale = nearest_of(layer, quantizer)
    found = balanced_integers(layer, layer.weight.detach(), scale, torch.zeros(40), quantizer)
    plain = torch.from_numpy(nearest.weight).float()
    before, after = (float_units(each, scale, torch.zeros(40)) for each in (plain, found))
    same = (found == plain).all(1)
    assert (after <= before).all() and same.any() and not same.all()


def test_float_units_are_the_largest_sum_times_the_odd_part_of_the_step():
    rows = np.array([[3, -5, 2], [-9, 0, 1]])
    expected = [(5 * 255 + 7) * 3, (9 * 255 + 4) * 1]
    scale = torch.tensor([0.75, 0.125])
    assert mantissa(scale).tolist() == [3, 1]
    found = float_units(torch.tensor(rows), scale, torch.tensor([7, -4]))
    assert found.tolist() == expected


def test_noise_behind_a_relu_is_less_than_that_of_nearest():
    torch.manual_seed(0)
    steps = drawn((64, 32, 9))
    x = (torch.randn(500, 32, 1) + 0.3 * torch.randn(500, 32, 9)).relu().flatten(1)
    noise = [
        ((integers - steps).flatten(1) @ x.T).square().mean()
        for integers in (torch.round(steps), balanced(steps, *limits(64)))
    ]
    assert noise[1] < noise[0] / 2
