"""Scales by squared error: against brute force over the values themselves."""

import math

import numpy as np
import pytest
import torch

from qstrategies.quantization.histogram import (
    CLIPPED,
    SAMPLE,
    ExactHistogramObserver,
    sample,
    squared_errors,
)
from qstrategies.quantization.scales import SMALLEST_STEP, STEP_OF_ZEROS, exact_activation_qparams


def observed(*batches, quant_max=255):
    observer = ExactHistogramObserver(quant_min=0, quant_max=quant_max)
    for batch in batches:
        observer(batch)
    scale, zero_point = observer.calculate_qparams()
    return scale.item(), zero_point.item()


def drawn(name):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(8000, generator=generator)
    return {
        "normal": normal,
        "behind a ReLU": normal.relu() * 1.3,
        "uniform": torch.rand(8000, generator=generator) * 1.1,
        "heavy tails": normal * normal.abs() ** 3,
        "shifted": normal * 0.1 + 0.6,
        "negative": -normal.abs() * 5e-4,
        "an outlier": torch.cat([normal, torch.tensor([9.0])]),
    }[name]


NAMES = ("normal", "behind a ReLU", "uniform", "heavy tails", "shifted", "negative", "an outlier")


def weighted_error(values, scale, zero_point, quant_max):
    steps = np.rint(values / scale) + zero_point
    error = np.square((np.clip(steps, 0, quant_max) - zero_point) * scale - values)
    return np.where((steps < 0) | (steps > quant_max), CLIPPED, 1.0) * error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quant_max", [255, 127])
def test_the_choice_is_nearly_the_best_of_all_powers_of_two_and_even_zero_points(name, quant_max):
    values = drawn(name)
    scale, zero_point = observed(values, quant_max=quant_max)
    assert math.log2(scale) % 1 == 0 and zero_point % 2 == 0 and 0 <= zero_point < quant_max
    ends = torch.stack([values.min(), values.max()])  # these are counted twice
    real = torch.cat([values, ends]).double().numpy()
    covering = exact_activation_qparams(ends[0], ends[1], 0, quant_max)[0].item()
    errors = [
        weighted_error(real, covering * 2.0**-halvings, even, quant_max).sum()
        for halvings in range(3)
        for even in range(0, quant_max, 2)
    ]
    found = weighted_error(real, scale, zero_point, quant_max).sum()
    assert found <= 1.1 * min(errors), "up to the width of the bins, and the zero points tried"


def test_errors_are_those_of_a_few_lines_of_numpy():
    values = drawn("heavy tails")
    for scale, zero_point in ((2.0**-4, 120), (2.0**-6, 0), (1.0, 254)):
        found = squared_errors(values, torch.tensor(scale), torch.tensor(zero_point), 0, 255)
        expected = weighted_error(values.numpy(), scale, zero_point, 255)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-9)


def test_rare_large_values_are_clipped_and_evenly_spread_ones_are_not():
    rare = torch.cat([torch.linspace(0, 1, 10_000), torch.tensor([1.01])])
    assert observed(rare) == (2.0**-8, 0), "one of 256 steps, instead of 128"
    assert observed(torch.linspace(0, 1.9, 10_000)) == (2.0**-7, 0)


def test_batches_count_alike_in_any_order():
    parts = [drawn("normal") * size for size in (1e-3, 0.1, 3.0)]
    assert observed(*parts) == observed(*reversed(parts))
    together = ExactHistogramObserver(quant_min=0, quant_max=255)
    together(torch.cat(parts))
    assert observed(*parts) == tuple(each.item() for each in together.calculate_qparams())


@pytest.mark.parametrize("shape", [(8, 16, 32, 32), (3, 64, 7, 7), (100_003,), (16, 1000), (2, 3)])
def test_a_sample_is_spread_over_every_dimension(shape):
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1)
    x = torch.arange(places[..., 0].numel()).reshape(shape)
    found = places.reshape(-1, len(shape))[sample(x)]
    assert len(found) <= 2 * SAMPLE and (len(found) == x.numel() or len(found) > SAMPLE / 4)
    for dimension, size in enumerate(shape):
        counts = torch.bincount(found[:, dimension], minlength=size)
        if size < 100:
            assert counts.min() >= 0.9 * counts.max() - 1


def test_next_to_nothing_has_the_smallest_step():
    assert observed(torch.full((3,), 1e-30)) == (SMALLEST_STEP, 0)


@pytest.mark.parametrize("values", [torch.zeros(5), torch.zeros(0)])
def test_nothing_has_a_step_beside_which_a_clip_counts(values):
    assert observed(values) == (STEP_OF_ZEROS, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_to_the_self_check_as_by_other_observers(value):
    end = torch.tensor(value)
    usual = exact_activation_qparams(end.clamp(max=0), end, 0, 255)
    assert observed(torch.tensor([1.0, value])) == tuple(each.item() for each in usual)


def test_what_was_observed_is_part_of_the_state():
    observer = ExactHistogramObserver(quant_min=0, quant_max=255)
    observer(drawn("heavy tails"))
    other = ExactHistogramObserver(quant_min=0, quant_max=255)
    other.load_state_dict(observer.state_dict())
    assert other.calculate_qparams() == observer.calculate_qparams()
