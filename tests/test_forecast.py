"""What ``compare --dry-run`` says is what ``compare`` then does."""

import dataclasses
import json
import shutil

import pytest
from conftest import small

from qstrategies.cli import main
from qstrategies.experiment import forecast as module
from qstrategies.experiment.forecast import Forecast, Piece, forecast
from qstrategies.experiment.trained import float_stage, tuned_stage
from qstrategies.experiment.workspace import Workspace
from qstrategies.progress import Work, clock
from qstrategies.records import RECORD, QuantizationConfig

FIVE_BITS = QuantizationConfig(weight_bits=5)


def files(folder):
    return sorted(path for path in folder.rglob("*"))


def test_what_is_finished_is_kept_and_nothing_is_left(records, workspace):
    before = files(workspace.folder)
    found = forecast([record.config for record in records.values()], workspace)
    assert [piece.name for piece in found.runs] == [
        record.config.run_id for record in records.values()
    ]
    assert all(piece.kept for piece in found.runs)
    assert found.trainings == [] and found.expected == ""
    assert files(workspace.folder) == before


def test_kept_trainings_are_those_that_are_not_repeated(records, workspace, tmp_path, monkeypatch):
    shutil.copytree(workspace.stages, tmp_path / "stages")
    again = Workspace(tmp_path, workspace.location)
    configs = [small(name, quantization=FIVE_BITS) for name in ("no_norm", "finetune", "qat")]
    foretold = forecast(configs, again)
    assert [piece.kept for piece in foretold.runs] == [False, False, False]
    assert {piece.name: piece.kept for piece in foretold.trainings} == {
        "no_norm seed 0, epochs: 1": True,
        "finetune seed 0, epochs: 1": True,
        "qat w5 seed 0, epochs: 1": False,
    }
    trained = []
    monkeypatch.setattr(again.progress, "advance", lambda work, *_: trained.append(work))
    for config in configs:
        tuned_stage(config, again, float_stage(config, again))
    assert trained == [Work("QAT epoch", "qat")]
    assert all(piece.kept for piece in forecast(configs, again).trainings)


def test_the_time_is_what_such_work_took(records, tmp_path, location):
    chosen = [records["no_norm"], records["qat"]]
    for record in chosen:
        source = tmp_path / record.config.run_id / RECORD
        source.parent.mkdir()
        source.write_text(record.to_json())
    found = forecast([small("qat", quantization=FIVE_BITS)], Workspace(tmp_path, location))
    epochs = sum(record.curve[0].seconds for record in chosen)
    rest = {**records["qat"].seconds, "train": 0}
    assert found.expected == clock(epochs + sum(rest.values()))
    other = dataclasses.replace(small("qat"), model="depthwise")
    assert forecast([other], Workspace(tmp_path, location)).expected == ""


@pytest.mark.parametrize("wanted", [["--json"], []])
def test_the_command_lists_it_and_writes_nothing(wanted, tmp_path, location, capsys):
    out = tmp_path / "runs"
    words = ["compare", "no_norm", "qat", "--bits", "8", "--dry-run", "--out", str(out), *wanted]
    assert main([*words, "--dataset", "small_mnist", "--cache-dir", str(location.cache)]) == 0
    shown = capsys.readouterr().out
    assert not out.exists()
    if wanted:
        found = json.loads(shown)
        assert [piece["kept"] for piece in found["runs"]] == [False, False]
        assert len(found["trainings"]) == 2 and found["expected"] == ""
        return
    assert "runs: 0 of 2 are kept" in shown and "trainings: 0 of 2 are kept" in shown
    assert "qat w8 seed 0, epochs: 1" in shown and "unknown: no such run was measured" in shown


def test_no_time_is_said_where_nothing_is_left(tmp_path, location, monkeypatch, capsys):
    done = Forecast([Piece("no_norm-w8", kept=True)], [], "")
    monkeypatch.setattr(module, "forecast", lambda *_: done)
    words = ["compare", "no_norm", "--bits", "8", "--dry-run", "--out", str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "runs: 1 of 1 are kept\n  kept   no_norm-w8\ntrainings: 0 of 0 are kept\n"
    )
