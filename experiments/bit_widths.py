"""Where the post's effect shows: 1 epoch, more epochs and weight_norm, from 8 to 2 weight bits, per
channel and per tensor."""

import dataclasses
import sys

from common import config, options

from qstrategies.cli import guarded
from qstrategies.experiment.comparison import DEFAULT_BITS, plan, run_all
from qstrategies.experiment.workspace import Workspace
from qstrategies.progress import Progress
from qstrategies.report import table

chosen = options(__doc__)


def run() -> int:
    for per_channel in (True, False):
        for epochs in sorted({1, config(chosen).training.epochs}):
            base = config(chosen)
            training = dataclasses.replace(base.training, epochs=epochs)
            shape = dataclasses.replace(base.quantization, per_channel=per_channel)
            base = dataclasses.replace(base, training=training, quantization=shape)
            configs = plan(base, ["no_norm", "weight_norm"], DEFAULT_BITS, [chosen.seed])
            records = run_all(configs, Workspace(chosen.out, progress=Progress()))
            print(f"\n{epochs} epochs\n{table.grid(table.summarise(records)).as_text()}")
    return 0


sys.exit(guarded(run))
