"""Kinds of networks that engineers bring: each comes out as what its author wrote, or is refused in
one line.

The right values are those of the float model; the bits must be equal in PyTorch's engines, the
specification, the float reference and ONNX Runtime.
"""

import dataclasses
import operator
import warnings

import onnx
import pytest
import torch
from everywhere import SHAPE, check, decibels, images, outputs_of_file
from torch import nn
from torch.nn import functional as F

import qstrategies as qs
from qstrategies.errors import SelfCheckError
from qstrategies.strategies import STRATEGIES


class Between(nn.Module):
    """``function`` between two convolutions."""

    def __init__(self, function, channels=8):
        super().__init__()
        torch.manual_seed(1)
        self.before = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function
        self.after = nn.LazyConv2d(4, 1)
        self(images(2))

    def forward(self, x):
        return self.after(self.function(self.before(x)))


def _assigned(y):
    y = y.clone()
    y[:, 0] = y[:, 1] * 2
    return y


def _reshaped_in_place(y):
    y.transpose_(2, 3).transpose_(1, 2).transpose_(1, 2)
    y.unsqueeze_(1)
    first, *_ = y.tensor_split(2, -1)
    return first.clone().squeeze_(1)


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
    "and a bias": lambda y: torch.addmm(WEIGHT[0], y[:, 0, 0], WEIGHT)[..., None, None],
}
EXACT = {
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
    "a maximum over -inf": lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 2), value=-torch.inf), 3, 2),
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


PADDINGS = [{"padding": 1, "padding_mode": mode} for mode in ("reflect", "circular", "replicate")]
PADDINGS += [
    {"padding": "same", "kernel_size": 4},
    {"padding": "valid"},
    {"padding_mode": "reflect", "kernel_size": 1},
    {"padding": (2, 0), "stride": (2, 3), "dilation": (1, 2)},
]


@pytest.mark.parametrize("settings", PADDINGS, ids=str)
def test_every_padding_of_a_convolution(settings, tmp_path):
    check(Between(nn.Conv2d(8, 6, **{"kernel_size": 3, **settings})), tmp_path)


def test_channels_that_give_several_of_one_column(tmp_path):
    torch.manual_seed(0)
    check(nn.Conv2d(6, 12, (1, 3), (1, 3), groups=6), tmp_path, (images(shape=(6, 5, 4)),))


@pytest.mark.parametrize("dilation", [1, (1, 2, 1)])
def test_channels_that_give_several_of_a_padded_slice(dilation, tmp_path):
    torch.manual_seed(0)
    layer = nn.Conv3d(2, 4, 2, padding=1, dilation=dilation, groups=2)
    check(layer, tmp_path, (images(shape=(2, 1, 4, 4)),))


class ReadsWhatItChanges(nn.Module):
    """Which values it subtracts depends on the order."""

    def forward(self, x):
        own = x * 2
        return own.sub_(own[:, :1].expand_as(own))


def test_what_reads_elements_while_it_changes_them_is_refused():
    with pytest.raises(qs.InputError, match="another view of the tensor that it changes"):
        qs.quantize(ReadsWhatItChanges(), [torch.rand(4, 5)], torch.rand(4, 5))


