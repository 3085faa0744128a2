"""A short run of the fuzzer, and the networks on which longer runs once found different bits."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from fuzz import Concat, Residual, everywhere, fuzz

from qstrategies.records import QuantizationConfig


def test_random_networks_give_the_same_bits_everywhere():
    assert fuzz(examples=15, first=0) >= 15


def conv(outputs=4, **settings):
    return nn.Conv2d(4, outputs, 1, **settings)


FOUND = {
    "a residual connection from the pixels: their step had no layer to be folded into": nn.Sequential(
        Residual(conv())
    ),
    "a concatenation from the pixels": nn.Sequential(Concat(nn.Sequential(conv()))),
    "ReLU6 before a concatenation: torch.ao drops the shared observer": nn.Sequential(
        conv(), Concat(nn.Sequential(conv(), nn.ReLU6()))
    ),
    "an average pool as the first layer: its input was not observed": nn.Sequential(
        nn.AvgPool2d(2), conv()
    ),
    "no bias: the exporter computed its zeros in the graph": nn.Sequential(
        conv(bias=False), nn.ReLU(), conv(bias=False)
    ),
    "a tie in a residual addition: qnnpack rounds it away from zero": nn.Sequential(
        conv(), nn.ReLU(), Residual(conv()), nn.ReLU()
    ),
    "in-place ReLU6: qnnpack mixes up memory layouts": nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2), nn.ReLU6(inplace=True), nn.Conv2d(6, 3, 1)
    ),
    "batch norm and ReLU behind a transposed convolution: torch.ao folds neither": nn.Sequential(
        nn.ConvTranspose2d(4, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU(), conv()
    ),
    "the same with groups": nn.Sequential(
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU(), conv()
    ),
    "a transposed convolution: fbgemm packs wrong weights": nn.Sequential(
        conv(8), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, stride=2)
    ),
}


@pytest.mark.parametrize(
    ("per_channel", "input_scale"),
    [(True, 1 / 255), (False, None)],
    ids=["pixels", "real values, per tensor"],
)
@pytest.mark.parametrize("network", FOUND.values(), ids=FOUND)
def test_what_was_found_stays_mended(network, per_channel, input_scale, tmp_path):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    report = everywhere(
        network.eval(),
        {"config": QuantizationConfig(per_channel=per_channel), "input_scale": input_scale},
        tmp_path,
    )
    assert report.same, str(report)
