"""The post's quick fix: weights clamped to [-threshold, threshold] after every step."""

from common import experiment

experiment(__doc__, ["no_norm", "clamp"])
