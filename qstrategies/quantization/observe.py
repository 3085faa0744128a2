"""What a run of a traced graph shows of every node: what it gives, what it changes in place, what
it only passes on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

from qstrategies.errors import InputError, first_line
from qstrategies.quantization.structure import leaves

QUERIES = {
    "size",
    "dim",
    "numel",
    "nelement",
    "ndimension",
    "is_contiguous",
    "is_floating_point",
    "type",
    "get_device",
    getattr,
    len,
    torch.numel,
    torch.is_floating_point,
}
"""Calls that give a property of a tensor and no value of it."""

OF_THEIR_TYPE: dict[Any, int] = {
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_tensor", "new_empty"), 0),
    **dict.fromkeys((torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like), 0),
    **dict.fromkeys((torch.rand_like, torch.randn_like, torch.randint_like), 0),
    **dict.fromkeys(("type_as", "to", "expand_as", "view_as", "reshape_as"), 1),
}
"""Calls that read no value of the argument at a place, only its type and shape."""


def two_batches(example: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """The example as a batch of two and as one of three: what differs between runs of them depends
    on the batch."""
    return [copies_of(example, count) for count in (2, 3)]


def copies_of(example: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """The example as a batch of ``count``."""
    return tuple(_copies(each, count, len(example[0])) for each in example)


def _copies(example: Tensor, count: int, batch: int) -> Tensor:
    """``count`` examples; an input without the batch dimension is taken as it is."""
    if example.dim() == 0 or len(example) != batch:
        return example.clone()
    repeated = torch.cat([example] * (count // len(example) + 1))
    return repeated[:count].clone()


WRITERS = {"setitem", "iadd", "isub", "imul", "itruediv"}
RESHAPES_IN_PLACE = {"squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"}


@dataclass(frozen=True)
class Fact:
    """``changed``: the tensor that the node changed in place, ``before``: what that was;
    ``same_as``: the input that it returned as it was; ``reshaped``: all names of the tensor that it
    gave another shape, in place.
    """

    value: Any
    changed: fx.Node | None = None
    before: Tensor | None = None
    same_as: fx.Node | None = None
    reshaped: tuple[fx.Node, ...] = ()

    @functools.cached_property
    def place(self) -> tuple[Any, ...]:
        """Where ``value`` lies, if it is a tensor: asked for when the run is over."""
        return place(self.value) if isinstance(self.value, Tensor) else ()


Facts = dict[fx.Node, Fact]


class _Observer(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(
            module, garbage_collect_values=False
        )  # storages must live on, to be compared
        self.extra_traceback = False
        self.facts: Facts = {}
        self.reshaped: tuple[fx.Node, ...] = ()

    def run_node(self, n: fx.Node) -> Any:
        tensors = {
            node: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Tensor)
        }
        versions = {node: tensor._version for node, tensor in tensors.items()}
        target = n.args[0] if n.args and _may_write(n) else None
        before = tensors[target].clone() if target in tensors else None  # type: ignore[index]
        self.reshaped = ()
        try:
            reshapes = n.op == "call_method" and n.target in RESHAPES_IN_PLACE
            value = self._reshaped(n) if reshapes else super().run_node(n)
        except Exception as error:
            raise InputError(
                f"{describe(n)} fails on the example: {first_line(error)}; give one that fits"
            ) from None
        changed = [node for node, tensor in tensors.items() if tensor._version != versions[node]]
        same = None
        if isinstance(value, Tensor) and not changed:
            same = next(
                (node for node, tensor in tensors.items() if place(tensor) == place(value)), None
            )
        written = changed[0] if changed else None
        was = before if written is target else None
        self.facts[n] = Fact(value, written, was, same, self.reshaped)
        return value

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        return own_lists(super().fetch_args_kwargs_from_env(n))

    def _reshaped(self, n: fx.Node) -> Tensor:
        """A view that stands for the tensor from now on, so that what was seen of that stays."""
        (before, *args), kwargs = self.fetch_args_kwargs_from_env(n)
        view: Tensor = getattr(before, str(n.target).removesuffix("_"))(*args, **kwargs)
        self.reshaped = tuple(node for node, value in self.env.items() if value is before)
        self.env.update(dict.fromkeys(self.reshaped, view))
        return view


def own_lists(value: Any) -> Any:
    """The arguments ``value`` of a node, whose lists and dicts its function may change."""
    if type(value) is tuple:
        return tuple(own_lists(each) for each in value)
    if isinstance(value, immutable_list):
        return [own_lists(each) for each in value]
    if isinstance(value, immutable_dict):
        return {name: own_lists(each) for name, each in value.items()}
    return value


def _may_write(node: fx.Node) -> bool:
    """Whether ``node`` calls what changes its first argument by its name."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return node.op != "call_module" and (in_place or name in WRITERS)


@torch.no_grad()
def observe(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Facts:
    """Run ``module`` on ``inputs``. Raises ``InputError`` that names the node if the model fails on
    them."""
    observer = _Observer(module)
    observer.run(*inputs)
    return observer.facts


def place(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common if they are one."""
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share an element."""
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    return bool(torch.isin(_elements(a), _elements(b)).any())


def _elements(tensor: Tensor) -> Tensor:
    """Where in its storage the elements of ``tensor`` lie."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    places = torch.arange(size)
    return places.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten()


def holds_tensor(value: Any) -> bool:
    """Whether there is a tensor in ``value``."""
    return any(isinstance(each, Tensor) for _, each in leaves(value))


def same(a: Any, b: Any) -> bool:
    """Whether two runs gave the same."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and _equal(a, b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point():
        a, b = a.nan_to_num(), b.nan_to_num()
    return torch.equal(a, b)


def describe(node: fx.Node) -> str:
    """A node as its author knows it: the module or function, and where it is called."""
    target = (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )
    kinds = {"call_module": "module", "call_method": "method", "placeholder": "input"}
    kind = kinds.get(node.op, "function")
    line = node.meta.get("line")
    return f"{kind} {target!r}" + (f" ({line})" if line else "")
