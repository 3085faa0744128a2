"""Rounding by what blocks give: where blocks lie, what they compute, and what is minimized."""

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.models import MODELS
from qstrategies.operators.base import Quantizer
from qstrategies.quantization.blocks import Block, BlockProblem, blocks
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.reconstruction import Mixture, SoftWeight, reconstruct
from qstrategies.quantization.soft_rounding import Settings
from qstrategies.strategies import STRATEGIES


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers_of(model, example):
    prepared = prepare(model.eval(), qs.QuantizationConfig(), example)
    return [
        [str(node.target) for node in block.nodes if hasattr(_module(prepared, node), "weight")]
        for block in blocks(prepared)
    ]


def _module(prepared, node):
    return prepared.graph.get_submodule(str(node.target))


class Forked(nn.Module):
    """A fork whose branches begin without a layer, a chain, and an end that reads the beginning."""

    def __init__(self, long):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.chain = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))
        self.long = long

    def forward(self, x):
        x = torch.relu(self.first(x))
        both = [nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)]
        y = torch.relu(self.left(both[0]) + self.right(both[1]))
        for layer in self.chain:
            y = torch.relu(layer(y))
        if self.long:
            y = y + nn.functional.max_pool2d(x, 2)
        return self.last(y.mean((2, 3)))


def test_a_block_reaches_from_a_fork_to_its_addition():
    assert layers_of(Forked(False), numbers(2, 2, 4, 4)) == [
        ["first"],
        ["left", "right"],
        ["chain.0"],
        ["chain.1"],
        ["last"],
    ]
    assert layers_of(Forked(True), numbers(2, 2, 4, 4)) == [
        ["first"],
        ["left", "right", "chain.0", "chain.1"],
        ["last"],
    ]


@pytest.mark.parametrize("name", ["resnet8", "depthwise", "cnn"])
def test_the_blocks_of_our_networks_are_those_of_their_papers(name):
    sizes = [len(each) for each in layers_of(MODELS.get(name)(), numbers(2, 1, 28, 28))]
    assert (
        sizes == {"resnet8": [1, 2, 3, 3, 1], "depthwise": [1, 2, 2, 2, 2, 1], "cnn": [1] * 3}[name]
    )


def test_what_is_too_large_falls_apart_and_every_layer_has_one_block(monkeypatch):
    monkeypatch.setattr("qstrategies.quantization.blocks.LARGEST", 3)
    assert layers_of(Forked(True), numbers(2, 2, 4, 4)) == [
        ["first"], ["last"], ["left"], ["right"], ["chain.0"], ["chain.1"],
    ]  # fmt: skip


def problem_of(model, x, step, limit=3):
    """The whole of ``model`` as one block, read at its input."""
    prepared = prepare(model.eval(), qs.QuantizationConfig(exact=False), x)
    nodes = [node for node in prepared.graph.graph.nodes if node.op == "call_module"]
    layers = {}
    for node in nodes:
        layer = _module(prepared, node)
        if hasattr(layer, "weight"):
            layers[node.name] = RoundingProblem(
                name=node.name, weight=layer.weight.detach(), bias=layer.bias.detach(),
                step=torch.tensor(step), low=-limit, high=limit, relu=False, layer=layer, pairs=(),
            )  # fmt: skip
    entry = next(iter(prepared.graph.graph.find_nodes(op="placeholder")))
    grids = {node.name: Quantizer(0.25) for node in nodes[:-1]}
    return BlockProblem(
        graph=prepared.graph, block=Block(entry, tuple(nodes)), layers=layers, grids=grids,
        examples=[len(x)], pairs=[((x / 0.125).round() * 0.125, x)],
    )  # fmt: skip


def settings(**changes):
    usual = {"steps": 200, "rate": 0.03, "strength": 0.01, "warm_up": 0.2, "places": 64}
    return Settings(**{**usual, **changes})


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def correlated():
    return numbers(256, 4) @ numbers(4, 12, seed=1)


