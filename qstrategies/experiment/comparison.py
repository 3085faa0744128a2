"""Many runs as one comparison: every finished run is kept, stages are shared, an interrupted
comparison goes on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from qstrategies.arguments import public
from qstrategies.errors import InputError
from qstrategies.experiment.checkpoint import is_trained
from qstrategies.experiment.computing import compute, resources_of, scheduler_for
from qstrategies.experiment.dependencies import Inputs, changed
from qstrategies.experiment.fit import notes
from qstrategies.experiment.tasks import tasks_of
from qstrategies.experiment.workspace import Workspace, check_config
from qstrategies.files import (
    RUNS_FOLDER,
    check_folder,
    doing,
    exclusive,
    exists,
    read_bytes,
    sha256,
)
from qstrategies.records import RECORD, ExperimentConfig, RunRecord, Widths, read_record
from qstrategies.records.predictions import Predictions
from qstrategies.schedulers.base import Outcome
from qstrategies.strategies import STRATEGIES

DEFAULT_STRATEGIES = (
    "no_norm",
    "clamp",
    "weight_norm",
    "finetune",
    "qat",
    "qat_scratch",
    "qat_weight_norm",
    "qat_clamp",
)
FROM_A_TRAINED_MODEL = ("no_norm", "cle+mse_clip+adaround", "finetune", "qat")
DEFAULT_BITS = (8, 4, 3, 2)


def default_strategies(base: ExperimentConfig) -> Sequence[str]:
    """What is compared where nothing is named."""
    return FROM_A_TRAINED_MODEL if is_trained(base) else DEFAULT_STRATEGIES


@public
def plan(
    base: ExperimentConfig,
    strategies: Sequence[str],
    bits: Sequence[int],
    seeds: Iterable[int],
    *,
    activation_bits: Sequence[int] = (),
    draws: int = 1,
) -> list[ExperimentConfig]:
    """One configuration per seed, strategy, bit widths of weights and of activations (default:
    those of ``base``) and draw of calibration images, checked; every runtime at the largest widths
    of the first draw only.

    Strategies that train with fake quantizers take the first draw only: what they export does not
    depend on it.

    Options of ``base`` go to the strategies that have them. Raises ``InputError`` for unknown names
    and options.
    """
    known = {name for strategy in strategies for name in STRATEGIES.get(strategy).options}
    for name in base.options:
        if name not in known:
            raise InputError(
                f"none of {', '.join(strategies)} has the option {name!r}. Valid: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
    activations = activation_bits or (base.quantization.activation_bits,)
    widths = [Widths(*pair) for pair in itertools.product(bits, activations)]
    configs = []
    for seed in seeds:
        for strategy in strategies:
            options = {
                name: value
                for name, value in base.options.items()
                if name in STRATEGIES.get(strategy).options
            }
            trained = STRATEGIES.get(strategy).course.fake_quantized
            for width, draw in itertools.product(widths, range(1 if trained else draws)):
                quantization = dataclasses.replace(
                    base.quantization, weight_bits=width.weights, activation_bits=width.activations
                )
                configs.append(
                    dataclasses.replace(
                        base,
                        strategy=strategy,
                        options=options,
                        seed=seed,
                        calibration_draw=base.calibration_draw + draw,
                        checks="full" if (width, draw) == (max(widths), 0) else "quick",
                        quantization=quantization,
                    )
                )
                check_config(configs[-1])
    return configs


@public
def run_all(
    configs: Sequence[ExperimentConfig],
    workspace: Workspace,
    *,
    scheduler: str = "in_process",
    jobs: int = 1,
    threads: int | None = None,
) -> list[RunRecord]:
    """The records of ``configs``, in order; those that lie in the workspace's folder already are
    read, not run again.

    A run that is damaged there, or whose data, code, initial weights or packages changed since, is
    run again, and the progress display says why. One that fails does not stop the others: its
    record says why.

    Args:
        scheduler: what computes the stages, by name; several ``jobs`` in this process are
            "processes".
        jobs: how many stages at a time.
        threads: of each (default: as many as cores are left to it); in this process they are those
            of torch.

    Raises:
        InputError: another process writes to the same folder; all runs are refused alike.
    """
    chosen = scheduler_for(scheduler, jobs)
    resources = resources_of(chosen, jobs, threads, workspace.folder)
    with exclusive(workspace.folder):
        finished = finished_runs(configs, workspace)
        missing = {each.run_id: each for each in configs if each.run_id not in finished}
        for name in dict.fromkeys(each.dataset for each in missing.values()):
            _ = workspace.dataset(name).splits  # what is wrong with data is said at once
        said = [notes(each, workspace.dataset(each.dataset)) for each in missing.values()]
        for note in dict.fromkeys(itertools.chain.from_iterable(said)):
            workspace.progress.note(note)
        outcomes = compute(tasks_of(missing.values()), workspace, chosen, resources)
        _raise_if_all_are_refused([outcomes[name] for name in missing])
        for name in missing:
            finished[name] = read_record(workspace.folder / name / RECORD)
        return [finished[config.run_id] for config in configs]


def _raise_if_all_are_refused(outcomes: Sequence[Outcome]) -> None:
    if outcomes and all(outcome.refused for outcome in outcomes):
        raise InputError(str(outcomes[0].reason))


def finished_runs(
    configs: Sequence[ExperimentConfig], workspace: Workspace
) -> dict[str, RunRecord]:
    """The records of the finished ``configs``, by run; why others are not is said once for all that
    have the reason."""
    inputs = Inputs(workspace.dataset)
    found: dict[str, RunRecord] = {}
    reasons: dict[str, list[str]] = {}
    for config in configs:
        if not exists(workspace.folder / config.run_id / RECORD):
            continue
        try:
            found[config.run_id] = finished_record(workspace.folder, config, inputs)
        except InputError as error:
            reasons.setdefault(str(error), []).append(config.run_id)
    for reason, runs in reasons.items():
        others = f" and {len(runs) - 1} more" if runs[1:] else ""
        workspace.progress.note(f"run again: {runs[0]}{others} ({reason})")
    return found


def finished_record(folder: Path, config: ExperimentConfig, inputs: Inputs) -> RunRecord:
    """The record of ``config`` in ``folder``, whose predictions and files are whole and whose
    inputs are what they were.

    Raises ``InputError`` that says what is not so.
    """
    run = folder / config.run_id
    record = read_record(run / RECORD)
    if record.config != config:
        raise InputError("it is the record of another configuration")
    reason = changed(record.inputs, inputs.of_run(config))
    if reason is not None:
        raise InputError(reason)
    if record.traceback is not None:
        raise InputError(f"it had failed: {record.reason}")
    if record.status == "done":
        Predictions.of(record, run)
    for name, digest in record.files.items():
        if sha256(read_bytes(run / name)) != digest:
            raise InputError(f"{str(run / name)!r} is not as it was written")
    return record


def read_records(folder: Path) -> list[RunRecord]:
    """All records in ``folder``, by strategy, bits and seed.

    Raises ``InputError`` if there are none, one or its predictions are damaged, or two are of the
    same run.
    """
    check_folder(folder, *RUNS_FOLDER)
    with doing("look through", folder):
        paths = sorted(folder.glob(RUNS_FOLDER[0]))
    records = []
    places: dict[str, Path] = {}
    for path in paths:
        record = read_record(path)
        other = places.setdefault(record.config.run_id, path)
        if other != path:
            raise InputError(
                f"{str(other)!r} and {str(path)!r} are records of the same run: remove one"
            )
        if record.status == "done":
            Predictions.of(record, folder / record.config.run_id)
        records.append(record)
    order = {name: index for index, name in enumerate(DEFAULT_STRATEGIES)}
    return sorted(
        records,
        key=lambda record: (
            order.get(record.config.strategy, len(order)),
            record.config.strategy,
            *(-width for width in record.config.quantization.widths),
            record.config.seed,
            record.config.calibration_draw,
        ),
    )
