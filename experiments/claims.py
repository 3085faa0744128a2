"""The claims of the post, each tested on the runs of post_runs.py; numbers and verdicts are
computed, none is typed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from post_results import curves, describe, last_histogram, lost, recipes
from post_runs import CLAMPED, NORMED, OTHERWISE, PLAIN, RECIPE, SCALE, SHORT, TWIN, Results
from verdict_rules import (
    LEVEL,
    Claim,
    Measure,
    Outcome,
    above,
    below,
    by_seed,
    claim,
    constant,
    drop_measure,
    rank_correlation,
    ratio,
)

from qstrategies.records import MARGIN

REMARKABLE = 0.01
"""A drop, as a fraction, that would deserve the post's word "remarkable"; the post gives no
figure."""
GOALS = (0.98, 0.985, 0.988)
"""Validation accuracies that the epochs are counted to."""
FEATURES = {
    "max_abs": "the largest weight, as trained",
    "max_over_sigma": "max/sigma, worst folded layer",
    "spread": "channel spread, worst folded layer",
}
LAST = 3
"""Epochs at the end of training over which validation accuracy is averaged, since single epochs
jump."""


OWN = describe(RECIPE)


def drops_remarkably(results: Results) -> Claim:
    """Plain training for 15 epochs, then int8."""
    measures = {
        describe(recipe): drop_measure(lost(results, PLAIN, recipe))
        for recipe in recipes(results, PLAIN)
    }
    for name in OTHERWISE:
        measures |= {
            f"{name}, {describe(recipe)}": drop_measure(lost(results, name, recipe))
            for recipe in recipes(results, name)
        }
    text, test = (
        "After 15 epochs without normalization int8 loses remarkably",
        f"drop above {REMARKABLE * 100:g} point",
    )
    tested = claim(text, test, "points", measures, above(REMARKABLE), [OWN])
    free = [
        (record.float_accuracy or 0.0) - (record.free_scales_accuracy or 0.0)
        for record in results.records[PLAIN, RECIPE]
    ]
    return dataclasses.replace(
        tested,
        beside=(Outcome(f"{OWN}, free scales, over seeds", *by_seed(free)(1 - LEVEL), None),),
    )


def less_after_one(results: Results) -> Claim:
    """The same after one epoch."""
    measures = {
        describe(recipe): drop_measure(lost(results, PLAIN, recipe), lost(results, SHORT, recipe))
        for recipe in recipes(results, PLAIN, SHORT)
    }
    text, test = "After 1 epoch it loses less", "drop after 15 epochs minus drop after 1, above 0"
    return claim(text, test, "points", measures, above(0, MARGIN), [OWN])


def weights_compared(results: Results, first: str, second: str) -> dict[str, Measure]:
    """Weights of training ``first`` over those of ``second``."""
    pairs = list(zip(last_histogram(results, first), last_histogram(results, second), strict=True))
    return {
        "largest weight": ratio(
            [one.max_abs for one, _ in pairs], [other.max_abs for _, other in pairs]
        ),
        "standard deviation": ratio(
            [one.sigma for one, _ in pairs], [other.sigma for _, other in pairs]
        ),
    }


def weights_grow(results: Results) -> Claim:
    """Weights after 15 epochs against those after one."""
    measures = weights_compared(results, PLAIN, SHORT)
    return claim(
        "The weights grow with training",
        "after 15 epochs over after 1, above 1",
        "times",
        measures,
        above(1),
        list(measures),
    )


def larger_weights_cause_it(results: Results) -> Claim:
    """An intervention, and beside it what goes with the drop over all trainings."""
    moved = max(look["logits_moved"] for looks in results.weights.values() for look in looks)
    measures = {f"all weights times {SCALE}: largest change of an int8 logit": constant(moved)}
    test = "scale every layer and its batch norm, in every training; a change above 0"
    tested = claim("Larger weights are the cause", test, "", measures, above(0), list(measures))
    names, beside = [name for name in results.weights if name != TWIN], []
    for recipe in [recipe for recipe in recipes(results, *names) if recipe.weight_bits == 3]:
        drops = [float(run.mean()) for name in names for run in lost(results, name, recipe)]
        for feature, shown in FEATURES.items():
            values = [look[feature] for name in names for look in results.weights[name]]
            estimate, low, high = rank_correlation(values, drops)(1 - LEVEL)
            beside.append(
                Outcome(
                    f"{describe(recipe)}: rank correlation of the drop with {shown}",
                    estimate,
                    low,
                    high,
                    None,
                )
            )
    return dataclasses.replace(tested, beside=tuple(beside))


def clamping_stalls(results: Results) -> Claim:
    """What clamped training still gains after its first epoch."""
    measures: dict[str, Measure] = {}
    for threshold, name in CLAMPED.items():
        measures[f"threshold {threshold:g}"] = by_seed(
            [float(np.mean(curve[-LAST:])) - curve[0] for curve in curves(results, name)]
        )
    text = "Clamped weights learn in the first iterations only"
    test = (
        f"what validation accuracy gains from epoch 1 to the last {LAST}, below "
        f"{MARGIN * 100:g} points"
    )
    return claim(text, test, "points", measures, below(MARGIN), list(measures))


def norm_shrinks_weights(results: Results) -> Claim:
    """weight_norm against plain training, both 15 epochs."""
    measures = weights_compared(results, PLAIN, NORMED)
    return claim(
        "weight_norm keeps the weights smaller",
        "without over with it, above 1",
        "times",
        measures,
        above(1),
        list(measures),
    )


def norm_shrinks_drop(results: Results) -> Claim:
    """The post's cure."""
    measures = {
        describe(recipe): drop_measure(lost(results, PLAIN, recipe), lost(results, NORMED, recipe))
        for recipe in recipes(results, PLAIN, NORMED)
    }
    text, test = "weight_norm makes the drop smaller", "drop without minus drop with it, above 0"
    return claim(text, test, "points", measures, above(0, MARGIN), [OWN])


