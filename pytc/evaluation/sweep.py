"""Scores of a segmentation at many thresholds, and the best of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
from pytc.segmentation.merge_forest import component_graph, names_at_thresholds
from pytc.thresholds import DEFAULT_THRESHOLDS

DENSE_METRICS = metric_names("instance", "labels")
SAMPLE = 24  # every n-th row of every n-th plane tells how many edges lie between two thresholds
EDGES_AS_A_DECODE = 0.3  # a voxel: as costly to join one by one as a decode


@dataclass(frozen=True)
class Sweep:
    """The scores at each threshold, in the order asked for, and the best row by `metric`."""

    rows: list[dict[str, float]]  # "threshold" and every metric
    metric: str
    best: dict[str, float]  # on equal scores, the first row
    curve: Sequence[dict[str, float]] = ()  # of an exact sweep, drawn behind the rows


def threshold_sweep(
    affinities: np.ndarray,
    skeleton: Skeleton | None = None,
    labels=None,
    *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    metric: str = "nerl",
    grow: bool = False,
    min_size: int = 0,
    offsets: Sequence[Sequence[int]] | None = None,
    mask=None,
) -> Sweep:
    """Segment by connected components at each threshold, and score.

    affinities (C, Z, Y, X) with offsets as in `affinities_to_segmentation`; min_size and grow as
    there and in `grow`. With a skeleton each row has SKELETON_METRICS; with labels (Z, Y, X), and a
    mask as in `overlap_metrics`, it has DENSE_METRICS. ValueError if the metric is unknown, or
    needs what is not given.
    """
    metric = full_name(metric)
    check_metric(
        metric, {"a skeleton": (SKELETON_METRICS, skeleton), "labels": (DENSE_METRICS, labels)}
    )
    _check_thresholds(thresholds)
    affinities = short_range(affinities, offsets)
    check_affinities(affinities)
    skeletons = SkeletonMetrics(skeleton) if skeleton is not None else None
    descending, scores = sorted(set(thresholds), reverse=True), {}
    groups = [descending] if grow else _groups(affinities, descending)
    scored = (
        row
        for group in groups
        for row in _score_group(affinities, group, skeletons, labels, mask, min_size, grow)
    )
    for threshold, figures in zip(track(descending, "scored", "thresholds"), scored):
        scores[threshold] = {"threshold": float(threshold), **figures}
    return best_of([scores[threshold] for threshold in thresholds], metric)


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
        graph = component_graph(affinities, thresholds, min_size=min_size, grow=grow, follow=follow)
        nodes, followed, naming = graph.nodes, graph.followed, names_at_thresholds(graph)
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
    return best_of(rows, metric)


def _check_thresholds(thresholds: Sequence[float]) -> None:
    if len(thresholds) == 0:
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


def best_of(rows: list[dict[str, float]], metric: str) -> Sweep:
    """The rows, and the best of them; ValueError for a metric that is not in the table."""
    sign = -1 if metric_row(metric).lower_is_better else 1
    return Sweep(rows, metric, max(rows, key=lambda row: sign * row[metric]))
