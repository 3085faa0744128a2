"""Trainings by published recipes, in pieces that are kept."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qstrategies.files import atomic_write

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe(ABC):
    """A published network and its training: Adam, in batches of ``batch``.

    ``published`` is the accuracy in percent of its best epoch on the test set.
    """

    name: str
    epochs: int
    published: float

    batch: ClassVar[int]
    weight_decay: ClassVar[float] = 0.0

    @abstractmethod
    def build(self) -> nn.Module:
        """The network before its first step."""

    @abstractmethod
    def inputs(self, images: Tensor) -> Tensor:
        """Pixels uint8 [N, 1, 28, 28] as what the network takes once they are ``float``."""

    @abstractmethod
    def rate(self, epoch: int) -> float:
        """Of the published ``epoch``, from 0."""

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Of scores [N, 10] and labels [N]."""

    @abstractmethod
    def after_step(self, model: nn.Module) -> None:
        """What is done to the weights after each step of the optimizer."""


class Training:
    """A network in training, kept in ``folder`` as NAME.safetensors beside NAME.json: accuracy on
    the test split after each epoch. What was interrupted goes on to the same bits.

    A ``share`` of the recipe has that share of all epochs, those between changes of the rate too.
    """

    def __init__(self, network: Recipe, folder: Path, share: float = 1.0, seed: int = 0) -> None:
        self.network, self.share, self.seed = network, share, seed
        self.epochs = round(share * network.epochs)
        name = f"{network.name.replace(' ', '_')}_{self.epochs}_{seed}"
        self.state = folder / f"{name}.safetensors"
        torch.manual_seed(seed)
        self.model = network.build()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=network.rate(0),
            weight_decay=network.weight_decay,
            fused=True,
        )
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
        train, test = (
            (self.network.inputs(images), labels)
            for images, labels in (data["train"], data["test"])
        )
        for _ in range(min(epochs, left)):
            self._epoch(*train)
            self.accuracies.append(self._accuracy(*test))
        self._write()

    def _epoch(self, images: Tensor, labels: Tensor) -> None:
        number = len(self.accuracies)
        torch.manual_seed(1000 * self.seed + number)
        for group in self.optimizer.param_groups:
            group["lr"] = self.network.rate(int(number / self.share))
        self.model.train()
        for batch in torch.randperm(len(labels)).split(self.network.batch):
            loss = self.network.loss(self.model(images[batch].float()), labels[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                self.network.after_step(self.model)

    @torch.no_grad()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float:
        self.model.eval()
        found = torch.cat([self.model(part.float()).argmax(1) for part in images.split(1000)])
        return (found == labels).double().mean().item()

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
