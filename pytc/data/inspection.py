"""A first look at the volumes: a line about each, and a warning of what looks wrong with it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np

from pytc.checks import require
from pytc.config import Config, Lengths, Triple
from pytc.data.sources import Source, open_source
from pytc.geometry import Box
from pytc.io import intensity
from pytc.io.labels import is_unlabelled
from pytc.io.placed import label_boxes, share_of
from pytc.io.volume import Volume
from pytc.target_kinds import target_kind

LOGGER = logging.getLogger(__name__)

# Most voxels have the same label as their neighbour along an axis; few have the same grey value.
LABELS_AGREE = 0.9
GREYS_AGREE = 0.5
FEW_VALUES = 8
# A network does not fit voxels that differ in size by more than this factor along an axis.
SIZES_ALIKE = 1.5


@dataclass(frozen=True)
class Facts:
    """Facts of an opened volume, as plain types: a checkpoint keeps them."""

    name: str
    image: str
    axes: str  # spatial, in the order in which they are read
    axes_from: str
    shape: Triple
    dtype: str
    grey_range: intensity.Range  # stored values that a network sees as 0 and 1
    histogram: tuple[float, ...]  # of the mapped values, as from intensity.histogram
    voxel_size: Lengths | None
    voxel_size_from: str
    labels: str | None = None
    n_labels: int = 0  # in the sample
    sampled: bool = False  # whether the volume is larger than the sample
    foreground: float = 0.0  # share of voxels with a label above 0
    unlabelled: float = 0.0  # share of unlabelled voxels
    # share of the image that labels smaller than it take up; the shares above are of their voxels
    labels_share: float = 1.0

    def __str__(self) -> str:
        low, high = self.grey_range
        size = "of unknown size"
        if self.voxel_size is not None:
            lengths = " x ".join(f"{length:g}" for length in self.voxel_size)
            size = f"{lengths} nm ({self.voxel_size_from})"
        parts = [
            f"{self.name}: {self.image}, {self.axes} {' x '.join(map(str, self.shape))}",
            f"{self.dtype}, grey {low:g} to {high:g}, voxels {size}",
        ]
        if self.labels is None:
            return ", ".join([*parts, "no labels"])
        number = f"{self.n_labels:,} labels"
        if self.sampled:
            number = f"{number} in a sample"
        parts.append(f"{number}, {self.foreground:.1%} labelled")
        if self.unlabelled:
            parts.append(f"{self.unlabelled:.1%} unlabelled")
        if self.labels_share < 1:
            parts.append(f"in a part of {self.labels_share:.1%} of the image")
        return ", ".join(parts)


def inspect(source: Source) -> tuple[Facts, list[str]]:
    """The facts of a volume, and a sentence about each thing that looks wrong with it.

    Of a large volume a sample is read. ValueError names the first voxel whose grey value is not a
    finite number.
    """
    image = source.image
    boxes = intensity.take_sample(image)
    values = intensity.without_padding(boxes)
    facts = Facts(
        name=source.name,
        image=image.path,
        axes=image.spatial_axes,
        axes_from=image.axes_from,
        shape=image.spatial_shape,
        dtype=str(image.dtype),
        grey_range=source.grey_range,
        histogram=tuple(intensity.histogram(values, source.grey_range)),
        voxel_size=image.voxel_size,
        voxel_size_from=image.voxel_size_from,
        sampled=math.prod(image.spatial_shape) > intensity.SAMPLE,
    )
    doubts = []
    if looks_like_labels(boxes):
        doubts.append(
            f"the image {image.path} looks like labels: neighbouring voxels mostly have the same "
            "value; are image and labels exchanged?"
        )
    if source.labels is None:
        return facts, doubts
    boxes_of_labels = sample_of_labels(source.labels)
    labels = [source.labels[box.slices] for box in boxes_of_labels]
    if looks_like_image(labels):
        most = max(len(np.unique(box)) for box in labels)
        doubts.append(
            f"the labels {source.labels.path} look like an image: most neighbouring voxels have "
            f"different ones ({most:,} in one patch); are image and labels exchanged?"
        )
    is_labelled = [~is_unlabelled(box) for box in labels]
    if source.mask is not None:
        masks = [source.mask[box.slices] for box in boxes_of_labels]
        is_labelled = [flags & (mask != 0) for flags, mask in zip(is_labelled, masks)]
    ids = np.concatenate([box[flags] for box, flags in zip(labels, is_labelled)])
    total = sum(box.size for box in labels)
    facts = replace(
        facts,
        labels=source.labels.path,
        n_labels=int(np.count_nonzero(np.unique(ids))),
        foreground=np.count_nonzero(ids) / total,
        unlabelled=1 - ids.size / total,
        labels_share=share_of(source.labels),
    )
    return facts, doubts


def sample_of_labels(labels: Volume) -> list[Box]:
    """Boxes, evenly spread over the labels, in the coordinates of the image."""
    return [
        box.moved(part.start)
        for part in label_boxes(labels)
        for box in intensity.sample_boxes(cast(Triple, part.shape))
    ]


def looks_like_labels(boxes: Sequence[np.ndarray]) -> bool:
    """Whether an image has few values, or most voxels have the value of their neighbour."""
    padding = intensity.padding_value(list(boxes))
    values = intensity.without_padding(list(boxes))[::7]
    if len(np.unique(values)) < FEW_VALUES:
        return True
    same, pairs = 0, 0
    for box in boxes:
        before, after = box[..., :-1], box[..., 1:]
        counted = np.ones(before.shape, bool) if padding is None else before != padding
        same += int(np.count_nonzero((before == after) & counted))
        pairs += int(np.count_nonzero(counted))
    return same > LABELS_AGREE * pairs


def looks_like_image(boxes: Sequence[np.ndarray]) -> bool:
    """Whether most labels differ from the label of their neighbour."""
    same, pairs = 0, 0
    for box in boxes:
        before, after = box[..., :-1], box[..., 1:]
        counted = (before != 0) | (after != 0)
        same += int(np.count_nonzero((before == after) & counted))
        pairs += int(np.count_nonzero(counted))
    return same < GREYS_AGREE * pairs


def inspect_run(config: Config) -> list[Facts]:
    """Log a line about each volume of a run; returns the facts of its training volumes.

    Args:
        config: of the run, whose synthetic volumes have been made.

    Raises:
        ValueError: a volume is missing, does not fit, or differs from the training volumes in the
            order of its axes or the size of its voxels.
    """
    training: list[Facts] = []
    parts = {"training": config.data.train, "validation": config.data.validation}
    for role, volumes in parts.items():
        for number, volume in enumerate(volumes):
            source = open_source(volume, config.data, config.model.in_channels)
            facts, doubts = inspect(source)
            part = "train" if role == "training" else "val"
            require_alike(facts, training, prefix=f"--data.{part}.{number}.", role=role)
            if role == "training":
                training.append(facts)
            doubts += _doubts_about_patches(facts, config)
            LOGGER.info(f"{role} volume {facts}")
            for doubt in doubts:
                LOGGER.warning(doubt)
    if not config.data.validation:
        LOGGER.info(
            "no validation volume is named (--data.val.0.image): best.pt is the last checkpoint"
        )
    return training


def _doubts_about_patches(facts: Facts, config: Config) -> list[str]:
    doubts = []
    patch = config.data.patch_size
    if any(p > n for p, n in zip(patch, facts.shape)):
        inside = math.prod(min(p, n) for p, n in zip(patch, facts.shape)) / math.prod(patch)
        doubts.append(
            f"patches of {patch} are larger than {facts.image} of {facts.shape}: {1 - inside:.0%} "
            "of each is mirrored and without labels; a smaller --data.patch-size avoids that"
        )
    alone = facts.labels is not None and facts.n_labels == 1
    if alone and target_kind(config.target.kind).task == "instance":
        doubts.append(
            f"{facts.labels} holds a single object: affinities learn to separate objects; "
            "for a mask take --target.kind binary --model.out-channels 1"
        )
    return doubts


def require_alike(
    facts: Facts, training: Sequence[Facts], *, prefix: str, role: str, transpose: str = ""
) -> None:
    """ValueError, with the flag that helps, if a volume does not fit the training volumes.

    All volumes must have the same order of axes. Either all have a voxel size or none has. The
    voxel size of a validation or input volume must be close to that of a training volume.

    Args:
        facts: of the volume.
        training: facts of the training volumes, none of them for the first.
        prefix: of the flags that describe the volume, e.g. "--data.val.0." or "--".
        role: training, validation or input.
        transpose: the flag that reorders its axes; by default prefix + "transpose" and the order.
    """
    if not training:
        return
    first = training[0]
    if facts.axes != first.axes:
        flag = transpose or f"{prefix}transpose {first.axes}"
        hint = "" if facts.axes_from else f", or {prefix}axes {first.axes} if it is stored so"
        raise ValueError(
            f"expected the axes {first.axes} of the training volume {first.image} in the {role} "
            f"volume {facts.image}, got {facts.axes!r}; {flag} reads them in this order{hint}"
        )
    size = facts.voxel_size
    sizes = [each.voxel_size for each in training if each.voxel_size is not None]
    if not sizes and size is not None and role != "input":
        raise ValueError(
            f"expected the voxel size of the training volume {first.image} (by "
            f"--data.train.0.voxel-size, in nm), as {facts.image} has one, got None"
        )
    if sizes and size is None:
        raise ValueError(
            f"expected the voxel size of the {role} volume {facts.image} (by {prefix}voxel-size, "
            f"in nm), as the training volume {first.image} has one, {sizes[0]}, got None"
        )
    if sizes and size is not None and role != "training":
        require(
            any(_are_close(size, other) for other in sizes),
            f"voxels of about {sizes[0]} nm, as in the training volume {first.image}, in the "
            f"{role} volume {facts.image} ({prefix}voxel-size corrects it)",
            size,
        )


def _are_close(size: Lengths, other: Lengths) -> bool:
    return all(max(a, b) <= SIZES_ALIKE * min(a, b) for a, b in zip(size, other))


def grey_doubts(facts: Facts, training: Sequence[Facts]) -> list[str]:
    """A sentence if the mapped grey values of an input differ much from all training volumes."""
    if not training:
        return []
    histogram = list(facts.histogram)
    shifts = [intensity.shift_between(histogram, list(each.histogram)) for each in training]
    if min(shifts) <= intensity.FAR:
        return []
    nearest = training[int(np.argmin(shifts))]
    return [
        f"the grey values of {facts.image}, mapped from {facts.grey_range[0]:g} to "
        f"{facts.grey_range[1]:g}, are {min(shifts):.2f} of their range away from those of the "
        f"training volume {nearest.image}: is it inverted, or should --intensity LOW HIGH be named?"
    ]


def to_plain(training: Sequence[Facts]) -> list[dict[str, Any]]:
    """Facts as a checkpoint keeps them."""
    return [asdict(facts) for facts in training]


def from_plain(kept: Sequence[dict[str, Any]]) -> list[Facts]:
    """Facts from a checkpoint; an empty list if a release before they were kept wrote it."""
    return [Facts(**facts) for facts in kept]
