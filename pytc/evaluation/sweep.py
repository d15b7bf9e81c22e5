"""Scores of a segmentation at many thresholds, and the best of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytc.checks import suggest
from pytc.config import Lengths, SegmentationConfig
from pytc.io.skeleton import Skeleton
from pytc.io.volume import CHUNK, Volume
from pytc.metrics.instances import dense_metrics
from pytc.metrics.overlap import Labels, count_pairs, table_of_pairs
from pytc.metrics.pair_table import number_ids
from pytc.metrics.semantic import SEMANTIC_METRICS, confusion_matrix, mask_metrics
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics
from pytc.metrics.table import full_name, metric_names
from pytc.metrics.table import metric as metric_row
from pytc.progress import track
from pytc.segmentation.decode import Levels, decode_levels
from pytc.segmentation.edges import check_affinities, check_dtype, is_above
from pytc.segmentation.plain import NEIGHBOURS
from pytc.thresholds import DEFAULT_THRESHOLDS

if TYPE_CHECKING:
    import networkx

DENSE_METRICS = metric_names("instance", "labels")


# What a sweep returns, as `sweep_result` makes it.
Sweep = dict[str, Any]
# {"threshold": (R,), and each score: (R,)}, thresholds in descending order; a row holds from its
# threshold up to that of the row before.
Curve = dict[str, np.ndarray]


def sweep_result(rows: list[dict[str, float]], metric: str, curve: Curve | None = None) -> Sweep:
    """What a sweep has found.

    Args:
        rows: of each threshold a dictionary with "threshold" and every score, by name.
        metric: picks the best row; of equal scores the first.
        curve: scores at every threshold, where they were counted.

    Returns:
        "metric": its name. "best_threshold" and "best_METRIC", e.g. "best_nerl": those of the best
        row. "best_metrics": the best row. "all_results": all rows. "curve": empty; scores at every
        threshold go here, as a `Curve`, where they were counted. "plateau": as `plateau` returns
        it, from the curve where there is one.
    """
    sign = -1 if metric_row(metric).lower_is_better else 1
    best = max(rows, key=lambda row: sign * row[metric])
    curve = curve or {}
    has_curve = metric in curve
    thresholds = curve["threshold"] if has_curve else [row["threshold"] for row in rows]
    scores = curve[metric] if has_curve else [row[metric] for row in rows]
    return {
        "metric": metric,
        "best_threshold": best["threshold"],
        f"best_{metric}": best[metric],
        "best_metrics": best,
        "all_results": rows,
        "curve": curve,
        "plateau": plateau(thresholds, scores, metric, holds_to_next=has_curve),
    }


def with_row(sweep: Sweep, row: dict[str, float]) -> Sweep:
    """The sweep with one more row, in rising order of thresholds."""
    rows = sorted([*sweep["all_results"], row], key=lambda each: each["threshold"])
    return sweep | {"all_results": rows}


def keep_row(sweep: Sweep, threshold: float) -> Sweep:
    """The sweep with the row of a threshold as its best one."""
    (row, *_) = [row for row in sweep["all_results"] if row["threshold"] == threshold]
    score = {f"best_{sweep['metric']}": row[sweep["metric"]]}
    return sweep | {"best_threshold": threshold, "best_metrics": row} | score


def plateau(
    thresholds: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    metric: str,
    *,
    holds_to_next: bool,
) -> tuple[float, float] | None:
    """The range of thresholds around the best one in which the score is nearly as good.

    A wide range is likely to hold the best threshold of another volume, too.

    Args:
        thresholds: (R,) in any order.
        scores: (R,) of the metric.
        metric: its tolerance says what is nearly as good.
        holds_to_next: whether a score holds from its threshold up to the next higher one, or 1.

    Returns:
        (lowest, highest) threshold; None for a metric without a tolerance.
    """
    row = metric_row(metric)
    if row.tolerance is None:
        return None
    order = np.argsort(thresholds)
    rising = np.asarray(thresholds, np.float64)[order]
    values = np.asarray(scores, np.float64)[order] * (-1 if row.lower_is_better else 1)
    best = int(np.argmax(values))
    is_far = values < values[best] - row.tolerance
    before = np.flatnonzero(is_far[:best])
    after = np.flatnonzero(is_far[best:])
    first = int(before[-1]) + 1 if len(before) else 0
    end = best + int(after[0]) if len(after) else len(rising)  # the first row beyond the plateau
    if not holds_to_next:
        return float(rising[first]), float(rising[end - 1])
    return float(rising[first]), float(rising[end]) if end < len(rising) else 1.0


def threshold_sweep(
    affinities: np.ndarray,
    skeleton_path: "str | Path | Skeleton | networkx.Graph | None" = None,
    thresholds: Sequence[float] | None = None,
    metric: str = "nerl",
    *,
    labels: Labels | None = None,
    config: SegmentationConfig = SegmentationConfig(method="components"),
    offsets: Sequence[Sequence[int]] | None = None,
    voxel_size: Lengths | None = None,
) -> Sweep:
    """Segment at each threshold, and score.

    Args:
        affinities: (C, Z, Y, X) float16, float32, float64, or uint8 for value / 255.
        skeleton_path: skeletons, as anything that `SkeletonMetrics` takes.
        thresholds: in any order; None for DEFAULT_THRESHOLDS.
        metric: picks the best threshold.
        labels: (Z, Y, X), as the truth of `overlap_metrics`.
        config: the method, and its settings other than the threshold.
        offsets: (C, 3) voxels; None where the first three channels are those to the next voxel
            along z, y and x.
        voxel_size: nm along z, y, x; None for voxels of equal sides.

    Returns:
        What `sweep_result` makes of the rows. With skeletons each row has SKELETON_METRICS, with
        labels DENSE_METRICS.

    Raises:
        ValueError: if the metric is unknown, or needs what is not given.
        FileNotFoundError: if the file of skeletons is missing.

        result = threshold_sweep(affinities, "skeleton.pkl")
        segmentation = affinities_to_segmentation(affinities, result["best_threshold"])
    """
    metric = full_name(metric)
    sources = {"skeletons": (SKELETON_METRICS, skeleton_path), "labels": (DENSE_METRICS, labels)}
    check_metric(metric, sources)
    if thresholds is None:
        thresholds = DEFAULT_THRESHOLDS
    _check_thresholds(thresholds)
    check_affinities(affinities)
    if offsets is None:
        affinities, offsets = affinities[:3], NEIGHBOURS
    skeletons = None if skeleton_path is None else SkeletonMetrics(skeleton_path)
    needed = None
    if skeletons is not None and labels is None:
        needed = skeletons.segments_at_nodes
    descending = sorted(set(thresholds), reverse=True)
    levels = decode_levels(affinities, offsets, config, descending, voxel_size, needed=needed)
    rows = score_levels(levels, descending, skeletons, labels)
    return sweep_result([rows[threshold] for threshold in thresholds], metric)


def score_levels(
    levels: Iterable[Levels],
    descending: Sequence[float],
    skeletons: SkeletonMetrics | None,
    labels: Labels | None,
) -> dict[float, dict[str, float]]:
    """{threshold: its row of a sweep} of segmentations that levels hold.

    Args:
        levels: of `descending`, the thresholds.
        labels: as in `threshold_sweep`.
    """
    scored = (row for group in levels for row in _score_group(group, skeletons, labels))
    rows = {}
    for threshold, scores in zip(track(descending, "scored", "thresholds"), scored):
        rows[threshold] = {"threshold": float(threshold), **scores}
    return rows


def _score_group(
    levels: Levels,
    skeletons: SkeletonMetrics | None,
    labels: Labels | None,
) -> Iterator[dict[str, float]]:
    """The scores at each threshold of the levels.

    Nodes and voxels are looked up once, in the fragments: at a threshold only the segments of the
    distinct fragments are asked for.
    """
    if skeletons is not None:
        fragments_of_nodes = levels.needed
        if fragments_of_nodes is None:
            fragments_of_nodes = skeletons.segments_at_nodes(levels.fragments)
        at_nodes, distinct = number_ids(fragments_of_nodes)
    if labels is not None:
        truth, fragments, count = count_pairs(labels, levels.fragments)
    for segments_of in levels.segments:
        scores: dict[str, float] = {}
        if skeletons is not None:
            scores |= skeletons.compute_nodes(segments_of(distinct)[at_nodes])
        if labels is not None:
            scores |= dense_metrics(table_of_pairs(truth, segments_of(fragments), count))
        yield scores


def semantic_sweep(
    prediction: np.ndarray | Volume,
    truth: Labels,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    metric: str = "jaccard",
) -> Sweep:
    """Score the mask prediction > threshold against the true mask, at each threshold.

    The scores are SEMANTIC_METRICS. A few planes are read at a time.

    Args:
        prediction: (Z, Y, X), or (1, Z, Y, X), float16, float32, float64 or uint8 for value / 255.
        truth: (Z, Y, X) integers: foreground above 0, negative where they do not count.
    """
    check_metric(metric, {"labels": (SEMANTIC_METRICS, truth)})
    _check_thresholds(thresholds)
    check_dtype(prediction.dtype)
    confusions = np.zeros((len(thresholds), 2, 2), np.int64)
    starts = range(0, truth.shape[0], CHUNK)
    for start in track(starts, "scored", "slabs"):
        planes = slice(start, start + CHUNK)
        values = prediction[planes] if len(prediction.shape) == 3 else prediction[0, planes]
        labels = truth[planes]
        true_mask = np.where(labels < 0, -1, labels > 0).astype(np.int8)
        for number, threshold in enumerate(thresholds):
            confusions[number] += confusion_matrix(true_mask, is_above(values, threshold), 2)
    rows = [
        {"threshold": float(threshold), **mask_metrics(confusion)}
        for threshold, confusion in zip(thresholds, confusions)
    ]
    return sweep_result(rows, metric)


def _check_thresholds(thresholds: Sequence[float]) -> None:
    shape = np.shape(thresholds)
    if len(shape) != 1:
        raise ValueError(f"expected a sequence of thresholds, got an array of shape {shape}")
    if shape[0] == 0:
        raise ValueError("expected at least one threshold, got none")


def check_metric(metric: str, sources: Mapping[str, tuple[Sequence[str], object]]) -> None:
    """ValueError unless the truth that there is gives the metric.

    Args:
        sources: {what the truth is called: (the metrics that need it, the truth or None)}.
    """
    countable: list[str] = []
    for name, (metrics, truth) in sources.items():
        if metric in metrics and truth is None:
            raise ValueError(f"expected {name} for the metric {metric!r}, got none")
        if truth is not None:
            countable += metrics
    if not countable:
        raise ValueError(f"expected {' or '.join(sources)} to score against, got none")
    if metric not in countable:
        raise ValueError(f"expected a metric, got {metric!r}{suggest(metric, countable)}")
