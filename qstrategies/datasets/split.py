"""One part of a dataset, in memory, and what calibration sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qstrategies import source_code
from qstrategies.errors import InputError, check_range
from qstrategies.guest import seeded
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.records.configs import CALIBRATION_IMAGES

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Split:
    """One part of a dataset, in memory.

    Attributes:
        images: the inputs [N, ...]: uint8 pixels, float32 real values, or int64 numbers, as of
            words.
        labels: int64 [N].
        input_scale: what one step of pixels is worth to a model; looked at only for uint8.
        augment: applied to each single input [...] of training batches, and nowhere else.
    """

    name: str
    images: Tensor
    labels: Tensor
    input_scale: float = PIXEL_SCALE
    augment: Augment | None = None

    def __repr__(self) -> str:
        pixels = "" if self.scale is None else " pixels"
        return f"{type(self).__name__}({self.name}: {len(self)} of {self.shape}{pixels})"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.images.shape[1:])

    @property
    def scale(self) -> float | None:
        """What one step of an input is worth to a model; None if inputs are no pixels."""
        return self.input_scale if self.images.dtype == torch.uint8 else None

    def take(self, indices: Tensor) -> Batch:
        """The inputs and the labels of ``indices`` [n]."""
        return self.images[indices], self.labels[indices]

    def batches(self, size: int) -> Iterator[Batch]:
        """All of it in its order, ``size`` at a time."""
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)

    def training_batches(self, chunks: Iterable[Tensor], seed: int) -> Iterator[Batch]:
        """One batch for each of ``chunks`` of indices [n], augmented. The same for the same
        ``seed``."""
        for chunk in chunks:
            images, labels = self.take(chunk)
            yield augmented(self.augment, images, chunk, seed), labels

    def count(self, size: int) -> int:
        """How many examples there are, or, if they lie on disk, fit into ``size`` bytes."""
        return len(self)

    def first(self, count: int) -> Split:
        """The first ``count`` examples, in memory."""
        return Split(self.name, self.images[:count], self.labels[:count], self.input_scale)

    def to(self, device: torch.device) -> Split:
        """The same on ``device``, if it is in memory and goes there as it is: augmentation is done
        on the CPU, with its random numbers."""
        if self.augment is not None:
            return self
        images, labels = self.images.to(device), self.labels.to(device)
        return Split(self.name, images, labels, self.input_scale, self.augment)

    def model_inputs(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """``images`` of this split as a model takes them; real values in ``dtype`` (default:
        float32)."""
        return to_input(images, dtype, self.input_scale)

    def add_to(self, digest: Any, name: str) -> None:
        """Tell ``digest`` of hashlib all that results depend on."""
        for tensor in (self.images, self.labels):
            values = tensor.contiguous().numpy()
            digest.update(f"{name} {values.dtype} {values.shape} ".encode())
            digest.update(values.data)
        digest.update(self.treatment.encode())

    @property
    def treatment(self) -> str:
        """What is done to inputs, but for the usual pixel scale."""
        words = [] if self.input_scale == PIXEL_SCALE else [f"scale {self.input_scale!r}"]
        if self.augment is not None:
            words.append(f"augment {source_code.identity(self.augment)}")
        return " ".join(words)


def augmented(augment: Augment | None, images: Tensor, indices: Tensor, seed: int) -> Tensor:
    """``augment`` of each of ``images`` [n, ...], with random numbers that depend on ``seed`` and
    the index of the image only, whoever draws them.

    Raises ``InputError`` if it gives another shape or dtype.
    """
    if augment is None:
        return images
    made = []
    for image, index in zip(images, indices.tolist(), strict=True):
        with seeded(seed + index):
            made.append(_changed(augment, image))
        if made[-1].shape != image.shape or made[-1].dtype != image.dtype:
            raise InputError(
                f"augment made {made[-1].dtype} {list(made[-1].shape)} of an input {image.dtype} "
                f"{list(image.shape)}: it must keep both"
            )
    return torch.stack(made)


def _changed(augment: Augment, image: Tensor) -> Tensor:
    try:
        return augment(image)
    except Exception as error:  # whatever the function of a user raises
        reason = source_code.reason(error)
        shape = list(image.shape)
        raise InputError(f"augment fails on an input {shape}: {reason}; mend it") from error


@dataclass(frozen=True)
class CalibrationSet:
    """``count`` random inputs of the training split: all that a quantizer may look at.

    Raises ``InputError`` for any other split and for more than it has; ``CALIBRATION_IMAGES``,
    which nobody has to have asked for, are all where there are fewer.
    """

    split: Split
    count: int
    seed: int

    def __post_init__(self) -> None:
        if self.split.name != "train":
            raise InputError(
                f"calibration images come from the split 'train', not {self.split.name!r}"
            )
        if self.count == CALIBRATION_IMAGES > len(self.split):
            object.__setattr__(self, "count", len(self.split))
        if self.count > len(self.split):
            raise InputError(
                f"{self.count} calibration images of {len(self.split)} training images: ask for "
                f"fewer, as --calibration-images {len(self.split)}"
            )
        check_range("number of calibration images", self.count, 1, len(self.split))

    @property
    def images(self) -> Tensor:
        """[count, ...]; the same for the same seed."""
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed))
        return self.split.take(order[: self.count])[0]


def stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted indices of ``count`` random examples with the class shares of ``labels`` [N] (largest
    remainders)."""
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
