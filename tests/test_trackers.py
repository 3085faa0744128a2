"""Contract of every tracker: what training and runs tell it can be read back with the tool's own
reader."""

import dataclasses
import sqlite3
import subprocess
import sys

import pytest
from conftest import small

from qstrategies.cli import main
from qstrategies.experiment import comparison
from qstrategies.experiment.workspace import Workspace
from qstrategies.trackers import TRACKERS, open_tracker
from qstrategies.training.loop import TrainingDivergedError

CONFIG = dataclasses.replace(
    small("no_norm", checks="quick"),
    training=dataclasses.replace(small("no_norm").training, epochs=2),
)


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in (folder / "tensorboard").rglob("events*"):
        events = EventAccumulator(str(path.parent)).Reload()
        name = path.parent.relative_to(folder / "tensorboard").as_posix()
        for key in events.Tags()["scalars"]:
            found[name, key] = [(event.step, event.value) for event in events.Scalars(key)]
    return found


def read_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("qstrategies").experiment_id])
    return {
        (run.info.run_name, key): [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
        ]
        for run in runs
        for key in run.data.metrics
    }


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow}


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tracker(name, folder):
    reason = TRACKERS.get(name).missing()
    if reason:
        pytest.skip(reason)
    return open_tracker(name, folder)


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_tracker_has_the_metrics_of_the_record(name, tmp_path, location):
    workspace = Workspace(tmp_path, location, trackers=[tracker(name, tmp_path)])
    (record,) = comparison.run_all([CONFIG], workspace)
    found = READERS[name](tmp_path)
    trained = {key: values for (run, key), values in found.items() if run.startswith("no_norm-s0-")}
    expected = {
        "loss": [epoch.loss for epoch in record.curve],
        "validation_accuracy": [epoch.accuracy for epoch in record.curve],
        "seconds": [epoch.seconds for epoch in record.curve],
    }
    assert {key: [step for step, _ in values] for key, values in trained.items()} == {
        key: [1, 2] for key in expected
    }
    for key, values in expected.items():
        assert [value for _, value in trained[key]] == pytest.approx(values)
    for key in ("float_accuracy", "int8_accuracy", "agreement"):
        assert found[record.config.run_id, key][0][1] == pytest.approx(getattr(record, key))
    before = len(found)
    comparison.run_all([CONFIG], workspace)
    assert len(READERS[name](tmp_path)) == before


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_diverged_training_ends_the_run_not_the_comparison(name, tmp_path, location, monkeypatch):
    def diverge(*_):
        raise TrainingDivergedError("training loss is nan")

    monkeypatch.setattr("qstrategies.experiment.trained.train", diverge)
    workspace = Workspace(tmp_path, location, trackers=[tracker(name, tmp_path)])
    (record,) = comparison.run_all([CONFIG], workspace)
    assert record.status == "failed"
    if name == "mlflow":
        with sqlite3.connect(tmp_path / "mlflow.db") as store:
            assert store.execute("SELECT status FROM runs").fetchall() == [("FAILED",)]


def test_an_unknown_or_missing_tracker_is_named_before_anything_is_trained(
    tmp_path, capsys, monkeypatch
):
    assert main(["run", "no_norm", "--track", "tensorbord", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'tensorboard'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["run", "no_norm", "--track", "mlflow", "--out", str(tmp_path)]) == 2
    assert "qstrategies[mlflow]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_loaded_only_if_asked():
    script = (
        "import qstrategies.experiment.runs, sys; sys.exit(any(name in sys.modules for name in "
        "('tensorboard', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
