"""LSQ+, DoReFa, stretched bins, proximal maps and perturbed weights against a few lines of NumPy:
forward and gradient, at and off ties, inside and outside of the range."""

import copy

import numpy as np
import pytest
import torch
from test_learned import images, plain, ranged, rows, small, trained
from torch import nn

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.quantization.offset import LearnedOffset
from qstrategies.quantization.perturbed import PerturbedStep
from qstrategies.quantization.proximal import ProximalStep, falling
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step
from qstrategies.strategies.dorefa import Squashed
from qstrategies.strategies.lsq_plus import SpreadStep
from qstrategies.strategies.seq2 import StretchedStep


def without_zero(bits=2):
    return WeightQuantizer(bits, per_channel=True, exact=False, levels="no_zero")


@pytest.mark.parametrize("exact", [False, True])
def test_step_and_offset_get_the_gradients_of_lsq_plus(exact):
    quantizer = ranged(LearnedOffset, exact=exact)
    quantizer(torch.tensor([[-1.0, 3.0]]))
    quantizer.zero_grad()
    scale, zero_point = (each.item() for each in quantizer.calculate_qparams())
    assert scale == (2.0**-5 if exact else pytest.approx(4 / 255))
    assert zero_point == (32 if exact else 64)
    low, high = -zero_point * scale, (255 - zero_point) * scale
    x = torch.tensor([[low - 1, low, -0.3, 2.5 * scale, 0.01, 0.0, high, high + 2]])
    x.requires_grad_()
    gradient = torch.linspace(-1, 2, 8)[None]
    y = quantizer(x)
    y.backward(gradient)
    v, g = x.detach().double().numpy() / scale + zero_point, gradient.numpy()
    levels = np.rint(np.clip(v, 0, 255))
    inside = (x.detach().numpy() >= np.float32(low)) & (x.detach().numpy() <= np.float32(high))
    assert inside.sum() == 6
    tied = np.abs(v % 1 - 0.5) < 1e-5
    shown = (levels - zero_point) * scale
    np.testing.assert_allclose(y.detach()[~tied], shown[~tied], rtol=1e-5, atol=1e-7)
    assert not exact or y[0, 3] == 2 * scale, "ties to even"
    np.testing.assert_allclose(x.grad, g * inside)
    levels[tied] = y.detach().numpy()[tied] / scale + zero_point
    of_step = (g * np.where(inside, levels - v, levels)).sum()
    of_offset = (g * ~inside).sum()
    factor = 1 / np.sqrt(8 * 255)
    np.testing.assert_allclose(quantizer.log_factor.grad, [factor * of_step * 4 / 255], rtol=1e-4)
    np.testing.assert_allclose(quantizer.offset.grad, [factor * of_offset * 4], rtol=1e-5)


def test_an_offset_moves_the_range_and_keeps_zero_in_it():
    quantizer = ranged(LearnedOffset, exact=True)
    quantizer(torch.tensor([[0.0, 4.0]]))
    for moved, expected in ((-0.25, 32), (-0.26, 34), (0.25, 0)):
        with torch.no_grad():
            quantizer.offset.fill_(moved)
        _, zero_point = quantizer.calculate_qparams()
        assert int(zero_point) == expected


@pytest.mark.parametrize("given", [plain(4), without_zero(3)])
def test_weights_of_lsq_plus_begin_at_three_deviations(given):
    w = rows() + 0.3
    numbers = w.numpy()
    mean, spread = numbers.mean(1), 3 * numbers.std(1)
    first = np.maximum(np.abs(mean - spread), np.abs(mean + spread)) / 2 ** (given.bits - 1)
    spacing = 2 if given.levels == "no_zero" else 1
    np.testing.assert_allclose(SpreadStep(given, 3).step(w).detach(), first / spacing, rtol=1e-5)


