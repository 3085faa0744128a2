"""Every parameter of every module that becomes integers: what its values come to.

Each type that a recognizer registers must stand in ``CASES`` with each parameter of its signature,
so that none can be forgotten: "exact" has an exact form (the same bits everywhere, those of the
float model up to rounding), "float" stays in float.
"""

import inspect

import pytest
import torch
from everywhere import check, images
from torch import nn

from qstrategies.operators import RECOGNIZERS
from qstrategies.operators.dropout import DROPOUTS
from qstrategies.operators.table import MODULES

EXACT, FLOAT = "exact", "float"
WITHOUT_MEANING = {"device", "dtype", "inplace", "args", "kwargs"}
CHANNELS = {1: 6, 2: 6, 3: 4}
SIZES = {1: (16,), 2: (12, 11), 3: (7, 6, 8)}


def per(dimensions, *values):
    return values[:dimensions]


def convolution(dimensions, transposed=False):
    channels = CHANNELS[dimensions]
    base = {"in_channels": channels, "out_channels": 4, "kernel_size": 3}
    around = tuple(size + 1 for size in SIZES[dimensions])
    depthwise = {"out_channels": 3 * channels, "groups": channels}
    cases = {
        "in_channels": [{}],
        "out_channels": [{"out_channels": 8}, {"out_channels": 1}],
        "kernel_size": [{"kernel_size": 1}, {"kernel_size": per(dimensions, 2, 3, 1)}],
        "stride": [{"stride": 2}, {"stride": per(dimensions, 3, 1, 2)}],
        "padding": [
            {"padding": 1},
            {"padding": per(dimensions, 2, 0, 1)},
            {"padding": 2, "kernel_size": 2, **depthwise},  # windows in the padding alone
            {"padding": 1, "kernel_size": 2, "dilation": around, **depthwise},
        ],
        "dilation": [{"dilation": 2}, {"dilation": per(dimensions, 1, 2, 1)}],
        "groups": [{"groups": 2}],
        "bias": [{"bias": False}],
        "padding_mode": [
            {"padding": 1, "padding_mode": mode}
            for mode in ("zeros", "reflect", "replicate", "circular")
        ],
    }
    if transposed:
        cases["padding_mode"] = [{"padding_mode": "zeros"}]
        cases["output_padding"] = [
            {"stride": 2, "output_padding": 1},
            {"dilation": 2, "output_padding": 1},
        ]
    else:
        cases["padding"] += [{"padding": "same"}, {"padding": "valid"}]
    return base, {name: [(case, EXACT) for case in found] for name, found in cases.items()}


def max_pool(dimensions):
    cases = {
        "kernel_size": [
            ({"kernel_size": per(dimensions, 2, 3, 2)}, EXACT),
            ({"kernel_size": 1, "stride": 2}, EXACT),
        ],
        "stride": [({"stride": 2}, EXACT), ({"stride": per(dimensions, 1, 3, 2)}, EXACT)],
        "padding": [({"padding": 1}, EXACT)],
        "dilation": [({"dilation": 2}, EXACT), ({"dilation": 2, "padding": 1}, EXACT)],
        "ceil_mode": [
            ({"ceil_mode": True, "stride": 3}, EXACT),
            ({"ceil_mode": True, "kernel_size": 2, "stride": 2, "padding": 1}, EXACT),
            ({"ceil_mode": True, "stride": 3, "dilation": 2}, FLOAT),
        ],
        "return_indices": [({"return_indices": False}, EXACT)],
    }
    return {"kernel_size": 3, "stride": 1}, cases


def average_pool(dimensions):
    cases = {
        "kernel_size": [({"kernel_size": 2}, EXACT), ({"kernel_size": 3, "stride": 1}, EXACT)],
        "stride": [({"stride": 1}, EXACT)],
        "padding": [({"padding": 1}, EXACT)],
        "ceil_mode": [
            ({"ceil_mode": True, "kernel_size": 5, "stride": 3}, FLOAT),
            ({"ceil_mode": True, "kernel_size": 1}, EXACT),
        ],
        "count_include_pad": [
            ({"padding": 1, "count_include_pad": False}, FLOAT),
            ({"count_include_pad": False}, EXACT),
        ],
        "divisor_override": [({"divisor_override": 3}, EXACT)],
    }
    if dimensions == 1:
        del cases["divisor_override"]
    return {"kernel_size": 2}, cases


