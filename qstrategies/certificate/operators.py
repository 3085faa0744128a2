"""Which operators a proof is known of."""

from __future__ import annotations

from qstrategies.certificate.arithmetic import ARITHMETIC
from qstrategies.certificate.constants import MAKING
from qstrategies.certificate.declarations import Declaration
from qstrategies.certificate.grid import UnprovenError
from qstrategies.certificate.layers import WEIGHTED
from qstrategies.certificate.means import MEANS
from qstrategies.certificate.moving import MOVING
from qstrategies.certificate.quantizers import DEQUANTIZE, QUANTIZE

DECLARED: dict[str, Declaration] = {
    **MOVING,
    **ARITHMETIC,
    **MEANS,
    **MAKING,
    **WEIGHTED,
    "QuantizeLinear": QUANTIZE,
    "DequantizeLinear": DEQUANTIZE,
}
FOLDED = {*MOVING, *ARITHMETIC, *MAKING} - {"Dropout", "GlobalMaxPool", "MaxPool", "Resize"}
"""What may compute a constant: operators that pick, place and calculate as all executors do."""
WITHOUT_PRODUCTS = frozenset({
    *(DECLARED.keys() - WEIGHTED.keys()),
    "ArgMax", "ArgMin", "BatchNormalization", "Ceil", "CastLike", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "HardSigmoid", "HardSwish",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "Log", "LogSoftmax", "Mish",
    "Not", "PRelu", "Pow", "Range", "Reciprocal", "ReduceSum", "Round", "Selu", "Sigmoid", "Sign",
    "Softmax", "Softplus", "Softsign", "Sqrt", "Sum", "Tanh",
})  # fmt: skip
"""Operators that hide no sums of products, which could saturate."""


def declared(operator: str) -> Declaration:
    """What is declared of ``operator``. Raises ``UnprovenError`` if nothing is."""
    if operator not in DECLARED:
        reason = f"no proof is known for {operator}: each executor may compute it in its own way"
        raise UnprovenError(reason)
    return DECLARED[operator]