class ExpandedCut(nn.Module):
    """A ReLU6 whose result several places of a layer's input share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, (1, 4)), nn.Linear(6, 5)

    def forward(self, x):
        return self.last(F.relu6(self.first(x)).expand(-1, -1, -1, 6))


def test_a_relu6_that_is_expanded(tmp_path):
    torch.manual_seed(0)
    check(ExpandedCut(), tmp_path, (images(shape=(3, 4, 4)),))


TRANSPOSED = [
    {"kernel_size": 3},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 2, "dilation": (1, 2), "output_padding": (0, 1), "padding": (0, 1)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": (2, 3), "groups": 2, "dilation": (2, 1), "bias": False},
]


@pytest.mark.parametrize("settings", TRANSPOSED, ids=str)
@pytest.mark.parametrize("outputs", [8, 6])
def test_transposed_convolutions_of_any_channels(settings, outputs, tmp_path):
    check(Between(nn.ConvTranspose2d(8, outputs, **settings)), tmp_path)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (
            nn.Sequential(
                nn.Conv1d(3, 6, 3),
                nn.BatchNorm1d(6),
                nn.ReLU(),
                nn.MaxPool1d(2),
                nn.Conv1d(6, 2, 3),
            ),
            (3, 20),
        ),
        (
            nn.Sequential(
                nn.Conv3d(2, 4, 3),
                nn.BatchNorm3d(4),
                nn.ReLU(),
                nn.MaxPool3d(2),
                nn.AdaptiveAvgPool3d(1),
                nn.Flatten(),
            ),
            (2, 8, 8, 8),
        ),
        (nn.Sequential(nn.ConvTranspose1d(3, 5, 3, 2), nn.ReLU(), nn.AvgPool1d(4)), (3, 9)),
        (nn.Sequential(nn.ConvTranspose3d(2, 3, 2, 2), nn.ReLU(), nn.AvgPool3d(2)), (2, 4, 4, 4)),
        (nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), (12,)),
        (nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 4)), (12,)),
        (nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)), (5, 12)),
    ],
)
def test_one_and_three_dimensions_rows_and_sequences(model, shape, tmp_path):
    torch.manual_seed(0)
    check(model, tmp_path, (images(shape=shape),))


class Twins(nn.Module):
    """Two layers with one Parameter."""

    def __init__(self):
        super().__init__()
        self.entry, self.first, self.second = (
            nn.Conv2d(3, 3, 3),
            nn.Conv2d(3, 3, 3, bias=False),
            nn.Conv2d(3, 3, 3, bias=False),
        )
        self.second.weight = self.first.weight = self.entry.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(F.relu6(self.entry(x) * 4))))


def test_layers_that_share_a_parameter_are_rounded_apart(tmp_path):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (8, *SHAPE), generator=torch.Generator().manual_seed(0)) / 255
    check(Twins(), tmp_path, (pixels,), input_scale=1 / 255)


class OddLinear(nn.Linear):
    """A subclass with the forward of its base."""


class OddConv(nn.Conv2d):
    """A subclass that pads by itself."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class OddNorm(nn.BatchNorm2d):
    """timm's way: the activation is in the norm."""

    def forward(self, x):
        return F.relu(
            F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
            )
        )


class Standardized(nn.Conv2d):
    """Weight standardization: the weight is computed in every forward."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias)


SUBCLASSES = {
    "Linear": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), OddLinear(4, 5)
    ),
    "Conv2d": lambda: nn.Sequential(OddConv(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "BatchNorm2d": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), OddNorm(4), nn.Conv2d(4, 2, 1)),
    "standardized weight": lambda: nn.Sequential(
        Standardized(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ),
    "spectral_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()
    ),
}


@pytest.mark.parametrize("name", SUBCLASSES)
def test_subclasses_and_computed_weights_are_the_layers_that_they_are(name, tmp_path):
    torch.manual_seed(0)
    model = SUBCLASSES[name]()
    model(images())
    quantized, _ = check(model, tmp_path)
    assert not any("BatchNorm" in type(node).__name__ for node in quantized.graph.nodes)


class Returns(nn.Module):
    """Two tensors in the container that ``pack`` makes."""

    def __init__(self, pack):
        super().__init__()
        self.conv, self.pack = nn.Conv2d(3, 8, 3), pack

    def forward(self, x):
        y = self.conv(x)
        return self.pack(y, F.max_pool2d(y, 2))


@dataclasses.dataclass
class Pair:
    fine: torch.Tensor
    coarse: torch.Tensor


PACKS = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"fine": a, "coarse": b},
    "nested": lambda a, b: {"maps": [a, (b,)]},
    "dataclass": Pair,
    "twice the same": lambda a, b: (a, a),
}


@pytest.mark.parametrize("name", PACKS)
def test_what_a_model_returns_keeps_its_form(name, tmp_path):
    torch.manual_seed(0)
    model = Returns(PACKS[name])
    quantized, exported = check(model, tmp_path)
    assert type(quantized.int8()(images())) is type(model(images()))
    report = qs.cross_check(
        exported,
        images(),
        ["onnxruntime-all", "numpy-integer", "onnx-reference", "tract", "opencv-dnn"],
    )
    assert report.same and {check.runtime for check in report.checks} >= {
        "onnxruntime-all",
        "numpy-integer",
    }


class Takes(nn.Module):
    """An argument named like our output, and an optional one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, logits, mask=None, scale=2):
        y = self.conv(logits) * scale
        return y if mask is None else y * mask


