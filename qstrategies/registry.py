"""Named things that a newcomer adds with one file and one decorator."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType, ModuleType
from typing import Generic, TypeVar

from qstrategies.errors import InputError, unknown
from qstrategies.typed_json import Name, build

T = TypeVar("T")
OWN = __name__.partition(".")[0]
_distribution: ContextVar[str | None] = ContextVar("_distribution", default=None)
"""What is being loaded through an entry point, with its version."""
SESSION = "this session"
"""The origin of what is registered at a prompt, in a notebook or by a script without a file."""
LENT = "the caller"
"""The origin of what was never registered, but given as an object."""


class Registry(Generic[T]):
    """Maps names to factories of one kind (``strategy``, ``model``, ``dataset``, ``runtime``).

    The modules of ``package`` and the entry points of the group ``qstrategies.<kind>`` are imported
    at the first look-up, so that a new file (or an installed plug-in) registers itself and nothing
    else has to be edited. An entry point is the thing itself, under the name of the entry point, or
    a module whose decorators register it.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._discovered = False
        self._lock = threading.RLock()

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under ``name`` and returns it; raises ``InputError`` if
        the name is taken."""
        origin = _place(sys._getframe(1))

        def add(item: T) -> T:
            self.add(name, item, _distribution.get() or origin)
            return item

        return add

    def get(self, name: str) -> T:
        """The item filed under ``name``; raises ``InputError`` with a suggestion if there is
        none."""
        self._discover()
        if name not in self._items:
            raise unknown(self.kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """All registered names in alphabetical order."""
        self._discover()
        return sorted(self._items)

    def origin(self, name: str) -> str:
        """Where ``name`` comes from: this package, another distribution with its version, or the
        place in a file."""
        self._discover()
        return self._origins[name]

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is registered inside is forgotten again if an exception passes."""
        self._discover()
        kept = dict(self._items), dict(self._origins)
        try:
            yield
        except BaseException:
            self._items, self._origins = kept
            raise

    @contextlib.contextmanager
    def lent(self, name: str, item: T) -> Iterator[None]:
        """Inside, ``name`` is ``item``, whatever it was and will be again."""
        self._discover()
        kept = dict(self._items), dict(self._origins)
        self._items[name], self._origins[name] = item, LENT
        try:
            yield
        finally:
            self._items, self._origins = kept

    def add(self, name: str, item: T, origin: str) -> None:
        """File ``item``, which comes from ``origin``, under ``name``; raises ``InputError`` if that
        is taken."""
        build(Name, name, f"the name of a {self.kind}")
        again = origin == SESSION == self._origins.get(name)  # a cell that is run once more
        if name in self._items and not again:
            raise InputError(
                f"{self.kind} {name!r} is registered twice, by {self._origins[name]} and by "
                f"{origin}: give one another name"
            )
        self._items[name], self._origins[name] = item, origin

    def _discover(self) -> None:
        with self._lock:
            if self._discovered:
                return
            self._discovered = True  # what is imported may ask as well
            try:
                self._look_around()
            except BaseException:
                self._discovered = False
                raise

    def _look_around(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for plugin in entry_points(group=f"{OWN}.{self.kind}"):
            self._load(plugin)

    def _load(self, plugin: EntryPoint) -> None:
        origin = f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.value
        loading = _distribution.set(origin)
        try:
            item = plugin.load()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.kind} {plugin.name!r} of {origin} cannot be loaded: "
                f"{type(error).__name__}: {error}; mend or remove that package"
            ) from error
        finally:
            _distribution.reset(loading)
        if not isinstance(item, ModuleType) and self._items.get(plugin.name) is not item:
            self.add(plugin.name, item, origin)


def _place(caller: FrameType) -> str:
    """Where ``caller`` registers something."""
    module = caller.f_globals.get("__name__", "")
    if module.startswith(f"{OWN}."):
        return OWN
    path = caller.f_code.co_filename
    interactive = hasattr(sys, "ps1") or not Path(path).is_file()
    return SESSION if module == "__main__" and interactive else f"{path}:{caller.f_lineno}"
