"""Every choice a run can make, as frozen dataclasses.

A field's comment is its help on the command line. A config that exists is valid: a value of another
type than its field's, or out of range, is refused when it is built (`Section`). Standard library
only, so that `--help` answers at once.
"""

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from pytc.checks import Section, require, suggest
from pytc.thresholds import parse_thresholds

Triple = tuple[int, int, int]
Lengths = tuple[float, float, float]
Intensity = Literal["auto", "dtype"] | tuple[float, float]
SegmentationMethod = Literal["components", "components_watershed", "waterz", "mutex_watershed"]
SHORT_AND_LONG = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (10, 0, 0), (0, 10, 0), (0, 0, 10))


def require_intensity(title: str, intensity: Intensity | None) -> None:
    """ValueError unless the smaller of two grey values comes first."""
    if intensity not in (None, "auto", "dtype"):
        low, high = intensity
        finite = low < high and high - low < float("inf")
        expected = f"{title} auto, dtype, or the lower and the higher of two numbers"
        require(finite, expected, intensity)


@dataclass(frozen=True)
class VolumeConfig(Section):
    """One volume on disk, or a synthetic one."""

    # Image to read: a path (FILE.h5:DATASET, .zarr, .tif, .npy, a folder of slices), or
    # synthetic:SEED.
    image: str = "synthetic:0"
    # Instance labels, 0 = background, -1 = unlabelled; a synthetic volume brings its own.
    labels: str | None = None
    # Where the labels are valid (non-zero); everything else counts as unlabelled.
    mask: str | None = None
    # Skeletons to score against: NISB .pkl, .swc or a folder of them, .npz.
    skeleton: str | None = None
    # Share of the training samples drawn from this volume, relative to the other volumes' weights.
    weight: float = 1.0
    # Axis order of the stored image, e.g. zyx or xyzc, where the file does not say.
    axes: str | None = None
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Lengths | None = None
    # Order in which the spatial axes are read, e.g. zyx, where it is to differ from the stored one.
    transpose: str | None = None
    # Grey values that become 0 and 1; by default as data.intensity says.
    intensity: Intensity | None = None
    # Name of the folder for results; by default derived from the image's path.
    name: str | None = None
    attribution: str | None = None  # Where the data comes from and its licence; printed in reports.

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("weight")
        self.require_positive("voxel_size")
        require_intensity(self.title("intensity"), self.intensity)
        if self.image == "synthetic" or self.is_synthetic:
            seed = self.image.removeprefix("synthetic:")
            expected = "synthetic:SEED with a whole number, e.g. synthetic:0"
            require(seed.isdigit(), expected, self.image)

    @property
    def is_synthetic(self) -> bool:
        return self.image.startswith("synthetic:")


@dataclass(frozen=True)
class SyntheticConfig(Section):
    """The synthetic neurites behind synthetic:SEED."""

    shape: Triple = (192, 192, 192)  # Voxels along z, y, x.
    # nm along z, y, x; a larger first one makes it anisotropic.
    voxel_size: Lengths = (10.0, 10.0, 10.0)
    # Standard deviation of the image noise, as a share of the grey range.
    noise: float = 0.08
    defects: float = 0.0  # Share of z-slices that are damaged (dropped, shifted, blurred).

    def __post_init__(self):
        super().__post_init__()
        least = "synthetic.shape of at least 16 voxels along each axis"
        require(min(self.shape) >= 16, least, self.shape)
        self.require_positive("voxel_size")
        self.require_not_negative("noise")
        self.require_fraction("defects")


