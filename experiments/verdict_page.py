"""The page of the verdict: a table of claims, each with its tests, and four figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras_twin import INSTEAD
from post_results import describe, last_histogram, lost
from post_runs import PLAIN, TRAININGS, TWIN, WIDTHS, Results
from verdict_figures import causes, drops, learning, weights
from verdict_rules import Claim, Outcome, by_seed, drop_measure

from qstrategies.experiment import environment
from qstrategies.files import atomic_write
from qstrategies.records import MARGIN, QuantizationConfig
from qstrategies.report.drawing import png

LITERT = "LiteRT int8"
KERAS_COLUMNS = ("float accuracy, %", "largest weight", "sigma", "max/sigma, folded")
HOLDS = {True: "yes", False: "no", None: "open"}
NORMAL = QuantizationConfig(observer="min_max")

HEAD = """\
# The post, claim by claim

The post "Improving quantization by normalizing weights" trains a small CNN on MNIST, sees its int8 model lose accuracy, blames large
weights, and cures it with `weight_norm`. This page tests each of its claims. Written by `python experiments/verdict.py` on {date},
{cpu}: {seeds} seeds; the post's setting is {epochs} epochs of Adam, 1e-3, batch 64, int8; each variation changes one thing.
Its {runs} runs took {hours:.1f} hours by their own clocks, on {threads} thread(s); training Keras is not counted.

- An interval covers further test images and further seeds together where it is one of accuracies ([evidence.md](evidence.md)),
  further seeds elsewhere. Those of the post's own conditions (marked *) hold together at 95 %, and so do those of the others
  (Bonferroni).
- A claim *holds* under a condition if its interval lies wholly on the claimed side, *no* if wholly on the other, else it is *open*. A
  difference of drops that is shown to be below {margin:g} points counts as none.
- **confirmed**: it holds under every condition of the post; **confirmed in part**: under some; **refuted**: under none; **only
  under**: not under the post's, but under others; **undecided**: {seeds} seeds do not tell.
- The post's own recipe is what torch did by default then: 8 bits, weights per channel, histogram observer, activations of reduced range.

"""  # noqa: E501

NOTES = {
    "After 15 epochs": (
        "The post gives no figure. All recipes calibrate on 1024 training images and use exact "
        "scales but where it says free. AVX2: fbgemm held to its AVX2 kernels, whose 16-bit sums "
        "saturate unless activations have a reduced range or scales are exact."
    ),
    "Larger weights": (
        "Every layer's weights and bias times 4, the mean of the batch norm behind it times 4, "
        "its variance and epsilon times 16: the same network with weights four times as large. "
        "The step of a quantizer grows with the largest weight, so that the same integers come "
        "out. What the step is measured against is the bulk of the weights: a signal of standard "
        "deviation sigma loses 20 log10(max / sigma) dB. Correlations are over all trainings and "
        "seeds, and show no cause."
    ),
    "Clamped weights": (
        "What the threshold does depends on its size; the post names none. The figure of the "
        "learning curves shows both."
    ),
    "The size falls": (
        "The ONNX files also hold the graph; the PyTorch state of the int8 model also holds "
        "scales and zero points."
    ),
    "The Keras model has": (
        "Both trained equally long. Keras starts at Glorot's uniform weights and zero biases; "
        "PyTorch at uniform weights and biases within 1 / sqrt(fan in)."
    ),
}


def write(
    folder: Path,
    found: Sequence[Claim],
    results: Results,
    keras: dict[str, list[dict[str, Any]]],
    missing: str | None,
    epochs: int,
) -> list[Path]:
    """Write verdict.md and its figures into ``folder``; returns the paths."""
    figures = {
        "verdict_drops.png": drops(results),
        "verdict_weights.png": weights(results, keras),
        "verdict_curves.png": learning(results),
        "verdict_causes.png": causes(results),
    }
    here, seeds = environment.describe(), len(last_histogram(results, PLAIN))
    cpu = ", ".join([here["cpu"], *here["cpu_flags"]])
    records = [record for group in results.records.values() for record in group]
    text = HEAD.format(
        date=datetime.date.today(),
        cpu=cpu,
        seeds=seeds,
        epochs=epochs,
        margin=MARGIN * 100,
        runs=len(records),
        hours=sum(sum(record.seconds.values()) for record in records) / 3600,
        threads=records[0].environment["threads"],
    )
    text += overview(found) + "".join(
        section(number, claim) for number, claim in enumerate(found, 1)
    )
    text += "\n## Keras\n\n" + (missing or keras_table(keras, results)) + "\n"
    text += "\n## Float accuracy and weights of every training\n\n" + trainings_table(results)
    contents: dict[str, bytes | str] = {
        "verdict.md": text,
        **{name: png(figure) for name, figure in figures.items()},
    }
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return [folder / name for name in contents]


def number(value: float, unit: str) -> str:
    """A quantity with its unit; accuracies, which are fractions inside, in points."""
    return f"{value * 100:.2f}" if unit == "points" else f"{value:.2f}"


def overview(found: Sequence[Claim]) -> str:
    """One line per claim."""
    lines = ["| | claim | verdict | in the post's setting |", "| ---: | --- | --- | --- |"]
    for place, claim in enumerate(found, 1):
        own = [outcome for outcome in claim.outcomes if outcome.condition in claim.own]
        shown = "; ".join(
            (
                f"{item.condition}: {number(item.estimate, claim.unit)} "
                f"[{number(item.low, claim.unit)}, {number(item.high, claim.unit)}]"
            )
            for item in own
        )
        lines.append(
            f"| {place} | {claim.text} | **{claim.verdict}** | "
            f"{shown}{' ' + claim.unit if claim.unit else ''} |"
        )
    return "\n".join(lines) + "\n"


def section(place: int, claim: Claim) -> str:
    """One claim with all its tests."""
    lines = [f"\n## {place}. {claim.text}: {claim.verdict}\n", f"Test: {claim.test}.\n"]
    lines += [f"{note}\n" for start, note in NOTES.items() if claim.text.startswith(start)]
    lines += [
        f"| condition | {claim.unit or 'value'} | interval | holds |",
        "| --- | ---: | --- | --- |",
    ]
    lines += [_line(claim, item, HOLDS[item.holds]) for item in claim.outcomes]
    if claim.beside:
        lines += [
            "\nBeside it, deciding nothing:\n",
            f"| figure | {claim.unit or 'value'} | 95 % interval | |",
            "| --- | ---: | --- | --- |",
        ]
        lines += [*(_line(claim, item, "") for item in claim.beside)]
    figure = {1: "drops", 3: "weights", 4: "causes", 5: "curves"}.get(place)
    return (
        "\n".join(lines)
        + "\n"
        + (f"\n![{figure} of the trainings](verdict_{figure}.png)\n" if figure else "")
    )


def _line(claim: Claim, item: Outcome, last: str) -> str:
    mark = " *" if item.condition in claim.own else ""
    low, high = number(item.low, claim.unit), number(item.high, claim.unit)
    return (
        f"| {item.condition}{mark} | {number(item.estimate, claim.unit)} | [{low}, {high}] | "
        f"{last} |"
    )


def keras_table(keras: dict[str, list[dict[str, Any]]], results: Results) -> str:
    """Keras's defaults, one of them replaced at a time, beside PyTorch's network; means over the
    seeds."""
    tried = keras["nothing"][0]["lost"]
    recipes = [name for name in (*map(describe, WIDTHS), LITERT) if name in tried]
    head = ["trained by", *KERAS_COLUMNS, *(f"drop, {name}" for name in recipes)]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for instead, runs in keras.items():
        name = "Keras" if instead == "nothing" else f"Keras, PyTorch's {instead}"
        cells = [*_keras_figures(runs), *_keras_drops(runs, recipes)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = [*_twin_figures(results), *_twin_drops(results, recipes)]
    lines.append(f"| PyTorch | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_keras_notes(keras, results), ""])


def _keras_figures(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of ``KERAS_COLUMNS``."""
    accuracy = np.mean([run["float_accuracy"] for run in runs]) * 100
    keys = ("max_abs", "sigma", "max_over_sigma")
    return [f"{value:.3f}" for value in (accuracy, *(_mean_of(runs, key) for key in keys))]


