"""The command line: thin, with heavy imports inside the commands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qstrategies import __version__
from qstrategies.errors import InputError, check_choice, check_range, unknown
from qstrategies.records import (
    ENGINES,
    OBSERVERS,
    OPTIMIZERS,
    PIXELS,
    PRESETS,
    SCHEDULES,
    ExperimentConfig,
    QuantizationConfig,
    TrainingConfig,
)
from qstrategies.sandbox import run_limited

if TYPE_CHECKING:
    from qstrategies.datasets.base import Location
    from qstrategies.records import RunRecord

DESCRIPTION = """\
Compare quantization strategies by what they do to the int8 model, and export int8 ONNX files that give the same bits
in every runtime.

  qstrategies compare                          all strategies on MNIST at 8, 4, 3 and 2 weight bits (minutes)
  qstrategies run qat --weight-bits 4          one strategy
  qstrategies verify runs/.../model.onnx       check a file in every installed runtime
  qstrategies certify runs/.../model.onnx      prove from the file what every executor must compute
  qstrategies predict runs/.../model.onnx 7.png
"""


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


CPU_SECONDS = {"verify": 3600, "certify": 120, "predict": 120}
"""What the commands that read a file from anywhere get; they run in a process of their own."""


def main(arguments: Sequence[str] | None = None, *, limited: bool = False) -> int:
    """Run one command; returns the exit code: 0, 1 (verify or certify says no), 2 (bad input), 130 (interrupted).

    ``limited``: this is the process of its own.
    """
    return guarded(lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments), limited))


def _dispatch(given: list[str], limited: bool) -> int:
    if given and not given[0].startswith("-"):
        check_choice("command", given[0], COMMANDS)
    options = parser().parse_args(given)
    if not limited:
        seconds = CPU_SECONDS.get(given[0])
        return options.command(options) if seconds is None else run_limited(given, options.file, seconds)
    try:
        return options.command(options)
    except (InputError, OSError):
        raise
    except Exception as error:  # runtimes raise many unrelated types for a graph that passes all checks and cannot run
        reason = str(error).strip().splitlines() or ["no message"]
        raise InputError(f"{str(options.file)!r} cannot be run: {type(error).__name__}: {reason[0]}") from None


def guarded(action: Callable[[], int]) -> int:
    """The exit code of ``action``, with a user's mistake, a full disk or Ctrl-C as one line instead of a traceback."""
    try:
        return action()
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        where = f": {str(error.filename)!r}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        print("\nqstrategies: interrupted; finished runs are kept, the same command goes on from there", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"qstrategies: error: {message}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(prog="qstrategies", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"qstrategies {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, (add, command, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add(sub)
        sub.set_defaults(command=command)
    return top


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("strategy", metavar="STRATEGY", help="a name from `qstrategies list`")
    sub.add_argument("--weight-bits", type=int, default=8, help="8...2 (default: 8)")
    _add_experiment(sub)


def _add_compare(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("strategies", metavar="STRATEGY", nargs="*", help="names from `qstrategies list` (default: all)")
    sub.add_argument("--bits", default="8,4,3,2", help="weight bit widths, comma-separated (default: 8,4,3,2)")
    sub.add_argument("--seeds", type=int, default=1, help="number of seeds, from --seed on; the table gives mean and spread")
    _add_experiment(sub)


def _add_experiment(sub: argparse.ArgumentParser) -> None:
    train = sub.add_argument_group("training (defaults come from the preset)")
    train.add_argument("--preset", default="default", help=f"{', '.join(PRESETS)}; post: 15 epochs, Adam 1e-3, batch 64")
    train.add_argument("--epochs", type=int, help="epochs of the float training, and of QAT from scratch")
    train.add_argument("--learning-rate", type=float, help="peak learning rate")
    train.add_argument("--optimizer", help=", ".join(OPTIMIZERS))
    train.add_argument("--schedule", help=", ".join(SCHEDULES))
    train.add_argument("--batch-size", type=int, help="images per step")
    train.add_argument("--tune-epochs", type=int, help="epochs that finetune and the QAT strategies add to the float model")
    train.add_argument("--tune-learning-rate", type=float, help="peak learning rate of those")
    train.add_argument("--seed", type=int, default=0, help="of weights, batches and calibration images (default: 0)")
    train.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the strategy, as clamp's threshold=0.1"
    )
    quantize = sub.add_argument_group("quantization")
    quantize.add_argument("--per-tensor", action="store_true", help="one weight scale per layer instead of one per output channel")
    quantize.add_argument("--observer", help=f"{', '.join(OBSERVERS)} (default: min_max for PTQ, moving_average for QAT)")
    quantize.add_argument("--reduce-range", action="store_true", help="7-bit activations")
    quantize.add_argument("--free-scales", action="store_true", help="any scale, instead of those that give the same bits everywhere")
    quantize.add_argument("--engine", default="x86", help=f"int8 kernels of PyTorch: {', '.join(ENGINES)} (default: x86)")
    quantize.add_argument("--calibration-images", type=int, default=1024, help="training images that set activation ranges (default: 1024)")
    quantize.add_argument("--pixels", default="uint8", help=f"input of the ONNX file: {', '.join(PIXELS)} (default: uint8)")
    data = sub.add_argument_group("data and output")
    data.add_argument("--model", default="cnn", help="a model from `qstrategies list` (default: cnn)")
    data.add_argument("--dataset", default="mnist", help="a dataset from `qstrategies list` (default: mnist)")
    _add_location(data)
    data.add_argument("--out", type=Path, default=Path("runs"), help="folder of records, models and figures (default: runs)")
    data.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    data.add_argument("--quiet", action="store_true", help="no progress")


def _add_location(group: Any) -> None:
    group.add_argument("--data-dir", type=Path, help="folder with a dataset's IDX files (plain, .gz or .xz)")
    group.add_argument("--cache-dir", type=Path, help="where data is unpacked (default: $QSTRATEGIES_CACHE or ~/.cache/qstrategies)")
    group.add_argument("--download", action="store_true", help="let torchvision download a dataset that is not here")


def _location(options: argparse.Namespace) -> Location:
    from qstrategies.datasets.base import Location

    return Location(options.cache_dir, options.data_dir, options.download)


def _config(options: argparse.Namespace, strategy: str, weight_bits: int) -> ExperimentConfig:
    check_choice("preset", options.preset, PRESETS)
    preset = PRESETS[options.preset]
    common = {name: value for name in ("optimizer", "schedule", "batch_size") if (value := getattr(options, name)) is not None}
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
            engine=options.engine,
            calibration_images=options.calibration_images,
        ),
        seed=options.seed,
        pixels=options.pixels,
    )


