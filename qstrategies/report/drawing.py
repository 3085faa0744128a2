"""Figures and axes, and what they are turned into."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qstrategies import text

LONGEST_LABEL = 80


def plain(name: str) -> str:
    """``name`` as a label that is not taken for a formula, nor for one to be hidden, and leaves
    room for the figure."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[:LONGEST_LABEL]}..."
    shown = text.line(short)
    return shown.replace("$", r"\$").lstrip("_") or "-"


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float],
    constrained: bool = True,
    **settings: Any,
) -> tuple[Figure, Any]:
    """A figure of ``size`` in inches and its axes, without pyplot, whose state is the user's."""
    figure = Figure(figsize=size, layout="constrained" if constrained else None)
    return figure, figure.subplots(rows, columns, **settings)


def png(figure: Figure) -> bytes:
    """``figure`` as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def logarithmic(axis: Axes) -> None:
    """With numbers in plain characters: formulas take several times as long to set."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(_PlainMinor(labelOnlyBase=False))


class _PlainMinor(matplotlib.ticker.LogFormatter):
    """As powers of ten are written; where there are few of these, also numbers between them."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
