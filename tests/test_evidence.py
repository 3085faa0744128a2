"""Statistics against known cases, independent formulas and simulation."""

import dataclasses
import json
import math

import numpy as np
import pytest

from qstrategies.errors import InputError
from qstrategies.evidence import compare_all, conclude, holm, mcnemar, paired_difference
from qstrategies.evidence.verdicts import seeds_needed
from qstrategies.records import (
    Epoch,
    ExperimentConfig,
    QuantizationConfig,
    RunRecord,
    Speed,
    WeightHistogram,
)
from qstrategies.records.predictions import FILE, Predictions, SplitPredictions
from qstrategies.report import evidence as report
from qstrategies.report import table
from qstrategies.report.write import as_text, write_report

REPETITIONS, DRAWS = 400, 2000
SURE = 3 * math.sqrt(0.05 * 0.95 / REPETITIONS)  # three standard deviations of a rate of 5 %


def simulated(random, seeds, images, *, seed_effect=0.0, image_effect=0.0, change=0.0, flips=0.03):
    """Hits of two models: the second is right where the first is, but for flips, with random
    effects on their direction."""
    first = random.random((seeds, images)) < 0.97
    direction = (
        random.normal(0, seed_effect, (seeds, 1))
        + random.normal(0, image_effect, images)
        + change / flips
    )
    flipped = random.random((seeds, images)) < flips
    gains = random.random((seeds, images)) < np.clip(0.5 + direction / 2, 0, 1)
    hits = np.where(flipped, gains, first)
    return hits, np.where(flipped, ~gains, first)


