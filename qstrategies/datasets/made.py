"""Datasets made of what a user has: given or made splits, kept in memory or read from disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qstrategies.datasets.base import Dataset
from qstrategies.datasets.encoding import Encoded, check_trained, class_numbers, target_values
from qstrategies.datasets.settings import MEMORY, SPLITS, Settings
from qstrategies.datasets.split import Split, stratified
from qstrategies.datasets.stored import READ_AT_ONCE, Source, StoredSplit
from qstrategies.errors import InputError, unknown
from qstrategies.pixels import PIXEL_SCALE, Normalization
from qstrategies.tasks import CLASSIFICATION, check_targets


@dataclass(frozen=True)
class Part:
    """Examples of one or all splits: where their inputs are, and their labels [N]."""

    source: Source
    labels: Any


class MadeDataset(Dataset):
    """What the functions of ``qs.datasets`` give."""

    def __init__(
        self,
        name: str,
        kind: str,
        labels: tuple[str, ...],
        splits: dict[str, Split],
        cuts: Mapping[str, _Cut],
    ) -> None:
        self.name, self.labels, self._splits, self._cuts = name, labels, splits, cuts
        sizes = " / ".join(str(len(split)) for split in splits.values())
        self.summary = f"{kind}, {len(labels)} classes, {sizes}" if labels else f"{kind}, {sizes}"

    @property
    def splits(self) -> dict[str, Split]:
        """train, validation and test."""
        return self._splits

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is in training and in another split too."""
        known = set(self._cuts["train"].marks)
        found = []
        for split in ("validation", "test"):
            marks = self._cuts[split].marks
            count = sum(mark in known for mark in marks)
            if count:
                found.append(
                    f"{count} of {len(marks)} inputs of {split!r} are in 'train' too: its figures "
                    "flatter what has learned them"
                )
        return tuple(found)


def made(parts: Mapping[str, Part], settings: Settings, kind: str, name: str) -> MadeDataset:
    """A dataset of ``parts``, by the names of their splits.

    Args:
        kind: what it is, in two words.
        name: of the dataset, unless ``settings`` has one.

    Raises:
        InputError: what does not fit, or is missing, with the remedy.
    """
    given = _named(parts)
    targets = {split: each.labels for split, each in given.items()}
    classifies = settings.judged_by is CLASSIFICATION
    if classifies:
        numbers, labels = class_numbers(targets, settings.classes)
    else:
        numbers = {split: target_values(each, split) for split, each in targets.items()}
        for split, values in numbers.items():
            check_targets(settings.judged_by, values, f"targets of {split!r}")
        labels = tuple(settings.classes or ())
    cuts = _with_missing(
        {split: _cut(split, given[split], numbers[split], settings) for split in given}, settings
    )
    for split, cut in cuts.items():
        _check_alike(split, cut, cuts["train"])
    if classifies:
        check_trained({split: cut.labels for split, cut in cuts.items()}, labels)
    normalization = _normalization(settings.normalize, cuts["train"], settings)
    folded = cuts["train"].sample.dtype == torch.uint8
    if normalization is not None and not folded:
        cuts = {split: cut.normalized(normalization) for split, cut in cuts.items()}
    splits = {
        split: _split(split, cuts[split], settings) for split in ("train", "validation", "test")
    }
    dataset = MadeDataset(settings.name or name, kind, labels, splits, cuts)
    dataset.normalization = normalization if folded else None
    dataset.task = settings.judged_by
    return dataset


@dataclass(frozen=True)
class _Cut:
    """The examples ``indices`` [N] of ``source`` with their ``labels`` [N]."""

    source: Encoded
    indices: Tensor
    labels: Tensor

    @cached_property
    def sample(self) -> Tensor:
        """The first input, as it is kept."""
        return self.source.read(self.indices[:1].tolist())[0]

    @property
    def marks(self) -> list[str]:
        """One for each input: equal ones are of equal inputs."""
        return self.source.marks(self.indices.tolist())

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return len(self.indices) * self.sample.numel() * self.sample.element_size()

    def chosen(self, which: Tensor) -> _Cut:
        """Only the examples ``which`` of it."""
        return _Cut(self.source, self.indices[which], self.labels[which])

    def normalized(self, normalization: Normalization) -> _Cut:
        """With normalized inputs."""
        source = dataclasses.replace(self.source, normalization=normalization)
        return dataclasses.replace(self, source=source)


