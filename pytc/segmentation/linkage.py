"""Average linkage: fragments are joined, the most surely connected two first, to the last edge.

    while there are edges:
        (a, b) = the edge of the highest mean affinity
        join a and b
        for each neighbour c of both:  edge(ab, c) = edge(a, c) + edge(b, c)

Agglomerative clustering (Lance and Williams, 1967) by a binary heap with lazy deletion: an edge
whose mean changes enters the heap again, and an entry whose mean is out of date is
skipped. Each fragment keeps a list of its edges; the shorter list of two is moved into the
longer, and a hash table finds the edge between two fragments. Cost: O(E log E log V) time, about
100 bytes an edge. Plain form: `plain.average_linkage`.
"""

import numpy as np

from pytc.segmentation.compiled import compiled, inlined
from pytc.segmentation.edge_table import (
    append_item,
    edge_between,
    insert_edge,
    remove_edge,
    table_size,
)
from pytc.segmentation.merge_tree import Merges
from pytc.segmentation.region_graph import UNIT, RegionGraph


def average_linkage(graph: RegionGraph) -> Merges:
    """The merges of a region graph from the first to the last, by the mean affinity of its edges.

    After a merge, the edges of both fragments to a common neighbour become one, whose mean lies
    between theirs: scores never rise along the merges. Of equal scores the edge that holds the
    lowest pair of fragments comes first.
    """
    ids, ends = np.unique(graph.pairs, return_inverse=True)
    ends = ends.reshape(-1, 2).astype(np.int64)
    scores, first, second = _link(
        ends[:, 0].copy(), ends[:, 1].copy(), graph.sums.copy(), graph.weights.copy(), len(ids)
    )
    assert np.all(scores[1:] <= scores[:-1]), "scores of average linkage never rise"
    return Merges(scores, ids[first], ids[second])


