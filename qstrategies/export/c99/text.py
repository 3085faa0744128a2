"""C text of plain values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parent / "kernels"
WIDTH = 100


@dataclass(frozen=True)
class Table:
    """A constant array of C."""

    kind: str
    name: str
    values: tuple[int, ...]

    def __str__(self) -> str:
        head = f"static const {self.kind} {self.name}[{len(self.values)}] = {{"
        return f"{head}\n{filled(list(map(str, self.values)))}\n}};"


def filled(words: Sequence[str]) -> str:
    """Words with commas between them, in lines of at most ``WIDTH``, as many in each."""
    most = max(1, (WIDTH - 4) // (max(map(len, words)) + 2))
    lines = [", ".join(words[start : start + most]) for start in range(0, len(words), most)]
    return "    " + ",\n    ".join(lines)


def initializer(value: Any) -> str:
    """A struct for a mapping, an array for a tuple, anything else as it is."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f".{name} = {initializer(each)}" for name, each in value.items()) + "}"
        )
    if isinstance(value, tuple):
        return "{" + ", ".join(map(initializer, value)) + "}"
    return str(value)


def structure(kind: str, name: str, fields: Mapping[str, Any]) -> str:
    """A constant struct of C, one field per line."""
    lines = [f"    .{field} = {initializer(value)}," for field, value in fields.items()]
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent=" " * 8) for line in lines]
    return "\n".join([f"static const struct {kind} {name} = {{", *wrapped, "};"])


def comment(text: str) -> str:
    """A comment of C, whatever is in ``text``."""
    plain = re.sub(r"[^\x20-\x7e]|\*/|/\*|\?\?|\\", "_", text)
    return textwrap.fill(f"/* {plain} */", WIDTH, subsequent_indent="   ")


@cache
def kernel(name: str) -> str:
    """The C function of this name, with the structs that it takes."""
    return (KERNELS / f"{name}.c").read_text().rstrip()
