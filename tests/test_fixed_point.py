"""Integers without ties: the rule of each kernel family, and that quantization keeps to it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import qstrategies as qs
from qstrategies.certificate import certify_model
from qstrategies.cli import parser
from qstrategies.cli.settings import configuration
from qstrategies.errors import InputError, SelfCheckError
from qstrategies.quantization.fixed_point import largest_sum, stored_factor, tie_free_scale
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import LARGEST_PAIR, largest_pair, mantissa
from qstrategies.records import Widths
from qstrategies.records.levels import LevelSet

NUDGE = 1 - 2.0**-24
"""What makes a power of two the float32 just below."""


def half_even(sums, m, shift):
    """ONNX Runtime, XNNPACK, oneDNN: one float32 product, to nearest, halves to even."""
    return np.rint(sums.astype(np.float32) * np.float32(m * 2.0**-shift)).astype(np.int64)


def half_away(sums, m, shift):
    """ncnn, MNN, LiteRT's reference linear layer: halves away from zero."""
    return np.sign(sums) * ((np.abs(sums) * m + (1 << (shift - 1))) >> shift)


def half_up(sums, m, shift):
    """ESP-DL, NNoM, TOSA: a shift of the sum and a half."""
    return (sums * m + (1 << (shift - 1))) >> shift


def multiplier(m, shift, nudge):
    """TFLite's QuantizeMultiplier: 31 bits of a number in [1/2, 1), and a power of two."""
    fraction, exponent = np.frexp(m * 2.0**-shift * nudge)
    whole = int(np.floor(fraction * 2.0**31 + 0.5))
    return whole, -int(exponent)


def twice_away(sums, m, shift, nudge):
    """gemmlowp, TFLite Micro, CMSIS-NN, esp-nn: halves up, then halves away from zero."""
    whole, rest = multiplier(m, shift, nudge)
    high = (sums * whole + (1 << 30)) >> 31
    return np.sign(high) * ((np.abs(high) + (1 << rest >> 1)) >> rest)


def twice_up(sums, m, shift, nudge):
    """ruy on x86: halves up in both."""
    whole, rest = multiplier(m, shift, nudge)
    return (((sums * whole + (1 << 30)) >> 31) + (1 << rest >> 1)) >> rest


def once_up(sums, m, shift, nudge):
    """TFLITE_SINGLE_ROUNDING, ruy: 64 bits, halves up."""
    whole, rest = multiplier(m, shift, nudge)
    return (sums * whole + (1 << (30 + rest))) >> (31 + rest)


def product(sums, m, shift, nudge):
    """XNNPACK with the scale that the file holds: as ONNX Runtime, but for the nudge."""
    return np.rint(sums.astype(np.float32) * np.float32(m * 2.0**-shift * nudge)).astype(np.int64)


PLAIN = [half_even, half_away, half_up]
SCALED = [twice_away, twice_up, once_up, product]


def disagree(sums, shift, m=1, nudge=1.0):
    """The families whose results are not those of ONNX Runtime, for ``M = m 2^-shift``."""
    expected = half_even(sums, m, shift)
    found = {each.__name__: each(sums, m, shift) for each in PLAIN}
    found |= {each.__name__: each(sums, m, shift, nudge) for each in SCALED}
    return {name for name, values in found.items() if (values != expected).any()}


def sums_of(factor, shift, m=1, more=1):
    """Sums that layers may have, stored ``factor`` times as large: all small ones, all beside ties
    and the largest (``more`` times those that they may have)."""
    largest = largest_sum(factor) // m * more
    small = np.arange(-(2**14), 2**14)
    ties = ((2 * np.arange(-300, 300)[:, None] + 1) << (shift - 1)) // (factor * m)
    ends = largest - np.arange(1, 2**10)
    units = np.concatenate([small, (ties + np.arange(-3, 4)).ravel(), ends, -ends])
    units = units[np.abs(units) < largest]
    return units.astype(np.int64) * factor + factor // 2


