"""Scores of a segmentation at many thresholds, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytc.config import suggest
from pytc.io.skeleton import Skeleton
from pytc.metrics.overlap import OVERLAP_METRICS, overlap_metrics
from pytc.metrics.semantic import SEMANTIC_METRICS, semantic_metrics
from pytc.metrics.skeleton import SKELETON_METRICS, SkeletonMetrics
from pytc.progress import track
from pytc.segmentation.connected_components import connected_components_3d, short_range
from pytc.segmentation.descent import descend, segments_at
from pytc.segmentation.edges import check_dtype, is_above
from pytc.segmentation.growing import grow as grow_labels

DEFAULT_THRESHOLDS = tuple(float(1 / (1 + np.exp(-0.2 * k))) for k in range(-1, 12))  # those of the BANIS baseline
DENSE_METRICS = tuple(f"dense_{name}" for name in OVERLAP_METRICS)
LOWER_IS_BETTER = ("voi_split", "voi_merge", "voi_sum", "adapted_rand_error", "n_mergers", "n_non0_mergers", "n_splits")


@dataclass(frozen=True)
class Sweep:
    """The scores at each threshold, in the order asked for, and the row that is best by `metric`."""

    rows: list[dict[str, float]]  # "threshold" and every metric
    metric: str
    best: dict[str, float]  # on equal scores, the first row
    curve: Sequence[dict[str, float]] = ()  # of an exact sweep, drawn behind the rows


def threshold_sweep(
    affinities: np.ndarray, skeleton: Skeleton | None = None, labels=None, *,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS, metric: str = "nerl", grow: bool = False, min_size: int = 0,
    offsets: Sequence[Sequence[int]] | None = None, mask=None,
) -> Sweep:
    """Segment by connected components at each threshold, and score.

    affinities (C, Z, Y, X) with offsets as in `affinities_to_segmentation`; min_size and grow as there and in `grow`.
    With a skeleton each row has SKELETON_METRICS; with labels (Z, Y, X), and a mask as in `overlap_metrics`, it has
    DENSE_METRICS. ValueError if the metric is unknown, or needs what is not given.
    """
    metric = full_name(metric)
    check_metric(metric, {"a skeleton": (SKELETON_METRICS, skeleton), "labels": (DENSE_METRICS, labels)})
    affinities = short_range(affinities, offsets)
    skeletons = SkeletonMetrics(skeleton) if skeleton is not None else None
    descending, descent = sorted(set(thresholds), reverse=True), None
    if descending and labels is None and not grow:  # what is scored is seen from the nodes
        descent = descend(affinities, descending, skeleton.positions, min_size)

    def score_at(threshold: float) -> dict[str, float]:
        if descent:
            return skeletons.compute_nodes(segments_at(descending.index(threshold), descent))
        segmentation = connected_components_3d(affinities, threshold, min_size=min_size)
        if grow:
            segmentation = grow_labels(segmentation, affinities)
        figures = {} if skeletons is None else skeletons.compute(segmentation)
        if labels is not None:
            figures |= {f"dense_{name}": value for name, value in overlap_metrics(labels, segmentation, mask).items()}
        return figures

    return _sweep(score_at, thresholds, metric)


def semantic_sweep(
    prediction: np.ndarray, truth: np.ndarray, *, thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    metric: str = "jaccard",
) -> Sweep:
    """Score the mask prediction > threshold against the true mask, at each threshold, by SEMANTIC_METRICS.

    prediction (Z, Y, X) float16, float32, float64 or uint8 (standing for value / 255); truth as in `semantic_metrics`.
    """
    check_metric(metric, {"labels": (SEMANTIC_METRICS, truth)})
    check_dtype(prediction.dtype)
    return _sweep(lambda threshold: semantic_metrics(truth, is_above(prediction, threshold)), thresholds, metric)


def check_metric(metric: str, sources: dict[str, tuple[Sequence[str], object]]) -> None:
    """ValueError unless one of the sources {name: (its metrics, the data or None)} gives the metric."""
    for name, (metrics, given) in sources.items():
        if metric in metrics and given is None:
            raise ValueError(f"expected {name} for the metric {metric!r}, got none")
    known = [m for metrics, given in sources.values() if given is not None for m in metrics]
    if not known:
        raise ValueError(f"expected {' or '.join(sources)} to score against, got none")
    if metric not in known:
        raise ValueError(f"expected a metric from {', '.join(known)}, got {metric!r}{suggest(metric, known)}")


def _sweep(score: Callable[[float], dict[str, float]], thresholds: Sequence[float], metric: str) -> Sweep:
    if len(thresholds) == 0:
        raise ValueError("expected at least one threshold, got none")
    shown = track(thresholds, "scored", "thresholds")
    return best_of([{"threshold": float(threshold), **score(threshold)} for threshold in shown], metric)


def best_of(rows: list[dict[str, float]], metric: str) -> Sweep:
    """The rows, and the best of them."""
    sign = -1 if is_error(metric) else 1
    return Sweep(rows, metric, max(rows, key=lambda row: sign * row[metric]))


def full_name(metric: str) -> str:
    """A metric by its first words, e.g. adapted_rand for dense_adapted_rand_error; other names as they are."""
    known = (*SKELETON_METRICS, *SEMANTIC_METRICS, *DENSE_METRICS)
    begun = [name for name in known if name.startswith((metric, f"dense_{metric}"))]
    return begun[0] if metric not in known and len(begun) == 1 else metric


def is_error(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric.removeprefix("dense_") in LOWER_IS_BETTER
