"""Variation of information and Rand scores, all from one sparse table of overlaps."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from pytc.geometry import blocks
from pytc.io.labels import has_unlabelled, is_unlabelled
from pytc.io.volume import CHUNK, Volume
from pytc.metrics.pair_table import PairTable, add_pairs, empty_table, number_ids
from pytc.metrics.table import metric_names, with_formulas

PREFIX = "dense_"  # of these metrics' names in the table of all metrics
OVERLAP_METRICS = tuple(
    name.removeprefix(PREFIX)
    for name in metric_names("instance", "labels")
    if name.startswith(PREFIX)
)
READ_AT_ONCE = 4 * CHUNK  # voxels along each axis of a stored volume, in each thread
PIECE = 1 << 17  # voxels compared with their neighbours at a time: they stay in a core's cache


@dataclass(frozen=True)
class Contingency:
    """Voxels that a true object and a segment share.

    The pairs are distinct, and sorted by truth, then segmentation.
    """

    truth: np.ndarray  # (P,) uint64
    segmentation: np.ndarray  # (P,) uint64
    count: np.ndarray  # (P,) int64


Labels = np.ndarray | Volume  # integers, usually (Z, Y, X)
PairCounts = tuple[np.ndarray, np.ndarray, np.ndarray]  # true labels, segments, voxels of both


def contingency_table(
    truth: Labels,
    segmentation: Labels,
    *,
    threads: int | None = None,
) -> Contingency:
    """How often each pair of labels occurs at the same voxel, 0 included.

    truth, segmentation: integers of any dtype and one shape, arrays or volumes; both are read in
    one pass, part by part. Voxels whose truth is unlabelled (negative, or the
    maximum of uint32 or uint64) do not count. ValueError for other dtypes, shapes that differ, and
    negative segments.
    """
    return _sorted_table(*count_pairs(truth, segmentation, threads=threads))


def count_pairs(
    truth: Labels,
    segmentation: Labels,
    *,
    threads: int | None = None,
) -> PairCounts:
    """The columns of `contingency_table` without order, a pair once for each slab it occurs in."""
    for name, labels in (("truth", truth), ("segmentation", segmentation)):
        if np.dtype(labels.dtype).kind not in "iub":
            raise ValueError(f"expected integer labels, got a {name} of dtype {labels.dtype}")
    if tuple(segmentation.shape) != tuple(truth.shape):
        raise ValueError(
            f"expected a segmentation of the truth's shape {tuple(truth.shape)}, "
            f"got {tuple(segmentation.shape)}"
        )

    # each thread counts whole chunks of a stored volume at a time
    shape = tuple(max(1, length) for length in truth.shape)
    block = (CHUNK, *shape[1:])
    if isinstance(truth, Volume) or isinstance(segmentation, Volume):
        block = tuple(min(length, READ_AT_ONCE) for length in block)
    parts = [box.slices for box in blocks(shape, block)]
    with ThreadPoolExecutor(threads or _all_threads()) as pool:
        return _joined(pool.map(lambda part: _count(truth[part], segmentation[part]), parts))


def _all_threads() -> int:
    n_threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set at run time
    return n_threads


def _joined(parts: Iterable[PairCounts]) -> PairCounts:
    truth, segmentation, count = zip(*parts)
    return np.concatenate(truth), np.concatenate(segmentation), np.concatenate(count)


def _count(truth: np.ndarray, segmentation: np.ndarray) -> PairCounts:
    """Distinct pairs of labels in arrays of one shape."""
    truth, segmentation = truth.reshape(-1), segmentation.reshape(-1)
    table = empty_table()
    buffer = np.empty(min(PIECE, len(truth)), np.int64)
    for start in range(0, len(truth), PIECE):
        piece = slice(start, start + PIECE)
        pairs = _labelled(truth[piece], segmentation[piece])
        starts = _run_starts(*pairs, buffer)
        lengths = np.diff(starts, append=len(pairs[0]))
        true_runs, segment_runs = (labels[starts].astype(np.uint64) for labels in pairs)
        table = add_pairs(true_runs, segment_runs, lengths, np.empty(0, np.int64), table)
    return _pairs_of(table)


def _pairs_of(table: PairTable) -> PairCounts:
    n = table.n_pairs
    return table.ids_first[:n], table.ids_second[:n], table.counts[:n]


def _run_starts(truth: np.ndarray, segmentation: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Where a pair differs from the one before, in the buffer.

    Labels come in runs, and one look-up counts a run.
    """
    new = np.ones(len(truth), bool)
    np.not_equal(truth[1:], truth[:-1], out=new[1:])
    new[1:] |= segmentation[1:] != segmentation[:-1]
    return buffer[: _indices_of_true(new, buffer)]


