"""Every choice a run can make, as frozen dataclasses; a field's comment is its help on the command
line.

A config that exists is valid: impossible values are refused when it is built. Standard library
only, so that `--help` answers at once.
"""

import difflib
import types
import typing
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, TypeVar

Triple = tuple[int, int, int]
Lengths = tuple[float, float, float]
T = TypeVar("T")
Positive = Annotated[T, ("a positive {}", lambda number: number > 0)]
NotNegative = Annotated[T, ("a {} of 0 or more", lambda number: number >= 0)]
AtLeast16 = Annotated[
    T, ("a {} of at least 16 voxels along each axis", lambda number: number >= 16)
]
Fraction = Annotated[float, ("{} in [0, 1]", lambda number: 0 <= number <= 1)]
BelowOne = Annotated[float, ("{} in [0, 1)", lambda number: 0 <= number < 1)]
SHORT_AND_LONG = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (10, 0, 0), (0, 10, 0), (0, 0, 10))


def require(condition: bool, expected: str, got: Any) -> None:
    """ValueError with what was expected and what was got, unless the condition holds."""
    if not condition:
        raise ValueError(f"expected {expected}, got {got!r}")


class Section:
    """Refuses values outside the range that a field's type names: each number of a tuple counts,
    None always fits.
    """

    def __post_init__(self):
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            for expected, fits in getattr(hint, "__metadata__", ()):
                value = getattr(self, name)
                numbers = value if isinstance(value, tuple) else () if value is None else (value,)
                require(all(map(fits, numbers)), expected.format(name), value)


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
    # Share of the training samples drawn from this volume; all weights sum to 1.
    weight: Positive[float] = 1.0
    # Axis order of the stored image, e.g. zyx or xyzc, where the file does not say.
    axes: str | None = None
    # Voxel size in nm, in stored axis order, where the file does not say.
    voxel_size: Positive[Lengths | None] = None
    # Name of the folder for results; by default derived from the image's path.
    name: str | None = None
    attribution: str | None = None  # Where the data comes from and its licence; printed in reports.

    def __post_init__(self):
        super().__post_init__()
        known = (
            not self.image.startswith("synthetic")
            or self.image.removeprefix("synthetic:").isdigit()
        )
        require(known, "synthetic:SEED with a whole number, e.g. synthetic:0", self.image)


@dataclass(frozen=True)
class SyntheticConfig(Section):
    """The synthetic neurites behind synthetic:SEED."""

    shape: AtLeast16[Triple] = (192, 192, 192)  # Voxels along z, y, x.
    # nm along z, y, x; a larger first one makes it anisotropic.
    voxel_size: Positive[Lengths] = (10.0, 10.0, 10.0)
    # Standard deviation of the image noise, as a share of the grey range.
    noise: NotNegative[float] = 0.08
    defects: Fraction = 0.0  # Share of z-slices that are damaged (dropped, shifted, blurred).


@dataclass(frozen=True)
class DataConfig(Section):
    """Where patches come from."""

    train: tuple[VolumeConfig, ...] = (VolumeConfig(),)  # Volumes to train on.
    # To validate on; infer.py's default.
    val: tuple[VolumeConfig, ...] = (VolumeConfig(image="synthetic:1"),)
    # Shape and look of the volumes named synthetic:SEED.
    synthetic: SyntheticConfig = SyntheticConfig()
    # Voxels of a training patch, in stored axis order.
    patch_size: Positive[Triple] = (128, 128, 128)
    # Volumes share samples by weight, or each in turn.
    mixing: Literal["weighted", "stratified"] = "weighted"
    # Smallest share of labelled foreground voxels of an accepted patch.
    min_labelled: Fraction = 0.05
    max_tries: Positive[int] = 20  # Positions tried before a patch with too few labels is an error.
    val_samples: int = 16  # Fixed validation patches, spread over the validation volumes.
    # memory: decode each volume once per node, for all its loaders.
    cache: Literal["none", "memory"] = "none"

    def __post_init__(self):
        super().__post_init__()
        weights = [volume.weight for volume in self.train]
        require(abs(sum(weights) - 1) < 1e-6, "training volumes whose weights sum to 1", weights)


