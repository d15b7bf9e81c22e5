"""The residual symmetric U-Net for thick sections (Lee et al. 2017, arXiv:1706.00120).

As theirs: wide in-plane kernels where features enter and leave, a residual module of three convolutions at each level
both ways, max pooling, summed skips; `features` 28 36 48 64 80. Other than theirs: the voxel size decides where kernels
and pooling reach across the sections (anisotropy.py), where they pool in plane alone and have 3x3x3 kernels below
the finest level; norms are of instances, for small batches; features rise as in unet.py, for speed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pytc.config import ModelConfig, Triple
from pytc.models.base import ConnectomicsModel
from pytc.models.layers import InstanceNorm
from pytc.models.registry import register_architecture
from pytc.models.unet import UNet, convolve


@register_architecture("rsunet")
def build_rsunet(config: ModelConfig) -> ConnectomicsModel:
    """`features` channels at each level; kernels and strides from `voxel_size`, or `strides` as given."""
    return RSUNet(config)


class ResidualModule(nn.Module):
    """Three convolutions; what the first makes is added to what the others make of it.

    (B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X)
    """

    def __init__(self, inputs: int, outputs: int, kernel: Triple):
        super().__init__()
        self.first = convolve(inputs, outputs, kernel)
        self.second = convolve(outputs, outputs, kernel)
        padding = tuple(size // 2 for size in kernel)
        self.third = nn.Sequential(nn.Conv3d(outputs, outputs, kernel, padding=padding, bias=False),
                                   InstanceNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return F.relu(x + self.third(self.second(x)), inplace=True)


class RSUNet(UNet):
    """A UNet with stages after Lee et al.; deep supervision predicts at every decoder level."""

    def embed(self, inputs: int, outputs: int) -> nn.Module:
        """A convolution of the finest level; in a plane 5 x 5 voxels are about as many, and as costly, as 3 x 3 x 3."""
        finest = self.levels[0]
        return convolve(inputs, outputs, finest.kernel(3 if all(finest.wide) else 5))

    def make_module(self, level: int, inputs: int, outputs: int) -> nn.Module:
        return ResidualModule(inputs, outputs, self.levels[level].kernel(3))

    def make_stem(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(self.embed(inputs, outputs), self.make_module(0, outputs, outputs))

    def make_down(self, level: int, stride: Triple, fine: int, coarse: int) -> nn.Module:
        return nn.Sequential(nn.MaxPool3d(stride), self.make_module(level, fine, coarse))

    def make_up(self, level: int, features: int) -> nn.Module:
        module = self.make_module(level, features, features)
        return module if level else nn.Sequential(module, self.embed(features, features))
