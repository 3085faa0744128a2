"""A call of the user's graph: what the operators say that it is, or the island that it stays."""

from __future__ import annotations

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
from qstrategies.operators.batch_number import BatchNumberError, numbers_of_batch
from qstrategies.operators.island import Float, FunctionCall, OnCopies, Part
from qstrategies.operators.layer import own_module
from qstrategies.operators.movement import Reshape
from qstrategies.operators.slicing import Slice
from qstrategies.quantization.capture import PLAIN, has_hooks, plain_base
from qstrategies.quantization.fixed_functions import OFF
from qstrategies.quantization.meanings import shape_over_batches, uneven
from qstrategies.quantization.observe import describe

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
JOINING = {torch.cat, torch.concat, torch.concatenate}
"""What has a form for a constant row, but needs one per example if it stays in float."""
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
        made: Any = module
        made.stays_in_eval = self._stays_in_eval() or getattr(made, "stays_in_eval", False)
        emitted = self.rebuild.new.add(self._name(module), module, inputs)
        emitted.meta["shape"] = self.shape if shape is None else shape
        emitted.meta["dtype"] = self.example.dtype
        return emitted

    def _name(self, form: nn.Module) -> str:
        """The name of the user's module for ``form``; one like it for what brings a layer its
        input, or its output into shape."""
        if self.node.op != "call_module" or type(form) not in FORMS:
            return self.node.name
        name = str(self.node.target)
        layer = plain_base(self.rebuild.captured.module.get_submodule(name))
        is_it = layer is None or isinstance(form, (*PLAIN, Float))
        return name if is_it else f"{name}_{type(form).__name__.lower()}"

    def _stays_in_eval(self) -> bool:
        """Whether the user has frozen the module that is called, or calls a function as in
        evaluation."""
        if self.node.op != "call_module":
            return OFF in self.node.meta
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
            if str(target) in rebuild.captured.leaves or has_hooks(module):
                return None
            for compute_weight in module._forward_pre_hooks.values():  # torch's own
                compute_weight(module, ())  # with a gradient, which says whether it is trained
            target = plain_base(module) or type(module)
        recognizer = RECOGNIZERS.get(target) if _hashable(target) else None
        if recognizer is None or not self._floats():
            return None
        broadcasts = target in BROADCASTING | JOINING
        args, kwargs = (
            rebuild.take(each, broadcasts=broadcasts) for each in (node.args, node.kwargs)
        )
        args = args if module is None else (module, *args)
        if not _takes(recognizer, self, args, kwargs):
            return None
        try:
            return recognizer(self, *args, **kwargs)
        except BatchNumberError:
            return None

    def _floats(self) -> bool:
        """Whether all tensors here are float32, as integers and booleans have no quantizer, but
        for constant places and masks."""
        rebuild, places = self.rebuild, (torch.int64, torch.int32, torch.bool)
        known = {each: rebuild.two[each].value for each in self.node.all_input_nodes}
        tensors = [
            value
            for source, value in known.items()
            if not (isinstance(rebuild.env[source], Tensor) and value.dtype in places)
        ]
        tensors = [each for each in (*tensors, self.example) if isinstance(each, Tensor)]
        return all(tensor.dtype == torch.float32 for tensor in tensors)

    def island(self, path: tuple[Any, ...] = (), *, assigns: bool = False) -> fx.Node:
        """The call as it is, in float; ``path`` to the wanted tensor if it gives several."""
        node, rebuild = self.node, self.rebuild
        broadcasts = node.target in BROADCASTING
        args, kwargs = (
            rebuild.take(each, broadcasts=broadcasts) for each in (node.args, node.kwargs)
        )
        tensors = self._tensors(args, kwargs)
        inner: nn.Module
        target: Any = node.target
        if node.op == "call_module":
            _refuse_time_first(node, rebuild.captured.module.get_submodule(str(target)), tensors)
            inner = own_module(rebuild.captured.module.get_submodule(str(target)))
            name = type(inner).__name__
            reason = rebuild.captured.leaves.get(
                str(target), f"{name} has no exact integer form with these settings"
            )
            if kwargs or list(args) != tensors:
                inner = self._function(inner, args, kwargs)
        else:
            name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            reason = f"{name} has no exact integer form with these arguments"
            target = _assigned if assigns else target
            inner = self._function(target, args, kwargs)
        if rebuild.two[node].changed is not None and not assigns:
            inner = OnCopies(inner)  # every name of what it changes means its result from now on
        for place_ in path:
            inner = Part(inner, place_)
        return self.emit(Float(inner.eval(), name, reason), *tensors)

    def assigned(self, whole: Any, index: Any, item: Any) -> fx.Node:
        """``whole``, in float, with ``item`` in the place of what ``index`` takes of it."""
        args = (whole, index, item)
        reason = "an item that is changed in place has no exact integer form"
        form = Float(self._function(_assigned, args, {}), "setitem", reason)
        return self.emit(form, *self._tensors(args, {}))

    def _function(self, target: Any, args: Any, kwargs: Any) -> FunctionCall:
        """``target`` with arguments, of the ``_tensors`` among them."""
        tensors = self._tensors(args, kwargs)
        counted = self._entry(tensors) if numbers_of_batch((args, kwargs)) else None
        return FunctionCall(target, args, kwargs, tensors, counted)

    def _tensors(self, args: Any, kwargs: Any) -> list[fx.Node]:
        """The nodes among arguments, and one with a row per example where numbers depend on how
        many there are."""
        found: list[fx.Node] = []
        map_arg((args, kwargs), lambda each: found.append(each) if each not in found else None)
        refuse_halves(self.node, (args, kwargs))
        if numbers_of_batch((args, kwargs)):
            entry = self._entry(found)
            found += [] if entry in found else [entry]
        return found

    def _entry(self, tensors: Sequence[fx.Node]) -> fx.Node:
        """What has one row per example, to count them: one of ``tensors``, if possible."""
        rebuild = self.rebuild
        for source in self.node.all_input_nodes:
            runs = [facts[source].value for facts in (rebuild.two, rebuild.three)]
            counts = [each.shape[:1] for each in runs if isinstance(each, Tensor)]
            if counts == [(2,), (3,)] and rebuild.env[source] in tensors:
                entry: fx.Node = rebuild.env[source]
                return entry
        return rebuild.new.entry


def _refuse_time_first(node: fx.Node, module: nn.Module, tensors: Sequence[fx.Node]) -> None:
    """Raise ``InputError`` where ``module`` takes a sequence in the dimension of the batch, so that
    what it gives for an example depends on the others."""
    steps_first = any(getattr(each, "batch_first", True) is False for each in module.modules())
    shape = shape_of(tensors[0])
    if steps_first and len(shape) == 3 and shape[0] is None and shape[1] is not None:
        raise InputError(
            f"{describe(node)} takes the steps of a sequence in the first dimension, where it is "
            "given the batch: set batch_first=True, or transpose what it is given"
        )


def refuse_halves(node: fx.Node, arguments: Any) -> None:
    """Raise ``InputError`` for ``uneven`` numbers in ``arguments``: the shapes behind them seem to
    be known."""
    if any(map(uneven, numbers_of_batch(arguments))):
        raise InputError(
            f"{describe(node)} computes with a number that does not grow evenly with the batch "
            "size, as half of it: take that out of forward"
        )


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
