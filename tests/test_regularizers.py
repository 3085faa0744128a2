"""Regularizers, averages and gradients of QAT against a few lines of NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step, weighted_layers
from qstrategies.strategies.bin_regularization import spread
from qstrategies.strategies.ewgs import ScaledStep
from qstrategies.strategies.quant_noise import NoisyStep


def net():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    made(images())
    return made


def images(seed=0):
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def arrays(model):
    return [layer.weight.detach().numpy().astype(float) for layer in weighted_layers(model)]


def trained(strategy, steps=5, optimizer=torch.optim.SGD, rate=0.05):
    trainee = qs.prepare(net(), images(), strategy, steps=steps)
    stepper = optimizer(trainee.parameter_groups(rate))
    for number in range(steps):
        trainee.model.train()
        outputs = trainee.model(images(number))
        loss = outputs.square().mean() + trainee.penalty(outputs)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        trainee.after_step()
    return trainee


def loss_of(name, model, **options):
    return STRATEGIES.get(name)(**options).loss(model, Step(0, 1)).item()


def test_kure_is_the_squared_distance_of_the_kurtosis_of_the_layers_between():
    model = net()
    w = arrays(model)[1].ravel()
    kurtosis = (((w - w.mean()) / w.std(ddof=1)) ** 4).mean()
    expected = 3 * (kurtosis - 1.8) ** 2
    assert loss_of("kure", model, strength=3) == pytest.approx(expected, rel=1e-4)


def test_the_range_costs_the_largest_weight_of_each_layer():
    model = net()
    expected = 0.5 * sum(np.abs(w).max() for w in arrays(model))
    assert loss_of("range_loss", model, strength=0.5) == pytest.approx(expected, rel=1e-5)


def test_bins_cost_the_distance_of_their_means_and_their_variance():
    trainee = qs.prepare(net(), images(), "bin_regularization")
    for layer in trainee.model.layers:
        v = layer.steps[0].detach().numpy().astype(float).ravel()
        integers, expected = np.rint(np.clip(v, -127, 127)), 0.0
        for centre in np.unique(integers):
            inside = v[integers == centre]
            expected += (inside.mean() - centre) ** 2 + inside.var()
        assert spread(layer).item() == pytest.approx(expected, rel=1e-3)
        spread(layer).backward()
        assert layer.layer.weight.grad.abs().sum() > 0
        assert layer.quantizer.log_factor.grad is None


def test_bins_leave_weights_at_their_centres_alone():
    """A channel of zeros must stay one: behind it a batch normalization multiplies what is left."""
    model = net()
    with torch.no_grad():
        model[0].weight[1] = 0
    config = qs.QuantizationConfig(weight_bits=2)
    trainee = qs.prepare(model, images(), "bin_regularization", config=config)
    layer = trainee.model.layers[0]
    for _ in range(5):
        (gradient,) = torch.autograd.grad(spread(layer), layer.layer.weight)
        assert not gradient[1].any() and gradient[0].any()
        with torch.no_grad():
            layer.layer.weight -= 1e-4 * gradient.sign()


@pytest.mark.parametrize(
    ("name", "option", "strength", "plain"),
    [
        ("kure", "strength", 0.9, "finetune"),
        ("range_loss", "strength", 0.9, "no_norm"),
        ("weight_decay", "decay", 0.9, "no_norm"),
        ("bin_regularization", "strength", 1e-3, "lsq"),
        ("ewgs", "delta", 0.9, "qat"),
        ("ema", "decay", 0.9, "qat"),
    ],
)
def test_strength_0_is_the_plain_one_bit_for_bit(name, option, strength, plain):
    calibration = [images()]
    expected = trained(plain).finish(calibration).int8()(images())
    zero = trained(STRATEGIES.get(name)(**{option: 0})).finish(calibration)
    assert torch.equal(zero.int8()(images()), expected)
    strong = trained(STRATEGIES.get(name)(**{option: strength})).finish(calibration)
    assert not torch.equal(strong.int8()(images()), expected)


def test_all_weights_rounded_is_qat_and_none_is_float():
    given = WeightQuantizer(3, per_channel=True, exact=True)
    w = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    whole = given(w)
    assert torch.equal(NoisyStep(given, 1.0).train()(w), whole)
    assert torch.equal(NoisyStep(given, 0.0).train()(w), w)
    noisy = NoisyStep(given, 0.3).train()
    found = noisy(w)
    rounded = (found == whole) & (whole != w)
    assert ((found == whole) | (found == w)).all()
    assert 0.25 < rounded.float().mean() < 0.35
    assert torch.equal(noisy.eval()(w), whole), "what is exported is rounded"


def test_the_gradient_of_ewgs_grows_towards_the_middle_of_the_bin():
    quantizer = ScaledStep(WeightQuantizer(4, per_channel=True, exact=False), 0.2)
    w = torch.tensor([[7.0, 1.4, 1.5, -2.3, 0.0]]).requires_grad_()
    gradient = torch.tensor([[1.0, 1.0, -1.0, -2.0, 3.0]])
    quantizer(w).backward(gradient)
    v, g = w.detach().numpy(), gradient.numpy()
    np.testing.assert_allclose(w.grad, g * (1 + 0.2 * np.sign(g) * (v - np.rint(v))), rtol=1e-6)


def test_the_average_takes_the_place_of_the_weights():
    strategy, model = STRATEGIES.get("ema")(decay=0.5), nn.Linear(2, 2)
    strategy.parametrize(model)
    average = model.weight.detach().numpy().copy()
    with torch.no_grad():
        for number in range(1, 4):
            model.weight.add_(number)
            strategy.after_step(model, Step(number))
            decay = min(0.5, (1 + number) / (10 + number))
            average = decay * average + (1 - decay) * model.weight.numpy()
    strategy.fold(model)
    np.testing.assert_allclose(model.weight.detach(), average, rtol=1e-6)
    assert set(model.state_dict()) == {"weight", "bias"}


def test_weights_in_front_of_norms_are_standardized_and_stay_so():
    trainee = trained("weight_standardization")
    expected = trainee.model.eval()(images(3)).detach()
    folded = trainee.fold()
    first, second, last = arrays(folded)
    for w in (first, second):
        rows = w.reshape(4, -1)
        np.testing.assert_allclose(rows.mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(rows.std(1, ddof=1), 1, rtol=1e-3)
    assert last.std() < 0.5, "no norm behind it"
    torch.testing.assert_close(folded(images(3)), expected)


def test_decay_pulls_weights_of_layers_only():
    groups = qs.prepare(net(), images(), "weight_decay").parameter_groups(0.1)
    decays = [(group.get("weight_decay", 0.0), len(group["params"])) for group in groups]
    assert decays == [(0.0, 6), (1e-4, 3)]


@pytest.mark.parametrize("name", ["clamp", "qat_clamp"])
def test_weights_are_clamped_to_as_many_deviations_as_asked_for(name):
    strategy, model = STRATEGIES.get(name)(sigma=1.5), net()
    limits = [1.5 * w.std(ddof=1) for w in arrays(model)]
    with torch.no_grad():
        strategy.after_step(model, Step(1))
    for w, limit in zip(arrays(model), limits, strict=True):
        assert np.abs(w).max() == pytest.approx(limit, rel=1e-5)
