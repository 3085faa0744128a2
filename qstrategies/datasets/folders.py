"""Datasets of pictures in folders, one for each class."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor

from qstrategies import source_code
from qstrategies.arguments import fitting
from qstrategies.datasets.base import Location
from qstrategies.datasets.made import MadeDataset, Part, made
from qstrategies.datasets.pictures import with_bytes
from qstrategies.datasets.settings import SPLITS, Settings
from qstrategies.errors import InputError
from qstrategies.files import atomic_write, doing, sha256

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def image_folder(
    path: Path | str, size: int | tuple[int, int], *, grey: bool = False, **settings: Any
) -> MadeDataset:
    """A dataset of pictures: ``image_folder("flowers", size=64)``.

    Args:
        path: a folder with one folder of pictures for each class, at any depth in it; or with the
            folders train, val and test of such folders, of which train is needed. Pictures are
            turned upright, as their EXIF data says; transparency is dropped; of 16 bits the higher
            8 are taken.
        size: height and width of the inputs, or one number for both: pictures are cropped to that
            shape around their centre, and resized.
        grey: one channel in the place of three.
        settings: see ``Settings``.

    Raises:
        InputError: no folder, no picture, or one that Pillow cannot read.
    """
    folder = fitting(Path, path, "path of image_folder")
    shape = _shape(size)
    if not folder.is_dir():
        raise InputError(f"no such folder: {str(folder)!r}: expected one of pictures")
    chosen = Settings.of(settings)
    splits = {each.name: each for each in _folders(folder) if each.name.lower() in SPLITS}
    found = splits or {"train": folder}
    parts = {}
    for split, place in found.items():
        files = _pictures(place, chosen.classes)
        parts[split] = Part(
            Pictures(folder, tuple(files), shape, grey),
            [file.relative_to(place).parts[0] for file in files],
        )
    return made(parts, chosen, "pictures", folder.resolve().name)


def _shape(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width. Raises ``InputError`` for anything else than whole numbers above zero."""
    given = (size, size) if isinstance(size, int) else tuple(np.atleast_1d(size))
    if len(given) != 2 or not all(
        isinstance(each, int | np.integer) and each > 0 for each in given
    ):
        raise InputError(f"size {size!r}: expected pixels above zero, or (height, width)")
    return int(given[0]), int(given[1])


def _folders(folder: Path) -> list[Path]:
    with doing("look through", folder):
        return sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _pictures(folder: Path, classes: Sequence[str] | None) -> list[Path]:
    """All pictures of the classes in ``folder``, in order."""
    found = {kind.name: _pictures_in(kind) for kind in _folders(folder)}
    files = [file for each in found.values() for file in each]
    empty = [name for name, each in found.items() if not each]
    if not files:
        raise InputError(
            f"{str(folder)!r} has no folders of pictures: expected one for each class, of "
            f"{', '.join(SUFFIXES)}"
        )
    if empty and classes is None:
        raise InputError(f"the class folder {str(folder / empty[0])!r} has no pictures: remove it")
    return files


def _pictures_in(kind: Path) -> list[Path]:
    """The pictures of a class, of the folders in it too, in order; hidden ones are left out."""
    with doing("look through", kind):
        files = sorted(kind.rglob("*"))
    return [
        file
        for file in files
        if file.suffix.lower() in SUFFIXES
        and not any(part[0] == "." for part in file.relative_to(kind).parts)
    ]


@dataclass(frozen=True)
class Pictures:
    """``files`` below ``folder``, decoded when read: uint8 [n, channels, height, width]."""

    folder: Path
    files: tuple[Path, ...]
    size: tuple[int, int]
    grey: bool

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> Tensor:
        pictures = [picture(self.files[index], self.size, grey=self.grey) for index in indices]
        return torch.from_numpy(np.stack(pictures))

    @cached_property
    def digest(self) -> str:
        """Of the bytes of all files, and of what decodes them."""
        decoder = [PIL.__version__, source_code.of_modules([__name__]).digest]
        content = [decoder, self.size, self.grey, self._hashes]
        return sha256(json.dumps(content).encode())

    def marks(self, indices: Sequence[int]) -> list[str]:
        return [self._hashes[index][1] for index in indices]

    @cached_property
    def _hashes(self) -> list[tuple[str, str]]:
        return _hashes(self.folder, self.files)


def picture(path: Path, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """The largest part of the shape of ``size`` around the centre of an upright picture, resized:
    uint8 [channels, height, width].

    Raises ``InputError`` for what Pillow cannot read.
    """
    height, width = size
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(with_bytes(opened))
            image = upright.convert("L" if grey else "RGB")
    except InputError as error:
        raise InputError(f"{str(path)!r}: {error}; or remove it") from None
    except Exception as error:  # of many kinds, as damaged files have it
        raise _unreadable(path, error) from None
    scale = min(image.height / height, image.width / width)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    resized = image.resize((width, height), Image.Resampling.BILINEAR, box)
    pixels = np.asarray(resized).reshape(height, width, -1)
    return pixels.transpose(2, 0, 1)


def _hashes(folder: Path, files: Sequence[Path]) -> list[tuple[str, str]]:
    """The SHA-256 of each of ``files``, by its name below ``folder``.

    Those of files whose size and time of change are as they were are read from a list in the cache.
    """
    key = sha256(str(folder.resolve()).encode())[:24]
    path = Location().root / "hashes" / f"{key}.json"
    known, now = _known(path), {}
    for file in files:
        name = str(file.relative_to(folder))
        now[name] = _hashed(file, known.get(name, ["", ""]))
    if {**known, **now} != known:
        atomic_write(path, json.dumps({**known, **now}))
    return [(name, found) for name, (_, found) in now.items()]


def _hashed(file: Path, before: list[str]) -> list[str]:
    """A mark of ``file`` that changes when it is written, and the hash of its bytes: ``before`` if
    that has the mark. Raises ``InputError`` for what Pillow cannot read."""
    with doing("read", file):
        stat = file.stat()
        mark = f"{stat.st_size} {stat.st_mtime_ns}"
        if before[0] == mark:
            return before
        content = file.read_bytes()
    _check_whole(file, content)
    return [mark, sha256(content)]


def _check_whole(path: Path, content: bytes) -> None:
    """Raise ``InputError`` for a picture of the bytes ``content`` that Pillow cannot decode: now,
    not in the middle of a training."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("L", (1, 1))  # of a JPEG all is read, an eighth of each side computed
            opened.load()
    except Exception as error:  # of many kinds, as damaged files have it
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{str(path)!r} is not an image that Pillow reads: {error}; remove it")


def _known(path: Path) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or damaged: all is read again
        return {}
    return found
