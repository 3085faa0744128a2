"""The features of the spoken digits, against the formulas and published figures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import fft

from qstrategies.datasets.idx import read_idx

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from speech_features import RATE, cosine_transform, idx, in_bytes, mel_weights, mfcc, one_second


def test_the_mel_triangles_are_those_of_tensorflow():
    """The first rows of ``tf.signal.linear_to_mel_weight_matrix(8, 23)``, as published."""
    weights = mel_weights(8, np.linspace(0, 4000, 23), 125.0, 3800.0)
    assert not weights[0].any()
    for row, column, value in [(1, 0, 0.3533392), (2, 0, 0.6521328), (2, 1, 0.3478672)]:
        assert weights[row, column] == pytest.approx(value, abs=1e-6)
    assert np.flatnonzero(weights[3]).tolist() == [1, 2]
    assert weights[3, 1:3] == pytest.approx([0.81493515, 0.18506487], abs=1e-6)


def test_the_cosine_transform_is_scipys_in_htks_scale():
    signal = np.random.default_rng(0).normal(size=(3, 40))
    expected = fft.dct(signal, axis=1)[:, :10] / np.sqrt(2 * 40)
    assert np.allclose(signal @ cosine_transform(40, 10), expected)


def test_a_tone_is_loudest_in_its_bin_and_silence_is_constant():
    """All 40 coefficients give the logarithms back; here of a window over 500 Hz."""
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    coefficients = mfcc(tone)
    assert coefficients.shape == (49, 10)
    bins = coefficients[24] @ (cosine_transform(40, 10) / [2, *[1] * 9]).T
    centres = 700 * np.expm1(np.linspace(*1127 * np.log1p(np.array([20, 4000]) / 700), 42) / 1127)
    assert abs(centres[1:-1][bins.argmax()] - 500) < 150, "10 of 40 coefficients blur"
    silence = mfcc(np.zeros(RATE))
    assert np.allclose(silence, silence[0, 0] * np.eye(10)[0])


@pytest.mark.parametrize("length", [100, RATE - 1, RATE, RATE + 1, 3 * RATE])
def test_a_recording_stands_in_the_middle(length):
    recording = np.zeros(length)
    recording[length // 2] = -3
    second = one_second(recording)
    assert len(second) == RATE and abs(int(np.abs(second).argmax()) - RATE // 2) <= 1
    assert np.abs(second).max() == 1, "loudness is taken out"


def test_the_speakers_who_do_not_train_do_not_move_the_map():
    random = np.random.default_rng(0)
    features = random.normal(size=(6, 49, 10))
    training = np.arange(6) < 4
    others = np.where(training[:, None, None], features, 100 * features)
    before, after = in_bytes(features, training), in_bytes(others, training)
    assert np.array_equal(before[training], after[training])
    assert after.min() == 0 and after.max() == 255, "and what lies beyond is clipped"


def test_idx_is_read_back():
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(read_idx("x", idx(values)).numpy(), values)
