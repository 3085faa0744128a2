"""Steps that are too fine for what reads them, or for what they round, are raised; no others."""

import dataclasses

import pytest
import torch
from everywhere import check, images
from torch import nn

import qstrategies as qs
from qstrategies.operators.addition import Addition
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.decide import quantizers
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.steps import FINEST, coarsened


class Branch(nn.Module):
    """``join`` of a layer, and of another one times ``factor``."""

    def __init__(self, factor, join):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.factor, self.join = nn.Parameter(torch.full((4, 1, 1), factor)), join

    def forward(self, x):
        y = self.trunk(x)
        return self.join(y, self.branch(y) * self.factor)


def steps(quantized):
    """Of all that meets in the additions, operands first."""
    additions = [node for node in quantized.graph.nodes if isinstance(node, Addition)]
    return [
        [spec.grid.scale for spec in (*addition.inputs, addition.output)] for addition in additions
    ]


JOINS = {
    "sum": lambda y, z: y + z,
    "sum with a ReLU": lambda y, z: torch.relu(z + y),
    "difference": lambda y, z: (y - z).flatten(1),
    "two sums": lambda y, z: y + z + (z - y).abs(),
    "moved": lambda y, z: y[:, :2] + z.permute(0, 1, 3, 2)[:, 2:],
}


@pytest.mark.parametrize("factor", [1e-3, 1e-4, 1e-6, 1e-12, 0.0])
@pytest.mark.parametrize("name", JOINS)
def test_a_branch_that_is_small_beside_what_it_is_added_to(name, factor, tmp_path):
    quantized, _ = check(Branch(factor, JOINS[name]), tmp_path)
    for meeting in steps(quantized):
        assert min(meeting) >= FINEST * max(meeting)


def test_a_small_branch_that_something_else_reads_keeps_its_steps():
    model = Branch(1e-6, lambda y, z: (y + z, z))
    quantized = qs.quantize(model.eval(), [images()], images(2))
    branch = quantized.graph.outputs[1].grid
    with torch.no_grad():
        z = model(images())[1]
    assert branch.scale < (z.max() - z.min()) / 64, "six bits at least"
    ((_, small, _),) = steps(quantized)
    assert small == branch.scale


DEAD = {
    "a difference of equals": lambda x: x - x,
    "a clamp below all": lambda x: torch.clamp(torch.relu(x), max=0),
    "a product with it": lambda x: x * torch.clamp(torch.relu(x), max=0),
    "a sum with it": lambda x: x + torch.clamp(torch.relu(x), max=0) * 5,
}


class Dead(nn.Module):
    """``function`` behind a layer."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x):
        return self.function(self.layer(x)) + 0.5


@pytest.mark.parametrize("name", DEAD)
def test_what_calibration_saw_as_zero(name, tmp_path):
    torch.manual_seed(0)
    check(Dead(DEAD[name]), tmp_path, input_scale=1 / 255, inputs=(images().abs().clamp(max=1),))


def test_a_dead_layer_gives_no_more_steps_than_int32_holds(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.constant_(model[0].bias, -1e6)
    check(model, tmp_path, inputs=(images() * 1e4,), least=-100)  # of a constant


def test_where_nothing_is_too_fine_all_stays():
    torch.manual_seed(0)
    prepared = prepare(Branch(0.1, JOINS["sum"]).eval(), qs.QuantizationConfig(), images(2))
    calibrate(prepared, [(images(),)])
    chosen = quantizers(prepared)
    assert coarsened(prepared, chosen) == chosen
    group = prepared.placement.groups["add"]
    finer = dataclasses.replace(chosen[group], scale=2.0**-40)
    assert coarsened(prepared, chosen | {group: finer})[group].scale > 2.0**-20


class Squares(nn.Module):
    """Squares of a layer's results beside what that layer reads, which share a quantizer then."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=3e4)

    def forward(self, x):
        first = self.first(x)
        second = self.second(first)
        return torch.stack([first, second * second], 1)


def test_steps_that_ask_for_one_another_without_an_end_are_refused():
    with pytest.raises(qs.InputError, match="not finite: the largest result of .* apart from what"):
        qs.quantize(Squares(), [torch.randn(16, 5)], torch.randn(2, 5))
