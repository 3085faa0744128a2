"""The page of the study of all strategies: a table per network and a figure."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.ticker
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from qstrategies.evidence import gather
from qstrategies.experiment import environment
from qstrategies.experiment.comparison import read_records
from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.records import MARGIN, RECORD, RunRecord
from qstrategies.report.grid import Grid
from qstrategies.report.plots import png
from qstrategies.strategies.base import weighted_layers

MARK = "<!-- From here on written by experiments/strategies.py -->\n"
REFERENCE = "no_norm"
SHOWN = 12  # rows of a table that stay unfolded
VERDICTS = {"better": " ▲", "worse": " ▼", "equivalent": " =", "undecided": ""}
DRAWN = ("no_norm", "finetune", "qat", "lsq", "cle", "cle+mse_clip+adaround")

HEAD = """
## All figures

Written by `python experiments/strategies.py` on {date}, {cpu}, {threads} thread a process: {runs} runs, {hours:.1f} hours by their own clocks,
code of commit {commits}. What has no figure was not run yet; `--tasks`, `--settings` and `--strategies` choose.

- Test accuracy in percent of the int8 model. Every strategy trains for as many epochs in all: what continues a float model gets one
  that was trained so much shorter. Options are the defaults of each strategy: the published ones, or its docstring says what differs.
- W: bits of weights, A: of activations between layers; pixels and logits have 8. Levels of weights are narrow (3 at W2, 7 at W3) but
  where the column says `no_zero` (4 at W2, all odd). Scales per channel unless it says per tensor. All scales are exact.
- Against `no_norm` (no more than post-training quantization) in the same column: ▲ shown to be better, ▼ worse, = less than {margin:g}
  points apart, no mark: not shown. Paired over images and seeds, corrected by Holm over the column ([evidence.md](evidence.md)).
