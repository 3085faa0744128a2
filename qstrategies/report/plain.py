"""The summary table as plain data, for CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from qstrategies.records import ACCURACY, Metric
from qstrategies.report.table import Row
from qstrategies.text import csv_cell


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row, plain numbers and quoted texts; standard deviations in columns of their
    own."""
    plain = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for item in plain for name in item))
    buffer = io.StringIO()
    writer = csv.DictWriter(
        buffer, names, restval="", lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in item.items()} for item in plain)
    return buffer.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    values = _named(row)
    spread = values.pop("spread") or {}
    return values | {f"{name}_sd": value for name, value in spread.items()}


def as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A list of objects, one per row, for JSON."""
    return [_named(row) for row in rows]


def _named(row: Row) -> dict[str, Any]:
    """The values of ``row``, figures under the name of their metric."""
    values = {name: value for name, value in vars(row).items() if name != "metric"}
    if row.metric == ACCURACY:
        return values
    renamed = _renamed(values, row.metric)
    return {**renamed, "spread": _renamed(row.spread or {}, row.metric) or None}


def _renamed(values: dict[str, Any], metric: Metric) -> dict[str, Any]:
    return {name.replace("accuracy", metric.key): value for name, value in values.items()}
