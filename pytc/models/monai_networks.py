"""Networks of MONAI under our names, imported when one is built: that takes seconds.

They have one output.
"""

import torch
from torch import Tensor, nn

from pytc.config import ModelConfig, Triple
from pytc.models import register_architecture
from pytc.models.anisotropy import cumulative, level_strides
from pytc.models.base import ConnectomicsModel, Stride, require_image_size
from pytc.models.layers import InstanceNorm


class MonaiModel(ConnectomicsModel):
    """A network of MONAI, in `network`, whose coarsest level has the given stride.

    Its norms are swapped for ours. `size`: the only image size that it takes, if so.
    """

    def __init__(
        self, config: ModelConfig, network: nn.Module, coarsest: Stride, size: Triple | None = None
    ):
        super().__init__(config, ((1, 1, 1),), coarsest)
        self.network = network
        self.size = size
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.InstanceNorm3d):
                    setattr(module, name, InstanceNorm(child.num_features, child.eps, child.affine))

    def predict(self, x: Tensor) -> list[Tensor]:
        return [self.network(x)]

    def nearest_valid_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return self.size or super().nearest_valid_size(size)

    def size_rule(self, size: tuple[int, ...]) -> str:
        if self.size is None:
            return super().size_rule(size)
        return "it is built for this size alone, model.image_size"


# MONAI's names for ours; its instance norms learn a scale and a shift here, as its batch norms do.
ACTIVATIONS = {"leaky_relu": ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})}
NORMS: dict[str, str | tuple[str, dict[str, bool]]] = {
    "instance": ("instance", {"affine": True}),
    "batch": "batch",
}


@register_architecture("monai_basic_unet3d")
def build_basic_unet(config: ModelConfig) -> ConnectomicsModel:
    """Five levels of two convolutions (Falk et al. 2019).

    A sixth of `features` is the number of channels of the last stage on the way up, by default
    those of the first level. ValueError for another number of features, or for strides.
    """
    from monai.networks.nets import BasicUNet

    if len(config.features) not in (5, 6) or config.strides is not None:
        raise ValueError(
            "expected five features (or six, the last those of the last stage) and no strides for "
            f"monai_basic_unet3d, got {config.features} and {config.strides}"
        )
    features = config.features
    if len(features) == 5:
        features = (*features, features[0])
    options = config.basic_unet
    network = BasicUNet(
        3,
        config.in_channels,
        config.out_channels,
        features=features,
        act=ACTIVATIONS.get(options.act, options.act),
        norm=NORMS[options.norm],
        dropout=config.dropout,
    )
    return MonaiModel(config, network, (16, 16, 16))


@register_architecture("monai_unet")
def build_unet(config: ModelConfig) -> ConnectomicsModel:
    """A U-Net of residual units (Kerfoot et al. 2018).

    It has `features` channels at each level, and `strides` between them.
    """
    from monai.networks.nets import UNet

    strides = level_strides(config)
    options = config.monai_unet
    network = UNet(
        3,
        config.in_channels,
        config.out_channels,
        config.features,
        strides,  # type: ignore[arg-type]  # MONAI also takes a stride for each axis
        kernel_size=options.kernel_size,
        up_kernel_size=options.kernel_size,
        num_res_units=config.residual_units,
        norm=options.norm,
        dropout=config.dropout,
    )
    return MonaiModel(config, network, cumulative(strides)[-1])


@register_architecture("monai_unetr")
def build_unetr(config: ModelConfig) -> ConnectomicsModel:
    """A vision transformer as encoder (Hatamizadeh et al. 2022, arXiv:2103.10504).

    It is built for one image size, a multiple of 16.
    """
    from monai.networks.nets import UNETR

    image_size = require_image_size(config)
    options = config.unetr
    network = UNETR(
        config.in_channels,
        config.out_channels,
        image_size,
        feature_size=config.feature_size,
        hidden_size=options.hidden_size,
        mlp_dim=options.mlp_dim,
        num_heads=options.num_heads,
        proj_type=options.pos_embed,
        norm_name=options.norm,
        dropout_rate=config.dropout,
    )
    for block in network.vit.blocks:
        # MONAI makes these norms but never uses them here
        block.norm_cross_attn.requires_grad_(False)
    return MonaiModel(config, network, (16, 16, 16), image_size)


@register_architecture("monai_swin_unetr")
def build_swin_unetr(config: ModelConfig) -> ConnectomicsModel:
    """A Swin transformer as encoder (Hatamizadeh et al. 2022, arXiv:2201.01266)."""
    from monai.networks.nets import SwinUNETR

    options = config.swin
    # MONAI reads numbers from tensors here, which have none on the meta device
    with torch.device("cpu"):
        network = SwinUNETR(
            config.in_channels,
            config.out_channels,
            feature_size=config.feature_size,
            drop_rate=config.dropout,
            attn_drop_rate=options.attn_drop_rate,
            dropout_path_rate=options.dropout_path_rate,
            use_checkpoint=options.use_checkpoint,
        )
    return MonaiModel(config, network, (32, 32, 32))
