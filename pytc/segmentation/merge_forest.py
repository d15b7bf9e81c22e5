"""Connected components at many thresholds in one pass.

Lowering the threshold only merges components. So one union-find forest, fed with the edges in
descending affinity (Kruskal's algorithm), gives the components at all thresholds:

    threshold  0.9 |  f1   f2   f3   f4      fragments: the components at the highest threshold
               0.7 |   \\____/    |    |      one edge above 0.7 joins f1 and f2
               0.5 |      \\______/    |      then f3

Its leaves, the fragments, are made in slabs of planes, one a thread, and numbered without gaps;
voxels without an edge are fragments, too. Of the volume, only edges between two fragments are ever
looked at. Cost: one pass of connected components, a counting sort of those edges, and a union an
edge. Held equal to `plain.flood_fill` at each threshold.

Source: Kruskal, "On the shortest spanning subtree of a graph" (1956).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from pytc.segmentation.compiled import compiled
from pytc.segmentation.edges import (
    check_affinities,
    comparable,
    descending_edges,
    label_dtype,
    ranges_above,
    slabs_of,
    values_above,
)
from pytc.segmentation.label_runs import label_slab
from pytc.segmentation.label_tables import component_sizes
from pytc.segmentation.union_find import find, unite

NEVER = np.iinfo(np.int32).max
Edges = tuple[np.ndarray, np.ndarray]  # (M, 2) fragments, and (T,) how many are above each level


@dataclass(frozen=True)
class MergeForest:
    """Fragments, and the edges that merge them in order, those above the first threshold first."""

    fragments: np.ndarray  # (Z, Y, X) the fragment of each voxel: 1 .. N, slab by slab
    sizes: np.ndarray  # (N + 1,) voxels of each fragment, at most min_size
    edges: np.ndarray  # (M, 2) fragments
    ends: np.ndarray  # (T,) how many of the edges are above each threshold
    n_positive: int  # how many of the edges are above 0: these the seeded watershed visits
    min_size: int  # 2 or more: smaller components get no label
    watershed: bool  # whether a seeded watershed follows at each threshold
    queried: np.ndarray | None  # (F,) fragments whose labels will be asked for; None for all


@dataclass(frozen=True)
class Slab:
    """Planes start .. stop - 1, whose fragments are before + 1 .. after."""

    start: int
    stop: int
    before: int
    after: int


def build_merge_forest(
    affinities: np.ndarray,
    thresholds: Sequence[float],
    *,
    min_size: int = 0,
    watershed: bool = False,
    query: Callable[[np.ndarray], np.ndarray] | None = None,
) -> MergeForest:
    """The forest for thresholds in descending order.

    Args:
        affinities: (3 or more, Z, Y, X) as in `connected_components_3d`.
        thresholds: in descending order.
        min_size: as in `connected_components_3d`.
        watershed: also keep the edges down to 0, by which a seeded watershed joins voxels to
            components.
        query: picks from the fragments (Z, Y, X) those whose labels will be asked for. Edges that
            change none of their labels are left out, unless `watershed` is on.

    Memory: 5 bytes a voxel, 10 an edge between two fragments, and 12 a fragment (about twice as
    many for volumes of 2^32 voxels and more).
    """
    check_affinities(affinities)
    affinities = affinities[:3]
    levels = np.array(thresholds, np.float64)
    if watershed:
        levels = np.concatenate([levels, values_above(affinities, 0), [0.0]])
    levels, index = np.unique(levels, return_inverse=True)  # ascending
    bounds = slabs_of(affinities.shape[1], n_floors=len(levels))
    fragments, sizes, slabs = _label_fragments(affinities, thresholds[0], bounds, max(min_size, 2))
    least = sizes.dtype.type(min(max(min_size, 2), np.iinfo(sizes.dtype).max))
    queried = None if query is None else query(fragments)

    def edges_of(slab: Slab) -> Edges:
        edges, ends = descending_edges(affinities, slab.start, slab.stop, fragments, levels)
        tracked = _tracked(fragments, slab, None if watershed else queried)
        parents = np.arange(1, len(tracked), dtype=fragments.dtype)
        _keep_tracked(edges, ends, slab.before, watershed, parents, sizes, tracked, least)
        return edges[: ends[-1]].copy(), ends

    with ThreadPoolExecutor(len(slabs)) as pool:
        edges, ends = _level_by_level(list(pool.map(edges_of, slabs)))
    ends = ends[::-1][index]  # from the highest level to the lowest -> of each threshold
    n_positive = int(ends[-1])
    ends = ends[: len(thresholds)]
    return MergeForest(fragments, sizes, edges, ends, n_positive, least, watershed, queried)


def _label_fragments(
    affinities: np.ndarray, threshold: float, bounds: list[tuple[int, int]], min_size: int
) -> tuple[np.ndarray, np.ndarray, list[Slab]]:
    """Fragments (Z, Y, X), their sizes, at most min_size, and the slabs in which they are made."""
    shape = affinities.shape[1:]
    values = comparable(affinities)
    ranges = ranges_above(threshold, affinities.dtype)
    fragments: np.ndarray = np.empty(shape, label_dtype(shape))

    def label(bound: tuple[int, int]) -> np.ndarray:
        part = fragments[slice(*bound)]
        shared = np.empty(part.size + 1, np.bool_)
        count = label_slab(values, ranges, *bound, part, shared)
        if min_size == 2:
            sizes = np.where(shared[1 : count + 1], 2, 1)
        else:
            sizes = np.minimum(component_sizes(part, count)[1:], min_size)
        return sizes.astype(fragments.dtype)

    def number(slab: Slab) -> None:
        part = fragments[slab.start : slab.stop]
        np.add(part, part.dtype.type(slab.before), out=part)

    with ThreadPoolExecutor(len(bounds)) as pool:
        sizes = list(pool.map(label, bounds))
        ends = np.cumsum([0, *map(len, sizes)]).tolist()
        slabs = [Slab(*bound, *count) for bound, *count in zip(bounds, ends, ends[1:])]
        list(pool.map(number, slabs[1:]))
    return fragments, np.concatenate([np.zeros(1, fragments.dtype), *sizes]), slabs


def _tracked(fragments: np.ndarray, slab: Slab, queried: np.ndarray | None) -> np.ndarray:
    """Which fragments' labels matter to the edges of a slab; all of them if none is queried.

    Returns (n + 1,) bool for the fragments before + 1 .. before + n, of this slab and of the plane
    after it, to which its edges reach; entry 0 is unused.
    """
    highest = int(fragments[slab.stop : slab.stop + 1].max(initial=slab.after))
    tracked = np.full(highest - slab.before + 1, queried is None)
    if queried is None:
        return tracked
    # those that are asked for
    in_slab = queried.astype(np.int64) - slab.before
    tracked[in_slab[(in_slab > 0) & (in_slab < len(tracked))]] = True
    # those of the plane after: the next slab joins these, too
    tracked[slab.after - slab.before + 1 :] = True
    # those of the first plane, which have the lowest numbers: the slab before joins these, too
    if slab.start > 0:
        highest = int(fragments[slab.start].max(initial=slab.before))
        tracked[: highest - slab.before + 1] = True
    return tracked


def _level_by_level(slabs: list[Edges]) -> Edges:
    """The edges of all slabs in one array: those of the first level in each slab, then the next."""
    if len(slabs) == 1:
        return slabs[0]
    pieces = [slabs[0][0][:0]]
    starts = [0] * len(slabs)
    for level in range(len(slabs[0][1])):
        for i, (edges, ends) in enumerate(slabs):
            stop = int(ends[level])
            if starts[i] < stop:
                pieces.append(edges[starts[i] : stop])
            starts[i] = stop
    return np.concatenate(pieces), np.sum([ends for _, ends in slabs], axis=0)


def roots_at_thresholds(forest: MergeForest) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """At each threshold in turn, a function from fragments (n,) to the roots of their components.

    The roots are (n,) uint64. A root is 0 where `connected_components_3d` with the forest's
    min_size, and the seeded watershed after it if asked for, give the label 0; the others are
    ordered as the labels are. The function is valid until the next threshold.
    """
    parents = np.arange(1, len(forest.sizes), dtype=forest.fragments.dtype)
    sizes = forest.sizes.copy()
    start = 0
    for end in forest.ends:
        _join(forest.edges[start:end], parents, sizes, forest.min_size)
        start = end
        joined = parents
        if forest.watershed:
            joined = parents.copy()
            _seeded_watershed(forest.edges[end : forest.n_positive], joined, sizes, forest.min_size)
        yield partial(_roots, joined, sizes, forest.min_size)


def line_up(forest: MergeForest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orders the queried fragments as `line_up_points` says; a point is an entry of `queried`."""
    assert forest.queried is not None
    return line_up_points(
        forest.queried, forest.sizes, forest.edges, forest.ends, min_size=forest.min_size
    )


