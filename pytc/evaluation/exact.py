"""Skeleton scores at every threshold at which a segmentation can change, hence the best.

`line_up` puts the nodes of the skeletons in a line, such that at every threshold each segment is a
stretch of it. As the threshold falls, gaps between neighbours close, and stretches merge:

    position in the line           0     1     2     3     4
    the gap closes at row             2     0     5     2        row 0: the highest threshold
    stretches at row 0             0     1 --- 2     3     4
    stretches at row 2             0 --- 1 --- 2     3 --- 4

A merge changes a score by what it makes of two stretches, so the score of a row is a running sum.
"""

from collections.abc import Callable

import numpy as np

from pytc.evaluation.sweep import Sweep, sweep_result
from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.edges import values_above
from pytc.segmentation.merge_forest import build_merge_forest, line_up

EXACT_METRICS = ("erl", "nerl", "voi_sum", "voi_split", "voi_merge")

# (first, last) positions of stretches -> their scores, all (m,)
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exact_sweep(
    affinities: np.ndarray, skeleton: Skeleton, *, metric: str = "nerl", min_size: int = 0
) -> Sweep:
    """EXACT_METRICS as `threshold_sweep` counts them, at all thresholds from 0 up.

    affinities and min_size as in `connected_components_3d`. Thresholds of rows descend, and are
    affinities or 0; a row holds from its threshold up to that of the row before, where the segments
    of the nodes change. Memory: about 42 bytes a voxel beyond the affinities. ValueError for other
    metrics, and if a node lies outside the volume.
    """
    if metric not in EXACT_METRICS:
        raise ValueError(
            f"expected a metric from {', '.join(EXACT_METRICS)} for an exact sweep, got {metric!r}"
        )
    skeletons = SkeletonMetrics(skeleton)
    thresholds = np.append(0, values_above(affinities[:3], 0))[::-1]
    forest = build_merge_forest(
        affinities,
        thresholds,  # type: ignore[arg-type]  # an array is as good, and millions of floats are not
        min_size=min_size,
        query=skeletons.segments_at_nodes,
    )
    nodes, born, joined = line_up(forest)

    # A row for each threshold at which a node gets a label or a gap closes, and for the highest.
    times, row_of = np.unique(np.concatenate([[0], born, joined]), return_inverse=True)
    born, joined = np.split(row_of[1:], 2)
    # A row holds down to where the next one begins; the last of the times is NEVER.
    lowest = thresholds[np.append(times[1:-1], len(thresholds)) - 1]

    columns = {"threshold": lowest} | skeleton_curve(skeletons, nodes, born, joined, len(lowest))
    rows = [dict(zip(columns, row)) for row in np.column_stack(list(columns.values())).tolist()]
    return sweep_result(rows, metric)


def skeleton_curve(
    skeletons: SkeletonMetrics,
    nodes: np.ndarray,
    born: np.ndarray,
    joined: np.ndarray,
    n_rows: int,
) -> dict[str, np.ndarray]:
    """EXACT_METRICS at each row.

    Args:
        nodes: (N,) the node at each position in the line.
        born: (N,) the row from which it has a label; n_rows if it never has one.
        joined: (N,) the row at which the gap behind it closes; n_rows if at none.

    Returns:
        {name: (n_rows,) float64}.
    """
    skeleton = skeletons.skeleton
    squares = _squared_run_lengths(skeleton, nodes, joined, n_rows)
    split, merge = _information(skeleton.ids[nodes], born, joined, n_rows)
    erl = np.maximum(squares, 0) / skeletons.total_length
    columns = (erl, erl / skeletons.max_erl, split + merge, split, merge)
    return dict(zip(EXACT_METRICS, columns))


