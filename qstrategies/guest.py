"""The package is a guest in its user's process: one call at a time, and what is global is left as it was found.

torch.fx, torch.export and ``torch.backends.quantized.engine`` belong to the whole process: while one thread traces, torch.fx has
replaced ``nn.Module.__call__`` for all of them. So every public function that touches them is a ``guest``, which waits until no
other is at work. What only switches a setting puts it back by a context manager of this module.

A thread that runs modules of its own, without this package, knows nothing of that lock: torch.fx is not made for it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import linecache
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

FEW_SOURCES = 512
"""So many generated sources may lie in torch.fx before those of dead graphs are looked for, which takes as long as a collection."""

_lock = threading.RLock()


def guest(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` under the lock of the package, which its own thread may take again; what torch keeps of it is dropped."""

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        with _lock:
            try:
                return function(*arguments, **named)
            finally:
                _forget()

    return call


@contextlib.contextmanager
def selected_engine(engine: str) -> Iterator[None]:
    """Under the lock of the package, with ``engine`` as torch's int8 kernels; afterwards the user's again."""
    from torch.backends import quantized

    with _lock:
        before = quantized.engine
        quantized.engine = engine
        try:
            yield
        finally:
            quantized.engine = before


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """What is seeded and drawn inside leaves the generators of torch as they were, and so the choice of its kernels."""
    import torch

    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic


def _forget() -> None:
    """Drop what torch 2.13 keeps of every graph that it ever converted or exported: the graph, its shapes, its source."""
    from torch.ao.quantization.fx.utils import assert_and_get_unique_device
    from torch.fx.experimental import proxy_tensor
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    assert_and_get_unique_device.cache_clear()  # by module
    proxy_tensor._FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT.clear()
    for method in vars(ShapeEnv).values():
        if hasattr(method, "cache_clear"):  # by instance
            method.cache_clear()
    _sources.sweep()


class _Sources:
    """The generated code that torch.fx keeps for tracebacks and TorchScript, for ever; here for as long as the code lives."""

    limit = FEW_SOURCES

    def sweep(self) -> None:
        """Drop the sources of dead graphs once there are many."""
        from torch.fx.graph_module import _loader

        if len(_loader.eval_cache) <= self.limit:
            return
        alive = {found.__code__.co_filename for found in gc.get_objects() if isinstance(found, FunctionType)}
        for name in [name for name in _loader.eval_cache if name not in alive]:
            del _loader.eval_cache[name]
            linecache.cache.pop(name, None)
        self.limit = 2 * len(_loader.eval_cache) + FEW_SOURCES


_sources = _Sources()
