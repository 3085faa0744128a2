"""What is trained is what is exported where sums and fixed-point kernels ask for coarser steps."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import qstrategies as qs


def images(count=8, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Two blocks as in resnet8, and an average of an even number of values."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1)
        self.after, self.behind = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.shortcut, self.last = nn.Conv2d(8, 16, 1, 2), nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = (self.after(self.second(x)) + x).relu()
        x = (self.behind(self.third(x)) * 0.1 + self.shortcut(x)).relu()
        return self.last(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Concatenated(nn.Module):
    """Tensors of unlike ranges behind one another, and a sum with a part of both."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.mixed, self.norm = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 16, 5)

    def forward(self, x):
        both = torch.cat([self.left(x).relu(), self.right(x) * 30], 1)
        x = self.norm(self.mixed(functional.dropout(both, 0.1, self.training))) + both[:, :8]
        return self.last(functional.avg_pool2d(x, 2).flatten(1))


class Depthwise(nn.Module):
    """An inverted residual as in mobilenet_v2."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 24, 1, bias=False), nn.Conv2d(24, 3, 1, bias=False)
        self.each, self.last = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Linear(3, 5)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (24, 24, 3))

    def forward(self, x):
        y = functional.relu6(self.norms[0](self.wide(x)))
        y = functional.relu6(self.norms[1](self.each(y)))
        return self.last((x + self.norms[2](self.narrow(y))).mean((2, 3)))


class Averaged(nn.Module):
    """Pools of even and odd sizes, and a difference of unlike ranges."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 1, groups=8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(functional.avg_pool2d(self.first(x).relu(), 2))
        x = functional.avg_pool2d(x, 3, 1) - x[:, :, 1:3, 1:3] * 5
        return self.last(self.second(x).mean((2, 3)))


class Scaled(nn.Module):
    """A branch times 1e-6, as layer scale begins."""

    def __init__(self):
        super().__init__()
        self.trunk, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))

    def forward(self, x):
        x = self.trunk(x).relu()
        return x + self.branch(x) * self.scale


NETS = [Residual, Concatenated, Depthwise, Averaged, Scaled]
SETTINGS = [
    ("qat", {"weight_bits": 8}, 1 / 255),
    ("qat", {"weight_bits": 4, "per_channel": False}, None),
    ("lsq", {"weight_bits": 8, "per_channel": False, "saturation": "vnni_or_arm"}, None),
    ("lsq", {"weight_bits": 4, "activation_bits": 4}, 1 / 255),
    ("efficient_qat", {"weight_bits": 5}, None),
]


def trained(model, strategy, steps=3, **settings):
    trainee = qs.prepare(model, images(), strategy, **settings)
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.05))
    for number in range(steps):
        loss = trainee.model(images(seed=number)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("strategy", "settings", "input_scale"), SETTINGS)
def test_what_is_evaluated_is_what_fixed_point_kernels_get(kind, strategy, settings, input_scale):
    torch.manual_seed(0)
    config = qs.QuantizationConfig(fixed_point=True, **settings)
    trainee = trained(kind(), strategy, config=config, input_scale=input_scale)
    x = (images(50, 9) * 255).round() / 255 if input_scale else 3 * images(50, 9) - 1
    assert torch.equal(trainee.model.eval()(x), trainee.finish().module()(x))


def test_operands_are_trained_with_the_step_of_their_sum():
    torch.manual_seed(0)
    model = trained(Scaled(), "qat", config=qs.QuantizationConfig(fixed_point=True)).model
    forms = model.forms
    total = forms.activations[forms.placement.groups["add"]]
    (raised,) = (each for each in forms.activations.values() if each.raised is not None)
    assert raised.latest[0] == total.latest[0] > 2**10 * raised.qparams()[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_norms_are_folded_to_the_same_integers_in_both(bits):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 128, 1), nn.Conv2d(128, 512, 3), nn.BatchNorm2d(512))
    with torch.no_grad():
        for each in (net[2].running_var, net[2].weight):
            each.uniform_(0.5, 2)
        for each in (net[2].running_mean, net[2].bias):
            each.normal_()
    trainee = qs.prepare(
        net.eval(), images(), "qat", config=qs.QuantizationConfig(weight_bits=bits)
    )
    trainee.model.train()(images())
    layer = trainee.model.eval().layers[1]
    steps, _ = layer.steps
    ours = layer.quantizer.integers(steps, torch.ones(())).detach().numpy()
    assert np.array_equal(ours, trainee.finish().graph.layers[1].rounded_layer.levels)
