"""Factors that calibration moves between layers: which, and that nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.model import QuantizedModel
from qstrategies.quantization.prepare import prepare
from qstrategies.records import QuantizationConfig


class Branches(nn.Module):
    """What a, b and d give may be rescaled; what c and the table behind d give is added."""

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
    """For every tensor but the input: how much of its quantizer's range the largest value fills."""
    shares = {}
    for node in QuantizedModel.of(prepared).graph.nodes:
        group = prepared.placement.groups[node.output.name]
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


@pytest.fixture
def images():
    return torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "model", [PLAIN, TABLES, Branches().eval()], ids=["plain", "tables", "branches"]
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


@pytest.mark.parametrize("model", [PLAIN, TABLES], ids=["plain", "tables"])
def test_what_lies_between_layers_and_tables_fills_its_range(model, images):
    prepared, _ = calibrated(model, images)
    shares = list(filled(prepared).values())
    # the tail of a normal distribution may be clipped on top of that
    assert all(share == pytest.approx(1, abs=1e-4) or share > 1.9 for share in shares[:-1])
    assert shares[-1] < 0.999, "the output is the user's"


def test_what_others_read_or_give_stays_as_it_is(images):
    prepared, before = calibrated(Branches().eval(), images)
    weights, fitted = before.state_dict(), prepared.graph.state_dict()
    (a,) = {round(float(each), 5) for each in (fitted["a.weight"] / weights["a.weight"]).unique()}
    (b,) = {round(float(each), 5) for each in (fitted["b.weight"] / weights["b.weight"]).unique()}
    assert 1 < a == b < 2, "one factor for what is concatenated"
    torch.testing.assert_close(fitted["c.weight"] * a, weights["c.weight"])
    for name in ("c.bias", "fc.weight", "fc.bias"):
        assert torch.equal(fitted[name], weights[name]), "a sum or the output"
