"""Kinds of networks that engineers bring: each comes out as what its author wrote, or is refused in
one line. Here what stands between two layers: what has an exact integer form, and what has none.

The right values are those of the float model; the bits must be equal in PyTorch's engines, the
specification, the float reference and ONNX Runtime.
"""

import operator
import warnings

import onnx
import pytest
import torch
from everywhere import SHAPE, Between, check, decibels, images
from torch import nn
from torch.nn import functional as F

import qstrategies as qs
from qstrategies.operators.island import BESIDE_FLOAT, ONLY_DIVIDES


def _assigned(y):
    y = y.clone()
    y[:, 0] = y[:, 1] * 2
    return y


def _reshaped_in_place(y):
    y.transpose_(2, 3).transpose_(1, 2).transpose_(1, 2)
    y.unsqueeze_(1)
    first, *_ = y.tensor_split(2, -1)
    return first.clone().squeeze_(1)


class InPlace(nn.Module):
    """Changes nothing where no value is negative, and works in place."""

    def forward(self, x):
        return x.relu_()


def _old_name(change):
    """``change`` works in place, and its argument is read again under the old name."""

    def function(y):
        z = change(y)
        return z + y

    return function


IN_PLACE = {
    "nn.ReLU": nn.ReLU(True),
    "nn.ReLU6": nn.ReLU6(True),
    "nn.Hardtanh": nn.Hardtanh(-0.3, 0.4, True),
    "nn.SiLU": nn.SiLU(True),
    "nn.Hardswish": nn.Hardswish(True),
    "nn.LeakyReLU": nn.LeakyReLU(0.1, True),
    "F.relu": lambda y: F.relu(y, inplace=True),
    "relu_": lambda y: y.relu_(),
    "clamp_": lambda y: y.clamp_(-0.2, 0.3),
    "mul_": lambda y: y.mul_(0.5),
    "add_": lambda y: y.add_(y),
    "sub_": lambda y: y.sub_(0.25),
    "neg_": lambda y: y.neg_(),
    "+=": lambda y: operator.iadd(y, 1),
    "-=": lambda y: operator.isub(y, 0.25),
    "*=": lambda y: operator.imul(y, -0.5),
    "/=": lambda y: operator.itruediv(y, 3),
    "transpose_": lambda y: y.transpose_(2, 3),
}


NUMBERS = {
    "x + 3": lambda y: y + 3,
    "3 + x": lambda y: 3 + y,
    "x - 0.5": lambda y: y - 0.5,
    "2 - x": lambda y: 2 - y,
    "x * 0.1": lambda y: y * 0.1,
    "x / 3": lambda y: y / 3,
    "-x": lambda y: -y,
    "abs": lambda y: abs(y) + y.abs(),
    "square": lambda y: y**2,
    "a size as a factor": lambda y: y * y.shape[1] ** -0.5,
    "hand-written hard-swish": lambda y: y * F.relu6(y + 3) / 6,
    "a buffer per channel": lambda y: (
        y * torch.linspace(0.5, 2, 8).reshape(8, 1, 1)
        + torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1)
    ),
}


CLAMPS = {
    "F.hardtanh": lambda y: F.hardtanh(y, -0.3, 0.2),
    "F.relu6": lambda y: F.relu6(y * 8),
    "clamp": lambda y: torch.clamp(y, -0.1, 0.35),
    "only below": lambda y: y.clamp(min=-0.15),
    "only above": lambda y: torch.clamp(y, max=0.25),
    "clamp_min of zero": lambda y: y.clamp_min(0),
}