def test_a_soft_weight_is_that_of_adaround():
    problem = next(iter(problem_of(two_layers(), numbers(8, 12), 0.1).layers.values()))
    soft = SoftWeight(problem)
    torch.testing.assert_close(soft.real(), problem.weight.clamp(-0.3, 0.3), rtol=0, atol=1e-6)
    v = numbers(*problem.weight.shape, seed=3).numpy() * 3
    soft.v.data = torch.from_numpy(v)
    h = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
    below = np.floor(problem.weight.numpy() / np.float32(0.1))
    expected = 0.1 * np.clip(below + h, -3, 3)
    np.testing.assert_allclose(soft.real().detach(), expected, atol=1e-6)
    penalty = (1 - np.abs(2 * h - 1) ** 5).sum()
    assert soft.penalty(5.0).item() == pytest.approx(penalty, rel=1e-4)
    np.testing.assert_array_equal(soft.integers(), np.clip(below + (h >= 0.5), -3, 3))


def block_error(problem, integers):
    (ours, theirs), layers = problem.pairs[0], problem.layers
    weights = {name: integers[name] * layers[name].step for name in layers}
    wanted = problem.output(theirs, {name: each.weight for name, each in layers.items()})
    return float((problem.output(ours, weights) - wanted).detach().square().sum())


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_block_is_rounded_up_or_down_and_beats_the_nearest(share):
    problem = problem_of(two_layers(), correlated(), 0.15)
    chosen = reconstruct(problem, settings(), share)
    nearest = {name: each.nearest() for name, each in problem.layers.items()}
    for name, layer in problem.layers.items():
        away = (chosen[name] - layer.weight / layer.step).abs()
        assert ((away < 1) | (chosen[name].abs() == 3)).all()
    assert block_error(problem, chosen) < 0.8 * block_error(problem, nearest)
    again = reconstruct(problem, settings(), share)
    assert all(torch.equal(chosen[name], again[name]) for name in chosen)


def test_what_a_block_computes_is_the_model_with_other_weights():
    model, x = two_layers(), numbers(8, 12)
    problem = problem_of(model, x, 0.1)
    weights = {name: each.weight + 0.1 for name, each in problem.layers.items()}
    seen = []

    def passed(name, value):
        seen.append(name)
        return value

    first, last = (each.numpy() for each in weights.values())
    hidden = np.maximum(x.numpy() @ first.T + model[0].bias.detach().numpy(), 0)
    expected = hidden @ last.T + model[2].bias.detach().numpy()
    found = problem.output(x, weights, passed).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert seen == [node.name for node in problem.block.nodes]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_large_a_share_is_rounded_and_gradients_pass(share):
    problem = problem_of(two_layers(), numbers(8, 12), 0.1)
    mixture = Mixture(problem, share)
    value = numbers(100, 100).abs().requires_grad_()
    name = problem.block.nodes[0].name
    mixed = mixture(name, value)
    rounded = (value / 0.25).round() * 0.25
    taken = (mixed == rounded).float().mean().item()
    assert ((mixed == value) | (mixed == rounded)).all()
    assert taken == pytest.approx(share, abs=0.02), "standard deviation 0.005"
    mixed.sum().backward()
    assert torch.equal(value.grad, torch.ones_like(value))
    assert mixture("another", value) is value


def test_a_share_of_nothing_and_no_quantizer_differ_only_where_the_block_reads():
    x = (correlated() / 0.125).round() * 0.125  # on the grid already
    problem = problem_of(two_layers(), x, 0.15)
    one, other, third = (reconstruct(problem, settings(steps=50), each) for each in (None, 0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)


def test_blocks_compose_with_what_leaves_integers_alone():
    with pytest.raises(qs.InputError, match="brecq and adaround both decide the integers"):
        STRATEGIES.get("brecq+adaround")
    assert STRATEGIES.get("cle+mixed+qdrop+bias_correction").course.schedule is None


@pytest.mark.parametrize("name", ["brecq", "qdrop+bias_correction"])
def test_branches_that_begin_without_a_layer_are_rounded_too(name):
    torch.manual_seed(0)
    model, x = Forked(True).eval(), numbers(16, 2, 8, 8)
    strategy = STRATEGIES.get(name)(block_steps=30)
    config = qs.QuantizationConfig(weight_bits=3)
    quantized = qs.quantize(model, [x[:10], x[10:]], x, config=config, strategy=strategy)
    assert quantized.weight_bits == dict.fromkeys(quantized.weight_bits, 3)
    assert quantized.int8()(x).std() > 0
