"""The runs behind the verdict on the post: its setting, varied in one thing at a time, five seeds,
kept as they finish."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qstrategies.experiment.comparison import run_all
from qstrategies.experiment.quantized import prepared_for, quantize_stage
from qstrategies.experiment.trained import float_stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import atomic_write
from qstrategies.records import (
    PRESETS,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    TrainingConfig,
    content_key,
)
from qstrategies.records.predictions import Predictions
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import weighted_layers

POST = PRESETS["post"]["training"]
PLAIN, SHORT, NORMED, SHORT_NORMED = (
    "no_norm",
    "no_norm, 1 epoch",
    "weight_norm",
    "weight_norm, 1 epoch",
)
TWIN_EPOCHS = 3
TWIN = f"no_norm, {TWIN_EPOCHS} epochs"
"""What the Keras models, which train as long, are compared with."""
CLAMPED = {threshold: f"clamp at {threshold:g}" for threshold in (0.1, 0.02)}
SCALE = 4
"""By how much the identity of scaled layers scales: a power of two, so that no weight is
rounded."""


@dataclass(frozen=True)
class Training:
    """One way to train the float model."""

    strategy: str
    training: TrainingConfig = POST
    options: tuple[tuple[str, float], ...] = ()


def _post(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(POST, **changes)


OTHERWISE = {
    "no_norm, Adam 1e-2": Training("no_norm", _post(learning_rate=1e-2)),
    "no_norm, SGD 1e-2": Training("no_norm", _post(optimizer="sgd", learning_rate=1e-2)),
    "no_norm, SGD 1e-3": Training("no_norm", _post(optimizer="sgd")),
}
"""Plain training in which one thing is not the post's."""
TRAININGS = {
    PLAIN: Training("no_norm"),
    SHORT: Training("no_norm", _post(epochs=1)),
    NORMED: Training("weight_norm"),
    SHORT_NORMED: Training("weight_norm", _post(epochs=1)),
    **{
        name: Training("clamp", POST, (("threshold", threshold),))
        for threshold, name in CLAMPED.items()
    },
    **OTHERWISE,
    TWIN: Training("no_norm", _post(epochs=TWIN_EPOCHS)),
}

RECIPES = [
    QuantizationConfig(per_channel=per_channel, observer=observer, reduce_range=reduce_range)
    for per_channel in (True, False)
    for observer in ("min_max", "histogram")
    for reduce_range in (False, True)
]
"""Of 8 bits."""
RECIPE = QuantizationConfig(observer="histogram", reduce_range=True)
"""The post's own: torch's default of its time, for fbgemm."""
WIDTHS = [
    QuantizationConfig(per_channel=per_channel, observer="min_max", weight_bits=bits)
    for bits in (8, 4, 3, 2)
    for per_channel in (True, False)
]
FEW = [recipe for recipe in WIDTHS if recipe.weight_bits in (8, 3)]
IN_FULL = (PLAIN, SHORT, NORMED)
AVX2 = [
    QuantizationConfig(engine="fbgemm", exact=exact, reduce_range=reduce)
    for exact, reduce in ((False, False), (False, True), (True, False))
]
"""Run where fbgemm is held to its AVX2 kernels, whose 16-bit sums saturate."""


def quantizations(name: str) -> list[QuantizationConfig]:
    """The recipes that the float models of ``name`` go through."""
    if name in IN_FULL:
        return [*RECIPES, *WIDTHS]
    return WIDTHS if name == SHORT_NORMED else FEW


def config(
    name: str, quantization: QuantizationConfig, seed: int, epochs: int | None = None
) -> ExperimentConfig:
    """The run of training ``name``; ``epochs`` cuts it short, for a trial."""
    chosen = TRAININGS[name]
    training = dataclasses.replace(
        chosen.training, epochs=min(chosen.training.epochs, epochs or chosen.training.epochs)
    )
    return ExperimentConfig(
        strategy=chosen.strategy,
        options=dict(chosen.options),
        training=training,
        quantization=quantization,
        seed=seed,
        checks="quick",
    )


