"""The region adjacency graph: what all affinities together say of each two fragments.

            offset (1 voxel)                 For each edge between two fragments, short or long, the
      +--------+--------+                    affinity is added to the pair (a, b). Long edges (10
      |   a    |   b    |                    voxels) see past a membrane's weak spot; they weigh
      |     o--|--o     |  in the pair       less because neighbouring ones say nearly the same.
      |  o-----|-----o  |  (a, b)
      +--------+--------+
         long offset (10 voxels)

Sums are whole numbers of 2^-24 in 64-bit integers: adding them is exact, so any order, number of
threads or division into blocks gives the same bits. Cost: one look-up in a hash table for each run
of edges along x that stay between the same two fragments. Plain form: `plain.region_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pytc.checks import require
from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import check_affinities, comparable, slabs_of

UNIT = 2.0**24  # a sum of 1.0 is the whole number 2^24
FIRST_CAPACITY = 1 << 10  # pairs for which a table has room before it grows


@dataclass(frozen=True)
class RegionGraph:
    """Pairs of fragments with an edge between them, each pair once, sorted."""

    pairs: np.ndarray  # (E, 2) uint64, the lower id first
    sums: np.ndarray  # (E,) int64: sum of weight times affinity, in whole numbers of 2^-24
    weights: np.ndarray  # (E,) int64: sum of the weights

    @property
    def scores(self) -> np.ndarray:
        """(E,) float64: the mean affinity of each pair."""
        scores: np.ndarray = self.sums / UNIT / self.weights
        return scores


def region_graph(
    fragments: np.ndarray,
    affinities: np.ndarray,
    offsets: Sequence[Sequence[int]],
    edge_weights: Sequence[int],
    *,
    threads: int | None = None,
) -> RegionGraph:
    """Sums the affinities between each two fragments over all channels.

    Args:
        fragments: (Z, Y, X) unsigned integer, 0 = background. They may reach beyond the affinities
            at the far ends: an edge counts where its first voxel has an affinity. So blocks that
            are counted one by one add up to the whole.
        affinities: (C, Z, Y, X) float16, float32, float64, or uint8 for value / 255, in any memory
            order. Channel c at voxel v is the edge from v to v + offsets[c]. NaN counts as 0.
        offsets: C offsets in voxels along z, y, x, each 0 or more.
        edge_weights: C whole numbers of 0 or more; a channel of weight 0 is not read.
        threads: by default all of Numba's. The result does not depend on it.

    Raises:
        ValueError: if shapes, dtypes, offsets or weights do not fit.
    """
    _check(fragments, affinities, offsets, edge_weights)
    channels = [c for c, weight in enumerate(edge_weights) if weight > 0]
    table = fixed_point_table(affinities.dtype)
    values = comparable(affinities)
    slabs = slabs_of(affinities.shape[1], threads=threads)

    def count(slab: tuple[int, int]) -> RegionGraph:
        sums = _PairSums()
        for channel in channels:
            sums.add_planes(
                slab, fragments, values[channel], table, offsets[channel], edge_weights[channel]
            )
        return sums.graph()

    with ThreadPoolExecutor(len(slabs)) as pool:
        return merge_graphs(list(pool.map(count, slabs)))


def merge_graphs(graphs: Sequence[RegionGraph]) -> RegionGraph:
    """One graph of several: pairs that occur in more than one are added up."""
    pairs = np.concatenate([graph.pairs for graph in graphs])
    sums = np.concatenate([graph.sums for graph in graphs])
    weights = np.concatenate([graph.weights for graph in graphs])
    if len(pairs) == 0:
        return RegionGraph(pairs, sums, weights)

    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    is_new = np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))
    first = np.flatnonzero(is_new)
    return RegionGraph(
        pairs[first],
        np.add.reduceat(sums[order], first),
        np.add.reduceat(weights[order], first),
    )


def fixed_point_table(dtype: np.dtype) -> np.ndarray:
    """Affinities in whole numbers of 2^-24, int64, by bit pattern: 65,536 of float16, 256 of uint8.

    Empty for wider dtypes, whose values are converted one by one.
    """
    if dtype == np.uint8:
        values = np.arange(256) / 255
    elif dtype == np.float16:
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    else:
        return np.empty(0, np.int64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(values * UNIT).astype(np.int64)


class _PairSums:
    """A hash table from pairs of fragments to (sum, weight), which grows as pairs come in."""

    def __init__(self) -> None:
        self.slots = np.zeros(4 * FIRST_CAPACITY, np.int64)  # index + 1 of the entry, or 0
        self.pairs = np.empty((FIRST_CAPACITY, 2), np.uint64)
        self.sums = np.zeros(FIRST_CAPACITY, np.int64)
        self.weights = np.zeros(FIRST_CAPACITY, np.int64)
        self.count = 0

    def add_planes(
        self,
        planes: tuple[int, int],
        fragments: np.ndarray,
        values: np.ndarray,
        table: np.ndarray,
        offset: Sequence[int],
        weight: int,
    ) -> None:
        """Adds one channel's edges whose first voxel lies in these planes."""
        dz, dy, dx = (int(o) for o in offset)
        row_count = max(0, min(values.shape[1], fragments.shape[1] - dy))
        first_row = planes[0] * row_count
        last_row = min(planes[1], fragments.shape[0] - dz) * row_count
        row = first_row
        while row < last_row:
            row, self.count = _add_rows(
                row, last_row, row_count, fragments, values, table, (dz, dy, dx), weight,
                self.slots, self.pairs, self.sums, self.weights, self.count,
            )  # fmt: skip
            if row < last_row:
                self._grow(fragments.shape[2])

    def _grow(self, row_length: int) -> None:
        """Makes room for twice as many pairs, and for those of one row at least."""
        capacity = max(2 * len(self.pairs), len(self.pairs) + row_length)
        self.pairs = np.resize(self.pairs, (capacity, 2))
        self.sums = np.append(self.sums, np.zeros(capacity - len(self.sums), np.int64))
        self.weights = np.append(self.weights, np.zeros(capacity - len(self.weights), np.int64))
        self.slots = np.zeros(1 << int(4 * capacity - 1).bit_length(), np.int64)
        _fill_slots(self.slots, self.pairs, self.count)

    def graph(self) -> RegionGraph:
        """What was added, sorted by pairs."""
        n = self.count
        return merge_graphs([RegionGraph(self.pairs[:n], self.sums[:n], self.weights[:n])])


