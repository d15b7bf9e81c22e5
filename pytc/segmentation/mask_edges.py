"""Predictions of what lies inside of objects, read as affinities, so that every decoder takes them.

How far inside of an object a voxel lies, from 0 to 1, follows from the prediction (`INSIDE`). The
affinity of two neighbours is about the lower one of the two, and 0 where that is 0:

    inside       0   .2  .9  .8  .1  .7  .9  0      a contour lies between two objects
    affinity       0  .27 .81 .17 .16 .72  0        seeds: .81 and .72 are above a threshold of .5;
                                                    a seeded watershed then reaches what is above 0

A tenth of the higher one is added to nine tenths of the lower one: so a voxel at the border is tied
most strongly to the neighbour that lies deepest, not to both alike. Components at a threshold are
seeds, and components_watershed is the seeded watershed of mask and contour.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from pytc.io.stored import Stored
from pytc.io.volume import Volume
from pytc.segmentation.plain import NEIGHBOURS
from pytc.target_kinds import TargetKind

HIGHER = 0.1  # share of the higher one of two neighbours in their affinity
CONTOUR = 0.9  # share of the mask that a contour takes away
FOREGROUND = 0.5  # a voxel of a lower probability lies in no object


def inside_of_contours(probability: np.ndarray) -> np.ndarray:
    """Mask times not contour, and 0 outside of the mask, of (2, Z, Y, X): both in [0, 1].

    A contour leaves a tenth of the mask, so the watershed reaches the rim of an object, too.
    """
    mask, contour = probability
    inside: np.ndarray = np.where(mask > FOREGROUND, mask * (1 - CONTOUR * contour), 0)
    return inside


def inside_by_distance(probability: np.ndarray) -> np.ndarray:
    """tanh of the distance to the border of an object, 0 outside, of (1, Z, Y, X): 0.5 is 0."""
    inside: np.ndarray = np.maximum(2 * probability[0] - 1, 0)
    return inside


# For each target kind of objects that is no affinity: f(prediction) -> (Z, Y, X) in [0, 1].
INSIDE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mask_contour": inside_of_contours,
    "distance": inside_by_distance,
}


def as_affinities(prediction: Volume, kind: TargetKind) -> Volume:
    """A stored prediction of objects as affinities of steps of one voxel along z, y and x.

    They are made for each part that is read. Affinities, and predictions of other kinds, are
    returned as they are.
    """
    if kind.name not in INSIDE:
        return prediction
    return MaskEdges(prediction, INSIDE[kind.name])


class MaskEdges(Volume):
    """Affinities (3, Z, Y, X) float16, made of a prediction."""

    def __init__(self, prediction: Volume, inside: Callable[[np.ndarray], np.ndarray]) -> None:
        steps = [list(step) for step in NEIGHBOURS]
        axes = "c" + prediction.spatial_axes
        attributes = prediction.attributes | {"axes": axes, "offsets": steps}
        shape = (len(steps), *prediction.spatial_shape)
        opens = partial(_Edges, prediction, inside)
        stored = Stored(shape, np.float16, attributes, opens)
        super().__init__(stored, prediction.path, axes, prediction.voxel_size)


class _Edges:
    """Affinities, sliced like one array."""

    def __init__(self, prediction: Volume, inside: Callable[[np.ndarray], np.ndarray]) -> None:
        self.prediction = prediction
        self.inside = inside

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """slices: of channels and of three axes; each has a start, a stop and a positive step."""
        channels, *parts = slices
        lengths = self.prediction.spatial_shape
        start = tuple(part.start for part in parts)
        stop = tuple(min(part.stop + 1, length) for part, length in zip(parts, lengths))
        values = self.prediction.read(start, stop)
        scale = 255 if values.dtype == np.uint8 else 1
        inside = self.inside(values.astype(np.float32) / scale)
        edges = np.zeros((3, *inside.shape), np.float16)
        for axis, edge in enumerate(edges):
            here = [slice(None)] * 3
            there = [slice(None)] * 3
            here[axis], there[axis] = slice(None, -1), slice(1, None)
            pair = np.sort([inside[tuple(here)], inside[tuple(there)]], axis=0)
            edge[tuple(here)] = np.where(pair[0] > 0, pair[0] + HIGHER * (pair[1] - pair[0]), 0)
        wanted = [slice(0, part.stop - part.start, part.step) for part in parts]
        return edges[(channels, *wanted)]