def test_optional_arguments_and_arguments_named_like_outputs(tmp_path):
    torch.manual_seed(0)
    check(Takes(), tmp_path)
    check(Takes(), tmp_path, (images(), images(shape=(1, 12, 12), seed=1)))


class TakesMore(nn.Module):
    """Any number of arguments."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, first, *others):
        for other in others:
            first = first + other
        return self.conv(first)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_arguments(count, tmp_path):
    torch.manual_seed(0)
    check(TakesMore(), tmp_path, tuple(images(seed=number) for number in range(count)))


def test_examples_by_name(tmp_path):
    torch.manual_seed(0)
    model, example = Takes().eval(), {"logits": images(), "mask": images(shape=(1, 12, 12), seed=1)}
    quantized = qs.quantize(model, [example], example)
    assert [spec.name for spec in quantized.inputs] == ["logits", "mask"]
    assert decibels(model(**example), quantized.reference()(*example.values())) > 20


class Tokens(nn.Module):
    """Integer inputs: an embedding, then layers."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = (
            nn.Embedding(50, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )

    def forward(self, ids):
        return self.head(F.relu(self.hidden(self.embed(ids))).mean(1))


class Attention(nn.Module):
    """Attention written by hand, and torch's own, over patches."""

    def __init__(self):
        super().__init__()
        self.patches, self.qkv, self.out = (
            nn.Conv2d(3, 16, 4, 4),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
        )
        self.norm, self.own, self.head = (
            nn.LayerNorm(16),
            nn.MultiheadAttention(16, 2, batch_first=True),
            nn.Linear(16, 4),
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(-2, -1) * 0.25).softmax(-1) @ v)
        x = x + self.own(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", ["tokens", "attention"])
def test_transformers_keep_their_layers_quantized_and_the_rest_in_float(kind, tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (8, 6), generator=torch.Generator().manual_seed(0))
    model, inputs = (Tokens(), (tokens,)) if kind == "tokens" else (Attention(), (images(8),))
    model = model.eval()
    quantized = qs.quantize(model, [inputs], inputs)
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)[0]
    assert len(quantized.graph.layers) >= 2 and quantized.islands
    expected = quantized.reference()(*inputs)
    assert decibels(model(*inputs), expected) > 20
    assert all(
        torch.equal(quantized.int8(engine)(*inputs), expected) for engine in ("x86", "qnnpack")
    ), "islands are the same code"
    (found,) = outputs_of_file(exported.path, quantized, inputs)
    assert decibels(model(*inputs), found) > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_floats_are_taken_as_float32(dtype, tmp_path):
    torch.manual_seed(0)
    model = Between(nn.BatchNorm2d(8).eval()).eval()
    expected = qs.quantize(model.to(dtype).float(), [images()], images()).reference()(images())
    found = qs.quantize(
        model.to(dtype), [images().to(dtype).float()], images().to(dtype)
    ).reference()(images())
    assert decibels(expected, found) > 30


BATCHES = {
    "images and labels": lambda x: (x, torch.zeros(len(x), dtype=torch.long)),
    "a list of them": lambda x: [x, torch.zeros(len(x), dtype=torch.long)],
    "a dict": lambda x: {"image": x, "label": torch.zeros(len(x), dtype=torch.long)},
    "NumPy": lambda x: x.numpy(),
    "uint8": lambda x: (x * 255).round().byte(),
}


