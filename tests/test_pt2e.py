"""What torchao's PT2E quantized: its weights and ranges on the exact grid, and what is not read is
named."""

import functools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from everywhere import decibels, images, same_bits, tensors
from torch import nn
from torch.nn import functional

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.pt2e.read import read
from qstrategies.quantization.aten import OPERATOR, as_functions

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
import zoo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torchao, about what it registers
    quantize_pt2e = pytest.importorskip(
        "torchao.quantization.pt2e.quantize_pt2e", reason="needs 'qstrategies[pt2e]'"
    )
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

ANY_BATCH = ({0: torch.export.Dim.AUTO},)


def x86_quantizer(**settings):
    config = x86.get_default_x86_inductor_quantization_config(**settings)
    return x86.X86InductorQuantizer().set_global(config)


def xnnpack_quantizer(**settings):
    config = xnnpack.get_symmetric_quantization_config(**settings)
    return xnnpack.XNNPACKQuantizer().set_global(config)


def exported(model, example, dynamic_shapes=ANY_BATCH, *, strict=True):
    """Strict: else x86's quantizer refuses modules that are called twice."""
    model.eval()
    program = torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes, strict=strict)
    return program.module()


def prepared(model, batches, quantizer, *settings, **named):
    graph = exported(model, batches[0], *settings, **named)
    found = quantize_pt2e.prepare_pt2e(graph, quantizer)
    for batch in batches:
        found(batch)
    return found


def converted(model, batches, quantizer, *settings, **named):
    return quantize_pt2e.convert_pt2e(prepared(model, batches, quantizer, *settings, **named))


def trained(model, batches, quantizer):
    found = quantize_pt2e.prepare_qat_pt2e(exported(model, batches[0]), quantizer)
    optimizer = torch.optim.SGD(found.parameters(), 1e-3)
    for batch in batches:
        sum(each.square().mean() for each in tensors(found(batch))).backward()
        optimizer.step()
    return quantize_pt2e.convert_pt2e(found)


def pixels(count, shape, seed=0):
    return zoo.random_images(count, shape, torch.Generator().manual_seed(seed))


QUANTIZERS = {
    "x86": x86_quantizer,
    "XNNPACK per channel": functools.partial(xnnpack_quantizer, is_per_channel=True),
    "XNNPACK per tensor": xnnpack_quantizer,
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_cnn_has_the_same_bits_everywhere_and_is_the_converted_model(name, tmp_path):
    model, shape = zoo.classifier("cnn", 28)
    graph = converted(model, [pixels(8, shape)], QUANTIZERS[name]())
    found = qs.from_pt2e(graph, [pixels(8, shape)], input_scale=1 / 255)
    assert found.islands == ()
    with torch.no_grad():
        wanted = graph(pixels(8, shape))
    agreement = decibels(wanted, found.module()(pixels(8, shape)))
    # two roundings of 8 bits each, of weights and of four tensors: 32 to 34 dB were seen
    assert agreement > 30 and math.isclose(found.agreement, agreement, abs_tol=1e-3)
    assert f"{agreement:.1f} dB" in repr(found)
    files = qs.export_onnx(found, tmp_path / "model.onnx")
    inputs = (pixels(8, shape),)
    reals = [each.reals(each.integers(x)) for each, x in zip(found.inputs, inputs, strict=True)]
    same_bits(found, files, inputs, tensors(found.reference()(*reals)))
    assert qs.certify(files[0].path).complete


def test_mobilenet_is_as_close_to_the_converted_model_as_that_to_the_float_model(tmp_path):
    model, shape = zoo.classifier("mobilenet_v2", 32)
    batch = pixels(8, shape)
    graph = converted(model, [batch], x86_quantizer(), strict=False)  # which takes half the time
    found = qs.from_pt2e(graph, [batch], input_scale=1 / 255)
    with torch.no_grad():
        lost = decibels(model(batch), graph(batch))
    # 52 layers with random weights: noise of one rounding is most of the signal in the end
    assert found.agreement > lost - 3
    (file, *_) = qs.export_onnx(found, tmp_path / "model.onnx")
    assert file.certificate["integer_kernels"] and file.certificate["float_executors"]
    report = qs.cross_check([file], (batch * 255).round().to(torch.uint8), ["onnxruntime-all"])
    assert report.checks and all(check.rows_equal == 1 for check in report.checks)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def rows(largest=1.0, count=32):
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(0)) * largest


