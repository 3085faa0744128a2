"""Strategies on networks that nobody would write a paper with: each does what it says, or says that
it cannot."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.quantization.exact_forms import output_rows
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step

ROWS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
TRAINING = [name for name in STRATEGIES.names() if STRATEGIES.get(name).course.schedule is not None]


class Odd(nn.Module):
    """A layer without weights that differ from zero, one with a single weight to a channel, names
    that differ in a dot only, and two outputs of which one is trained."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(OrderedDict(a=nn.Linear(6, 8)))
        self.block_a, self.dead = nn.Linear(8, 5), nn.Linear(5, 8)
        nn.init.zeros_(self.dead.weight)
        self.single, self.norm = nn.Conv1d(8, 8, 1, groups=8), nn.BatchNorm1d(8)
        self.classes, self.other = nn.Linear(8, 3), nn.Linear(8, 2, bias=False)

    def forward(self, x):
        x = torch.relu(self.block(x))
        x = torch.relu(x + self.dead(torch.relu(self.block_a(x))))
        x = torch.relu(self.norm(self.single(x[:, :, None])))[:, :, 0]
        return {"classes": self.classes(x), "other": self.other(x)}


def stepped(trainee, outcome, steps=3):
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.01))
    for _ in range(steps):
        outputs = trainee.model(ROWS)
        loss = outcome(outputs) + trainee.penalty(outputs, criterion=outcome)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


@pytest.mark.parametrize("name", TRAINING)
def test_every_strategy_trains_an_odd_network_or_says_why_not(name):
    torch.manual_seed(0)
    model, fake = Odd(), STRATEGIES.get(name).course.fake_quantized
    if "weight_norm" in name:
        with pytest.raises(InputError, match="'dead' has only weights of zero"):
            qs.prepare(model, ROWS, name)
        nn.init.normal_(model.dead.weight)
    trainee = qs.prepare(model, ROWS, name, steps=3)
    if fake:
        assert len(trainee.model.weight_quantizers) == len(trainee.model.layers)
    stepped(trainee, lambda outputs: outputs["classes"].square().mean())
    assert all(each.isfinite().all() for each in trainee.model.parameters())
    found = trainee.finish([ROWS]).module()(ROWS)["classes"]
    assert found.std() > 0
    if fake and name != "ema":  # which averages at the end
        assert torch.equal(found, trainee.model.eval()(ROWS)["classes"])


WITH_A_LOSS = [
    "a2q",
    "bin_regularization",
    "kure",
    "oscillation_damping",
    "pact",
    "range_loss",
    "sam",
]


@pytest.mark.parametrize("name", WITH_A_LOSS)
def test_nothing_is_added_to_the_loss_of_a_network_without_layers(name):
    options = {"decay": 0.0} if name == "pact" else {}  # that of activations
    strategy = STRATEGIES.get(name)(**options)
    trainee = qs.prepare(nn.Sequential(nn.LayerNorm(6), nn.ReLU()), ROWS, strategy, steps=3)
    outputs = trainee.model(ROWS)
    loss = outputs.mean()
    assert float(trainee.penalty(outputs, criterion=torch.mean)) == 0
    loss.backward()


def test_bits_of_a_network_without_layers():
    model = nn.Sequential(nn.ReLU(), nn.Dropout()).eval()
    quantized = qs.quantize(model, [ROWS], ROWS, strategy="mixed")
    assert torch.equal(quantized.module()(ROWS), qs.quantize(model, [ROWS], ROWS).module()(ROWS))


def test_weights_that_are_computed_are_not_clamped_without_a_word():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU())
    with pytest.raises(InputError, match="'0' is computed from others, and clamp cannot"):
        qs.prepare(model, ROWS, "clamp")
    trainee = qs.prepare(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), ROWS, "clamp+weight_norm")
    with pytest.raises(InputError, match="computed from others"):
        stepped(trainee, torch.mean, 1)


@pytest.mark.parametrize("name", ["weight_decay", "weight_norm+weight_decay"])
def test_what_a_weight_is_computed_from_decays(name):
    layer = nn.Linear(6, 8)
    if name == "weight_decay":
        parametrizations.weight_norm(layer)
    trainee = qs.prepare(nn.Sequential(layer), ROWS, name)
    rest, decayed = trainee.parameter_groups(0.01)
    assert (len(rest["params"]), len(decayed["params"])) == (1, 2), "the bias; length, direction"
    stepped(trainee, torch.mean, 1)


@pytest.mark.parametrize("name", ["clamp", "qat_clamp"])
def test_single_weights_have_no_deviation_to_be_clamped_by(name):
    strategy, model = STRATEGIES.get(name)(sigma=2), nn.Linear(1, 1)
    before = model.weight.detach().clone()
    with torch.no_grad():
        strategy.after_step(model, Step(1))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("sizes", [(4, 6, 2), (6, 4, 1)], ids=str)
def test_output_channels_of_transposed_convolutions(sizes):
    inputs, outputs, groups = sizes
    layer = nn.ConvTranspose2d(inputs, outputs, 3, groups=groups)
    model = nn.Sequential(layer, nn.BatchNorm2d(outputs))
    STRATEGIES.get("weight_standardization")().parametrize(model)
    rows = output_rows(layer).flatten(1)
    assert len(rows) == outputs
    torch.testing.assert_close(rows.mean(1), torch.zeros(outputs), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(1), torch.ones(outputs), atol=1e-3, rtol=0)
    normed = nn.ConvTranspose2d(inputs, outputs, 3, groups=groups)
    STRATEGIES.get("weight_norm")().parametrize(nn.Sequential(normed))
    assert normed.parametrizations.weight.original0.numel() == outputs // groups


@pytest.mark.parametrize("name", ["distill", "finetune_distill"])
def test_outputs_without_classes_have_no_teacher(name):
    for model in (nn.Linear(6, 1), nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))):
        trainee = qs.prepare(model, ROWS, name)
        outputs = trainee.model(ROWS)
        with pytest.raises(InputError, match="no classes in dimension 1"):
            trainee.penalty(outputs)
