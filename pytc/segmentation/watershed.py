"""The seeded watershed: unlabelled voxels are joined to the seeds, over the strongest edges first.

Edges are visited from the strongest to the weakest; each joins the groups of voxels at its two ends
unless both hold a seed (Kruskal's algorithm). So every voxel gets the label of the seed to which
the weakest link of its best path is strongest: a maximum spanning forest rooted in the seeds, also
called a watershed cut.

Most of the work needs no sorting. A voxel's strongest edge is in the forest in any case (Boruvka,
1926), so one pass points each unlabelled voxel to its neighbour across that edge:

    seed <- v <- v    v -> v <-> v <- v       chains end in a seed, or in two voxels that point at
                           basin              each other: a basin. Only edges between a basin and
                                              something else are then sorted and visited.

Seeds and basins are then numbered, so that joining them looks up numbers in a short array, not in
the volume. Cost: one pass over the unlabelled voxels and one over the edges, each slab of planes by
a thread, and a sort of the edges of basins: by counting for float16 and uint8, of which there are
few values.
Plain form: `plain.seeded_watershed`.

Source: Cousty et al., "Watershed cuts: minimum spanning forests and the drop of water principle"
(2009).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import check_affinities, ranges_above, slabs_of
from pytc.segmentation.union_find import find


def seeded_watershed(
    seeds: np.ndarray,
    affinities: np.ndarray,
    *,
    floor: float = 0.0,
    threads: int | None = None,
) -> np.ndarray:
    """Labels in which each voxel that was 0 has the label of the seed it is most strongly tied to.

    Args:
        seeds: (Z, Y, X) integer, 0 where no seed is. They never change or merge.
        affinities: (3 or more, Z, Y, X) float16, float32, float64, or uint8 for value / 255;
            channels 0, 1, 2 are the edges to the next voxel along z, y, x. They are compared
            exactly; of equal edges that of the earlier voxel comes first, then the earlier channel.
        floor: 0 or more. Edges whose affinity is not above it do not exist.
        threads: by default all of Numba's. The result does not depend on it.

    Returns:
        A new array of the seeds' dtype; 0 where no path of edges leads to a seed.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the floor is below 0.
    """
    check_affinities(affinities)
    shape = affinities.shape[1:]
    if seeds.shape != shape or seeds.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer seeds of shape {shape}, got {seeds.dtype} {seeds.shape}"
        )
    if floor < 0:
        raise ValueError(f"expected a floor of 0 or more, got {floor}")
    labels = np.array(seeds, order="C")
    flood(labels, affinities, floor=floor, threads=threads)
    return labels


def flood(
    labels: np.ndarray, affinities: np.ndarray, *, floor: float = 0.0, threads: int | None = None
) -> None:
    """`seeded_watershed`, written over its seeds.

    Args:
        labels: (Z, Y, X) integers in C order: the seeds, which become the regions.
        affinities: as for `seeded_watershed`, and so are floor and threads.
    """
    assert labels.flags.c_contiguous
    shape = labels.shape
    numbers, label_of = _numbered(labels)
    n_seeds = len(label_of) - 1
    strengths = _strengths(affinities[:3], floor)
    groups: np.ndarray = np.empty(labels.size, _index_dtype(labels.size))
    slabs = slabs_of(shape[0], threads=threads)
    with ThreadPoolExecutor(len(slabs)) as pool:
        list(pool.map(lambda slab: _point_to_strongest(numbers, strengths, groups, *slab), slabs))
        n_groups = n_seeds + _name_groups(numbers.reshape(-1), groups, n_seeds)
        found = list(
            pool.map(lambda slab: _edges_of_basins(strengths, groups, n_seeds, *slab), slabs)
        )
    ends = np.concatenate([slab_ends for slab_ends, _ in found])
    levels = np.concatenate([slab_levels for _, slab_levels in found])
    seed_of_group = _join(_strongest_first(ends, levels), n_seeds, n_groups)
    _fill(labels.reshape(-1), groups, label_of[seed_of_group])


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as numbers from 0 to N, and the label of each number; 0 stays 0.

    Labels that do not exceed the number of voxels are taken as they are.
    """
    highest = int(labels.max(initial=0))
    if labels.min(initial=0) >= 0 and highest <= labels.size:
        return labels, np.arange(highest + 1).astype(labels.dtype)
    label_of, numbers = np.unique(np.append(labels, labels.dtype.type(0)), return_inverse=True)
    zero = int(np.searchsorted(label_of, 0))
    order = np.arange(len(label_of))
    order[[0, zero]] = order[[zero, 0]]  # so that the number of the label 0 is 0
    return order[numbers[:-1]].reshape(labels.shape), label_of[order]


