"""The difference of two accuracies on the same images with the same seeds, and how sure it is.

Images and seeds are crossed random effects: D[s, i], the hit of one model minus that of the other,
is mean + seed effect + image effect + residual, and the variance of the mean over S seeds and N
images is var(seed) / S + var(image) / N + var(residual) / (S N) (Searle, Casella and McCulloch,
Variance Components, 1992, ch. 4). Plain resampling of both counts the residual three times (Owen,
The pigeonhole bootstrap, 2007, https://arxiv.org/abs/0712.1111) and finds no tails among five
seeds, so here images are resampled, shrunk to their own effect, and the mean over seeds is drawn
from Student's t around what the seeds show.

Draws of calibration images are nested in seeds: R draws for each add var(draw in seed) / (S R) to
the variance of the mean. That needs no term of its own: the means over the draws of a seed are
independent, with variance var(seed) + var(draw) / R, and what S of them show is the whole of it
(ibid., ch. 3, balanced nested classification: the test of the outer factor is by the means of its
classes, with S - 1 degrees of freedom). More draws cannot stand in for seeds. With one seed its
draws are what varies, and the interval speaks of further draws for this trained model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qstrategies.records.predictions import Hits

DRAWS = 20_000
MOST_VALUES = 500
"""Different values of images that are resampled one by one."""
Scores = Hits | NDArray[np.int8]


@dataclass(frozen=True)
class Difference:
    """Accuracy of one model minus that of another, as a fraction.

    ``seed_variance`` (0 with one seed and draw) over the number of seeds (draws of one seed) plus
    ``image_variance`` is the variance of ``mean``; ``draws`` is its bootstrap distribution.
    """

    mean: float
    seeds: int
    seed_variance: float
    image_variance: float
    draws: NDArray[np.float64]

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval of the bootstrap distribution."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def p_different(self) -> float:
        """Two-sided p-value of "no difference": twice the share of draws on the other side of
        zero."""
        return min(1.0, 2 * self._share(min((self.draws <= 0).sum(), (self.draws >= 0).sum())))

    def p_above(self, margin: float) -> float:
        """One-sided p-value of "a difference of at most ``margin``"."""
        return self._share((self.draws <= margin).sum())

    def p_below(self, margin: float) -> float:
        """One-sided p-value of "a difference of at least ``margin``"."""
        return self._share((self.draws >= margin).sum())

    def p_beyond(self, margin: float) -> float:
        """p-value of "a difference of at least ``margin``", by two one-sided tests (Schuirmann,
        1987)."""
        return self._share(max((self.draws <= -margin).sum(), (self.draws >= margin).sum()))

    def _share(self, count: int) -> float:
        """A share of the draws that is never zero (Phipson and Smyth, 2010,
        https://arxiv.org/abs/1603.05766)."""
        return (int(count) + 1) / (len(self.draws) + 1)


def paired_difference(
    first: Sequence[Scores], second: Sequence[Scores], *, draws: int = DRAWS
) -> Difference:
    """Accuracy of ``first`` minus that of ``second``: one array of hits [N] per seed each, for the
    same images and seeds, or [draws, N] where a seed has several draws of calibration images.

    Hits may be differences of hits, to compare two drops.

    With one seed it speaks of these trained models on further images only.
    """
    hits = _units(first, second)
    seeds, images = hits.shape
    by_image, by_seed = hits.mean(0), hits.mean(1)
    mean = float(hits.mean())
    random = np.random.default_rng(0)
    by_chance, seed_variance, own_share = np.zeros(draws), 0.0, 1.0
    if seeds > 1:
        residual = ((hits - by_image - by_seed[:, None] + mean) ** 2).sum() / (
            (seeds - 1) * (images - 1)
        )
        seed_variance = float(by_seed.var(ddof=1))
        own_share = max(0.0, 1 - residual / seeds / max(by_image.var(ddof=1), 1e-300))
        by_chance = _seed_draws(seeds, seed_variance, residual / images, random, draws)
    effects, counts = _with_one_flip_each_way(by_image, _flip(first, second))
    shares = counts / counts.sum()
    centre = effects @ shares
    image_variance = float(own_share * (((effects - centre) ** 2) @ shares) / images)
    resampled = random.multinomial(images, shares, draws) @ effects / images - centre
    return Difference(
        mean,
        len(first),
        seed_variance,
        image_variance,
        mean + np.sqrt(own_share) * resampled + by_chance,
    )


def _units(first: Sequence[Scores], second: Sequence[Scores]) -> NDArray[np.float64]:
    """The differences [units, N]: a unit is the mean over the draws of a seed, or a draw of the
    only seed if both models have as many."""
    pairs = [
        (np.atleast_2d(one).astype(np.float64), np.atleast_2d(other).astype(np.float64))
        for one, other in zip(first, second, strict=True)
    ]
    if len(pairs) == 1 and len(pairs[0][0]) == len(pairs[0][1]):
        return pairs[0][0] - pairs[0][1]
    return np.stack([one.mean(0) - other.mean(0) for one, other in pairs])


def _seed_draws(
    seeds: int, variance: float, from_residual: float, random: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """Errors of a mean over seeds: Student's t around their variance, or normal around what the
    residual alone gives them, whichever is wider. Two seeds that happen to agree are no proof that
    all do."""
    by_seeds, by_residual = math.sqrt(variance / seeds), math.sqrt(from_residual / seeds)
    if stats.t.isf(0.025, seeds - 1) * by_seeds >= stats.norm.isf(0.025) * by_residual:
        return random.standard_t(seeds - 1, draws) * by_seeds
    return random.normal(0, by_residual, draws)


def _flip(first: Sequence[Scores], second: Sequence[Scores]) -> float:
    """The largest difference that one image can make: 1 for hits, of scores what they span."""
    scores = [each for each in (*first, *second) if each.dtype.kind == "f"]
    if not scores:
        return 1.0
    span = max(map(np.max, scores)) - min(map(np.min, scores))
    return float(span) or 1.0


def _with_one_flip_each_way(
    by_image: NDArray[np.float64], flip: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct values and how often each occurs, plus one image lost and one gained, so that no
    flip among N images does not pass for a proof of none (as Bonett and Price, 2012,
    https://doi.org/10.3102/1076998611411915)."""
    values, counts = np.unique(np.concatenate([by_image, [-flip, flip]]), return_counts=True)
    if len(values) > MOST_VALUES:
        return _grouped(values, counts)
    return values, counts.astype(np.float64)


def _grouped(
    values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``values`` in ``MOST_VALUES`` groups of neighbours, each with its mean: what is resampled has
    the same mean, and a variance less by that inside the groups."""
    sizes = np.array_split(np.arange(len(values)), MOST_VALUES)
    weights = np.array([counts[each].sum() for each in sizes], np.float64)
    means = np.array([np.average(values[each], weights=counts[each]) for each in sizes])
    return means, weights


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value that flips in both directions are equally likely (McNemar, 1947)."""
    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false rejection keeps its level (Holm, 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()
