"""One HTML file with everything in it: tables that sort, figures as SVG, no network."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import jinja2
import matplotlib
from matplotlib.figure import Figure

from qstrategies.records import RunRecord, Widths
from qstrategies.report import plots
from qstrategies.report.drawing import subplots
from qstrategies.report.grid import Grid
from qstrategies.text import block

if TYPE_CHECKING:
    from qstrategies.evidence import Evidence, Recommendation

LINEAR = 0.1
"""Points below which the bars of intervals are linear; logarithmic above."""


@dataclass(frozen=True)
class Picture:
    """An SVG with what a screen reader says of it."""

    title: str
    says: str
    svg: str


@dataclass(frozen=True)
class Bar:
    """An interval along a line, all in percent of its length; ``zero`` is where no difference
    lies."""

    low: float
    middle: float
    high: float
    zero: float


def page(
    records: Sequence[RunRecord],
    drawn: Sequence[RunRecord],
    tables: Sequence[Grid],
    found: Evidence | None,
    advice: Recommendation | None,
) -> str:
    """The whole report, with figures of ``drawn``. Names and reasons come from files and are
    escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qstrategies.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    return environment.get_template("report.html.j2").render(
        advice=advice,
        tables=tables,
        bars=_bars(found) if found else {},
        pictures=_pictures(drawn, found, advice) if found else [],
        histograms=_histograms(drawn) if found else {},
        configurations={
            record.config.run_id: json.dumps(asdict(record.config), indent=1) for record in records
        },
    )


def _visible(value: object) -> object:
    """Texts without characters that hide something or turn the order of reading; markup and numbers
    as they are."""
    return block(value) if type(value) is str else value


def _pictures(
    records: Sequence[RunRecord], found: Evidence, advice: Recommendation | None
) -> list[Picture]:
    drawn = [
        (
            "Accuracy against weight bits",
            "One line per strategy; its values are in the first table.",
            plots.accuracy_against_bits(records),
        ),
        (
            "Learning curves",
            "Training loss and validation accuracy of every strategy by epoch.",
            plots.learning_curves(records),
        ),
    ]
    if advice is not None:
        drawn.append(
            (
                "What accuracy costs in training",
                advice.reason,
                plots.pareto(found.candidates, advice),
            )
        )
    return [
        Picture(title, says, svg(figure, f"picture{index}"))
        for index, (title, says, figure) in enumerate(drawn)
    ]


def _histograms(records: Sequence[RunRecord]) -> Mapping[str, dict[str, Picture]]:
    """By strategy and by moment: as trained after an epoch, or folded."""
    found: dict[str, dict[str, Picture]] = {}
    for name, record in plots.one_per_strategy(records).items():
        for item in record.histograms:
            moment = f"{'folded, ' if item.when == 'folded' else ''}epoch {item.epoch}"
            figure, axis = subplots(size=(7, 3.4), constrained=False)
            figure.subplots_adjust(left=0.12, right=0.98, top=0.9, bottom=0.15)
            plots.draw_histogram(axis, item, name)
            axis.set_xlabel("weight")
            axis.set_ylabel("density (log)")
            ratio = item.max_abs / item.sigma if item.sigma else math.inf
            says = (
                f"Largest weight {item.max_abs:.3g}, sigma {item.sigma:.3g}, max/sigma {ratio:.1f}."
            )
            key = f"histogram{len(found)}x{len(found.get(name, {}))}"
            found.setdefault(name, {})[moment] = Picture(
                f"{name}, {moment}", says, svg(figure, key)
            )
    return found


def _bars(found: Evidence) -> dict[tuple[str, str], Bar]:
    """The interval of every drop, on one scale for all, by the cells "strategy" and "bits"."""
    intervals = [
        [_place(-value * 100) for value in (row.change.high, row.change.difference, row.change.low)]
        for row in found.rows
    ]
    low, high = (
        pick([0.0, *(value for interval in intervals for value in interval)]) for pick in (min, max)
    )
    length = (high - low) or 1.0
    keys = [(row.strategy, str(Widths(row.weight_bits, row.activation_bits))) for row in found.rows]
    return {
        key: Bar(*((value - low) / length * 100 for value in (*interval, 0.0)))
        for key, interval in zip(keys, intervals, strict=True)
    }


def _place(points: float) -> float:
    return math.asinh(points / LINEAR)


def svg(figure: Figure, prefix: str) -> str:
    """``figure`` as an SVG element: text as text, in the colours of the page, ids that
    begin with ``prefix``."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    return re.sub("<[^>]*>", lambda tag: _adapted(tag[0], prefix), text[text.index("<svg") :])


def _adapted(tag: str, prefix: str) -> str:
    """A tag in the colours of the page, with ids of its own. Only tags: between them stand
    names."""
    tag = tag.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    return re.sub(r'(href="|url\()#', rf"\1#{prefix}-", tag)
