"""The data of a run: its volumes, and how patches are taken from them."""

from dataclasses import dataclass
from typing import Literal

from pytc.checks import Section, require

Triple = tuple[int, int, int]
Lengths = tuple[float, float, float]
Intensity = Literal["auto", "dtype"] | tuple[float, float]


def require_intensity(title: str, intensity: Intensity | None) -> None:
    """ValueError unless the smaller of two grey values comes first."""
    if intensity is None or isinstance(intensity, str):
        return
    low, high = intensity
    is_range = low < high and high - low < float("inf")
    expected = f"{title} auto, dtype, or the lower and the higher of two numbers"
    require(is_range, expected, intensity)


def listed(paths: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The paths of none, one or several files."""
    if not paths:
        return ()
    return (paths,) if isinstance(paths, str) else paths


def listed_offsets(offset: Triple | tuple[Triple, ...] | None) -> tuple[Triple, ...] | None:
    """One offset as a tuple of one; several, or None, as they are."""
    if not offset:
        return None
    first = offset[0]
    return (offset,) if isinstance(first, int) else offset  # type: ignore[return-value]


@dataclass(frozen=True)
class VolumeConfig(Section):
    """One volume on disk, or a synthetic one."""

    # Image to read: a path (FILE.h5:DATASET, .zarr, .tif, .npy, a folder of slices), or
    # synthetic:SEED.
    image: str = "synthetic:0"
    # Labels of objects: 0 = background, -1 = unlabelled. A synthetic volume has its own labels.
    # Several files label several parts of the image.
    labels: str | tuple[str, ...] | None = None
    # Voxel of the image, in stored axis order, at which labels begin that are smaller than it; for
    # each of several labels. Default: as the labels' attributes say.
    offset: Triple | tuple[Triple, ...] | None = None
    # Axis order of the stored labels and mask, e.g. xyz, where it is another than the image's. They
    # are then read in the order of the image.
    labels_axes: str | None = None
    # A mask: where it is 0, the labels count as unlabelled.
    mask: str | None = None
    # Skeletons to score against: NISB .pkl, .swc or a folder of them, .npz.
    skeleton: str | None = None
    # Share of the training samples that come from this volume, relative to the weights of the
    # other volumes.
    weight: float = 1.0
    # Axis order of the stored image, e.g. zyx or xyzc, if the file does not say it.
    axes: str | None = None
    # Voxel size in nm, in stored axis order, if the file does not say it.
    voxel_size: Lengths | None = None
    # Order in which to read the spatial axes, e.g. zyx. Default: the stored order.
    transpose: str | None = None
    # Grey values that become 0 and 1. Default: data.intensity.
    intensity: Intensity | None = None
    # Name of the folder for results. Default: it follows from the path of the image.
    name: str | None = None
    # Where the data come from, and their licence. Reports print it.
    attribution: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_not_negative("weight")
        self.require_positive("voxel_size")
        self.require_not_negative("offset")
        require(
            self.offsets is None or len(self.offsets) == len(self.label_paths),
            f"{self.title('offset')} of three voxels for each of {len(self.label_paths)} "
            f"{self.title('labels')}",
            self.offset,
        )
        require_intensity(self.title("intensity"), self.intensity)
        if self.image == "synthetic" or self.is_synthetic:
            seed = self.image.removeprefix("synthetic:")
            expected = "synthetic:SEED with a whole number, e.g. synthetic:0"
            require(seed.isdigit(), expected, self.image)

    @property
    def label_paths(self) -> tuple[str, ...]:
        """The files of labels: none, one or several."""
        return listed(self.labels)

    @property
    def offsets(self) -> tuple[Triple, ...] | None:
        """The offset of each file of labels, or None if the files say it."""
        return listed_offsets(self.offset)

    @property
    def is_synthetic(self) -> bool:
        return self.image.startswith("synthetic:")


@dataclass(frozen=True)
class SyntheticConfig(Section):
    """The synthetic neurites behind synthetic:SEED."""

    shape: Triple = (192, 192, 192)  # Voxels along z, y, x.
    # Voxel size in nm along z, y, x. A larger first number makes the volume anisotropic.
    voxel_size: Lengths = (10.0, 10.0, 10.0)
    # Standard deviation of the image noise, as a share of the grey range.
    noise: float = 0.08
    defects: float = 0.0  # Share of z-slices that are damaged (dropped, shifted, blurred).

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = "synthetic.shape of at least 16 voxels along each axis"
        require(min(self.shape) >= 16, expected, self.shape)
        self.require_positive("voxel_size")
        self.require_not_negative("noise")
        self.require_fraction("defects")


@dataclass(frozen=True)
class DataConfig(Section):
    """Where patches come from."""

    train: tuple[VolumeConfig, ...] = (VolumeConfig(),)  # Volumes to train on.
    # Volumes to validate on; infer.py predicts them by default. If none is named, there is no
    # validation, or if all training volumes are synthetic, synthetic:1 is taken.
    val: tuple[VolumeConfig, ...] = ()
    # Grey values that become 0 and 1. auto: 0 and 255 of uint8, the 0.5 and 99.5 percentiles of
    # each volume (without padding) of other types. dtype: 0 and the largest integer of the type;
    # floats stay as they are. Release 0.1 did that.
    intensity: Intensity = "auto"
    # Shape and look of the volumes named synthetic:SEED.
    synthetic: SyntheticConfig = SyntheticConfig()
    # Voxels of a training patch, in stored axis order.
    patch_size: Triple = (128, 128, 128)
    # weighted: volumes share the samples by their weights. stratified: each volume in turn.
    mixing: Literal["weighted", "stratified"] = "weighted"
    # A patch is accepted if at least this share of its voxels is labelled foreground.
    min_labelled: float = 0.05
    max_tries: int = 20  # Positions that are tried to find an accepted patch.
    val_samples: int = 16  # Fixed validation patches, spread over the validation volumes.
    # memory: decode each volume once per node, for all loaders of the node.
    cache: Literal["none", "memory"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("patch_size", "max_tries", "val_samples")
        self.require_fraction("min_labelled")
        require_intensity(self.title("intensity"), self.intensity)
        require(len(self.train) > 0, "a training volume or more in data.train", self.train)
        weights = [volume.weight for volume in self.train]
        require(sum(weights) > 0, "a training volume with a weight above 0", weights)

    @property
    def validation(self) -> tuple[VolumeConfig, ...]:
        """The volumes of `val`. Without any, a synthetic one, if all training volumes are such."""
        if not self.val and all(volume.is_synthetic for volume in self.train):
            return (VolumeConfig(image="synthetic:1"),)
        return self.val
