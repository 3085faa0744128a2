"""Strategies side by side, by name: "weight_norm+qat", "cle+adaround"."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, fx, nn

from qstrategies.errors import InputError
from qstrategies.quantization.recipe import CHOOSE_INTEGERS
from qstrategies.strategies.base import Course, ParameterGroup, Step, Strategy

SIGN = "+"
Kind = type[Strategy]
ALONE = {
    "weight_bits": "bits of weights",
    "begin": "integers that are frozen",
    "weight_quantizer": "steps of weights",
    "activation_quantizer": "ranges of activations",
    "round_weights": "integers of weights",
    "round_block": "integers of weights",
    "correct_bias": "biases",
}
"""Hooks that give one thing, and what it is: one part may decide it."""
BEFORE_TRAINING = ("weight_quantizer", "activation_quantizer")
"""Hooks that decide what fake quantizers train."""


class Composed(Strategy):
    """The hooks of ``parts``, one after another in the order of the name.

    Those that train a float model come first: they also hold while what continues it trains. Those
    that rewrite what fake quantizers are put into, choose their bits or the integers whose steps
    are trained, stand before what trains these. Those that only act after training come last.
    """

    parts: ClassVar[tuple[Kind, ...]]

    def __init__(self, **values: float) -> None:
        super().__init__(**values)
        chosen = [{name: self.values[name] for name in kind.options} for kind in self.parts]
        self.members = [kind(**options) for kind, options in zip(self.parts, chosen, strict=True)]

    def using(self, hook: str) -> list[Any]:
        """The members that do something at ``hook``."""
        return [member for member in self.members if uses(type(member), hook)]


def uses(kind: Kind, hook: str) -> bool:
    """Whether strategies of ``kind`` do something of their own at ``hook``."""
    return getattr(kind, hook) is not getattr(Strategy, hook)


def composed(parts: Mapping[str, Kind], summary: str = "") -> Kind:
    """The strategy of ``parts`` by name, in this order.

    Raises:
        InputError: parts that cannot stand side by side, with the reason.
    """
    return _composed(tuple(parts.items()), summary)


@functools.cache
def _composed(parts: tuple[tuple[str, Kind], ...], summary: str) -> Kind:
    whole, kinds = SIGN.join(name for name, _ in parts), tuple(kind for _, kind in parts)
    _refuse(whole, dict(parts))
    attributes: dict[str, Any] = {
        "__doc__": "\n\n".join(kind.__doc__ or "" for kind in kinds),
        "__module__": __name__,
        "parts": kinds,
        "summary": summary or "; then ".join(kind.summary for kind in kinds),
        "paper": " ".join(kind.paper for kind in kinds if kind.paper),
        "options": {name: option for kind in kinds for name, option in kind.options.items()},
        "course": _course(dict(parts)),
        "refused_levels": {
            name: why for kind in kinds for name, why in kind.refused_levels.items()
        },
        "observer": next((kind.observer for kind in reversed(kinds) if _trains(kind)), None),
    }
    used = {hook: way for hook, way in HOOKS.items() if any(uses(kind, hook) for kind in kinds)}
    return type(whole, (Composed,), attributes | used)


def _trains(kind: Kind) -> bool:
    return kind.course.schedule is not None


def _stage(kind: Kind) -> int:
    """When ``kind`` acts: 0 trains a float model, 1 continues one, 2 comes after training."""
    if not _trains(kind):
        return 2
    return 0 if kind.course.parent is None else 1


def _turn(kind: Kind, early: Mapping[str, float]) -> float:
    """The place of ``kind`` in the order of a name; that of what uses a hook of ``early``, before
    fake quantizers are trained, stands there."""
    return min((turn for hook, turn in early.items() if uses(kind, hook)), default=_stage(kind))


def _refuse(whole: str, parts: Mapping[str, Kind]) -> None:
    _refuse_twice(whole, parts)
    quantized = [name for name, kind in parts.items() if kind.course.fake_quantized]
    measuring = [name for name, kind in parts.items() if uses(kind, "weight_bits")]
    for name, kind in parts.items():
        decides = kind.chooses_chain or any(uses(kind, hook) for hook in BEFORE_TRAINING)
        if quantized and _stage(kind) == 2 and decides:
            raise InputError(
                f"{whole!r}: {quantized[0]} trains the quantizers of {name}: leave one out"
            )
        if measuring and kind.course.fresh:
            reason = f"on which {measuring[0]} would measure nothing"
            raise InputError(
                f"{whole!r}: {name} begins with a fresh model: leave one out, {reason}"
            )
    _refuse_order(whole, parts)  # last: it offers a name, which is to be one that works


def _refuse_order(whole: str, parts: Mapping[str, Kind]) -> None:
    early: dict[str, float] = {}
    if any(kind.course.fake_quantized for kind in parts.values()):
        early |= {"rewrite": 0.2, "weight_bits": 0.4}
    if any(uses(kind, "begin") for kind in parts.values()):
        early |= dict.fromkeys(CHOOSE_INTEGERS, 0.6)
    turns = {name: _turn(kind, early) for name, kind in parts.items()}
    ordered = sorted(turns, key=turns.__getitem__)
    if ordered != list(turns):
        raise InputError(f"{whole!r}: put them in the order of their work, {SIGN.join(ordered)!r}")


def _refuse_twice(whole: str, parts: Mapping[str, Kind]) -> None:
    continuing = [name for name, kind in parts.items() if _stage(kind) == 1]
    if len(continuing) > 1:
        raise InputError(
            f"{whole!r}: {' and '.join(continuing)} both continue a float model: leave one out"
        )
    for thing in dict.fromkeys(ALONE.values()):
        hooks = [hook for hook, given in ALONE.items() if given == thing]
        found = [name for name, kind in parts.items() if any(uses(kind, each) for each in hooks)]
        if len(found) > 1:
            raise InputError(
                f"{whole!r}: {' and '.join(found)} both decide the {thing}: leave one out"
            )
    options = [option for kind in parts.values() for option in kind.options]
    twice = sorted({option for option in options if options.count(option) > 1})
    if twice:
        raise InputError(f"{whole!r}: several of them have the option {twice[0]!r}: leave one out")


def _course(parts: Mapping[str, Kind]) -> Course:
    floats = [name for name, kind in parts.items() if _stage(kind) == 0]
    parent = SIGN.join(floats) or None
    for kind in parts.values():
        if _stage(kind) == 1:
            return replace(kind.course, parent=parent or kind.course.parent)
    if len(floats) == len(parts):
        return Course()
    return Course(parent=parent or "no_norm", schedule=None)


def _parametrize(self: Composed, model: nn.Module) -> None:
    for member in self.members:
        member.parametrize(model)


def _parameter_groups(self: Composed, model: nn.Module, rate: float) -> list[ParameterGroup]:
    groups: list[ParameterGroup] = []
    for member in self.members:
        groups += member.parameter_groups(model, rate)
    return groups


def _loss(self: Composed, model: nn.Module, step: Step) -> Tensor | None:
    total: Tensor | None = None
    for member in self.using("loss"):
        extra = member.loss(model, step)
        if extra is not None:
            total = extra if total is None else total + extra
    return total


def _after_step(self: Composed, model: nn.Module, step: Step) -> None:
    for member in self.members:
        member.after_step(model, step)


def _fold(self: Composed, model: nn.Module) -> None:
    for member in reversed(self.members):
        member.fold(model)


def _rewrite(self: Composed, graph: fx.GraphModule) -> None:
    for member in self.members:
        member.rewrite(graph)


def _refine(self: Composed, prepared: Any, batches: Any) -> None:
    for member in self.members:
        member.refine(prepared, batches)


def _by_one(hook: str) -> Callable[..., Any]:
    def ask(self: Composed, *arguments: Any) -> Any:
        (member,) = self.using(hook)
        return getattr(member, hook)(*arguments)

    return ask


HOOKS: dict[str, Callable[..., Any]] = {
    "parametrize": _parametrize,
    "parameter_groups": _parameter_groups,
    "loss": _loss,
    "after_step": _after_step,
    "fold": _fold,
    "rewrite": _rewrite,
    "refine": _refine,
    **{hook: _by_one(hook) for hook in ALONE},
}
