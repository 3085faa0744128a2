"""The figures of the verdict: drops, weights, learning curves, causes."""

from __future__ import annotations

from typing import Any

import numpy as np
from claims import FEATURES
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from post_results import curves, last_histogram, lost
from post_runs import CLAMPED, NORMED, PLAIN, SHORT, SHORT_NORMED, TRAININGS, WIDTHS, Results
from verdict_rules import drop_measure


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
