"""The post's first experiment: plain training, then post-training quantization."""

from common import experiment

experiment(__doc__, ["no_norm"])
