"""torchvision, which downloads datasets and has models for experiments: an extra of this package.

Next to a CPU torch its compiled part may not load, and the pure-Python rest needs two schemas.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from qstrategies.errors import InputError


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, declaring the two operators that its Python code expects where the
    compiled part is missing.

    Raises ``InputError`` if it is not installed.
    """
    try:
        import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise InputError(
            "torchvision is not installed: pip install 'qstrategies[torchvision]'"
        ) from None
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
