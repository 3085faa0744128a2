"""Many strategies in an order that can be read: by group, the most accurate first, and folded away
what leads nowhere."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qstrategies.records import GROUPS, RunRecord, labels
from qstrategies.report.grid import Grid

if TYPE_CHECKING:
    from qstrategies.evidence import Evidence, Recommendation

MANY = 12
"""Up to so many strategies all are shown, in the order of the records."""


@dataclass(frozen=True)
class Order:
    """``groups``: of each strategy, by its name, in the order in which they are shown; ``leaders``:
    the names that are not folded away."""

    groups: Mapping[str, str]
    leaders: frozenset[str]

    @classmethod
    def of(
        cls,
        records: Sequence[RunRecord],
        found: Evidence | None,
        advice: Recommendation | None,
        *,
        everything: bool = False,
    ) -> Order:
        """Leaders are the reference, what is recommended or the best by validation, what is shown
        to be better than the reference at some width, and the most accurate of each group.
        ``everything``: fold nothing away."""
        by_name: dict[str, list[RunRecord]] = {}
        for name, record in zip(labels(records), records, strict=True):
            by_name.setdefault(name, []).append(record)
        groups = {name: runs[0].group for name, runs in by_name.items()}
        if len(groups) <= MANY:
            return cls(groups, frozenset(groups))
        named = _named(found, advice)
        reference = found.reference if found is not None else None
        accuracies = {name: _accuracy(runs) for name, runs in by_name.items()}
        ordered = sorted(
            groups, key=lambda name: (_rank(groups[name]), name != reference, -accuracies[name])
        )
        best: dict[str, str] = {}
        for name in sorted(ordered, key=lambda name: -accuracies[name]):
            best.setdefault(groups[name], name)
        leaders = named | set(best.values())
        return cls(
            {name: groups[name] for name in ordered},
            frozenset(groups if everything else leaders),
        )

    @property
    def many(self) -> bool:
        """Whether there are so many that they are arranged."""
        return len(self.groups) > MANY

    def arranged(self, grid: Grid, names: Sequence[str]) -> Grid:
        """``grid``, whose rows are of the strategies ``names``, with their groups; what has another
        name comes first."""
        if not self.many:
            return grid
        places = {name: place for place, name in enumerate(self.groups)}
        rows = sorted(zip(names, grid.rows, strict=True), key=lambda row: places.get(row[0], -1))
        shown = [
            (
                name in self.leaders or name not in places,
                _with_group(row, self.groups.get(name, "")),
            )
            for name, row in rows
        ]
        count = len(self.groups) - len(self.leaders)
        return dataclasses.replace(
            grid,
            headers=_with_group(grid.headers, "group"),
            rows=[row for leads, row in shown if leads],
            more=[row for leads, row in shown if not leads],
            more_title=f"{count} more strategies, none shown to be better",
        )

    def sorted(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """All ``records``, in the order in which their strategies are shown."""
        if not self.many:
            return list(records)
        places = {name: place for place, name in enumerate(self.groups)}
        named = zip(labels(records), records, strict=True)
        return [record for _, record in sorted(named, key=lambda pair: places[pair[0]])]

    def led(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Those of the leaders."""
        named = zip(labels(records), records, strict=True)
        return [record for name, record in named if name in self.leaders]

    def closed(self, grid: Grid) -> Grid:
        """``grid`` with all rows folded away, where there are many strategies."""
        if not self.many:
            return grid
        return dataclasses.replace(
            grid, rows=[], more=grid.rows, more_title=f"{len(grid.rows)} runs"
        )


def _with_group(cells: Sequence[str], group: str) -> list[str]:
    return [cells[0], group, *cells[1:]]


def _named(found: Evidence | None, advice: Recommendation | None) -> set[str]:
    """What the evidence or the recommendation names."""
    if found is None:
        return set()
    better = {row.strategy for row in found.rows if row.against and row.against.verdict == "better"}
    chosen = (advice.chosen, advice.best) if advice is not None else ()
    return better | {found.reference} | {one.strategy for one in chosen if one is not None}


def _rank(group: str) -> int:
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def _accuracy(runs: Sequence[RunRecord]) -> float:
    known = [run.metric.sign * run.int8_accuracy for run in runs if run.int8_accuracy is not None]
    return statistics.fmean(known) if known else -math.inf
