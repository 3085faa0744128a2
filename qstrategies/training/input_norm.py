"""Batch normalization of a convolution of the model's input, without a pass over its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.errors import InputError


class InputNorm(nn.Module):
    """``norm(conv(x))``; in training, the batch statistics are those of the input, and
    normalization is in the weights.

    A channel of the output is ``w p + b`` for a patch p of the input, so that its mean over the
    batch is ``w E[p] + b`` and its variance ``w Cov[p] w'``. The output is then normalized (Ioffe
    and Szegedy, https://arxiv.org/abs/1502.03167, section 3) by dividing w; b cancels and gets no
    gradient. The same value and gradient up to rounding, worth it where a patch has fewer numbers
    than the output channels.

    Args:
        conv: a convolution in two dimensions with ``weight``, ``bias`` and ``_conv_forward``.
        geometry: the module with its stride and padding.
    """

    def __init__(self, conv: Any, geometry: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.window = (geometry.kernel_size, geometry.stride, geometry.padding)

    @staticmethod
    def suits(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
        """Whether the statistics of the patches are fewer than those of the outputs, and all is as
        ``forward`` needs it."""
        simple_conv = (
            conv.groups == 1
            and conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
        )
        simple_norm = norm.affine and norm.track_running_stats and norm.momentum is not None
        hooked = (
            conv._forward_hooks
            or conv._forward_pre_hooks
            or norm._forward_hooks
            or norm._forward_pre_hooks
        )
        return (
            simple_conv
            and simple_norm
            and not hooked
            and conv.weight[0].numel() <= conv.out_channels
        )

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        if not norm.training or x.device.type != "cpu":
            return norm(self.conv(x))
        weight, bias = self.conv.weight, self.conv.bias
        with torch.autocast("cpu", enabled=False):
            count, mean_patch, covariance = patch_moments(x.to(weight.dtype), *self.window)
            check_several(count)
            rows = weight.flatten(1)
            mean = rows @ mean_patch
            var = ((rows @ covariance) * rows).sum(1).clamp(min=0)
            factor = norm.weight * torch.rsqrt(var + norm.eps)
            weight, shift = weight * factor.reshape(-1, 1, 1, 1), norm.bias - mean * factor
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean if bias is None else mean + bias, norm.momentum)
            norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)
        return self.conv._conv_forward(x, weight, shift)


def check_several(values: int) -> None:
    """Raise ``InputError`` unless there are several values per channel: one has no variance."""
    if values < 2:
        raise InputError(
            "batch normalization in training got 1 value per channel: expected more than 1, as of "
            "a larger batch or image"
        )


def patch_moments(x: Tensor, kernel: Any, stride: Any, padding: Any) -> tuple[int, Tensor, Tensor]:
    """How many patches a convolution sees in ``x`` [N, C, H, W], their mean [K] and covariance [K,
    K]; K = C * kernel area.

    Each argument but ``x`` is a pair (height, width).
    """
    padded = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    patches = windows.permute(0, 1, 4, 5, 2, 3).reshape(
        len(x), x.shape[1] * kernel[0] * kernel[1], -1
    )
    count = len(x) * patches.shape[2]
    mean = patches.sum(2).sum(0) / count
    return (
        count,
        mean,
        torch.bmm(patches, patches.transpose(1, 2)).sum(0) / count - torch.outer(mean, mean),
    )
