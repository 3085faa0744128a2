"""What is trained is what is exported, to the bit; what is not finite or was never seen is refused
by name."""

import warnings

import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.prepare import prepare
from qstrategies.strategies import STRATEGIES
from qstrategies.training.input_norm import InputNorm
from qstrategies.training.pooled_norm import NormAndPool

LEARNED = ["qat", "lsq", "pact", "tqt", "a2q"]
OTHERS = ["lsq_plus", "seq2", "efficient_qat", "sam"]
SETS = [
    {"levels": "no_zero", "weight_bits": 2},
    {"activation_bits": 4},
    {"activation_bits": 4, "levels": "full", "weight_bits": 3},
    {"reduce_range": True},
]


def images(count=8, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def net(strategy="qat"):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8)]
    last = nn.ConvTranspose2d(8, 6, 2, bias=False)
    if strategy == "a2q":  # which bounds no transposed one
        last = nn.Conv2d(8, 6, 2, padding=1, bias=False)
    tail = [nn.BatchNorm2d(8), nn.ReLU(), last, nn.Flatten()]
    return nn.Sequential(*body, *tail, nn.Linear(6 * 25, 5))


def criterion(outputs):
    return outputs.square().mean()


def trained(strategy="qat", steps=3, model=None, **settings):
    trainee = qs.prepare(model or net(strategy), images(), strategy, **settings)
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.05))
    for number in range(steps):
        trainee.model.train()
        outputs = trainee.model(images(seed=number))
        loss = criterion(outputs) + trainee.penalty(outputs, (images(seed=number),), criterion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


@pytest.mark.parametrize("strategy", LEARNED + OTHERS)
@pytest.mark.parametrize("bits", [8, 2])
def test_a_trained_model_computes_the_bits_that_are_exported(strategy, bits):
    trainee = trained(strategy, config=qs.QuantizationConfig(weight_bits=bits))
    exported = trainee.finish().module()
    assert torch.equal(trainee.model.eval()(images(50, 9)), exported(images(50, 9)))


@pytest.mark.parametrize("strategy", ["qat", "lsq_plus"])
@pytest.mark.parametrize("settings", SETS)
def test_so_it_does_with_other_levels_and_fewer_bits_of_activations(strategy, settings):
    trainee = trained(strategy, config=qs.QuantizationConfig(**settings))
    x = 3 * images(50, 9) - 1  # beyond what was seen
    assert torch.equal(trainee.model.eval()(x), trainee.finish().module()(x))


@pytest.mark.parametrize("settings", [{"input_scale": 1 / 255}, {}], ids=["pixels", "reals"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_so_it_does_for_nearly_dead_channels_and_dead_ones(settings, per_channel):
    config = qs.QuantizationConfig(weight_bits=4, per_channel=per_channel)
    trainee = trained(config=config, **settings)
    norm = next(each for each in trainee.model.modules() if isinstance(each, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight[0], norm.bias[0], norm.weight[1] = 1e-9, 0.7, 0.0
    x = (images(50, 9) * 255).round() / 255
    assert torch.equal(trainee.model.eval()(x), trainee.finish().module()(x))


class Standing(nn.Module):
    """Normalizations behind no layer that could take them: of images, of rows, and of numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.images, self.rows = nn.BatchNorm2d(8), nn.BatchNorm1d(8)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.second(self.images(x).relu())
        return self.last(self.rows((x * 0.7).mean((2, 3))).relu() * 0.3 + 0.1)


@pytest.mark.parametrize("strategy", ["qat", "lsq", "cle+qat"])
@pytest.mark.parametrize("settings", [{"per_channel": False}, {"weight_bits": 4}])
def test_so_it_does_for_norms_that_no_layer_takes(strategy, settings):
    config = qs.QuantizationConfig(**settings)
    trainee = trained(strategy, model=Standing(), config=config)
    x = 3 * images(50, 9) - 1
    assert torch.equal(trainee.model.eval()(x), trainee.finish().module()(x))
    norms = [each for each in trainee.model.modules() if isinstance(each, nn.BatchNorm2d)]
    assert all(bool(each.weight.grad.abs().sum() > 0) for each in norms)


@pytest.mark.parametrize("strategy", ["clamp+qat", "kure"])
def test_strategies_leave_the_layers_of_such_norms_alone(strategy):
    trainee = trained(strategy, model=Standing())
    ones = [each for name, each in trainee.model.named_parameters() if "_layer." in name]
    assert all(torch.equal(each, torch.ones_like(each)) for each in ones)
    assert torch.isfinite(trainee.finish([images(50)]).module()(images(50, 9))).all()


def test_a_norm_that_no_layer_takes_normalizes_while_it_trains():
    model = Standing().train()
    trainee = qs.prepare(model, images(), "qat", leave_in_float=[nn.Conv2d, nn.Linear])
    apart = trainee.model(images(50, 9)) - model(images(50, 9))
    assert float(apart.detach().abs().max()) < 0.05, "8 bits of activations"
    names = {name for name, _ in trainee.model.named_parameters()}
    assert {"images_layer.weight", "rows_layer.weight"} <= names


def test_what_is_evaluated_has_the_gradients_of_what_is_trained():
    model = trained().model.eval()
    model(images()).square().sum().backward()
    assert all(bool(each.grad.abs().sum() > 0) for each in model.parameters())


@pytest.mark.parametrize("strategy", LEARNED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_in_training_and_at_the_end(strategy, bad):
    trainee = trained(strategy, steps=1)
    with torch.no_grad():
        next(trainee.model.get_submodule("3").parameters()).view(-1)[0] = bad
    for asked in (lambda: trainee.model.train()(images()), trainee.finish):
        with pytest.raises(qs.InputError, match="'3'"):
            asked()


@pytest.mark.parametrize("strategy", ["lsq", "pact", "tqt"])
def test_a_learned_step_that_is_not_finite_is_named(strategy):
    trainee = trained(strategy, steps=1)
    for name, parameter in list(trainee.model.named_parameters()):
        if not name.endswith("log_factor") or not parameter.requires_grad:
            continue
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.fill_(float("nan"))
        if parameter.grad is not None and bool(parameter.grad.abs().sum() > 0):
            for asked in (lambda: trainee.model(images()), trainee.finish):
                with pytest.raises(qs.InputError, match="not finite: the (step|range) of"):
                    asked()
        with torch.no_grad():
            parameter.copy_(kept)


@pytest.mark.parametrize("strategy", LEARNED)
def test_an_activation_that_is_not_finite_is_named(strategy):
    trainee = trained(strategy, steps=1)
    x = images()
    x[0, 0, 0, 0] = float("nan")
    if strategy in ("lsq", "pact", "tqt"):
        trainee = qs.prepare(net(), images(), strategy)
    with pytest.raises(qs.InputError, match="not finite"):
        trainee.model.train()(x)


@pytest.mark.parametrize("strategy", LEARNED)
def test_what_has_seen_nothing_rounds_nothing_warns_of_nothing_and_is_not_exported(strategy):
    model = net(strategy)
    trainee = qs.prepare(model, images(), strategy, config=qs.QuantizationConfig(weight_bits=8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apart = trainee.model.eval()(images()) - model.eval()(images())
    assert apart.abs().max() < 0.05, "only weights are rounded"
    with pytest.raises(qs.InputError, match="nothing has been seen"):
        trainee.finish()


def test_one_value_per_channel_is_refused_where_batch_norm_refuses_it():
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(1, 4, 3)
    merged = [
        (InputNorm(conv, conv, norm), torch.rand(1, 1, 3, 3)),
        (NormAndPool(norm, nn.MaxPool2d(1)), torch.rand(1, 4, 1, 1)),
    ]
    for module, x in merged:
        with pytest.raises(qs.InputError, match="1 value per channel"):
            module.train()(x)
    assert torch.isfinite(norm.running_var).all()


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.clamp = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.ReLU6()

    def forward(self, x):
        return self.clamp(torch.cat([self.left(x), self.right(x)], 1))


BEHIND = {
    "max pool": nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.ReLU6()),
    "upsampling": nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2), nn.ReLU6()),
    "both": nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Hardtanh(0, 6)
    ),
    "concatenation": Joined(),
}
AVERAGED = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.ReLU6())


@pytest.mark.parametrize("name", BEHIND)
def test_a_clamp_behind_what_moves_values_narrows_their_range(name):
    prepared = prepare(
        BEHIND[name], qs.QuantizationConfig(), images(), recipe=STRATEGIES.made("no_norm")
    )
    intervals = [each.interval for each in prepared.activations.values()]
    assert (0, 6) in intervals


def test_one_behind_an_average_does_not():
    prepared = prepare(
        AVERAGED, qs.QuantizationConfig(), images(), recipe=STRATEGIES.made("no_norm")
    )
    assert not any(each.interval for each in prepared.activations.values())
