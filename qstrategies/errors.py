"""The one exception class for mistakes that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A user's mistake: the message names the bad value and, where there are any, the valid
    choices."""


class NotFiniteError(InputError):
    """A weight, a step or an activation is NaN or infinite; the message names it."""


def first_line(error: BaseException) -> str:
    """What ``error`` says, in a line; its type where that says nothing, or a bare key."""
    lines = str(error).strip().splitlines()
    says_nothing = not lines or isinstance(error, KeyError)
    return " ".join([type(error).__name__, *lines[:1]]) if says_nothing else lines[0]


def unknown(kind: str, value: object, choices: Iterable[str]) -> InputError:
    """The error for a value outside a closed set, with the closest valid choice as a suggestion."""
    valid = sorted(choices)
    small = {each.lower(): each for each in valid}
    close = difflib.get_close_matches(str(value).lower(), small, n=1)
    hint = f" Did you mean {small[close[0]]!r}?" if close else ""
    return InputError(f"unknown {kind} {value!r}.{hint} Valid: {', '.join(valid)}")


def check_choice(kind: str, value: object, choices: Iterable[str]) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``."""
    valid = list(choices)
    if value not in valid:
        raise unknown(kind, value, valid)


def check_range(kind: str, value: float, low: float, high: float) -> None:
    """Raise ``InputError`` unless ``low <= value <= high`` (NaN fails)."""
    if not low <= value <= high:
        raise InputError(f"{kind} {value!r} is out of range: it must lie in {span(low, high)}")


def span(low: float, high: float) -> str:
    """The numbers from ``low`` to ``high`` in words, whole ones with all their digits."""
    whole = [float(end).is_integer() and abs(end) < 1e12 for end in (low, high)]
    ends = zip((low, high), whole, strict=True)
    return "...".join(f"{end:.0f}" if is_whole else f"{end:g}" for end, is_whole in ends)


REPORT = "The fault is not yours: report it, and leave the layers there in float"


class SelfCheckError(InputError):
    """What was made is not the user's model: nothing is returned. A fault of this package, which
    names the place, unless there is another ``remedy``."""

    def __init__(self, message: str, remedy: str = REPORT) -> None:
        super().__init__(f"{message}. {remedy}")
