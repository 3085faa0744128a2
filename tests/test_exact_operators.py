"""The interpreter's operators against PyTorch's and NumPy's float64 arithmetic, over grids of
attributes."""

import itertools

import numpy as np
import pytest
import torch
from onnx import helper
from torch.nn import functional

from qstrategies.errors import InputError
from qstrategies.runtimes.exact import Node, Real
from qstrategies.runtimes.integer_numpy import OPS

RNG = np.random.default_rng(0)


def integers(*shape):
    """Whole numbers of both signs, as floats."""
    return RNG.integers(-99, 100, shape).astype(np.float32)


def run(op, *operands, opset=19, **attributes):
    """The result of ``op`` as float64; an attribute that is None is left out."""
    given = {name: value for name, value in attributes.items() if value is not None}
    names = [f"x{index}" for index in range(len(operands))]
    found = OPS[op](Node(helper.make_node(op, names, ["y"], **given), opset), *operands)
    if isinstance(found, Real):
        return np.ldexp(found.integers / found.divisor, found.exponent)
    return found


def check(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def tensor(array):
    return torch.from_numpy(np.asarray(array, np.float64))


def surrounded(x, pads, value=0.0):
    """``x`` with the pads of ONNX, [top, left, bottom, right], around its last two axes."""
    top, left, bottom, right = pads
    return functional.pad(tensor(x), (left, right, top, bottom), value=value)


PADS = ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 0], [2, 0, 0, 1])
X = integers(2, 4, 7, 6)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3)])
def test_convolutions_of_any_window(kernel):
    grid = itertools.product(PADS, ([1, 1], [2, 1], [3, 2]), ([1, 1], [2, 1]), (1, 2, 4))
    for pads, strides, dilations, group in grid:
        weight, bias = integers(8, 4 // group, *kernel), integers(8)
        expected = functional.conv2d(
            surrounded(X, pads), tensor(weight), tensor(bias), strides, 0, dilations, group
        )
        found = run(
            "Conv", X, weight, bias, pads=pads, strides=strides, dilations=dilations, group=group
        )
        check(found, expected)


def test_a_window_of_a_convolution_may_start_in_the_padding():
    found = run("Conv", integers(1, 3, 6, 6), integers(4, 3, 1, 1), integers(4), pads=[1, 1, 1, 1])
    assert found.shape == (1, 4, 8, 8)


def test_transposed_convolutions_of_any_window():
    grid = itertools.product(
        ((1, 1), (3, 2)), PADS[:3], ([1, 1], [2, 3]), ([1, 1], [2, 1]), (1, 2), (0, 1)
    )
    for kernel, pads, strides, dilations, group, more in grid:
        weight, bias, x = integers(4, 3, *kernel), integers(3 * group), X[:, :, :4, :5]
        whole = functional.conv_transpose2d(
            tensor(x), tensor(weight), None, strides, 0, 0, group, dilations
        )
        wider = functional.pad(whole, (0, more, 0, more))
        top, left, bottom, right = pads
        cut = wider[:, :, top : wider.shape[2] - bottom, left : wider.shape[3] - right]
        if min(cut.shape) < 1:
            continue
        settings = {
            "pads": pads,
            "strides": strides,
            "dilations": dilations,
            "group": group,
            "output_padding": [more] * 2,
        }
        check(
            run("ConvTranspose", x, weight, bias, **settings), cut + tensor(bias).reshape(-1, 1, 1)
        )


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_that_follows_from_the_size(mode):
    for kernel, stride, size in itertools.product((1, 2, 3, 4), (1, 2, 3), (5, 6, 7)):
        x, weight = integers(1, 1, size), integers(1, 1, kernel)
        out = -(-size // stride) if mode != "VALID" else (size - kernel) // stride + 1
        total = max((out - 1) * stride + kernel - size, 0) if mode != "VALID" else 0
        before = total // 2 if mode == "SAME_UPPER" else total - total // 2
        around = functional.pad(tensor(x), (before, total - before))
        check(
            run("Conv", x, weight, auto_pad=mode, strides=[stride]),
            functional.conv1d(around, tensor(weight), None, stride),
        )
        lowest = functional.pad(tensor(x), (before, total - before), value=-np.inf)
        found = run("MaxPool", x, auto_pad=mode, strides=[stride], kernel_shape=[kernel])
        check(found, functional.max_pool1d(lowest, kernel, stride))


def test_transposed_convolutions_to_a_given_size():
    x, weight = integers(1, 2, 4, 3), integers(2, 3, 3, 3)
    whole = functional.conv_transpose2d(tensor(x), tensor(weight), None, 2)  # [9, 7]
    found = run("ConvTranspose", x, weight, strides=[2, 2], auto_pad="SAME_UPPER")
    check(found, whole[:, :, :8, :6])
    check(
        run("ConvTranspose", x, weight, strides=[2, 2], auto_pad="SAME_LOWER"), whole[:, :, 1:, 1:]
    )
    check(
        run("ConvTranspose", x, weight, strides=[2, 2], output_shape=[7, 5]), whole[:, :, 1:8, 1:6]
    )
    with pytest.raises(InputError, match="larger than all that the kernel reaches"):
        run("ConvTranspose", x, weight, strides=[2, 2], output_shape=[12, 5])


def test_pools_with_and_without_ceil_mode():
    for kernel, stride, pad, ceil in itertools.product((2, 3), (1, 2, 3), (0, 1), (False, True)):
        settings = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [pad] * 4,
            "ceil_mode": int(ceil),
        }
        check(
            run("MaxPool", X, **settings),
            functional.max_pool2d(tensor(X), kernel, stride, pad, ceil_mode=ceil),
        )
        for include in (False, True):
            expected = functional.avg_pool2d(tensor(X), kernel, stride, pad, ceil, include)
            check(run("AveragePool", X, **settings, count_include_pad=int(include)), expected)
    expected = functional.max_pool2d(tensor(X), 3, 2, 1, (2, 1), True)
    settings = {
        "kernel_shape": [3, 3],
        "strides": [2, 2],
        "pads": [1] * 4,
        "dilations": [2, 1],
        "ceil_mode": 1,
    }
    check(run("MaxPool", X, **settings), expected)


def test_pools_with_uneven_pads():
    lowest = surrounded(X, [0, 1, 2, 0], -np.inf)
    settings = {"kernel_shape": [3, 2], "pads": [0, 1, 2, 0]}
    check(run("MaxPool", X, **settings), functional.max_pool2d(lowest, (3, 2), 1))
    expected = functional.avg_pool2d(surrounded(X, [0, 1, 2, 0]), (3, 2), 1)
    check(run("AveragePool", X, **settings, count_include_pad=1), expected)
    with pytest.raises(InputError, match="lies in the padding"):
        run("MaxPool", X, kernel_shape=[1, 1], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("keepdims", [0, 1, None])
@pytest.mark.parametrize("axes", [[1], [-1], [2, 3], [0, 2], [], None])
def test_reductions_over_any_axes(axes, keepdims):
    over, keep = tuple(axes) if axes else None, keepdims != 0
    whole = X.astype(np.float64)
    for op, expected in (
        ("ReduceMean", whole.mean),
        ("ReduceMax", whole.max),
        ("ReduceSum", whole.sum),
    ):
        given = [] if axes is None else [np.array(axes, np.int64)]
        check(run(op, X, *given, keepdims=keepdims), expected(axis=over, keepdims=keep))
        check(
            run(op, X, opset=12, axes=axes or None, keepdims=keepdims),
            expected(axis=over, keepdims=keep),
        )
        if axes == []:
            check(run(op, X, *given, keepdims=keepdims, noop_with_empty_axes=1), X)


QUARTERS = X / 4
BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
}


@pytest.mark.parametrize("op", BINARY)
def test_two_operands_that_broadcast(op):
    for shape in ((2, 4, 7, 6), (4, 1, 1), (1, 1, 1, 6), ()):
        other = integers(*shape) / 2
        check(run(op, QUARTERS, other), BINARY[op](QUARTERS.astype(np.float64), other))


def test_one_operand():
    whole = QUARTERS.astype(np.float64)
    for op, expected in (("Neg", -whole), ("Abs", np.abs(whole)), ("Relu", np.maximum(whole, 0))):
        check(run(op, QUARTERS), expected)
    check(
        run("Div", QUARTERS, np.array([-0.5, 4, 1, 2], np.float32).reshape(4, 1, 1)),
        whole / [[[-0.5]], [[4]], [[1]], [[2]]],
    )
    with pytest.raises(InputError, match="no power of two"):
        run("Div", QUARTERS, np.array(3, np.float32))
    check(run("GlobalMaxPool", QUARTERS), whole.max((2, 3), keepdims=True))
    check(run("GlobalAveragePool", QUARTERS), whole.mean((2, 3), keepdims=True))


def test_clip_between_any_bounds():
    whole, bound = QUARTERS.astype(np.float64), np.float32
    for low, high in ((-1.5, 2.25), (0.3, 1e9), (5, -5), (-np.inf, 3), (-np.inf, np.inf)):
        expected = np.minimum(np.maximum(whole, bound(low)), bound(high))
        check(run("Clip", QUARTERS, np.array(low, bound), np.array(high, bound)), expected)
        if np.isfinite([low, high]).all():
            check(run("Clip", QUARTERS, opset=6, min=low, max=high), expected)
    check(run("Clip", QUARTERS), whole)


def test_padding_of_every_mode():
    sides = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)
    pairs = sides.reshape(2, 4).T
    for mode in ("constant", "edge", "reflect", "wrap"):
        check(run("Pad", QUARTERS, sides, mode=mode), np.pad(QUARTERS, pairs, mode=mode))
    value = np.array(0.125, np.float32)
    expected = np.pad(QUARTERS, pairs, constant_values=0.125)
    check(run("Pad", QUARTERS, sides, value), expected)
    check(run("Pad", QUARTERS, opset=10, pads=sides.tolist(), value=0.125), expected)
    check(
        run("Pad", QUARTERS, np.array([1, -2], np.int64), value, np.array([-1])),
        np.pad(QUARTERS, [*[(0, 0)] * 3, (1, 0)], constant_values=0.125)[..., :-2],
    )
    check(
        run("Pad", np.uint8([[1, 2]]), np.array([0, 1, 0, 0], np.int64), np.array(9, np.uint8)),
        [[9, 1, 2]],
    )


