"""``qstrategies data show``: what is in a dataset, as text and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qstrategies.datasets.base import Dataset, Split
from qstrategies.files import atomic_write
from qstrategies.report.drawing import png, subplots
from qstrategies.tasks import CLASSIFICATION
from qstrategies.text import file_name

SAMPLES = 12


def show(dataset: Dataset, folder: Path) -> tuple[str, dict[str, list[int]]]:
    """Write ``folder/<name>.png`` and return the text and the counts per split and class; of
    another task than classification all examples count as one class."""
    names = dataset.labels if dataset.task is CLASSIFICATION else ("any",)
    counts = {
        name: _numbers(dataset, split).bincount(minlength=len(names)).tolist()
        for name, split in dataset.splits.items()
    }
    path = folder / f"{file_name(dataset.name)}.png"
    atomic_write(path, _picture(dataset, names, counts))
    lines = [
        f"{dataset.name}: {dataset.summary}",
        f"{'class':<14}" + "".join(f"{name:>12}" for name in counts),
    ]
    lines += [
        f"{label:<14}" + "".join(f"{column[index]:>12}" for column in counts.values())
        for index, label in enumerate(names)
    ]
    lines.append(f"{'all':<14}" + "".join(f"{sum(column):>12}" for column in counts.values()))
    return "\n".join([*lines, *dataset.notes, f"Picture: {path}"]), counts


def _numbers(dataset: Dataset, split: Split) -> Tensor:
    """The number of the class of each example."""
    if dataset.task is CLASSIFICATION:
        return split.labels
    return torch.zeros(len(split), dtype=torch.int64)


def _picture(dataset: Dataset, names: tuple[str, ...], counts: dict[str, list[int]]) -> bytes:
    figure, (grid, bars) = subplots(1, 2, size=(11, 4.6), width_ratios=[1.3, 1])
    _draw_examples(grid, dataset, names)
    left = [0] * len(names)
    for name, column in counts.items():
        bars.barh(range(len(column)), column, left=left, label=name)
        left = [start + count for start, count in zip(left, column, strict=True)]
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlabel("images")
    bars.set_xlim(0, 1.3 * max(left))
    bars.legend(fontsize=8, loc="upper right")
    bars.set_title("Class counts")
    return png(figure)


def _draw_examples(grid: Any, dataset: Dataset, names: tuple[str, ...]) -> None:
    """A row of training images for each class; of other inputs a line of values for each."""
    train = dataset.splits["train"]
    numbers = _numbers(dataset, train)
    of_pictures = len(train.shape) == 3
    samples = SAMPLES
    if of_pictures:
        samples = max(1, SAMPLES * train.shape[1] // train.shape[2])  # narrow images: more of them
    rows = []
    for number in range(len(names)):
        chosen = (numbers == number).nonzero().flatten()[:samples]
        images = train.take(chosen)[0]
        rows.append(_side_by_side(images, samples) if of_pictures else _lines(images, samples))
    grid.imshow(torch.cat(rows).numpy(), cmap="gray_r", aspect=None if of_pictures else "auto")
    height = len(rows[0])
    grid.set_xticks([])
    grid.set_yticks([height * (index + 0.5) for index in range(len(rows))], names)
    grid.set_title(f"{dataset.name}: training images by class")


def _side_by_side(images: Tensor, samples: int) -> Tensor:
    """The pictures [n, C, H, W] in a row: [H, samples * W], or [H, samples * W, 3] in colour."""
    channels = slice(0, 3 if images.shape[1] == 3 else 1)
    missing = images.new_zeros(samples - len(images), *images.shape[1:])
    row = torch.cat(list(torch.cat([images, missing])[:, channels]), 2).permute(1, 2, 0)
    return row.squeeze(2) if row.shape[2] == 1 else row


def _lines(values: Tensor, samples: int) -> Tensor:
    """The inputs [n, ...] below each other, each a line: [samples, numbers of one input]."""
    missing = values.new_zeros(samples - len(values), *values.shape[1:])
    return torch.cat([values, missing]).flatten(1)
