"""How a model of a user's is run to see what it does."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from qstrategies.guest import seeded


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """What a model raises inside ends it there, and that and what it draws is not noticed
    outside."""
    with seeded(0), contextlib.suppress(Exception):
        yield


class FunctionMode(TorchFunctionMode, ABC):
    """Where it is entered, ``called`` stands in front of every function of torch."""

    @abstractmethod
    def called(
        self, function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]
    ) -> Any:
        """What ``function`` gives for these arguments, by place and by name."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.called(func, args, dict(kwargs or {}))
