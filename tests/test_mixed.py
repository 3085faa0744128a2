"""Bits per layer: measured on the right layer, chosen as well as can be, within the budget, exact."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.bits import disturbances, least_disturbing, sizes
from qstrategies.quantization.prepare import prepare
from qstrategies.strategies import STRATEGIES

WIDTHS = range(2, 9)


class Net(nn.Module):
    """Four layers of different sizes, one behind a batch normalization."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.b, self.up = nn.Conv2d(6, 8, 3, groups=2), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.out(self.up(x).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(images(64))
    return net.eval()


def images(count=16, seed=0):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def config(bits=4, **settings):
    return qs.QuantizationConfig(weight_bits=bits, **settings)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [2.0, 3.3, 4.0, 6.5])
def test_the_choice_is_the_best_of_all(budget, seed):
    drawn = np.random.default_rng(seed)
    counts = drawn.integers(9, 2000, 4).tolist()
    disturbed = 10.0 ** drawn.uniform(-3, 1, (4, 1)) * 4.0 ** -np.array([0, 1, 2, 3, 4, 5, 6])
    disturbed = disturbed * drawn.uniform(0.5, 2, (4, 7))
    chosen = least_disturbing(disturbed, counts, WIDTHS, budget)
    best = min(
        sum(disturbed[row, width - 2] for row, width in enumerate(bits))
        for bits in itertools.product(WIDTHS, repeat=4)
        if np.dot(bits, counts) <= budget * sum(counts)
    )
    found = sum(disturbed[row, width - 2] for row, width in enumerate(chosen))
    assert np.dot(chosen, counts) <= budget * sum(counts)
    assert found == pytest.approx(best, rel=1e-9)


def test_what_is_measured_is_the_error_of_the_outputs_with_one_layer_rounded(net):
    prepared = prepare(net, config(exact=False), images())
    batches = [(images(seed=1),), (images(seed=2),)]
    found = disturbances(prepared, batches, [3, 8])
    x = torch.cat([batch for (batch,) in batches])
    wanted = net(x)
    rows = net.out.weight.detach().numpy()
    for column, limit in enumerate((3, 127)):
        step = np.abs(rows).max(1, keepdims=True) / limit
        rounded = torch.from_numpy(step * np.rint(rows / step))
        apart = torch.func.functional_call(net, {"out.weight": rounded}, (x,)) - wanted
        expected = apart.square().sum() / wanted.square().sum()
        assert found[3, column] == pytest.approx(expected.item(), rel=1e-3)
    assert (found[:, 0] > 10 * found[:, 1]).all()
    assert list(sizes(prepared).values()) == [108, 216, 128, 20]


@pytest.mark.parametrize("name", ["mixed", "cle+mixed+adaround", "mixed+mse_clip"])
def test_the_budget_holds_on_the_integers(net, name):
    options = {"rounding_steps": 20} if "adaround" in name else {}
    strategy = STRATEGIES.get(name)(**options)
    quantized = qs.quantize(net, [images()], images(), config=config(), strategy=strategy)
    layers = [layer.rounded_layer for layer in quantized.graph.layers]
    total = 0
    for layer in layers:
        largest = int(np.abs(layer.weight.astype(int)).max())
        assert largest <= 2 ** (layer.bits - 1) - 1
        total += layer.weight.size * (largest.bit_length() + 1)
    assert total <= 4 * sum(layer.weight.size for layer in layers)
    assert len(set(quantized.weight_bits.values())) > 1
    uniform = qs.quantize(net, [images()], images(), config=config())
    assert quantized.weight_bytes <= uniform.weight_bytes


def test_a_budget_of_all_bits_gives_the_bits_of_no_norm(net):
    mixed, plain = (
        qs.quantize(net, [images()], images(), config=config(8), strategy=name)
        for name in ("mixed", "no_norm")
    )
    assert set(mixed.weight_bits.values()) == {8}
    assert torch.equal(mixed.int8()(images()), plain.int8()(images()))


def test_qat_trains_with_the_bits_that_were_chosen(net):
    def trainee():
        return qs.prepare(net, images(), "mixed+lsq", config=config(), calibration=[images()])

    trained = trainee()
    bits = {name: each.bits for name, each in trained.model.forms.weights.items()}
    assert len(set(bits.values())) > 1
    optimizer = torch.optim.SGD(trained.parameter_groups(0.05))
    for _ in range(3):
        optimizer.zero_grad()
        trained.model.train()(images()).square().mean().backward()
        optimizer.step()
        trained.after_step()
    assert trained.finish().weight_bits == bits
    again = trainee()
    again.model.load_state_dict(trained.model.state_dict())
    assert torch.equal(again.finish().int8()(images()), trained.finish().int8()(images()))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda net: qs.prepare(net, images(), "mixed+qat"), "on calibration batches: give some"),
        (
            lambda net: STRATEGIES.get("qat+mixed"),
            "put them in the order of their work, 'mixed\\+qat'",
        ),
        (lambda net: STRATEGIES.get("mixed+qat_scratch"), "mixed would measure nothing"),
        (lambda net: quantized(net, budget=2, lowest=3), "a budget of 2 bits: give at least 3"),
        (lambda net: quantized(net, lowest=5, highest=4), "lowest is 5: expected at most"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(net, make, reason):
    with pytest.raises(qs.InputError, match=reason):
        make(net)


def quantized(net, **options):
    strategy = STRATEGIES.get("mixed")(**options)
    return qs.quantize(net, [images()], images(), config=config(), strategy=strategy)


def test_trained_with_fewer_bits_after_float_training_in_the_order_of_the_name():
    kind = STRATEGIES.get("clamp+mixed+qat")
    assert kind.course.parent == "clamp" and kind.course.fake_quantized
    assert not STRATEGIES.get("finetune+mixed+adaround").course.fake_quantized
