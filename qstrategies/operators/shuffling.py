"""Pixel shuffles and channel shuffles: a reshape, a permutation, and a reshape."""

from __future__ import annotations

from random import Random

from torch import fx, nn
from torch.nn import functional

from qstrategies.operators.base import Call, Shape, recognizes, shape_of
from qstrategies.operators.drawing import Applied, Sizes, draws
from qstrategies.operators.movement import Permute, Reshape


@recognizes(functional.pixel_shuffle)
def _pixel_shuffle(call: Call, input: fx.Node, upscale_factor: int) -> fx.Node | None:
    shape, factor = shape_of(input), upscale_factor
    if len(shape) != 4 or None in shape[1:]:
        return None
    n, c, h, w = shape
    assert c is not None
    split = _reshaped(call, input, (n, c // factor**2, factor, factor, h, w))
    order = (0, 1, 4, 2, 5, 3)
    return call.reshape(_permuted(call, split, order))


@recognizes(functional.pixel_unshuffle)
def _pixel_unshuffle(call: Call, input: fx.Node, downscale_factor: int) -> fx.Node | None:
    shape, factor = shape_of(input), downscale_factor
    if len(shape) != 4 or None in shape[1:]:
        return None
    n, c, h, w = shape
    assert h is not None and w is not None
    split = _reshaped(call, input, (n, c, h // factor, factor, w // factor, factor))
    return call.reshape(_permuted(call, split, (0, 1, 3, 5, 2, 4)))


@recognizes(functional.channel_shuffle)
def _channel_shuffle(call: Call, input: fx.Node, groups: int) -> fx.Node | None:
    n, c, *image = shape_of(input)
    if c is None or None in image:
        return None
    split = _reshaped(call, input, (n, groups, c // groups, *image))
    return call.reshape(_permuted(call, split, (0, 2, 1, *range(3, 3 + len(image)))))


def _reshaped(call: Call, x: fx.Node, shape: Shape) -> fx.Node:
    sizes = tuple(-1 if size is None else size for size in shape)
    return call.emit(Reshape(sizes), x, shape=shape)


def _permuted(call: Call, x: fx.Node, order: tuple[int, ...]) -> fx.Node:
    shape = shape_of(x)
    return call.emit(Permute(order), x, shape=tuple(shape[dim] for dim in order))


@recognizes(nn.PixelShuffle)
def _pixel_shuffle_module(call: Call, module: nn.PixelShuffle, x: fx.Node) -> fx.Node | None:
    return _pixel_shuffle(call, x, module.upscale_factor)


@recognizes(nn.PixelUnshuffle)
def _pixel_unshuffle_module(call: Call, module: nn.PixelUnshuffle, x: fx.Node) -> fx.Node | None:
    return _pixel_unshuffle(call, x, module.downscale_factor)


@recognizes(nn.ChannelShuffle)
def _channel_shuffle_module(call: Call, module: nn.ChannelShuffle, x: fx.Node) -> fx.Node | None:
    return _channel_shuffle(call, x, module.groups)


@draws()
def _draw_shuffle(random: Random, shape: Sizes) -> nn.Module | None:
    if len(shape) != 3:
        return None
    factor = random.choice((1, 2, 2, 3))
    return random.choice(
        (
            nn.ChannelShuffle(factor),
            nn.PixelShuffle(factor),
            nn.PixelUnshuffle(factor),
            Applied(functional.channel_shuffle, factor),
            Applied(functional.pixel_shuffle, factor),
            Applied(functional.pixel_unshuffle, factor),
        )
    )
