"""What one run predicted for every image, kept so that any two runs can be paired. Imports no torch."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.errors import InputError
from qstrategies.files import atomic_write

FILE = "predictions.npz"
Classes = NDArray[np.integer[Any]]
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class SplitPredictions:
    """Labels and predicted classes of one split, each [N]; "int8" is PyTorch's module with the configured engine."""

    labels: Classes
    float: Classes
    int8: Classes

    @property
    def float_hits(self) -> Hits:
        """Whether the float model is right, per image."""
        return self.float == self.labels

    @property
    def int8_hits(self) -> Hits:
        """Whether the int8 model is right, per image."""
        return self.int8 == self.labels


@dataclass(frozen=True)
class Predictions:
    """Of one run: both splits that are not trained on, and what every other executor said of the first test images."""

    validation: SplitPredictions
    test: SplitPredictions
    executors: dict[str, Classes] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write them, compressed, beside the record."""
        arrays = {f"{name}/{key}": value for name in ("validation", "test") for key, value in vars(getattr(self, name)).items()}
        arrays |= {f"executors/{name}": value for name, value in self.executors.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{name: _small(value) for name, value in arrays.items()})
        atomic_write(folder / FILE, buffer.getvalue())

    @classmethod
    def load(cls, folder: Path) -> Predictions:
        """The inverse of ``save``; raises ``InputError`` if they are missing or damaged."""
        path = folder / FILE
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            splits = [
                SplitPredictions(*(arrays[f"{name}/{key}"] for key in ("labels", "float", "int8"))) for name in ("validation", "test")
            ]
        except FileNotFoundError:
            raise InputError(f"{str(path)!r} is missing: run the same compare again, it makes what is not there") from None
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{str(path)!r} does not hold the predictions of a run: {error}") from None
        prefix = "executors/"
        executors = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        return cls(splits[0], splits[1], executors)


def _small(classes: NDArray[Any]) -> Classes:
    return classes.astype(np.min_scalar_type(int(classes.max(initial=0))))
