"""What engineers write in a forward: each comes out as what they wrote, or is refused in one
line."""

import dataclasses

import numpy as np
import pytest
import torch
from everywhere import check, decibels, images
from torch import nn
from torch.nn import functional as F

import qstrategies as qs
from qstrategies.operators.drawing import Applied


class Written(nn.Module):
    """``function`` of the module itself and of what a convolution gives, before another one."""

    def __init__(self, function, **attributes):
        super().__init__()
        torch.manual_seed(1)
        self.before, self.function = nn.Conv2d(3, 8, 3, padding=1), function
        for name, value in attributes.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.after = nn.LazyConv2d(4, 1)
        self(images(2))

    def forward(self, x):
        return self.after(self.function(self, self.before(x)))


def rotated(_, y):
    """Rotary positions by complex numbers, which ask for pairs that lie side by side."""
    pairs = torch.view_as_complex(y.permute(0, 2, 3, 1).reshape(-1, 12, 12, 4, 2).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(4), torch.arange(4.0)))
    return turned.flatten(3).permute(0, 3, 1, 2)


def test_an_island_finds_its_input_as_the_forward_has_laid_it_in_memory(tmp_path):
    check(Written(rotated), tmp_path, islands=None, export=False)


def changes(change):
    """``change`` works in place on what is read before and after it, under two names."""

    def function(_, y):
        z = y * 1.5
        same, before = z, z - 0.25
        changed = change(z, y)
        return torch.cat([before, changed, same * 0.5], 1)

    return function


