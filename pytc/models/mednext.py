"""MedNeXt: a U-Net of large-kernel depthwise convolutions (Roy et al. 2023, arXiv:2303.09975).

Equal to the official network (MIC-DKFZ/MedNeXt, mednextv1) in outputs and in the names, shapes and
order of its parameters, so that official weights fit (weights.py). Two details are easily missed.
The resampling blocks take the expansion ratio of the level they lead to. And `down_0` has no global
response normalisation, whatever `grn` says.

The layers are PyTorch's own. On a CPU, `fast_cpu.py` swaps them for faster ones of equal results.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytc.config import ModelConfig
from pytc.models import CUSTOM_MEDNEXT, register_architecture
from pytc.models.anisotropy import cumulative, plan_levels
from pytc.models.base import ConnectomicsModel, Stride
from pytc.models.layers import ChannelNorm, InstanceNorm

LEVELS = 4
# Expansion ratios and block counts of the published sizes: 4 stages down, bottleneck, 4 stages up.
SIZES = {
    "S": ((2,) * 9, (2,) * 9),
    "B": ((2, 3, 4, 4, 4, 4, 4, 3, 2), (2,) * 9),
    "M": ((2, 3, 4, 4, 4, 4, 4, 3, 2), (3, 4, 4, 4, 4, 4, 4, 4, 3)),
    "L": ((3, 4, 8, 8, 8, 8, 8, 4, 3), (3, 4, 8, 8, 8, 8, 8, 4, 3)),
}
# The authors recompute activations of these sizes (their create_mednext_v1), which otherwise need
# more memory at 128 voxels a side than most GPUs have.
RECOMPUTED = ("M", "L")
CONVOLUTION: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
NORM: dict[str, Callable[[int], nn.Module]] = {"group": InstanceNorm, "layer": ChannelNorm}


@register_architecture("mednext")
def build_mednext(config: ModelConfig) -> ConnectomicsModel:
    """A published size, the same for every voxel size.

    ValueError if a field of mednext_custom is set.
    """
    for name in CUSTOM_MEDNEXT:
        if getattr(config, name) != getattr(ModelConfig, name):
            raise ValueError(
                f"expected {name} unset for mednext, a network of published size (mednext_custom "
                f"has it), got {getattr(config, name)!r}"
            )
    expansion, block_counts = SIZES[config.mednext_size]
    style = config.checkpoint_style
    if style == "auto":
        style = "outside_block" if config.mednext_size in RECOMPUTED else "none"
    return MedNeXt(
        replace(
            config,
            expansion=expansion,
            block_counts=block_counts,
            checkpoint_style=style,
            voxel_size=None,
        )
    )


@register_architecture("mednext_custom")
def build_mednext_custom(config: ModelConfig) -> ConnectomicsModel:
    """A MedNeXt with every choice free.

    Channels, expansion, blocks, kernel, residuals, norm, GRN, 2-D or 3-D, voxel size.
    """
    return MedNeXt(config)


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm, expansion, GELU, compression, and a residual around them.

    (B, inputs, ...) -> (B, outputs, ...), with space kept ("same"), divided ("down") or multiplied
    ("up") by `stride`, which is 1 or 2 along each axis; None for 1. Source: Roy et al. 2023,
    figure 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        kernel: Stride,
        inputs: int,
        outputs: int,
        expansion: int,
        resample: str = "same",
        stride: Stride | None = None,
        grn: bool = False,
    ):
        super().__init__()
        dims = config.spatial_dims
        hidden = expansion * inputs
        convolution = CONVOLUTION[dims]
        spatial = TRANSPOSED[dims] if resample == "up" else convolution
        if stride is None:
            stride = (1,) * dims
        self.conv1 = spatial(
            inputs, inputs, kernel, stride, tuple(size // 2 for size in kernel), groups=inputs
        )
        self.norm = NORM[config.norm](inputs)
        self.conv2 = convolution(inputs, hidden, 1)
        self.conv3 = convolution(hidden, outputs, 1)
        self.grn = grn
        if grn:
            self.grn_beta = nn.Parameter(torch.zeros(1, hidden, *[1] * dims))
            self.grn_gamma = nn.Parameter(torch.zeros(1, hidden, *[1] * dims))
        self.resample = resample
        self.has_residual = config.do_res if resample == "same" else config.do_res_up_down
        if resample != "same" and config.do_res_up_down:
            self.res_conv = spatial(inputs, outputs, 1, stride)
        # Zeros that `forward` appends: before and after each axis, from the last axis on.
        self.padding: list[int] = []
        if resample == "up":
            for step in reversed(stride):
                self.padding += [step - 1, 0]

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)  # (B, inputs, ...), at the new resolution
        h = self.norm(h)
        h = self.conv2(h)  # (B, expansion * inputs, ...)
        h = F.gelu(h)
        if self.grn:
            h = self.response_norm(h)
        h = self.conv3(h)  # (B, outputs, ...)
        if self.has_residual:
            h = h + self.shortcut(x)
        return self.pad(h)

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, or where the block resamples, the input resampled by a convolution."""
        return x if self.resample == "same" else self.res_conv(x)

    def pad(self, h: Tensor) -> Tensor:
        """Where the block doubles the resolution, a first voxel of zeros along each doubled axis.

        A transposed convolution of stride 2 makes 2 n - 1 voxels of n.
        """
        return F.pad(h, self.padding) if self.padding else h

    def response_norm(self, h: Tensor) -> Tensor:
        """Global response normalisation (Woo et al. 2023, arXiv:2301.00808)."""
        energy = torch.linalg.vector_norm(h, dim=tuple(range(2, h.ndim)), keepdim=True)
        response = energy / (energy.mean(dim=1, keepdim=True) + 1e-6)
        return self.grn_gamma * (h * response) + self.grn_beta + h


