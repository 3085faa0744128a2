"""A call of the user's graph: what the operators say that it is, or the island that it stays."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from qstrategies.errors import InputError
from qstrategies.operators import RECOGNIZERS
from qstrategies.operators.base import FORMS, Recognizer, Shape, shape_of
from qstrategies.operators.island import Float, FunctionCall, OnCopies, Part
from qstrategies.operators.movement import Reshape
from qstrategies.operators.slicing import Slice
from qstrategies.quantization.capture import plain_base
from qstrategies.quantization.meanings import VariesWithBatch, shape_over_batches
from qstrategies.quantization.observe import describe
from qstrategies.quantization.structure import mapped

if TYPE_CHECKING:
    from qstrategies.quantization.normalize import Rebuild

BROADCASTING = {
    *(getattr(operator, name) for name in ("add", "sub", "mul", "truediv")),
    torch.add,
    torch.sub,
    torch.mul,
    "add",
    "mul",
}
SPLITS = {
    "chunk",
    "split",
    "unbind",
    "tensor_split",
    torch.chunk,
    torch.split,
    torch.unbind,
    torch.tensor_split,
}


FIRST_PARTS = {torch.max: torch.amax, "max": torch.amax}
"""What gives the first of several results, by what gives them all from the same arguments."""


class Call:
    """A call of the user's graph, for its recognizer."""

    def __init__(self, rebuild: Rebuild, node: fx.Node, value: Tensor, other: Tensor) -> None:
        self.rebuild, self.node, self.example = rebuild, node, value
        self.shape: Shape = shape_over_batches(value, other)

    def emit(self, module: nn.Module, *inputs: fx.Node, shape: Shape | None = None) -> fx.Node:
        """Call ``module``; ``shape`` where it is not that of the whole result."""
        named = self.node.op == "call_module" and type(module) in FORMS
        name = str(self.node.target) if named else self.node.name
        made: Any = module
        made.stays_in_eval = self._stays_in_eval()
        if not self._trains():  # it holds numbers of a buffer, or that a pool divides by
            module.requires_grad_(False)
        emitted = self.rebuild.add(name, module, inputs)
        emitted.meta["shape"] = self.shape if shape is None else shape
        emitted.meta["dtype"] = self.example.dtype
        return emitted

    def _trains(self) -> bool:
        """Whether what is called has parameters of the user's, or reads some."""
        if self.node.op != "call_module":
            return not self.rebuild.trained.isdisjoint(self.node.all_input_nodes)
        called = self.rebuild.captured.module.get_submodule(str(self.node.target))
        return any(parameter.requires_grad for parameter in called.parameters())

    def _stays_in_eval(self) -> bool:
        """Whether the user has frozen the module that is called."""
        if self.node.op != "call_module":
            return False
        called = self.rebuild.captured.module.get_submodule(str(self.node.target))
        return bool(getattr(called, "stays_in_eval", False))

    def reshape(self, x: fx.Node) -> fx.Node:
        """``x`` in the shape of the result. Raises ``InputError`` if the batch size is in two
        dimensions."""
        sizes = tuple(-1 if size is None else size for size in self.shape)
        if sizes.count(-1) > 1:
            raise InputError(
                f"{describe(self.node)} has the batch size in two dimensions, which no file can: "
                "keep it in the first"
            )
        return x if shape_of(x) == self.shape else self.emit(Reshape(sizes), x)

    def recognized(self, target: Any = None) -> fx.Node | None:
        """What the operators say that this call, or one of ``target`` with its arguments, is; None
        if they do not know it, or not with these arguments."""
        node, rebuild = self.node, self.rebuild
        module = None
        target = node.target if target is None else target
        if node.op == "call_module":
            module = rebuild.captured.module.get_submodule(str(target))
            if str(target) in rebuild.captured.leaves or _has_hooks(module):
                return None
            target = plain_base(module) or type(module)
        recognizer = RECOGNIZERS.get(target) if _hashable(target) else None
        if recognizer is None or not self._floats():
            return None
        broadcasts = target in BROADCASTING
        args, kwargs = (
            rebuild.take(each, broadcasts=broadcasts) for each in (node.args, node.kwargs)
        )
        args = args if module is None else (module, *args)
        return recognizer(self, *args, **kwargs) if _takes(recognizer, self, args, kwargs) else None

    def _floats(self) -> bool:
        """Whether all tensors here are float32: integers and booleans have no quantizer."""
        inputs = [self.rebuild.two[source].value for source in self.node.all_input_nodes]
        tensors = [each for each in (*inputs, self.example) if isinstance(each, Tensor)]
        return all(tensor.dtype == torch.float32 for tensor in tensors)

    def island(self, path: tuple[Any, ...] = (), *, assigns: bool = False) -> fx.Node:
        """The call as it is, in float; ``path`` to the wanted tensor if it gives several."""
        node, rebuild = self.node, self.rebuild
        broadcasts = node.target in BROADCASTING
        args, kwargs = (
            rebuild.take(each, broadcasts=broadcasts) for each in (node.args, node.kwargs)
        )
        tensors: list[fx.Node] = []
        map_arg((args, kwargs), lambda each: tensors.append(each) if each not in tensors else None)
        _refuse_batch_numbers(node, (args, kwargs))
        inner: nn.Module
        target: Any = node.target
        if node.op == "call_module":
            inner = copy.deepcopy(rebuild.captured.module.get_submodule(str(target)))
            name = type(inner).__name__
            reason = rebuild.captured.leaves.get(
                str(target), f"{name} has no exact integer form with these settings"
            )
            if kwargs or list(args) != tensors:
                inner = FunctionCall(inner, args, kwargs, tensors)
        else:
            name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            reason = f"{name} has no exact integer form with these arguments"
            inner = FunctionCall(_assigned if assigns else target, args, kwargs, tensors)
        if rebuild.two[node].changed is not None and not assigns:
            inner = OnCopies(inner)  # every name of what it changes means its result from now on
        for place_ in path:
            inner = Part(inner, place_)
        return self.emit(Float(inner.eval(), name, reason), *tensors)


