"""Scores of a prediction: at each of its thresholds, or of a segmentation as it is."""

from dataclasses import dataclass, replace
from pathlib import Path

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
from pytc.evaluation.truth import read_truth
from pytc.io.results import prediction_key
from pytc.io.volume import open_volume
from pytc.metrics.instances import dense_metrics
from pytc.metrics.overlap import Contingency, Labels, contingency_table
from pytc.metrics.semantic import (
    MOST_CLASSES,
    class_metrics,
    confusion_matrix,
    mask_confusion,
    mask_metrics,
)
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import metric
from pytc.segmentation.agglomeration import Agglomeration
from pytc.segmentation.block_tree import tree_by_blocks
from pytc.segmentation.blockwise import segment_volume, write_cut
from pytc.segmentation.decode import decode, levels_of_tree, merge_tree, method_of
from pytc.segmentation.edges import is_above
from pytc.segmentation.masks import threshold_volume
from pytc.segmentation.stored_tree import read_tree


def sweep_volume(inputs: Inputs, work: Path) -> Sweep:
    """The scores of a prediction at each threshold, as `sweep_result` has them.

    Args:
        work: a folder for what does not fit into memory.
    """
    return sweep_thresholds(inputs, read_prediction(inputs, work), read_truth(inputs), work)


def score_volume(inputs: Inputs, threshold: float | None, work: Path) -> dict[str, float]:
    """All scores that there is truth for, by their names.

    Args:
        threshold: where a prediction is segmented; None scores a segmentation as it is.
        work: a folder for what does not fit into memory.
    """
    labels = read_truth(inputs)
    segmentation: Labels = inputs.array
    if threshold is not None:
        decoded = read_prediction(inputs, work)
        segmentation = segment(inputs, decoded, threshold, work / "segmentation.zarr")
    table = overlaps(inputs, labels, segmentation)
    return score_segmentation(inputs, labels, table, segmentation)


@dataclass(frozen=True)
class Decoded:
    """A prediction, decoded as far as it can be without a threshold."""

    # (C, Z, Y, X), the channels to segment by; None with a tree, or beyond memory
    values: np.ndarray | None
    tree: Agglomeration | None  # fragments and merges, where the method has them

    @property
    def channels(self) -> np.ndarray:
        assert self.values is not None, "a method without a tree reads the prediction"
        return self.values


def read_prediction(inputs: Inputs, work: Path) -> Decoded:
    """Read a prediction, or the merge tree that infer.py made of it, or make that.

    Args:
        work: a folder for what does not fit into memory.
    """
    config = inputs.decoding.segmentation
    if inputs.kind.task == "semantic" or method_of(config).tree is None:
        if not inputs.in_memory:
            return Decoded(None, None)
        return Decoded(inputs.array.read_channels(inputs.channels), None)
    if not inputs.in_memory:
        tree = tree_by_blocks(
            inputs.affinities,
            inputs.channels,
            inputs.offsets,
            config,
            engine=inputs.decoding.engine,
            work=work / "tree",
        )
        return Decoded(None, tree)
    stored = read_tree(inputs.array, inputs.offsets, config, inputs.voxel_size)
    if stored is not None:
        return Decoded(None, replace(stored, fragments=stored.fragments[...]))
    values = inputs.array.read_channels(inputs.channels)
    return Decoded(None, merge_tree(values, inputs.offsets, config, inputs.voxel_size))


def sweep_thresholds(inputs: Inputs, decoded: Decoded, labels: Labels | None, work: Path) -> Sweep:
    """The scores at each threshold, as `sweep_result` has them.

    Args:
        labels: as `read_truth` returns them.
        work: a folder for segmentations that do not fit into memory.
    """
    decoding, config = inputs.decoding, inputs.decoding.segmentation
    if inputs.kind.task == "semantic":
        assert labels is not None, "a semantic metric needs labels"
        values = inputs.array if decoded.values is None else decoded.channels
        return semantic_sweep(values, labels, thresholds=decoding.thresholds, metric=inputs.metric)
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
    if decoded.tree is not None:
        descending = sorted(set(thresholds), reverse=True)
        levels = levels_of_tree(decoded.tree, config, descending)
        scored = score_levels(levels, descending, skeletons, labels)
        rows = [scored[threshold] for threshold in thresholds]
    elif decoded.values is not None:
        rows = threshold_sweep(
            decoded.values,
            inputs.skeleton,
            thresholds,
            inputs.metric,
            labels=labels,
            config=config,
            offsets=inputs.offsets,
            voxel_size=inputs.voxel_size,
        )["all_results"]
    else:
        rows = [_row_by_blocks(inputs, labels, threshold, work) for threshold in thresholds]
    if config.method == "components_watershed":  # the curve is of its seeds
        return sweep_result(rows, inputs.metric) | {"curve": curve}
    return sweep_result(rows, inputs.metric, curve)


def _row_by_blocks(
    inputs: Inputs, labels: Labels | None, threshold: float, work: Path
) -> dict[str, float]:
    """The scores at one threshold of a volume that does not fit into memory."""
    segmentation = segment(inputs, Decoded(None, None), threshold, work / "segmentation.zarr")
    table = overlaps(inputs, labels, segmentation)
    return {"threshold": threshold, **score_segmentation(inputs, labels, table, segmentation)}


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


def segment(inputs: Inputs, decoded: Decoded, threshold: float, output: Path) -> Labels:
    """The segmentation (Z, Y, X) that a row of the sweep has scored; a mask is uint8.

    Args:
        output: where one that does not fit into memory is written, as a Zarr array.
    """
    config = inputs.decoding.at(threshold)
    of_objects = inputs.kind.task == "instance"
    if not inputs.in_memory:
        made_from = {"prediction_key": prediction_key(inputs.array.path)}
        engine = inputs.decoding.engine
        if not of_objects:
            threshold_volume(inputs.array, output, threshold, attributes=made_from)
        elif decoded.tree is not None:
            write_cut(decoded.tree, output, inputs.affinities, config, engine, attributes=made_from)
        else:
            segment_volume(inputs.affinities, output, config, engine=engine, attributes=made_from)
        return open_volume(output)
    if not of_objects:
        return is_above(decoded.channels[0], threshold).astype(np.uint8)
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
        return mask_metrics(mask_confusion(labels, segmentation))
    scores: dict[str, float] = {}
    if inputs.skeleton is not None:
        scores |= SkeletonMetrics(inputs.skeleton).compute(segmentation)
    if table is not None:
        scores |= dense_metrics(table)
    return scores
