"""Windows that slide over images: TFLite pads as little as the output asks for, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qstrategies.export.tflite.writer import IMAGE, TfliteWriter, no_form
from qstrategies.operators.base import Node

SAME, VALID = 0, 1
"""TFLite's numbers of its two ways to pad."""


@dataclass(frozen=True)
class Window:
    """(height, width) each."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(
        cls,
        size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int] | None = None,
    ) -> Window:
        """For an image of one dimension or two: a signal is an image of height 1."""
        before = 2 - len(size)
        dilation = (1,) * len(size) if dilation is None else dilation
        return cls(
            (*[1] * before, *size),
            (*[1] * before, *stride),
            (*[0] * before, *padding),
            (*[1] * before, *dilation),
        )

    def settings(self, mode: int) -> dict[str, int]:
        """The options that all operators have which slide windows, padded by ``mode``."""
        return {"Padding": mode, "StrideH": self.stride[0], "StrideW": self.stride[1]}

    @property
    def dilations(self) -> dict[str, int]:
        """The further options of convolutions."""
        return {"DilationHFactor": self.dilation[0], "DilationWFactor": self.dilation[1]}

    @property
    def filters(self) -> dict[str, int]:
        """The further options of pools."""
        return {"FilterHeight": self.size[0], "FilterWidth": self.size[1]}

    def pads(self, before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
        """What is padded on both sides of an image of the sizes ``before`` that becomes one of
        ``after``; what no window reads is left out."""
        found = []
        for size, count, kernel, stride, padding, dilation in zip(
            before, after, self.size, self.stride, self.padding, self.dilation, strict=True
        ):
            reach = (count - 1) * stride + dilation * (kernel - 1) + 1
            found.append((padding, max(reach - size - padding, 0)))
        return found

    def mode(self, before: Sequence[int], after: Sequence[int]) -> int | None:
        """How TFLite would pad likewise, None if it cannot."""
        wanted = self.pads(before, after)
        if not any(map(any, wanted)):
            return VALID
        same = []
        for size, count, kernel, stride, dilation in zip(
            before, after, self.size, self.stride, self.dilation, strict=True
        ):
            if count != -(-size // stride):
                return None
            total = max((count - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            same.append((total // 2, total - total // 2))
        return SAME if same == wanted else None


def only_images(node: Node, dimensions: int) -> None:
    """Refuse windows of more ``dimensions`` than an image has."""
    if dimensions > 2:
        raise no_form(
            node,
            f"its windows have {dimensions} dimensions",
            "Leave out the third dimension, or ship the ONNX file",
        )


def padded(
    node: Node, to: TfliteWriter, window: Window, fill: int | None = None
) -> tuple[int, int]:
    """The image that ``node`` reads, and how its operator pads it: by a Pad before it where TFLite
    would pad otherwise.

    ``fill``: the integer to pad with instead of the zero point.
    """
    spec = node.inputs[0]
    x = to.take(spec, IMAGE)
    before, after = to.shape(spec, IMAGE)[1:3], to.shape(node.output, IMAGE)[1:3]
    mode = window.mode(before, after)
    if mode is not None:
        return x, mode
    pads = [(0, 0), *window.pads(before, after), (0, 0)]
    return pad(to, node, x, pads, fill), VALID


def pad(
    to: TfliteWriter,
    node: Node,
    x: int,
    pads: Sequence[tuple[int, int]],
    fill: int | None = None,
) -> int:
    """The image ``x`` with ``pads`` around it, on the grid of the input of ``node``."""
    spec = node.inputs[0]
    sizes = zip(to.shape(spec, IMAGE), pads, strict=True)
    shape = [size + low + high for size, (low, high) in sizes]
    made = to.tensor(f"{node.name}.padded", shape, spec)
    operands = [x, to.numbers("pads", pads)]
    if fill is None or fill == spec.grid.zero_point:
        to.file.operator("PAD", 2, operands, made, "PadOptions")
    else:
        to.file.operator("PADV2", 2, [*operands, to.stored(spec, fill)], made, "PadV2Options")
    return made
