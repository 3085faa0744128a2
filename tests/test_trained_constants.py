"""Parameters that a forward uses by itself, in parts left in float too: QAT trains every one that
the user would."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

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


def without_gradient(layer):
    layer.weight.requires_grad_(False)
    return layer


FIXED = {
    "kernel": ((2, 3, 3, 3), lambda x, w, b: functional.conv2d(x, w, b)),
    "matrix": ((3, 6), functional.linear),
    "addmm": ((6, 6), lambda x, w, b: torch.addmm(b, x.flatten(0, 2), w)),
    "norm": ((3,), lambda x, w, b: functional.batch_norm(x, w, w, w, b)),
    "norm in float": ((6,), lambda x, w, b: functional.layer_norm(x, (6,), w, b)),
}


class Biased(nn.Module):
    def __init__(self, shape, function):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.bias = nn.Conv2d(3, 3, 1), nn.Parameter(torch.rand(shape[0]))
        self.register_buffer("weight", torch.rand(shape))
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x), self.weight, self.bias)


@pytest.mark.parametrize("way", FIXED)
def test_a_fixed_weight_stays_where_the_bias_is_trained(way):
    shape, function = FIXED[way]
    trained = others(qs.prepare(Biased(shape, function), X, "qat")).values()
    assert [each.numel() for each in trained if each.requires_grad] == [shape[0]]


MODULES = {
    "frozen": (without_gradient(nn.Conv2d(3, 2, 1)), ["bias"]),
    "normalized and frozen": (weight_norm(without_gradient(nn.Conv2d(3, 2, 1))), ["bias"]),
    "normalized": (weight_norm(nn.Conv2d(3, 2, 1)), ["bias", "weight"]),
    "normalized by a hook": (nn.utils.spectral_norm(nn.Conv2d(3, 2, 1)), ["bias", "weight"]),
    "pruned": (prune.l1_unstructured(nn.Conv2d(3, 2, 1), "weight", 2), ["bias", "weight"]),
}


@pytest.mark.parametrize("kind", MODULES)
def test_of_a_module_is_trained_what_the_user_trains(kind):
    layer, wanted = MODULES[kind]
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    found = {n for n, p in qs.prepare(net, X, "qat").model.named_parameters() if p.requires_grad}
    assert found == {"0.weight", "0.bias", *(f"1.{name}" for name in wanted)}


class Twice(nn.Module):
    """Calls what stays in float twice."""

    def __init__(self, part):
        super().__init__()
        self.conv, self.part = nn.Linear(6, 6), part
        self.gives_several = isinstance(part, nn.GRU)

    def forward(self, x):
        for _ in range(2):
            x = self.part(self.conv(x))
            x = x[0] if self.gives_several else x
        return x


@pytest.mark.parametrize("kind", [nn.LayerNorm(6), nn.GRU(6, 6, batch_first=True)])
def test_a_module_left_in_float_that_is_called_twice_is_trained_as_one(kind):
    net, x = Twice(kind), X[0, 0]
    trainee = qs.prepare(net, x, "qat")
    count = sum(each.numel() for each in net.parameters())
    assert sum(each.numel() for each in trainee.model.parameters()) == count
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.1))
    trainee.model(x).square().sum().backward()
    optimizer.step()
    trainee.after_step()
    wanted = trainee.model.eval()(x)
    torch.testing.assert_close(trainee.finish().reference()(x), wanted, rtol=1e-6, atol=1e-6)


class ResponseNorm(nn.Module):
    """A filter response norm (Singh and Krishnan, arXiv 1911.09737), and a logarithm beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        x = x * torch.rsqrt(x.pow(2).mean((2, 3), keepdim=True) + 1e-6)
        return self.last(x.mean((2, 3))), (x + 1e-6).log()


def test_what_is_rounded_to_a_pole_trains_as_its_table_has_it():
    x = 10 * X  # some mean squares are rounded to 0
    trainee = qs.prepare(ResponseNorm(), x, "qat")
    optimizer = torch.optim.SGD(trainee.parameter_groups(1e-3))
    for _ in range(3):
        sum(each.square().mean() for each in trainee.model(x)).backward()
        assert all(each.grad.isfinite().all() for each in trainee.model.parameters())
        optimizer.step()
        trainee.after_step()
    found, wanted = trainee.finish().module()(x), trainee.model.eval()(x)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


BY_CHANNEL = {
    "plus": lambda x, p: x + p,
    "from": lambda x, p: p - x,
    "times": lambda x, p: x * p,
    "plus half": lambda x, p: torch.add(x, p, alpha=0.5),
    "product beside": lambda x, p: torch.addcmul(p, x, p),
    "numbers": lambda x, p: (x - 0.1) * 3,
}


@pytest.mark.parametrize("way", BY_CHANNEL)
def test_numbers_by_channel_normalize_nothing_in_training(way):
    """They are folded as batch normalizations, whose training takes statistics of the batch."""
    net = Net((3, 1, 1), BY_CHANNEL[way]).train()
    trainee = qs.prepare(net, X, "qat")
    wanted, found = net(X), trainee.model.train()(X)
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()
    for outputs in (wanted, found):
        outputs.pow(3).mean().backward()
    ours = trainee.model.get_parameter("conv.weight").grad.flatten()
    theirs = net.conv.weight.grad.flatten()
    assert torch.cosine_similarity(ours, theirs, 0) > 0.99
    assert 0.9 < ours.norm() / theirs.norm() < 1.1


class Functional(nn.Module):
    """A batch normalization written by hand, told to train by ``training``, or as the module is."""

    def __init__(self, training=None):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.weight = nn.Conv2d(3, 3, 1), nn.Parameter(torch.rand(3))
        self.register_buffer("mean", 5 * torch.rand(3))
        self.register_buffer("var", torch.ones(3))
        self.forced = training

    def forward(self, x):
        training = self.training if self.forced is None else self.forced
        return functional.batch_norm(
            self.conv(x), self.mean, self.var, self.weight, training=training
        )


def frozen(net):
    net[0].eval()
    return net


@pytest.mark.parametrize(
    "net",
    [
        Functional(training=False),
        nn.Sequential(Functional(training=False)).eval(),
        frozen(nn.Sequential(Functional()).train()),
        nn.Sequential(Functional()).train(),
        nn.Sequential(Functional()).eval(),
    ],
    ids=["fixed", "fixed, in evaluation", "frozen", "trained", "trained, from evaluation"],
)
def test_a_functional_normalization_trains_by_batches_if_the_users_does(net):
    trainee = qs.prepare(net, X, "qat")
    found = trainee.model.train()(X)
    wanted = net(X) if net.training else net.train()(X)
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()
