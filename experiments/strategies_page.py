"""The page of the study of all strategies: per network a table, and a figure where it has sizes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from strategies_results import Cell, Column, Columns, read, with_runs, write

from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.records import MARGIN, RECORD
from qstrategies.report.drawing import png
from qstrategies.report.grid import Grid
from qstrategies.strategies.base import weighted_layers

MARK = "<!-- From here on written by experiments/strategies.py -->\n"
REFERENCE = "no_norm"
SHOWN = 12  # rows of a table that stay unfolded
DRAWN = ("no_norm", "finetune", "qat", "lsq", "cle", "cle+mse_clip+adaround")

HEAD = f"""
## All figures

By `python experiments/strategies.py`, which adds what is run to what there is. What has no figure was not run yet;
`--tasks`, `--settings` and `--strategies` choose.

- Test accuracy in percent of the int8 model. Every strategy trains for as many epochs in all: what continues a float model gets one
  that was trained so much shorter. Options are the defaults of each strategy: the published ones, or its docstring says what differs.
- W: bits of weights, A: of activations between layers; pixels and logits have 8. Levels of weights are narrow (3 at W2, 7 at W3) but
  where the column says `no_zero` (4 at W2, all odd). Scales per channel unless it says per tensor. All scales are exact.
- Against `{REFERENCE}` (no more than post-training quantization) in the same column: ▲ shown to be better, ▼ worse, = less than
  {MARGIN * 100:g} points apart, no mark: not shown. Paired over images and seeds, corrected by Holm over the column
  ([evidence.md](evidence.md)), over what was run together. `strategies.json` has the figures unrounded.