CHANGES = {
    "copy_": lambda z, y: z.copy_(y.abs()),
    "masked_fill_": lambda z, y: z.masked_fill_(y > 0.2, 0.1),
    "zero_": lambda z, _: z.zero_(),
    "addcmul_": lambda z, y: z.addcmul_(y, y, value=0.5),
    "cumsum_": lambda z, _: z.cumsum_(1),
    "index_fill_": lambda z, _: z.index_fill_(1, torch.tensor([1, 3]), 0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_island_that_works_in_place_changes_only_what_it_means_to(change, tmp_path):
    check(Written(changes(change)), tmp_path, islands=None, export=False)


def counted_up(y):
    y[:, 0] += 1.0
    y[:, 1, 2:] *= 2.0
    return y


def through_an_item(y):
    item = y[:, 2:4]
    item.clamp_(-0.1, 0.2)
    item[:, 1].mul_(3.0)
    return y.add(1.0)


def through_the_whole(y):
    item = y[:, 2:4].flatten(2)
    y.add_(1.0)
    return item.sum(-1, keepdim=True) + y[:, :1].mean(-1, keepdim=True).flatten(2)


@pytest.mark.parametrize("change", [counted_up, through_an_item, through_the_whole])
def test_a_part_that_is_changed_in_place_changes_the_whole(change, tmp_path):
    net = Written(lambda _, y: change(y).reshape(y.shape[0], 2, 4, -1))
    check(net, tmp_path, islands=None, export=False)


class KeepsFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.features = {}
        self.conv.register_forward_hook(self.keep)
        self.norm.register_forward_hook(self.keep)

    def keep(self, layer, inputs, output):
        self.features[type(layer).__name__] = output

    def forward(self, x):
        y = self.last(self.norm(self.conv(x)).relu())
        return y, self.features["Conv2d"], self.features["BatchNorm2d"]


def test_a_hook_may_keep_what_a_layer_gives(tmp_path):
    check(KeepsFeatures(), tmp_path)


def test_a_distribution_in_forward(tmp_path):
    def mode(_, y):
        return torch.distributions.Normal(y, y.exp()).mean.tanh()

    check(Written(mode), tmp_path, islands=None, export=False)


CASTS = [
    (torch.half, lambda y: y.half()),
    (torch.bfloat16, lambda y: y.to(torch.bfloat16)),
    (torch.half, lambda y: y.to(dtype=torch.half)),
]


@pytest.mark.parametrize(("dtype", "cast"), CASTS)
def test_casts_to_half_precision_in_forward_are_to_float32(dtype, cast, tmp_path):
    inner = nn.Conv2d(8, 8, 1).to(dtype)
    net = Written(lambda self, y: self.inner(cast(y)).relu().float(), inner=inner)
    check(net, tmp_path, export=False)


METHODS = {
    "double": lambda _, y: y.double().float(),
    "half": lambda _, y: y.half().float(),
    "type": lambda _, y: y.type(torch.float64).type_as(y),
    "to": lambda _, y: y.to(torch.float64).to(y),
    "cpu": lambda _, y: y.cpu().softmax(1),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_that_modules_have_too(method, tmp_path):
    check(Written(method), tmp_path, islands=None, export=False)


@dataclasses.dataclass
class Found:
    values: torch.Tensor
    count: int = 1


class GivesOne(nn.Module):
    """Cannot be traced, and gives a dataclass."""

    def forward(self, x):
        return Found(x.relu() if float(x.detach().abs().max()) >= 0 else x)


NAMED = {
    "maximum": lambda _, y: y.max(1, keepdim=True).values,
    "function": lambda _, y: torch.max(y, dim=1, keepdim=True).values * 0.5,
    "median": lambda _, y: y.median(dim=2, keepdim=True)[0],
    "topk": lambda _, y: y.topk(3, 1).values,
    "sort": lambda _, y: torch.sort(y, 1).values,
    "dataclass": lambda self, y: self.part(y).values,
}


@pytest.mark.parametrize("read", NAMED.values(), ids=NAMED)
def test_results_that_are_read_by_name(read, tmp_path):
    check(Written(read, part=GivesOne()), tmp_path, islands=None, export=False)


def _counts(self, y):
    self.calls += 1
    self.last = y.mean((2, 3))
    return y


def _averages(self, y):
    self.average = self.average * 0.9 + y.mean((0, 2, 3)) * 0.1
    return y - self.average[:, None, None]


def _averages_in_place(self, y):
    self.average.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
    return y - self.average[:, None, None]


def _recurs(self, y):
    self.state = 0 if self.state is None else self.state * 0.5 + y.mean()
    return y + self.state


def test_what_a_forward_keeps_and_does_not_read_is_no_matter():
    net, x = Written(_counts, calls=torch.zeros(())).eval(), images()
    with torch.no_grad():
        expected = net(x)
    assert decibels(expected, qs.quantize(net, [x], x).reference()(x)) > 20
    assert net.calls == 2 and isinstance(net.last, torch.Tensor)


def _caches(self, y):
    if "rows" not in self.cache:
        self.cache["rows"] = self.table[:, [2, 0, 1] * 4]
    return y + self.cache["rows"]


def test_a_forward_may_keep_constants_in_a_dict(tmp_path):
    net = Written(_caches, cache={}, table=torch.randn(12, 3))
    net.cache.clear()
    check(net, tmp_path, islands=None, export=False)
    net.cache.clear()
    qs.quantize(net, [images()], images())
    assert not net.cache, "the user's is not touched"


@pytest.mark.parametrize("function", [torch.pow, torch.float_power, torch.remainder])
def test_the_input_and_a_number(function):
    x, net = images(), nn.Sequential(nn.Flatten(), nn.Linear(432, 2))
    model = Applied(lambda x: net(function(x, 3).float())).eval()
    assert decibels(model(x), qs.quantize(model, [x], x).module()(x)) > 20


@torch.fx.wrap
def _rounded_up(sizes):
    sizes[0] += -sizes[0] % 8
    return sizes


def test_a_function_may_change_the_list_that_it_is_given(tmp_path):
    def padded(_, y):
        height, width = _rounded_up([y.shape[2], y.shape[3]])
        return F.pad(y, (0, width - y.shape[3], 0, height - y.shape[2]))

    check(Written(padded), tmp_path, islands=None, export=False)


def _keeps(self, y):
    self.kept = [y, {"mean": y.mean()}]
    return y


@pytest.mark.parametrize("kind", ["weight_norm", "attribute"])
def test_a_model_that_keeps_what_it_computed_in_a_training_step(kind):
    net = Written(_keeps if kind == "attribute" else lambda _, y: y)
    if kind == "weight_norm":
        nn.utils.weight_norm(net.after)
    x = images()
    net(x).sum().backward()
    with torch.no_grad():
        expected = net.eval()(x)
    net.train()(x).sum().backward()
    assert decibels(expected, qs.quantize(net, [x], x).reference()(x)) > 20
    qs.prepare(net, x, "no_norm").model(x).sum().backward()


def _remembers(self, y):
    self.seen.append(y.mean())
    return y + sum(self.seen)


STATES = {
    "list": (_remembers, {"seen": []}),
    "average": (_averages, {"average": torch.zeros(8)}),
    "average in place": (_averages_in_place, {"average": torch.zeros(8)}),
    "attribute": (_recurs, {"state": None}),
    "noise": (lambda _, y: y + torch.randn_like(y), {}),
    "dropout": (lambda _, y: F.dropout(y, 0.5, True), {}),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_outputs_depend_on_is_refused(name):
    function, attributes = STATES[name]
    x = images()
    with pytest.raises(qs.InputError, match="called again|other values in every run|'dropout'"):
        qs.quantize(Written(function, **attributes).eval(), [x], x)


MADE = {
    "type_as": lambda y: torch.arange(12).type_as(y).repeat(y.shape[0], 8, 12, 1),
    "to": lambda y: torch.arange(12).to(y).expand(y.shape[0], 8, 12, -1),
    "expand_as": lambda y: torch.arange(12.0).expand_as(y),
    "reshape_as": lambda y: torch.arange(8.0 * 144).repeat(y.size(0)).reshape_as(y) / 100,
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_constants_with_the_type_or_shape_of_a_tensor(made, tmp_path):
    check(Written(lambda _, y: torch.cat([y, made(y) / 12], 1)), tmp_path, islands=None)


@torch.jit.script
def gated(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * torch.sigmoid(y)


def _on_its_device(_, y):
    with torch.autocast(device_type=y.device.type, enabled=False):
        return y.to(y.dtype) * torch.arange(y.shape[-1], device=y.device, dtype=y.dtype) / 12


SIZES = {
    "np.prod": lambda _, y: y.view(-1, int(np.prod(y.shape[1:]))).view(y.shape),
    "np.prod, as it is": lambda _, y: y.view(y.shape[0], np.prod(y.size()[1:])).view(y.shape),
    "np.sqrt": lambda _, y: y / np.sqrt(y.shape[1]) * np.float32(1.5),
    "of NumPy first": lambda _, y: np.float32(1.5) * y - np.float64(0.25),
    "a tensor of sizes": lambda _, y: y / torch.tensor([y.shape[2], y.size(3)]).float().mean(),
    "as_tensor": lambda _, y: y * torch.as_tensor(y.shape[1] * 0.1),
    "full": lambda _, y: y + torch.full((1, 1, 1, y.size(3)), y.size(1) * 0.1),
    "a device and a type": _on_its_device,
    "a scripted function": lambda _, y: gated(y, y * 2),
    "negative padding": lambda _, y: F.pad(y, (-1, 2, -2, 0)),
    "cropping": lambda _, y: nn.ZeroPad2d((-1, -2, 0, -3))(y),
    "the size of another": lambda self, y: self.up(F.max_pool2d(y, 2), output_size=y.shape[2:]),
}


COUNTED = {
    "a number": lambda y, count: y.softmax(1).clamp(max=count),
    "an index": lambda y, count: y[torch.arange(count), torch.arange(count) % 8][:, None],
    "a part of the batch": lambda y, count: torch.cat([y, y])[count:],
    "a cut": lambda y, count: y.cumsum(1)[:, : 8 * count],
    "no number of the batch after all": lambda y, count: y * (2 * count // count),
}


@pytest.mark.parametrize("use", COUNTED)
def test_the_batch_size_in_what_stays_in_float(use):
    function, x = COUNTED[use], images(16)
    net = Written(lambda _, y: function(y, y.shape[0]))
    quantized = qs.quantize(net, [x], x[:2])
    for count in (1, 7):
        with torch.no_grad():
            assert decibels(net(x[:count]), quantized.reference()(x[:count])) > 25


UNEVEN = {
    "half": lambda y: y[: len(y) // 2],
    "rounded up": lambda y: y * y[: (len(y) + 1) // 2].shape[0],
    "a vector of half": lambda y: y + torch.ones(y.shape[0] // 2).sum(),
    "not for one": lambda y: y * (y.shape[0] > 1),
    "for one number": lambda y: y * (y.shape[0] == 37),
    "pairs": lambda y: y * torch.einsum("bchw,dchw->bd", y, y).numel(),
}


@pytest.mark.parametrize("function", UNEVEN.values(), ids=UNEVEN)
def test_what_does_not_grow_evenly_with_the_batch_is_refused(function):
    net = Written(lambda _, y: function(y))
    message = r"test_own_forwards.py:\d+\) computes with a number that does not grow evenly"
    with pytest.raises(qs.InputError, match=message):
        qs.quantize(net, [images(4)], images(4))


def test_the_number_of_elements_of_a_shape():
    net, x = Written(lambda _, y: y.softmax(1) / y.shape.numel()), images(8)
    quantized = qs.quantize(net, [x], x)
    assert decibels(net(x), quantized.reference()(x)) > 20


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compute", SIZES.values(), ids=SIZES)
def test_sizes_and_numbers_of_other_libraries(compute, tmp_path):
    up = nn.ConvTranspose2d(8, 8, 3, 2, 1)
    check(Written(compute, up=up), tmp_path)
    assert np.prod([2, 3]) == 6 and np.prod.__module__ == "numpy"


def test_a_scripted_module_is_refused_by_name():
    class Scripted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sigmoid(x)

    net = Written(lambda self, y: self.part(y), part=torch.jit.script(Scripted()))
    x = images()
    with pytest.raises(qs.InputError, match="TorchScript in 'part' .* the module that it was made"):
        qs.quantize(net, [x], x)


def test_wrappers_of_several_devices_are_what_they_wrap():
    net, x = Written(lambda _, y: y.relu()).eval(), images()
    ours = qs.quantize(nn.DataParallel(net), [x], x)
    assert torch.equal(ours.reference()(x), qs.quantize(net, [x], x).reference()(x))


class Bags(nn.Module):
    """PyTorch exports it as a loop."""

    def __init__(self):
        super().__init__()
        self.bags, self.last = nn.EmbeddingBag(20, 8), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.last(self.bags(tokens))


def test_an_island_with_a_loop(tmp_path):
    tokens = torch.randint(0, 20, (8, 6))
    quantized, files = check(Bags(), tmp_path, (tokens,), islands=1)
    report = qs.cross_check(files, tokens, ["onnxruntime-all"])
    assert all(each.rows_equal == 1 for each in report.checks), quantized


def test_what_cannot_be_exported_is_refused_by_the_name_of_its_operator(tmp_path):
    x = images()
    quantized = qs.quantize(Written(lambda _, y: y.cumprod(1)).eval(), [x], x)
    with pytest.raises(qs.InputError, match="cumprod"):
        qs.export_onnx(quantized, tmp_path / "model.onnx")


WITHOUT_ROWS = {
    "a mean": lambda y: y.mean(),
    "a mean and a constant": lambda y: y.mean() + torch.tensor(0.3),
    "channels first": lambda y: y.transpose(0, 1) * 2.0,
}


@pytest.mark.parametrize("reduce", WITHOUT_ROWS.values(), ids=WITHOUT_ROWS)
def test_outputs_without_rows_of_examples_are_not_compared(reduce, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, x):
            y = self.layer(x[:, 0])
            return y, reduce(y)

    x = images()
    exported = qs.export_onnx(qs.quantize(Net(), [x], x), tmp_path / "model.onnx")
    with pytest.raises(qs.InputError, match="first dimension"):
        qs.cross_check(exported, x)