@pytest.mark.parametrize("name", BATCHES)
def test_calibration_takes_what_loaders_give(name):
    torch.manual_seed(0)
    model = Between(nn.ReLU()).eval()
    pixels = torch.randint(0, 256, (8, *SHAPE), generator=torch.Generator().manual_seed(0)) / 255
    plain = qs.quantize(model, [pixels], pixels, input_scale=1 / 255)
    other = qs.quantize(model, [BATCHES[name](pixels)], pixels, input_scale=1 / 255)
    entered = plain.inputs[0].integers(pixels)
    assert torch.equal(plain.reference()(entered), other.reference()(entered))


def _refused(message, function):
    with warnings.catch_warnings(), pytest.raises(qs.InputError, match=message):
        warnings.simplefilter("error")
        function()


def test_calibration_refuses_what_cannot_be_meant():
    model, x = Between(nn.ReLU()).eval(), images()
    for message, batch, scale in [
        ("NaN or infinity", x / 0, None),
        ("values from .* lie in \\[0, 1\\]", x.abs() * 100, 1 / 255),
        ("shape .* expected \\[batch, 3, 12, 12\\]", x[:, :2], None),
        ("dtype torch.uint8", x.byte(), None),
        ("keys \\['a', 'b'\\]", {"a": x, "b": x}, None),
        ("expected a tensor or an array", "images", None),
    ]:
        _refused(
            message,
            lambda batch=batch, scale=scale: qs.quantize(
                model, [batch], x.clamp(0, 1), input_scale=scale
            ),
        )
    _refused("at least one batch", lambda: qs.quantize(model, [], x))


def test_weights_that_are_not_finite_are_refused():
    model = Between(nn.ReLU()).eval()
    model.before.weight.data[0, 0, 0, 0] = float("nan")
    _refused(
        "not finite: the weights of 'before'", lambda: qs.quantize(model, [images()], images())
    )


def test_inputs_in_the_wrong_unit_are_refused():
    pixels = torch.rand(4, *SHAPE)
    quantized = qs.quantize(Between(nn.ReLU()).eval(), [pixels], pixels, input_scale=1 / 255)
    raw = (pixels * 255).round()
    right = quantized.int8()(raw.byte())
    assert torch.equal(quantized.int8()(raw), right)
    assert torch.equal(quantized.int8()(quantized.inputs[0].integers(pixels)), right)
    _refused("raw pixels 0...255", lambda: quantized.int8()(pixels))
    _refused("real values for input_scale", lambda: quantized.inputs[0].integers(raw))
    _refused("NaN", lambda: quantized.int8()(raw * float("nan")))
    _refused("has shape", lambda: quantized.int8()(raw[:, :, :5]))
    _refused("got 2 inputs", lambda: quantized.int8()(raw, raw))


class Decides(nn.Module):
    """Control flow by the values of the input, in a part of the model."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Fails(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


def test_what_cannot_be_traced_becomes_an_island_and_what_cannot_be_exported_is_refused_in_one_line():
    quantized = qs.quantize(Between(Decides()).eval(), [images()], images())
    (island,) = quantized.islands
    assert "cannot be traced" in island.reason
    for model, message in (
        (Decides(), "Decides cannot be traced"),
        (Fails(), "'item'.*depends on the values"),
    ):
        with pytest.raises(qs.InputError, match=message) as caught:
            qs.quantize(model.eval(), [images()], images())
        assert "\n" not in str(caught.value)


class Detector(nn.Module):
    """Goes through its images one by one, as torchvision's do; most of it is the backbone."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        rows = [self.head(self.backbone(image[None])).amax((2, 3)) for image in x]
        return torch.cat([row[row > 0] for row in rows])


def test_of_a_whole_that_cannot_be_captured_the_part_that_can_is_named():
    torch.manual_seed(0)
    model, x = Detector().eval(), images()
    message = r"Detector cannot be traced \(.*test_own_networks.py.* quantize model.backbone alone"
    with pytest.raises(qs.InputError, match=message) as caught:
        qs.quantize(model, [x], x)
    assert "\n" not in str(caught.value)
    expected = model(x)
    model.backbone = qs.quantize(model.backbone, [x], x).module()
    assert decibels(expected, model(x)) > 20


