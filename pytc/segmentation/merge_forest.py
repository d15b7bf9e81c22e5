"""Components while the threshold falls: they only merge, so one forest holds them all.

The forest is grown edge by edge. Its nodes are the components at the first threshold in each slab
of planes (voxels without an edge are some, too), often few, numbered without gaps: of the volume,
only edges between two of them are ever looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numba
import numpy as np

from pytc.segmentation.connected_components import component_sizes, label_slab
from pytc.segmentation.edges import (
    check_affinities,
    comparable,
    descending_edges,
    label_dtype,
    ranges_above,
    slabs_of,
    values_above,
)
from pytc.segmentation.union_find import find, unite

NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Graph:
    """Components at the first threshold, within a slab, as nodes, and edges between two of them."""

    nodes: np.ndarray  # (Z, Y, X) the node of each voxel, 1 .. N in raster order of first voxels
    # (N + 1,) voxels of each node and what it joins before its first edge, up to min_size
    sizes: np.ndarray
    # (M, 2) nodes, first those above the first threshold, ...; for growing, in descending order
    edges: np.ndarray
    ends: np.ndarray  # (T,) how many of the edges are above each threshold
    last: int  # for growing, how many are above 0
    # smaller components have no label, and voxels without an edge: 2 or more
    min_size: np.unsignedinteger
    grow: bool
    followed: np.ndarray | None  # (F,) nodes, the only ones to name unless all can be


def component_graph(
    affinities: np.ndarray,
    thresholds: Sequence[float],
    *,
    min_size: int = 0,
    grow: bool = False,
    follow: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Graph:
    """The graph for thresholds in descending order.

    Affinities and min_size as in `connected_components_3d`.

    grow: with the edges, down to 0, by which `grow` joins voxels to components. follow: picks those
    of the nodes (Z, Y, X) that will be named; edges that change no name of theirs are left out, but
    for growing. Memory: 5 bytes a voxel, 10 an edge between two nodes, and 12 a node (about twice
    as many for volumes of 2^32 voxels and more).
    """
    check_affinities(affinities)
    affinities, length = affinities[:3], affinities.shape[1]
    floors = np.array(thresholds, np.float64)
    if grow:
        floors = np.concatenate([floors, values_above(affinities, 0), [0.0]])
    floors, places = np.unique(-floors, return_inverse=True)
    slabs = slabs_of(length, n_floors=len(floors))
    nodes, first, sizes = _number_nodes(affinities, thresholds[0], slabs, max(min_size, 2))
    min_size = sizes.dtype.type(min(max(min_size, 2), np.iinfo(sizes.dtype).max))
    followed = None if follow is None else follow(nodes)

    def edges_in(slab, before, after):
        start, stop = slab
        edges, ends = descending_edges(affinities, [slab], nodes, -floors[::-1], nodes)
        highest = int(nodes[stop : stop + 1].max(initial=after)) - before
        named = np.full(highest + 1, grow or followed is None)
        if not named[0]:
            own = followed.astype(np.int64) - before
            named[own[(own > 0) & (own <= highest)]] = True
            # of the plane after the slab: the next slab joins these, too
            named[after - before + 1 :] = True
            if (
                start > 0
            ):  # and so does the one before, those of the first plane, whose numbers are the lowest
                named[: int(nodes[start].max(initial=before)) - before + 1] = True
        parents = np.arange(1, len(named), dtype=nodes.dtype)
        ends = _keep_naming(edges, ends, before, grow, parents, sizes, named, min_size)
        return edges[: ends[-1]].copy(), ends

    with ThreadPoolExecutor(len(slabs)) as pool:
        edges, ends = _in_one(list(pool.map(edges_in, slabs, first, first[1:])))
    ends = ends[places]
    return Graph(
        nodes, sizes, edges, ends[: len(thresholds)], int(ends[-1]), min_size, grow, followed
    )


def _number_nodes(
    affinities: np.ndarray, threshold: float, slabs: list[tuple[int, int]], min_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`nodes` of a graph, not joined across slabs; how many come before each slab, and in all.

    `sizes`.
    """
    values, ranges = comparable(affinities), ranges_above(threshold, affinities.dtype)
    nodes = np.empty(affinities.shape[1:], label_dtype(affinities.shape[1:]))
    parts = [nodes[start:stop] for start, stop in slabs]
    shared = [np.empty(part.size + 1, np.bool_) for part in parts]
    with ThreadPoolExecutor(len(slabs)) as pool:
        counts = list(
            pool.map(
                lambda slab, *out: label_slab(values, ranges, *slab, *out), slabs, parts, shared
            )
        )
        first = np.cumsum([0, *counts])
        sizes = np.zeros(first[-1] + 1, nodes.dtype)

        def measure(part, shared, before, count):
            known = sizes[before + 1 : before + count + 1]
            if min_size == 2:
                np.add(shared[1 : count + 1], 1, out=known, casting="unsafe")
            else:
                np.minimum(component_sizes(part, count)[1:], min_size, out=known, casting="unsafe")

        list(pool.map(measure, parts, shared, first, counts))
        pieces = [
            (piece, nodes.dtype.type(before))
            for part, before in zip(parts[1:], first[1:])
            for piece in np.array_split(part, len(slabs))
        ]
        list(pool.map(lambda piece: np.add(*piece, out=piece[0]), pieces))
    return nodes, first, sizes