@compiled
def _add_rows(
    row: int,
    last_row: int,
    row_count: int,
    fragments: np.ndarray,
    values: np.ndarray,
    table: np.ndarray,
    offset: tuple[int, int, int],
    weight: int,
    slots: np.ndarray,
    pairs: np.ndarray,
    sums: np.ndarray,
    weights: np.ndarray,
    count: int,
) -> tuple[int, int]:
    """Adds the edges of rows (z, y) from number `row` on; stops where the table may get too full.

    Returns the first row that is not added, and the number of pairs so far.
    """
    dz, dy, dx = offset
    width = min(values.shape[2], fragments.shape[2] - dx)
    zero = fragments.dtype.type(0)
    while row < last_row:
        if count + width > len(pairs):
            return row, count
        z, y = row // row_count, row % row_count
        here, there = fragments[z, y], fragments[z + dz, y + dy]
        line = values[z, y]
        last_a, last_b, entry = zero, zero, 0
        for x in range(width):
            a, b = here[x], there[x + dx]
            if a == b or a == zero or b == zero:
                continue
            if a != last_a or b != last_b:
                last_a, last_b = a, b
                low, high = np.uint64(min(a, b)), np.uint64(max(a, b))
                slot = _find_slot(low, high, slots, pairs)
                if slots[slot] == 0:
                    pairs[count, 0], pairs[count, 1] = low, high
                    count += 1
                    slots[slot] = count
                entry = slots[slot] - 1
            if len(table) > 0:
                sums[entry] += weight * table[np.uint16(line[x])]
            else:
                value = np.float64(line[x])
                if np.isfinite(value):
                    sums[entry] += weight * np.int64(np.rint(value * UNIT))
            weights[entry] += weight
        row += 1
    return row, count


@compiled
def _find_slot(low: np.uint64, high: np.uint64, slots: np.ndarray, pairs: np.ndarray) -> int:
    """The slot of the pair (low, high), or the empty one where it belongs (linear probing)."""
    mixed = low * np.uint64(0x9E3779B97F4A7C15) ^ high * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(32)
    slot = np.int64(mixed & np.uint64(len(slots) - 1))
    while slots[slot] > 0:
        entry = slots[slot] - 1
        if pairs[entry, 0] == low and pairs[entry, 1] == high:
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot  # type: ignore[return-value]


@compiled
def _fill_slots(slots: np.ndarray, pairs: np.ndarray, count: int) -> None:
    for entry in range(count):
        slots[_find_slot(pairs[entry, 0], pairs[entry, 1], slots, pairs)] = entry + 1


def _check(
    fragments: np.ndarray,
    affinities: np.ndarray,
    offsets: Sequence[Sequence[int]],
    edge_weights: Sequence[int],
) -> None:
    check_affinities(affinities)
    shape = affinities.shape[1:]
    covers = fragments.ndim == 3 and all(n >= m for n, m in zip(fragments.shape, shape))
    require(
        covers and fragments.dtype.kind == "u",
        f"fragments of shape {shape} or more and an unsigned dtype",
        f"{fragments.dtype} {fragments.shape}",
    )
    channels = len(affinities)
    require(len(offsets) == channels, f"an offset for each of {channels} channels", offsets)
    require(
        len(edge_weights) == channels and min(edge_weights) >= 0 and max(edge_weights) > 0,
        f"a weight of 0 or more for each of {channels} channels, one above 0 at least",
        tuple(edge_weights),
    )
    for offset in offsets:
        require(min(offset) >= 0 and max(offset) > 0, "offsets of 0 or more voxels", offset)