def test_dorefa_is_the_formula_of_the_paper_on_its_levels():
    v = torch.tensor([[-2.0, -0.4, 0.0, 0.1], [0.3, 0.9, 1.4, -0.02]], requires_grad=True)
    squash = Squashed(v)
    w = squash(v)
    t = np.tanh(v.detach().double().numpy())
    np.testing.assert_allclose(w.detach(), 2 * t / np.abs(t).max(), rtol=1e-5)
    k = 2
    r = t / (2 * np.abs(t).max()) + 0.5
    paper = 2 * np.rint((2**k - 1) * r) / (2**k - 1) - 1
    quantizer = WeightQuantizer(k, per_channel=False, exact=False, levels="no_zero")
    np.testing.assert_allclose(quantizer(w).detach(), 2 * paper, rtol=1e-5)
    gradient = torch.arange(1.0, 9.0).reshape(2, 4)
    quantizer(w).backward(gradient)
    top, g = np.abs(t).max(), gradient.numpy()
    place = np.unravel_index(np.abs(t).argmax(), t.shape)
    expected = 2 * g * (1 - t**2) / top
    expected[place] -= (2 * g * t).sum() / top**2 * np.sign(t[place]) * (1 - t[place] ** 2)
    np.testing.assert_allclose(v.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "levels"),
    [(without_zero(2), [-0.75, -0.25, 0.25, 0.75]), (plain(2), [-2 / 3, 0, 2 / 3])],
)
def test_stretched_bins_are_of_one_width(given, levels):
    quantizer = StretchedStep(given, 1)
    alpha = 2.0
    v = np.array([-1.0, -0.995, -0.985, -0.5, -0.1, 0.0, 0.2, 0.34, 0.49, 0.8, 0.995])
    w = torch.tensor(alpha * v[None], dtype=torch.float32).requires_grad_()
    gradient = torch.linspace(-2, 3, len(v))[None]
    found = quantizer(w)
    found.backward(gradient)
    count = len(levels)
    bins = (v + 1) / 2 * count
    nearest = np.array(levels)[np.clip(np.floor(bins), 0, count - 1).astype(int)]
    off = np.abs(bins - np.rint(bins)) > 1e-6
    off |= np.abs(v) == 1
    q = found.detach().double().numpy()[0] / alpha
    np.testing.assert_allclose(q[off], nearest[off], rtol=1e-5, atol=1e-7)
    assert all(np.abs(np.array(levels) - each).min() < 1e-6 for each in q), "ties too"
    inside, g = np.abs(v) < 0.99, gradient.double().numpy()[0]
    np.testing.assert_allclose(w.grad[0], g * inside, rtol=1e-5, atol=1e-6)
    factor = alpha / np.sqrt(len(v) * given.quant_max)
    expected = factor * (g * np.where(inside, q - v, q)).sum()
    np.testing.assert_allclose(quantizer.log_factor.grad, [expected], rtol=1e-4)


@pytest.mark.parametrize("given", [plain(3), without_zero(2)])
@pytest.mark.parametrize("slope", [1.0, 0.4, 1e-6, 0.0])
def test_the_proximal_map_is_affine_between_levels(given, slope):
    quantizer = ProximalStep(given).train()
    quantizer.inverse_slope.fill_(slope)
    levels = np.arange(given.quant_min, given.quant_max + 1, given.level_set.spacing)
    steps = np.append(np.linspace(levels[0], levels[-1], 41), [0.2, 1.6])
    w = torch.tensor(steps[None], dtype=torch.float32).requires_grad_()
    found = quantizer(w)
    place = np.clip(np.searchsorted(levels, steps, side="right"), 1, len(levels) - 1)
    lower, upper = levels[place - 1], levels[place]
    middle = (lower + upper) / 2
    moved = np.clip(middle + (steps - middle) / max(slope, 1e-30), lower, upper)
    tied = np.abs(steps - middle) < 1e-4
    np.testing.assert_allclose(found.detach()[0][~tied], moved[~tied], rtol=1e-4, atol=1e-4)
    found.backward(gradient := torch.linspace(-1, 1, len(steps))[None])
    np.testing.assert_allclose(w.grad, gradient)
    assert torch.equal(quantizer.eval()(w), given(w)), "what is exported is rounded"


