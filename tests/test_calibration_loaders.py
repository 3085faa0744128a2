"""Calibration takes the loaders that people have, and looks at the same numbers in each of them."""

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import qstrategies as qs

X = torch.randn(256, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
Z = X.flip(0) * 3
Y = torch.arange(256) % 3


class Two(nn.Module):
    """Unlike in its inputs, so that one in the place of the other is noticed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x, z):
        return torch.relu(self.first(x)) - torch.relu(self.second(z))


class Packed(Two):
    """The same, of one dict."""

    def forward(self, pack):
        return super().forward(pack["x"], pack["z"])


def single():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


Pair = namedtuple("Pair", ["x", "label"])


@dataclass
class Sample:
    x: Any
    z: Any


class Rows(TorchDataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], "a name"


class Foreign:
    """An array of another library."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values.numpy()


def cut(*tensors):
    return list(zip(*(tensor.split(64) for tensor in tensors), strict=True))


ONE = {
    "tensors": lambda: X.split(64),
    "a tensor": lambda: X,
    "an array": lambda: X.numpy(),
    "arrays": lambda: [x.numpy() for (x,) in cut(X)],
    "float64": lambda: [x.numpy().astype(np.float64) for (x,) in cut(X)],
    "foreign arrays": lambda: [Foreign(x) for (x,) in cut(X)],
    "pairs": lambda: cut(X, Y),
    "pairs as lists": lambda: [list(pair) for pair in cut(X, Y)],
    "named pairs": lambda: [Pair(*pair) for pair in cut(X, Y)],
    "names of classes": lambda: [(x, ["a"] * 64) for (x,) in cut(X)],
    "numbers of classes": lambda: [(x, y.tolist()) for x, y in cut(X, Y)],
    "no label": lambda: [(x, None) for (x,) in cut(X)],
    "dicts": lambda: [{"label": y, "input": x} for x, y in cut(X, Y)],
    "dicts of other names": lambda: [{"label": y, "pixel_values": x} for x, y in cut(X, Y)],
    "mappings": lambda: [UserDict({"label": y, "input": x}) for x, y in cut(X, Y)],
    "a dict in a pair": lambda: [({"input": x}, y) for x, y in cut(X, Y)],
    "a loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=64),
    "a loader without batches": lambda: DataLoader(TensorDataset(X), batch_size=256),
    "a dataset": lambda: TensorDataset(X, Y),
    "a dataset with names": Rows,
    "a generator": lambda: (pair for pair in cut(X, Y)),
    "with gradients": lambda: [x.clone().requires_grad_() for (x,) in cut(X)],
}
TWO = {
    "tuples": lambda: cut(X, Z),
    "tuples and labels": lambda: cut(X, Z, Y),
    "nested": lambda: [((x, z), y) for x, z, y in cut(X, Z, Y)],
    "dicts": lambda: [{"z": z, "label": y, "x": x} for x, z, y in cut(X, Z, Y)],
    "a dict in a pair": lambda: [({"z": z, "x": x}, y) for x, z, y in cut(X, Z, Y)],
    "a dict in a dict": lambda: [{"in": {"z": z, "x": x}, "label": y} for x, z, y in cut(X, Z, Y)],
    "dataclasses": lambda: [Sample(x, z) for x, z in cut(X, Z)],
    "a dict of all": lambda: {"z": Z, "x": X, "label": Y},
    "a loader": lambda: DataLoader(TensorDataset(X, Z, Y), batch_size=64),
}


def ranges(quantized):
    return [(spec.name, spec.scale, spec.zero_point) for spec in quantized.inputs]


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("strategy", ["no_norm", "bias_correction"])
def test_loaders_of_one_input_show_the_same(kind, strategy):
    model = single().eval()
    expected = qs.quantize(model, [X], X[:2], strategy=strategy)
    found = qs.quantize(model, ONE[kind](), X[:2], strategy=strategy)
    assert ranges(found) == ranges(expected)
    assert torch.equal(found.int8()(X), expected.int8()(X))


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("example", [(X[:2], Z[:2]), {"x": X[:2], "z": Z[:2]}])
def test_loaders_of_two_inputs_do_not_mix_them_up(kind, example):
    model = Two().eval()
    expected = qs.quantize(model, [(X, Z)], (X[:2], Z[:2]))
    found = qs.quantize(model, TWO[kind](), example)
    assert ranges(found) == ranges(expected)


@pytest.mark.parametrize("kind", [kind for kind in TWO if "dict" in kind])
def test_one_dict_is_taken_by_its_keys_in_any_order(kind):
    model = Packed().eval()
    batches = TWO[kind]()
    expected = qs.quantize(Two().eval(), [(X, Z)], (X[:2], Z[:2]))
    found = qs.quantize(model, batches, ({"x": X[:2], "z": Z[:2]},))
    assert [each[1:] for each in ranges(found)] == [each[1:] for each in ranges(expected)]
    one, other = ({"x": X, "z": Z}, {"z": Z, "x": X})
    trained = qs.prepare(model, ({"x": X[:2], "z": Z[:2]},), "qat").model.train()
    trained(one)
    assert torch.equal(trained.eval()(one), trained(other))
    deployed = found.module()
    assert torch.equal(deployed(one), deployed(other))


def test_finish_takes_the_same_loaders():
    for strategy in ("no_norm", "qat"):
        trainee = qs.prepare(single(), X[:2], strategy)
        optimizer = torch.optim.SGD(trainee.parameter_groups(1e-2))
        trainee.model.train()(X).square().mean().backward()
        optimizer.step()
        trainee.after_step()
        expected = trainee.finish([X])
        assert ranges(trainee.finish(TensorDataset(X, Y))) == ranges(expected)
        assert ranges(trainee.finish(X)) == ranges(expected)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (3, "calibration of quantize is 3: expected an iterable or a Dataset"),
        ([], "needs at least one batch"),
        (["a"], "expected a tensor or an array"),
        ([X[0]], r"has shape \(6,\): expected \[batch, 6\]"),
        ([{"u": X, "v": X}], r"keys \['u', 'v'\]: expected 'input'"),
        ([X.to("meta")], "holds no values: it is on the device 'meta'"),
        ([X.int()], "expected real values, or give input_scale"),
        ([X[:0]], "calibration batch 1, input 'input_1' has no examples"),
    ],
)
def test_what_is_no_batch_is_refused(batches, message):
    with pytest.raises(qs.InputError, match=message):
        qs.quantize(single().eval(), batches, X[:2])


@pytest.mark.parametrize("values", [X.abs().mul(100).long(), -X.abs().mul(9).int()])
def test_whole_numbers_beyond_bytes_are_no_pixels(values):
    with pytest.raises(
        qs.InputError, match=r"with input_scale=0.00392157 they must lie in \[0, 1\]"
    ):
        qs.quantize(single().eval(), [values], X[:2].clamp(0, 1), input_scale=1 / 255)


def test_a_unit_in_which_rounding_loses_the_pixels_is_refused():
    pixels = X.abs().clamp(0, 1)
    with pytest.raises(qs.InputError, match="input_scale=1 loses a tenth .* 1 / 255 for pixels"):
        qs.quantize(single().eval(), [pixels], pixels[:2], input_scale=1.0)
    few = torch.round(pixels * 3)  # of two bits, in their own unit
    assert qs.quantize(single().eval(), [few], few[:2], input_scale=1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_batches_on_a_gpu_are_taken():
    expected = qs.quantize(single().eval(), [X], X[:2])
    found = qs.quantize(single().cuda().eval(), [X.cuda()], X[:2].cuda())
    assert ranges(found) == ranges(expected)
