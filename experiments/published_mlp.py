"""The fully connected networks of Brevitas' example bnn_pynq (https://github.com/Xilinx/brevitas,
after Umuroglu et al., https://arxiv.org/abs/1612.07119) by their recipe, in pieces that are kept.

Three hidden layers, each linear without bias, batch norm, quantizer, dropout 0.2; the input too is
quantized and dropped from; the logits are normalized as one tensor. Weights begin uniform in [-1,
1] and are put back there after each step; all scales are 1. Squared hinge loss of targets +1 and
-1, Adam at 0.02, halved each 40 epochs, at once the first time; batches of 100. A ``share`` of the
recipe has that share of all epochs, those between halvings too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qstrategies.files import atomic_write
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import fake_quantize

CLASSES, HIDDEN_LAYERS, BATCH, DROPOUT = 10, 3, 100, 0.2
RATE, HALVING = 0.02, 40


@dataclass(frozen=True)
class Network:
    """A published network: bits of 1 are the levels -1 and 1, of 2 they are -1, 0 and 1.

    ``published`` is the accuracy in percent of its best epoch on the test set.
    """

    name: str
    width: int
    weight_bits: int
    activation_bits: int
    input_bits: int
    epochs: int
    published: float


NETWORKS = (
    Network("TFC 1W1A", 64, 1, 1, 1, 1000, 93.17),
    Network("TFC 1W2A", 64, 1, 2, 2, 500, 94.79),
    Network("TFC 2W2A", 64, 2, 2, 2, 500, 96.60),
    Network("SFC 1W1A", 256, 1, 1, 1, 500, 97.81),
    Network("SFC 1W2A", 256, 1, 2, 2, 500, 98.31),
    Network("SFC 2W2A", 256, 2, 2, 2, 500, 98.66),
)


class Sign(torch.autograd.Function):
    """-1 or 1 (of 0), with the gradient 1 in [-1, 1] and 0 outside: one bit, which the package's
    quantizers do not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """``x`` in one bit."""
    result: Tensor = Sign.apply(x)
    return result


class UnitStep(WeightQuantizer):
    """The package's weight quantizer with the constant step 1: two bits are -1, 0 and 1."""

    def __init__(self) -> None:
        super().__init__(2, per_channel=False, exact=False)
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.one: Tensor

    def step(self, rows: Tensor) -> Tensor:
        return self.one


class Activation(nn.Module):
    """Values in ``bits`` bits at scale 1."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.one: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return sign(x) if self.bits == 1 else fake_quantize(x, self.one, 0, -1, 1)


class Dropout(nn.Module):
    """Dropout at a fifth; its random 16-bit words cost an eighth of torch's Bernoulli numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= round(DROPOUT * 2**16) - 2**15
        return x * kept / (1 - DROPOUT)


class Linear(nn.Linear):
    """Without bias, its weights in ``bits`` bits."""

    def __init__(self, inputs: int, outputs: int, bits: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        nn.init.uniform_(self.weight, -1, 1)
        self.rounded = sign if bits == 1 else UnitStep()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.rounded(self.weight))


class TensorNorm(nn.BatchNorm1d):
    """Batch normalization of all values of a tensor by one mean and one variance."""

    def __init__(self) -> None:
        super().__init__(1, eps=1e-4)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, 1)).reshape(input.shape)


def build(network: Network) -> nn.Sequential:
    """Quantized values [N, 784] -> scores [N, 10]."""
    layers: list[nn.Module] = [Dropout()]
    inputs = 784
    for _ in range(HIDDEN_LAYERS):
        layers += [
            Linear(inputs, network.width, network.weight_bits),
            nn.BatchNorm1d(network.width),
            Activation(network.activation_bits),
            Dropout(),
        ]
        inputs = network.width
    return nn.Sequential(*layers, Linear(inputs, CLASSES, network.weight_bits), TensorNorm())


Examples = tuple[Tensor, Tensor]


def quantized(examples: Examples, bits: int) -> Examples:
    """Pixels [N, ...] as values in [-1, 1] that are rounded to ``bits``, int8 [N, 784]; labels."""
    images, labels = examples
    values = images.flatten(1).float() / 127.5 - 1
    return Activation(bits)(values).to(torch.int8), labels


def squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of max(0, 1 - t y)^2 over examples and classes, t = 1 for the label and else -1."""
    targets = 2 * nn.functional.one_hot(labels, CLASSES) - 1
    return (1 - targets * scores).clamp(min=0).square().mean()


class Training:
    """A network in training, kept in ``folder`` as NAME.safetensors beside NAME.json: accuracy on
    the test split after each epoch. What was interrupted goes on to the same bits."""

    def __init__(self, network: Network, folder: Path, share: float = 1.0, seed: int = 0) -> None:
        self.network, self.share, self.seed = network, share, seed
        self.epochs = round(share * network.epochs)
        name = f"{network.name.replace(' ', '_')}_{self.epochs}_{seed}"
        self.state = folder / f"{name}.safetensors"
        torch.manual_seed(seed)
        self.model = build(network)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        self.accuracies: list[float] = []
        if self.state.exists():
            self._read()

    @property
    def unfinished(self) -> bool:
        """Whether epochs are left."""
        return len(self.accuracies) < self.epochs

    def run(self, data: dict[str, Examples], epochs: int) -> None:
        """Train for ``epochs`` more, or as many as are left, and keep the state.

        Args:
            data: pixels uint8 [N, 1, 28, 28] and labels [N] of "train" and "test".
        """
        left = self.epochs - len(self.accuracies)
        bits = self.network.input_bits
        train, test = (quantized(data[name], bits) for name in ("train", "test"))
        for _ in range(min(epochs, left)):
            self._epoch(*train)
            self.accuracies.append(self._accuracy(*test))
        self._write()

    def _epoch(self, images: Tensor, labels: Tensor) -> None:
        number = len(self.accuracies)
        torch.manual_seed(1000 * self.seed + number)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE / 2 ** (int(number / self.share) // HALVING + 1)
        weights = [layer.weight for layer in self.model if isinstance(layer, Linear)]
        self.model.train()
        for batch in torch.randperm(len(labels)).split(BATCH):
            loss = squared_hinge(self.model(images[batch].float()), labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                for weight in weights:
                    weight.clamp_(-1, 1)

    @torch.no_grad()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        self.model.eval()
        return (self.model(images.float()).argmax(1) == labels).double().mean().item()

    def _write(self) -> None:
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, values in moments.items():
            tensors |= {f"adam.{index}.{name}": value for name, value in values.items()}
        atomic_write(self.state, save(tensors))
        atomic_write(self.state.with_suffix(".json"), json.dumps(self.accuracies))

    def _read(self) -> None:
        model: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Any]] = {}
        for key, value in load_file(self.state).items():
            part, name = key.split(".", 1)
            if part == "model":
                model[name] = value
            else:
                index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value
        self.model.load_state_dict(model)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.accuracies = json.loads(self.state.with_suffix(".json").read_text())
