"""Every formula against a few independent lines of NumPy, and the conditions that make the
proof."""

import math

import numpy as np
import pytest
import torch

from qstrategies.quantization.scales import (
    BIAS_BUDGET,
    FLOAT_EXACT,
    exact_activation_qparams,
    fake_quantize,
    largest_pair,
    mantissa,
    power_of_two_above,
    weight_scale,
)
from qstrategies.records import LevelSet

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "usual": RANDOM.normal(size=(16, 288)),
    "one output of many inputs": RANDOM.normal(size=(4, 20000)),
    "channels of very different size": RANDOM.normal(size=(12, 64))
    * 10.0 ** np.arange(-6, 6)[:, None],
    "one sign only": np.abs(RANDOM.normal(size=(8, 4608))),
    "an outlier": np.concatenate([RANDOM.normal(size=(8, 99)) * 0.01, np.full((8, 1), 5.0)], 1),
    "a zero channel": np.concatenate([np.zeros((1, 32)), RANDOM.normal(size=(3, 32))]),
    "one input": RANDOM.normal(size=(8, 1)),
    "powers of two": 2.0 ** -RANDOM.integers(0, 9, size=(8, 50)),
}


def covering_scale(weight, bits, **settings):
    rows = torch.as_tensor(weight).float()
    levels = LevelSet.of("narrow", bits)
    return weight_scale(rows, rows.abs().amax(1) / levels.quant_max, levels, **settings)


def integers(weight, scale):
    return np.rint(weight / scale.double().numpy()[:, None])


@pytest.mark.parametrize("value", [1.0, 0.5, 3.0, 1e-9, 0.7499999, 2.0**-37, 123456.789])
def test_power_of_two_above_is_two_to_the_rounded_up_logarithm(value):
    value = np.float32(value)
    assert power_of_two_above(torch.tensor(value)).item() == 2.0 ** math.ceil(math.log2(value))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 6.3),
        (-3.1, 8.9),
        (-20, 0),
        (-7.3, 0.001),
        (0, 0),
        (-1e-6, 1e-6),
        (2.0, 5.0),
        (-0.1, 900),
    ],
)
@pytest.mark.parametrize("quant_max", [255, 127])
def test_activation_qparams_cover_the_range_and_zero_with_even_zero_point(low, high, quant_max):
    scale, zero_point = (
        float(value)
        for value in exact_activation_qparams(torch.tensor(low), torch.tensor(high), 0, quant_max)
    )
    assert math.log2(scale) == int(math.log2(scale))
    assert zero_point % 2 == 0 and 0 <= zero_point <= quant_max
    assert -zero_point * scale <= min(low, 0) + scale, (
        "at most one step is lost to the even zero point"
    )
    assert (quant_max - zero_point) * scale >= max(high, 0) - scale
    span = max(high, 0) - min(low, 0)
    assert scale <= max(2 * span / quant_max, 2.0**-21), "no coarser than the next power of two"


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [True, False])
def test_exact_weight_scales_meet_every_condition_of_the_proof(name, bits, per_channel):
    weight = WEIGHTS[name].astype(np.float32)
    scale = covering_scale(torch.tensor(weight), bits, per_channel=per_channel, exact=True)
    quantized = integers(weight, scale)
    assert np.abs(quantized).max() <= 2 ** (bits - 1) - 1, "nothing is clipped"
    positive, negative = np.sort(quantized, 1)[:, -2:], np.sort(-quantized, 1)[:, -2:]
    pairs = [np.maximum(side, 0).sum(1).max() for side in (positive, negative)]
    assert max(pairs) <= 128 or weight.shape[1] == 1
    one_sided = np.maximum(quantized.clip(min=0).sum(1), -quantized.clip(max=0).sum(1))
    odd = mantissa(scale).numpy()
    assert odd.max() < 2**8
    single = scale.numpy()
    np.testing.assert_array_equal(
        np.float32(1) / (np.float32(1) / single), single, "engines that keep 1 / scale lose nothing"
    )
    bound = one_sided * 255 * odd + BIAS_BUDGET
    doubled = single >= 2 * np.abs(weight).max(1) / (
        2 ** (bits - 1) - 1
    )  # the most that float executors may cost
    assert ((bound <= FLOAT_EXACT) | (doubled & (odd == 1))).all()
    assert bound.max() <= FLOAT_EXACT or (bits == 8 and weight.shape[1] == 20000)
    if not per_channel:
        assert len(set(scale.tolist())) == 1


def test_an_exact_scale_is_close_to_the_free_one_where_nothing_forbids_it():
    weight = torch.tensor(WEIGHTS["usual"][:, :9], dtype=torch.float32)
    exact = covering_scale(weight, 4, per_channel=True, exact=True)
    free = covering_scale(weight, 4, per_channel=True, exact=False)
    assert torch.all(exact >= free) and torch.all(exact <= free * (1 + 6 * 2.0**-6))


def test_free_weight_scales_are_the_largest_weight_over_the_largest_integer():
    weight = WEIGHTS["usual"]
    scale = covering_scale(torch.tensor(weight), 8, per_channel=True, exact=False)
    np.testing.assert_allclose(scale.numpy(), np.abs(weight).max(1) / 127, rtol=1e-6)
    scale = covering_scale(torch.tensor(weight), 3, per_channel=False, exact=False)
    np.testing.assert_allclose(scale.numpy(), np.full(16, np.abs(weight).max() / 3), rtol=1e-6)


def test_mantissa_is_the_odd_part():
    assert mantissa(torch.tensor([1.0, 0.375, 96.0, 2.0**-30 * 127])).tolist() == [1, 3, 3, 127]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_quantize_is_clamp_of_round_and_exact_in_bfloat16_too(dtype):
    x = torch.tensor(RANDOM.normal(size=1000) * 3, dtype=dtype)
    scale, zero_point = torch.tensor([2.0**-5]), torch.tensor([100])
    expected = (np.clip(np.rint(x.double().numpy() / 2.0**-5) + 100, 0, 255) - 100) * 2.0**-5
    np.testing.assert_array_equal(
        fake_quantize(x, scale, zero_point, 0, 255).double().numpy(), expected
    )


def test_the_straight_through_gradient_is_one_inside_the_range_and_zero_outside():
    x = torch.tensor([-5.0, -1.0, 0.3, 1.0, 5.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.25), torch.tensor(8), 0, 15).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_pairs_of_8_bits_fit_however_far_a_step_clips():
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).exp()
    for part in (0.5, 1 / 16, 1 / 1000):
        step = part * rows.amax(1) / 127
        levels = LevelSet.of("narrow", 8)
        scale = weight_scale(rows, step, levels, per_channel=True, exact=True)
        integers = torch.round(rows / scale[:, None]).clamp(-127, 127)
        assert integers.topk(2).values.sum(1).max() <= 128


@pytest.mark.parametrize("signs", [(-1, 1), (1,), (-1,)])
@pytest.mark.parametrize("products", [1, 2, 3, 7])
def test_the_largest_pair_is_that_of_the_sorted_weights_of_one_sign(products, signs):
    generator = np.random.default_rng(products)
    rows = generator.integers(0, 4, (40, products)) * generator.choice(signs, (40, products))
    expected = [
        max(sum(sorted(np.maximum(sign * row, 0))[-2:]) for sign in (1, -1)) for row in rows
    ]
    assert largest_pair(torch.from_numpy(rows).float()).tolist() == expected
