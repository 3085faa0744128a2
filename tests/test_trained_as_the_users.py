"""QAT trains the user's model: in training mode, with the same random numbers, it gives the outputs,
gradients and statistics that the user's own gives. What cannot be the same is said."""

import copy
import random
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import qstrategies as qs

X = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LINE = r"at .*test_trained_as_the_users\.py:\d+: "


class Net(nn.Module):
    """``middle(self, x)`` between two convolutions, with a ``part`` to call."""

    def __init__(self, middle=lambda self, x: x, part=None):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.middle, self.part = middle, part
        self.register_buffer("center", torch.zeros(8, 1, 1))

    def forward(self, x):
        return self.last(self.middle(self, functional.relu(self.norm(self.first(x)))))


class DropPath(nn.Module):
    """Stochastic depth, as timm has it."""

    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.5).div_(0.5)


class KeptInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.fill_(0.3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


@torch.no_grad()
def without_gradients(self, x):
    return self.part(x)


def conv():
    torch.manual_seed(2)
    return nn.Conv2d(8, 8, 1)


def used(norm):
    """With statistics of batches that were seen before."""
    for _ in range(5):
        norm(1 + torch.rand(8, 8, 2, 2))
    return norm


def scaled_gradient(self, x):
    y = self.part(x)
    return y * 0.1 + y.detach() * 0.9


KINDS = {
    "dropout": (lambda self, x: self.part(x), nn.Dropout(0.8)),
    "dropout of channels": (lambda self, x: self.part(x), nn.Dropout2d(0.5)),
    "function": (lambda self, x: functional.dropout(x, 0.5, self.training), None),
    "function that is off": (lambda self, x: functional.dropout(x, 0.5, training=False), None),
    "torch's": (lambda self, x: torch.dropout(x, 0.5, self.training), None),
    "a pool behind": (lambda self, x: functional.max_pool2d(self.part(x), 2), nn.Dropout(0.8)),
    "stochastic depth": (lambda self, x: x + self.part(x), DropPath()),
    "momentum None": (lambda self, x: self.part(x), used(nn.BatchNorm2d(8, momentum=None))),
    "norm twice": (lambda self, x: self.part(self.part(x)), nn.BatchNorm2d(8, momentum=None)),
    "kept in evaluation by train()": (lambda self, x: self.part(x), KeptInEvaluation()),
    "detached": (lambda self, x: x + self.part(x.detach()), conv()),
    "values alone": (lambda self, x: x * self.part(x).data, conv()),
    "without gradients": (lambda self, x: x + without_gradients(self, x), conv()),
    "gradient scaled": (scaled_gradient, conv()),
    "checkpoint": (lambda self, x: checkpoint(self.part, x, use_reentrant=False), conv()),
}


def trained(model, x):
    torch.manual_seed(3)
    outputs = model(x)
    outputs.square().mean().backward()
    return outputs


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_is_that_of_the_user(kind, mode):
    net = copy.deepcopy(Net(*KINDS[kind])).train(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainee = qs.prepare(net, X, "qat")
    wanted, found = trained(net.train(), X), trained(trainee.model, X)
    assert (found - wanted).square().mean() < 0.005 * wanted.square().mean()
    ours = dict(trainee.model.named_parameters())
    theirs = {n: each.grad for n, each in net.named_parameters() if each.grad is not None}
    largest = max(each.norm() for each in theirs.values())
    for name, wanted in theirs.items():
        gradient = ours[name].grad
        apart = (gradient - wanted).norm()  # rounding clips, where no gradient passes
        assert apart < 0.2 * wanted.norm() + 0.1 * largest, name
    for name in ours.keys() & dict(net.named_parameters()).keys() - theirs.keys():
        assert ours[name].grad is None, name
    buffers = dict(trainee.model.named_buffers())
    for name, each in net.named_buffers():
        if "norm" in name or "part" in name:
            torch.testing.assert_close(buffers[name], each, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("behind", [nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_dropout_does_not_widen_what_is_exported(behind):
    ranges = []
    for rate in (0.0, 0.9):
        part = nn.Sequential(nn.Dropout(rate), behind)
        trainee = qs.prepare(Net(lambda self, x: self.part(x), part), X, "qat")
        trained(trainee.model, X)
        ranges.append(trainee.model.forms.activations[1].figures)
    assert torch.equal(*ranges)


def random_branch(self, x):
    return x + torch.rand(()) if self.training else x


def moving_center(self, x):
    if self.training:
        self.center.lerp_(x.detach().mean((0, 2, 3)).reshape(8, 1, 1), 0.1)
    return x - self.center


def late_center(self, x):
    y = x - self.center
    if self.training:
        self.center = self.center + 1
    return y


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Auxiliary(Net):
    def forward(self, x):
        y = super().forward(x)
        return (y, self.part(y.repeat(1, 2, 1, 1))) if self.training else y


class Kept(Net):
    """Its loss is an attribute, which the loop adds."""

    def forward(self, x):
        if self.training:
            self.loss = self.part(x.repeat(1, 3, 1, 1)[:, :8]).square().mean()
        return super().forward(x)


class WithTargets(Net):
    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should not be none when in training mode")
        return super().forward(x)


SAID = {
    "branch": (Net(random_branch), f"Net does {LINE}output 0 is another"),
    "statistics of its own": (Net(moving_center), f"Net does {LINE}output 0 is another"),
    "statistics for later": (Net(late_center), "changes 'center', which stays"),
    "noise": (Net(lambda self, x: x + torch.randn_like(x) * self.training), "output 0 is another"),
    "head": (Auxiliary(part=conv()), f"{LINE}it reads 'part.bias', 'part.weight' in .* 2 tensors"),
    "loss": (Kept(part=conv()), f"Kept does {LINE}it reads 'part.bias', 'part.weight' in training"),
    "targets": (WithTargets(), "fails in training mode .*targets should not be none"),
    "backward": (Net(lambda self, x: Reversed.apply(x)), "the gradient of input 0 is another"),
    "low rank": (
        Net(lambda self, x: functional.conv2d(x, (self.part[0] @ self.part[1])[..., None, None])),
        "it trains .* numbers",
    ),
}
SAID["low rank"][0].part = nn.ParameterList([torch.rand(8, 1), torch.rand(1, 8)])


@pytest.mark.parametrize("kind", SAID)
def test_what_is_for_training_only_is_said(kind):
    net, match = SAID[kind]
    with pytest.warns(UserWarning, match=match) as said:
        qs.prepare(net, X, "qat")
    assert "\n" not in str(said[0].message) and said[0].filename == __file__


def test_a_strategy_in_float_trains_the_model_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainee = qs.prepare(Auxiliary(part=conv()), X, "clamp")
    assert len(trainee.model(X)) == 2


def drawn_by_python(self, x):
    x = functional.dropout(x, 0.5, self.training)
    return x * random.random() if self.training else x


@pytest.mark.parametrize("middle", [moving_center, drawn_by_python])
def test_what_the_check_computes_is_not_noticed(middle):
    net = Net(middle).train()
    before, state = copy.deepcopy(net.state_dict()), (torch.get_rng_state(), random.getstate())
    with pytest.warns(UserWarning, match="output 0"):
        qs.prepare(net, X, "qat")
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert all(each.grad is None for each in net.parameters())


class Tied(nn.Module):
    """The norm is registered behind the second layer, and follows the first one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())


@pytest.mark.parametrize("strategy", ["dorefa", "weight_standardization+qat"])
def test_shared_weights_that_are_computed_are_exported_as_trained(strategy):
    trainee, rows = qs.prepare(Tied(), X[0, 0], strategy), X[:, 0, 0]
    trainee.model(rows)
    wanted = trainee.model.eval()(rows)
    torch.testing.assert_close(trainee.finish().reference()(rows), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["weight_norm", "weight_norm+qat"])
def test_a_weight_that_cannot_be_split_is_refused(strategy):
    with pytest.raises(qs.InputError, match="the weight of 'a' is shared with another module"):
        qs.prepare(Tied(), X[0, 0], strategy)


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, parametrizations.weight_norm])
def test_a_weight_that_is_computed_is_not_split(wrap):
    with pytest.raises(qs.InputError, match="the weight of 'part' is computed from others"):
        qs.prepare(Net(part=wrap(conv())), X, "weight_norm")


def test_no_weight_is_standardized_in_front_of_a_frozen_norm():
    net = Net().train()
    net.norm.eval()
    trainee = qs.prepare(net, X, "weight_standardization")
    assert torch.equal(trainee.model(X), net(X))


@pytest.mark.parametrize("part", [nn.Dropout(0.5), DropPath()])
def test_what_acts_in_training_only_behind_an_island_is_exported_as_if_it_were_not_there(part):
    net = Net(lambda self, x: self.part(x.softmax(1)), part)
    trainee = qs.prepare(net, X, "qat")
    trainee.model(X)
    (island,) = [each for each in trainee.model.forms.activations.values() if "soft" in each.name]
    assert island.figures is not None and island.figures.max() <= 1
    wanted = trainee.model.eval()(X)
    torch.testing.assert_close(trainee.finish().reference()(X), wanted, rtol=0, atol=0)
