"""Batch normalization that works on the pooled elements only, for a max pool that follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qstrategies.training.input_norm import check_several


class NormAndPool(nn.Module):
    """``pool(norm(x))``; in training, statistics are taken before the pool and normalization is
    done after it.

    With no negative weight, normalization is monotone, so that it commutes with max pooling: the
    same value and gradient up to rounding, with fewer passes over all elements.
    """

    def __init__(self, norm: nn.BatchNorm2d, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.norm, self.pool = norm, pool

    def forward(self, x: Tensor) -> Tensor:
        norm, pool = self.norm, self.pool
        simple = (
            norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
        )
        if not simple or x.device.type != "cpu" or bool((norm.weight < 0).any()):
            return pool(norm(x))
        check_several(x.numel() // x.shape[1])
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        return _NormAndPool.apply(
            x,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            norm.momentum,
            norm.eps,
            window,
        )


class _NormAndPool(torch.autograd.Function):
    """The gradient of batch normalization is that at fixed statistics plus a term for the
    statistics.

    With y = weight * x_hat + bias over n elements per channel, x_hat = (x - mean) / sigma (Ioffe
    and Szegedy, https://arxiv.org/abs/1502.03167, section 3): dx = weight / sigma * (dy - mean(dy)
    - x_hat * mean(dy * x_hat)), and dy is zero where the pool took nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        *rest: Any,
    ) -> Tensor:
        momentum, ctx.eps, ctx.window = rest
        mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        pooled, taken = functional.max_pool2d_with_indices(x, *ctx.window)
        ctx.save_for_backward(x, pooled, taken, weight, mean, var)
        return functional.batch_norm(pooled, mean, var, weight, bias, False, 0.0, ctx.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, pooled, taken, weight, mean, var = ctx.saved_tensors
        aten = torch.ops.aten
        at_fixed, d_weight, d_bias = aten.native_batch_norm_backward(
            gradients[0].contiguous(memory_format=torch.channels_last),
            pooled,
            weight,
            mean,
            var,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        kernel, stride, padding, dilation, ceil_mode = (_pair(setting) for setting in ctx.window)
        dx = aten.max_pool2d_with_indices_backward(
            at_fixed, x, kernel, stride, padding, dilation, ceil_mode[0], taken
        )
        share = -weight * torch.rsqrt(var + ctx.eps) / (x.numel() // x.shape[1])
        dx += functional.batch_norm(
            x, mean, var, share * d_weight, share * d_bias, False, 0.0, ctx.eps
        )
        return dx, d_weight, d_bias, None, None, None, None, None


def _pair(setting: Any) -> list[Any]:
    return list(setting) if isinstance(setting, tuple) else [setting, setting]
