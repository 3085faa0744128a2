"""What a node becomes in C: constants and calls of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qstrategies.export.c99.text import Table, structure
from qstrategies.specification.program import Array


@dataclass(frozen=True)
class Piece:
    """What a node becomes: constants, calls, and the kernels that they need, in their order.

    ``row``: for how many values of a window it needs room.
    """

    constants: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    row: int = 0


@dataclass
class Place:
    """Where a node stands: its number, and the C expressions of its tensors."""

    number: int
    node: Any
    places: Mapping[str, str]

    def __post_init__(self) -> None:
        self.constants: list[str] = []

    @property
    def x(self) -> list[str]:
        """The inputs."""
        return [self.places[tensor.name] for tensor in self.node.inputs]

    @property
    def y(self) -> str:
        """The output."""
        return self.places[self.node.output.name]

    def array(self, kind: str, name: str, values: Sequence[int] | Array) -> str:
        """The name of a new constant array."""
        numbers = tuple(int(each) for each in np.asarray(values).reshape(-1))
        table = Table(kind, f"{name}_{self.number}", numbers)
        self.constants.append(str(table))
        return table.name

    def call(
        self, kernels: Sequence[str], fields: Mapping[str, Any], row: int = 0, kind: str = ""
    ) -> Piece:
        """A call of the last of ``kernels`` with a struct of ``fields``, of the same name or of
        that of ``kind``."""
        name = f"node_{self.number}"
        given = [*self.x, self.y, f"&{name}", *(["row"] if row else [])]
        text = structure(kind or kernels[-1], name, fields)
        call = f"{kernels[-1]}({', '.join(given)});"
        return Piece((*self.constants, text), (call,), tuple(kernels), row)

    def plain(self, kernel: str, *arguments: object) -> Piece:
        """A call of ``kernel`` without a struct."""
        given = ", ".join(map(str, (*self.x, self.y, *arguments)))
        return Piece(tuple(self.constants), (f"{kernel}({given});",), (kernel,))