def _named(parts: Mapping[str, Part]) -> dict[str, Part]:
    """``parts`` under the names that splits have here."""
    found: dict[str, Part] = {}
    for name, part in parts.items():
        if name.lower() not in SPLITS:
            raise unknown("split", name, SPLITS)
        found[SPLITS[name.lower()]] = part
    if "train" not in found:
        raise InputError(f"no split 'train', only {', '.join(parts)}: there is nothing to train on")
    return found


def _cut(split: str, part: Part, labels: Tensor, settings: Settings) -> _Cut:
    if len(part.source) != len(labels):
        raise InputError(
            f"{split!r} has {len(part.source)} inputs and {len(labels)} labels: give one for each"
        )
    source = Encoded(part.source, settings.input_scale, what=f"inputs of {split!r}")
    return _Cut(source, torch.arange(len(labels)), labels)


def _with_missing(cuts: dict[str, _Cut], settings: Settings) -> dict[str, _Cut]:
    """``cuts`` with the splits that are not among them, taken from train by classes."""
    found, whole = dict(cuts), len(cuts["train"].labels)
    for offset, (split, share) in enumerate(
        {"test": settings.test, "validation": settings.validation}.items()
    ):
        if split in cuts:
            continue
        train, count = found["train"], round(whole * share)
        if not 2 <= count <= len(train.labels) - 2:
            raise InputError(
                f"{count} of {whole} training examples for the split {split!r}: at least 2 are "
                f"needed in each; give more examples, or another share {split}={share:g}"
            )
        taken = _drawn(train.labels, count, settings, offset)
        kept = torch.ones(len(train.labels), dtype=torch.bool)
        kept[taken] = False
        found |= {split: train.chosen(taken), "train": train.chosen(kept.nonzero().flatten())}
    return found


def _drawn(labels: Tensor, count: int, settings: Settings, offset: int) -> Tensor:
    """``count`` random indices, with the shares of the classes where there are any."""
    seed = settings.seed + offset
    if settings.judged_by is CLASSIFICATION:
        return stratified(labels, count, seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def _check_alike(split: str, cut: _Cut, train: _Cut) -> None:
    """Raise ``InputError`` unless inputs of ``cut`` are of the dtype and shape of those in
    ``train``."""
    found, expected = ((each.sample.dtype, list(each.sample.shape)) for each in (cut, train))
    if found != expected:
        raise InputError(
            f"inputs of {split!r} are {found[0]} {found[1]}, those of 'train' {expected[0]} "
            f"{expected[1]}: they must be alike"
        )
    if len(cut.labels) < 2:
        raise InputError(
            f"the split {split!r} has {len(cut.labels)} example: at least 2 are needed"
        )


def _split(name: str, cut: _Cut, settings: Settings) -> Split:
    scale = settings.input_scale or PIXEL_SCALE
    augment = settings.augment if name == "train" else None
    stored = StoredSplit(
        name,
        cut.source,
        cut.indices,
        cut.labels,
        input_scale=scale,
        augment=augment,
        workers=settings.workers,
    )
    kept = cut.size <= MEMORY if settings.in_memory is None else settings.in_memory
    return Split(name, stored.images, cut.labels, scale, augment) if kept else stored


def _normalization(asked: Any, train: _Cut, settings: Settings) -> Normalization | None:
    """What ``asked`` (see ``Settings.normalize``) means for inputs as in ``train``."""
    if asked is None:
        return None
    sample = train.sample
    if sample.dtype == torch.int64 or not sample.dim():
        raise InputError(
            "normalize is for pixels and real values: inputs are whole numbers: leave it out"
        )
    if asked == "train":
        return _measured(train, settings)
    try:
        mean, std = (tuple(float(value) for value in numbers) for numbers in asked)
    except (TypeError, ValueError):
        raise InputError(
            f"normalize {asked!r}: expected 'train' or a pair (means, standard deviations)"
        ) from None
    found = Normalization(mean, std)
    if found.channels != len(sample):
        raise InputError(
            f"normalize has {found.channels} means: give {len(sample)}, one for each channel"
        )
    return found


def _measured(train: _Cut, settings: Settings) -> Normalization:
    """Mean and standard deviation of each channel; 1 in the place of 0, for what does not vary."""
    stored = _split("train", train, dataclasses.replace(settings, in_memory=False))
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for images, _ in stored.batches(READ_AT_ONCE):
        values = stored.model_inputs(images).double().transpose(0, 1).flatten(1)
        count += values.shape[1]
        total, squares = total + values.sum(1), squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    varying = torch.where(std > 1e-7 * mean.abs(), std, 1.0)
    return Normalization(tuple(mean.tolist()), tuple(varying.tolist()))
