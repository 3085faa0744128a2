"""What a piece of code is: the hash of its own source and of all that it uses from the same
authors.

Comments, docstrings and layout do not count. What is imported by a computed name is not seen.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from qstrategies.errors import InputError
from qstrategies.files import read_bytes, sha256

OWN = __name__.partition(".")[0]
GROUND = frozenset({"cli", "report", "trackers", "errors", "files", "progress", "registry"})
GROUND |= {"records", "plugins", "text", "typed_json", "experiment.environment"}
"""Modules of this package that name, keep and show: no result depends on them."""
KNOWN_BY_VERSION = frozenset({"torch", "numpy"})
"""Whose versions are known of every run: their thousands of modules are not read."""
_SITE = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Source:
    """A hash, and the packages of other authors that the code imports, by the name that imports
    them."""

    digest: str
    packages: frozenset[str]


@dataclass(frozen=True)
class _Module:
    digest: str
    imports: tuple[str, ...]


def of_modules(roots: Iterable[str], own: str = OWN) -> Source:
    """The modules ``roots`` and all that they import, and these, as far as the package ``own`` or
    no package has it."""
    found: dict[str, str] = {}
    packages = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if not _same_authors(name, own):
            packages.add(name.partition(".")[0])
            continue
        path = _path(name)
        if name not in found and path is not None and not _is_ground(name):
            module = _module(path, name)
            found[name] = module.digest
            waiting += module.imports
    content = "".join(f"{name} {digest}\n" for name, digest in sorted(found.items()))
    return Source(sha256(content.encode()), frozenset(packages - sys.stdlib_module_names - {OWN}))


def of_object(thing: Any) -> Source:
    """The code of a class, function or other factory with what it inherits from.

    That is whole modules with what they import; but only what it uses of a script or notebook,
    which also says what to run.
    """
    if not isinstance(thing, (type, FunctionType, functools.partial)):
        thing = type(thing)
    family = [kind for kind in getattr(thing, "__mro__", (thing,)) if kind.__module__ != "builtins"]
    loose = [kind for kind in family if _is_loose(kind)]
    lines, used = _loose(loose)
    roots = used | {kind.__module__ for kind in family if kind not in loose}
    source = of_modules(sorted(roots), thing.__module__.partition(".")[0])
    if not loose:
        return source
    return Source(sha256("\n".join([source.digest, *lines]).encode()), source.packages)


def identity(function: Any) -> str:
    """A hash of the code of ``function`` and of the settings that its ``repr`` shows."""
    settings = re.sub(r" at 0x[0-9a-f]+", "", repr(function))
    return sha256(f"{of_object(function).digest} {settings}".encode())


def _is_loose(thing: Any) -> bool:
    return (
        isinstance(thing, functools.partial)
        or thing.__module__ == "__main__"
        or _path(thing.__module__) is None
    )


def _same_authors(name: str, own: str) -> bool:
    """Whether a module counts as part of the code that imports it: it is of the package ``own``, or
    was not installed."""
    top = name.partition(".")[0]
    if top in KNOWN_BY_VERSION:
        return False
    if top == own:
        return True
    path = _path(top) or _path(name)  # a folder without __init__.py has no file of its own
    return top != OWN and path is not None and not _is_installed(path)


@functools.cache
def _is_installed(path: Path) -> bool:
    return bool(_SITE & set(path.parts)) or path.is_relative_to(sysconfig.get_path("stdlib"))


def is_users(path: Path) -> bool:
    """Whether ``path`` is a Python file of the user's, neither installed nor of this package."""
    of_package = path.is_relative_to(Path(__file__).parent)
    return path.suffix == ".py" and not of_package and not _is_installed(path)


