"""What a sample of an image and its labels shows: figures from which `pytc.data.doubts` judges.

Everything is NumPy on boxes of a bounded number of voxels, so a look at a volume of any size takes
about a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from scipy import fft, ndimage

from pytc.config import Triple
from pytc.data.sources import Source
from pytc.geometry import Box
from pytc.io.labels import UNLABELLED, is_unlabelled
from pytc.io.placed import label_boxes

BOXES = 4  # in the sample of a volume
# Where they lie in a volume: every second corner of a cube.
CORNERS = ((0.1, 0.1, 0.1), (0.9, 0.9, 0.1), (0.9, 0.1, 0.9), (0.1, 0.9, 0.9))
BOX_VOXELS = 2**19  # in each of them, or all voxels of a volume that has no more than all boxes
REACH = 32  # voxels by which labels may be shifted, at most a quarter of a box


@dataclass(frozen=True)
class Sample:
    """A box of a volume: grey values and labels on the same voxels."""

    box: Box
    image: np.ndarray  # (Z, Y, X) float32: the first channel, 0 and 1 are the ends of the range
    labels: np.ndarray | None  # (Z, Y, X) int64, -1 where unlabelled


def take_samples(source: Source) -> list[Sample]:
    """Boxes spread over the labelled part of a volume, or over all of one without labels."""
    samples = []
    for box in spread_boxes(source):
        start, stop = cast(Triple, box.start), cast(Triple, box.stop)
        image = source.read(start, stop)[0]
        samples.append(Sample(box, image, read_labels(source, box)))
    return samples


def read_labels(source: Source, box: Box) -> np.ndarray | None:
    """Labels of a box as int64, -1 where they are unlabelled or masked; None without labels.

    Ids beyond int64 wrap around, which keeps different ids different.
    """
    if source.labels is None:
        return None
    stored = source.labels[box.slices]
    labels = stored.astype(np.int64)
    labels[is_unlabelled(stored)] = UNLABELLED
    if source.mask is not None:
        labels[source.mask[box.slices] == 0] = UNLABELLED
    return labels


def spread_boxes(source: Source) -> list[Box]:
    """The whole labelled part if it is small, else boxes near some of its corners."""
    parts = [Box((0, 0, 0), source.shape)]
    if source.labels is not None:
        parts = label_boxes(source.labels)
    boxes = []
    for part in parts:
        if math.prod(part.shape) <= BOXES * BOX_VOXELS // len(parts):
            boxes.append(part)
            continue
        size = box_shape(part.shape, BOX_VOXELS)
        for corner in CORNERS[: max(1, BOXES // len(parts))]:
            start = [
                at + round(share * (length - side))
                for at, share, length, side in zip(part.start, corner, part.shape, size)
            ]
            boxes.append(Box(tuple(start), tuple(a + n for a, n in zip(start, size))))
    return list(dict.fromkeys(boxes))


def box_shape(shape: Sequence[int], voxels: int) -> tuple[int, ...]:
    """As near to a cube of so many voxels as the shape permits."""
    sides = list(shape)
    left = float(voxels)
    for number, axis in enumerate(sorted(range(3), key=lambda axis: shape[axis])):
        sides[axis] = min(shape[axis], max(1, round(left ** (1 / (3 - number)))))
        left /= sides[axis]
    return tuple(sides)


def has_tissue(image: np.ndarray) -> bool:
    """Whether a box shows anything: it is no padding."""
    return bool(image.std() > 1e-6)


# --- axes ---


def roughness(samples: Sequence[Sample]) -> np.ndarray:
    """How much the grey value changes from a voxel to the next along each axis, (3,) float64.

    The mean squared difference of neighbours in a usual plane, without what noise adds to it (the
    part that does not grow with the distance), as a share of the variance.
    """
    steps = []
    for sample in samples:
        image = sample.image
        if min(image.shape) < 4 or not has_tissue(image):
            continue
        variance = 2 * float(image.var())
        one, two = (
            np.array([_squared_step(image, axis, step) for axis in range(3)]) / variance
            for step in (1, 2)
        )
        noise = max(0.0, min(2 * one - two))
        steps.append(np.maximum(one - noise, 1e-4))
    return np.mean(steps, axis=0) if steps else np.ones(3)


def _squared_step(image: np.ndarray, axis: int, step: int) -> float:
    lines = np.moveaxis(image, axis, 0)
    steps = np.square(lines[step:] - lines[:-step]).mean((1, 2))
    return float(np.median(steps))  # few damaged sections do not count


def crossings(samples: Sequence[Sample]) -> np.ndarray:
    """The share of neighbours with different labels along each axis, (3,) float64.

    Of pairs of labelled voxels of which one has a label above 0.
    """
    different, pairs = np.zeros(3), np.zeros(3)
    for sample in samples:
        assert sample.labels is not None
        for axis in range(3):
            lines = np.moveaxis(sample.labels, axis, 0)
            before, after = lines[:-1], lines[1:]
            counted = (np.minimum(before, after) >= 0) & (np.maximum(before, after) > 0)
            pairs[axis] += np.count_nonzero(counted)
            different[axis] += np.count_nonzero(counted & (before != after))
    return different / np.maximum(pairs, 1)


# --- image and labels ---


class Alignment(NamedTuple):
    """How well the borders (or the inside) of objects follow the image when labels are moved."""

    at_zero: float  # correlation with the labels where they are
    best: float  # with the labels where they fit best
    shift: Triple  # voxels by which the labels would have to be moved for that
    noise: float  # correlation that means nothing
    borders: int  # voxels


def alignments(samples: Sequence[Sample]) -> list[Alignment]:
    """The shift of the labels at which they follow the image best, by what says most first.

    Two things are correlated with the image: the borders of objects, and what is inside of any
    object. One that there is not, as there is no background, is left out.
    """
    found = []
    for pick in (borders, inside):
        curves: list[np.ndarray] = []
        counted = 0
        for sample in samples:
            if sample.labels is None or not _has_room(sample):
                continue
            marked, labelled = pick(sample.labels)
            curve = _correlations(sample.image, marked, labelled)
            if curve is not None:
                curves.append(curve)
                counted += int(np.count_nonzero(marked))
        if curves:
            reach = np.min([np.array(curve.shape) // 2 for curve in curves], axis=0)
            total = np.mean([_central(curve, reach) for curve in curves], axis=0)
            found.append(_judged(total, counted))
    return sorted(found, key=lambda each: -abs(each.best) / each.noise)


def _has_room(sample: Sample) -> bool:
    return min(sample.image.shape) >= 4 and has_tissue(sample.image)


def borders(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels next to another label, and voxels that are labelled: two bool arrays."""
    labelled = labels >= 0
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        lines = np.moveaxis(labels, axis, 0)
        drawn = np.moveaxis(border, axis, 0)
        other = (lines[1:] != lines[:-1]) & (np.minimum(lines[1:], lines[:-1]) >= 0)
        drawn[1:] |= other
        drawn[:-1] |= other
    return border, labelled


