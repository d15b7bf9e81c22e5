"""Scores of a prediction: at each of its thresholds, or of a segmentation as it is."""

import numpy as np

from pytc.evaluation.exact import exact_sweep
from pytc.evaluation.inputs import Inputs
from pytc.evaluation.sweep import Sweep, semantic_sweep, threshold_sweep
from pytc.io.labels import is_unlabelled
from pytc.metrics.overlap import Contingency, Labels, contingency_table, metrics_of_table
from pytc.metrics.semantic import (
    MOST_CLASSES,
    boundaries,
    class_ids,
    class_metrics,
    confusion_matrix,
    foreground,
    semantic_metrics,
)
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.segmentation.decode import decode
from pytc.segmentation.edges import is_above


def read_truth(inputs: Inputs) -> Labels | None:
    """The labels to score against; None if there are none.

    Returns:
        (Z, Y, X). Objects: integers, 0 outside of the mask; a Volume where they need not be read as
        a whole. Masks: int8, 1 inside and 0 outside. Classes: int16. Both are -1 where the truth is
        not labelled, or outside of the mask.
    """
    if inputs.labels is None:
        return None
    of_objects = inputs.kind.truth == "objects"
    if of_objects and inputs.mask is None and not inputs.decoding.segments:
        return inputs.labels
    labels = inputs.labels[...]
    inside = np.ones(labels.shape, bool)
    if inputs.mask is not None:
        inside = inputs.mask[...] != 0
    if of_objects:
        return np.where(inside, labels, 0).astype(labels.dtype, copy=False)
    labelled = inside & ~is_unlabelled(labels)
    if inputs.kind.truth == "classes":
        return class_ids(labels, labelled, inputs.n_classes)
    if inputs.kind.truth == "boundaries":
        return boundaries(labels, labelled)
    return foreground(labels, labelled)


def best_scores(inputs: Inputs) -> dict[str, float]:
    """All scores that there is truth for, by their names.

    Where a prediction is decoded they are those of the threshold that is best by the metric, and
    "threshold" is among them.
    """
    labels = read_truth(inputs)
    if inputs.decoding.segments:
        values = inputs.array.read_channels(inputs.channels)
        best: dict[str, float] = sweep_thresholds(inputs, values, labels)["best_metrics"]
        return best
    return score_segmentation(inputs, labels, overlaps(inputs, labels, inputs.array))


def sweep_thresholds(inputs: Inputs, values: np.ndarray, labels: Labels | None) -> Sweep:
    """The scores at each threshold, as `sweep_result` has them.

    Args:
        values: (C, Z, Y, X), the channels to segment by.
        labels: as `read_truth` returns them.
    """
    decoding = inputs.decoding
    if inputs.kind.task == "semantic":
        assert labels is not None, "a semantic metric needs labels"
        return semantic_sweep(
            values[0], labels[...], thresholds=decoding.thresholds, metric=inputs.metric
        )
    thresholds = list(decoding.thresholds)
    curve = []
    if decoding.every_threshold:
        assert inputs.skeleton is not None, "the curve needs skeletons"
        exact = exact_sweep(
            values,
            inputs.skeleton,
            metric=inputs.metric,
            min_size=decoding.segmentation.min_size,
        )
        thresholds = sorted({*thresholds, exact["best_threshold"]})
        curve = exact["all_results"]
    swept = threshold_sweep(
        values,
        inputs.skeleton,
        thresholds,
        inputs.metric,
        labels=labels,
        config=decoding.segmentation,
        offsets=inputs.offsets,
    )
    return swept | {"curve": curve}


def segment(inputs: Inputs, values: np.ndarray, threshold: float) -> np.ndarray:
    """The segmentation (Z, Y, X) that a row of the sweep has scored; a mask is uint8."""
    if inputs.kind.task == "semantic":
        return is_above(values[0], threshold).astype(np.uint8)
    return decode(values, inputs.offsets, inputs.decoding.at(threshold))


def overlaps(inputs: Inputs, labels: Labels | None, segmentation: Labels) -> Contingency | None:
    """The contingency table of labels and segmentation; None without labels, or for classes."""
    if labels is None or inputs.kind.truth == "classes":
        return None
    return contingency_table(labels, segmentation)


def score_segmentation(
    inputs: Inputs, labels: Labels | None, table: Contingency | None
) -> dict[str, float]:
    """All scores that there is truth for, of a segmentation as it is stored.

    Args:
        labels: as `read_truth` returns them.
        table: as `overlaps` returns it.
    """
    if inputs.kind.task == "semantic":
        assert labels is not None, "a semantic metric needs labels"
        if inputs.kind.truth == "classes":
            n_classes = MOST_CLASSES if inputs.n_classes is None else inputs.n_classes
            return class_metrics(confusion_matrix(labels, inputs.array, n_classes))
        return semantic_metrics(labels[...], inputs.array[...])
    scores: dict[str, float] = {}
    if inputs.skeleton is not None:
        scores |= SkeletonMetrics(inputs.skeleton).compute(inputs.array)
    if table is not None:
        scores |= {f"dense_{name}": value for name, value in metrics_of_table(table).items()}
    return scores
