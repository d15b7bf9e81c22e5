"""U-Nets of dense convolutions: `unet`, fast, `rsunet`, for thick sections, and nnU-Net's.

Dense 3x3x3 convolutions of 16 and more channels run near the peak of CPUs and GPUs alike, depthwise
ones do not.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytc.checks import require
from pytc.config import ModelConfig, Triple
from pytc.geometry import as_triple
from pytc.models import register_architecture
from pytc.models.anisotropy import cumulative, level_strides, plan_levels
from pytc.models.base import ConnectomicsModel, require_image_size
from pytc.models.layers import InstanceNorm


@register_architecture("unet")
def build_unet(config: ModelConfig) -> ConnectomicsModel:
    """`features` channels at each level, `strides` between them; little work at full resolution.

    Most voxels are at the finest level, so that level has one convolution on the way down and one
    on the way up; the others have a residual block each way.
    """
    features, strides = config.features, level_strides(config)
    stem = convolve(config.in_channels, features[0])
    stages = [
        (
            nn.Sequential(
                nn.Conv3d(fine, coarse, stride, stride, bias=False),
                InstanceNorm(coarse),
                nn.ReLU(inplace=True),
                ResidualBlock(coarse),
            ),
            Rise(coarse, fine, stride),
            ResidualBlock(fine) if level else convolve(fine, fine),
        )
        for level, (stride, fine, coarse) in enumerate(zip(strides, features, features[1:]))
    ]
    return UNet(config, features, strides, stem, stages)


@register_architecture("rsunet")
def build_rsunet(config: ModelConfig) -> ConnectomicsModel:
    """The residual symmetric U-Net for thick sections (Lee et al. 2017, arXiv:1706.00120).

    As theirs: wide in-plane kernels where features enter and leave, a residual module of three
    convolutions at each level both ways, max pooling, summed skips; `features` 28 36 48 64 80.
    Other than theirs: the voxel size decides where kernels and pooling reach across the sections
    (anisotropy.py), where they pool in plane alone and have 3x3x3 kernels below the finest level;
    norms are of instances, for small batches; features rise as in `unet`, for speed.
    """
    features, strides = config.features, level_strides(config)
    levels = plan_levels(config.voxel_size, len(features))
    # 5 x 5 voxels are about as many, and as costly, as 3x3x3
    rim = as_triple(levels[0].kernel(3 if all(levels[0].wide) else 5))

    def module(level: int, inputs: int) -> nn.Sequential:
        kernel = as_triple(levels[level].kernel(3))
        return nn.Sequential(
            convolve(inputs, features[level], kernel), ResidualBlock(features[level], kernel)
        )

    stem = nn.Sequential(convolve(config.in_channels, features[0], rim), module(0, features[0]))
    stages = [
        (
            nn.Sequential(nn.MaxPool3d(stride), module(level + 1, fine)),
            Rise(coarse, fine, stride),
            module(level, fine)
            if level
            else nn.Sequential(module(level, fine), convolve(fine, fine, rim)),
        )
        for level, (stride, fine, coarse) in enumerate(zip(strides, features, features[1:]))
    ]
    return UNet(config, features, strides, stem, stages)


@register_architecture("nnunet")
def build_nnunet(config: ModelConfig) -> ConnectomicsModel:
    """The network that nnU-Net plans for `image_size` and `voxel_size`.

    (Isensee et al. 2021, arXiv:1904.08128.) Two convolutions a level, strided on the way down;
    channels are `base_channels`, doubled at each level up to ten times as many. For isotropic
    voxels it is MONAI's DynUNet. That gives a decoder block the kernel of the level it rises from,
    nnU-Net and we that of the level it leads to. ValueError for a patch of too few voxels.
    """
    image_size = require_image_size(config)
    levels = plan_levels(config.voxel_size, patch_size=image_size)
    require(
        len(levels) > 1,
        "an image_size of at least 8 voxels along two of the axes of the finest voxels for nnunet",
        image_size,
    )
    features = [config.base_channels * min(2**level, 10) for level in range(len(levels))]
    strides = [as_triple(level.stride) for level in levels[1:]]

    def block(level: int, inputs: int, stride: Triple = (1, 1, 1)) -> nn.Sequential:
        kernel = as_triple(levels[level].kernel(3))
        outputs = features[level]
        return nn.Sequential(
            *convolve(inputs, outputs, kernel, stride, 0.01),
            *convolve(outputs, outputs, kernel, slope=0.01),
        )

    stages = [
        (
            block(level + 1, fine, stride),
            nn.ConvTranspose3d(coarse, fine, stride, stride, bias=False),
            block(level, 2 * fine),
        )
        for level, (stride, fine, coarse) in enumerate(zip(strides, features, features[1:]))
    ]
    model = NnUNet(config, features, strides, block(0, config.in_channels), stages)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, a=0.01)
        elif name.startswith("heads"):
            nn.init.zeros_(parameter)
    return model


def convolve(
    inputs: int,
    outputs: int,
    kernel: Triple = (3, 3, 3),
    stride: Triple = (1, 1, 1),
    slope: float = 0.0,
) -> nn.Sequential:
    """Convolution, norm, ReLU, leaky with a slope."""
    padding = as_triple(size // 2 for size in kernel)
    relu = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False), InstanceNorm(outputs), relu
    )


class ResidualBlock(nn.Module):
    """Two convolutions, the input added before the last ReLU. (B, C, Z, Y, X) -> the same."""

    def __init__(self, channels: int, kernel: Triple = (3, 3, 3)):
        super().__init__()
        self.first = convolve(channels, channels, kernel)
        self.second = convolve(channels, channels, kernel)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)


class Rise(nn.Conv3d):
    """Features narrowed at the lower, cheaper resolution, then repeated.

    (B, C, Z, ...) -> (B, D, Z * s, ...)
    """

    def __init__(self, inputs: int, outputs: int, factor: Triple):
        super().__init__(inputs, outputs, 1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), scale_factor=self.factor, mode="nearest")


class UNet(ConnectomicsModel):
    """Levels of any make, their skips summed.

    Deep supervision predicts at every decoder level: all but the coarsest. `stages`: for each level
    but the coarsest, finest first, the module that leads down from it, the one that leads back up
    to it, and the one that its skip and what came up go through together.
    """

    def __init__(
        self,
        config: ModelConfig,
        features: Sequence[int],
        strides: Sequence[Triple],
        stem: nn.Module,
        stages: Sequence[tuple[nn.Module, nn.Module, nn.Module]],
    ):
        *scales, coarsest = cumulative(strides)
        super().__init__(config, tuple(scales), coarsest)
        self.stem = stem
        self.down, self.narrow, self.up = map(nn.ModuleList, zip(*stages))
        widths = features[: self.output_scales]
        self.heads = nn.ModuleList(nn.Conv3d(width, config.out_channels, 1) for width in widths)

    def join(self, skip: Tensor, risen: Tensor) -> Tensor:
        return skip + risen

    def predict(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips: list[Tensor] = []
        outputs: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.join(skips.pop(), self.narrow[level](x)))
            if level == 0 or self.supervised:
                outputs.append(self.heads[level](x))
        return outputs[::-1]


class NnUNet(UNet):
    """A UNet whose skips are appended."""

    def join(self, skip: Tensor, risen: Tensor) -> Tensor:
        return torch.cat((risen, skip), 1)
