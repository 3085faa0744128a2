"""Each comparison ends as better, worse, equivalent or undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from qstrategies.evidence.paired import Difference, holm

LEVEL = 0.05
"""The chance of any false "better" or "worse", and of any false "equivalent", in one family of
comparisons."""
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One difference of accuracies (fractions) with its 95 % interval, p-values after Holm, and
    what they say.

    ``seeds_needed``: how many seeds in all would decide it if the difference is what it seems; None
    where it is decided, where one seed says nothing of others, and where even ``MOST_SEEDS`` would
    not.
    """

    difference: float
    low: float
    high: float
    seeds: int
    p_different: float
    p_beyond_margin: float
    verdict: str
    seeds_needed: int | None


def compare_all(differences: Mapping[str, Difference], margin: float) -> dict[str, Comparison]:
    """A verdict on every difference of one family.

    equivalent: smaller than ``margin`` (a fraction) either way; better or worse: not zero;
    undecided: neither is shown. A difference that is shown to be smaller than the margin is
    equivalent even if it is shown not to be zero.
    """
    different = holm([item.p_different for item in differences.values()])
    beyond = holm([item.p_beyond(margin) for item in differences.values()])
    return {
        name: _comparison(item, p_different, p_beyond, margin, LEVEL / len(differences))
        for (name, item), p_different, p_beyond in zip(
            differences.items(), different, beyond, strict=True
        )
    }


def _comparison(
    item: Difference, p_different: float, p_beyond: float, margin: float, level: float
) -> Comparison:
    verdict = "undecided"
    if p_beyond <= LEVEL:
        verdict = "equivalent"
    elif p_different <= LEVEL:
        verdict = "better" if item.mean > 0 else "worse"
    low, high = item.interval()
    return Comparison(
        difference=item.mean,
        low=low,
        high=high,
        seeds=item.seeds,
        p_different=p_different,
        p_beyond_margin=p_beyond,
        verdict=verdict,
        seeds_needed=seeds_needed(item, margin, level) if verdict == "undecided" else None,
    )


def seeds_needed(item: Difference, margin: float, level: float) -> int | None:
    """The smallest number of seeds, above the present one, at which the same mean and variances
    would be decided."""
    if item.seeds == 1:
        return None
    seeds = _more_seeds(item)
    two_sided, one_sided = (_half_width(item, seeds, tail) for tail in (level / 2, level))
    return _first(seeds, (abs(item.mean) > two_sided) | (abs(item.mean) + one_sided < margin))


def seeds_to_place(item: Difference, margin: float, level: float) -> int | None:
    """The smallest number of seeds, above the present one, that would show on which side of
    ``margin`` the same mean lies."""
    if item.seeds == 1:
        return None
    seeds = _more_seeds(item)
    return _first(seeds, abs(item.mean - margin) > _half_width(item, seeds, level))


def _more_seeds(item: Difference) -> NDArray[np.int64]:
    return np.arange(item.seeds + 1, MOST_SEEDS + 1)


def _first(seeds: NDArray[np.int64], decided: NDArray[np.bool_]) -> int | None:
    return int(seeds[decided.argmax()]) if decided.any() else None


def _half_width(item: Difference, seeds: NDArray[np.int64], tail: float) -> NDArray[np.float64]:
    by_seeds = stats.t.isf(tail, seeds - 1) * np.sqrt(item.seed_variance / seeds)
    return np.hypot(by_seeds, stats.norm.isf(tail) * math.sqrt(item.image_variance))
