"""A small network of everything that the files of ``qstrategies/operators`` say may be drawn."""

import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

import qstrategies as qs
from qstrategies.operators.drawing import DRAWINGS
from qstrategies.quantization.model import QuantizedModel
from qstrategies.specification.vectors import vectors_path

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from fuzz_networks import REFUSED_BY_TORCH, SHAPES, Network, Step


@dataclass(frozen=True)
class Drawn:
    """A network of one drawn operator, quantized, and its file."""

    name: str
    quantized: QuantizedModel
    path: Path


def drawn_networks(folder):
    """One for each drawing that has an exact integer form and gives certified bits, as nearly all
    do."""
    for number, drawing in enumerate(each for each in DRAWINGS if each.exact):
        network, inputs = _network(drawing)
        quantized = qs.quantize(network, [inputs], tuple(each[:2] for each in inputs))
        name = f"{number}-{drawing.file.rpartition('.')[2]}"
        path = qs.export_onnx(quantized, folder / f"{name}.onnx", optimize_for=None)[0].path
        if vectors_path(path).exists():
            yield Drawn(name, quantized, path)


def _network(drawing):
    name = f"{drawing.file}.{drawing.draw.__name__}"  # which stays if others are added
    random = Random(name)
    torch.manual_seed(random.getrandbits(32))
    while True:
        shape = random.choice(SHAPES)
        module = None
        inputs = tuple(torch.randn(6, *shape) for _ in range(drawing.inputs))
        try:
            module = drawing.draw(random, *[shape] * drawing.inputs)
            if module is None:
                continue
            module.eval()(*(each.clone() for each in inputs))
        except REFUSED_BY_TORCH:
            continue
        steps = [Step(module, tuple(range(drawing.inputs)))]
        return Network(drawing.inputs, steps, [drawing.inputs]).eval(), inputs
