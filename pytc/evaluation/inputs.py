"""What is scored, against what, and how: `Prediction`, `Truth` and `Decoding`.

`open_inputs` opens the files that they name, and checks before any work that they fit together.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal

from pytc.checks import require
from pytc.config import Lengths, SegmentationConfig, Triple
from pytc.config.volumes import listed
from pytc.evaluation.exact import EXACT_METRICS
from pytc.evaluation.sweep import check_metric
from pytc.geometry import Box
from pytc.io.placed import Frame, crop, place_labels, place_mask
from pytc.io.results import stored_region
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.metrics.table import BY_CLASS, DEFAULTS, Task, full_name, metric_names
from pytc.segmentation.blockwise import fits_in_memory
from pytc.segmentation.decode import channels_to_read, method_of
from pytc.segmentation.edges import check_dtype
from pytc.segmentation.mask_edges import as_affinities
from pytc.target_kinds import TargetKind
from pytc.thresholds import DEFAULT_THRESHOLDS

BESIDE = 20  # bytes a voxel beside a prediction and its decode: labels, segmentation, a copy


@dataclass(frozen=True)
class StoredArray:
    """A file, and the order of its axes where the file itself does not say."""

    path: str | tuple[str, ...]  # several only of labels
    axes: str | None = None  # order of the stored axes, e.g. "zyx"
    transpose: str | None = None  # order in which the spatial axes are read; None: as stored
    # read the spatial axes in the order of the prediction or image that this belongs to
    follows: bool = False
    # voxel of the prediction, in stored axis order, at which labels begin that are smaller than it;
    # for each path; None: as their attributes say
    offsets: tuple[Triple, ...] | None = None

    def open(self, like: Volume | None = None) -> list[Volume]:
        """The volume of each path; `like` is what the axes follow, if they do."""
        order = like.spatial_axes if self.follows and like is not None else self.transpose
        return [open_volume(path, axes=self.axes, transpose=order) for path in self.paths]

    @property
    def paths(self) -> tuple[str, ...]:
        return listed(self.path)

    @property
    def only_path(self) -> str:
        (path,) = self.paths
        return path


def in_own_order(file: StoredArray | None, axes: str) -> StoredArray | None:
    """A file of labels with these stored axes, read in the order of its prediction."""
    if file is None:
        return None
    return replace(file, axes=axes, transpose=None, follows=True)


@dataclass(frozen=True)
class InferCall:
    """The call of infer.py that made a prediction, so that a report can name the next one."""

    flags: tuple[str, ...] = ()  # without those of the segmentation
    segmentation: SegmentationConfig = SegmentationConfig()  # what holds without flags for it


@dataclass(frozen=True)
class Prediction:
    """The array that is scored: the output of a network, or a segmentation."""

    path: str
    # affinities (C, Z, Y, X) in [0, 1], probabilities (C, Z, Y, X) in [0, 1], or a segmentation:
    # integers (Z, Y, X)
    content: Literal["affinities", "probabilities", "segmentation"]
    kind: TargetKind  # what the network predicts
    offsets: tuple[Triple, ...] | None = None  # (C, 3) voxels, where the file does not say
    voxel_size: Lengths | None = None  # nm, in stored axis order, where no file says
    image: StoredArray | None = None  # (Z, Y, X) or with channels: behind the report's pictures
    title: str = ""  # of the report
    attribution: str | None = None  # where the data comes from, for the report
    made_by: InferCall | None = None
    weights: str | None = None  # digest of the weights by which it was predicted, where it is known


@dataclass(frozen=True)
class Truth:
    """What a prediction is scored against: labels, skeletons or both."""

    # integers (Z, Y, X): objects or classes, 0 = background, -1 = unlabelled; smaller ones than the
    # prediction lie somewhere in it
    labels: StoredArray | None = None
    mask: StoredArray | None = None  # (Z, Y, X): labels count where it is not 0
    # `axes` are those of the positions, where they are other than the prediction's
    skeleton: StoredArray | None = None


class Mode(Enum):
    """What happens to a prediction before it is scored."""

    AS_IS = auto()  # it is a segmentation already
    ONE_THRESHOLD = auto()  # it is segmented at one threshold
    SWEEP = auto()  # it is segmented at each of many thresholds, and the best one is kept


@dataclass(frozen=True)
class Decoding:
    """How a prediction becomes the segmentation that is scored."""

    mode: Mode = Mode.AS_IS
    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS  # each in [0, 1]; not read by Mode.AS_IS
    segmentation: SegmentationConfig = SegmentationConfig()  # its threshold is not read
    metric: str | None = None  # picks the threshold; None: the default for the truth that there is
    # In a sweep also the curve of scores over all thresholds; a method with a merge tree always has
    # it.
    every_threshold: bool = False
    engine: str = "threads"  # where blocks of a volume beyond memory are computed

    @property
    def segments(self) -> bool:
        return self.mode is not Mode.AS_IS

    def at(self, threshold: float) -> SegmentationConfig:
        return replace(self.segmentation, threshold=threshold)


@dataclass(frozen=True)
class Inputs:
    """A prediction and its truth: open, and of one shape (Z, Y, X) and order of axes."""

    prediction: Prediction
    decoding: Decoding
    metric: str  # full name
    array: Volume  # that of the prediction
    channels: list[int]  # of the array, to segment by; none in Mode.AS_IS
    offsets: tuple[Triple, ...]  # of these channels, in voxels; none of probabilities
    labels: Volume | None
    mask: Volume | None
    image: Volume | None
    skeleton: Skeleton | None
    voxel_size: Lengths | None  # nm, in stored axis order
    paths: dict[str, str]  # what was opened: the prediction first, by its content
    in_memory: bool  # whether prediction, labels and segmentation fit into memory together

    @property
    def kind(self) -> TargetKind:
        return self.prediction.kind

    @property
    def affinities(self) -> Volume:
        """The prediction, which states its offsets and voxel size where its file does not."""
        stated = copy.copy(self.array)
        if stated.offsets is None:
            stated.offsets = self.prediction.offsets
        if stated.voxel_size is None:
            stated.voxel_size = self.voxel_size
        return stated

    @property
    def n_classes(self) -> int | None:
        """How many classes a segmentation of classes can have; None if its file does not say."""
        n_classes: int | None = self.array.attributes.get("classes")
        return n_classes


def open_inputs(prediction: Prediction, truth: Truth, decoding: Decoding) -> Inputs:
    """Open a prediction and its truth.

    Raises:
        ValueError: before any work, where something is missing or does not fit.
    """
    kind = prediction.kind
    if "skeleton" not in metrics_by_truth(kind.task):
        truth = replace(truth, skeleton=None)
    files = _files(prediction, truth)
    metric = choose_metric(decoding.metric, kind, files)
    volumes = _open_volumes(files, prediction.content)
    array = volumes[prediction.content]
    if decoding.segments:
        array = as_affinities(array, kind)
    _check_volumes(volumes, array)
    if decoding.every_threshold and method_of(decoding.segmentation).tree is None:
        _check_every_threshold(kind, decoding, metric, files)
    stated = [volume.voxel_size for volume in volumes.values() if volume.voxel_size is not None]
    voxel_size = stated[0] if stated else prediction.voxel_size
    channels: list[int] = []
    offsets: tuple[Triple, ...] = ()
    if decoding.segments:
        channels, offsets = _channels(prediction, array, decoding.segmentation)
    in_memory = fits_in_memory(
        array.spatial_shape, array.dtype, len(channels), decoding.segmentation, BESIDE
    )
    require(
        in_memory
        or not decoding.every_threshold
        or method_of(decoding.segmentation).tree is not None,
        "a volume that fits into memory with --exact, or --method agglomeration",
        array,
    )
    skeleton = None
    if truth.skeleton is not None:
        skeleton = _open_skeleton(truth.skeleton, voxel_size, array.spatial_axes)
        of_region = stored_region(array.attributes, array.spatial_shape)
        if of_region is not None:
            region, shape = of_region
            skeleton.require_inside(shape)
            skeleton = skeleton.cropped(region)
        skeleton.require_inside(array.spatial_shape)
    return Inputs(
        prediction=prediction,
        decoding=decoding,
        metric=metric,
        array=array,
        channels=channels,
        offsets=offsets,
        labels=volumes.get("labels"),
        mask=volumes.get("mask"),
        image=volumes.get("image"),
        skeleton=skeleton,
        voxel_size=voxel_size,
        paths={part: ", ".join(file.paths) for part, file in files.items()},
        in_memory=in_memory,
    )


def metrics_by_truth(task: Task) -> dict[str, tuple[str, ...]]:
    """The metrics of a task by the truth that they need: skeleton, labels or one of them."""
    found = {
        "skeleton": metric_names(task, "skeleton"),
        "labels": metric_names(task, "labels"),
    }
    return {needed: names for needed, names in found.items() if names}


def choose_metric(name: str | None, kind: TargetKind, truth: Collection[str]) -> str:
    """The full name of a metric, or of the default one.

    Args:
        name: None for the default.
        truth: which of "labels" and "skeleton" there are.

    Raises:
        ValueError: if there is no such metric, or it needs other truth.
    """
    metrics = metrics_by_truth(kind.task)
    if name is not None and BY_CLASS.fullmatch(name):
        require(kind.truth == "classes", f"--target classes with --metric {name}", kind.name)
        require("labels" in truth, f"--labels for the metric {name!r}", "none")
        return name
    if name is None:
        countable = [name for needed in metrics if needed in truth for name in metrics[needed]]
        name = next((default for default in DEFAULTS if default in countable), "")
    sources = {
        f"--{needed}": (names, needed if needed in truth else None)
        for needed, names in metrics.items()
    }
    check_metric(full_name(name), sources)
    return full_name(name)


def _files(prediction: Prediction, truth: Truth) -> dict[str, StoredArray]:
    """The prediction first, then the truth, then the image."""
    files = {
        prediction.content: StoredArray(prediction.path),
        "labels": truth.labels,
        "mask": truth.mask,
        "skeleton": truth.skeleton,
        "image": prediction.image,
    }
    return {part: file for part, file in files.items() if file is not None}


def _open_volumes(files: dict[str, StoredArray], content: str) -> dict[str, Volume]:
    """The volumes by their names, labels and mask at their place in the prediction `content`."""
    volumes: dict[str, Volume] = {}
    labels: list[Volume] = []
    for part, file in files.items():
        if part == "skeleton":
            continue
        opened = file.open(like=volumes.get(content))
        volumes[part] = opened[0]
        if part == "labels":
            labels = opened
    array = volumes[content]
    of_region = stored_region(array.attributes, array.spatial_shape)
    shape = array.spatial_shape if of_region is None else of_region[1]
    # a prediction begins where its image does
    begins = [array] if of_region is None else []
    if "image" in volumes and volumes["image"].spatial_shape == shape:
        begins.append(volumes["image"])
    frame = Frame(
        f"the prediction {array.path}",
        shape,
        next((volume.voxel_size for volume in begins if volume.voxel_size is not None), None),
        next((volume.origin for volume in begins if volume.origin is not None), None),
    )
    if labels:
        volumes["labels"] = place_labels(labels, frame, files["labels"].offsets)
    if "mask" in volumes:
        volumes["mask"] = place_mask(volumes["mask"], volumes.get("labels"), frame)
    if of_region is not None:
        _crop(volumes, *of_region)
    return volumes


def _crop(volumes: dict[str, Volume], region: Box, shape: Triple) -> None:
    """Replace what has the shape of the image by the region that was predicted."""
    if "image" in volumes and "c" in volumes["image"].axes:
        del volumes["image"]  # pictures have grey values of one channel
    for part, volume in volumes.items():
        if part in ("labels", "mask", "image") and volume.spatial_shape == shape:
            volumes[part] = crop(volume, region)


def _check_volumes(volumes: dict[str, Volume], prediction: Volume) -> None:
    """ValueError unless all volumes have the prediction's shape and axes, and labels are labels."""
    shape, axes = prediction.spatial_shape, prediction.spatial_axes
    for part, volume in volumes.items():
        if volume.spatial_shape != shape:
            advice = ""
            if part == "labels" and all(n <= m for n, m in zip(volume.spatial_shape, shape)):
                advice = "; --labels-offset Z Y X says where smaller labels lie in the prediction"
            raise ValueError(
                f"expected {part} of the prediction's shape {shape}, got {volume}{advice}"
            )
        both_say = "axes" in volume.attributes and "axes" in prediction.attributes
        require(
            volume.spatial_axes == axes or not both_say,
            f"{part} with the prediction's axes {axes}",
            volume,
        )
        if part in ("segmentation", "labels", "mask"):
            is_labels = volume.dtype.kind in "iub" and "c" not in volume.axes
            require(is_labels, f"{part} of three axes and an integer dtype", volume)


