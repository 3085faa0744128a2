"""The options of experiments, and the configuration and constraints that they make."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstrategies.cli.computing import add_scheduling
from qstrategies.cli.config_file import add_config
from qstrategies.cli.location import add_location
from qstrategies.cli.values import file, folder, number, whole
from qstrategies.errors import InputError, check_choice
from qstrategies.records import (
    ENGINES,
    FORMS,
    LEVELS,
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
    Widths,
)
from qstrategies.records.configs import CALIBRATION_IMAGES

if TYPE_CHECKING:
    from qstrategies.evidence import Constraints


def add_experiment(sub: argparse.ArgumentParser) -> None:
    """What one run or several are made with."""
    add_config(sub)
    _add_training(sub)
    _add_quantization(sub)
    _add_data(sub)
    add_scheduling(sub)


def _add_training(sub: argparse.ArgumentParser) -> None:
    train = sub.add_argument_group("training (defaults come from the preset)")
    train.add_argument(
        "--preset",
        default="default",
        help=f"{', '.join(PRESETS)}; post: 15 epochs, Adam 1e-3, batch 64; "
        "speech: 20 epochs, batch 64, for spoken_digits",
    )
    train.add_argument(
        "--epochs", type=whole(), help="epochs of the float training, and of QAT from scratch"
    )
    train.add_argument("--learning-rate", type=number(), help="peak learning rate")
    train.add_argument("--optimizer", help=", ".join(OPTIMIZERS))
    train.add_argument("--schedule", help=", ".join(SCHEDULES))
    train.add_argument("--batch-size", type=whole(), help="images per step")
    train.add_argument(
        "--tune-epochs",
        type=whole(),
        help="epochs that finetune and the QAT strategies add to the float model",
    )
    train.add_argument("--tune-learning-rate", type=number(), help="peak learning rate of those")
    train.add_argument(
        "--seed",
        type=whole(),
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


def _add_quantization(sub: argparse.ArgumentParser) -> None:
    quantize = sub.add_argument_group("quantization")
    quantize.add_argument(
        "--levels",
        default="narrow",
        help=f"integers of the weights: {', '.join(LEVELS)} (default: narrow, which is symmetric; "
        "full: one more below zero; no_zero: odd integers, at most 7 bits)",
    )
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
        "--fixed-point",
        action="store_true",
        help="the same bits in fixed-point kernels too, as those of microcontrollers: weights of "
        "at most 7 bits, without ties",
    )
    quantize.add_argument(
        "--engine",
        default="x86",
        help=f"int8 kernels of PyTorch: {', '.join(ENGINES)} (default: x86)",
    )
    quantize.add_argument(
        "--calibration-images",
        type=whole(),
        default=CALIBRATION_IMAGES,
        help=f"training images that set activation ranges (default: {CALIBRATION_IMAGES}, or all)",
    )
    quantize.add_argument(
        "--pixels",
        default="uint8",
        help=f"input of the ONNX file: {', '.join(PIXELS)} (default: uint8)",
    )
    quantize.add_argument(
        "--form",
        action="append",
        default=[],
        help=f"write this file too: {', '.join(FORMS)} (may be repeated)",
    )


def _add_data(sub: argparse.ArgumentParser) -> None:
    data = sub.add_argument_group("data and output")
    data.add_argument(
        "--model",
        default="cnn",
        help="a model from `qstrategies list` (default: cnn), or a float ONNX file",
    )
    data.add_argument(
        "--checkpoint",
        type=file,
        metavar="FILE.safetensors",
        help="weights of the model, trained already: strategies start from them, and nothing is "
        "trained in float",
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


def add_advice(sub: argparse.ArgumentParser) -> None:
    """What the recommendation is made under."""
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
    advice.add_argument(
        "--all", action="store_true", help="show all of many strategies, not the leaders only"
    )
    advice.add_argument("--size", type=number(1e-3, 1e9), metavar="KB", help="largest ONNX file")


def margin_and_constraints(options: argparse.Namespace) -> tuple[float, Constraints]:
    """The margin as a fraction, and the constraints."""
    from qstrategies.evidence import Constraints

    return options.margin / 100, Constraints(
        drop=None if options.max_drop is None else options.max_drop / 100,
        microseconds=options.max_latency,
        epochs=options.max_epochs,
        size=None if options.size is None else options.size * 1000,
    )


def configuration(options: argparse.Namespace, strategy: str, widths: Widths) -> ExperimentConfig:
    """The experiment that ``options`` describe. Raises ``InputError`` for an unknown preset."""
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
        checkpoint=options.checkpoint,
        dataset=options.dataset,
        training=_override(preset["training"], common, options.epochs, options.learning_rate),
        tuning=_override(preset["tuning"], common, options.tune_epochs, options.tune_learning_rate),
        quantization=QuantizationConfig(
            weight_bits=widths.weights,
            activation_bits=widths.activations,
            levels=options.levels,
            per_channel=not options.per_tensor,
            observer=options.observer,
            reduce_range=options.reduce_range,
            exact=not options.free_scales,
            saturation=options.saturation,
            fixed_point=options.fixed_point,
            engine=options.engine,
            calibration_images=options.calibration_images,
        ),
        seed=options.seed,
        calibration_draw=getattr(options, "calibration_draw", 0),
        pixels=options.pixels,
        forms=tuple(dict.fromkeys(options.form)),
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
