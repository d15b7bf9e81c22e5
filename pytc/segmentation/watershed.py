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

Cost: one pass over the unlabelled voxels, and a counting sort of the edges of basins. Plain form:
`plain.seeded_watershed`. Source: Cousty et al., "Watershed cuts: minimum spanning forests and the
drop of water principle" (2009).
"""

import numba
import numpy as np

from pytc.segmentation.edges import check_affinities

N_STRENGTHS = 0x7C01  # bit patterns of float16 from 0 to infinity


def flood(seeds: np.ndarray, affinities: np.ndarray) -> np.ndarray:
    """Labels in which each voxel that was 0 has the label of the seed it is most strongly tied to.

    Args:
        seeds: (Z, Y, X) integer, 0 where no seed is.
        affinities: (3 or more, Z, Y, X) float16, float32, float64, or uint8 for value / 255;
            channels 0, 1, 2 are the edges to the next voxel along z, y, x. They are compared in
            float16; of equal edges that of the earlier voxel comes first, then the earlier channel.
            Edges of affinity 0 or less, or NaN, do not exist.

    Returns:
        A new array of the seeds' dtype; 0 where no path of edges leads to a seed.

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    check_affinities(affinities)
    shape = affinities.shape[1:]
    if seeds.shape != shape or seeds.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer seeds of shape {shape}, got {seeds.dtype} {seeds.shape}"
        )
    labels = np.array(seeds, order="C")
    strength = strengths(affinities[:3])
    index_dtype = np.int32 if labels.size < 2**31 else np.int64
    parents = np.empty(labels.size, index_dtype)
    _point_to_strongest(labels, strength, parents)
    ends, levels = _edges_of_basins(labels, strength, parents)
    _join(labels.reshape(-1), parents, _strongest_first(ends, levels))
    return labels


def strengths(affinities: np.ndarray) -> np.ndarray:
    """Affinities as float16 bit patterns, uint16: they ascend with the value, 0 is no edge."""
    if affinities.dtype == np.uint8:
        table = (np.arange(256) / 255).astype(np.float16).view(np.uint16)
        return table[affinities]
    with np.errstate(over="ignore"):
        patterns = np.asarray(affinities, dtype=np.float16).view(np.uint16)
    if patterns.max(initial=0) < N_STRENGTHS:
        return patterns
    return np.where(patterns < N_STRENGTHS, patterns, np.uint16(0))


@numba.njit(cache=True, nogil=True)
def _point_to_strongest(labels, strength, parents):
    """Points each unlabelled voxel at the end of its chain: a labelled voxel, or its basin's root.

    labels: (Z, Y, X); strength: (3, Z, Y, X) uint16; parents: (Z Y X,), filled. Labelled voxels,
    and those without an edge, point at themselves.
    """
    depth, height, width = labels.shape
    flat = labels.ravel()
    plane = height * width
    for z in range(depth):
        for y in range(height):
            row = (z * height + y) * width
            for x in range(width):
                voxel = row + x
                parents[voxel] = voxel
                if flat[voxel] != 0:
                    continue
                # In the order of the edges: of equal ones the first is taken.
                best = np.uint16(0)
                if z > 0 and strength[0, z - 1, y, x] > best:
                    best = strength[0, z - 1, y, x]
                    parents[voxel] = voxel - plane
                if y > 0 and strength[1, z, y - 1, x] > best:
                    best = strength[1, z, y - 1, x]
                    parents[voxel] = voxel - width
                if x > 0 and strength[2, z, y, x - 1] > best:
                    best = strength[2, z, y, x - 1]
                    parents[voxel] = voxel - 1
                if z < depth - 1 and strength[0, z, y, x] > best:
                    best = strength[0, z, y, x]
                    parents[voxel] = voxel + plane
                if y < height - 1 and strength[1, z, y, x] > best:
                    best = strength[1, z, y, x]
                    parents[voxel] = voxel + width
                if x < width - 1 and strength[2, z, y, x] > best:
                    parents[voxel] = voxel + 1
    for voxel in range(len(parents)):
        other = parents[voxel]
        if other > voxel and parents[other] == voxel:
            parents[voxel] = voxel  # of two that point at each other the first is the root
    for voxel in range(len(parents)):
        _find(parents, voxel)


@numba.njit(cache=True, nogil=True)
def _find(parents, voxel):
    """The voxel at the end of a chain; every voxel on the way then points to it."""
    root = voxel
    while parents[root] != root:
        root = parents[root]
    while parents[voxel] != root:
        following = parents[voxel]
        parents[voxel] = root
        voxel = following
    return root


@numba.njit(cache=True, nogil=True)
def _edges_of_basins(labels, strength, parents):
    """Edges between two groups of which one at least is a basin, in raster order.

    Returns (ends, levels): the roots at both ends (E, 2), and the strengths (E,) uint16.
    """
    depth, height, width = labels.shape
    flat = labels.ravel()
    strides = (height * width, width, 1)
    ends = np.empty((1 << 10, 2), parents.dtype)
    levels = np.empty(1 << 10, np.uint16)
    count = 0
    for z in range(depth):
        for y in range(height):
            row = (z * height + y) * width
            if count + 3 * width > len(levels):
                ends, levels = _enlarged(ends, levels, 3 * width)
            for x in range(width):
                root = parents[row + x]
                is_seeded = flat[root] != 0
                for axis in range(3):
                    is_last = (
                        (axis == 0 and z == depth - 1)
                        or (axis == 1 and y == height - 1)
                        or (axis == 2 and x == width - 1)
                    )
                    if is_last:
                        continue
                    other = parents[row + x + strides[axis]]
                    if other == root or (is_seeded and flat[other] != 0):
                        continue
                    level = strength[axis, z, y, x]
                    if level > 0:
                        ends[count, 0], ends[count, 1] = root, other
                        levels[count] = level
                        count += 1
    return ends[:count], levels[:count]


@numba.njit(cache=True, nogil=True)
def _enlarged(ends, levels, room):
    """Copies with twice the length, and `room` more."""
    length = 2 * len(levels) + room
    longer_ends = np.empty((length, 2), ends.dtype)
    longer_ends[: len(ends)] = ends
    longer_levels = np.empty(length, levels.dtype)
    longer_levels[: len(levels)] = levels
    return longer_ends, longer_levels


@numba.njit(cache=True, nogil=True)
def _strongest_first(ends, levels):
    """The edges in descending strength, equal ones in the order given: a counting sort."""
    starts = np.zeros(N_STRENGTHS + 1, np.int64)
    for level in levels:
        starts[N_STRENGTHS - level] += 1
    total = 0
    for i in range(len(starts)):
        starts[i], total = total, total + starts[i]
    ordered = np.empty_like(ends)
    for edge in range(len(levels)):
        place = starts[N_STRENGTHS - levels[edge]]
        starts[N_STRENGTHS - levels[edge]] += 1
        ordered[place] = ends[edge]
    return ordered


@numba.njit(cache=True, nogil=True)
def _join(labels, parents, edges):
    """Joins groups edge by edge, of which one at most holds a seed, and labels every voxel."""
    for edge in range(len(edges)):
        a, b = _find(parents, edges[edge, 0]), _find(parents, edges[edge, 1])
        if a == b:
            continue
        if labels[a] == 0:
            parents[a] = b
        elif labels[b] == 0:
            parents[b] = a
    for voxel in range(len(labels)):
        if labels[voxel] == 0:
            labels[voxel] = labels[_find(parents, voxel)]
