"""How often the recommendation is right, by simulation: python experiments/advice.py --repetitions
200 (minutes).

Some images are hard for every model: image i is wrong with probability p_i, of Beta(0.01, 0.99), so
that two equally good models differ on about 1 % of the images, as strategies do. A candidate with a
loss, or trained from an unlucky seed, is wrong on some more.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstrategies.cli import guarded
from qstrategies.cli.output import show
from qstrategies.errors import check_range
from qstrategies.evidence import Candidate, Constraints, Recommendation, recommend
from qstrategies.records import MARGIN

ERROR = 0.01
HOPELESS = (0.01, 0.7)
"""The range of losses of candidates like those at 2 bits, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """``spread``: standard deviation of the accuracy over seeds; ``loss``: what the cheapest of the
    candidates truly loses against the others, ``hopeless`` of which lose much more. Fractions."""

    seeds: int
    candidates: int = 8
    hopeless: int = 0
    spread: float = 0.0005
    loss: float = 0.0
    images: int = 5000

    @property
    def losses(self) -> NDArray[np.float64]:
        """What each candidate loses, the cheapest first."""
        equal = np.zeros(self.candidates - self.hopeless - 1)
        return np.concatenate([[self.loss], equal, np.linspace(*HOPELESS, self.hopeless)])


@dataclass(frozen=True)
class Rates:
    """Shares of the repetitions in which the cheapest was named, and in which it was shown to lie
    within the margin."""

    named: float
    within: float


SETTINGS = [
    Setting(seeds=1, spread=0.0),
    Setting(seeds=1),
    Setting(seeds=2),
    Setting(seeds=5),
    Setting(seeds=5, spread=0.003),
    Setting(seeds=5, candidates=16),
    Setting(seeds=5, candidates=16, hopeless=8),
    Setting(seeds=5, loss=MARGIN),
    *(Setting(seeds=5, loss=count * MARGIN) for count in (2, 3, 4, 6)),
    Setting(seeds=1, loss=6 * MARGIN),
    Setting(seeds=2, loss=500 * MARGIN),
]


def simulated(setting: Setting, random: np.random.Generator) -> Recommendation:
    """What is recommended in one repetition."""
    hard = random.beta(ERROR, 1 - ERROR, setting.images)
    found = {}
    for number, loss in enumerate(setting.losses):
        hits = {
            seed: _hits(hard, loss + setting.spread * random.standard_normal(), random)
            for seed in range(setting.seeds)
        }
        accuracy = float(np.mean([hit.mean() for hit in hits.values()]))
        found[_candidate(number, accuracy)] = hits
    return recommend(found, Constraints(), MARGIN)


def _hits(hard: NDArray[np.float64], loss: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Hits of a model whose mean error is ``ERROR + loss``."""
    wrong = (
        hard + loss * (1 - hard) / (1 - ERROR) if loss > 0 else hard * max(0.0, 1 + loss / ERROR)
    )
    return random.random(len(hard)) >= wrong


def _candidate(number: int, accuracy: float) -> Candidate:
    """Number 0 is the plain one, all others train for one more epoch."""
    extra = min(number, 1)
    return Candidate(
        strategy=f"s{number}",
        weight_bits=8,
        accuracy=accuracy,
        drop=0.0,
        epochs=3 + extra,
        extra_epochs=extra,
        microseconds=30.0,
        size=40_000,
        plain=number == 0,
    )


def rates(setting: Setting, repetitions: int) -> Rates:
    """How often the cheapest is named, and shown to be as good."""
    random = np.random.default_rng(0)
    advice = [simulated(setting, random) for _ in range(repetitions)]
    named = [item for item in advice if item.chosen is not None and item.chosen.plain]
    within = [
        item for item in named if item.standing is not None and item.standing.verdict == "within"
    ]
    return Rates(len(named) / repetitions, len(within) / repetitions)


def row(setting: Setting, repetitions: int) -> list[str]:
    """The setting, in points, and its rates in percent."""
    found = rates(setting, repetitions)
    return [
        f"{setting.loss * 100:g}",
        str(setting.seeds),
        f"{setting.spread * 100:g}",
        str(setting.candidates),
        str(setting.hopeless),
        f"{found.named * 100:.1f}",
        f"{found.within * 100:.1f}",
    ]


def main() -> int:
    """Print the table, its rows as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repetitions", type=int, default=200, help="of each setting (default: 200)"
    )
    repetitions = parser.parse_args().repetitions
    check_range("number of repetitions", repetitions, 1, 10**6)
    started = time.process_time()
    show(
        "| loss of the cheapest | seeds | spread | candidates | hopeless | named, % | "
        "shown within, % |"
    )
    show("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for setting in SETTINGS:
        show(f"| {' | '.join(row(setting, repetitions))} |")
    each = (time.process_time() - started) / repetitions / len(SETTINGS)
    show(f"\n{repetitions} repetitions of each line, {each:.2f} s a repetition on one core")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
