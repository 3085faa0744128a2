"""The command line: thin, with heavy imports inside the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from qstrategies import __version__
from qstrategies.cli import completion, computing, experiments, files, look
from qstrategies.cli.config_file import words_of
from qstrategies.cli.location import add_use, use
from qstrategies.cli.output import OUTPUT_CLOSED, flush, settle, warn
from qstrategies.errors import InputError, check_choice, unknown
from qstrategies.files import check_file
from qstrategies.sandbox import run_limited

DESCRIPTION = """\
Compare quantization strategies by what they do to the int8 model, and export int8 ONNX files that
give the same bits in every runtime.

  qstrategies compare                        all strategies on MNIST at 8, 4, 3 and 2 weight bits
  qstrategies compare --seeds 5              the same with five seeds: what is real, what to ship
  qstrategies run qat --weight-bits 4        one strategy
  qstrategies diagnose runs/no_norm-w2-...   where its loss comes from, and what to try next
  qstrategies verify runs/.../model.onnx     check a file in every installed runtime
  qstrategies certify runs/.../model.onnx    prove from the file what every executor must compute
  qstrategies predict runs/.../model.onnx 7.png
"""


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


CPU_SECONDS = {"verify": 3600, "certify": 120, "predict": 120}
"""What the commands that read a file from anywhere get; they run in a process of their own."""
ONLY_THE_FILE = ("certify", "predict")
"""Commands that ask nothing but the file that they are given."""


def main(arguments: Sequence[str] | None = None, *, limited: bool = False) -> int:
    """Run one command; returns the exit code: 0, 1 (verify or certify says no), 2 (bad input), 130
    (interrupted), 141 (nobody reads the output any more).

    ``limited``: this is the process of its own.
    """
    return guarded(
        lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments), limited)
    )


def _dispatch(given: list[str], limited: bool) -> int:
    _check_beginning(given)
    options = _parsed(given)
    if not limited:
        seconds = CPU_SECONDS.get(given[0])
        if seconds is None:
            use(options)
            return options.command(options)
        for path in subjects(options):
            check_file(path)
        return run_limited(given, subjects(options)[0], seconds)
    try:
        use(options)
        return options.command(options)
    except (InputError, OSError):
        raise
    # Runtimes raise many unrelated types for a graph that passes all checks and cannot run.
    except Exception as error:
        reason = str(error).strip().splitlines() or ["no message"]
        raise InputError(
            f"{str(subjects(options)[0])!r} cannot be run: {type(error).__name__}: {reason[0]}"
        ) from None


def _check_beginning(given: list[str]) -> None:
    """Raise ``InputError`` unless a command stands first, or what there is without one."""
    names = ", ".join(COMMANDS)
    if not given:
        raise InputError(f"expected a command: {names} (see qstrategies --help)")
    if not given[0].startswith("-"):
        check_choice("command", given[0], COMMANDS)
    elif given[0] not in ("-h", "--help", "--version"):
        raise InputError(f"{given[0]!r} stands before the command: give one of {names} first")


def _parsed(given: list[str]) -> argparse.Namespace:
    """The options in ``given``, and those of the file that it names."""
    top = parser()
    options = _all_known(top, given)
    path = getattr(options, "config", None)
    if path is None:
        return options
    command, *typed = given
    return _all_known(top, [command, *words_of(path, commands(top)[command], options), *typed])


def _all_known(top: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """What ``words`` say; raises ``InputError`` for one that the command does not take."""
    options, rest = top.parse_known_args(words)
    if not rest:
        return options
    flags = [flag for each in commands(top)[words[0]]._actions for flag in each.option_strings]
    if rest[0].startswith("-"):
        name = rest[0].partition("=")[0]
        if longer := [flag for flag in flags if flag.endswith(name.lstrip("-"))]:
            raise InputError(f"unknown option of {words[0]} {name!r}: give {' or '.join(longer)}")
        raise unknown(f"option of {words[0]}", name, flags)
    raise InputError(
        f"{words[0]} takes no further {rest[0]!r}: leave it out (see qstrategies {words[0]} --help)"
    )


def subjects(options: argparse.Namespace) -> list[Path]:
    """The files from anywhere that a command is to read."""
    files: list[Path] = options.files if hasattr(options, "files") else [options.file]
    return files


def guarded(action: Callable[[], int]) -> int:
    """The exit code of ``action``, with a user's mistake, a full disk or Ctrl-C as one line instead
    of a traceback.

    Where the reader of the output has gone, as after ``| head``, it ends without a word.
    """
    try:
        return _reported(action)
    except BrokenPipeError:
        return OUTPUT_CLOSED
    finally:
        settle()


def _reported(action: Callable[[], int]) -> int:
    try:
        return _flushed(action)
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not settle():
            return OUTPUT_CLOSED
        where = f": {str(error.filename)!r}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        warn("interrupted; finished runs are kept, the same command goes on from there")
        return 130


def _flushed(action: Callable[[], int]) -> int:
    try:
        return action()
    finally:
        flush()


def _fail(message: str) -> int:
    warn(f"error: {message}")
    return 2


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="qstrategies",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"qstrategies {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, (add, command, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        add(sub)
        if name not in ONLY_THE_FILE:
            add_use(sub)
        sub.set_defaults(command=command)
    return top


def commands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command of ``top``, by its name."""
    kind = argparse._SubParsersAction
    return next(dict(each.choices) for each in top._actions if isinstance(each, kind))


COMMANDS: dict[
    str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]
] = {
    "run": (
        experiments.add_run,
        experiments.run,
        "train, quantize, export and cross-check one strategy",
    ),
    "compare": (
        experiments.add_compare,
        experiments.compare,
        "run several strategies at several bit widths and write the summary",
    ),
    "work": (
        computing.add_work,
        computing.work,
        "compute stages of a comparison that others have begun in a shared folder",
    ),
    "report": (
        experiments.add_report,
        experiments.report,
        "write table and figures again from the records of earlier runs",
    ),
    "diagnose": (
        experiments.add_diagnose,
        experiments.diagnose,
        "say where a run's quantization loses, and what to try next",
    ),
    "list": (look.add_list, look.list_all, "name the strategies, models, datasets and runtimes"),
    "data": (look.add_data, look.data, "look at a dataset"),
    "verify": (
        files.add_verify,
        files.verify,
        "run an exported file in every installed runtime and compare bit for bit",
    ),
    "certify": (
        files.add_certify,
        files.certify,
        "prove from an ONNX file alone what every executor must compute",
    ),
    "predict": (files.add_predict, files.predict, "classify images with an exported file"),
    "completion": (
        completion.add_completion,
        completion.completion,
        "print a script with which a shell completes commands, options and names",
    ),
}
