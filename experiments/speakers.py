"""Each speaker of the spoken digits held out once: what DS-CNN makes of a voice never heard depends
on the voice. The speaker before is for validation, the other four train."""

import sys

import torch
from common import config, options

from qstrategies.cli import guarded
from qstrategies.datasets.spoken_digits import SpokenDigits
from qstrategies.evaluation import evaluate
from qstrategies.models import MODELS
from qstrategies.pixels import to_input
from qstrategies.strategies import STRATEGIES
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee

chosen = options(__doc__)
SPEAKERS = tuple(range(6))


def accuracy(speaker: int) -> float:
    """On ``speaker``, in float."""
    before = SPEAKERS[speaker - 1]
    others = tuple(each for each in SPEAKERS if each not in (speaker, before))
    dataset = SpokenDigits()
    dataset.speakers = {"train": others, "validation": (before,), "test": (speaker,)}
    training = config(chosen, preset="speech").training
    torch.manual_seed(chosen.seed)
    model = MODELS.get("ds_cnn")()
    train(Trainee(model, STRATEGIES.get("no_norm")()), dataset.splits, training, chosen.seed)
    return evaluate(lambda images: model(to_input(images)), dataset.splits["test"]).accuracy


def run() -> int:
    for speaker in SPEAKERS:
        print(f"speaker {speaker}: {100 * accuracy(speaker):.1f}", flush=True)
    return 0


sys.exit(guarded(run))
