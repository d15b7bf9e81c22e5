"""Dense scores after every merge of a merge tree: VOI and adapted Rand at every threshold.

Scoring a segmentation needs the table n(segment, object) of shared voxels. A merge of two segments
adds up two of its rows and leaves the others as they are, so every score is a running sum:

    n(s, o)      o1   o2   o3
    segment a     5    .    2   \\
    segment b     .    7    1    >  row a + row b:   5    7    3
    segment c     4    .    .       (the others stay)

The shorter row is added to the longer. A cluster of fewer than min_size voxels has no label yet:
its voxels are in row 0, until a merge makes it large enough. Cost: O(P log P) for P pairs of
fragment and object. Exact: counts are integers; sums of n^2 are held in two 64-bit numbers.
"""

import numba
import numpy as np

from pytc.checks import require
from pytc.metrics.overlap import Contingency, complete_metrics
from pytc.segmentation.edge_table import (
    append_item,
    edge_between,
    insert_edge,
    remove_edge,
    table_size,
)
from pytc.segmentation.merge_tree import MergeTree

LOW_BITS = 20  # a sum of n^2 is kept as high * 2^20 + low: it exceeds 64 bits at 10^10 voxels
PAIRS, SEGMENTS = 0, 1  # the sums over all n(segment, object), and over all n(segment)


def dense_curve(
    tree: MergeTree, overlaps: Contingency, *, min_size: int = 0
) -> dict[str, np.ndarray]:
    """The scores of `overlap_metrics` after 0, 1, ..., M merges.

    Args:
        tree: the fragments and their merges.
        overlaps: of the true labels and the fragments; voxels of truth 0 do not count.
        min_size: segments of fewer voxels are background, as in `MergeTree.cut`.

    Returns:
        {name: (M + 1,) float64}; entry k is the score of the cut that carries out k merges.

    Raises:
        ValueError: if no voxel counts, or a fragment is none of the tree's.
    """
    is_counted = overlaps.truth != 0
    require(is_counted.any(), "at least one voxel with a true label", "none")
    fragments = overlaps.segmentation[is_counted].astype(np.int64)
    highest = int(fragments.max())
    require(highest < len(tree.sizes), f"fragments below {len(tree.sizes)}", highest)
    counts = overlaps.count[is_counted]
    objects, columns = np.unique(overlaps.truth[is_counted], return_inverse=True)

    (joint, segments), (joint_squares, segment_squares) = _follow(
        fragments,
        columns.astype(np.int64),
        counts.copy(),
        len(objects),
        tree.sizes.copy(),
        tree.merges.first.astype(np.int64),
        tree.merges.second.astype(np.int64),
        max(1, min_size),
    )
    of_objects = np.bincount(columns, counts)
    total = float(counts.sum())
    split = np.maximum(np.sum(of_objects * np.log2(of_objects)) - joint, 0) / total
    merge = np.maximum(segments - joint, 0) / total
    object_squares = float(sum(int(n) ** 2 for n in of_objects.astype(np.int64)))
    return complete_metrics(
        voi_split=split,
        voi_merge=merge,
        rand_split=joint_squares / object_squares,
        rand_merge=joint_squares / segment_squares,
        adapted_rand_error=1 - 2 * joint_squares / (object_squares + segment_squares),
    )


