"""Names from files and records are data: each function suits one kind of output."""

from __future__ import annotations

import json
import math
import re
from typing import Any

LONGEST_NAME = 100
"""Bytes of what ``file_name`` makes; file systems take 255, and callers add to it."""
ACTIVE = re.compile(
    r"""
    [\\`*|~$]           # escapes, code, emphasis, cells, strikethrough, formulas
    | (?<![^\W_])_      # emphasis; inside a word an underscore is none
    | _(?![^\W_])
    | \](?=[\[(:])      # links, pictures, definitions
    | (?<=www)\.        # addresses become links by themselves
    | :(?=//)
    """,
    re.VERBOSE | re.IGNORECASE,
)
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet computes; the last four are the full-width forms."""


def line(text: object) -> str:
    """``text`` as one line of visible characters.

    What a terminal obeys (control characters, which begin ANSI and OSC sequences, and line breaks),
    what changes the order of reading (bidirectional overrides), what is invisible and what is no
    character at all appears as ``repr`` writes it.
    """
    found = str(text)
    return found if found.isprintable() else "".join(map(_visible, found))


def _visible(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def block(text: object) -> str:
    """``text`` as ``line`` writes it, but with its line breaks."""
    return "\n".join(map(line, str(text).split("\n")))


def markdown(text: object) -> str:
    """``text`` as one line of Markdown that shows it as it is, in a cell or inside a paragraph.

    Whatever would be a link, HTML, emphasis, code, a formula or the end of a cell is escaped.
    (GitHub still makes mail addresses clickable, which nothing in Markdown prevents.)
    """
    found = line(text).replace("&", "&amp;").replace("<", "&lt;")
    return ACTIVE.sub(r"\\\g<0>", found)


def csv_cell(value: Any) -> Any:
    """``value`` for a cell of a CSV file.

    Numbers stay numbers; a text that a spreadsheet would compute gets an apostrophe.
    """
    if not isinstance(value, str):
        return value
    shown = line(value)
    return f"'{shown}" if FORMULA.match(shown) else shown


def file_name(name: str) -> str:
    """``name`` as the beginning of a file name: no separators, not hidden, not too long, not empty.

    Different names may become the same: what must not collide needs a hash behind it.
    """
    safe = re.sub(r"[^\w.+=@ -]", "_", name).lstrip(". ")
    return safe.encode()[:LONGEST_NAME].decode(errors="ignore") or "_"


def json_text(data: Any) -> str:
    """``data`` as indented JSON in printable ASCII, numbers that are not finite as null."""
    return json.dumps(_finite(data), indent=1, allow_nan=False).replace("\x7f", "\\u007f")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
