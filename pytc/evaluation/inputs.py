"""What is scored against what, and the figures that follow.

The files are those that evaluate.py is told of, or those of the newest results; they are checked.
Figures are of affinities at each threshold, or of a segmentation as it is.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytc.commands import EvaluateConfig
from pytc.config import Lengths, require
from pytc.evaluation.exact import exact_sweep
from pytc.evaluation.sweep import (
    Sweep,
    check_metric,
    semantic_sweep,
    threshold_sweep,
)
from pytc.io.labels import is_unlabelled
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.metrics.overlap import Contingency, metrics_of_table
from pytc.metrics.semantic import boundaries, foreground, semantic_metrics
from pytc.metrics.skeleton import SkeletonMetrics
from pytc.metrics.table import DEFAULTS, full_name, metric_names
from pytc.runs import newest_run
from pytc.segmentation.connected_components import connected_components_3d, unit_channels
from pytc.segmentation.edges import check_dtype, is_above
from pytc.segmentation.growing import grow
from pytc.target_kinds import target_kind

# written beside a prediction: what was predicted, from what, and the truth
SOURCES = "predictions/*/source.json"


@dataclass(frozen=True)
class Inputs:
    """A prediction, and what is known to be true: opened, and of one shape."""

    config: EvaluateConfig  # without defaults: only what no file says is None
    title: str
    # to segment by: of the unit offsets, or the probability map; none of a segmentation
    channels: list[int]
    # affinities or segmentation, then what there is of labels, mask and image
    volumes: dict[str, Volume]
    skeleton: Skeleton | None
    paths: dict[str, str]  # what was opened
    truth: str  # what the labels are taken for: objects, foreground or boundaries

    @property
    def prediction(self) -> Volume:
        return next(iter(self.volumes.values()))

    def read_labels(self) -> np.ndarray | Volume | None:
        """Labels, 0 outside of the mask.

        For a semantic task they are the true mask as int8, -1 where it is not known.
        """
        labels, mask = self.volumes.get("labels"), self.volumes.get("mask")
        if labels is None or (
            mask is None and self.config.task == "instance" and not self.channels
        ):
            return labels  # read piece by piece
        labels = labels[...]
        inside = np.ones(labels.shape, bool) if mask is None else mask[...] != 0
        if self.config.task == "instance":
            return np.where(inside, labels, 0).astype(labels.dtype, copy=False)
        true_mask = boundaries if self.truth == "boundaries" else foreground
        return true_mask(labels, inside & ~is_unlabelled(labels))

    def sweep(self, values: np.ndarray, labels: np.ndarray | None) -> Sweep:
        """The figures at each of the config's thresholds; values:

        (channels, Z, Y, X), those to segment by.
        """
        config, thresholds, curve = self.config, self.config.thresholds, ()
        if config.task == "semantic":
            return semantic_sweep(values[0], labels, thresholds=thresholds, metric=config.metric)
        if config.exact:
            exact = exact_sweep(
                values, self.skeleton, metric=config.metric, min_size=config.min_size
            )
            thresholds = sorted({*thresholds, exact["best_threshold"]})
            curve = exact["all_results"]
        swept = threshold_sweep(
            values,
            self.skeleton,
            thresholds,
            config.metric,
            labels=labels,
            grow=config.grow,
            min_size=config.min_size,
        )
        return swept | {"curve": curve}

    def segment(self, values: np.ndarray, threshold: float) -> np.ndarray:
        """The segmentation (Z, Y, X) that a row of the sweep has scored."""
        if self.config.task == "semantic":
            return is_above(values[0], threshold).astype(np.uint8)
        segmentation = connected_components_3d(values, threshold, min_size=self.config.min_size)
        return grow(segmentation, values) if self.config.grow else segmentation

    def score(
        self, labels: np.ndarray | Volume | None, table: Contingency | None
    ) -> dict[str, float]:
        """Every figure there is truth for, of a segmentation as it is.

        table: the contingency table of labels and segmentation.
        """
        if self.config.task == "semantic":
            return semantic_metrics(labels, self.prediction[...])
        figures = (
            {} if self.skeleton is None else SkeletonMetrics(self.skeleton).compute(self.prediction)
        )
        dense = {} if table is None else metrics_of_table(table)
        return figures | {f"dense_{key}": value for key, value in dense.items()}


def gather(config: EvaluateConfig) -> Inputs:
    """Open what a config names or implies.

    ValueError, before any work, where something lacks or does not fit.
    """
    folder = _results_folder(config)
    run = folder.parents[1] if folder and folder.parent.name == "predictions" else None
    source = json.loads((folder / "source.json").read_text()) if folder else {}
    kind = target_kind(source.get("task", "binary" if config.task == "semantic" else "affinity"))
    task = config.task or kind.task
    paths = _paths(config, folder, source, task)
    metric = choose_metric(config.metric, task, paths)
    volumes = {}
    for part, path in paths.items():
        if part != "skeleton":
            # the source's, if it names this file
            axes = source.get("axes") if path == source.get(part) else None
            if axes and part != "image":
                axes = axes.replace("c", "")
            # a prediction is stored in the order in which its image was read
            transpose = source.get("transpose") if path == source.get(part) else None
            volumes[part] = open_volume(path, axes=axes, transpose=transpose)
    _check_volumes(volumes)
    prediction, decoded = next(iter(volumes.values())), "affinities" in volumes
    changed, semantic = config.grow or config.min_size, task == "semantic"
    require(
        not changed or (decoded and not semantic),
        "affinities of instances with --grow or --min-size",
        paths,
    )
    require(not semantic or config.backend == "pytc", "instances with --backend funlib", task)
    config = replace(
        config,
        task=task,
        metric=metric,
        voxel_size=next(
            (volume.voxel_size for volume in volumes.values() if volume.voxel_size),
            config.voxel_size or source.get("voxel_size"),
        ),
        min_size=source.get("min_size", 0) if config.min_size is None else config.min_size,
        grow=source.get("grow", False) if config.grow is None else config.grow,
        attribution=config.attribution or source.get("attribution"),
        output=config.output or str(run / "evaluation" / folder.name if run else "evaluation"),
    )
    require(
        not (config.exact and (config.grow or semantic)),
        "instances, and --grow False, with --exact",
        config.grow,
    )
    skeleton = None
    if "skeleton" in paths:
        skeleton = _load_skeleton(paths["skeleton"], config.voxel_size, prediction, source)
        skeleton.require_inside(prediction.spatial_shape)
    title = f"{run.name} · {folder.name}" if run else Path(prediction.path).name
    return Inputs(
        config,
        title,
        _channels(prediction, config) if decoded else [],
        volumes,
        skeleton,
        paths,
        kind.truth,
    )


def metrics_by_truth(task: str) -> dict[str, tuple[str, ...]]:
    """The metrics of a task by the truth that they need; a task may have none for skeletons."""
    parts = {part: metric_names(task, part) for part in ("skeleton", "labels")}
    return {part: names for part, names in parts.items() if names}


def _load_skeleton(
    path: str, voxel_size: Lengths | None, prediction: Volume, source: dict[str, Any]
) -> Skeleton:
    """Skeletons in the order of the prediction's axes, where they may be in that of the image.

    They are if the source names them and its image was transposed.
    """
    axes = prediction.spatial_axes
    stored = source.get("stored_axes")
    if stored is None or path != source.get("skeleton"):
        return load_skeleton(path, voxel_size, axes=axes)
    if voxel_size is not None:
        voxel_size = tuple(voxel_size[axes.index(axis)] for axis in stored)
    return load_skeleton(path, voxel_size, axes=stored).transposed(stored, axes)


def choose_metric(name: str | None, task: str, truth: dict[str, Any]) -> str:
    """The metric of that name, or the default for what is in `truth` (skeleton, labels).

    ValueError if it has none.
    """
    parts = metrics_by_truth(task)
    if name is None:
        known = [metric for part, metrics in parts.items() if part in truth for metric in metrics]
        name = next((metric for metric in DEFAULTS if metric in known), "")
    check_metric(
        full_name(name),
        {f"--{part}": (metrics, truth.get(part)) for part, metrics in parts.items()},
    )
    return full_name(name)


def _results_folder(config: EvaluateConfig) -> Path | None:
    """The folder of results of infer.py that is meant, if any.

    It is the one around the prediction named, of the run, or the newest.
    """
    named = config.affinities or config.segmentation
    if named:
        beside = Path(named).parent
        return beside if (beside / "source.json").is_file() else None
    run = Path(config.run) if config.run else newest_run(SOURCES)
    newest = max(run.glob(SOURCES), key=lambda path: path.stat().st_mtime_ns, default=None)
    require(newest, f"results of infer.py in {run}, {SOURCES}", "none")
    return newest.parent


def _paths(
    config: EvaluateConfig, folder: Path | None, source: dict[str, Any], task: str
) -> dict[str, str]:
    """The prediction first, then what is known to be true, then the image."""
    decode = config.affinities or (
        not config.segmentation and (config.sweep or len(config.thresholds) == 1)
    )
    what = "affinities" if decode else "segmentation"
    paths = {what: getattr(config, what) or str(folder / f"{what}.zarr")}
    rest = (
        ("labels", "mask", "image")
        if task == "semantic"
        else ("labels", "mask", "skeleton", "image")
    )
    paths |= {part: getattr(config, part) or source.get(part) for part in rest}
    return {part: path for part, path in paths.items() if path}


def _check_volumes(volumes: dict[str, Volume]) -> None:
    """ValueError unless all volumes have the prediction's shape and axes, and labels are labels.

    The prediction is the first of them.
    """
    prediction = next(iter(volumes.values()))
    for part, volume in volumes.items():
        shape, axes = prediction.spatial_shape, prediction.spatial_axes
        require(volume.spatial_shape == shape, f"{part} of the prediction's shape {shape}", volume)
        unstated = not ("axes" in volume.attributes and "axes" in prediction.attributes)
        require(
            unstated or volume.spatial_axes == axes,
            f"{part} with the prediction's axes {axes}",
            volume,
        )
        labelled = part in ("affinities", "image") or (
            volume.dtype.kind in "iub" and "c" not in volume.axes
        )
        require(labelled, f"{part} of three axes and an integer dtype", volume)


def _channels(prediction: Volume, config: EvaluateConfig) -> list[int]:
    """The channels to segment by.

    Those of the three unit offsets, or the only one of a probability map.
    """
    check_dtype(prediction.dtype)
    if config.task == "semantic":
        require(prediction.n_channels == 1, "a probability map of one channel", prediction)
        return [0]
    offsets = prediction.offsets or config.offsets
    require(
        offsets,
        f"the offsets of {prediction.path}; --offsets names them where the file does not",
        offsets,
    )
    return unit_channels(prediction.n_channels, offsets)