@numba.njit(cache=True, nogil=True)
def _follow(
    fragments: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    n_objects: int,
    sizes: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    min_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The sums over the table after each merge: n log2 n and n^2, each of pairs and of segments.

    fragments, columns, counts: (P,) the pairs, each once; counts is overwritten. sizes: (N + 1,)
    voxels of each fragment, overwritten. first, second: (M,) the merges.

    Returns (logs, squares), each (2, M + 1).
    """
    n_fragments, n_merges, n_pairs = len(sizes), len(first), len(fragments)
    # A pair is an edge between a cluster and an object; objects are numbered after the fragments.
    rows = fragments.copy()
    objects = columns + n_fragments
    head = np.full(n_fragments, -1, np.int64)
    tail = np.full(n_fragments, -1, np.int64)
    following = np.full(n_pairs, -1, np.int64)
    length = np.zeros(n_fragments, np.int64)
    slots = np.zeros(table_size(n_pairs), np.int64)
    in_row = np.zeros(n_fragments, np.int64)  # voxels of a cluster that count
    for pair in range(n_pairs):
        append_item(rows[pair], pair, head, tail, following, length)
        insert_edge(pair, rows, objects, slots)
        in_row[rows[pair]] += counts[pair]

    sums = np.zeros((2, 4))  # of n log2 n: sum and compensation; of n^2: high and low
    background = np.zeros(n_objects + 1, np.int64)  # by object, and in all: what has no label
    for pair in range(n_pairs):
        row = rows[pair]
        if row == 0 or sizes[row] < min_size:
            background[columns[pair]] += counts[pair]
            background[n_objects] += counts[pair]
        else:
            _change(sums[PAIRS], 0, counts[pair])
    for column in range(n_objects):
        _change(sums[PAIRS], 0, background[column])
    _change(sums[SEGMENTS], 0, background[n_objects])
    for row in range(1, n_fragments):
        if sizes[row] >= min_size:
            _change(sums[SEGMENTS], 0, in_row[row])

    logs = np.empty((2, n_merges + 1))
    squares = np.empty((2, n_merges + 1))
    _note(sums, logs, squares, 0)
    holder = np.arange(n_fragments)  # where the row of a cluster is, by its lowest fragment
    for merge in range(n_merges):
        kept, gone = holder[first[merge]], holder[second[merge]]
        if length[kept] < length[gone]:
            kept, gone = gone, kept
        holder[first[merge]] = kept
        is_labelled = sizes[kept] + sizes[gone] >= min_size
        if is_labelled:
            for cluster in (kept, gone):
                if sizes[cluster] < min_size:
                    _give_label(cluster, head, following, rows, columns, counts, in_row,
                                background, sums)  # fmt: skip
            _change(sums[SEGMENTS], in_row[kept], 0)
            _change(sums[SEGMENTS], in_row[gone], in_row[kept] + in_row[gone])
        pair = head[gone]
        while pair >= 0:
            next_pair = following[pair]
            if rows[pair] == gone:  # else it was added to another pair
                remove_edge(pair, rows, objects, slots)
                rows[pair] = kept
                other = edge_between(kept, objects[pair], rows, objects, slots)
                if other < 0:
                    insert_edge(pair, rows, objects, slots)
                    append_item(kept, pair, head, tail, following, length)
                else:
                    if is_labelled:
                        _change(sums[PAIRS], counts[other], 0)
                        _change(sums[PAIRS], counts[pair], counts[other] + counts[pair])
                    counts[other] += counts[pair]
                    rows[pair] = -1
            pair = next_pair
        sizes[kept] += sizes[gone]
        in_row[kept] += in_row[gone]
        _note(sums, logs, squares, merge + 1)
    return logs, squares


@numba.njit(cache=True, nogil=True)
def _give_label(
    cluster: int,
    head: np.ndarray,
    following: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    counts: np.ndarray,
    in_row: np.ndarray,
    background: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Takes a cluster out of the background: it is part of a segment from now on."""
    pair = head[cluster]
    while pair >= 0:
        if rows[pair] == cluster:
            before = background[columns[pair]]
            background[columns[pair]] -= counts[pair]
            _change(sums[PAIRS], before, background[columns[pair]])
            _change(sums[PAIRS], 0, counts[pair])
        pair = following[pair]
    before = background[-1]
    background[-1] -= in_row[cluster]
    _change(sums[SEGMENTS], before, background[-1])
    _change(sums[SEGMENTS], 0, in_row[cluster])


@numba.njit(cache=True, nogil=True)
def _change(sums: np.ndarray, old: int, new: int) -> None:
    """Replaces n = old by n = new in a sum of n log2 n, and in one of n^2.

    sums: (4,) the first sum and what its rounding lost (Neumaier); the high and the low part of the
    second, which is exact.
    """
    term = _n_log_n(new) - _n_log_n(old)
    total = sums[0] + term
    if abs(sums[0]) >= abs(term):
        sums[1] += (sums[0] - total) + term
    else:
        sums[1] += (term - total) + sums[0]
    sums[0] = total

    difference, double_mean = new - old, new + old  # new^2 - old^2 is their product
    high = (double_mean >> LOW_BITS) * difference
    low = (double_mean & ((1 << LOW_BITS) - 1)) * difference + np.int64(sums[3])
    sums[2] += high + (low >> LOW_BITS)
    sums[3] = low & ((1 << LOW_BITS) - 1)


@numba.njit(cache=True, nogil=True)
def _n_log_n(n: int) -> float:
    return n * np.log2(n) if n > 0 else 0.0


@numba.njit(cache=True, nogil=True)
def _note(sums: np.ndarray, logs: np.ndarray, squares: np.ndarray, row: int) -> None:
    for kind in range(2):
        logs[kind, row] = sums[kind, 0] + sums[kind, 1]
        squares[kind, row] = sums[kind, 2] * (1 << LOW_BITS) + sums[kind, 3]
