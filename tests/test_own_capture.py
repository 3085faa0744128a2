"""What of a forward that engineers write is captured: decisions, hooks, closures and buffers; and
that what was captured is compared with the model."""

import pytest
import torch
from everywhere import Between, check, decibels, images
from torch import nn
from torch.nn import functional as F

import qstrategies as qs
from qstrategies.errors import SelfCheckError
from qstrategies.strategies import STRATEGIES


class Decides(nn.Module):
    """Control flow by the values of the input, in a part of the model."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Fails(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


def test_what_cannot_be_traced_becomes_an_island_and_what_cannot_be_exported_is_refused_in_one_line():
    quantized = qs.quantize(Between(Decides()).eval(), [images()], images())
    (island,) = quantized.islands
    assert "cannot be traced" in island.reason
    for model, message in (
        (Decides(), "Decides cannot be traced"),
        (Fails(), "'item'.*depends on the values"),
    ):
        with pytest.raises(qs.InputError, match=message) as caught:
            qs.quantize(model.eval(), [images()], images())
        assert "\n" not in str(caught.value)


class ByRows(nn.Module):
    """Goes through its images one by one."""

    def __init__(self):
        super().__init__()
        self.many = nn.Linear(40, 40)

    def forward(self, x):
        return torch.cat([self.many(row) for row in x])


class Detector(nn.Module):
    """As torchvision's; what can be captured of it is smaller than what cannot."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1)
        self.unused = ByRows()

    def forward(self, x):
        rows = [self.head(self.backbone(image[None])).amax((2, 3)) for image in x]
        return torch.cat([row[row > 0] for row in rows])


def test_of_a_whole_that_cannot_be_captured_the_part_that_can_is_named():
    torch.manual_seed(0)
    model, x = Detector().eval(), images()
    message = r"Detector cannot be traced \(.*test_own_capture.py.* quantize model.backbone alone"
    with pytest.raises(qs.InputError, match=message) as caught:
        qs.quantize(model, [x], x)
    assert "\n" not in str(caught.value)
    expected = model(x)
    model.backbone = qs.quantize(model.backbone, [x], x).module()
    assert decibels(expected, model(x)) > 20


def test_a_hook_that_changes_what_a_layer_gives_is_kept(tmp_path):
    torch.manual_seed(0)
    model = Between(nn.Conv2d(8, 8, 1))
    model.function.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    model.function.register_forward_hook(lambda module, inputs, output: output * 3)
    check(model, tmp_path)


def _kept_in(module):
    """A hook that keeps what a layer gives, as it is usually written."""

    def keep(layer, inputs, output):
        module.kept["part"] = output

    return keep


def _times(module):
    """A function that holds the model, and itself."""

    def head(y, times=2):
        return head(y, times - 1) * module.scale if times > 1 else module.second(y)

    return head


class ByClosures(nn.Module):
    """Reads what a hook on a part of it keeps, and calls a function that it was given."""

    def __init__(self, part):
        super().__init__()
        self.first, self.part, self.second = nn.Conv2d(3, 8, 3), part, nn.Conv2d(8, 4, 1)
        self.scale, self.kept = nn.Parameter(torch.tensor(0.5)), {}
        self.part.register_forward_hook(_kept_in(self))
        self.head = _times(self)

    def forward(self, x):
        y = self.part(self.first(x))
        return self.head(self.kept["part"].relu() - 0.5 * y)


HOOKED = (nn.Identity(), nn.Conv2d(8, 8, 1), nn.LayerNorm(10), nn.Softmax(1))


@pytest.mark.parametrize("part", HOOKED, ids=str)
def test_functions_that_hold_the_model_hold_its_copy(part, tmp_path):
    torch.manual_seed(0)
    model = ByClosures(part).eval()
    model(images(1))  # what this leaves behind fits any batch
    check(model, tmp_path, islands=None, export=False)
    assert len(model.kept["part"]) == 16, "the float model's own, as check has called it"
    trainee = qs.prepare(model, images(2), "qat")
    trainee.model(images()).sum().backward()
    assert model.second.weight.grad is None


