"""What is going on and how long it will still take, on standard error."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from typing import NamedTuple

from qstrategies.text import line


class Work(NamedTuple):
    """A piece of work, as an epoch or a run, and the strategy that it is done for."""

    kind: str
    strategy: str


class Pace:
    """How long work takes, from what such work took so far."""

    def __init__(self) -> None:
        self._measured: dict[Work, list[float]] = {}

    def add(self, work: Work, seconds: float) -> None:
        """Note down that one piece of ``work`` took ``seconds``."""
        self._measured.setdefault(work, []).append(seconds)

    def expected(self, left: Counter[Work]) -> str:
        """How long ``left`` takes, in words; empty where nothing is left or no such work was
        measured."""
        works = [work for work, count in left.items() if count]
        known = {work: seconds for work in works if (seconds := self._typical(work)) is not None}
        if not known:
            return ""
        total = sum(left[work] * seconds for work, seconds in known.items())
        return f"{'more than ' * (len(known) < len(works))}{clock(total)}"

    def _typical(self, work: Work) -> float | None:
        """The median seconds of ``work``; before there are any, of that of other strategies."""
        alike = [
            seconds
            for other, found in self._measured.items()
            if other.kind == work.kind
            for seconds in found
        ]
        found = self._measured.get(work, alike)
        return statistics.median(found) if found else None


class Progress:
    """Measures work as it is done; what is left takes as long as such work took so far.

    On a terminal the last line is rewritten; elsewhere every message is a line of its own.

    Attributes:
        left: how many pieces of which work are still to be done, to be set by who knows.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.left: Counter[Work] = Counter()
        self.quiet = quiet
        self._started = self._last = time.monotonic()
        self._pace = Pace()
        self._interactive = sys.stderr.isatty()

    def begin(self) -> None:
        """Count the time since the last call for nothing: what is only done once passes for no
        pace."""
        self._last = time.monotonic()

    def advance(self, work: Work, message: str, pieces: int = 1) -> None:
        """Count all time since the last call for ``pieces`` of ``work``, and say what it was."""
        now = time.monotonic()
        self._pace.add(work, (now - self._last) / pieces)
        self._last = now
        self.left[work] = max(0, self.left[work] - pieces)
        if self.quiet:
            return
        shown = line(f"[{clock(now - self._started)}{self._remaining()}] {message}")
        if self._interactive:
            print(f"\r\033[K{shown[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(shown, file=sys.stderr, flush=True)

    def _remaining(self) -> str:
        expected = self._pace.expected(self.left)
        return f", {expected} left" if expected else ""

    def note(self, message: str) -> None:
        """Say something that stays to be read, in a line of its own."""
        if not self.quiet:
            print("\r\033[K" * self._interactive + message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the rewritten line."""
        if self._interactive and not self.quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 4:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
