"""Planted faults must be found, a sound model must be left in peace, and the figures are those of
the formulas."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from qstrategies.diagnosis import diagnose
from qstrategies.diagnosis.measure import predicted_sqnr, site, sqnr
from qstrategies.diagnosis.run import diagnose_run
from qstrategies.diagnosis.simulate import Simulation
from qstrategies.errors import InputError
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.calibrate import calibrate
from qstrategies.quantization.prepare import prepare
from qstrategies.records import QuantizationConfig


@pytest.fixture(scope="module")
def trained(mnist):
    """The CNN after a hundred steps, in eval mode."""
    torch.manual_seed(0)
    model = MODELS.get("cnn")()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(100):
        images, labels = (
            part[step * 64 :][:64] for part in (mnist["train"].images, mnist["train"].labels)
        )
        loss = torch.nn.functional.cross_entropy(model(to_input(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def calibration(mnist):
    return list(to_input(mnist["train"].images[:512]).split(128))


@pytest.fixture(scope="module")
def examples(mnist):
    return to_input(mnist["validation"].images[:256]), mnist["validation"].labels[:256]


def rules(model, calibration, examples, input_scale=PIXEL_SCALE, **settings):
    diagnosis = diagnose(
        model,
        calibration,
        *examples,
        input_scale=input_scale,
        config=QuantizationConfig(**settings),
    )
    return {finding.rule: finding for finding in diagnosis.findings}


def test_a_sound_model_has_no_finding(trained, calibration, examples):
    before = copy.deepcopy(trained.state_dict())
    assert rules(trained, calibration, examples) == {}
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items()), (
        "the model is not changed"
    )


def test_finds_a_channel_scaled_100_times(trained, calibration, examples):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.conv2.weight[5] *= 100
    found = rules(model, calibration, examples)
    assert "conv2" in found["channel spread"].where and found["channel spread"].where.startswith(
        "activation"
    )
    per_tensor = diagnose(
        model,
        calibration,
        *examples,
        input_scale=PIXEL_SCALE,
        config=QuantizationConfig(per_channel=False),
    )
    spread = [finding for finding in per_tensor.findings if finding.where == "weight of conv2"]
    assert spread and "per channel" in spread[0].advice


def test_finds_an_outlier_in_the_calibration(trained, calibration, examples):
    spoiled = [*calibration[:-1], torch.cat([calibration[-1], 60 * calibration[-1][:1]])]
    assert "activation outlier in calibration" in rules(
        trained, spoiled, examples, input_scale=None
    )


def test_finds_a_calibration_set_of_one_class(trained, mnist, examples):
    ones = to_input(mnist["train"].images[mnist["train"].labels == 1][:256])
    found = rules(trained, [ones[:128], ones[128:]], examples)
    assert "calibration too narrow" in found and "classes" in found["calibration too narrow"].advice


def test_finds_a_batch_norm_that_is_not_folded(calibration, examples):
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.BatchNorm2d(4),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 24 * 24, 10))
    model(calibration[0])
    assert rules(model.eval(), calibration, examples)["batch norm not folded"].where == "2"


@pytest.mark.parametrize("factor", [255.0, 1 / 255], ids=["raw pixels", "scaled twice"])
def test_finds_a_wrong_input_normalisation(trained, calibration, examples, factor):
    images, labels = examples
    assert "input normalisation" in rules(trained, calibration, (images * factor, labels))


def test_names_weights_and_the_layer_that_make_the_noise(trained, calibration, examples):
    found = rules(trained, calibration, examples, weight_bits=2, per_channel=False)
    assert "weights dominate" in found and "activations dominate" not in found
    diagnosis = diagnose(
        trained,
        calibration,
        *examples,
        input_scale=PIXEL_SCALE,
        config=QuantizationConfig(weight_bits=2),
    )
    trials = diagnosis.trials
    assert (
        trials["everything"].sqnr
        < trials["weights only"].sqnr + 1
        < trials["activations only"].sqnr
    )
    assert trials["nothing"].accuracy == diagnosis.float_accuracy and trials["nothing"].sqnr > 100
    for layer in diagnosis.layers:
        assert trials[f"only {layer}"].sqnr > trials["everything"].sqnr


def test_names_the_layers_that_can_saturate(trained, calibration, examples):
    free = diagnose(
        trained,
        calibration,
        *examples,
        input_scale=PIXEL_SCALE,
        config=QuantizationConfig(exact=False),
    )
    assert set(free.unsafe_layers) == set(free.layers) == {"conv1", "conv2", "fc"}
    assert "saturation" in {finding.rule for finding in free.findings}


@pytest.mark.parametrize("name", ["cnn", "resnet8", "depthwise"])
def test_everything_rounded_has_the_bits_of_the_int8_kernels(name, calibration, examples):
    torch.manual_seed(0)
    model, config = MODELS.get(name)(), QuantizationConfig(weight_bits=5)
    model(calibration[0])
    prepared = prepare(model.eval(), config, (calibration[0],), input_scale=PIXEL_SCALE)
    calibrate(prepared, calibration)
    simulation = Simulation(prepared)
    simulated = simulation.run([(examples[0],)], simulation.layers, simulation.quantizers)
    integers = torch.round(examples[0] / PIXEL_SCALE)
    assert torch.equal(simulated, simulation.quantized.int8()(integers))


def test_leave_in_float_is_left_out(trained, calibration, examples):
    found = diagnose(
        trained, calibration, *examples, input_scale=PIXEL_SCALE, leave_in_float=["fc"]
    )
    assert found.layers == ("conv1", "conv2") and "weight of fc" not in str(found)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_predicted_sqnr_is_the_formula_and_holds_for_uniform_values(bits):
    random = torch.Generator().manual_seed(0)
    signal, steps = torch.rand(2, 50_000, generator=random) * 2 - 1, 2**bits
    step = 2 / (steps - 1)
    rounded = torch.round((signal + 1) / step) * step - 1
    found = site("x", "activation", signal, rounded, (torch.tensor(-1.0), torch.tensor(1.0)), steps)
    x, q = signal.numpy().astype(float), rounded.numpy().astype(float)
    assert found.sqnr == pytest.approx(10 * np.log10((x**2).sum() / ((x - q) ** 2).sum()))
    assert found.predicted == pytest.approx(
        6.02 * bits + 4.77 - 20 * np.log10(1 / np.sqrt((x**2).mean())), abs=0.02
    )
    assert found.sqnr == pytest.approx(found.predicted, abs=0.7)  # 2^b - 1 steps, not 2^b
    assert found.kurtosis == pytest.approx(1.8, abs=0.02), "of the uniform distribution"
    assert (
        found.peak == pytest.approx(np.sqrt(3), rel=0.01)
        and found.clipped == 0
        and found.unused < 0.001
    )


def test_sqnr_of_equal_and_of_empty_signals():
    assert sqnr(torch.ones(3), torch.ones(3)) == math.inf
    assert sqnr(torch.zeros(3), torch.ones(3)) == -math.inf
    assert predicted_sqnr(256, 1) == pytest.approx(6.02 * 8 + 4.77, abs=0.01)


def test_a_run_is_diagnosed_and_a_qat_run_refused(records, workspace, location):
    found = diagnose_run(workspace.folder / records["no_norm"].config.run_id, location, images=64)
    assert json.loads(found.to_json())["trials"]["nothing"]["accuracy"] == found.float_accuracy
    with pytest.raises(InputError, match="qat trains with its quantizers"):
        diagnose_run(workspace.folder / records["qat"].config.run_id, location)
    with pytest.raises(InputError, match="expected the folder of one run"):
        diagnose_run(workspace.folder, location)


def test_labels_must_be_one_per_example(trained, calibration, examples):
    with pytest.raises(InputError, match=r"labels of shape \(3,\): expected \(256,\)"):
        diagnose(trained, calibration, examples[0], examples[1][:3])
