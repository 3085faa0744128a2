"""Learned steps, thresholds and clipping, damping, freezing and bounds: each formula against a few
lines of NumPy, and what each strategy promises of the integers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.quantization.accumulators import BoundedStep, onto_ball
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.learned import (
    ClippedRange,
    LearnedRange,
    LearnedStep,
    PowerOfTwoRange,
    PowerOfTwoStep,
    annealed,
)
from qstrategies.quantization.observers import ACTIVATION_OBSERVERS
from qstrategies.quantization.oscillation import FreezingStep
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.quantization.teacher import divergence
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step
from qstrategies.training.fast_graph import fast_view


def plain(bits=4, *, per_channel=True, exact=False):
    return WeightQuantizer(bits, per_channel=per_channel, exact=exact)


def ranged(kind, *arguments, exact=False):
    observer = ACTIVATION_OBSERVERS["moving_average", exact](
        dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=255
    )
    return kind(ActivationQuantizer(observer), *arguments).train()


def rows(seed=0, shape=(3, 40)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_step(w, step, q):
    """LSQ, equation 3."""
    v = w / step
    return np.where(np.abs(v) <= q, np.rint(v) - v, np.clip(np.rint(v), -q, q))


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_learned_step_begins_and_moves_as_lsq_says(per_channel):
    quantizer, w = LearnedStep(plain(per_channel=per_channel), 3), (rows() ** 3).requires_grad_()
    gradient = rows(1)
    quantizer(w).backward(gradient)
    groups = w.detach().numpy() if per_channel else w.detach().numpy().reshape(1, -1)
    step = 2 * np.abs(groups).mean(1, keepdims=True) / np.sqrt(7)
    np.testing.assert_allclose(
        quantizer(w).detach().numpy().reshape(groups.shape),
        np.clip(np.rint(groups / step), -7, 7) * step,
        rtol=1e-5,
    )
    inside = np.abs(groups / step) <= 7
    assert not inside.all(), "something is clipped"
    np.testing.assert_allclose(
        w.grad.numpy().reshape(groups.shape), gradient.numpy().reshape(groups.shape) * inside
    )
    found = (gradient.numpy().reshape(groups.shape) * of_step(groups, step, 7)).sum(1)
    scaled = found / np.sqrt(groups.shape[1] * 7) * step[:, 0]
    np.testing.assert_allclose(quantizer.log_factor.grad.numpy(), scaled, rtol=1e-4)


def test_a_step_that_is_not_learned_is_plain_fake_quantization():
    class Plain(LearnedStep):
        def reference(self, groups):
            return groups.abs().amax(1) / self.quant_max

    for exact in (True, False):
        given = plain(exact=exact)
        assert torch.equal(Plain(given, 3)(rows()), given(rows()))


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 1.01])
def test_a_threshold_gives_the_power_of_two_above_it_and_the_gradient_of_tqt(factor):
    quantizer, w = PowerOfTwoStep(plain(), 3), rows().requires_grad_()
    with torch.no_grad():
        quantizer.log_factor.fill_(np.log2(factor))
    gradient = rows(1)
    quantizer(w).backward(gradient)
    numbers = w.detach().numpy()
    threshold = np.minimum(3 * np.sqrt((numbers**2).mean(1)), np.abs(numbers).max(1)) * factor
    step = (2.0 ** np.ceil(np.log2(threshold / 7)))[:, None]
    np.testing.assert_array_equal(
        quantizer(w).detach().numpy(), np.clip(np.rint(numbers / step), -7, 7) * step
    )
    found = step[:, 0] * np.log(2) * (gradient.numpy() * of_step(numbers, step, 7)).sum(1)
    np.testing.assert_allclose(quantizer.log_factor.grad.numpy(), found, rtol=1e-4)


def test_a_range_starts_with_the_first_batch_and_keeps_it():
    quantizer = ranged(LearnedRange)
    quantizer(torch.linspace(-1, 3, 101).reshape(1, -1))
    assert (float(quantizer.low), float(quantizer.high)) == (-1, 3)
    quantizer(torch.full((1, 4), 50.0))
    assert (float(quantizer.low), float(quantizer.high)) == (-1, 3)
    tailed = ranged(LearnedRange)
    x = torch.cat([torch.full((1, 9999), 0.01), torch.tensor([[100.0]])], 1)
    tailed(x)
    lsq = 2 * float(x.mean()) / np.sqrt(255)
    np.testing.assert_allclose(tailed.calculate_qparams()[0].detach().numpy(), lsq, rtol=1e-4)


@pytest.mark.parametrize("kind", [LearnedRange, PowerOfTwoRange])
def test_the_step_of_a_range_gets_the_gradient_of_lsq_or_tqt(kind):
    quantizer = ranged(kind, exact=True)
    quantizer(torch.tensor([[0.0, 4.0]]))
    quantizer.log_factor.grad = None
    x = torch.tensor([[-1.0, 0.0, 0.3, 1.0 / 64, 2.0, 9.0]], requires_grad=True)
    gradient = torch.linspace(-1, 2, 6)[None]
    quantizer(x).backward(gradient)
    step, numbers = 2.0**-5, x.detach().numpy()
    assert quantizer.calculate_qparams()[0].tolist() == [step], "the power of two above 4 / 255"
    v = numbers / step
    inside = (v >= 0) & (v <= 255)
    found = (gradient.numpy() * np.where(inside, np.rint(v) - v, np.clip(v, 0, 255))).sum()
    np.testing.assert_allclose(x.grad.numpy(), gradient.numpy() * inside)
    wanted = 4 / 255
    lsq = found / np.sqrt(6 * 255) * wanted
    expected = lsq if kind is LearnedRange else found * step * np.log(2)
    np.testing.assert_allclose(quantizer.log_factor.grad.numpy(), [expected], rtol=1e-4)


def test_pact_clips_at_alpha_and_alpha_gets_what_is_cut_off():
    quantizer = ranged(ClippedRange, 2.0)
    quantizer(torch.tensor([0.0, 5.0]))
    assert quantizer.alpha.tolist() == [2]
    x = torch.tensor([0.0, 0.5, 1.999, 2.0, 2.001, 7.0], requires_grad=True)
    gradient = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    y = quantizer(x)
    y.backward(gradient)
    numbers = x.detach().numpy()
    step = 2 / 255
    np.testing.assert_allclose(y.detach(), np.rint(np.clip(numbers, 0, 2) / step) * step, rtol=1e-6)
    np.testing.assert_allclose(x.grad, gradient.numpy() * (numbers < 2))
    np.testing.assert_allclose(quantizer.log_factor.grad, [2 * (8 + 16 + 32)], rtol=1e-6)


def test_pact_leaves_signed_tensors_to_their_observer():
    quantizer = ranged(ClippedRange, 1.0)
    x = torch.tensor([-3.0, 9.0])
    observer = copy.deepcopy(quantizer.observer)
    assert torch.equal(quantizer(x), ActivationQuantizer(observer).train()(x))


def small(seed=0, *, pool=True):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 if pool else 800, 5),
    )
    net(images())
    return net.eval()


def images(seed=0, count=32):
    return torch.rand(count, 1, 14, 14, generator=torch.Generator().manual_seed(seed))


def trained(strategy, bits=4, steps=6, net=None, **settings):
    config = qs.QuantizationConfig(weight_bits=bits, **settings)
    trainee = qs.prepare(net or small(), images(), strategy, config=config, steps=steps)
    optimizer = torch.optim.Adam(trainee.parameter_groups(3e-3))
    for number in range(steps):
        trainee.model.train()
        x = images(number)
        outputs = trainee.model(x)
        labels = (x.mean((1, 2, 3)) * 1e4).long() % 5
        loss = nn.functional.cross_entropy(outputs, labels) + trainee.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


@pytest.mark.parametrize("name", ["lsq", "tqt", "pact"])
@pytest.mark.parametrize("pool", [True, False])
def test_the_fast_view_gives_the_same_values_with_learned_ranges(name, pool):
    model = trained(name, net=small(pool=pool)).model.train()
    expected = copy.deepcopy(model)(images(9))
    found = fast_view(copy.deepcopy(model))(images(9))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if pool:  # it takes another of several values that are rounded to one, of other gradients
        return
    gradients = []
    for viewed in (True, False):
        own = copy.deepcopy(model)
        forward = fast_view(own) if viewed else own
        forward(images(9)).square().mean().backward()
        learned = [each.grad for name, each in own.named_parameters() if "log_factor" in name]
        gradients.append(torch.cat([each for each in learned if each is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["lsq", "tqt", "pact"])
def test_what_is_learned_moves_at_its_rate_and_is_exported(name):
    trainee = trained(name)
    learned = [each for key, each in trainee.model.named_parameters() if "log_factor" in key]
    assert any(each.abs().max() > 0 for each in learned)
    assert all(each.abs().max() <= 6 * 1.1e-2 for each in learned)
    scales = [layer.rounded_layer.scale for layer in trainee.finish().graph.layers]
    if name == "tqt":
        assert all((np.log2(scale) % 1 == 0).all() for scale in scales)


def test_no_rate_keeps_steps_where_they_begin():
    for name, option in (("lsq", "step_rate"), ("tqt", "threshold_rate")):
        model = trained(STRATEGIES.get(name)(**{option: 0})).model
        learned = [each for key, each in model.named_parameters() if "log_factor" in key]
        assert all((each == 0).all() for each in learned)


@pytest.mark.parametrize(
    ("name", "option"),
    [("oscillation_damping", "damping"), ("distill", "weight"), ("pact", "decay")],
)
def test_strength_0_is_the_plain_one_bit_for_bit(name, option):
    without = {"oscillation_damping": "lsq", "distill": "qat"}.get(name)
    zero = trained(STRATEGIES.get(name)(**{option: 0})).finish().int8()(images())
    if without is not None:
        assert torch.equal(zero, trained(without).finish().int8()(images()))
    strong = trained(STRATEGIES.get(name)(**{option: 10})).finish().int8()(images())
    assert not torch.equal(zero, strong)


def test_damping_is_the_squared_distance_to_the_middles_of_the_bins():
    model = trained("oscillation_damping", steps=1).model
    strategy = STRATEGIES.get("oscillation_damping")(damping=2)
    expected = 0.0
    for layer in model.layers:
        w, norm = layer.layer.weight.detach().numpy(), layer.norm
        f = 1.0 if norm is None else (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        f = np.reshape(np.asarray(f, dtype=np.float32), (-1, *[1] * (w.ndim - 1)))
        scale = layer.steps[1].numpy() * f
        v = np.clip(w * f / scale, -7, 7)
        expected += (((np.rint(v) - v) * scale / f) ** 2).sum(0).mean()
    model.zero_grad()
    found = strategy.loss(model, Step(3, 3))
    assert found.item() == pytest.approx(2 * expected, rel=1e-4)
    assert strategy.loss(model, Step(0, 4)) is None, "not before a quarter of the training"
    found.backward()
    assert all(layer.quantizer.log_factor.grad is None for layer in model.layers)
    assert annealed(0.25, 0.25) == 0 and annealed(1.0, 0.25) == 1
    assert annealed(0.625, 0.25) == pytest.approx(0.5)


class Layer:
    """What ``follow`` looks at: a weight in steps of 1."""

    def __init__(self, weight):
        self.layer = nn.Module()
        self.layer.weight = weight

    @property
    def steps(self):
        return self.layer.weight, torch.ones_like(self.layer.weight)


def test_weights_that_oscillate_are_frozen_at_their_average_and_stay():
    quantizer = FreezingStep(plain(), 1, torch.zeros(1, 3))
    path = [[0.6, 1.0, 0.0], [0.4, 1.0, 1.0], [0.6, 1.0, 2.0], [0.4, 1.0, 3.0], [0.6, 1.0, 4.0]]
    often, average, latest, direction = np.zeros(3), None, None, np.zeros(3)
    for point in path:
        now = np.rint(point)
        latest = now if latest is None else latest
        average = now if average is None else average
        moved = np.sign(now - latest)
        often = 0.7 * often + 0.3 * (moved * direction < 0)
        average = 0.7 * average + 0.3 * now
        direction, latest = np.where(moved == 0, direction, moved), now
        quantizer.follow(Layer(torch.tensor([point])), 0.3, None)
    np.testing.assert_allclose(quantizer.often.numpy()[0], often, rtol=1e-5)
    np.testing.assert_allclose(quantizer.average.numpy()[0], average, rtol=1e-5)
    assert not quantizer.frozen.any(), "no threshold yet"
    layer = Layer(torch.tensor([[0.4, 1.0, 5.0]]))
    quantizer.follow(layer, 0.3, 0.2)
    assert quantizer.frozen.tolist() == [[True, False, False]]
    kept = float(np.rint(0.7 * average[0]))
    assert layer.layer.weight.tolist() == [[kept, 1.0, 5.0]]
    anything = torch.tensor([[5.0, 2.0, 3.0]])
    assert quantizer.integers(anything, torch.tensor(1.0)).tolist() == [[kept, 2.0, 3.0]]
    weight = anything.clone().requires_grad_()
    quantizer.rounded(weight, torch.tensor([[0.5]])).sum().backward()
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0]]


def test_frozen_integers_are_those_that_are_exported():
    options = {"momentum": 0.5, "first": 0.2, "last": 0.2, "start": 0}
    trainee = trained(STRATEGIES.get("oscillation_freezing")(**options), bits=3, steps=12)
    layers = [each.quantizer for each in trainee.model.layers]
    assert sum(int(each.frozen.sum()) for each in layers) > 0
    for quantizer, layer in zip(layers, trainee.finish().graph.layers, strict=True):
        exported = torch.from_numpy(layer.rounded_layer.weight).float()
        assert torch.equal(exported[quantizer.frozen], quantizer.at[quantizer.frozen])


def bounded(bits=8, accumulator=16, *, centred=False, exact=True):
    site = QuantizerSite("layer", "weight", nn.Conv2d(1, 1, 1), rows())
    return BoundedStep(plain(bits, exact=exact), site, accumulator, centred=centred)


def test_a2q_truncates_what_is_scaled_onto_the_bound():
    quantizer, w = bounded(4, 12, exact=False), rows()
    scale = torch.tensor([[0.02], [0.5], [3.0]])
    bound = (2047 - 511) / 255
    numbers, steps = w.numpy().astype(float), scale.numpy().astype(float)
    norm = np.abs(numbers).sum(1, keepdims=True)
    fitting = numbers * np.minimum(1, bound * steps / norm)
    expected = np.clip(np.trunc(fitting / steps), -7, 7)
    np.testing.assert_array_equal(quantizer.integers(w, scale).numpy(), expected)
    np.testing.assert_allclose(quantizer.rounded(w, scale).numpy(), expected * steps, rtol=1e-6)
    assert (np.abs(expected).sum(1) <= bound).all()


def test_a2q_plus_limits_pairs_of_the_weights_that_it_rounds():
    """Without their mean the two smallest are larger than any weight was."""
    weight = torch.tensor([[1.0] * 18 + [-1.0] * 2] * 3)
    quantizer = bounded(8, 32, centred=True)
    scale = quantizer.exported_scale(weight)
    integers = quantizer.integers(weight, scale.reshape(-1, 1))
    pairs = -integers.sort(1).values[:, :2].sum(1)
    assert (pairs <= 128).all() and (pairs >= 120).all(), (
        "-1.8 twice, in steps of 3.6 / 128 or more"
    )


def test_weights_go_to_the_nearest_point_of_the_ball():
    points = rows(2, (20, 6))
    found = onto_ball(points, 1.5).numpy()
    assert (np.abs(found).sum(1) <= 1.5 + 1e-5).all()
    for point, nearest in zip(points.numpy(), found, strict=True):
        low, high = 0.0, np.abs(point).max()
        for _ in range(60):  # the threshold by bisection
            middle = (low + high) / 2
            norm = np.maximum(np.abs(point) - middle, 0).sum()
            low, high = (middle, high) if norm > 1.5 else (low, middle)
        threshold = high if np.abs(point).sum() > 1.5 else 0.0
        expected = np.sign(point) * np.maximum(np.abs(point) - threshold, 0)
        np.testing.assert_allclose(nearest, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["a2q", "a2q_plus"])
@pytest.mark.parametrize("accumulator", [10, 12, 14, 16, 20])
def test_no_sum_exceeds_the_accumulator_by_our_own_certificate(name, accumulator, tmp_path):
    strategy = STRATEGIES.get(name)(accumulator_bits=accumulator)
    for bits in (8, 4):
        quantized = trained(strategy, bits, steps=3).finish()
        qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)
        certificate = qs.certify(tmp_path / "model.onnx")
        assert certificate.complete
        largest = certificate.summary["largest_accumulator"]
        assert largest <= 2 ** (accumulator - 1) - 1
        assert largest > 2 ** (accumulator - 1) / 10 or accumulator > 16, "and makes use of it"


def test_transposed_convolutions_are_refused_by_a2q():
    net = nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.ReLU())
    with pytest.raises(InputError, match="transposed"):
        qs.prepare(net, images(), "a2q")


def test_divergence_is_that_of_softened_distributions():
    student, teacher = rows(3, (4, 5)), rows(4, (4, 5))
    p, q = (np.exp(x.double().numpy() / 3) for x in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert float(divergence(student, teacher, 3.0)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(student, student, 3.0)) == 0


@pytest.mark.parametrize("name", ["distill", "finetune_distill"])
def test_the_teacher_is_the_float_model_as_it_was(name):
    net, x = small(), images(5)
    expected = net(x)
    trainee = trained(name, net=net)
    shown = trainee.strategy.teacher.outputs((x,))[0]
    torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-5)
    assert not any(each.requires_grad for each in trainee.strategy.teacher.model.parameters())


def norms(model):
    return [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]


def test_norms_are_measured_again_on_calibration_batches():
    trainee = trained("lsq", bits=8)
    batches = [images(seed) for seed in range(3)]
    again = STRATEGIES.get("lsq")(norm_batches=2)
    before = copy.deepcopy(trainee.model)
    model = copy.deepcopy(trainee.model).eval()
    again.settle(model, [(batch,) for batch in batches])
    seen = []
    watched = copy.deepcopy(before).eval()
    norms(watched)[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    with torch.no_grad():
        for batch in batches[:2]:
            watched.view(batch)
    flat = [each.transpose(1, 0, 2, 3).reshape(8, -1) for each in seen]
    mean = np.mean([each.mean(1) for each in flat], 0)
    variance = np.mean([each.var(1, ddof=1) for each in flat], 0)
    np.testing.assert_allclose(norms(model)[0].running_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norms(model)[0].running_var, variance, rtol=1e-4)
    for ours, others in zip(norms(model), norms(before), strict=True):
        assert ours.momentum == others.momentum and not ours.training
        assert torch.equal(ours.weight, others.weight)
        assert not torch.equal(ours.running_var, others.running_var)
    with pytest.raises(InputError, match="norm_batches"):
        again.settle(model, [])


def test_frozen_norms_are_not_measured_and_none_is_without_the_option():
    net = small()
    net.train()
    norms(net)[0].eval()
    trainee = trained(STRATEGIES.get("qat")(norm_batches=1), net=net)
    before = [each.running_mean.clone() for each in norms(trainee.model)]
    model = copy.deepcopy(trainee.model)
    trainee.strategy.settle(model, [(images(3),)])
    changed = [
        not torch.equal(each.running_mean, mean)
        for each, mean in zip(norms(model), before, strict=True)
    ]
    assert changed == [False, True]
    plain_one = trained("qat")
    with_batches, without = plain_one.finish([images()]), plain_one.finish()
    assert torch.equal(with_batches.int8()(images()), without.int8()(images()))


@pytest.mark.parametrize("per_channel", [True, False])
def test_measuring_norms_again_keeps_every_integer(per_channel):
    trainee = trained("lsq", bits=3, per_channel=per_channel)
    before = trainee.finish().graph.layers
    trainee.strategy.values["norm_batches"] = 2
    after = trainee.finish([0.7 * images(seed) for seed in range(2)]).graph.layers
    for ours, others in zip(after, before, strict=True):
        assert np.array_equal(ours.rounded_layer.weight, others.rounded_layer.weight)
    assert any(
        not np.array_equal(ours.rounded_layer.bias, others.rounded_layer.bias)
        for ours, others in zip(after, before, strict=True)
    )
