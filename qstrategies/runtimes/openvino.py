"""OpenVINO's CPU plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Runtime, not_installed, refused


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """Float layers stay in float32: by default the plugin rounds them to bf16 on a CPU that has it."""

    summary = "OpenVINO on the CPU"
    rewrites = "it fuses a convolution with the addition behind it and leaves out the rounding between them"

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("openvino")

    def __init__(self, path: Path) -> None:
        import openvino

        self.path = path
        try:
            self.model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise refused("OpenVINO", path, error) from None

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        pairs = zip(inputs, self.model.inputs, strict=True)
        try:
            return self.model([array.astype(entry.element_type.to_dtype(), copy=False) for array, entry in pairs])[0].copy()
        except RuntimeError as error:
            raise refused("OpenVINO", self.path, error) from None