POOLS = {
    "max, ceil_mode": lambda y: F.max_pool2d(y, 3, 2, 1, ceil_mode=True),
    "max, dilated": lambda y: F.max_pool2d(y, 2, 1, 0, 2),
    "max, even window": nn.MaxPool2d(2, 3, 1),
    "max, ceil_mode, a window that starts in the padding": lambda y: F.max_pool2d(
        y[..., :11], 2, 2, 1, ceil_mode=True
    ),
    "average of 9": nn.AvgPool2d(3),
    "average of 4": nn.AvgPool2d(2),
    "average, padding counted": nn.AvgPool2d(3, 2, 1),
    "average, another divisor": nn.AvgPool2d(3, 2, 1, divisor_override=5),
    "adaptive": nn.AdaptiveAvgPool2d(3),
    "adaptive, unequal": nn.AdaptiveAvgPool2d((4, 2)),
    "adaptive maximum": nn.AdaptiveMaxPool2d(4),
    "largest of an image": lambda y: y.amax((2, 3), keepdim=True) + y,
    "largest of a dimension": lambda y: torch.amax(y.abs(), -1)[..., None] - y,
    "largest by max": lambda y: y - torch.max(y, 1, keepdim=True)[0],
    "largest by name": lambda y: (y * y.max(dim=1).values.unsqueeze(1)).max(3, True).values,
    "mean of one dimension": lambda y: y.mean(3, keepdim=True),
    "sum of an image": lambda y: y.sum((2, 3), keepdim=True),
    "sums of dimensions": lambda y: torch.sum(y, 1)[:, None] - y.sum(-1, True),
}


MOVEMENTS = {
    "view by sizes": lambda y: y.view(y.size(0), -1, y.size(2), y.size(3)),
    "view by len": lambda y: y.view(len(y), -1)[..., None, None] * len(y.shape),
    "channel shuffle": lambda y: (
        y.view(y.shape[0], 2, 4, 12, 12).transpose(1, 2).reshape(y.shape[0], 8, 12, 12)
    ),
    "one part": lambda y: torch.cat([y], 1),
    "a stack of one": lambda y: torch.stack([y], 1).flatten(1, 2),
    "a shape changed in place": _reshaped_in_place,
    "chunk": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "a list of parts": lambda y: torch.cat(list(y.chunk(3, 1))[::-1], 1),
    "one after another": lambda y: torch.cat([part.relu() for part in y.split(3, 1)], 1),
    "split": lambda y: torch.cat(torch.split(y, [3, 5], dim=1), 1),
    "unbind and stack": lambda y: torch.stack(y.unbind(1), 1),
    "slices": lambda y: y[:, 2:7, ::2, -5:],
    "an index": lambda y: y[:, 3].unsqueeze(1),
    "ellipsis and a new dimension": lambda y: y[..., 1:7][:, None].squeeze(1),
    "narrow and select": lambda y: y.narrow(2, 1, 5).select(3, 2)[..., None],
    "roll": lambda y: torch.roll(y, (1, -2), (2, 3)),
    "permute there and back": lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "movedim": lambda y: torch.movedim(y.moveaxis(1, -1), (3, -2), (-2, 1)),
    "pixel shuffle": lambda y: F.pixel_unshuffle(F.pixel_shuffle(y, 2), 2),
    "nearest upsampling": lambda y: F.interpolate(y, scale_factor=2),
    "upsampling by one": nn.Upsample(size=(12, 12)),
    "padding by nothing": lambda y: F.pad(y, (0, 0, 0, 0)),
    "padding of channels": lambda y: F.pad(y[..., 0], (0, 0, 2, 1), "reflect")[..., None],
    "circular rows": lambda y: F.pad(y.flatten(1)[:, :30], (2, 1), "circular")[..., None, None],
    "padding": lambda y: F.pad(y, (1, 2, 0, 3)),
    "padding with a number": lambda y: F.pad(y, (1, 2, 0, 3, 1, 0), value=0.31).relu(),
    "padding with a number below all": lambda y: F.pad(y, (2, 0), value=-5).relu(),
    "reflection": nn.ReflectionPad2d((2, 1, 0, 3)),
    "replication": nn.ReplicationPad2d(2),
    "circular": nn.CircularPad2d((1, 2, 3, 0)),
}


GAMMA = torch.linspace(0.5, 2, 8)


