"""Datasets of pictures in folders, one for each class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from qstrategies.datasets.base import Location
from qstrategies.datasets.made import MadeDataset, Part, made
from qstrategies.datasets.settings import SPLITS, Settings
from qstrategies.errors import InputError
from qstrategies.files import atomic_write, doing, sha256

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def image_folder(
    path: Path | str, size: int | tuple[int, int], *, grey: bool = False, **settings: Any
) -> MadeDataset:
    """A dataset of pictures: ``image_folder("flowers", size=64)``.

    Args:
        path: a folder with one folder of pictures for each class; or with the folders train, val
            and test of such folders, of which train is needed.
        size: height and width of the inputs, or one number for both: pictures are cropped to that
            shape around their centre, and resized.
        grey: one channel in the place of three.
        settings: see ``Settings``.

    Raises:
        InputError: no folder, no picture, or one that Pillow cannot read.
    """
    folder = Path(path).expanduser()
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"size {size!r}: expected pixels above zero")
    if not folder.is_dir():
        raise InputError(f"no such folder: {str(folder)!r}: expected one of pictures")
    chosen = Settings.of(settings)
    splits = {each.name: each for each in _folders(folder) if each.name.lower() in SPLITS}
    found = splits or {"train": folder}
    parts = {}
    for split, place in found.items():
        files = _pictures(place, chosen.classes)
        parts[split] = Part(
            Pictures(folder, tuple(files), (height, width), grey),
            [file.parent.name for file in files],
        )
    return made(parts, chosen, "pictures", folder.resolve().name)


def _folders(folder: Path) -> list[Path]:
    with doing("look through", folder):
        return sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _pictures(folder: Path, classes: Sequence[str] | None) -> list[Path]:
    """All pictures of the classes in ``folder``, in order."""
    kinds = _folders(folder)
    files = [file for kind in kinds for file in sorted(kind.iterdir()) if _is_picture(file)]
    empty = [kind.name for kind in kinds if not any(_is_picture(file) for file in kind.iterdir())]
    if not files:
        raise InputError(
            f"{str(folder)!r} has no folders of pictures: expected one for each class, of "
            f"{', '.join(SUFFIXES)}"
        )
    if empty and classes is None:
        raise InputError(f"the class folder {str(folder / empty[0])!r} has no pictures: remove it")
    return files


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.name[0] != "."


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
        hashes = _hashes(self.folder, self.files)
        content = [PIL.__version__, self.size, self.grey, hashes]
        return sha256(json.dumps(content).encode())


def picture(path: Path, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """The largest part of the shape of ``size`` around the centre of a picture, resized: uint8
    [channels, height, width].

    Raises ``InputError`` for what Pillow cannot read.
    """
    height, width = size
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if grey else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{str(path)!r} is not an image that Pillow reads: {error}; remove it"
        ) from None
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
    that has the mark."""
    with doing("read", file):
        stat = file.stat()
        mark = f"{stat.st_size} {stat.st_mtime_ns}"
        return before if before[0] == mark else [mark, sha256(file.read_bytes())]


def _known(path: Path) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or damaged: all is read again
        return {}
    return found
