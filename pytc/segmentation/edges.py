"""Which neighbours are connected: affinities above a threshold, compared exactly, as one byte of flags a voxel."""

from __future__ import annotations

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