def test_a_hook_that_changes_what_a_layer_gives_is_kept(tmp_path):
    torch.manual_seed(0)
    model = Between(nn.Conv2d(8, 8, 1))
    model.function.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    model.function.register_forward_hook(lambda module, inputs, output: output * 3)
    check(model, tmp_path)


def _kept_in(module):
    """A hook that keeps what a layer gives, as it is usually written."""

    def keep(layer, inputs, output):
        module.kept["part"] = output

    return keep


def _times(module):
    """A function that holds the model, and itself."""

    def head(y, times=2):
        return head(y, times - 1) * module.scale if times > 1 else module.second(y)

    return head


class ByClosures(nn.Module):
    """Reads what a hook on a part of it keeps, and calls a function that it was given."""

    def __init__(self, part):
        super().__init__()
        self.first, self.part, self.second = nn.Conv2d(3, 8, 3), part, nn.Conv2d(8, 4, 1)
        self.scale, self.kept = nn.Parameter(torch.tensor(0.5)), {}
        self.part.register_forward_hook(_kept_in(self))
        self.head = _times(self)

    def forward(self, x):
        y = self.part(self.first(x))
        return self.head(self.kept["part"].relu() - 0.5 * y)


HOOKED = (nn.Identity(), nn.Conv2d(8, 8, 1), nn.LayerNorm(10), nn.Softmax(1))


@pytest.mark.parametrize("part", HOOKED, ids=str)
def test_functions_that_hold_the_model_hold_its_copy(part, tmp_path):
    torch.manual_seed(0)
    model = ByClosures(part).eval()
    model(images(1))  # what this leaves behind fits any batch
    check(model, tmp_path, islands=None, export=False)
    assert len(model.kept["part"]) == 16, "the float model's own, as check has called it"
    trainee = qs.prepare(model, images(2), "qat")
    trainee.model(images()).sum().backward()
    assert model.second.weight.grad is None


class ClassToken(nn.Module):
    """A vision transformer's beginning: a token for every example, and positions made in
    forward."""

    def __init__(self):
        super().__init__()
        self.patches, self.token, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        positions = torch.zeros(x.shape[:2]).add(1).cumsum(1)[..., None] / 10
        return self.head(x + positions)