def _squared_run_lengths(
    skeleton: Skeleton, nodes: np.ndarray, joined: np.ndarray, n_rows: int
) -> np.ndarray:
    """(n_rows,) float64, nm^2: the squared length of correct edges, summed over segments.

    Args:
        nodes: (N,) the node at each position in the line.
        joined: (N,) the row at which the gap behind each position closes; n_rows if at none.
    """
    position_of = np.empty_like(nodes)
    position_of[nodes] = np.arange(len(nodes))
    ends = np.sort(position_of[skeleton.edges], axis=1)
    has_length = ends[:, 0] < ends[:, 1]
    # An edge lies within a segment from the row on at which the last gap between its ends closes.
    # It is counted at this gap: a stretch that contains the gap contains the edge.
    gaps = _argmax_over_ranges(joined, *ends[has_length].T)
    # of the edges that are counted at gaps before a position
    length_before = np.bincount(gaps + 1, skeleton.edge_lengths[has_length], len(nodes)).cumsum()
    ids = skeleton.ids[nodes]
    changes_before = np.append(0, ids[1:] != ids[:-1]).cumsum()

    def square(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        is_one_skeleton = changes_before[first] == changes_before[last]  # otherwise a merger
        length = length_before[last] - length_before[first]
        return np.where(is_one_skeleton, length, 0) ** 2

    return _sum_over_stretches(joined, n_rows, square)


def _information(
    ids: np.ndarray, born: np.ndarray, joined: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """voi_split and voi_merge in bits, each (n_rows,) float64.

    With n(s, t) nodes of skeleton s in segment t, N nodes in all, and g(n) = n log2 n:

        voi_split = (sum over s of g(n(s)) - sum over s, t of g(n(s, t))) / N
        voi_merge = (sum over t of g(n(t)) - sum over s, t of g(n(s, t))) / N

    Nodes without a label are in segment 0. Nodes of skeleton 0 do not count.

    Args:
        ids: (N,) the skeleton of the node at each position in the line.
        born: (N,) the row from which it has a label; n_rows if it never has one.
        joined: (N,) the row at which the gap behind it closes; n_rows if at none.
    """
    counts = ids != 0
    n_nodes = counts.sum()

    # g of the nodes without a label, of each skeleton and of all; before row 0 no node has one
    unlabelled_of_each = _unlabelled(ids[counts], born[counts], n_rows)
    unlabelled = _unlabelled(np.ones(n_nodes), born[counts], n_rows)
    skeletons = unlabelled_of_each[0]

    # The skeletons one after another make a line in which the overlaps are stretches.
    order = np.argsort(ids, kind="stable")
    joined_within = _gaps_within_skeletons(ids, order, joined, n_rows)
    overlaps = _sum_over_stretches(joined_within, n_rows, _g_of_counts(counts[order]))
    overlaps = overlaps + unlabelled_of_each[1:]

    segments = _sum_over_stretches(joined, n_rows, _g_of_counts(counts)) + unlabelled[1:]
    split = np.maximum(skeletons - overlaps, 0) / n_nodes
    merge = np.maximum(segments - overlaps, 0) / n_nodes
    return split, merge


def _gaps_within_skeletons(
    ids: np.ndarray, order: np.ndarray, joined: np.ndarray, n_rows: int
) -> np.ndarray:
    """`joined` in a line that holds one skeleton after another; never between two of them.

    Two nodes share a segment once all gaps between them in the old line are closed.

    Args:
        order: (N,) the positions in the old line, in the order of the new one.
    """
    is_inside = np.append(ids[order][1:] == ids[order][:-1], False)
    inside = np.flatnonzero(is_inside)
    within = np.full(len(ids), n_rows)
    within[inside] = joined[_argmax_over_ranges(joined, order[inside], order[inside + 1])]
    return within


def _unlabelled(ids: np.ndarray, born: np.ndarray, n_rows: int) -> np.ndarray:
    """(n_rows + 1,) the sum of g(n) over skeletons with n nodes that are born at a row or later.

    Entry r + 1 counts the nodes that have no label at row r.
    """
    # Going up the rows, the k-th node of a skeleton that loses its label adds g(k) - g(k - 1).
    order = np.lexsort((born, ids))
    behind = np.searchsorted(ids[order], ids[order], "right")
    k = behind - np.arange(len(ids))
    added = np.bincount(born[order], _g(k) - _g(k - 1), n_rows + 1)
    total: np.ndarray = added[::-1].cumsum()[::-1]
    return total


def _g(n: np.ndarray) -> np.ndarray:
    """n log2 n, and 0 for 0."""
    terms: np.ndarray = n * np.log2(np.maximum(n, 1))
    return terms


def _g_of_counts(counts: np.ndarray) -> Score:
    """Scores a stretch by g of how many of its positions count, by counts (N,) bool."""
    before = np.append(0, counts).cumsum()

    def score(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return _g(before[last + 1] - before[first])

    return score


def _argmax_over_ranges(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Where values[first:last], not empty, is largest; of equal values the last one.

    By a sparse table: row k holds the largest of each 2^k values that follow one another. Two
    entries that overlap cover any range. O(n log n) to build, O(1) for each range.

        values               3  1  4  1  5
        row 0, of 1 value    3  1  4  1  5
        row 1, of 2 values   3  4  4  5  .        values[1:4]: the larger of row 1 at 1 and at 2
        row 2, of 4 values   4  5  .  .  .

    Args:
        values: (n,) integers; n^2 must fit into 64 bits.
        first, last: (m,) the ranges.

    Source: Bender and Farach-Colton, "The LCA problem revisited" (2000).
    """
    n = len(values)
    rows = [values * n + np.arange(n)]  # a value and its index as one number
    width = 1
    while 2 * width <= n:
        # the last entries wrap around, and are never read
        rows.append(np.maximum(rows[-1], np.roll(rows[-1], -width)))
        width *= 2
    table = np.array(rows)
    row = np.frexp(last - first)[1] - 1  # log2 of the length, rounded down
    largest = np.maximum(table[row, first], table[row, last - (1 << row)])
    index: np.ndarray = largest % n
    return index


def _sum_over_stretches(joined: np.ndarray, n_rows: int, score: Score) -> np.ndarray:
    """(n_rows,) the sum over the stretches of each row of their score; a single position scores 0.

    Args:
        joined: (N,) the row at which the gap behind each position closes.
    """
    n_closed = np.count_nonzero(joined < n_rows)
    gaps = np.argsort(joined, kind="stable")[:n_closed]  # in the order in which they close
    # The bounds of a stretch are kept at its ends alone, which is where a closing gap asks.
    first_of = list(range(len(joined)))  # by its last position
    last_of = list(range(len(joined)))  # by its first position
    made = []
    for gap in gaps.tolist():
        first = first_of[gap]
        last = last_of[gap + 1]
        made.append((first, last))
        last_of[first] = last
        first_of[last] = first
    first, last = np.array(made, np.int64).reshape(-1, 2).T
    changes = score(first, last) - score(first, gaps) - score(gaps + 1, last)
    total: np.ndarray = np.bincount(joined[gaps], changes, n_rows).cumsum()
    return total
