"""What is recommended: against constraints, against known hits, and by simulation."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import advice as simulation

from qstrategies.errors import InputError
from qstrategies.evidence import Candidate, Constraints, paired_difference, recommend
from qstrategies.evidence.candidates import cheapest, plainest
from qstrategies.evidence.standing import images_to_place, standings
from qstrategies.evidence.verdicts import seeds_to_place
from qstrategies.records import MARGIN
from qstrategies.report.plots import pareto

IMAGES = 20_000


def hits(wrong, first=0, images=IMAGES):
    """Wrong on ``wrong`` images from ``first`` on."""
    found = np.ones(images, bool)
    found[first : first + wrong] = False
    return found


def candidate(name, by_seed, *, extra=0, size=100_000, microseconds=50.0, bits=8, plain=False):
    """A candidate with its hits; its drop is that against a float model which is right about 99
    %."""
    accuracy = float(np.mean([found.mean() for found in by_seed]))
    made = Candidate(
        strategy=name,
        weight_bits=bits,
        accuracy=accuracy,
        drop=0.99 - accuracy,
        epochs=3 + extra,
        extra_epochs=extra,
        microseconds=microseconds,
        size=size,
        plain=plain,
    )
    return made, dict(enumerate(by_seed))


CANDIDATES = dict(
    [
        candidate("plain", [hits(210)], plain=True),
        candidate("long", [hits(200)], extra=6),
        candidate("small", [hits(400)], size=50_000),
        candidate("quick", [hits(600)], microseconds=20.0),
    ]
)


@pytest.mark.parametrize(
    ("constraints", "margin", "chosen"),
    [
        ({}, 0.001, "plain"),
        ({}, 0.0001, "long"),
        ({}, 0.05, "small"),
        ({"size": 60_000}, 0.001, "small"),
        ({"microseconds": 30}, 0.001, "quick"),
        ({"epochs": 3}, 0.0001, "plain"),
        ({"drop": 0.0002}, 0.05, "long"),
        ({"size": 1000}, 0.001, None),
    ],
)
def test_the_cheapest_that_is_good_enough_and_keeps_to_the_constraints_is_chosen(
    constraints, margin, chosen
):
    advice = recommend(CANDIDATES, Constraints(**constraints), margin)
    assert (advice.chosen and advice.chosen.strategy) == chosen
    kept = [*advice.pareto, *advice.worse, *([advice.chosen, advice.best] if chosen else [])]
    assert not any(Constraints(**constraints).broken_by(item) for item in kept)
    assert advice.reason.startswith(
        f"Ship {chosen} at 8 bits"
        if chosen
        else "No candidate keeps to at most 1 KB. The nearest is "
    )


def test_the_pareto_set_is_what_nothing_beats():
    advice = recommend(CANDIDATES, Constraints(), 0.001)
    assert [item.strategy for item in advice.pareto] == ["plain", "long"]


def test_equal_candidates_are_named_side_by_side():
    equal = [candidate(name, [hits(20)], extra=1) for name in ("a", "b")]
    tied = [candidate("plain", [hits(30)], plain=True), *equal]
    advice = recommend(dict(tied), Constraints(), 0.001)
    figure = pareto([made for made, _ in tied], advice)
    places = [text.xy for text in figure.axes[0].texts]
    assert len(places) == len(set(places)) == 2
    assert "a at 8 bits, b at 8 bits" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    "limit",
    [{"drop": 2.0}, {"drop": -0.05}, {"epochs": 0}, {"size": 0}, {"microseconds": math.nan}],
)
def test_a_constraint_out_of_range_is_refused(limit):
    with pytest.raises(InputError, match=f"largest {next(iter(limit))} .* is out of range"):
        Constraints(**limit)


def test_a_lead_of_a_handful_of_images_is_no_reason_to_train_longer():
    runs = dict(
        [
            candidate("no_norm", [hits(52, images=5000)], plain=True),
            candidate("no_norm", [hits(60, 30, images=5000)], bits=4, plain=True),
            candidate("qat", [hits(50, 20, images=5000)], extra=1),
            candidate("qat", [hits(47, 20, images=5000)], bits=4, extra=1),
        ]
    )
    advice = recommend(runs, Constraints(), MARGIN)
    assert (advice.chosen.name, advice.best.name) == ("no_norm at 8 bits", "qat at 4 bits")
    assert advice.standing.verdict == "undecided" and advice.standing.loss == pytest.approx(0.001)
    for said in (
        "the plain choice",
        "not shown to be more than 0.1 points worse",
        "does not show it to be as good",
        "One seed speaks",
    ):
        assert said in advice.reason
    assert "only many more validation images would decide it" in advice.reason, (
        "what it seems to lose is the margin"
    )


def test_it_says_how_many_images_would_decide():
    runs = dict(
        [
            candidate("no_norm", [hits(60, images=5000)], plain=True),
            candidate("qat", [hits(50, 20, images=5000)], extra=1),
        ]
    )
    advice = recommend(runs, Constraints(), MARGIN)
    assert (
        advice.standing.images_needed == 17_000
        and "about 17000 validation images would decide it" in advice.reason
    )


def test_the_plain_choice_is_left_where_it_is_shown_to_be_worse():
    runs = dict(
        [candidate("no_norm", [hits(4000)], plain=True), candidate("qat", [hits(200)], extra=1)]
    )
    advice = recommend(runs, Constraints(), MARGIN)
    assert advice.chosen.strategy == "qat" and [item.strategy for item in advice.worse] == [
        "no_norm"
    ]
    assert "Shown to be more than 0.1 points worse: 1 candidate." in advice.reason


def test_two_seeds_suffice_to_leave_out_what_lost_half_of_its_accuracy_at_both():
    random = np.random.default_rng(0)
    lost = [random.random(5000) < share for share in (0.5, 0.3)]
    best = [random.random(5000) < 0.99 for _ in range(2)]
    difference = paired_difference(best, lost)
    assert difference.p_above(MARGIN) > 0.05, "two seeds alone say nothing of others"
    runs = dict([candidate("no_norm", lost, plain=True), candidate("clamp", best, extra=1)])
    assert recommend(runs, Constraints(), MARGIN).chosen.strategy == "clamp"
    mixed = dict(
        [candidate("no_norm", [lost[0], best[1]], plain=True), candidate("clamp", best, extra=1)]
    )
    assert recommend(mixed, Constraints(), MARGIN).standing.verdict == "undecided", (
        "it was as good at one seed"
    )


def test_a_smaller_file_is_chosen_once_it_is_shown_to_be_as_good():
    plain, best = (
        candidate("no_norm", [hits(200)], plain=True),
        candidate("qat", [hits(199)], extra=1),
    )
    sure, unsure = (
        candidate("no_norm", [found], bits=4, size=50_000, plain=True)
        for found in (hits(203), hits(203, 150))
    )
    for small, bits, verdict in ((sure, 4, "within"), (unsure, 8, "within")):
        advice = recommend(dict([plain, best, small]), Constraints(), MARGIN)
        assert (advice.chosen.weight_bits, advice.standing.verdict) == (bits, verdict)
    assert "it is shown to be less than 0.1 points worse than qat at 8 bits" in advice.reason


def test_sizes_and_times_that_are_alike_do_not_decide():
    plain, _ = candidate("no_norm", [hits(9)], plain=True, size=44_300, microseconds=47)
    other, _ = candidate("clamp", [hits(1)], size=43_900, microseconds=32)
    fast, _ = candidate("clamp", [hits(1)], microseconds=20, bits=4)
    assert cheapest([other, plain]) == plainest([other, plain]) == plain
    slow, _ = candidate("no_norm", [hits(9)], plain=True, microseconds=47)
    assert cheapest([slow, fast]) == fast


def test_of_equally_accurate_ones_the_cheapest_counts_as_the_best():
    runs = dict(
        [candidate("qat", [hits(10)], extra=1), candidate("no_norm", [hits(10, 50)], plain=True)]
    )
    advice = recommend(runs, Constraints(), MARGIN)
    assert (
        advice.chosen == advice.best
        and advice.chosen.plain
        and "it is the most accurate of the 2 candidates" in advice.reason
    )


def test_strategies_without_a_common_seed_are_still_compared():
    best, found = candidate("qat", [hits(10), hits(12)], extra=1)
    other, theirs = candidate("no_norm", [hits(500)], plain=True)
    standing = standings(best, {best: found, other: {7: theirs[0]}}, MARGIN)[other]
    assert standing.verdict == "worse" and standing.seeds == 1


def test_p_values_are_corrected_for_the_number_of_candidates():
    best = candidate("best", [hits(100)], extra=1)
    one = candidate("no_norm", [hits(133)], plain=True)
    p_value = paired_difference([hits(100)], [hits(133)]).p_above(MARGIN)
    assert 0.05 / 20 < p_value < 0.05
    assert standings(best[0], dict([best, one]), MARGIN)[one[0]].verdict == "worse"
    more = [candidate(f"s{number}", [hits(100, 40)], extra=1) for number in range(20)]
    assert standings(best[0], dict([best, one, *more]), MARGIN)[one[0]].verdict == "undecided"


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_loss_goes_unnoticed_up_to_what_is_said_and_no_further(seeds):
    random = np.random.default_rng(1)
    best = [hits(100) for _ in range(seeds)]
    other = [hits(130, int(random.integers(40, 60))) for _ in range(seeds)]
    made, found = candidate("best", best)
    against, theirs = candidate("other", other)
    standing = standings(made, {made: found, against: theirs}, MARGIN)[against]
    draws = paired_difference(best, other).draws
    for factor, shown in ((0.98, False), (1.02, True)):
        shifted = draws - draws.mean() + standing.unnoticed * factor
        assert bool((shifted <= MARGIN).mean() <= 0.05) is shown


def test_so_many_images_as_are_said_to_be_needed_decide():
    item = paired_difference([hits(100)], [hits(115, 60)])
    needed = images_to_place(item, IMAGES, MARGIN, 0.05)
    error = math.sqrt(item.image_variance * IMAGES / needed)
    assert (
        abs(item.mean - MARGIN) / error == pytest.approx(stats.norm.isf(0.05), rel=0.05)
        and needed > IMAGES
    )
    assert (
        images_to_place(paired_difference([hits(20)], [hits(40)]), IMAGES, MARGIN, 0.05) is None
    ), "it lies on the margin"
    assert (
        images_to_place(paired_difference([hits(9)] * 2, [hits(9)] * 2), IMAGES, MARGIN, 0.05)
        is None
    ), "seeds, not images"


def test_so_many_seeds_as_are_said_to_be_needed_decide_and_one_less_does_not():
    random = np.random.default_rng(0)
    best = [random.random(20_000) < 0.99 for _ in range(3)]
    other = [random.random(20_000) < 0.985 - 0.002 * number for number in range(3)]
    item = paired_difference(best, other)
    needed = seeds_to_place(item, MARGIN, 0.05)
    assert needed > 3

    def decided(seeds):
        by_seeds = stats.t.isf(0.05, seeds - 1) * math.sqrt(item.seed_variance / seeds)
        return item.mean - MARGIN > math.hypot(
            by_seeds, stats.norm.isf(0.05) * math.sqrt(item.image_variance)
        )

    assert decided(needed) and not decided(needed - 1)
    assert seeds_to_place(paired_difference(best[:1], other[:1]), MARGIN, 0.05) is None


REPETITIONS = 40
SURE = 3 * math.sqrt(0.05 * 0.95 / REPETITIONS)  # three standard deviations of a rate of 5 %


@pytest.mark.parametrize(
    "setting",
    [simulation.Setting(seeds=1, candidates=5), simulation.Setting(seeds=5, candidates=4)],
    ids=["1 seed", "5 seeds"],
)
def test_where_nothing_differs_the_cheapest_is_named(setting):
    assert simulation.rates(setting, REPETITIONS).named >= 0.95 - SURE


def test_what_is_worse_by_several_margins_is_not_named_and_at_the_margin_it_is_not_called_as_good():
    worse = simulation.Setting(seeds=5, candidates=4, loss=7 * MARGIN)
    assert simulation.rates(worse, 20).named <= 0.1
    at_the_margin = simulation.Setting(
        seeds=5, candidates=4, loss=MARGIN, spread=0.0002, images=2000
    )
    found = simulation.rates(at_the_margin, REPETITIONS)
    assert found.named >= 0.95 - SURE and found.within <= 0.05 + SURE
