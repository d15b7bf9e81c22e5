"""Edges between neighbours: which are above a threshold, as one byte of flags a voxel, or all in descending order."""

from __future__ import annotations

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


def edge_levels(affinities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """How many of the thresholds each value is above, compared as by `is_above`: an array of unsigned integers."""
    ascending = np.sort(np.asarray(thresholds, np.float64))
    levels = np.empty(affinities.shape, np.min_scalar_type(len(ascending)))

    def count(values):
        return np.where(values == values, np.searchsorted(ascending, values.astype(np.float64)), 0).astype(levels.dtype)

    def fill(plane):
        if table is None:
            levels[plane] = count(affinities[plane])
        else:
            _look_up(comparable(affinities[plane]), table, levels[plane])

    table = count(_every_value(affinities.dtype)) if affinities.dtype.itemsize < 4 else None
    with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:
        list(pool.map(fill, np.ndindex(levels.shape[:2])))
    return levels


@numba.njit(cache=True, nogil=True)
def _look_up(keys, table, out):
    for y in range(keys.shape[0]):
        for x in range(keys.shape[1]):
            out[y, x] = table[keys[y, x]]


def descending_edges(levels: np.ndarray, labels: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges of level low to high, as 3 x voxel index + axis, and how many there are of each level, highest first.

    levels (3, Z, Y, X) as from `edge_levels`; labels (Z, Y, X): edges within one label, 0 apart, are left out. Edges
    of equal level come in the raster order of their first voxel, then z, y, x.
    """
    slabs = numba.config.NUMBA_NUM_THREADS if high - low < 1 << 16 else 1
    bounds = [labels.shape[0] * i // slabs for i in range(slabs + 1)]
    places = np.zeros((slabs, max(high + 1, low)), np.int64)

    flags = np.empty(labels.shape, np.uint8)

    def visit(start, stop, places, edges):
        for z in range(start, stop):
            if len(edges) == 0:
                edge_flags(levels, (*np.array([low, high, 1, 0], levels.dtype),), z, z + 1, None, flags[z:z + 1])
            _visit_plane(flags[z], levels[:, z], labels, z, places, edges)

    edges = np.empty(0, np.uint32 if levels.size < 2**32 else np.uint64)
    with ThreadPoolExecutor(slabs) as pool:
        list(pool.map(visit, bounds[:-1], bounds[1:], places, [edges] * slabs))
        counts = places[:, ::-1].T.copy()
        places[:, ::-1] = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape).T
        edges = np.empty(counts.sum(), edges.dtype)
        list(pool.map(visit, bounds[:-1], bounds[1:], places, [edges] * slabs))
    return edges, counts.sum(1)[:max(high + 1 - low, 0)]


@numba.njit(cache=True, nogil=True)
def _visit_plane(flags, levels, labels, z, places, edges):
    """Write each flagged edge to the next place of its level, or only count; unflag those within a label."""
    _, height, width = labels.shape
    ids = labels.ravel()
    strides = (height * width, width, 1)
    for y in range(height):
        for x in range(width):
            if flags[y, x]:
                voxel = (z * height + y) * width + x
                for axis in range(3):
                    if flags[y, x] >> axis & 1:
                        if ids[voxel] > 0 and ids[voxel] == ids[voxel + strides[axis]]:
                            flags[y, x] &= ~np.uint8(1 << axis)
                            continue
                        if len(edges):
                            edges[places[levels[axis, y, x]]] = 3 * voxel + axis
                        places[levels[axis, y, x]] += 1
