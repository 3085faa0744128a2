import csv
import dataclasses
import io

import pytest

from qstrategies.evidence import conclude
from qstrategies.records import (
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    RuntimeCheck,
    TrainingConfig,
    labels,
)
from qstrategies.report import plain, plots, table
from qstrategies.report.write import write_report


def record(strategy, bits, seed, float_accuracy, int8_accuracy, **more):
    config = ExperimentConfig(
        strategy=strategy, seed=seed, quantization=QuantizationConfig(weight_bits=bits)
    )
    return RunRecord(
        config=config,
        status="done",
        float_accuracy=float_accuracy,
        int8_accuracy=int8_accuracy,
        **more,
    )


RECORDS = [
    record("no_norm", 8, 0, 0.990, 0.980),
    record("no_norm", 8, 1, 0.992, 0.986),
    record("no_norm", 4, 0, 0.990, 0.900),
    record("no_norm", 4, 1, 0.992, 0.800),
    record("qat", 8, 0, 0.990, 0.991, starts_from="no_norm"),
]


def test_rows_are_the_baseline_and_one_per_strategy_and_width_with_mean_and_spread():
    rows = table.summarise(RECORDS)
    assert [(row.strategy, row.weight_bits, row.seeds) for row in rows] == [
        ("float baseline", None, 2),
        ("no_norm", 8, 2),
        ("no_norm", 4, 2),
        ("qat", 8, 1),
    ]
    assert rows[0].float_accuracy == pytest.approx(0.991)
    assert rows[1].int8_accuracy == pytest.approx(0.983) and rows[1].drop == pytest.approx(0.008)
    assert rows[1].spread["int8_accuracy"] == pytest.approx(0.006 / 2**0.5)
    assert rows[3].spread is None and rows[3].drop == pytest.approx(-0.001)


def test_same_bits_is_no_as_soon_as_one_check_differs():
    good = RuntimeCheck(
        runtime="r", file="f", images=1, accuracy=1, agreement=1, rows_equal=1, max_steps=0
    )
    bad = dataclasses.replace(good, rows_equal=0.9999)
    for checks, expected in (((good,), True), ((good, bad), False)):
        row = table.summarise([record("no_norm", 8, 0, 0.99, 0.98, checks=checks)])[1]
        assert row.same_bits is expected and ("NO" in table.cells(row)) is not expected


def test_safe_without_vnni_is_no_as_soon_as_one_seed_can_saturate():
    for verdicts, expected in (((True, True), True), ((True, False), False), ((), None)):
        runs = [
            record("no_norm", 8, seed, 0.99, 0.98, exactness={"saturation_safe": safe})
            for seed, safe in enumerate(verdicts)
        ]
        (row,) = table.summarise(runs or [RECORDS[0]])[1:]
        assert row.saturation_safe is expected
        assert (
            table.cells(row)[table.HEADERS.index("safe w/o VNNI")]
            == {True: "yes", False: "NO", None: "-"}[expected]
        )


def test_a_failed_run_is_counted_and_named(tmp_path):
    failed = RunRecord(config=RECORDS[0].config, status="failed", reason="training loss is nan")
    rows = table.summarise([failed, RECORDS[1]])
    assert (rows[1].seeds, rows[1].failed) == (2, 1) and "(1 of 2 FAILED)" in table.grid(
        rows
    ).as_text()
    write_report([failed], tmp_path, *conclude([failed], tmp_path))
    assert "training loss is nan" in (tmp_path / "summary.md").read_text()


def test_the_four_formats_say_the_same():
    rows = table.summarise(RECORDS)
    parsed = list(csv.DictReader(io.StringIO(plain.as_csv(rows))))
    assert [float(line["int8_accuracy"]) for line in parsed[1:]] == [
        row.int8_accuracy for row in rows[1:]
    ]
    assert float(parsed[1]["int8_accuracy_sd"]) == rows[1].spread["int8_accuracy"]
    assert [line["int8_accuracy"] for line in plain.as_data(rows)][1:] == [
        row.int8_accuracy for row in rows[1:]
    ]
    for text in (table.grid(rows).as_text(), table.grid(rows).as_markdown()):
        assert "98.30 ± 0.42" in text and "99.10" in text
    assert len({len(line) for line in table.grid(rows).as_text().splitlines()}) == 1, (
        "columns are aligned"
    )


def test_the_overview_has_a_line_per_strategy_and_a_column_per_width():
    lines = table.overview(table.summarise(RECORDS)).as_markdown().splitlines()
    assert lines[0] == "| strategy | float | 8 bits | 4 bits |"
    assert lines[2] == "| no_norm | 99.10 ± 0.14 | 98.30 ± 0.42 | 85.00 ± 7.07 |"
    assert lines[3] == "| qat | 99.00 | 99.10 | - |"


def test_other_settings_get_rows_of_their_own():
    other = dataclasses.replace(
        RECORDS[0].config, quantization=QuantizationConfig(per_channel=False, exact=False)
    )
    rows = table.summarise([RECORDS[0], dataclasses.replace(RECORDS[0], config=other)])
    assert [row.strategy for row in rows[1:]] == ["no_norm", "no_norm per-tensor free-scales"]


def test_runs_that_were_trained_otherwise_are_not_taken_for_seeds():
    other = dataclasses.replace(RECORDS[0].config, training=TrainingConfig(epochs=7))
    rows = table.summarise([RECORDS[0], dataclasses.replace(RECORDS[0], config=other)])
    assert [(row.strategy, row.seeds) for row in rows[1:]] == [
        ("no_norm epochs=3", 1),
        ("no_norm epochs=7", 1),
    ]


def test_the_report_of_real_runs_has_every_figure(records, workspace, tmp_path):
    runs = list(records.values())
    written = write_report(runs, tmp_path, *conclude(runs, workspace.folder))
    assert {path.name for path in written} == {
        "summary.md",
        "summary.csv",
        "summary.json",
        "report.html",
        "pareto.png",
        *plots.FIGURES,
    }
    for path in written:
        assert path.stat().st_size > 100
        assert path.suffix != ".png" or path.read_bytes().startswith(b"\x89PNG")


def test_lines_and_histograms_are_drawn_for_every_strategy(records):
    runs = list(records.values())
    lines = plots.accuracy_against_bits(runs).axes[0].get_legend_handles_labels()[1]
    names = labels(runs)
    assert set(lines) == {*names, "float baseline"} and [name.split()[0] for name in names] == list(
        records
    )
    titles = [axis.get_title() for axis in plots.weight_histograms(runs).axes]
    for name in names:
        assert f"{name}, epoch 1" in titles and f"{name}, folded, epoch 1" in titles


def test_tables_say_how_many_levels_a_weight_has():
    few, many = record("lsq", 2, 0, 0.99, 0.9), record("lsq", 2, 0, 0.99, 0.95)
    quantization = QuantizationConfig(weight_bits=2, levels="no_zero")
    many = dataclasses.replace(
        many, config=dataclasses.replace(many.config, quantization=quantization)
    )
    rows = table.summarise([few, many])
    column = table.HEADERS.index("levels")
    shown = [(row.strategy, table.cells(row)[column]) for row in rows[1:]]
    assert shown == [("lsq", "3 narrow"), ("lsq no_zero", "4 no zero")]
    assert "2^bits" in table.overview(rows).notes
