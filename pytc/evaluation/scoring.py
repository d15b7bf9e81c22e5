"""Scores of a prediction: at each of its thresholds, or of a segmentation as it is."""

from dataclasses import dataclass

import numpy as np

from pytc.evaluation.exact import exact_sweep
from pytc.evaluation.inputs import Inputs, Mode
from pytc.evaluation.sweep import (
    Curve,
    Sweep,
    score_levels,
    semantic_sweep,
    sweep_result,
    threshold_sweep,
)
from pytc.evaluation.tree_curve import tree_curve
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
from pytc.metrics.table import metric
from pytc.segmentation.agglomeration import Agglomeration
from pytc.segmentation.decode import decode, levels_of_tree, merge_tree, method_of
from pytc.segmentation.edges import is_above
from pytc.segmentation.stored_tree import read_tree


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
        decoded = read_prediction(inputs)
        best: dict[str, float] = sweep_thresholds(inputs, decoded, labels)["best_metrics"]
        return best
    table = overlaps(inputs, labels, inputs.array)
    return score_segmentation(inputs, labels, table, inputs.array)


@dataclass(frozen=True)
class Decoded:
    """A prediction in memory, decoded as far as it can be without a threshold."""

    values: np.ndarray | None  # (C, Z, Y, X), the channels to segment by; None with a tree
    tree: Agglomeration | None  # fragments and merges, where the method has them

    @property
    def channels(self) -> np.ndarray:
        assert self.values is not None, "a method without a tree reads the prediction"
        return self.values


def read_prediction(inputs: Inputs) -> Decoded:
    """Read a prediction, or the merge tree that infer.py made of it, or make that."""
    config = inputs.decoding.segmentation
    if inputs.kind.task == "semantic" or method_of(config).tree is None:
        return Decoded(inputs.array.read_channels(inputs.channels), None)
    tree = read_tree(inputs.array, inputs.offsets, config, inputs.voxel_size)
    if tree is None:
        values = inputs.array.read_channels(inputs.channels)
        tree = merge_tree(values, inputs.offsets, config, inputs.voxel_size)
    return Decoded(None, tree)


def sweep_thresholds(inputs: Inputs, decoded: Decoded, labels: Labels | None) -> Sweep:
    """The scores at each threshold, as `sweep_result` has them.

    Args:
        labels: as `read_truth` returns them.
    """
    decoding, config = inputs.decoding, inputs.decoding.segmentation
    if inputs.kind.task == "semantic":
        assert labels is not None, "a semantic metric needs labels"
        return semantic_sweep(
            decoded.channels[0], labels[...], thresholds=decoding.thresholds, metric=inputs.metric
        )
    skeletons = None if inputs.skeleton is None else SkeletonMetrics(inputs.skeleton)
    curve: Curve = {}
    if decoding.mode is Mode.SWEEP and decoded.tree is not None:
        curve = tree_curve(
            decoded.tree, skeletons=skeletons, labels=labels, min_size=config.min_size
        )
    elif decoding.every_threshold:
        curve = _component_curve(inputs, decoded)
    thresholds = list(decoding.thresholds)
    if inputs.metric in curve:
        thresholds = sorted({*thresholds, best_threshold(curve, inputs.metric)})
    if decoded.tree is None:
        rows = threshold_sweep(
            decoded.channels,
            inputs.skeleton,
            thresholds,
            inputs.metric,
            labels=labels,
            config=config,
            offsets=inputs.offsets,
            voxel_size=inputs.voxel_size,
        )["all_results"]
    else:
        descending = sorted(set(thresholds), reverse=True)
        levels = levels_of_tree(decoded.tree, config, descending)
        scored = score_levels(levels, descending, skeletons, labels)
        rows = [scored[threshold] for threshold in thresholds]
    if config.method == "components_watershed":  # the curve is of its seeds
        return sweep_result(rows, inputs.metric) | {"curve": curve}
    return sweep_result(rows, inputs.metric, curve)


def best_threshold(curve: Curve, name: str) -> float:
    """The threshold of a curve at which a score is best; of equal scores the highest."""
    sign = -1 if metric(name).lower_is_better else 1
    return float(curve["threshold"][np.argmax(sign * curve[name])])


def _component_curve(inputs: Inputs, decoded: Decoded) -> Curve:
    """The scores of components at every threshold."""
    assert inputs.skeleton is not None, "the curve of components needs skeletons"
    min_size = inputs.decoding.segmentation.min_size
    exact = exact_sweep(decoded.channels, inputs.skeleton, metric=inputs.metric, min_size=min_size)
    rows = exact["all_results"]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def segment(inputs: Inputs, decoded: Decoded, threshold: float) -> np.ndarray:
    """The segmentation (Z, Y, X) that a row of the sweep has scored; a mask is uint8."""
    if inputs.kind.task == "semantic":
        return is_above(decoded.channels[0], threshold).astype(np.uint8)
    config = inputs.decoding.at(threshold)
    if decoded.tree is not None:
        return decoded.tree.segmentation(threshold, min_size=config.min_size)
    return decode(decoded.channels, inputs.offsets, config, inputs.voxel_size)


def overlaps(inputs: Inputs, labels: Labels | None, segmentation: Labels) -> Contingency | None:
    """The contingency table of labels and segmentation; None without labels, or for classes."""
    if labels is None or inputs.kind.truth == "classes":
        return None
    return contingency_table(labels, segmentation)


def score_segmentation(
    inputs: Inputs, labels: Labels | None, table: Contingency | None, segmentation: Labels
) -> dict[str, float]:
    """All scores of a segmentation that there is truth for.

    Args:
        labels: as `read_truth` returns them.
        table: as `overlaps` returns it.
        segmentation: (Z, Y, X).
    """
    if inputs.kind.task == "semantic":
        assert labels is not None, "a semantic metric needs labels"
        if inputs.kind.truth == "classes":
            n_classes = MOST_CLASSES if inputs.n_classes is None else inputs.n_classes
            return class_metrics(confusion_matrix(labels, segmentation, n_classes))
        return semantic_metrics(labels[...], segmentation[...])
    scores: dict[str, float] = {}
    if inputs.skeleton is not None:
        scores |= SkeletonMetrics(inputs.skeleton).compute(segmentation)
    if table is not None:
        scores |= {f"dense_{name}": value for name, value in metrics_of_table(table).items()}
    return scores