def _keras_drops(runs: Sequence[dict[str, Any]], recipes: Sequence[str]) -> list[str]:
    return [with_interval([run["lost"][recipe] for run in runs]) for recipe in recipes]


def _twin_figures(results: Results) -> list[str]:
    """The cells of ``KERAS_COLUMNS`` of PyTorch's network."""
    records = results.records[TWIN, NORMAL]
    accuracy = np.mean([record.float_accuracy or 0.0 for record in records]) * 100
    sigma = np.mean([item.sigma for item in last_histogram(results, TWIN)])
    looks = results.weights[TWIN]
    values = (accuracy, _mean_of(looks, "max_abs"), sigma, _mean_of(looks, "max_over_sigma"))
    return [f"{value:.3f}" for value in values]


def _twin_drops(results: Results, recipes: Sequence[str]) -> list[str]:
    shown = {
        describe(recipe): with_interval(lost(results, TWIN, recipe))
        for recipe in WIDTHS
        if (TWIN, recipe) in results.predictions
    }
    return [shown.get(recipe, "-") for recipe in recipes]


def _keras_notes(keras: dict[str, list[dict[str, Any]]], results: Results) -> list[str]:
    """What stands below the table."""
    largest = {instead: _mean_of(runs, "max_abs") for instead, runs in keras.items()}
    changed = max(
        (instead for instead in INSTEAD if instead != "nothing"),
        key=lambda name: abs(np.log(largest[name] / largest["nothing"])),
    )
    twin = _mean_of(results.weights[TWIN], "max_abs")
    runs = [run for group in keras.values() for run in group]
    same, equal = min(run["same_as_keras"] for run in runs), min(run["equal"] for run in runs)
    return [
        (
            f"Of the defaults, PyTorch's {changed} changes the largest weight most: from "
            f"{largest['nothing']:.3f} to {largest[changed]:.3f};"
        ),
        f"PyTorch itself has {twin:.3f}. Drops in points with 95 % intervals. The "
        "weights of every Keras model, copied into the",
        f"shared CNN, give the classes that Keras gives for {same:.2%} of the test images; "
        "the exported int8 file gives the bits of",
        f"PyTorch in every runtime for {equal:.2%} of 500. LiteRT quantizes by its own recipe.",
    ]


def _mean_of(runs: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))


def with_interval(drops: Sequence[Any]) -> str:
    """A mean drop in points."""
    estimate, low, high = drop_measure(drops)(0.95)
    return f"{estimate * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}]"


def trainings_table(results: Results) -> str:
    """Every training: where it ends and what its weights are like."""
    lines = [
        (
            "| training | float test accuracy, % | largest weight | max/sigma, folded | "
            "channel spread, folded |"
        ),
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in TRAININGS:
        accuracy, low, high = by_seed(
            [
                record.float_accuracy or 0.0
                for record in next(
                    found for key, found in results.records.items() if key[0] == name
                )
            ]
        )(0.95)
        cells = [
            f"{np.mean([look[key] for look in results.weights[name]]):.2f}"
            for key in ("max_abs", "max_over_sigma", "spread")
        ]
        lines.append(
            f"| {name} | {accuracy * 100:.2f} [{low * 100:.2f}, {high * 100:.2f}] | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"
