"""Many runs as one comparison: every finished run is kept, stages are shared, an interrupted comparison goes on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from qstrategies.errors import InputError
from qstrategies.files import exclusive
from qstrategies.pipeline import SECONDS_PER_EPOCH, SECONDS_PER_RUN, Workspace, check_config, run_experiment
from qstrategies.predictions import Predictions
from qstrategies.records import ExperimentConfig, RunRecord
from qstrategies.strategies import STRATEGIES

DEFAULT_STRATEGIES = ("no_norm", "clamp", "weight_norm", "finetune", "qat", "qat_scratch", "qat_weight_norm", "qat_clamp")
DEFAULT_BITS = (8, 4, 3, 2)


def plan(base: ExperimentConfig, strategies: Sequence[str], bits: Sequence[int], seeds: Iterable[int]) -> list[ExperimentConfig]:
    """One configuration per seed, strategy and weight bit width, checked; every runtime at the largest width only.

    Options of ``base`` go to the strategies that have them. Raises ``InputError`` for unknown names and options.
    """
    known = {name for strategy in strategies for name in STRATEGIES.get(strategy).options}
    for name in base.options:
        if name not in known:
            raise InputError(f"none of {', '.join(strategies)} has the option {name!r}. Valid: {', '.join(sorted(known)) or 'none'}")
    configs = []
    for seed in seeds:
        for strategy in strategies:
            options = {name: value for name, value in base.options.items() if name in STRATEGIES.get(strategy).options}
            for width in bits:
                configs.append(
                    dataclasses.replace(
                        base,
                        strategy=strategy,
                        options=options,
                        seed=seed,
                        checks="full" if width == max(bits) else "quick",
                        quantization=dataclasses.replace(base.quantization, weight_bits=width),
                    )
                )
                check_config(configs[-1])
    return configs


def run_all(configs: Sequence[ExperimentConfig], workspace: Workspace) -> list[RunRecord]:
    """The records of ``configs``, in order; those that lie in the workspace's folder already are read, not run again.

    Raises ``InputError`` at once if another process writes to the same folder.
    """
    with exclusive(workspace.folder):
        finished = {config.run_id: finished_record(workspace.folder, config) for config in configs}
        workspace.progress.expected = expected_seconds([config for config in configs if finished[config.run_id] is None])
        return [finished[config.run_id] or _run(config, workspace) for config in configs]


def _run(config: ExperimentConfig, workspace: Workspace) -> RunRecord:
    started = time.perf_counter()
    record = run_experiment(config, workspace)
    outcome = f"int8 {record.int8_accuracy:.2%}" if record.int8_accuracy is not None else f"failed: {record.reason}"
    label = f"{config.strategy} w{config.quantization.weight_bits} seed {config.seed}"
    workspace.progress.advance(SECONDS_PER_RUN[config.checks], f"{label}: {outcome}, {time.perf_counter() - started:.0f} s")
    return record


def finished_record(folder: Path, config: ExperimentConfig) -> RunRecord | None:
    """The record of ``config`` in ``folder``; None if it or its predictions are not there or do not read as such."""
    path = folder / config.run_id / "record.json"
    if not path.is_file():
        return None
    try:
        record = RunRecord.from_json(path.read_text())
        if record.status == "done":
            Predictions.load(path.parent)
    except (InputError, UnicodeDecodeError):
        return None
    return record if record.config == config else None


def read_records(folder: Path) -> list[RunRecord]:
    """All records in ``folder``, by strategy, bits and seed; raises ``InputError`` if there are none or one is damaged."""
    records = [RunRecord.from_json(path.read_text()) for path in sorted(folder.glob("*/record.json"))]
    if not records:
        raise InputError(f"no run records in {str(folder)!r}: expected the folder that run or compare wrote")
    order = {name: index for index, name in enumerate(DEFAULT_STRATEGIES)}
    return sorted(
        records,
        key=lambda record: (
            order.get(record.config.strategy, len(order)),
            record.config.strategy,
            -record.config.quantization.weight_bits,
            record.config.seed,
        ),
    )


def expected_seconds(configs: Sequence[ExperimentConfig]) -> float:
    """A first guess of the time that ``configs`` take, shared stages counted once; only the progress display uses it."""
    stages: dict[tuple[object, ...], float] = {}
    for config in configs:
        kind = STRATEGIES.get(config.strategy)
        stages["float", kind.starts_from or config.strategy, config.seed] = SECONDS_PER_EPOCH[False] * config.training.epochs
        if kind.starts_from is not None:
            epochs = (config.training if kind.from_scratch else config.tuning).epochs
            width = config.quantization.weight_bits if kind.quantize_aware else None
            stages[config.strategy, width, config.seed] = SECONDS_PER_EPOCH[kind.quantize_aware] * epochs
    return sum(stages.values()) + sum(SECONDS_PER_RUN[config.checks] for config in configs)
