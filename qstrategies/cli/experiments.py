"""The commands that run experiments and report on them: run, compare, report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstrategies.cli.location import add_location, location
from qstrategies.cli.output import show, show_json
from qstrategies.cli.values import folder, number, whole
from qstrategies.errors import InputError, check_choice, check_range
from qstrategies.files import RUN_FOLDER, RUNS_FOLDER, check_folder
from qstrategies.records import (
    ENGINES,
    MARGIN,
    OBSERVERS,
    OPTIMIZERS,
    PIXELS,
    PRESETS,
    SATURATIONS,
    SCHEDULES,
    ExperimentConfig,
    QuantizationConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from qstrategies.evidence import Constraints
    from qstrategies.records import RunRecord


def add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("strategy", metavar="STRATEGY", help="a name from `qstrategies list`")
    sub.add_argument("--weight-bits", type=int, default=8, help="8...2 (default: 8)")
    _add_experiment(sub)


def add_compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "strategies",
        metavar="STRATEGY",
        nargs="*",
        help="names from `qstrategies list` (default: all)",
    )
    sub.add_argument(
        "--bits", default="8,4,3,2", help="weight bit widths, comma-separated (default: 8,4,3,2)"
    )
    sub.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="number of seeds, from --seed on; 5 says which differences are real",
    )
    _add_experiment(sub)
    _add_advice(sub)


def _add_experiment(sub: argparse.ArgumentParser) -> None:
    train = sub.add_argument_group("training (defaults come from the preset)")
    train.add_argument(
        "--preset",
        default="default",
        help=f"{', '.join(PRESETS)}; post: 15 epochs, Adam 1e-3, batch 64",
    )
    train.add_argument(
        "--epochs", type=int, help="epochs of the float training, and of QAT from scratch"
    )
    train.add_argument("--learning-rate", type=float, help="peak learning rate")
    train.add_argument("--optimizer", help=", ".join(OPTIMIZERS))
    train.add_argument("--schedule", help=", ".join(SCHEDULES))
    train.add_argument("--batch-size", type=int, help="images per step")
    train.add_argument(
        "--tune-epochs",
        type=int,
        help="epochs that finetune and the QAT strategies add to the float model",
    )
    train.add_argument("--tune-learning-rate", type=float, help="peak learning rate of those")
    train.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of weights, batches and calibration images (default: 0)",
    )
    train.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the strategy, as clamp's threshold=0.1",
    )
    quantize = sub.add_argument_group("quantization")
    quantize.add_argument(
        "--per-tensor",
        action="store_true",
        help="one weight scale per layer instead of one per output channel",
    )
    quantize.add_argument(
        "--observer",
        help=f"{', '.join(OBSERVERS)} (default: histogram for PTQ, min_max with free scales, "
        "moving_average for QAT)",
    )
    quantize.add_argument("--reduce-range", action="store_true", help="7-bit activations")
    quantize.add_argument(
        "--free-scales",
        action="store_true",
        help="any scale, instead of those that give the same bits everywhere",
    )
    quantize.add_argument(
        "--saturation",
        default="any_kernel",
        help=f"CPUs that give the same bits: {', '.join(SATURATIONS)} (default: any_kernel, those "
        "with 16-bit sums of products too)",
    )
    quantize.add_argument(
        "--engine",
        default="x86",
        help=f"int8 kernels of PyTorch: {', '.join(ENGINES)} (default: x86)",
    )
    quantize.add_argument(
        "--calibration-images",
        type=int,
        default=1024,
        help="training images that set activation ranges (default: 1024)",
    )
    quantize.add_argument(
        "--pixels",
        default="uint8",
        help=f"input of the ONNX file: {', '.join(PIXELS)} (default: uint8)",
    )
    data = sub.add_argument_group("data and output")
    data.add_argument(
        "--model", default="cnn", help="a model from `qstrategies list` (default: cnn)"
    )
    data.add_argument(
        "--dataset", default="mnist", help="a dataset from `qstrategies list` (default: mnist)"
    )
    add_location(data)
    data.add_argument(
        "--out",
        type=folder,
        default=Path("runs"),
        help="folder of records, models and figures (default: runs)",
    )
    data.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="TOOL",
        help="send metrics while training: a tracker from `qstrategies list`",
    )
    data.add_argument(
        "--json", action="store_true", help="print the result as JSON on standard output"
    )
    data.add_argument("--quiet", action="store_true", help="no progress")


def _add_advice(sub: argparse.ArgumentParser) -> None:
    advice = sub.add_argument_group("evidence and recommendation (chosen on validation images)")
    advice.add_argument(
        "--margin",
        type=number(1e-3, 100),
        default=MARGIN * 100,
        help="points of accuracy that do not matter to you (default: 0.1)",
    )
    advice.add_argument(
        "--max-drop",
        type=number(0, 100),
        metavar="POINTS",
        help="largest drop against the float model of no_norm",
    )
    advice.add_argument(
        "--max-latency",
        type=number(1e-3, 1e9),
        metavar="US",
        help="most microseconds an image, batch 1 on one thread",
    )
    advice.add_argument(
        "--max-epochs", type=whole(1, 10**6), metavar="N", help="most epochs of training in all"
    )
    advice.add_argument("--size", type=number(1e-3, 1e9), metavar="KB", help="largest ONNX file")


def _advice(options: argparse.Namespace) -> tuple[float, Constraints]:
    """The margin as a fraction, and the constraints."""
    from qstrategies.evidence import Constraints

    return options.margin / 100, Constraints(
        drop=None if options.max_drop is None else options.max_drop / 100,
        microseconds=options.max_latency,
        epochs=options.max_epochs,
        size=None if options.size is None else options.size * 1000,
    )


def configuration(options: argparse.Namespace, strategy: str, weight_bits: int) -> ExperimentConfig:
    check_choice("preset", options.preset, PRESETS)
    preset = PRESETS[options.preset]
    common = {
        name: value
        for name in ("optimizer", "schedule", "batch_size")
        if (value := getattr(options, name)) is not None
    }
    return ExperimentConfig(
        strategy=strategy,
        options=_strategy_options(options.option),
        model=options.model,
        dataset=options.dataset,
        training=_override(preset["training"], common, options.epochs, options.learning_rate),
        tuning=_override(preset["tuning"], common, options.tune_epochs, options.tune_learning_rate),
        quantization=QuantizationConfig(
            weight_bits=weight_bits,
            per_channel=not options.per_tensor,
            observer=options.observer,
            reduce_range=options.reduce_range,
            exact=not options.free_scales,
            saturation=options.saturation,
            engine=options.engine,
            calibration_images=options.calibration_images,
        ),
        seed=options.seed,
        pixels=options.pixels,
    )


def _override(
    config: TrainingConfig, common: dict[str, Any], epochs: int | None, rate: float | None
) -> TrainingConfig:
    own = {
        name: value
        for name, value in (("epochs", epochs), ("learning_rate", rate))
        if value is not None
    }
    return TrainingConfig(**{**vars(config), **common, **own})


def _strategy_options(pairs: Sequence[str]) -> dict[str, float]:
    values = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise InputError(f"--option {pair!r}: expected NAME=NUMBER") from None
    return values


def run(options: argparse.Namespace) -> int:
    base = configuration(options, options.strategy, options.weight_bits)
    records = _run_all(options, base, [options.strategy], [options.weight_bits], 1)
    return _conclude(records, options)


def compare(options: argparse.Namespace) -> int:
    check_range("number of seeds", options.seeds, 1, 1000)
    bits = sorted({_whole_number(text) for text in options.bits.split(",")}, reverse=True)
    base = configuration(options, "no_norm", bits[0])
    advice = _advice(options)
    return _conclude(
        _run_all(options, base, options.strategies, bits, options.seeds), options, *advice
    )


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--bits {text!r}: expected whole numbers, as 8,4,3,2") from None


def _run_all(
    options: argparse.Namespace,
    base: ExperimentConfig,
    strategies: Sequence[str],
    bits: Sequence[int],
    seeds: int,
) -> list[RunRecord]:
    from qstrategies.experiment.comparison import DEFAULT_STRATEGIES, plan, run_all
    from qstrategies.experiment.workspace import Workspace
    from qstrategies.progress import Progress
    from qstrategies.trackers import open_tracker
    from qstrategies.training.hardware import keep_freed_memory

    keep_freed_memory()
    configs = plan(
        base, list(strategies) or DEFAULT_STRATEGIES, bits, range(base.seed, base.seed + seeds)
    )
    progress = Progress(0, quiet=options.quiet)
    trackers = [open_tracker(name, options.out) for name in dict.fromkeys(options.track)]
    workspace = Workspace(options.out, location(options), progress, trackers)
    try:
        return run_all(configs, workspace)
    finally:
        progress.close()


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
    show(write.as_text(records, options.out, *conclusion))
    show(f"Written: {', '.join(map(str, written))}")
    show(f"Models: {options.out}/*/model.onnx (portable) and model.fast.onnx (for ONNX Runtime)")
    return 0


def add_report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "out", metavar="RUNS", type=folder, help="the folder that run or compare wrote"
    )
    _add_advice(sub)
    sub.add_argument("--json", action="store_true", help="print JSON instead of the table")


def report(options: argparse.Namespace) -> int:
    advice = _advice(options)
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
        default=1000,
        help="validation images to measure on (default: 1000)",
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
