"""Quantization-aware training from the float model, beside its control."""

from common import experiment

experiment(__doc__, ["finetune", "qat"])