@dataclass(frozen=True)
class AugmentConfig(Section):
    """Probability (prob) and strength of each augmentation; a probability of 0 switches it off."""

    permute_prob: Fraction = 0.5  # Random order of the axes of equal voxel size and patch extent.
    rot90_prob: Fraction = 0.5  # Rotation by a multiple of 90 degrees in the plane of the sections.
    flip_prob: Fraction = 0.5  # Mirroring, drawn for each axis.
    affine_prob: Fraction = 0.0  # Random scale, shear and rotation in one resampling.
    affine_scale: BelowOne = 0.2  # Largest relative change of scale, each axis.
    affine_shear: float = 0.5  # Largest shear, of each axis along each other one.
    affine_rotation: float = 0.0  # Largest rotation in degrees, in each plane of equal voxel sizes.
    elastic_prob: Fraction = 0.0  # Smooth random deformation.
    # Voxels (of the finest axis) between the control points of the deformation.
    elastic_spacing: Positive[int] = 24
    # Standard deviation of the displacement in voxels of the finest axis.
    elastic_magnitude: NotNegative[float] = 3.0
    # All sections behind a random one moved (or one alone), by translation or rotation.
    misalign_prob: Fraction = 0.0
    misalign_max: NotNegative[int] = 8  # Largest translation of a misalignment in voxels.
    misalign_rotation: float = 2.0  # Largest rotation of a misalignment in degrees.
    # Chance of a patch to be open to each kind of slice damage: drop_slice, shift_slice,
    # blur_slice, slice_contrast. Slices lie across the axis of the largest voxels, or the first
    # axis.
    slices_prob: Fraction = 1.0
    drop_slice_prob: Fraction = 0.0  # Chance of each slice of such a patch to be blanked.
    shift_slice_prob: Fraction = 0.0  # Chance of each slice of such a patch to be shifted in plane.
    shift_slice_max: NotNegative[int] = 10  # Largest shift of a slice in voxels.
    # What moves in: border voxels again, or the opposite side.
    shift_slice_fill: Literal["border", "wrap"] = "border"
    missing_section_prob: Fraction = 0.0  # Chance of a patch to have a short run of blank sections.
    missing_section_max: Positive[int] = 3  # Most sections in such a run.
    blur_slice_prob: Fraction = 0.0  # Chance of each slice of such a patch to be out of focus.
    blur_sigma: Positive[float] = 2.0  # Largest blur of a slice: standard deviation in voxels.
    intensity_prob: Fraction = 0.5  # Chance of a change of contrast and brightness.
    intensity_scale: float = 0.1  # Largest relative change of contrast.
    intensity_offset: float = 0.1  # Largest change of brightness, as a share of the grey range.
    gamma_prob: Fraction = 0.0  # Chance of a gamma correction.
    gamma_range: Positive[tuple[float, float]] = (0.7, 1.5)  # Smallest and largest gamma.
    # Chance of each slice of such a patch to change by intensity_* on its own.
    slice_contrast_prob: Fraction = 0.0
    noise_prob: Fraction = 0.5  # Chance of Gaussian noise.
    # Largest standard deviation of the noise, as a share of the grey range.
    noise_max: NotNegative[float] = 0.1
    cutout_prob: Fraction = 0.0  # Chance of boxes set to their mean grey value.
    cutout_size: Fraction = 0.25  # Largest edge of such a box, as a share of the patch.

    def __post_init__(self):
        super().__post_init__()
        require(
            self.gamma_range[0] <= self.gamma_range[1],
            "smallest gamma <= largest",
            self.gamma_range,
        )