class Features(nn.Module):
    """``function`` of a linear layer on [N, T, C]."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(8, 8), function

    def forward(self, y):
        rows = self.function(self.layer(y.flatten(2).transpose(1, 2)))
        return rows.transpose(1, 2).unflatten(2, y.shape[2:])


def _narrow(y):
    return y.mean((2, 3), keepdim=True)


class GeneralizedMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor([2.0]))

    def forward(self, y):
        mean = F.avg_pool2d((y.abs() + 0.5).pow(self.power), 4)
        return mean.pow(1.0 / self.power)


ONE_ELEMENT = {
    "generalized mean": GeneralizedMean(),
    "of no dimension": lambda y: torch.tensor(0.7) * y + torch.tensor(-0.3),
    "of one": lambda y: (y - torch.tensor([0.3])) / torch.tensor([-0.7]),
    "of four": lambda y: torch.tensor([[[[0.2]]]]) - y * torch.full((1, 1, 1, 1), 3.0),
    "over it": lambda y: torch.tensor([0.5]) / (y.abs() + 1),
    "a part of a tensor": lambda y: y * GAMMA[2] + F.relu(y) * GAMMA[3:4],
    "on rows": Features(lambda rows: rows * torch.tensor(0.5) + torch.tensor([3.0])),
    "PReLU": nn.PReLU(),
}


FEATURES = {
    "layer scale on rows": Features(lambda rows: rows * GAMMA),
    "and an offset": Features(lambda rows: GAMMA.reshape(1, 1, 8) - rows * GAMMA),
    "channels last": lambda y: (y.permute(0, 2, 3, 1) / GAMMA - GAMMA).permute(0, 3, 1, 2),
    "as many rows": lambda y: y[:, :, :8, :8] * GAMMA + y[:, :, :8, :8] * GAMMA.reshape(8, 1, 1),
}


REPEATED = {
    "expand": lambda y: y * _narrow(y).sigmoid().expand(-1, -1, *y.shape[2:]),
    "expand_as": lambda y: y - _narrow(y).expand_as(y),
    "expand_as, both": lambda y: _narrow(y).expand_as(y) + y[:, :1, :1].expand_as(y),
    "broadcast_to": lambda y: torch.broadcast_to(_narrow(y), y.shape) + y,
    "channels, beside them": lambda y: torch.cat([y, y.mean(1, keepdim=True).expand_as(y)], 1),
    "repeat": lambda y: y.repeat(1, 2, 1, 1),
    "repeat of one": lambda y: _narrow(y).repeat(1, 1, 5, 3),
    "tile": lambda y: torch.tile(y, (1, 1, 3, 1)),
    "repeat_interleave": lambda y: y.repeat_interleave(3, dim=1),
    "interpolate of one": lambda y: y + F.interpolate(_narrow(y), y.shape[2:], mode="bilinear"),
    "interpolate, the same size": lambda y: F.interpolate(y, y.shape[2:], mode="bicubic"),
    "adaptive, the same size": nn.AdaptiveAvgPool2d((12, None)),
    "adaptive, a larger size": nn.AdaptiveAvgPool2d((24, 36)),
    "adaptive maximum, a larger size": nn.AdaptiveMaxPool2d(24),
}


SHARED_RELU6 = nn.ReLU6()


SHARED_NORM = nn.BatchNorm2d(8).eval()


nn.init.uniform_(SHARED_NORM.weight, 0.5, 2)


CALLED_TWICE = {
    "ReLU6": lambda y: SHARED_RELU6(SHARED_RELU6(y * 9) * 3 - 2),
    "norm": lambda y: SHARED_NORM(F.relu(SHARED_NORM(y))),
    "SiLU": lambda y: F.silu(F.silu(y)),
}


POINTWISE = {
    "rounding": lambda y: torch.floor(y * 8) + (y * 8).round() - torch.ceil(y) + y.frac(),
    "logarithms": lambda y: torch.log1p(y.abs()) + (y**2 + 1).log() - torch.log2(y.exp() + 1),
    "waves": lambda y: torch.sin(y) * y.cos() + torch.atan(y) - y.sinh(),
    "GELU by hand": lambda y: 0.5 * y * (1 + torch.erf(y / 2**0.5)),
}


WEIGHT = torch.linspace(-0.5, 0.6, 144).reshape(12, 12)


PRODUCTS = {
    "with a matrix": lambda y: y @ WEIGHT - torch.matmul(y.relu(), WEIGHT[:, :1]),
    "of rows": lambda y: torch.mm(y[:, 0, 0], WEIGHT)[..., None, None],
    "from the left": lambda y: WEIGHT @ y + (y @ WEIGHT[0])[..., None],
    "by letters": lambda y: torch.einsum("oc, nc...->n...o", WEIGHT[:5, :8], y),
    "and a bias": lambda y: torch.addmm(WEIGHT[0], y[:, 0, 0], WEIGHT)[..., None, None],
}


POSITIONS = torch.linspace(-0.6, 0.9, 8 * 144).reshape(1, 8, 12, 12)
MASK = WEIGHT > -0.2
GRID = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 12)] * 2, indexing="ij"))


class Tokens(nn.Module):
    """A class token before the pixels, and positions, as vision transformers have them."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.linspace(-1, 1, 8).reshape(1, 1, 8))
        self.positions = nn.Parameter(torch.linspace(-0.5, 0.5, 145 * 8).reshape(1, 145, 8))

    def forward(self, y):
        rows = y.flatten(2).transpose(1, 2)
        rows = torch.cat([self.token.expand(len(rows), -1, -1), rows], 1) + self.positions
        return rows.transpose(1, 2)[..., 1:].reshape(y.shape)


