"""Values as a user has them -> values as a split keeps them: pixels, real values, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qstrategies.datasets.pictures import with_bytes
from qstrategies.datasets.stored import Source
from qstrategies.errors import InputError
from qstrategies.pixels import Normalization

WHOLE = 1e-3
"""How far from a whole number of steps a scaled pixel may lie: what a division leaves is less."""


@dataclass(frozen=True)
class Encoded:
    """What ``source`` gives as it is kept.

    Attributes:
        input_scale: what one step of pixels is worth; None if inputs are taken as they are.
        normalization: of real values.
        what: what to call the inputs in an error.
    """

    source: Source
    input_scale: float | None
    normalization: Normalization | None = None
    what: str = "inputs"

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> Tensor:
        values = encoded(self.source.read(indices), self.input_scale, self.what)
        return values if self.normalization is None else self.normalization.applied(values)

    @property
    def digest(self) -> str:
        return f"{self.source.digest} {self.input_scale} {self.normalization}"

    def marks(self, indices: Sequence[int]) -> list[str]:
        return self.source.marks(indices)


def encoded(values: Tensor, input_scale: float | None, what: str) -> Tensor:
    """``values`` [N, ...] as uint8 pixels if they are bytes or ``input_scale`` says what a step is
    worth; else real values as float32, and integers, as those of words, as int64.

    Raises ``InputError`` for other dtypes, NaN or infinity, and for what contradicts
    ``input_scale``.
    """
    if values.dtype == torch.bool or values.is_complex():
        raise InputError(f"{what} are {values.dtype}: make them float32, uint8 or int64")
    if values.is_floating_point() and not torch.isfinite(values.float()).all():
        raise InputError(
            f"{what} hold NaN, infinity or more than float32 holds: leave those examples "
            "out, fill them in, or scale them"
        )
    if values.dtype == torch.uint8:
        return values
    if input_scale is not None:
        return _pixels(values, input_scale, what)
    return values.float() if values.is_floating_point() else values.long()


def _pixels(values: Tensor, input_scale: float, what: str) -> Tensor:
    steps = values.double() / input_scale if values.is_floating_point() else values
    low, high = steps.min().item(), steps.max().item()
    if low < -WHOLE or high > 255 + WHOLE:
        top = 255 * input_scale if values.is_floating_point() else 255
        raise InputError(
            f"{what} hold values from {values.min().item():g} to {values.max().item():g}: with "
            f"input_scale={input_scale:g} they lie in [0, {top:g}]; leave input_scale out for "
            "other values"
        )
    if values.is_floating_point() and (steps - steps.round()).abs().max() > WHOLE:
        raise InputError(
            f"{what} are no whole steps of input_scale={input_scale:g}, as pixels are: leave "
            "input_scale out for real values"
        )
    return steps.round().to(torch.uint8) if values.is_floating_point() else steps.to(torch.uint8)


def tensor_of(value: Any, what: str) -> Tensor:
    """``value`` (an array of numbers, a tensor, a picture of Pillow) as a tensor on the CPU.

    Raises ``InputError`` for anything else.
    """
    if isinstance(value, Tensor):
        return _plain_tensor(value, what)
    if hasattr(value, "getbands"):
        return _picture(value)
    several = isinstance(value, tuple | list) and any(hasattr(each, "shape") for each in value)
    if isinstance(value, Mapping) or (several and isinstance(value, tuple)):
        raise InputError(
            f"{what} are a {type(value).__name__} of several, a dataset has one: join them into an "
            "array that the model takes apart, or use qs.quantize or qs.prepare, which take several"
        )
    array = _array(value, what)
    unsigned = {2: np.int32, 4: np.int64}
    if array.dtype.kind == "u" and array.dtype.itemsize in unsigned:
        array = array.astype(unsigned[array.dtype.itemsize])
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise InputError(f"{what} are {array.dtype}: make them float32, uint8 or int64")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _plain_tensor(value: Tensor, what: str) -> Tensor:
    if value.is_meta or value.layout != torch.strided:
        kind = "on the device meta" if value.is_meta else str(value.layout)
        raise InputError(f"{what} are {kind}: give dense tensors with values")
    return value.detach().cpu()


def _array(value: Any, what: str) -> NDArray[Any]:
    try:
        return value if isinstance(value, np.ndarray) else np.asarray(value)
    except ValueError:
        raise InputError(f"{what} differ in length: make them alike, padded or cut") from None


def _picture(picture: Any) -> Tensor:
    """uint8 [channels, height, width]."""
    pixels = np.array(with_bytes(picture))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def class_numbers(
    labels: dict[str, Any], names: Sequence[str] | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The labels [N] of each split as int64 numbers of classes, and the names of these.

    Names in the place of numbers are numbered in their order.

    Raises:
        InputError: labels that are no classes, numbers that leave some out, more of them than
            ``names``.
    """
    arrays = {split: _vector(each, split) for split, each in labels.items()}
    kinds = {array.dtype.kind for array in arrays.values()}
    if kinds <= {"U", "S", "O"}:
        arrays, names = _numbered({key: each.astype(str) for key, each in arrays.items()}, names)
    elif not kinds <= {"i", "u"}:
        found = ", ".join(sorted({str(array.dtype) for array in arrays.values()}))
        raise InputError(
            f"labels are {found}: expected the numbers or the names of classes, as "
            "labels.astype(int) where they are whole"
        )
    _check_numbers(arrays, names)
    count = len(names) if names else 1 + max(int(array.max()) for array in arrays.values())
    numbers = {key: torch.from_numpy(each.astype(np.int64)) for key, each in arrays.items()}
    return numbers, tuple(names or map(str, range(count)))


