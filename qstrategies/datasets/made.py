"""Datasets made of what a user has: given or made splits, kept in memory or read from disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qstrategies.datasets.base import Dataset
from qstrategies.datasets.encoding import Encoded, check_trained, class_numbers
from qstrategies.datasets.split import Augment, Split, stratified
from qstrategies.datasets.stored import READ_AT_ONCE, Source, StoredSplit
from qstrategies.errors import InputError, check_range, unknown
from qstrategies.pixels import PIXEL_SCALE, Normalization

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What people call them."""
MEMORY = 1 << 30
"""Bytes of inputs that are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a dataset is cut and treated. Every function that makes one takes these by name.

    Attributes:
        validation, test: the shares of the examples that make these splits where they are not
            given: random, with the classes' shares, the same for the same ``seed``. The test split
            is taken first.
        normalize: "train" for mean and standard deviation of the training split, or a pair of
            them, one number for each channel or column, in the units of the model's inputs. Of
            pixels it becomes a part of the model; real values are normalized when they are read.
        augment: a function of one input [...] as it is kept (of pictures uint8 [C, H, W]) for
            another of the same shape and dtype; on training batches only.
        input_scale: what one step of a pixel is worth, to take whole steps of it as raw pixels;
            bytes are 1 / 255 without it.
        classes: the names of the classes, in the order of their numbers.
        workers: processes that read what is not kept in memory.
        in_memory: whether inputs are kept; None: up to 1 GB of a split.
        name: of the dataset.
    """

    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    normalize: Any = None
    augment: Augment | None = None
    input_scale: float | None = None
    classes: Sequence[str] | None = None
    workers: int = 0
    in_memory: bool | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        check_range("share of validation examples", self.validation, 1e-6, 0.9)
        check_range("share of test examples", self.test, 1e-6, 0.9)
        check_range("number of workers", self.workers, 0, 256)
        if self.input_scale is not None:
            check_range("input_scale", self.input_scale, 1e-12, 1e12)
        if self.augment is not None and not callable(self.augment):
            raise InputError(f"augment {self.augment!r}: expected a function of one input")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Those ``given`` by name; raises ``InputError`` for another name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("setting of a dataset", name, known)
        return cls(**given)


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
        normalization: Normalization | None,
    ) -> None:
        self.name, self.labels, self.normalization = name, labels, normalization
        self._splits = splits
        sizes = " / ".join(str(len(split)) for split in splits.values())
        self.summary = f"{kind}, {len(labels)} classes, {sizes}"

    @property
    def splits(self) -> dict[str, Split]:
        """train, validation and test."""
        return self._splits


def made(parts: Mapping[str, Part], settings: Settings, kind: str, name: str) -> MadeDataset:
    """A dataset of ``parts``, by the names of their splits.

    Args:
        kind: what it is, in two words.
        name: of the dataset, unless ``settings`` has one.

    Raises:
        InputError: what does not fit, or is missing, with the remedy.
    """
    given = _named(parts)
    numbers, labels = class_numbers(
        {split: each.labels for split, each in given.items()}, settings.classes
    )
    cuts = _with_missing(
        {split: _cut(split, given[split], numbers[split], settings) for split in given}, settings
    )
    for split, cut in cuts.items():
        _check_alike(split, cut, cuts["train"])
    check_trained({split: cut.labels for split, cut in cuts.items()}, labels)
    normalization = _normalization(settings.normalize, cuts["train"], settings)
    folded = cuts["train"].sample.dtype == torch.uint8
    if normalization is not None and not folded:
        cuts = {split: cut.normalized(normalization) for split, cut in cuts.items()}
    splits = {
        split: _split(split, cuts[split], settings) for split in ("train", "validation", "test")
    }
    return MadeDataset(
        settings.name or name, kind, labels, splits, normalization if folded else None
    )


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
        raise InputError(f"{split!r} has {len(part.source)} inputs and {len(labels)} labels")
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
        taken = stratified(train.labels, count, settings.seed + offset)
        kept = torch.ones(len(train.labels), dtype=torch.bool)
        kept[taken] = False
        found |= {split: train.chosen(taken), "train": train.chosen(kept.nonzero().flatten())}
    return found


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
        raise InputError("normalize is for pixels and real values: inputs are whole numbers")
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
            f"normalize has {found.channels} means: inputs have {len(sample)} channels"
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