class SizesDecide(nn.Module):
    """Decisions and loops by the sizes of the input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.shape[2] % 8 != 0:
            x = F.pad(x, (0, 0, 0, 8 - x.shape[2] % 8))
        for _ in range(x.size(1) - 1):
            x = F.relu(x) * 0.9
        return self.conv(x) if x.dim() == 4 else x


def test_constants_for_every_example_are_repeated_as_often_as_there_are_examples(tmp_path):
    torch.manual_seed(0)
    model = ClassToken().eval()
    quantized = qs.quantize(model, [images()], images())
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)[0]
    for count in (1, 5):
        expected = quantized.reference()(images(count))
        assert decibels(model(images(count)), expected) > 20
        assert torch.equal(outputs_of_file(exported.path, quantized, (images(count),))[0], expected)


def test_decisions_by_sizes_are_taken_as_the_example_takes_them(tmp_path):
    torch.manual_seed(0)
    check(SizesDecide(), tmp_path)


def _if(condition):
    return lambda y: F.relu(y) if condition(y) else y


OF_ANY_COUNT = {
    "at least one": lambda y: y.shape[0] > 0 and len(y) != 0 and y.numel() >= 1,
    "of each example": lambda y: y.shape[0] * 8 == y.shape[0] * y.shape[1],
    "elements": lambda y: y.nelement() > 0 and y.shape[1:].numel() == y[0].numel(),
    "a list": lambda y: list(y.shape)[1:] == [8, 12, 12] and round(y.size(2) / 7) == 2,
}
OF_SOME_COUNT = {
    "more than one": lambda y: y.shape[0] > 1,
    "one": lambda y: y.size(0) == 1,
    "a few": lambda y: len(y) < 64,
    "halves": lambda y: y.shape[0] // 2 > 0,
    "half of it": lambda y: len(y) // 2,
    "hundreds": lambda y: y.shape[0] // 100 == 0,
    "the remainder": lambda y: y.shape[0] % 5 == 4,
    "both": lambda y: (y.shape[0] > 1) & (y.shape[1] > 1),
    "a loop": lambda y: list(range(y.shape[0] // 2)),
    "a tensor": lambda y: torch.arange(y.shape[0]).sum() > 0,
    "a part's size": lambda y: y[: (y.shape[0] + 1) // 2].shape[0] % 8 < 8,
}
OF_VALUES = {
    "a sum": lambda y: y.sum() > 0,
    "a named part": lambda y: y.max(1).values.mean() > 0,
    "the data": lambda y: y.data.mean() > 0,
    "another type": lambda y: y.type(torch.float64).mean() > 0,
    "transposed": lambda y: y.mT.mean() > 0,
}


@pytest.mark.parametrize("condition", OF_ANY_COUNT.values(), ids=OF_ANY_COUNT)
def test_decisions_that_hold_for_any_batch_are_taken(condition, tmp_path):
    check(Between(_if(condition)), tmp_path, export=False)


@pytest.mark.parametrize("condition", OF_SOME_COUNT.values(), ids=OF_SOME_COUNT)
def test_decisions_by_the_size_of_the_batch_are_refused(condition):
    message = r"\(.*test_own.*:\d+\), and it depends on how many examples there are"
    with pytest.raises(qs.InputError, match=message):
        qs.quantize(Between(_if(condition)).eval(), [images()], images())


@pytest.mark.parametrize("condition", OF_VALUES.values(), ids=OF_VALUES)
def test_decisions_by_values_are_refused_whatever_stands_before_them(condition):
    with pytest.raises(qs.InputError, match="depends on the values of the input"):
        qs.quantize(Between(_if(condition)).eval(), [images()], images())


class ReluFurtherOn(nn.Module):
    """A ReLU behind ``between``, which stands behind a layer."""

    def __init__(self, between):
        super().__init__()
        self.conv, self.out, self.between = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), between

    def forward(self, x):
        y = torch.relu(self.between(self.conv(x)))
        return self.out(y.flatten(2).mean(2))


MOVED = {
    "a max pool": lambda y: F.max_pool2d(y, 2),
    "a permutation and a pool": lambda y: F.max_pool2d(y.transpose(2, 3), 2),
    "rows": lambda y: y.reshape(-1, 8, 100),
}
MIXED = {
    "a mean": lambda y: y.mean(3, keepdim=True),
    "an average pool": lambda y: F.avg_pool2d(y, 3),
    "a sum": lambda y: y + F.max_pool2d(y, 3, 1, 1),
}


@pytest.mark.parametrize("between", [*MOVED.values(), *MIXED.values()], ids=[*MOVED, *MIXED])
def test_a_relu_joins_the_layer_before_what_only_moves_numbers(between, tmp_path):
    quantized, _ = check(ReluFurtherOn(between), tmp_path)
    joins = between in MOVED.values()
    assert quantized.graph.layers[0].relu is joins


def test_a_rewritten_graph_that_is_another_function_is_refused():
    class Wrong(qs.Strategy):
        summary = "forgets the other half"

        def rewrite(self, graph):
            with torch.no_grad():
                graph.get_submodule("0").weight.mul_(2)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(SelfCheckError, match="exact forms changed it"):
        qs.quantize(net, [images()], images(), strategy=Wrong())


def test_a_quantized_model_shows_itself_in_a_line_and_says_how_it_is_called():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softmax(1)), torch.rand(2, 3, 6, 6)
    quantized = qs.quantize(net.eval(), [x], x)
    nodes = "1 Convolution, 1 Island"
    assert repr(quantized) == f"QuantizedModel(input_1 (3, 6, 6): {nodes}; weights of 108 bytes)"
    with pytest.raises(qs.InputError, match=r"quantized\.module\(\)"):
        quantized(x)


def test_buffers_may_decide_and_take_sizes_of_the_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.register_buffer("on", torch.tensor(True))
            self.register_buffer("count", torch.tensor(3))
            self.register_buffer("row", torch.rand(1, 8, 1))

        def forward(self, x):
            x = self.conv(x).flatten(2)
            for _ in range(int(self.count)):
                x = x.relu() if self.on else x - 1
            row = self.row.expand(x.shape[0], -1, self.count.item())
            return torch.cat([x, row], 2)

    net, x = Net().eval(), torch.rand(4, 3, 6, 6)
    quantized = qs.quantize(net, [x], x)
    assert decibels(net(x).detach(), quantized.int8()(x)) > 30


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool2d((2, 1), (1, 3), (1, 0)), (3, 1, 1)),
        (nn.MaxPool2d(2, (3, 1), 1, ceil_mode=True), (4, 1, 1)),
        (nn.MaxPool1d(2, 1, 1), (5, 1)),
    ],
)
def test_max_pools_that_make_several_values_of_one_pixel(pool, shape, tmp_path):
    check(pool, tmp_path, [images(7, shape)])


def test_rows_of_another_shape_behind_a_flattening_keep_their_weights(tmp_path):
    net = nn.Sequential(
        nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Unflatten(1, (12, 1)), nn.Linear(1, 8)
    )
    check(net, tmp_path, [images(7, (4, 1, 6))])


def cancelling():
    """A norm that takes away all but what float rounding leaves."""
    norm = nn.BatchNorm2d(3, affine=False)
    norm.running_mean.fill_(0.2)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Threshold(1e6, 0.2), norm)
    return net.eval()


def test_float_rounding_where_large_values_cancel_is_no_other_function():
    x = images(4, (3, 5, 5))
    qs.quantize(cancelling(), [x], x)


def test_another_function_is_refused_there_too():
    class Wrong(qs.Strategy):
        summary = "forgets a part of the norm"
        course = STRATEGIES.get("cle").course

        def rewrite(self, graph):
            graph.get_submodule("2_layer").bias.mul_(0.99)

    x = images(4, (3, 5, 5))
    with torch.no_grad(), pytest.raises(SelfCheckError, match="into exact forms changed it"):
        qs.quantize(cancelling(), [x], x, strategy=Wrong())


X = images(8)
NO_MODULES = {
    "an exported program": lambda net: torch.export.export(net, (X,)),
    "its module": lambda net: torch.export.export(net, (X,)).module(),
    "traced": lambda net: torch.jit.trace(net, X),
    "scripted": lambda net: torch.jit.script(net),
    "a function": lambda net: lambda x: net(x),
    "a class": lambda net: type(net),
}


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)).eval()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("made", NO_MODULES.values(), ids=NO_MODULES)
def test_what_is_no_module_is_refused_with_the_remedy(made):
    model = made(plain())
    for entry in (lambda: qs.quantize(model, [X], X), lambda: qs.prepare(model, X, "qat")):
        with pytest.raises(qs.InputError, match="give the module|expected a torch.nn.Module"):
            entry()


def test_a_compiled_module_is_the_one_that_was_compiled():
    net = plain()
    ours = qs.quantize(torch.compile(net), [X], X).reference()(X)
    assert torch.equal(ours, qs.quantize(net, [X], X).reference()(X))


def filled(make, fill):
    """A forward that makes a tensor with as many rows as there are examples, and computes with
    it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(12, 4)

        def forward(self, x):
            return fill(make(x), self.layer(x))

    return Net().eval()


