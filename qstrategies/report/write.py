"""The whole report of a set of records as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qstrategies.files import atomic_write
from qstrategies.records import RunRecord
from qstrategies.report import evidence, plots, table

if TYPE_CHECKING:
    from qstrategies.evidence import Evidence, Recommendation


def write_report(records: Sequence[RunRecord], folder: Path, found: Evidence | None, advice: Recommendation | None) -> list[Path]:
    """Write summary.md, .csv, .json and the figures into ``folder``; returns the paths.

    ``found`` and ``advice`` are what ``evidence.conclude`` makes of the records.
    """
    drawn = draw(records, found, advice)
    contents: dict[str, bytes | str] = {
        "summary.md": _markdown(records, found, advice, list(drawn)),
        "summary.csv": table.as_csv(table.summarise(records)),
        "summary.json": as_json(records, found, advice),
        **drawn,
    }
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return [folder / name for name in contents]


def draw(records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None) -> dict[str, bytes]:
    """Every figure as PNG, by file name; none if no run has finished."""
    if found is None:
        return {}
    figures = {name: plots.png(figure(records)) for name, figure in plots.FIGURES.items()}
    if advice is not None:
        figures["pareto.png"] = plots.png(plots.pareto(found.candidates, advice))
    return figures


def as_text(records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None) -> str:
    """The tables, their notes and the recommendation for a terminal."""
    parts = [table.as_text(table.summarise(records)), table.NOTES]
    parts += [evidence.as_text(found), evidence.notes(found)] if found else []
    parts += [advice.reason] if advice else []
    return "\n\n".join(parts) + "\n"


def as_json(records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None) -> str:
    """Rows of the table, evidence and recommendation as one JSON object."""
    content = {"rows": table.as_data(table.summarise(records)), **evidence.as_data(found, advice)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _markdown(records: Sequence[RunRecord], found: Evidence | None, advice: Recommendation | None, figures: Sequence[str]) -> str:
    rows = table.summarise(records)
    failed = "".join(f"- {record.config.run_id}: {record.reason}\n" for record in records if record.status == "failed")
    sections = {
        "Recommendation": advice.reason + "\n" if advice else "",
        "int8 test accuracy in percent, by weight bits": table.overview(rows) + "\n",
        "Is the difference real?": evidence.as_markdown(found) if found else "",
        "All figures": table.as_markdown(rows),
        "Failed runs": failed,
        "Pictures": "\n".join(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in figures),
    }
    body = "\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# Comparison of quantization strategies\n\n{body}"
