"""Options that stand in a TOML file: the same keys, what is typed wins."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qstrategies.cli.values import file
from qstrategies.errors import InputError, unknown
from qstrategies.files import check_file, read_bytes

NOT_IN_A_FILE = ("help", "config")
LARGEST = 1 << 20
"""Of such a file, in bytes."""


def add_config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--config",
        type=file,
        metavar="FILE.toml",
        help="take options from this file, by their names without dashes in front, and the "
        "strategies, as strategies = ['qat']; what is typed here wins, and what may be repeated "
        "is added to",
    )


def words_of(path: Path, sub: argparse.ArgumentParser, typed: argparse.Namespace) -> list[str]:
    """What one would type on the command line of ``sub`` for the table in the file ``path``.

    Strategies are left out where ``typed`` has some. Raises ``InputError`` for a key that ``sub``
    has no option for, and a value that no option takes.
    """
    keys = {_key(action): action for action in sub._actions if action.dest not in NOT_IN_A_FILE}
    words = []
    for key, value in _table(path).items():
        if key not in keys:
            hint = unknown("key", key, keys)
            raise InputError(f"{str(path)!r}: {hint}")
        action = keys[key]
        if action.option_strings:
            words += _typed(f"--{key}", action, value)
        elif not getattr(typed, action.dest):
            words += _texts(key, value)
    return words


def _key(action: argparse.Action) -> str:
    """The long name of an option, or the name of an argument."""
    return action.option_strings[-1].lstrip("-") if action.option_strings else action.dest


def _table(path: Path) -> dict[str, Any]:
    check_file(path, most=LARGEST)
    try:
        return tomllib.loads(read_bytes(path).decode())
    except ValueError as error:  # of TOML or of UTF-8
        raise InputError(
            f"{str(path)!r} is no TOML: {error}: expected lines as weight-bits = 4"
        ) from None


def _typed(flag: str, action: argparse.Action, value: Any) -> list[str]:
    """``value`` of the option ``flag`` as words."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{flag[2:]} = {value!r}: expected true or false")
        return [flag] if value else []
    texts = _texts(flag[2:], value)
    if isinstance(action, argparse._AppendAction):
        return [f"{flag}={text}" for text in texts]
    return [f"{flag}={','.join(texts)}"]


def _texts(key: str, value: Any) -> Sequence[str]:
    """A value, or each of a list."""
    values = value if isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise InputError(f"{key} = {value!r}: expected a text, a number, or a list of them")
    return [str(each) for each in values]
