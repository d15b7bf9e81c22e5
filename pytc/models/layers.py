"""Normalisations that keep, and are fast in, channels-last layout.

Parameter names are those of PyTorch's layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceNorm(nn.Module):
    """Normalise each channel of each sample over space, then scale and shift.

    The same as `nn.GroupNorm(channels, channels)`.

    x: (B, C, ...) -> the same. Computed as the batch normalisation of single samples, whose kernels
    know channels-last: there PyTorch's group normalisation is slow in its backward pass, and its
    instance normalisation drops the layout (benchmarks/layout.py).
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        samples = [x] if len(x) == 1 else x.split(1)  # the gradient of a split would be a copy
        samples = [
            F.batch_norm(s, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for s in samples
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """By which `forward` would multiply each channel of each sample, and what it would add.

        Both are (B, C).
        """
        mean, variance = Moments.apply(x)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale


class Moments(torch.autograd.Function):
    """Mean and variance of each channel of each sample, (B, C) each."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        moments = (torch.batch_norm_update_stats(sample, None, None, 0.0) for sample in x.split(1))
        mean, variance = map(torch.stack, zip(*moments))
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, g_mean: Tensor, g_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        slope = 2 * g_variance
        slope, level = (
            t.view(*t.shape, *[1] * (x.ndim - 2)) * (t.numel() / x.numel())
            for t in (slope, g_mean - slope * mean)
        )
        return torch.addcmul(level, x, slope)


class ChannelNorm(nn.LayerNorm):
    """Normalise the channels of each voxel, then scale and shift. x: (B, C, ...) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
