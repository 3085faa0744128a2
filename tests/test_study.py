"""The study of all strategies: its settings, and that all train equally long."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import strategies as study
import strategies_page as page
import strategies_results as results

from qstrategies.records import RunRecord

RECORD = RunRecord(config=study.config(study.TASKS["cnn"], "W4A8", "no_norm", 0), status="failed")


@pytest.mark.parametrize("name", study.TASKS)
def test_a_setting_is_called_as_it_is_asked_for(name):
    task = study.TASKS[name]
    for setting in task.settings:
        config = study.config(task, setting, "qat", 0)
        assert results.setting_of(dataclasses.replace(RECORD, config=config)) == setting


@pytest.mark.parametrize("strategy", study.names())
@pytest.mark.parametrize("name", study.TASKS)
def test_every_strategy_trains_for_as_many_epochs(name, strategy):
    task = study.TASKS[name]
    config = study.config(task, task.settings[0], strategy, 0)
    course = study.STRATEGIES.get(strategy).course
    added = config.tuning.epochs if course.schedule == "tuning" else 0
    assert config.training.epochs + added == task.epochs


def test_controls_come_first_and_lead_everywhere():
    assert study.names()[: len(study.CONTROLS)] == list(study.CONTROLS)
    results = [
        dataclasses.replace(
            RECORD,
            config=dataclasses.replace(RECORD.config, strategy=name),
            validation_accuracy=accuracy,
        )
        for name, accuracy in {"no_norm": 0.5, "lsq": 0.9, "qat": 0.8, "finetune": 0.7}.items()
    ]
    assert study.leaders(results, 1) == [*study.CONTROLS, "lsq"]


def cell(accuracy, seeds=1, verdict="undecided"):
    return results.Cell(accuracy, 0.99, seeds, verdict, seeds, 0.001, 3.0, "a CPU", "abc")


def test_rows_are_ranked_and_marked():
    columns = {"W4A8": {"no_norm": cell(0.5), "lsq": cell(0.9, verdict="better")}}
    found = page.Task("cnn", columns)
    assert found.ranked() == ["lsq", "no_norm"]
    assert str(columns["W4A8"]["lsq"]) == "90.00 ▲"
    assert page.drawn(found) == ["W4A8"]
    assert not page.drawn(page.Task("cnn", {"W4A4": {}}))


def test_what_no_column_has_whole_is_ranked_by_the_fullest():
    columns = {
        "W4A8": {"a": cell(0.9), "b": cell(0.8), "c": cell(0.7)},
        "W2A8": {"b": cell(0.1), "d": cell(0.6)},
    }
    assert page.Task("cnn", columns).ranked() == ["a", "b", "c", "d"]


def test_runs_of_another_day_add_to_what_is_kept():
    kept = {"no_norm": cell(0.5, seeds=5), "lsq": cell(0.9), "qat": cell(0.8)}
    found = {"no_norm": cell(0.4), "lsq": cell(0.9, verdict="better"), "cle": cell(0.7)}
    assert results.merged(kept, found) == {**found, "no_norm": kept["no_norm"], "qat": kept["qat"]}
    changed = {**found, "lsq": cell(0.91)}
    assert results.merged(kept, changed) == changed, "other code: nothing to compare it with"


def test_the_committed_page_is_what_its_results_say(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    for path in docs.glob("strategies[_.]*"):
        shutil.copy(path, tmp_path)
    copy = tmp_path / "strategies.md"
    settings = {name: task.settings for name, task in study.TASKS.items()}
    assert page.write_page(copy, tmp_path / "no_runs", settings) == [
        copy,
        tmp_path / "strategies.json",
    ]
    assert copy.read_text() == (docs / "strategies.md").read_text()
    assert results.read(tmp_path / "strategies.json") == results.read(docs / "strategies.json")