def size_falls(results: Results) -> Claim:
    """Files on disk."""
    sizes = [record.sizes for record in results.records[PLAIN, recipes(results, PLAIN)[0]]]
    measures = {
        "ONNX files": ratio(
            [size["float"] for size in sizes], [size["portable"] for size in sizes]
        ),
        "PyTorch state": ratio(
            [size["float_pytorch"] for size in sizes], [size["int8_pytorch"] for size in sizes]
        ),
    }
    return claim(
        "The size falls about four times",
        "float over int8, above 3",
        "times",
        measures,
        above(3),
        list(measures),
    )


def slower_epochs(seconds: dict[str, list[float]]) -> Claim:
    """``seconds``: of equal pieces of training, PLAIN and NORMED in turn."""
    measures = {"a fifth of an epoch, in turn": ratio(seconds[NORMED], seconds[PLAIN])}
    text = "weight_norm takes longer per epoch"
    return claim(
        text, "seconds with it over without, above 1", "times", measures, above(1), list(measures)
    )


def epochs_to(curve: Sequence[float], goal: float) -> int:
    """The first epoch whose validation accuracy is at least ``goal``; one more than there are if
    none is."""
    return next(
        (number for number, accuracy in enumerate(curve, 1) if accuracy >= goal), len(curve) + 1
    )


def fewer_epochs(results: Results) -> Claim:
    """Epochs until the same accuracy."""
    pairs = list(zip(curves(results, PLAIN), curves(results, NORMED), strict=True))
    measures = {
        f"to {goal:.1%}": by_seed(
            [epochs_to(one, goal) - epochs_to(other, goal) for one, other in pairs]
        )
        for goal in GOALS
    }
    text, test = (
        "weight_norm converges in fewer epochs",
        "epochs to a validation accuracy, without minus with it, above 0",
    )
    return claim(text, test, "epochs", measures, above(0), list(measures))


def keras_weights(keras: dict[str, list[dict[str, Any]]], results: Results) -> Claim:
    """The largest weights of the Keras model, as trained, and of its PyTorch twin."""
    ours = last_histogram(results, TWIN)
    theirs = keras["nothing"]
    measures = {
        "largest weight": ratio(
            [item.max_abs for item in ours], [item["max_abs"] for item in theirs]
        ),
        "standard deviation": ratio(
            [item.sigma for item in ours], [item["sigma"] for item in theirs]
        ),
    }
    return claim(
        "The Keras model has smaller weights",
        "PyTorch's over Keras's, above 1",
        "times",
        measures,
        above(1),
        list(measures),
    )


def keras_quantizes_better(keras: dict[str, list[dict[str, Any]]], results: Results) -> Claim:
    """The drop of the PyTorch twin minus that of the Keras model, on the same images."""
    measures = {}
    for recipe in recipes(results, TWIN):
        measures[describe(recipe)] = drop_measure(
            lost(results, TWIN, recipe), [run["lost"][describe(recipe)] for run in keras["nothing"]]
        )
    text, test = (
        "The Keras model quantizes well where PyTorch's does not",
        "drop of PyTorch's minus drop of Keras's, above 0",
    )
    return claim(
        text,
        test,
        "points",
        measures,
        above(0, MARGIN),
        [name for name in measures if name.startswith("W8")],
    )