def test_ranges_are_those_of_the_file_and_calibration_only_adds_what_it_lacks():
    graph = converted(Two(), [rows()], xnnpack_quantizer())
    same, wider = (qs.from_pt2e(graph, [rows(each)]) for each in (1.0, 9.0))
    assert [each.inputs[0].scale for each in (same, wider)] == [2.0**-8, 2.0**-8]
    names = [spec.name for node in wider.graph.nodes for spec in (node.output,)]
    assert names == ["relu", "linear_1"]
    float_range = qs.quantize(Two(), [rows(9.0)], rows())
    assert float_range.inputs[0].scale == 2.0**-4
    top = max(node.output.grid.ends[1] for node in wider.graph.nodes[-1:])
    ends = read(graph).ends["linear_1"]
    assert ends[1] <= top < 2.1 * max(map(abs, ends))


def test_ends_are_what_the_quantizers_let_through():
    graph = converted(Two(), [rows()], xnnpack_quantizer())
    found = read(graph)
    (entry,) = graph.graph.find_nodes(op="placeholder")
    quantizer = next(node for node in entry.users if node.op == "call_function")
    _, scale, zero_point, low, high, _ = quantizer.args
    integers = np.arange(low, high + 1)
    reals = (integers - zero_point) * scale
    assert found.ends["x"] == (reals.min(), reals.max())
    assert set(found.ends) == {"x", "relu", "linear_1"}
    with torch.no_grad():
        assert torch.equal(found.quantized(rows()), graph(rows()))
        assert decibels(Two()(rows()), found.model(rows())) > 40  # weights are rounded, no more


def test_without_batches_the_ranges_of_the_file_are_enough():
    found = qs.from_pt2e(converted(Two(), [rows()], xnnpack_quantizer()))
    assert found.agreement is None and "dB" not in repr(found)
    with torch.no_grad():
        assert decibels(Two()(rows()), found.module()(rows())) > 25


def test_a_relu6_that_saturates_keeps_its_range():
    """Its layers are scaled so that 6 becomes the end of uint8: what was 3.9 needs another step."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU6(), nn.Conv2d(3, 5, 12))
    nn.init.eye_(model[0].weight.data[:, :, 0, 0])
    batch = pixels(8, (3, 12, 12)) * 3.9
    graph = converted(model, [batch], xnnpack_quantizer())
    with torch.no_grad():
        wanted = graph(batch)
    assert decibels(wanted, qs.from_pt2e(graph).module()(batch)) > 30


def test_no_step_is_spent_on_what_a_relu_cuts():
    """PT2E rounds between the convolution and the ReLU, which our graph joins."""
    torch.manual_seed(4)
    layers = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5)
    graph = converted(nn.Sequential(*layers), [images()], xnnpack_quantizer())
    low, _ = read(graph).ends["max_pool2d"]
    assert low < 0
    quantizers = {node.output.quantizer for node in qs.from_pt2e(graph).graph.nodes[:-1]}
    assert {each.zero_point for each in quantizers} == {0}


class Residual(nn.Module):
    """ReLU6 in place, an addition, a pool and a concatenation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.head = nn.ReLU6(inplace=True), nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.first(x))
        y = self.act(self.second(x))
        y += x
        both = torch.cat([functional.avg_pool2d(y, 12), functional.max_pool2d(x, 12)], 1)
        return {"logits": self.head(both.flatten(1)), "pooled": both}


@pytest.mark.parametrize(
    ("make", "quantizer"),
    [(converted, x86_quantizer), (converted, xnnpack_quantizer), (trained, x86_quantizer)],
)
def test_shared_ranges_additions_and_several_outputs(make, quantizer, tmp_path):
    graph = make(Residual(), [images() * 3], quantizer(is_qat=make is trained))
    program = torch.export.export(graph, (images(),), dynamic_shapes=ANY_BATCH)
    found = qs.from_pt2e(program, [images() * 3])
    assert found.agreement > 30 and set(found.output_names) == {"logits", "pooled"}
    assert not found.islands
    qs.export_onnx(found, tmp_path / "model.onnx")
    assert qs.certify(tmp_path / "model.onnx").complete


