"""The study of all strategies: its settings, and that all train equally long."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import strategies as study
import strategies_page as page

from qstrategies.records import RunRecord

RECORD = RunRecord(config=study.config(study.TASKS["cnn"], "W4A8", "no_norm", 0), status="failed")


@pytest.mark.parametrize("name", study.TASKS)
def test_a_setting_is_called_as_it_is_asked_for(name):
    task = study.TASKS[name]
    for setting in task.settings:
        config = study.config(task, setting, "qat", 0)
        assert page.setting_of(dataclasses.replace(RECORD, config=config)) == setting


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


def test_rows_are_ranked_and_marked():
    columns = {
        "W4A8": {"no_norm": page.Cell(0.5, 1, "undecided"), "lsq": page.Cell(0.9, 1, "better")}
    }
    found = page.Results("cnn", [RECORD], columns)
    assert found.ranked() == ["lsq", "no_norm"]
    assert str(columns["W4A8"]["lsq"]) == "90.00 ▲"
    assert page.drawn(found) == ["W4A8"]
    assert not page.drawn(page.Results("cnn", [RECORD], {"W4A4": {}}))


def test_networks_that_were_not_run_here_keep_their_sections(tmp_path):
    committed = Path(__file__).parent.parent / "docs" / "strategies.md"
    copy = tmp_path / "strategies.md"
    copy.write_text(committed.read_text())
    tasks = {name: task.settings for name, task in study.TASKS.items()}
    assert page.write_page(copy, tmp_path / "no_runs", tasks) == [copy]
    assert copy.read_text() == committed.read_text()
