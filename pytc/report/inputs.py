"""What is scored against what: the files that evaluate.py is told of, or those of the newest results, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytc.commands import EvaluateConfig
from pytc.config import require
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.metrics.semantic import SEMANTIC_METRICS
from pytc.metrics.skeleton import SKELETON_METRICS
from pytc.metrics.sweep import DENSE_METRICS, check_metric, full_name
from pytc.runs import newest_run
from pytc.segmentation.connected_components import unit_channels
from pytc.segmentation.edges import check_dtype

SOURCES = "predictions/*/source.json"  # written beside a prediction: what was predicted, from what, and the truth
TASKS = {"affinity": "instance", "binary": "semantic"}  # what a network predicts, and how that is scored
METRICS = {"instance": {"skeleton": SKELETON_METRICS, "labels": DENSE_METRICS},
           "semantic": {"labels": SEMANTIC_METRICS}}  # by task and by what they need


@dataclass(frozen=True)
class Inputs:
    """A prediction, and what is known to be true: opened, and of one shape."""

    config: EvaluateConfig  # without defaults: only what no file says is None
    title: str
    channels: list[int]  # of the prediction, to segment by; none where it is a segmentation already
    volumes: dict[str, Volume]  # affinities or segmentation, then what there is of labels, mask and image
    skeleton: Skeleton | None
    paths: dict[str, str]  # what was opened

    @property
    def prediction(self) -> Volume:
        return next(iter(self.volumes.values()))

    @property
    def axes(self) -> str:
        """The stored order of the spatial axes."""
        return self.prediction.axes.replace("c", "")

    def read_channels(self) -> np.ndarray:
        """(channels, Z, Y, X): the affinities to the next voxel along each axis, or the probability map."""
        values = np.empty((len(self.channels), *self.prediction.spatial_shape), self.prediction.dtype)
        for row, channel in zip(values, self.channels):
            row[...] = self.prediction[tuple(channel if axis == "c" else slice(None) for axis in self.prediction.axes)]
        return values

    def read_labels(self) -> np.ndarray | Volume | None:
        """Labels, 0 outside of the mask; for a semantic task the foreground as int8, -1 where unlabelled."""
        labels, mask = self.volumes.get("labels"), self.volumes.get("mask")
        if labels is None or (mask is None and self.config.task == "instance" and not self.channels):
            return labels  # read piece by piece
        labels, masked = labels[...], False if mask is None else mask[...] == 0
        if self.config.task == "semantic":
            return np.where(masked | (labels < 0), -1, labels > 0).astype(np.int8)
        return np.where(masked, 0, labels).astype(labels.dtype, copy=False)


def gather(config: EvaluateConfig) -> Inputs:
    """Open what a config names or implies; ValueError, before any work, where something lacks or does not fit."""
    folder = _results_folder(config)
    run = folder.parents[1] if folder and folder.parent.name == "predictions" else None
    source = json.loads((folder / "source.json").read_text()) if folder else {}
    kind = source.get("task", "affinity")
    require(config.task or kind in TASKS, f"--task, or predictions of {' or '.join(TASKS)}", kind)
    task = config.task or TASKS[kind]
    paths = _paths(config, folder, source, task)
    metric = choose_metric(config.metric, task, paths)
    volumes = {part: _open(part, path, source) for part, path in paths.items() if part != "skeleton"}
    _check_volumes(volumes)
    prediction, decoded = next(iter(volumes.values())), "affinities" in volumes
    changed, semantic = config.grow or config.min_size, task == "semantic"
    require(not changed or (decoded and not semantic), "affinities of instances with --grow or --min-size", paths)
    require(not semantic or config.backend == "pytc", "instances with --backend funlib", task)
    config = replace(
        config, task=task, metric=metric,
        voxel_size=next((volume.voxel_size for volume in volumes.values() if volume.voxel_size),
                        config.voxel_size or source.get("voxel_size")),
        min_size=source.get("min_size", 0) if config.min_size is None else config.min_size,
        grow=source.get("grow", False) if config.grow is None else config.grow,
        attribution=config.attribution or source.get("attribution"),
        output=config.output or str(run / "evaluation" / folder.name if run else "evaluation"),
    )
    require(not (config.exact and (config.grow or semantic)), "instances, and --grow False, with --exact", config.grow)
    skeleton = _skeleton(paths["skeleton"], config.voxel_size, prediction) if "skeleton" in paths else None
    title = f"{run.name} · {folder.name}" if run else Path(prediction.path).name
    return Inputs(config, title, _channels(prediction, config) if decoded else [], volumes, skeleton, paths)


def choose_metric(name: str | None, task: str, truth: dict[str, Any]) -> str:
    """The metric of that name, or the default for what is in `truth` (skeleton, labels); ValueError if it has none."""
    parts = METRICS[task]
    if name is None:
        known = [metric for part, metrics in parts.items() if part in truth for metric in metrics]
        name = next((metric for metric in ("jaccard", "nerl", "dense_voi_sum") if metric in known), "")
    check_metric(full_name(name), {f"--{part}": (metrics, truth.get(part)) for part, metrics in parts.items()})
    return full_name(name)


def _results_folder(config: EvaluateConfig) -> Path | None:
    """The folder of results of infer.py that is meant, if any: around the prediction named, of the run, or newest."""
    named = config.affinities or config.segmentation
    if named:
        beside = Path(named).parent
        return beside if (beside / "source.json").is_file() else None
    run = Path(config.run) if config.run else newest_run(SOURCES)
    newest = max(run.glob(SOURCES), key=lambda path: path.stat().st_mtime_ns, default=None)
    require(newest, f"results of infer.py in {run}, {SOURCES}", "none")
    return newest.parent


def _paths(config: EvaluateConfig, folder: Path | None, source: dict[str, Any], task: str) -> dict[str, str]:
    """The prediction first, then what is known to be true, then the image."""
    decode = config.affinities or (not config.segmentation and (config.sweep or len(config.thresholds) == 1))
    what = "affinities" if decode else "segmentation"
    paths = {what: getattr(config, what) or str(folder / f"{what}.zarr")}
    rest = ("labels", "mask", "image") if task == "semantic" else ("labels", "mask", "skeleton", "image")
    paths |= {part: getattr(config, part) or source.get(part) for part in rest}
    return {part: path for part, path in paths.items() if path}


def _open(part: str, path: str, source: dict[str, Any]) -> Volume:
    """A part, with the source's axes if it is the source that names it."""
    axes = source.get("axes") if path == source.get(part) else None
    return open_volume(path, axes=axes.replace("c", "") if axes and part != "image" else axes)


