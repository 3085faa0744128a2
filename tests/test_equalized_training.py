"""Equalization before QAT: the function of training stays, and the ranges are those that it gives
without training."""

import copy

import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.qat import prepare_qat
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.cle import CrossLayerEqualization

PER_TENSOR = qs.QuantizationConfig(weight_bits=4, per_channel=False)


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


class Net(nn.Module):
    """Norms, dropout, a depthwise layer and one without a norm; channels of other sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.depth, self.behind = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.pool, self.drop, self.out = nn.MaxPool2d(2), nn.Dropout(0.5), nn.Linear(64, 3)
        with torch.no_grad():
            for norm in (self.norm, self.behind):
                norm.weight.copy_(torch.logspace(-1, 1, 6) * torch.tensor([1, -1] * 3))
                norm.running_var.uniform_(0.5, 2)
                norm.running_mean.uniform_(-1, 1)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.behind(self.depth(x)))
        return self.out(torch.flatten(self.drop(self.pool(torch.relu(self.up(x)))), 1))


def chosen(name):
    return STRATEGIES.get(name)()


def folded_weights(model):
    return {each.quantizer.name: each._folded().weight.detach() for each in model.layers}


def test_the_function_of_training_stays():
    x, net = numbers(4, 2, 8, 8), Net()
    graph = prepare_qat(net, PER_TENSOR, x, recipe=chosen("cle+qat")).forms.graph
    found = []
    for module in (net.train(), graph.train()):
        torch.manual_seed(3)
        outputs = module(x)
        found.append(outputs[0] if isinstance(outputs, list | tuple) else outputs)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_ranges_are_those_that_it_gives_without_training():
    x, net = numbers(4, 2, 8, 8), Net().eval()
    trained = folded_weights(prepare_qat(net, PER_TENSOR, x, recipe=chosen("cle+qat")))
    plain = prepare(net, PER_TENSOR, x, recipe=CrossLayerEqualization()).graph
    before = folded_weights(prepare_qat(net, PER_TENSOR, x))
    assert trained.keys() == before.keys()
    for name, weight in trained.items():
        assert not torch.allclose(weight, before[name], rtol=0.1), name
        torch.testing.assert_close(weight, plain.get_submodule(name).weight, rtol=1e-3, atol=1e-6)


def test_what_layers_share_stays():
    one, x = nn.Conv2d(4, 4, 3, padding=1), numbers(2, 4, 6, 6)
    with torch.no_grad():
        one.weight.mul_(torch.logspace(-1, 1, 4).reshape(-1, 1, 1, 1))
    net = nn.Sequential(one, nn.ReLU(), one, nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    trained = prepare_qat(net, PER_TENSOR, x, recipe=chosen("cle+qat")).eval()
    assert len({id(each) for each in trained.parameters()}) == 4
    for layer in trained.layers[:2]:
        assert torch.equal(layer.layer.weight, one.weight)


@pytest.mark.parametrize(
    "name", ["cle+qat", "cle+lsq", "cle+adaround+efficient_qat", "cle+mixed+lsq"]
)
def test_what_is_trained_after_it_is_exported_to_the_bit(name):
    x, net = numbers(8, 2, 8, 8), Net()
    before = copy.deepcopy(net.state_dict())
    trainee = qs.prepare(net, x, name, config=PER_TENSOR, calibration=[x])
    optimizer = torch.optim.SGD(trainee.parameter_groups(1e-3))
    for number in range(3):
        optimizer.zero_grad()
        trainee.model.train()(numbers(8, 2, 8, 8, seed=number)).square().mean().backward()
        optimizer.step()
        trainee.after_step()
    quantized = trainee.finish([x])
    assert torch.equal(trainee.model.eval()(x), quantized.int8()(x))
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