def _override(config: TrainingConfig, common: dict[str, Any], epochs: int | None, rate: float | None) -> TrainingConfig:
    own = {name: value for name, value in (("epochs", epochs), ("learning_rate", rate)) if value is not None}
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


def _run(options: argparse.Namespace) -> int:
    base = _config(options, options.strategy, options.weight_bits)
    return _execute(options, base, [options.strategy], [options.weight_bits], 1)


def _compare(options: argparse.Namespace) -> int:
    check_range("number of seeds", options.seeds, 1, 1000)
    bits = sorted({_whole_number(text) for text in options.bits.split(",")}, reverse=True)
    base = _config(options, "no_norm", bits[0])
    return _execute(options, base, options.strategies, bits, options.seeds)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--bits {text!r}: expected whole numbers, as 8,4,3,2") from None


def _execute(options: argparse.Namespace, base: ExperimentConfig, strategies: Sequence[str], bits: Sequence[int], seeds: int) -> int:
    from qstrategies.comparison import DEFAULT_STRATEGIES, plan, run_all
    from qstrategies.pipeline import Workspace
    from qstrategies.progress import Progress

    configs = plan(base, list(strategies) or DEFAULT_STRATEGIES, bits, range(base.seed, base.seed + seeds))
    progress = Progress(0, quiet=options.quiet)
    workspace = Workspace(options.out, _location(options), progress)
    try:
        records = run_all(configs, workspace)
    finally:
        progress.close()
    return _conclude(records, options.out, options.json)


def _conclude(records: Sequence[RunRecord], folder: Path, as_json: bool) -> int:
    from qstrategies.report import table
    from qstrategies.report.write import write_report

    written = write_report(records, folder)
    rows = table.summarise(records)
    if as_json:
        print(table.as_json(rows), end="")
        return 0
    print(f"{table.as_text(rows)}\n\n{table.NOTES}\n")
    print(f"Written: {', '.join(map(str, written))}")
    print(f"Models: {folder}/*/model.onnx (portable) and model.fast.onnx (for ONNX Runtime)")
    return 0