def inside(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of any object, and voxels that are labelled: two bool arrays."""
    return labels > 0, labels >= 0


def _correlations(image: np.ndarray, marked: np.ndarray, counted: np.ndarray) -> np.ndarray | None:
    """The correlation of the image with marked voxels for each shift of these, 0 in the middle.

    None if all counted voxels are marked, or none.
    """
    share = int(np.count_nonzero(marked & counted)) / max(1, int(np.count_nonzero(counted)))
    if not 0.002 < share < 0.998:
        return None
    marks = np.where(counted, marked - share, 0).astype(np.float32)
    grey = image - ndimage.uniform_filter(image, [min(33, n) for n in image.shape])
    reach = [max(1, min(REACH, n // 4)) for n in image.shape]
    # padded, so that what leaves on one side does not enter on the other
    padded = [fft.next_fast_len(n + r, real=True) for n, r in zip(image.shape, reach)]
    product = fft.rfftn(grey, padded) * np.conj(fft.rfftn(marks, padded))
    curve = fft.irfftn(product, padded)
    curve /= math.sqrt(float(np.square(marks).sum()) * float(np.square(grey).sum())) + 1e-12
    window = np.ix_(*(np.arange(-r, r + 1) % n for r, n in zip(reach, padded)))
    result: np.ndarray = curve[window]
    return result


def _central(curve: np.ndarray, reach: np.ndarray) -> np.ndarray:
    middle = np.array(curve.shape) // 2
    return curve[tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach))]


def _judged(curve: np.ndarray, counted: int) -> Alignment:
    middle = tuple(n // 2 for n in curve.shape)
    best = np.unravel_index(np.abs(curve).argmax(), curve.shape)
    z, y, x = (int(b) - m for b, m in zip(best, middle))
    noise = float(np.median(np.abs(curve - np.median(curve)))) * 1.48 + 1e-6
    return Alignment(float(curve[middle]), float(curve[best]), (z, y, x), noise, counted)


def correlation_in_place(samples: Sequence[Sample]) -> float:
    """The correlation of the image with the borders of the labels as they lie."""
    values = []
    for sample in samples:
        if sample.labels is not None and _has_room(sample):
            border, labelled = borders(sample.labels)
            if border[labelled].any() and not border[labelled].all():
                values.append(np.corrcoef(sample.image[labelled], border[labelled])[0, 1])
    return float(np.mean(values)) if values else 0.0


# --- labels alone ---


class Objects(NamedTuple):
    """Sizes of the objects in the samples."""

    ids: int
    tiny: int  # objects of fewer than TINY voxels that do not reach the faces of a sample
    tiny_share: float  # of the labelled foreground
    specks_share: float  # voxels of the foreground without a neighbour of the same label
    largest_id: int
    largest_share: float  # of the labelled foreground


TINY = 64  # voxels


def objects(samples: Sequence[Sample]) -> Objects:
    """Sizes of the objects in the samples; an id is one object."""
    tiny = in_tiny = specks = 0
    voxels: dict[int, int] = {}
    for sample in samples:
        labels = sample.labels
        assert labels is not None
        ids, counts = np.unique(labels[labels > 0], return_counts=True)
        for number, count in zip(ids.tolist(), counts.tolist()):
            voxels[number] = voxels.get(number, 0) + count
        faces = [np.moveaxis(labels, axis, 0)[end] for axis in range(3) for end in (0, -1)]
        cut = np.unique(np.concatenate([face.ravel() for face in faces]))
        small = (counts < TINY) & ~np.isin(ids, cut)
        tiny += int(np.count_nonzero(small))
        in_tiny += int(counts[small].sum())
        specks += int(np.count_nonzero(_is_alone(labels) & (labels > 0)))
    if not voxels:
        return Objects(0, 0, 0.0, 0.0, 0, 0.0)
    total = sum(voxels.values())
    largest = max(voxels, key=lambda number: voxels[number])
    return Objects(
        len(voxels), tiny, in_tiny / total, specks / total, largest, voxels[largest] / total
    )


def _is_alone(labels: np.ndarray) -> np.ndarray:
    """Voxels that have no face neighbour of the same label in the sample."""
    alone = np.ones(labels.shape, bool)
    for axis in range(3):
        lines, flags = np.moveaxis(labels, axis, 0), np.moveaxis(alone, axis, 0)
        other = lines[1:] != lines[:-1]
        flags[1:] &= other
        flags[:-1] &= other
    return alone


def empty_planes(labels: Sequence[tuple[Box, np.ndarray]], shape: Triple) -> list[list[int]]:
    """For each axis the planes whose voxels are all background, where most planes hold objects.

    None are named along an axis across which planes without objects are common: of sparse objects
    they are.

    labels: boxes of labels of any integer dtype; planes that no box reaches are not judged. Voxels
    that are unlabelled are no background: a plane with any of them is left out.
    """
    planes: list[list[int]] = []
    for axis in range(3):
        across = tuple(each for each in range(3) if each != axis)
        filled, is_zero = np.zeros(shape[axis], int), np.ones(shape[axis], bool)
        read = np.zeros(shape[axis], int)
        for box, values in labels:
            part = slice(box.start[axis], box.stop[axis])
            is_zero[part] &= (values == 0).all(across)
            filled[part] += np.count_nonzero(values > 0, across)
            read[part] += values.size // values.shape[axis]
        judged = read > 0
        empty = np.flatnonzero(is_zero & judged)
        share = filled[judged & ~is_zero] / read[judged & ~is_zero]
        dense = share.size > 0 and float(np.median(share)) > DENSE
        # runs of labelled planes between empty ones: of sparse objects many are short
        alternates = len(empty) > 0 and dense
        at_an_end = _runs_at_ends(empty, judged)
        planes.append(empty.tolist() if alternates else at_an_end)
    return planes


DENSE = 0.3  # of a plane labelled: then a plane without any object is unlabelled


def _runs_at_ends(empty: np.ndarray, judged: np.ndarray) -> list[int]:
    """The empty planes, if they all lie at the ends and are a twentieth of all or more."""
    is_empty = np.zeros(len(judged), bool)
    is_empty[empty] = True
    filled = np.flatnonzero(judged & ~is_empty)
    if filled.size == 0:
        return []
    inner = empty[(empty > filled[0]) & (empty < filled[-1])]
    outer = len(empty) - len(inner)
    return empty.tolist() if len(inner) == 0 and outer >= max(3, len(judged) / 20) else []


def touching(samples: Sequence[Sample]) -> float:
    """The share of the borders of objects, in the plane, beyond which another object lies near."""
    near, ends = 0, 0
    for sample in samples:
        assert sample.labels is not None
        for axis in (1, 2):
            lines = np.moveaxis(sample.labels, axis, 0)
            length = len(lines) - NEAR
            if length < 1:
                continue
            here = lines[:length]
            leaves = (here > 0) & (lines[1 : length + 1] != here)
            meets = np.zeros(here.shape, bool)
            for step in range(1, NEAR + 1):
                other = lines[step : length + step]
                meets |= (other > 0) & (other != here)
            ends += int(np.count_nonzero(leaves))
            near += int(np.count_nonzero(leaves & meets))
    return near / max(1, ends)


NEAR = 6  # voxels, which no membrane is thicker than


OBJECT_PART = 0.35  # of the mean length of objects, to each side of a voxel


def open_background(samples: Sequence[Sample]) -> float:
    """The share of the labelled voxels that are background as wide as objects are, with tissue.

    As wide: a box of background 0.7 times as long as objects are in the mean, along each axis.
    Tissue: such voxels differ from their neighbours at least half as much as those of objects.
    """
    apart = crossings(samples)
    if not apart.all():
        return 0.0
    wide = labelled = 0
    for sample in samples:
        labels = sample.labels
        assert labels is not None
        labelled += int(np.count_nonzero(labels >= 0))
        reach = [max(2, round(OBJECT_PART / share)) for share in apart]
        size = [2 * min(r, (n - 1) // 2) + 1 for r, n in zip(reach, labels.shape)]
        empty = labels == 0
        cores = ndimage.minimum_filter(empty, size, mode="constant", cval=0)
        region = ndimage.maximum_filter(cores, size, mode="constant", cval=0)
        if region.any() and (labels > 0).any():
            texture = np.abs(np.diff(sample.image, axis=2, append=sample.image[..., -1:]))
            if texture[region].mean() > 0.5 * texture[labels > 0].mean():
                wide += int(np.count_nonzero(region))
    return wide / max(1, labelled)
