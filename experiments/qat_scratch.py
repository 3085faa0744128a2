"""Quantization-aware training from random weights, for as long as the float baseline trains."""

from common import experiment

experiment(__doc__, ["no_norm", "qat_scratch"])