SETTINGS = {
    "one seed": {"seeds": 1},
    "no effects": {"seeds": 5},
    "seed effects": {"seeds": 5, "seed_effect": 0.3},
    "image effects": {"seeds": 5, "image_effect": 0.6},
    "both, few flips": {"seeds": 3, "seed_effect": 0.3, "image_effect": 0.4, "flips": 0.005},
    "a real change": {"seeds": 5, "seed_effect": 0.2, "image_effect": 0.3, "change": 0.004},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_intervals_cover_at_their_nominal_rate(setting):
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(REPETITIONS):
        low, high = paired_difference(
            *simulated(random, images=2000, **setting), draws=DRAWS
        ).interval()
        covered += low <= setting.get("change", 0) <= high
    assert covered / REPETITIONS >= 0.95 - SURE
    assert covered / REPETITIONS <= 0.99, "no wider than need be"


def nested(random, seeds, draws, *, seed_effect=0.0, draw_effect=0.0, flips=0.05):
    """Hits [draws, 1000] per seed of two models, with random effects on the direction of flips: of
    seeds, of draws of calibration images within each, and of images."""
    shape = (seeds, draws, 1000)
    direction = (
        random.normal(0, seed_effect, (seeds, 1, 1))
        + random.normal(0, draw_effect, (seeds, draws, 1))
        + random.normal(0, 0.3, 1000)
    )
    flipped = random.random(shape) < flips
    gains = random.random(shape) < np.clip(0.5 + direction / 2, 0, 1)
    return flipped & gains, flipped & ~gains


NESTED = {
    "seeds vary": {"seeds": 4, "draws": 5, "seed_effect": 0.4},
    "draws vary": {"seeds": 5, "draws": 3, "draw_effect": 0.4},
    "both vary": {"seeds": 3, "draws": 2, "seed_effect": 0.3, "draw_effect": 0.3},
    "draws of one seed": {"seeds": 1, "draws": 5, "draw_effect": 0.4},
}


@pytest.mark.parametrize("setting", NESTED.values(), ids=NESTED)
def test_intervals_cover_where_draws_are_nested_in_seeds(setting):
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(REPETITIONS):
        low, high = paired_difference(*nested(random, **setting), draws=DRAWS).interval()
        covered += low <= 0 <= high
    assert covered / REPETITIONS >= 0.95 - SURE


def test_draws_of_one_seed_do_not_pass_for_seeds():
    random, covered = np.random.default_rng(8), 0
    for _ in range(REPETITIONS):
        runs = [hits.reshape(20, -1) for hits in nested(random, **NESTED["seeds vary"])]
        low, high = paired_difference(*runs, draws=DRAWS).interval()
        covered += low <= 0 <= high
    assert covered / REPETITIONS < 0.85, "the simulation can tell"


def test_draws_and_seeds_are_counted_apart():
    first, second = nested(np.random.default_rng(9), 3, 2, seed_effect=0.3)
    both = paired_difference(first, second)
    means = (first.mean((1, 2)) - second.mean((1, 2))).var(ddof=1)
    assert both.seeds == 3 and both.seed_variance == pytest.approx(means)
    one = paired_difference(first[:1], second[:1])
    assert one.seeds == 1 and one.seed_variance > 0
    against_one_draw = paired_difference(first[:1], second[:1, 0])
    assert against_one_draw.seeds == 1 and against_one_draw.seed_variance == 0


@pytest.mark.parametrize("strategies", [1, 7])
def test_better_or_worse_under_no_difference_is_said_in_at_most_5_percent(strategies):
    random = np.random.default_rng(2)
    wrong = 0
    for _ in range(REPETITIONS):
        differences = {
            str(number): paired_difference(
                *simulated(random, 5, 500, seed_effect=0.2, image_effect=0.3), draws=DRAWS
            )
            for number in range(strategies)
        }
        verdicts = [item.verdict for item in compare_all(differences, margin=1e-5).values()]
        wrong += "better" in verdicts or "worse" in verdicts
    assert wrong / REPETITIONS <= 0.05 + SURE


def test_equivalent_at_the_margin_is_said_in_at_most_5_percent():
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(REPETITIONS):
        item = paired_difference(
            *simulated(random, 5, 2000, image_effect=0.3, change=0.004), draws=DRAWS
        )
        wrong += compare_all({"x": item}, margin=0.004)["x"].verdict == "equivalent"
    assert wrong / REPETITIONS <= 0.05 + SURE


def test_the_variance_is_that_of_crossed_random_effects():
    hits, others = simulated(np.random.default_rng(4), 6, 5000, seed_effect=0.3, image_effect=0.5)
    found = paired_difference(hits, others)
    d = hits.astype(float) - others
    s, n = d.shape
    error = (
        ((d - d.mean(0) - d.mean(1, keepdims=True) + d.mean()) ** 2).sum() / (s - 1) / (n - 1)
    )  # mean squares of a two-way table
    rows, columns = n * d.mean(1).var(ddof=1), s * d.mean(0).var(ddof=1)
    assert found.mean == pytest.approx(d.mean())
    assert found.seed_variance == pytest.approx(rows / n)
    assert (
        0 <= found.image_variance - (columns - error) / s / n <= 2 / n**2
    )  # one flip each way is added
    spread = (
        found.image_variance + found.seed_variance / s * 5 / 3
    )  # variance of Student's t with 5 degrees of freedom
    assert found.draws.var() == pytest.approx(spread, rel=0.05)


def test_no_flip_at_all_is_no_proof_of_none():
    same = np.ones((1, 1000), bool)
    low, high = paired_difference(same, same).interval()
    assert -0.006 < low < -0.001 and 0.001 < high < 0.006  # 3 / N is the classical bound for 0 of N


def test_one_seed_is_a_bootstrap_over_images():
    first, second = simulated(np.random.default_rng(5), 1, 3000)
    found = paired_difference(first, second)
    d = first[0].astype(float) - second[0]
    plain = [np.random.default_rng(seed).choice(d, len(d)).mean() for seed in range(1000)]
    assert found.draws.std() == pytest.approx(np.std(plain), rel=0.1)
    assert found.interval()[0] == pytest.approx(
        np.quantile(plain, 0.025), abs=0.15 * np.std(plain) + 1 / len(d)
    )


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 5), (1, 9), (30, 12), (0, 6)])
def test_mcnemar_is_twice_the_binomial_tail(lost, gained):
    n, k = lost + gained, max(lost, gained)
    tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
    assert mcnemar(lost, gained) == pytest.approx(min(1, 2 * tail)) == mcnemar(gained, lost)


def test_holm_known_case_and_bounds():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []


@pytest.mark.parametrize(
    ("change", "seeds", "margin", "verdict"),
    [
        (0.02, 5, 0.001, "better"),
        (-0.02, 5, 0.001, "worse"),
        (0, 5, 0.02, "equivalent"),
        (0.003, 2, 0.001, "undecided"),
    ],
)
def test_every_verdict_is_reached(change, seeds, margin, verdict):
    item = paired_difference(
        *simulated(np.random.default_rng(6), seeds, 4000, seed_effect=0.1, change=change)
    )
    assert compare_all({"x": item}, margin)["x"].verdict == verdict


def test_a_shown_difference_below_the_margin_is_equivalent():
    item = paired_difference(*simulated(np.random.default_rng(6), 5, 20_000, change=0.004))
    assert item.p_different < 0.01 and compare_all({"x": item}, 0.02)["x"].verdict == "equivalent"


