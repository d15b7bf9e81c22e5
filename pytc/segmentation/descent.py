"""Components while the threshold falls, seen from voxels of interest: one forest, to which each step adds edges.

Components only merge. So the voxels can be lined up such that those of each component, at each threshold, are a
stretch of the line; when neighbours on it are joined tells their components at all thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from pytc.segmentation.connected_components import connected_components_3d, find
from pytc.segmentation.edges import descending_edges, edge_levels

NEVER = np.iinfo(np.int32).max


def descend(affinities: np.ndarray, thresholds: Sequence[float], positions: np.ndarray, min_size: int = 0) -> tuple:
    """Follow nodes through the components of `connected_components_3d` at thresholds in descending order.

    affinities, min_size as there; positions (N, 3): voxels of the nodes. Returns the nodes' indices in line and, by
    place on it, the times (indices of thresholds) from which a node has a label, and has that of the next node; NEVER
    if not at all. ValueError if a node lies outside the volume. Memory: 15 bytes a voxel and 4 an
    edge between the first and the last threshold; about twice that for volumes of more than 2^32 / 3 voxels.
    """
    min_size = max(min_size, 2)  # a voxel without an edge is not in a component
    volume = connected_components_3d(affinities, thresholds[0])
    forest = volume.ravel()  # index + 1 of another voxel of the component, or of itself
    more = np.zeros(forest.shape, forest.dtype)  # voxels of a component, at its root, without the root
    _point_to_first(forest, np.zeros(forest.max(initial=0) + 1, forest.dtype), more)
    edges, counts = descending_edges(edge_levels(affinities[:3], thresholds), volume, 1, len(thresholds) - 1)

    voxels = np.ravel_multi_index(tuple(positions.T), volume.shape)
    nodes = np.argsort(forest[voxels], kind="stable")
    roots = forest[voxels[nodes]].astype(np.int64) - 1
    born = np.where(more[roots] + 1 >= min_size, 0, NEVER)
    joined = np.where(np.diff(roots, append=-1) == 0, 0, NEVER)
    tails = np.flatnonzero(joined)
    following = np.arange(1, len(nodes) + 1)  # the first node of a component comes after its last one
    following[tails] = np.append(0, tails + 1)[:-1]
    tail_at = np.zeros(forest.shape, np.int32)  # index + 1 of the last node in a component, at its root
    tail_at[roots[tails]] = tails + 1
    _join(volume, edges, np.cumsum(counts), min_size, more, tail_at, following, born, joined)

    order, following = [], following.tolist()
    for tail in np.flatnonzero(joined == NEVER).tolist():
        order.append(following[tail])
        while order[-1] != tail:
            order.append(following[order[-1]])
    return nodes[order], born[order], np.maximum(joined, born)[order]


def segments_at(time: int, descent: tuple) -> np.ndarray:
    """A name for the component of each node, by index, (N,) uint64; 0 for none. descent: as from `descend`."""
    nodes, born, joined = descent
    segments = np.empty(len(nodes), np.uint64)
    segments[nodes] = np.where(born <= time, np.cumsum(np.append(1, joined[:-1] > time)), 0)
    return segments


@numba.njit(cache=True, nogil=True)
def _point_to_first(labels, first, more):
    for i in range(len(labels)):
        if labels[i] == 0 or first[labels[i]] == 0:
            first[labels[i]] = i + 1
        else:
            more[first[labels[i]] - 1] += 1
        labels[i] = first[labels[i]]


@numba.njit(cache=True, nogil=True)
def _join(volume, edges, ends, min_size, more, tail_at, following, born, joined):
    forest = volume.ravel()
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    start = 0
    for time, end in enumerate(ends, 1):
        for edge in edges[start:end]:
            voxel = np.int64(edge) // 3
            other = voxel + strides[np.int64(edge) % 3]
            i, j = np.int64(find(forest, forest[voxel])) - 1, np.int64(find(forest, forest[other])) - 1
            if i == j:
                continue
            if more[i] < more[j]:
                i, j = j, i
            forest[j] = i + 1
            more[i] += more[j] + 1
            tail, new_tail = tail_at[i] - 1, tail_at[j] - 1
            if more[i] + 1 >= min_size:
                for node in (tail, new_tail):
                    while node >= 0 and born[node] == NEVER:
                        born[node] = time
                        node = following[node]
            if tail >= 0 and new_tail >= 0:
                joined[tail] = time
                following[tail], following[new_tail] = following[new_tail], following[tail]
            if new_tail >= 0:
                tail_at[i] = new_tail + 1
        start = end
