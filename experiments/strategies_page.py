"""The page of the study of all strategies: per network a table, and a figure where it has sizes."""

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

HEAD = f"""
## All figures

By `python experiments/strategies.py`, one network at a time: each says when and where it was run. What has no figure was not run yet;
`--tasks`, `--settings` and `--strategies` choose.

- Test accuracy in percent of the int8 model. Every strategy trains for as many epochs in all: what continues a float model gets one
  that was trained so much shorter. Options are the defaults of each strategy: the published ones, or its docstring says what differs.
- W: bits of weights, A: of activations between layers; pixels and logits have 8. Levels of weights are narrow (3 at W2, 7 at W3) but
  where the column says `no_zero` (4 at W2, all odd). Scales per channel unless it says per tensor. All scales are exact.
- Against `{REFERENCE}` (no more than post-training quantization) in the same column: ▲ shown to be better, ▼ worse, = less than
  {MARGIN * 100:g} points apart, no mark: not shown. Paired over images and seeds, corrected by Holm over the column
  ([evidence.md](evidence.md)).
- Sorted by the mean of the columns that all rows have.
"""  # noqa: E501
RUN = """Written on {date}: {runs} runs, {hours:.1f} hours by their own clocks,
{cpu}, threads of a process: {threads}; code of commit {commits}.
"""


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

    def origin(self) -> str:
        """When, where, with what code and how long it was run."""
        environments = [record.environment for record in self.records]
        return RUN.format(
            date=datetime.date.today(),
            cpu=" and ".join(sorted({str(each["cpu"]) for each in environments})),
            runs=len(self.records),
            threads=" and ".join(sorted({str(each["threads"]) for each in environments})),
            commits=", ".join(sorted({str(each["commit"])[:7] for each in environments})),
            hours=sum(sum(record.seconds.values()) for record in self.records) / 3600,
        )

    def as_markdown(self, picture: str | None) -> str:
        """The section of the task: its figure, the leading rows, and the others folded away."""
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
        figure = [f"![Accuracy against size]({picture})\n"] if picture else []
        return "\n".join([f"### {table.title}\n", self.origin(), *figure, table.as_markdown()])

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
    shape = max(shapes, key=shapes.count, default="")
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


def figure(results: Results) -> bytes:
    """Accuracy against size, as PNG."""
    whole, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    draw(axis, results)
    axis.legend(fontsize=8)
    axis.set_ylabel("int8 test accuracy")
    return png(whole)


def kept(page: Path) -> tuple[str, dict[str, str]]:
    """What stands on ``page`` before its mark, and the sections after it by task."""
    if not page.exists():
        return "# Which strategy\n\n", {}
    advice, _, written = page.read_text().partition(MARK)
    sections = written.split("\n### ")[1:]
    return advice, {text.partition(",")[0]: f"### {text.rstrip()}\n" for text in sections}


def write_page(page: Path, out: Path, tasks: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write ``page`` and its figures anew for the tasks that have runs in ``out``.

    The sections of other tasks stay as they are, and so does what stands before the mark.
    """
    advice, sections = kept(page)
    written = [page]
    for name, settings in tasks.items():
        if not any((out / name).glob(f"*/{RECORD}")):
            continue
        results = Results.read(name, out / name, settings)
        picture = page.with_name(f"{page.stem}_{name}.png")
        if len(drawn(results)) > 1:
            atomic_write(picture, figure(results))
            written.append(picture)
        sections[name] = results.as_markdown(picture.name if picture in written else None)
    ordered = [sections[name] for name in tasks if name in sections]
    atomic_write(page, advice + "\n".join([MARK, HEAD, *ordered]))
    return written
