"""Models that are not the project's: any operator of the list, any names, shapes and number of
inputs, one promise."""

import copy

import onnx
import pytest
import torch
from conftest import small
from torch import nn
from torch.nn import functional

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.execution.verify import verify
from qstrategies.quantization.model import QuantizedModel
from qstrategies.records import QuantizationConfig

PIXELS = 1 / 255


class Graph(nn.Module):
    """A module around a function, with the layers that it uses."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(inputs=4, outputs=8, **settings):
    return nn.Conv2d(inputs, outputs, settings.pop("kernel_size", 3), **settings)


def after_conv(layer, **settings):
    return nn.Sequential(conv(4, 8, padding=1), layer, nn.Conv2d(8, 5, 1, **settings))


NETWORKS = {
    "strided": nn.Sequential(conv(stride=2, padding=(1, 0)), nn.ReLU()),
    "dilated": conv(dilation=2, padding="same"),
    "grouped": nn.Sequential(conv(groups=2), nn.ReLU(), conv(8, 8, groups=4)),
    "depthwise": nn.Sequential(
        conv(4, 4, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 8, 1)
    ),
    "transposed": nn.Sequential(
        conv(), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1)
    ),
    "linear": nn.Sequential(
        nn.Flatten(),
        nn.Linear(4 * 81, 16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(16, 7, bias=False),
    ),
    "folded norm": nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()),
    "standalone norm": nn.Sequential(
        nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(2)
    ),
    "leaky ReLU": after_conv(nn.LeakyReLU(0.1)),
    "hard-swish": after_conv(nn.Hardswish()),
    "hard-sigmoid": after_conv(nn.Hardsigmoid()),
    "SiLU": after_conv(nn.SiLU()),
    "sigmoid": after_conv(nn.Sigmoid()),
    "GELU": after_conv(nn.GELU()),
    "functional": Graph(
        lambda m, x: torch.sigmoid(functional.leaky_relu(m.a(x), 0.2)) * functional.relu6(m.b(x)),
        a=conv(),
        b=conv(),
    ),
    "max pool": after_conv(nn.MaxPool2d(3, 2, padding=1)),
    "average pool": after_conv(nn.AvgPool2d(2)),
    "global pool": nn.Sequential(
        conv(padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ),
    "mean": Graph(
        lambda m, x: m.fc(functional.relu(m.a(x)).mean([2, 3])),
        a=conv(padding=1),
        fc=nn.Linear(8, 5),
    ),
    "add": Graph(lambda m, x: functional.relu(m.a(x) + m.b(x)), a=conv(), b=conv()),
    "mul": Graph(lambda m, x: m.a(x) * m.b(x), a=conv(), b=conv()),
    "squeeze and excite": Graph(
        lambda m, x: (
            (y := m.a(x)) * functional.hardsigmoid(m.b(functional.adaptive_avg_pool2d(y, 1)))
        ),
        a=conv(),
        b=nn.Conv2d(8, 8, 1),
    ),
    "concat": Graph(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=conv(), b=conv(), c=nn.Conv2d(16, 5, 1)
    ),
    "shuffle": Graph(
        lambda m, x: m.b(
            (y := m.a(x)).view(y.size(0), 2, 4, 7, 7).transpose(1, 2).reshape(y.size(0), 8, 7, 7)
        ),
        a=conv(),
        b=nn.Conv2d(8, 5, 1),
    ),
    "permute": Graph(lambda m, x: m.fc(m.a(x).permute(0, 2, 3, 1)), a=conv(), fc=nn.Linear(8, 5)),
    "upsample": after_conv(nn.Upsample(scale_factor=2, mode="nearest")),
    "shared layer": Graph(
        lambda m, x: m.b(functional.relu(m.b(functional.relu(m.a(x))))),
        a=conv(),
        b=nn.Conv2d(8, 8, 1),
    ),
}


def seeded(network):
    """A copy with random weights and BN statistics of real inputs, in eval mode."""
    torch.manual_seed(0)
    model = copy.deepcopy(network)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    model.train()(torch.rand(16, *shape_of(network)))
    return model.eval()


def shape_of(network):
    return (3, 40) if network is SEQUENCE else (4, 9, 9)


SEQUENCE = nn.Sequential(
    nn.Conv1d(3, 6, 5, stride=2),
    nn.BatchNorm1d(6),
    nn.ReLU(),
    nn.MaxPool1d(2),
    nn.Conv1d(6, 4, 3, padding=1),
)


@pytest.mark.parametrize(
    "network", [*NETWORKS.values(), SEQUENCE], ids=[*NETWORKS, "one dimension"]
)
def test_every_operator_gives_the_same_bits_everywhere(network, tmp_path):
    model = seeded(network)
    shape = shape_of(network)
    quantized = qs.quantize(
        model, [torch.rand(32, *shape) for _ in range(2)], torch.rand(2, *shape), input_scale=PIXELS
    )
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx")
    pixels = torch.randint(0, 256, (40, *shape), dtype=torch.uint8)
    report = qs.cross_check(exported, pixels)
    assert report.same, str(report)
    with torch.no_grad():
        expected = model(pixels * PIXELS)
        error = quantized.int8()(pixels.float()) - expected
    assert error.pow(2).mean() < 2e-3 * expected.pow(2).mean() + 1e-6, (
        "27 dB: it computes what the float model computes"
    )


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, left_image, right_image):
        return self.left(left_image) + self.right(right_image)


def test_several_real_valued_inputs_are_quantized_over_their_range(tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(16, 1, 8, 8), 3 * torch.rand(16, 2, 8, 8)) for _ in range(3)]
    quantized = qs.quantize(TwoInputs().eval(), batches, batches[0])
    assert [(spec.name, spec.shape) for spec in quantized.inputs] == [
        ("left_image", (1, 8, 8)),
        ("right_image", (2, 8, 8)),
    ]
    exported = qs.export_onnx(quantized, str(tmp_path / "model.onnx"))
    graph = onnx.load(exported[0].path).graph
    assert [(entry.name, entry.type.tensor_type.elem_type) for entry in graph.input] == [
        ("left_image", 2),
        ("right_image", 2),
    ]
    report = qs.cross_check(exported, batches[0])
    assert report.same, str(report)
    verified = verify(exported[0].path)
    assert verified["verdict"] == "same" and len(verified["checks"]) > 4
    for spec, values in zip(quantized.inputs, batches[0], strict=True):
        assert (spec.reals(spec.integers(values)) - values).abs().max() <= 1.5 * spec.scale, (
            "an even zero point may cost a step at an end"
        )
    with pytest.raises(InputError, match="got 1 inputs: expected 2"):
        qs.cross_check(exported, batches[0][0])


def test_the_model_that_is_passed_in_is_not_changed():
    model = seeded(NETWORKS["standalone norm"]).train()
    model[0].weight.grad = torch.ones(4)
    before, text = copy.deepcopy(model.state_dict()), repr(model)
    qs.quantize(model, [torch.rand(8, 4, 9, 9)], torch.rand(2, 4, 9, 9))
    assert repr(model) == text and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad is not None and all(
        parameter.requires_grad for parameter in model.parameters()
    )


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "left", [[], ["inner.branch"], [Branching]], ids=["found", "named", "by type"]
)
def test_what_cannot_be_traced_stays_in_float_and_is_named(left, tmp_path):
    torch.manual_seed(0)
    inner = nn.Sequential()
    inner.add_module("branch", Branching())
    model = nn.Sequential()
    model.add_module("conv", conv())
    model.add_module("inner", inner)
    model.add_module("last", nn.Conv2d(8, 5, 1))
    data = torch.rand(8, 4, 9, 9)
    quantized = qs.quantize(model.eval(), [data], data, leave_in_float=left)
    ((name, reason),) = ((island.name, island.reason) for island in quantized.islands)
    assert (
        name == "inner.branch"
        and ("leave_in_float" if left else "depends on the values of the input") in reason
    )
    error = quantized.int8()(data) - model(data)
    assert error.pow(2).mean() < 2e-3 * model(data).pow(2).mean()
    assert torch.equal(quantized.int8()(data), quantized.reference()(data))
    with pytest.raises(InputError, match="inner.branch"):
        qs.export_onnx(quantized, tmp_path / "model.onnx")
    with pytest.raises(
        InputError, match="Branching cannot be traced .*depends on the values of the input"
    ):
        qs.quantize(Branching().eval(), [data], data)


@pytest.mark.parametrize(("choice", "place"), [("0", 0), (nn.Conv2d, 0), ("4", 1), (nn.Linear, 1)])
def test_a_layer_left_in_float_keeps_its_weights(choice, place, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 49, 5)
    ).eval()
    data = torch.rand(8, 4, 9, 9)
    quantized = qs.quantize(model, [data], data, leave_in_float=[choice])
    (kept,) = (island for island in quantized.islands if island.size)
    parameters = (model[0], model[4])[place].parameters()
    assert all(torch.equal(a, b) for a, b in zip(kept.module.parameters(), parameters, strict=True))
    assert [layer.name for layer in quantized.graph.layers] == [("4", "0")[place]]
    (portable, *_) = qs.export_onnx(quantized, tmp_path / "model.onnx")
    kinds = {
        tensor.data_type
        for tensor in onnx.load(portable.path).graph.initializer
        if len(tensor.dims) > 1
    }
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}
    report = qs.cross_check(portable, data)
    assert {check.agreement for check in report.checks} == {1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibration": []}, "calibration needs at least one batch"),
        ({"leave_in_float": ["convv"]}, "unknown module 'convv'.*'conv'"),
        (
            {"model": Graph(lambda m, x: (m.a(x), 3), a=conv())},
            "output 1 is 3, which does not depend on the input",
        ),
    ],
)
def test_bad_input_is_a_clear_error(arguments, message):
    model = nn.Sequential()
    model.add_module("conv", conv())
    data = torch.rand(4, 4, 9, 9)
    with pytest.raises(InputError, match=message):
        qs.quantize(**{"model": model.eval(), "calibration": [data], "example": data, **arguments})


def test_a_model_may_return_several_tensors():
    model, data = Graph(lambda m, x: (m.a(x), x), a=conv()).eval(), torch.rand(4, 4, 9, 9)
    quantized = qs.quantize(model, [data], data)
    found = quantized.int8()(data)
    assert isinstance(found, tuple) and len(found) == 2
    for ours, same, theirs in zip(found, quantized.reference()(data), model(data), strict=True):
        assert torch.equal(ours, same)
        assert (ours - theirs).pow(2).mean() < 2e-3 * theirs.pow(2).mean()


def test_free_scales_and_narrow_weights_work_on_own_models():
    model, data = seeded(NETWORKS["hard-swish"]), torch.rand(32, 4, 9, 9)
    errors = {}
    for bits in (8, 4):
        for exact in (True, False):
            config = QuantizationConfig(weight_bits=bits, exact=exact)
            quantized = qs.quantize(model, [data], data, config=config)
            assert isinstance(quantized, QuantizedModel)
            # not an engine's: on CPUs without VNNI free scales saturate there
            errors[bits, exact] = (quantized.module()(data) - model(data)).pow(2).mean().item()
    assert all(0 < errors[8, exact] < errors[4, exact] / 5 for exact in (True, False)), errors


def test_a_registered_model_of_the_user_runs_through_the_whole_experiment(workspace):
    @qs.MODELS.register("tiny")
    class Tiny(nn.Module):
        """Fewer layers than the shared network, and names of its own."""

        input_shape = (1, 28, 28)

        def __init__(self):
            super().__init__()
            self.squeeze = nn.Sequential(
                nn.Conv2d(1, 6, 5, stride=3), nn.BatchNorm2d(6), nn.Hardswish()
            )
            self.head = nn.Linear(6 * 64, 10)

        def forward(self, digit):
            return self.head(self.squeeze(digit).flatten(1))

    for strategy in ("no_norm", "qat_clamp"):
        record = qs.run_experiment(small(strategy, model="tiny"), workspace)
        assert record.status == "done" and all(check.rows_equal == 1 for check in record.checks)


AVERAGES = {
    "module": nn.AdaptiveAvgPool2d(1),
    "function": Graph(lambda _, x: functional.adaptive_avg_pool2d(x, 1)),
    "mean": Graph(lambda _, x: x.mean([2, 3], keepdim=True)),
}


@pytest.mark.parametrize("window", [(6, 6), (2, 3), (10, 10)], ids=str)
@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_averages_at_a_tie_are_rounded_to_even_everywhere(average, window, tmp_path):
    """PyTorch's own kernels multiply by the float nearest to 1 / n, and some add the zero point in
    the same operation."""
    entry = nn.Conv2d(8, 8, 1, groups=8, bias=False)
    nn.init.ones_(entry.weight)
    data = torch.linspace(-1.6, 2.4, 8 * window[0] * window[1]).reshape(1, 8, *window)
    quantized = qs.quantize(nn.Sequential(entry, average).eval(), [data], data)
    assert quantized.inputs[0].zero_point not in (0, 128)
    ties = torch.arange(255, dtype=torch.uint8)[:, None, None, None].repeat(1, 8, *window)
    ties.flatten(2)[..., : window[0] * window[1] // 2] += 1
    report = qs.cross_check(qs.export_onnx(quantized, tmp_path / "model.onnx"), ties)
    assert report.same, str(report)
    steps = quantized.int8()(quantized.inputs[0].reals(ties)).flatten(1) / quantized.output_scale
    assert (steps.remainder(2) == 0).all() and steps.unique().numel() > 100, (
        "all are ties, and all go to even"
    )
