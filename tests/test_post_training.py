"""Strategies that only change the way from a float model to integers: their formulas, what they
leave as it is, and a short run of each."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import qstrategies as qs
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.clipping import PercentileQuantizer
from qstrategies.quantization.equalize import absorb, equalize, links, smallest_results
from qstrategies.quantization.exact_forms import output_rows
from qstrategies.quantization.prepare import activation_observer, prepare
from qstrategies.quantization.propagate import RoundingProblem
from qstrategies.quantization.quantizers import QuantizerSite, WeightQuantizer
from qstrategies.quantization.regression import from_rows, sampled, weight_rows
from qstrategies.quantization.rounding import kept_exact
from qstrategies.quantization.saturation import FloatNetwork
from qstrategies.quantization.soft_rounding import Objective, rounded_up, sharpness, undecided
from qstrategies.quantization.trial import best_chain, halves
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.sawb import COEFFICIENTS


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def problem_of(layer, x, step=0.1, limit=7, relu=False):
    weight = layer.weight.detach()
    bias = torch.zeros(len(output_rows(layer))) if layer.bias is None else layer.bias.detach()
    return RoundingProblem(
        name="layer",
        weight=weight,
        bias=bias,
        step=torch.full((1,) * weight.dim(), step),
        low=-limit,
        high=limit,
        relu=relu,
        layer=layer,
        pairs=[(x, layer(x).detach())],
    )


def graph_of(model, example):
    return prepare(model.eval(), qs.QuantizationConfig(), example).graph


with torch.random.fork_rng():
    torch.manual_seed(0)
    LAYERS = {
        "linear": (nn.Linear(6, 4), (5, 6)),
        "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (2, 4, 11)),
        "conv2d": (
            nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 0), bias=False),
            (2, 3, 7, 6),
        ),
        "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 5, 5)),
        "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
        "transposed": (
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            (2, 4, 5, 6),
        ),
        "transposed1d": (nn.ConvTranspose1d(3, 2, 3, dilation=2), (2, 3, 7)),
    }


@pytest.mark.parametrize("places", [10**6, 6])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_regression_that_is_sampled(name, places):
    layer, shape = LAYERS[name]
    problem = problem_of(layer, numbers(*shape))
    data = sampled(problem, places)
    weight = weight_rows(layer, problem.weight)
    torch.testing.assert_close(data.rows @ weight.mT, data.wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(from_rows(layer, weight), problem.weight)
    outputs = layer(numbers(*shape))
    whole = outputs.numel() // outputs.shape[1]
    assert data.rows.shape[1] == (whole if places > whole else 2 * 3 if len(shape) > 2 else 5)


def test_the_soft_rounding_of_adaround_is_that_of_the_paper():
    v = np.linspace(-6, 6, 41)
    h = np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1)
    learned = torch.tensor(v, requires_grad=True)
    found = rounded_up(learned)
    np.testing.assert_allclose(found.detach(), h)
    found.sum().backward()
    slope = np.where((h > 0) & (h < 1), 1.2 * np.exp(-v) / (1 + np.exp(-v)) ** 2, 0)
    np.testing.assert_allclose(learned.grad, slope, atol=1e-12)
    fractions = torch.linspace(0, 0.999, 50)
    torch.testing.assert_close(rounded_up(undecided(fractions)), fractions, rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [None, 20.0, 2.0])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("spacing", [1, 2])
def test_the_gradient_of_adaround_is_that_of_its_objective(spacing, relu, beta):
    below = spacing * torch.floor(6 / spacing * numbers(2, 3, 5)) + spacing - 1
    x, y, v = (numbers(2, size, 5, seed=size).double() for size in (7, 8, 3))
    y, v = y[:, :7, :3], 3 * v
    objective = Objective(
        below=below.double(),
        step=torch.full((2, 3, 5), 0.1, dtype=torch.float64),
        bias=numbers(2, 1, 3).double(),
        low=-7,
        high=7,
        spacing=spacing,
        relu=relu,
        unit=torch.tensor(1.7),
        strength=0.3,
    )
    v.requires_grad_()
    h = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
    found = x @ ((below + spacing * h).clamp(-7, 7) * 0.1).mT + objective.bias
    error = ((found.relu() if relu else found) - y).square().sum((0, 2)).mean() / 1.7
    loss = error if beta is None else error + 0.3 * (1 - (2 * h - 1).abs() ** beta).sum()
    loss.backward()
    torch.testing.assert_close(objective.gradient(v.detach(), x, y, beta), v.grad)
    assert (v.grad == 0).any() and (v.grad != 0).any()


def test_beta_falls_from_20_to_2_after_the_warm_up():
    assert sharpness(0.1, 0.2) is None
    assert sharpness(0.2, 0.2) == 20 and sharpness(1.0, 0.2) == pytest.approx(2)
    assert sharpness(0.6, 0.2) == pytest.approx(11)


@pytest.mark.parametrize("name", ["linear", "depthwise", "transposed"])
def test_adaround_rounds_up_or_down_and_beats_the_nearest(name):
    layer, shape = LAYERS[name]
    problem = problem_of(layer, numbers(40, *shape[1:]).abs(), relu=name == "linear")
    chosen = STRATEGIES.get("adaround")(rounding_steps=300).round_weights(problem)
    steps = problem.weight / problem.step
    assert ((chosen - steps).abs() < 1).logical_or(chosen.abs() == 7).all()
    errors = [
        (problem.output(problem.step * each, problem.pairs[0][0]) - problem.pairs[0][1])
        for each in (chosen, problem.nearest())
    ]
    if problem.relu:
        x, wanted = problem.pairs[0]
        errors = [
            problem.output(problem.step * each, x).relu() - wanted.relu()
            for each in (chosen, problem.nearest())
        ]
    assert errors[0].square().sum() < 0.9 * errors[1].square().sum()


def test_adaround_leaves_what_is_right_and_what_no_batch_speaks_of():
    layer, shape = LAYERS["linear"]
    problem = problem_of(layer, numbers(*shape))
    alone = RoundingProblem(**{**vars(problem), "pairs": ()})
    strategy = STRATEGIES.get("adaround")(rounding_steps=50)
    assert torch.equal(strategy.round_weights(alone), problem.nearest())
    weight = problem.nearest() * problem.step
    wanted = problem.output(weight, problem.pairs[0][0]).detach()
    pairs = [(problem.pairs[0][0], wanted)]
    right = RoundingProblem(**{**vars(problem), "weight": weight, "pairs": pairs})
    assert torch.equal(strategy.round_weights(right), problem.nearest())


CHOOSING = {
    "adaround": {"rounding_steps": 200},
    "brecq": {"block_steps": 100},
    "qdrop": {"block_steps": 100},
}


@torch.no_grad()
def noise(model, x, strategy, **config):
    """The squared error of the outputs for ``x``, which calibrates."""
    settings = qs.QuantizationConfig(weight_bits=4, **config)
    quantized = qs.quantize(model, [x], x, strategy=strategy, config=settings)
    return float((quantized.module()(x) - model(x)).square().mean())


@pytest.mark.parametrize("name", CHOOSING)
def test_one_example_alone_says_which_way_to_round(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6)).eval()
    strategy = STRATEGIES.get(name)(**CHOOSING[name])
    x = numbers(1, 12)
    assert noise(model, x, strategy) < 0.5 * noise(model, x, "no_norm")


@pytest.mark.parametrize("name", CHOOSING)
def test_zeros_among_odd_levels_cancel(name):
    """Halfway between two levels, where no gradient says which."""
    torch.manual_seed(0)
    model = nn.Linear(32, 4).eval()
    nn.init.zeros_(model.weight[1:])
    strategy = STRATEGIES.get(name)(**CHOOSING[name])
    found = noise(model, numbers(64, 32).abs(), strategy, levels="no_zero", per_channel=False)
    aside = float(model.weight.abs().max()) / 15 * 32 * 0.8
    assert found < 0.1 * aside**2, "all of them on one side"


def gptq(weight, inputs, low, high, damping):
    """Column by column with the inverse of what is left of H, without Cholesky and blocks."""
    weight, rounded = weight.astype(np.float64).copy(), np.zeros_like(weight)
    hessian = 2 * inputs.T @ inputs / len(inputs)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    hessian += damping * np.diag(hessian).mean() * np.eye(len(hessian))
    for column in range(weight.shape[1]):
        inverse = np.linalg.inv(hessian[column:, column:])
        rounded[:, column] = np.clip(np.rint(weight[:, column]), low, high)
        error = (weight[:, column] - rounded[:, column]) / inverse[0, 0]
        weight[:, column:] -= np.outer(error, inverse[0])
    return rounded


@pytest.mark.parametrize("block", [100, 4])
def test_gptq_is_the_optimal_update_column_by_column(block, monkeypatch):
    monkeypatch.setattr("qstrategies.strategies.gptq.BLOCK", block)
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    x = numbers(60, 12) @ numbers(12, 12, seed=1)
    x[:, 3] = 0
    problem = problem_of(layer, x, step=0.05)
    found = STRATEGIES.get("gptq")().round_weights(problem)
    expected = gptq((problem.weight / 0.05).numpy(), x.double().numpy(), -7, 7, 0.01)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert torch.equal(found[:, 3], problem.nearest()[:, 3]), "other inputs may reach it"
    errors = [layer(x) - problem.output(0.05 * each, x) for each in (found, problem.nearest())]
    assert errors[0].square().sum() < 0.8 * errors[1].square().sum()


def test_integers_that_kernels_cannot_add_exactly_go_back_to_the_nearest():
    layer = nn.Linear(3, 2)
    weight = torch.tensor([[64.4, 63.4, 1.4], [20.0, 30.4, 1.4]])
    problem = problem_of(layer, numbers(4, 3), step=1.0, limit=127)
    problem = RoundingProblem(**{**vars(problem), "weight": weight})
    up = torch.ceil(weight)
    quantizer = WeightQuantizer(8, per_channel=True, exact=True)
    kept = kept_exact(problem, up, torch.ones(2), torch.zeros(2), quantizer)
    assert torch.equal(kept, torch.stack([torch.round(weight[0]), up[1]]))
    bias = torch.tensor([0.0, 119_000.0])
    wide = kept_exact(problem, up, torch.full((2,), 127.0), bias, quantizer)
    assert torch.equal(wide, torch.round(weight)), (
        "127 (255 53 + 119 000) is beyond 2^24, with 51 it is not"
    )


def test_bias_correction_takes_the_mean_error_off():
    layer, shape = LAYERS["depthwise"]
    problem = problem_of(layer, numbers(20, *shape[1:]).abs())
    rounded = problem.nearest() * problem.step
    x, wanted = problem.pairs[0]
    error = functional.conv2d(x, rounded, layer.bias, padding=1, groups=6) - wanted
    expected = layer.bias.detach().numpy() - error.detach().numpy().mean((0, 2, 3))
    found = STRATEGIES.get("bias_correction")().correct_bias(problem, rounded)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


class Chain(nn.Module):
    """Everything that factors pass through, and a dead channel."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.point = nn.Conv2d(4, 6, 1, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.out = nn.Linear(4 * 5 * 5, 5)
        self.act, self.pool, self.mean = act(), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2)
        self.shuffle = nn.ChannelShuffle(2)
        with torch.no_grad():
            for layer in (self.a, self.depth, self.point, self.up, self.out):
                layer.weight.mul_(
                    torch.logspace(-1, 1, len(layer.weight)).reshape(
                        -1, *[1] * (layer.weight.dim() - 1)
                    )
                )
            self.a.weight[2] = 0
            self.depth.weight[2] = 0

    def forward(self, x):
        x = self.act(self.depth(self.act(self.a(x))))
        x = self.pool(self.act(self.point(x)))
        x = self.mean(self.act(self.up(self.shuffle(x))))
        return self.out(torch.flatten(x, 1))


