"""ResNet-8 on Fashion-MNIST: residual connections, per channel and per tensor."""

from common import experiment

experiment(
    __doc__,
    ["no_norm", "qat"],
    (8, 6, 4),
    8,
    model="resnet8",
    dataset="fashion_mnist",
    per_channel=(True, False),
)