def target_values(labels: Any, split: str) -> Tensor:
    """Targets [N, ...] of another task than classification: real values as float32, whole numbers
    as int64.

    Raises ``InputError`` for other dtypes, NaN and infinity.
    """
    if isinstance(labels, list) and labels and isinstance(labels[0], Tensor):
        labels = torch.stack(labels)
    what = f"targets of {split!r}"
    values = encoded(tensor_of(labels, what), None, what)
    return values.long() if values.dtype == torch.uint8 else values


def _vector(labels: Any, split: str) -> NDArray[Any]:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"labels of {split!r} have shape {list(array.shape)}: expected one number or name for "
            "each example, as labels.argmax(1) of one-hot rows; batches come from a DataLoader"
        )
    if not len(array):
        raise InputError(f"the split {split!r} has no examples: give at least 2")
    _check_labelled(array, split)
    return array


def _check_labelled(array: NDArray[Any], split: str) -> None:
    """Raise ``InputError`` for None, NaN or nothing among names."""
    if array.dtype.kind in "OUS":
        absent = [each is None or each != each or each == "" for each in array]
        if any(absent):
            raise InputError(
                f"example {absent.index(True)} of {split!r} has no label: give it one, or leave it "
                "out"
            )


def _numbered(
    arrays: dict[str, NDArray[Any]], names: Sequence[str] | None
) -> tuple[dict[str, NDArray[Any]], Sequence[str]]:
    found = sorted({str(name) for array in arrays.values() for name in np.unique(array)})
    order = list(names or found)
    missing = [name for name in found if name not in order]
    if missing:
        raise InputError(f"the label {missing[0]!r} is not valid. Valid: {', '.join(order)}")
    places = {name: place for place, name in enumerate(order)}
    numbered = {
        key: np.array([places[str(name)] for name in array]) for key, array in arrays.items()
    }
    return numbered, order


def _check_numbers(arrays: dict[str, NDArray[Any]], names: Sequence[str] | None) -> None:
    low = min(int(array.min()) for array in arrays.values())
    high = max(int(array.max()) for array in arrays.values())
    if low < 0 or (names and high >= len(names)):
        allowed = f"0...{len(names) - 1}" if names else "0, 1, 2..."
        raise InputError(
            f"labels from {low} to {high}: they must be {allowed}; leave out what has no class"
        )
    if low == high:
        raise InputError(f"all labels are {low}: give examples of at least 2 classes")
    if low == 1 and not names:
        raise InputError(f"labels from 1 to {high}: they begin at 0, give labels - 1")


def check_trained(labels: dict[str, Tensor], names: Sequence[str]) -> None:
    """Raise ``InputError`` for a class without a training example."""
    examples = labels["train"].bincount(minlength=len(names)).tolist()
    untrained = [name for name, count in zip(names, examples, strict=True) if not count]
    if untrained:
        shown = ", ".join(untrained[:5])
        raise InputError(
            f"no example of class {shown} in the split 'train' to learn it from: give some"
        )
