"""What the study of all strategies found, cell by cell: kept as JSON, so that what is run on other
days adds to it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qstrategies import typed_json
from qstrategies.evidence import gather
from qstrategies.experiment.comparison import read_records
from qstrategies.files import atomic_write
from qstrategies.records import MARGIN, RunRecord

VERDICTS = {"better": " ▲", "worse": " ▼", "equivalent": " =", "undecided": ""}


@dataclass(frozen=True)
class Cell:
    """One strategy at one setting.

    Attributes:
        accuracy: of the int8 model on the test split, a fraction, mean over ``seeds``.
        float_accuracy: the same of the float model that it comes from; None: not kept.
        seeds: how many runs there are.
        verdict: against the reference among what was run together, a key of ``VERDICTS``.
        equal: how many of the runs gave the same bits in every executor.
        gain: the most that free scales would gain one of the runs, a fraction; None: not measured.
        seconds: of all runs by their own clocks; None: not kept.
        machine, commit: of the runs.
    """

    accuracy: float
    float_accuracy: float | None
    seeds: int
    verdict: str
    equal: int
    gain: float | None
    seconds: float | None
    machine: str
    commit: str

    def __str__(self) -> str:
        several = f", {self.seeds} seeds" * (self.seeds > 1)
        return f"{self.accuracy * 100:.2f}{VERDICTS[self.verdict]}{several}"


Column = dict[str, Cell]
"""By strategy."""
Columns = dict[str, Column]
"""By setting."""
Results = dict[str, Columns]
"""By task."""


def read(path: Path) -> Results:
    """What ``write`` wrote; nothing where there is no file."""
    if not path.exists():
        return {}
    found: Results = typed_json.build(Results, typed_json.load(path.read_text()))
    return found


def write(path: Path, results: Results) -> None:
    """To be read by ``read``."""
    plain = {
        task: {
            setting: {name: dataclasses.asdict(cell) for name, cell in column.items()}
            for setting, column in columns.items()
        }
        for task, columns in results.items()
    }
    atomic_write(path, json.dumps(plain, indent=1) + "\n")


def found_in(folder: Path, settings: Iterable[str]) -> Columns:
    """The finished runs in ``folder``, of those ``settings`` that there are."""
    done = [record for record in read_records(folder) if record.int8_accuracy is not None]
    grouped = {
        setting: [record for record in done if setting_of(record) == setting]
        for setting in settings
    }
    return {setting: column(records, folder) for setting, records in grouped.items() if records}


def setting_of(record: RunRecord) -> str:
    """As columns are called: "W4A8 per tensor"."""
    chosen = record.config.quantization
    shape = "" if chosen.per_channel else " per tensor"
    levels = "" if chosen.levels == "narrow" else f" {chosen.levels}"
    return f"W{chosen.weight_bits}A{chosen.activation_bits}{levels}{shape}"


def column(records: Sequence[RunRecord], folder: Path) -> Column:
    """The cells of one setting, by strategy."""
    evidence = gather(records, folder, MARGIN)
    assert evidence is not None
    verdicts = {
        row.strategy.split()[0]: row.against.verdict for row in evidence.rows if row.against
    }
    names = dict.fromkeys(record.config.strategy for record in records)
    return {
        name: _cell(
            [record for record in records if record.config.strategy == name],
            verdicts.get(name, "undecided"),
        )
        for name in names
    }


def _cell(records: Sequence[RunRecord], verdict: str) -> Cell:
    gains = [
        record.free_scales_accuracy - (record.int8_accuracy or 0)
        for record in records
        if record.free_scales_accuracy is not None
    ]
    environments = [record.environment for record in records]
    return Cell(
        accuracy=statistics.fmean(record.int8_accuracy or 0 for record in records),
        float_accuracy=statistics.fmean(record.float_accuracy or 0 for record in records),
        seeds=len(records),
        verdict=verdict,
        equal=sum(all(check.rows_equal == 1 for check in record.checks) for record in records),
        gain=max(gains, default=None),
        seconds=round(sum(sum(record.seconds.values()) for record in records), 1),
        machine=_listed(f"{each['cpu']}, threads: {each['threads']}" for each in environments),
        commit=_listed(str(each["commit"])[:7] for each in environments),
    )


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def merged(kept: Column, found: Column) -> Column:
    """Both: of a strategy that is in both, what has more seeds, or else what was ``found``.

    ``found`` alone where a strategy has another figure of as many seeds than it had: then code,
    data or machine changed, and what was kept is not to be compared with it.
    """
    common = [(kept[name], found[name]) for name in kept.keys() & found.keys()]
    if any(a.seeds == b.seeds and a.accuracy != b.accuracy for a, b in common):
        return found
    fewer = {name for name in found if name in kept and found[name].seeds < kept[name].seeds}
    return kept | {name: cell for name, cell in found.items() if name not in fewer}


def with_runs(kept: Results, out: Path, tasks: Mapping[str, Sequence[str]]) -> Results:
    """``kept`` and the runs of ``tasks`` (their settings) in the folders of ``out``."""
    results = dict(kept)
    for task, settings in tasks.items():
        columns = dict(results.get(task, {}))
        for setting, found in found_in(out / task, settings).items():
            columns[setting] = merged(columns.get(setting, {}), found)
        if columns:
            results[task] = columns
    return results
