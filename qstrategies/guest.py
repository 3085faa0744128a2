"""The package is a guest in its user's process: one call at a time, and what is global is left as
it was found.

torch.fx, torch.export and ``torch.backends.quantized.engine`` belong to the whole process: while
one thread traces, torch.fx has replaced ``nn.Module.__call__`` for all of them. So every public
function that touches them is a ``guest``, which waits until no other is at work. What only switches
a setting puts it back by a context manager of this module.

A thread that runs modules of its own, without this package, knows nothing of that lock: torch.fx is
not made for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.RLock()
_QUANTIZED_TENSORS = r"torch\.quantize_per_tensor, torch\.quantize_per_channel and other"
_OF_THE_EXPORTER = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
"""How PyTorch's warnings begin that it will drop what this package, or its own exporter, uses of
it. A user can do nothing about them; every other warning is theirs."""


def guest(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` under the lock of the package, which its own thread may take again, with
    gradients and the default dtype as PyTorch has them to begin with."""

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        with _lock, usual_defaults():
            return function(*arguments, **named)

    return call


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """Gradients are known inside and new numbers are float32, whatever the user has set around a
    call."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def selected_engine(engine: str) -> Iterator[None]:
    """Under the lock of the package, with ``engine`` as torch's int8 kernels; afterwards the user's
    again."""
    from torch.backends import quantized

    with _lock:
        before = quantized.engine
        quantized.engine = engine
        try:
            yield
        finally:
            quantized.engine = before


@contextlib.contextmanager
def without_torchs_deprecations() -> Iterator[None]:
    """PyTorch's own deprecations unsaid, all other warnings said.

    Not around what is called again and again: whenever filters change, Python forgets which
    warnings it has said, and says the user's once more.
    """
    with warnings.catch_warnings():
        for beginning in (_QUANTIZED_TENSORS, _OF_THE_EXPORTER):
            warnings.filterwarnings("ignore", beginning)
        yield


@functools.cache
def hear_of_quantized_tensors() -> None:
    """Have PyTorch say, unheard, that it will drop quantized tensors: it says so once a process."""
    import torch

    with without_torchs_deprecations():
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """What is seeded and drawn inside leaves the generators of torch as they were, and so the
    choice of its kernels.

    Not around what calls the user's data: random batches would come again. A layer that is made
    draws its first weights.
    """
    import torch

    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators of torch (on the CPU), Python and NumPy begin at ``seed``; afterwards they are
    as they were."""
    import numpy as np
    import torch

    kept, kept_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(()):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)


@contextlib.contextmanager
def own_environment() -> Iterator[None]:
    """What is imported or set inside leaves the environment variables as they were."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def level_outside() -> int:
    """For a function that warns: the stack level of who has called this package."""
    package = str(Path(__file__).parent)
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    ours = [frame.f_code.co_filename.startswith(package) for frame in frames]
    return len(ours) - ours[::-1].index(True) + 1
