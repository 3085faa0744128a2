"""Compute a specification and hold it against golden vectors, with nothing but Python and NumPy.

    python check_spec.py SPECIFICATION.json VECTORS.json [FILE.onnx]

Shares no code with what wrote them. Exit code 0 if every tensor of every vector has the hash that
is said, 1 if not (the first that has not is named), 2 for files that are no such thing.
"""

import base64
import hashlib
import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

SPECIFICATION, VECTORS, VERSION = "qstrategies-specification", "qstrategies-golden-vectors", 1


class WrongError(Exception):
    """What does not hold."""


def require(condition, message):
    if not condition:
        raise WrongError(message)


def rounded(total, rounding, axis):
    """``total`` int64, its channels along ``axis``, as the integers of the output, uint8."""
    require(np.abs(total).max(initial=0) <= rounding["bound"], "a total is above its bound")
    multipliers = [Fraction(text) for text in rounding["multipliers"]]
    channels = np.moveaxis(total, axis, 0)
    if len(multipliers) == 1:
        steps = nearest(channels, multipliers[0])
    else:
        pairs = zip(channels, multipliers, strict=True)
        steps = np.stack([nearest(*pair) for pair in pairs])
    steps = np.moveaxis(steps, 0, axis) + rounding["zero_point"]
    return np.clip(steps, rounding["low"], rounding["high"])


