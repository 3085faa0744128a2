"""Evidence and recommendation as text, Markdown and plain data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from qstrategies.records import ACCURACY, Metric, Widths
from qstrategies.report.grid import Grid

if TYPE_CHECKING:
    from qstrategies.evidence import Comparison, Evidence, Recommendation
    from qstrategies.evidence.collect import Row

HEADERS = (
    "strategy",
    "bits",
    "verdict",
    "against {reference}, {unit}",
    "p",
    "levels",
    "drop, {unit}",
    "against float",
    "seeds",
    "lost / gained",
    "McNemar",
)


def headers(evidence: Evidence) -> list[str]:
    """The column heads, with the name of the reference and the unit."""
    unit = evidence.metric.unit
    return [head.format(reference=evidence.reference, unit=unit) for head in HEADERS]


def cells(row: Row) -> list[str]:
    """The row as text, in the order of ``HEADERS``."""
    against = ["-"] * 3
    if row.against is not None:
        against = [
            _verdict(row.against),
            _interval(row.against, 1, row.metric),
            f"{row.against.p_different:.2g}",
        ]
    return [
        row.strategy,
        str(Widths(row.weight_bits, row.activation_bits)),
        *against,
        row.levels,
        _interval(row.change, -1, row.metric),
        _verdict(row.change),
        str(row.seeds) if row.draws == 1 else f"{row.seeds} x {row.draws}",
        f"{row.lost:.0f} / {row.gained:.0f}",
        f"{row.significant_runs} of {row.runs}",
    ]


def _interval(comparison: Comparison, sign: int, metric: Metric) -> str:
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    middle = metric.difference(sign * comparison.difference)
    return f"{middle} [{metric.difference(low)}, {metric.difference(high)}]"


def _verdict(comparison: Comparison) -> str:
    needed = "" if comparison.seeds_needed is None else f" ({comparison.seeds_needed} seeds)"
    return comparison.verdict + needed


def notes(evidence: Evidence) -> str:
    """How to read the table, and how far it reaches."""
    metric = evidence.metric
    margin = f"{evidence.margin * metric.factor:g} {metric.unit}"
    reach = (
        "One seed: nothing can be concluded beyond these trained models "
        f"{_further(evidence.draws)}; compare --seeds 5 says what a strategy does."
        if evidence.seeds == 1
        else (
            "Intervals and verdicts speak of further seeds and further images, from "
            f"{_replicates(evidence)}."
        )
    )
    return (
        f"{reach} On {evidence.images} test images, paired. drop: {_drop(metric)}, [95 "
        f"% interval]; against {evidence.reference}: {_against(metric)}, at the same width, "
        "p after Holm over the strategies of that width. equivalent: shown to differ by less "
        f"than {margin}; better, worse: shown to differ; undecided: neither is shown, in brackets "
        "the number of seeds that would decide it if the difference is what it seems. lost / "
        f"gained: images per run whose {_flips(metric)}; McNemar: runs at which the "
        "exact test tells these apart."
    )


def _drop(metric: Metric) -> str:
    if metric == ACCURACY:
        return "float minus int8 accuracy"
    return f"how much worse the {metric.name} of int8 is than that of float"


def _against(metric: Metric) -> str:
    if metric == ACCURACY:
        return "int8 accuracy minus its"
    return f"how much better the {metric.name} of int8 is than its"


def _flips(metric: Metric) -> str:
    return "label turned wrong or right" if metric == ACCURACY else "score got worse or better"


def _further(draws: int) -> str:
    images = "on further images like the test images"
    if draws == 1:
        return images
    return f"{images} and further draws of calibration images, of which there were {draws}"


def _replicates(evidence: Evidence) -> str:
    seeds = f"{evidence.seeds} seeds"
    if evidence.draws == 1:
        return seeds
    return f"{seeds} x {evidence.draws} draws of calibration images (not for QAT, which has one)"


def grid(evidence: Evidence) -> Grid:
    """All comparisons as a table of text."""
    return Grid(
        "Is the difference real?",
        headers(evidence),
        [cells(row) for row in evidence.rows],
        notes(evidence),
    )


def as_data(evidence: Evidence | None, recommendation: Recommendation | None) -> dict[str, Any]:
    """Both as plain data for JSON."""
    found = None
    if evidence is not None:
        found = {
            "rows": [dataclasses.asdict(row) for row in evidence.rows],
            "candidates": [dataclasses.asdict(candidate) for candidate in evidence.candidates],
            "reference": evidence.reference,
            "margin": evidence.margin,
            "images": evidence.images,
        }
    return {
        "evidence": found,
        "recommendation": None if recommendation is None else dataclasses.asdict(recommendation),
    }
