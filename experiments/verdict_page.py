"""The page of the verdict: a table of claims, each with its tests, and four figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import (
    FEATURES,
    Claim,
    Outcome,
    by_seed,
    curves,
    describe,
    drop_measure,
    last_histogram,
    lost,
)
from keras_twin import INSTEAD
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from post_runs import CLAMPED, NORMED, PLAIN, SHORT, SHORT_NORMED, TRAININGS, TWIN, WIDTHS, Results

from qstrategies.experiment import environment
from qstrategies.files import atomic_write
from qstrategies.records import MARGIN, QuantizationConfig
from qstrategies.report.plots import png

LITERT = "LiteRT int8"
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
    recipes = [
        describe(recipe) for recipe in WIDTHS if describe(recipe) in keras["nothing"][0]["lost"]
    ]
    recipes += [LITERT] if LITERT in keras["nothing"][0]["lost"] else []
    head = [
        "trained by",
        "float accuracy, %",
        "largest weight",
        "sigma",
        "max/sigma, folded",
        *(f"drop, {name}" for name in recipes),
    ]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for instead, runs in keras.items():
        name = "Keras" if instead == "nothing" else f"Keras, PyTorch's {instead}"
        figures = [
            np.mean([run["float_accuracy"] for run in runs]) * 100,
            *(
                np.mean([run[key] for run in runs])
                for key in ("max_abs", "sigma", "max_over_sigma")
            ),
        ]
        cells = [f"{value:.3f}" for value in figures] + [
            with_interval([run["lost"][recipe] for run in runs]) for recipe in recipes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    looks, histograms = results.weights[TWIN], last_histogram(results, TWIN)
    accuracy = (
        np.mean([record.float_accuracy or 0.0 for record in results.records[TWIN, NORMAL]]) * 100
    )
    figures = [
        accuracy,
        np.mean([look["max_abs"] for look in looks]),
        np.mean([item.sigma for item in histograms]),
        np.mean([look["max_over_sigma"] for look in looks]),
    ]
    shown = {
        describe(recipe): with_interval(lost(results, TWIN, recipe))
        for recipe in WIDTHS
        if (TWIN, recipe) in results.predictions
    }
    row = [f"{value:.3f}" for value in figures] + [shown.get(recipe, "-") for recipe in recipes]
    lines.append(f"| PyTorch | {' | '.join(row)} |")
    largest = {
        instead: float(np.mean([run["max_abs"] for run in runs])) for instead, runs in keras.items()
    }
    changed = max(
        (instead for instead in INSTEAD if instead != "nothing"),
        key=lambda name: abs(np.log(largest[name] / largest["nothing"])),
    )
    runs = [run for group in keras.values() for run in group]
    same, equal = min(run["same_as_keras"] for run in runs), min(run["equal"] for run in runs)
    notes = [
        (
            f"Of the defaults, PyTorch's {changed} changes the largest weight most: from "
            f"{largest['nothing']:.3f} to {largest[changed]:.3f};"
        ),
        f"PyTorch itself has {figures[1]:.3f}. Drops in points with 95 % intervals. The "
        "weights of every Keras model, copied into the",
        f"shared CNN, give the classes that Keras gives for {same:.2%} of the test images; "
        "the exported int8 file gives the bits of",
        f"PyTorch in every runtime for {equal:.2%} of 500. LiteRT quantizes by its own recipe.",
    ]
    return "\n".join([*lines, "", *notes, ""])


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


def drops(results: Results) -> Figure:
    """The drop with its interval by width, per channel and per tensor."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
    for axes, per_channel in zip(panels, (True, False), strict=True):
        shown = [recipe for recipe in WIDTHS if recipe.per_channel == per_channel]
        for index, name in enumerate((PLAIN, SHORT, NORMED, SHORT_NORMED)):
            found = (
                np.array([drop_measure(lost(results, name, recipe))(0.95) for recipe in shown])
                * 100
            )
            places = np.arange(len(shown)) + (index - 1.5) * 0.12
            axes.errorbar(
                places,
                found[:, 0],
                np.abs(found[:, 1:] - found[:, :1]).T,
                fmt="osD^"[index],
                capsize=3,
                markersize=5,
                label=name,
            )
        axes.set_xticks(range(len(shown)), [str(recipe.weight_bits) for recipe in shown])
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(-0.3, 100)
        axes.set_xlabel("weight bits")
        axes.set_title("one scale per channel" if per_channel else "one scale per tensor")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("drop in points, 95 % interval\n(linear below 0.1)")
    panels[0].legend(fontsize=9)
    return figure


def weights(results: Results, keras: dict[str, list[dict[str, Any]]]) -> Figure:
    """Weights after training, first seed."""
    shown = {
        name: last_histogram(results, name)[0] for name in (SHORT, PLAIN, NORMED, *CLAMPED.values())
    }
    figure, panels = plt.subplots(2, 3, figsize=(12, 5.6), layout="constrained")
    for axes, (name, item) in zip(panels.flat, shown.items(), strict=False):
        counts, edges = (
            np.array(item.counts),
            np.linspace(item.low, item.high, len(item.counts) + 1),
        )
        axes.stairs(counts / counts.sum() / np.diff(edges), edges, fill=True)
        axes.set_title(f"{name}\nmax {item.max_abs:.3g}, sigma {item.sigma:.3g}", fontsize=10)
    last = panels.flat[-1]
    if keras:
        values = keras["nothing"][0]["weights"]
        last.hist(values, bins=128, density=True)
        last.set_title(
            f"Keras\nmax {np.abs(values).max():.3g}, sigma {values.std():.3g}", fontsize=10
        )
    else:
        last.axis("off")
    for axes in panels.flat:
        axes.set_yscale("log")
    figure.supxlabel("weight, as trained")
    figure.supylabel("density")
    return figure


def learning(results: Results) -> Figure:
    """Validation accuracy by epoch: every seed, and their mean."""
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for index, name in enumerate((PLAIN, NORMED, *CLAMPED.values())):
        found, colour = np.array(curves(results, name)) * 100, f"C{index}"
        epochs = np.arange(1, found.shape[1] + 1)
        axes.plot(epochs, found.T, color=colour, alpha=0.25, linewidth=1)
        axes.plot(
            epochs, found.mean(0), color=colour, marker="osD^"[index], markersize=4, label=name
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return figure


def causes(results: Results) -> Figure:
    """The drop at 3 bits per tensor over what might cause it, one point per trained model."""
    figure, panels = plt.subplots(
        1, len(FEATURES), figsize=(13, 4.6), layout="constrained", sharey=True
    )
    recipe = next(recipe for recipe in WIDTHS if recipe.weight_bits == 3 and not recipe.per_channel)
    for index, name in enumerate(TRAININGS):
        values = [float(run.mean()) * 100 for run in lost(results, name, recipe)]
        for axes, feature in zip(panels, FEATURES, strict=True):
            axes.scatter(
                [look[feature] for look in results.weights[name]],
                values,
                s=28,
                marker="osD^vP*X<>"[index % 10],
                label=name,
            )
    for axes, title in zip(panels, FEATURES.values(), strict=True):
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    panels[0].set_xscale("log")
    panels[0].set_yscale("symlog", linthresh=1)
    panels[0].set_ylim(bottom=-0.2)
    panels[0].set_ylabel("drop at 3 bits per tensor, points\n(linear below 1)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
