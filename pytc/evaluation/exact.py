"""Skeleton scores at every threshold at which a segmentation can change, hence the best.

Segments are stretches of a line of nodes that only merge (`line_up`), so each merge changes a score
by what it makes of two stretches, and the scores are running sums.
"""

from collections.abc import Callable

import numpy as np

from pytc.evaluation.sweep import Sweep, sweep_result
from pytc.io.skeleton import Skeleton
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.edges import values_above
from pytc.segmentation.merge_forest import build_merge_forest, line_up

EXACT_METRICS = ("erl", "nerl", "voi_sum", "voi_split", "voi_merge")


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
        affinities, thresholds, min_size=min_size, query=skeletons.segments_at_nodes
    )
    nodes, born, joined = line_up(forest)
    times, rows = np.unique(np.concatenate([[0], born, joined]), return_inverse=True)
    born, joined = np.split(rows[1:], 2)
    # the last of the times is NEVER
    lowest = thresholds[np.append(times[1:-1], len(thresholds)) - 1]
    squares = _run_length(skeleton, nodes, joined, len(lowest))
    split, merge = _information(skeleton.ids[nodes], born, joined, len(lowest))
    erl = np.maximum(squares, 0) / skeletons.total_length
    rows = np.column_stack(
        [lowest, erl, erl / skeletons.max_erl, split + merge, split, merge]
    ).tolist()
    return sweep_result([dict(zip(("threshold", *EXACT_METRICS), row)) for row in rows], metric)


def _run_length(
    skeleton: Skeleton, nodes: np.ndarray, joined: np.ndarray, n_rows: int
) -> np.ndarray:
    """(n_rows,) sum over segments of the squared length of correct edges."""
    place = np.empty_like(nodes)
    place[nodes] = np.arange(len(nodes))
    ends = np.sort(place[skeleton.edges], axis=1)
    apart = ends[:, 0] < ends[:, 1]
    gaps = _latest(joined, *ends[apart].T)  # an edge is within a segment once this gap is closed
    length = np.bincount(gaps + 1, skeleton.edge_lengths[apart], len(nodes)).cumsum()
    changes = np.append(0, np.diff(skeleton.ids[nodes]) != 0).cumsum()
    return _over_stretches(
        joined,
        n_rows,
        lambda first, last: (
            np.where(changes[first] == changes[last], length[last] - length[first], 0) ** 2
        ),
    )


def _information(
    ids: np.ndarray, born: np.ndarray, joined: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """voi_split and voi_merge, (n_rows,).

    Nodes that are not born yet are in segment 0, and skeleton 0 does not count. With n(s, t) nodes
    of skeleton s in segment t and g(n) = n log2 n, voi_split is the sum of g(n(s)), less that of
    g(n(s, t)), over the number of nodes; voi_merge is the same from g(n(t)).
    """
    counted = ids != 0
    own = np.argsort(ids, kind="stable")  # the line of each skeleton, one after another
    same = np.append(np.diff(ids[own]) == 0, False)
    joined_own = np.full(len(ids), n_rows)
    joined_own[same] = joined[_latest(joined, own[same], own[np.flatnonzero(same) + 1])]

    def in_segments(joined, counted):
        sums = np.append(0, counted).cumsum()
        return _over_stretches(joined, n_rows, lambda first, last: _g(sums[last + 1] - sums[first]))

    def in_background(ids, born):  # its k-th last node takes g(k) - g(k - 1) out of it
        order = np.lexsort((born, ids))
        k = np.searchsorted(ids[order], ids[order], "right") - np.arange(len(ids))
        return np.bincount(born[order], _g(k) - _g(k - 1), n_rows + 1)[::-1].cumsum()[::-1]

    each = in_background(ids[counted], born[counted])
    joint = in_segments(joined_own, counted[own]) + each[1:]
    segments = (
        in_segments(joined, counted) + in_background(np.ones(counted.sum()), born[counted])[1:]
    )
    return np.maximum(each[0] - joint, 0) / counted.sum(), np.maximum(
        segments - joint, 0
    ) / counted.sum()


def _g(n: np.ndarray) -> np.ndarray:
    return n * np.log2(np.maximum(n, 1))


def _latest(times: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Where times[first:last], not empty, is largest; from tables of all stretches of 1, 2, 4, ...

    (some wrapped).
    """
    n = len(times)
    tables = [times * n + np.arange(n)]
    while 1 << len(tables) <= n:
        tables.append(np.maximum(tables[-1], np.roll(tables[-1], -(1 << len(tables) - 1))))
    tables, k = np.array(tables), np.frexp(last - first)[1] - 1
    return np.maximum(tables[k, first], tables[k, last - (1 << k)]) % n


def _over_stretches(joined: np.ndarray, n_rows: int, score: Callable) -> np.ndarray:
    """(n_rows,) the sum of score(first, last) over the stretches of each row.

    That of a single place is 0.
    """
    gaps = np.argsort(joined, kind="stable")[: np.count_nonzero(joined < n_rows)]
    begin, end, made = list(range(len(joined))), list(range(len(joined))), []
    for gap in gaps.tolist():  # begin is known at the last place of a stretch, end at the first
        made.append((begin[gap], end[gap + 1]))
        end[begin[gap]], begin[end[gap + 1]] = end[gap + 1], begin[gap]
    first, last = np.array(made, np.int64).reshape(-1, 2).T
    changes = score(first, last) - score(first, gaps) - score(gaps + 1, last)
    return np.bincount(joined[gaps], changes, n_rows).cumsum()
