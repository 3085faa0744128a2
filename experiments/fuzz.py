"""Random small networks, quantized, exported and run everywhere: the same bits in all executors.

    python experiments/fuzz.py --examples 20000 --log fuzz.json [--first 0]

What a network may be made of, each file of ``qstrategies/operators`` says. A network follows from
its number alone, so that a long run goes on where an earlier one ended, with the counts in its log.
One that fails is shrunk and printed. Files of other tools and of hostile authors are the business
of ``hostile.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from fuzz_checks import outcome
from fuzz_networks import Case, case, smaller

from qstrategies.cli import guarded
from qstrategies.errors import InputError
from qstrategies.files import atomic_write


def shrunk(found: Case, fault: Exception, folder: Path) -> tuple[Case, Exception]:
    """The smallest case that fails alike, and how."""
    for each in smaller(found):
        other = fault_of(each, folder)
        if isinstance(other, Exception) and _kind(other) == _kind(fault):
            return shrunk(each, other, folder)
    return found, fault


def _kind(fault: Exception) -> tuple[type[Exception], str]:
    return type(fault), str(fault).partition(":")[0]


def fault_of(found: Case, folder: Path) -> str | Exception:
    """What becomes of a network, or the error that it ends in."""
    torch.manual_seed(found.number)
    try:
        return outcome(found, folder)
    except Exception as error:  # any: a raw one is a fault of ours too
        return error


@dataclass(frozen=True)
class Result:
    """What became of the network of ``number``; of a ``fault``, the smallest network that shows it
    too."""

    number: int
    outcome: str
    fault: str | None = None


def fuzz(numbers: Iterable[int]) -> Iterator[Result]:
    """Run the networks of ``numbers``, in one thread: their tensors are small."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            found = case(number)
            came_to = fault_of(found, Path(folder))
            if isinstance(came_to, str):
                yield Result(number, came_to)
            else:
                small, fault = shrunk(found, came_to, Path(folder))
                yield Result(number, "FAULT", f"{small}\n{type(fault).__name__}: {fault}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--log", type=Path, help="keep the counts here, and go on from there")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch, about what is drawn
    log = Log.read(chosen.log, chosen.first)
    last = chosen.first + chosen.examples
    for result in fuzz(range(log.next, last)):
        log.add(result)
        if result.fault is not None:
            print(result.fault, flush=True)
        if result.number % 100 == 99 or result.number == last - 1:
            print(log, flush=True)
            log.write(chosen.log)
    return min(log.counts["FAULT"], 1)


@dataclass
class Log:
    """What became of the networks from number ``first`` on, up to ``next``."""

    first: int
    next: int
    counts: Counter[str]

    @classmethod
    def read(cls, path: Path | None, first: int) -> Log:
        """What an earlier run left at ``path``; an empty log if none did.

        Raises:
            InputError: the log of another ``first``.
        """
        if path is None or not path.exists():
            return cls(first, first, Counter())
        kept = json.loads(path.read_text())
        if kept["first"] != first:
            raise InputError(
                f"{str(path)!r} begins with network {kept['first']}: expected --first {first}"
            )
        return cls(first, kept["next"], Counter(kept["counts"]))

    def add(self, result: Result) -> None:
        """Count one more."""
        self.next = result.number + 1
        self.counts[result.outcome] += 1

    def write(self, path: Path | None) -> None:
        """Keep it at ``path``."""
        if path is not None:
            atomic_write(path, json.dumps(vars(self), indent=1).encode())

    def __str__(self) -> str:
        each = [f"{count} {outcome}" for outcome, count in self.counts.most_common()]
        return f"networks {self.first} to {self.next - 1}: {'; '.join(each)}"


if __name__ == "__main__":
    sys.exit(guarded(main))