def _add_list(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON")


def _list(options: argparse.Namespace) -> int:
    from qstrategies.datasets import DATASETS
    from qstrategies.models import MODELS
    from qstrategies.runtimes import RUNTIMES
    from qstrategies.strategies import STRATEGIES

    listing: dict[str, list[dict[str, str]]] = {
        "strategies": [_describe(name, STRATEGIES.get(name)) for name in STRATEGIES.names()],
        "models": [_describe(name, MODELS.get(name)) for name in MODELS.names()],
        "datasets": [_describe(name, DATASETS.get(name)) for name in DATASETS.names()],
        "runtimes": [_describe(name, RUNTIMES.get(name)) for name in RUNTIMES.names()],
    }
    if options.json:
        print(json.dumps(listing, indent=1))
        return 0
    for kind, items in listing.items():
        print(f"{kind}:")
        for item in items:
            print(f"  {item['name']:<22} {item['summary']}" + (f"  {item['paper']}" if item.get("paper") else ""))
            if item.get("options"):
                print(f"  {'':<22} options: {item['options']}")
    return 0


def _describe(name: str, item: Any) -> dict[str, str]:
    options = ", ".join(f"{key}={option.default:g} ({option.help})" for key, option in getattr(item, "options", {}).items())
    summary = getattr(item, "summary", None) or (item.__doc__ or "").strip().splitlines()[0]
    return {"name": name, "summary": summary, "paper": getattr(item, "paper", ""), "options": options}


def _add_verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE.onnx", type=Path, help="a file that this package exported")
    sub.add_argument("--runtime", action="append", help="only this runtime (may be repeated; default: all)")
    _add_location(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")


def _verify(options: argparse.Namespace) -> int:
    from qstrategies.verify import report_text, verify

    report = verify(options.file, _location(options), options.runtime)
    print(json.dumps(report, indent=1) if options.json else report_text(report))
    return 0 if report["verdict"] == "same" and report["unchanged"] is not False else 1


def _add_certify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE.onnx", type=Path, help="an int8 ONNX file (QDQ) of this package or another tool")
    sub.add_argument("--json", action="store_true", help="print JSON: every figure of every output channel")
    sub.epilog = "Exit code: 0 if all three guarantees hold, 1 if not (the text names the nodes and why), 2 for a file that cannot be read."


def _certify(options: argparse.Namespace) -> int:
    from qstrategies.certificate import certify_model
    from qstrategies.onnx_file import INTEGRITY, load_checked, unchanged

    model = load_checked(options.file)
    certificate, as_exported = certify_model(model), unchanged(model)
    if options.json:
        print(json.dumps({"file": str(options.file), "unchanged": as_exported, **certificate.as_dict}, indent=1))
    else:
        print(f"{options.file}: {INTEGRITY[as_exported]}\n{certificate.as_text()}")
    return 0 if certificate.complete else 1


def _add_predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", metavar="FILE.onnx", type=Path, help="a file that this package exported")
    sub.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="any image that Pillow reads")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _predict(options: argparse.Namespace) -> int:
    from qstrategies.onnx_file import INTEGRITY, load_checked, unchanged
    from qstrategies.predict import predict

    results = predict(options.file, options.images)
    if unchanged(load_checked(options.file)) is False:
        print(f"qstrategies: warning: {options.file}: {INTEGRITY[False]}", file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for result in results:
            print(
                f"{result['image']}: {result['label']}  (logit {result['logit']:g}, next {result['runner_up']} {result['margin']:g} below)"
            )
    return 0


def _add_report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("runs", metavar="RUNS", type=Path, help="the folder that run or compare wrote")
    sub.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _report(options: argparse.Namespace) -> int:
    from qstrategies.comparison import read_records

    return _conclude(read_records(options.runs), options.runs, options.json)


def _add_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("action", metavar="show", help="show: class counts as text and a sample grid as a picture")
    sub.add_argument("--dataset", default="mnist", help="a dataset from `qstrategies list` (default: mnist)")
    sub.add_argument("--out", type=Path, default=Path("runs"), help="folder of the picture (default: runs)")
    _add_location(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")


def _data(options: argparse.Namespace) -> int:
    from qstrategies.datasets import DATASETS
    from qstrategies.datasets.show import show

    if options.action != "show":
        raise unknown("action of data", options.action, ["show"])
    text, counts = show(DATASETS.get(options.dataset)(_location(options)), options.out)
    print(json.dumps(counts, indent=1) if options.json else text)
    return 0


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]] = {
    "run": (_add_run, _run, "train, quantize, export and cross-check one strategy"),
    "compare": (_add_compare, _compare, "run several strategies at several bit widths and write the summary"),
    "list": (_add_list, _list, "name the strategies, models, datasets and runtimes"),
    "verify": (_add_verify, _verify, "run an exported file in every installed runtime and compare bit for bit"),
    "certify": (_add_certify, _certify, "prove from an ONNX file alone what every executor must compute"),
    "predict": (_add_predict, _predict, "classify images with an exported file"),
    "report": (_add_report, _report, "write table and figures again from the records of earlier runs"),
    "data": (_add_data, _data, "look at a dataset"),
}
