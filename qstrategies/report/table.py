"""The summary table: one row per strategy and bit width, over all seeds, in four formats."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qstrategies.arguments import public
from qstrategies.records import ACCURACY, Metric, RunRecord, Widths, labels
from qstrategies.report.grid import Grid


@dataclass(frozen=True)
class Row:
    """Means over ``seeds`` of means over ``draws`` of calibration images; ``spread`` holds the
    standard deviations of the former (of the latter with one seed) where there are several.
    Accuracies are fractions."""

    strategy: str
    weight_bits: int | None
    seeds: int
    activation_bits: int | None = None
    draws: int = 1
    runs: int = 1
    group: str = ""
    levels: str | None = None
    failed: int = 0
    float_accuracy: float | None = None
    int8_accuracy: float | None = None
    onnxruntime_accuracy: float | None = None
    drop: float | None = None
    free_scales_accuracy: float | None = None
    agreement: float | None = None
    same_bits: bool | None = None
    saturation_safe: bool | None = None
    float_bytes: float | None = None
    int8_bytes: float | None = None
    weight_bytes: float | None = None
    seconds_per_epoch: float | None = None
    microseconds_batch_1: float | None = None
    speedup_batch_1: float | None = None
    images_per_second_batch_256: float | None = None
    speedup_batch_256: float | None = None
    metric: Metric = ACCURACY
    spread: dict[str, float] | None = None

    @property
    def widths(self) -> Widths | None:
        """None for the float baseline."""
        return (
            None
            if self.weight_bits is None
            else Widths(self.weight_bits, self.activation_bits or 8)
        )


@public
def summarise(records: Sequence[RunRecord]) -> list[Row]:
    """The float baseline first, then one row per strategy and bit width, in the order of the
    records."""
    groups: dict[tuple[str, Widths], list[RunRecord]] = {}
    for name, record in zip(labels(records), records, strict=True):
        groups.setdefault((name, record.config.quantization.widths), []).append(record)
    return [
        _baseline(records),
        *(_row(name, widths, group) for (name, widths), group in groups.items()),
    ]


def _baseline(records: Sequence[RunRecord]) -> Row:
    """The float model of no_norm (of the first strategy where that did not run), in ONNX
    Runtime."""
    done = [record for record in records if record.status == "done"]
    chosen = [
        record for record in done if (record.starts_from or record.config.strategy) == "no_norm"
    ] or done
    plain = [record for record in chosen if record.config.strategy != "finetune"] or chosen
    first = {record.config.seed: record for record in reversed(plain)}
    values = [_float_values(record) for record in first.values()]
    return Row(
        strategy="float baseline",
        weight_bits=None,
        seeds=len(values),
        metric=plain[0].metric if plain else ACCURACY,
        **_aggregate([[each] for each in values]),
    )


def _float_values(record: RunRecord) -> dict[str, float | None]:
    speed = record.speeds[0] if record.speeds else None
    return {
        "float_accuracy": record.float_accuracy,
        "float_bytes": record.sizes.get("float"),
        "microseconds_batch_1": speed.microseconds_batch_1 if speed else None,
        "speedup_batch_1": 1.0,
        "images_per_second_batch_256": speed.images_per_second_batch_256 if speed else None,
        "speedup_batch_256": 1.0,
    }


def _row(name: str, widths: Widths, records: Sequence[RunRecord]) -> Row:
    done = [record for record in records if record.status == "done"]
    same = (
        all(check.rows_equal == 1 for record in done for check in record.checks) if done else None
    )
    known = [record.exactness["saturation_safe"] for record in done if record.exactness]
    safe = all(known) if known else None
    by_seed: dict[int, list[dict[str, float | None]]] = {}
    for record in done:
        by_seed.setdefault(record.config.seed, []).append(_values(record))
    values = _aggregate(list(by_seed.values()))
    return Row(
        strategy=name,
        weight_bits=widths.weights,
        activation_bits=widths.activations,
        seeds=len({record.config.seed for record in records}),
        draws=len({record.config.calibration_draw for record in records}),
        runs=len(records),
        group=records[0].group,
        levels=str(records[0].config.quantization.level_set),
        failed=len(records) - len(done),
        same_bits=same,
        saturation_safe=safe,
        metric=done[0].metric if done else ACCURACY,
        **values,
    )


def _values(record: RunRecord) -> dict[str, float | None]:
    fast = record.speeds[-1] if record.speeds else None
    epochs = [epoch.seconds for epoch in record.curve]
    return {
        "float_accuracy": record.float_accuracy,
        "int8_accuracy": record.int8_accuracy,
        "onnxruntime_accuracy": record.onnxruntime_accuracy,
        "drop": record.drop,
        "free_scales_accuracy": record.free_scales_accuracy,
        "agreement": record.agreement,
        "float_bytes": record.sizes.get("float"),
        "int8_bytes": record.sizes.get("portable"),
        "weight_bytes": record.sizes.get("weights"),
        "seconds_per_epoch": statistics.median(epochs) if epochs else None,
        "microseconds_batch_1": fast.microseconds_batch_1 if fast else None,
        "speedup_batch_1": fast.speedup_batch_1 if fast else None,
        "images_per_second_batch_256": fast.images_per_second_batch_256 if fast else None,
        "speedup_batch_256": fast.speedup_batch_256 if fast else None,
    }


def _aggregate(by_seed: Sequence[Sequence[dict[str, float | None]]]) -> dict[str, Any]:
    """Mean of every figure that all runs have, and under "spread" the sample standard deviations of
    several seeds, or of several draws of one."""
    result: dict[str, Any] = {}
    spread: dict[str, float] = {}
    runs = [run for draws in by_seed for run in draws]
    for name in runs[0] if runs else ():
        known = [[value for run in draws if (value := run[name]) is not None] for draws in by_seed]
        if sum(map(len, known)) < len(runs):
            continue
        units = list(map(statistics.fmean, known)) if len(known) > 1 else known[0]
        result[name] = statistics.fmean(units)
        if len(units) > 1:
            spread[name] = statistics.stdev(units)
    return result | {"spread": spread or None}


HEADERS = (
    "strategy", "bits", "levels", "float {head}", "int8 {head}", "ORT {head}", "drop, {unit}",
    "free scales {head}",
    "agree %", "same bits", "safe w/o VNNI", "KB float > int8", "KB weights", "s/epoch",
    "us, batch 1", "images/s, batch 256",
)  # fmt: skip


def headers(rows: Sequence[Row]) -> list[str]:
    """``HEADERS`` with the metric of ``rows``, if they have one."""
    metric = _common(rows)
    if metric is None:
        return [head.format(head="figure", unit="units of the metric") for head in HEADERS]
    return [head.format(head=metric.head, unit=metric.unit) for head in HEADERS]


def _common(rows: Sequence[Row]) -> Metric | None:
    """The metric of all ``rows`` that have figures; None if there are several."""
    metrics = {row.metric for row in rows if row.float_accuracy is not None}
    return ACCURACY if not metrics else metrics.pop() if len(metrics) == 1 else None


def cells(row: Row) -> list[str]:
    """The row as text, in the order of ``HEADERS``."""
    verdict = {None: "-", True: "yes", False: "NO"}
    sizes = "-" if row.float_bytes is None else f"{row.float_bytes / 1000:.0f}"
    if row.int8_bytes is not None:
        sizes += f" > {row.int8_bytes / 1000:.0f}"
    name = row.strategy + (f" ({row.failed} of {row.runs} FAILED)" if row.failed else "")
    return [
        name,
        "-" if row.widths is None else str(row.widths),
        row.levels or "-",
        _figure(row, "float_accuracy"),
        _figure(row, "int8_accuracy"),
        _figure(row, "onnxruntime_accuracy"),
        _figure(row, "drop"),
        _figure(row, "free_scales_accuracy"),
        _figure(row, "agreement"),
        verdict[row.same_bits],
        verdict[row.saturation_safe],
        sizes,
        "-" if row.weight_bytes is None else f"{row.weight_bytes / 1000:.1f}",
        "-" if row.seconds_per_epoch is None else f"{row.seconds_per_epoch:.1f}",
        _speed(row.microseconds_batch_1, row.speedup_batch_1),
        _speed(row.images_per_second_batch_256, row.speedup_batch_256),
    ]


def _figure(row: Row, name: str) -> str:
    """A figure of the metric of ``row``; fractions in percent."""
    value = getattr(row, name)
    if value is None:
        return "-"
    deviation = (row.spread or {}).get(name)
    shown = row.metric.difference
    return shown(value) + ("" if deviation is None else f" ± {shown(deviation)}")


def _speed(value: float | None, speedup: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ({speedup:.1f}x)"


NOTES = (
    "{figures} on the test split. levels: how many integers a weight may be, and which. "
    "float: the model before quantization (for QAT the float model "
    "that it is compared with); ORT: the exported file in ONNX Runtime; free scales: int8 "
    "{name} without the restriction to exact scales (PTQ only; for QAT run compare "
    "--free-scales); same bits: all logits equal in every engine and runtime that was run; safe "
    "w/o VNNI: no two weights can saturate the 16-bit sums of CPUs without VNNI, by the "
    "certificate; KB weights: their bits summed, where the file gives each a byte; speed: the "
    "fast file on one thread, in brackets against the float file; ±: standard deviation over the "
    "seeds (over the draws of calibration images with one seed). Activations have 8 bits where "
    "bits is one number."
)


def grid(rows: Sequence[Row]) -> Grid:
    """All figures as a table of text."""
    return Grid("All figures", headers(rows), [cells(row) for row in rows], notes(rows))


def notes(rows: Sequence[Row]) -> str:
    """``NOTES`` with the metric of ``rows``."""
    metric = _common(rows)
    if metric == ACCURACY:
        return NOTES.format(figures="Accuracies", name="accuracy")
    name = "figure" if metric is None else metric.name
    return NOTES.format(figures=f"Means of the {name}", name=name)


def overview(rows: Sequence[Row]) -> Grid:
    """int8 accuracy in percent: a line per strategy, a column per pair of widths."""
    widths = sorted({row.widths for row in rows if row.widths is not None}, reverse=True)
    cell = {(row.strategy, row.widths): row for row in rows}
    names = dict.fromkeys(row.strategy for row in rows if row.weight_bits is not None)
    lines = []
    for name in names:
        found = [cell.get((name, width)) for width in widths]
        first = next(row for row in found if row is not None)
        lines.append(
            [
                name,
                _figure(first, "float_accuracy"),
                *("-" if row is None else _figure(row, "int8_accuracy") for row in found),
            ]
        )
    metric = _common(rows)
    what = "figure" if metric is None else metric.name
    percent = " in percent" if metric is not None and metric.fraction else ""
    return Grid(
        f"int8 test {what}{percent}, by weight bits",
        ["strategy", "float", *(width.title for width in widths)],
        lines,
        "A weight has 2^bits - 1 levels, 2^bits where the name says full or no_zero.",
    )
