"""torchvision next to a CPU torch: its compiled part may not load there, and the pure-Python rest
needs two schemas."""

from __future__ import annotations

import functools
from types import ModuleType

import torch


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, declaring the two operators that its Python code expects where the
    compiled part is missing."""
    try:
        import torchvision
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
        _declare_missing_operators()
        import torchvision
    return torchvision


_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library object


def _declare_missing_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
