"""Figures from records: accuracy against bits, weight histograms, learning curves."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qstrategies.records import ACCURACY, Metric, RunRecord, WeightHistogram, labels
from qstrategies.report.drawing import logarithmic, plain, subplots

if TYPE_CHECKING:
    from qstrategies.evidence import Recommendation
    from qstrategies.evidence.candidates import Candidate

MARKERS = "osD^vP*X<>"
UPPER_END = 0.03
"""Of accuracy, what the closer view shows below the best."""
PARETO_RANGE = 0.02
"""How far below the best a candidate is still drawn: two points."""


def accuracy_against_bits(records: Sequence[RunRecord]) -> Figure:
    """int8 test accuracy over weight bits, one line per strategy; all of it left, the upper end
    right."""
    figure, axes = subplots(1, 2, size=(12, 4.8))
    named = [
        (name, record)
        for name, record in zip(labels(records), records, strict=True)
        if record.status == "done"
    ]
    done = [record for _, record in named]
    metric = _metric(done)
    bits = sorted({record.config.quantization.weight_bits for record in done}, reverse=True)
    baseline = [
        record.float_accuracy
        for record in done
        if record.float_accuracy and (record.starts_from or record.config.strategy) == "no_norm"
    ]
    for index, name in enumerate(dict.fromkeys(name for name, _ in named)):
        own = [record for other, record in named if other == name]
        for axis in axes:
            _draw_line(axis, own, bits, index, name)
    for axis in axes:
        if baseline:
            axis.axhline(
                statistics.fmean(baseline),
                color="black",
                linestyle=":",
                linewidth=1.2,
                label="float baseline",
            )
        axis.set_xticks(range(len(bits)), [str(width) for width in bits])
        axis.set_xlabel("weight bits")
        axis.grid(alpha=0.3)
        _in_percent(axis, metric)
    axes[0].set_ylabel(f"int8 test {metric.name}")
    axes[0].set_title(f"{metric.name[:1].upper()}{metric.name[1:]} against weight bits")
    _look_closer(axes[1], metric, [record.int8_accuracy or 0.0 for record in done] + baseline)
    axes[0].legend(fontsize=8)
    return figure


def _draw_line(
    axis: Axes, records: Sequence[RunRecord], bits: Sequence[int], index: int, name: str
) -> None:
    """Means and standard deviations of the strategy with this ``index``, over its ``bits``."""
    points = {width: _accuracies(records, width) for width in bits}
    present = [width for width in bits if points[width]]
    axis.errorbar(
        [bits.index(width) + (index - 3.5) * 0.03 for width in present],
        [statistics.fmean(points[width]) for width in present],
        [statistics.stdev(points[width]) if len(points[width]) > 1 else 0.0 for width in present],
        marker=MARKERS[index % len(MARKERS)],
        markersize=5,
        linewidth=1.4,
        label=plain(name),
    )


def _look_closer(axis: Axes, metric: Metric, values: Sequence[float]) -> None:
    """Let ``axis`` show the upper end of ``values``, or all of them on a logarithmic scale."""
    if metric.fraction and metric.higher_is_better:
        axis.set_title("The upper end")
        axis.set_ylim(max(values) - UPPER_END, max(values) + UPPER_END / 10)
    else:
        axis.set_title("The same, logarithmic")
        logarithmic(axis)


def _in_percent(axis: Any, metric: Metric) -> None:
    if metric.fraction:
        axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=None))


def _metric(records: Sequence[RunRecord]) -> Metric:
    """Of the finished ones; of several that of the first."""
    return next((record.metric for record in records if record.status == "done"), ACCURACY)


def _accuracies(records: Sequence[RunRecord], bits: int) -> list[float]:
    return [
        record.int8_accuracy
        for record in records
        if record.config.quantization.weight_bits == bits and record.int8_accuracy is not None
    ]


def weight_histograms(records: Sequence[RunRecord]) -> Figure:
    """One row per strategy: after the first epoch, after the last one, and folded (BN and pixel
    scale in the weights)."""
    shown = one_per_strategy(records)
    columns = max(len(record.histograms) for record in shown.values())
    height = 2.1 * len(shown)
    figure, axes = subplots(
        len(shown), columns, size=(4 * columns, height), constrained=False, squeeze=False
    )
    figure.subplots_adjust(0.09, 0.6 / height, 0.99, 1 - 0.3 / height, wspace=0.25, hspace=0.4)
    for line, (name, record) in zip(axes, shown.items(), strict=True):
        for axis in line[len(record.histograms) :]:
            axis.axis("off")
        for axis, histogram in zip(line, record.histograms, strict=False):
            draw_histogram(axis, histogram, name)
    figure.supxlabel("weight")
    figure.supylabel("density (log)")
    return figure


def draw_histogram(axis: Axes, histogram: WeightHistogram, strategy: str) -> None:
    width = (histogram.high - histogram.low) / len(histogram.counts)
    edges = [histogram.low + index * width for index in range(len(histogram.counts) + 1)]
    total = sum(histogram.counts)
    axis.stairs([count / total / width for count in histogram.counts], edges, fill=True)
    logarithmic(axis)
    stage = "folded, " if histogram.when == "folded" else ""
    axis.set_title(f"{plain(strategy)}, {stage}epoch {histogram.epoch}", fontsize=9)
    ratio = histogram.max_abs / histogram.sigma
    figures = f"max {histogram.max_abs:.3g}\nsigma {histogram.sigma:.3g}\nmax/sigma {ratio:.1f}"
    axis.text(
        0.02,
        0.95,
        figures,
        transform=axis.transAxes,
        va="top",
        fontsize=7,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )


def learning_curves(records: Sequence[RunRecord]) -> Figure:
    """Training loss and validation accuracy over the epochs; what continues a float model starts
    after that one's epochs."""
    figure, axes = subplots(1, 2, size=(12, 4.2))
    trained = [pair for pair in one_per_strategy(records).items() if pair[1].curve]
    for index, (name, record) in enumerate(trained):
        epochs = range(record.epochs_before + 1, record.epochs_before + len(record.curve) + 1)
        style = {"marker": MARKERS[index % len(MARKERS)], "markersize": 5, "label": plain(name)}
        axes[0].plot(epochs, [epoch.loss for epoch in record.curve], **style)
        axes[1].plot(epochs, [epoch.accuracy for epoch in record.curve], **style)
    if trained:
        logarithmic(axes[0])
        axes[1].legend(fontsize=8)
    metric = _metric(records)
    axes[0].set_ylabel("training loss, nats" if metric == ACCURACY else "training loss")
    axes[1].set_ylabel(f"validation {metric.name}")
    _in_percent(axes[1], metric)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    return figure


