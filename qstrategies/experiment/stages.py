"""Trained models by the content of what they depend on: a stage that was computed once is read, not
repeated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from qstrategies import typed_json
from qstrategies.errors import InputError
from qstrategies.files import atomic_write, exists, read_bytes, sha256
from qstrategies.records import content_key
from qstrategies.training.loop import History


@dataclass(frozen=True)
class Stage:
    """A trained, folded model, its history, and the key of all that it depends on."""

    model: nn.Module
    history: History
    key: str


def stage(
    folder: Path,
    depends_on: dict[str, Any],
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, str], History],
    say: Callable[[str], None],
) -> Stage:
    """The model that ``train``, told the key, makes of ``build()``; from ``folder`` if it was made
    before from equal ``depends_on``.

    A model just trained gets the memory layout of one that is read, so that both compute the very
    same bits. A damaged file is made again, and ``say`` hears of it.
    """
    key = content_key(depends_on)
    path = stage_file(folder, key)
    model = build()
    if exists(path):
        try:
            return Stage(model, _read(path, key, model), key)
        except InputError as error:
            say(f"trained again: {error}")
            model = build()
    history = train(model, key)
    for tensor in model.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    _write(path, key, model, history)
    return Stage(model.eval(), history, key)


def stage_file(folder: Path, key: str) -> Path:
    """Where in ``folder`` the model of ``key`` is kept."""
    return folder / f"{key[:24]}.safetensors"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of ``tensors``: names, types, shapes and every bit of the values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, key: str, model: nn.Module, history: History) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    meta = {"key": key, "history": json.dumps(dataclasses.asdict(history))}
    atomic_write(path, save(tensors, {**meta, "sha256": _seal(meta, tensors)}))


def _seal(meta: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    return sha256(f"{meta['key']} {meta['history']} {tensors_sha256(tensors)}".encode())


def _read(path: Path, key: str, model: nn.Module) -> History:
    """Load ``path`` into ``model``; raises ``InputError`` if it is damaged or of another key."""
    data = read_bytes(path)
    try:
        meta = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        tensors = load(data)
        whole = meta["key"] == key and meta["sha256"] == _seal(meta, tensors)
        history: History = typed_json.build(History, typed_json.load(meta["history"]))
        model.load_state_dict(tensors)
    except Exception:  # a damaged file can fail in any of the parsers
        whole = False
    if not whole:
        raise InputError(f"{str(path)!r} is damaged")
    model.eval()
    return history
