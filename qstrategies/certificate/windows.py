"""Which values a window or a reduction meets, from the shapes that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qstrategies.certificate.declarations import Call
from qstrategies.certificate.grid import UnprovenError


def axes_of(call: Call) -> list[int]:
    """The axes that a reduction is over, from its attribute or its input.

    Raises ``UnprovenError`` for none, or for no values along them.
    """
    shape, given = call.first.kind.shape, call.attributes.get("axes")
    if given is None:
        array = call.constant(1)
        given = None if array is None else array.tolist()
    if shape is None or (given is not None and not len(given)):
        raise UnprovenError("it reduces over no axis, or over a shape that is not known")
    axes = [axis % len(shape) for axis in (range(len(shape)) if given is None else given)]
    if len(set(axes)) < len(axes):
        raise UnprovenError("it reduces over an axis twice")
    if any(shape[axis] == 0 for axis in axes):
        raise UnprovenError("it reduces over no values")
    return axes


def count(sizes: list[int | None]) -> int:
    """How many values dimensions of ``sizes`` hold."""
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or 0 in known:
        raise UnprovenError("the number of values in a mean or sum is not known")
    return math.prod(known)


def check_room(call: Call, kernel: Sequence[int]) -> None:
    """Raise ``UnprovenError`` if a window of ``kernel`` is larger than the padded input.

    Executors then round the number of windows up or down. Sizes that are not known are taken to be
    large enough.
    """
    shape, rank = call.first.kind.shape, len(kernel)
    pads = call.attributes.get("pads") or [0] * 2 * rank
    dilations = call.attributes.get("dilations") or [1] * rank
    for axis, size in enumerate(shape[2:] if shape is not None else ()):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        if size is not None and size + pads[axis] + pads[rank + axis] < reach:
            raise UnprovenError("its windows are larger than its padded input")


def check_every_window(call: Call) -> None:
    """Raise ``UnprovenError`` unless every window of a pool meets a value of its input.

    None may start behind the input either: executors leave that one out, or not.
    """
    get = call.attributes.get
    kernel: list[int] = call.attributes["kernel_shape"]
    check_room(call, kernel)
    rank = len(kernel)
    pads = get("pads") or [0] * 2 * rank
    shape = call.first.kind.shape
    if not any(pads) and not get("ceil_mode"):
        return
    if shape is None or None in shape[2:]:
        raise UnprovenError("whether its windows at the border hold a value is not known")
    strides: list[int] = get("strides") or [1] * rank
    dilations: list[int] = get("dilations") or [1] * rank
    for axis in range(rank):
        size, before, after = shape[2 + axis], pads[axis], pads[rank + axis]
        assert size is not None
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        room = size + before + after - reach
        steps = -(-room // strides[axis]) if get("ceil_mode") else room // strides[axis]
        starts = np.arange(steps + 1)[:, None] * strides[axis] - before
        places = starts + dilations[axis] * np.arange(kernel[axis])
        if (starts >= size).any() or not ((places >= 0) & (places < size)).any(1).all():
            raise UnprovenError("a window at its border holds no value")