- Sorted by the mean of the columns that all rows have, or else by the one that most have.
"""  # noqa: E501


def widths(setting: str) -> tuple[int, int]:
    """Bits of weights and of activations."""
    weights, activations = setting.split()[0][1:].split("A")
    return int(weights), int(activations)


def _reading_order(setting: str) -> tuple[str, int, int]:
    """One shape of scales and levels after another, from many bits to few."""
    weights, activations = widths(setting)
    return setting.partition(" ")[2], -weights, -activations


@dataclass(frozen=True)
class Task:
    """What there is of one task."""

    name: str
    columns: Columns

    @property
    def cells(self) -> list[tuple[str, str, Cell]]:
        """All, with strategy and setting."""
        return [
            (name, setting, cell)
            for setting, column in self.columns.items()
            for name, cell in column.items()
        ]

    def ranked(self) -> list[str]:
        """All strategies, by the mean of what they reach where all have a figure, or else in the
        column that has most of them."""
        names = {name for cells in self.columns.values() for name in cells}
        common = [cells for cells in self.columns.values() if names <= cells.keys()]
        shared = common or sorted(self.columns.values(), key=len)[-1:]

        def mean(name: str, columns: Collection[Column]) -> float:
            found = [cells[name].accuracy for cells in columns if name in cells]
            return statistics.fmean(found) if found else -math.inf

        def place(name: str) -> tuple[float, float, str]:
            return -mean(name, shared), -mean(name, self.columns.values()), name

        return sorted(names, key=place)

    def float_accuracy(self) -> float:
        """Of the float model with as much training, mean over the settings."""
        found = [column[REFERENCE].float_accuracy for column in self.columns.values()]
        return statistics.fmean(each for each in found if each is not None)

    def exactness_cost(self, strategies: Collection[str]) -> str:
        """The most that free scales would gain one of ``strategies``, and where."""
        gains = [
            (cell.gain, f"{name} at {setting}")
            for name, setting, cell in self.cells
            if name in strategies and cell.gain is not None
        ]
        most, where = max(gains, default=(math.nan, "not measured"))
        return f"{most * 100:z.2f} points ({where})"

    def origin(self) -> str:
        """How many runs, how long, where and with what code."""
        cells = [cell for _, _, cell in self.cells]
        runs, timed = (
            sum(cell.seeds for cell in chosen)
            for chosen in (cells, [cell for cell in cells if cell.seconds is not None])
        )
        hours = sum(cell.seconds or 0 for cell in cells) / 3600
        clocks = f", {hours:.1f} hours by the clocks of {timed} of them" if timed else ""
        return (
            f"{runs} runs{clocks}.\nMachine: {_either(cell.machine for cell in cells)}. Code of "
            f"commit {_either(cell.commit for cell in cells)}.\n"
        )

    def as_markdown(self, picture: str | None) -> str:
        """The section of the task: its figure, the leading rows, and the others folded away."""
        ranked = self.ranked()
        cells = [cell for _, _, cell in self.cells]
        equal, runs = sum(cell.equal for cell in cells), sum(cell.seeds for cell in cells)
        notes = (
            f"Same bits in every executor that was run: {equal} of {runs} runs. Free scales would "
            f"gain at most {self.exactness_cost(ranked)}, of the first {SHOWN} at most "
            f"{self.exactness_cost(ranked[:SHOWN])}."
        )
        rows = [self._row(name) for name in ranked]
        table = Grid(
            title=f"{self.name}, float {self.float_accuracy() * 100:.2f}",
            headers=["strategy", *self.columns],
            rows=rows[:SHOWN],
            notes=notes,
            more=rows[SHOWN:],
            more_title=f"{len(rows[SHOWN:])} more",
        )
        figure = [f"![Accuracy against size]({picture})\n"] if picture else []
        return "\n".join([f"### {table.title}\n", self.origin(), *figure, table.as_markdown()])

    def _row(self, name: str) -> list[str]:
        found = self.columns.values()
        return [name, *(str(cells[name]) if name in cells else "-" for cells in found)]


def weights(model: str) -> int:
    """How many weights ``model`` has."""
    return sum(layer.weight.numel() for layer in weighted_layers(MODELS.get(model)()))


def drawn(task: Task) -> list[str]:
    """The settings of 8-bit activations of the shape that has most of them, by size."""
    plain = [setting for setting in task.columns if widths(setting)[1] == 8]
    shapes = [setting.partition(" ")[2] for setting in plain]
    shape = max(shapes, key=shapes.count, default="")
    return sorted((each for each in plain if each.partition(" ")[2] == shape), key=widths)


def draw(axis: Axes, task: Task) -> None:
    """Accuracy against the bytes of the weights: lines for a few strategies, dots for the rest."""
    count, settings = weights(task.name), drawn(task)
    for name in task.ranked():
        points = [setting for setting in settings if name in task.columns[setting]]
        places = [count * widths(setting)[0] / 8000 for setting in points]
        values = [task.columns[setting][name].accuracy for setting in points]
        if name in DRAWN:
            axis.plot(places, values, marker="o", markersize=4, label=name)
        else:
            axis.plot(places, values, ".", color="lightgray", zorder=1)
    axis.axhline(task.float_accuracy(), color="black", linestyle=":", label="float")
    axis.set_title(" ".join([task.name, settings[0].partition(" ")[2]]))
    axis.set_xlabel("KB of weights")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=None))
    axis.grid(alpha=0.3)


def figure(task: Task) -> bytes:
    """Accuracy against size, as PNG."""
    whole, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    draw(axis, task)
    axis.legend(fontsize=8)
    axis.set_ylabel("int8 test accuracy")
    return png(whole)


def write_page(page: Path, out: Path, settings: Mapping[str, Sequence[str]]) -> list[Path]:
    """Add the runs in ``out`` to the results beside ``page``, and write all of them as its tables
    and figures.

    What stands before the mark stays as it is.

    Args:
        settings: of each task, in the order of the sections.
    """
    kept = read(page.with_suffix(".json"))
    results = with_runs(kept, out, {name: settings[name] for name in settings if _run(out / name)})
    written = [page, page.with_suffix(".json")]
    sections = []
    for name in settings:
        columns = results.get(name, {})
        task = Task(name, {each: columns[each] for each in sorted(columns, key=_reading_order)})
        picture = page.with_name(f"{page.stem}_{name}.png")
        if len(drawn(task)) < 2:
            sections += [task.as_markdown(None)] * bool(columns)
            continue
        if columns != kept.get(name) or not picture.exists():
            atomic_write(picture, figure(task))
            written.append(picture)
        sections.append(task.as_markdown(picture.name))
    advice = page.read_text().partition(MARK)[0] if page.exists() else "# Which strategy\n\n"
    atomic_write(page, advice + "\n".join([MARK, HEAD, *sections]))
    write(page.with_suffix(".json"), results)
    return written


def _either(values: Iterable[str]) -> str:
    return " or ".join(sorted(set(values)))


def _run(folder: Path) -> bool:
    return any(folder.glob(f"*/{RECORD}"))
