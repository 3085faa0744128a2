"""Trained models by the content of what they depend on: a stage that was computed once is read, not repeated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from qstrategies.files import atomic_write
from qstrategies.records import Epoch, WeightHistogram, content_key
from qstrategies.training import History


@dataclass(frozen=True)
class Stage:
    """A trained, folded model, its history, and the key of all that it depends on."""

    model: nn.Module
    history: History
    key: str


def stage(folder: Path, depends_on: dict[str, Any], build: Callable[[], nn.Module], train: Callable[[nn.Module, str], History]) -> Stage:
    """The model that ``train``, told the key, makes of ``build()``; from ``folder`` if it was made before from equal ``depends_on``.

    A model just trained gets the memory layout of one that is read, so that both compute the very same bits.
    """
    key = content_key(depends_on)
    path = folder / f"{key[:24]}.safetensors"
    found = _read(path, key, build)
    if found is not None:
        return Stage(*found, key=key)
    model = build()
    history = train(model, key)
    for tensor in model.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    meta = {"key": key, "history": json.dumps(dataclasses.asdict(history))}
    atomic_write(path, save({name: tensor.clone() for name, tensor in model.state_dict().items()}, meta))
    return Stage(model.eval(), history, key)


def _read(path: Path, key: str, build: Callable[[], nn.Module]) -> tuple[nn.Module, History] | None:
    """The model and history in ``path``; None if it is missing, damaged or of another key, so that it is made again."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if header["key"] != key:
            return None
        raw = json.loads(header["history"])
        model = build()
        model.load_state_dict(load(data))
    except Exception:  # a damaged cache file can fail in any of the parsers; computing it again is always right
        return None
    histograms = tuple(WeightHistogram(**{**item, "counts": tuple(item["counts"])}) for item in raw["histograms"])
    return model.eval(), History(tuple(Epoch(**item) for item in raw["curve"]), histograms)
