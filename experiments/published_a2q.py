"""Accuracy against accumulator bits, as A2Q and A2Q+ show it (https://arxiv.org/abs/2308.13504,
https://arxiv.org/abs/2401.10432), here of ResNet-8 on a part of MNIST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

import qstrategies as qs
from qstrategies.datasets.base import Split
from qstrategies.evaluation import evaluate
from qstrategies.experiment.checks import on_pixels
from qstrategies.files import atomic_write
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.records import TrainingConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

STRATEGY_NAMES = ("a2q", "a2q_plus")
WIDTHS = (20, 18, 16, 14, 12)
IMAGES = {"train": 8000, "validation": 500, "test": 2000}
FLOAT = TrainingConfig(epochs=3, learning_rate=8e-3, batch_size=128)
TUNING = TrainingConfig(epochs=2, learning_rate=2e-3, schedule="cosine", batch_size=128)


class Curve:
    """The float network and one run per strategy and width, each kept as a file of ``folder``."""

    def __init__(self, splits: dict[str, Split], folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.splits = {
            name: Split(name, splits[name].images[:count], splits[name].labels[:count])
            for name, count in IMAGES.items()
        }

    def results(self) -> dict[str, Any]:
        """What is done, by name."""
        found = sorted(self.folder.glob("a2q*.json"))
        return {path.stem: json.loads(path.read_text()) for path in found}

    def run(self) -> None:
        """All that is not done yet."""
        wanted = [(name, bits) for bits in WIDTHS for name in STRATEGY_NAMES]
        left = [(name, bits) for name, bits in wanted if not self._path(name, bits).exists()]
        if not left:
            return
        model = self._float()
        for name, bits in left:
            atomic_write(self._path(name, bits), json.dumps(self._bounded(model, name, bits)))

    def _path(self, name: str, bits: int) -> Path:
        return self.folder / f"{name}-{bits}.json"

    def _float(self) -> nn.Module:
        path = self.folder / "a2q_float.safetensors"
        torch.manual_seed(self.seed)
        model = MODELS.get("resnet8")()
        if path.exists():
            model.load_state_dict(load_file(path))
            return model.eval()
        train(Trainee(model, STRATEGIES.get("no_norm")()), self.splits, FLOAT, self.seed)
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        atomic_write(path, save(model.state_dict()))
        accuracy = evaluate(lambda images: model(to_input(images)), self.splits["test"]).accuracy
        atomic_write(self.folder / "a2q_float.json", json.dumps({"accuracy": accuracy}))
        return model

    def _bounded(self, model: nn.Module, name: str, bits: int) -> dict[str, Any]:
        """int8 accuracy, and the largest accumulator by the certificate of the file."""
        strategy = STRATEGIES.get(name)(accumulator_bits=bits)
        example = to_input(self.splits["train"].images[:2])
        trainee = qs.prepare(model, example, strategy, input_scale=PIXEL_SCALE)
        train(trainee, self.splits, TUNING, self.seed)
        quantized = trainee.finish()
        path = qs.export_onnx(quantized, self.folder / f"{name}-{bits}.onnx")[0].path
        summary = qs.certify(path).summary
        int8 = evaluate(on_pixels(quantized.int8()), self.splits["test"])
        return {"accuracy": int8.accuracy, **summary}
