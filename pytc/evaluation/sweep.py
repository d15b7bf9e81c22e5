"""Scores of a segmentation at many thresholds, and the best of them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytc.checks import suggest
from pytc.io.skeleton import Skeleton
from pytc.metrics.overlap import count_pairs, metrics_of_table, table_of_pairs
from pytc.metrics.pair_table import number_ids
from pytc.metrics.semantic import SEMANTIC_METRICS, semantic_metrics
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics
from pytc.metrics.table import full_name, metric_names
from pytc.metrics.table import metric as metric_row
from pytc.progress import track
from pytc.segmentation.connected_components import connected_components_3d, short_range
from pytc.segmentation.edges import check_affinities, check_dtype, is_above
from pytc.segmentation.merge_forest import build_merge_forest, roots_at_thresholds
from pytc.thresholds import DEFAULT_THRESHOLDS

if TYPE_CHECKING:
    import networkx

DENSE_METRICS = metric_names("instance", "labels")
SAMPLE = 24  # every n-th row of every n-th plane tells how many edges lie between two thresholds
EDGES_AS_A_DECODE = 0.3  # a voxel: as costly to join one by one as a decode


# What a sweep returns, as `sweep_result` makes it.
Sweep = dict[str, Any]


def sweep_result(rows: list[dict[str, float]], metric: str) -> Sweep:
    """What a sweep has found, by the metric that decides.

    "metric": its name. "best_threshold" and "best_METRIC", e.g. "best_nerl": where the metric is
    best (on equal scores, the first row) and how good. "best_metrics": that row, "threshold" and
    every metric. "all_results": all rows, in the order asked for. "curve": rows of an exact sweep
    to draw behind them, none at first.
    """
    sign = -1 if metric_row(metric).lower_is_better else 1
    best = max(rows, key=lambda row: sign * row[metric])
    return {
        "metric": metric,
        "best_threshold": best["threshold"],
        f"best_{metric}": best[metric],
        "best_metrics": best,
        "all_results": rows,
        "curve": (),
    }


def threshold_sweep(
    affinities: np.ndarray,
    skeleton_path: "str | Path | Skeleton | networkx.Graph | None" = None,
    thresholds: Sequence[float] | None = None,
    metric: str = "nerl",
    *,
    labels=None,
    grow: bool = False,
    min_size: int = 0,
    offsets: Sequence[Sequence[int]] | None = None,
    mask=None,
) -> Sweep:
    """Segment by connected components at each threshold, and score; returns a `sweep_result`.

    affinities (C, Z, Y, X) with offsets as in `affinities_to_segmentation`; min_size and grow as
    there and in `grow`; thresholds: by default DEFAULT_THRESHOLDS. With skeletons, which may be
    anything that `SkeletonMetrics` takes, each row has SKELETON_METRICS; with labels (Z, Y, X), and
    a mask as in `overlap_metrics`, it has DENSE_METRICS. ValueError if the metric is unknown, or
    needs what is not given; FileNotFoundError if the file of skeletons is missing.

        result = threshold_sweep(affinities, "skeleton.pkl")
        segmentation = affinities_to_segmentation(affinities, result["best_threshold"])
    """
    metric = full_name(metric)
    sources = {"skeletons": (SKELETON_METRICS, skeleton_path), "labels": (DENSE_METRICS, labels)}
    check_metric(metric, sources)
    thresholds = DEFAULT_THRESHOLDS if thresholds is None else thresholds
    _check_thresholds(thresholds)
    check_affinities(affinities)
    affinities = short_range(affinities, offsets)
    skeletons = SkeletonMetrics(skeleton_path) if skeleton_path is not None else None
    descending, scores = sorted(set(thresholds), reverse=True), {}
    groups = [descending] if grow else _groups(affinities, descending)
    scored = (
        row
        for group in groups
        for row in _score_group(affinities, group, skeletons, labels, mask, min_size, grow)
    )
    for threshold, figures in zip(track(descending, "scored", "thresholds"), scored):
        scores[threshold] = {"threshold": float(threshold), **figures}
    return sweep_result([scores[threshold] for threshold in thresholds], metric)


def _groups(affinities: np.ndarray, descending: list[float]) -> list[list[float]]:
    """Thresholds cut into groups where decoding afresh costs less, judged by a sample.

    That is after one that leaves most voxels alone, or where many edges lie between two.
    """
    sample = affinities[:, ::SAMPLE, ::SAMPLE]
    above = np.array(
        [np.count_nonzero(is_above(sample, threshold)) for threshold in descending]
    ) / max(1, sample.size)
    cuts = np.flatnonzero((above[:-1] < 0.5) | (3 * np.diff(above) > EDGES_AS_A_DECODE)) + 1
    return [descending[i:j] for i, j in pairwise([0, *cuts.tolist(), len(descending)])]


def _score_group(
    affinities: np.ndarray,
    thresholds: list[float],
    skeletons: SkeletonMetrics | None,
    labels,
    mask,
    min_size: int,
    grow: bool,
) -> Iterator[dict[str, float]]:
    """The scores at each threshold, in descending order, over one forest.

    A single threshold needs no forest.
    """
    if len(thresholds) == 1 and not grow:
        nodes, followed = (
            connected_components_3d(affinities, thresholds[0], min_size=min_size),
            None,
        )
        naming = [lambda labels: labels]
    else:
        follow = skeletons.segments_at_nodes if labels is None else None
        forest = build_merge_forest(
            affinities, thresholds, min_size=min_size, grow=grow, query=follow
        )
        nodes, followed, naming = forest.fragments, forest.queried, roots_at_thresholds(forest)
    if skeletons is not None:
        at_nodes, distinct = number_ids(
            skeletons.segments_at_nodes(nodes) if followed is None else followed
        )
    if labels is not None:
        truth, segments, count = count_pairs(labels, nodes, mask)
    for names in naming:
        figures = {} if skeletons is None else skeletons.compute_nodes(names(distinct)[at_nodes])
        if labels is not None:
            dense = metrics_of_table(table_of_pairs(truth, names(segments), count))
            figures |= {f"dense_{name}": value for name, value in dense.items()}
        yield figures


def semantic_sweep(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    metric: str = "jaccard",
) -> Sweep:
    """Score the mask prediction > threshold against the true mask, at each threshold.

    The scores are SEMANTIC_METRICS. prediction (Z, Y, X) float16, float32, float64 or uint8
    (standing for value / 255); truth as in `semantic_metrics`.
    """
    check_metric(metric, {"labels": (SEMANTIC_METRICS, truth)})
    _check_thresholds(thresholds)
    check_dtype(prediction.dtype)
    rows = [
        {"threshold": float(threshold), **semantic_metrics(truth, is_above(prediction, threshold))}
        for threshold in track(thresholds, "scored", "thresholds")
    ]
    return sweep_result(rows, metric)


def _check_thresholds(thresholds: Sequence[float]) -> None:
    shape = np.shape(thresholds)
    if len(shape) != 1:
        raise ValueError(f"expected a sequence of thresholds, got an array of shape {shape}")
    if shape[0] == 0:
        raise ValueError("expected at least one threshold, got none")


def check_metric(metric: str, sources: dict[str, tuple[Sequence[str], object]]) -> None:
    """ValueError unless one of the sources {name:

    (its metrics, the data or None)} gives the metric.
    """
    for name, (metrics, given) in sources.items():
        if metric in metrics and given is None:
            raise ValueError(f"expected {name} for the metric {metric!r}, got none")
    known = [m for metrics, given in sources.values() if given is not None for m in metrics]
    if not known:
        raise ValueError(f"expected {' or '.join(sources)} to score against, got none")
    if metric not in known:
        raise ValueError(f"expected a metric, got {metric!r}{suggest(metric, known)}")
