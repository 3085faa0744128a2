import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import SHORT, SmallMNIST
from torch import nn

from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.qat import finished, prepare_qat
from qstrategies.records import OPTIMIZERS, SCHEDULES, QuantizationConfig, TrainingConfig
from qstrategies.strategies import STRATEGIES
from qstrategies.training.fast_graph import fast_view
from qstrategies.training.hardware import said_by_linux
from qstrategies.training.histogram import weight_histogram
from qstrategies.training.loop import train
from qstrategies.training.trainee import Trainee


@pytest.fixture(scope="module")
def data(location):
    return SmallMNIST(location).splits


def trained(data, seed, strategy="no_norm", qat=False, config=SHORT):
    torch.manual_seed(seed)
    model = MODELS.get("cnn")()
    if qat:
        model = prepare_qat(
            model, QuantizationConfig(), (torch.zeros(2, 1, 28, 28),), input_scale=PIXEL_SCALE
        )
    history = train(Trainee(model, STRATEGIES.get(strategy)()), data, config, seed)
    return model, history


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("qat", [False, True])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data, qat):
    first, history = trained(data, 0, qat=qat)
    second, again = trained(data, 0, qat=qat)
    assert same(first, second)
    assert [epoch.loss for epoch in history.curve] == [epoch.loss for epoch in again.curve]
    assert not same(first, trained(data, 1, qat=qat)[0])


def test_the_same_seed_gives_the_same_int8_model(data):
    logits = []
    for _ in range(2):
        model = QuantizedModel.of(finished(trained(data, 5, qat=True)[0]))
        logits.append(model.int8()(data["test"].images.float()))
    assert torch.equal(*logits)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_and_schedule_learns(data, optimizer, schedule):
    rate = 0.01 if optimizer == "sgd" else 3e-3
    _, history = trained(
        data,
        0,
        config=dataclasses.replace(
            SHORT, optimizer=optimizer, schedule=schedule, learning_rate=rate, epochs=2
        ),
    )
    assert history.curve[1].loss < history.curve[0].loss < 2.3, "below the loss of guessing, ln 10"


def test_training_looks_at_train_and_validation_only(data):
    without_test = {name: split for name, split in data.items() if name != "test"}
    assert same(trained(data, 0)[0], trained(without_test, 0)[0])


def test_history_has_an_entry_per_epoch_and_the_first_and_last_histogram(data):
    numbers = []
    torch.manual_seed(0)
    model = MODELS.get("cnn")()
    config = dataclasses.replace(SHORT, epochs=3)
    history = train(
        Trainee(model, STRATEGIES.get("no_norm")()),
        data,
        config,
        0,
        lambda number, epoch: numbers.append(number),
    )
    assert numbers == [1, 2, 3] and len(history.curve) == 3
    assert [histogram.epoch for histogram in history.histograms] == [1, 3]


def test_a_histogram_counts_every_weight_once():
    model = MODELS.get("cnn")()
    layers = [layer.weight for layer in (model.conv1, model.conv2, model.fc)]
    histogram = weight_histogram(layers, "now", 0)
    weights = torch.cat([layer.flatten() for layer in layers]).detach()
    assert sum(histogram.counts) == len(weights) == 9 * 32 + 9 * 32 * 64 + 16000
    assert histogram.max_abs == weights.abs().max().item()
    assert histogram.sigma == pytest.approx(weights.numpy().std(), rel=1e-3)


def test_to_input_scales_to_one_and_keeps_the_order():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    values = to_input(images)
    assert values.min() == 0 and values.max() == 1
    torch.testing.assert_close(values.flatten(), torch.arange(256) / 255)


def test_loss_of_a_strategy_reaches_the_weights(data, monkeypatch):
    plain, _ = trained(data, 0)
    kind = STRATEGIES.get("no_norm")
    monkeypatch.setattr(
        kind, "loss", lambda self, model, step: 10 * model.conv2.weight.square().sum()
    )
    decayed, _ = trained(data, 0)
    assert decayed.conv2.weight.norm() < 0.5 * plain.conv2.weight.norm()


def test_the_model_can_be_copied_after_training(data):
    model, _ = trained(data, 0, "weight_norm")
    assert same(model, copy.deepcopy(model))


def test_linux_says_the_same_of_the_cpu_as_pytorch():
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this PyTorch says nothing of the CPU")
    known, found = torch.cpu.get_capabilities(), said_by_linux(Path("/proc/cpuinfo").read_text())
    flags = ["avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "bf16"]
    assert {flag: bool(known.get(flag)) for flag in flags} == {
        flag: bool(found.get(flag)) for flag in flags
    }


def test_linux_names_become_those_of_pytorch():
    x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2.10GHz\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
    assert said_by_linux(x86 * 2) == {
        "cpu_name": "Some CPU @ 2.10GHz",
        **dict.fromkeys(["fpu", "avx2", "avx512_f", "avx512_bf16"], True),
    }
    assert said_by_linux("Features\t: fp asimd bf16\n") == dict.fromkeys(
        ["fp", "asimd", "bf16"], True
    )
    assert said_by_linux("") == {}


class ByValue(nn.Module):
    """Plain torch.fx cannot trace it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, image):
        return self.fc(image.flatten(1)) * (2 if image.shape[0] > 1 and image.sum() > 0 else 1)


class Dropping(nn.Module):
    """By a function that is told the mode, which a trace would keep."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, image):
        return nn.functional.dropout(self.fc(image.flatten(1)), 0.5, self.training)


def test_what_depends_on_the_mode_does_so_while_it_is_trained():
    view, images = fast_view(Dropping()), torch.rand(8, 1, 28, 28)
    view.eval()
    assert torch.equal(view(images), view(images))
    view.train()
    assert not torch.equal(view(images), view(images))


def test_a_model_that_torch_fx_cannot_trace_is_trained_as_it_is(mnist):
    torch.manual_seed(0)
    model = ByValue()
    before = model.fc.weight.clone()
    data = {
        name: type(part)(name, part.images[:64], part.labels[:64]) for name, part in mnist.items()
    }
    train(Trainee(model, STRATEGIES.get("no_norm")()), data, TrainingConfig(epochs=1), seed=0)
    assert not torch.equal(model.fc.weight, before)
