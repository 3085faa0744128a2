"""What a strategy may decide, and a training loop of somebody else's: the same bits as ours."""

import copy

import numpy as np
import pytest
import torch
from conftest import SmallMNIST
from torch import nn

import qstrategies as qs
from qstrategies.errors import SelfCheckError
from qstrategies.pixels import PIXEL_SCALE, to_input
from qstrategies.quantization.activation_quantizers import ActivationQuantizer
from qstrategies.quantization.quantizers import WeightQuantizer
from qstrategies.quantization.scales import fake_quantize
from qstrategies.strategies.base import Course, ParameterGroup, Step
from qstrategies.training.loop import train

QAT = Course(parent="no_norm", schedule="tuning", fake_quantized=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    net(images(64))
    return net


def images(count=32, seed=0):
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


class HalfStep(WeightQuantizer):
    """Clips what lies beyond half of the range; the step is learned."""

    def __init__(self, site, like):
        super().__init__(like.bits, per_channel=like.per_channel, exact=like.exact, unit=like.unit)
        largest = site.weight.detach().abs().flatten(1).amax(1)
        self.learned = nn.Parameter(largest / self.quant_max / 2)

    def step(self, rows):
        return self.learned.abs()


class Learned(qs.Strategy):
    summary = "steps of half the range, learned"
    course = QAT
    observer = "moving_average"

    def weight_quantizer(self, site, default):
        return HalfStep(site, default)

    def parameter_groups(self, model, rate):
        steps = [each for name, each in model.named_parameters() if name.endswith("learned")]
        return [ParameterGroup(steps, {"lr": rate / 100})]


def foreign_loop(trainee, steps=4, start=0, rate=0.05):
    optimizer = torch.optim.SGD(trainee.parameter_groups(rate))
    for number in range(start, start + steps):
        trainee.model.train()
        outputs = trainee.model(images(seed=number))
        loss = outputs.square().mean() + trainee.penalty(outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainee.after_step()
    return trainee


def close(quantized, trained, inputs):
    """The integers are what was trained."""
    assert torch.equal(quantized.int8()(inputs), trained.eval()(inputs).detach())


@pytest.mark.parametrize("bits", [7, 4, 2])
def test_a_learned_step_reaches_the_integers_that_are_exported(net, bits):
    config = qs.QuantizationConfig(weight_bits=bits)
    trainee = foreign_loop(qs.prepare(net, images(), Learned(), config=config))
    quantized = trainee.finish()
    first = quantized.graph.layers[0].rounded_layer
    learned = trainee.model.weight_quantizers["conv"].learned.detach().numpy()
    assert (first.scale >= learned * (1 - 1e-6)).all(), "on the exact grid, from below"
    assert np.abs(first.weight).max() == 2 ** (bits - 1) - 1, "clipped, not stretched"
    close(quantized, trainee.model, images())


def test_learned_steps_get_a_rate_of_their_own_and_move(net):
    trainee = qs.prepare(net, images(), Learned())
    groups = trainee.parameter_groups(0.1)
    assert [group["lr"] for group in groups] == [0.1, 0.001]
    assert sum(len(group["params"]) for group in groups) == len(list(trainee.model.parameters()))
    before = trainee.model.weight_quantizers["conv"].learned.detach().clone()
    foreign_loop(trainee)
    assert not torch.equal(before, trainee.model.weight_quantizers["conv"].learned)


@pytest.mark.parametrize("zero_point", [0, 2])
def test_the_gradient_of_a_learned_scale_is_that_of_lsq(zero_point):
    x = torch.tensor([-9.0, -1.3, -0.5, 0.0, 0.5, 0.74, 1.5, 9.0], requires_grad=True)
    scale = torch.tensor([0.5], requires_grad=True)
    gradient = torch.linspace(-1, 2, len(x))
    fake_quantize(x, scale, zero_point, 0, 7).backward(gradient)
    v, low, high = x.detach().numpy() / 0.5, -zero_point, 7 - zero_point
    inside = (v >= low) & (v <= high)
    of_scale = np.where(inside, np.rint(v) - v, np.clip(v, low, high))
    np.testing.assert_allclose(scale.grad, (gradient.numpy() * of_scale).sum(), rtol=1e-6)
    np.testing.assert_allclose(x.grad, gradient.numpy() * inside)


def test_a_layer_without_a_quantizer_stays_in_float(net):
    class FirstInFloat(qs.Strategy):
        summary = "the first layer in float"

        def weight_quantizer(self, site, default):
            return None if site.name == "conv" else default

    quantized = qs.quantize(net, [images()], images(), strategy=FirstInFloat())
    reasons = {island.name: island.reason for island in quantized.islands}
    assert reasons["conv"] == "the strategy leaves it in float"
    assert [layer.name for layer in quantized.graph.layers] == ["out"]


@pytest.mark.parametrize("strategy", ["qat", "weight_norm"])
def test_modules_are_left_in_float_in_training_too(net, strategy):
    trainee = qs.prepare(net, images(), strategy, leave_in_float=["out"])
    quantized = foreign_loop(trainee, 1).finish([images()])
    assert "out" in {island.name for island in quantized.islands}


def test_quantizers_see_the_weight_that_is_exported(net):
    seen = {}

    class Looking(qs.Strategy):
        summary = "looks"
        course = QAT

        def weight_quantizer(self, site, default):
            seen[site.name] = site.weight
            return default

    qs.prepare(net, images().clamp(0, 1), Looking(), input_scale=PIXEL_SCALE)
    norm = net.norm
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    expected = net.conv.weight * factor.reshape(-1, 1, 1, 1) * PIXEL_SCALE
    torch.testing.assert_close(seen["conv"], expected.detach(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(seen["out"], net.out.weight.detach())


def test_a_rewritten_graph_and_another_range_reach_the_integers(net):
    class Wide(ActivationQuantizer):
        def calculate_qparams(self):
            scale, zero_point = super().calculate_qparams()
            return scale * 2, zero_point

    class Changing(qs.Strategy):
        summary = "moves factors between layers and doubles ranges"

        def rewrite(self, graph):
            with torch.no_grad():
                graph.conv.weight.mul_(4)
                graph.conv.bias.mul_(4)
                graph.out.weight.div_(4)

        def activation_quantizer(self, site, default):
            return Wide(default.observer) if site.kind == "activation" else default

    plain = qs.quantize(net, [images()], images())
    changed = qs.quantize(net, [images()], images(), strategy=Changing())
    first, other = (each.graph.layers[0] for each in (plain, changed))
    assert (other.rounded_layer.scale == 4 * first.rounded_layer.scale).all()
    assert other.output.grid.scale == 8 * first.output.grid.scale
    torch.testing.assert_close(changed.int8()(images()), plain.int8()(images()), atol=0.2, rtol=0)


class Down(qs.Strategy):
    summary = "rounds down, and notes what it was shown"

    def __init__(self):
        super().__init__()
        self.shown = {}

    def round_weights(self, problem):
        x, wanted = next(problem.batches())
        self.shown[problem.name] = (x, wanted, problem.output(problem.weight, x))
        return torch.floor(problem.weight / problem.step).clamp(problem.low, problem.high)


def test_a_strategy_chooses_integers_by_what_the_layer_gives(net):
    down, config = Down(), qs.QuantizationConfig(observer="min_max")  # moves no factors
    batches = [images(), images(seed=1)]
    quantized = qs.quantize(net, batches, images(), strategy=down, config=config)
    for layer in quantized.graph.layers:
        shape = [-1] + [1] * (layer.rounded_layer.weight.ndim - 1)
        real = layer.rounded_layer.weight * layer.rounded_layer.scale.reshape(shape)
        x, wanted, whole = down.shown[layer.name]
        torch.testing.assert_close(whole, wanted, atol=0.1, rtol=0.1)
        assert torch.equal(layer.inputs[0].grid.rounded(x), x), "inputs are rounded"
        assert len(real)
    net.eval()
    conv = torch.nn.functional.conv2d(images(), net.conv.weight)
    torch.testing.assert_close(down.shown["conv"][1], net.norm(conv).detach(), rtol=1e-4, atol=1e-5)
    weight = quantized.graph.layers[0].rounded_layer
    folded = (
        net.conv.weight
        * (net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt())[:, None, None, None]
    )
    steps = folded.detach().numpy() / weight.scale[:, None, None, None]
    np.testing.assert_array_equal(weight.weight, np.floor(steps.astype(np.float32)))


def test_what_trains_with_fake_quantizers_is_refused_after_training(net):
    with pytest.raises(qs.InputError, match="use qs.prepare"):
        qs.quantize(net, [images()], images(), strategy="qat")
    with pytest.raises(qs.InputError, match="unknown strategy 'lsqq'"):
        qs.prepare(net, images(), "lsqq")


def test_a_foreign_loop_gives_the_bits_of_ours(location):
    splits = SmallMNIST(location).splits
    splits = {name: copy.copy(split) for name, split in splits.items()}
    images_, labels = splits["train"].images[:512], splits["train"].labels[:512]
    part = {name: type(split)(name, images_, labels) for name, split in splits.items()}
    example = to_input(images_[:2])
    config = qs.TrainingConfig(
        epochs=1, batch_size=64, optimizer="adam", schedule="constant", learning_rate=1e-3
    )
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = qs.MODELS.get("cnn")()
        trainee = qs.prepare(model, example, "qat_weight_norm", input_scale=PIXEL_SCALE)
        if ours:
            train(trainee, part, config, seed=3)
        else:
            foreign_mnist(trainee, images_, labels, seed=3)
        found.append(trainee.finish().int8()(images_.float()))
    assert torch.equal(*found)


def foreign_mnist(trainee, images_, labels, seed):
    """As a user would write it, with what ours does for speed: channels last and bfloat16."""
    from qstrategies.training.fast_graph import fast_view
    from qstrategies.training.hardware import compute_dtype

    torch.manual_seed(seed)
    trainee.model.to(memory_format=torch.channels_last)
    view, dtype = fast_view(trainee.model), compute_dtype()
    optimizer = torch.optim.Adam(trainee.parameter_groups(1e-3), fused=True)
    trainee.model.train()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for batch in order.split(64):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = view(to_input(images_[batch], dtype))
        loss = nn.functional.cross_entropy(logits.float(), labels[batch])
        optimizer.zero_grad()
        (loss + trainee.penalty(logits)).backward()
        optimizer.step()
        trainee.after_step()
    trainee.fold()


@pytest.mark.parametrize(
    "strategy", ["qat", "weight_norm", Learned()], ids=["qat", "weight_norm", "learned"]
)
def test_training_goes_on_from_a_state_alone(net, strategy):
    whole = foreign_loop(qs.prepare(net, images(), strategy), 4)
    first = foreign_loop(qs.prepare(net, images(), strategy), 2)
    resumed = qs.resume(net, images(), strategy, first.model.state_dict())
    assert resumed.steps == 2
    foreign_loop(resumed, 2, start=2)
    results = [each.finish([images()]).int8()(images()) for each in (whole, resumed)]
    assert torch.equal(*results)


@pytest.mark.parametrize("strategy", ["weight_norm", "weight_norm+qat", "weight_standardization"])
def test_training_goes_on_after_a_model_was_finished(net, strategy):
    trainee = foreign_loop(qs.prepare(net, images(), strategy), 2)
    first = trainee.finish([images()])
    foreign_loop(trainee, 2, start=2)
    whole = foreign_loop(qs.prepare(net, images(), strategy), 4)
    assert torch.equal(
        trainee.finish([images()]).int8()(images()), whole.finish([images()]).int8()(images())
    )
    assert not torch.equal(first.int8()(images()), whole.finish([images()]).int8()(images()))


def test_a_state_of_something_else_is_refused(net):
    state = qs.prepare(net, images(), "qat").model.state_dict()
    with pytest.raises(qs.InputError, match="does not fit"):
        qs.resume(net, images(), "no_norm", state)
    with pytest.raises(qs.InputError, match="expected that of trainee"):
        qs.resume(net, images(), "no_norm", net.state_dict())


def test_evaluation_touches_no_range(net):
    trainee = foreign_loop(qs.prepare(net, images(), "qat"))
    before = copy.deepcopy(trainee.model.state_dict())
    trainee.model.eval()(100 * images())
    after = trainee.model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_hooks_hear_of_the_step_its_inputs_and_its_outputs(net):
    heard = []

    class Hearing(qs.Strategy):
        summary = "listens"

        def loss(self, model, step):
            heard.append(("loss", step.number, step.progress, step.inputs[0], step.outputs))
            return model.out.weight.sum()

        def after_step(self, model, step):
            heard.append(("after", step.number, step.progress))

    trainee = qs.prepare(net, images(), Hearing(), steps=4)
    foreign_loop(trainee, 1)
    kind, number, progress, inputs, outputs = heard[0]
    assert (kind, number, progress) == ("loss", 0, 0.0)
    assert torch.equal(inputs, images()) and outputs.shape == (32, 5)
    assert heard[1] == ("after", 1, 0.25)
    assert Step(3, total=2).progress == 1.0
    assert not trainee.finish([images()]).islands


@pytest.mark.parametrize("strategy", ["kure", "clamp"])
def test_a_hook_of_the_user_on_the_whole_model_is_not_lost_without_a_word(net, strategy):
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))
    trainee = foreign_loop(qs.prepare(net, images(), strategy), 1)
    with pytest.raises(SelfCheckError, match="was not captured.*take them out of forward"):
        trainee.finish([images()])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.b.weight = self.a.weight
        self.norm, self.frozen, self.drop = nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.norm(self.b(x)))
        return self.c(self.drop(self.frozen(self.a(x))))


def test_what_is_one_in_the_model_is_one_in_training_and_what_is_frozen_stays():
    torch.manual_seed(0)
    net = Tied().train()
    net.frozen.eval()
    net.drop.eval()
    rows = torch.randn(64, 8)
    trainee = qs.prepare(net, rows, "qat")
    model = trainee.model.train()
    assert len(list(model.parameters())) == len(list(net.parameters()))
    optimizer = torch.optim.SGD(trainee.parameter_groups(0.01))
    for _ in range(3):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()
    named = dict(model.named_parameters(remove_duplicate=False))
    assert torch.equal(named["a.weight"], named["b.weight"])
    assert not torch.equal(named["a.weight"], net.a.weight)
    means = [each.running_mean for name, each in model.named_children() if name.startswith("norm")]
    assert len(means) == 2 and means[0] is means[1]
    assert torch.equal(model.frozen.running_mean, torch.zeros(8))
    assert not model.frozen.training and not model.drop.training and model.norm.training
    close(trainee.finish(), model, rows)


def test_a_fake_quantized_model_takes_and_gives_what_the_model_does():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)

        def forward(self, x, *, other):
            return {"sum": self.a(x) + self.b(other), "parts": (self.a(x), [self.b(other)])}

    rows = {"other": torch.randn(8, 6), "x": torch.randn(8, 4)}
    trainee = qs.prepare(Named(), rows, "qat")
    trainee.model.train()(**rows)
    found = trainee.model.eval()(other=rows["other"], x=rows["x"])
    assert set(found) == {"sum", "parts"} and isinstance(found["parts"][1], list)
    with pytest.raises(qs.InputError, match="got 1 tensors"):
        trainee.model(rows["x"])
