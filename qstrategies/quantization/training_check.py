"""Will QAT train the user's model? A forward may do in training what its capture in evaluation does
not show: auxiliary heads, branches on ``self.training``, gradients of its own.

The float graph of what is trained takes a step on two examples, and so does the user's model, in
training mode and with the same random numbers: outputs, gradients and statistics must be the same,
up to float rounding. What is not the same is said in a warning.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qstrategies.guest import level_outside, seeded
from qstrategies.quantization.capture import user_line
from qstrategies.quantization.copies import copy_of, in_training
from qstrategies.quantization.in_float import InFloat
from qstrategies.quantization.selfcheck import FLOAT_ROUNDING
from qstrategies.quantization.structure import leaves
from qstrategies.quantization.trying import FunctionMode

if TYPE_CHECKING:
    from qstrategies.quantization.prepare import Prepared

NAMED = 3
"""So many parameters or buffers are named."""


def warn_of_training(model: nn.Module, forms: Prepared) -> None:
    """Warn where the graph of ``forms`` trains otherwise than ``model`` does."""
    theirs = in_training(copy_of(model)).cpu().float()
    watched = _Watch()
    try:
        wanted = _step(theirs, forms, watched)
    except Exception as error:  # whatever a user's model raises
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        _warn(model, f"it fails in training mode on the example ({said})", "")
        return
    graph = copy.deepcopy(forms.graph).train()
    keep_frozen(graph)
    found = _step(graph, forms)
    evaluated = _Watch()
    _called(copy_of(model).cpu().float().eval(), forms, evaluated)
    apart = list(_differences(wanted, found, watched, evaluated))
    if apart:
        _warn(model, ", ".join(apart), _branch(watched.lines, evaluated.lines))


def _warn(model: nn.Module, what: str, where: str) -> None:
    at = f" at {where}" if where else ""
    warnings.warn(
        f"trainee.model will not train as {type(model).__name__} does{at}: {what}. It trains what "
        "evaluation computes: call what is for training only from the training loop, or train in "
        "float",
        stacklevel=level_outside(),
    )


def keep_frozen(graph: nn.Module) -> None:
    """Put what the user has frozen in ``graph`` into evaluation mode."""
    for module in graph.modules():
        if getattr(module, "stays_in_eval", False):
            module.eval()


@dataclass(frozen=True)
class _Step:
    """What a training step shows: ``gradients`` of inputs, by their places, and of parameters, by
    their names; ``moved``: the real buffers that it changed, by their names."""

    outputs: Sequence[Tensor]
    gradients: Mapping[str, Tensor]
    moved: Mapping[str, Tensor]


class _Watch(FunctionMode):
    """The lines of the user's that compute, where it is entered, and which tensors they read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.read: set[str] = set()
        self.names: dict[int, str] = {}

    def called(
        self, function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]
    ) -> Any:
        for _, each in leaves([*args, *named.values()]):
            if id(each) in self.names:
                self.read.add(self.names[id(each)])
        line = user_line()
        if line not in self.lines[-1:]:
            self.lines.append(line)
        return function(*args, **named)


def _called(module: nn.Module, forms: Prepared, watch: _Watch, inputs: Any = None) -> list[Tensor]:
    """What ``module`` of the user's gives for ``inputs``, those of ``forms`` if there are none."""
    state = itertools.chain(module.named_parameters(), module.named_buffers())
    watch.names = {id(each): name for name, each in state}
    args, kwargs = forms.arguments.filled(inputs or [each.clone() for each in forms.sample[0]])
    with seeded(0), InFloat(), watch:
        outputs = module(*args, **kwargs)
    return _real(outputs)


def _step(module: nn.Module, forms: Prepared, watch: _Watch | None = None) -> _Step:
    """Of ``module``, the user's if it is to be watched."""
    before = {name: each.clone() for name, each in module.named_buffers()}
    inputs = [_uneven(each) for each in forms.sample[0]]
    given = [each.clone() for each in inputs]  # which may be changed in place
    with torch.enable_grad():
        if watch is None:
            with seeded(0):
                outputs = _real(module(*given))
        else:
            outputs = _called(module, forms, watch, given)
        # before gradients, for which a checkpoint calls its part once more
        after = module.named_buffers()
        moved = {name: each.clone() for name, each in after if _changed(before.get(name), each)}
        gradients = _gradients(outputs, inputs, module)
    return _Step([each.detach() for each in outputs], gradients, moved)