def _in_one(slabs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """`edges` and `ends` of all slabs, from those of each."""
    if len(slabs) == 1:
        return slabs[0]
    bounds = zip(*(pairwise([0, *ends.tolist()]) for _, ends in slabs))
    parts = [
        edges[i:j] for at_level in bounds for (edges, _), (i, j) in zip(slabs, at_level) if i < j
    ]
    return np.concatenate([slabs[0][0][:0], *parts]), sum(ends for _, ends in slabs)


def names_at_thresholds(graph: Graph) -> Iterator[Callable]:
    """At each threshold in turn, a function from nodes (n,) to names of their components.

    The names are (n,) uint64. A name is 0 where `connected_components_3d` with the graph's
    min_size, and `grow` after it if asked for, give the label 0; else names are ordered as the
    labels are. It is valid until the next threshold.
    """
    parents, sizes, start = (
        np.arange(1, len(graph.sizes), dtype=graph.nodes.dtype),
        graph.sizes.copy(),
        0,
    )
    for end in graph.ends:
        _join(graph.edges[start:end], parents, sizes, graph.min_size)
        start, named = end, parents
        if graph.grow:
            named = parents.copy()
            grow_components(graph.edges[end : graph.last], named, sizes, graph.min_size)
        yield partial(names, named, sizes, graph.min_size)


def line_up(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nodes followed as points in a line, in which each component is a stretch.

    That holds at every threshold. Returns the points' indices in line and, by place on it, the
    times (indices of thresholds) from which a point has a label, and has that of the next; NEVER if
    not at all.
    """
    line = np.argsort(graph.followed, kind="stable")
    nodes = graph.followed[line]
    born = np.where(graph.sizes[nodes] >= graph.min_size, 0, NEVER)
    joined = np.where(np.diff(nodes, append=nodes.dtype.type(0)) == 0, 0, NEVER)
    tails = np.flatnonzero(joined)
    # the first point of a component comes after its last one
    following = np.arange(1, len(nodes) + 1)
    following[tails] = np.append(0, tails + 1)[:-1]
    # index + 1 of the last point in a component, at its root
    tail_at = np.zeros(graph.sizes.shape, np.int32)
    tail_at[nodes[tails]] = tails + 1
    parents, sizes = np.arange(1, len(graph.sizes), dtype=graph.nodes.dtype), graph.sizes.copy()
    _join_lines(
        graph.edges, graph.ends, graph.min_size, parents, sizes, tail_at, following, born, joined
    )

    order, following = [], following.tolist()
    for tail in np.flatnonzero(joined == NEVER).tolist():
        order.append(following[tail])
        while order[-1] != tail:
            order.append(following[order[-1]])
    return line[order], born[order], np.maximum(joined, born)[order]


@numba.njit(cache=True, nogil=True)
def _keep_naming(edges, ends, before, grow, parents, sizes, named, min_size):
    """Keep, in place, the edges by which components with a node to name may get another name.

    Returns the new ends. named (n + 1,), entry 0 unused, and parents (n,): of the nodes from before
    + 1 on; overwritten. sizes: of all nodes; that of one not named, which no other slab has,
    becomes that of its component before its first edge kept. Edges become edges between roots, but
    for growing, where components at their ends may stay apart.
    """
    start, count, size = 0, 0, sizes[before : before + len(named)].copy()
    for k in range(len(ends)):
        for n in range(start, ends[k]):
            a, b = np.int64(edges[n, 0]), np.int64(edges[n, 1])
            i, j = unite(parents, parents.dtype.type(a - before), parents.dtype.type(b - before))
            if i == j:
                continue
            if named[j] | (named[i] & (size[i] < min_size)):
                if not named[i]:
                    sizes[before + i] = size[i]
                if not named[j]:
                    sizes[before + j] = size[j]
                edges[count, 0], edges[count, 1] = (a, b) if grow else (before + i, before + j)
                count += 1
            size[i] = min(size[i] + size[j], min_size)
            named[i] |= named[j]
        start, ends[k] = ends[k], count
    return ends


@numba.njit(cache=True, nogil=True)
def _join(edges, parents, sizes, min_size):
    for n in range(len(edges)):
        i, j = unite(parents, edges[n, 0], edges[n, 1])
        if i != j:
            sizes[i] = min(sizes[i] + sizes[j], min_size)


@numba.njit(cache=True, nogil=True)
def grow_components(edges, parents, sizes, min_size):
    """Join components that are too small with each other and to others.

    Others stay the roots, and do not merge.
    """
    for n in range(len(edges)):
        i, j = find(parents, edges[n, 0]), find(parents, edges[n, 1])
        if sizes[i] < min_size:
            parents[i - 1] = j
        elif sizes[j] < min_size:
            parents[j - 1] = i


@numba.njit(cache=True, nogil=True)
def names(parents, sizes, min_size, nodes):
    """The root of each node's component, or 0 if it is too small."""
    found = np.zeros(len(nodes), np.uint64)
    for n in range(len(nodes)):
        root = find(parents, parents.dtype.type(nodes[n]))
        if sizes[root] >= min_size:
            found[n] = root
    return found


@numba.njit(cache=True, nogil=True)
def _join_lines(edges, ends, min_size, parents, sizes, tail_at, following, born, joined):
    start = 0
    for time in range(len(ends)):
        for n in range(start, ends[time]):
            i, j = unite(parents, edges[n, 0], edges[n, 1])
            if i == j:
                continue
            sizes[i] = min(sizes[i] + sizes[j], min_size)
            tail, new_tail = tail_at[i] - 1, tail_at[j] - 1
            if sizes[i] >= min_size:
                for point in (tail, new_tail):
                    while point >= 0 and born[point] == NEVER:
                        born[point] = time
                        point = following[point]
            if tail >= 0 and new_tail >= 0:
                joined[tail] = time
                following[tail], following[new_tail] = following[new_tail], following[tail]
            if new_tail >= 0:
                tail_at[i] = new_tail + 1
        start = ends[time]
