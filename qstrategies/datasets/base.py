"""What a dataset is: a name, its classes, and the splits that every strategy sees alike."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qstrategies.arguments import check_fields
from qstrategies.datasets.split import CalibrationSet as CalibrationSet
from qstrategies.datasets.split import Split as Split
from qstrategies.pixels import Normalization
from qstrategies.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class Location:
    """Where data is found: ``cache`` holds unpacked files, ``folder`` a user's IDX files;
    ``download`` allows the network."""

    cache: Path | None = None
    folder: Path | None = None
    download: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def root(self) -> Path:
        """The cache folder: the option, else $QSTRATEGIES_CACHE, else $XDG_CACHE_HOME/qstrategies
        or ~/.cache/qstrategies."""
        chosen = self.cache or os.environ.get("QSTRATEGIES_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qstrategies"


class Dataset(ABC):
    """Base of all datasets.

    Attributes:
        name: what it is called where it stands alone.
        summary: one line for a list.
        labels: the names of the classes, in the order of their numbers.
        normalization: of pixels, what stands before every model; None for none.
        task: what models are trained and judged by; labels are targets of it.
    """

    name: str
    summary: str
    labels: tuple[str, ...]
    normalization: Normalization | None = None
    task: Task = CLASSIFICATION

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {self.summary})"

    @property
    @abstractmethod
    def splits(self) -> dict[str, Split]:
        """train, validation (the same for every seed) and test.

        Raises ``InputError`` for what is missing, altered or does not fit.
        """

    @cached_property
    def content(self) -> str:
        """SHA-256 of all that results depend on: inputs and labels as they are after reading and
        splitting, and what is done to them."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            split.add_to(digest, name)
        if self.normalization is not None:
            digest.update(repr(self.normalization).encode())
        if self.task is not CLASSIFICATION:
            digest.update(self.task.identity.encode())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who reads its figures should know."""
        return ()

    @property
    def fingerprint(self) -> str:
        """A short name for ``content``, stored in files."""
        return self.content[:16]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.splits["train"].shape
