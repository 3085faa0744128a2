"""``export_int4``: the portable ONNX file with two weights in a byte where 4 bits hold them.

INT4 came with operator set 21 and IR 10, so that only newer runtimes load it. They compute with
such weights in float, whose sums are as exact as in the portable file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.export.nibbles import fits_nibbles, nibbles
from qstrategies.export.onnx_export import ExportedModel, saved
from qstrategies.export.onnx_writer import to_onnx
from qstrategies.export.selfcheck import check_file
from qstrategies.guest import guest, own_randomness
from qstrategies.operators.base import Array
from qstrategies.quantization.model import QuantizedModel

OPSET, IR_VERSION = 21, 10


@public
@guest
@own_randomness()
def export_int4(
    quantized: QuantizedModel, path: Path | str, metadata: Mapping[str, Any] | None = None
) -> ExportedModel:
    """Write ``path``, an ONNX file with weights of 4 bits where they fit: of layers quantized to so
    many bits. ``metadata`` as in ``export_onnx``.

    Raises:
        InputError: no layer has such weights.
    """
    model = to_onnx(quantized, "uint8")
    if not _packed(model.graph):
        raise InputError("no layer has weights of 4 bits: quantize with weight_bits=4 or fewer")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    check_file(quantized, model)
    return saved(model, Path(path), "int4", metadata, quantized)


def _packed(graph: onnx.GraphProto) -> bool:
    """Whether ``graph`` had weights to pack, and now has them packed."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    found = False
    for node in graph.node:
        weight = known.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.data_type != TensorProto.INT8 or len(node.input) < 3:
            continue
        array = numpy_helper.to_array(weight)
        if not fits_nibbles(array):
            continue
        zeros = np.zeros(known[node.input[2]].dims, np.int8)
        node.input[2] = f"{node.name}.zero_point"
        graph.initializer.append(_of_four_bits(node.input[2], zeros))
        weight.CopyFrom(_of_four_bits(weight.name, array))
        found = True
    _drop_unread(graph)
    return found


def _of_four_bits(name: str, array: Array) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT4, array.shape, nibbles(array), raw=True)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