def _check_volumes(volumes: dict[str, Volume]) -> None:
    """ValueError unless all have the shape and axes of the first, the prediction, and labels are labels."""
    prediction = next(iter(volumes.values()))
    for part, volume in volumes.items():
        shape, axes = prediction.spatial_shape, prediction.axes.replace("c", "")
        require(volume.spatial_shape == shape, f"{part} of the prediction's shape {shape}", volume)
        unstated = not ("axes" in volume.attributes and "axes" in prediction.attributes)
        require(unstated or volume.axes.replace("c", "") == axes, f"{part} with the prediction's axes {axes}", volume)
        labelled = part in ("affinities", "image") or (volume.dtype.kind in "iub" and "c" not in volume.axes)
        require(labelled, f"{part} of three axes and an integer dtype", volume)


def _channels(prediction: Volume, config: EvaluateConfig) -> list[int]:
    """The channels to segment by: those of the three unit offsets, or the only one of a probability map."""
    check_dtype(prediction.dtype)
    if config.task == "semantic":
        require(prediction.n_channels == 1, "a probability map of one channel", prediction)
        return [0]
    offsets = prediction.offsets or config.offsets
    require(offsets, f"the offsets of {prediction.path}; --offsets names them where the file does not", offsets)
    return unit_channels(prediction.n_channels, offsets)


def _skeleton(path: str, voxel_size: tuple[float, float, float] | None, prediction: Volume) -> Skeleton:
    skeleton = load_skeleton(path, voxel_size, axes=prediction.axes.replace("c", ""))
    outside = skeleton.positions[((skeleton.positions < 0) | (skeleton.positions >= prediction.spatial_shape)).any(1)]
    if len(outside):
        raise ValueError(f"expected skeletons inside the prediction's shape {prediction.spatial_shape}, got "
                         f"{len(outside)} nodes outside, e.g. {tuple(outside[0].tolist())}, in {path}")
    return skeleton
