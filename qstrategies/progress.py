"""What is going on and how long it will still take, on standard error."""

from __future__ import annotations

import sys
import time

from qstrategies.text import line

PRIOR = 60.0
"""Seconds by which the first guess counts: start-up must not pass for the pace of everything."""


class Progress:
    """Counts expected seconds of work; the pace so far turns what is left into remaining time.

    On a terminal the last line is rewritten; elsewhere every message is a line of its own.
    """

    def __init__(self, expected_seconds: float, *, quiet: bool = False) -> None:
        self.expected = expected_seconds
        self.done = 0.0
        self.quiet = quiet
        self.started = time.monotonic()
        self._interactive = sys.stderr.isatty()

    def advance(self, seconds: float, message: str) -> None:
        """Count ``seconds`` of expected work as done and say what it was."""
        self.done += seconds
        if self.quiet:
            return
        elapsed = time.monotonic() - self.started
        pace = (elapsed + PRIOR) / (self.done + PRIOR)
        left = max(0.0, self.expected - self.done) * pace
        shown = line(f"[{clock(elapsed)}, {clock(left)} left] {message}")
        if self._interactive:
            print(f"\r\033[K{shown[:150]}", end="", file=sys.stderr, flush=True)
        else:
            print(shown, file=sys.stderr, flush=True)

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
