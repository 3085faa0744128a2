"""Spoken digits as 49 x 10 images: the recordings of the Free Spoken Digit Dataset become the IDX
files of the package. Give the folder that holds samples.i16.xz and index.csv.

Features are those of the keyword spotting of MLPerf Tiny (Banbury et al.,
https://arxiv.org/abs/2106.07597): Hann windows of 40 ms each 20 ms, magnitudes, 40 mel bins from 20
to 4000 Hz, logarithm, the first 10 coefficients of the cosine transform. Other than there:

- 8 kHz instead of 16: the upper edge, 4000 Hz, is the highest frequency there is; a window has 320
  samples and its transform 512 points, so that bins are as wide as there;
- a recording, on average 0.4 seconds long, stands in the middle of a second of silence, of longer
  ones the middle second is taken; there it stands at the beginning. Training has no shifts, noise;
- the peak is that of the magnitude;
- 1 is added before the logarithm instead of 1e-6: below it lie the noises of six rooms and
  microphones, which tell the speakers who train apart better than their digits;
- coefficients are stored in 8 bits, each by one affine map that takes its lowest and highest 0.1 %
  over the speakers who train to 0 and 255; what lies beyond is clipped.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qstrategies.datasets.spoken_digits import SpokenDigits
from qstrategies.files import atomic_write

RATE = 8000
WINDOW, HOP, POINTS = 320, 160, 512
MEL_BINS, COEFFICIENTS = 40, 10
LOWEST, HIGHEST = 20.0, 4000.0
FLOOR = 1.0
TAIL = 0.1

Array = NDArray[np.float64]


def one_second(recording: Array) -> Array:
    """[RATE] values of at most 1: the middle second, or what there is in the middle of silence."""
    before = max(0, (len(recording) - RATE) // 2)
    kept = recording[before : before + RATE]
    silence = RATE - len(kept)
    padded = np.pad(kept, (silence // 2, silence - silence // 2))
    return padded / np.abs(padded).max()


def mel_weights(bins: int, frequencies: Array, lowest: float, highest: float) -> Array:
    """Triangles that are linear and half overlapping on the mel scale, 1127 ln(1 + f / 700), [len(
    frequencies), bins]; nothing of frequency 0."""

    def mel(frequency: Array) -> Array:
        return 1127 * np.log1p(frequency / 700)

    low, high = mel(np.array([lowest, highest]))
    edges = np.linspace(low, high, bins + 2)
    place = mel(frequencies)[:, None]
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    return np.where(frequencies[:, None] > 0, weights, 0)


def cosine_transform(size: int, count: int) -> Array:
    """The first ``count`` vectors of the orthonormal DCT-II but for the first, which is sqrt(2) as
    long (HTK's scale), [size, count]."""
    phase = np.pi / size * np.outer(np.arange(size) + 0.5, np.arange(count))
    return np.sqrt(2 / size) * np.cos(phase)


def mfcc(second: Array) -> Array:
    """[49, 10] coefficients of one second, [RATE]."""
    windows = np.lib.stride_tricks.sliding_window_view(second, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitudes = np.abs(np.fft.rfft(windows * hann, POINTS))
    frequencies = np.arange(POINTS // 2 + 1, dtype=np.float64) * (RATE / POINTS)
    energies = magnitudes @ mel_weights(MEL_BINS, frequencies, LOWEST, HIGHEST)
    return np.log(energies + FLOOR) @ cosine_transform(MEL_BINS, COEFFICIENTS)


def in_bytes(features: Array, training: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[N, 49, 10] in 8 bits, by a map per coefficient that ``training`` [N] alone decides."""
    low, high = np.percentile(features[training], (TAIL, 100 - TAIL), axis=(0, 1))
    return np.clip(np.rint((features - low) / (high - low) * 255), 0, 255).astype(np.uint8)


def idx(values: NDArray[np.uint8]) -> bytes:
    """``values`` as an IDX file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def convert(recordings: Path, folder: Path) -> None:
    """Write the files of ``SpokenDigits`` to ``folder``, from samples.i16.xz and index.csv."""
    with lzma.open(recordings / "samples.i16.xz") as file:
        samples = np.frombuffer(file.read(), "<i2").astype(np.float64)
    index = np.genfromtxt(recordings / "index.csv", delimiter=",", skip_header=1, dtype=np.int64)
    first, count, digits, speakers, _ = index.T
    pairs = zip(first, first + count, strict=True)
    features = np.stack([mfcc(one_second(samples[start:end])) for start, end in pairs])
    training = np.isin(speakers, SpokenDigits.speakers["train"])
    parts = (in_bytes(features, training), digits.astype(np.uint8), speakers.astype(np.uint8))
    for name, part in zip(SpokenDigits.files, parts, strict=True):
        packed = lzma.compress(idx(part), preset=9 | lzma.PRESET_EXTREME)
        atomic_write(folder / f"{name}.xz", packed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path, help="folder of samples.i16.xz and index.csv")
    parser.add_argument("--out", type=Path, default=SpokenDigits.packaged)
    chosen = parser.parse_args()
    convert(chosen.recordings, chosen.out)
