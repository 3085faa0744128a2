"""What a dataset is: four checked IDX files, read by torchvision, cut into train, validation and
test."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qstrategies.errors import InputError, check_range
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


@dataclass(frozen=True)
class Split:
    """One part of a dataset: images uint8 [N, C, H, W], labels int64 [N]."""

    name: str
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CalibrationSet:
    """``count`` random images of the training split: all that a quantizer may look at.

    Raises ``InputError`` for any other split and for more images than it has.
    """

    split: Split
    count: int
    seed: int

    def __post_init__(self) -> None:
        if self.split.name != "train":
            raise InputError(
                f"calibration images come from the split 'train', not {self.split.name!r}"
            )
        check_range("number of calibration images", self.count, 1, len(self.split))

    @property
    def images(self) -> Tensor:
        """uint8 [count, C, H, W]; the same for the same seed."""
        import torch

        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed))
        return self.split.images[order[: self.count]]


@dataclass(frozen=True)
class Location:
    """Where data is found: ``cache`` holds unpacked files, ``folder`` a user's IDX files;
    ``download`` allows the network."""

    cache: Path | None = None
    folder: Path | None = None
    download: bool = False

    @property
    def root(self) -> Path:
        """The cache folder: the option, else $QSTRATEGIES_CACHE, else $XDG_CACHE_HOME/qstrategies
        or ~/.cache/qstrategies."""
        chosen = self.cache or os.environ.get("QSTRATEGIES_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qstrategies"


class Dataset:
    """Base of all datasets. A subclass names itself, its classes, its checksums and torchvision's
    reader.

    ``md5`` are the checksums of the four unpacked files, in the order of ``FILES``; ``packaged`` is
    the folder of compressed files inside the package, or None where the user has to bring them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    md5: ClassVar[tuple[str, ...]]
    torchvision_class: ClassVar[str]
    packaged: ClassVar[Path | None] = None

    def __init__(self, location: Location = Location()) -> None:
        self.location = location

    @property
    def fingerprint(self) -> str:
        """One checksum for the files of the dataset; ``content`` is what results depend on."""
        return hashlib.sha256("".join(self.md5).encode()).hexdigest()[:16]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """train, validation (stratified, the same for every seed) and test.

        Raises ``InputError`` for a missing or altered file.
        """
        import torch

        reader = self._reader()
        train, test = (reader(str(self.location.root), train=flag) for flag in (True, False))
        held_out = stratified(train.targets, VALIDATION_IMAGES, SPLIT_SEED)
        kept = torch.ones(len(train.targets), dtype=torch.bool)
        kept[held_out] = False
        images = train.data.unsqueeze(1)
        return {
            "train": Split("train", images[kept], train.targets[kept]),
            "validation": Split("validation", images[held_out], train.targets[held_out]),
            "test": Split("test", test.data.unsqueeze(1), test.targets),
        }

    @cached_property
    def content(self) -> str:
        """SHA-256 of all images and labels, as they are after reading and splitting."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for tensor in (split.images, split.labels):
                values = tensor.contiguous().numpy()
                digest.update(f"{name} {values.dtype} {values.shape} ".encode())
                digest.update(values.data)
        return digest.hexdigest()

    def _reader(self) -> Any:
        from qstrategies.datasets import torchvision_import

        reader = getattr(torchvision_import.torchvision().datasets, self.torchvision_class)
        if self.location.download and not all(path.is_file() for path in self._raw_files()):
            reader(str(self.location.root), download=True)
        for path, md5 in zip(self._raw_files(), self.md5, strict=True):
            if not path.is_file() or _md5(path.read_bytes()) != md5:
                self._unpack(path, md5)
        return reader

    def _raw_files(self) -> list[Path]:
        return [self.location.root / self.torchvision_class / "raw" / name for name in FILES]

    def _unpack(self, target: Path, md5: str) -> None:
        source = self._source(target.name)
        try:
            with _OPENERS[source.suffix if source.suffix in _OPENERS else ""](source, "rb") as file:
                data = file.read()
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise InputError(
                f"{str(source)!r} is damaged ({error}): restore it from its origin"
            ) from None
        if _md5(data) != md5:
            raise InputError(
                f"{str(source)!r} is not the file of {self.name}: MD5 {_md5(data)}, expected {md5}"
            )
        atomic_write(target, data)

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
        raise InputError(f"{str(folder)!r} has no file {name!r} (plain, .gz or .xz) of {self.name}")


def stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted indices of ``count`` random examples with the class shares of ``labels`` [N] (largest
    remainders)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(labels)
    shares = sizes.double() * count / len(labels)
    quota = shares.long()
    quota[(shares - quota).argsort(descending=True)[: count - int(quota.sum())]] += 1
    chosen = []
    for label, wanted in enumerate(quota.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:wanted]])
    return torch.cat(chosen).sort().values


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
