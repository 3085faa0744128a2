"""A depthwise-separable net on Fashion-MNIST: where one weight scale for a whole tensor really
costs accuracy."""

from common import experiment

experiment(
    __doc__,
    ["no_norm", "clamp", "weight_norm", "finetune", "qat"],
    (8, 6, 4),
    8,
    model="depthwise",
    dataset="fashion_mnist",
    per_channel=(True, False),
)