def line_up_points(
    fragments: np.ndarray, sizes: np.ndarray, edges: np.ndarray, ends: np.ndarray, *, min_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orders points so that at every threshold each component is a stretch of them.

    Each component keeps its points as a circular list, in which the last point is followed by the
    first. Two lists become one by swapping what follows their last points:

        a -> b -> (a)   and   c -> d -> (c)      become      a -> b -> c -> d -> (a)

    Args:
        fragments: (F,) of each point.
        sizes: (N + 1,) voxels of each fragment, at most min_size; 0 for one that never has a label.
        edges: (M, 2) fragments, in the order in which they are joined.
        ends: (T,) how many edges are joined at each threshold; thresholds descend.
        min_size: 1 or more; smaller components have no label.

    Returns:
        (order, born, joined), each (F,). order: the points. born[i]: the index of the first
        threshold at which point order[i] has a label. joined[i]: that at which it has the label of
        point order[i + 1]. NEVER if there is none.
    """
    order = np.argsort(fragments, kind="stable")
    fragments = fragments[order]
    born = np.where(sizes[fragments] >= min_size, 0, NEVER)
    # points of one fragment are together from the start
    is_same = np.diff(fragments, append=fragments.dtype.type(0)) == 0
    is_same[-1:] = False
    joined = np.where(is_same, 0, NEVER)
    last_points = np.flatnonzero(~is_same)
    next_point = np.arange(1, len(fragments) + 1)
    next_point[last_points] = np.append(0, last_points + 1)[:-1]
    last_point_of_root = np.full(sizes.shape, -1, np.int32)
    last_point_of_root[fragments[last_points]] = last_points

    parents = np.arange(1, len(sizes), dtype=edges.dtype)
    _join_lines(
        edges, ends, min_size, parents, sizes.copy(), last_point_of_root, next_point, born, joined
    )
    line = _walk(next_point, np.flatnonzero(joined == NEVER))
    return order[line], born[line], np.maximum(joined, born)[line]


def _walk(next_point: np.ndarray, last_points: np.ndarray) -> list[int]:
    """The points of one circular list after another, each from its first point to its last."""
    following = next_point.tolist()
    line = []
    for last in last_points.tolist():
        point = following[last]
        while point != last:
            line.append(point)
            point = following[point]
        line.append(last)
    return line


@compiled
def _keep_tracked(
    edges: np.ndarray,
    ends: np.ndarray,
    before: int,
    watershed: bool,
    parents: np.ndarray,
    sizes: np.ndarray,
    tracked: np.ndarray,
    min_size: int,
) -> None:
    """Keeps only the edges by which a tracked fragment may get another label, in place.

    Kruskal's algorithm on the edges of one slab. Of each root it knows in `tracked` whether its
    component holds a tracked fragment, and in `size` how many voxels, at most min_size. An edge may
    change such a label in two ways: the higher root gives way to the lower one, or the component
    reaches min_size. Edges kept become edges between roots, unless `watershed`: then components at
    their ends may stay apart.

    edges (M, 2), ends (T,), parents (n,) and tracked (n + 1,), which start at fragment before + 1:
    overwritten. sizes: of all fragments; where the first edge of an untracked component is kept,
    its root gets the size of what was joined without an edge.
    """
    start = 0
    count = 0
    size = sizes[before : before + len(tracked)].copy()
    for level in range(len(ends)):
        for n in range(start, ends[level]):
            a, b = np.int64(edges[n, 0]), np.int64(edges[n, 1])
            root, child = unite(
                parents, parents.dtype.type(a - before), parents.dtype.type(b - before)
            )
            if root == child:
                continue
            if tracked[child] | (tracked[root] & (size[root] < min_size)):
                if not tracked[root]:
                    sizes[before + root] = size[root]
                if not tracked[child]:
                    sizes[before + child] = size[child]
                if not watershed:
                    a, b = before + np.int64(root), before + np.int64(child)
                edges[count, 0], edges[count, 1] = a, b
                count += 1
            size[root] = min(size[root] + size[child], min_size)
            tracked[root] |= tracked[child]
        start = ends[level]
        ends[level] = count


@compiled
def _join(edges: np.ndarray, parents: np.ndarray, sizes: np.ndarray, min_size: int) -> None:
    """Merges the components at the ends of each edge; of each root, `sizes` has the voxels."""
    for n in range(len(edges)):
        root, child = unite(parents, edges[n, 0], edges[n, 1])
        if root != child:
            sizes[root] = min(sizes[root] + sizes[child], min_size)


@compiled
def _seeded_watershed(
    edges: np.ndarray, parents: np.ndarray, sizes: np.ndarray, min_size: int
) -> None:
    """The seeded watershed on fragments: components of min_size voxels or more are the seeds.

    Smaller ones are joined with each other and to seeds. A seed stays a root, and two do not merge.
    """
    for n in range(len(edges)):
        a, b = find(parents, edges[n, 0]), find(parents, edges[n, 1])
        if sizes[a] < min_size:
            parents[a - 1] = b
        elif sizes[b] < min_size:
            parents[b - 1] = a


@compiled
def _roots(
    parents: np.ndarray, sizes: np.ndarray, min_size: int, fragments: np.ndarray
) -> np.ndarray:
    """The root of each fragment's component, or 0 if it is too small."""
    found = np.zeros(len(fragments), np.uint64)
    for n in range(len(fragments)):
        root = find(parents, parents.dtype.type(fragments[n]))
        if sizes[root] >= min_size:
            found[n] = root
    return found


@compiled
def _join_lines(
    edges: np.ndarray,
    ends: np.ndarray,
    min_size: int,
    parents: np.ndarray,
    sizes: np.ndarray,
    last_point_of_root: np.ndarray,
    next_point: np.ndarray,
    born: np.ndarray,
    joined: np.ndarray,
) -> None:
    """Merges components in the order of the edges, and with them their lists of points (`line_up`).

    Of each root, `sizes` has the voxels and `last_point_of_root` the last point, or -1.
    """
    start = 0
    for level in range(len(ends)):
        for n in range(start, ends[level]):
            root, child = unite(parents, edges[n, 0], edges[n, 1])
            if root == child:
                continue
            sizes[root] = min(sizes[root] + sizes[child], min_size)
            last, child_last = last_point_of_root[root], last_point_of_root[child]
            if sizes[root] >= min_size:
                # all points of a list that has no label yet get theirs now
                for point in (last, child_last):
                    while point >= 0 and born[point] == NEVER:
                        born[point] = level
                        point = next_point[point]
            if last >= 0 and child_last >= 0:
                joined[last] = level
                first, child_first = next_point[last], next_point[child_last]
                next_point[last], next_point[child_last] = child_first, first
            if child_last >= 0:
                last_point_of_root[root] = child_last
        start = ends[level]