def nearest(total, multiplier):
    """``total * multiplier`` to the nearest integer, ties to even."""
    numerator, denominator = multiplier.numerator, multiplier.denominator
    largest = int(np.abs(total).max(initial=0)) * abs(numerator)
    require(largest < 2**62, "numbers of more than 62 bits")
    if 2 * largest < denominator:
        return np.zeros_like(total)
    quotient, rest = np.divmod(total * numerator, denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
    return quotient + up


# --- kinds of nodes: integers of the inputs, int64, to those of the output ---


def weights(node):
    entry = node["weight"]
    require(entry["dtype"] == "int8", "weights of int8")
    data = np.frombuffer(base64.b64decode(entry["base64"]), np.int8)
    return data.astype(np.int64).reshape(entry["shape"])


def extended(x, node, kernel, dilation, fill):
    """``x`` [N, C, ...] with ``fill`` around it, as far as the windows reach."""
    sides = [(0, 0), (0, 0)]
    for dim, k in enumerate(kernel):
        reach = (node["output"]["shape"][2 + dim] - 1) * node["stride"][dim]
        reach += (k - 1) * dilation[dim] + 1
        pad = node["pads"][dim]
        sides.append((pad, max(reach - pad - x.shape[2 + dim], 0)))
    return np.pad(x, sides, constant_values=fill)


def places(node, kernel, dilation):
    """For each place in the kernel: it, and the slice of what all windows have there."""
    for place in itertools.product(*map(range, kernel)):
        taken = [slice(None), slice(None)]
        for dim, k in enumerate(place):
            start, stride = k * dilation[dim], node["stride"][dim]
            span = (node["output"]["shape"][2 + dim] - 1) * stride + 1
            taken.append(slice(start, start + span, stride))
        yield place, tuple(taken)


def convolution(node, x):
    weight, groups = weights(node), node["groups"]
    kernel, dilation = weight.shape[2:], node["dilation"]
    wide = extended(x - node["zero_point"], node, kernel, dilation, 0)
    total = np.zeros(node["output"]["shape"], np.int64)
    per_output, per_input = len(weight) // groups, weight.shape[1]
    for place, taken in places(node, kernel, dilation):
        window, matrix = wide[taken], weight[(slice(None), slice(None), *place)]
        for g in range(groups):
            outputs = slice(g * per_output, (g + 1) * per_output)
            inputs = slice(g * per_input, (g + 1) * per_input)
            total[:, outputs] += channels_times(matrix[outputs], window[:, inputs])
    return rounded(total + along_channels(node["bias"], total.ndim), node["rounding"], 1)


def channels_times(matrix, x):
    """``matrix`` [out, in] times the channels of ``x`` [N, in, ...]."""
    flat = x.reshape(*x.shape[:2], -1)
    return (matrix @ flat).reshape(len(x), len(matrix), *x.shape[2:])


def along_channels(values, rank):
    return np.array(values, np.int64).reshape(-1, *[1] * (rank - 2))


def transposed_convolution(node, x):
    weight, groups = weights(node), node["groups"]
    x = x - node["zero_point"]
    outs = node["output"]["shape"]
    total = np.zeros(outs, np.int64)
    per_input, per_output = len(weight) // groups, weight.shape[1]
    # From each element of the image to where it adds: p = stride i - pads + dilation k.
    for place in itertools.product(*map(range, weight.shape[2:])):
        reads, writes = [], []
        for dim, k in enumerate(place):
            i = np.arange(x.shape[2 + dim])
            p = node["stride"][dim] * i - node["pads"][dim] + node["dilation"][dim] * k
            inside = (p >= 0) & (p < outs[2 + dim])
            reads.append(i[inside])
            writes.append(p[inside])
        for g in range(groups):
            inputs = np.arange(g * per_input, (g + 1) * per_input)
            outputs = np.arange(g * per_output, (g + 1) * per_output)
            matrix = weight[(inputs, slice(None), *place)].T
            part = x[np.ix_(range(len(x)), inputs, *reads)]
            total[np.ix_(range(len(x)), outputs, *writes)] += channels_times(matrix, part)
    return rounded(total + along_channels(node["bias"], total.ndim), node["rounding"], 1)


def linear(node, x):
    total = (x - node["zero_point"]) @ weights(node).T + np.array(node["bias"], np.int64)
    return rounded(total, node["rounding"], total.ndim - 1)


def addition(node, a, b):
    (za, zb), (fa, fb) = node["zero_points"], node["factors"]
    return rounded(fa * (a - za) + fb * (b - zb), node["rounding"], 0)


def product(node, a, b):
    za, zb = node["zero_points"]
    return rounded((a - za) * (b - zb), node["rounding"], 0)


def average_pool(node, x):
    ones = [1] * len(node["kernel"])
    wide = extended(x - node["zero_point"], node, node["kernel"], ones, 0)
    windows = [wide[taken] for _, taken in places(node, node["kernel"], ones)]
    return rounded(sum(windows), node["rounding"], 0)


def mean(node, x):
    total = (x - node["zero_point"]).sum(tuple(node["axes"]))
    return rounded(total.reshape(node["output"]["shape"]), node["rounding"], 0)


def max_pool(node, x):
    wide = extended(x, node, node["kernel"], node["dilation"], -1)
    windows = [wide[taken] for _, taken in places(node, node["kernel"], node["dilation"])]
    most = np.max(windows, 0)
    require(most.min() >= 0, "a window lies outside of the image")
    return most


def clip(node, x):
    return np.clip(x, node["low"], node["high"])


def extremum(node, a, b):
    return (np.maximum if node["largest"] else np.minimum)(a, b)


def concatenation(node, *parts):
    return np.concatenate(parts, node["axis"])


def reshape(node, x):
    return x.reshape(node["output"]["shape"])


def move(node, x):
    shape = node["output"]["shape"]
    index, outside = np.full(shape, node["base"]), np.zeros(shape, bool)
    for dim, offsets in enumerate(node["offsets"]):
        line = (-1, *[1] * (len(shape) - 1 - dim))
        index += np.array([each or 0 for each in offsets]).reshape(line)
        outside |= np.array([each is None for each in offsets]).reshape(line)
    flat = x.reshape(-1)
    require(((index >= 0) & (index < flat.size))[~outside].all(), "an offset leaves the input")
    return np.where(outside, node["fill"], flat[np.where(outside, 0, index)])


def table(node, x):
    require(len(node["values"]) == 256, "a table of 256 values")
    return np.array(node["values"], np.int64)[x]


def stored(node):
    return np.array(node["values"], np.int64).reshape(node["output"]["shape"])


KINDS = {
    function.__name__: function
    for function in (
        convolution, transposed_convolution, linear, addition, product, average_pool, mean,
        max_pool, clip, extremum, concatenation, reshape, move, table, stored,
    )
}  # fmt: skip


def generated(entry, shape):
    """The input of a vector, uint8, whose hash must be the one that is said."""
    x, data = entry["seed"], bytearray()
    for _ in range(int(np.prod(shape))):
        x = (1664525 * x + 1013904223) % 2**32
        data.append(entry["low"] + x // 2**24 * (entry["high"] - entry["low"] + 1) // 256)
    require(digest(data) == entry["sha256"], "the generator gives another input")
    return np.frombuffer(bytes(data), np.uint8).astype(np.int64).reshape(shape)


def digest(data):
    return hashlib.sha256(bytes(data)).hexdigest()


def compute(specification, inputs):
    """Every tensor by name, for the integers of the inputs."""
    ends = specification["inputs"]
    tensors = {end["tensor"]: array for end, array in zip(ends, inputs, strict=True)}
    for node in specification["nodes"]:
        output, kind = node["output"], node["kind"]
        require(kind in KINDS, f"no such kind of node: {kind!r}")
        try:
            array = KINDS[kind](node, *(tensors[name] for name in node["inputs"]))
        except WrongError as error:
            raise WrongError(f"{output['name']!r}: {error}") from None
        require(list(array.shape) == output["shape"], f"{output['name']!r} has another shape")
        within = array.min() >= output["low"] and array.max() <= output["high"]
        require(within, f"{output['name']!r} leaves its range")
        tensors[output["name"]] = array
    return tensors


def check(specification, vectors):
    """Raise ``WrongError`` for the first thing that does not hold."""
    same = specification["file_sha256"] == vectors["file_sha256"]
    require(same, "specification and vectors are of different files")
    require(vectors["vectors"], "there are no vectors")
    said = [end["tensor"] for end in specification["outputs"]]
    require(said == [end["tensor"] for end in vectors["outputs"]], "they have different outputs")
    for number, vector in enumerate(vectors["vectors"], 1):
        ends = zip(vector["inputs"], specification["inputs"], strict=True)
        inputs = [generated(entry, end["shape"]) for entry, end in ends]
        tensors = compute(specification, inputs)
        for entry, expected in zip(vectors["tensors"], vector["tensors"], strict=True):
            name = entry["name"]
            require(name in tensors, f"tensor {name!r} is not specified")
            found = digest(tensors[name].astype(np.uint8).tobytes())
            require(found == expected, f"vector {number}: tensor {name!r} differs")
        for name, expected in zip(said, vector["outputs"], strict=True):
            found = tensors[name].reshape(-1).tolist()
            require(expected is None or found == expected, f"vector {number}: {name!r} differs")


def read(path, schema):
    content = json.loads(Path(path).read_text())
    if (content.get("schema"), content.get("version")) != (schema, VERSION):
        raise ValueError(f"{path} is no {schema} of version {VERSION}")
    return content


def main(arguments):
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    try:
        specification, vectors = read(arguments[0], SPECIFICATION), read(arguments[1], VECTORS)
        if len(arguments) == 3:
            same = digest(Path(arguments[2]).read_bytes()) == specification["file_sha256"]
            require(same, "it is the specification of another file")
        check(specification, vectors)
    except WrongError as error:
        print(f"WRONG: {error}")
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot be checked: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"as specified: {len(vectors['tensors'])} tensors, {len(vectors['vectors'])} vectors")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