def ranges(link):
    """Of what gives and what reads each channel."""
    given = output_rows(link.source).detach().flatten(1).abs().amax(1)
    weight = link.reader.weight.detach()
    if isinstance(link.reader, nn.ConvTranspose2d):
        rows = weight.flatten(1)
    else:
        groups = getattr(link.reader, "groups", 1)
        blocks = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        rows = blocks.transpose(1, 2).flatten(0, 1).flatten(1)
    read = [float(rows[link.channels == each].abs().max()) for each in range(len(given))]
    return given, torch.tensor(read)


def test_equalization_keeps_the_function_and_makes_ranges_one():
    torch.manual_seed(0)
    model, x = Chain().eval(), numbers(2, 2, 8, 8)
    graph = graph_of(model, x)
    found = links(graph)
    assert [each.channels.tolist() for each in found] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 3, 1, 4, 2, 5],
        [each for each in range(4) for _ in range(25)],
    ]
    wanted = model(x)
    dead = graph.a.bias[2].clone(), graph.depth.bias[2].clone()
    equalize(found, 50)
    torch.testing.assert_close(graph(x)[0], wanted, rtol=1e-4, atol=1e-4)
    for link in found:
        given, read = ranges(link)
        alive = (given > 0) & (read > 0)
        torch.testing.assert_close(given[alive], read[alive], rtol=1e-2, atol=0)
    assert torch.equal(graph.a.bias[2], dead[0]) and not graph.a.weight[2].any()