@dataclass(frozen=True)
class Results:
    """Records and predictions by (training, quantization), each by seed; ``weights`` by training:
    see ``look_at_weights``."""

    records: dict[tuple[str, QuantizationConfig], list[RunRecord]]
    predictions: dict[tuple[str, QuantizationConfig], list[Predictions]]
    weights: dict[str, list[dict[str, float]]]


def run(workspace: Workspace, seeds: int, epochs: int | None) -> Results:
    """All runs, seed by seed, so that what is there after an interruption is whole seeds."""
    results = Results({}, {}, {})
    for seed in range(seeds):
        plan = {
            (name, recipe): config(name, recipe, seed, epochs)
            for name in TRAININGS
            for recipe in dict.fromkeys(quantizations(name))
        }
        for key, record in zip(plan, run_all(list(plan.values()), workspace), strict=True):
            add(results, key, record, workspace.folder)
        for name in TRAININGS:
            results.weights.setdefault(name, []).append(
                kept_look(workspace, config(name, FEW[0], seed, epochs))
            )
    return results


def plan_avx2(
    seeds: int, epochs: int | None
) -> dict[tuple[str, QuantizationConfig], list[ExperimentConfig]]:
    """The runs of ``AVX2``, by seed; whoever makes them sets FBGEMM_ENABLE_INSTRUCTIONS=AVX2 before
    the process begins."""
    return {
        (name, recipe): [config(name, recipe, seed, epochs) for seed in range(seeds)]
        for name in (PLAIN, NORMED)
        for recipe in AVX2
    }


def add(
    results: Results, key: tuple[str, QuantizationConfig], record: RunRecord, folder: Path
) -> None:
    """File one finished run; a diverged one counts as missing."""
    if record.status == "done":
        results.records.setdefault(key, []).append(record)
        results.predictions.setdefault(key, []).append(
            Predictions.load(folder / record.config.run_id)
        )


def kept_look(workspace: Workspace, chosen: ExperimentConfig) -> dict[str, float]:
    """``look_at_weights`` of the float model of ``chosen``, read where it was written before."""
    path = workspace.folder / "weights" / f"{content_key(chosen)[:24]}.json"
    if not path.is_file():
        model = float_stage(chosen, workspace).model
        atomic_write(path, json.dumps(look_at_weights(workspace, chosen, model)))
    return json.loads(path.read_text())


def look_at_weights(
    workspace: Workspace, chosen: ExperimentConfig, model: nn.Module
) -> dict[str, float]:
    """Of the float ``model``: its largest weight (``max_abs``), and of its folded layers the worst
    ``max_over_sigma`` (over the whole tensor) and channel ``spread`` (largest channel over the
    median one); ``logits_moved``: the largest difference of int8 logits when every layer and its BN
    are scaled by ``SCALE``, in units of the logits."""
    strategy, splits = (
        STRATEGIES.get(chosen.strategy)(**chosen.options),
        workspace.dataset(chosen.dataset).splits,
    )
    prepared = prepared_for(chosen, strategy, model, splits["train"])
    folded = [layer.weight.detach() for layer in weighted_layers(prepared.graph)]
    channels = [weight.flatten(1).abs().amax(1) for weight in folded]
    pixels = splits["test"].images.float()
    plain, other = (
        quantize_stage(chosen, strategy, splits["train"], one, None).int8()(pixels)
        for one in (model, scaled(model))
    )
    return {
        "max_abs": max(layer.weight.abs().max().item() for layer in weighted_layers(model)),
        "max_over_sigma": max((weight.abs().max() / weight.std()).item() for weight in folded),
        "spread": max((peaks.max() / peaks.median()).item() for peaks in channels),
        "logits_moved": (other / SCALE - plain).abs().max().item(),
    }


@torch.no_grad()
def scaled(model: nn.Module, factor: int = SCALE) -> nn.Module:
    """The post's CNN with every weight ``factor`` times as large, and the same function but for
    logits ``factor`` times as large.

    A batch norm behind a scaled convolution undoes it if its mean scales by ``factor``, its
    variance and epsilon by the square.
    """
    model = copy.deepcopy(model)
    for layer in weighted_layers(model):
        layer.weight *= factor
        layer.bias *= factor
    for norm in model.modules():
        if (
            isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and norm.running_var is not None
        ):
            norm.running_mean *= factor
            norm.running_var *= factor**2
            norm.eps *= factor**2
    return model
