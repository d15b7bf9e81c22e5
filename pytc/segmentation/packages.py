"""Decoders of other packages, to compare with: waterz and mwatershed.

waterz merges by the mean affinity of touching fragments; mwatershed is the mutex watershed. Neither
works in place or by blocks: both copy the affinities, to float32 and float64.
"""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

from pytc.checks import require
from pytc.segmentation.channels import short_range
from pytc.segmentation.edges import check_affinities

# The package of each method that is not pytc's own.
PACKAGES = {"waterz": "waterz", "mutex_watershed": "mwatershed"}


def require_package_of(method: str) -> None:
    """ImportError, with the way out, if a method needs a package that is missing."""
    if method in PACKAGES:
        _extra(PACKAGES[method])


def waterz_segments(
    affinities: np.ndarray,
    fragments: np.ndarray,
    threshold: float,
    offsets: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Fragments merged, strongest first, while the mean affinity of two is above a threshold.

    Only fragments that touch are merged. affinities (C, Z, Y, X) and offsets as in
    `affinities_to_segmentation`; fragments (Z, Y, X) integer, 0 background. Returns uint64 labels,
    each the label of one of its fragments. Source: Funke et al., "Large scale image segmentation
    with structured loss based deep learning for connectome reconstruction" (2019), by waterz.
    """
    waterz = _extra("waterz")
    check_affinities(affinities)
    fits = fragments.shape == affinities.shape[1:] and fragments.dtype.kind in "iu"
    require(
        fits,
        f"integer fragments of shape {affinities.shape[1:]}",
        f"{fragments.dtype} {fragments.shape}",
    )
    # waterz keeps the edge to the voxel before at each voxel
    backward = np.zeros((3, *fragments.shape), np.float32)
    for axis, values in enumerate(_as_fractions(short_range(affinities, offsets), np.float32)):
        np.moveaxis(backward[axis], axis, 0)[1:] = np.moveaxis(values, axis, 0)[:-1]
    segmentations = waterz.agglomerate(
        backward, [1 - threshold], fragments=fragments.astype(np.uint64, order="C")
    )
    segmentation: np.ndarray = next(iter(segmentations)).copy()
    return segmentation


def mutex_watershed(
    affinities: np.ndarray,
    offsets: Sequence[Sequence[int]],
    *,
    threshold: float = 0.5,
    strides: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Segmentation by edges that join and edges that keep apart, the most certain first.

    affinities (len(offsets), Z, Y, X): values above the threshold join v and v + offset, those
    below keep them apart, by their distance from it. strides: of each offset, voxels between the
    edges that are used. Returns uint64 labels, 0 where a voxel joins none. Source: Wolf et al.,
    "The mutex watershed" (2018), by mwatershed.
    """
    mwatershed = _extra("mwatershed")
    check_affinities(affinities)
    require(
        len(offsets) == len(affinities),
        f"an affinity channel for each of {len(offsets)} offsets",
        len(affinities),
    )
    certainty = _as_fractions(affinities, np.float64) - threshold
    segmentation: np.ndarray = mwatershed.agglom(
        certainty, [list(offset) for offset in offsets], strides=strides
    )
    return segmentation


def _extra(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is needed: pip install -e '.[agglomeration]' in a clone"
        ) from error


def _as_fractions(affinities: np.ndarray, dtype: type) -> np.ndarray:
    return (
        affinities.astype(dtype) / 255 if affinities.dtype == np.uint8 else affinities.astype(dtype)
    )
