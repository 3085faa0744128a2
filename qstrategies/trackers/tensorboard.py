"""TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qstrategies.records import Epoch
from qstrategies.trackers import TRACKERS
from qstrategies.trackers.base import OnEpoch, Tracker, metrics


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Look at them with ``tensorboard --logdir RUNS/tensorboard``."""

    summary = "event files in RUNS/tensorboard"
    module = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"

    @contextmanager
    def training(self, name: str) -> Iterator[OnEpoch]:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder / name)) as writer:

            def on_epoch(number: int, epoch: Epoch) -> None:
                for key, value in metrics(epoch).items():
                    writer.add_scalar(key, value, number)
                writer.flush()

            yield on_epoch

    def run(self, name: str, settings: Mapping[str, str], results: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:
            writer.add_hparams(dict(settings), dict(results), run_name=name)
