"""One table of text cells, for a terminal, for Markdown and for HTML. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Grid:
    """A table: its title, the heads of its columns, its rows, and how to read it."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    notes: str = ""

    def as_text(self) -> str:
        """Aligned columns for a terminal: the first to the left, the others to the right."""
        table = [self.headers, *self.rows]
        widths = [max(len(line[index]) for line in table) for index in range(len(self.headers))]
        lines = ["  ".join(_justified(line, widths)) for line in table]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def as_markdown(self) -> str:
        """A Markdown table with its notes."""
        lines = [self.headers, ["---", *["---:"] * (len(self.headers) - 1)], *self.rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return table + (f"\n\n{self.notes}\n" if self.notes else "\n")


def _justified(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(zip(cells, widths, strict=True))]