@dataclass(frozen=True)
class TargetConfig(Section):
    """What the network learns to predict."""

    # Of instances: affinities, foreground, or boundaries.
    kind: Literal["affinity", "binary", "boundary"] = "affinity"
    # Channel c at voxel v: are v and v + offsets[c] the same object?
    offsets: tuple[Triple, ...] = SHORT_AND_LONG
    # Background put between touching labels: each shrinks by this many voxels in plane.
    erosion: NotNegative[int] = 0
    # Deep supervision: labels strided, or full targets resized.
    scale_by: Literal["stride", "nearest"] = "stride"

    def __post_init__(self):
        super().__post_init__()
        for offset in self.offsets:
            require(
                min(offset) >= 0 and max(offset) > 0,
                "affinity offsets that are positive along an axis",
                offset,
            )
        require(
            len(set(self.offsets)) == len(self.offsets), "distinct affinity offsets", self.offsets
        )

    @property
    def channels(self) -> int:
        return len(self.offsets) if self.kind == "affinity" else 1


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    # mednext, mednext_custom, unet, ...: python -m pytc.models list prints them all.
    architecture: str = "mednext"
    in_channels: Positive[int] = 1  # Channels of the image.
    out_channels: Positive[int] = 6  # Channels of the prediction: one per affinity offset, or 1.
    deep_supervision: bool = False  # Predict at every scale in training.
    # Voxel size in nm, in stored axis order, that shapes the kernels and strides of mednext_custom,
    # rsunet and nnunet, and the default strides of unet and monai_unet; by default that of the
    # training volumes.
    voxel_size: Positive[Lengths | None] = None
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
    # mednext_custom, of 4 stages down, bottleneck, 4 up.
    expansion: tuple[int, ...] = (2, 3, 4, 4, 4, 4, 4, 3, 2)
    # mednext_custom: blocks in each stage.
    block_counts: Positive[tuple[int, ...]] = (2, 2, 2, 2, 2, 2, 2, 2, 2)
    do_res: bool = True  # mednext_custom: residual connection in each block.
    do_res_up_down: bool = True  # mednext_custom: residual connection in the resampling blocks.
    # mednext, mednext_custom: recompute activations of each block in the backward pass to save
    # memory.
    checkpoint_style: Literal["none", "outside_block"] = "none"
    norm: Literal["group", "layer"] = "group"  # mednext_custom: normalisation in each block.
    grn: bool = False  # mednext_custom: global response normalisation in each block.
    spatial_dims: Literal[2, 3] = 3  # mednext_custom: 2-D or 3-D convolutions.
    # unet, rsunet, monai_unet, monai_basic_unet3d: channels at each level, finest first.
    features: Positive[tuple[int, ...]] = (32, 32, 64, 128, 256)
    # unet, rsunet, monai_unet: step from each level to the next along each axis; by default 2, or 1
    # along an axis while its voxels are at least twice as large as those of the finest.
    strides: tuple[Triple, ...] | None = None
    residual_units: int = 2  # monai_unet: residual units at each level.
    # monai_unetr and monai_swin_unetr: channels at full resolution, for Swin a multiple of 12.
    feature_size: int = 24
    dropout: float = 0.0  # MONAI networks: dropout probability.

    def __post_init__(self):
        super().__post_init__()
        require(self.kernel_size in (3, 5, 7), "a kernel size of 3, 5 or 7", self.kernel_size)
        require(len(self.expansion) == 9, "nine expansion ratios", self.expansion)
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
        levels, strides = len(self.features), self.strides
        fit = strides is None or (len(strides) == levels - 1 and min(map(min, strides)) > 0)
        require(fit, f"{levels - 1} positive strides for {levels} levels of features", strides)