def test_the_slope_falls_along_a_sigmoid_between_start_and_end():
    strategy, net = STRATEGIES.get("parq")(start=0.2, end=0.6), nn.Sequential(ProximalStep(plain()))
    seen = []
    for number in range(11):
        strategy.after_step(net, Step(number, 10))
        seen.append(net[0].inverse_slope.item())
    f = 1 / (1 + np.exp(10 * (np.clip((np.arange(11) / 10 - 0.2) / 0.4, 0, 1) - 0.5)))
    np.testing.assert_allclose(seen, (f - f[-1]) / (f[0] - f[-1]), rtol=1e-4, atol=1e-6)
    assert falling(0, 3) == 1 and falling(1, 3) == 0


def criterion(outputs):
    return outputs.square().mean()


def perturbed(rho, net=None):
    config = qs.QuantizationConfig(weight_bits=3)
    strategy = STRATEGIES.get("sam")(rho=rho)
    return qs.prepare(net or small(), images(), strategy, config=config)


def test_the_loss_of_sam_is_that_at_the_perturbed_rounded_weights():
    trainee, rho = perturbed(0.3), 0.3
    model = trainee.model.train()
    before = {name: each.clone() for name, each in model.named_buffers()}
    reference = copy.deepcopy(model)
    outputs = model(images())
    seen = {name: each.clone() for name, each in model.named_buffers()}
    assert any(not torch.equal(each, seen[name]) for name, each in before.items())
    extra = trainee.penalty(outputs, criterion=criterion)
    (criterion(outputs) + extra).backward()
    assert all(torch.equal(each, seen[name]) for name, each in model.named_buffers())

    steps = [each for each in reference.modules() if isinstance(each, PerturbedStep)]
    criterion(reference(images())).backward()
    gradients = [each.shift.grad.double().numpy() for each in steps]
    norm = np.sqrt(sum((each**2).sum() for each in gradients))
    for each, gradient in zip(steps, gradients, strict=True):
        each.given = torch.from_numpy(rho * gradient / norm).float()
    reference.zero_grad()
    moved = criterion(reference(images()))
    moved.backward()
    assert extra.item() > 0, "it climbs"
    there = (criterion(outputs) + extra).item()
    assert there == pytest.approx(moved.item(), rel=1e-3), "the statistics have moved a little"
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.05, atol=1e-3)


def test_sam_asks_for_the_loss_and_forgets_its_perturbation():
    trainee = perturbed(0.1)
    outputs = trainee.model.train()(images())
    with pytest.raises(InputError, match="criterion"):
        trainee.penalty(outputs)
    trainee.penalty(outputs, criterion=criterion)
    steps = [each for each in trainee.model.modules() if isinstance(each, PerturbedStep)]
    assert steps and all(each.given is None for each in steps)
    assert torch.equal(trainee.finish().int8()(images()), trainee.finish().int8()(images()))


def test_no_perturbation_is_qat_bit_for_bit():
    zero = trained(STRATEGIES.get("sam")(rho=0), bits=3).finish().int8()(images())
    assert torch.equal(zero, trained("qat", bits=3).finish().int8()(images()))


@pytest.mark.parametrize("levels", ["narrow", "no_zero"])
@pytest.mark.parametrize("name", ["lsq_plus", "dorefa", "parq", "seq2"])
def test_what_is_trained_keeps_to_its_levels(name, levels):
    quantized = trained(name, bits=2, levels=levels).finish()
    weights = [layer.rounded_layer.weight.ravel() for layer in quantized.graph.layers]
    used = {int(each) for each in np.concatenate(weights)}
    assert used <= ({-3, -1, 1, 3} if levels == "no_zero" else {-1, 0, 1})
    assert len(used) > 2
