"""How a model takes and gives its tensors: positionally, by name, or in tuples, lists, dicts and
dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qstrategies.errors import InputError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
Leaf = Callable[[str, Any], Any]


def as_container(value: Any) -> Any:
    """``value``, a dict of its fields if it is a dataclass."""
    if isinstance(value, type) or not dataclasses.is_dataclass(value):
        return value
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def mapped(value: Any, leaf: Leaf, path: str = "") -> Any:
    """``value`` with ``leaf(path, x)`` in the place of everything that is no container."""
    fields = as_container(value)
    if fields is not value:
        return type(value)(**mapped(fields, leaf, path))
    if isinstance(value, Mapping):
        items = {name: mapped(each, leaf, _joined(path, name)) for name, each in value.items()}
        plain = type(value).__module__.startswith(("builtins", "torch.fx"))
        return items if plain else type(value)(items)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [
            mapped(each, leaf, _joined(path, name))
            for name, each in zip(value._fields, value, strict=True)
        ]
        return type(value)(*parts)
    if isinstance(value, tuple | list):
        kind = list if isinstance(value, list) else tuple
        return kind(mapped(each, leaf, _joined(path, index)) for index, each in enumerate(value))
    return leaf(path, value)


def leaves(value: Any) -> list[tuple[str, Any]]:
    """Everything in ``value`` that is no container, with its path (``"boxes_0"``)."""
    found: list[tuple[str, Any]] = []
    mapped(value, lambda path, each: found.append((path, each)))
    return found


def _joined(path: str, name: Any) -> str:
    return f"{path}_{name}" if path else str(name)


Filled = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call, by place and by name."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of a model's forward, as ``example`` gives them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    parameters: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> Arguments:
        """One tensor, a tuple of what forward takes, or a dict by its parameters' names.

        Raises:
            InputError: something else than tensors in it.
        """
        parameters = _parameters(model)
        args, kwargs = _split(example, model)
        named = {**dict(zip(parameters, args, strict=False)), **kwargs}
        extra = {
            f"input_{index}": each for index, each in enumerate(args) if index >= len(parameters)
        }
        given = [(path, each) for path, each in leaves({**named, **extra}) if each is not None]
        for path, each in given:
            if isinstance(each, bool | int | float | str):
                raise InputError(
                    f"argument {path!r} of the example is {each!r}: only tensors are inputs. Give "
                    "a module that calls the model with it"
                )
        found = [(path, as_tensor(each)) for path, each in given]
        if not found:
            raise InputError("the example holds no tensor: give what the model takes")
        names, tensors = zip(*found, strict=True)
        return cls(args, kwargs, names, tensors, tuple(parameters))

    def filled(self, values: Sequence[Any]) -> Filled:
        """The arguments with ``values`` in the place of the tensors."""
        rest = iter(values)

        def leaf(_: str, each: Any) -> Any:
            return each if each is None else next(rest)

        args = mapped(tuple(self.args), leaf)
        return args, mapped(dict(self.kwargs), leaf)

    def tensors_in(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call, in the order of ``names``.

        Raises:
            InputError: another number of tensors than the model takes.
        """
        example = {**dict(zip(self.parameters, self.args, strict=False)), **self.kwargs}
        given = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        ordered = {
            name: _in_order(given.pop(name), value)
            for name, value in example.items()
            if name in given
        }
        rest = [*given.values(), *args[len(self.parameters) :]]
        found = [each for _, each in leaves([*ordered.values(), *rest]) if each is not None]
        if len(found) != len(self.names):
            raise InputError(f"got {len(found)} tensors: expected {self._list()}")
        return found

    def tensors_of(self, batch: Any) -> tuple[Tensor, ...]:
        """The input tensors in a batch of a data loader, which may hold labels behind them.

        A dict, alone or before labels, is looked through by names, whatever their order.

        Raises:
            InputError: fewer tensors than the model takes, or names that it does not know.
        """
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if isinstance(first, Mapping):
            return self._by_name(first)
        found = [each for _, each in leaves(batch) if each is not None]
        if len(found) < len(self.names):
            raise InputError(
                f"a batch of {len(found)} tensors: expected {len(self.names)}, {self._list()}"
            )
        return tuple(as_tensor(each) for each in found[: len(self.names)])

    def _by_name(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        known = dict(leaves(batch))
        found = [_named(known, name) for name in self._paths()]
        if None not in found:
            return tuple(as_tensor(each) for each in found)
        fitting = [each for each in known.values() if self._fits(each)]
        if len(self.names) == 1 and len(fitting) == 1:
            return (as_tensor(fitting[0]),)
        raise InputError(
            f"a batch with the keys {sorted(map(str, batch))}: expected {self._list()}"
        )

    def _paths(self) -> Sequence[str]:
        """Where a dict has the tensors: under their names, or, for a model of one dict, as that
        has them."""
        if len(self.args) == 1 and isinstance(self.args[0], Mapping):
            return [path for path, each in leaves(self.args[0]) if each is not None]
        return self.names

    def _fits(self, value: Any) -> bool:
        if not hasattr(value, "shape"):
            return False
        return tuple(value.shape[1:]) == tuple(self.tensors[0].shape[1:])

    def _list(self) -> str:
        return ", ".join(map(repr, self.names))


def _named(known: Mapping[str, Any], name: str) -> Any | None:
    """What is under ``name``, or the only one under it further inside."""
    inside = [path for path in known if path.endswith(f"_{name}")]
    if name in known or len(inside) != 1:
        return known.get(name)
    return known[inside[0]]


def _in_order(value: Any, pattern: Any) -> Any:
    """``value`` with the keys of its dicts in the order of ``pattern``."""
    if isinstance(value, Mapping) and isinstance(pattern, Mapping):
        order = sorted(value, key=list(pattern).index) if value.keys() == pattern.keys() else value
        return {name: _in_order(value[name], pattern.get(name)) for name in order}
    if isinstance(value, tuple | list) and isinstance(pattern, tuple | list):
        return [_in_order(*pair) for pair in zip(value, pattern, strict=False)]
    return value


def _parameters(model: nn.Module) -> list[str]:
    """The names that forward takes positionally."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(model.forward)
    return [each.name for each in signature.parameters.values() if each.kind in kinds]


def _takes_several(model: nn.Module) -> bool:
    """Whether forward takes positionally another number of arguments than one."""
    parameters = inspect.signature(model.forward).parameters.values()
    any_number = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    return any_number or len(_parameters(model)) != 1


def _split(example: Any, model: nn.Module) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    known = inspect.signature(model.forward).parameters
    if isinstance(example, Mapping) and all(name in known for name in example):
        return (), example
    if type(example) in (tuple, list) and (len(example) == 1 or _takes_several(model)):
        return tuple(example), {}
    return (example,), {}


def as_tensor(value: Any) -> Tensor:
    """A tensor on the CPU; NumPy arrays are taken too, and those of libraries that turn into them.
    Raises ``InputError`` for anything else."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise InputError("a tensor holds no values: it is on the device 'meta'. Load them")
        return (value.clone() if value.is_inference() else value).detach().cpu()
    array = np.array(value) if hasattr(value, "__array__") else None
    if array is not None and array.dtype.kind in "fiub" and array.dtype.isnative:
        return torch.from_numpy(array)
    raise InputError(f"{value!r:.80} of type {type(value).__name__}: expected a tensor or an array")


def as_module(model: Any) -> nn.Module:
    """The module that a user's ``model`` is: what ``torch.compile`` or ``DataParallel`` was given,
    or itself.

    Raises:
        InputError: what is no module, or one whose forward PyTorch has translated already.
    """
    if isinstance(model, torch.export.ExportedProgram) or hasattr(model, "_guards_fn"):
        raise InputError(
            "a program of torch.export holds one batch size: give the module that was exported, "
            "or what convert_pt2e made to qs.from_pt2e"
        )
    if not isinstance(model, nn.Module):
        raise InputError(
            f"expected a torch.nn.Module or the path of an ONNX file: got {type(model).__name__}"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"TorchScript in {name!r}" if name else "TorchScript"
            raise InputError(f"{what} cannot be captured: give the module that it was made of")
    compiled: Any = getattr(model, "_orig_mod", model)
    return compiled.module if isinstance(compiled, WRAPPERS) else compiled


def device_of(module: nn.Module) -> torch.device:
    """Where ``module`` lies: its first parameter or buffer; the CPU if it has none.

    Raises:
        InputError: on "meta", where tensors have no values.
    """
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    if first is not None and first.is_meta:
        name = type(module).__name__
        raise InputError(f"{name} has no values: it is on the device 'meta'. Load its weights")
    return torch.device("cpu") if first is None else first.device


def named_outputs(value: Any) -> Iterator[tuple[str, Any]]:
    """The outputs of a model with their names: "logits" for one tensor, else their paths."""
    found = [(path, each) for path, each in leaves(value) if each is not None]
    for path, each in found:
        name = path or "logits"
        yield (f"output_{name}" if name[0].isdigit() else name), each


def check_single(model: nn.Module) -> None:
    """Raise ``InputError`` for parameters of another precision than fake quantizers train."""
    for name, each in model.named_parameters():
        if each.is_floating_point() and each.dtype != torch.float32:
            raise InputError(
                f"{name!r} is {each.dtype}: fake quantizers are trained in float32, give "
                "model.float(), and torch.autocast for less"
            )


def placed_as(model: nn.Module, trained: nn.Module) -> nn.Module:
    """``trained`` on the device and in the memory format of ``model``."""
    if any(_channels_last(each) for each in model.parameters()):
        trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return trained.to(device_of(model))


def _channels_last(tensor: Tensor) -> bool:
    """Whether the memory of a ``tensor`` [N, C, H, W] has the channels innermost."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()
