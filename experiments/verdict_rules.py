"""Claims, the intervals that they are tested with, and the rules of the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qstrategies.evidence import paired_difference

LEVEL = 0.05


@dataclass(frozen=True)
class Outcome:
    """One test of a claim. ``holds``: True, False, or None where the interval [low, high] leaves it
    open."""

    condition: str
    estimate: float
    low: float
    high: float
    holds: bool | None


@dataclass(frozen=True)
class Claim:
    """What the post says, how it is tested, and what came out.

    ``own`` names the conditions of the post itself; ``beside`` are figures that explain and decide
    nothing.
    """

    text: str
    test: str
    unit: str
    outcomes: tuple[Outcome, ...]
    own: tuple[str, ...]
    beside: tuple[Outcome, ...] = ()

    @property
    def verdict(self) -> str:
        """confirmed or refuted by the post's own conditions; where those refute it but others do
        not, it says which."""
        own = [outcome.holds for outcome in self.outcomes if outcome.condition in self.own]
        elsewhere = [
            outcome.condition
            for outcome in self.outcomes
            if outcome.holds and outcome.condition not in self.own
        ]
        if all(own):
            return "confirmed"
        if any(holds is not False for holds in own):
            return "undecided" if not any(own) else "confirmed in part"
        return f"only under: {', '.join(elsewhere)}" if elsewhere else "refuted"


Interval = tuple[float, float, float]
"""Estimate, low, high."""
Measure = Callable[[float], Interval]
"""From the level of confidence to an interval."""
Rule = Callable[[float, float], bool | None]
"""From an interval to whether a claim holds there."""


def above(limit: float, slack: float = 0.0) -> Rule:
    """It holds where the interval lies above ``limit``, and does not where it lies below ``limit +
    slack``."""
    return lambda low, high: True if low > limit else False if high <= limit + slack else None


def below(limit: float) -> Rule:
    """It holds where the interval lies below ``limit``, and does not where it lies above."""
    return lambda low, high: True if high < limit else False if low >= limit else None


def claim(
    text: str, test: str, unit: str, measures: dict[str, Measure], rule: Rule, own: Sequence[str]
) -> Claim:
    """Test a claim by ``rule`` under every condition of ``measures``.

    The intervals of the post's own conditions hold together at 95 %, and so do those of all others:
    Bonferroni over each.
    """
    sizes = {True: len(own), False: len(measures) - len(own)}
    outcomes = []
    for condition, measure in measures.items():
        estimate, low, high = measure(1 - LEVEL / sizes[condition in own])
        outcomes.append(Outcome(condition, estimate, low, high, rule(low, high)))
    return Claim(text, test, unit, tuple(outcomes), tuple(own))


def drop_measure(
    first: Sequence[NDArray[np.int8]], second: Sequence[NDArray[np.int8]] | None = None
) -> Measure:
    """The mean of ``first``, minus that of ``second`` where there is one, over images and seeds
    together; at most 1 either way."""
    found = paired_difference(
        first, second if second is not None else [np.zeros_like(item) for item in first]
    )

    def measure(level: float) -> Interval:
        low, high = np.clip(found.interval(level), -1, 1).tolist()
        return found.mean, low, high

    return measure


def constant(value: float) -> Measure:
    """What is the same in every repetition."""
    return lambda _: (value, value, value)


def by_seed(values: Sequence[float]) -> Measure:
    """The mean over seeds with Student's t."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.inf

    def measure(level: float) -> Interval:
        half = stats.t.isf((1 - level) / 2, max(1, len(array) - 1)) * error
        return float(array.mean()), float(array.mean() - half), float(array.mean() + half)

    return measure


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Measure:
    """The geometric mean of paired ratios with Student's t on their logarithms."""
    logs = by_seed(np.log(np.asarray(numerator) / np.asarray(denominator)).tolist())
    return lambda level: tuple(math.exp(value) for value in logs(level))  # type: ignore[return-value]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Measure:
    """Spearman's rho with a bootstrap over the models."""
    pairs, random = np.column_stack([x, y]), np.random.default_rng(0)
    samples = [pairs[random.integers(0, len(pairs), len(pairs))] for _ in range(2000)]
    draws = np.array([stats.spearmanr(sample).statistic for sample in samples])

    def measure(level: float) -> Interval:
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return float(stats.spearmanr(pairs).statistic), float(low), float(high)

    return measure