def _real(outputs: Any) -> list[Tensor]:
    tensors = (each for _, each in leaves(outputs) if isinstance(each, Tensor))
    return [each for each in tensors if each.is_floating_point()]


def _uneven(x: Tensor) -> Tensor:
    """``x`` with examples that are not alike: normalized by their batch they would be 0."""
    if not x.is_floating_point():
        return x
    factors = torch.linspace(1, 0.8, len(x)).reshape(-1, *[1] * (x.dim() - 1)) if x.dim() else 1.0
    return (x.detach() * factors).requires_grad_()


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], module: nn.Module
) -> dict[str, Tensor]:
    """Of a sum of all ``outputs`` with random factors."""
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros(())
    for each in outputs:
        factors = torch.randn(each.shape, generator=generator) / math.sqrt(each.numel() or 1)
        loss = loss + (each.float() * factors).sum()
    real = {str(place): each for place, each in enumerate(inputs) if each.requires_grad}
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    asked = {**real, **trained}
    if not loss.requires_grad or not asked:
        return {}
    loss.backward()
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad
        for name, each in asked.items()
    }


def _changed(before: Tensor | None, after: Tensor) -> bool:
    return (
        before is not None
        and after.is_floating_point()
        and before.shape == after.shape
        and not torch.equal(before, after)
    )


def _differences(wanted: _Step, found: _Step, trained: _Watch, evaluated: _Watch) -> Iterator[str]:
    only = [name for name in trained.read - evaluated.read if name in wanted.gradients]
    if only:
        yield f"it reads {_names(only)} in training only"
    ours, theirs = len(found.outputs), len(wanted.outputs)
    if ours != theirs:
        yield f"it gives {theirs} tensors, not {ours}"
        return
    for place, (a, b) in enumerate(zip(found.outputs, wanted.outputs, strict=True)):
        if not _alike(a, b):
            yield f"output {place} is another"
            return
    largest = max((_size(each) for each in wanted.gradients.values()), default=0.0)
    for name, gradient in wanted.gradients.items():
        other = found.gradients.get(name, gradient)
        if other.shape == gradient.shape and not _alike(other, gradient, FLOAT_ROUNDING * largest):
            which = f"input {name}" if name.isdigit() else repr(name)
            yield f"the gradient of {which} is another"
            return
    left = [name for name, each in wanted.moved.items() if not _is_among(name, each, found.moved)]
    lost = [name for name in left if name in evaluated.read]
    if lost:
        yield f"it changes {_names(lost)}, which stays here"
    ours, theirs = (_count(each.gradients) for each in (found, wanted))
    if ours > theirs:
        yield (
            f"it trains {theirs} numbers and trainee.model {ours}, as what is computed of "
            "parameters is trained as what it is computed to"
        )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:NAMED]))
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _size(x: Tensor) -> float:
    """Root mean square."""
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def _alike(ours: Tensor, theirs: Tensor, least: float = 0.0) -> bool:
    if ours.shape != theirs.shape:
        return False
    size = _size(theirs)
    return not math.isfinite(size) or _size(ours - theirs) <= FLOAT_ROUNDING * max(size, least)


def _is_among(name: str, value: Tensor, others: Mapping[str, Tensor]) -> bool:
    same = [others[name]] if name in others else []
    fitting = (each for each in (*same, *others.values()) if each.numel() == value.numel())
    return any(_alike(each.flatten(), value.flatten()) for each in fitting)


def _count(gradients: Mapping[str, Tensor]) -> int:
    """How many numbers of parameters are trained."""
    return sum(
        each.numel() for name, each in gradients.items() if not name.isdigit() and each.any()
    )


def _branch(trained: Sequence[str], evaluated: Sequence[str]) -> str:
    """The first line that only one of two runs computed."""
    for one, other in itertools.zip_longest(trained, evaluated, fillvalue=""):
        if one != other:
            return one or other
    return ""