def test_what_only_moves_elements_before_and_after_its_attributes_became_inputs():
    axes = np.array([1], np.int64)
    wide = QUARTERS[:, None]
    check(run("Squeeze", wide, axes), QUARTERS)
    check(run("Squeeze", wide, opset=11, axes=[1]), QUARTERS)
    check(run("Unsqueeze", QUARTERS, opset=11, axes=[1]), wide)
    check(run("Tile", QUARTERS, np.array([1, 2, 1, 3], np.int64)), np.tile(QUARTERS, (1, 2, 1, 3)))
    check(
        run("Expand", wide, np.array([3, 1, 1, 1], np.int64)),
        np.broadcast_to(wide, (2, 3, 4, 7, 6)),
    )
    expected = functional.pixel_shuffle(tensor(QUARTERS), 2)
    check(run("DepthToSpace", QUARTERS, blocksize=2, mode="CRD"), expected)


def test_integers_between_quantizers():
    ones, twos = RNG.integers(0, 100, (2, 3), np.uint8), RNG.integers(0, 100, (2, 3), np.uint8)
    for op, expected in (
        ("Max", np.maximum(ones, twos)),
        ("Min", np.minimum(ones, twos)),
        ("Add", ones + twos),
    ):
        found = run(op, ones, twos)
        assert found.dtype == np.uint8
        check(found, expected)
    check(run("Relu", np.int8([[-3, 4]])), [[0, 4]])
    check(run("Concat", ones, twos, axis=1), np.concatenate([ones, twos], 1))
    with pytest.raises(InputError, match="do not fit uint8"):
        run("Add", np.full(3, 200, np.uint8), np.full(3, 100, np.uint8))


def test_linear_layers():
    x, weight, bias = integers(5, 6), integers(6, 4), integers(4)
    expected = x.astype(np.float64) @ weight
    check(run("MatMul", x, weight), expected)
    for left, right in itertools.product((0, 1), (0, 1)):
        operands = x.T if left else x, weight.T if right else weight
        check(run("Gemm", *operands, bias, transA=left, transB=right), expected + bias)
    batch = integers(3, 2, 5, 6)
    stack = integers(2, 6, 4)
    check(run("MatMul", batch, stack), batch.astype(np.float64) @ stack)