def reason(error: BaseException, fallback: Path | None = None) -> str:
    """``error`` in one line, with the innermost place of the user's own code."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_users(Path(frame.filename))]
    where = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    if fallback is not None and not own:
        where = f"{fallback}: "
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{where}{kind}{error}"


def _is_ground(name: str) -> bool:
    package, _, inside = name.partition(".")
    rooms = {inside, inside.partition(".")[0]}
    return package == OWN and (not inside or not GROUND.isdisjoint(rooms))


@functools.cache
def _path(name: str) -> Path | None:
    """The source file of a module; None if it has none or does not exist."""
    module = sys.modules.get(name)
    try:
        found = importlib.util.find_spec(name) if module is None else None
        origin = found.origin if found else getattr(module, "__file__", None)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(origin) if origin and origin.endswith(".py") else None


@functools.cache
def _module(path: Path, name: str) -> _Module:
    """Read once in a process, at the first look: later edits do not reach the code that was
    imported."""
    data = read_bytes(path)
    try:
        tree = ast.parse(data)
    except SyntaxError:  # edited since it was imported, and not done yet
        return _Module(sha256(data), ())
    statements = list(_statements(tree))
    imports = tuple(dict.fromkeys(_imports(statements, name, path.name == "__init__.py")))
    return _Module(sha256(ast.dump(tree).encode()), imports)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements of ``tree``, from which docstrings and what only type checkers read are
    dropped; no expression has such inside."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _is_for_type_checkers(node.test):
            node.body = []
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            if hasattr(node, block):
                kept = [each for each in getattr(node, block) if not _is_text(each)]
                setattr(node, block, kept)
                waiting += kept


def _is_for_type_checkers(test: ast.expr) -> bool:
    return isinstance(test, (ast.Name, ast.Attribute)) and "TYPE_CHECKING" in ast.dump(test)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(statements: Iterable[ast.AST], name: str, is_package: bool) -> Iterator[str]:
    """The names of the modules that ``statements`` of the module ``name`` import; some of them may
    be no modules."""
    here = name if is_package else name.rpartition(".")[0]
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here.split(".")[: len(here.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _loose(kinds: Sequence[Any]) -> tuple[list[str], set[str]]:
    """Lines that say what classes and functions without a file do, with all they use from beside
    them; modules they use."""
    lines: list[str] = []
    modules: set[str] = set()
    seen: set[int] = set()
    waiting: list[Any] = list(kinds)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, ModuleType):
            modules.add(thing.__name__)
        elif isinstance(thing, functools.partial):
            lines.append(f"{_plain(thing.args)} {_plain(thing.keywords)}")
            waiting += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, (type, FunctionType)) and not _is_loose(thing):
            modules.add(thing.__module__)
        elif isinstance(thing, type):
            members = sorted(vars(thing).items())
            lines += [
                f"{thing.__qualname__}.{name} {_plain(value)}"
                for name, value in members
                if not name.startswith("__weak")
            ]
            waiting += [_unwrapped(value) for _, value in members]
        elif isinstance(thing, FunctionType):
            lines.append(
                f"{thing.__qualname__} {_code(thing.__code__)} "
                f"{_plain(thing.__defaults__)} {_plain(thing.__kwdefaults__)}"
            )
            used = [
                thing.__globals__[name]
                for name in _names(thing.__code__)
                if name in thing.__globals__
            ]
            lines += [_plain(value) for value in used]
            waiting += used + [cell.cell_contents for cell in thing.__closure__ or ()]
    return sorted(lines), modules


def _unwrapped(value: Any) -> Any:
    value = value.fget if isinstance(value, property) else value
    return inspect.unwrap(getattr(value, "__func__", value))


def _names(code: CodeType) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return [*code.co_names, *inner]


def _code(code: CodeType) -> str:
    return sha256(
        f"{code.co_code.hex()} {code.co_names} {[_plain(part) for part in code.co_consts]}".encode()
    )


_FLAT: dict[type, Callable[[Any], str]] = dict.fromkeys(
    (bool, int, float, complex, str, bytes, type(None)), repr
)


def _plain(value: Any) -> str:
    """The value of plain data, the same in every process; of all else only the type."""
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_plain, value)))}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(vars(value))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(item)}' for key, item in value.items())}}}"
    return _FLAT.get(type(value), lambda other: type(other).__qualname__)(value)
