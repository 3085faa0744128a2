"""A float model that is trained already: a checkpoint, or a registered module. Nothing is ever
unpickled."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qstrategies.errors import InputError
from qstrategies.models import MODELS
from qstrategies.records import Checkpoint, ExperimentConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import BASELINE

WRAPPERS = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every name."""
SHOWN = 3


def is_trained(config: ExperimentConfig) -> bool:
    """Whether the float model of ``config`` is given, not to be trained here."""
    return config.checkpoint is not None or _is_object(config.model)


def can_start(strategy: str) -> bool:
    """Whether ``strategy`` continues the plain float model, or quantizes it as it is."""
    course = STRATEGIES.get(strategy).course
    return (course.parent or strategy) == BASELINE and not course.fresh


def check_start(config: ExperimentConfig) -> None:
    """Raise ``InputError`` where ``config`` cannot start from what it is given."""
    if not is_trained(config):
        return
    if config.checkpoint is not None and _is_object(config.model):
        raise InputError(f"model {config.model!r} is trained already: leave out --checkpoint")
    if not can_start(config.strategy):
        valid = ", ".join(name for name in STRATEGIES.names() if can_start(name))
        raise InputError(
            f"{config.strategy!r} trains from scratch, so it cannot start from a trained model: "
            f"leave it out. Valid: {valid}"
        )


def fill(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give ``model`` the weights of ``checkpoint``, in place; other float types are converted.

    What wrappers put before all names is taken off. What is one parameter in the model may stand in
    the file once, and the counters of batch normalization may be missing.

    Raises:
        InputError: names that are missing or too many, other shapes or types, a file that was
            written since; ``model`` is then left as it was.
    """
    own = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    checkpoint.check_unchanged()
    tensors = _unwrapped(load_file(checkpoint.path), own)
    faults = _misfits(tensors, own)
    if faults:
        raise InputError(
            f"checkpoint {checkpoint.path!r} does not fit the model: {'; '.join(faults)}: rename "
            "what is in the file, or register the model that it was trained as"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _is_object(model: str) -> bool:
    return isinstance(MODELS.get(model), nn.Module)


def _unwrapped(tensors: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        wrapped = tensors and all(name.startswith(prefix) for name in tensors)
        if wrapped and not any(name.startswith(prefix) for name in own):
            bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            return _unwrapped(bare, own)
    return tensors


def _misfits(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """In words, what of ``tensors`` does not go into ``own``."""
    there = {id(own[name]) for name in own if name in tensors}
    missing = [
        name
        for name, value in own.items()
        if id(value) not in there and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in tensors if name not in own]
    faults = [f"it lacks {_some(missing)}"] if missing else []
    faults += [f"the model has no {_some(unexpected)}"] if unexpected else []
    pairs = {name: (tensor, own[name]) for name, tensor in tensors.items() if name in own}
    differ = [
        f"{name} is {list(tensor.shape)} there and {list(value.shape)} in the model"
        for name, (tensor, value) in pairs.items()
        if tensor.shape != value.shape
    ]
    differ += [
        f"{name} is {_type(tensor)} there and {_type(value)} in the model"
        for name, (tensor, value) in pairs.items()
        if tensor.is_floating_point() != value.is_floating_point()
    ]
    return [*faults, *differ[:SHOWN]]


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
