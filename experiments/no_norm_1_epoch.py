"""The post's second experiment: the same after one epoch, when the weights are still small."""

from common import experiment

experiment(__doc__, ["no_norm"], epochs=1)