@dataclass(frozen=True)
class LossConfig:
    """The weighted sum that is minimised."""

    # Names from: bce, balanced_bce, dice, tversky, focal, cross_entropy, mse.
    terms: tuple[str, ...] = ("bce",)
    weights: tuple[float, ...] = (1.0,)  # Weight of each term.
    max_positive_weight: float = 10.0  # balanced_bce: cap on the weight of a channel's rarer class.
    # tversky: weight of false positives; false negatives weigh 1 - alpha.
    tversky_alpha: float = 0.3
    focal_gamma: float = 2.0  # focal: exponent that turns the loss from easy voxels.
    # Deep supervision, finest scale first; default 1, 1/2, 1/4, ...
    scale_weights: tuple[float, ...] | None = None

    def __post_init__(self):
        known = ("bce", "balanced_bce", "dice", "tversky", "focal", "cross_entropy", "mse")
        for term in self.terms:
            require(term in known, f"loss terms from {', '.join(known)}", term)
        require(
            len(self.terms) == len(self.weights) > 0,
            "a weight for each loss term",
            (self.terms, self.weights),
        )


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimizer and schedule."""

    learning_rate: Positive[float] = 1e-3  # Peak learning rate of AdamW.
    weight_decay: float = 1e-2  # Decoupled weight decay.
    # After warm-up; cosine ends at 0 at the last step.
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: NotNegative[int] = 0  # Steps of linear warm-up from 0.
    clip_norm: NotNegative[float] = 1.0  # Largest gradient norm; 0 switches clipping off.
    # Decay of the moving average of the weights, which is then validated and used; 0 = none.
    ema_decay: BelowOne = 0.0
    # The average's decay is at most (1 + step) / (ema_warmup_steps + step).
    ema_warmup_steps: int = 10
    accumulate: Positive[int] = 1  # Batches whose gradients are summed before a step.


@dataclass(frozen=True)
class LoopConfig(Section):
    """Length of a run, and what it leaves behind."""

    max_steps: Positive[int] = 50_000  # Optimizer steps of the run.
    # Length in epochs, not steps; one draws as many voxels as the volumes hold.
    epochs: Positive[float | None] = None
    batch_size: Positive[int] = 8  # Patches in a batch, on each rank.
    seed: int = 0  # Every random draw of the run follows from this number.
    val_every: Positive[int] = 1000  # Steps between validations.
    checkpoint_every: Positive[int] = 1000  # Steps between checkpoints.
    # How many of the best checkpoints are kept, besides the last one.
    keep_checkpoints: Positive[int] = 3
    # Steps between scores of whole volumes, also at the end; 0: never.
    volumes_every: NotNegative[int] = 0
    # Ranks checkpoints: val/loss, or a volumes' score, e.g. val/nerl, val/dense_voi_sum.
    monitor: str = "val/loss"
    log_every: Positive[int] = 10  # Steps between log lines.
    # Steps skipped in a row, as loss or gradient is not finite, that end the run.
    max_skipped: Positive[int] = 10
    images_every: Positive[int] = 1000  # Steps between image panels in TensorBoard.

    def __post_init__(self):
        super().__post_init__()
        require(
            self.monitor.startswith("val/"),
            "monitor val/loss, or val/ and a score such as nerl",
            self.monitor,
        )

    @property
    def picks_best(self) -> bool:
        """Whether the run itself knows the monitored figure and writes best.pt; else
        `pytc.validate` does.
        """
        return self.monitor == "val/loss" or self.volumes_every > 0


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
    workers: NotNegative[int | None] = None
    # CPU threads of a rank; by default its share of the cores it may use.
    threads: Positive[int | None] = None
    # Compile the network by torch.compile: the first step takes minutes, the rest less time.
    compile: bool = False
    # Without a GPU, train a small variant of the recipe; off forces the full recipe.
    cpu_variant: bool = True


@dataclass(frozen=True)
class InferenceConfig(Section):
    """From an image to affinities."""

    # Voxels of a prediction window; by default the training patch.
    window: Positive[Triple | None] = None
    overlap: BelowOne = 0.5  # Share of a window that the next one covers again.
    # Weight of voxels: distance to the border, or a Gaussian.
    blending: Literal["distance", "gaussian"] = "distance"
    # Average over the eight mirrorings of each window: eight times the work, better affinities.
    flips: bool = False
    # Windows predicted at once; on a CPU, PyTorch is slow at single ones.
    batch_size: Positive[int] = 2
    # Voxels of a block: predicted, written and marked as done in one piece.
    block: Positive[Triple] = (512, 512, 512)
    # Affinity = sigmoid(scale x logit); below 1 keeps float16 from saturating.
    activation_scale: Positive[float] = 0.2
    checkpoint: Literal["best", "last"] = "best"  # Which weights of the run.


@dataclass(frozen=True)
class SegmentationConfig(Section):
    """From affinities to instances."""

    threshold: Fraction = 0.5  # Neighbours with an affinity above this are the same object.
    min_size: NotNegative[int] = 0  # Objects of fewer voxels are removed.
    grow: bool = False  # Let voxels that are left join the object they are most strongly tied to.


@dataclass(frozen=True)
class Config:
    """A training run, and the defaults of the inference that follows it."""

    name: str = "run"  # Folder of the run below runs/; an existing one gets a number appended.
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    target: TargetConfig = TargetConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    system: SystemConfig = SystemConfig()
    inference: InferenceConfig = InferenceConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    def __post_init__(self):
        channels, expected = self.model.out_channels, self.target.channels
        require(channels == expected, f"model.out_channels {expected} for this target", channels)
        patch = self.data.patch_size
        for offset in self.target.offsets if self.target.kind == "affinity" else ():
            require(
                all(o < p for o, p in zip(offset, patch)),
                f"offsets smaller than the patch {patch}",
                offset,
            )


def from_plain(cls: Any, value: Any, where: str = "config") -> Any:
    """The inverse of `asdict`, also by way of JSON;

    ValueError names an unknown field and the nearest known one.
    """
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        for key in value:
            if key not in hints:
                raise ValueError(f"{where} has no field {key!r}{suggest(key, hints)}")
        return cls(
            **{key: from_plain(hints[key], item, f"{where}.{key}") for key, item in value.items()}
        )
    if origin in (types.UnionType, typing.Union):
        return (
            value
            if value is None
            else from_plain(next(a for a in arguments if a is not type(None)), value, where)
        )
    if origin is tuple:
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(from_plain(item, v, where) for item, v in zip(items, value, strict=True))
    return value


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """'; did you mean X?' for the nearest known name, or else the list of the known ones."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    return (
        f"; did you mean {near[0]!r}?"
        if near
        else known and f"; it has {', '.join(map(repr, known))}" or ""
    )
