"""tract, the inference engine in Rust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import (
    Runtime,
    input_dtypes,
    joined,
    not_installed,
    read_model,
    refused,
)


@RUNTIMES.register("tract")
class Tract(Runtime):
    """Runs a part of the images only."""

    summary = "tract, on a part of the images"
    image_limit = 2000

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("tract")

    def __init__(self, path: Path) -> None:
        import tract

        self.path, self.error = path, tract.TractError
        self.dtypes = list(input_dtypes(read_model("tract", path)).values())
        try:
            self.runnable = tract.onnx().load(str(path)).into_model().into_runnable()
        except tract.TractError as error:
            raise refused("tract", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        arrays = [
            np.ascontiguousarray(array, dtype)
            for array, dtype in zip(inputs, self.dtypes, strict=True)
        ]
        try:
            return joined([output.to_numpy() for output in self.runnable.run(arrays)])
        except self.error as error:
            raise refused("tract", self.path, error) from None
