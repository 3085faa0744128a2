"""The post, claim by claim: its setting and variations of it, each claim tested, a page with
figures.

python experiments/verdict.py [--seeds 5] [--quick] [--out runs/verdict]

50 float trainings, 400 quantizations and 20 trainings in Keras: some four hours of one core, about
two on 2 cores; resumable. The Keras part needs the extra ``keras`` and, for LiteRT, ``litert``;
without them it is left out, with the reason in the page.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import claims
import keras_twin
import numpy as np
import post_results
import post_runs
import verdict_page
from post_runs import FEW, NORMED, PLAIN, POST, TWIN, TWIN_EPOCHS, Results

import qstrategies as qs
from qstrategies.cli import guarded
from qstrategies.datasets.base import Split
from qstrategies.errors import check_range
from qstrategies.evaluation import evaluate
from qstrategies.experiment.checks import on_pixels
from qstrategies.experiment.comparison import run_all
from qstrategies.experiment.quantized import quantize_stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.files import atomic_write
from qstrategies.models.cnn import CNN
from qstrategies.pixels import to_input
from qstrategies.progress import Progress
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import weighted_layers
from qstrategies.training.hardware import keep_freed_memory
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

ROUNDS = 6


def add_avx2(workspace: Workspace, results: Results, seeds: int, epochs: int | None) -> None:
    """The runs in fbgemm held to AVX2, in a process that was started so."""
    environment = {**os.environ, "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    command = [
        sys.executable,
        __file__,
        "--avx2",
        "--seeds",
        str(seeds),
        "--out",
        str(workspace.folder),
    ]
    subprocess.run(command + (["--quick"] if epochs else []), env=environment, check=True)
    for (name, recipe), configs in post_runs.plan_avx2(seeds, epochs).items():
        for record in run_all(configs, workspace):
            post_runs.add(results, (name, recipe), record, workspace.folder)


def time_epochs(workspace: Workspace) -> dict[str, list[float]]:
    """Seconds of a fifth of an epoch in the post's setting, without and with weight_norm in turn,
    after one round to warm up."""
    path = workspace.folder / "epoch_seconds.json"
    if not path.is_file():
        splits = workspace.dataset("mnist").splits
        part = {
            "train": _first(splits["train"], 11_000),
            "validation": _first(splits["validation"], 100),
        }
        one = post_runs.config(PLAIN, FEW[0], 0, 1).training
        seconds: dict[str, list[float]] = {PLAIN: [], NORMED: []}
        for _ in range(ROUNDS + 1):
            for name, found in seconds.items():
                trainee = Trainee(CNN(), STRATEGIES.get(name)())
                found.append(train(trainee, part, one, 0).curve[0].seconds)
        atomic_write(path, json.dumps({name: found[1:] for name, found in seconds.items()}))
    return json.loads(path.read_text())


def _first(split: Split, number: int) -> Split:
    return Split(split.name, split.images[:number], split.labels[:number])


def train_keras(folder: Path, seeds: int, epochs: int) -> str | None:
    """Train the Keras models that are not in ``folder`` yet; the reason if that cannot be done
    here."""
    for seed in range(seeds):
        for instead in keras_twin.INSTEAD:
            if (folder / f"{keras_twin.name(instead, seed, epochs)}.npz").is_file():
                continue
            if importlib.util.find_spec("keras") is None:
                return "Keras is not installed: pip install 'qstrategies[keras]'"
            print(f"Keras, {instead}, seed {seed}", flush=True)
            command = [
                sys.executable,
                keras_twin.__file__,
                "--instead",
                instead,
                "--seed",
                str(seed),
                "--epochs",
                str(epochs),
            ]
            subprocess.run([*command, "--out", str(folder)], check=True, stderr=subprocess.DEVNULL)
    return None


def keras_outcome(workspace: Workspace, path: Path, seed: int) -> dict[str, Any]:
    """One Keras model in the shared CNN, through the same quantization, export and cross-check."""
    model, splits = keras_twin.load(path), workspace.dataset("mnist").splits
    labels = splits["test"].labels.numpy()
    stored = np.load(path, allow_pickle=False)
    floating = evaluate(lambda images: model(to_input(images)), splits["test"]).predictions
    weights = np.concatenate(
        [layer.weight.detach().numpy().ravel() for layer in weighted_layers(model)]
    )
    outcome: dict[str, Any] = {
        **post_runs.look_at_weights(workspace, post_runs.config(TWIN, FEW[0], seed), model),
        "sigma": float(weights.std()),
        "weights": weights,
        "float_accuracy": float((floating == labels).mean()),
        "same_as_keras": float((floating == stored["float_classes"]).mean()),
        "lost": {},
    }
    for recipe in FEW:
        chosen = post_runs.config(TWIN, recipe, seed)
        quantized = quantize_stage(
            chosen, STRATEGIES.get("no_norm")(), splits["train"], model, None
        )
        classes = evaluate(on_pixels(quantized.int8()), splits["test"]).predictions
        outcome["lost"][post_results.describe(recipe)] = _lost(floating, classes, labels)
        if recipe == FEW[0]:
            exported = qs.export_onnx(quantized, path.with_suffix(".onnx"))
            checks = qs.cross_check(exported, splits["test"].images[:500]).checks
            outcome["equal"] = min(check.rows_equal for check in checks)
    if "litert_classes" in stored:
        outcome["lost"][verdict_page.LITERT] = _lost(floating, stored["litert_classes"], labels)
    return outcome


def _lost(floating: Any, int8: Any, labels: Any) -> Any:
    return (floating == labels).astype(np.int8) - (int8 == labels).astype(np.int8)


def main() -> int:
    """Run what is missing, test the claims, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="one epoch everywhere: a look, not a result"
    )
    parser.add_argument("--avx2", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/verdict"),
        help="folder of the runs and of verdict.md",
    )
    chosen = parser.parse_args()
    check_range("number of seeds", chosen.seeds, 1, 1000)
    keep_freed_memory()
    epochs = 1 if chosen.quick else None
    workspace = Workspace(chosen.out, progress=Progress())
    if chosen.avx2:
        for configs in post_runs.plan_avx2(chosen.seeds, epochs).values():
            run_all(configs, workspace)
        return 0
    results = post_runs.run(workspace, chosen.seeds, epochs)
    add_avx2(workspace, results, chosen.seeds, epochs)
    found = [
        claims.drops_remarkably(results),
        claims.less_after_one(results),
        claims.weights_grow(results),
        claims.larger_weights_cause_it(results),
        claims.clamping_stalls(results),
        claims.norm_shrinks_weights(results),
        claims.norm_shrinks_drop(results),
        claims.size_falls(results),
        claims.slower_epochs(time_epochs(workspace)),
        claims.fewer_epochs(results),
    ]
    folder, keras_epochs = chosen.out / "keras", epochs or TWIN_EPOCHS
    missing = train_keras(folder, chosen.seeds, keras_epochs)
    keras: dict[str, list[dict[str, Any]]] = {}
    if missing is None:
        for instead in keras_twin.INSTEAD:
            paths = [
                folder / f"{keras_twin.name(instead, seed, keras_epochs)}.npz"
                for seed in range(chosen.seeds)
            ]
            keras[instead] = [
                keras_outcome(workspace, path, seed) for seed, path in enumerate(paths)
            ]
        found += [
            claims.keras_weights(keras, results),
            claims.keras_quantizes_better(keras, results),
        ]
    for path in verdict_page.write(
        chosen.out, found, results, keras, missing, epochs or POST.epochs
    ):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
