"""Integers that are frozen while their steps are trained."""

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.frozen import FrozenStep
from qstrategies.quantization.qat import FakeQuantizedModel
from qstrategies.strategies import STRATEGIES


class Net(nn.Module):
    """A negative factor of a batch normalization, a transposed convolution, a large bias."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Linear(4, 5)
        with torch.no_grad():
            self.norm.weight[1] = -1.5

    def forward(self, x):
        return self.out(torch.relu(self.up(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(images(64))
    return net.eval()


def images(count=32, seed=0):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained(net, name, steps, **settings):
    options = {"rounding_steps": 100} if "adaround" in name else {}
    strategy = STRATEGIES.get(name)(**options)
    trainee = qs.prepare(net, images(), strategy, calibration=[images()], **settings)
    optimizer = torch.optim.Adam(trainee.parameter_groups(0.02))
    trainee.model.train()(images())  # ranges begin here
    for number in range(steps):
        outputs = trainee.model.train()(images(seed=number))
        optimizer.zero_grad()
        outputs.sub(1).square().mean().backward()
        optimizer.step()
        trainee.after_step()
    return trainee


def integers(quantized):
    return {layer.name: layer.rounded_layer.weight for layer in quantized.graph.layers}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", ["efficient_qat", "adaround+efficient_qat"])
def test_frozen_integers_stay_frozen_bit_for_bit(net, name, bits, per_channel):
    config = qs.QuantizationConfig(weight_bits=bits, per_channel=per_channel)
    trainee = trained(net, name, 0, config=config)
    assert isinstance(trainee.model, FakeQuantizedModel)
    before = integers(trainee.finish([images()]))
    later = trained(net, name, 10, config=config)
    after = later.finish([images()])
    assert {key: value.tolist() for key, value in integers(after).items()} == {
        key: value.tolist() for key, value in before.items()
    }
    steps = [each for each in later.model.modules() if isinstance(each, FrozenStep)]
    assert len(steps) == 3 and all(each.log_factor.abs().min() > 0 for each in steps)
    assert torch.equal(after.int8()(images()), later.model.eval()(images()).detach())


def test_nothing_but_steps_is_trained(net):
    start, end = trained(net, "efficient_qat", 0), trained(net, "efficient_qat", 5)
    before, after = start.model.state_dict(), end.model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    moved.remove("qstrategies_steps")
    assert moved and all("quantizers." in key for key in moved)
    learned = [each for each in end.model.parameters() if each.requires_grad]
    assert len(learned) == 3 + len(end.model.activation_quantizers)


def test_the_integers_are_those_of_adaround_and_the_step_is_that_of_least_squares(net):
    config = qs.QuantizationConfig(weight_bits=3, exact=False)
    trainee = trained(net, "adaround+efficient_qat", 0, config=config)
    first = trainee.model.layers[0]
    factor = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)
    w = (net.a.weight * factor.reshape(-1, 1, 1, 1)).detach().numpy().reshape(6, -1)
    q = first.quantizer.at.numpy().reshape(6, -1)
    expected = (w * q).sum(1) / (q * q).sum(1)
    np.testing.assert_allclose(first.quantizer.scale(first.weight).detach(), expected, rtol=1e-5)
    plain = trained(net, "efficient_qat", 0, config=config).model.layers[0].quantizer.at
    assert 0 < (plain != first.quantizer.at).float().mean() < 1


def test_the_gradient_of_a_step_is_the_integers_times_that_of_the_weight(net):
    layer = trained(net, "efficient_qat", 0, config=qs.QuantizationConfig(weight_bits=4)).model
    layer = layer.layers[-1]
    weight, drawn = layer.weight, torch.randn(layer.weight.shape)
    (weight * drawn).sum().backward()
    q, s = layer.quantizer.at.numpy(), layer.quantizer.first.numpy()
    share = 1 / np.sqrt(q.shape[1] * layer.quantizer.quant_max)
    expected = (q * drawn.numpy()).sum(1) * s * share
    np.testing.assert_allclose(layer.quantizer.log_factor.grad, expected, rtol=1e-4, atol=1e-7)


def test_integers_are_chosen_before_their_steps_are_trained(net):
    with pytest.raises(qs.InputError, match="of their work, 'adaround\\+efficient_qat'"):
        STRATEGIES.get("efficient_qat+adaround")
    with pytest.raises(qs.InputError, match="are chosen by calibration batches: give some"):
        qs.prepare(net, images(), "adaround+efficient_qat")
    nearest = integers(trained(net, "efficient_qat", 0).finish())
    assert all(each.any() for each in nearest.values())
