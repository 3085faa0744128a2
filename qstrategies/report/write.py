"""The whole report of a set of records as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstrategies.files import atomic_write
from qstrategies.records import RunRecord
from qstrategies.report import evidence, html, plain, plots, runs, table
from qstrategies.report.drawing import png
from qstrategies.report.grid import Grid
from qstrategies.report.order import Order
from qstrategies.text import block, json_text, markdown

if TYPE_CHECKING:
    from qstrategies.evidence import Evidence, Recommendation


def write_report(
    records: Sequence[RunRecord],
    folder: Path,
    found: Evidence | None,
    advice: Recommendation | None,
) -> list[Path]:
    """Write report.html, summary.md, .csv, .json and the figures into ``folder``; returns the
    paths.

    ``found`` and ``advice`` are what ``evidence.conclude`` makes of the records.
    """
    order = Order.of(records, found, advice)
    records = order.sorted(records)
    tables, drawn = grids(records, folder, found, order), draw(order.led(records), found, advice)
    contents: dict[str, bytes | str] = {
        "report.html": html.page(records, order.led(records), tables, found, advice),
        "summary.md": _markdown(tables, advice, list(drawn)),
        "summary.csv": plain.as_csv(table.summarise(records)),
        "summary.json": json_text(as_data(records, found, advice)) + "\n",
        **drawn,
    }
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return [folder / name for name in contents]


def grids(
    records: Sequence[RunRecord], folder: Path, found: Evidence | None, order: Order
) -> list[Grid]:
    """The tables of every form of the report, in order."""
    rows = table.summarise(records)
    first, figures = table.overview(rows), table.grid(rows)
    names = list(dict.fromkeys(row.strategy for row in rows if row.widths is not None))
    seldom = runs.failures(records), runs.notes(records), runs.mixed_bits(records)
    failed, noted, mixed = ([each] if each.rows else [] for each in seldom)
    judged = []
    if found is not None:
        judged = [order.arranged(evidence.grid(found), [row.strategy for row in found.rows])]
    return [
        order.arranged(first, names),
        *failed,
        *noted,
        *judged,
        order.arranged(figures, [row.strategy for row in rows]),
        *mixed,
        runs.runtimes(records),
        runs.diagnoses(records, folder),
        order.closed(runs.commands(records)),
        runs.versions(records),
    ]


def draw(
    records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None
) -> dict[str, bytes]:
    """Every figure as PNG, by file name; none if no run has finished."""
    if found is None:
        return {}
    figures = {name: png(figure(records)) for name, figure in plots.FIGURES.items()}
    if advice is not None:
        figures["pareto.png"] = png(plots.pareto(found.candidates, advice))
    return figures


def as_text(
    records: Sequence[RunRecord],
    folder: Path,
    found: Evidence | None,
    advice: Recommendation | None,
    *,
    everything: bool = False,
) -> str:
    """The tables, their notes and the recommendation for a terminal; how to repeat each run is in
    the files. ``everything``: of many strategies all, not the leaders only."""
    order = Order.of(records, found, advice, everything=everything)
    shown = [
        item
        for item in grids(order.sorted(records), folder, found, order)[1:]
        if item.title not in ("How to make each run again", "Machine and versions")
    ]
    parts = [
        part
        for item in shown
        for part in (item.title, item.as_text() if item.rows else "", item.notes)
        if part
    ]
    return block("\n\n".join([*parts, *([advice.reason] if advice else [])])) + "\n"


def as_data(
    records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None
) -> dict[str, Any]:
    """Rows of the table, evidence and recommendation as plain data for JSON."""
    return {"rows": plain.as_data(table.summarise(records)), **evidence.as_data(found, advice)}


def _markdown(tables: Sequence[Grid], advice: Recommendation | None, figures: Sequence[str]) -> str:
    sections = {
        "Recommendation": markdown(advice.reason) + "\n" if advice else "",
        **{
            item.title: item.as_markdown()
            if item.rows or item.more
            else markdown(item.notes) + "\n"
            for item in tables
        },
        "Pictures": "\n".join(
            f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in figures
        ),
    }
    return "# Comparison of quantization strategies\n\n" + "\n".join(
        f"## {title}\n\n{text}" for title, text in sections.items() if text
    )