def one_per_strategy(records: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """The first finished run of each strategy by its name: the largest bit width and lowest seed in
    the order of ``read_records``."""
    first: dict[str, RunRecord] = {}
    for name, record in zip(labels(records), records, strict=True):
        if record.status == "done":
            first.setdefault(name, record)
    return first


def pareto(candidates: Collection[Candidate], advice: Recommendation) -> Figure:
    """Validation accuracy over training epochs: all candidates near the top, the Pareto set joined,
    the choice named."""
    figure, axis = subplots(size=(8, 4.8))
    best = max(candidates, key=lambda candidate: candidate.accuracy)
    metric = best.metric
    reach = PARETO_RANGE if metric.fraction else abs(best.accuracy)
    near = [each for each in candidates if best.accuracy - each.accuracy <= reach]
    for bits in sorted({candidate.weight_bits for candidate in near}, reverse=True):
        shown = [candidate for candidate in near if candidate.weight_bits == bits]
        axis.scatter(
            [item.epochs for item in shown],
            [item.figure for item in shown],
            s=30,
            alpha=0.8,
            label=f"{bits} weight bits",
        )
    line = [item for item in advice.pareto if item in near]
    axis.step(
        [item.epochs for item in line],
        [item.figure for item in line],
        where="post",
        color="black",
        linewidth=1,
        label="Pareto set",
    )
    _name(axis, line, near, advice.chosen)
    hidden = len(candidates) - len(near)
    axis.set_title(
        f"What {metric.name} costs in training"
        + (f" ({hidden} candidates lie lower)" if hidden else "")
    )
    axis.set_xlabel("epochs of training in all")
    axis.set_ylabel(f"int8 {metric.name} on validation images")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    _in_percent(axis, metric)
    axis.margins(x=0.25)
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def _name(
    axis: Axes,
    line: Sequence[Candidate],
    near: Sequence[Candidate],
    chosen: Candidate | None,
) -> None:
    """Write the names of the candidates on the ``line`` and of the one ``chosen``, which gets a
    ring; side by side those of equal ones."""
    last = max(candidate.epochs for candidate in near)
    places: dict[tuple[float, float], list[Candidate]] = {}
    for item in dict.fromkeys([*([chosen] if chosen else []), *line]):
        places.setdefault((item.epochs, item.figure), []).append(item)
    for place, items in places.items():
        names = [f"{'shipped: ' * (item is chosen)}{item.name}" for item in items]
        side = 1 if place[0] < last else -1  # the last label goes inwards
        above = side > 0 and items[-1] in line  # what lies under the line is named under it
        axis.annotate(
            plain(", ".join(names)),
            place,
            xytext=(side * 10, 8 if above else -14),
            textcoords="offset points",
            fontsize=8,
            horizontalalignment="left" if side > 0 else "right",
        )
    if chosen:
        at = ([chosen.epochs], [chosen.figure])
        axis.scatter(*at, s=160, facecolors="none", edgecolors="black")


FIGURES = {
    "accuracy_against_bits.png": accuracy_against_bits,
    "weight_histograms.png": weight_histograms,
    "learning_curves.png": learning_curves,
}
