"""The network: its architecture, its size, and the weights it starts from."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from pytc.checks import Section, require
from pytc.config.volumes import Lengths, Triple


@dataclass(frozen=True)
class NetworkOptions(Section):
    """Options of one architecture, nested in ModelConfig; refused for any other architecture."""

    architecture: ClassVar[str]
    field: ClassVar[str]  # name in ModelConfig

    @classmethod
    def title(cls, name: str) -> str:
        return f"model.{cls.field}.{name}"

    def require_unchanged(self, architecture: str) -> None:
        """ValueError if an option is set although another architecture is asked for."""
        if architecture == self.architecture:
            return
        for option in fields(self):
            value = getattr(self, option.name)
            require(
                value == option.default,
                f"{self.title(option.name)} with the architecture {self.architecture} alone",
                f"{value!r} for {architecture}",
            )


@dataclass(frozen=True)
class BasicUNetOptions(NetworkOptions):
    """Options of monai_basic_unet3d alone."""

    architecture = "monai_basic_unet3d"
    field = "basic_unet"

    # Activation after each convolution.
    act: Literal["leaky_relu", "relu", "prelu", "elu", "gelu", "swish", "mish"] = "leaky_relu"
    norm: Literal["instance", "batch"] = "instance"  # Normalisation before the activation.


@dataclass(frozen=True)
class MonaiUNetOptions(NetworkOptions):
    """Options of monai_unet alone."""

    architecture = "monai_unet"
    field = "monai_unet"

    kernel_size: Literal[3, 5, 7] = 3  # Voxels of every kernel along each axis.
    norm: Literal["instance", "batch"] = "instance"  # Normalisation after each convolution.


@dataclass(frozen=True)
class UNETROptions(NetworkOptions):
    """Options of monai_unetr alone."""

    architecture = "monai_unetr"
    field = "unetr"

    hidden_size: int = 768  # Channels of the transformer, a multiple of num_heads.
    mlp_dim: int = 3072  # Channels inside each block of the transformer.
    num_heads: int = 12  # Attention heads of each block.
    # How 16 voxels along each axis become a token. conv: a convolution. perceptron: a reshape and a
    # matrix product.
    pos_embed: Literal["conv", "perceptron"] = "conv"
    norm: Literal["instance", "batch"] = "instance"  # Normalisation of the convolutions.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("hidden_size", "mlp_dim", "num_heads")
        require(
            self.hidden_size % self.num_heads == 0,
            f"{self.title('hidden_size')} as a multiple of {self.num_heads} heads",
            self.hidden_size,
        )


@dataclass(frozen=True)
class SwinOptions(NetworkOptions):
    """Options of monai_swin_unetr alone."""

    architecture = "monai_swin_unetr"
    field = "swin"

    use_checkpoint: bool = False  # Recompute activations in the backward pass to save memory.
    attn_drop_rate: float = 0.0  # Dropout probability of attention weights.
    # Probability that a sample leaves out a block (stochastic depth). It rises from 0 to this at
    # the deepest block.
    dropout_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_below_one("attn_drop_rate", "dropout_path_rate")


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    # mednext, mednext_custom, unet, ...: pytc models list prints them all.
    architecture: str = "mednext"
    in_channels: int = 1  # Channels of the image.
    # Channels of the prediction: one per affinity offset, one per class, or 1.
    out_channels: int = 6
    deep_supervision: bool = False  # Predict at every scale in training.
    # Voxel size in nm, in stored axis order. The kernels and strides of mednext_custom, rsunet and
    # nnunet follow from it, and so do the default strides of unet and monai_unet. Default: the
    # voxel size of the training volumes.
    voxel_size: Lengths | None = None
    # Patch that nnunet is planned for and monai_unetr takes. Default: the training patch.
    image_size: Triple | None = None
    # Weights to start a training from: a run, a checkpoint of pytc, official MedNeXt, nnU-Net or
    # Lightning, or .safetensors. train.py builds the network of a run or an export, whatever the
    # config says, but for flags.
    pretrained: str | None = None
    upkern: str | None = None  # A MedNeXt with smaller kernels, which are enlarged to start from.
    # Start the heads anew if the weights are for another number of output channels.
    reset_head: bool = False
    mednext_size: Literal["S", "B", "M", "L"] = "S"  # Published size of mednext.
    kernel_size: int = 3  # Depthwise kernel of mednext and mednext_custom: 3, 5 or 7.
    # mednext_custom, nnunet: channels at full resolution. Each level has twice as many as the level
    # before it; nnunet has at most ten times this number.
    base_channels: int = 32
    # mednext_custom: expansion ratio of all stages, or of 4 stages down, the bottleneck and 4 up.
    expansion: int | tuple[int, ...] = (2, 3, 4, 4, 4, 4, 4, 3, 2)
    # mednext_custom: blocks in each stage.
    block_counts: tuple[int, ...] = (2, 2, 2, 2, 2, 2, 2, 2, 2)
    do_res: bool = True  # mednext_custom: residual connection in each block.
    do_res_up_down: bool = True  # mednext_custom: residual connection in the resampling blocks.
    # mednext, mednext_custom. outside_block: recompute the activations of each block in the
    # backward pass, which saves memory and takes longer. auto: do so for mednext M and L, as
    # published.
    checkpoint_style: Literal["auto", "none", "outside_block"] = "auto"
    norm: Literal["group", "layer"] = "group"  # mednext_custom: normalisation in each block.
    grn: bool = False  # mednext_custom: global response normalisation in each block.
    spatial_dims: Literal[2, 3] = 3  # mednext_custom: 2-D or 3-D convolutions.
    # unet, rsunet, monai_unet, monai_basic_unet3d: channels at each level, the finest first.
    # monai_basic_unet3d has five levels; a sixth number is for its last stage on the way up.
    features: tuple[int, ...] = (32, 32, 64, 128, 256)
    # unet, rsunet, monai_unet: stride from each level to the next along each axis. Default: 2, but
    # 1 along an axis as long as its voxels are at least twice as large as along the finest axis.
    strides: tuple[Triple, ...] | None = None
    residual_units: int = 2  # monai_unet: residual units at each level.
    # monai_unetr and monai_swin_unetr: channels at full resolution, for Swin a multiple of 12.
    feature_size: int = 24
    dropout: float = 0.0  # MONAI networks: dropout probability.
    basic_unet: BasicUNetOptions = BasicUNetOptions()
    monai_unet: MonaiUNetOptions = MonaiUNetOptions()
    unetr: UNETROptions = UNETROptions()
    swin: SwinOptions = SwinOptions()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(
            "in_channels",
            "out_channels",
            "voxel_size",
            "image_size",
            "base_channels",
            "expansion",
            "block_counts",
            "features",
            "strides",
            "residual_units",
            "feature_size",
        )
        self.require_below_one("dropout")
        require(self.kernel_size in (3, 5, 7), "a kernel size of 3, 5 or 7", self.kernel_size)
        if isinstance(self.expansion, tuple):
            require(len(self.expansion) == 9, "one or nine expansion ratios", self.expansion)
        require(len(self.block_counts) == 9, "nine block counts", self.block_counts)
        require(len(self.features) > 1, "features of at least two levels", self.features)
        if self.strides is not None:
            steps = len(self.features) - 1
            expected = f"{steps} strides for {steps + 1} levels of features"
            require(len(self.strides) == steps, expected, self.strides)
        if self.upkern is not None:
            expected = "weights from pretrained or upkern, not both"
            require(self.pretrained is None, expected, self.upkern)
            require("mednext" in self.architecture, "a MedNeXt for upkern", self.architecture)
        for options in (self.basic_unet, self.monai_unet, self.unetr, self.swin):
            options.require_unchanged(self.architecture)
