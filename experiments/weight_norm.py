"""The post's cure: weights as length times direction, folded before quantization."""

from common import experiment

experiment(__doc__, ["no_norm", "weight_norm"])
