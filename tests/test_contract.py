"""What every strategy that trains promises of its integers, beside the whole runs of
test_strategies.py: a few steps on a few images, then all executors."""

import functools

import pytest
import torch
from torch import nn

import qstrategies as qs
from qstrategies.experiment.comparison import DEFAULT_STRATEGIES
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.strategies import STRATEGIES

NAMES = [
    name
    for name in STRATEGIES.names()
    if name not in DEFAULT_STRATEGIES and STRATEGIES.get(name).course.schedule is not None
]
STEPS = 20
NETS = {"cnn": slice(None), "depthwise": slice(6, 22), "resnet8": slice(6, 22)}
"""With the rows and columns that they see: what has no fixed size gets the middle of a digit."""

QUICK = ["numpy-integer", *(f"onnxruntime-{level}" for level in ("all", "extended", "disabled"))]
"""Beside PyTorch's engines; the CNN at 4 bits has every runtime that there is."""


@pytest.fixture(scope="module")
def floats(mnist):
    """Networks after a few steps in float, shared by all."""
    return {name: stepped(fresh(name), seen(mnist["train"], name)) for name in NETS}


def fresh(name):
    torch.manual_seed(0)
    return MODELS.get(name)()


def seen(split, net):
    """Images and labels as ``net`` sees them."""
    return split.images[:, :, NETS[net], NETS[net]], split.labels


def stepped(model, data, trainee=None):
    """``model`` after ``STEPS`` steps on 8 images each of ``data``: images and labels."""
    images, labels = data
    torch.manual_seed(1)
    parameters = model.parameters() if trainee is None else trainee.parameter_groups(2e-3)
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    for number in range(STEPS):
        part = slice(8 * number, 8 * number + 8)
        model.train()
        outputs = model(to_input(images[part]))
        criterion = functools.partial(nn.functional.cross_entropy, target=labels[part])
        loss = criterion(outputs)
        optimizer.zero_grad()
        (
            loss if trainee is None else loss + trainee.penalty(outputs, criterion=criterion)
        ).backward()
        optimizer.step()
        if trainee is not None:
            trainee.after_step()
    return model.eval()


def quantized(name, net, bits, floats, mnist):
    images, labels = seen(mnist["train"], net)
    example = to_input(images[:2])
    config = qs.QuantizationConfig(weight_bits=bits)
    start = floats[net] if STRATEGIES.get(name).course.parent else fresh(net)
    trainee = qs.prepare(start, example, name, config=config, input_scale=PIXEL_SCALE, steps=STEPS)
    stepped(trainee.model, (images, labels), trainee)
    return trainee.finish([to_input(images[:64])])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("net", list(NETS))
@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_is_exact_in_every_executor(name, net, bits, floats, mnist, tmp_path):
    images, _ = seen(mnist["test"], net)
    images, whole = images[:16], (net, bits) == ("cnn", 4)
    result = quantized(name, net, bits, floats, mnist)
    exported = qs.export_onnx(result, tmp_path / "model.onnx")
    checked = qs.cross_check(exported, images, runtimes=None if whole else QUICK)
    assert checked.same and not checked.apart, str(checked)
    assert qs.certify(tmp_path / "model.onnx").complete
    outputs = result.int8()(images.float())
    assert outputs.std() > 0
    qs.save(result, tmp_path / "model.safetensors")
    assert torch.equal(qs.load(tmp_path / "model.safetensors").int8()(images.float()), outputs)
    if whole:
        again = quantized(name, net, bits, floats, mnist)
        assert torch.equal(again.int8()(images.float()), outputs), "the same seed, the same bits"
