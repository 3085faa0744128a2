"""Factors moved between layers so that the weights of all channels have one range (Nagel et al.,
arXiv 1906.04721, section 4.1).

What lies between two layers passes a positive factor per channel on: a ReLU, pooling, a movement.
So with ``s > 0`` the layers ``W1 / s, b1 / s`` and ``W2 s`` compute what ``W1, b1`` and ``W2`` do.
A batch normalization behind the first, which QAT leaves where it is, takes the factor in its own
weight and bias, so that the function stays in training too; W is then what is folded.

And what a channel always exceeds (c > 0) passes a ReLU as it is: ``b1 - c`` and ``b2 + W2 c``
(section 4.1.3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qstrategies.operators.base import form_of, shape_of
from qstrategies.operators.transposed import is_transposed
from qstrategies.quantization.exact_forms import (
    folded_norm,
    is_layer,
    module_at,
    norm_factor,
    output_rows,
)

SAME = 1e-6  # a factor that came through pooling in float64 is itself up to this


@dataclass(frozen=True, eq=False)
class Link:
    """Two layers, the second of which reads nothing but channels of the first.

    Attributes:
        source: the first.
        norm: the batch normalization that is to be folded into it, if any.
        reader: the second.
        reader_norm: that of ``reader``.
        channels: of ``source``, one for each channel that ``reader`` reads.
        name: of the node of ``source``.
        shifts: whether ``reader`` reads a number that is added to a channel at every place, and
            both layers have a bias to take it.
    """

    source: Any
    norm: Any | None
    reader: Any
    reader_norm: Any | None
    channels: Tensor
    name: str
    shifts: bool

    def factors(self) -> Tensor:
        """``s = sqrt(r1 / r2)`` (equation 11) of the ranges r1 and r2 of the weights that give and
        read each channel of ``source``; 1 where one of them is zero."""
        weight = _folded(self.source, self.norm)
        given = output_rows(self.source, weight).flatten(1).abs().amax(1)
        columns = _columns(self.reader, _folded(self.reader, self.reader_norm)).abs().amax(1)
        read = torch.zeros_like(given).scatter_reduce(0, self.channels, columns, "amax")
        alive = (given > 0) & (read > 0)
        ones = torch.ones_like(given)
        return torch.where(alive, torch.sqrt(given / torch.where(alive, read, ones)), ones)

    @torch.no_grad()
    def move(self, factors: Tensor) -> None:
        """Divide the channels of ``source`` by ``factors`` and multiply what reads them. In
        place."""
        if self.norm is None:
            _scale_outputs(self.source, 1 / factors)
        else:
            self.norm.weight.div_(factors)
            self.norm.bias.div_(factors)
        _scale_inputs(self.reader, factors[self.channels])

    @torch.no_grad()
    def shift(self, offsets: Tensor) -> None:
        """Take ``offsets`` off the channels of ``source`` and add to ``reader`` what they gave
        there. In place."""
        self.source.bias.sub_(offsets)
        grouped = _grouped(self.reader, self.reader.weight)
        summed = grouped.reshape(*grouped.shape[:3], -1).sum(3)
        read = offsets[self.channels].reshape(len(summed), -1, 1)
        self.reader.bias.add_((summed @ read).flatten())


def equalize(links: Sequence[Link], sweeps: int, tolerance: float = 1e-3) -> None:
    """Move factors along ``links`` until none of them is further from 1, ``sweeps`` times at
    most. In place."""
    for _ in range(sweeps):
        largest = 0.0
        for link in links:
            factors = link.factors()
            link.move(factors)
            largest = max(largest, float(factors.log().abs().max()))
        if largest < tolerance:
            return


def absorb(links: Sequence[Link], smallest: Mapping[str, Tensor]) -> bool:
    """Move from each channel to its readers what it always exceeds, by the ``smallest`` results
    [out_channels] of layers by their nodes' names. In place; whether there was anything."""
    moved = False
    for link in links:
        offsets = smallest[link.name].clamp(min=0)
        if link.shifts and bool(offsets.any()):
            link.shift(offsets)
            moved = True
    return moved


