"""What is scored against what: the files that evaluate.py is told of, or those of the newest results, checked."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytc.commands import EvaluateConfig
from pytc.io.skeleton import Skeleton, load_skeleton
from pytc.io.volume import Volume, open_volume
from pytc.metrics.semantic import SEMANTIC_METRICS
from pytc.metrics.skeleton import SKELETON_METRICS
from pytc.metrics.sweep import DENSE_METRICS, full_name
from pytc.runs import newest_run
from pytc.segmentation.connected_components import unit_channels
from pytc.segmentation.edges import check_dtype

SOURCES = "predictions/*/source.json"  # written beside a prediction: what was predicted, from what, and the truth
TASKS = {"affinity": "instance", "binary": "semantic"}  # what a network predicts, and how that is scored


@dataclass(frozen=True)
class Inputs:
    """A prediction, and what is known to be true: opened, and of one shape."""

    config: EvaluateConfig  # without defaults: only what no file says is None
    title: str
    prediction: Volume
    channels: tuple[int, ...]  # of the prediction, to segment by; none where it is a segmentation already
    labels: Volume | None
    mask: Volume | None
    skeleton: Skeleton | None
    image: Volume | None
    paths: dict[str, str]  # what was opened

    @property
    def axes(self) -> str:
        """The stored order of the spatial axes."""
        return self.prediction.axes.replace("c", "")

    def read_channels(self) -> np.ndarray:
        """(channels, Z, Y, X): the affinities to the next voxel along each axis, or the probability map."""
        if "c" not in self.prediction.axes:
            return self.prediction[...][None]
        before = (slice(None),) * self.prediction.axes.index("c")
        values = np.empty((len(self.channels), *self.prediction.spatial_shape), self.prediction.dtype)
        for row, channel in zip(values, self.channels):
            row[...] = self.prediction[(*before, channel)]
        return values


def gather(config: EvaluateConfig) -> Inputs:
    """Open what a config names or implies; ValueError, before any work, where something lacks or does not fit."""
    folder = _results_folder(config)
    run = folder.parents[1] if folder and folder.parent.name == "predictions" else None
    source = json.loads((folder / "source.json").read_text()) if folder else {}
    kind = source.get("task", "affinity")
    if not config.task and kind not in TASKS:
        raise ValueError(f"expected predictions of {' or '.join(TASKS)}, got {kind}; --task says how to score them")
    task = config.task or TASKS[kind]
    paths = _paths(config, folder, source, task)
    metric = choose_metric(config.metric, task, paths)
    volumes = {part: _open(part, path, config, source) for part, path in paths.items() if part != "skeleton"}
    _check_volumes(volumes)
    prediction = next(iter(volumes.values()))
    if ("segmentation" in volumes or task == "semantic") and (config.grow or config.min_size):
        raise ValueError("expected affinities of instances with --grow or --min-size; all else is scored as it is")
    if task == "semantic" and config.backend == "funlib":
        raise ValueError("expected instances with --backend funlib; it has no semantic figures")
    voxel_size = next((volume.voxel_size for volume in volumes.values() if volume.voxel_size), None)
    channels = _channels(prediction, task, config) if "affinities" in volumes else ()
    config = replace(
        config, task=task, metric=metric, voxel_size=voxel_size,
        min_size=source.get("min_size", 0) if config.min_size is None else config.min_size,
        grow=source.get("grow", False) if config.grow is None else config.grow,
        attribution=config.attribution or source.get("attribution"),
        output=config.output or str(run / "evaluation" / folder.name if run else "evaluation"),
    )
    if config.exact and (config.grow or task == "semantic"):
        raise ValueError("expected instances, and --grow False, with --exact")
    return Inputs(
        config=config,
        title=f"{run.name} · {folder.name}" if run else Path(prediction.path).name,
        prediction=prediction,
        channels=channels,
        labels=volumes.get("labels"),
        mask=volumes.get("mask"),
        skeleton=_skeleton(paths["skeleton"], voxel_size, prediction) if "skeleton" in paths else None,
        image=volumes.get("image"),
        paths=paths,
    )


def choose_metric(name: str | None, task: str, truth: dict[str, Any]) -> str:
    """The metric of that name, or the default for what is in `truth` (skeleton, labels); ValueError if it has none."""
    name = name and full_name(name)
    families = {"skeleton": SKELETON_METRICS, "labels": DENSE_METRICS}
    families = {"labels": SEMANTIC_METRICS} if task == "semantic" else families
    for part, metrics in families.items():
        if name in metrics and part not in truth:
            raise ValueError(f"expected --{part} for the metric {name}, got none")
    known = [metric for part, metrics in families.items() if part in truth for metric in metrics]
    if not known:
        raise ValueError(f"expected {' or '.join(f'--{part}' for part in families)} to score against, got none")
    if name is None:
        return next(metric for metric in ("jaccard", "nerl", "dense_voi_sum") if metric in known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or [metric for metric in known if name in metric]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected a metric from {', '.join(known)}, got {name!r}{hint}")
    return name


def _results_folder(config: EvaluateConfig) -> Path | None:
    """The folder of results of infer.py that is meant, if any: around the prediction named, of the run, or newest."""
    named = config.affinities or config.segmentation
    if named:
        beside = Path(named).parent
        return beside if (beside / "source.json").is_file() else None
    run = Path(config.run) if config.run else newest_run(SOURCES)
    found = sorted(run.glob(SOURCES), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise ValueError(f"expected results of infer.py in {run}, {SOURCES}, found none")
    return found[-1].parent


def _paths(config: EvaluateConfig, folder: Path | None, source: dict[str, Any], task: str) -> dict[str, str]:
    """The prediction first, then what is known to be true, then the image."""
    decode = config.affinities or (not config.segmentation and (config.sweep or len(config.thresholds) == 1))
    what = "affinities" if decode else "segmentation"
    paths = {what: getattr(config, what) or str(folder / f"{what}.zarr")}
    rest = ("labels", "mask", "image") if task == "semantic" else ("labels", "mask", "skeleton", "image")
    paths |= {part: getattr(config, part) or source.get(part) for part in rest}
    return {part: path for part, path in paths.items() if path}


def _open(part: str, path: str, config: EvaluateConfig, source: dict[str, Any]) -> Volume:
    """A part, with the source's axes and voxel size if it is the source that names it."""
    if path == source.get(part):
        axes = source.get("axes")
        return open_volume(path, axes=axes.replace("c", "") if axes and part != "image" else axes,
                           voxel_size=source.get("voxel_size"))
    volume = open_volume(path)
    return volume if volume.voxel_size else open_volume(path, voxel_size=config.voxel_size)


