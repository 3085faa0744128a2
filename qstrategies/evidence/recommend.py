"""Which strategy to ship: the plain one, unless it is shown to be worse or something cheaper is shown to be as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qstrategies.evidence.candidates import Candidate, Constraints, cheapest, pareto, plainest
from qstrategies.evidence.standing import Standing, Validation, standings


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """``chosen`` is None if no candidate keeps to the constraints; ``reason`` says in words what is shown and what is not.

    ``best``: the most accurate candidate on validation images. ``standing``: that of ``chosen``, None if it is the best.
    ``worse``: the candidates that are shown to be worse. ``pareto``: those that no other beats in accuracy or epochs
    without losing in the other. All of them keep to the constraints.
    """

    chosen: Candidate | None
    reason: str
    best: Candidate | None = None
    standing: Standing | None = None
    worse: tuple[Candidate, ...] = ()
    pareto: tuple[Candidate, ...] = ()


def recommend(candidates: Mapping[Candidate, Validation], constraints: Constraints, margin: float) -> Recommendation:
    """What to ship of those that keep to ``constraints``, by their hits on the validation images.

    Out is what is shown to be more than ``margin`` (a fraction) less accurate than the most accurate. Of the rest it is
    the plainest, or what costs less (``cheapest``) and is shown to lie within the margin.
    """
    feasible = {one: hits for one, hits in candidates.items() if not constraints.broken_by(one)}
    if not feasible:
        return Recommendation(chosen=None, reason=_none_fits(list(candidates), constraints))
    top = max(candidate.accuracy for candidate in feasible)
    best = cheapest(candidate for candidate in feasible if candidate.accuracy == top)
    found = standings(best, feasible, margin)
    left = [best, *(one for one, standing in found.items() if standing.verdict != "worse")]
    shown = [best, *(one for one, standing in found.items() if standing.verdict == "within")]
    chosen = cheapest([plainest(left), *shown])
    seeds = found[chosen].seeds if chosen in found else len(feasible[best])
    worse = tuple(one for one, standing in found.items() if standing.verdict == "worse")
    field = f"the {len(feasible)} candidates" + (f" that keep to {constraints}" if str(constraints) else "")
    return Recommendation(
        chosen=chosen,
        reason=_reason(chosen, best, found.get(chosen), field, len(worse), margin) + _reach(seeds),
        best=best,
        standing=found.get(chosen),
        worse=worse,
        pareto=pareto(feasible),
    )


def _reason(chosen: Candidate, best: Candidate, standing: Standing | None, field: str, worse: int, margin: float) -> str:
    """What is shown and what is not, what would show it, and what the choice costs."""
    top = f"{best.name}, the most accurate of {field} ({best.accuracy:.2%} on validation images)"
    if standing is None:
        said = [f"Ship {chosen.name}: it is the most accurate of {field}, with {chosen.accuracy:.2%} on validation images."]
    elif standing.verdict == "within":
        said = [f"Ship {chosen.name}: it is shown to be less than {margin * 100:g} points worse than {top}."]
    else:
        plain = ", the plain choice" if chosen.plain else ""
        said = [f"Ship {chosen.name}{plain}: it is not shown to be more than {margin * 100:g} points worse than {top}."]
        said += [_what_is_open(standing), _what_would_decide(standing)]
    if worse:
        said.append(f"Shown to be more than {margin * 100:g} points worse: {_count(worse, 'candidate')}.")
    return " ".join([*said, _cost(chosen)])


def _what_is_open(standing: Standing) -> str:
    """What keeps "not shown to be worse" from "as good"."""
    return (
        f"That does not show it to be as good: it lies {standing.loss * 100:z.2f} points behind, 95 % interval"
        f" {standing.low * 100:z.2f} to {standing.high * 100:z.2f}, and from {_count(standing.seeds, 'seed')} and {standing.images} images"
        f" a loss of less than {standing.unnoticed * 100:.2f} points goes unnoticed."
    )


def _what_would_decide(standing: Standing) -> str:
    if standing.seeds_needed is not None:
        enough = f"{standing.seeds_needed} seeds in all"
    elif standing.images_needed is not None:
        enough = f"about {standing.images_needed} validation images"
    else:
        enough = "only many more validation images"
    return f"If the difference is what it seems, {enough} would decide it."


def _cost(chosen: Candidate) -> str:
    extra = _count(chosen.extra_epochs, "epoch") if chosen.extra_epochs else "no epochs"
    return (
        f"It trains for {extra} beyond the float model; its file has {chosen.size / 1000:.0f} KB and takes"
        f" {chosen.microseconds:.0f} us an image on one thread."
    )


def _reach(seeds: int) -> str:
    return " One seed speaks of these trained models only, compare --seeds 5 of the strategies." if seeds == 1 else ""


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _none_fits(candidates: Sequence[Candidate], constraints: Constraints) -> str:
    nearest = min(candidates, key=lambda candidate: (len(constraints.broken_by(candidate)), -candidate.accuracy))
    return (
        f"No candidate keeps to {constraints}. The nearest is {nearest.name}, which exceeds the largest "
        f"{' and '.join(constraints.broken_by(nearest))}: drop {nearest.drop * 100:.2f} points, {nearest.microseconds:.0f} us, "
        f"{nearest.epochs} epochs, {nearest.size / 1000:.0f} KB."
    )