- Sorted by the mean of the columns that all rows have.
"""  # noqa: E501


@dataclass(frozen=True)
class Cell:
    """One strategy at one setting: mean accuracy (fraction) over its seeds, and the verdict."""

    accuracy: float
    seeds: int
    verdict: str

    def __str__(self) -> str:
        several = f", {self.seeds} seeds" * (self.seeds > 1)
        return f"{self.accuracy * 100:.2f}{VERDICTS[self.verdict]}{several}"


Column = Mapping[str, Cell]


def setting_of(record: RunRecord) -> str:
    """As columns are called: "W4A8 per tensor"."""
    chosen = record.config.quantization
    shape = "" if chosen.per_channel else " per tensor"
    levels = "" if chosen.levels == "narrow" else f" {chosen.levels}"
    return f"W{chosen.weight_bits}A{chosen.activation_bits}{levels}{shape}"


def widths(setting: str) -> tuple[int, int]:
    """Bits of weights and of activations."""
    weights, activations = setting.split()[0][1:].split("A")
    return int(weights), int(activations)


def _reading_order(setting: str) -> tuple[str, int, int]:
    """One shape of scales and levels after another, from many bits to few."""
    weights, activations = widths(setting)
    return setting.partition(" ")[2], -weights, -activations


def column(records: Sequence[RunRecord], folder: Path) -> Column:
    """The cells of one setting, by strategy."""
    evidence = gather(records, folder, MARGIN)
    assert evidence is not None
    verdicts = {
        row.strategy.split()[0]: row.against.verdict for row in evidence.rows if row.against
    }
    found: dict[str, list[float]] = {}
    for record in records:
        if record.int8_accuracy is not None:
            found.setdefault(record.config.strategy, []).append(record.int8_accuracy)
    return {
        name: Cell(statistics.fmean(values), len(values), verdicts.get(name, "undecided"))
        for name, values in found.items()
    }


@dataclass(frozen=True)
class Results:
    """What there is of one task."""

    name: str
    records: Sequence[RunRecord]
    columns: Mapping[str, Column]

    @classmethod
    def read(cls, name: str, folder: Path, settings: Sequence[str]) -> Results:
        """The records in ``folder``, and the columns of those ``settings`` that there are."""
        records = read_records(folder)
        columns = {}
        for setting in sorted(settings, key=_reading_order):
            chosen = [record for record in records if setting_of(record) == setting]
            if chosen:
                columns[setting] = column(chosen, folder)
        return cls(name, records, columns)

    def ranked(self) -> list[str]:
        """All strategies, by the mean of what they reach where all have a figure."""
        names = {name for cells in self.columns.values() for name in cells}
        common = [cells for cells in self.columns.values() if names <= cells.keys()]
        shared = common or list(self.columns.values())

        def mean(name: str) -> float:
            found = [cells[name].accuracy for cells in shared if name in cells]
            return statistics.fmean(found) if found else -math.inf

        return sorted(names, key=lambda name: (-mean(name), name))

    def float_accuracy(self) -> float:
        """Of the float model with as much training, mean over the seeds."""
        found = [
            record.float_accuracy
            for record in self.records
            if record.config.strategy == REFERENCE and record.float_accuracy is not None
        ]
        return statistics.fmean(found)

    def exactness_cost(self, strategies: Collection[str]) -> tuple[float, str]:
        """The most that free scales would gain (a fraction) one of ``strategies``, and where."""
        gains = [
            (record.free_scales_accuracy - record.int8_accuracy, record)
            for record in self.records
            if record.config.strategy in strategies
            and record.free_scales_accuracy is not None
            and record.int8_accuracy is not None
        ]
        most, record = max(gains, key=lambda gain: gain[0])
        return most, f"{record.config.strategy} at {setting_of(record)}"

    def proven(self) -> str:
        """How many runs gave the same bits everywhere."""
        done = [record for record in self.records if record.status == "done"]
        equal = [record for record in done if all(check.rows_equal == 1 for check in record.checks)]
        return f"{len(equal)} of {len(done)}"

    def as_markdown(self) -> str:
        """The section of the task: the leading rows, and the others folded away."""
        ranked = self.ranked()
        cost, where = self.exactness_cost(ranked)
        leading, there = self.exactness_cost(ranked[:SHOWN])
        notes = (
            f"Same bits in every executor that was run: {self.proven()} runs. Free scales would "
            f"gain at most {cost * 100:z.2f} points ({where}), of the first {SHOWN} at most "
            f"{leading * 100:z.2f} ({there})."
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
        return f"### {table.title}\n\n{table.as_markdown()}"

    def _row(self, name: str) -> list[str]:
        found = self.columns.values()
        return [name, *(str(cells[name]) if name in cells else "-" for cells in found)]


def weights(model: str) -> int:
    """How many weights ``model`` has."""
    return sum(layer.weight.numel() for layer in weighted_layers(MODELS.get(model)()))


def drawn(results: Results) -> list[str]:
    """The settings of 8-bit activations of the shape that has most of them, by size."""
    plain = [setting for setting in results.columns if widths(setting)[1] == 8]
    shapes = [setting.partition(" ")[2] for setting in plain]
    shape = max(shapes, key=shapes.count)
    return sorted((each for each in plain if each.partition(" ")[2] == shape), key=widths)


def draw(axis: Axes, results: Results) -> None:
    """Accuracy against the bytes of the weights: lines for a few strategies, dots for the rest."""
    count, settings = weights(results.records[0].config.model), drawn(results)
    for name in results.ranked():
        points = [setting for setting in settings if name in results.columns[setting]]
        places = [count * widths(setting)[0] / 8000 for setting in points]
        values = [results.columns[setting][name].accuracy for setting in points]
        if name in DRAWN:
            axis.plot(places, values, marker="o", markersize=4, label=name)
        else:
            axis.plot(places, values, ".", color="lightgray", zorder=1)
    axis.axhline(results.float_accuracy(), color="black", linestyle=":", label="float")
    axis.set_title(" ".join([results.name, settings[0].partition(" ")[2]]))
    axis.set_xlabel("KB of weights")
    axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=None))
    axis.grid(alpha=0.3)


def figure(found: Sequence[Results]) -> bytes:
    """One panel per task that has several sizes, as PNG."""
    shown = [results for results in found if len(drawn(results)) > 1]
    count = max(1, len(shown))
    whole, axes = plt.subplots(
        1, count, figsize=(5 * count, 4.2), layout="constrained", squeeze=False
    )
    for axis, results in zip(axes[0], shown, strict=False):
        draw(axis, results)
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("int8 test accuracy")
    return png(whole)


def write_page(page: Path, out: Path, tasks: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write ``page``, what stands before its mark kept, and the figure beside it."""
    found = [
        Results.read(name, out / name, settings)
        for name, settings in tasks.items()
        if any((out / name).glob(f"*/{RECORD}"))
    ]
    records = [record for results in found for record in results.records]
    here = environment.describe()
    head = HEAD.format(
        date=datetime.date.today(),
        cpu=here["cpu"],
        threads=records[0].environment["threads"],
        runs=len(records),
        commits=", ".join(sorted({str(record.environment["commit"])[:7] for record in records})),
        hours=sum(sum(record.seconds.values()) for record in records) / 3600,
        margin=MARGIN * 100,
    )
    kept = page.read_text().partition(MARK)[0] if page.exists() else "# Which strategy\n\n"
    picture = page.with_suffix(".png")
    atomic_write(picture, figure(found))
    sections = [
        MARK,
        head,
        f"![Accuracy against size]({picture.name})\n",
        *(results.as_markdown() for results in found),
    ]
    atomic_write(page, kept + "\n".join(sections) + "\n")
    return [page, picture]
