"""Datasets of arrays: in memory, mapped into it, in .npz files; signals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qstrategies.arguments import as_path
from qstrategies.datasets.encoding import tensor_of
from qstrategies.datasets.made import MadeDataset, Part, made
from qstrategies.datasets.settings import SPLITS, Settings
from qstrategies.datasets.stored import InMemory
from qstrategies.errors import InputError, unknown
from qstrategies.files import check_file, doing

INPUTS = ("x", "images", "inputs", "data", "features", "signals")
LABELS = ("y", "label", "labels", "targets", "target")
PCM_STEPS = 32768
"""Of 16-bit audio, in the unit 1."""

Pairs = Mapping[str, tuple[Any, Any]]


def from_arrays(inputs: Any, labels: Any = None, **settings: Any) -> MadeDataset:
    """A dataset of arrays: ``from_arrays(x, y)``, ``from_arrays("data.npz")``, or by split
    ``from_arrays({"train": (x, y), "test": (v, w)})``.

    Args:
        inputs: [N, ...] of any rank, NumPy or torch: bytes are pixels (of [N, height, width] or
            [N, channels, height, width]), real values are taken as they are, other integers as
            the numbers of words; ``np.load(..., mmap_mode="r")`` leaves them on disk. Or pairs of
            inputs and labels by split. Or an .npz file that names its arrays x and y, or x_train,
            y_train, x_test and so on.
        labels: [N], the numbers or the names of classes.
        settings: see ``Settings``.

    Raises:
        InputError: what does not fit together, or is missing.
    """
    pairs = _pairs(inputs, labels)
    return _made(
        {split: (_values(x, split), y) for split, (x, y) in pairs.items()}, settings, "arrays"
    )


def from_signals(inputs: Any, labels: Any = None, **settings: Any) -> MadeDataset:
    """As ``from_arrays``, of signals [N, time] or [N, channels, time]; 16-bit audio becomes real
    values from -1 to 1."""
    pairs = _pairs(inputs, labels)
    signals = {split: (_signal(tensor_of(x, "signals")), y) for split, (x, y) in pairs.items()}
    return _made(signals, settings, "signals")


def _made(pairs: Pairs, settings: Mapping[str, Any], kind: str) -> MadeDataset:
    parts = {split: Part(InMemory(x), y) for split, (x, y) in pairs.items()}
    return made(parts, Settings.of(settings), kind, kind)


def _values(given: Any, split: str) -> Any:
    """``given`` as a tensor, unless it is mapped into memory; grey pictures get their channel."""
    values = given if isinstance(given, np.memmap) else tensor_of(given, f"inputs of {split!r}")
    shape = tuple(values.shape)
    if not shape:
        raise InputError(f"inputs of {split!r} are a single number: expected [N, ...]")
    if values.dtype not in (torch.uint8, np.uint8):
        return values
    if len(shape) == 4 and _channels_last(shape):
        raise InputError(
            f"inputs of {split!r} have shape {list(shape)}: channels come before height and width, "
            "give x.transpose(0, 3, 1, 2)"
        )
    return values[:, None] if len(shape) == 3 else values


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


def _signal(values: Tensor) -> Tensor:
    if values.dim() not in (2, 3):
        raise InputError(
            f"signals have shape {list(values.shape)}: expected [N, time] or [N, channels, time]"
        )
    signal = values.unsqueeze(1) if values.dim() == 2 else values
    return signal.float() / PCM_STEPS if signal.dtype == torch.int16 else signal


def _pairs(inputs: Any, labels: Any) -> Pairs:
    if isinstance(inputs, str | Path):
        return _npz(as_path(inputs, "inputs"))
    if isinstance(inputs, Mapping):
        for split, pair in inputs.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"{split!r}: expected a pair (inputs, labels)")
        return inputs
    if labels is None:
        raise InputError("inputs without labels: give from_arrays(inputs, labels)")
    return {"train": (inputs, labels)}


def _npz(path: Path) -> Pairs:
    """The pairs of arrays in an .npz file. Nothing is unpickled."""
    check_file(path)
    try:
        with doing("read", path), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, AttributeError, EOFError) as error:
        raise InputError(
            f"{str(path)!r} is no .npz file of plain arrays: {error}; write it with np.savez"
        ) from None
    pairs: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        split, role = _place(name)
        pairs.setdefault(split, {})[role] = array
    for split, pair in pairs.items():
        if len(pair) != 2:
            missing = "labels" if "inputs" in pair else "inputs"
            raise InputError(
                f"{str(path)!r} has no {missing} of {split!r}, only {', '.join(arrays)}"
            )
    return {split: (pair["inputs"], pair["labels"]) for split, pair in pairs.items()}


def _place(name: str) -> tuple[str, str]:
    """The split and the role of an array: "x_train", "test_labels", "y"."""
    words = name.lower().split("_")
    splits = [SPLITS[word] for word in words if word in SPLITS] or ["train"]
    roles = [
        role for role, known in (("inputs", INPUTS), ("labels", LABELS)) if set(known) & set(words)
    ]
    if len(roles) != 1:
        raise unknown("array", name, ["x", "y", "x_train", "y_train", "x_test", "y_test"])
    return splits[0], roles[0]