MADE = {
    "zeros": lambda x: torch.zeros(x.shape[0], 3, 12, 6),
    "zeros of a tuple": lambda x: torch.zeros((x.size(0), 3, 12, 6)),
    "ones": lambda x: torch.ones(x.size(0), 3, 12, 6, device=x.device),
    "new_zeros": lambda x: x.new_zeros(x.shape[0], 3, 12, 6),
    "new_full": lambda x: x.new_full((x.shape[0], 3, 12, 6), 0.5),
    "zeros_like": lambda x: torch.zeros_like(x[..., :6]),
    "full_like": lambda x: torch.full_like(x[..., :6], 0.5),
}


def assigned(h, y):
    h[..., 0] = 1.5
    h[..., 2:] = y
    return h * 0.5


def added(h, y):
    h = h[..., :4] * 1.0
    other = h
    h += y
    h.mul_(2.0)
    return h + other


FILLED = {
    "beside": lambda h, y: torch.cat([h, y], -1),
    "to add": lambda h, y: h[..., :4] + y,
    "assigned": assigned,
    "added in place": added,
}


@pytest.mark.parametrize("fill", FILLED.values(), ids=FILLED)
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("count", [1, 5])
def test_tensors_made_for_the_batch(make, fill, count):
    net, x = filled(make, fill), images(16)
    quantized = qs.quantize(net, [x], x[:count])
    with torch.no_grad():
        expected = net(x)
    assert decibels(expected, quantized.reference()(x)) > 30