def _index_dtype(size: int) -> type:
    """The smaller of int32 and int64 that can number so many voxels, and their groups, from 1."""
    return np.int32 if size < 2**30 else np.int64


def _strengths(affinities: np.ndarray, floor: float) -> np.ndarray:
    """Affinities as unsigned integers of the same order, 0 where no edge is.

    Bit patterns of floats ascend with the value from 0 to infinity; those of negative values and of
    NaN lie above. Nothing is copied unless an edge is to be taken away.
    """
    dtype = np.dtype(f"u{affinities.dtype.itemsize}")
    patterns = affinities.view(dtype)
    low, high, _, _ = ranges_above(floor, affinities.dtype)
    if low.dtype.kind == "f":
        low, high = low.view(dtype), high.view(dtype)
    if int(low) <= 1 and patterns.max(initial=0) <= int(high):
        return patterns
    return np.where((patterns >= low) & (patterns <= high), patterns, dtype.type(0))


@compiled
def _point_to_strongest(
    numbers: np.ndarray, strengths: np.ndarray, groups: np.ndarray, start: int, stop: int
) -> None:
    """Points each unlabelled voxel of planes start to stop - 1 at its strongest neighbour.

    numbers: (Z, Y, X) of the seeds, 0 = unlabelled; strengths: (3, Z, Y, X) unsigned; groups:
    (Z Y X,), filled with the index of a voxel + 1. Labelled voxels, and those without an edge,
    point at themselves.
    """
    depth, height, width = numbers.shape
    flat = numbers.ravel()
    plane = height * width
    for z in range(start, stop):
        for y in range(height):
            row = (z * height + y) * width
            for x in range(width):
                voxel = row + x
                entry = voxel + 1
                groups[voxel] = entry
                if flat[voxel] != 0:
                    continue
                # In the order of the edges: of equal ones the first is taken.
                best = strengths.dtype.type(0)
                if z > 0 and strengths[0, z - 1, y, x] > best:
                    best = strengths[0, z - 1, y, x]
                    groups[voxel] = entry - plane
                if y > 0 and strengths[1, z, y - 1, x] > best:
                    best = strengths[1, z, y - 1, x]
                    groups[voxel] = entry - width
                if x > 0 and strengths[2, z, y, x - 1] > best:
                    best = strengths[2, z, y, x - 1]
                    groups[voxel] = entry - 1
                if z < depth - 1 and strengths[0, z, y, x] > best:
                    best = strengths[0, z, y, x]
                    groups[voxel] = entry + plane
                if y < height - 1 and strengths[1, z, y, x] > best:
                    best = strengths[1, z, y, x]
                    groups[voxel] = entry + width
                if x < width - 1 and strengths[2, z, y, x] > best:
                    groups[voxel] = entry + 1


@compiled
def _name_groups(numbers: np.ndarray, groups: np.ndarray, n_seeds: int) -> int:
    """Replaces what each voxel points at by the group at the end of its chain, as -group, in place.

    Groups 1 .. n_seeds are the seeds. The others are basins, which end at a voxel without an edge,
    or at the first one of two that point at each other. Returns how many basins there are.
    """
    basins = 0
    for voxel in range(len(groups)):
        if numbers[voxel] != 0:
            groups[voxel] = -np.int64(numbers[voxel])
            continue
        other = groups[voxel]
        if other == voxel + 1 or (other > voxel + 1 and groups[other - 1] == voxel + 1):
            basins += 1
            groups[voxel] = -(n_seeds + basins)
    for voxel in range(len(groups)):
        if groups[voxel] < 0:
            continue
        end = groups[voxel]
        while groups[end - 1] > 0:
            end = groups[end - 1]
        group = groups[end - 1]
        entry = voxel + 1
        while groups[entry - 1] > 0:  # the whole chain, so that it is walked only once
            following = groups[entry - 1]
            groups[entry - 1] = group
            entry = following
    return basins


