"""The compared strategies, one file each."""

from __future__ import annotations

from qstrategies.errors import InputError
from qstrategies.registry import Registry
from qstrategies.strategies.base import Strategy
from qstrategies.strategies.composed import SIGN, composed


class Strategies(Registry[type[Strategy]]):
    """By name; names joined by "+" are compositions."""

    def get(self, name: str) -> type[Strategy]:
        """The strategy ``name``.

        Raises:
            InputError: an unknown name, with a suggestion; parts that do not go together.
        """
        members = self.members(name)
        if members == [name]:
            return super().get(name)
        if "" in members:
            raise InputError(f"{name!r} has a {SIGN!r} beside nothing: expected names, as cle+qat")
        parts = {part: super(Strategies, self).get(part) for part in members}
        if len(parts) < len(members):
            raise InputError(f"{name!r} names a strategy twice: leave one out")
        return composed(parts)

    def members(self, name: str) -> list[str]:
        """The names of what ``name`` is composed of, in order: itself if that is registered."""
        return [name] if name in self.names() else name.split(SIGN)

    def made(self, strategy: str | Strategy) -> Strategy:
        """``strategy`` itself, or that of this name with its defaults; errors as ``get``."""
        return self.get(strategy)() if isinstance(strategy, str) else strategy


STRATEGIES = Strategies("strategy", __name__)
register = STRATEGIES.register