def test_so_many_seeds_as_are_said_to_be_needed_decide_and_one_less_does_not():
    item = paired_difference(
        *simulated(np.random.default_rng(7), 3, 20_000, seed_effect=0.3, change=0.003)
    )
    needed = seeds_needed(item, 0.001, 0.05)
    assert needed > 3
    spread = math.sqrt(item.seed_variance)
    for seeds, decided in ((needed, True), (needed - 1, False)):
        random = np.random.default_rng(0)
        mean = item.mean + random.standard_t(seeds - 1, 200_000) * spread / math.sqrt(seeds)
        mean = mean + random.normal(0, math.sqrt(item.image_variance), mean.size)
        assert (2 * (mean <= 0).mean() < 0.052) is decided or abs(
            2 * (mean <= 0).mean() - 0.05
        ) < 0.01
    assert seeds_needed(dataclasses.replace(item, seeds=1), 0.001, 0.05) is None
    assert seeds_needed(dataclasses.replace(item, image_variance=1.0), 0.001, 0.05) is None, (
        "no number of seeds replaces images"
    )


def finished(folder, strategy, seed, bits=8, *, draw=0, wrong=0, wrong_in_validation=0):
    """A record and its predictions: float all right, int8 wrong on the first images."""
    config = ExperimentConfig(
        strategy=strategy,
        seed=seed,
        calibration_draw=draw,
        quantization=QuantizationConfig(weight_bits=bits),
    )
    histogram = WeightHistogram(
        when="training", epoch=1, low=-1.0, high=1.0, max_abs=1.0, sigma=0.5, counts=(1, 2)
    )
    speed = Speed(
        file="m",
        microseconds_batch_1=50.0,
        images_per_second_batch_256=1.0,
        speedup_batch_1=1.0,
        speedup_batch_256=1.0,
    )
    labels = np.arange(1000) % 10
    splits = [
        SplitPredictions(labels, labels, np.where(np.arange(1000) < count, labels + 1, labels))
        for count in (wrong_in_validation, wrong)
    ]
    Predictions(*splits).save(folder / config.run_id)
    curve = (Epoch(loss=1.0, accuracy=0.9, seconds=1.0),)
    accuracies = {"float_accuracy": 1.0, "int8_accuracy": 1 - wrong / 1000}
    more = {
        "speeds": (speed,),
        "curve": curve,
        "histograms": (histogram,),
        "sizes": {"portable": 1},
    }
    return RunRecord(config=config, status="done", **accuracies, **more)


@pytest.fixture
def runs(tmp_path):
    return [
        finished(tmp_path, name, seed, wrong=count + seed, wrong_in_validation=2)
        for name, count in (("no_norm", 40), ("qat", 1), ("clamp", 40))
        for seed in (0, 1, 2)
    ]


def test_evidence_is_paired_by_seed_and_image(runs, tmp_path):
    found, advice = conclude(runs, tmp_path)
    rows = {row.strategy: row for row in found.rows}
    assert (
        rows["no_norm"].against is None
        and rows["no_norm"].lost == 41
        and rows["no_norm"].gained == 0
    )
    assert (
        rows["no_norm"].change.difference == pytest.approx(-0.041)
        and rows["no_norm"].significant_runs == 3
    )
    assert rows["qat"].against.verdict == "better" and rows[
        "qat"
    ].against.difference == pytest.approx(0.039)
    assert rows["clamp"].against.difference == 0 and rows["clamp"].against.low >= -0.003
    assert advice.chosen is not None


def test_draws_are_replicates_within_a_seed(tmp_path):
    runs = [
        finished(tmp_path, name, seed, draw=draw, wrong=count + seed + draw)
        for name, count, draws in (("no_norm", 40, (0, 1)), ("qat", 1, (0,)))
        for seed in (0, 1, 2)
        for draw in draws
    ]
    found, _ = conclude(runs, tmp_path)
    plain, trained = found.rows
    assert (plain.seeds, plain.draws, plain.runs, trained.runs) == (3, 2, 6, 3)
    assert plain.change.seeds == 3 and plain.change.difference == pytest.approx(-0.0415)
    assert trained.against.difference == pytest.approx(0.0395)
    shown = report.grid(found)
    assert [row[report.HEADERS.index("seeds")] for row in shown.rows] == ["3 x 2", "3"]
    assert "3 seeds x 2 draws of calibration images" in shown.notes
    summary = table.summarise(runs)[1]
    assert (summary.seeds, summary.draws) == (3, 2)
    assert summary.spread["int8_accuracy"] == pytest.approx(0.001), "over the seeds"


def test_the_recommendation_does_not_see_the_test_split(runs, tmp_path):
    _, before = conclude(runs, tmp_path)
    for record in runs:
        folder = tmp_path / record.config.run_id
        kept = Predictions.load(folder)
        dataclasses.replace(
            kept, test=dataclasses.replace(kept.test, int8=kept.test.labels[::-1].copy())
        ).save(folder)
    assert conclude(runs, tmp_path)[1] == before


