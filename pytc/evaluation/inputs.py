"""What is scored against what, and the figures that follow.

The files are those that evaluate.py is told of, or those of the newest results; they are checked.
Figures are of affinities at each threshold, or of a segmentation as it is.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytc.checks import require
from pytc.commands import EvaluateConfig
from pytc.config import Lengths
from pytc.evaluation.exact import EXACT_METRICS, exact_sweep
from pytc.evaluation.sweep import (
    Sweep,
    check_metric,
    semantic_sweep,
    threshold_sweep,
)
from pytc.io.labels import is_unlabelled
from pytc.io.results import SOURCE, SOURCES, read_source
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.metrics.overlap import Contingency, metrics_of_table
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
from pytc.metrics.table import BY_CLASS, DEFAULTS, full_name, metric_names
from pytc.runs import find_run, newest_run
from pytc.segmentation.connected_components import connected_components_3d, unit_channels
from pytc.segmentation.edges import check_dtype, is_above
from pytc.segmentation.growing import grow
from pytc.target_kinds import TargetKind, target_kind
from pytc.thresholds import DEFAULT_THRESHOLDS


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
    kind: TargetKind  # what was predicted
    infer: tuple[str, ...]  # the flags with which infer.py made the prediction, if it did
    defaults: dict[str, Any]  # min_size and grow of infer.py without flags for them

    @property
    def prediction(self) -> Volume:
        return next(iter(self.volumes.values()))

    @property
    def classes(self) -> int | None:
        """How many classes a segmentation of classes can have, if its file says."""
        return self.prediction.attributes.get("classes")

    def read_labels(self) -> np.ndarray | Volume | None:
        """Labels, 0 outside of the mask.

        For a semantic task they are the true mask as int8, or the true classes as int16, -1 where
        they are not known.
        """
        labels, mask = self.volumes.get("labels"), self.volumes.get("mask")
        if labels is None or (mask is None and self.kind.task == "instance" and not self.channels):
            return labels  # read piece by piece
        labels = labels[...]
        inside = np.ones(labels.shape, bool) if mask is None else mask[...] != 0
        if self.kind.task == "instance":
            return np.where(inside, labels, 0).astype(labels.dtype, copy=False)
        labelled = inside & ~is_unlabelled(labels)
        if self.kind.truth == "classes":
            return class_ids(labels, labelled, self.classes)
        true_mask = boundaries if self.kind.truth == "boundaries" else foreground
        return true_mask(labels, labelled)

    def sweep(self, values: np.ndarray, labels: np.ndarray | None) -> Sweep:
        """The figures at each of the config's thresholds; values:

        (channels, Z, Y, X), those to segment by.
        """
        config, thresholds, curve = self.config, self.config.thresholds, ()
        if self.kind.task == "semantic":
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
        if self.kind.task == "semantic":
            return is_above(values[0], threshold).astype(np.uint8)
        segmentation = connected_components_3d(values, threshold, min_size=self.config.min_size)
        return grow(segmentation, values) if self.config.grow else segmentation

    def score(
        self, labels: np.ndarray | Volume | None, table: Contingency | None
    ) -> dict[str, float]:
        """Every figure there is truth for, of a segmentation as it is.

        table: the contingency table of labels and segmentation.
        """
        if self.kind.truth == "classes":
            confusion = confusion_matrix(
                labels, self.prediction, MOST_CLASSES if self.classes is None else self.classes
            )
            return class_metrics(confusion)
        if self.kind.task == "semantic":
            return semantic_metrics(labels, self.prediction[...])
        figures = (
            {} if self.skeleton is None else SkeletonMetrics(self.skeleton).compute(self.prediction)
        )
        dense = {} if table is None else metrics_of_table(table)
        return figures | {f"dense_{key}": value for key, value in dense.items()}


def find_predictions(config: EvaluateConfig) -> list[Path | None]:
    """The folders of results of infer.py that a config means, in the order of their names.

    They are the one around the prediction that is named, or None where infer.py did not make it;
    else those of the run, or of the run with the newest. With several volumes, those that have no
    truth to score against are left out, and named. ValueError if there is none.
    """
    if config.prediction:
        beside = Path(config.prediction).parent
        return [beside if (beside / SOURCE).is_file() else None]
    run = find_run(config.run) if config.run else newest_run(SOURCES)
    folders = {path.parent.name: path.parent for path in sorted(run.glob(SOURCES))}
    require(folders, f"results of infer.py in {run} ({SOURCES}); run infer.py first", "none")
    if config.volume is not None:
        require(
            config.volume in folders,
            f"a volume with results in {run}, {' or '.join(folders)}",
            config.volume,
        )
        return [folders[config.volume]]
    if len(folders) == 1:
        return list(folders.values())
    given = [name for name in ("labels", "mask", "skeleton", "image") if getattr(config, name)]
    require(
        not given,
        f"--volume with --{' --'.join(given)}, as {run} has several",
        ", ".join(folders),
    )
    return _with_truth(folders)


def _with_truth(folders: dict[str, Path]) -> list[Path | None]:
    """Those whose source.json names labels or skeletons that their target is scored against."""
    scored: list[Path | None] = []
    for name, folder in folders.items():
        source = read_source(folder)
        needed = metrics_by_truth(target_kind(source["target"]).task)
        if any(source.get(part) for part in needed):
            scored.append(folder)
        else:
            print(f"{name}: not scored, as no {' or '.join(needed)} were named", flush=True)
    require(
        scored,
        "a volume with labels or skeletons; --volume NAME --labels FILE names them",
        ", ".join(folders),
    )
    return scored


def gather(config: EvaluateConfig, folder: Path | None = None) -> Inputs:
    """Open what a config names, or a folder of results of infer.py holds.

    ValueError, before any work, where something lacks or does not fit.
    """
    run = folder.parents[1] if folder and folder.parent.name == "predictions" else None
    source = read_source(folder) if folder else {}
    unnamed = "binary" if config.probabilities else "affinity"
    kind = target_kind(config.target or source.get("target", unnamed))
    require(
        kind.decode != "argmax" or not config.decodes,
        "a segmentation of classes to score as it is, without --sweep or --thresholds: each voxel "
        "has its most probable class",
        config.prediction or str(folder),
    )
    paths = _paths(config, folder, source, kind)
    metric = choose_metric(config.metric, kind, paths)
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
    prediction = next(iter(volumes.values()))
    decodes = "segmentation" not in volumes
    semantic = kind.task == "semantic"
    require(
        not (config.grow or config.min_size) or (decodes and not semantic),
        "affinities of instances with --grow or --min-size",
        paths,
    )
    require(not semantic or config.backend == "pytc", "instances with --backend funlib", kind.task)
    thresholds = config.thresholds
    config = replace(
        config,
        target=kind.name,
        metric=metric,
        thresholds=DEFAULT_THRESHOLDS if decodes and thresholds is None else thresholds,
        voxel_size=next(
            (volume.voxel_size for volume in volumes.values() if volume.voxel_size),
            config.voxel_size or source.get("voxel_size"),
        ),
        min_size=source.get("min_size", 0) if config.min_size is None else config.min_size,
        grow=source.get("grow", False) if config.grow is None else config.grow,
        attribution=config.attribution or source.get("attribution"),
        output=config.output or str(run / "evaluation" / folder.name if run else "evaluation"),
    )
    if config.exact:
        _check_exact(config, kind, paths)
    skeleton = None
    if "skeleton" in paths:
        skeleton = _load_skeleton(paths["skeleton"], config.voxel_size, prediction, source)
        skeleton.require_inside(prediction.spatial_shape)
    return Inputs(
        config,
        f"{run.name} · {folder.name}" if run else Path(prediction.path).name,
        _channels(prediction, config, kind) if decodes else [],
        volumes,
        skeleton,
        paths,
        kind,
        tuple(source.get("infer") or ()),
        source.get("defaults") or {},
    )


def _check_exact(config: EvaluateConfig, kind: TargetKind, paths: dict[str, str]) -> None:
    """ValueError, with the way out, unless a curve over every threshold can be counted."""
    way_out = "without them leave --exact out, and name many --thresholds, such as 0.4:0.95:0.01"
    instances = kind.task == "instance"
    require(instances, "instances with --exact; for a mask leave --exact out", kind.name)
    require("skeleton" in paths, f"skeletons (--skeleton) with --exact; {way_out}", "none")
    require(
        config.metric in EXACT_METRICS,
        f"--metric {', '.join(EXACT_METRICS)} with --exact; for another leave --exact out",
        config.metric,
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


def choose_metric(name: str | None, kind: TargetKind, truth: dict[str, Any]) -> str:
    """The metric of that name, or the default for what is in `truth` (skeleton, labels).

    ValueError if it has none.
    """
    parts = metrics_by_truth(kind.task)
    if name is not None and BY_CLASS.fullmatch(name):
        require(kind.truth == "classes", f"--target classes with --metric {name}", kind.name)
        require(truth.get("labels"), f"--labels for the metric {name!r}", "none")
        return name
    if name is None:
        known = [metric for part, metrics in parts.items() if part in truth for metric in metrics]
        name = next((metric for metric in DEFAULTS if metric in known), "")
    check_metric(
        full_name(name),
        {f"--{part}": (metrics, truth.get(part)) for part, metrics in parts.items()},
    )
    return full_name(name)


def _paths(
    config: EvaluateConfig, folder: Path | None, source: dict[str, Any], kind: TargetKind
) -> dict[str, str]:
    """The prediction first, then what is known to be true, then the image."""
    what = kind.prediction if config.decodes else "segmentation"
    paths = {what: config.prediction or str(folder / f"{what}.zarr")}
    rest = ["labels", "mask", "skeleton", "image"]
    if kind.task == "semantic":
        rest.remove("skeleton")
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
        labelled = part in ("affinities", "probabilities", "image") or (
            volume.dtype.kind in "iub" and "c" not in volume.axes
        )
        require(labelled, f"{part} of three axes and an integer dtype", volume)


def _channels(prediction: Volume, config: EvaluateConfig, kind: TargetKind) -> list[int]:
    """The channels to segment by.

    Those of the three unit offsets, or the only one of a probability map.
    """
    check_dtype(prediction.dtype)
    if kind.task == "semantic":
        require(prediction.n_channels == 1, "a probability map of one channel", prediction)
        return [0]
    offsets = prediction.offsets or config.offsets
    require(
        offsets,
        f"the offsets of {prediction.path}; --offsets names them where the file does not",
        offsets,
    )
    return unit_channels(prediction.n_channels, offsets)