@torch.no_grad()
def smallest_results(
    graph: fx.GraphModule, names: Collection[str], batches: Sequence[tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """The smallest value [channels] in ``batches`` of what each node of ``names`` gives."""
    looking = _Looking(graph, names)
    for batch in batches:
        looking.run(*batch)
    return looking.smallest


class _Looking(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(graph)
        self.names, self.smallest = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            lowest = value.transpose(0, 1).flatten(1).amin(1)
            self.smallest[n.name] = torch.minimum(lowest, self.smallest.get(n.name, lowest))
        return value


def links(graph: fx.GraphModule) -> list[Link]:
    """All pairs of layers that factors can be moved between, in the order of the graph.

    Parameters that several layers share stay as they are: what is right for one is not for all.
    """
    shared = _shared_parameters(graph)
    found = []
    for node in graph.graph.nodes:
        path = _path(graph, node)
        channels = None if len(path) < 2 else _channels(graph, path)
        if channels is None:
            continue
        source, reader = module_at(graph, node), module_at(graph, path[-1])
        norm, reader_norm = folded_norm(graph, node), folded_norm(graph, path[-1])
        changed = [source if norm is None else norm, reader]
        if not any(id(each) in shared for module in changed for each in module.parameters()):
            shifts = norm is None and _shifts(graph, path, channels)
            found.append(Link(source, norm, reader, reader_norm, channels, node.name, shifts))
    return found


def _shared_parameters(graph: fx.GraphModule) -> set[int]:
    """The ``id`` of every parameter that several modules have."""
    owners = Counter(id(each) for module in graph.modules() for each in module._parameters.values())
    return {known for known, count in owners.items() if count > 1}


def _folded(layer: Any, norm: Any | None) -> Tensor:
    """The weight of ``layer`` with ``norm`` folded in."""
    weight: Tensor = layer.weight.detach()
    return weight if norm is None else weight * norm_factor(layer, norm)


def _path(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """A layer at ``node`` (or its norm), what passes its factors on, and the layer that reads that;
    empty where something else reads it too."""
    if not is_layer(graph, node):
        return []
    path = [node if folded_norm(graph, node) is None else next(iter(node.users))]
    while path and len(path[-1].users) == 1:
        path.append(next(iter(path[-1].users)))
        if is_layer(graph, path[-1]):
            return path
        if not _passes(graph, path[-1]):
            return []
    return []


def _passes(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = module_at(graph, node)
    form = form_of(module)
    rectifies = type(module) is nn.ReLU and not node.meta.get("saturates", False)
    homogeneous = form is not None and form.homogeneous and len(node.all_input_nodes) == 1
    return rectifies or homogeneous


def _channels(graph: fx.GraphModule, path: Sequence[fx.Node]) -> Tensor | None:
    """Which channel of the first of ``path`` each channel that the last reads is made from, found
    by sending factors through; None if there is one that is made from several."""
    x, numbers = _probe(path)
    before, after = (_through(graph, path, each) for each in (x, x * numbers))
    factors = numbers.flatten()
    largest, place = before.max(1, keepdim=True)
    ratio = after.gather(1, place) / largest  # not a number where nothing comes through
    if not torch.allclose(after, before * ratio, rtol=SAME, atol=0):
        return None
    distance = (ratio - factors).abs()
    return distance.argmin(1) if bool((distance.amin(1) < SAME).all()) else None


def _shifts(graph: fx.GraphModule, path: Sequence[fx.Node], channels: Tensor) -> bool:
    source, reader = module_at(graph, path[0]), module_at(graph, path[-1])
    padded = is_transposed(reader) or any(getattr(reader, "padding", ()))
    if padded or source.bias is None or reader.bias is None:
        return False
    x, numbers = _probe(path)
    before, after = (_through(graph, path, each) for each in (x, x + numbers))
    return torch.allclose(after, before + numbers.flatten()[channels, None], rtol=SAME, atol=0)


def _probe(path: Sequence[fx.Node]) -> tuple[Tensor, Tensor]:
    """Positive values such as the first of ``path`` gives, and a number per channel, shaped to go
    with them."""
    shape = _concrete(path)
    x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    numbers = torch.linspace(1, 2, shape[1], dtype=torch.float64)
    return x, numbers.reshape(-1, *[1] * (len(shape) - 2))


def _through(graph: fx.GraphModule, path: Sequence[fx.Node], x: Tensor) -> Tensor:
    """``x`` as the last of ``path`` reads it, [channels, ...]."""
    for node in path[1:-1]:
        x = module_at(graph, node)(x)
    return x.transpose(0, 1).flatten(1)


def _concrete(path: Sequence[fx.Node]) -> list[int]:
    """The shape of what the first of ``path`` gives for two examples; rows enough for every reshape
    to images or sequences behind it."""
    inner = [math.prod(size or 1 for size in shape_of(node)[1:-1]) for node in path[:-1]]
    first, *others = shape_of(path[0])
    count = first or 2 * (1 if len(others) > 1 else max(inner))
    return [count, *(size or 1 for size in others)]


def _columns(layer: Any, weight: Tensor) -> Tensor:
    """``weight`` of ``layer`` with one row per channel that it reads, [in_channels, ...]."""
    if is_transposed(layer):
        return weight.flatten(1)
    grouped = _grouped(layer, weight)
    return grouped.transpose(1, 2).reshape(grouped.shape[0] * grouped.shape[2], -1)


def _grouped(layer: Any, weight: Tensor) -> Tensor:
    """A view as [groups, out_channels / groups, in_channels / groups, ...]."""
    return weight.unflatten(0, (getattr(layer, "groups", 1), -1))


def _scale_inputs(layer: Any, factors: Tensor) -> None:
    if is_transposed(layer):
        layer.weight.mul_(factors.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        return
    grouped = _grouped(layer, layer.weight)
    shape = (len(grouped), 1, -1, *[1] * (grouped.dim() - 3))
    grouped.mul_(factors.reshape(shape))


def _scale_outputs(layer: Any, factors: Tensor) -> None:
    weight = layer.weight
    if is_transposed(layer):
        shape = (layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        weight.unflatten(0, (layer.groups, -1)).mul_(factors.reshape(shape))
    else:
        weight.mul_(factors.reshape(-1, *[1] * (weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(factors)