def _check_volumes(volumes: dict[str, Volume]) -> None:
    """ValueError unless all have the shape and axes of the first, the prediction, and labels are labels."""
    prediction = next(iter(volumes.values()))
    for part, volume in volumes.items():
        if volume.spatial_shape != prediction.spatial_shape:
            raise ValueError(f"expected {part} of the prediction's shape {prediction.spatial_shape}, got "
                             f"{volume.spatial_shape} in {volume.path}")
        stated = "axes" in volume.attributes and "axes" in prediction.attributes
        if stated and volume.axes.replace("c", "") != prediction.axes.replace("c", ""):
            raise ValueError(f"expected {part} with the prediction's axes {prediction.axes}, got {volume.axes} in "
                             f"{volume.path}")
        if part not in ("affinities", "image") and (volume.dtype.kind not in "iub" or "c" in volume.axes):
            raise ValueError(f"expected {part} of three axes and an integer dtype, got {volume.dtype} {volume.shape} "
                             f"in {volume.path}")


def _channels(prediction: Volume, task: str, config: EvaluateConfig) -> tuple[int, ...]:
    """The channels to segment by: those of the three unit offsets, or the only one of a probability map."""
    check_dtype(prediction.dtype)
    if task == "semantic":
        if prediction.n_channels != 1:
            raise ValueError(f"expected a probability map of one channel, got {prediction.shape} in {prediction.path}")
        return (0,)
    offsets = prediction.offsets or config.offsets
    if offsets is None or len(offsets) != prediction.n_channels:
        raise ValueError(f"expected an offset for each of {prediction.n_channels} channels of {prediction.path}, got "
                         f"{offsets}; --offsets names them where the file does not")
    return tuple(unit_channels(prediction.n_channels, offsets))


def _skeleton(path: str, voxel_size: tuple[float, float, float] | None, prediction: Volume) -> Skeleton:
    skeleton = load_skeleton(path, voxel_size, axes=prediction.axes.replace("c", ""))
    outside = ((skeleton.positions < 0) | (skeleton.positions >= prediction.spatial_shape)).any(1)
    if outside.any():
        example = tuple(skeleton.positions[outside][0].tolist())
        raise ValueError(f"expected skeletons inside the prediction's shape {prediction.spatial_shape}, got "
                         f"{outside.sum()} nodes outside, e.g. {example}, in {path}")
    return skeleton
