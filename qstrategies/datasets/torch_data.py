"""Datasets of what PyTorch loads: a ``Dataset`` or a ``DataLoader`` of (input, label)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data import Dataset as TorchDataset

from qstrategies.datasets.arrays import LABELS
from qstrategies.datasets.encoding import tensor_of
from qstrategies.datasets.made import MadeDataset, Part, made
from qstrategies.datasets.settings import MEMORY, Settings
from qstrategies.datasets.stored import READ_AT_ONCE, InMemory, marks_of
from qstrategies.errors import InputError
from qstrategies.source_code import reason


def from_torch(data: Any, **settings: Any) -> MadeDataset:
    """A dataset of a ``torch.utils.data.Dataset`` or ``DataLoader`` of (input, label), or of
    several by split: ``from_torch({"train": loader, "test": other})``. Dicts of an input and a
    label, as those of Hugging Face's datasets, are pairs too.

    It is read once from end to end, for its labels and its fingerprint. What is larger than memory
    allows is read again in every epoch. Of a loader its dataset is taken and how it collates and
    with how many workers; order and batches are those of the experiment. Random transforms belong
    into ``augment``, since an input must be the same whenever it is read.

    Args:
        settings: see ``Settings``.

    Raises:
        InputError: something else than pairs, or an input that is another one when it is read
            again.
    """
    given = data if isinstance(data, Mapping) else {"train": data}
    chosen = Settings.of(settings)
    parts = {split: _part(each, split, chosen) for split, each in given.items()}
    return made(parts, chosen, "examples of PyTorch", "torch")


READ_TWICE = 8
"""Examples, to see whether they are the same."""
Collate = Callable[[list[Any]], Any]


def _part(data: Any, split: str, settings: Settings) -> Part:
    dataset, collate, workers = data, None, settings.workers
    if isinstance(data, DataLoader):
        dataset, workers = data.dataset, settings.workers or data.num_workers
        collate = None if data.collate_fn is default_collate else data.collate_fn
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return _streamed(data, split)
    source = Examples(dataset, collate, split)
    if not len(source):
        raise InputError(f"the split {split!r} has no examples: give at least 2")
    _check_repeatable(source)
    return _scanned(source, workers, settings)


@dataclass(frozen=True)
class Examples:
    """The inputs of a map-style dataset."""

    dataset: Any
    collate: Collate | None
    split: str
    digest: str = ""
    hashes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Sequence[int]) -> Tensor:
        return self.pairs(indices)[0]

    def marks(self, indices: Sequence[int]) -> list[str]:
        return [self.hashes[index] for index in indices]

    def pairs(self, indices: Sequence[int]) -> tuple[Tensor, list[Any]]:
        """The inputs [n, ...] and the labels [n] of ``indices``."""
        examples = [self._example(index) for index in indices]
        if self.collate is None:
            return _collated(examples, self.split)
        return _pair(self.collate(examples), self.split)

    def _example(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:  # whatever the code of a user raises
            raise InputError(
                f"example {index} of {self.split!r} cannot be read: {reason(error)}; mend it, or "
                "leave it out"
            ) from error


@dataclass(frozen=True)
class _Scan(TorchDataset[Any]):
    """Reads a batch with its labels, in the process of a worker; its errors are values."""

    examples: Examples

    def __getitem__(self, chunk: Tensor) -> tuple[Tensor, list[Any]] | InputError:
        try:
            return self.examples.pairs(chunk.tolist())
        except InputError as error:
            return error


def _scanned(source: Examples, workers: int, settings: Settings) -> Part:
    """``source`` read from end to end, and kept if memory allows it."""
    kept: list[Tensor] | None = [] if settings.in_memory is not False else None
    labels: list[Any] = []
    digest, size, hashes = hashlib.sha256(), 0, list[str]()
    for batch in DataLoader(
        _Scan(source),
        sampler=torch.arange(len(source)).split(READ_AT_ONCE),
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=_unchanged,
    ):
        if isinstance(batch, InputError):
            raise batch
        inputs, found = batch
        labels += found
        hashes += marks_of(inputs)
        digest.update(f"{inputs.dtype} {inputs.shape}".encode() + inputs.numpy().tobytes())
        size += inputs.numel() * inputs.element_size()
        if settings.in_memory is None and size > MEMORY:
            kept = None
        if kept is not None:
            kept.append(inputs)
    if kept is not None:
        return Part(InMemory(torch.cat(kept)), labels)
    scanned = replace(source, digest=digest.hexdigest(), hashes=tuple(hashes))
    return Part(scanned, labels)


def _unchanged(batch: Any) -> Any:
    return batch


def _check_repeatable(source: Examples) -> None:
    for index in range(0, len(source), -(-len(source) // READ_TWICE)):  # chance leaves some alone
        first, again = (source.read([index]) for _ in range(2))
        if first.shape != again.shape or not torch.equal(first, again):
            raise InputError(
                f"input {index} of {source.split!r} is another one when it is read again: take "
                "random transforms out of the dataset and give them as augment="
            )


def _streamed(data: Any, split: str) -> Part:
    """All that an iterable gives: batches of a loader, else single examples."""
    if not hasattr(data, "__iter__"):
        raise InputError(
            f"{split!r} is a {type(data).__name__}: expected a Dataset or DataLoader of (input, "
            "label)"
        )
    batched = isinstance(data, DataLoader) and data.batch_size is not None
    pairs = [_pair(each, split) if batched else _collated([each], split) for each in data]
    if not pairs:
        raise InputError(f"the split {split!r} has no examples: give at least 2")
    labels = [label for _, found in pairs for label in found]
    return Part(InMemory(_stacked([inputs for inputs, _ in pairs], split, torch.cat)), labels)


def _pair(value: Any, split: str) -> tuple[Tensor, list[Any]]:
    """A batch (inputs, labels)."""
    inputs, labels = _two(value, split)
    plain = labels.tolist() if getattr(labels, "ndim", 0) == 1 else list(labels)
    return tensor_of(inputs, f"inputs of {split!r}"), plain


def _collated(examples: list[Any], split: str) -> tuple[Tensor, list[Any]]:
    """Single pairs as a batch."""
    pairs = [_two(example, split) for example in examples]
    inputs = [tensor_of(value, f"inputs of {split!r}") for value, _ in pairs]
    labels = [label.item() if getattr(label, "ndim", 1) == 0 else label for _, label in pairs]
    return _stacked(inputs, split, torch.stack), labels


def _two(value: Any, split: str) -> Sequence[Any]:
    """The input and the label in a pair, or in a dict of two of which one is called a label."""
    if isinstance(value, Mapping) and len(value) == 2:
        named = [name for name in value if str(name).lower() in LABELS]
        if len(named) == 1:
            (other,) = value.keys() - set(named)
            return value[other], value[named[0]]
    if not isinstance(value, tuple | list) or len(value) != 2:
        names = f" of {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        raise InputError(
            f"{split!r} gives a {type(value).__name__}{names}: expected pairs (input, label), as "
            "[(e['image'], e['label']) for e in data]"
        )
    return value


def _stacked(inputs: list[Tensor], split: str, join: Callable[[list[Tensor]], Tensor]) -> Tensor:
    shapes = {tuple(each.shape[join is torch.cat :]) for each in inputs}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise InputError(
            f"inputs of {split!r} differ in shape, {list(one)} and {list(other)}: resize or pad "
            "them"
        )
    return join(inputs)
