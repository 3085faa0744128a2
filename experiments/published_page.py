"""docs/published.md: what is published, ours, and what is different."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from published_a2q import FLOAT, IMAGES, STRATEGY_NAMES, TUNING, WIDTHS
from published_lenet import LeNet
from published_mlp import MLPS
from published_training import Training

from qstrategies.report.grid import Grid

NETWORKS = (*MLPS, LeNet())

HEAD = """# Published figures, and ours

Written by `python experiments/published.py` (seed 0); `--networks` and `--share` choose networks,
and fewer epochs.

## Networks of one and two bits on MNIST

Published by [Brevitas](https://github.com/Xilinx/brevitas), src/brevitas_examples/bnn_pynq (TFC and
SFC, fully connected), and by [XNOR-Net-PyTorch](https://github.com/jiecaoyu/XNOR-Net-PyTorch)
(LeNet-5): test accuracy in percent of the best epoch *on the test images*. So is ours in the column
"best"; "last" is the last epoch, which chooses nothing. 1W2A has weights of one bit and activations
of two.
"""

DIFFERENCES = """What differs from the published recipe:

- {length}
- The sequence of random numbers. Inputs are rounded once, before training, to the same values.
- Two bits are the levels -1, 0 and 1 there and here. They go through this package's quantizers
  (`WeightQuantizer` with the step 1 for weights, `fake_quantize` for activations). One bit, -1 and
  1, is less than the 2 to 8 bits that the package has, and is a function of the experiments.
  Activations of the package have 8 bits: these networks are trained here, not exported.
"""

A2Q = """## Accuracy against accumulator bits

[A2Q](https://arxiv.org/abs/2308.13504) and [A2Q+](https://arxiv.org/abs/2401.10432) report that
accuracy falls slowly as the accumulator gets narrower, then fast, and that A2Q+ holds on longer:
for ResNet-18 on CIFAR-10 A2Q+ has 94.1, 94.1, 92.8 and 90.6 % at 15, 14, 13 and 12 bits, 95.0 % in
float. Here ResNet-8 on {train} images of MNIST, 8-bit weights and activations: {epochs} epochs in
float ({accuracy} %), {tuning} more with the bound; accuracy in percent on {test} test images.
"""

BOUND = """"Largest sum" is what any input can reach in any order, proven by `certify` from the file
alone; "room" is the largest integer of the width: the bound holds at every width, here for biases
and for every layer, first and last too. An accumulator of P bits leaves a channel an l1 norm of
about 2^(P - 1) / 2^N steps for activations of N bits, 8 here, twice that to A2Q+: the fall comes
at wider accumulators than with fewer bits of activations. CIFAR-10 and its ResNet-18 are not here:
the shape is compared, not the figures.
"""


def percent(fraction: float) -> str:
    """With two decimals, as the published figures are."""
    return f"{100 * fraction:.2f}"


def page(results: dict[str, Any], trainings: Sequence[Training]) -> str:
    """The whole page as Markdown, of what is done."""
    table = networks(trainings).as_markdown()
    return "\n".join([HEAD, table, differences(trainings), curve(results)])


def networks(trainings: Sequence[Training]) -> Grid:
    """A row per published network."""
    by_name = {training.network.name: training for training in trainings}
    headers = ("network", "published, best", "ours, best", "ours, last", "epochs, of published")
    rows = []
    for network in NETWORKS:
        training = by_name.get(network.name)
        accuracies = training.accuracies if training else []
        ours = ("not run", "")
        if accuracies:
            ours = (percent(max(accuracies)), percent(accuracies[-1]))
        done = f"{len(accuracies)} of {network.epochs}"
        rows.append((network.name, f"{network.published:.2f}", *ours, done))
    return Grid("Networks of few bits", headers, rows)


def differences(trainings: Sequence[Training]) -> str:
    """What ours does otherwise."""
    shares = {training.share for training in trainings}
    length = "Nothing of the length, but where the last column has fewer epochs: stopped early."
    if shares and min(shares) < 1:
        length = (
            f"The length: a share of {min(shares):g} of the published epochs, the rate changed\n"
            "  as much more often. Such figures say nothing against the published ones."
        )
    return DIFFERENCES.format(length=length)


def curve(results: dict[str, Any]) -> str:
    """Accuracy and the certified accumulator by width."""
    text = A2Q.format(
        train=IMAGES["train"],
        test=IMAGES["test"],
        epochs=FLOAT.epochs,
        tuning=TUNING.epochs,
        accuracy=percent(results["a2q_float"]["accuracy"]) if "a2q_float" in results else "-",
    )
    headers = ["accumulator bits", "room"]
    for name in STRATEGY_NAMES:
        headers += [f"{name}, int8", f"{name}, largest sum"]
    rows = []
    for bits in WIDTHS:
        row = [str(bits), str(2 ** (bits - 1) - 1)]
        for name in STRATEGY_NAMES:
            found = results.get(f"{name}-{bits}")
            row += (
                [percent(found["accuracy"]), str(found["largest_accumulator"])]
                if found
                else ["not run", ""]
            )
        rows.append(row)
    return "\n".join([text, Grid("Accumulators", headers, rows).as_markdown(), BOUND])
