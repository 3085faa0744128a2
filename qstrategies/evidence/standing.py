"""How far each candidate lies behind the most accurate one, on validation images, and what is shown of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from qstrategies.evidence.candidates import Candidate
from qstrategies.evidence.paired import Difference, holm, paired_difference
from qstrategies.evidence.verdicts import LEVEL, seeds_to_place
from qstrategies.predictions import Hits

MOST_IMAGES = 1_000_000
Validation = Mapping[int, Hits]
"""Whether a model is right about each validation image, [N], by seed."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How much less accurate a candidate is than the best, with the 95 % interval, all as fractions.

    ``verdict``: "worse" if the loss is shown to be above the margin, "within" if it is shown to be below, else
    "undecided". ``unnoticed``: a smaller loss would not have been shown. ``seeds_needed`` (of several) and ``images_needed``
    (with one seed): how many in all would decide an undecided one if mean and variances are what they seem; None where
    none would.
    """

    verdict: str
    seeds: int
    images: int
    loss: float
    low: float
    high: float
    unnoticed: float
    seeds_needed: int | None
    images_needed: int | None


def standings(best: Candidate, candidates: Mapping[Candidate, Validation], margin: float) -> dict[Candidate, Standing]:
    """The standing of every candidate but ``best``; p-values are corrected by Holm over all of them."""
    pairs = {one: _pairs(candidates[best], hits) for one, hits in candidates.items() if one != best}
    losses = {one: paired_difference(*pair) for one, pair in pairs.items()}
    worse = holm([min(item.p_above(margin), _p_each(pairs[one], margin)) for one, item in losses.items()])
    within = holm([item.p_below(margin) for item in losses.values()])
    level = LEVEL / max(1, len(losses))
    images = len(next(iter(candidates[best].values())))
    return {
        one: _standing(item, _verdict(p_worse, p_within), images, margin, level)
        for (one, item), p_worse, p_within in zip(losses.items(), worse, within, strict=True)
    }


def _pairs(best: Validation, other: Validation) -> tuple[list[Hits], list[Hits]]:
    """The hits of both over the seeds that both have; where there are none, over any seeds of theirs, one by one."""
    both = sorted(best.keys() & other.keys())
    if both:
        return [best[seed] for seed in both], [other[seed] for seed in both]
    count = min(len(best), len(other))
    return list(best.values())[:count], list(other.values())[:count]


def _p_each(pair: tuple[list[Hits], list[Hits]], margin: float) -> float:
    """p-value of "at least at one seed no more than ``margin`` is lost": each pair of models is judged by itself.

    Two or three seeds alone say next to nothing of others, even where every one of them lost half of the accuracy.
    """
    if any(best.mean() - other.mean() <= margin for best, other in zip(*pair, strict=True)):
        return 1.0
    return max(paired_difference([best], [other]).p_above(margin) for best, other in zip(*pair, strict=True))


def _verdict(p_worse: float, p_within: float) -> str:
    if p_worse <= LEVEL:
        return "worse"
    return "within" if p_within <= LEVEL else "undecided"


def _standing(item: Difference, verdict: str, images: int, margin: float, level: float) -> Standing:
    low, high = item.interval()
    open_still = verdict == "undecided"
    return Standing(
        verdict=verdict,
        seeds=item.seeds,
        images=images,
        loss=item.mean,
        low=low,
        high=high,
        unnoticed=margin + item.mean - float(np.quantile(item.draws, level)),
        seeds_needed=seeds_to_place(item, margin, level) if open_still else None,
        images_needed=images_to_place(item, images, margin, level) if open_still else None,
    )


def images_to_place(item: Difference, images: int, margin: float, level: float) -> int | None:
    """About how many images would show on which side of ``margin`` a difference of this mean lies, of the models of one seed.

    None with several seeds, where images alone need not do, and where more than ``MOST_IMAGES`` would be needed.
    """
    gap = item.mean - margin
    if item.seeds > 1 or gap == 0:
        return None
    needed = math.ceil(images * stats.norm.isf(level) ** 2 * item.image_variance / gap**2)
    two_digits = round(needed, 2 - len(str(needed)))
    return two_digits if images < two_digits <= MOST_IMAGES else None
