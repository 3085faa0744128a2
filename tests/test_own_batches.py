"""What networks that engineers bring make for as many examples as there are: tokens, positions,
states."""

import pytest
import torch
from everywhere import check, decibels, images, outputs_of_file, refused
from torch import nn

import qstrategies as qs


class ClassToken(nn.Module):
    """A vision transformer's beginning: a token for every example, and positions made in
    forward."""

    def __init__(self):
        super().__init__()
        self.patches, self.token, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        positions = torch.zeros(x.shape[:2]).add(1).cumsum(1)[..., None] / 10
        return self.head(x + positions)


def test_constants_for_every_example_are_repeated_as_often_as_there_are_examples(tmp_path):
    torch.manual_seed(0)
    model = ClassToken().eval()
    quantized = qs.quantize(model, [images()], images())
    exported = qs.export_onnx(quantized, tmp_path / "model.onnx", optimize_for=None)[0]
    for count in (1, 5):
        expected = quantized.reference()(images(count))
        assert decibels(model(images(count)), expected) > 20
        assert torch.equal(outputs_of_file(exported.path, quantized, (images(count),))[0], expected)


class Bias(nn.Module):
    """A constant for every head of every example, as ``rows`` makes it of one."""

    def __init__(self, rows):
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.layer, self.row = rows, nn.Linear(12, 12), torch.randn(1, 12, 12)

    def forward(self, x):
        heads = self.layer(x).view(-1, 12, 12)  # three of every image
        return self.rows(self.row, x, heads) + heads


FOR_HEADS = {
    "expanded": lambda row, x, heads: row.expand(heads.shape[0], -1, -1),
    "repeated": lambda row, x, heads: row.repeat(heads.size(0), 1, 1),
    "repeated for examples": lambda row, x, heads: row.expand(3, -1, -1).repeat(len(x), 1, 1),
    "seen as heads": lambda row, x, heads: row.repeat(len(x), 3, 1).view(-1, 12, 12),
}


@pytest.mark.parametrize("rows", FOR_HEADS.values(), ids=FOR_HEADS)
def test_constants_for_every_head_are_as_many_as_there_are(rows, tmp_path):
    model = Bias(rows).eval()
    module = check(model, tmp_path, islands=None, export=False)[0].module()
    for count in (1, 5):
        assert decibels(model(images(count)), module(images(count))) > 20


def filled(make, fill):
    """A forward that makes a tensor with as many rows as there are examples, and computes with
    it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(12, 4)

        def forward(self, x):
            return fill(make(x), self.layer(x))

    return Net().eval()


MADE = {
    "zeros": lambda x: torch.zeros(x.shape[0], 3, 12, 6),
    "zeros of a tuple": lambda x: torch.zeros((x.size(0), 3, 12, 6)),
    "ones": lambda x: torch.ones(x.size(0), 3, 12, 6, device=x.device),
    "new_zeros": lambda x: x.new_zeros(x.shape[0], 3, 12, 6),
    "new_full": lambda x: x.new_full((x.shape[0], 3, 12, 6), 0.5),
    "zeros_like": lambda x: torch.zeros_like(x[..., :6]),
    "full_like": lambda x: torch.full_like(x[..., :6], 0.5),
}


def assigned(h, y):
    h[..., 0] = 1.5
    h[..., 2:] = y
    return h * 0.5


def added(h, y):
    h = h[..., :4] * 1.0
    other = h
    h += y
    h.mul_(2.0)
    return h + other


FILLED = {
    "beside": lambda h, y: torch.cat([h, y], -1),
    "to add": lambda h, y: h[..., :4] + y,
    "assigned": assigned,
    "added in place": added,
}


@pytest.mark.parametrize("fill", FILLED.values(), ids=FILLED)
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("count", [1, 5])
def test_tensors_made_for_the_batch(make, fill, count):
    net, x = filled(make, fill), images(16)
    quantized = qs.quantize(net, [x], x[:count])
    with torch.no_grad():
        expected = net(x)
    assert decibels(expected, quantized.reference()(x)) > 30


EXPANDED = {
    "expand": lambda x: torch.arange(6.0).expand(x.shape[0], 3, 12, -1),
    "repeat": lambda x: torch.arange(6.0).repeat(x.shape[0], 3, 12, 1),
    "view": lambda x: torch.arange(12.0).repeat(x.shape[0]).view(x.shape[0], 1, -1, 1),
}


@pytest.mark.parametrize("make", EXPANDED.values(), ids=EXPANDED)
def test_constants_expanded_to_the_batch(make):
    net, x = filled(make, FILLED["to add"]), images(16)
    quantized = qs.quantize(net, [x], x)
    with torch.no_grad():
        assert decibels(net(x), quantized.reference()(x)) > 30
    assert "expand" not in vars(torch.Tensor)


def test_a_state_that_begins_with_zeros_is_integers_from_end_to_end(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.state = nn.Linear(12, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 4)
            for row in range(3):
                h = torch.tanh(self.layer(x[:, 0, row]) + self.state(h))
            return h

    check(Recurrent(), tmp_path)


def test_what_was_written_through_another_shape_is_refused():
    def written(h, y):
        h.view(-1)[0] = 1.0
        return h * 2.0 + y[..., :1]

    x = images()
    with pytest.raises(qs.InputError, match="write that out of place"):
        qs.quantize(filled(MADE["zeros"], written), [x], x)


class WithFirstState(nn.Module):
    """A recurrent layer that is given zeros, one for every example in their second dimension."""

    def __init__(self, kind, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.body = kind(12, 6, batch_first=batch_first)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        state = x.new_zeros(1, x.size(0), 6)
        given = (state, state) if isinstance(self.body, nn.LSTM) else state
        found = self.body(x if self.batch_first else x.transpose(0, 1), given)[0]
        return self.last(found[:, -1] if self.batch_first else found[-1])


@pytest.mark.parametrize("body", [nn.LSTM(12, 6), nn.MultiheadAttention(12, 2)])
def test_a_sequence_in_the_dimension_of_the_batch_is_refused(body):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(*[x] * (3 if isinstance(body, nn.MultiheadAttention) else 1))[0]

    x = images(4, (5, 12))
    refused("module 'body' .* set batch_first=True", lambda: qs.quantize(Net(), [x], x))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_first_state_with_the_batch_in_its_second_dimension(kind, batch_first, tmp_path):
    x = images(8, (3, 12))
    quantized, files = check(WithFirstState(kind, batch_first), tmp_path, [x], islands=4)
    found = outputs_of_file(files[0].path, quantized, [x])[0]
    assert decibels(quantized.reference()(x), found) > 60, "float32 rounds islands"
