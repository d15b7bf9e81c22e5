"""Components while the threshold falls: they only merge, so one forest, grown edge by edge, holds those of all.

Its nodes are the components at the first threshold (voxels without an edge are some, too), often few, numbered without
gaps: of the volume, only edges between two of them are ever looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numba
import numpy as np

from pytc.segmentation.connected_components import component_sizes, find, label_planes
from pytc.segmentation.edges import (
    check_affinities,
    comparable,
    descending_edges,
    label_dtype,
    ranges_above,
    values_above,
)

NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Graph:
    """Components at the first threshold as nodes, and the edges between two of them."""

    nodes: np.ndarray  # (Z, Y, X) the node of each voxel, 1 .. N in raster order of first voxels
    sizes: np.ndarray  # (N + 1,) int64, voxels of each node
    edges: np.ndarray  # (M, 2) nodes, in descending order of the affinity
    ends: np.ndarray  # (T,) how many of the edges are above each threshold
    last: int  # how many are above 0, for growing

    def parents(self) -> np.ndarray:
        """A union-find forest of nodes that are not joined yet; `find` counts from 1."""
        return np.arange(1, len(self.sizes), dtype=self.nodes.dtype)


def component_graph(affinities: np.ndarray, thresholds: Sequence[float], *, grow: bool = False) -> Graph:
    """The graph for thresholds in descending order; affinities as in `connected_components_3d`.

    grow: with the edges, down to 0, by which `grow` joins voxels to components. Memory: 5 bytes a voxel, 8 an edge
    between two nodes, and 12 a node (about twice as many for volumes of 2^32 voxels and more).
    """
    check_affinities(affinities)
    affinities, shape = affinities[:3], affinities.shape[1:]
    volume = np.empty(shape, label_dtype(shape))
    count = label_planes(comparable(affinities), ranges_above(thresholds[0], affinities.dtype), 0, shape[0], volume,
                         alone=True)
    floors = np.array(thresholds, np.float64)
    if grow:
        floors = np.concatenate([floors, values_above(affinities, 0), [0.0]])
    floors, places = np.unique(-floors, return_inverse=True)
    edges, ends = descending_edges(affinities, volume, -floors[::-1], volume)
    ends = ends[places]
    sizes = component_sizes(volume, count, numba.config.NUMBA_NUM_THREADS)
    return Graph(volume, sizes, edges, ends[:len(thresholds)], int(ends[-1]))


def spanning_forest(graph: Graph, *, as_roots: bool = False) -> Graph:
    """The same graph with only the edges that join two components; as_roots: as the smallest nodes of these.

    Those of the given graph are overwritten.
    """
    ends = np.append(graph.ends, graph.last)
    order = np.argsort(ends, kind="stable")
    ends[order] = kept = _keep_spanning(graph.edges, ends[order], as_roots, graph.parents())
    return replace(graph, edges=graph.edges[:kept[-1]].copy(), ends=ends[:-1], last=int(ends[-1]))


def names_at_thresholds(graph: Graph, *, min_size: int = 0, grow: bool = False) -> Iterator[Callable]:
    """At each threshold in turn, a function from nodes (n,) to names of their components, (n,) uint64.

    A name is 0 where `connected_components_3d` with this min_size, and `grow` after it if asked for, give the label 0;
    else names are ordered as the labels are. It is valid until the next threshold. With grow, which visits edges again
    at each threshold, a `spanning_forest` takes less time.
    """
    min_size, start = max(min_size, 2), 0  # a voxel without an edge is not in a component
    parents, sizes = graph.parents(), graph.sizes.copy()
    for end in graph.ends:
        _join(graph.edges[start:end], parents, sizes)
        start, named = end, parents
        if grow:
            named = parents.copy()
            grow_components(graph.edges[end:graph.last], named, sizes, min_size)
        yield partial(names, named, sizes, min_size)


def line_up(forest: Graph, nodes: np.ndarray, min_size: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in a line, such that those of each component, at each threshold, are a stretch of it.

    forest: a `spanning_forest` of roots. nodes (n,): of each point. Returns the points' indices in line and, by place
    on it, the times (indices of thresholds) from which a point has a label, and has that of the next; NEVER if not
    at all. min_size as in `connected_components_3d`.
    """
    min_size = max(min_size, 2)
    line = np.argsort(nodes, kind="stable")
    nodes = nodes[line]
    born = np.where(forest.sizes[nodes] >= min_size, 0, NEVER)
    joined = np.where(np.diff(nodes, append=nodes.dtype.type(0)) == 0, 0, NEVER)
    tails = np.flatnonzero(joined)
    following = np.arange(1, len(nodes) + 1)  # the first point of a component comes after its last one
    following[tails] = np.append(0, tails + 1)[:-1]
    tail_at = np.zeros(forest.sizes.shape, np.int32)  # index + 1 of the last point in a component, at its root
    tail_at[nodes[tails]] = tails + 1
    _join_lines(forest.edges, forest.ends, min_size, forest.sizes.copy(), tail_at, following, born, joined)

    order, following = [], following.tolist()
    for tail in np.flatnonzero(joined == NEVER).tolist():
        order.append(following[tail])
        while order[-1] != tail:
            order.append(following[order[-1]])
    return line[order], born[order], np.maximum(joined, born)[order]


@numba.njit(cache=True, nogil=True)
def _keep_spanning(edges, ends, as_roots, parents):
    """Keep the edges that join two components, in place, and return the new ends."""
    start = count = 0
    for k in range(len(ends)):
        for n in range(start, ends[k]):
            a, b = edges[n]
            i, j = find(parents, a), find(parents, b)
            if i != j:
                i, j = min(i, j), max(i, j)
                parents[j - 1] = i
                edges[count, 0], edges[count, 1] = (i, j) if as_roots else (a, b)
                count += 1
        start, ends[k] = ends[k], count
    return ends


@numba.njit(cache=True, nogil=True)
def _join(edges, parents, sizes):
    for n in range(len(edges)):
        i, j = find(parents, edges[n, 0]), find(parents, edges[n, 1])
        if i != j:
            i, j = min(i, j), max(i, j)
            parents[j - 1] = i
            sizes[i] += sizes[j]


@numba.njit(cache=True, nogil=True)
def grow_components(edges, parents, sizes, min_size):
    """Join components that are too small with each other and to others, which stay the roots and do not merge."""
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
def _join_lines(edges, ends, min_size, sizes, tail_at, following, born, joined):
    start = 0
    for time in range(len(ends)):
        for n in range(start, ends[time]):
            i, j = edges[n]
            sizes[i] += sizes[j]
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
