"""From node to node: what every tensor of a graph can hold, and what executors may round apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from qstrategies.certificate import fixed_point
from qstrategies.certificate.constants import (
    LARGEST_SIZE,
    check_size,
    evaluate,
    moved,
    shape_of,
)
from qstrategies.certificate.declarations import Call, Declaration, call_of
from qstrategies.certificate.grid import Array, Grid, UnprovenError
from qstrategies.certificate.layers import WEIGHTED, certify_layer
from qstrategies.certificate.operators import FOLDED, WITHOUT_PRODUCTS, declared
from qstrategies.certificate.quantizers import (
    dequantized,
    quantizer_of,
    range_breaches,
    rounding_breaches,
    scale_breaches,
    stands,
)
from qstrategies.certificate.report import (
    EXACT,
    FIXED_POINT,
    GUARANTEES,
    Breach,
    Certificate,
    Layer,
)
from qstrategies.certificate.surroundings import (
    LARGE,
    contradictions,
    entries_of,
    inferred_kinds,
    opset_of,
    readers_of,
)
from qstrategies.certificate.tensors import FLOAT, Constant, Kind, Quantizer, Tensor

MOST_WALKS = 8  # each may find shapes for the next
ALL = (*GUARANTEES, FIXED_POINT)


def certify_model(model: onnx.ModelProto) -> Certificate:
    """The certificate of a valid ``model``, as ``onnx_file.load_checked`` gives it."""
    walk = _walked(model, {})
    for _ in range(MOST_WALKS):
        if walk.made.keys() <= walk.known.keys():
            break
        # some may be shapes that the inference could not compute
        walk = _walked(model, walk.made)
    breaches = {name: tuple(found) for name, found in walk.breaches.items()}
    on_fixed_point = breaches.pop(FIXED_POINT)
    return Certificate(tuple(walk.layers), breaches, walk.others, on_fixed_point)


def _walked(model: onnx.ModelProto, known: Mapping[str, Array]) -> _Walk:
    walk = _Walk(model, known)
    for node in model.graph.node:
        walk.visit(_named(node))
    for output in model.graph.output:
        walk.leave(output.name)
    return walk


def _named(node: onnx.NodeProto) -> onnx.NodeProto:
    if node.name:
        return node
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.name = f"{node.op_type} of {next(iter(node.output), 'nothing')}"
    return copied


class _Walk:
    """``tensors``: what is known of each so far; ``made``: what nodes made that may be a shape."""

    def __init__(self, model: onnx.ModelProto, known: Mapping[str, Array]) -> None:
        self.known = known
        self.made: dict[str, Array] = {}
        self.layers: list[Layer] = []
        self.breaches: dict[str, list[Breach]] = {name: [] for name in ALL}
        self.others = 0
        self.opset = opset_of(model)
        self.kinds: dict[str, Kind] = {}
        try:
            self.kinds = inferred_kinds(model, known)
        except UnprovenError as error:
            self._breach("the graph", str(error), ALL)
        if model.functions:
            self._breach("the graph", "it defines operators of its own", ALL)
        self.claims = dict(contradictions(model, self.kinds))
        self.tensors = entries_of(model)
        self.quantizers: dict[str, Quantizer] = {}
        self.readers = readers_of(model)

    def visit(self, node: onnx.NodeProto) -> None:
        """Enter the outputs of ``node`` into ``tensors``, and what it breaks into ``breaches``."""
        outputs = tuple(self.kinds.get(name, Kind()) for name in node.output)
        self.tensors.update(zip(node.output, map(Tensor, outputs), strict=True))
        try:
            inputs = tuple(self._tensor(name) if name else None for name in node.input)
            self._check_claims(node)
            declaration = declared(node.op_type)
            call = call_of(node, self.opset, inputs, outputs, self._readers(node))
            declaration.check(call)
            self.tensors.update(zip(node.output, self._results(call, declaration), strict=True))
        except UnprovenError as error:
            self._unproven(node, str(error))
        except Exception as error:  # a strange file may break any assumption
            self._unproven(node, f"it cannot be analysed: {type(error).__name__}")

    def leave(self, name: str) -> None:
        """Check what leaves the graph as its output ``name``, since it is not rounded again."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.known is None or tensor.kind.element != FLOAT:
            return
        try:
            if tensor.known.signed_zero:
                raise UnprovenError("a zero may come out as -0.0 or as 0.0")
            if tensor.moved_from is None:
                tensor.known.exact()
        except UnprovenError as error:
            self._breach(f"output {name}", str(error))

    def _unproven(self, node: onnx.NodeProto, reason: str) -> None:
        harmless = node.op_type in WITHOUT_PRODUCTS
        self._breach(node.name, reason, EXACT if harmless else ALL)

    def _breach(self, where: str, reason: str, guarantees: Sequence[str] = EXACT) -> None:
        for guarantee in guarantees:
            self.breaches[guarantee].append(Breach(where, reason))
        if guarantees == EXACT:  # what integer kernels round apart, fixed-point kernels do too
            self.breaches[FIXED_POINT].append(Breach(where, reason))

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UnprovenError(f"its input {name!r} is not known")
        return self.tensors[name]

    def _readers(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """The operators that read the first output of ``node``, see ``Call.readers``."""
        found = self.readers.get(next(iter(node.output), ""), [])
        while len(found) == 1 and found[0].op_type in ("Relu", "Clip"):
            found = self.readers.get(found[0].output[0], [])
        return tuple(reader.op_type for reader in found)

    def _check_claims(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            if name in self.claims:
                claimed, found = self.claims[name], self.kinds[name]
                raise UnprovenError(f"the file says that {name!r} is {claimed}, but it is {found}")

    def _results(self, call: Call, declaration: Declaration) -> list[Tensor]:
        """The outputs of ``call``, whose node is as declared."""
        operator, kind = call.node.op_type, call.outputs[0]
        if operator == "Constant":
            return [Tensor(kind, constant=Constant(evaluate(call)[0], None, call.node.output[0]))]
        if operator == "Shape":
            self.others += 1
            return [self._measured(call)]
        if operator == "QuantizeLinear":
            return [self._quantized(call)]
        if not all(tensor.proven for tensor in call.tensors):
            if operator in WEIGHTED:  # an executor may find its input another way
                reason = "what flows into it is not proven"
                self._breach(call.node.name, reason, ["saturation_safe"])
            return [Tensor(output) for output in call.outputs]
        if operator == "DequantizeLinear":
            return [self._dequantized(call)]
        if operator in WEIGHTED:
            return [self._summed(call)]
        return self._computed(call, declaration)

    def _computed(self, call: Call, declaration: Declaration) -> list[Tensor]:
        if declaration.moves and call.first.quantized:
            return [Tensor(call.outputs[0], constant=moved(call))]
        assert declaration.prove is not None
        grid = declaration.prove(call)
        self._check_overflow(call.outputs[0], grid)
        if all(tensor.constant is not None and not tensor.quantized for tensor in call.tensors):
            return self._folded(call)
        self.others += 1
        passed = frozenset({call.node.op_type}).union(*(tensor.through for tensor in call.tensors))
        made = Tensor(call.outputs[0], grid, through=passed)
        carried = _carried(call, declaration, grid)
        if carried is not None:
            apart = carried.apart or stands(call, carried)
            made = replace(made, moved_from=carried.moved_from, apart=apart)
        if call.node.op_type in ("Relu", "Clip"):
            made = replace(made, sums=call.first.sums, coarsest=call.first.coarsest)
        if call.node.op_type in ("Add", "Sub"):
            units = [tensor.grid.unit for tensor in call.tensors]
            made = replace(made, coarsest=max(units))
        return [replace(made, kind=kind) for kind in call.outputs]

    def _folded(self, call: Call) -> list[Tensor]:
        if call.node.op_type not in FOLDED:
            raise UnprovenError("it computes a constant at load, each executor in its own way")
        check_size(call)
        outputs = zip(call.node.output, call.outputs, evaluate(call), strict=True)
        return [self._fixed(*output) for output in outputs]

    def _measured(self, call: Call) -> Tensor:
        array = shape_of(call)
        if array is None:
            return Tensor(call.outputs[0], Grid(1.0, 0, LARGEST_SIZE))
        return self._fixed(call.node.output[0], call.outputs[0], array)

    def _fixed(self, name: str, kind: Kind, array: Array) -> Tensor:
        """The constant ``array`` under ``name``."""
        if array.dtype == np.int64 and array.size <= LARGE:
            self.made[name] = array
        return Tensor(kind, constant=Constant(array, None, name))

    def _check_overflow(self, kind: Kind, grid: Grid) -> None:
        limits = kind.limits
        if limits is not None and not limits.low <= grid.least <= grid.most <= limits.high:
            raise UnprovenError("its integers can overflow")

    def _summed(self, call: Call) -> Tensor:
        layer, grid, steps, breaches, sums = certify_layer(call)
        self.layers.append(layer)
        for guarantee, reason in breaches:
            self._breach(call.node.name, reason, [guarantee])
        through = frozenset({call.node.op_type})
        return Tensor(call.outputs[0], grid, through=through, steps=steps, sums=sums)

    def _dequantized(self, call: Call) -> Tensor:
        if call.first.constant is not None:
            return Tensor(call.outputs[0], constant=dequantized(call))
        quantizer = quantizer_of(call)
        if self.quantizers.get(call.node.input[0]) != quantizer:
            for reason in scale_breaches(quantizer):
                self._breach(call.node.name, reason)
        whole, zero_point = call.first.grid.on(1.0), quantizer.zero_point
        grid = Grid(quantizer.scale, whole.low - zero_point, whole.high - zero_point)
        through = call.first.through | {"DequantizeLinear"}
        return Tensor(call.outputs[0], grid, None, through, quantizer)

    def _quantized(self, call: Call) -> Tensor:
        quantizer = quantizer_of(call)
        self.quantizers[call.node.output[0]] = quantizer
        reasons = list(scale_breaches(quantizer))
        if call.first.constant is not None:
            reasons.append("it rounds its constant at load, each executor in its own way")
        elif call.first.proven:
            reasons += rounding_breaches(call.first, quantizer)
        for reason in reasons:
            self._breach(call.node.name, reason)
        if call.first.proven:
            for reason in fixed_point.rounding_breaches(call.first, quantizer):
                self._breach(call.node.name, reason, [FIXED_POINT])
            for reason in range_breaches(call.first, quantizer):
                self._breach(call.node.name, reason, ["integer_kernels"])
        kind = call.outputs[0]
        return Tensor(kind, kind.limits, through=frozenset({"QuantizeLinear"}))


def _carried(call: Call, declaration: Declaration, grid: Grid) -> Tensor | None:
    """The input that ``call`` only moves, or changes so little that it may be left out."""
    if declaration.moves:
        return call.first if call.first.constant is None else None
    varying = [tensor for tensor in call.tensors if tensor.constant is None]
    if len(varying) != 1 or _scales(call):
        return None
    same = replace(grid, signed_zero=False) == replace(varying[0].grid, signed_zero=False)
    return varying[0] if same else None


def _scales(call: Call) -> bool:
    """Whether ``call`` multiplies by a constant that is not 1 everywhere, as a mask."""
    constants = [tensor.constant for tensor in call.tensors if tensor.constant is not None]
    return call.node.op_type == "Mul" and any((each.values != 1).any() for each in constants)
