"""Where each tensor lies in one static array: tensors that are needed at the same time do not
overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qstrategies.specification.program import Program, Reshape, Stored


@dataclass(frozen=True)
class Arena:
    """``places``: the C expression for the first byte of every tensor; ``size`` in bytes."""

    places: Mapping[str, str]
    size: int


def arena_of(program: Program) -> Arena:
    """First fit, in the order of execution. A reshape is its input under another name; what is
    stored lies among the weights."""
    same = _aliases(program)
    last = _last_uses(program, same)
    places = {end.tensor: f"input_{index}" for index, end in enumerate(program.inputs)}
    live: dict[str, tuple[int, int]] = {}
    size = 0
    for step, node in enumerate(program.nodes):
        name = same.get(node.output.name, node.output.name)
        if isinstance(node, Stored):
            places[name] = f"stored_{step}"
        elif name == node.output.name:
            start = _first_fit(live, node.output.size)
            live[name] = (start, start + node.output.size)
            size = max(size, start + node.output.size)
            places[name] = f"arena + {start}" if start else "arena"
        places[node.output.name] = places[name]
        live = {each: span for each, span in live.items() if last[each] > step}
    return Arena(places, size)


def _aliases(program: Program) -> dict[str, str]:
    """The tensor that a reshape has its elements from, by the name of its output."""
    same: dict[str, str] = {}
    for node in program.nodes:
        if isinstance(node, Reshape):
            source = node.inputs[0].name
            same[node.output.name] = same.get(source, source)
    return same


def _last_uses(program: Program, same: Mapping[str, str]) -> dict[str, int]:
    """The number of the last node that reads each tensor; outputs are read at the end."""
    last: dict[str, int] = {}
    for step, node in enumerate(program.nodes):
        for name in (node.output.name, *(tensor.name for tensor in node.inputs)):
            last[same.get(name, name)] = step
    for end in program.outputs:
        last[same.get(end.tensor, end.tensor)] = len(program.nodes)
    return last


def _first_fit(live: Mapping[str, tuple[int, int]], size: int) -> int:
    start = 0
    for low, high in sorted(live.values()):
        if start + size <= low:
            break
        start = max(start, high)
    return start
