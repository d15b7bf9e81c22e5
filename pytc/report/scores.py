"""From what is scored to a flat dict of figures: at each threshold of affinities, or of a segmentation as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytc.io.volume import Volume
from pytc.metrics.exact import exact_sweep
from pytc.metrics.overlap import Contingency, metrics_of_table
from pytc.metrics.semantic import semantic_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.sweep import Sweep, semantic_sweep, threshold_sweep
from pytc.report.inputs import Inputs
from pytc.segmentation.connected_components import connected_components_3d
from pytc.segmentation.edges import is_above
from pytc.segmentation.growing import grow


def sweep(inputs: Inputs, values: np.ndarray, labels: np.ndarray | None) -> Sweep:
    """The figures at each of the config's thresholds; values (channels, Z, Y, X) and labels as `inputs` reads them."""
    config, thresholds, curve = inputs.config, inputs.config.thresholds, ()
    if config.task == "semantic":
        return semantic_sweep(values[0], labels, thresholds=thresholds, metric=config.metric)
    if config.exact:
        exact = exact_sweep(values, inputs.skeleton, metric=config.metric, min_size=config.min_size)
        thresholds, curve = sorted({*thresholds, exact.best["threshold"]}), exact.rows
    swept = threshold_sweep(values, inputs.skeleton, labels, thresholds=thresholds, metric=config.metric,
                            grow=config.grow, min_size=config.min_size)
    return replace(swept, curve=curve)


def segment(inputs: Inputs, values: np.ndarray, threshold: float) -> np.ndarray:
    """The segmentation (Z, Y, X) that a row of the sweep has scored."""
    if inputs.config.task == "semantic":
        return is_above(values[0], threshold).astype(np.uint8)
    segmentation = connected_components_3d(values, threshold, min_size=inputs.config.min_size)
    return grow(segmentation, values) if inputs.config.grow else segmentation


def score(inputs: Inputs, segmentation: Volume, labels: np.ndarray | Volume | None,
          table: Contingency | None) -> dict[str, float]:
    """Every figure there is truth for; table: that of labels and segmentation."""
    if inputs.config.task == "semantic":
        return semantic_metrics(labels, segmentation[...])
    figures = {} if inputs.skeleton is None else SkeletonMetrics(inputs.skeleton).compute(segmentation)
    dense = {} if table is None else metrics_of_table(table)
    return figures | {f"dense_{key}": value for key, value in dense.items()}