def norm(dimensions):
    channels = CHANNELS[dimensions]
    cases = {
        "num_features": [({}, EXACT)],
        "eps": [({"eps": 0.3}, EXACT)],
        "momentum": [({"momentum": None}, EXACT)],
        "affine": [({"affine": False}, EXACT)],
        "track_running_stats": [({"track_running_stats": False}, FLOAT)],
        "bias": [({"bias": False}, EXACT)],
    }
    return {"num_features": channels}, cases


def adaptive(dimensions, kind):
    sizes = SIZES[dimensions]
    halves = tuple(size // 2 if size % 2 == 0 else size for size in sizes)
    cases = {"output_size": [({"output_size": halves}, EXACT), ({"output_size": 5}, FLOAT)]}
    if kind == "Max":
        cases["return_indices"] = [({"return_indices": False}, EXACT)]
    return {"output_size": 1}, cases


def paddings(name):
    return {"padding": 1}, {
        "padding": [({"padding": 1}, EXACT)],
        **({"value": [({"value": 0.3}, EXACT)]} if name == "Constant" else {}),
    }


CASES = {
    **{getattr(nn, f"Conv{n}d"): (n, *convolution(n)) for n in (1, 2, 3)},
    **{getattr(nn, f"ConvTranspose{n}d"): (n, *convolution(n, transposed=True)) for n in (1, 2, 3)},
    **{getattr(nn, f"MaxPool{n}d"): (n, *max_pool(n)) for n in (1, 2, 3)},
    **{getattr(nn, f"AvgPool{n}d"): (n, *average_pool(n)) for n in (1, 2, 3)},
    **{getattr(nn, f"BatchNorm{n}d"): (n, *norm(n)) for n in (1, 2, 3)},
    **{
        getattr(nn, f"Adaptive{kind}Pool{n}d"): (n, *adaptive(n, kind))
        for n in (1, 2, 3)
        for kind in ("Avg", "Max")
    },
    **{
        getattr(nn, f"{name}Pad{n}d"): (
            n,
            {"value": 0.0, "padding": 1} if name == "Constant" else {"padding": 1},
            paddings(name)[1],
        )
        for n in (1, 2, 3)
        for name in ("Zero", "Constant", "Reflection", "Replication", "Circular")
    },
    nn.Linear: (
        2,
        {"in_features": 11, "out_features": 5},
        {
            "in_features": [({}, EXACT)],
            "out_features": [({"out_features": 1}, EXACT)],
            "bias": [({"bias": False}, EXACT)],
        },
    ),
    nn.Flatten: (
        2,
        {},
        {"start_dim": [({"start_dim": 2}, EXACT)], "end_dim": [({"end_dim": 2}, EXACT)]},
    ),
    nn.Unflatten: (
        2,
        {"dim": 1, "unflattened_size": (2, 3)},
        {
            "dim": [({"dim": 2, "unflattened_size": (3, 4)}, EXACT)],
            "unflattened_size": [({"unflattened_size": (-1, 2)}, EXACT)],
        },
    ),
    nn.Upsample: (
        2,
        {"scale_factor": 2},
        {
            "size": [
                ({"size": (24, 33), "scale_factor": None}, EXACT),
                ({"size": (13, 11), "scale_factor": None}, FLOAT),
            ],
            "scale_factor": [({"scale_factor": (1, 3)}, EXACT), ({"scale_factor": 1.5}, FLOAT)],
            "mode": [({"mode": "bilinear"}, FLOAT)],
            "align_corners": [({"mode": "bilinear", "align_corners": True}, FLOAT)],
            "recompute_scale_factor": [({"recompute_scale_factor": True}, EXACT)],
        },
    ),
    nn.UpsamplingNearest2d: (
        2,
        {"scale_factor": 2},
        {
            "size": [({"size": (12, 22), "scale_factor": None}, EXACT)],
            "scale_factor": [({"scale_factor": 3}, EXACT)],
        },
    ),
    nn.ReLU: (2, {}, {}),
    nn.ReLU6: (2, {}, {}),
    nn.Hardtanh: (
        2,
        {"min_val": -0.3, "max_val": 0.4},
        {
            "min_val": [({"min_val": 0.1}, EXACT)],
            "max_val": [({"max_val": -0.1}, EXACT)],
            "min_value": [({"min_value": None}, EXACT)],
            "max_value": [({"max_value": None}, EXACT)],
        },
    ),
    nn.PixelUnshuffle: (
        2,
        {"downscale_factor": 1},
        {"downscale_factor": [({"downscale_factor": 1}, EXACT)]},
    ),
    nn.PixelShuffle: (
        2,
        {"upscale_factor": 1},
        {"upscale_factor": [({"upscale_factor": 1}, EXACT)]},
    ),
    nn.PReLU: (
        2,
        {},
        {
            "num_parameters": [({"num_parameters": 1}, EXACT), ({"num_parameters": 6}, FLOAT)],
            "init": [({"init": -0.5}, EXACT)],
        },
    ),
    nn.ChannelShuffle: (2, {"groups": 3}, {"groups": [({"groups": 2}, EXACT)]}),
    nn.GLU: (2, {"dim": 1}, {"dim": [({"dim": -3}, EXACT)]}),
}
TABLES = {
    nn.CELU: {"alpha": 0.5},
    nn.ELU: {"alpha": 0.5},
    nn.GELU: {"approximate": "tanh"},
    nn.Hardshrink: {"lambd": 0.1},
    nn.LeakyReLU: {"negative_slope": 0.3},
    nn.Softplus: {"beta": 2.0, "threshold": 1.0},
    nn.Softshrink: {"lambd": 0.1},
    nn.Threshold: {"threshold": 0.1, "value": 0.2},
}
for _kind in MODULES:
    _cases = {name: [({name: value}, EXACT)] for name, value in TABLES.get(_kind, {}).items()}
    CASES[_kind] = (2, {"threshold": 0.1, "value": 0.0} if _kind is nn.Threshold else {}, _cases)
for _kind in DROPOUTS.values():
    CASES[_kind] = (
        {"Dropout1d": 1, "Dropout3d": 3}.get(_kind.__name__, 2),
        {},
        {"p": [({"p": 0.3}, EXACT)]},
    )
TYPES = [
    target for target in RECOGNIZERS if isinstance(target, type) and issubclass(target, nn.Module)
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_no_type_and_no_parameter_is_forgotten(kind):
    _, _, cases = CASES[kind]
    parameters = set(inspect.signature(kind).parameters) - WITHOUT_MEANING
    assert parameters - set(cases) == set()


def every_case():
    for kind, (dimensions, base, cases) in CASES.items():
        yield pytest.param(kind, dimensions, base, EXACT, id=kind.__name__)
        known = inspect.signature(kind).parameters
        for name, found in cases.items():
            lacking = pytest.mark.skipif(name not in known, reason=f"this PyTorch has no {name}")
            for number, (change, outcome) in enumerate(found):
                if change:
                    yield pytest.param(
                        kind,
                        dimensions,
                        {**base, **change},
                        outcome,
                        id=f"{kind.__name__}-{name}-{number}",
                        marks=lacking,
                    )


@pytest.mark.parametrize(("kind", "dimensions", "settings", "outcome"), list(every_case()))
def test_every_value_comes_to_what_the_table_says(kind, dimensions, settings, outcome, tmp_path):
    torch.manual_seed(0)
    convolution_kind, channels = getattr(nn, f"Conv{dimensions}d"), CHANNELS[dimensions]
    model = nn.Sequential(convolution_kind(2, channels, 1), kind(**settings))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            nn.init.uniform_(module.running_var, 0.5, 2)
    inputs = (images(6, (2, *SIZES[dimensions])),)
    check(model, tmp_path, inputs, islands=int(outcome == FLOAT), least=15, export=outcome == EXACT)
