"""The control for QAT: the float model trained on for as long, then post-training quantization."""

from common import experiment

experiment(__doc__, ["no_norm", "finetune"])