def _takes(recognizer: Recognizer, call: Call, args: Any, kwargs: Any) -> bool:
    """Whether ``recognizer`` has these parameters, with tensors of the graph where it wants
    them."""
    signature = inspect.signature(recognizer)
    try:
        bound = signature.bind(call, *args, **kwargs)
    except TypeError:
        return False
    wanted = [name for name, each in signature.parameters.items() if each.annotation == "fx.Node"]
    return all(isinstance(bound.arguments.get(name), fx.Node) for name in wanted)


def _assigned(x: Tensor, index: Any, value: Any) -> Tensor:
    """``x`` after ``x[index] = value``; ``x`` itself is not changed."""
    copied = x.clone()
    copied[index] = value
    return copied


def _refuse_batch_numbers(node: fx.Node, arguments: Any) -> None:
    def leaf(_: str, value: Any) -> None:
        if isinstance(value, VariesWithBatch):
            raise InputError(
                f"{describe(node)} computes with the batch size, which no file can: take that "
                "out of forward"
            )

    mapped(arguments, leaf)


def _has_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's may change what ``module`` computes; torch's own only compute its
    weight."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not type(hook).__module__.startswith("torch.nn.utils") for hook in hooks)


def _hashable(target: Any) -> bool:
    return getattr(target, "__hash__", None) is not None


def slices(
    rebuild: Rebuild, node: fx.Node, values: Sequence[Tensor], others: Sequence[Tensor]
) -> Any:
    """The parts that a call of ``SPLITS`` gives of its input."""
    source: Any = node.args[0]
    x = rebuild.take(source)
    rank = len(shape_of(x))
    unbound = values[0].dim() < rank
    dim = _split_dimension(node, rank)
    found, start = [], 0
    for value, other in zip(values, others, strict=True):
        count = 1 if unbound else value.shape[dim]
        call = Call(rebuild, node, value, other)
        shape = shape_of(x)
        if shape[dim] is None:
            raise InputError(f"{describe(node)} splits the batch: take that out of forward")
        part = call.emit(
            Slice(dim, start, start + count), x, shape=(*shape[:dim], count, *shape[dim + 1 :])
        )
        found.append(call.reshape(part) if unbound else part)
        start += count
    return tuple(found)


def _split_dimension(node: fx.Node, rank: int) -> int:
    position = 1 if node.target in ("unbind", torch.unbind) else 2
    given = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    assert isinstance(given, int)
    return given % rank
