"""Level sets: which integers weights take, that every set stays exact, and who refuses one."""

import itertools

import numpy as np
import pytest
import torch
from test_contract import QUICK

import qstrategies as qs
from qstrategies.errors import InputError
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import LARGEST_PAIR, largest_pair
from qstrategies.records import LEVELS, LevelSet
from qstrategies.strategies import STRATEGIES

WIDTHS = [each for each in itertools.product(LEVELS, (8, 4, 3, 2)) if each != ("no_zero", 8)]


def expected(levels, bits):
    half = 2 ** (bits - 1)
    return {
        "narrow": np.arange(1 - half, half),
        "full": np.arange(-half, half),
        "no_zero": np.arange(1 - 2 * half, 2 * half, 2),
    }[levels]


def nearest(steps, levels, bits):
    """Ties to the even multiple of what levels are apart, as Python and the papers' code round."""
    spacing = 2 if levels == "no_zero" else 1
    offset = spacing - 1
    rounded = np.rint((np.asarray(steps, dtype=float) - offset) / spacing) * spacing + offset
    return np.clip(rounded, *expected(levels, bits)[[0, -1]])


def quantized(model, mnist, strategy="no_norm", **settings):
    batch = to_input(mnist["train"].images[:64])
    config = qs.QuantizationConfig(**settings)
    return qs.quantize(
        model, [batch], batch[:2], config=config, strategy=strategy, input_scale=PIXEL_SCALE
    )


def integers(model):
    return np.concatenate([each.rounded_layer.weight.ravel() for each in model.graph.layers])


@pytest.mark.parametrize(("levels", "bits"), [*WIDTHS, ("full", 7), ("no_zero", 7)])
def test_a_set_is_what_it_says(levels, bits):
    found, wanted = LevelSet.of(levels, bits), expected(levels, bits)
    assert (found.quant_min, found.quant_max, found.count) == (wanted[0], wanted[-1], len(wanted))
    assert str(found).startswith(str(len(wanted)))
    assert found.largest <= 128


@pytest.mark.parametrize(("levels", "bits"), WIDTHS)
def test_every_set_is_exact_and_certified(levels, bits, cnn, mnist, tmp_path):
    images = mnist["test"].images[:16]
    model = quantized(cnn, mnist, weight_bits=bits, levels=levels)
    exported = qs.export_onnx(model, tmp_path / "model.onnx")
    ends = bits in (8, 2)  # between them lie the same integers, by the same kernels
    checked = qs.cross_check(exported, images, runtimes=None if ends else QUICK)
    assert checked.same and not checked.apart, str(checked)
    assert qs.certify(tmp_path / "model.onnx").complete
    used = np.unique(integers(model))
    assert np.isin(used, expected(levels, bits)).all()
    assert bits == 8 or {used[0], used[-1]} == set(expected(levels, bits)[[0, -1]])


@pytest.mark.parametrize("name", ["qat", "lsq", "tqt", "oscillation_freezing", "ewgs"])
@pytest.mark.parametrize("levels", LEVELS)
def test_what_is_trained_is_exported_and_of_the_set(name, levels, cnn, mnist):
    config = qs.QuantizationConfig(weight_bits=2, levels=levels)
    batch = to_input(mnist["train"].images[:32])
    trainee = qs.prepare(cnn, batch[:2], name, config=config, input_scale=PIXEL_SCALE, steps=2)
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.1))
    for _ in range(2):
        outputs = trainee.model.train()(batch)
        (outputs.square().mean() + trainee.penalty(outputs)).backward()
        optimizer.step()
        trainee.after_step()
    result = trainee.finish([batch])
    assert np.isin(integers(result), expected(levels, 2)).all()
    found = result.int8()(mnist["test"].images[:32].float())
    shown = trainee.model.eval()(to_input(mnist["test"].images[:32]))
    torch.testing.assert_close(found, shown, rtol=0, atol=3 * result.output_scale)