@dataclass(frozen=True)
class DataConfig(Section):
    """Where patches come from."""

    train: tuple[VolumeConfig, ...] = (VolumeConfig(),)  # Volumes to train on.
    # To validate on, and infer.py's default. None named: no validation, or synthetic:1 where all
    # training volumes are synthetic.
    val: tuple[VolumeConfig, ...] = ()
    # Grey values that become 0 and 1. auto: of uint8 0 and 255, of other types the 0.5 and 99.5
    # percentiles of each volume, without padding. dtype: 0 and the largest integer of the type, or
    # floats as they are, as release 0.1 had it.
    intensity: Intensity = "auto"
    # Shape and look of the volumes named synthetic:SEED.
    synthetic: SyntheticConfig = SyntheticConfig()
    # Voxels of a training patch, in stored axis order.
    patch_size: Triple = (128, 128, 128)
    # Volumes share samples by weight, or each in turn.
    mixing: Literal["weighted", "stratified"] = "weighted"
    # Smallest share of labelled foreground voxels of an accepted patch.
    min_labelled: float = 0.05
    max_tries: int = 20  # Positions tried before a patch with too few labels is an error.
    val_samples: int = 16  # Fixed validation patches, spread over the validation volumes.
    # memory: decode each volume once per node, for all its loaders.
    cache: Literal["none", "memory"] = "none"

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("patch_size", "max_tries", "val_samples")
        self.require_fraction("min_labelled")
        require_intensity(self.title("intensity"), self.intensity)
        require(len(self.train) > 0, "a training volume or more in data.train", self.train)
        weights = [volume.weight for volume in self.train]
        require(sum(weights) > 0, "a training volume with a weight above 0", weights)

    @property
    def validation(self) -> tuple[VolumeConfig, ...]:
        """The volumes of `val`, or those that stand in where none is named."""
        if not self.val and all(volume.is_synthetic for volume in self.train):
            return (VolumeConfig(image="synthetic:1"),)
        return self.val


@dataclass(frozen=True)
class AugmentConfig(Section):
    """Probability (prob) and strength of each augmentation; a probability of 0 switches it off."""

    permute_prob: float = 0.5  # Random order of the axes of equal voxel size and patch extent.
    rot90_prob: float = 0.5  # Rotation by a multiple of 90 degrees in the plane of the sections.
    flip_prob: float = 0.5  # Mirroring, drawn for each axis.
    affine_prob: float = 0.0  # Random scale, shear and rotation in one resampling.
    affine_scale: float = 0.2  # Largest relative change of scale, each axis.
    affine_shear: float = 0.5  # Largest shear, of each axis along each other one.
    affine_rotation: float = 0.0  # Largest rotation in degrees, in each plane of equal voxel sizes.
    elastic_prob: float = 0.0  # Smooth random deformation.
    # Voxels (of the finest axis) between the control points of the deformation.
    elastic_spacing: int = 24
    # Standard deviation of the displacement in voxels of the finest axis.
    elastic_magnitude: float = 3.0
    # All sections behind a random one moved (or one alone), by translation or rotation.
    misalign_prob: float = 0.0
    misalign_max: int = 8  # Largest translation of a misalignment in voxels.
    misalign_rotation: float = 2.0  # Largest rotation of a misalignment in degrees.
    # Chance of a patch to be open to each kind of slice damage: drop_slice, shift_slice,
    # blur_slice, slice_contrast.
    slices_prob: float = 1.0
    # Across which axis such slices lie: thick, that of the largest voxels (the first of several);
    # random, one drawn for each patch and kind; 0, 1 or 2, in stored order.
    slices_axis: Literal["thick", "random", 0, 1, 2] = "thick"
    drop_slice_prob: float = 0.0  # Chance of each slice of such a patch to be blanked.
    shift_slice_prob: float = 0.0  # Chance of each slice of such a patch to be shifted in plane.
    shift_slice_max: int = 10  # Largest shift of a slice in voxels.
    # What moves in: border voxels again, or the opposite side.
    shift_slice_fill: Literal["border", "wrap"] = "border"
    missing_section_prob: float = 0.0  # Chance of a patch to have a short run of blank sections.
    missing_section_max: int = 3  # Most sections in such a run.
    blur_slice_prob: float = 0.0  # Chance of each slice of such a patch to be out of focus.
    blur_sigma: float = 2.0  # Largest blur of a slice: standard deviation in voxels.
    intensity_prob: float = 0.5  # Chance of a change of contrast and brightness.
    intensity_scale: float = 0.1  # Largest relative change of contrast.
    intensity_offset: float = 0.1  # Largest change of brightness, as a share of the grey range.
    gamma_prob: float = 0.0  # Chance of a gamma correction.
    gamma_range: tuple[float, float] = (0.7, 1.5)  # Smallest and largest gamma.
    # Chance of each slice of such a patch to change by intensity_* on its own.
    slice_contrast_prob: float = 0.0
    noise_prob: float = 0.5  # Chance of Gaussian noise.
    # Largest standard deviation of the noise, as a share of the grey range.
    noise_max: float = 0.1
    cutout_prob: float = 0.0  # Chance of boxes set to their mean grey value.
    cutout_size: float = 0.25  # Largest edge of such a box, as a share of the patch.

    def __post_init__(self):
        super().__post_init__()
        probabilities = [field.name for field in fields(self) if field.name.endswith("_prob")]
        self.require_fraction(*probabilities, "cutout_size")
        self.require_below_one("affine_scale")
        self.require_positive("elastic_spacing", "missing_section_max", "blur_sigma", "gamma_range")
        self.require_not_negative(
            "elastic_magnitude", "misalign_max", "shift_slice_max", "noise_max"
        )
        smallest, largest = self.gamma_range
        require(smallest <= largest, "smallest gamma <= largest", self.gamma_range)


