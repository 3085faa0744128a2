"""``qstrategies data show``: what is in a dataset, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

from qstrategies.datasets.base import Dataset
from qstrategies.files import atomic_write
from qstrategies.report.plots import png, subplots
from qstrategies.text import file_name

SAMPLES = 12


def show(dataset: Dataset, folder: Path) -> tuple[str, dict[str, list[int]]]:
    """Write ``folder/<name>.png`` and return the text and the counts per split and class."""
    counts = {
        name: split.labels.bincount(minlength=len(dataset.labels)).tolist()
        for name, split in dataset.splits.items()
    }
    path = folder / f"{file_name(dataset.name)}.png"
    atomic_write(path, _picture(dataset, counts))
    lines = [
        f"{dataset.name}: {dataset.summary}",
        f"{'class':<14}" + "".join(f"{name:>12}" for name in counts),
    ]
    lines += [
        f"{label:<14}" + "".join(f"{column[index]:>12}" for column in counts.values())
        for index, label in enumerate(dataset.labels)
    ]
    lines.append(f"{'all':<14}" + "".join(f"{sum(column):>12}" for column in counts.values()))
    return "\n".join([*lines, f"Picture: {path}"]), counts


def _picture(dataset: Dataset, counts: dict[str, list[int]]) -> bytes:
    train = dataset.splits["train"]
    figure, (grid, bars) = subplots(1, 2, size=(11, 4.6), width_ratios=[1.3, 1])
    height, width = train.images.shape[2:]
    samples = SAMPLES * height // width  # narrow images: more of them
    rows = [
        train.images[train.labels == label][:samples, 0] for label in range(len(dataset.labels))
    ]
    canvas = rows[0].new_zeros((len(rows) * height, samples * width))
    for index, row in enumerate(rows):
        for place, image in enumerate(row):
            canvas[index * height : (index + 1) * height, place * width : (place + 1) * width] = (
                image
            )
    grid.imshow(canvas.numpy(), cmap="gray_r")
    grid.set_xticks([])
    grid.set_yticks([height * (index + 0.5) for index in range(len(rows))], dataset.labels)
    grid.set_title(f"{dataset.name}: training images by class")
    left = [0] * len(dataset.labels)
    for name, column in counts.items():
        bars.barh(range(len(column)), column, left=left, label=name)
        left = [start + count for start, count in zip(left, column, strict=True)]
    bars.set_yticks(range(len(dataset.labels)), dataset.labels)
    bars.invert_yaxis()
    bars.set_xlabel("images")
    bars.set_xlim(0, 1.3 * max(left))
    bars.legend(fontsize=8, loc="upper right")
    bars.set_title("Class counts")
    return png(figure)
