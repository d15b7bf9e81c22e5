"""Growing: voxels that no component took join the one they are most strongly tied to."""

from __future__ import annotations

import numba
import numpy as np

from pytc.segmentation.connected_components import find, label_dtype
from pytc.segmentation.edges import check_affinities, comparable, ranges_above


def grow(labels: np.ndarray, affinities: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    """Labels in which every voxel that was 0 has the label it is most strongly tied to.

    labels (Z, Y, X) integer; affinities (3 or more, Z, Y, X) as for `connected_components_3d`. Edges with a value
    above `floor` (0 or more) are visited in descending affinity, equal ones in the raster order of their first voxel,
    then z, y, x; each joins the groups at its two ends unless both are labelled already: a seeded watershed on the
    affinity graph, and so a maximum spanning forest rooted in the given labels, which never change or merge. Voxels
    without a path to a label stay 0. Returns a new array of the same dtype.

    Source: Cousty et al., "Watershed cuts: minimum spanning forests and the drop of water principle", PAMI 2009.
    """
    check_affinities(affinities)
    shape = affinities.shape[1:]
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise ValueError(f"expected integer labels of shape {shape}, got {labels.dtype} {labels.shape}")
    if floor < 0:
        raise ValueError(f"expected a floor of 0 or more, got {floor}")
    keys, low, high = _ascending_keys(affinities[:3], floor)
    grown = np.array(labels, order="C")
    counts = np.zeros(max(high - low + 1, 0), np.int64)
    _count_edges(keys, grown, low, high, counts)
    places = counts[::-1].cumsum()[::-1] - counts  # where the edges of each key begin, largest key first
    edges = np.empty(counts.sum(), label_dtype((3, *shape)))
    _place_edges(keys, grown, low, high, places, edges)
    _join(grown, edges, np.arange(1, grown.size + 1, dtype=label_dtype(shape)))
    return grown


def _ascending_keys(affinities: np.ndarray, floor: float) -> tuple[np.ndarray, int, int]:
    """Unsigned integers in the order of the values, and the smallest and largest of values above the floor.

    float16 and uint8 are such integers already; other dtypes are ranked, which takes 8 bytes a value.
    """
    if affinities.dtype in (np.float16, np.uint8):
        low, high, *_ = ranges_above(floor, affinities.dtype)
        return comparable(affinities), int(low), int(high)
    values, keys = np.unique(affinities, return_inverse=True)
    low, high = np.searchsorted(values, floor, "right"), np.count_nonzero(values == values) - 1
    return keys.reshape(affinities.shape).astype(np.uint64), int(low), int(high)


@numba.njit(cache=True, nogil=True)
def _is_open(keys, labels, low, high, axis, z, y, x):
    """Does an edge above the floor lead from this voxel along the axis, to or from a voxel without a label?"""
    if not low <= keys[axis, z, y, x] <= high:
        return False
    to_z, to_y, to_x = z + (axis == 0), y + (axis == 1), x + (axis == 2)
    if to_z == labels.shape[0] or to_y == labels.shape[1] or to_x == labels.shape[2]:
        return False
    return labels[z, y, x] == 0 or labels[to_z, to_y, to_x] == 0


@numba.njit(cache=True, nogil=True)
def _count_edges(keys, labels, low, high, counts):
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                for axis in range(3):
                    if _is_open(keys, labels, low, high, axis, z, y, x):
                        counts[np.int64(keys[axis, z, y, x]) - low] += 1


@numba.njit(cache=True, nogil=True)
def _place_edges(keys, labels, low, high, places, edges):
    """Write each open edge, as 3 x voxel index + axis, to the next place of its key."""
    voxel = 0
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                for axis in range(3):
                    if _is_open(keys, labels, low, high, axis, z, y, x):
                        key = np.int64(keys[axis, z, y, x]) - low
                        edges[places[key]] = 3 * voxel + axis
                        places[key] += 1
                voxel += 1


@numba.njit(cache=True, nogil=True)
def _join(volume, edges, parents):
    """Join groups of unlabelled voxels, edge by edge; a group with a label has a labelled voxel as its root."""
    labels = volume.ravel()
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    for edge in edges:
        voxel = np.int64(edge) // 3
        i = find(parents, parents[voxel])
        j = find(parents, parents[voxel + strides[np.int64(edge) % 3]])
        if labels[i - 1] == 0:
            parents[i - 1] = j
        elif labels[j - 1] == 0:
            parents[j - 1] = i
    for i in range(len(labels)):
        if labels[i] == 0:
            labels[i] = labels[find(parents, parents[i]) - 1]
