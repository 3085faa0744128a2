"""The commands that run experiments and report on them: run, compare, report."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qstrategies.cli.computing import scheduling_of, take_worker_threads
from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show, show_json
from qstrategies.cli.settings import (
    add_advice,
    add_experiment,
    configuration,
    margin_and_constraints,
)
from qstrategies.cli.values import folder, whole
from qstrategies.errors import InputError, check_range
from qstrategies.files import RUN_FOLDER, RUNS_FOLDER, check_folder
from qstrategies.records import MARGIN, ExperimentConfig, Widths

if TYPE_CHECKING:
    from qstrategies.evidence import Constraints
    from qstrategies.records import RunRecord


def add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "strategy", metavar="STRATEGY", nargs="?", help="a name from `qstrategies list`"
    )
    sub.add_argument("--weight-bits", type=whole(), default=8, help="8...2 (default: 8)")
    sub.add_argument("--activation-bits", type=whole(), default=8, help=f"8...2 (default: 8){ENDS}")
    sub.add_argument(
        "--calibration-draw",
        type=whole(),
        default=0,
        help="which draw of calibration images for the seed (default: 0)",
    )
    add_experiment(sub)


ENDS = "; pixels and logits keep 8"


def add_compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "strategies",
        metavar="STRATEGY",
        nargs="*",
        help="names from `qstrategies list` (default: several)",
    )
    sub.add_argument(
        "--bits", default="8,4,3,2", help="weight bit widths, comma-separated (default: 8,4,3,2)"
    )
    sub.add_argument(
        "--seeds",
        type=whole(),
        default=1,
        help="number of seeds, from --seed on; 5 says which differences are real",
    )
    sub.add_argument(
        "--activation-bits",
        default="8",
        help=f"activation bit widths, comma-separated (default: 8){ENDS}",
    )
    sub.add_argument(
        "--calibration-draws",
        type=whole(),
        default=1,
        help="draws of calibration images per seed, for post-training strategies (default: 1)",
    )
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="compute nothing: list the runs, what of them is kept in --out, and how long the rest "
        "takes by what was measured there",
    )
    add_experiment(sub)
    add_advice(sub)


def run(options: argparse.Namespace) -> int:
    if options.strategy is None:
        raise InputError("the following arguments are required: STRATEGY (see `qstrategies list`)")
    widths = Widths(options.weight_bits, options.activation_bits)
    base = configuration(options, options.strategy, widths)
    configs = _plan(base, [options.strategy], [widths.weights], [base.seed])
    return _conclude(_run_all(options, configs), options)


def compare(options: argparse.Namespace) -> int:
    check_range("number of seeds", options.seeds, 1, 1000)
    check_range("number of calibration draws", options.calibration_draws, 1, 1000)
    bits = _whole_numbers("--bits", options.bits)
    activations = _whole_numbers("--activation-bits", options.activation_bits)
    base = configuration(options, "no_norm", Widths(bits[0], activations[0]))
    advice = margin_and_constraints(options)
    configs = _plan(
        base,
        options.strategies,
        bits,
        range(base.seed, base.seed + options.seeds),
        activation_bits=activations,
        draws=options.calibration_draws,
    )
    if options.dry_run:
        return _foretell(options, configs)
    return _conclude(_run_all(options, configs), options, *advice)


def _whole_numbers(flag: str, texts: str) -> list[int]:
    """Those in ``texts``, the largest first."""
    try:
        return sorted({int(text) for text in texts.split(",")}, reverse=True)
    except ValueError:
        raise InputError(f"{flag} {texts!r}: expected whole numbers, as 8,4,3,2") from None


def _plan(
    base: ExperimentConfig,
    strategies: Sequence[str],
    bits: Sequence[int],
    seeds: Sequence[int],
    **axes: Any,
) -> list[ExperimentConfig]:
    from qstrategies.experiment.comparison import default_strategies, plan

    return plan(base, strategies or default_strategies(base), bits, seeds, **axes)


def _run_all(options: argparse.Namespace, configs: Sequence[ExperimentConfig]) -> list[RunRecord]:
    from qstrategies.experiment.comparison import run_all
    from qstrategies.experiment.workspace import Workspace
    from qstrategies.progress import Progress
    from qstrategies.trackers import open_tracker
    from qstrategies.training.hardware import keep_freed_memory

    keep_freed_memory()
    scheduling = scheduling_of(options)
    progress = Progress(quiet=options.quiet)
    trackers = [open_tracker(name, options.out) for name in dict.fromkeys(options.track)]
    workspace = Workspace(options.out, location(options), progress, trackers)
    try:
        return run_all(configs, workspace, **scheduling)
    finally:
        progress.close()


def _foretell(options: argparse.Namespace, configs: Sequence[ExperimentConfig]) -> int:
    """Say what ``_run_all`` would do."""
    from qstrategies.experiment.forecast import forecast
    from qstrategies.experiment.workspace import Workspace
    from qstrategies.progress import Progress

    take_worker_threads(options)
    progress = Progress(quiet=options.quiet)
    found = forecast(configs, Workspace(options.out, location(options), progress))
    if options.json:
        show_json(dataclasses.asdict(found))
        return 0
    for title, pieces in (("runs", found.runs), ("trainings", found.trainings)):
        kept = sum(piece.kept for piece in pieces)
        show(f"{title}: {kept} of {len(pieces)} are kept")
        for piece in pieces:
            show(f"  {'kept ' if piece.kept else 'to do'}  {piece.name}")
    if not all(piece.kept for piece in found.runs):
        unknown = f"unknown: no such run was measured in {options.out}"
        show(f"time for the rest, one stage at a time: {found.expected or unknown}")
    return 0


def _conclude(
    records: Sequence[RunRecord],
    options: argparse.Namespace,
    margin: float = MARGIN,
    constraints: Constraints | None = None,
) -> int:
    from qstrategies.evidence import conclude
    from qstrategies.report import write

    conclusion = conclude(records, options.out, margin, constraints)
    written = write.write_report(records, options.out, *conclusion)
    if options.json:
        show_json(write.as_data(records, *conclusion))
        return 0
    everything = getattr(options, "all", False)
    show(write.as_text(records, options.out, *conclusion, everything=everything))
    show(f"Written: {', '.join(map(str, written))}")
    show(f"Models: {options.out}/*/model.onnx (portable) and model.fast.onnx (for ONNX Runtime)")
    return 0


def add_report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "out", metavar="RUNS", type=folder, help="the folder that run or compare wrote"
    )
    add_advice(sub)
    sub.add_argument("--json", action="store_true", help="print JSON instead of the table")


def report(options: argparse.Namespace) -> int:
    advice = margin_and_constraints(options)
    check_folder(options.out, *RUNS_FOLDER)
    from qstrategies.experiment.comparison import read_records

    return _conclude(read_records(options.out), options, *advice)


def add_diagnose(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "run", metavar="RUN", type=folder, help="the folder of one run, as runs/no_norm-w4-..."
    )
    sub.add_argument(
        "--images",
        type=whole(2, 10**9),
        help="validation images to measure on (default: 1000, or all of fewer)",
    )
    add_location(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")


def diagnose(options: argparse.Namespace) -> int:
    check_folder(options.run, *RUN_FOLDER)
    from qstrategies.diagnosis.run import diagnose_run
    from qstrategies.report.runs import keep_diagnosis

    found = diagnose_run(options.run, location(options), options.images)
    keep_diagnosis(options.run, found.to_json())
    show(found.to_json() if options.json else found)
    return 0
