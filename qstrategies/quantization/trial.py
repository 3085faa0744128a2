"""Recipes tried on a graph of forms, and how close each comes to the float network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, fx

from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import Prepared, placed
from qstrategies.quantization.recipe import Recipe
from qstrategies.quantization.saturation import FloatNetwork, saturating_nodes
from qstrategies.quantization.selfcheck import check_rewritten
from qstrategies.quantization.structure import leaves

T = TypeVar("T")
Batches = Sequence[tuple[Tensor, ...]]


def tried(prepared: Prepared, forms: fx.GraphModule, recipe: Recipe, batches: Batches) -> Prepared:
    """What ``prepared`` would be under ``recipe``, which has not rewritten ``forms`` yet, with the
    ranges of ``batches``. Nothing is changed."""
    graph = copy.deepcopy(forms)
    saturating = saturating_nodes(graph)
    recipe.rewrite(graph)
    check_rewritten(graph, prepared.sample)
    found = placed(replace(prepared, graph=graph, recipe=recipe), saturating)
    calibrate(found, batches)
    recipe.refine(found, batches)
    return found


def closeness(
    prepared: Prepared, forms: fx.GraphModule, batches: Batches
) -> Callable[[Recipe], float]:
    """How close a recipe that chooses by one half of ``batches`` comes on the other, in dB."""
    seen, unseen = halves(batches)
    return lambda recipe: signal_to_noise(tried(prepared, forms, recipe, seen), seen, unseen)


@torch.no_grad()
def signal_to_noise(prepared: Prepared, batches: Batches, unseen: Batches) -> float:
    """Of the outputs for ``unseen``, in dB, with integers chosen by ``batches``: the mean over the
    outputs of what calibrated forms become."""
    module = QuantizedModel.of(prepared, batches).module()
    signals: dict[int, float] = {}
    noises: dict[int, float] = {}
    for batch in unseen:
        found = [each for _, each in leaves(module(*batch)) if isinstance(each, Tensor)]
        wanted = FloatNetwork(prepared.graph).run(*batch)
        for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            noise = (ours.double() - theirs.double()).square().sum()
            signals[number] = signals.get(number, 0.0) + float(theirs.double().square().sum())
            noises[number] = noises.get(number, 0.0) + float(noise)
    tiny = torch.finfo(torch.float32).tiny
    ratios = [(signals[number] + tiny) / (noises[number] + tiny) for number in signals]
    return sum(10 * math.log10(ratio) for ratio in ratios) / len(ratios)


def best_chain(
    stages: Sequence[Sequence[T]], quality: Callable[[tuple[T, ...]], float]
) -> tuple[T, ...]:
    """The chain that grows, stage by stage, by the candidate that raises its quality most; not at
    all where none does."""
    chain: tuple[T, ...] = ()
    best = quality(chain)
    for stage in stages:
        found = [(quality((*chain, each)), (*chain, each)) for each in stage]
        highest, longer = max(found, key=lambda pair: pair[0])
        if highest > best:
            best, chain = highest, longer
    return chain


def halves(batches: Batches) -> tuple[Batches, Batches]:
    """Every other batch, and the rest; the examples of a single batch in two."""
    if len(batches) > 1:
        return batches[::2], batches[1::2]
    (batch,) = batches
    middle = (len(batch[0]) + 1) // 2
    return [tuple(each[:middle] for each in batch)], [tuple(each[middle:] for each in batch)]


def take(prepared: Prepared, found: Prepared) -> None:
    """Let ``prepared`` be as ``found``, a trial of it. In place."""
    prepared.graph.load_state_dict(found.graph.state_dict())
    prepared.weights.update(found.weights)
    prepared.activations.update(found.activations)
