"""The small interface that every executor implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

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
    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The file's output [N, ...] for one array [N, ...] per input of the file, in its order.

        Arrays are cast to the dtype that the file takes: raw pixels 0...255 may come as uint8 whatever that is.
        """
