"""How far each candidate lies behind the best on validation images, and what is shown of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from qstrategies.evidence.candidates import Candidate
from qstrategies.evidence.paired import Difference, holm, paired_difference
from qstrategies.evidence.verdicts import LEVEL, seeds_to_place
from qstrategies.records.predictions import Hits

MOST_IMAGES = 1_000_000
Validation = Mapping[int, Hits]
"""Whether a model is right about each validation image, by seed: [N], or [draws, N] where there are
several draws of calibration images."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How much less accurate a candidate is than the best, with the 95 % interval, as fractions.

    ``verdict``: "worse" if the loss is shown to be above the margin, "within" if it is shown to be
    below, else "undecided". ``unnoticed``: a smaller loss would not have been shown.
    ``seeds_needed`` (of several) and ``images_needed`` (with one seed): how many in all would
    decide an undecided one if mean and variances are what they seem; None where none would.
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


@dataclass(frozen=True)
class Pair:
    """Hits of the best and of another candidate, one array per seed each, as in ``Validation``."""

    best: Sequence[Hits]
    other: Sequence[Hits]

    @classmethod
    def of(cls, best: Validation, other: Validation) -> Pair:
        """Over the seeds that both have; where there are none, over any of theirs, one by one."""
        both = sorted(best.keys() & other.keys())
        if both:
            return cls([best[seed] for seed in both], [other[seed] for seed in both])
        count = min(len(best), len(other))
        return cls(list(best.values())[:count], list(other.values())[:count])

    def loss(self) -> Difference:
        """How much less accurate the other is."""
        return paired_difference(self.best, self.other)

    def p_each(self, margin: float) -> float:
        """p-value of "at one seed at least, no more than ``margin`` is lost": seeds judged alone.

        Two or three seeds together say next to nothing of others, even where every one of them lost
        half of the accuracy.
        """
        pairs = [Pair([best], [other]) for best, other in zip(self.best, self.other, strict=True)]
        if any(pair.best[0].mean() - pair.other[0].mean() <= margin for pair in pairs):
            return 1.0
        return max(pair.loss().p_above(margin) for pair in pairs)


def standings(
    best: Candidate,
    candidates: Mapping[Candidate, Validation],
    margin: float,
) -> dict[Candidate, Standing]:
    """The standing of every candidate but ``best``; p-values are corrected by Holm over them."""
    others = [one for one in candidates if one != best]
    pairs = [Pair.of(candidates[best], candidates[one]) for one in others]
    losses = [pair.loss() for pair in pairs]
    together = [loss.p_above(margin) for loss in losses]
    alone = [pair.p_each(margin) for pair in pairs]
    worse = holm(list(map(min, together, alone)))
    within = holm([loss.p_below(margin) for loss in losses])
    verdicts = map(_verdict, worse, within)
    level = LEVEL / max(1, len(losses))
    images = next(iter(candidates[best].values())).shape[-1]
    return {
        one: _standing(loss, verdict, images, margin, level)
        for one, loss, verdict in zip(others, losses, verdicts, strict=True)
    }  # fmt: skip


def _verdict(p_worse: float, p_within: float) -> str:
    if p_worse <= LEVEL:
        return "worse"
    return "within" if p_within <= LEVEL else "undecided"


def _standing(
    item: Difference,
    verdict: str,
    images: int,
    margin: float,
    level: float,
) -> Standing:
    low, high = item.interval()
    undecided = verdict == "undecided"
    return Standing(
        verdict=verdict,
        seeds=item.seeds,
        images=images,
        loss=item.mean,
        low=low,
        high=high,
        unnoticed=margin + item.mean - float(np.quantile(item.draws, level)),
        seeds_needed=seeds_to_place(item, margin, level) if undecided else None,
        images_needed=images_to_place(item, images, margin, level) if undecided else None,
    )


def images_to_place(item: Difference, images: int, margin: float, level: float) -> int | None:
    """About how many images would show on which side of ``margin`` a difference of this mean lies.

    It speaks of the models of one seed. None with several seeds, where images alone need not do,
    and where more than ``MOST_IMAGES`` would be needed.
    """
    gap = item.mean - margin
    if item.seeds > 1 or gap == 0:
        return None
    needed = math.ceil(images * stats.norm.isf(level) ** 2 * item.image_variance / gap**2)
    two_digits = round(needed, 2 - len(str(needed)))
    return two_digits if images < two_digits <= MOST_IMAGES else None
