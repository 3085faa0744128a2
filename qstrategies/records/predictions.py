"""What one run predicted for every image, kept so that any two runs can be paired. Imports no
torch."""

from __future__ import annotations

import builtins
import errno
import io
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.errors import InputError, first_line
from qstrategies.files import FileError, atomic_write, read_bytes
from qstrategies.records import ACCURACY, Metric, RunRecord

FILE = "predictions.npz"
SPLITS, KEYS = ("validation", "test"), ("labels", "float", "int8")
LARGEST = 1 << 30
"""More bytes of predictions are not read."""
ROUNDING = 1e-9
"""By how much two ways to write the same fraction may differ."""
Classes = NDArray[Any]
"""Numbers of classes, or scores, signed so that more is better."""
Hits = NDArray[Any]
"""Whether each example is right, or its score."""


@dataclass(frozen=True)
class SplitPredictions:
    """Labels and predicted classes of one split, each [N]; "int8" is PyTorch's module with the
    configured engine.

    Of another task than classification the scores of the examples are in the place of classes, and
    marks that are equal where targets are in the place of labels.
    """

    labels: Classes
    float: Classes
    int8: Classes

    @property
    def float_hits(self) -> Hits:
        """Whether the float model is right, per image; or its scores."""
        return self.float if self.are_scores else self.float == self.labels

    @property
    def int8_hits(self) -> Hits:
        """Whether the int8 model is right, per image; or its scores."""
        return self.int8 if self.are_scores else self.int8 == self.labels

    @property
    def agreement(self) -> builtins.float | None:
        """The share of images of which both say the same; None where scores are known only."""
        return None if self.are_scores else float((self.float == self.int8).mean())

    @property
    def are_scores(self) -> bool:
        """Whether scores are known instead of classes."""
        return self.float.dtype.kind == "f"


@dataclass(frozen=True)
class Predictions:
    """Of one run: both splits that are not trained on, and what every other executor said of the
    first test images."""

    validation: SplitPredictions
    test: SplitPredictions
    executors: dict[str, Classes] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write them, compressed, beside the record."""
        arrays = {
            f"{name}/{key}": value
            for name in SPLITS
            for key, value in vars(getattr(self, name)).items()
        }
        arrays |= {f"executors/{name}": value for name, value in self.executors.items()}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, allow_pickle=False, **{name: _small(value) for name, value in arrays.items()}
        )
        atomic_write(folder / FILE, buffer.getvalue())

    @classmethod
    def load(cls, folder: Path) -> Predictions:
        """The inverse of ``save``; raises ``InputError`` if they are missing or damaged."""
        path = folder / FILE
        try:
            data = read_bytes(path)
        except FileError as error:
            if error.errno != errno.ENOENT:
                raise
            raise InputError(
                f"{str(path)!r} is missing: run the same compare again, it makes what is not there"
            ) from None
        try:
            arrays = _arrays(data)
            validation, test = (_split(arrays, name) for name in SPLITS)
            return cls(validation, test, _executors(arrays, len(test.labels)))
        except Exception as error:  # a damaged archive can fail in any of the parsers
            raise InputError(
                f"{str(path)!r} does not hold the predictions of a run: {first_line(error)}"
            ) from None

    @classmethod
    def of(cls, record: RunRecord, folder: Path) -> Predictions:
        """Those of the run of ``record`` in ``folder``; raises ``InputError`` also if the two do
        not belong together."""
        found = cls.load(folder)
        if found.are_scores == (record.metric == ACCURACY):
            what = "scores" if found.are_scores else "classes"
            raise InputError(
                f"{str(folder / FILE)!r} does not belong to its record: it has {what}, the record "
                f"is of {record.metric.name}; run it again"
            )
        for name, value in found.figures(record.metric).items():
            noted = getattr(record, name)
            if noted is None or not math.isclose(noted, value, rel_tol=ROUNDING, abs_tol=ROUNDING):
                said = f"{name} is {noted} in the record beside it and {value} by the predictions"
                raise InputError(
                    f"{str(folder / FILE)!r} does not belong to its record: {said}; run it again"
                )
        if record.classes is not None and found.largest_class >= record.classes:
            said = f"it has the class {found.largest_class}, the model has {record.classes}"
            raise InputError(
                f"{str(folder / FILE)!r} does not belong to its record: {said}; run it again"
            )
        return found

    def figures(self, metric: Metric) -> dict[str, float]:
        """The fields of a record of ``metric`` that follow from the predictions."""
        found = {
            "float_accuracy": metric.sign * float(self.test.float_hits.mean()),
            "int8_accuracy": metric.sign * float(self.test.int8_hits.mean()),
            "validation_accuracy": metric.sign * float(self.validation.int8_hits.mean()),
        }
        agreement = self.test.agreement
        return found if agreement is None else {**found, "agreement": agreement}

    @property
    def are_scores(self) -> bool:
        """Whether it holds scores instead of classes."""
        return self.test.are_scores

    @property
    def largest_class(self) -> int:
        """The largest number of a class that was predicted or is right."""
        arrays = [array for split in (self.validation, self.test) for array in vars(split).values()]
        return max(int(array.max()) for array in [*arrays, *self.executors.values()])


def _split(arrays: dict[str, Classes], name: str) -> SplitPredictions:
    missing = [key for key in KEYS if f"{name}/{key}" not in arrays]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}")
    found = SplitPredictions(**{key: arrays[f"{name}/{key}"] for key in KEYS})
    lengths = {key: len(value) for key, value in vars(found).items()}
    real = {key for key, value in vars(found).items() if value.dtype.kind == "f"}
    if real not in (set(), {"float", "int8"}):
        raise ValueError(f"{name} has numbers with a fraction as {', '.join(sorted(real))}")
    if len(set(lengths.values())) != 1 or len(found.labels) < 2:
        raise ValueError(f"{name} has {lengths} images: expected equally many, at least two")
    return found


def _executors(arrays: dict[str, Classes], images: int) -> dict[str, Classes]:
    prefix = "executors/"
    found = {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
    for name, value in found.items():
        if not 1 <= len(value) <= images:
            raise ValueError(f"{name} has {len(value)} images: expected 1...{images}")
    return found


def _arrays(data: bytes) -> dict[str, Classes]:
    """The arrays in an .npz file, by name; raises many types for what is none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        size = sum(entry.file_size for entry in entries)
        if size > LARGEST:
            raise ValueError(f"{size} bytes, at most {LARGEST} are read")
        return {
            entry.filename.removesuffix(".npy"): _classes(archive.read(entry)) for entry in entries
        }


def _classes(data: bytes) -> Classes:
    """The vector of class numbers in an .npy file. Nothing is unpickled or allocated by what its
    header claims."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array that is not of version 1.0 of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    content = data[stream.tell() :]
    if (
        dtype.kind not in "iuf"
        or shape != (len(content) // dtype.itemsize,)
        or len(content) % dtype.itemsize
    ):
        raise ValueError(
            f"an array of {dtype} {shape} in {len(content)} bytes, expected a vector of "
            "class numbers"
        )
    classes = np.frombuffer(content, dtype)
    if dtype.kind == "f":
        if not np.isfinite(classes).all():
            raise ValueError("a score that is NaN or infinite")
        return classes
    if classes.min(initial=0) < 0:
        raise ValueError(f"the class {classes.min()}")
    return classes


def _small(classes: NDArray[Any]) -> Classes:
    if classes.dtype.kind == "f":
        return classes
    return classes.astype(np.min_scalar_type(int(classes.max(initial=0))))
