"""Datasets in IDX files, checked, and cut into train, validation and test."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qstrategies.datasets.base import Dataset, Location
from qstrategies.datasets.split import Split, stratified
from qstrategies.errors import InputError
from qstrategies.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
VALIDATION_IMAGES = 5000
SPLIT_SEED = 20180930
_OPENERS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".xz": lzma.open}


class IdxDataset(Dataset):
    """A subclass names itself, its classes, its files and their checksums.

    ``md5`` are the checksums of the unpacked ``files``, in their order; ``packaged`` is the folder
    of compressed files inside the package, or None where the user has to bring them;
    ``torchvision_class`` the class of torchvision that downloads them, or None. ``light_on_dark``:
    whether pictures are so, so that others are inverted for a prediction.
    """

    md5: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]] = FILES
    torchvision_class: ClassVar[str | None] = None
    packaged: ClassVar[Path | None] = None
    light_on_dark: ClassVar[bool] = False

    def __init__(self, location: Location = Location()) -> None:
        self.location = location

    @property
    def fingerprint(self) -> str:
        """One checksum for the files of the dataset."""
        return hashlib.sha256("".join(self.md5).encode()).hexdigest()[:16]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """train, validation (the same for every seed) and test.

        Raises ``InputError`` for a missing or altered file.
        """
        return self.cut(self._tensors())

    def cut(self, tensors: Sequence[Tensor]) -> dict[str, Split]:
        """The splits, of what ``files`` hold: here a stratified part of train is for validation."""
        import torch

        train_images, train_labels, test_images, test_labels = tensors
        images, labels = train_images.unsqueeze(1), train_labels.long()
        held_out = stratified(labels, VALIDATION_IMAGES, SPLIT_SEED)
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[held_out] = False
        return {
            "train": Split("train", images[kept], labels[kept]),
            "validation": Split("validation", images[held_out], labels[held_out]),
            "test": Split("test", test_images.unsqueeze(1), test_labels.long()),
        }

    def _tensors(self) -> list[Tensor]:
        """What ``files`` hold: complete and unaltered."""
        folder = self.location.root / (self.torchvision_class or self.name) / "raw"
        paths = [folder / name for name in self.files]
        if self.location.download and not all(path.is_file() for path in paths):
            self._download()
        return [
            read_idx(path.name, self._content(path, md5))
            for path, md5 in zip(paths, self.md5, strict=True)
        ]

    def _download(self) -> None:
        if self.torchvision_class is None:
            return
        from qstrategies.datasets.torchvision_import import torchvision

        kind = getattr(torchvision().datasets, self.torchvision_class)
        kind(str(self.location.root), download=True)

    def _content(self, path: Path, md5: str) -> bytes:
        if path.is_file() and _md5(data := path.read_bytes()) == md5:
            return data
        data = self._unpacked(path.name, md5)
        atomic_write(path, data)
        return data

    def _unpacked(self, name: str, md5: str) -> bytes:
        source = self._source(name)
        try:
            with _OPENERS[source.suffix if source.suffix in _OPENERS else ""](source, "rb") as file:
                data: bytes = file.read()
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(
                f"{str(source)!r} is damaged ({error}): restore it from its origin"
            ) from None
        if _md5(data) != md5:
            raise InputError(
                f"{str(source)!r} is not the file of {self.name}: MD5 {_md5(data)}, expected {md5}"
            )
        return data

    def _source(self, name: str) -> Path:
        folder = self.location.folder or self.packaged
        if folder is None:
            raise InputError(
                f"{self.name} is not in the package: give --data-dir FOLDER with its IDX "
                "files, or --download"
            )
        for suffix in _OPENERS:
            if (path := folder / (name + suffix)).is_file():
                return path
        raise InputError(
            f"{str(folder)!r} has no file {name!r} (plain, .gz or .xz) of {self.name}: put it there"
        )


def read_idx(name: str, data: bytes) -> Tensor:
    """The bytes, uint8 [...], of an IDX file: 0, 0, 8 for bytes, the number of sizes, the sizes in
    big-endian 32 bits, the values.

    Raises ``InputError`` for another kind of file.
    """
    import torch

    start = 4 + 4 * int.from_bytes(data[3:4])
    sizes = [int.from_bytes(data[place : place + 4]) for place in range(4, start, 4)]
    whole = 0 < math.prod(sizes) == len(data) - start
    if data[:3] != b"\0\0\x08" or not whole:
        raise InputError(f"{name!r} is not an IDX file of bytes: restore it from its origin")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).reshape(sizes)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
