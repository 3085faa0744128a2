"""JSON -> values of a type, checked on the way by the type's own hints. Imports no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Iterable
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
Reader = Callable[[Any], Any]


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


class _MisfitError(Exception):
    """What is wrong with a value; ``said`` has "{}" where the value is named."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said, self.place = said, ""

    def inside(self, place: str) -> _MisfitError:
        """The same, of a value that lies at ``place`` of another one."""
        self.place = f"{place}{self.place}"
        return self

    def error(self, where: str) -> InputError:
        """For the user, who knows the whole as ``where``."""
        return InputError(self.said.replace("{}", f"{where}{self.place}".removeprefix("it."), 1))


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
    try:
        return _reader(kind)(value)
    except _MisfitError as misfit:
        raise misfit.error(where) from None


@functools.cache
def _reader(kind: Any) -> Reader:
    """What reads a ``kind``: its hints are looked at once, not for every value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    if is_typeddict(kind):
        return _typed_dict(kind)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        return _union(arguments)
    if origin is Literal:
        return _literal(arguments)
    if origin in (list, tuple):
        return _several(origin, arguments[0])
    return _dict(*arguments) if origin is dict else _scalar(kind)


def _dataclass(kind: Any) -> Reader:
    readers = _readers(kind)
    missing = dataclasses.MISSING
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is missing and field.default_factory is missing
    ]

    def read(value: Any) -> Any:
        given = _expect(dict, value)
        for name in given:
            if name not in readers:
                raise _MisfitError(f"{{}} has an unknown entry {reprlib.repr(name)}")
        _need(needed, given)
        return kind(**_entries(readers, given, given))

    return read


def _typed_dict(kind: Any) -> Reader:
    readers, needed = _readers(kind), sorted(kind.__required_keys__)

    def read(value: Any) -> Any:
        given = _expect(dict, value)
        _need(needed, given)
        return _entries(readers, given, [name for name in readers if name in given])

    return read


def _readers(kind: Any) -> dict[str, Reader]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: _reader(hint) for name, hint in hints.items()}


def _need(names: Iterable[str], given: dict[str, Any]) -> None:
    for name in names:
        if name not in given:
            raise _MisfitError(f"{{}} has no {name!r}")


def _entries(
    readers: dict[str, Reader], given: dict[str, Any], names: Iterable[str]
) -> dict[str, Any]:
    """What ``given`` has under ``names``, read."""
    made, name = {}, ""
    try:
        for name in names:
            made[name] = readers[name](given[name])
    except _MisfitError as misfit:
        raise misfit.inside(f".{name}") from None
    return made


def _annotated(kind: Any, checks: tuple[Any, ...]) -> Reader:
    inner = _reader(kind)

    def read(value: Any) -> Any:
        built = inner(value)
        for check in checks:
            expected = check(built)
            if expected is not None:
                raise _misfit(value, expected)
        return built

    return read


def _union(members: tuple[Any, ...]) -> Reader:
    optional = NoneType in members
    *others, last = (_reader(member) for member in members if member is not NoneType)

    def read(value: Any) -> Any:
        if optional and value is None:
            return None
        for inner in others:
            with contextlib.suppress(_MisfitError, InputError):
                return inner(value)
        return last(value)

    return read


def _literal(values: tuple[Any, ...]) -> Reader:
    def read(value: Any) -> Any:
        if value in values:
            return value
        raise _misfit(value, f"one of {', '.join(values)}")

    return read


def _several(origin: Any, kind: Any) -> Reader:
    inner = _reader(kind)

    def read(value: Any) -> Any:
        given, made = _expect(list, value), []
        try:
            for item in given:
                made.append(inner(item))  # noqa: PERF401 - how many there are says which is wrong
        except _MisfitError as misfit:
            raise misfit.inside(f"[{len(made)}]") from None
        return origin(made)

    return read


def _dict(keys: Any, values: Any) -> Reader:
    key_of, inner = _reader(keys), _reader(values)

    def read(value: Any) -> Any:
        given = _expect(dict, value)
        try:
            names = [key_of(key) for key in given]
        except _MisfitError as misfit:
            raise _MisfitError(f"a key of {misfit.said}") from None
        made = _entries(dict.fromkeys(given, inner), given, given)
        return dict(zip(names, made.values(), strict=True))

    return read


def _scalar(kind: Any) -> Reader:
    if kind is str:
        return _text
    if kind not in (int, float):
        return functools.partial(_expect, kind)
    # a whole number may stand for a float, and stays one: keys are made of what was given
    allowed = (int,) if kind is int else (int, float)
    expected = "a whole number" if kind is int else "a finite number"

    def read(value: Any) -> Any:
        fits = isinstance(value, allowed) and not isinstance(value, bool) and abs(value) <= LARGEST
        if fits:
            return value
        raise _misfit(value, expected)

    return read


def _text(value: Any) -> str:
    text: str = _expect(str, value)
    if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    raise _misfit(value, "text that UTF-8 can hold")


_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", NoneType: "null"}


def _expect(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise _misfit(value, _WORDS[kind])


def _misfit(value: Any, expected: str) -> _MisfitError:
    return _MisfitError(f"{{}} is {reprlib.repr(value)}, expected {expected}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def content_key(value: Any) -> str:
    """SHA-256 of the canonical JSON of a dataclass or of plain data: equal content, equal key."""
    plain = (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()
