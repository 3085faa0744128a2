"""Factors that calibration moves between layers: which, and that nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.fitting import _least_noise
from qstrategies.quantization.histogram import ExactHistogramObserver
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.records import QuantizationConfig


class Branches(nn.Module):
    """What a and b give is concatenated; what c and the table behind d give is added up."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.cat([self.a(x).relu(), nn.functional.max_pool2d(self.b(x), 1)], 1)
        y = self.c(x).relu()
        z = torch.sigmoid(self.d(y)) + y
        return self.fc(z.mean((2, 3)))


def calibrated(model, x, observer="histogram"):
    prepared = prepare(model, QuantizationConfig(observer=observer), x[:2], input_scale=1 / 255)
    before = copy.deepcopy(prepared.graph)
    calibrate(prepared, [x[:8], x[8:]])
    return prepared, before


def filled(prepared):
    """For every quantized tensor but the input: how much of its range the largest value fills."""
    shares = {}
    for node in QuantizedModel.of(prepared).graph.nodes:
        group = prepared.placement.groups.get(node.output.name)
        if group is None:
            continue
        observer = prepared.activations[group].observer
        span = (observer.high - observer.low).item()
        shares[node.output.name] = span / (255 * node.output.grid.scale)
    return shares


PLAIN = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3),
    nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4),
).eval()  # fmt: skip


TABLES = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 6, 3), nn.SiLU(), nn.Sigmoid(), nn.Flatten(),
    nn.Linear(6 * 64, 4),
).eval()  # fmt: skip


ISLANDS = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 3), nn.Softmax(1), nn.Flatten(),
    nn.Linear(6 * 64, 4), nn.LayerNorm(4), nn.Linear(4, 4),
).eval()  # fmt: skip


class Gated(nn.Module):
    """An island reads two tensors, one of them twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        y = self.a(x)
        return self.c(torch.atan2(y, self.b(x)) * y.softmax(1))


class Product(nn.Module):
    """What is multiplied is read by nobody else."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.a(x) * self.b(x)


@pytest.fixture
def images():
    return torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Products(nn.Module):
    """One of a tensor with itself, which takes no factor, and one with a constant, which does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.register_buffer("places", torch.linspace(0.5, 1.5, 100).reshape(10, 10))

    def forward(self, x):
        y = self.a(x)
        y = self.b(y * y) * self.places
        return self.c(y - 0.5 * y)


@pytest.mark.parametrize(
    "model",
    [PLAIN, TABLES, ISLANDS, Gated().eval(), Branches().eval(), Products().eval()],
    ids=["plain", "tables", "islands", "gated", "branches", "products"],
)
def test_the_graph_computes_what_it_did(model, images):
    prepared, before = calibrated(model, images)
    torch.testing.assert_close(prepared.graph(images), before(images), rtol=1e-4, atol=1e-5)
    changed = [
        name
        for name, weight in before.state_dict().items()
        if not torch.equal(weight, prepared.graph.state_dict()[name])
    ]
    assert changed
    same, before = calibrated(model, images, "min_max")
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, same.graph.state_dict()[name]), "only where it is asked for"


@pytest.mark.parametrize("model", [PLAIN, TABLES, ISLANDS], ids=["plain", "tables", "islands"])
def test_what_lies_between_layers_tables_and_islands_fills_its_range(model, images):
    prepared, _ = calibrated(model, images)
    shares = list(filled(prepared).values())
    # the tail of a normal distribution may be clipped on top of that
    assert all(share == pytest.approx(1, abs=1e-4) or share > 1.9 for share in shares[:-1])
    assert shares[-1] < 0.999, "the output is the user's"


def ratios(prepared, before):
    """How many times as large each parameter is as it was: one number each, or a test fails."""
    weights, fitted = before.state_dict(), prepared.graph.state_dict()
    found = {}
    for name, was in weights.items():
        (found[name],) = {round(float(each), 4) for each in (fitted[name] / was).flatten()}
    return found


def test_what_is_joined_has_one_factor_and_what_others_read_none(images):
    prepared, before = calibrated(Branches().eval(), images)
    found = ratios(prepared, before)
    assert 1 < found["a.weight"] == found["b.weight"] < 2, "what is concatenated"
    summed, own = found["c.bias"], found["d.bias"]
    assert 1 <= summed < 2 and 1 <= own < 2
    assert found["c.weight"] == pytest.approx(summed / found["a.weight"], abs=1e-3)
    assert found["d.weight"] == pytest.approx(own / summed, abs=1e-3)
    assert found["fc.weight"] == pytest.approx(1 / summed, abs=1e-3), "and what is added up"
    assert found["fc.bias"] == 1, "the output is the user's"


def test_a_product_stops_a_factor(images):
    prepared, before = calibrated(Product().eval(), images)
    assert set(ratios(prepared, before).values()) == {1.0}


def test_of_what_is_added_up_the_factor_has_the_least_noise():
    observers = []
    for high in (0.9, 1.6, 0.7):
        observers.append(ExactHistogramObserver(quant_min=0, quant_max=255))
        observers[-1](torch.tensor([0.0, high]))
    factor = _least_noise(observers)
    covered = np.array([0.9, 1.6, 0.7]) * np.linspace(1, 2, 10001)[:-1, None]
    steps = 2 ** np.ceil(np.log2(covered / 255)) / np.linspace(1, 2, 10001)[:-1, None]
    assert factor == pytest.approx(1 + np.square(steps).sum(1).argmin() / 10000, abs=1e-3)
