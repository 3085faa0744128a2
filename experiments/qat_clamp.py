"""Quantization-aware training with clamped weights."""

from common import experiment

experiment(__doc__, ["qat", "qat_clamp"])
