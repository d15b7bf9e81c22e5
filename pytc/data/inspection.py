"""A first look at the volumes: a line about each, and a warning of what looks wrong with it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from pytc.checks import require
from pytc.config import Config, Lengths, Triple
from pytc.data.doubts import CHECKS, Look, doubts, unlike_training
from pytc.data.facts import Facts
from pytc.data.sources import Source, open_source
from pytc.geometry import Box
from pytc.io import intensity
from pytc.io.labels import is_unlabelled
from pytc.io.placed import label_boxes, share_of
from pytc.io.volume import Volume

LOGGER = logging.getLogger(__name__)

# A network does not fit voxels that differ in size by more than this factor along an axis.
SIZES_ALIKE = 1.5
# Volumes that are looked at before a training, at some seconds each; `pytc check` looks at all.
MOST_LOOKED_AT = 16


def inspect(source: Source) -> tuple[Facts, list[str]]:
    """The facts of a volume, and a sentence about each thing that looks wrong with it.

    Of a large volume a sample is read. ValueError names the first voxel whose grey value is not a
    finite number.
    """
    look = take_look(source)
    return look.facts, doubts(look)


def take_look(source: Source) -> Look:
    """Read a sample of a volume; the checks of `pytc.data.doubts` read more."""
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
    if source.labels is None:
        return Look(source, facts, boxes)
    boxes_of_labels = sample_of_labels(source.labels)
    labels = [source.labels[box.slices] for box in boxes_of_labels]
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
    return Look(source, facts, boxes, list(zip(boxes_of_labels, labels)))


def sample_of_labels(labels: Volume) -> list[Box]:
    """Boxes, evenly spread over the labels, in the coordinates of the image."""
    return [
        box.moved(part.start)
        for part in label_boxes(labels)
        for box in intensity.sample_boxes(cast(Triple, part.shape))
    ]


def inspect_run(config: Config) -> list[Facts]:
    """Log a line about each volume of a run; returns the facts of its training volumes.

    Args:
        config: of the run, whose synthetic volumes have been made.

    Raises:
        ValueError: a volume is missing, does not fit, or differs from the training volumes in the
            order of its axes or the size of its voxels.
    """
    looks = look_at_volumes(config)
    if not config.data.validation:
        LOGGER.info(
            "no validation volume is named (--data.val.0.image): best.pt is the last checkpoint"
        )
    return [look.facts for look in looks[: len(config.data.train)]]


def look_at_volumes(config: Config, *, patient: bool = False) -> list[Look]:
    """Log a line about each volume of a run and what looks wrong; training volumes come first.

    patient: look at all of them, and read what is slow to read, too. Raises as `inspect_run` does.
    """
    training: list[Facts] = []
    looks: list[Look] = []
    parts = {"training": config.data.train, "validation": config.data.validation}
    for role, volumes in parts.items():
        for number, volume in enumerate(volumes):
            source = open_source(volume, config.data, config.model.in_channels)
            look = take_look(source)
            flag = f"--data.{'train' if role == 'training' else 'val'}.{number}."
            require_alike(look.facts, training, prefix=flag, role=role)
            look.config, look.flag, look.patient = config, flag, patient
            if role == "training":
                training.append(look.facts)
            else:
                look.training, look.trained = training, looks[0]
            LOGGER.info(f"{role} volume {look.facts}")
            if patient or len(looks) < MOST_LOOKED_AT:
                look.said = doubts(look)
            for doubt in look.said:
                LOGGER.warning(doubt)
            looks.append(look)
    left_out = len(looks) - MOST_LOOKED_AT
    if left_out > 0 and not patient:
        LOGGER.info(f"the last {left_out} volumes are not looked at closely; pytc check does it")
    return looks


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
    check = next(each for each in CHECKS if each.name == "unlike training")
    return [
        check.message.format(image=facts.image, **words)
        for words in unlike_training(facts, training, "--")
    ]
