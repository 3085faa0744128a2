"""JSON -> values of a type, checked on the way by the type's own hints. Imports no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import reprlib
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from qstrategies.errors import InputError, span

LARGEST = 1e30
"""No measurement is larger; sums and squares of such numbers stay finite."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``."""

    low: float
    high: float = LARGEST

    def __call__(self, value: Any) -> str | None:
        """What ``value`` should have been, None if it fits."""
        fits = self.low <= value <= self.high
        return None if fits else span(self.low, self.high)


@dataclass(frozen=True)
class Pattern:
    """Text that matches ``regex`` as a whole; ``meaning`` says in words what that is."""

    regex: str
    meaning: str

    def __call__(self, value: str) -> str | None:
        """What ``value`` should have been, None if it fits."""
        return None if re.fullmatch(self.regex, value) else self.meaning


Fraction = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(0)]
Name = Annotated[
    str, Pattern(r"[^/\x00-\x1f\x7f]{1,100}", "a name of at most 100 characters, without /")
]
"""What becomes a part of a path."""
Sha256 = Annotated[str, Pattern(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal digits")]
Flat = bool | int | float | str | None
Shallow = Flat | list[Flat] | dict[str, Flat]
"""Plain data of which nothing more is asked than that it is not deep."""
SCALARS = (bool, int, float, str)


def load(text: str | bytes) -> Any:
    """The JSON value in ``text``; raises ``InputError`` for anything else, as other encodings, NaN
    or bottomless nesting."""
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError("it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"it is no JSON: {error}") from None


def build(kind: Any, value: Any, where: str = "it") -> Any:
    """``value``, as ``load`` gives it, as a ``kind``.

    Args:
        kind: a dataclass, a TypedDict, or a hint made of scalars, ``Literal``, unions, lists,
            dicts, tuples of any length, and ``Annotated`` with what is called with the value and
            returns what it should have been, or None.
        where: what the error calls the value.

    Raises:
        InputError: it names the first place that does not fit, what is there and what is expected.
            A dataclass takes no unknown keys; a TypedDict does, and leaves them out.
    """
    if kind in SCALARS:
        return _scalar(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if is_typeddict(kind):
        return _typed_dict(kind, value, where)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], value, where)
    if origin in (Union, UnionType):
        return _union(arguments, value, where)
    if origin is Literal:
        return (
            value if value in arguments else _misfit(value, where, f"one of {', '.join(arguments)}")
        )
    if origin in (list, tuple):
        items = enumerate(_expect(list, value, where))
        return origin(build(arguments[0], item, f"{where}[{index}]") for index, item in items)
    if origin is dict:
        return _dict(arguments, value, where)
    return _scalar(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    hints, fields = _hints(kind), dataclasses.fields(kind)
    given = _expect(dict, value, where)
    for name in given:
        if name not in hints:
            raise InputError(f"{where} has an unknown entry {reprlib.repr(name)}")
    for field in fields:
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if needed and field.name not in given:
            raise InputError(f"{where} has no {field.name!r}")
    return kind(
        **{name: build(hints[name], item, f"{where}.{name}") for name, item in given.items()}
    )


def _typed_dict(kind: Any, value: Any, where: str) -> Any:
    given = _expect(dict, value, where)
    for name in sorted(kind.__required_keys__):
        if name not in given:
            raise InputError(f"{where} has no {name!r}")
    return {
        name: build(hint, given[name], f"{where}.{name}")
        for name, hint in _hints(kind).items()
        if name in given
    }


def _annotated(kind: Any, checks: tuple[Any, ...], value: Any, where: str) -> Any:
    built = build(kind, value, where)
    for check in checks:
        expected = check(built)
        if expected is not None:
            _misfit(value, where, expected)
    return built


def _union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and NoneType in members:
        return None
    others = [member for member in members if member is not NoneType]
    for member in others[:-1]:
        with contextlib.suppress(InputError):
            return build(member, value, where)
    return build(others[-1], value, where)


def _dict(arguments: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    keys, values = arguments
    return {
        build(keys, key, f"a key of {where}"): build(values, item, f"{where}.{key}")
        for key, item in _expect(dict, value, where).items()
    }


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind in (int, float):
        # a whole number may stand for a float, and stays one: keys are made of what was given
        allowed = (int,) if kind is int else (int, float)
        fits = isinstance(value, allowed) and not isinstance(value, bool) and abs(value) <= LARGEST
        expected = "a whole number" if kind is int else "a finite number"
        return value if fits else _misfit(value, where, expected)
    _expect(kind, value, where)
    if (
        kind is str
        and not value.isascii()
        and any("\ud800" <= letter <= "\udfff" for letter in value)
    ):
        _misfit(value, where, "text that UTF-8 can hold")
    return value


_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", NoneType: "null"}


def _expect(kind: type, value: Any, where: str) -> Any:
    return value if isinstance(value, kind) else _misfit(value, where, _WORDS[kind])


def _misfit(value: Any, where: str, expected: str) -> NoReturn:
    raise InputError(f"{where.removeprefix('it.')} is {reprlib.repr(value)}, expected {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def content_key(value: Any) -> str:
    """SHA-256 of the canonical JSON of a dataclass or of plain data: equal content, equal key."""
    plain = (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()
