"""The whole report of a set of records as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qstrategies.files import atomic_write
from qstrategies.records import RunRecord
from qstrategies.report import plots, table


def write_report(records: Sequence[RunRecord], folder: Path) -> list[Path]:
    """Write summary.md, .csv, .json and the figures into ``folder``; returns the paths."""
    rows = table.summarise(records)
    failed = [f"- {record.config.run_id}: {record.reason}\n" for record in records if record.status == "failed"]
    done = [record for record in records if record.status == "done"]
    drawn = {name: plots.png(draw(records)) for name, draw in plots.FIGURES.items()} if done else {}
    images = "".join(f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in drawn)
    failures = f"\n## Failed runs\n\n{''.join(failed)}" if failed else ""
    contents: dict[str, bytes | str] = {
        "summary.md": f"# Comparison of quantization strategies\n\n"
        f"int8 test accuracy in percent, by weight bits:\n\n{table.overview(rows)}\n\n"
        f"## All figures\n\n{table.as_markdown(rows)}{failures}{images}",
        "summary.csv": table.as_csv(rows),
        "summary.json": table.as_json(rows),
        **drawn,
    }
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return [folder / name for name in contents]
