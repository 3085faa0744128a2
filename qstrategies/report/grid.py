"""One table of text cells, for a terminal, for Markdown and for HTML. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qstrategies import text


@dataclass(frozen=True)
class Grid:
    """A table: its title, the heads of its columns, its rows, and how to read it; ``more`` rows,
    which ``more_title`` stands for until they are asked for. Cells and notes may come from
    anywhere."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    notes: str = ""
    more: Sequence[Sequence[str]] = field(default_factory=list)
    more_title: str = ""

    def as_text(self) -> str:
        """Aligned columns for a terminal: the first to the left, the others to the right."""
        table = [[text.line(cell) for cell in row] for row in (self.headers, *self.rows)]
        widths = [max(len(row[index]) for row in table) for index in range(len(self.headers))]
        lines = ["  ".join(_justified(row, widths)) for row in table]
        folded = [f"{self.more_title}; --all shows them"] if self.more else []
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *folded])

    def as_markdown(self) -> str:
        """A Markdown table with its notes."""
        parts = [self._markdown(self.rows)]
        if self.more:
            title = f"<summary>{text.markdown(self.more_title)}</summary>"
            parts += [f"<details>{title}", self._markdown(self.more), "</details>"]
        parts += [text.markdown(self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def _markdown(self, rows: Sequence[Sequence[str]]) -> str:
        lines = [self.headers, ["---", *["---:"] * (len(self.headers) - 1)], *rows]
        return "\n".join("| " + " | ".join(map(text.markdown, row)) + " |" for row in lines)


def _justified(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
