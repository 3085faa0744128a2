"""Where every tensor of an integer graph lies in a TFLite file, and in which layout.

The graph has channels first, TFLite's kernels have them last. A tensor may be in the file in
several layouts; one that is asked for and not there is made by a transposition or a reshape. One
file holds one example: executors that take more are told so when they load it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qstrategies.errors import InputError
from qstrategies.export.nibbles import nibbles
from qstrategies.export.tflite.flatbuffer import Quantization, TfliteFile
from qstrategies.operators.base import Array, Node, Quantizer, TensorSpec
from qstrategies.quantization.integer_graph import IntegerGraph
from qstrategies.tflite_file import schema

KINDS = {"int8": "INT8", "int32": "INT32"}
OFFSET = 128
"""TFLite's integers are signed: the graph's less this."""


@dataclass(frozen=True)
class Layout:
    """How the values of a tensor lie: ``plain``, as in the graph; ``image``, [N, H, W, C] of [N, C,
    H, W], or [N, 1, L, C] of [N, C, L]; ``rows``, [N, H * W * C] of the flattened ``image`` (C, H,
    W)."""

    kind: str
    image: tuple[int, ...] = ()


PLAIN, IMAGE = Layout("plain"), Layout("image")

Write = Callable[[Any, "TfliteWriter"], None]
WRITERS: dict[type[Node], Write] = {}


def writes(*kinds: type[Node]) -> Callable[[Write], Write]:
    """Register the function that writes nodes of ``kinds``."""

    def register(function: Write) -> Write:
        WRITERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def no_form(node: Node, reason: str, remedy: str) -> InputError:
    """What is said of a ``node`` that TFLite has no operator for."""
    return InputError(f"{node.name!r} has no TFLite form: {reason}. {remedy}")


class TfliteWriter:
    """Writes the nodes of ``graph``; ``places`` are the tensors of the file, by name and layout."""

    def __init__(self, graph: IntegerGraph) -> None:
        schema()  # an error of a missing package comes first
        self.graph, self.file = graph, TfliteFile()
        self.shapes = shapes_of_one_example(graph)
        self.readers = readers_of(graph)
        self.places: dict[str, dict[Layout, int]] = {}
        self.constants: dict[tuple[Any, ...], int] = {}
        self.inputs = [self._input(spec) for spec in graph.inputs]
        for node in graph.nodes:
            WRITERS[type(node)](node, self)
            if node.rounds:
                self._saturate(node.output)
        self.outputs = [self.take(spec, self.end_layout(spec)) for spec in graph.outputs]

    @property
    def layouts(self) -> dict[str, list[str]]:
        """How the inputs and outputs of the file lie, in their order."""
        return {
            "inputs": [entry_layout(spec).kind for spec in self.graph.inputs],
            "outputs": [self.end_layout(spec).kind for spec in self.graph.outputs],
        }

    def end_layout(self, spec: TensorSpec) -> Layout:
        """How the output ``spec`` leaves: an image stays one."""
        is_image = len(self.shape(spec)) == 4 and IMAGE in self.places[spec.name]
        return IMAGE if is_image else PLAIN

    def shape(self, spec: TensorSpec, layout: Layout = PLAIN) -> tuple[int, ...]:
        """The shape of one example of ``spec`` in ``layout``."""
        shape = self.shapes[spec.name]
        if layout != IMAGE:
            return shape
        n, c, *sizes = shape
        return (n, *([1] * (2 - len(sizes))), *sizes, c)

    def constant_of_four_bits(self, name: str, array: Array, quantization: Quantization) -> int:
        """A constant of int4."""
        return self.file.tensor(name, array.shape, "INT4", quantization, nibbles(array))

    def constant(self, name: str, array: Array, quantization: Quantization | None = None) -> int:
        """A constant tensor; equal ones without a quantization are one."""
        key = array.dtype.str, array.shape, array.tobytes()
        if quantization is None and key in self.constants:
            return self.constants[key]
        kind = KINDS[array.dtype.name]
        made = self.file.tensor(name, array.shape, kind, quantization, array.tobytes())
        if quantization is None:
            self.constants[key] = made
        return made

    def numbers(self, name: str, values: Sequence[int] | Sequence[Sequence[int]]) -> int:
        """A constant of int32."""
        return self.constant(name, np.array(values, np.int32))

    def stored(self, spec: TensorSpec, steps: int) -> int:
        """A constant of one element on the grid of ``spec``: its integer ``steps``, as the graph
        counts."""
        array = np.array([steps - OFFSET], np.int8)
        return self.constant(f"{spec.name}.{steps}", array, quantization_of(spec.grid))

    def tensor(self, name: str, shape: Sequence[int], spec: TensorSpec) -> int:
        """A tensor between operators, on the grid of ``spec``."""
        return self.file.tensor(name, shape, "INT8", quantization_of(spec.grid))

    def give(self, spec: TensorSpec, layout: Layout = PLAIN) -> int:
        """The tensor that a node writes its result ``spec`` to."""
        number = self.tensor(spec.name, self.shape(spec, layout), spec)
        self.places[spec.name] = {layout: number}
        return number

    def keep(self, spec: TensorSpec, array: Array, layout: Layout) -> None:
        """``spec`` is the constant ``array``, which lies in ``layout``."""
        number = self.constant(spec.name, array, quantization_of(spec.grid))
        self.places[spec.name] = {layout: number}

    def take(self, spec: TensorSpec, layout: Layout = PLAIN) -> int:
        """The tensor of ``spec`` in ``layout``, made if it is not there."""
        known = self.places[spec.name]
        if layout not in known:
            source = next(iter(known))
            known[layout] = self._moved(spec, source, layout)
        return known[layout]

    def layout_of(self, *specs: TensorSpec) -> Layout:
        """A layout in which to read ``specs``, all of one rank, element by element: that of most
        of them."""
        ranks = {len(self.shapes[spec.name]) for spec in specs}
        images = [IMAGE in self.places[spec.name] for spec in specs]
        return IMAGE if len(ranks) == 1 and 2 * sum(images) > len(images) else PLAIN

    def copy(self, spec: TensorSpec, source: int, layout: Layout) -> None:
        """``spec`` is the tensor ``source``, which has its values in ``layout``."""
        shape = self.shape(spec, layout)
        self._reshape(source, shape, self.give(spec, layout))

    def chosen(self, a: int, b: int, made: int, *, largest: bool) -> None:
        """``made`` is the larger or the smaller of two tensors on one grid, element by element."""
        code = "MAXIMUM" if largest else "MINIMUM"
        self.file.operator(code, 2, [a, b], made, "MaximumMinimumOptions")

    def _saturate(self, spec: TensorSpec) -> None:
        """Cut ``spec``, which was just rounded to 8 bits, where its quantizer is narrower."""
        if spec.grid.quant_max == Quantizer.quant_max:
            return
        ((layout, wide),) = self.places[spec.name].items()
        highest = self.stored(spec, spec.grid.quant_max)
        self.chosen(wide, highest, self.give(spec, layout), largest=False)

    def _input(self, spec: TensorSpec) -> int:
        if spec.quantizer is None:
            raise InputError(
                f"input {spec.name!r} is not quantized: nothing reads it, or what does is left in "
                "float: take it out of forward, or its first layer out of leave_in_float"
            )
        return self.give(spec, entry_layout(spec))

    def _moved(self, spec: TensorSpec, source: Layout, layout: Layout) -> int:
        number = self.places[spec.name][source]
        if source.kind == "rows":
            number = self._plain_rows(spec, source, number)
            self.places[spec.name][PLAIN] = number
            return number if layout == PLAIN else self._moved(spec, PLAIN, layout)
        shape, rank = self.shape(spec, layout), len(self.shapes[spec.name])
        made = self.tensor(f"{spec.name}.{layout.kind}", shape, spec)
        order = axes_of_image(rank) if layout == IMAGE else axes_of_graph(rank)
        before = self.shape(spec, source)
        whole = tuple(before[axis] for axis in order)
        if stays(before, order):
            self._reshape(number, shape, made)
        elif whole == shape:
            self._permute(number, order, made)
        else:  # a signal, which as an image has one dimension more
            moved = self.tensor(f"{spec.name}.moved", whole, spec)
            self._permute(number, order, moved)
            self._reshape(moved, shape, made)
        return made

    def _plain_rows(self, spec: TensorSpec, rows: Layout, number: int) -> int:
        c, h, w = rows.image
        last = self.tensor(f"{spec.name}.last", (1, h, w, c), spec)
        first = self.tensor(f"{spec.name}.first", (1, c, h, w), spec)
        plain = self.tensor(f"{spec.name}.plain", self.shapes[spec.name], spec)
        self._reshape(number, (1, h, w, c), last)
        self._permute(last, (0, 3, 1, 2), first)
        self._reshape(first, self.shapes[spec.name], plain)
        return plain

    def _permute(self, number: int, order: Sequence[int], to: int) -> None:
        operands = [number, self.numbers("order", order)]
        self.file.operator("TRANSPOSE", 2, operands, to, "TransposeOptions")

    def _reshape(self, number: int, shape: Sequence[int], to: int) -> None:
        operands = [number, self.numbers("shape", shape)]
        self.file.operator("RESHAPE", 1, operands, to, "ReshapeOptions")


def entry_layout(spec: TensorSpec) -> Layout:
    """How the input ``spec`` enters: images as TFLite's kernels take them."""
    return IMAGE if len(spec.shape) == 4 else PLAIN