CONSTANTS = {
    "positions": lambda y: POSITIONS[0] - (y.mean(2, keepdim=True) + POSITIONS),
    "a mask": lambda y: (y * MASK) * MASK.float().T / (POSITIONS.abs() + 0.5),
    "filled": lambda y: torch.where(MASK.T, 0.5, y.masked_fill(MASK, 0.0)),
    "coordinates": lambda y: torch.cat([y, GRID.expand(len(y), -1, -1, -1), y.relu()], 1),
    "tokens": Tokens(),
}


EXACT = {
    **{f"constant, {name}": function for name, function in CONSTANTS.items()},
    **{f"product, {name}": function for name, function in PRODUCTS.items()},
    **POINTWISE,
    **{f"in place, {name}": _old_name(change) for name, change in IN_PLACE.items()},
    **NUMBERS,
    **CLAMPS,
    **POOLS,
    **MOVEMENTS,
    **{f"one element, {name}": function for name, function in ONE_ELEMENT.items()},
    **FEATURES,
    **REPEATED,
    **{f"called twice, {name}": function for name, function in CALLED_TWICE.items()},
    "Dropout": nn.Dropout(0.5),
    "Dropout2d, functional": lambda y: F.dropout2d(y, 0.5, False),
    "a difference": lambda y: y - F.relu(y) * 0.5,
    "a product": lambda y: y * torch.sigmoid(y),
    "a sum with itself": lambda y: y + y,
    "a maximum": lambda y: torch.maximum(y, -0.5 * y),
    "a minimum, broadcast": lambda y: torch.min(y, y.mean((2, 3), keepdim=True)),
    "a part of a difference": lambda y: torch.sub(y, F.relu(y), alpha=0.5).add(0.1, alpha=2),
    "a part of a mean": lambda y: torch.add(y, y.mean((2, 3), keepdim=True), alpha=0.5),
    "a sum with a product": lambda y: torch.addcmul(GAMMA[:, None, None], y, GAMMA[:, None, None]),
    "a part of the way": lambda y: torch.lerp(y, F.relu(y), 0.3).lerp(y, weight=-0.5),
    "rows transposed": lambda y: y.flatten(2).mT.mT.reshape(y.shape),
    "a maximum over -inf": lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 2), value=-torch.inf), 3, 2),
    "a module that works in place": nn.Sequential(nn.ReLU(), InPlace()),
    "a maximum over a floor": lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 2), value=-1e4), 3, 2),
    "a maximum over a wide floor": lambda y: F.max_pool2d(F.pad(y, (2,) * 4, value=-1e4), 3, 1),
    "over the lowest": nn.Sequential(
        nn.ConstantPad2d((2, 1, 2, 0), torch.finfo(torch.float32).min),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_has_an_exact_form_gets_it(name, tmp_path):
    check(Between(EXACT[name]), tmp_path)


def test_layer_scale_on_rows_is_folded_into_their_layer(tmp_path):
    quantized, _ = check(Between(FEATURES["layer scale on rows"]), tmp_path, export=False)
    assert len(quantized.graph.layers) == 3


def test_a_product_expands_by_itself(tmp_path):
    _, exported = check(Between(REPEATED["expand"]), tmp_path)
    nodes = [node.op_type for node in onnx.load(exported[0].path).graph.node]
    assert "Expand" not in nodes and nodes.count("Mul") == 1


class OneNumber(nn.Module):
    """A parameter of one element that is used twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.number = nn.Conv2d(3, 4, 3), nn.Parameter(torch.tensor([0.5]))

    def forward(self, x):
        return self.layer(x * self.number).relu() * self.number


def test_a_parameter_of_one_element_is_trained_as_one(tmp_path):
    torch.manual_seed(0)
    trainee = qs.prepare(OneNumber(), images(2), "qat")
    (number,) = [each for each in trainee.model.parameters() if each.numel() == 1]
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.1))
    trainee.model(images()).square().mean().backward()
    optimizer.step()
    assert number.item() < 0.5
    with torch.no_grad():
        expected = trainee.model.eval()(images())
    quantized = trainee.finish()
    entered = quantized.inputs[0].integers(images())
    found = quantized.reference()(quantized.inputs[0].reals(entered))
    assert decibels(expected, found) > 40, "what was trained"


ISLANDS = {
    "a constant beside which the rest is little": (lambda y: y + 100 * POSITIONS, 1),
    "a constant with NaN": (lambda y: torch.where(MASK, y, torch.nan).nan_to_num(0.5), 2),
    "softmax": (lambda y: y.softmax(1), 1),
    "LayerNorm": (nn.LayerNorm([8, 12, 12]), 1),
    "GroupNorm": (nn.GroupNorm(2, 8), 1),
    "InstanceNorm": (nn.InstanceNorm2d(8, affine=True), 1),
    "RMSNorm": (nn.RMSNorm([12]), 1),
    "PReLU per channel": (nn.PReLU(8), 1),
    "norm without statistics": (nn.BatchNorm2d(8, track_running_stats=False), 1),
    "average, fewer values at the border": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 1),
    "average, ceil_mode": (nn.AvgPool2d(3, 2, ceil_mode=True), 1),
    "a part assigned": (_assigned, 1),
    "a dilated maximum, ceil_mode": (lambda y: F.max_pool2d(y, 2, 3, 1, 2, True), 1),
    "an image as a volume": (lambda y: nn.AdaptiveAvgPool3d(1)(y)[..., None, 0], 1),
    "bilinear": (lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"), 1),
    "what is cut away, reflected": (lambda y: F.pad(y, (-10, 2, 0, 0), mode="reflect"), 1),
    "nothing is left": (lambda y: F.pad(y, (-12, 12), value=0.3), 1),
    "an empty part": (lambda y: torch.cat([y[:, 8:], y], 1), 1),
    "-inf alone": (lambda y: F.max_pool2d(F.pad(y, (3,) * 4, value=-torch.inf), 2).clamp(-1), 3),
}


@pytest.mark.parametrize("name", ISLANDS)
def test_what_has_none_is_named_and_stays_in_float_alone(name, tmp_path):
    function, count = ISLANDS[name]
    exported = name in (
        "softmax",
        "PReLU per channel",
        "a part assigned",
    )  # torch's exporter takes seconds
    quantized, _ = check(Between(function), tmp_path, islands=count, export=exported)
    assert all(island.reason for island in quantized.islands)
    assert len(quantized.graph.layers) == 2, "the layers around it are quantized"


def test_a_floor_that_a_maximum_shows_is_a_value_of_its_range(tmp_path):
    net = Between(lambda y: F.max_pool2d(F.pad(y, (3,) * 4, value=-1e4), 2))
    quantized, _ = check(net, tmp_path, least=-torch.inf)
    assert min(node.output.grid.ends[0] for node in quantized.graph.nodes) < -9e3


def test_a_floor_above_what_calibration_shows_is_refused():
    net = Between(lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 2), value=-1e4), 3, 2))
    with pytest.raises(qs.InputError, match=r"pads with -10000 .* values down to -.*: use -inf"):
        qs.quantize(net, [1e6 * images()], images())


def _centered(y):
    return y - y.mean(1, keepdim=True)


NORMS_BY_HAND = {
    "the root": lambda y: y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt(),
    "a power": lambda y: y / (_centered(y).square().mean(1, keepdim=True) + 1e-6) ** 0.5,
    "behind the root": lambda y: y / (y.pow(2).mean(1, keepdim=True).sqrt() + 1e-6),
    "in place": lambda y: y.div_(y.pow(2).sum((2, 3), keepdim=True).add(1e-6).sqrt()),
    "of a softmax": lambda y: torch.exp(y) / torch.exp(y).sum(1, keepdim=True),
}


@pytest.mark.parametrize("name", NORMS_BY_HAND)
def test_what_only_divides_is_not_rounded_so_that_it_stays_above_zero(name, tmp_path):
    quiet = torch.logspace(0, -4, 16)[:, None, None, None] * images()
    net = Between(NORMS_BY_HAND[name])
    net.before.bias = None
    quantized, _ = check(net, tmp_path, (quiet,), least=-20, islands=None, export=False)
    reasons = {island.reason for island in quantized.islands}
    assert ONLY_DIVIDES in reasons and len(reasons - {ONLY_DIVIDES, BESIDE_FLOAT}) == 1
    loud = images()
    assert decibels(net(loud), quantized.module()(loud)) > 25
    assert torch.isfinite(quantized.module()(1e-4 * loud)).all()


def test_integers_that_are_mostly_noise_are_said_to_be():
    net = Between(lambda y: y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-9))
    net.before.bias = None
    loud, quiet = images(), torch.logspace(0, -6, 16).flip(0)[:, None, None, None] * images()
    with pytest.warns(UserWarning, match="'logits' is mostly noise .* dB of signal to noise"):
        qs.quantize(net, [quiet], quiet)
    with warnings.catch_warnings(action="error"):
        qs.quantize(net, [loud], loud)
        qs.quantize(net, [quiet], quiet, config=qs.QuantizationConfig(weight_bits=4))


TABLES = {
    "behind a convolution": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()),
        SHAPE,
        ["Transpose"] * 2,
    ),
    "behind no convolution": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.SiLU()),
        SHAPE,
        [],
    ),
    "of rows": (nn.Sequential(nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 2)), (7, 5), []),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_fast_form_looks_tables_up_by_elements_in_the_layout_around_them(name, tmp_path):
    model, shape, expected = TABLES[name]
    _, exported = check(model, tmp_path, (images(shape=shape),))
    plain, fast = ([node.op_type for node in onnx.load(each.path).graph.node] for each in exported)
    assert "Gather" in plain and "Gather" not in fast and fast.count("GatherElements") == 1
    assert [op for op in fast if op == "Transpose"] == expected
    assert exported[1].same_as == exported[0].content_sha256


def test_an_island_is_exported_where_zeros_lie_outside_the_calibrated_range(tmp_path):
    layer = nn.Linear(3, 4)
    nn.init.constant_(layer.weight, -9.0)
    nn.init.constant_(layer.bias, 80.0)
    rows = 2 + torch.rand(16, 3)  # 80 without them, and at most 26 with them
    check(nn.Sequential(layer, nn.SiLU(), nn.Softmax(1)), tmp_path, (rows,), islands=1, least=10)
