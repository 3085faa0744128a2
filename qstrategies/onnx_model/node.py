"""What a reader of one operator is told, and the small things that many of them ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor

from qstrategies.errors import InputError

Step = Callable[..., Any]
"""What computes a node: called with those of its inputs that are no constants."""


@dataclass(frozen=True)
class Node:
    """A node of a file.

    Attributes:
        attributes: by name, as Python values.
        constants: its inputs in order: the value, or None for what is computed or left out.
        shape: that of its input with the most dimensions, for a batch of two; None if nobody knows.
        opset: the version of the standard operators.
    """

    proto: onnx.NodeProto
    attributes: dict[str, Any]
    constants: tuple[Tensor | None, ...]
    shape: tuple[int, ...] | None
    opset: int

    @property
    def rank(self) -> int | None:
        """The number of dimensions of its input, the batch included."""
        return None if self.shape is None else len(self.shape)

    @property
    def computed(self) -> list[str]:
        """The names of the inputs that are no constants."""
        pairs = zip(self.proto.input, self.constants, strict=True)
        return [name for name, value in pairs if name and value is None]

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``."""
        return self.attributes.get(name, default)

    def constant(self, index: int, what: str) -> Tensor:
        """Input ``index``, which must be stored in the file. Raises ``InputError`` if it is not."""
        found = self.optional(index, what)
        self.require(found is not None, f"without {what}")
        return torch.as_tensor(found)

    def optional(self, index: int, what: str) -> Tensor | None:
        """Input ``index``, stored in the file or left out."""
        given = index < len(self.proto.input) and self.proto.input[index]
        found = self.constants[index] if given else None
        self.require(found is not None or not given, f"with {what} that are computed")
        return found

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that older opsets have as the attribute ``name``, newer as an input."""
        if name in self.attributes:
            return list(self.attributes[name])
        found = self.optional(index, name)
        return None if found is None else [int(value) for value in found.flatten().tolist()]

    def require(self, fits: bool, what: str) -> None:
        """Raise ``InputError`` naming this node and ``what`` is not read of it, unless it
        ``fits``."""
        if not fits:
            described = " ".join([self.proto.op_type, what]).strip()
            raise InputError(
                f"the operator {described} is not read ({named(self.proto)!r}): give the network "
                "as a torch.nn.Module"
            )

    @property
    def spatial(self) -> int:
        """The number of dimensions behind batch and channels. Raises ``InputError`` where the file
        does not say it, or there are none or more than three."""
        self.require(self.rank is not None and 3 <= self.rank <= 5, "of an input of unknown rank")
        assert self.rank is not None
        return self.rank - 2


def named(node: onnx.NodeProto) -> str:
    """What to call ``node``."""
    return node.name or ", ".join(node.output)


def pool_padding(node: Node) -> tuple[list[int], bool]:
    """The padding of a pool, the same on both sides of each dimension, and whether a last window
    may reach beyond it: with uneven padding, which counts for nothing, windows are the same so."""
    kernel = list(node.get("kernel_shape"))
    before, behind = padding(node, kernel)
    if before == behind:
        return before, bool(node.get("ceil_mode", 0))
    counts = [node.get(name, 0) for name in ("ceil_mode", "count_include_pad")]
    plain = not any(counts) and set(sizes(node, "dilations")) == {1}
    reached: set[bool] = {False, True}
    for size, width, step, first, last in zip(
        (node.shape or ())[2:], kernel, sizes(node, "strides"), before, behind, strict=True
    ):
        steps, beyond = divmod(size + 2 * first - width, step)
        wanted = (size + first + last - width) // step
        reached &= {ceils for ceils in (False, True) if steps + (ceils and beyond > 0) == wanted}
    node.require(plain and bool(reached), f"with uneven pads {[*before, *behind]}")
    return before, min(reached)


def padding(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padding of a layer before and behind each dimension; ``kernel`` are the sizes of its
    weights."""
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        both = list(node.get("pads", [0] * 2 * node.spatial))
        return both[: len(both) // 2], both[len(both) // 2 :]
    node.require(bool(kernel), f"with auto_pad {mode}")
    less, more = [], []
    for size, width, step, apart in zip(
        (node.shape or ())[2:],
        kernel,
        sizes(node, "strides"),
        sizes(node, "dilations"),
        strict=True,
    ):
        wanted = (-(-size // step) - 1) * step + (width - 1) * apart + 1  # as many as windows cover
        total = max(0, wanted - size)
        less.append(total // 2)
        more.append(total - total // 2)
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def sizes(node: Node, name: str) -> list[int]:
    """One number for each spatial dimension, 1 where nothing is said."""
    return list(node.get(name, [1] * node.spatial))


def number(value: Tensor) -> float | None:
    """A constant of one element as a number."""
    return float(value) if value.numel() == 1 else None


def as_tuple(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