def quantization_of(grid: Quantizer) -> Quantization:
    """Of a tensor between operators."""
    return Quantization(np.array([grid.scale], np.float32), grid.zero_point - OFFSET)


def stays(shape: Sequence[int], order: Sequence[int]) -> bool:
    """Whether the values of ``shape`` lie alike with their axes in another ``order``."""
    moved = [axis for axis in order if shape[axis] > 1]
    return moved == sorted(moved)


def axes_of_image(rank: int) -> tuple[int, ...]:
    """The axes of the graph in the order of an image, for a tensor of ``rank`` (the 1 of [N, 1, L,
    C] left out)."""
    return (0, *range(2, rank), 1)


def axes_of_graph(rank: int) -> tuple[int, ...]:
    """The axes of an image in the order of the graph."""
    return (0, 3, 1, 2) if rank == 4 else (0, 1, 3, 2)


def readers_of(graph: IntegerGraph) -> dict[str, list[Node]]:
    """The nodes that read each tensor."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for spec in node.inputs:
            found.setdefault(spec.name, []).append(node)
    return found


@torch.no_grad()
def shapes_of_one_example(graph: IntegerGraph) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor for one example, by name. Nothing is computed.

    Raises:
        InputError: an input with a size that varies.
    """
    values: dict[str, torch.Tensor] = {}
    for spec in graph.inputs:
        if None in spec.shape[1:]:
            raise InputError(
                f"input {spec.name!r} has a size that varies: give an example of a fixed one"
            )
        sizes = [1 if size is None else size for size in spec.shape]
        values[spec.name] = torch.empty(sizes, device="meta")
    for node in graph.nodes:
        constants = [torch.empty(array.shape, device="meta") for array in node.constants]
        operands = [values[spec.name] for spec in node.inputs]
        values[node.output.name] = node.reals(*operands, *constants)
    return {name: tuple(value.shape) for name, value in values.items()}
