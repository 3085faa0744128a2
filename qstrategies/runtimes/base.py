"""The small interface that every executor implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


class Runtime(ABC):
    """One executor with one ONNX file loaded."""

    summary: ClassVar[str]
    image_limit: ClassVar[int | None] = None
    """How many images a cross-check runs; None means the whole split. For executors too slow for all."""

    @classmethod
    def missing(cls) -> str | None:
        """Why this executor cannot be used here, or None if it can."""
        return None

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Load ``path``; raises ``InputError`` if it is not a model that this executor takes."""

    @abstractmethod
    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits [N, classes] of raw pixels [N, C, H, W]."""
