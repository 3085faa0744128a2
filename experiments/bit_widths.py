"""Where the post's effect shows: 1 epoch, 3 epochs and weight_norm from 8 down to 2 weight bits, per channel and per tensor."""

import dataclasses

from common import config, options

from qstrategies.comparison import DEFAULT_BITS, plan, run_all
from qstrategies.pipeline import Workspace
from qstrategies.progress import Progress
from qstrategies.report import table

chosen = options(__doc__)
for epochs in (1, config(chosen).training.epochs):
    base = config(chosen)
    base = dataclasses.replace(base, training=dataclasses.replace(base.training, epochs=epochs))
    for per_channel in (True, False):
        quantization = dataclasses.replace(base.quantization, per_channel=per_channel)
        configs = plan(dataclasses.replace(base, quantization=quantization), ["no_norm", "weight_norm"], DEFAULT_BITS, [chosen.seed])
        records = run_all(configs, Workspace(chosen.out, progress=Progress(0)))
        print(f"\n{epochs} epochs, {'per channel' if per_channel else 'per tensor'}\n{table.as_text(table.summarise(records))}")
