"""Layers of networks that engineers bring, in all dimensions, shared, subclassed and moved away from
what belongs to them."""

import pytest
import torch
from everywhere import SHAPE, Between, check, images
from torch import nn
from torch.nn import functional as F

import qstrategies as qs

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


def test_relu6_between_norms_that_no_layer_takes(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU6(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        for norm in (net[0], net[2]):
            norm.weight.copy_(torch.tensor([3.0, -2.0, 4.0]))
            norm.running_var.fill_(0.5)
    check(net, tmp_path)


def test_layers_keep_the_names_that_they_have_in_the_model():
    layers = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Linear(12, 5)
    quantized = qs.quantize(nn.Sequential(*layers).eval(), [images()], images())
    assert list(quantized.weight_bits) == ["0", "2"]
    left = qs.quantize(
        nn.Sequential(nn.LayerNorm(12), *layers[2:]).eval(), [images()], images()
    ).islands
    assert [island.name for island in left] == ["0", "1_reshape"]
