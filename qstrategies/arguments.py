"""What users give, held against the hints of what takes it: a mistake is told before work begins.

Imports no torch.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import operator
import os
import reprlib
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from qstrategies.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

SOURCES = {
    "QuantizedModel": "what qs.quantize gives",
    "ExportedModel": "what qs.export_onnx gives",
    "Workspace": "as qs.Workspace('runs')",
}
"""Where one gets a value of a class that is made by none but this package."""
PLAIN = (bool, float, int)
WORDS = {NoneType: "None", bool: "True or False", int: "a whole number", float: "a number"}
WORDS |= {str: "a text", Path: "a path"}


def public(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which raises ``InputError`` for an argument that is not what its hint says.

    What is hinted as a path may be a text, and begin with "~".
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        signature, hints = _facts(function)
        bound = None
        with contextlib.suppress(TypeError):
            bound = signature.bind(*arguments, **named)
        if bound is None:  # Python says it better where the function itself is called
            return function(*arguments, **named)
        for name, value in bound.arguments.items():
            bound.arguments[name] = fitting(
                hints.get(name, Any), value, f"{name} of {function.__name__}"
            )
        return function(*bound.args, **bound.kwargs)

    return call


@functools.cache
def _facts(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of ``function``, and the hints of what it takes one of each name."""
    signature, hints = inspect.signature(function), get_type_hints(function)
    for name, each in signature.parameters.items():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            hints[name] = Any
    return signature, hints


def check_fields(value: Any) -> None:
    """The same for the fields of a data class, at the beginning of its ``__post_init__``."""
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        given = getattr(value, name)
        found = fitting(hint, given, f"{name} of {kind.__name__}")
        if found is not given:
            object.__setattr__(value, name, found)  # which frozen ones take too


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def fitting(hint: Any, value: Any, where: str) -> Any:
    """``value``, as a plain number or a path where ``hint`` asks for one.

    Raises:
        InputError: a value of another type; it is called ``where``.
    """
    members = _members(hint)
    if type(value) in PLAIN and type(value) in members:  # most are, and ten thousand runs have many
        return value
    if not any(_fits(member, value) for member in members):
        raise InputError(f"{where} is {_described(value)}: expected {_expected(members)}")
    if Path in members and isinstance(value, str | os.PathLike):
        return as_path(value, where)
    if isinstance(value, Real) and not isinstance(value, int | float):  # of NumPy: JSON has none
        return operator.index(value) if isinstance(value, Integral) else float(value)
    return value


def as_path(value: str | os.PathLike[str], where: str) -> Path:
    """``value`` as a path, a "~" at its beginning replaced by the home folder; raises
    ``InputError`` for what is none."""
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where} is empty: expected a path")
    if "\0" in text:
        raise InputError(f"{where} has a NUL character, which no path has: leave it out")
    return Path(os.path.expanduser(text))  # noqa: PTH111 - which leaves unknown users as they are


@functools.cache
def _members(hint: Any) -> tuple[Any, ...]:
    """The hints of which a value has to fit one."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(inner for each in get_args(hint) for inner in _members(each))
    return (hint,)


def _fits(hint: Any, value: Any) -> bool:
    kind: Any = get_origin(hint) or hint
    if kind is Any or not isinstance(kind, type):  # as a literal is none, and a type variable
        return True
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    if kind is collections.abc.Callable:
        return callable(value)
    if issubclass(kind, Iterable) and kind is not str and isinstance(value, str | bytes):
        return False  # letters are never meant
    return isinstance(value, kind) and _elements_fit(hint, value)


def _elements_fit(hint: Any, value: Any) -> bool:
    """Whether what a list or tuple holds is what ``hint`` says of a sequence."""
    arguments = [each for each in get_args(hint) if each is not ...]
    if not isinstance(value, list | tuple) or len(arguments) != 1:
        return True
    members = _members(arguments[0])
    return all(any(_fits(member, each) for member in members) for each in value)


def _described(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return reprlib.repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple) and value:
        kinds = dict.fromkeys(type(each).__name__ for each in value)
        return f"a {type(value).__name__} of {', '.join(kinds)}"
    return _with_article(type(value).__name__)


def _expected(members: Iterable[Any]) -> str:
    """The ``members`` of a hint in words."""
    members = list(members)
    named = [each for each in members if each is not str or Path not in members]
    return " or ".join(dict.fromkeys(map(_word, named)))


def _word(hint: Any) -> str:
    kind = get_origin(hint) or hint
    inner = [each for each in get_args(hint) if each is not ...]
    if kind in WORDS:
        return WORDS[kind]
    if kind is type:
        return "a class"
    if issubclass(kind, collections.abc.Mapping):
        return "a dict"
    if kind is Iterable and inner == [Any]:
        return "an iterable"
    if issubclass(kind, Iterable) and len(inner) == 1:
        return "a list" + (f", each {_expected(_members(inner[0]))}" if inner != [Any] else "")
    name = f"torch.{kind.__name__}" if kind.__module__ == "torch" else kind.__name__
    name = "torch.nn.Module" if name == "Module" else name
    source = SOURCES.get(name)
    return _with_article(name) + (f", {source}" if source else "")


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
