"""Named things that a newcomer adds with one file and one decorator."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from qstrategies.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to factories of one kind (``strategy``, ``model``, ``dataset``, ``runtime``).

    The modules of ``package`` and the entry points of the group ``qstrategies.<kind>`` are imported
    at the first look-up, so that a new file (or an installed plug-in) registers itself and nothing
    else has to be edited.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._discovered = False
        self._lock = threading.RLock()

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files its target under ``name``; raises ``ValueError`` if the name is
        taken."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
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

    def _discover(self) -> None:
        with self._lock:
            if self._discovered:
                return
            self._discovered = True  # what is imported may ask as well
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            for plugin in entry_points(group=f"qstrategies.{self.kind}"):
                plugin.load()
