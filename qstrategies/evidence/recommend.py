"""Which strategy to ship: chosen on validation data, under the user's constraints, the cheapest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qstrategies.errors import check_range


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One strategy at one bit width. ``accuracy`` and ``drop`` (against the reference's float model) are fractions of the
    validation split, means over the seeds; ``epochs`` all that it trains; ``microseconds`` one image in the fast file on
    one thread; ``size`` bytes of the portable file."""

    strategy: str
    weight_bits: int
    accuracy: float
    drop: float
    epochs: int
    microseconds: float
    size: int

    @property
    def name(self) -> str:
        """As the recommendation calls it."""
        return f"{self.strategy} at {self.weight_bits} bits"


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Upper limits of a ``Candidate``, None for none. Raises ``InputError`` for one out of range."""

    drop: float | None = None
    microseconds: float | None = None
    epochs: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("drop", -1.0, 1.0), ("microseconds", 0.0, 1e9), ("epochs", 1, 10**6), ("size", 1, 2**40)):
            value = getattr(self, name)
            if value is not None:
                check_range(f"largest {name}", value, low, high)

    def broken_by(self, candidate: Candidate) -> list[str]:
        """The names of the limits that ``candidate`` exceeds."""
        return [name for name, limit in vars(self).items() if limit is not None and getattr(candidate, name) > limit]

    def __str__(self) -> str:
        shown = {
            "drop": lambda value: f"a drop of at most {value * 100:g} points",
            "microseconds": lambda value: f"at most {value:g} us an image",
            "epochs": lambda value: f"at most {value} epochs",
            "size": lambda value: f"at most {value / 1000:g} KB",
        }
        return ", ".join(shown[name](limit) for name, limit in vars(self).items() if limit is not None)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """``chosen`` is None if no candidate keeps to the constraints; ``reason`` is two sentences. ``pareto``: the candidates
    that keep to them and that no other beats in accuracy or epochs without losing in the other."""

    chosen: Candidate | None
    reason: str
    pareto: tuple[Candidate, ...]


def recommend(candidates: Sequence[Candidate], constraints: Constraints, margin: float) -> Recommendation:
    """The cheapest candidate (epochs, then size in KB, then accuracy) among those that keep to ``constraints`` and lie
    within ``margin`` (a fraction) of the most accurate of them: less than the margin is not worth an epoch."""
    feasible = [candidate for candidate in candidates if not constraints.broken_by(candidate)]
    if not feasible:
        return Recommendation(chosen=None, reason=_none_fits(candidates, constraints), pareto=())
    best = max(feasible, key=lambda candidate: candidate.accuracy)
    good = [candidate for candidate in feasible if best.accuracy - candidate.accuracy <= margin]
    chosen = min(good, key=lambda candidate: (candidate.epochs, round(candidate.size / 1000), -candidate.accuracy))
    return Recommendation(chosen=chosen, reason=_reason(chosen, best, good, feasible, constraints, margin), pareto=pareto(feasible))


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other equals in epochs and accuracy and beats in one of them, by epochs."""
    kept = [one for one in candidates if not any(_beats(other, one) for other in candidates)]
    return tuple(sorted(kept, key=lambda candidate: candidate.epochs))


def _beats(other: Candidate, one: Candidate) -> bool:
    no_worse = other.epochs <= one.epochs and other.accuracy >= one.accuracy
    return no_worse and (other.epochs, other.accuracy) != (one.epochs, one.accuracy)


def _reason(
    chosen: Candidate, best: Candidate, good: Sequence[Candidate], feasible: Sequence[Candidate], constraints: Constraints, margin: float
) -> str:
    limits = str(constraints)
    field = f"the {len(feasible)} candidates" + (f" that keep to {limits}" if limits else "")
    if chosen is best:
        place = f"the most accurate of {field}"
    else:
        place = f"within {margin * 100:g} points of the most accurate of {field}, {best.name} with {best.accuracy:.2%}"
    cheaper = "no candidate that good trains for fewer epochs" if len(good) > 1 else "no other comes within the margin"
    return (
        f"Ship {chosen.name}: it reaches {chosen.accuracy:.2%} on validation images, {place}. "
        f"It trains for {chosen.epochs} epochs and {cheaper}; its file has {chosen.size / 1000:.0f} KB and takes "
        f"{chosen.microseconds:.0f} us an image on one thread."
    )


def _none_fits(candidates: Sequence[Candidate], constraints: Constraints) -> str:
    nearest = min(candidates, key=lambda candidate: (len(constraints.broken_by(candidate)), -candidate.accuracy))
    return (
        f"No candidate keeps to {constraints}. The nearest is {nearest.name}, which exceeds the largest "
        f"{' and '.join(constraints.broken_by(nearest))}: drop {nearest.drop * 100:.2f} points, {nearest.microseconds:.0f} us, "
        f"{nearest.epochs} epochs, {nearest.size / 1000:.0f} KB."
    )