def test_one_pair_is_equalized_by_the_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = graph_of(model, numbers(5, 3))
    before = [each.detach().numpy().copy() for each in model.parameters()]
    equalize(links(graph), 1)
    w1, b1, w2, b2 = before
    s = np.sqrt(np.abs(w1).max(1) / np.abs(w2).max(0))
    after = [each.detach().numpy() for each in graph.parameters()]
    for found, expected in zip(after, (w1 / s[:, None], b1 / s, w2 * s, b2), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_channels_always_exceed_moves_to_their_readers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    with torch.no_grad():
        for layer in (model[0], model[3], model[5]):
            layer.bias[1] += 5
    x = numbers(4, 2, 8, 8)
    graph = graph_of(model, x)
    found = links(graph)
    assert [link.shifts for link in found] == [True, False, True]
    wanted, before = graph(x)[0], copy.deepcopy(graph)
    smallest = smallest_results(graph, {link.name for link in found}, [(x[:2],), (x[2:],)])
    first = functional.conv2d(x, model[0].weight, model[0].bias, padding=1)
    torch.testing.assert_close(smallest[found[0].name], first.amin((0, 2, 3)).detach())
    assert absorb(found, smallest)
    torch.testing.assert_close(graph(x)[0], wanted, rtol=1e-4, atol=1e-4)
    names = dict(graph.named_parameters())
    moved = [name for name, old in before.named_parameters() if not torch.equal(old, names[name])]
    assert moved == ["0.bias", "3.bias", "5.bias", "8.bias"]
    lowered = dict(before.named_parameters())["0.bias"] - names["0.bias"]
    torch.testing.assert_close(lowered, smallest[found[0].name].clamp(min=0))


@pytest.mark.parametrize("act", [nn.ReLU6, nn.Sigmoid, nn.Hardtanh])
def test_nothing_moves_through_what_saturates(act):
    torch.manual_seed(0)
    graph = graph_of(Chain(act), 20 * numbers(2, 2, 8, 8))
    assert [len(each.channels) for each in links(graph)] == [], act


def test_nothing_moves_where_something_else_reads_a_layer_or_mixes_its_channels():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
            self.d = nn.Linear(2, 2)

        def forward(self, x):
            y = torch.relu(self.a(x))
            z = torch.relu(self.b(y) + y)
            return self.d(self.c(z).reshape(-1, 2))

    assert links(graph_of(Residual(), numbers(2, 4, 3, 2))) == []


def test_relu6_networks_keep_their_function_under_cle():
    torch.manual_seed(0)
    model, x = Chain(nn.ReLU6).eval(), 20 * numbers(2, 2, 8, 8)
    plain, same = (qs.quantize(model, [x], x, strategy=name) for name in ("no_norm", "cle"))
    assert torch.equal(plain.int8()(x), same.int8()(x))


def squared_error(rows, scale, limit):
    return (rows - scale * np.clip(np.rint(rows / scale), -limit, limit)) ** 2


def quantizer_of(name, rows, bits, *, per_channel=True, exact=False, **options):
    default = WeightQuantizer(bits, per_channel=per_channel, exact=exact)
    site = QuantizerSite("layer", "weight", None, rows)
    return STRATEGIES.get(name)(**options).weight_quantizer(site, default)


HEAVY = numbers(8, 400) * numbers(8, 400, seed=1).exp()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_steps_of_least_squared_error_are_that_on_the_grid_that_is_exported(bits, per_channel):
    limit = 2 ** (bits - 1) - 1
    quantizer = quantizer_of("mse_clip", HEAVY, bits, per_channel=per_channel, exact=True)
    found = quantizer.exported_scale(HEAVY)
    rows, sets = HEAVY.numpy(), range(8)
    whole = torch.full((8,), float(HEAVY.abs().max()) / limit)
    if per_channel:
        whole = HEAVY.abs().amax(1) / limit
    tried = [quantizer.on_grid(HEAVY, whole * 2.0**-each) for each in np.linspace(0, 5, 100)]
    errors = np.array(
        [[squared_error(rows[i], float(s[i]), limit).sum() for i in sets] for s in tried]
    )
    ours = np.array([squared_error(rows[i], float(found[i]), limit).sum() for i in sets])
    if not per_channel:
        errors, ours = errors.sum(1, keepdims=True), ours.sum(keepdims=True)
    np.testing.assert_allclose(ours, errors.min(0), rtol=1e-5)
    plain = WeightQuantizer(bits, per_channel=per_channel, exact=True).exported_scale(HEAVY)
    assert (found < plain).any()


def test_octav_stops_where_newton_does():
    sizes = np.abs(HEAVY[0].numpy().astype(np.float64))
    t = sizes.mean()
    for _ in range(20):
        beyond = sizes > t
        t = sizes[beyond].sum() / ((sizes <= t).sum() / (12 * 7**2) + beyond.sum())
    quantizer = quantizer_of("octav", HEAVY, 4)
    assert float(quantizer.exported_scale(HEAVY)[0]) == pytest.approx(t / 7, rel=1e-5)
    one_size = torch.tensor([[0.5, -0.5, 0.5]])
    assert float(quantizer_of("octav", one_size, 4).exported_scale(one_size)) == pytest.approx(
        0.5 / 7
    )


def test_octav_minimizes_its_own_expectation():
    sizes = np.abs(numbers(1, 20000).numpy()[0])
    found = float(quantizer_of("octav", numbers(1, 20000), 4).exported_scale(numbers(1, 20000))) * 7

    def expected(t):
        clipped = np.maximum(sizes - t, 0)
        return (clipped**2).mean() + (t / 7) ** 2 / 12 * (sizes <= t).mean()

    around = [expected(found * each) for each in (0.95, 1.0, 1.05)]
    assert around[1] <= min(around[0], around[2]) + 1e-4


def test_sawb_is_the_line_through_the_moments():
    rows = numbers(3, 500).numpy()
    root, mean = np.sqrt((rows**2).mean(1)), np.abs(rows).mean(1)
    for bits, (c1, c2) in {2: (2.6, -1.71), 4: (12.035, -12.03), 8: (31.76, -35.04)}.items():
        threshold = np.minimum(c1 * root + c2 * mean, np.abs(rows).max(1))
        found = quantizer_of("sawb", None, bits).exported_scale(torch.from_numpy(rows))
        np.testing.assert_allclose(found, threshold / (2 ** (bits - 1) - 1), rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_more_alike_than_any_that_sawb_was_fitted_to_are_taken_for_uniform(bits):
    alike, uniform = torch.linspace(0.9, 1, 50), torch.linspace(0, 1, 5001)
    quantizer = quantizer_of("sawb", None, bits)
    scales = [float(quantizer.exported_scale(rows[None])) for rows in (alike, uniform)]
    limit = 2 ** (bits - 1) - 1
    expected = min(2 * 0.95 * limit * scales[1], 1) / limit  # a mean of 0.95, not 0.5
    assert scales[0] == pytest.approx(expected, rel=1e-2)


def test_coefficients_of_sawb_that_are_not_published_are_fitted_as_these_were():
    part = (np.arange(20000) + 0.5) / 20000
    angles = np.linspace(0, np.pi, 20001)
    mises = np.cumsum(np.exp(np.cos(angles)))
    quantiles = [  # of |w| under six distributions
        numbers_of_a_normal(part),
        part,
        -np.log1p(-part),
        np.log((1 + part) / (1 - part)),
        1 - np.sqrt(1 - part),
        np.interp(part, mises / mises[-1], angles),
    ]
    for limit in (1, 3, 7, 15):
        points = []
        for sizes in quantiles:
            tried = np.linspace(0.05, 1, 400) * min(sizes.max(), 9 * np.sqrt((sizes**2).mean()))
            errors = [squared_error(sizes, each / limit, limit).mean() for each in tried]
            best = tried[int(np.argmin(errors))]
            points.append((np.sqrt((sizes**2).mean()) / sizes.mean(), best / sizes.mean()))
        fitted = np.polyfit(*np.transpose(points), 1)
        places = np.array(points)[:, 0]
        lines = [np.polyval(each, places) for each in (COEFFICIENTS[limit], fitted)]
        np.testing.assert_allclose(*lines, rtol=0.05)  # published ones were fitted to samples


def numbers_of_a_normal(part):
    return torch.special.ndtri(torch.from_numpy((1 + part) / 2)).numpy()


def test_percentiles_leave_the_rarest_values_out():
    values = torch.arange(1000.0)[torch.randperm(1000)].reshape(10, 100)
    quantizer = PercentileQuantizer(activation_observer(qs.QuantizationConfig(exact=False)), 99)
    seen = quantizer.observe(values)
    assert (float(seen.min()), float(seen.max())) == (10, 989)
    assert float(quantizer.calculate_qparams()[0]) == pytest.approx(989 / 255)
    everything = PercentileQuantizer(activation_observer(qs.QuantizationConfig()), 100)
    assert torch.equal(everything.observe(values), values)


def test_the_best_chain_grows_by_what_helps_most():
    worth = {(): 1.0, ("a",): 0.5, ("b",): 2.0, ("c",): 1.5, ("b", "d"): 1.9, ("b", "e"): 3.0}
    assert best_chain((("a",), ("c", "b"), ("d",), ("e",)), worth.__getitem__) == ("b", "e")


def test_calibration_batches_are_split_in_two():
    batches = [(torch.full((4, 2), float(each)), torch.arange(4)) for each in range(3)]
    assert [len(half) for half in halves(batches)] == [2, 1]
    (seen,), (unseen,) = halves(batches[:1])
    assert seen[1].tolist() == [0, 1] and unseen[1].tolist() == [2, 3]


POST_TRAINING = [
    name for name in STRATEGIES.names() if STRATEGIES.get(name).course.schedule is None
]
FAST = {"rounding_steps": 20, "block_steps": 5}
CASES = [
    (name, model, bits)
    for number, name in enumerate([*POST_TRAINING, "cle+mse_clip+adaround+bias_correction"])
    for model, bits in (("cnn", (8, 4)[number % 2]), ("depthwise", (4, 8)[number % 2]))
]
"""Every strategy with both networks, per channel and not, and with 8 and 4 bits, and these with
each other."""


@pytest.fixture(scope="module")
def trained(mnist):
    """A cnn and a depthwise network after a few steps, calibration batches and images."""
    images = to_input(mnist["train"].images[:1024])
    labels = mnist["train"].labels[:1024]
    found = {}
    for name in ("cnn", "depthwise"):
        torch.manual_seed(0)
        model = MODELS.get(name)()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for batch in range(16):
            drawn = slice(64 * batch, 64 * batch + 64)
            optimizer.zero_grad()
            functional.cross_entropy(model(images[drawn]), labels[drawn]).backward()
            optimizer.step()
        found[name] = model.eval()
    return found, [images[:32], images[32:64]], images[128:144]


def quantized_by(name, trained, model, bits):
    models, batches, images = trained
    kind = STRATEGIES.get(name)
    options = {each: value for each, value in FAST.items() if each in kind.options}
    config = qs.QuantizationConfig(weight_bits=bits, per_channel=model == "cnn")
    return qs.quantize(
        models[model],
        batches,
        images,
        config=config,
        strategy=kind(**options),
        input_scale=PIXEL_SCALE,
    )


@pytest.mark.parametrize(("name", "model", "bits"), CASES)
def test_what_a_strategy_leaves_is_exact_certified_and_the_same_again(
    name, model, bits, trained, tmp_path, quick_ptq_best
):
    quantized = quantized_by(name, trained, model, bits)
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx")
    checked = qs.cross_check(exported, trained[2], ["onnxruntime-all", "onnx-reference"])
    assert checked.same and not checked.apart, checked
    assert qs.certify(tmp_path / "model.onnx").complete
    qs.save(quantized, tmp_path / "model.safetensors")
    pixels = (255 * trained[2]).round()
    outputs = quantized.int8()(pixels)
    assert torch.equal(qs.load(tmp_path / "model.safetensors").int8()(pixels), outputs)
    if model == "depthwise":
        again = quantized_by(name, trained, model, bits)
        assert torch.equal(again.int8()(pixels), outputs), "the same batches, the same bits"
    layers = [layer.rounded_layer for layer in quantized.graph.layers]
    assert all(np.abs(layer.weight).max() <= 2 ** (layer.bits - 1) - 1 for layer in layers)
    assert 8 * quantized.weight_bytes <= bits * sum(layer.weight.size for layer in layers) + 7


def test_layers_without_a_bias_get_the_one_that_corrects_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24, bias=False), nn.ReLU(), nn.Linear(24, 6, bias=False))
    x = numbers(64, 12).abs()
    assert noise(model.eval(), x, "bias_correction") < noise(model, x, "no_norm")


@pytest.mark.parametrize("name", ["adaround", "brecq", "bias_correction"])
def test_the_float_network_that_is_aimed_at_has_its_relu6(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU6(), nn.Linear(16, 3)).eval()
    x = 20 * numbers(64, 4)
    prepared = prepare(model, qs.QuantizationConfig(), x)
    assert sum("saturates" in each.meta for each in prepared.graph.graph.nodes) == 1
    aims = []

    class Listening(STRATEGIES.get(name)):
        summary = "notes what the last layer should give"

        def correct_bias(self, problem, weight):
            aims.append(problem.pairs[0][1])
            return problem.bias

    options = {each: value for each, value in FAST.items() if each in Listening.options}
    qs.quantize(model, [x], x, strategy=Listening(**options))
    torch.testing.assert_close(aims[-1], model(x).detach(), rtol=1e-4, atol=1e-4)
    wanted = FloatNetwork(prepared.graph).run(x)[0]
    torch.testing.assert_close(wanted, model(x), rtol=1e-4, atol=1e-4)
