"""Normalisations that keep, and are fast in, channels-last layout.

Parameter names are those of PyTorch's layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.Module):
    """Normalise each channel of each sample over space, then scale and shift.

    The same as `nn.GroupNorm(channels, channels)`.

    x: (B, C, ...) -> the same. Computed as the batch normalisation of single samples, whose kernels
    support channels-last. In that layout PyTorch's group normalisation has a slow backward pass,
    and its instance normalisation drops the layout (benchmarks/layout.py).
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


class ChannelNorm(nn.LayerNorm):
    """Normalise the channels of each voxel, then scale and shift. x: (B, C, ...) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