def test_strategies_are_compared_over_the_seeds_that_both_have(runs, tmp_path):
    found, _ = conclude(
        [record for record in runs if record.label != "qat" or record.config.seed], tmp_path
    )
    assert {row.strategy: row.against and row.against.seeds for row in found.rows} == {
        "no_norm": None,
        "qat": 2,
        "clamp": 3,
    }


def test_one_seed_says_how_little_it_shows_and_several_do_not(runs, tmp_path):
    one, several = conclude(runs[::3], tmp_path)[0], conclude(runs, tmp_path)[0]
    assert report.notes(one).startswith("One seed: nothing can be concluded")
    assert "from 3 seeds" in report.notes(several)


def test_no_drop_is_written_without_a_sign(tmp_path):
    (row,) = conclude([finished(tmp_path, "no_norm", 0, wrong=0, wrong_in_validation=0)], tmp_path)[
        0
    ].rows
    assert row.change.difference == 0 and report.cells(row)[
        report.HEADERS.index("drop, {unit}")
    ].startswith("0.00 [")


def test_text_markdown_and_data_say_the_same(runs, tmp_path):
    found, advice = conclude(runs, tmp_path)
    text, markdown, data = (
        report.grid(found).as_text(),
        report.grid(found).as_markdown(),
        report.as_data(found, advice),
    )
    for row, item in zip(found.rows, data["evidence"]["rows"], strict=True):
        assert item["change"]["difference"] == row.change.difference
        for cell in report.cells(row):
            assert cell in text and cell in markdown
    written = write_report(runs, tmp_path, found, advice)
    assert (
        advice.reason in (tmp_path / "summary.md").read_text()
        and tmp_path / "pareto.png" in written
    )
    assert data["recommendation"]["reason"] == advice.reason and advice.reason in as_text(
        runs, tmp_path, found, advice
    )
    assert data["recommendation"]["chosen"] == dataclasses.asdict(advice.chosen)
    assert (
        json.loads((tmp_path / "summary.json").read_text())["recommendation"]["reason"]
        == advice.reason
    )


def test_a_candidate_that_was_validated_on_other_images_is_none(runs, tmp_path):
    for record in runs[3:6]:
        folder = tmp_path / record.config.run_id
        kept = Predictions.load(folder)
        others = dataclasses.replace(kept.validation, labels=kept.validation.labels[::-1].copy())
        dataclasses.replace(kept, validation=others).save(folder)
    found, _ = conclude(runs, tmp_path)
    assert {runs[3].config.strategy, *(candidate.strategy for candidate in found.candidates)} == {
        "no_norm",
        "qat",
        "clamp",
    }
    assert len(found.candidates) == 2


def test_damaged_predictions_are_a_clear_error(runs, tmp_path):
    path = tmp_path / runs[0].config.run_id / FILE
    for content, message in (
        (b"PK\x03\x04 half", "does not hold the predictions"),
        (b"", "does not hold the predictions"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            conclude(runs, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="is missing: run the same compare again"):
        conclude(runs, tmp_path)


def test_runs_on_other_images_are_not_paired(runs, tmp_path):
    """As those of another dataset, or of one that changed in the meantime."""

    def on_other_images(record):
        folder = tmp_path / record.config.run_id
        kept = Predictions.load(folder).test
        test = SplitPredictions(*(array[1:] for array in (kept.labels, kept.float, kept.int8)))
        Predictions(test, test).save(folder)

    by_name = {
        name: [record for record in runs if record.label == name]
        for name in ("no_norm", "qat", "clamp")
    }
    for record in by_name["qat"]:
        on_other_images(record)
    found, _ = conclude(by_name["no_norm"] + by_name["qat"], tmp_path)
    assert {row.strategy: row.against for row in found.rows} == {"no_norm": None, "qat": None}
    on_other_images(by_name["clamp"][1])
    with pytest.raises(
        InputError,
        match=r"clamp-w8-s0-\w+ and clamp-w8-s1-\w+ were not tested on the same images, so clamp has no mean",
    ):
        conclude(runs, tmp_path)


def test_many_classes_keep_their_numbers(tmp_path):
    labels = np.arange(1000)
    Predictions(
        SplitPredictions(labels, labels, labels), SplitPredictions(labels, labels, labels[::-1])
    ).save(tmp_path)
    assert Predictions.load(tmp_path).test.int8[0] == 999


def test_runs_of_one_seed_on_two_classes_of_machine_are_not_paired(runs, tmp_path):
    one = {"machine": "x86_64", "cpu_flags": ["avx2"], "threads": 2}
    mixed = [dataclasses.replace(each, environment=one) for each in runs]
    conclude(mixed, tmp_path)
    mixed[-1] = dataclasses.replace(mixed[-1], environment={**one, "threads": 1})
    with pytest.raises(InputError, match="no_norm.*2 threads.*clamp.*1 threads: .*not paired"):
        conclude(mixed, tmp_path)