@pytest.mark.parametrize("name", ["mse_clip", "octav", "sawb", "gptq", "adaround", "ptq_best"])
@pytest.mark.parametrize("bits", [2, 4])
def test_strategies_after_training_keep_to_levels_without_zero(
    name, bits, cnn, mnist, quick_ptq_best
):
    options = {"rounding_steps": 20} if name == "adaround" else {}
    strategy = STRATEGIES.get(name)(**options)
    model = quantized(cnn, mnist, strategy, weight_bits=bits, levels="no_zero")
    assert np.isin(integers(model), expected("no_zero", bits)).all()


@pytest.mark.parametrize(("levels", "bits"), WIDTHS)
def test_a_quantizer_rounds_as_numpy_does(levels, bits):
    quantizer = WeightQuantizer(bits, per_channel=True, exact=False, levels=levels)
    steps = np.arange(-4 * 2**bits, 4 * 2**bits + 1) / 4
    found = quantizer.nearest(torch.from_numpy(steps))
    np.testing.assert_array_equal(found, nearest(steps, levels, bits))
    weight = torch.from_numpy(steps).float()[None] / 8
    widest = np.abs(steps).max() / 8
    step = widest / ((expected(levels, bits)[-1] - expected(levels, bits)[0]) / 2)
    np.testing.assert_allclose(quantizer.scale(weight), [step], rtol=1e-6)
    off_ties = np.abs(weight[0].numpy() / step % 1 - 0.5) > 1e-3
    off_ties &= np.abs(weight[0].numpy() / step % 1) > 1e-3
    off_ties &= np.abs(weight[0].numpy() / step % 1) < 1 - 1e-3
    wanted = nearest(weight[0].numpy() / step, levels, bits) * step
    np.testing.assert_allclose(quantizer(weight)[0][off_ties], wanted[off_ties], rtol=1e-5)


def test_without_zero_no_weight_is_zero_and_gradients_pass_straight_through():
    quantizer = WeightQuantizer(2, per_channel=True, exact=False, levels="no_zero")
    weight = torch.tensor([[0.0, 0.9, -1.1, 2.1, -3.0]], requires_grad=True)
    rounded = quantizer(weight)
    assert rounded.tolist() == [[1.0, 1.0, -1.0, 3.0, -3.0]]
    rounded.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert weight.grad.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0]]


@pytest.mark.parametrize(("levels", "bits"), [("narrow", 8), ("full", 8), ("no_zero", 7)])
def test_pairs_fit_sixteen_bits_where_levels_could_exceed_them(levels, bits):
    weight = torch.randn(64, 60, generator=torch.Generator().manual_seed(0))
    weight[:, :2] = 3.0
    quantizer = WeightQuantizer(bits, per_channel=True, exact=True, levels=levels)
    rounded = quantizer.integers(weight, quantizer.scale(weight)[:, None])
    assert largest_pair(rounded).max() <= LARGEST_PAIR


def test_what_does_not_fit_int8_and_unknown_names_are_refused():
    with pytest.raises(InputError, match="at most 7 bits"):
        qs.QuantizationConfig(weight_bits=8, levels="no_zero")
    with pytest.raises(InputError, match="unknown level set 'wide'"):
        qs.QuantizationConfig(levels="wide")


@pytest.mark.parametrize(
    ("name", "levels"), [("a2q", "no_zero"), ("sawb", "full"), ("clamp+a2q", "no_zero")]
)
def test_a_strategy_says_why_it_cannot_have_a_set(name, levels):
    config = qs.QuantizationConfig(weight_bits=4, levels=levels)
    with pytest.raises(InputError, match=f"cannot have levels '{levels}': .* Valid: narrow"):
        STRATEGIES.get(name)().resolved(config)


def test_sawb_has_no_coefficients_for_many_levels_without_zero(cnn, mnist):
    with pytest.raises(InputError, match="64 levels without zero"):
        quantized(cnn, mnist, "sawb", weight_bits=6, levels="no_zero")
