"""The verdict on the post: its rules on made-up results, the identity of scaled layers, the Keras
network against NumPy."""

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import claims
import keras_twin
import post_results
import post_runs
import verdict_rules

from qstrategies.models.cnn import CNN
from qstrategies.records import QuantizationConfig
from qstrategies.training.post_training import quantize


def fixed(low, high):
    return lambda level: ((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ({"a": (0.2, 0.4), "b": (0.2, 0.3)}, "confirmed"),
        ({"a": (-0.4, 0.0), "b": (-0.2, -0.1)}, "refuted"),
        ({"a": (-0.4, 0.0), "b": (-0.2, -0.1), "elsewhere": (0.1, 0.2)}, "only under: elsewhere"),
        ({"a": (-0.4, 0.1), "b": (-0.2, -0.1), "elsewhere": (0.1, 0.2)}, "undecided"),
        ({"a": (0.1, 0.2), "b": (-0.2, -0.1)}, "confirmed in part"),
    ],
)
def test_a_verdict_follows_from_the_conditions_of_the_post(intervals, verdict):
    measures = {name: fixed(*interval) for name, interval in intervals.items()}
    assert (
        verdict_rules.claim(
            "text", "test", "", measures, verdict_rules.above(0), ["a", "b"]
        ).verdict
        == verdict
    )


def test_a_difference_below_the_slack_refutes_and_the_level_is_shared():
    levels = []

    def measure(level):
        levels.append(level)
        return 0.0, -0.0005, 0.0005

    measures = dict.fromkeys("abc", measure)
    assert (
        verdict_rules.claim("text", "test", "", measures, verdict_rules.above(0), ["a"])
        .outcomes[0]
        .holds
        is None
    )
    assert levels == [0.95, 0.975, 0.975]
    assert (
        verdict_rules.claim(
            "text", "test", "", {"a": measure}, verdict_rules.above(0, slack=0.001), ["a"]
        )
        .outcomes[0]
        .holds
        is False
    )
    assert [verdict_rules.below(limit)(0.1, 0.2) for limit in (0.3, 0.15, 0.1)] == [
        True,
        None,
        False,
    ]


def test_intervals_over_seeds_are_students():
    values = np.random.default_rng(0).normal(3, 2, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert verdict_rules.by_seed(values.tolist())(0.9) == pytest.approx((values.mean(), *expected))
    assert verdict_rules.by_seed([1.0])(0.9)[1:] == (-math.inf, math.inf), "one seed says nothing"
    other = values**2 + 1
    estimate, low, high = verdict_rules.ratio(other.tolist(), (other / 3).tolist())(0.95)
    assert (estimate, low, high) == pytest.approx((3, 3, 3))


def test_a_rank_correlation_sees_order_only():
    x = np.random.default_rng(1).normal(size=30)
    estimate, low, high = verdict_rules.rank_correlation(x.tolist(), np.exp(x).tolist())(0.95)
    assert (estimate, low, high) == pytest.approx((1, 1, 1))
    noise = np.random.default_rng(2).normal(size=30)
    estimate, low, high = verdict_rules.rank_correlation(x.tolist(), noise.tolist())(0.95)
    assert low < estimate < high and low < 0 < high


def test_epochs_are_counted_to_the_first_that_reaches_the_goal():
    assert [claims.epochs_to([0.9, 0.97, 0.96], goal) for goal in (0.9, 0.95, 0.99)] == [1, 2, 4]


def test_every_run_of_the_plan_is_another_one():
    runs = [
        post_runs.config(name, recipe, 0).run_id
        for name in post_runs.TRAININGS
        for recipe in set(post_runs.quantizations(name))
    ]
    assert len(runs) == len(set(runs)) > 70
    names = {
        post_results.describe(recipe)
        for recipe in [*post_runs.RECIPES, *post_runs.WIDTHS, *post_runs.AVX2]
    }
    assert len(names) == len({*post_runs.RECIPES, *post_runs.WIDTHS, *post_runs.AVX2})


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 3])
def test_weights_four_times_as_large_give_the_same_integers(cnn, per_channel, bits):
    torch.manual_seed(0)
    for norm in (cnn.bn1, cnn.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    larger = post_runs.scaled(cnn)
    images = torch.rand(64, 1, 28, 28)
    assert torch.equal(larger(images), post_runs.SCALE * cnn(images))
    config = QuantizationConfig(weight_bits=bits, per_channel=per_channel)
    plain, other = (
        quantize(model, [images], images, config=config).int8()(images) for model in (cnn, larger)
    )
    assert plain.abs().max() > 0 and torch.equal(other, post_runs.SCALE * plain)


class Layer:
    """A Keras layer as far as its weights go."""

    def __init__(self, *arrays, epsilon=None):
        self.weights, self.epsilon = arrays, epsilon

    def get_weights(self):
        return [array.astype(np.float32) for array in self.weights]


def channels_last(layers, images):
    """The network as Keras computes it, in NumPy: images [N, 28, 28, 1] -> logits [N, 10]."""
    first, norm1, second, norm2, linear = (layer for layer in layers if layer.weights)
    for conv, norm in ((first, norm1), (second, norm2)):
        kernel, bias = conv.weights
        windows = sliding_window_view(images, kernel.shape[:2], axis=(1, 2))
        images = np.einsum("nyxcij,ijco->nyxo", windows, kernel, optimize=True) + bias
        gamma, beta, mean, variance = norm.weights
        images = np.maximum((images - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta, 0)
        half = images.shape[1] // 2
        images = (
            images[:, : 2 * half, : 2 * half].reshape(len(images), half, 2, half, 2, -1).max((2, 4))
        )
    return images.reshape(len(images), -1) @ linear.weights[0] + linear.weights[1]


def test_keras_weights_in_the_shared_cnn_compute_the_same_function(tmp_path):
    random = np.random.default_rng(0)

    def norm(channels):
        return Layer(
            *random.normal(size=(3, channels)), random.uniform(0.5, 2, channels), epsilon=0.1
        )

    layers = [
        Layer(random.normal(size=(3, 3, 1, 32)), random.normal(size=32)),
        norm(32),
        Layer(),
        Layer(random.normal(size=(3, 3, 32, 64)), random.normal(size=64)),
        norm(64),
        Layer(),
        Layer(random.normal(size=(1600, 10)), random.normal(size=10)),
    ]
    state = keras_twin.weights_for_torch(type("Model", (), {"layers": layers}))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **state)
    (tmp_path / "model.npz").write_bytes(buffer.getvalue())
    images = random.uniform(size=(4, 28, 28, 1))
    expected = channels_last(layers, images)
    got = (
        keras_twin.load(tmp_path / "model.npz")
        .double()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        .detach()
        .numpy()
    )
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("instead", keras_twin.INSTEAD)
def test_the_keras_network_itself_has_the_cnns_layers(instead):
    pytest.importorskip("keras.layers", reason="not installed: pip install 'qstrategies[keras]'")
    model = keras_twin.build(instead)
    state = keras_twin.weights_for_torch(model)
    ours = {
        name: tuple(value.shape)
        for name, value in CNN().state_dict().items()
        if "num_batches" not in name
    }
    assert {name: value.shape for name, value in state.items() if not name.endswith("eps")} == ours