def _check_every_threshold(
    kind: TargetKind, decoding: Decoding, metric: str, truth: Collection[str]
) -> None:
    """ValueError, with the way out, unless a curve over every threshold can be counted."""
    way_out = "without them leave --exact out, and name many --thresholds, such as 0.4:0.95:0.01"
    instances = kind.task == "instance"
    require(instances, "instances with --exact; for a mask leave --exact out", kind.name)
    require(
        method_of(decoding.segmentation).has_curve,
        "a method that joins components with --exact; for another leave --exact out",
        decoding.segmentation.method,
    )
    require("skeleton" in truth, f"skeletons (--skeleton) with --exact; {way_out}", "none")
    require(
        metric in EXACT_METRICS,
        f"--metric {', '.join(EXACT_METRICS)} with --exact; for another leave --exact out",
        metric,
    )


def _open_skeleton(file: StoredArray, voxel_size: Lengths | None, axes: str) -> Skeleton:
    """Skeletons with positions in the order `axes`, in which voxel_size is, too."""
    stored = file.axes or axes
    if voxel_size is not None:
        along = dict(zip(axes, voxel_size))
        voxel_size = (along[stored[0]], along[stored[1]], along[stored[2]])
    skeleton = load_skeleton(file.only_path, voxel_size, axes=stored)
    return skeleton if stored == axes else skeleton.transposed(stored, axes)


def _channels(
    prediction: Prediction, array: Volume, config: SegmentationConfig
) -> tuple[list[int], tuple[Triple, ...]]:
    """The channels to segment by, and their offsets; the only one of probabilities has none."""
    check_dtype(array.dtype)
    if prediction.kind.task == "semantic":
        require(array.n_channels == 1, "a probability map of one channel", array)
        return [0], ()
    offsets = array.offsets or prediction.offsets
    if not offsets:
        raise ValueError(
            f"expected the offsets of {array.path}; --offsets names them where the file does not, "
            f"got {offsets}"
        )
    channels = channels_to_read(array.n_channels, offsets, config)
    return channels, tuple(offsets[channel] for channel in channels)
