"""A plain residual U-Net, made to be fast: dense convolutions, and little work at full resolution.

Dense 3x3x3 convolutions of 16 and more channels run near the peak of CPUs and GPUs alike, depthwise ones do not.
Most voxels are at the finest level, so that level has one convolution on the way down and one on the way up; the others
have a residual block each way. Skips are summed: the coarser features are narrowed at their own, cheaper resolution,
repeated, and added.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pytc.config import ModelConfig, Triple
from pytc.models.anisotropy import cumulative, plan_levels
from pytc.models.base import ConnectomicsModel
from pytc.models.layers import InstanceNorm
from pytc.models.registry import register_architecture


@register_architecture("unet")
def build_unet(config: ModelConfig) -> ConnectomicsModel:
    """`features` channels at each level, `strides` between them."""
    return UNet(config)


def level_strides(config: ModelConfig) -> tuple[Triple, ...]:
    """The step from each level to the next along each axis, in voxels of the finer one."""
    _, *coarser = plan_levels(config.voxel_size, len(config.features))
    return config.strides or tuple(level.stride for level in coarser)


def convolve(inputs: int, outputs: int, kernel: Triple = (3, 3, 3)) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=False), InstanceNorm(outputs),
                         nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions, the input added before the last ReLU. (B, C, Z, Y, X) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = convolve(channels, channels)
        self.second = nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1, bias=False), InstanceNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)


class UNet(ConnectomicsModel):
    """Deep supervision predicts at every decoder level: all but the coarsest. A subclass makes its own stages."""

    supports_deep_supervision = True

    def __init__(self, config: ModelConfig):
        strides, features = level_strides(config), config.features
        *scales, coarsest = cumulative(strides)
        super().__init__(config, tuple(scales), coarsest)
        self.strides, self.levels = strides, plan_levels(config.voxel_size, len(features))
        self.stem = self.make_stem(config.in_channels, features[0])
        self.down, self.narrow, self.up, self.heads = (nn.ModuleList() for _ in range(4))
        for level, (stride, fine, coarse) in enumerate(zip(strides, features, features[1:])):
            self.down.append(self.make_down(level + 1, stride, fine, coarse))
            self.narrow.append(nn.Conv3d(coarse, fine, 1))
            self.up.append(self.make_up(level, fine))
        for fine, _ in zip(features, self.output_scales):
            self.heads.append(nn.Conv3d(fine, config.out_channels, 1))

    def make_stem(self, inputs: int, outputs: int) -> nn.Module:
        """From the image to the features of the finest level."""
        return convolve(inputs, outputs)

    def make_down(self, level: int, stride: Triple, fine: int, coarse: int) -> nn.Module:
        """From `fine` features of the level above to the `coarse` ones of this level."""
        return nn.Sequential(nn.Conv3d(fine, coarse, stride, stride, bias=False), InstanceNorm(coarse),
                             nn.ReLU(inplace=True), ResidualBlock(coarse))

    def make_up(self, level: int, features: int) -> nn.Module:
        """From the sum of skip and coarser features to the decoder's features of this level."""
        return ResidualBlock(features) if level else convolve(features, features)

    def predict(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips, outputs = [], []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for level in reversed(range(len(self.down))):
            risen = F.interpolate(self.narrow[level](x), scale_factor=self.strides[level], mode="nearest")
            x = self.up[level](skips.pop() + risen)
            if level == 0 or self.supervised:
                outputs.append(self.heads[level](x))
        return outputs[::-1]
