"""Affinities to instances: connected components, slab by slab.

Each thread labels the components of a slab of planes (label_runs.py). Labels that meet at the faces
between slabs are then united in a small table, which also numbers the components in raster order of
first voxels (label_tables.py). So the number of slabs changes no label. Plain form:
`plain.flood_fill`.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pytc.segmentation.channels import short_range
from pytc.segmentation.edges import (
    Ranges,
    check_affinities,
    comparable,
    edge_flags,
    label_dtype,
    ranges_above,
    slabs_of,
)
from pytc.segmentation.label_runs import label_slab
from pytc.segmentation.label_tables import component_sizes, final_numbers, join_face, relabel


def connected_components_3d(
    affinities: np.ndarray,
    threshold: float = 0.5,
    *,
    min_size: int = 0,
    threads: int | None = None,
) -> np.ndarray:
    """Components of voxels joined by affinities above a threshold.

    affinities (3 or more, Z, Y, X): channels 0, 1, 2 at v are the edges to v + (1, 0, 0),
    (0, 1, 0), (0, 0, 1), true where value > threshold, compared exactly; further channels are not
    read. float16, float32, float64, bool or an integer dtype; uint8 stands for value / 255, as
    predictions are stored. Any memory order; nothing is copied.

    Returns labels (Z, Y, X) uint32 (uint64 above 2^32 - 1 voxels): 0 where a voxel has no true edge
    to any neighbour or its component has fewer than min_size voxels, otherwise 1, 2, ... in raster
    order of first voxels. A lone voxel whose only true edge leaves the volume is background. The
    result does not depend on `threads` (all of numba's by default). ValueError for other shapes,
    dtypes and kinds of arrays.

    >>> affinities = np.zeros((3, 1, 1, 4))
    >>> affinities[2, 0, 0] = [0.9, 0.2, 0.2, 0.9]  # the last one leaves the volume
    >>> connected_components_3d(affinities)
    array([[[1, 1, 0, 0]]], dtype=uint32)
    """
    check_affinities(affinities, integers=True)
    shape = affinities.shape[1:]
    ranges = ranges_above(threshold, affinities.dtype)
    edges = comparable(affinities[:3])
    labels: np.ndarray = np.empty(shape, label_dtype(shape))
    count = label_planes(edges, ranges, 0, shape[0], labels, min_size=min_size, threads=threads)
    if count == 0 and edges.dtype == np.uint8 and affinities.dtype == np.uint8:
        warn_of_zeros_and_ones(edges)
    return labels


def warn_of_zeros_and_ones(edges: np.ndarray) -> None:
    """Warn a user who has stored edges as 0 and 1 that uint8 means value / 255."""
    if edges.size > 0 and edges.max() == 1:
        warnings.warn(
            "no component found: uint8 affinities stand for value / 255, and none is above 1; "
            "pass bool where 1 means an edge",
            stacklevel=3,
        )


def affinities_to_segmentation(
    affinities: np.ndarray,
    threshold: float = 0.5,
    use_long_range: bool = False,
    *,
    offsets: Sequence[Sequence[int]] | None = None,
    min_size: int = 0,
    threads: int | None = None,
) -> np.ndarray:
    """Components of an affinity volume by its three short channels, those to the next voxels.

    affinities (3 or more, Z, Y, X): the short channels are the first three, or with offsets, one a
    channel, those of (1, 0, 0), (0, 1, 0) and (0, 0, 1). The rest as in `connected_components_3d`.
    Long channels never join voxels: use_long_range=True changes nothing, and warns. ValueError
    where the offsets do not fit the channels or lack one of the three.
    """
    check_affinities(affinities, integers=True)
    if use_long_range:
        warnings.warn("components are joined by short-range affinities alone", stacklevel=2)
    return connected_components_3d(
        short_range(affinities, offsets), threshold, min_size=min_size, threads=threads
    )


def label_planes(
    edges: np.ndarray,
    ranges: Ranges,
    start: int,
    stop: int,
    labels: np.ndarray,
    *,
    min_size: int = 0,
    threads: int | None = None,
) -> int:
    """Fills `labels` (stop - start, Y, X) with the components of these planes, numbered from 1.

    Returns how many. edges (3, Z, Y, X) as `comparable` gives them, ranges as `ranges_above`. Edges
    to the planes before and after make a voxel foreground, and join nothing.
    """
    assert labels.flags.c_contiguous
    if labels.size == 0:
        return 0
    bounds = slabs_of(stop - start, threads=threads)
    slabs = [labels[a:b] for a, b in bounds]

    def label(bound: tuple[int, int], slab: np.ndarray) -> int:
        return label_slab(edges, ranges, start + bound[0], start + bound[1], slab)

    with ThreadPoolExecutor(len(slabs)) as pool:
        counts = list(pool.map(label, bounds, slabs))
        before = np.cumsum([0, *counts])  # how many labels the slabs before have
        parents = np.arange(before[-1] + 1, dtype=labels.dtype)
        flags = np.empty((1, *labels.shape[1:]), np.uint8)
        for i in range(1, len(slabs)):
            last_plane = start + bounds[i][0] - 1
            edge_flags(edges, ranges, last_plane, last_plane + 1, flags)
            join_face(flags[0], slabs[i - 1][-1], slabs[i][0], before[i - 1], before[i], parents)

        sizes = np.zeros(0, np.int64)
        if min_size > 1:
            of_slabs = pool.map(component_sizes, slabs, counts)
            sizes = np.concatenate([[0], *(of_slab[1:] for of_slab in of_slabs)])
        numbers = final_numbers(parents, sizes, min_size)

        def number(slab: np.ndarray, first: int) -> None:
            relabel(slab.ravel(), numbers[first:])

        list(pool.map(number, slabs, before[:-1]))
    return int(numbers.max())
