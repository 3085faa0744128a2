"""MLflow's tracking store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qstrategies.guest import own_environment
from qstrategies.records import Epoch
from qstrategies.trackers import TRACKERS
from qstrategies.trackers.base import OnEpoch, Tracker, metrics

EXPERIMENT = "qstrategies"


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """Look at them with ``mlflow ui --backend-store-uri sqlite:///RUNS/mlflow.db``; MLflow's own
    telemetry is switched off."""

    summary = "RUNS/mlflow.db, or the server that MLFLOW_TRACKING_URI names"
    module = "mlflow"

    def __init__(self, folder: Path) -> None:
        with own_environment():
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
            from mlflow import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        )
        found = self.client.get_experiment_by_name(EXPERIMENT)
        self.experiment = (
            found.experiment_id if found else self.client.create_experiment(EXPERIMENT)
        )

    @contextmanager
    def training(self, name: str) -> Iterator[OnEpoch]:
        run = self.client.create_run(self.experiment, run_name=name).info.run_id

        def on_epoch(number: int, epoch: Epoch) -> None:
            for key, value in metrics(epoch).items():
                self.client.log_metric(run, key, value, step=number)

        try:
            yield on_epoch
        except BaseException:
            self.client.set_terminated(run, "FAILED")
            raise
        self.client.set_terminated(run)

    def run(self, name: str, settings: Mapping[str, str], results: Mapping[str, float]) -> None:
        run = self.client.create_run(self.experiment, run_name=name).info.run_id
        for key, setting in settings.items():
            self.client.log_param(run, key, setting)
        for key, value in results.items():
            self.client.log_metric(run, key, value)
        self.client.set_terminated(run)
