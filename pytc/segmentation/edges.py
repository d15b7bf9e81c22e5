"""Edges between neighbours: which are above a threshold, as one byte of flags a voxel, or all in descending order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

AFFINITY_DTYPES = ("float16", "float32", "float64", "uint8")


def check_affinities(affinities: np.ndarray) -> None:
    """ValueError unless this is a (C >= 3, Z, Y, X) array of a dtype that affinities come in."""
    if len(affinities.shape) != 4 or affinities.shape[0] < 3:
        raise ValueError(f"expected affinities of shape (3 or more, Z, Y, X), got {tuple(affinities.shape)}")
    check_dtype(affinities.dtype)


def check_dtype(dtype: np.dtype) -> None:
    """ValueError unless affinities come in this dtype."""
    if str(dtype) not in AFFINITY_DTYPES:
        raise ValueError(f"expected affinities of dtype {', '.join(AFFINITY_DTYPES)}, got {dtype}")


def label_dtype(shape: Sequence[int]) -> type:
    """The smallest of uint32 and uint64 that can number every voxel."""
    return np.uint32 if math.prod(shape) < 2**32 else np.uint64


def comparable(affinities: np.ndarray) -> np.ndarray:
    """The same memory in a dtype that compiled code can compare: float16 is seen as its bit patterns."""
    return affinities.view(np.uint16) if affinities.dtype == np.float16 else affinities


def ranges_above(threshold: float, dtype: np.dtype) -> tuple:
    """Two closed ranges (low, high, low, high) of `comparable` values that hold exactly the values > threshold.

    The comparison is that of float64; uint8 stands for value / 255; NaN is above nothing. An empty range has
    low > high. Patterns of float16 ascend with the value from 0 to infinity, and descend below -0.
    """
    if not np.isfinite(threshold):
        raise ValueError(f"expected a finite threshold, got {threshold}")
    dtype = np.dtype(dtype)
    if dtype == np.uint8:
        low = np.count_nonzero(np.arange(256) / 255 <= threshold)
        return np.uint16(low), np.uint16(255), np.uint16(1), np.uint16(0)
    with np.errstate(over="ignore"):
        low = dtype.type(threshold)
        if float(low) <= threshold:
            low = np.nextafter(low, dtype.type(np.inf))
    if dtype != np.float16:
        return low, dtype.type(np.inf), dtype.type(1), dtype.type(0)
    bits, infinity, minus_zero = low.view(np.uint16), np.uint16(0x7C00), np.uint16(0x8000)
    if np.signbit(low):
        return np.uint16(0), infinity, minus_zero, bits
    return bits, infinity, np.uint16(1), np.uint16(0)


def is_above(values: np.ndarray, threshold: float) -> np.ndarray:
    """value > threshold, compared in float64, as a bool array; uint8 stands for value / 255."""
    low, high, low2, high2 = ranges_above(threshold, values.dtype)
    values = comparable(values)
    return ((values >= low) & (values <= high)) | ((values >= low2) & (values <= high2))


def edge_flags(affinities: np.ndarray, ranges: tuple, start: int, stop: int, mask, flags: np.ndarray) -> None:
    """Fill `flags` (stop - start, Y, X) uint8: bits 1, 2, 4 of v tell of an edge to the next voxel along z, y, x.

    `affinities` (3, Z, Y, X) as `comparable` gives them, planes start to stop; edges that leave the volume or
    have an end outside `mask` (Z, Y, X) bool or None are not edges.
    """
    _threshold(affinities[0, start:stop], affinities[1, start:stop], affinities[2, start:stop], *ranges, flags)
    if stop == affinities.shape[1]:
        flags[-1:] &= 6
    flags[:, -1:] &= 5
    flags[:, :, -1:] &= 3
    if mask is not None:
        inside = mask[start:stop]
        below = mask[start + 1:stop + 1]
        flags[:len(below)][~below] &= 6
        flags[:, :-1][~inside[:, 1:]] &= 5
        flags[:, :, :-1][~inside[:, :, 1:]] &= 3
        flags[~inside] = 0


@numba.njit(cache=True, nogil=True)
def _threshold(along_z, along_y, along_x, low, high, low2, high2, flags):
    for z in range(flags.shape[0]):
        for y in range(flags.shape[1]):
            a, b, c, out = along_z[z, y], along_y[z, y], along_x[z, y], flags[z, y]
            for x in range(flags.shape[2]):
                in_z = ((a[x] >= low) & (a[x] <= high)) | ((a[x] >= low2) & (a[x] <= high2))
                in_y = ((b[x] >= low) & (b[x] <= high)) | ((b[x] >= low2) & (b[x] <= high2))
                in_x = ((c[x] >= low) & (c[x] <= high)) | ((c[x] >= low2) & (c[x] <= high2))
                out[x] = np.uint8(in_z) | (np.uint8(in_y) << np.uint8(1)) | (np.uint8(in_x) << np.uint8(2))


def values_above(affinities: np.ndarray, floor: float) -> np.ndarray:
    """The finite values above `floor` that there are, float64, ascending; of float16 and uint8, all there can be."""
    small = affinities.dtype.itemsize < 4
    values = _every_value(affinities.dtype) if small else np.unique(affinities).astype(np.float64)
    return np.sort(values[np.isfinite(values) & (values > floor)])


def _every_value(dtype: np.dtype) -> np.ndarray:
    values = np.arange(256**dtype.itemsize).astype(f"u{dtype.itemsize}").view(dtype)
    return values / 255 if dtype == np.uint8 else values.astype(np.float64)


def descending_edges(
    affinities: np.ndarray, labels: np.ndarray, floors: np.ndarray, nodes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Edges above the lowest floor in descending order, and how many are above each floor, the highest first.

    affinities (3, Z, Y, X); labels (Z, Y, X): edges within one label, 0 apart, are left out; floors: ascending. An
    edge (n, 2) is the numbers that its voxels have in nodes (Z, Y, X). Edges between the same floors come in the
    raster order of their first voxel, then z, y, x. Memory: a byte a voxel and 8 an edge (16 with uint64 nodes).
    """
    small = affinities.dtype.itemsize < 4
    levels = np.searchsorted(floors, _every_value(affinities.dtype)) if small else np.empty(0, np.int64)
    levels = levels.astype(np.min_scalar_type(len(floors)))
    slabs = numba.config.NUMBA_NUM_THREADS if len(floors) < 1 << 16 else 1
    bounds = [labels.shape[0] * i // slabs for i in range(slabs + 1)]
    places = np.zeros((slabs, len(floors) + 1), np.int64)
    values, ranges = comparable(affinities), ranges_above(floors[0], affinities.dtype)
    plane = labels[:1].size
    flags = np.zeros((len(labels), -(-plane // 8) * 8), np.uint8)  # of each plane, to a multiple of 8

    def visit(start, stop, places):
        found = np.empty(3 * flags.shape[1], np.int64)
        for z in range(start, stop):
            if len(edges) == 0:
                inside = flags[z, :plane].reshape(labels[z:z + 1].shape)
                edge_flags(values, ranges, z, z + 1, None, inside)
                _drop_within_labels(inside[0], labels[z], labels[min(z + 1, len(labels) - 1)])
            count = _find_flags(flags[z].view(np.uint64), flags[z], found)
            _place(found[:count], values[:, z], levels, floors, z * plane, nodes.ravel(), places, edges)

    edges = np.empty((0, 2), nodes.dtype)
    with ThreadPoolExecutor(slabs) as pool:
        list(pool.map(visit, bounds[:-1], bounds[1:], places))
        counts = places[:, ::-1].T.copy()
        places[:, ::-1] = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape).T
        edges = np.empty((counts.sum(), 2), edges.dtype)
        list(pool.map(visit, bounds[:-1], bounds[1:], places))
    return edges, np.cumsum(counts.sum(1)[:-1])


@numba.njit(cache=True, nogil=True)
def _drop_within_labels(flags, labels, below):
    height, width = flags.shape
    for y in range(height):
        row, to, here, down, right = flags[y], below[y], labels[y], labels[min(y + 1, height - 1)], labels[y, 1:]
        for x in range(width):
            apart = here[x] == 0
            apart_z, apart_y = apart | (here[x] != to[x]), apart | (here[x] != down[x])
            row[x] &= np.uint8(apart_z) | (np.uint8(apart_y) << np.uint8(1)) | np.uint8(4)
        for x in range(width - 1):
            row[x] &= np.uint8(3) | (np.uint8((here[x] == 0) | (here[x] != right[x])) << np.uint8(2))


@numba.njit(cache=True, nogil=True)
def _find_flags(words, flags, found):
    """Write 3 x index + bit of each flag set; returns how many. words: the flags, eight at a time."""
    count = 0
    for word in range(len(words)):
        if words[word]:
            for i in range(8 * word, 8 * word + 8):
                for bit in range(3):  # without a branch that could be mispredicted
                    found[count] = 3 * i + bit
                    count += flags[i] >> bit & 1
    return count


@numba.njit(cache=True, nogil=True)
def _place(found, values, levels, floors, first, nodes, places, edges):
    """Write each edge of a plane to the next place of its level, or only count."""
    _, height, width = values.shape
    strides = (height * width, width, 1)
    y, end = 0, width
    for edge in found:
        i, axis = edge // 3, edge % 3
        while i >= end:
            y, end = y + 1, end + width
        value = values[axis, y, i - end + width]
        level = np.int64(levels[np.uint16(value)]) if len(levels) else np.searchsorted(floors, value)
        if len(edges):
            voxel, place = first + i, places[level]
            edges[place, 0], edges[place, 1] = nodes[voxel], nodes[voxel + strides[axis]]
        places[level] += 1