EXPANDED = {
    "expand": lambda x: torch.arange(6.0).expand(x.shape[0], 3, 12, -1),
    "repeat": lambda x: torch.arange(6.0).repeat(x.shape[0], 3, 12, 1),
    "view": lambda x: torch.arange(12.0).repeat(x.shape[0]).view(x.shape[0], 1, -1, 1),
}


@pytest.mark.parametrize("make", EXPANDED.values(), ids=EXPANDED)
def test_constants_expanded_to_the_batch(make):
    net, x = filled(make, FILLED["to add"]), images(16)
    quantized = qs.quantize(net, [x], x)
    with torch.no_grad():
        assert decibels(net(x), quantized.reference()(x)) > 30
    assert "expand" not in vars(torch.Tensor)


def test_a_state_that_begins_with_zeros_is_integers_from_end_to_end(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.state = nn.Linear(12, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 4)
            for row in range(3):
                h = torch.tanh(self.layer(x[:, 0, row]) + self.state(h))
            return h

    check(Recurrent(), tmp_path)


def test_a_linear_layer_that_flattens_twice(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3 * 36, 4)

        def forward(self, x):
            left, right = x[:, :, :, :3].flatten(1), x[:, :, :, 3:6].flatten(1)
            return self.layer(left) + self.layer(right)

    check(Twice(), tmp_path)


def test_what_was_written_through_another_shape_is_refused():
    def written(h, y):
        h.view(-1)[0] = 1.0
        return h * 2.0 + y[..., :1]

    x = images()
    with pytest.raises(qs.InputError, match="write that out of place"):
        qs.quantize(filled(MADE["zeros"], written), [x], x)


class WithFirstState(nn.Module):
    """A recurrent layer that is given zeros, one for every example in their second dimension."""

    def __init__(self, kind, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.body = kind(12, 6, batch_first=batch_first)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        state = x.new_zeros(1, x.size(0), 6)
        given = (state, state) if isinstance(self.body, nn.LSTM) else state
        found = self.body(x if self.batch_first else x.transpose(0, 1), given)[0]
        return self.last(found[:, -1] if self.batch_first else found[-1])


@pytest.mark.parametrize("body", [nn.LSTM(12, 6), nn.MultiheadAttention(12, 2)])
def test_a_sequence_in_the_dimension_of_the_batch_is_refused(body):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(*[x] * (3 if isinstance(body, nn.MultiheadAttention) else 1))[0]

    x = images(4, (5, 12))
    _refused("module 'body' .* set batch_first=True", lambda: qs.quantize(Net(), [x], x))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_first_state_with_the_batch_in_its_second_dimension(kind, batch_first, tmp_path):
    x = images(8, (10, 12))
    quantized, files = check(WithFirstState(kind, batch_first), tmp_path, [x], islands=4)
    found = outputs_of_file(files[0].path, quantized, [x])[0]
    assert decibels(quantized.reference()(x), found) > 60, "float32 rounds islands"


def test_relu6_between_norms_that_no_layer_takes(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU6(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        for norm in (net[0], net[2]):
            norm.weight.copy_(torch.tensor([3.0, -2.0, 4.0]))
            norm.running_var.fill_(0.5)
    check(net, tmp_path)
