"""Quantization-aware training with weight_norm in force."""

from common import experiment

experiment(__doc__, ["qat", "qat_weight_norm"])