@pytest.mark.parametrize("shift", range(2, 20))
def test_all_kernel_families_round_odd_sums_alike_with_the_nudge(shift):
    assert disagree(sums_of(2, shift), shift, nudge=NUDGE) == set()


@pytest.mark.parametrize(("factor", "m"), [(4, 1), (8, 1), (8, 3), (16, 1), (16, 3), (16, 5)])
@pytest.mark.parametrize("shift", [*range(5, 13), 16, 20])
def test_all_kernel_families_round_odd_multiples_alike(shift, factor, m):
    assert disagree(sums_of(factor, shift, m), shift, m) == set()


def test_each_condition_is_needed():
    assert {"half_away", "half_up"} <= disagree(sums_of(4, 4) // 4, 4), "ties"
    assert {"twice_away", "twice_up"} <= disagree(sums_of(2, 4), 4), "odd sums without the nudge"
    assert "twice_away" in disagree(sums_of(4, 4) + 1, 4), "three modulo four"
    assert {"half_away"} <= disagree(sums_of(4, 2), 2), "a shift of two at four times"
    assert {"half_away"} <= disagree(sums_of(2, 1), 1, nudge=NUDGE), "a shift of one at twice"
    assert "product" in disagree(sums_of(2, 15, more=4), 15, nudge=NUDGE), "sums above 2^23"
    assert "twice_away" in disagree(sums_of(4, 8, 3), 8, 3), "a mantissa of two bits at four times"


@pytest.mark.parametrize(
    ("bits", "pairs", "factor"),
    [
        *[(7, True, 2), (7, False, 2), (6, True, 2), (6, False, 4), (5, True, 4), (5, False, 8)],
        *[(4, True, 8), (4, False, 16), (3, True, 2), (2, True, 4)],
    ],
)
def test_weights_are_stored_as_large_as_they_fit(bits, pairs, factor):
    levels = LevelSet.of("narrow", bits)
    assert stored_factor(levels, pairs=pairs) == factor
    assert factor * levels.largest <= 127
    assert not pairs or bits == 7 or 2 * factor * levels.largest <= 128


@pytest.mark.parametrize("columns", [1, 9, 300, 40_000])
@pytest.mark.parametrize("bits", [7, 5, 4, 2])
def test_scales_have_short_mantissas_and_sums_that_fit(bits, columns):
    rows = torch.randn(6, columns, generator=torch.Generator().manual_seed(columns))
    levels = LevelSet.of("narrow", bits)
    factor = stored_factor(levels, pairs=False)
    step = rows.abs().amax(1) / levels.largest
    scale = tie_free_scale(rows, step, levels, factor, per_channel=True)
    assert (scale >= step).all() and (mantissa(scale) * 2 <= max(factor, 2)).all()
    steps = torch.round(rows / scale[:, None])
    one_sided = torch.maximum(steps.clamp(min=0).sum(1), -steps.clamp(max=0).sum(1))
    assert (one_sided * 255 * mantissa(scale) < largest_sum(factor)).all()


STRATEGIES = ["no_norm", "cle+gptq", "octav"]


@pytest.mark.parametrize("saturation", ["any_kernel", "vnni_or_arm"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_layers_of_every_strategy_keep_to_the_rule(cnn, mnist, strategy, saturation):
    config = qs.QuantizationConfig(fixed_point=True, saturation=saturation)
    images = mnist["train"].images[:64].float() / 255
    made = qs.quantize(
        cnn, [images], images[:2], config=config, strategy=strategy, input_scale=1 / 255
    )
    check_layers(made, pairs=saturation == "any_kernel")


def check_layers(made, *, pairs):
    for layer in made.graph.layers:
        rounded, factor = layer.rounded_layer, layer.rounded_layer.factor
        rows = rounded.weight.reshape(len(rounded.bias), -1).astype(np.int64)
        ratio = torch.from_numpy(layer.bias_scale / layer.output.grid.scale)
        odd = mantissa(ratio).numpy()
        shift = -np.log2(ratio.numpy() / odd)
        assert factor in (2, 4, 8, 16) and (rows % factor == 0).all()
        assert (odd < max(factor / 2, 2)).all()
        rounds = shift > np.log2(factor)
        assert (rounded.bias % factor == np.where(rounds, factor // 2, 0)).all()
        sides = np.maximum(rows.clip(0).sum(1), -rows.clip(max=0).sum(1))
        bound = (sides * 255 + np.abs(rounded.bias)) * odd
        assert (bound < factor * largest_sum(factor)).all()
        assert not pairs or largest_pair(torch.from_numpy(rows).float()).max() <= 128


def test_a_trained_model_computes_the_bits_of_its_files(mnist, cnn, tmp_path):
    images = mnist["train"].images[:64].float() / 255
    config = qs.QuantizationConfig(fixed_point=True, weight_bits=4)
    trainee = qs.prepare(cnn, images[:2], "qat", config=config, input_scale=1 / 255)
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3))
    for _ in range(3):
        loss = nn.functional.cross_entropy(trainee.model(images), mnist["train"].labels[:64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    with torch.no_grad():
        expected = trainee.model.eval()(images)
    made = trainee.finish()
    check_layers(made, pairs=True)
    assert torch.equal(made.int8()(mnist["train"].images[:64].float()), expected)


def test_additions_have_nothing_to_round():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            with torch.no_grad():
                self.narrow.weight.mul_(1e-4)

        def forward(self, x):
            return self.wide(x) * 1.0 + self.narrow(x)

    data = torch.rand(16, 3, 6, 6)
    made = qs.quantize(Residual(), [data], data[:2], config=qs.QuantizationConfig(fixed_point=True))
    (sums,) = (node for node in made.graph.nodes if type(node).__name__ == "Addition")
    steps = [spec.grid.scale for spec in sums.inputs]
    assert sums.output.grid.scale <= min(steps) and max(steps) <= 2**6 * sums.output.grid.scale


REFUSED = {
    "a product": (lambda x: x * (x + x[:, :1]), "ties of products"),
    "a softmax": (nn.Softmax(1), "it stays in float"),
    "a mean of channels": (lambda x: x.mean(1), "a mean of 4 values ties"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_rounds_apart_is_refused_by_name(name):
    function, reason = REFUSED[name]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return function(self.first(x))

    data = torch.rand(8, 3, 6, 6)
    config = qs.QuantizationConfig(fixed_point=True)
    with pytest.raises(InputError, match=f"has no fixed-point form: {reason}.*Leave fixed_point"):
        qs.quantize(Net(), [data], data[:2], config=config)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="fixed_point needs exact scales"):
        qs.QuantizationConfig(fixed_point=True, exact=False)
    with pytest.raises(InputError, match="stores them, twice as large: at most 6 bits"):
        qs.QuantizationConfig(fixed_point=True, levels="no_zero", weight_bits=7)


def test_names_of_runs_without_it_stay_what_they_were():
    plain, fixed = (
        qs.ExperimentConfig(
            strategy="no_norm", quantization=qs.QuantizationConfig(fixed_point=flag)
        )
        for flag in (False, True)
    )
    assert plain.run_id == "no_norm-w8-s0-" + plain.run_id[-8:] != fixed.run_id
    assert qs.ExperimentConfig(strategy="no_norm", forms=("tflite",)).run_id != plain.run_id


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A file that holds, as a model to plant faults in: a convolution, a sum and a mean of nine."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.first(x).relu()
            return nn.functional.avg_pool2d((self.second(x) + x).relu(), 3)

    torch.manual_seed(0)
    data = torch.rand(16, 3, 8, 8)
    config = qs.QuantizationConfig(fixed_point=True)
    made = qs.quantize(Net(), [data], data[:2], config=config, input_scale=1 / 255)
    path = tmp_path_factory.mktemp("certified") / "m.onnx"
    assert qs.export_onnx(made, path)[0].certificate["fixed_point"]
    return onnx.load(path)


def planted(model, name, change):
    """The certificate of a copy of ``model`` with ``change`` applied to one input of one node,
    "name/place"."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    tensors = {each.name: numpy_helper.to_array(each) for each in copied.graph.initializer}
    name, place = name.split("/")
    (node,) = (each for each in copied.graph.node if each.name == name)
    array = tensors[node.input[int(place)]].copy()
    change(array)
    node.input[int(place)] = "planted"
    copied.graph.initializer.append(numpy_helper.from_array(np.array(array), "planted"))
    return certify_model(copied)


def plus_one(array):
    array.reshape(-1)[0] += 1


def times(factor):
    def change(array):
        array *= factor

    return change


FAULTS = {
    "an odd weight": ("first.weight_real/0", plus_one, "a sum may be a tie"),
    "an even bias": ("first.bias_real/0", plus_one, "a sum may be a tie"),
    "a long mantissa": ("first.weight_real/1", times(np.float32(1.5)), "the mantissa of a scale"),
    "large sums": ("first.bias_real/0", times(2**13 + 1), "its sums reach"),
    "a coarse sum": ("relu_1.quantized/1", times(np.float32(4)), "values between two steps"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_certificate_finds_what_fixed_point_kernels_round_apart(name, certified):
    where, change, reason = FAULTS[name]
    assert certify_model(certified).holds("fixed_point")
    found = planted(certified, where, change)
    assert any(reason in breach.reason for breach in found.fixed_point_breaches), found.as_text()
    assert found.holds("saturation_safe") or name == "an odd weight"


def test_a_result_with_steps_of_two_sums_ties_but_one_of_single_sums_has_nothing_to_round(
    certified,
):
    steps = [np.float32(2.0**-exponent) for exponent in range(1, 16)]
    found = [planted(certified, "relu.quantized/1", times(step)) for step in steps]
    reasons = ["; ".join(each.reason for each in one.fixed_point_breaches) for one in found]
    ties = ["less than two of its sums" in reason for reason in reasons]
    assert any(ties) and not ties[0] and not ties[-1]


def test_nothing_is_exported_as_fixed_point_that_is_not_certified(tmp_path, monkeypatch):
    data = torch.rand(16, 3, 8, 8)
    config = qs.QuantizationConfig(fixed_point=True)
    monkeypatch.setattr(
        WeightQuantizer, "bias_steps", lambda self, bias, step, result: torch.round(bias / step)
    )
    made = qs.quantize(nn.Conv2d(3, 4, 3), [data], data[:2], config=config)
    with pytest.raises(SelfCheckError, match="a sum may be a tie"):
        qs.export_onnx(made, tmp_path / "m.onnx")


def test_the_command_line_asks_for_fixed_point_and_further_forms():
    words = ["run", "no_norm", "--fixed-point", "--form", "tflite", "--form", "int4"]
    made = configuration(parser().parse_args(words), "no_norm", Widths(8, 8))
    assert made.quantization.fixed_point and made.forms == ("tflite", "int4")
    wrong = parser().parse_args([*words, "--form", "tflit"])
    with pytest.raises(InputError, match="Did you mean 'tflite'"):
        configuration(wrong, "no_norm", Widths(8, 8))


@pytest.mark.parametrize("bits", [6, 5, 4])
@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_two_equal_weights_of_odd_levels_stay_within_16_bits(bits, count):
    quantizer = WeightQuantizer(
        bits, per_channel=True, exact=True, levels="no_zero", fixed_point=True
    )
    rows = torch.full((1, count), 1 / count)
    stored = quantizer.integers(rows, quantizer.exported_scale(rows)[:, None]) * quantizer.factor
    assert 0 < 2 * stored.max() <= LARGEST_PAIR
