"""What a TFLite file takes on a chip: flash for the file, RAM for the tensors that are alive at
once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qstrategies.tflite_file import TfliteModel, load_tflite, schema


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        flash: the file, which is used where it lies.
        activations: the tensors alive at the operator that needs most, inputs and outputs of the
            file included. An arena holds them and an executor's own bookkeeping.
    """

    flash: int
    activations: int


def memory_of(path: Path) -> Memory:
    """What the TFLite file ``path`` takes; raises ``InputError`` for a broken file."""
    file = load_tflite(path)
    return Memory(len(file.content), _most_alive(file))


def _most_alive(file: TfliteModel) -> int:
    """A tensor lives from the operator that gives it to the last one that reads it."""
    graph = file.graph
    operators = [graph.Operators(place) for place in range(graph.OperatorsLength())]
    births = {int(number): 0 for number in graph.InputsAsNumpy()}
    deaths = {int(number): len(operators) for number in graph.OutputsAsNumpy()}
    for place, operator in enumerate(operators):
        for number in operator.OutputsAsNumpy():
            births[int(number)] = place
        for number in operator.InputsAsNumpy():
            deaths[int(number)] = max(place, deaths.get(int(number), 0))
    sizes = {number: _bytes(graph.Tensors(number)) for number in births}
    alive = []
    for place in range(len(operators)):
        held = [each for each in births if births[each] <= place <= deaths.get(each, births[each])]
        alive.append(sum(sizes[each] for each in held))
    return max(alive, default=0)


def _bytes(tensor: Any) -> int:
    width = 4 if tensor.Type() == schema().TensorType.INT32 else 1
    return width * int(np.prod(tensor.ShapeAsNumpy()))
