"""OpenCV's DNN module: its classic engine, since the new one of version 5.0 does not load QDQ
files."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from qstrategies.guest import own_environment
from qstrategies.runtimes import RUNTIMES
from qstrategies.runtimes.base import Rewriting, Runtime, not_installed, read_model, refused

REASON = "it leaves the zeros of the padding out of averages that count them"


@RUNTIMES.register("opencv-dnn")
class OpenCV(Runtime):
    """Runs a part of the images only. Pixels enter as floats, and no convolution is a Winograd
    transform, whose float arithmetic is inexact."""

    summary = "OpenCV's DNN module, its classic engine, on a part of the images"
    image_limit = 2000

    @classmethod
    def missing(cls) -> str | None:
        return not_installed("cv2")

    def __init__(self, path: Path) -> None:
        with own_environment():  # it lengthens LD_LIBRARY_PATH
            import cv2

        self.path, self.error, self.logging = path, cv2.error, cv2.utils.logging
        model = read_model("OpenCV", path)
        self.inputs = [entry.name for entry in model.graph.input]
        if any(
            node.op_type == "Cast" and node.input[0] not in self.inputs for node in model.graph.node
        ):
            reason = (
                "it keeps uint8 tensors less 128, so that a Cast of one and the table behind "
                "it would come out wrong"
            )
            raise refused("OpenCV", path, ValueError(reason))
        _take_floats(model.graph)
        with tempfile.NamedTemporaryFile(
            suffix=".onnx"
        ) as file:  # only for a file can the engine be chosen
            file.write(model.SerializeToString())
            file.flush()
            try:
                with self._silence():
                    self.net = cv2.dnn.readNetFromONNX(file.name, cv2.dnn.ENGINE_CLASSIC)
            except cv2.error as error:
                raise refused("OpenCV", path, error) from None
        self.net.enableWinograd(False)

    def run(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        if len(self.net.getUnconnectedOutLayersNames()) > 1:
            raise refused("OpenCV", self.path, ValueError("it gives one of several outputs only"))
        try:
            for name, array in zip(self.inputs, inputs, strict=True):
                self.net.setInput(array.astype(np.float32), name)
            with self._silence():
                return self.net.forward().copy()
        except self.error as error:
            raise refused("OpenCV", self.path, error) from None

    def rewriting(self) -> Rewriting | None:
        """The file with averages over what lies inside the image."""
        model = read_model("OpenCV", self.path)
        counting = list(_counting_padding(model.graph))
        for attribute in counting:
            attribute.i = 0
        return Rewriting(REASON, model) if counting else None

    @contextlib.contextmanager
    def _silence(self) -> Iterator[None]:
        """No word of OpenCV's own on standard error, which its exceptions repeat."""
        before = self.logging.setLogLevel(self.logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            self.logging.setLogLevel(before)


def _counting_padding(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    """The settings by which average pools count the zeros of their padding."""
    for node in graph.node:
        settings = {attribute.name: attribute for attribute in node.attribute}
        pads = settings["pads"].ints if "pads" in settings else ()
        counts = settings.get("count_include_pad")
        if node.op_type == "AveragePool" and any(pads) and counts is not None and counts.i:
            yield counts


def _take_floats(graph: onnx.GraphProto) -> None:
    """Let every uint8 input be one of floats, quantized with scale 1 in front of the
    DequantizeLinear that reads it.

    The engine takes uint8 input for something else (wrong results without this), and Cast as it
    stands.
    """
    step, zero = np.ones((), np.float32), np.zeros((), np.uint8)
    graph.initializer.extend(
        [numpy_helper.from_array(step, "pixel_step"), numpy_helper.from_array(zero, "pixel_zero")]
    )
    for entry in graph.input:
        if entry.type.tensor_type.elem_type != onnx.TensorProto.UINT8:
            continue
        entry.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] == entry.name:
                node.input[0] = f"{entry.name}_quantized"
        operands, quantized = [entry.name, "pixel_step", "pixel_zero"], [f"{entry.name}_quantized"]
        graph.node.insert(
            0,
            onnx.helper.make_node(
                "QuantizeLinear", operands, quantized, name=f"{entry.name}_quantizer"
            ),
        )
