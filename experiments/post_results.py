"""What the runs of the post gave: lost images, weights and learning curves of each training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from post_runs import Results

from qstrategies.records import QuantizationConfig, WeightHistogram


def describe(recipe: QuantizationConfig) -> str:
    """A quantization in a few words."""
    parts = [f"W{recipe.weight_bits}", "per channel" if recipe.per_channel else "per tensor"]
    parts += ["histogram"] if recipe.observer == "histogram" else []
    parts += ["reduced range"] if recipe.reduce_range else []
    return " ".join(
        [
            *parts,
            *([] if recipe.exact else ["free scales"]),
            *(["AVX2"] if recipe.engine == "fbgemm" else []),
        ]
    )


def lost(results: Results, name: str, recipe: QuantizationConfig) -> list[NDArray[np.int8]]:
    """Per seed and test image 1 where only the float model is right, -1 where only the int8 one
    is."""
    tests = [run.test for run in results.predictions[name, recipe]]
    return [test.float_hits.astype(np.int8) - test.int8_hits.astype(np.int8) for test in tests]


def recipes(results: Results, *names: str) -> list[QuantizationConfig]:
    """The quantizations that all of ``names`` went through."""
    every = [{recipe for name, recipe in results.records if name == wanted} for wanted in names]
    shared = set.intersection(*every)
    return sorted(
        shared,
        key=lambda recipe: (
            -recipe.weight_bits,
            not recipe.per_channel,
            recipe.observer or "",
            recipe.reduce_range,
            recipe.exact,
        ),
    )


def last_histogram(results: Results, name: str) -> list[WeightHistogram]:
    """The weights after the last epoch, as they were trained, per seed."""
    records = results.records[name, recipes(results, name)[0]]
    return [
        [item for item in record.histograms if item.when == "training"][-1] for record in records
    ]


def curves(results: Results, name: str) -> list[list[float]]:
    """Validation accuracy after each epoch, per seed."""
    return [
        [epoch.accuracy for epoch in record.curve]
        for record in results.records[name, recipes(results, name)[0]]
    ]
