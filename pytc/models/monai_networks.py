"""Networks of MONAI under our names, imported when one is built: that takes seconds. All but nnunet have one output."""

from __future__ import annotations

from torch import Tensor, nn

from pytc.config import ModelConfig, Triple
from pytc.models.anisotropy import Level, cumulative, plan_patch
from pytc.models.base import ConnectomicsModel
from pytc.models.layers import InstanceNorm
from pytc.models.registry import register_architecture
from pytc.models.unet import level_strides


def with_own_norms(network: nn.Module) -> nn.Module:
    """The same network, its instance norms swapped for ours."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):
                setattr(module, name, InstanceNorm(child.num_features, child.eps, child.affine))
    return network


class MonaiModel(ConnectomicsModel):
    """A network of MONAI, in `network`, whose coarsest level has the given stride; its norms are swapped for ours."""

    def __init__(self, config: ModelConfig, network: nn.Module, coarsest: Triple):
        super().__init__(config, ((1, 1, 1),), coarsest)
        self.network = with_own_norms(network)

    def predict(self, x: Tensor) -> list[Tensor]:
        return [self.network(x)]


def require_image_size(config: ModelConfig) -> None:
    if config.image_size is None:
        raise ValueError(f"expected an image_size for {config.architecture} (train.py takes data.patch_size), got None")


class FixedSizeModel(MonaiModel):
    """A network that takes images of `image_size` only."""

    def nearest_valid_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return self.config.image_size


@register_architecture("monai_basic_unet3d")
def build_basic_unet(config: ModelConfig) -> ConnectomicsModel:
    """Five levels of two convolutions (Falk et al. 2019); ValueError for another number of features, or for strides."""
    from monai.networks.nets import BasicUNet

    if len(config.features) != 5 or config.strides is not None:
        raise ValueError("expected five features and no strides for monai_basic_unet3d, "
                         f"got {config.features} and {config.strides}")
    network = BasicUNet(3, config.in_channels, config.out_channels, features=(*config.features, config.features[0]),
                        dropout=config.dropout)
    return MonaiModel(config, network, (16, 16, 16))


@register_architecture("monai_unet")
def build_unet(config: ModelConfig) -> ConnectomicsModel:
    """A U-Net of residual units (Kerfoot et al. 2018): `features` channels at each level, `strides` between them."""
    from monai.networks.nets import UNet

    strides = level_strides(config)
    network = UNet(3, config.in_channels, config.out_channels, config.features, strides,
                   num_res_units=config.residual_units, dropout=config.dropout)
    return MonaiModel(config, network, cumulative(strides)[-1])


@register_architecture("monai_unetr")
def build_unetr(config: ModelConfig) -> ConnectomicsModel:
    """A vision transformer as encoder (Hatamizadeh et al. 2022, arXiv:2103.10504), built for one image size."""
    from monai.networks.nets import UNETR

    require_image_size(config)
    network = UNETR(config.in_channels, config.out_channels, config.image_size, feature_size=config.feature_size,
                    dropout_rate=config.dropout)
    for block in network.vit.blocks:
        block.norm_cross_attn.requires_grad_(False)  # MONAI makes these norms but never uses them here
    return FixedSizeModel(config, network, (16, 16, 16))


@register_architecture("monai_swin_unetr")
def build_swin_unetr(config: ModelConfig) -> ConnectomicsModel:
    """A Swin transformer as encoder (Hatamizadeh et al. 2022, arXiv:2201.01266)."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(config.in_channels, config.out_channels, feature_size=config.feature_size,
                        drop_rate=config.dropout)
    return MonaiModel(config, network, (32, 32, 32))


@register_architecture("nnunet")
def build_nnunet(config: ModelConfig) -> ConnectomicsModel:
    """The network that nnU-Net plans for `image_size` and `voxel_size`; ValueError for a patch of too few voxels."""
    require_image_size(config)
    levels = plan_patch(config.voxel_size, config.image_size)
    if len(levels) == 1:
        raise ValueError("expected an image_size of at least 8 voxels along two of the axes of the finest voxels for "
                         f"nnunet, got {config.image_size}")
    return NnUNet(config, levels)


class NnUNet(ConnectomicsModel):
    """nnU-Net's network (Isensee et al. 2021, arXiv:1904.08128): two convolutions a level, strided on the way down.

    Made of the blocks of MONAI's DynUNet, to which it is equal for isotropic voxels. MONAI gives a decoder block the
    kernel of the level it rises from, nnU-Net and we that of the level it leads to. Channels are `base_channels`,
    doubled at each level up to ten times as many. Deep supervision predicts at every decoder level.
    """

    supports_deep_supervision = True

    def __init__(self, config: ModelConfig, levels: list[Level]):
        from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock
        from monai.networks.nets import DynUNet

        strides, kernels = [level.stride for level in levels], [level.kernel(3) for level in levels]
        *scales, coarsest = cumulative(strides[1:])
        super().__init__(config, tuple(scales), coarsest)
        features = [config.base_channels * min(2**level, 10) for level in range(len(levels))]
        shared = {
            "norm_name": ("instance", {"affine": True}), "dropout": config.dropout or None,
            "act_name": ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        }  # fmt: skip
        self.encoder = nn.ModuleList(
            UnetBasicBlock(3, inputs, outputs, kernel, stride, **shared)
            for inputs, outputs, kernel, stride in zip([config.in_channels, *features], features, kernels, strides)
        )
        self.decoder = nn.ModuleList(
            UnetUpBlock(3, coarse, fine, kernel, 1, upsample_kernel_size=stride, **shared)
            for fine, coarse, kernel, stride in zip(features, features[1:], kernels, strides[1:])
        )
        self.heads = nn.ModuleList(UnetOutBlock(3, width, config.out_channels)
                                   for width, _ in zip(features, self.output_scales))
        with_own_norms(self.apply(DynUNet.initialize_weights))

    def predict(self, x: Tensor) -> list[Tensor]:
        skips, outputs = [], []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](x, skips.pop())
            if level == 0 or self.supervised:
                outputs.append(self.heads[level](x))
        return outputs[::-1]
