"""Files of the user's own whose decorators register models, datasets, strategies and the rest."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from qstrategies import source_code
from qstrategies.datasets import DATASETS
from qstrategies.errors import InputError
from qstrategies.files import check_file
from qstrategies.models import MODELS
from qstrategies.onnx_model import from_onnx
from qstrategies.registry import LENT, SESSION, Registry
from qstrategies.runtimes import RUNTIMES
from qstrategies.schedulers import SCHEDULERS
from qstrategies.strategies import STRATEGIES
from qstrategies.trackers import TRACKERS

REGISTRIES: dict[str, Registry[Any]] = {
    "strategies": STRATEGIES,
    "models": MODELS,
    "datasets": DATASETS,
    "runtimes": RUNTIMES,
    "trackers": TRACKERS,
    "schedulers": SCHEDULERS,
}
_used: list[Path] = []


def used() -> tuple[str, ...]:
    """The files in use, in their order, seen from the current folder: a process that shall see the
    same things uses them too."""
    here = Path.cwd()
    return tuple(str(p.relative_to(here) if p.is_relative_to(here) else p) for p in _used)


def used_elsewhere(needed: Iterable[tuple[Registry[Any], str]]) -> tuple[str, ...]:
    """The files that another process uses to know all of ``needed``, things by name: those in use,
    and those that were imported otherwise.

    Raises ``InputError`` for what no other process finds.
    """
    files = list(used())
    folders = [path.parent for path in _used]
    for registry, name in needed:
        origin = registry.origin(name)
        path = Path(origin.rpartition(":")[0]).absolute()
        if origin in (LENT, SESSION) or path == _script():
            raise InputError(
                f"{registry.kind} {name!r} is known to this process only: put it into a file of "
                "its own, imported or given with --use, or compute with one job"
            )
        found = any(path.is_relative_to(folder) for folder in folders)
        if path.suffix == ".py" and not found and str(path) not in files:
            files.append(str(path))
    return tuple(files)


def _script() -> Path | None:
    """What this process runs, which no other runs again."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return None if path is None else Path(path).absolute()


def use(path: Path) -> None:
    """Import the Python file ``path``, once, so that its decorators register what it defines.

    A float ONNX file is registered as a trained model, under its name without the ending.

    The folder of a Python file becomes the first place where modules are looked for, as for a
    script. A file of a package (a folder with ``__init__.py``) is imported as that package's
    module. What it prints goes to standard error.

    Raises:
        InputError: it is neither, fails (with the line), registers nothing, has the name of
            another module, or gives a name that is taken. Then nothing of it is registered.
    """
    path = path.absolute()
    if path in _used:
        return
    check_file(path)
    if path.suffix == ".onnx":
        with MODELS.all_or_nothing():
            MODELS.add(path.stem, from_onnx(path), str(path))
        _used.append(path)
        return
    name, folder = _module_name(path)
    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES.values():
            stack.enter_context(registry.all_or_nothing())
        stack.enter_context(_found_first(folder))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        before, known = _count(), name in sys.modules  # it may be imported by another one
        _check_origin(_imported(name, path), name, path)
        if _count() == before and not known:
            del sys.modules[name]
            raise InputError(
                f"{path}: it registers nothing: decorate what it defines, as "
                '@qs.models.register("mynet")'
            )
    _used.append(path)


@contextlib.contextmanager
def _found_first(folder: Path) -> Iterator[None]:
    """Modules are looked for in ``folder`` first; no longer so if an exception passes."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        sys.path.remove(str(folder))
        raise


def _count() -> int:
    return sum(len(registry.names()) for registry in REGISTRIES.values())


def _module_name(path: Path) -> tuple[str, Path]:
    """The dotted name of the module that ``path`` is, and the folder in which that is found."""
    if path.suffix != ".py":
        raise InputError(f"{str(path)!r} is no Python file: expected .py")
    if "." in path.stem:
        raise InputError(
            f"{str(path)!r}: {path.stem!r} is no name of a module: give it another without dots"
        )
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _imported(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(source_code.reason(error, path)) from None


def _check_origin(module: ModuleType, name: str, path: Path) -> None:
    origin = getattr(module, "__file__", None)
    if origin is None or not Path(origin).samefile(path):
        raise InputError(
            f"{str(path)!r} has the name of the module {name!r} "
            f"({origin or 'built in'}): give it another"
        )