@dataclass(frozen=True)
class TargetConfig(Section):
    """What the network learns to predict."""

    # Of instances: affinities, foreground, or boundaries; or the class of each voxel.
    kind: Literal["affinity", "binary", "boundary", "classes"] = "affinity"
    # classes: how many there are. Labels are class ids, 0 to one less than this, and -1 where
    # unlabelled. With two, every label above 0 is class 1: a mask of 0 and 255 serves.
    classes: int = 2
    # Channel c at voxel v: are v and v + offsets[c] the same object?
    offsets: tuple[Triple, ...] = SHORT_AND_LONG
    # Background put between touching labels: each shrinks by this many voxels in plane.
    erosion: int = 0
    # Coarser targets for deep supervision: made from strided labels; every n-th voxel of the full
    # target; or (not of classes) the full target resized, with values between 0 and 1.
    scale_by: Literal["stride", "nearest", "trilinear"] = "stride"

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("erosion")
        for offset in self.offsets:
            require(
                min(offset) >= 0 and max(offset) > 0,
                "affinity offsets that are positive along an axis",
                offset,
            )
        require(
            len(set(self.offsets)) == len(self.offsets), "distinct affinity offsets", self.offsets
        )
        require(2 <= self.classes <= 256, "target.classes from 2 to 256", self.classes)
        if self.kind == "classes":
            require(
                self.scale_by != "trilinear",
                "target.scale_by stride or nearest for class ids, which cannot be averaged",
                self.scale_by,
            )
            require(
                self.erosion == 0,
                "target.erosion 0 for class ids: it puts background between touching labels",
                self.erosion,
            )

    @property
    def channels(self) -> int:
        """Channels of the prediction."""
        if self.kind == "affinity":
            return len(self.offsets)
        return self.classes if self.kind == "classes" else 1


