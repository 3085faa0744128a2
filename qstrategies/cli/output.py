"""The one place where commands print: results on standard output, remarks on standard error."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

from qstrategies import text

OUTPUT_CLOSED = 141
"""The exit code where nobody reads the output any more, as of a program that SIGPIPE ends."""


def show(result: object) -> None:
    """Print a result of several lines, with names in it made visible."""
    _print(text.block(result), sys.stdout)


def show_json(data: Any) -> None:
    """Print plain data as JSON."""
    _print(text.json_text(data), sys.stdout)


def warn(message: str) -> None:
    """Print one line about the command."""
    _print(f"qstrategies: {text.line(message)}", sys.stderr)


def _print(shown: str, stream: TextIO | None) -> None:
    """What the encoding of ``stream`` does not have is written as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encodable = shown.encode(encoding, "backslashreplace").decode(encoding)
    print(encodable, file=stream, flush=True)


def flush() -> None:
    """Hand over what was printed; raises ``OSError`` here rather than when the interpreter ends."""
    for stream in _standard():
        stream.flush()


def settle() -> bool:
    """Whether all that was printed has arrived.

    A stream that cannot be written leads nowhere from now on, so that the interpreter,
    when it ends, does not complain about what is left.
    """
    broken = [stream for stream in _standard() if not _arrives(stream)]
    for stream in broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return not broken


def _standard() -> list[TextIO]:
    """Standard output and error; a process may have been started without them."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _arrives(stream: TextIO) -> bool:
    try:
        stream.flush()
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # a stream in memory
        return True
    except OSError:
        return False
    return not _reader_gone(descriptor)


def _reader_gone(descriptor: int) -> bool:
    """Whether ``descriptor`` is a pipe that nobody reads: a flush of nothing does not tell."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