@compiled
def _link(
    end_a: np.ndarray, end_b: np.ndarray, sums: np.ndarray, weights: np.ndarray, n_fragments: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merges of fragments 0 .. n - 1, numbered in the order of their ids.

    end_a, end_b, sums, weights: (E,) of the edges, sorted by (end_a, end_b); overwritten.
    Returns (scores, first, second), each (M,): of both clusters the lowest fragment.
    """
    n_edges = len(end_a)
    # Lists of edges: edge e is item 2 e in the list of one end and 2 e + 1 in that of the other.
    head = np.full(n_fragments, -1, np.int64)
    tail = np.full(n_fragments, -1, np.int64)
    following = np.full(2 * n_edges, -1, np.int64)
    degree = np.zeros(n_fragments, np.int64)
    slots = np.zeros(table_size(n_edges), np.int64)  # index + 1 of the edge, or 0
    for edge in range(n_edges):
        append_item(end_a[edge], 2 * edge, head, tail, following, degree)
        append_item(end_b[edge], 2 * edge + 1, head, tail, following, degree)
        insert_edge(edge, end_a, end_b, slots)

    # An edge enters once, and once more each time that another is added to it and dies.
    heap_scores = np.empty(2 * n_edges, np.float64)
    heap_edges = np.empty(2 * n_edges, np.int64)
    heap_edges[:n_edges] = np.arange(n_edges)
    for edge in range(n_edges):
        heap_scores[edge] = _mean(edge, sums, weights)
    size = n_edges
    for i in range(size // 2 - 1, -1, -1):
        _sift_down(i, size, heap_scores, heap_edges)

    lowest = np.arange(n_fragments)  # of a cluster the lowest fragment
    alive = np.ones(n_edges, np.bool_)
    most = max(0, min(n_edges, n_fragments - 1))
    scores = np.empty(most, np.float64)
    first = np.empty(most, np.int64)
    second = np.empty(most, np.int64)
    count = 0
    while size > 0:
        score, edge = heap_scores[0], heap_edges[0]
        size -= 1
        heap_scores[0], heap_edges[0] = heap_scores[size], heap_edges[size]
        _sift_down(0, size, heap_scores, heap_edges)
        if not alive[edge] or score != _mean(edge, sums, weights):
            continue

        kept, gone = end_a[edge], end_b[edge]
        if degree[kept] < degree[gone]:
            kept, gone = gone, kept
        scores[count] = score
        first[count] = min(lowest[kept], lowest[gone])
        second[count] = max(lowest[kept], lowest[gone])
        count += 1
        lowest[kept] = first[count - 1]
        alive[edge] = False
        remove_edge(edge, end_a, end_b, slots)
        degree[kept] -= 1

        item = head[gone]
        while item >= 0:
            next_item = following[item]
            moved = item >> 1
            if alive[moved]:
                remove_edge(moved, end_a, end_b, slots)
                if end_a[moved] == gone:
                    end_a[moved] = kept
                    neighbour = end_b[moved]
                else:
                    end_b[moved] = kept
                    neighbour = end_a[moved]
                other = edge_between(kept, neighbour, end_a, end_b, slots)
                if other < 0:
                    insert_edge(moved, end_a, end_b, slots)
                    append_item(kept, item, head, tail, following, degree)
                else:
                    size = _add_up(
                        moved, other, item, kept, neighbour, end_a, end_b, sums, weights, alive,
                        head, tail, following, degree, slots, heap_scores, heap_edges, size,
                    )  # fmt: skip
            item = next_item
    return scores[:count], first[:count], second[:count]


@compiled
def _add_up(
    moved: int,
    other: int,
    item: int,
    kept: int,
    neighbour: int,
    end_a: np.ndarray,
    end_b: np.ndarray,
    sums: np.ndarray,
    weights: np.ndarray,
    alive: np.ndarray,
    head: np.ndarray,
    tail: np.ndarray,
    following: np.ndarray,
    degree: np.ndarray,
    slots: np.ndarray,
    heap_scores: np.ndarray,
    heap_edges: np.ndarray,
    size: int,
) -> int:
    """Makes one of two edges between `kept` and `neighbour`: the one of the lower index lives on.

    item: the position of edge `moved` in the list of the fragment that is gone. Returns the size of
    the heap.
    """
    moved_score, other_score = _mean(moved, sums, weights), _mean(other, sums, weights)
    degree[neighbour] -= 1
    if other < moved:
        sums[other] += sums[moved]
        weights[other] += weights[moved]
        alive[moved] = False
        survivor, old_score = other, other_score
    else:
        remove_edge(other, end_a, end_b, slots)
        sums[moved] += sums[other]
        weights[moved] += weights[other]
        alive[other] = False
        degree[kept] -= 1
        insert_edge(moved, end_a, end_b, slots)
        append_item(kept, item, head, tail, following, degree)
        survivor, old_score = moved, moved_score
    score = _mean(survivor, sums, weights)
    if score != old_score:
        heap_scores[size], heap_edges[size] = score, survivor
        _sift_up(size, heap_scores, heap_edges)
        size += 1
    return size


@compiled
def _mean(edge: int, sums: np.ndarray, weights: np.ndarray) -> float:
    return np.float64(sums[edge]) / UNIT / np.float64(weights[edge])


@compiled
def _sift_up(i: int, scores: np.ndarray, edges: np.ndarray) -> None:
    score, edge = scores[i], edges[i]
    while i > 0:
        parent = (i - 1) >> 1
        if not _comes_first(score, edge, scores[parent], edges[parent]):
            break
        scores[i], edges[i] = scores[parent], edges[parent]
        i = parent
    scores[i], edges[i] = score, edge


@compiled
def _sift_down(i: int, size: int, scores: np.ndarray, edges: np.ndarray) -> None:
    if size == 0:
        return
    score, edge = scores[i], edges[i]
    while 2 * i + 1 < size:
        child = 2 * i + 1
        right = child + 1
        if right < size and _comes_first(scores[right], edges[right], scores[child], edges[child]):
            child = right
        if not _comes_first(scores[child], edges[child], score, edge):
            break
        scores[i], edges[i] = scores[child], edges[child]
        i = child
    scores[i], edges[i] = score, edge


@inlined
def _comes_first(score: float, edge: int, other_score: float, other_edge: int) -> bool:
    return score > other_score or (score == other_score and edge < other_edge)
