"""Splits whose inputs are read when they are asked for, by worker processes if there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from qstrategies.datasets.split import Augment, Batch, Split, augmented
from qstrategies.errors import InputError

READ_AT_ONCE = 64
"""Examples, where all are read."""


class Source(Protocol):
    """Examples somewhere, read by their numbers."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Tensor:
        """The inputs of ``indices``: [n, ...]. Raises ``InputError`` for what cannot be read."""

    @property
    def digest(self) -> str:
        """Changes with anything that ``read`` can give."""

    def marks(self, indices: Sequence[int]) -> list[str]:
        """One for each of ``indices`` [n]: two that are equal are of equal inputs."""


@dataclass(frozen=True)
class InMemory:
    """The examples ``values`` [N, ...]: a tensor, or an array that is mapped into memory."""

    values: Any

    def __len__(self) -> int:
        return len(self.values)

    def read(self, indices: Sequence[int]) -> Tensor:
        chosen = self.values[torch.as_tensor(indices).numpy()]
        return chosen if isinstance(chosen, Tensor) else torch.from_numpy(np.array(chosen))

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.values.dtype} {tuple(self.values.shape)} ".encode())
        for chunk in torch.arange(len(self)).split(READ_AT_ONCE):
            digest.update(self.read(chunk.tolist()).numpy().tobytes())
        return digest.hexdigest()

    def marks(self, indices: Sequence[int]) -> list[str]:
        chunks = torch.as_tensor(indices).split(READ_AT_ONCE)
        return [mark for chunk in chunks for mark in marks_of(self.read(chunk.tolist()))]


def marks_of(inputs: Tensor) -> list[str]:
    """A hash of each of ``inputs`` [n, ...]."""
    return [hashlib.sha256(each.numpy().tobytes()).hexdigest()[:32] for each in inputs]


class StoredSplit(Split):
    """The examples ``indices`` [N] of ``source``; only the labels are in memory.

    ``images`` reads all of them.
    """

    def __init__(  # noqa: PLR0913 - what a split has, and where it is read
        self,
        name: str,
        source: Source,
        indices: Tensor,
        labels: Tensor,
        *,
        input_scale: float,
        augment: Augment | None,
        workers: int,
    ) -> None:
        sample = source.read(indices[:1].tolist())[0]
        vars(self).update(
            name=name,
            labels=labels,
            input_scale=input_scale,
            augment=augment,
            _source=source,
            _indices=indices,
            _workers=workers,
            _sample=sample,
        )

    _source: Source
    _indices: Tensor
    _workers: int
    _sample: Tensor

    @property
    def images(self) -> Tensor:
        """All inputs, read now: [N, ...]."""
        return torch.cat([images for images, _ in self.batches(READ_AT_ONCE)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self._sample.shape)

    @property
    def scale(self) -> float | None:
        """What one step of an input is worth to a model; None if inputs are no pixels."""
        return self.input_scale if self._sample.dtype == torch.uint8 else None

    def take(self, indices: Tensor) -> Batch:
        """The inputs and the labels of ``indices`` [n]."""
        return self._source.read(self._indices[indices].tolist()), self.labels[indices]

    def batches(self, size: int) -> Iterator[Batch]:
        """All of it in its order, ``size`` at a time."""
        chunks = torch.arange(len(self)).split(size)
        yield from self._read(chunks, _Reader(self._source, self._indices))

    def training_batches(self, chunks: Iterable[Tensor], seed: int) -> Iterator[Batch]:
        """One batch for each of ``chunks`` of indices [n], augmented where it is read. The same for
        the same ``seed`` and any number of workers."""
        yield from self._read(chunks, _Reader(self._source, self._indices, self.augment, seed))

    def count(self, size: int) -> int:
        """How many examples fit into ``size`` bytes, at least two."""
        fitting = size // (self._sample.numel() * self._sample.element_size())
        return min(len(self), max(fitting, 2))

    def first(self, count: int) -> Split:
        """The first ``count`` examples, in memory."""
        images, labels = self.take(torch.arange(min(count, len(self))))
        return Split(self.name, images, labels, self.input_scale)

    def to(self, device: torch.device) -> Split:
        """Itself: what lies elsewhere is moved batch by batch."""
        return self

    def add_to(self, digest: Any, name: str) -> None:
        """Tell ``digest`` of hashlib all that results depend on."""
        digest.update(f"{name} {self._source.digest} {self.treatment}".encode())
        for tensor in (self._indices, self.labels):
            digest.update(tensor.numpy().tobytes())

    def _read(self, chunks: Iterable[Tensor], reader: _Reader) -> Iterator[Batch]:
        wanted = list(chunks)
        loader: Iterable[Tensor | InputError] = DataLoader(
            reader,
            sampler=wanted,
            batch_size=None,
            num_workers=self._workers,
            generator=torch.Generator(),  # not that of the user
        )
        for chunk, images in zip(wanted, loader, strict=True):
            if isinstance(images, InputError):
                raise images
            yield images, self.labels[chunk]


@dataclass(frozen=True)
class _Reader(TorchDataset[Any]):
    """Reads a batch, in the process of a worker. Its errors are values, since torch would wrap what
    is raised there in the traceback of another process."""

    source: Source
    indices: Tensor
    augment: Augment | None = None
    seed: int = 0

    def __getitem__(self, chunk: Tensor) -> Tensor | InputError:
        try:
            images = self.source.read(self.indices[chunk].tolist())
            return augmented(self.augment, images, chunk, self.seed)
        except InputError as error:
            return error
