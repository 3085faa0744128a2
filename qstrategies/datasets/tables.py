"""Datasets of columns: a CSV file, or arrays by name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qstrategies.arguments import as_path
from qstrategies.datasets.made import MadeDataset, Part, made
from qstrategies.datasets.settings import SPLITS, Settings
from qstrategies.datasets.stored import InMemory
from qstrategies.errors import InputError, check_choice
from qstrategies.files import check_file, doing
from qstrategies.tasks import CLASSIFICATION

LOST = 1e-3
"""Of the standard deviation of a column: what rounding to float32 may move a value."""
Columns = dict[str, NDArray[Any]]


def from_table(data: Any, target: str, **settings: Any) -> MadeDataset:
    """A dataset of columns: ``from_table("flowers.csv", target="species")``.

    Numbers become real values; each of the other columns becomes one input for each of the values
    that it has, 1 where it has it. All are normalized by the training split, unless ``normalize``
    says something else.

    Args:
        data: a CSV file whose first line names the columns, columns by name (a dict of arrays, a
            data frame), or such by split: ``{"train": ..., "test": ...}``.
        target: the column of the classes, or of what another task asks for.
        settings: see ``Settings``.

    Raises:
        InputError: an unknown column, a missing value, columns of different lengths.
    """
    several = isinstance(data, Mapping) and all(str(name).lower() in SPLITS for name in data)
    tables = {split: _table(each) for split, each in (data if several else {"train": data}).items()}
    for table in tables.values():
        check_choice("column", target, table)
    features = [name for name in next(iter(tables.values())) if name != target]
    if not features:
        raise InputError(f"no columns but the target {target!r}: give some to learn from")
    for split, table in tables.items():
        if set(table) != {*features, target}:
            found = ", ".join(sorted(set(table) ^ {*features, target}))
            raise InputError(
                f"the split {split!r} must have the columns of the first: {found} differ"
            )
    blocks = {name: _values(name, tables) for name in features}
    chosen = Settings.of({"normalize": "train", **settings})
    classifies = chosen.judged_by is CLASSIFICATION
    parts = {
        split: Part(
            InMemory(
                torch.from_numpy(np.concatenate([blocks[name][split] for name in features], 1))
            ),
            _classes(table[target]) if classifies else table[target],
        )
        for split, table in tables.items()
    }
    return made(parts, chosen, "columns", "table")


def _table(data: Any) -> Columns:
    if isinstance(data, str | Path):
        return _read(as_path(data, "data"))
    if not hasattr(data, "keys"):  # of a data frame too
        raise InputError(f"{type(data).__name__}: expected a CSV file or columns by name")
    table = {str(name): np.asarray(data[name]) for name in list(data)}
    lengths = {name: array.shape for name, array in table.items()}
    wrong = [
        name
        for name, shape in lengths.items()
        if shape != next(iter(lengths.values())) or len(shape) != 1
    ]
    if wrong:
        raise InputError(
            f"the column {wrong[0]!r} has shape {list(lengths[wrong[0]])}: expected [N], as all"
        )
    return table


def _read(path: Path) -> Columns:
    """The columns of a CSV file: float64 where all are numbers, else text."""
    check_file(path)
    with doing("read", path), path.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InputError(
                f"{str(path)!r}, row {number}: {len(row)} values, expected {len(header)}"
            )
    columns = {name: _column([row[place] for row in rows]) for place, name in enumerate(header)}
    if len(columns) < len(header) or not rows:
        fault = "a column name twice" if rows else "no rows"
        raise InputError(f"{str(path)!r} has {fault}: expected a row of names, and rows below it")
    return columns


def _column(values: list[str]) -> NDArray[Any]:
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return np.array(values)


def _values(name: str, tables: Mapping[str, Columns]) -> dict[str, NDArray[np.float32]]:
    """The column ``name`` of each split as inputs [N, width]."""
    columns = {split: table[name] for split, table in tables.items()}
    _check_complete(name, columns)
    if all(column.dtype.kind in "fiub" for column in columns.values()):
        return {split: _reals(name, column)[:, None] for split, column in columns.items()}
    texts = {split: _texts(name, column) for split, column in columns.items()}
    known = np.unique(np.concatenate(list(texts.values())))
    return {split: (text[:, None] == known).astype(np.float32) for split, text in texts.items()}


def _reals(name: str, column: NDArray[Any]) -> NDArray[np.float32]:
    """Raises ``InputError`` where what tells the values apart is lost in float32."""
    exact, found = column.astype(np.longdouble), column.astype(np.float32)
    if np.abs(exact - found).max() > LOST * exact.std():
        raise InputError(
            f"the values of column {name!r} have more digits in common than float32 holds: "
            "subtract what they have in common"
        )
    return found


def _texts(name: str, column: NDArray[Any]) -> NDArray[np.str_]:
    """Raises ``InputError`` for dates, and for names that no other example has."""
    found = column.astype(str)
    if column.dtype.kind not in "OUS":
        raise InputError(f"the column {name!r} is {column.dtype}: make numbers of it")
    if len(np.unique(found)) == len(found) > 2:
        raise InputError(
            f"the column {name!r} has another value in every example, as a name or a date: leave "
            "it out, or make numbers of it"
        )
    return found


def _check_complete(name: str, columns: Mapping[str, NDArray[Any]]) -> None:
    for column in columns.values():
        if column.dtype.kind in "fc":
            missing = ~np.isfinite(column)
        else:
            missing = np.isin(column.astype(str), ("", "nan", "None", "NA"))
        if missing.any():
            raise InputError(
                f"the column {name!r} has no value in example {int(missing.argmax())}: fill it in, "
                "or leave it out"
            )


def _classes(column: NDArray[Any]) -> NDArray[Any]:
    """Numbers of classes as whole numbers, names as they are."""
    whole = column.dtype.kind == "f" and (column == np.round(column)).all()
    return column.astype(np.int64) if whole else column