def test_calibration_is_asked_for_where_ranges_are_missing():
    graph = converted(Residual(), [images()], x86_quantizer())
    with pytest.raises(
        InputError, match=r"no quantizer for \d tensors, 'linear' the last.*batches"
    ):
        qs.from_pt2e(graph)


def lowered():
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

    graph = converted(Two(), [rows()], x86_quantizer())
    return lower_pt2e_quantized_to_x86(graph, (rows(),))


def without_the_last():
    """As those give it who take the integers out of the model."""
    graph = converted(Two(), [rows()], xnnpack_quantizer())
    last = graph.graph.output_node().all_input_nodes[0]
    last.replace_all_uses_with(last.args[0])
    return graph


def computed_scale():
    graph = converted(Two(), [rows()], xnnpack_quantizer())
    (entry,) = graph.graph.find_nodes(op="placeholder")
    quantizer = next(node for node in entry.users if node.op == "call_function")
    with graph.graph.inserting_before(quantizer):
        scale = graph.graph.call_function(torch.amax, (entry,))
    quantizer.update_arg(1, scale)
    return graph


def fixed():
    model = nn.Sequential(Reshaped(), nn.Linear(6, 4))
    return converted(model, [rows()], xnnpack_quantizer(), None)


class Reshaped(nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], 2, 3).flatten(1)


dynamic = functools.partial(x86_quantizer, is_dynamic=True)
REFUSED = {
    "Two is not what convert_pt2e gives: qs.quantize": Two,
    "no activation has a quantizer: .*qs.quantize": lambda: exported(Two(), rows()),
    "'activation_post_process_0'.*call convert_pt2e first": lambda: prepared(
        Two(), [rows()], xnnpack_quantizer()
    ),
    "choose_qparams.*one range per tensor and is_dynamic=False": lambda: converted(
        Two(), [rows()], dynamic()
    ),
    "'quantize_per_tensor_default.*one range per tensor and": computed_scale,
    "reads integers, where a dequantization": without_the_last,
    "onednn.*before it is lowered": lowered,
    r"exported for batches of 32: .*dynamic_shapes": fixed,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_read_is_named_with_the_remedy(message):
    with pytest.raises(InputError, match=message) as raised:
        qs.from_pt2e(REFUSED[message](), [rows()])
    assert "\n" not in str(raised.value)


NORM = nn.BatchNorm2d(3, eps=0.1).eval()
NORM.load_state_dict({**NORM.state_dict(), "running_mean": torch.tensor([-1.0, 0, 2])})
CALLS = {
    "batch norm": NORM,
    "slices": lambda x: x[:, 1:, ..., ::2],
    "chunks": lambda x: torch.cat(x.chunk(3, 1)[:2], 1),
    "split": lambda x: x.split([1, 2], 1)[1],
    "view of the batch": lambda x: x.view(x.size(0), -1),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2.0),
    "pool, no stride": lambda x: functional.max_pool2d(x, 3, padding=1),
    "in place": lambda x: functional.hardswish(functional.leaky_relu_(x * 2), inplace=True) + 1,
    "mean": lambda x: x.mean((2, 3), keepdim=True) - torch.sigmoid(x),
    "permuted": lambda x: x.permute(0, 2, 3, 1).transpose(1, -1).unsqueeze(1).squeeze(1),
}


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", CALLS)
def test_operators_of_aten_are_functions_of_torch(name):
    """Another implementation of each operator is torch's own."""
    graph = exported(Calling(CALLS[name]), images(2))
    graph.graph.erase_node(next(iter(graph.graph.find_nodes(op="call_module"))))
    functions = as_functions(graph)
    left = [node.target for node in functions.graph.nodes if isinstance(node.target, OPERATOR)]
    assert not left
    for count in (2, 3):
        (found,) = functions(images(count))
        assert torch.equal(found, CALLS[name](images(count)))
