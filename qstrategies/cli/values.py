"""What the values of options must be: functions for argparse that refuse anything else."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qstrategies.arguments import as_path
from qstrategies.errors import InputError, span

Number = TypeVar("Number", int, float)


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """A number from ``low`` to ``high``; without them what takes it says which."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a number: expected one, as 0.5") from None
        return _within(value, text, low, high)

    return parse


def whole(low: float = -math.inf, high: float = math.inf) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``; without them what takes it says which."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(
                f"{_shortened(text)!r} is not a whole number: expected one, as 5"
            ) from None
        return _within(value, text, low, high)

    return parse


def _within(value: Number, text: str, low: float, high: float) -> Number:
    if high < math.inf and not low <= value <= high:  # so written, it refuses NaN
        limits = span(low, high)
        raise ArgumentTypeError(f"{_shortened(text)} is out of range: it must lie in {limits}")
    return value


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def file(text: str) -> Path:
    """The path of a file; whether it is there is for the command to say."""
    path = _path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{text!r} is a folder: expected a file")
    return path


def json_file(text: str) -> Path:
    """The path of a file to write, whose name ends in .json."""
    path = file(text)
    if path.suffix != ".json":
        raise ArgumentTypeError(f"{text!r} does not end in .json: expected the name of a JSON file")
    return path


def folder(text: str) -> Path:
    """The path of a folder, which need not be there yet."""
    path = _path(text)
    if path.exists() and not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is a file: expected a folder")
    return path


def _path(text: str) -> Path:
    try:
        return as_path(text, repr(text))
    except InputError as error:
        raise ArgumentTypeError(str(error)) from None
