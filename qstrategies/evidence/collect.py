"""Records and predictions -> evidence: the drop of every strategy, its flips, and how it compares
with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qstrategies.errors import InputError
from qstrategies.evidence.candidates import Candidate, Constraints
from qstrategies.evidence.paired import holm, mcnemar, paired_difference
from qstrategies.evidence.recommend import Recommendation, recommend
from qstrategies.evidence.standing import Validation
from qstrategies.evidence.verdicts import LEVEL, Comparison, compare_all
from qstrategies.records import (
    ACCURACY,
    MARGIN,
    Metric,
    RunRecord,
    Widths,
    labels,
    machine_class,
)
from qstrategies.records.predictions import Hits, Predictions

REFERENCE = "no_norm"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy at one pair of bit widths, on the test split.

    ``runs``: over ``seeds``, each with up to ``draws`` draws of calibration images. ``change``:
    int8 against its own float model. ``lost``, ``gained``: test images per run whose label turned
    wrong or right; ``significant_runs``: those of ``runs`` for which exact McNemar says that they
    differ, after Holm over runs. ``against``: int8 against the int8 model of ``Evidence.reference``
    at the same widths, over the seeds that both have.
    """

    strategy: str
    weight_bits: int
    activation_bits: int
    levels: str
    seeds: int
    draws: int
    runs: int
    change: Comparison
    lost: float
    gained: float
    significant_runs: int
    against: Comparison | None
    metric: Metric = ACCURACY


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All rows, ``margin`` in units of ``metric`` (a fraction), and what ``recommend`` may choose
    from with its hits on the validation images. Differences are positive where the int8 model, or
    the first of two, is better."""

    rows: tuple[Row, ...]
    candidates: Mapping[Candidate, Validation]
    reference: str
    margin: float
    images: int
    metric: Metric = ACCURACY

    @property
    def seeds(self) -> int:
        """The most seeds that any row has."""
        return max(row.seeds for row in self.rows)

    @property
    def draws(self) -> int:
        """The most draws of calibration images that any row has."""
        return max(row.draws for row in self.rows)


def conclude(
    records: Sequence[RunRecord],
    folder: Path,
    margin: float = MARGIN,
    constraints: Constraints | None = None,
) -> tuple[Evidence | None, Recommendation | None]:
    """The evidence in ``records`` and, where there is a choice, the recommendation: see ``gather``
    and ``recommend``."""
    found = gather(records, folder, margin)
    if found is None or len(found.candidates) < 2:
        return found, None
    return found, recommend(found.candidates, constraints or Constraints(), margin)


Run = tuple[RunRecord, Predictions]
Group = dict[int, dict[int, Run]]
"""The finished runs of one strategy at one pair of widths, by seed and draw of calibration
images."""


def gather(records: Sequence[RunRecord], folder: Path, margin: float) -> Evidence | None:
    """The evidence in the finished ``records``, whose predictions lie in ``folder``; None if none
    has finished.

    Holm's correction is over the strategies at one pair of widths.

    Raises:
        InputError: predictions are missing or damaged, or the seeds of one strategy were tested on
            different images.
    """
    groups: dict[tuple[str, Widths], Group] = {}
    for name, record in zip(labels(records), records, strict=True):
        if record.status == "done":
            config = record.config
            group = groups.setdefault((name, config.quantization.widths), {})
            run = record, Predictions.load(folder / config.run_id)
            group.setdefault(config.seed, {})[config.calibration_draw] = run
    if not groups:
        return None
    for (name, _), group in groups.items():
        _check_paired(name, group)
    _check_machines([record for group in groups.values() for record, _ in _runs(group)])
    names = list(dict.fromkeys(name for name, _ in groups))
    reference = next((name for name in names if name.split()[0] == REFERENCE), names[0])
    rows = []
    for widths in dict.fromkeys(widths for _, widths in groups):
        family = {name: group for (name, others), group in groups.items() if others == widths}
        rows += _rows(family, widths, reference, margin)
    baseline = groups[reference, max(widths for name, widths in groups if name == reference)]
    candidates = {
        _candidate(name, widths, group, baseline, plain=name == reference): _validation(group)
        for (name, widths), group in groups.items()
        if _same_validation(group, baseline)
    }
    order = {key: index for index, key in enumerate(groups)}
    rows.sort(key=lambda row: order[row.strategy, Widths(row.weight_bits, row.activation_bits)])
    record, predictions = _runs(baseline)[0]
    return Evidence(
        rows=tuple(rows),
        candidates=candidates,
        reference=reference,
        margin=margin,
        images=len(predictions.test.labels),
        metric=record.metric,
    )


def _runs(group: Group) -> list[Run]:
    return [run for draws in group.values() for run in draws.values()]


def _hits(draws: Mapping[int, Run], kind: str, split: str = "test") -> Hits:
    """Of the model ``kind``, "int8_hits" or "float_hits": [N], or [draws, N] if there are
    several."""
    found = [getattr(getattr(draws[draw][1], split), kind) for draw in sorted(draws)]
    return np.stack(found) if len(found) > 1 else found[0]


def _rows(family: dict[str, Group], widths: Widths, reference: str, margin: float) -> list[Row]:
    base = family.get(reference, {})
    changes, against = {}, {}
    for name, group in family.items():
        seeds = group.values()
        changes[name] = paired_difference(
            [_hits(draws, "int8_hits") for draws in seeds],
            [_hits(draws, "float_hits") for draws in seeds],
        )
        both = sorted(
            seed
            for seed in group.keys() & base.keys()
            if _same_images(_first(group[seed]), _first(base[seed]))
        )
        if name != reference and both:
            hits = [[_hits(runs[seed], "int8_hits") for seed in both] for runs in (group, base)]
            against[name] = paired_difference(*hits)
    verdicts, comparisons = compare_all(changes, margin), compare_all(against, margin)
    return [
        _row(name, widths, group, verdicts[name], comparisons.get(name))
        for name, group in family.items()
    ]


def _first(draws: Mapping[int, Run]) -> Run:
    return next(iter(draws.values()))


def _check_paired(name: str, group: Group) -> None:
    """Raise ``InputError`` unless all runs were tested on the same images."""
    first, *others = _runs(group)
    for record, predictions in others:
        if not _same_images((record, predictions), first):
            runs = f"{first[0].config.run_id} and {record.config.run_id}"
            raise InputError(
                f"{runs} were not tested on the same images, so {name} has no mean: run "
                "the same compare again"
            )


def _check_machines(records: Sequence[RunRecord]) -> None:
    """Raise ``InputError`` unless all runs of a seed are of one class of machine: what is paired by
    seed begins with the same float model then."""
    first: dict[tuple[str, str, int], RunRecord] = {}
    for record in records:
        config, machine = record.config, machine_class(record.environment)
        if not machine:  # from before it was noted down
            continue
        other = first.setdefault((config.model, config.dataset, config.seed), record)
        if machine_class(other.environment) != machine:
            raise InputError(
                f"{other.config.run_id} ran on {machine_class(other.environment)}, "
                f"{config.run_id} on {machine}: they are not paired, since their float models "
                "differ; remove one, or give another --out"
            )


def _same_images(one: Run, other: Run) -> bool:
    same_metric = one[0].metric == other[0].metric
    return same_metric and np.array_equal(one[1].test.labels, other[1].test.labels)


def _row(
    name: str, widths: Widths, group: Group, change: Comparison, against: Comparison | None
) -> Row:
    tests = [run.test for _, run in _runs(group)]
    lost = [int((test.int8_hits < test.float_hits).sum()) for test in tests]
    gained = [int((test.int8_hits > test.float_hits).sum()) for test in tests]
    p_values = holm([mcnemar(*flips) for flips in zip(lost, gained, strict=True)])
    return Row(
        strategy=name,
        weight_bits=widths.weights,
        activation_bits=widths.activations,
        levels=str(_runs(group)[0][0].config.quantization.level_set),
        seeds=len(group),
        draws=max(map(len, group.values())),
        runs=len(tests),
        change=change,
        lost=float(np.mean(lost)),
        gained=float(np.mean(gained)),
        significant_runs=sum(p <= LEVEL for p in p_values),
        against=against,
        metric=_runs(group)[0][0].metric,
    )


def _validation(group: Group) -> Validation:
    return {seed: _hits(draws, "int8_hits", "validation") for seed, draws in group.items()}


def _same_validation(group: Group, baseline: Group) -> bool:
    """Whether both were validated on the same images: accuracies on others, as of another dataset,
    cannot be compared."""
    splits = [run.validation.labels for _, run in (*_runs(group), *_runs(baseline))]
    return all(np.array_equal(labels, splits[0]) for labels in splits)


def _candidate(
    name: str, widths: Widths, group: Group, baseline: Group, *, plain: bool
) -> Candidate:
    records = [record for record, _ in _runs(group)]
    accuracy = float(np.mean([hits.mean() for hits in _validation(group).values()]))
    float_accuracy = float(
        np.mean([run.validation.float_hits.mean() for _, run in _runs(baseline)])
    )
    return Candidate(
        strategy=name,
        weight_bits=widths.weights,
        activation_bits=widths.activations,
        accuracy=accuracy,
        drop=float_accuracy - accuracy,
        epochs=max(record.epochs_before + len(record.curve) for record in records),
        extra_epochs=max(len(record.curve) if record.starts_from else 0 for record in records),
        microseconds=float(np.mean([record.speeds[-1].microseconds_batch_1 for record in records])),
        size=max(record.sizes["portable"] for record in records),
        plain=plain,
        metric=records[0].metric,
    )
