"""The published networks are what their recipe says, and go on where they were interrupted."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from published_lenet import BinaryInput, BinaryWeight, LeNet, centred
from published_mlp import Activation, Dropout, Linear, TensorNorm, squared_hinge
from published_page import NETWORKS, page
from published_training import Training

VALUES = torch.tensor([-3.0, -1.0, -0.6, -0.5, -0.2, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0])


@pytest.mark.parametrize("bits", [1, 2])
def test_levels_and_gradient_of_activations(bits):
    x = VALUES.clone().requires_grad_()
    y = Activation(bits)(x)
    y.sum().backward()
    numbers = VALUES.numpy()
    rounded = np.where(numbers >= 0, 1, -1) if bits == 1 else np.rint(np.clip(numbers, -1, 1))
    assert y.tolist() == rounded.tolist()
    inside = np.abs(numbers) <= 1 if bits == 1 else np.abs(np.rint(numbers)) <= 1
    assert x.grad.tolist() == inside.astype(float).tolist()


@pytest.mark.parametrize("bits", [1, 2])
def test_weights_have_the_levels_of_their_bits_and_pass_every_gradient(bits):
    torch.manual_seed(0)
    layer = Linear(50, 3, bits)
    layer(torch.eye(50)).sum().backward()
    levels = layer(torch.eye(50)).unique().tolist()
    assert levels == ([-1, 1] if bits == 1 else [-1, 0, 1])
    assert torch.equal(layer.weight.grad, torch.ones(3, 50))


def test_tensor_norm_has_one_mean_and_one_variance():
    x = np.random.default_rng(0).normal(3, 2, (20, 10)).astype(np.float32)
    norm = TensorNorm()
    y = norm(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(y, (x - x.mean()) / np.sqrt(x.var() + 1e-4), atol=1e-5)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * x.var(ddof=1), rel=1e-5)


def test_the_loss_is_the_squared_hinge():
    scores, labels = np.random.default_rng(0).normal(size=(6, 10)), np.arange(6)
    targets = np.where(np.eye(10)[labels] == 1, 1, -1)
    expected = np.mean(np.maximum(0, 1 - targets * scores) ** 2)
    found = squared_hinge(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.item() == pytest.approx(expected)


def test_dropout_keeps_four_fifths_and_the_mean():
    torch.manual_seed(0)
    y = Dropout()(torch.ones(400, 501))
    share = (y != 0).double().mean().item()
    assert abs(share - 0.8) < 5 * np.sqrt(0.16 / y.numel()), "five standard deviations"
    assert y.max().item() == 1.25


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, mnist):
    part = (mnist["train"].images[:300], mnist["train"].labels[:300])
    data = {"train": part, "test": part}
    network = NETWORKS[0]
    whole, first = (Training(network, tmp_path / name, 0.004) for name in ("whole", "parts"))
    whole.run(data, 4)
    first.run(data, 2)
    again = Training(network, tmp_path / "parts", 0.004)
    again.run(data, 99)
    assert again.accuracies == whole.accuracies and not again.unfinished
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    rates = [group["lr"] for group in again.optimizer.param_groups]
    assert rates == [0.02 / 2**19], "epoch 3 of 4 stands for 750 of 1000, halved at 0, 40 ... 720"
    weights = [layer.weight for layer in again.model if isinstance(layer, Linear)]
    assert all(weight.abs().max() <= 1 for weight in weights)
    text = page({"a2q-16": {"accuracy": 0.5, "largest_accumulator": 7}}, [again])
    assert "| TFC 1W1A | 93.17 |" in text and "| 4 of 1000 |" in text and "not run" in text


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_network_takes_its_inputs(network, mnist):
    inputs = network.inputs(mnist["test"].images[:8])
    assert network.build()(inputs.float()).shape == (8, 10)
    if network.name.startswith(("TFC", "SFC")):
        assert set(inputs.unique().tolist()) <= {-1, 0, 1}


def test_binary_weights_and_their_gradient():
    generator = np.random.default_rng(0)
    w, g = generator.normal(size=(2, 4, 3, 5, 5))
    weight = torch.from_numpy(w).requires_grad_()
    binary = BinaryWeight.apply(weight)
    binary.backward(torch.from_numpy(g))
    signs, scale = np.sign(w), np.abs(w).mean((1, 2, 3), keepdims=True)
    of_scale = (g * signs).sum((1, 2, 3), keepdims=True) / 75
    expected = (scale * g + of_scale * signs) * (1 - 1 / 3) * 75
    assert np.allclose(binary.detach(), signs * scale)
    assert np.allclose(weight.grad, expected)


def test_binary_inputs_pass_gradients_inside_one():
    x = VALUES.clone().requires_grad_()
    BinaryInput.apply(x).sum().backward()
    assert x.grad.tolist() == (np.abs(VALUES.numpy()) < 1).astype(float).tolist()


def test_weights_are_centred_where_they_are():
    weight = torch.randn(4, 3, 5, 5)
    expected = np.clip(weight.numpy() - weight.numpy().mean(1, keepdims=True), -1, 1)
    assert centred(weight) is weight
    assert np.allclose(weight, expected, atol=1e-6)


def test_the_rate_of_lenet_falls_from_its_15th_epoch_on():
    rates = [LeNet().rate(epoch) for epoch in range(60)]
    expected = [0.01] * 14 + [0.001] * 15 + [0.0001] * 15 + [0.00001] * 15 + [0.000001]
    assert rates == pytest.approx(expected)