class NetworkOptions(Section):
    """Options of one architecture, nested in ModelConfig; refused for every other one."""

    architecture: ClassVar[str]
    field: ClassVar[str]  # of ModelConfig, that holds these options

    @classmethod
    def title(cls, name: str) -> str:
        return f"model.{cls.field}.{name}"

    def require_unchanged(self, architecture: str) -> None:
        """ValueError if an option is set although another architecture is asked for."""
        for option in fields(self):
            value = getattr(self, option.name)
            require(
                architecture == self.architecture or value == option.default,
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
    norm: Literal["instance", "batch"] = "instance"  # Normalisation before it.


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
    mlp_dim: int = 3072  # Channels inside each of its blocks.
    num_heads: int = 12  # Attention heads of each block.
    # How 16 voxels along each axis become a token: one convolution, or a reshape and a product.
    pos_embed: Literal["conv", "perceptron"] = "conv"
    norm: Literal["instance", "batch"] = "instance"  # Normalisation of the convolutions.

    def __post_init__(self):
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
    # Probability to leave out a block for a sample (stochastic depth), rising to this at the
    # deepest block.
    dropout_path_rate: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.require_below_one("attn_drop_rate", "dropout_path_rate")


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    # mednext, mednext_custom, unet, ...: pytc models list prints them all.
    architecture: str = "mednext"
    in_channels: int = 1  # Channels of the image.
    out_channels: int = 6  # Channels of the prediction: one per affinity offset, or 1.
    deep_supervision: bool = False  # Predict at every scale in training.
    # Voxel size in nm, in stored axis order, that shapes the kernels and strides of mednext_custom,
    # rsunet and nnunet, and the default strides of unet and monai_unet; by default that of the
    # training volumes.
    voxel_size: Lengths | None = None
    # Patch for nnunet to plan for, monai_unetr to take; default: the training patch.
    image_size: Triple | None = None
    # Weights to start a training from: a checkpoint of pytc, official MedNeXt, nnU-Net or
    # Lightning, or .safetensors.
    pretrained: str | None = None
    upkern: str | None = None  # A MedNeXt with smaller kernels, to stretch and start from.
    # Start heads anew where the weights are for another number of output channels.
    reset_head: bool = False
    mednext_size: Literal["S", "B", "M", "L"] = "S"  # Published size of mednext.
    kernel_size: int = 3  # Depthwise kernel of mednext and mednext_custom: 3, 5 or 7.
    # mednext_custom, nnunet: channels at full resolution, doubled at each level; in nnunet up to
    # ten times as many.
    base_channels: int = 32
    # mednext_custom: expansion ratio of all stages, or of 4 stages down, the bottleneck and 4 up.
    expansion: int | tuple[int, ...] = (2, 3, 4, 4, 4, 4, 4, 3, 2)
    # mednext_custom: blocks in each stage.
    block_counts: tuple[int, ...] = (2, 2, 2, 2, 2, 2, 2, 2, 2)
    do_res: bool = True  # mednext_custom: residual connection in each block.
    do_res_up_down: bool = True  # mednext_custom: residual connection in the resampling blocks.
    # mednext, mednext_custom: outside_block recomputes the activations of each block in the
    # backward pass, which saves memory and takes longer; auto does so for mednext M and L, as
    # published.
    checkpoint_style: Literal["auto", "none", "outside_block"] = "auto"
    norm: Literal["group", "layer"] = "group"  # mednext_custom: normalisation in each block.
    grn: bool = False  # mednext_custom: global response normalisation in each block.
    spatial_dims: Literal[2, 3] = 3  # mednext_custom: 2-D or 3-D convolutions.
    # unet, rsunet, monai_unet, monai_basic_unet3d: channels at each level, finest first;
    # monai_basic_unet3d has five levels, a sixth number is that of its last stage on the way up.
    features: tuple[int, ...] = (32, 32, 64, 128, 256)
    # unet, rsunet, monai_unet: step from each level to the next along each axis; by default 2, or 1
    # along an axis while its voxels are at least twice as large as those of the finest.
    strides: tuple[Triple, ...] | None = None
    residual_units: int = 2  # monai_unet: residual units at each level.
    # monai_unetr and monai_swin_unetr: channels at full resolution, for Swin a multiple of 12.
    feature_size: int = 24
    dropout: float = 0.0  # MONAI networks: dropout probability.
    basic_unet: BasicUNetOptions = BasicUNetOptions()
    monai_unet: MonaiUNetOptions = MonaiUNetOptions()
    unetr: UNETROptions = UNETROptions()
    swin: SwinOptions = SwinOptions()

    def __post_init__(self):
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
        require(
            None in (self.pretrained, self.upkern),
            "weights from pretrained or upkern, not both",
            self.upkern,
        )
        require(
            self.upkern is None or "mednext" in self.architecture,
            "a MedNeXt for upkern",
            self.architecture,
        )
        if self.strides is not None:
            steps = len(self.features) - 1
            expected = f"{steps} strides for {steps + 1} levels of features"
            require(len(self.strides) == steps, expected, self.strides)
        for options in (self.basic_unet, self.monai_unet, self.unetr, self.swin):
            options.require_unchanged(self.architecture)


# What each loss term is; `pytc.losses` has a function of the same name.
LOSSES = {
    "bce": "binary cross-entropy of each channel",
    "balanced_bce": "the same, the rarer value of a channel weighing as much as the commoner one",
    "dice": "soft Dice, smoothed by one voxel",
    "tversky": "Dice in which false positives and false negatives differ in weight",
    "focal": "cross-entropy turned from easy voxels to hard ones",
    "cross_entropy": "cross-entropy over classes; over a single channel the same as bce",
    "mse": "squared error of the probability",
}
# Those that are defined where the channels are alternatives: softmax in place of a sigmoid.
CLASS_LOSSES = ("dice", "tversky", "focal", "cross_entropy")


@dataclass(frozen=True)
class LossConfig(Section):
    """The weighted sum that is minimised."""

    # Names from: bce, balanced_bce, dice, tversky, focal, cross_entropy, mse. For classes: dice,
    # tversky, focal, cross_entropy, by softmax. Dice and tversky are smoothed by one voxel.
    terms: tuple[str, ...] = ("bce",)
    weights: tuple[float, ...] = (1.0,)  # Weight of each term.
    max_positive_weight: float = 10.0  # balanced_bce: cap on the weight of a channel's rarer class.
    # tversky: weight of false positives; false negatives weigh 1 - alpha.
    tversky_alpha: float = 0.3
    focal_gamma: float = 2.0  # focal: exponent that turns the loss from easy voxels.
    # cross_entropy and focal with classes: what a voxel of each class weighs; default 1. The loss
    # is divided by the weight of all voxels.
    class_weights: tuple[float, ...] | None = None
    # Deep supervision, finest scale first; default 1, 1/2, 1/4, ...
    scale_weights: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("weights", "focal_gamma", "scale_weights", "class_weights")
        self.require_positive("max_positive_weight")
        self.require_fraction("tversky_alpha")
        for term in self.terms:
            if term not in LOSSES:
                near = suggest(_our_words(term), LOSSES)
                raise ValueError(f"expected the name of a loss term, got {term!r}{near}")
        require(len(set(self.terms)) == len(self.terms), "each loss term once", self.terms)
        require(
            len(self.terms) == len(self.weights) > 0,
            "a weight for each loss term",
            (self.terms, self.weights),
        )


def _our_words(loss: str) -> str:
    """The name of a class of PyTorch or MONAI as we would write it: DiceLoss becomes dice."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", loss).lower()
    return words.removesuffix("_loss")


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimizer and schedule."""

    learning_rate: float = 1e-3  # Peak learning rate of AdamW.
    weight_decay: float = 1e-2  # Decoupled weight decay.
    # After warm-up: a cosine that ends at 0 at the last step, or none, a constant rate.
    schedule: Literal["none", "cosine"] = "cosine"
    warmup_steps: int = 0  # Steps of linear warm-up from 0.
    clip_norm: float = 1.0  # Largest gradient norm; 0 switches clipping off.
    # Decay of the moving average of the weights, which is then validated and used; 0 = none.
    ema_decay: float = 0.0
    # The average's decay is at most (1 + step) / (ema_warmup_steps + step).
    ema_warmup_steps: int = 10
    accumulate: int = 1  # Batches whose gradients are summed before a step.

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("learning_rate", "accumulate")
        self.require_not_negative("weight_decay", "warmup_steps", "clip_norm", "ema_warmup_steps")
        self.require_below_one("ema_decay")


@dataclass(frozen=True)
class LoopConfig(Section):
    """Length of a run, and what it leaves behind."""

    max_steps: int = 50_000  # Optimizer steps of the run.
    # Length in epochs, not steps; one draws as many voxels as the volumes hold.
    epochs: float | None = None
    batch_size: int = 8  # Patches in a batch, on each rank.
    seed: int = 0  # Every random draw of the run follows from this number.
    val_every: int = 1000  # Steps between validations.
    checkpoint_every: int = 1000  # Steps between checkpoints.
    # How many of the best checkpoints are kept, besides the last one.
    keep_checkpoints: int = 3
    # Steps between scores of whole volumes, also at the end; 0: never.
    volumes_every: int = 0
    # Ranks checkpoints: val/loss, or a volumes' score, e.g. val/nerl, val/dense_voi_sum.
    monitor: str = "val/loss"
    log_every: int = 10  # Steps between log lines.
    # Steps skipped in a row, as loss or gradient is not finite, that end the run.
    max_skipped: int = 10
    images_every: int = 1000  # Steps between image panels in TensorBoard.

    def __post_init__(self):
        super().__post_init__()
        self.require_positive(
            "max_steps",
            "epochs",
            "batch_size",
            "val_every",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "max_skipped",
            "images_every",
        )
        self.require_not_negative("seed", "volumes_every")
        require(
            self.monitor.startswith("val/"),
            "monitor val/loss, or val/ and a score such as nerl",
            self.monitor,
        )

    @property
    def picks_best(self) -> bool:
        """Whether the run itself knows the monitored figure and writes best.pt.

        Else `pytc.validate` does.
        """
        return self.monitor == "val/loss" or self.volumes_every > 0


@dataclass(frozen=True)
class ValidationConfig(Section):
    """How whole volumes are scored (loop.volumes_every, pytc validate)."""

    # Thresholds to segment at, of which the best counts: numbers that rise, or a range
    # MIN:MAX:STEP, e.g. 0.1:0.9:0.05; by default those of evaluate.py.
    thresholds: tuple[float | str, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.thresholds is not None:
            thresholds = parse_thresholds(self.thresholds)
            require(
                len(thresholds) > 0 and list(thresholds) == sorted(thresholds),
                "validation.thresholds that rise, or a range such as '0.1:0.9:0.05'",
                self.thresholds,
            )
            object.__setattr__(self, "thresholds", thresholds)


@dataclass(frozen=True)
class SystemConfig(Section):
    """The machine."""

    # Look at the machine first: print what it has and what is chosen, and on a GPU try how many
    # patches fit at once.
    auto: bool = False
    # Where to compute; auto takes a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # auto takes what the hardware is fast at.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Processes that read patches; by default fitted to the machine.
    workers: int | None = None
    # CPU threads of a rank; by default its share of the cores it may use.
    threads: int | None = None
    # Compile the network by torch.compile: the first step takes minutes, the rest less time.
    compile: bool = False
    # Without a GPU, train a small variant of the recipe; off forces the full recipe.
    cpu_variant: bool = True

    def __post_init__(self):
        super().__post_init__()
        self.require_not_negative("workers")
        self.require_positive("threads")


@dataclass(frozen=True)
class InferenceConfig(Section):
    """From an image to affinities."""

    # Voxels of a prediction window; by default the training patch.
    window: Triple | None = None
    overlap: float = 0.5  # Share of a window that the next one covers again.
    # Weight of voxels: distance to the border, or a Gaussian.
    blending: Literal["distance", "gaussian"] = "distance"
    # Average over the eight mirrorings of each window: eight times the work, better affinities.
    flips: bool = False
    # Windows predicted at once; on a CPU, PyTorch is slow at single ones.
    batch_size: int = 2
    # Voxels of a block: predicted, written and marked as done in one piece.
    block: Triple = (512, 512, 512)
    # Affinity = sigmoid(scale x logit), of classes softmax; by default 0.2, which keeps float16
    # from saturating, and 1 for classes.
    activation_scale: float | None = None
    checkpoint: Literal["best", "last"] = "best"  # Which weights of the run.

    def __post_init__(self):
        super().__post_init__()
        self.require_positive("window", "batch_size", "block", "activation_scale")
        self.require_below_one("overlap")


@dataclass(frozen=True)
class SegmentationConfig(Section):
    """From affinities to objects."""

    threshold: float = 0.5  # Affinities above this join voxels, or fragments, to one object.
    min_size: int = 0  # Objects of fewer voxels become background.
    # components: neighbours with an affinity above the threshold are one object.
    # components_watershed: the same; then a seeded watershed on the affinities, with the components
    # as seeds, fills what is left. waterz: fragments with a mean affinity above the threshold are
    # one object. mutex_watershed: reads the affinities over long distances, too. The last two need
    # packages: pip install -e '.[agglomeration]' in a clone.
    method: SegmentationMethod = "components"
    # waterz: fragments are the components above this, filled by a seeded watershed.
    fragment_threshold: float = 0.8

    def __post_init__(self):
        super().__post_init__()
        self.require_fraction("threshold", "fragment_threshold")
        self.require_not_negative("min_size")


@dataclass(frozen=True)
class Config(Section):
    """A training run, and the defaults of the inference that follows it."""

    name: str = "run"  # Folder of the run below runs/; an existing one gets a number appended.
    # Python files to load first, which register networks of your own. Of a run or checkpoint they
    # are not loaded by themselves: name them again.
    plugins: tuple[str, ...] = ()

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    target: TargetConfig = TargetConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    validation: ValidationConfig = ValidationConfig()
    system: SystemConfig = SystemConfig()
    inference: InferenceConfig = InferenceConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    def __post_init__(self):
        super().__post_init__()
        channels, expected = self.model.out_channels, self.target.channels
        require(channels == expected, f"model.out_channels {expected} for this target", channels)
        patch = self.data.patch_size
        for offset in self.target.offsets if self.target.kind == "affinity" else ():
            require(
                all(o < p for o, p in zip(offset, patch)),
                f"offsets smaller than the patch {patch}",
                offset,
            )
        _check_loss(self.loss, self.target)


def _check_loss(loss: LossConfig, target: TargetConfig) -> None:
    """ValueError where a loss term or a weight does not fit what is predicted."""
    if target.kind == "classes":
        for term in loss.terms:
            require(
                term in CLASS_LOSSES, f"loss terms from {', '.join(CLASS_LOSSES)} for classes", term
            )
        weights = loss.class_weights
        require(
            weights is None or (len(weights) == target.classes and max(weights) > 0),
            f"loss.class_weights for {target.classes} classes, one of them above 0",
            weights,
        )
        return
    require(loss.class_weights is None, "loss.class_weights with target.kind classes", target.kind)
    require(
        target.channels == 1 or "cross_entropy" not in loss.terms,
        f"bce in place of cross_entropy for {target.channels} channels that are no alternatives",
        loss.terms,
    )
