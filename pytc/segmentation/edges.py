"""Edges between neighbours: which are above a threshold, or all in descending order.

Which are above a threshold is one byte a voxel: bits 1, 2, 4 are the edges to the next voxel along
z, y, x. Comparisons are exact for every dtype, and read affinities where they lie.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pytc.segmentation.compiled import compiled, thread_count

# Two closed ranges of values: low, high, low, high (`ranges_above`).
Ranges = tuple[np.generic, np.generic, np.generic, np.generic]
AFFINITY_DTYPES = ("float16", "float32", "float64", "uint8")
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # times 1 << bit, its first six bits differ for each bit
BITS = np.argsort(DE_BRUIJN << np.arange(64, dtype=np.uint64) >> np.uint64(58))


def check_affinities(affinities: np.ndarray, *, integers: bool = False) -> None:
    """ValueError unless this is a (C >= 3, Z, Y, X) array of a dtype that affinities come in.

    integers: bool and every integer dtype is welcome too.
    """
    if not isinstance(affinities, np.ndarray):
        kind = f"{type(affinities).__module__}.{type(affinities).__qualname__}"
        hint = "; its .numpy() makes one" if kind.startswith("torch.") else ""
        raise ValueError(f"expected affinities as a NumPy array, got {kind}{hint}")
    if affinities.ndim != 4 or affinities.shape[0] < 3:
        raise ValueError(
            f"expected affinities of shape (3 or more, Z, Y, X), got {affinities.shape}"
        )
    if not (integers and affinities.dtype.kind in "biu"):
        check_dtype(affinities.dtype)


def check_dtype(dtype: np.dtype) -> None:
    """ValueError unless affinities come in this dtype."""
    if str(dtype) not in AFFINITY_DTYPES:
        raise ValueError(f"expected affinities of dtype {', '.join(AFFINITY_DTYPES)}, got {dtype}")


def label_dtype(shape: Sequence[int]) -> type:
    """The smallest of uint32 and uint64 that can number every voxel."""
    return np.uint32 if math.prod(shape) < 2**32 else np.uint64


def comparable(affinities: np.ndarray) -> np.ndarray:
    """The same memory in a dtype that compiled code can compare.

    float16 is seen as its bit patterns, bool as 0 and 1.
    """
    if affinities.dtype == np.float16:
        return affinities.view(np.uint16)
    if affinities.dtype == np.bool_:
        return affinities.view(np.uint8)
    return affinities


def ranges_above(threshold: float, dtype: np.dtype) -> Ranges:
    """Two closed ranges of `comparable` values that hold exactly the values > threshold.

    Returns (low, high, low, high). The comparison is exact; uint8 stands for value / 255, bool and
    other integers for themselves; NaN is above nothing. An empty range has low > high. Patterns of
    float16 ascend with the value from 0 to infinity, and descend below -0.
    """
    if not np.isfinite(threshold):
        raise ValueError(f"expected a finite threshold, got {threshold}")
    dtype = np.dtype(dtype)
    if dtype == np.uint8:
        low = np.count_nonzero(np.arange(256) / 255 <= threshold)
        return np.uint16(low), np.uint16(255), np.uint16(1), np.uint16(0)
    if dtype.kind in "biu":
        return _whole_numbers_above(threshold, dtype)
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


def _whole_numbers_above(threshold: float, dtype: np.dtype) -> Ranges:
    """`ranges_above` of bool and of integers that stand for themselves."""
    kind = np.dtype(np.uint16) if dtype == np.bool_ else dtype
    least, most = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low = max(math.floor(threshold) + 1, least)
    empty = kind.type(1), kind.type(0)
    if low > most:
        return *empty, *empty
    return kind.type(low), kind.type(most), *empty


def is_above(values: np.ndarray, threshold: float) -> np.ndarray:
    """value > threshold, compared in float64, as a bool array; uint8 stands for value / 255."""
    low, high, low2, high2 = ranges_above(threshold, values.dtype)
    values = comparable(values)
    above: np.ndarray = (values >= low) & (values <= high)
    above |= (values >= low2) & (values <= high2)
    return above


def edge_flags(
    affinities: np.ndarray,
    ranges: Ranges,
    start: int,
    stop: int,
    flags: np.ndarray,
) -> None:
    """Fills `flags` (stop - start, Y, X) uint8 with the edges of each voxel.

    Bits 1, 2, 4 of voxel v are set if it has an edge to the next voxel along z, y, x.
    `affinities` (3, Z, Y, X) as `comparable` gives them, planes start to stop; edges that leave
    the volume or have an end outside `mask` (Z, Y, X) bool or None are not edges.
    """
    _threshold(
        affinities[0, start:stop],
        affinities[1, start:stop],
        affinities[2, start:stop],
        ranges[0],
        ranges[1],
        ranges[2],
        ranges[3],
        flags,
    )
    if stop == affinities.shape[1]:
        flags[-1:] &= 6
    flags[:, -1:] &= 5
    flags[:, :, -1:] &= 3


@compiled
def _threshold(
    along_z: np.ndarray,
    along_y: np.ndarray,
    along_x: np.ndarray,
    low: np.generic,
    high: np.generic,
    low2: np.generic,
    high2: np.generic,
    flags: np.ndarray,
) -> None:
    for z in range(flags.shape[0]):
        for y in range(flags.shape[1]):
            a, b, c, out = along_z[z, y], along_y[z, y], along_x[z, y], flags[z, y]
            for x in range(flags.shape[2]):
                in_z = ((a[x] >= low) & (a[x] <= high)) | ((a[x] >= low2) & (a[x] <= high2))
                in_y = ((b[x] >= low) & (b[x] <= high)) | ((b[x] >= low2) & (b[x] <= high2))
                in_x = ((c[x] >= low) & (c[x] <= high)) | ((c[x] >= low2) & (c[x] <= high2))
                out[x] = (
                    np.uint8(in_z)
                    | (np.uint8(in_y) << np.uint8(1))
                    | (np.uint8(in_x) << np.uint8(2))
                )


def values_above(affinities: np.ndarray, floor: float) -> np.ndarray:
    """The finite values above `floor` in the affinities, float64, ascending.

    For float16 and uint8 all possible values, whether they occur or not.
    """
    small = affinities.dtype.itemsize < 4
    values = _every_value(affinities.dtype) if small else np.unique(affinities).astype(np.float64)
    return np.sort(values[np.isfinite(values) & (values > floor)])


def _every_value(dtype: np.dtype) -> np.ndarray:
    values = np.arange(256**dtype.itemsize).astype(f"u{dtype.itemsize}").view(dtype)
    return values / 255 if dtype == np.uint8 else values.astype(np.float64)


def slabs_of(
    length: int, *, threads: int | None = None, n_floors: int = 0
) -> list[tuple[int, int]]:
    """(start, stop) of a slab of planes for each thread.

    A single slab where there are so many floors that a table of them for each would be too large.
    """
    threads = (threads or thread_count()) if n_floors < 1 << 16 else 1
    slabs = max(1, min(length, threads))
    return list(pairwise(length * i // slabs for i in range(slabs + 1)))


def descending_edges(
    affinities: np.ndarray, start: int, stop: int, fragments: np.ndarray, floors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Edges between two fragments in descending order: a counting sort, of one bucket a floor.

    Args:
        affinities: (3, Z, Y, X), of which planes start to stop - 1 are read.
        fragments: (Z, Y, X), from 1. Edges within one fragment are left out.
        floors: (T,) ascending. Edges above the lowest are found; those between the same two floors
            come in the raster order of their first voxel, then z, y, x.

    Returns:
        (edges, ends): the fragments at both ends (E, 2), and how many edges are above each floor
        (T,), from the highest floor to the lowest.

    Memory: up to 10 bytes an edge (18 with uint64 fragments).
    """
    levels = np.empty(0, np.int64)
    if affinities.dtype.itemsize < 4:  # of so few values each one's bucket is looked up
        levels = np.searchsorted(floors, _every_value(affinities.dtype))
    levels = levels.astype(np.min_scalar_type(len(floors)))
    values = comparable(affinities)
    ranges = ranges_above(floors[0], affinities.dtype)
    depth, height, width = fragments.shape

    flags = np.zeros((1, height, -(-width // 8) * 8), np.uint8)
    inside = flags[:, :, :width]
    words = flags[0].view(np.uint64)  # eight voxels each
    found: np.ndarray = np.empty(3 * height * width, label_dtype((4, height, width)))
    found_levels = np.empty(len(found), levels.dtype)
    counts = np.zeros(len(floors) + 1, np.int64)  # of bucket k: above k of the floors
    planes = []
    for z in range(start, stop):
        edge_flags(values, ranges, z, z + 1, inside)
        _drop_within_fragments(inside[0], fragments[z], fragments[min(z + 1, depth - 1)])
        count = _find_edges(words, values[:, z], levels, floors, found, found_levels, counts)
        planes.append((found[:count].copy(), found_levels[:count].copy()))

    from_the_top = counts[::-1].cumsum()
    next_index = from_the_top[::-1] - counts  # of each bucket; at first, where it begins
    edges: np.ndarray = np.empty((counts.sum(), 2), fragments.dtype)
    strides = np.array([height * width, width, 1])
    planes.reverse()  # so that each can be let go once its edges are written
    for z in range(start, stop):
        _write_to_buckets(*planes.pop(), fragments[z : z + 2].ravel(), strides, next_index, edges)
    return edges, from_the_top[:-1]


@compiled
def _drop_within_fragments(flags: np.ndarray, fragments: np.ndarray, below: np.ndarray) -> None:
    """Clears the flags of edges within one fragment, in one plane; below: the next plane."""
    height, width = flags.shape
    for y in range(height):
        row, here = flags[y], fragments[y]
        to_z, to_y, to_x = below[y], fragments[min(y + 1, height - 1)], fragments[y, 1:]
        for x in range(width):
            apart_z = np.uint8(here[x] != to_z[x])
            apart_y = np.uint8(here[x] != to_y[x])
            row[x] &= apart_z | (apart_y << np.uint8(1)) | np.uint8(4)
        for x in range(width - 1):
            row[x] &= np.uint8(3) | (np.uint8(here[x] != to_x[x]) << np.uint8(2))


@compiled
def _find_edges(
    words: np.ndarray,
    values: np.ndarray,
    levels: np.ndarray,
    floors: np.ndarray,
    found: np.ndarray,
    found_levels: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Lists the edges of a plane: 4 x voxel + axis in `found`, their buckets in `found_levels`.

    words (Y, X / 8): the flags as 64-bit integers, so that eight voxels without an edge are passed
    over at once. levels: the bucket of each possible value; or empty, and it is searched in the
    floors. counts: how many edges each bucket has, added to. Returns the number of edges.
    """
    count, width = 0, values.shape[2]
    for y in range(len(words)):
        for x in range(0, width, 8):
            flags = words[y, x // 8]
            while flags:
                rest = flags & (flags - np.uint64(1))  # without its lowest bit
                bit = BITS[((flags ^ rest) * DE_BRUIJN) >> np.uint64(58)]
                flags = rest
                at, axis = x + (bit >> 3), bit & 7
                value = values[axis, y, at]
                level = (
                    np.int64(levels[np.uint16(value)])
                    if len(levels)
                    else np.searchsorted(floors, value)
                )
                counts[level] += 1
                found[count], found_levels[count] = 4 * (y * width + at) + axis, level
                count += 1
    return count


@compiled
def _write_to_buckets(
    found: np.ndarray,
    levels: np.ndarray,
    fragments: np.ndarray,
    strides: np.ndarray,
    next_index: np.ndarray,
    edges: np.ndarray,
) -> None:
    """Writes each edge of a plane to the next free row of its bucket.

    fragments: of this plane and the next, flat; strides: from a voxel to the next along each axis.
    """
    for n in range(len(found)):
        edge, level = np.int64(found[n]), np.int64(levels[n])
        row = next_index[level]
        next_index[level] = row + 1
        voxel = edge >> 2
        edges[row, 0], edges[row, 1] = fragments[voxel], fragments[voxel + strides[edge & 3]]
