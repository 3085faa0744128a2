"""Which strategy to ship: the plain one, unless evidence speaks for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qstrategies.evidence.candidates import Candidate, Constraints, cheapest, pareto, plainest
from qstrategies.evidence.standing import Standing, Validation, standings
from qstrategies.records import ACCURACY, Metric


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to ship; ``reason`` says in words why, what is shown and what is not.

    ``chosen``: None if no candidate keeps to the constraints. ``best``: the most accurate on
    validation images. ``standing``: how far ``chosen`` lies behind it, None if it is the best.
    ``worse``: what is shown to be worse than the best. ``pareto``: what no other beats in accuracy
    or epochs without losing in the other. All of them keep to the constraints.
    """

    chosen: Candidate | None
    reason: str
    best: Candidate | None = None
    standing: Standing | None = None
    worse: tuple[Candidate, ...] = ()
    pareto: tuple[Candidate, ...] = ()


def recommend(
    candidates: Mapping[Candidate, Validation],
    constraints: Constraints,
    margin: float,
) -> Recommendation:
    """What to ship of those that keep to ``constraints``, by their hits on the validation images.

    Out is what is shown to be more than ``margin`` (a fraction) less accurate than the best. Of the
    rest it is the plainest, or what costs less and is shown to lie within the margin.
    """
    feasible = {one: hits for one, hits in candidates.items() if not constraints.broken_by(one)}
    if not feasible:
        return Recommendation(chosen=None, reason=_none_fits(list(candidates), constraints))
    best = _best(feasible)
    found = standings(best, feasible, margin)
    by_verdict: dict[str, list[Candidate]] = {"worse": [], "within": [], "undecided": []}
    for one, standing in found.items():
        by_verdict[standing.verdict].append(one)
    plain = plainest([best, *by_verdict["within"], *by_verdict["undecided"]])
    chosen = cheapest([plain, best, *by_verdict["within"]])
    limits = f" that keep to {constraints}" if str(constraints) else ""
    said = [
        *_place(chosen, best, found.get(chosen), f"the {len(feasible)} candidates{limits}", margin),
        _left_out(len(by_verdict["worse"]), margin, best.metric),
        _cost(chosen),
        _reach(found[chosen].seeds if chosen in found else len(feasible[best])),
    ]
    return Recommendation(
        chosen=chosen,
        reason=" ".join(filter(None, said)),
        best=best,
        standing=found.get(chosen),
        worse=tuple(by_verdict["worse"]),
        pareto=pareto(feasible),
    )


def _best(candidates: Mapping[Candidate, Validation]) -> Candidate:
    """The most accurate; of several the cheapest."""
    top = max(candidate.accuracy for candidate in candidates)
    return cheapest(candidate for candidate in candidates if candidate.accuracy == top)


def _place(
    chosen: Candidate,
    best: Candidate,
    standing: Standing | None,
    field: str,
    margin: float,
) -> list[str]:
    """What is shown of the choice, what is not, and what would show it."""
    metric = best.metric
    if standing is None:
        figure = f"{_figure(chosen)} on validation images"
        return [f"Ship {chosen.name}: it is {metric.best} of {field}, with {figure}."]
    points = f"{margin * metric.factor:g} {metric.unit} worse"
    top = f"{best.name}, {metric.best} of {field} ({_figure(best)} on validation images)"
    if standing.verdict == "within":
        return [f"Ship {chosen.name}: it is shown to be less than {points} than {top}."]
    plain = ", the plain choice" if chosen.plain else ""
    return [
        f"Ship {chosen.name}{plain}: it is not shown to be more than {points} than {top}.",
        _what_is_open(standing, metric),
        _what_would_decide(standing),
    ]


def _figure(candidate: Candidate) -> str:
    """Its figure, under the name of the metric where that is not accuracy."""
    shown = candidate.metric.shown(candidate.figure)
    return shown if candidate.metric == ACCURACY else f"{candidate.metric.name} {shown}"


def _what_is_open(standing: Standing, metric: Metric) -> str:
    """What keeps "not shown to be worse" from "as good"."""
    loss, low, high, unnoticed = (
        metric.difference(value)
        for value in (standing.loss, standing.low, standing.high, standing.unnoticed)
    )  # fmt: skip
    evidence = f"{_count(standing.seeds, 'seed')} and {standing.images} images"
    return (
        f"That does not show it to be as good: it lies {loss} {metric.unit} behind, 95 % "
        f"interval {low} to {high}, and from {evidence} a loss of less than {unnoticed} "
        f"{metric.unit} goes unnoticed."
    )


def _what_would_decide(standing: Standing) -> str:
    if standing.seeds_needed is not None:
        enough = f"{standing.seeds_needed} seeds in all"
    elif standing.images_needed is not None:
        enough = f"about {standing.images_needed} validation images"
    else:
        enough = "only many more validation images"
    return f"If the difference is what it seems, {enough} would decide it."


def _left_out(worse: int, margin: float, metric: Metric) -> str:
    if not worse:
        return ""
    limit = f"{margin * metric.factor:g} {metric.unit}"
    return f"Shown to be more than {limit} worse: {_count(worse, 'candidate')}."


def _cost(chosen: Candidate) -> str:
    extra = _count(chosen.extra_epochs, "epoch") if chosen.extra_epochs else "no epochs"
    size, time = f"{chosen.size / 1000:.0f} KB", f"{chosen.microseconds:.0f} us an image"
    return (
        f"It trains for {extra} beyond the float model;"
        f" its file has {size} and takes {time} on one thread."
    )  # fmt: skip


def _reach(seeds: int) -> str:
    if seeds > 1:
        return ""
    return "One seed speaks of these trained models only, compare --seeds 5 of the strategies."


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _none_fits(candidates: Sequence[Candidate], constraints: Constraints) -> str:
    def distance(candidate: Candidate) -> tuple[int, float]:
        return len(constraints.broken_by(candidate)), -candidate.accuracy

    nearest = min(candidates, key=distance)
    return (
        f"No candidate keeps to {constraints}. The nearest is {nearest.name}, which exceeds the"
        f" largest {' and '.join(constraints.broken_by(nearest))}: drop"
        f" {nearest.metric.difference(nearest.drop)} {nearest.metric.unit},"
        f" {nearest.microseconds:.0f} us,"
        f" {nearest.epochs} epochs, {nearest.size / 1000:.0f} KB."
    )
