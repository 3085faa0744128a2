"""What could be shipped, the limits that a user sets, and what costs less."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qstrategies.errors import check_range
from qstrategies.records import ACCURACY, Metric, Widths

SIZES_ALIKE = 1.05
"""Files whose sizes have a smaller ratio count as equally large: metadata differ by some bytes."""
TIMES_ALIKE = 1.5
"""The same for times: one and the same graph took 32 and 47 us within one comparison."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One strategy at one bit width.

    ``accuracy`` and ``drop`` (against the reference's float model) are fractions of the validation
    split, means over the seeds (of another ``metric`` its figures, signed so that more accuracy is
    better); ``epochs`` is all that it trains, ``extra_epochs`` what of it comes
    on top of a float model; ``microseconds`` one image in the fast file on one thread; ``size``
    bytes of the portable file. ``plain``: it is the reference, which the others are compared with.
    """

    strategy: str
    weight_bits: int
    activation_bits: int = 8
    accuracy: float
    drop: float
    epochs: int
    extra_epochs: int
    microseconds: float
    size: int
    plain: bool
    metric: Metric = ACCURACY

    @property
    def figure(self) -> float:
        """What ``accuracy`` is of the metric."""
        return self.metric.sign * self.accuracy

    @property
    def name(self) -> str:
        """As the recommendation calls it."""
        return f"{self.strategy} at {Widths(self.weight_bits, self.activation_bits).title}"


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Upper limits of a ``Candidate``, None for none; raises ``InputError`` if out of range."""

    drop: float | None = None
    microseconds: float | None = None
    epochs: int | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self._given().items():
            check_range(f"largest {name}", limit, *LIMITS[name])

    def _given(self) -> dict[str, float]:
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    def broken_by(self, candidate: Candidate) -> list[str]:
        """The names of the limits that ``candidate`` exceeds."""
        return [name for name, limit in self._given().items() if getattr(candidate, name) > limit]

    def __str__(self) -> str:
        shown = {
            "drop": lambda value: f"a drop of at most {value * 100:g} points",
            "microseconds": lambda value: f"at most {value:g} us an image",
            "epochs": lambda value: f"at most {value} epochs",
            "size": lambda value: f"at most {value / 1000:g} KB",
        }
        return ", ".join(shown[name](limit) for name, limit in self._given().items())


LIMITS = {
    "drop": (0.0, 1.0),
    "microseconds": (1e-3, 1e9),
    "epochs": (1, 10**6),
    "size": (1, 2**40),
}
"""The range of each field of ``Constraints``."""


def cheapest(candidates: Iterable[Candidate]) -> Candidate:
    """The one with the fewest epochs beyond the float model.

    Of several the one with the smallest file, then the fastest, then the plainest.
    """
    left = _least(list(candidates), lambda candidate: candidate.extra_epochs, 1.0)
    left = _least(left, lambda candidate: candidate.size, SIZES_ALIKE)
    return plainest(_least(left, lambda candidate: candidate.microseconds, TIMES_ALIKE))


def plainest(candidates: Iterable[Candidate]) -> Candidate:
    """The one with the fewest epochs beyond the float model.

    Of several the reference, then the one with the most bits, then the most accurate.
    """
    return min(candidates, key=_departure)


def _departure(candidate: Candidate) -> tuple[float, ...]:
    other = not candidate.plain
    widths = (-candidate.weight_bits, -candidate.activation_bits)
    return candidate.extra_epochs, other, *widths, -candidate.accuracy


def _least(
    candidates: Sequence[Candidate],
    figure: Callable[[Candidate], float],
    alike: float,
) -> list[Candidate]:
    """Those that have the least of ``figure``, or at most ``alike`` times it."""
    most = min(map(figure, candidates)) * alike
    return [candidate for candidate in candidates if figure(candidate) <= most]


def pareto(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other equals in epochs and accuracy and beats in one of them, by epochs."""
    every = list(candidates)
    kept = [one for one in every if not any(_beats(other, one) for other in every)]
    return tuple(sorted(kept, key=lambda candidate: candidate.epochs))


def _beats(other: Candidate, one: Candidate) -> bool:
    no_worse = other.epochs <= one.epochs and other.accuracy >= one.accuracy
    return no_worse and (other.epochs, other.accuracy) != (one.epochs, one.accuracy)
