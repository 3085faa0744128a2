"""The contract that every registered strategy meets, and the formulas of some."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import OWN_STRATEGIES, small

from qstrategies.errors import InputError
from qstrategies.experiment.comparison import DEFAULT_STRATEGIES
from qstrategies.experiment.runs import run_experiment
from qstrategies.models import MODELS
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.fake_quantized import FakeQuantizedLayer
from qstrategies.quantization.qat import prepare_qat
from qstrategies.records import QuantizationConfig
from qstrategies.records.predictions import Predictions
from qstrategies.strategies import STRATEGIES
from qstrategies.strategies.base import Step, weighted_layers

EXAMPLE = torch.zeros(2, 1, 28, 28)
BEGINS_ELSEWHERE = {"a2q_plus", "weight_standardization", "dorefa"}
"""They project or transform the weights that they are given."""


def weights(model):
    return [layer.weight.detach().clone() for layer in weighted_layers(model)]


def prepared(name):
    """The model that the strategy trains."""
    strategy = STRATEGIES.get(name)()
    torch.manual_seed(1)
    model = MODELS.get("cnn")()
    if strategy.course.fake_quantized:
        config = strategy.resolved(QuantizationConfig())
        model = prepare_qat(model, config, (EXAMPLE,), recipe=strategy, input_scale=PIXEL_SCALE)
    return strategy, model


@pytest.mark.parametrize("name", OWN_STRATEGIES)
class TestContract:
    def test_it_describes_itself_in_one_line(self, name):
        kind = STRATEGIES.get(name)
        assert kind.summary and "\n" not in kind.summary
        assert kind.__doc__ and kind.course.parent in (None, *STRATEGIES.names())

    def test_folding_keeps_the_function_and_folding_twice_changes_nothing(self, name):
        strategy, model = prepared(name)
        strategy.parametrize(model)
        before = model.eval()(EXAMPLE + 0.5)
        strategy.fold(model)
        once = weights(model)
        torch.testing.assert_close(model(EXAMPLE + 0.5), before, rtol=1e-5, atol=1e-5)
        strategy.fold(model)
        assert all(torch.equal(a, b) for a, b in zip(once, weights(model), strict=True))
        assert not any("parametrizations" in key for key in model.state_dict())

    def test_parametrizing_keeps_the_weights(self, name):
        if name in BEGINS_ELSEWHERE:
            pytest.skip("the paper begins at other weights")
        strategy, model = prepared(name)
        before = weights(model)
        strategy.parametrize(model)
        for a, b in zip(before, weights(model), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    def test_an_unknown_option_is_refused(self, name):
        with pytest.raises(InputError, match="unknown option of .* 'treshold'"):
            STRATEGIES.get(name)(treshold=1)


@pytest.mark.parametrize("name", DEFAULT_STRATEGIES)
class TestRuns:
    def test_a_run_is_complete_and_bit_exact(self, name, records):
        record = records[name]
        assert record.status == "done"
        assert set(record.engines) == set(torch.backends.quantized.supported_engines) - {"none"}
        runtimes = {check.runtime for check in record.checks}
        assert {
            "onnxruntime-disabled",
            "onnxruntime-basic",
            "onnxruntime-extended",
            "onnxruntime-all",
            "onnx-reference",
        } <= runtimes
        assert {check.file for check in record.checks} == {
            "int8 module",
            "model.onnx",
            "model.fast.onnx",
        }
        assert {
            (check.runtime, check.file): check.rows_equal
            for check in record.checks
            if check.rows_equal != 1
        } == {}
        assert (
            record.exactness["integer_kernels"]
            and record.exactness["float_executors"]
            and record.exactness["saturation_safe"]
        )
        assert record.int8_accuracy > 0.5, "it learned something"

    def test_what_it_leaves_on_disk_is_what_the_record_says(self, name, records, workspace):
        folder = workspace.folder / records[name].config.run_id
        assert json.loads((folder / "record.json").read_text())["status"] == "done"
        assert set(records[name].files) == {"model.onnx", "model.fast.onnx"}
        kept = Predictions.load(folder)
        for split, figures in (
            ("test", ("int8_accuracy", "float_accuracy")),
            ("validation", ("validation_accuracy",)),
        ):
            for hits, figure in zip(
                (getattr(kept, split).int8_hits, getattr(kept, split).float_hits),
                figures,
                strict=False,
            ):
                assert hits.mean() == pytest.approx(getattr(records[name], figure))
        executors = {
            check.runtime if check.file == "int8 module" else f"{check.runtime}/{check.file}"
            for check in records[name].checks
        }
        assert set(kept.executors) == executors
        for predicted in kept.executors.values():
            assert (predicted == kept.test.int8[: len(predicted)]).all()


@pytest.mark.parametrize("name", [name for name in OWN_STRATEGIES if STRATEGIES.get(name).options])
def test_an_option_out_of_range_is_refused(name):
    for option, limits in STRATEGIES.get(name).options.items():
        with pytest.raises(InputError, match=f"{option} .* is out of range"):
            STRATEGIES.get(name)(**{option: limits.high * 2})


@pytest.mark.parametrize("name", ["clamp", "qat_clamp"])
def test_clamped_weights_stay_within_the_threshold_after_every_step(name):
    strategy, model = prepared(name)
    with torch.no_grad():
        strategy.after_step(model, Step(1))
    assert max(weight.abs().max() for weight in weights(model)) == pytest.approx(0.1)
    plain = [
        module.weight for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert all(torch.all(weight == 1) for weight in plain), "batch norm is left alone"


def test_training_with_clamp_ends_within_the_threshold(records):
    for name in ("clamp", "qat_clamp"):
        trained = [
            histogram for histogram in records[name].histograms if histogram.when == "training"
        ]
        assert trained and all(histogram.max_abs <= 0.1 + 1e-7 for histogram in trained)
    assert records["no_norm"].histograms[0].max_abs > 0.1


def test_weight_norm_is_g_v_over_its_length():
    strategy, model = prepared("weight_norm")
    strategy.parametrize(model)
    for layer in weighted_layers(model):
        g, v = (
            getattr(layer.parametrizations.weight, name).detach().numpy()
            for name in ("original0", "original1")
        )
        g[:] = np.random.default_rng(0).uniform(0.5, 2, g.shape)
        rows = v.reshape(len(v), -1)
        expected = g.reshape(-1, 1) * rows / np.sqrt((rows**2).sum(1, keepdims=True))
        np.testing.assert_allclose(
            layer.weight.detach().numpy().reshape(rows.shape), expected, rtol=1e-5
        )


def test_under_qat_the_fake_quantizer_sees_g_v_over_its_length():
    strategy, model = prepared("qat_weight_norm")
    strategy.parametrize(model)
    seen = {}
    quantized = {
        module.layer: module
        for module in model.view.modules()
        if isinstance(module, FakeQuantizedLayer)
    }
    for layer, module in quantized.items():
        rounded = module.quantizer.rounded

        def spy(weight, scale, layer=layer, rounded=rounded):
            seen[layer] = weight.detach()
            return rounded(weight, scale)

        module.quantizer.rounded = spy
    for layer in weighted_layers(model):
        layer.parametrizations.weight.original0.data.mul_(3.0)
    model.train()(EXAMPLE + 0.5).sum().backward()
    assert set(seen) == {model.conv1, model.conv2, model.fc}
    for layer, norm in ((model.conv1, model.bn1), (model.conv2, model.bn2), (model.fc, None)):
        g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        expected = g * v / v.flatten(1).norm(dim=1).reshape(g.shape)
        factor = 1.0
        if norm is not None:
            factor = (
                norm.weight / torch.sqrt(torch.ones_like(norm.running_var) + norm.eps)
            ).reshape(g.shape)
        torch.testing.assert_close(seen[layer], expected * factor, rtol=1e-5, atol=1e-6)
        assert g.grad.abs().sum() > 0 and v.grad.abs().sum() > 0


def test_finetune_trains_as_long_as_qat(records):
    assert len(records["finetune"].curve) == len(records["qat"].curve)
    assert records["finetune"].float_key != records["no_norm"].float_key
    assert records["qat"].float_key == records["no_norm"].float_key


def test_the_same_hooks_work_in_somebody_elses_loop(mnist):
    strategy = STRATEGIES.get("weight_norm")()
    model = MODELS.get("cnn")()
    strategy.parametrize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in range(3):
        images, labels = (
            mnist["train"].images[batch * 32 :][:32],
            mnist["train"].labels[batch * 32 :][:32],
        )
        loss = torch.nn.functional.cross_entropy(model(to_input(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    strategy.fold(model)
    assert "conv1.weight" in model.state_dict()


def test_a_loss_that_is_not_finite_fails_the_run_and_not_the_comparison(workspace, monkeypatch):
    kind = STRATEGIES.get("no_norm")
    monkeypatch.setattr(kind, "loss", lambda self, model, step: torch.tensor(float("nan")))
    record = run_experiment(small("no_norm", seed=99), workspace)
    assert record.status == "failed" and "training loss is nan" in record.reason
    assert (workspace.folder / record.config.run_id / "record.json").is_file()


@pytest.mark.parametrize("bits", [4, 2])
def test_low_bit_weights_have_no_more_values_than_their_bits_allow(bits, workspace):
    import onnx

    config = small("qat", checks="quick")
    config = dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, weight_bits=bits)
    )
    record = run_experiment(config, workspace)
    assert all(check.rows_equal == 1 for check in record.checks)
    model = onnx.load(str(workspace.folder / config.run_id / "model.onnx"))
    weights = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight")]
    assert len(weights) == 3
    for tensor in weights:
        assert np.abs(onnx.numpy_helper.to_array(tensor)).max() <= 2 ** (bits - 1) - 1