class MedNeXt(ConnectomicsModel):
    """Five scales, the channels doubled at each; deep supervision predicts at all of them.

    Kernels and strides are `kernel_size` and 2, or 1 along axes of much larger voxels
    (anisotropy.py): in a resampling block as the finer of its two levels asks, whose voxels its
    kernel spans.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig):
        levels = plan_levels(
            (config.voxel_size or (1.0, 1.0, 1.0))[-config.spatial_dims :], LEVELS + 1
        )
        kernels = [level.kernel(config.kernel_size) for level in levels]
        strides = cumulative([level.stride for level in levels[1:]])
        super().__init__(config, strides, strides[-1])
        channels = [config.base_channels * 2**level for level in range(LEVELS + 1)]
        expansion = config.expansion
        if isinstance(expansion, int):
            expansion = (expansion,) * (2 * LEVELS + 1)

        def stage(index: int, level: int) -> nn.Sequential:
            blocks = (
                MedNeXtBlock(
                    config,
                    kernels[level],
                    channels[level],
                    channels[level],
                    expansion[index],
                    grn=config.grn,
                )
                for _ in range(config.block_counts[index])
            )
            return nn.Sequential(*blocks)

        def resample(direction: str, index: int, level: int, grn: bool) -> MedNeXtBlock:
            inputs, outputs = sorted(channels[level : level + 2], reverse=direction == "up")
            return MedNeXtBlock(
                config,
                kernels[level],
                inputs,
                outputs,
                expansion[index],
                direction,
                levels[level + 1].stride,
                grn,
            )

        self.stem = CONVOLUTION[config.spatial_dims](config.in_channels, config.base_channels, 1)
        for level in range(LEVELS):
            self.add_module(f"enc_block_{level}", stage(level, level))
            self.add_module(
                f"down_{level}", resample("down", level + 1, level, config.grn and level > 0)
            )
        self.bottleneck = stage(LEVELS, LEVELS)
        for level in reversed(range(LEVELS)):
            index = 2 * LEVELS - level
            self.add_module(f"up_{level}", resample("up", index, level, config.grn))
            self.add_module(f"dec_block_{level}", stage(index, level))
        for level in range(self.output_scales):
            head = TRANSPOSED[config.spatial_dims](channels[level], config.out_channels, 1)
            self.add_module(f"out_{level}", nn.Sequential(OrderedDict(conv_out=head)))

    def predict(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        # A convolution of so few input channels forgets the layout.
        x = x.contiguous(memory_format=self.memory_format)
        skips = []
        outputs = []
        for level in range(LEVELS):
            x = self.run(f"enc_block_{level}", x)
            skips.append(x)
            x = self.run(f"down_{level}", x)
        x = self.run("bottleneck", x)
        for level in reversed(range(LEVELS)):
            if self.supervised:
                outputs.append(self.run(f"out_{level + 1}", x))
            x = self.run(f"up_{level}", x)
            x = skips.pop() + x
            x = self.run(f"dec_block_{level}", x)
        outputs.append(self.run("out_0", x))
        return outputs[::-1]

    def run(self, name: str, x: Tensor) -> Tensor:
        """The named stage, block by block, each recomputed in the backward pass if configured."""
        stage = self.get_submodule(name)
        blocks = stage if isinstance(stage, nn.Sequential) else [stage]
        recomputes = self.config.checkpoint_style == "outside_block" and torch.is_grad_enabled()
        for block in blocks:
            if recomputes:
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x
