"""Models on another device than the CPU, as far as that can be seen without one: "meta" has no
values, but refuses what stayed behind; and "cpu:0" is the CPU under another name."""

import dataclasses

import pytest
import torch
from everywhere import SHAPE, Between, decibels, images
from test_own_networks import EXACT, ISLANDS
from torch import nn
from torch.overrides import TorchFunctionMode

import qstrategies as qs
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.prepare import prepare
from qstrategies.quantization.structure import device_of
from qstrategies.strategies import STRATEGIES

OTHER = torch.device("cpu", 0)
TRAINED = [name for name in STRATEGIES.names() if STRATEGIES.get(name).course.fake_quantized]
RENEWED = {"latest", "shift", "given"}
"""Tensors that every pass in training makes anew, where its inputs are."""


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.Hardswish()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("name", [*EXACT, *ISLANDS])
def test_a_graph_moves_as_a_whole(name):
    function = EXACT[name] if name in EXACT else ISLANDS[name][0]
    forms = prepare(Between(function), qs.QuantizationConfig(), images(4)).graph.to("meta")
    (output,) = forms(images(4).to("meta"))
    assert output.device.type == "meta" and len(output) == 4


def tensors_beside(module):
    """The names of tensors in ``module`` that ``to`` knows nothing of."""
    known = {"_parameters", "_buffers", "_modules"}
    for each in module.modules():
        for name, value in vars(each).items():
            values = value if isinstance(value, list | tuple) else [value]
            if name not in known and any(isinstance(part, torch.Tensor) for part in values):
                yield name


@pytest.mark.parametrize("strategy", TRAINED)
def test_nothing_of_a_model_in_training_stays_behind(net, strategy):
    trainee = qs.prepare(net, images(8), strategy, calibration=[images(8)], steps=2)
    outputs = trainee.model(images(8))
    trainee.penalty(outputs, criterion=torch.Tensor.mean)
    modules = (trainee.model, *trainee.model._views)
    assert {name for each in modules for name in tensors_beside(each)} <= RENEWED


def test_the_device_is_that_of_the_first_parameter(net):
    assert device_of(net).type == "cpu" and device_of(nn.ReLU()).type == "cpu"
    later = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, device="meta"))
    with pytest.raises(qs.InputError, match="Sequential has no values"):
        device_of(later)


class Moves(TorchFunctionMode):
    """Writes down which tensors are moved where."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and OTHER in args:
            self.found.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fails", [False, True])
def test_calibration_is_where_the_model_is_and_comes_back(net, monkeypatch, fails):
    prepared = prepare(net, qs.QuantizationConfig(), images(4))
    prepared = dataclasses.replace(prepared, device=OTHER)
    moved, module_to = [], nn.Module.to

    def to(module, device):
        moved.append((module, device))
        return module_to(module, device)

    monkeypatch.setattr(nn.Module, "to", to)
    batches = [images(4), images(6), *([images(2)[:, :1]] if fails else [])]
    with Moves() as moves:
        if fails:
            with pytest.raises(qs.InputError, match="batch 3"):
                calibrate(prepared, batches)
        else:
            first = calibrate(prepared, batches)
            assert all(each.device == torch.device("cpu") for each in first)
    modules = [prepared.graph, *prepared.activations.values()]
    assert moved == [(each, OTHER) for each in modules] + [
        (each, torch.device("cpu")) for each in modules
    ]
    assert [shape for shape in moves.found if shape[1:] == SHAPE] == [(4, *SHAPE), (6, *SHAPE)]


@pytest.mark.parametrize("strategy", ["qat", "clamp"])
def test_a_model_without_values_is_refused(net, strategy):
    with pytest.raises(qs.InputError, match="no values.*'meta'"):
        qs.prepare(net.to("meta"), images(4), strategy)
    with pytest.raises(qs.InputError, match="no values.*'meta'"):
        qs.quantize(net, [images(4)], images(4))


ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


@pytest.fixture
def device():
    return torch.device("cuda")


@ON_CUDA
def test_a_model_on_a_gpu_is_quantized_to_the_cpu(net, device):
    expected = net.eval()(images()).detach()
    quantized = qs.quantize(net.to(device), [images(), images().to(device)], images())
    assert next(net.parameters()).device.type == device.type
    assert decibels(expected, quantized.int8()(images())) > 20
    on_gpu = quantized.module().to(device)(images().to(device))
    assert torch.equal(on_gpu.cpu(), quantized.int8()(images())), "exact everywhere"


@ON_CUDA
@pytest.mark.parametrize("strategy", [*TRAINED, "clamp", "weight_norm"])
def test_a_model_on_a_gpu_is_trained_there(net, device, strategy):
    trainee = qs.prepare(net.to(device), images(8), strategy, calibration=[images(8)])
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3))
    for _ in range(3):
        outputs = trainee.model(images().to(device))
        extra = trainee.penalty(outputs, criterion=lambda found: found.square().mean())
        (outputs.square().mean() + extra).backward()
        optimizer.step()
        optimizer.zero_grad()
        trainee.after_step()
    assert {each.device.type for each in trainee.model.parameters()} == {device.type}
    found = trainee.finish([images()]).int8()(images())
    assert found.device.type == "cpu" and found.isfinite().all()
    if strategy == "qat":
        assert torch.equal(found, trainee.model.cpu().eval()(images()).detach())
