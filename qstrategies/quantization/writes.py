"""What a change in place means for the other names of a tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import Tensor, fx

from qstrategies.errors import InputError
from qstrategies.quantization.meanings import Stale
from qstrategies.quantization.observe import Facts, describe, overlap, place


def names_of(facts: Facts, changed: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose tensors share an element with that of ``changed``."""
    target = facts[changed]
    for node, fact in facts.items():
        of_its_storage = fact.place[:1] == target.place[:1]
        if of_its_storage and (fact.place == target.place or overlap(fact.value, target.value)):
            yield node


def is_whole(facts: Facts, node: fx.Node, changed: fx.Node) -> bool:
    """Whether ``node`` gives the very tensor that ``changed`` gives."""
    return facts[node].place == facts[changed].place


def item_of(view: fx.Node) -> fx.Node | None:
    """The node of which ``view`` is an item; None if it is none."""
    whole = view.args[0] if view.target is operator.getitem else None
    return whole if isinstance(whole, fx.Node) else None


def stale(old: fx.Node, writer: fx.Node) -> Stale:
    """What ``old`` means after ``writer`` changed a part of it."""
    return Stale(
        f"{describe(old)} is read after {describe(writer)} changed a part of it in place: write "
        "that out of place"
    )


def refuse_own_view(facts: Facts, node: fx.Node, changed: fx.Node) -> None:
    """Raise ``InputError`` where ``node`` reads elements while it changes them, which gives this or
    that."""
    target = facts[changed].value
    for source in node.all_input_nodes:
        value = facts[source].value
        own = isinstance(value, Tensor) and place(value) != place(target)
        if own and overlap(value, target):
            raise InputError(
                f"{describe(node)} reads another view of the tensor that it changes: write that "
                "out of place"
            )
