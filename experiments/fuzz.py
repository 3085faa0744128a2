"""Random small networks, quantized, exported and run everywhere: all executors must give the same
bits.

    python experiments/fuzz.py --examples 1000 [--seed 0]

A failing network is shrunk to a minimal one and printed as the call that builds it. Files of other
tools and of hostile authors are the business of ``hostile.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.execution.crosscheck import CrossCheck
from qstrategies.runtimes import RUNTIMES

CHANNELS, SIZE, EXAMPLES = 4, 12, 24
ACTIVATIONS = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardswish,
    nn.SiLU,
    nn.Sigmoid,
    nn.Hardsigmoid,
)
POOLS: dict[str, Callable[[], nn.Module]] = {
    "max 2": lambda: nn.MaxPool2d(2),
    "max 3": lambda: nn.MaxPool2d(3, 2, padding=1),
    "average 2": lambda: nn.AvgPool2d(2),
    "average 3": lambda: nn.AvgPool2d(3, 1, padding=1),
    "average 2x3": lambda: nn.AvgPool2d((2, 3)),
}
UNPROVEN = (
    "openvino",
)  # rounds some ties the other way behind weight scales that are no powers of two
WEIGHTS = ("usual", "spread", "tiny", "huge", "dead channel", "zero", "constant output")


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "x / 3": lambda x: x / 3,
    "2 - x": lambda x: 2 - x,
    "-x * 0.1 + 3": lambda x: -x * 0.1 + 3,
    "clamp": lambda x: x.clamp(-0.37, 1.21),
    "clamp above": lambda x: torch.clamp(x, max=0.6),
    "relu in place, read again": lambda x: x.relu_() + x,
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "maximum": lambda x: torch.maximum(x, x * -0.5),
    "difference": lambda x: x - torch.sigmoid(x),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "dropout": lambda x: nn.functional.dropout(x, 0.5, training=False),
    "mean of rows": lambda x: x - x.mean(3, keepdim=True),
}


class Applied(nn.Module):
    """A function of ``FUNCTIONS``, which keeps the shape."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x)

    def extra_repr(self) -> str:
        return repr(self.name)


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Gate(Residual):
    """x * branch(mean of x), as in squeeze-and-excite."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.branch(x.mean([2, 3], keepdim=True))


class Concat(Residual):
    """x beside branch(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


class Shuffle(nn.Module):
    """Channels of two groups interleaved, as in ShuffleNet."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@st.composite
def networks(draw: Any) -> nn.Module:
    """A chain of one to four blocks on [N, 4, 12, 12] with a tail, its weights drawn too."""
    layers: list[nn.Module] = []
    channels, size = CHANNELS, SIZE
    for _ in range(draw(st.integers(1, 4))):
        block, channels, size = draw(blocks(channels, size))
        layers.append(block)
    layers += draw(tails(channels, size))
    model = nn.Sequential(*layers)
    torch.manual_seed(draw(st.integers(0, 2**20)))
    _weights(model, draw)
    return model.eval()


@st.composite
def blocks(draw: Any, channels: int, size: int) -> tuple[nn.Module, int, int]:
    """One block, with the channels and the size that it leaves."""
    kind = draw(
        st.sampled_from(
            [
                "conv",
                "depthwise",
                "residual",
                "gate",
                "concat",
                "pool",
                "norm",
                "shuffle",
                "up",
                "transposed",
                "function",
            ]
        )
    )
    activation = draw(st.sampled_from(ACTIVATIONS))()
    if kind == "conv":
        outputs, kernel, stride = (
            draw(st.sampled_from([2, 4, 6])),
            draw(st.sampled_from([1, 3])),
            draw(st.sampled_from([1, 2])),
        )
        dilation = draw(st.sampled_from([1, 2]))
        padding = dilation * (kernel - 1) // 2
        conv = nn.Conv2d(
            channels,
            outputs,
            kernel,
            stride,
            padding,
            dilation,
            bias=draw(st.booleans()),
            groups=draw(st.sampled_from([1, 2])),
        )
        parts = (
            [conv, nn.BatchNorm2d(outputs), activation]
            if draw(st.booleans())
            else [conv, activation]
        )
        return nn.Sequential(*parts), outputs, -(-size // stride)
    if kind == "pool" and size >= 4:
        name = draw(st.sampled_from(sorted(POOLS)))
        pool = POOLS[name]()
        if name != "average 2x3":
            return pool, channels, pool(torch.zeros(1, 1, size, size)).shape[2]
    if kind in ("up", "transposed") and size <= SIZE:
        up: nn.Module = (
            nn.Upsample(scale_factor=2)
            if kind == "up"
            else nn.ConvTranspose2d(channels, channels, 2, 2)
        )
        return up, channels, 2 * size
    same = nn.Sequential(nn.Conv2d(channels, channels, 1), activation)
    simple: dict[str, nn.Module] = {
        "depthwise": nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.BatchNorm2d(channels),
            activation,
        ),
        "residual": Residual(same),
        "gate": Gate(same),
        "norm": nn.BatchNorm2d(channels),
        "shuffle": Shuffle(),
        "function": Applied(draw(st.sampled_from(sorted(FUNCTIONS)))),
    }
    if kind == "concat":
        return Concat(same), 2 * channels, size
    return simple.get(kind, activation), channels, size


@st.composite
def tails(draw: Any, channels: int, size: int) -> list[nn.Module]:
    """What stands before the output."""
    kind = draw(st.sampled_from(["none", "linear", "global", "wide pool"]))
    if kind == "none":
        return []
    if kind == "linear":
        return [nn.Flatten(), nn.Linear(channels * size * size, 5)]
    if kind == "wide pool" and size % 6 == 0:
        return [nn.AvgPool2d((2, 3)), nn.Conv2d(channels, 3, 1)]
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


@torch.no_grad()
def _weights(model: nn.Module, draw: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, -1.5, 1.5),
                (module.running_mean, -1, 1),
                (module.running_var, 0.1, 3),
                (module.bias, -1, 1),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            continue
        module.reset_parameters()
        kind, weight = draw(st.sampled_from(WEIGHTS)), module.weight
        if kind == "spread":
            weight.mul_(
                10.0
                ** torch.empty(len(weight)).uniform_(-4, 4).reshape(-1, *[1] * (weight.dim() - 1))
            )
        elif kind == "dead channel":
            weight[0] = 0
        else:
            weight.mul_(
                {"tiny": 1e-6, "huge": 1e4, "zero": 0.0, "constant output": 0.0}.get(kind, 1.0)
            )
        if kind == "constant output" and module.bias is not None:
            module.bias.fill_(0.7)


@st.composite
def cases(draw: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A network, and how to quantize it."""
    model = draw(networks())
    config = qs.QuantizationConfig(
        weight_bits=draw(st.sampled_from([8, 8, 5, 2])),
        per_channel=draw(st.booleans()),
        observer=draw(st.sampled_from(["min_max", "histogram"])),
    )
    return model, {"config": config, "input_scale": draw(st.sampled_from([1 / 255, 1 / 255, None]))}


def everywhere(model: nn.Module, arguments: dict[str, Any], folder: Path) -> CrossCheck:
    """``model``, quantized with ``arguments`` and exported, in every engine and every fast
    runtime."""
    torch.manual_seed(1)
    shape = (CHANNELS, SIZE, SIZE)
    batch = (
        torch.rand(EXAMPLES, *shape) if arguments["input_scale"] else torch.randn(EXAMPLES, *shape)
    )
    quantized = qs.quantize(model, [batch], batch[:2], **arguments)
    integers = torch.randint(0, 256, (EXAMPLES, *shape), dtype=torch.uint8)
    integers[0], integers[1] = 0, 255
    return qs.cross_check(
        qs.export_onnx(quantized, folder / "model.onnx"), integers, list(fast_runtimes())
    )


def fast_runtimes() -> Iterator[str]:
    """The installed runtimes that are quick to load and to run, and that the certificate speaks
    of."""
    for name in RUNTIMES.names():
        kind = RUNTIMES.get(name)
        if name not in UNPROVEN and kind.image_limit is None and kind.missing() is None:
            yield name


def fuzz(examples: int, first: int) -> int:
    """Run ``examples`` random cases; returns how many ran. Raises on the first failure, after
    shrinking it."""
    count = 0
    with tempfile.TemporaryDirectory() as folder:

        @seed(first)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            print_blob=False,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def run(case: tuple[nn.Module, dict[str, Any]]) -> None:
            nonlocal count
            report = everywhere(*case, Path(folder))
            assert report.same, f"\n{case}\n{report}"
            count += 1
            if count % 100 == 0:
                print(f"{count} networks, all the same bits", flush=True)

        run()
    return count


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--examples", type=int, default=100, help="how many networks (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generator")
    chosen = parser.parse_args()
    print(
        f"{fuzz(chosen.examples, chosen.seed)} networks, all the same bits in "
        f"{', '.join(fast_runtimes())} and PyTorch's engines"
    )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
