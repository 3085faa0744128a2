"""Parameters that a forward uses by itself, in parts left in float too: QAT trains every one that
the user would."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import qstrategies as qs

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


WAYS = {
    "positions": ((1, 3, 6, 6), lambda x, p: x + p),
    "positions from the left": ((1, 3, 6, 6), lambda x, p: p - x),
    "sliced": ((1, 3, 9, 9), lambda x, p: x + p[:, :, :6, :6]),
    "parts": ((2, 3, 6, 6), lambda x, p: x + p.chunk(2)[1]),
    "class token": (
        (1, 1, 3),
        lambda x, p: torch.cat([p.expand(x.shape[0], -1, -1), tokens(x)], 1),
    ),
    "product": ((6, 6), lambda x, p: x @ p),
    "kernel": ((3, 1, 3, 3), lambda x, p: functional.conv2d(x, p, groups=3)),
    "kernel, transposed": ((3, 2, 3, 3), lambda x, p: functional.conv_transpose2d(x, p)),
    "matrix": ((4, 6), functional.linear),
    "norm": ((6,), lambda x, p: functional.layer_norm(x, (6,), p)),
    "norm by name": ((6,), lambda x, p: functional.layer_norm(x, (6,), bias=p)),
    "computed": ((6, 6), lambda x, p: x @ (p - p.mean()).exp()),
    "method": ((3, 1, 1), lambda x, p: x.pow(2).mul(p.sigmoid().expand(3, 6, 6))),
}


class Net(nn.Module):
    def __init__(self, shape, function):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.p = nn.Conv2d(3, 3, 1), nn.Parameter(torch.rand(shape))
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x), self.p)


class Inside(nn.Module):
    """A parameter behind a module that reads no input, as the bias table of an attention is made."""

    def __init__(self):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(3, 3, 1), nn.Linear(2, 6)
        self.register_buffer("places", torch.rand(6, 2))

    def forward(self, x):
        return self.conv(x) + self.inner(self.places)


def others(trainee):
    return {n: p for n, p in trainee.model.named_parameters() if not n.startswith("conv.")}


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_is_trained_and_exported(way):
    net = Net(*WAYS[way])
    trainee = qs.prepare(net, X, "qat")
    (name,) = others(trainee)
    trainee.model.train()(X).square().mean().backward()
    before = others(trainee)[name].detach().clone()
    assert others(trainee)[name].grad.abs().sum() > 0
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.1))
    optimizer.step()
    trainee.after_step()
    assert not torch.equal(others(trainee)[name], before)
    quantized = trainee.finish()
    wanted = trainee.model.eval()(X)
    torch.testing.assert_close(quantized.int8()(X), wanted, rtol=1e-6, atol=1e-6)


def test_one_inside_a_module_that_reads_no_input_is():
    trainee = qs.prepare(Inside(), X, "qat")
    assert others(trainee) and all(each.requires_grad for each in others(trainee).values())


@pytest.mark.parametrize("way", WAYS)
def test_a_frozen_one_and_a_buffer_stay(way):
    frozen = Net(*WAYS[way])
    frozen.p.requires_grad_(False)
    held = Net(*WAYS[way])
    value = held.p.detach()
    del held.p
    held.register_buffer("p", value)
    for net in (frozen, held):
        trainee = qs.prepare(net, X, "qat")
        assert not any(each.requires_grad for each in others(trainee).values())


def test_what_a_pool_divides_by_stays():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AvgPool2d(3, 2, 1, divisor_override=5))
    trainee = qs.prepare(net, X, "qat")
    assert [name for name, each in trainee.model.named_parameters() if each.requires_grad] == [
        "0.weight",
        "0.bias",
    ]
