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
from qstrategies.records import MARGIN, RunRecord, labels
from qstrategies.records.predictions import Predictions

REFERENCE = "no_norm"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy at one bit width, on the test split.

    ``change``: int8 against its own float model. ``lost``, ``gained``: test images per seed whose
    label turned wrong or right; ``significant_seeds``: those of ``seeds`` for which exact McNemar
    says that they differ, after Holm over seeds. ``against``: int8 against the int8 model of
    ``Evidence.reference`` at the same width, over the seeds that both have.
    """

    strategy: str
    weight_bits: int
    levels: str
    seeds: int
    change: Comparison
    lost: float
    gained: float
    significant_seeds: int
    against: Comparison | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All rows, ``margin`` as a fraction, and what ``recommend`` may choose from with its hits on
    the validation images."""

    rows: tuple[Row, ...]
    candidates: Mapping[Candidate, Validation]
    reference: str
    margin: float
    images: int

    @property
    def seeds(self) -> int:
        """The most seeds that any row has."""
        return max(row.seeds for row in self.rows)


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


Group = dict[int, tuple[RunRecord, Predictions]]
"""The finished runs of one strategy at one bit width, by seed."""


def gather(records: Sequence[RunRecord], folder: Path, margin: float) -> Evidence | None:
    """The evidence in the finished ``records``, whose predictions lie in ``folder``; None if none
    has finished.

    Holm's correction is over the strategies at one bit width.

    Raises:
        InputError: predictions are missing or damaged, or the seeds of one strategy were tested on
            different images.
    """
    groups: dict[tuple[str, int], Group] = {}
    for name, record in zip(labels(records), records, strict=True):
        if record.status == "done":
            key = name, record.config.quantization.weight_bits
            groups.setdefault(key, {})[record.config.seed] = (
                record,
                Predictions.load(folder / record.config.run_id),
            )
    if not groups:
        return None
    for (name, _), group in groups.items():
        _check_paired(name, group)
    names = list(dict.fromkeys(name for name, _ in groups))
    reference = next((name for name in names if name.split()[0] == REFERENCE), names[0])
    rows = []
    for bits in dict.fromkeys(bits for _, bits in groups):
        family = {name: group for (name, width), group in groups.items() if width == bits}
        rows += _rows(family, bits, reference, margin)
    baseline = groups[reference, max(bits for name, bits in groups if name == reference)]
    candidates = {
        _candidate(name, bits, group, baseline, plain=name == reference): _validation(group)
        for (name, bits), group in groups.items()
        if _same_validation(group, baseline)
    }
    order = {key: index for index, key in enumerate(groups)}
    rows.sort(key=lambda row: order[row.strategy, row.weight_bits])
    images = len(next(iter(baseline.values()))[1].test.labels)
    return Evidence(
        rows=tuple(rows), candidates=candidates, reference=reference, margin=margin, images=images
    )


def _rows(family: dict[str, Group], bits: int, reference: str, margin: float) -> list[Row]:
    base = family.get(reference, {})
    changes, against = {}, {}
    for name, group in family.items():
        tests = [run.test for _, run in group.values()]
        changes[name] = paired_difference(
            [test.int8_hits for test in tests], [test.float_hits for test in tests]
        )
        both = sorted(
            seed for seed in group.keys() & base.keys() if _same_images(group[seed], base[seed])
        )
        if name != reference and both:
            hits = [[runs[seed][1].test.int8_hits for seed in both] for runs in (group, base)]
            against[name] = paired_difference(*hits)
    verdicts, comparisons = compare_all(changes, margin), compare_all(against, margin)
    return [
        _row(name, bits, group, verdicts[name], comparisons.get(name))
        for name, group in family.items()
    ]


def _check_paired(name: str, group: Group) -> None:
    """Raise ``InputError`` unless all seeds were tested on the same images."""
    first, *others = group.values()
    for record, predictions in others:
        if not _same_images((record, predictions), first):
            runs = f"{first[0].config.run_id} and {record.config.run_id}"
            raise InputError(
                f"{runs} were not tested on the same images, so {name} has no mean: run "
                "the same compare again"
            )


def _same_images(one: tuple[RunRecord, Predictions], other: tuple[RunRecord, Predictions]) -> bool:
    return np.array_equal(one[1].test.labels, other[1].test.labels)


def _row(name: str, bits: int, group: Group, change: Comparison, against: Comparison | None) -> Row:
    tests = [run.test for _, run in group.values()]
    lost = [int((test.float_hits & ~test.int8_hits).sum()) for test in tests]
    gained = [int((~test.float_hits & test.int8_hits).sum()) for test in tests]
    p_values = holm([mcnemar(*flips) for flips in zip(lost, gained, strict=True)])
    return Row(
        strategy=name,
        weight_bits=bits,
        levels=str(next(iter(group.values()))[0].config.quantization.level_set),
        seeds=len(group),
        change=change,
        lost=float(np.mean(lost)),
        gained=float(np.mean(gained)),
        significant_seeds=sum(p <= LEVEL for p in p_values),
        against=against,
    )


def _validation(group: Group) -> Validation:
    return {seed: run.validation.int8_hits for seed, (_, run) in group.items()}


def _same_validation(group: Group, baseline: Group) -> bool:
    """Whether both were validated on the same images: accuracies on others, as of another dataset,
    cannot be compared."""
    splits = [run.validation.labels for runs in (group, baseline) for _, run in runs.values()]
    return all(np.array_equal(labels, splits[0]) for labels in splits)


def _candidate(name: str, bits: int, group: Group, baseline: Group, *, plain: bool) -> Candidate:
    records = [record for record, _ in group.values()]
    accuracy = float(np.mean([run.validation.int8_hits.mean() for _, run in group.values()]))
    float_accuracy = float(
        np.mean([run.validation.float_hits.mean() for _, run in baseline.values()])
    )
    return Candidate(
        strategy=name,
        weight_bits=bits,
        accuracy=accuracy,
        drop=float_accuracy - accuracy,
        epochs=max(record.epochs_before + len(record.curve) for record in records),
        extra_epochs=max(len(record.curve) if record.starts_from else 0 for record in records),
        microseconds=float(np.mean([record.speeds[-1].microseconds_batch_1 for record in records])),
        size=max(record.sizes["portable"] for record in records),
        plain=plain,
    )