class SizesDecide(nn.Module):
    """Decisions and loops by the sizes of the input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.shape[2] % 8 != 0:
            x = F.pad(x, (0, 0, 0, 8 - x.shape[2] % 8))
        for _ in range(x.size(1) - 1):
            x = F.relu(x) * 0.9
        return self.conv(x) if x.dim() == 4 else x


def test_decisions_by_sizes_are_taken_as_the_example_takes_them(tmp_path):
    torch.manual_seed(0)
    check(SizesDecide(), tmp_path)


def _if(condition):
    return lambda y: F.relu(y) if condition(y) else y


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


OF_ANY_COUNT = {
    "at least one": lambda y: y.shape[0] > 0 and len(y) != 0 and y.numel() >= 1,
    "of each example": lambda y: y.shape[0] * 8 == y.shape[0] * y.shape[1],
    "elements": lambda y: y.nelement() > 0 and y.shape[1:].numel() == y[0].numel(),
    "a list": lambda y: list(y.shape)[1:] == [8, 12, 12] and round(y.size(2) / 7) == 2,
}


OF_SOME_COUNT = {
    "more than one": lambda y: y.shape[0] > 1,
    "one": lambda y: y.size(0) == 1,
    "a few": lambda y: len(y) < 64,
    "halves": lambda y: y.shape[0] // 2 > 0,
    "half of it": lambda y: len(y) // 2,
    "hundreds": lambda y: y.shape[0] // 100 == 0,
    "the remainder": lambda y: y.shape[0] % 5 == 4,
    "its square": lambda y: y.shape[0] ** 2 == 121,
    "both": lambda y: (y.shape[0] > 1) & (y.shape[1] > 1),
    "a loop": lambda y: list(range(y.shape[0] // 2)),
    "a tensor": lambda y: torch.arange(y.shape[0]).sum() > 0,
    "a part's size": lambda y: y[: (y.shape[0] + 1) // 2].shape[0] % 8 < 8,
}


OF_VALUES = {
    "a sum": lambda y: y.sum() > 0,
    "a named part": lambda y: y.max(1).values.mean() > 0,
    "the data": lambda y: y.data.mean() > 0,
    "another type": lambda y: y.type(torch.float64).mean() > 0,
    "transposed": lambda y: y.mT.mean() > 0,
}


@pytest.mark.parametrize("condition", OF_ANY_COUNT.values(), ids=OF_ANY_COUNT)
def test_decisions_that_hold_for_any_batch_are_taken(condition, tmp_path):
    check(Between(_if(condition)), tmp_path, export=False)


@pytest.mark.parametrize("condition", OF_SOME_COUNT.values(), ids=OF_SOME_COUNT)
def test_decisions_by_the_size_of_the_batch_are_refused(condition):
    message = r"\(.*test_own.*:\d+\), and it depends on how many examples there are"
    with pytest.raises(qs.InputError, match=message):
        qs.quantize(Between(_if(condition)).eval(), [images()], images())


class Keeps(nn.Module):
    """Positions of the last shape, made again where another comes, as detectors do."""

    def __init__(self):
        super().__init__()
        self.shape, self.row = None, None

    def forward(self, x):
        if self.shape != x.shape:
            self.shape, self.row = x.shape, torch.arange(8.0).expand(len(x), -1)
        return x * self.row[:, :, None, None]


@pytest.mark.parametrize("called_with", [None, 1, 2, 3, 7])
def test_what_a_model_keeps_for_a_batch_it_makes_again_for_another(called_with, tmp_path):
    model = Between(Keeps()).eval()
    model.function.shape = None
    if called_with:
        model(images(called_with))
    module = check(model, tmp_path, export=False)[0].module()
    for count in (1, 2, 3, 7):
        assert decibels(model(images(count)), module(images(count))) > 20


def test_decisions_that_change_nothing_for_the_number_that_they_name_are_taken(tmp_path):
    def rows(y):
        return y[0, :, :1, :1].relu()[None] if len(y) == 1 else y[:, :, :1, :1].relu()

    check(Between(rows), tmp_path, export=False)


class BySizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x) if x.shape[-1] > 4 else x


def test_only_what_cannot_be_traced_is_left_for_that(tmp_path):
    quantized, _ = check(
        Between(nn.Sequential(Decides(), BySizes())), tmp_path, islands=1, export=False
    )
    assert quantized.islands[0].name == "function.0"


def test_a_part_in_float_that_decides_by_the_size_of_the_batch_is_not_exported(tmp_path):
    model = Between(nn.Sequential(Applies(_if(lambda y: y.shape[0] < 8))))
    quantized = qs.quantize(model.eval(), [images()], images(), leave_in_float=["function"])
    with pytest.raises(qs.InputError, match="cannot be exported .* for 0 to 7 of them"):
        qs.export_onnx(quantized, tmp_path / "model.onnx")


class Largest(nn.Module):
    """The places of the largest values, of which many are alike."""

    def forward(self, x):
        return x.clamp(0, 1e-3).flatten(1).topk(5).indices


def test_places_of_equal_values_may_be_others_in_the_file_which_a_warning_says(tmp_path):
    quantized = qs.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), Largest()), [images()], images())
    with pytest.warns(UserWarning, match="whole numbers .*cross_check") as caught:
        qs.export_onnx(quantized, tmp_path / "model.onnx")
    assert [each.filename for each in caught if "whole numbers" in str(each.message)] == [__file__]


def test_complex_outputs_are_refused_by_the_export(tmp_path):
    quantized = qs.quantize(
        nn.Sequential(nn.Conv2d(3, 4, 3), Applies(torch.fft.fft)), [images()], images()
    )
    with pytest.raises(qs.InputError, match="complex.*give torch.view_as_real"):
        qs.export_onnx(quantized, tmp_path / "model.onnx")


@pytest.mark.parametrize("condition", OF_VALUES.values(), ids=OF_VALUES)
def test_decisions_by_values_are_refused_whatever_stands_before_them(condition):
    with pytest.raises(qs.InputError, match="depends on the values of the input"):
        qs.quantize(Between(_if(condition)).eval(), [images()], images())


def test_a_rewritten_graph_that_is_another_function_is_refused():
    class Wrong(qs.Strategy):
        summary = "forgets the other half"

        def rewrite(self, graph):
            with torch.no_grad():
                graph.get_submodule("0").weight.mul_(2)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(SelfCheckError, match="exact forms changed it"):
        qs.quantize(net, [images()], images(), strategy=Wrong())


def test_buffers_may_decide_and_take_sizes_of_the_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.register_buffer("on", torch.tensor(True))
            self.register_buffer("count", torch.tensor(3))
            self.register_buffer("row", torch.rand(1, 8, 1))

        def forward(self, x):
            x = self.conv(x).flatten(2)
            for _ in range(int(self.count)):
                x = x.relu() if self.on else x - 1
            row = self.row.expand(x.shape[0], -1, self.count.item())
            return torch.cat([x, row], 2)

    net, x = Net().eval(), torch.rand(4, 3, 6, 6)
    quantized = qs.quantize(net, [x], x)
    assert decibels(net(x).detach(), quantized.int8()(x)) > 30


def cancelling():
    """A norm that takes away all but what float rounding leaves."""
    norm = nn.BatchNorm2d(3, affine=False)
    norm.running_mean.fill_(0.2)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Threshold(1e6, 0.2), norm)
    return net.eval()


def test_float_rounding_where_large_values_cancel_is_no_other_function():
    x = images(4, (3, 5, 5))
    qs.quantize(cancelling(), [x], x)


def test_another_function_is_refused_there_too():
    class Wrong(qs.Strategy):
        summary = "forgets a part of the norm"
        course = STRATEGIES.get("cle").course

        def rewrite(self, graph):
            graph.get_submodule("2_layer").bias.mul_(0.99)

    x = images(4, (3, 5, 5))
    with torch.no_grad(), pytest.raises(SelfCheckError, match="into exact forms changed it"):
        qs.quantize(cancelling(), [x], x, strategy=Wrong())