@compiled
def _edges_of_basins(
    strengths: np.ndarray, groups: np.ndarray, n_seeds: int, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Edges between two groups of which one at least is a basin, in raster order.

    Of these the ones whose first voxel lies in planes start to stop - 1. Returns (ends, levels):
    the groups at both ends (E, 2), and the strengths (E,).
    """
    _, depth, height, width = strengths.shape
    strides = (height * width, width, 1)
    ends = np.empty((1 << 10, 2), groups.dtype)
    levels = np.empty(1 << 10, strengths.dtype)
    count = 0
    for z in range(start, stop):
        for y in range(height):
            row = (z * height + y) * width
            if count + 3 * width > len(levels):
                ends, levels = _enlarged(ends, levels, 3 * width)
            for x in range(width):
                group = -groups[row + x]
                for axis in range(3):
                    is_last = (
                        (axis == 0 and z == depth - 1)
                        or (axis == 1 and y == height - 1)
                        or (axis == 2 and x == width - 1)
                    )
                    if is_last:
                        continue
                    other = -groups[row + x + strides[axis]]
                    if other == group or (group <= n_seeds and other <= n_seeds):
                        continue
                    level = strengths[axis, z, y, x]
                    if level > 0:
                        ends[count, 0], ends[count, 1] = group, other
                        levels[count] = level
                        count += 1
    return ends[:count], levels[:count]


@compiled
def _enlarged(ends: np.ndarray, levels: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies with twice the length, and `room` more."""
    length = 2 * len(levels) + room
    longer_ends = np.empty((length, 2), ends.dtype)
    longer_ends[: len(ends)] = ends
    longer_levels = np.empty(length, levels.dtype)
    longer_levels[: len(levels)] = levels
    return longer_ends, longer_levels


def _strongest_first(ends: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The edges in descending strength, equal ones in the order given."""
    if levels.itemsize <= 2:
        return _counting_sort(ends, levels)
    return ends[np.argsort(~levels, kind="stable")]  # ~ turns the order of unsigned integers round


@compiled
def _counting_sort(ends: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The edges in descending strength, for strengths of 16 bits at most."""
    highest = (1 << 16) - 1
    starts = np.zeros(highest + 1, np.int64)
    for level in levels:
        starts[highest - level] += 1
    total = 0
    for i in range(len(starts)):
        starts[i], total = total, total + starts[i]
    ordered = np.empty_like(ends)
    for edge in range(len(levels)):
        row = starts[highest - levels[edge]]
        starts[highest - levels[edge]] += 1
        ordered[row] = ends[edge]
    return ordered


@compiled
def _join(edges: np.ndarray, n_seeds: int, n_groups: int) -> np.ndarray:
    """Joins groups edge by edge, of which one at most holds a seed.

    Returns (n_groups + 1,) int64: the seed that each group was joined to, 0 if none.
    """
    parents = np.arange(1, n_groups + 1)
    for edge in range(len(edges)):
        a, b = find(parents, edges[edge, 0]), find(parents, edges[edge, 1])
        if a > n_seeds:  # a seed stays a root
            parents[a - 1] = b
        elif b > n_seeds:
            parents[b - 1] = a
    seeds = np.zeros(n_groups + 1, np.int64)
    for group in range(1, n_groups + 1):
        root = find(parents, group)
        if root <= n_seeds:
            seeds[group] = root
    return seeds


@compiled
def _fill(labels: np.ndarray, groups: np.ndarray, label_of_group: np.ndarray) -> None:
    """Gives each unlabelled voxel the label of its group, in place."""
    for voxel in range(len(labels)):
        if labels[voxel] == 0:
            labels[voxel] = label_of_group[-groups[voxel]]