@numba.njit(cache=True, nogil=True)
def _indices_of_true(flags: np.ndarray, indices: np.ndarray) -> int:
    """Write the indices of flags that are set; returns how many.

    No branch depends on a flag, so none can be mispredicted.
    """
    count = 0
    for i in range(len(flags)):
        indices[count] = i
        count += flags[i]
    return count


def _labelled(truth: np.ndarray, segmentation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the voxels that do not count."""
    if segmentation.dtype.kind == "i" and segmentation.min() < 0:
        raise ValueError(f"expected segments of 0 or more, got {segmentation.min()}")
    if not has_unlabelled(truth):
        return truth, segmentation
    labelled = ~is_unlabelled(truth)
    return truth[labelled], segmentation[labelled]


def _sorted_table(truth: np.ndarray, segmentation: np.ndarray, count: np.ndarray) -> Contingency:
    """Rows sorted, equal pairs summed."""
    order = np.lexsort((segmentation, truth))
    truth, segmentation, count = truth[order], segmentation[order], count[order]
    new = np.ones(len(order), bool)
    new[1:] = (truth[1:] != truth[:-1]) | (segmentation[1:] != segmentation[:-1])
    first = np.flatnonzero(new)
    return Contingency(
        truth[first], segmentation[first], np.add.reduceat(count, first) if len(first) else count
    )


def table_of_pairs(truth: np.ndarray, segmentation: np.ndarray, count: np.ndarray) -> Contingency:
    """The table of pairs that may recur, (n,) uint64, uint64 and int64, in any order."""

    unnumbered = np.empty(0, np.int64)

    def add(part: slice) -> PairCounts:
        table = add_pairs(truth[part], segmentation[part], count[part], unnumbered, empty_table())
        return _pairs_of(table)

    n = len(truth)
    threads = _all_threads()
    parts = [slice(n * i // threads, n * (i + 1) // threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return _sorted_table(*_joined(pool.map(add, parts)))


def overlap_metrics(truth: Labels, segmentation: Labels) -> dict[str, float]:
    """Scores of a segmentation against dense labels; inputs as in `contingency_table`.

    Voxels with truth 0 do not count; predicted 0 counts as one segment (as funlib.evaluate and
    BANIS score). With p_ij the share of voxels in object i and segment j, p_i and p_j its sums:
    voi_split = H(segment | object), voi_merge = H(object | segment), voi_sum their sum, in bits;
    rand_split = sum p_ij^2 / sum p_i^2, rand_merge = sum p_ij^2 / sum p_j^2; adapted_rand_error = 1
    - 2 sum p_ij^2 / (sum p_i^2 + sum p_j^2). ValueError if no voxel counts. Source: Meila,
    "Comparing clusterings" (2007); Arganda-Carreras et al., "Crowdsourcing the creation of image
    segmentation algorithms for connectomics" (2015).
    """
    return metrics_of_table(contingency_table(truth, segmentation))


def metrics_of_table(table: Contingency) -> dict[str, float]:
    """The scores of `overlap_metrics`, from the table."""
    return _metrics_of_shares(_shares(table))


def voi_report(table: Contingency) -> dict[str, Any]:
    """The report of funlib.evaluate's `rand_voi` under its names, from the table.

    rand_split, rand_merge, voi_split and voi_merge as in `overlap_metrics`. nvi_split and nvi_merge
    are the voi over the entropy of the pairs, nid = 1 - I(object, segment) / max(H(object),
    H(segment)); all three are 0 where one object is one segment and the quotient is 0 / 0.
    voi_split_i {object: bits} and voi_merge_j {segment: bits} are the parts of voi_split and
    voi_merge. Source: Vinh et al., "Information theoretic measures for clusterings comparison"
    (2010).
    """
    shares = _shares(table)
    scores = _metrics_of_shares(shares)
    entropies = map(_entropy, (shares.joint, shares.objects, shares.segments))
    joint, objects, segments = map(float, entropies)
    largest = max(objects, segments)
    names = ("rand_split", "rand_merge", "voi_split", "voi_merge")
    report: dict[str, Any] = {name: scores[name] for name in names}
    report["nvi_split"] = report["voi_split"] / joint if joint > 0 else 0.0
    report["nvi_merge"] = report["voi_merge"] / joint if joint > 0 else 0.0
    lost = max(0.0, joint - min(objects, segments))
    report["nid"] = lost / largest if largest > 0 else 0.0
    report["voi_split_i"] = _parts(shares.joint, shares.object_codes, shares.object_ids)
    report["voi_merge_j"] = _parts(shares.joint, shares.segment_codes, shares.segment_ids)
    return report


@dataclass(frozen=True)
class _Shares:
    """The shares of pairs, objects and segments in all voxels with a true label."""

    joint: np.ndarray  # (P,) float64
    objects: np.ndarray  # (O,) float64
    segments: np.ndarray  # (S,) float64
    object_ids: np.ndarray  # (O,) uint64
    segment_ids: np.ndarray  # (S,) uint64
    object_codes: np.ndarray  # (P,) index of the pair's object in object_ids
    segment_codes: np.ndarray  # (P,) index of the pair's segment in segment_ids


def _shares(table: Contingency) -> _Shares:
    counts = table.truth != 0
    if not counts.any():
        raise ValueError("expected at least one voxel with a true label, got none")
    joint = table.count[counts].astype(np.float64)
    joint /= joint.sum()
    # sums do not depend on ids
    object_codes, object_ids = number_ids(table.truth[counts])
    segment_codes, segment_ids = number_ids(table.segmentation[counts])
    objects = np.bincount(object_codes, joint)
    segments = np.bincount(segment_codes, joint)
    return _Shares(joint, objects, segments, object_ids, segment_ids, object_codes, segment_codes)


def _metrics_of_shares(shares: _Shares) -> dict[str, float]:
    joint, objects, segments = shares.joint, shares.objects, shares.segments
    split, merge = (max(0.0, _entropy(joint) - _entropy(each)) for each in (objects, segments))
    squares, squares_objects, squares_segments = (np.sum(p**2) for p in (joint, objects, segments))
    return complete_metrics(
        voi_split=float(split),
        voi_merge=float(merge),
        rand_split=float(squares / squares_objects),
        rand_merge=float(squares / squares_segments),
        adapted_rand_error=float(1 - 2 * squares / (squares_objects + squares_segments)),
    )


def complete_metrics(**counted: Any) -> dict[str, Any]:
    """OVERLAP_METRICS, by name, from those that have no formula: numbers, or arrays of them."""
    dense = {PREFIX + name: value for name, value in counted.items()}
    completed = with_formulas(dense, "instance", "labels")
    return {name.removeprefix(PREFIX): value for name, value in completed.items()}


def _parts(joint: np.ndarray, codes: np.ndarray, ids: np.ndarray) -> dict[int, float]:
    """{id: bits}: what each cluster has of the entropy that its pairs add to it."""
    of_pairs = np.bincount(codes, joint * np.log2(joint))
    shares = np.bincount(codes, joint)
    return dict(zip(ids.tolist(), (shares * np.log2(shares) - of_pairs).tolist()))


def _entropy(shares: np.ndarray) -> float:
    return float(-np.sum(shares * np.log2(shares)))
